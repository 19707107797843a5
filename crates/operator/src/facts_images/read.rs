//! Asks registries for a kernel's image and reads in it what the kernel is. Every way to fail is an answer.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tenon_api::kernel_facts::{MAX_BYTES, Source};
use tenon_api::module::RegistryTls;
use tenon_api::reasons;
use tenon_image::kernel::{KernelError, KernelImage};
use tenon_image::platform::Architecture;
use tenon_image::registry::{PlatformImage, Proxies, PullError, Registry, Transport};
use tenon_image::{ImageReference, Retry};
use tenon_kmod::KernelRelease;
use tenon_order::Digest;
use tenon_plan::facts_image;
use tenon_plan::provision::Finding;
use tokio::runtime::Handle;

use super::observe::Kernel;
use crate::registries::{self, chain, failed};
use crate::run::Context;

/// How long the layers of one image may take to come.
const PULL: Duration = Duration::from_hours(1);

/// What looking for a kernel's image came to.
#[derive(Debug)]
pub(super) enum Answer {
    /// The image is the one that the known facts were read from.
    Unchanged,
    /// It tells what the kernel is.
    Told(Told),
    /// No image does.
    Missing(Missing),
}

/// What an image tells.
#[derive(Debug)]
pub(super) struct Told {
    /// The image, by its digest.
    pub(super) image: String,
    /// Encoded.
    pub(super) facts: Vec<u8>,
    pub(super) build_id: Option<String>,
    pub(super) source: Source,
}

/// Why no image tells anything.
#[derive(Debug)]
pub(super) struct Missing {
    /// Of [`reasons`].
    pub(super) reason: &'static str,
    pub(super) message: String,
    /// When the registry asked to be asked again.
    pub(super) retry_after: Option<Duration>,
    pub(super) barren: Barren,
}

/// Images that were read and tell nothing of a kernel, by their digests, with why: they are not pulled again.
pub(super) type Barren = BTreeMap<String, (&'static str, String)>;

/// The image that was pulled last: the next kernel may be in it, too.
#[derive(Debug)]
pub(super) struct Staged {
    digest: Digest,
    image: KernelImage,
}

impl Answer {
    /// What was told could not be written.
    pub(super) fn not_kept(error: &dyn Error) -> Self {
        let (reason, message) =
            (reasons::DEPOT_FAILED, format!("keep what the image told: {}", chain(error)));
        Self::Missing(Missing { reason, message, retry_after: None, barren: Barren::default() })
    }
}

/// Asks registries. Connections are shared.
#[derive(Debug)]
pub(super) struct Reader {
    transport: Transport,
    work: PathBuf,
}

impl Reader {
    pub(super) fn new(context: &Context) -> Self {
        let work = context.cache.staging().to_owned();
        Self { transport: Transport::new(Proxies::from_environment()), work }
    }

    /// Looks for the first image that tells what the kernel is; `known` is the one that the known facts were read from.
    ///
    /// On a thread of its own: between requests it reads and writes layers.
    pub(super) async fn look(
        self: Arc<Self>,
        context: &Context,
        kernel: &Kernel,
        known: Option<&str>,
        barren: Barren,
        staged: &mut Option<Staged>,
    ) -> Answer {
        let (context, kernel, known) = (context.clone(), kernel.clone(), known.map(str::to_owned));
        let (runtime, mut kept) = (Handle::current(), staged.take());
        let work = move || {
            let look = self.try_all(&context, &kernel, known.as_deref(), &barren, &mut kept);
            (runtime.block_on(look), kept)
        };
        match tokio::task::spawn_blocking(work).await {
            Ok((answer, kept)) => {
                *staged = kept;
                answer
            }
            Err(error) => Answer::not_kept(&error),
        }
    }

    async fn try_all(
        &self,
        context: &Context,
        kernel: &Kernel,
        known: Option<&str>,
        barren: &Barren,
        staged: &mut Option<Staged>,
    ) -> Answer {
        let mut missing = Missing {
            reason: reasons::REFERENCE_INVALID,
            message: "no --facts-image has variables that this kernel has".to_owned(),
            retry_after: None,
            barren: Barren::default(),
        };
        let mut messages = Vec::new();
        for template in &context.args.facts_images {
            let image = match reference(template, kernel) {
                Ok(None) => continue,
                Ok(Some(image)) => self.try_one(context, kernel, &image, known, barren, staged).await,
                Err(finding) => Err((None, finding)),
            };
            match image {
                Ok(answer) => return answer,
                Err((image, finding)) => {
                    let Finding::Missing { reason, message, needs_change, retry_after } = finding else {
                        continue;
                    };
                    if let Some(image) = image.filter(|_| needs_change) {
                        missing.barren.insert(image, (reason, message.clone()));
                    }
                    missing.reason = reason;
                    missing.retry_after = missing.retry_after.max(retry_after);
                    messages.push(message);
                }
            }
        }
        if !messages.is_empty() {
            missing.message = messages.join("; ");
        }
        Answer::Missing(missing)
    }

    /// Asks for one image; where it fails, with the image as far as its digest is known.
    async fn try_one(
        &self,
        context: &Context,
        kernel: &Kernel,
        image: &ImageReference,
        known: Option<&str>,
        barren: &Barren,
        staged: &mut Option<Staged>,
    ) -> Result<Answer, (Option<String>, Finding)> {
        let unnamed = |finding| (None, finding);
        let secret = context.args.facts_image_secret.as_deref();
        let keyring = registries::keyring(context, &context.args.namespace, secret, "--facts-image-secret");
        let keyring = keyring.await.map_err(unnamed)?;
        let (asked, mirrors) = ((image, RegistryTls::default()), &context.args.mirrors);
        let found =
            registries::ask(context, &self.transport, &keyring, asked, mirrors, async |registry, place| {
                registry.resolve(place).await
            });
        let found = found.await.map_err(|unfound| unnamed(unfound.finding(IF_ABSENT, IF_DENIED)))?;
        let image = image.with_digest(found.answer);
        let name = image.to_string();
        if known == Some(name.as_str()) {
            return Ok(Answer::Unchanged);
        }
        if let Some((reason, message)) = barren.get(&name) {
            return Err((Some(name), unfit(reason, message.clone())));
        }
        let told = self.read(context, (&found.registry, &found.place), kernel, &image, staged).await;
        told.map(Answer::Told).map_err(|finding| (Some(name), finding))
    }

    async fn read(
        &self,
        context: &Context,
        (registry, place): (&Registry, &ImageReference),
        kernel: &Kernel,
        image: &ImageReference,
        staged: &mut Option<Staged>,
    ) -> Result<Told, Finding> {
        let invalid = |error: &dyn Error| unfit(reasons::REFERENCE_INVALID, chain(error));
        let release: KernelRelease = kernel.release.parse().map_err(|error| invalid(&error))?;
        let architecture: Architecture = kernel.architecture.parse().map_err(|error| invalid(&error))?;
        let place = image.digest().map_or_else(|| place.clone(), |digest| place.with_digest(*digest));
        let found = registry.image(&place, &architecture).await;
        let found = found.map_err(|error| registries::missing(&error, IF_ABSENT, IF_DENIED))?;
        let here = match staged.take().filter(|staged| staged.digest == found.digest()) {
            Some(here) => here,
            None => self.stage(context, registry, &found).await?,
        };
        let facts = staged.insert(here).image.facts(&release, &architecture);
        let facts = facts.map_err(|error| unreadable(image, &error))?;
        let source = if facts.sources.headers { Source::Toolkit } else { Source::Package };
        let encoded = facts.encode();
        if encoded.len() > MAX_BYTES {
            let message =
                format!("{image} tells more of the kernel than the {MAX_BYTES} bytes that a ConfigMap holds");
            return Err(unfit(reasons::IMAGE_INVALID, message));
        }
        Ok(Told {
            image: image.to_string(),
            facts: encoded,
            build_id: facts.build_id.map(|build_id| build_id.to_string()),
            source,
        })
    }
    /// Brings an image's layers here.
    async fn stage(
        &self,
        context: &Context,
        registry: &Registry,
        found: &PlatformImage,
    ) -> Result<Staged, Finding> {
        let limits = KernelImage::limits();
        let pull = tokio::time::timeout(PULL, registry.pull_layers(found, &self.work, &limits));
        let image = found.reference();
        let unreachable = |message| {
            let reason = reasons::REGISTRY_UNREACHABLE;
            Finding::Missing { reason, message, needs_change: false, retry_after: None }
        };
        let layers = match context.shutdown.run_until_cancelled(pull).await {
            None => return Err(unreachable(format!("{image} is not pulled: the operator ends"))),
            Some(Err(_)) => return Err(unreachable(format!("{image} did not come within {PULL:?}"))),
            Some(Ok(layers)) => layers.map_err(|error| not_pulled(&error))?,
        };
        let image = KernelImage::open(layers).map_err(|error| unreadable(image, &error))?;
        Ok(Staged { digest: found.digest(), image })
    }
}

/// The image that a template names for a kernel; none where the template is for others.
fn reference(template: &str, kernel: &Kernel) -> Result<Option<ImageReference>, Finding> {
    let invalid = |error: &dyn Error| {
        unfit(reasons::REFERENCE_INVALID, format!("--facts-image {template}: {}", chain(error)))
    };
    let release = kernel.release.parse().map_err(|error| invalid(&error))?;
    let name = facts_image::name(template, &release).map_err(|error| invalid(&error))?;
    name.map(|name| name.parse().map_err(|error| invalid(&error))).transpose()
}

/// What to do about a registry's answer.
const IF_ABSENT: &str = "push it, or correct --facts-image";
const IF_DENIED: &str = "check --facts-image-secret";

fn not_pulled(error: &PullError) -> Finding {
    match error {
        PullError::Registry(source) => registries::missing(source, IF_ABSENT, IF_DENIED),
        PullError::TooLarge { .. } => unfit(reasons::IMAGE_INVALID, chain(error)),
        PullError::Spool { .. } => failed(reasons::DEPOT_FAILED, error),
    }
}

fn unreadable(image: &ImageReference, error: &KernelError) -> Finding {
    let message = format!("{image}: {}", chain(error));
    match error {
        KernelError::Nothing(_) | KernelError::OtherKernel { .. } => {
            unfit(reasons::event::NO_KERNEL_IN_IMAGE, message)
        }
        _ if error.retry() == Retry::AfterChange => unfit(reasons::IMAGE_INVALID, message),
        _ => failed(reasons::DEPOT_FAILED, error),
    }
}

/// What will not do before the name stands for another image.
fn unfit(reason: &'static str, message: String) -> Finding {
    Finding::Missing { reason, message, needs_change: true, retry_after: None }
}
