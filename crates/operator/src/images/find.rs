//! Looks for an image: Secret, registry, layers, bundle, modules. Every way to fail is a finding.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;
use std::sync::Arc;

use kube::ResourceExt;
use tenon_api::module_image::BundleStatus;
use tenon_api::{ModuleImage, reasons};
use tenon_image::bundle::{BuildError, BuiltBundle, BundleBuilder, BundleRequest, SelectError};
use tenon_image::layers::{Layer, Limits};
use tenon_image::registry::{Proxies, Transport};
use tenon_image::{ImagePath, ImageReference, Retry};
use tenon_plan::provision::{Finding, making};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tracing::warn;

use super::inspect::inspect;
use super::make::{self, Toolkits, Unwanted, Wanted};
use crate::depot::BundleCache;
use crate::metrics::Stage;
use crate::registries::{self, aside, chain, depot_failed};
use crate::run::Context;
use crate::world::World;

/// Whether an image with these labels is not the one that is wanted.
pub(super) type IsOutdated = Box<dyn Fn(&BTreeMap<String, String>) -> bool + Send + Sync>;

/// Looks for images. Connections are shared; credentials never are.
#[derive(Debug)]
pub(super) struct Finder {
    transport: Transport,
    builder: BundleBuilder,
    toolkits: Toolkits,
    /// To read modules, each of which is held in memory.
    reading: Arc<Semaphore>,
}

impl Finder {
    pub(super) fn new(context: &Context, reading: Arc<Semaphore>) -> Self {
        Self {
            transport: Transport::new(Proxies::from_environment()),
            builder: BundleBuilder::new(context.cache.staging().to_owned(), Limits::default()),
            toolkits: Toolkits::default(),
            reading,
        }
    }

    /// Finds the image and puts its bundle into the depot's cache; `digest` is what it was resolved to before. An image that
    /// `is_outdated` by its labels counts as absent.
    ///
    /// On a thread of its own: between requests it reads and writes layers, and no other work should wait for the disk.
    pub(super) async fn find(
        self: &Arc<Self>,
        context: &Context,
        image: &Arc<ModuleImage>,
        digest: Option<&str>,
        is_outdated: IsOutdated,
    ) -> Finding {
        let (finder, image, cache) = (self.clone(), image.clone(), context.cache.clone());
        let (metrics, begin) = (context.metrics.clone(), Instant::now());
        let (context, digest) = (context.clone(), digest.map(str::to_owned));
        let found =
            aside(async move || finder.try_find(&context, &image, digest.as_deref(), &is_outdated).await);
        let found = found.await.flatten().unwrap_or_else(|finding| finding);
        if matches!(found, Finding::Packed { .. }) {
            metrics.took(Stage::Find, begin.elapsed().as_secs_f64());
        }
        make_room(&cache, &found).await;
        found
    }

    /// What the image would be made from now.
    pub(super) async fn wanted(
        self: &Arc<Self>,
        context: &Context,
        world: &World,
        image: &Arc<ModuleImage>,
    ) -> Result<Wanted, Unwanted> {
        let around = make::around(world, image);
        let (finder, context, image) = (self.clone(), context.clone(), image.clone());
        let wanted = aside(async move || {
            let asked = (&finder.transport, &finder.toolkits);
            make::wanted(&context, asked, &image, around).await
        });
        wanted.await.map_err(Unwanted::passing).flatten()
    }

    async fn try_find(
        &self,
        context: &Context,
        image: &ModuleImage,
        digest: Option<&str>,
        is_outdated: &IsOutdated,
    ) -> Result<Finding, Finding> {
        let request = request(image, digest)?;
        let namespace = image.namespace().unwrap_or_default();
        let secret = image.spec.image_repo_secret.as_ref().map(|secret| secret.name.as_str());
        let keyring = registries::keyring(context, &namespace, secret, "spec.imageRepoSecret").await?;
        let asked = (&request.image, image.spec.registry_tls.unwrap_or_default());
        // What is made here is published where its name says: a mirror has it later, if at all.
        let mirrors = if making::can_be_made(image) { &[] } else { context.args.mirrors.as_slice() };
        let found =
            registries::ask(context, &self.transport, &keyring, asked, mirrors, async |registry, place| {
                registry.image(place, &request.architecture).await
            });
        let found = found.await.map_err(|unfound| unfound.finding(IF_ABSENT, IF_DENIED))?;
        let (registry, found) = (found.registry, found.answer);
        if is_outdated(found.labels()) {
            return Err(Finding::Missing {
                reason: reasons::IMAGE_ABSENT,
                message: format!("{} is made from what it is not to be made from any more", request.image),
                needs_change: false,
                retry_after: None,
            });
        }
        let image_digest =
            found.reference().digest().map_or_else(|| found.digest().to_string(), ToString::to_string);
        let out = context.cache.staging();
        let built =
            self.builder.build(&registry, &found, &request, out).await.map_err(|error| unfit(&error))?;
        self.keep(context, &request, built, image_digest).await
    }

    /// Packs an excerpt of an image that a node has pulled, and puts the bundle into the depot's cache: as if it were the image's
    /// only layer, for it is not trusted more.
    pub(super) async fn pack(
        &self,
        context: &Context,
        image: &ModuleImage,
        digest: &str,
        layer: Layer,
    ) -> Finding {
        let packed = async {
            let request = request(image, Some(digest))?;
            let built = self.builder.pack_aside(vec![layer], &request, context.cache.staging()).await;
            let built = built.map_err(|error| unfit(&error))?;
            self.keep(context, &request, built, digest.to_owned()).await
        };
        let packed = packed.await.unwrap_or_else(|finding| finding);
        make_room(&context.cache, &packed).await;
        packed
    }

    /// Reads the bundle's modules, and keeps it.
    async fn keep(
        &self,
        context: &Context,
        request: &BundleRequest,
        built: BuiltBundle,
        image_digest: String,
    ) -> Result<Finding, Finding> {
        let bundle = BundleStatus {
            digest: built.digest.to_string(),
            size: i64::try_from(built.size).unwrap_or(i64::MAX),
            files: i64::try_from(built.manifest.entries().len()).unwrap_or(i64::MAX),
        };
        let (file, architecture) = (built.file.clone(), request.architecture.clone());
        let keep = |error: &(dyn Error + 'static)| depot_failed(error);
        let reading = self.reading.clone().acquire_owned().await.map_err(|error| keep(&error))?;
        let inspected = tokio::task::spawn_blocking(move || {
            let _reading = reading;
            inspect(&file, &built.digest, &architecture)
        })
        .await;
        match inspected {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                discard(&built.file).await;
                return Err(needs_change(reasons::IMAGE_INVALID, &error));
            }
            Err(error) => return Err(keep(&error)),
        }
        context.cache.insert(built.digest, &built.file).await.map_err(|error| keep(&error))?;
        Ok(Finding::Packed { image_digest, bundle })
    }
}

/// Where the volume is full, what no node is assigned is given up.
async fn make_room(cache: &BundleCache, found: &Finding) {
    if matches!(found, Finding::Missing { reason: reasons::DEPOT_FULL, .. })
        && let Err(error) = cache.shed().await
    {
        warn!(error = &error as &dyn Error, "the depot's full volume cannot be cleared");
    }
}

async fn discard(file: &Path) {
    // What is left in the staging directory is removed at the next start.
    let _ = tokio::fs::remove_file(file).await;
}

/// What the object asks for, checked. What is wrong here is wrong in the Module.
fn request(image: &ModuleImage, digest: Option<&str>) -> Result<BundleRequest, Finding> {
    let spec = &image.spec;
    let invalid = |field: &str, error: &dyn Error| Finding::Missing {
        reason: reasons::REFERENCE_INVALID,
        message: format!("{field}: {}", chain(error)),
        needs_change: true,
        retry_after: None,
    };
    let reference: ImageReference = spec.image.parse().map_err(|error| invalid("containerImage", &error))?;
    let path = |field: &str, text: &str| text.parse::<ImagePath>().map_err(|error| invalid(field, &error));
    Ok(BundleRequest {
        image: match digest.and_then(|digest| digest.parse().ok()) {
            Some(digest) => reference.with_digest(digest),
            None => reference,
        },
        architecture: spec
            .architecture
            .parse()
            .map_err(|error| invalid("the nodes' architecture", &error))?,
        kernel: spec.kernel.parse().map_err(|error| invalid("the nodes' kernel release", &error))?,
        dir_name: path("modprobe.dirName", &spec.dir_name)?,
        firmware_path: spec
            .firmware_path
            .as_deref()
            .map(|text| path("modprobe.firmwarePath", text))
            .transpose()?,
    })
}

/// What to do about a registry's answer.
const IF_ABSENT: &str = "push it, or correct containerImage";
const IF_DENIED: &str = "check spec.imageRepoSecret";

/// What is wrong with an image that is there.
fn unfit(error: &BuildError) -> Finding {
    match error {
        BuildError::Registry { source, .. } => registries::missing(source, IF_ABSENT, IF_DENIED),
        BuildError::Select {
            source: SelectError::NoDirectory { .. } | SelectError::NoModules(_), ..
        } => Finding::Missing {
            reason: reasons::NO_MODULE_FOR_KERNEL,
            message: format!(
                "{}; build one with modules for this kernel, or correct modprobe.dirName",
                chain(error)
            ),
            needs_change: true,
            retry_after: None,
        },
        _ if error.retry() == Retry::AfterChange => needs_change(reasons::IMAGE_INVALID, error),
        _ => depot_failed(error),
    }
}

fn needs_change(reason: &'static str, error: &dyn Error) -> Finding {
    Finding::Missing { reason, message: chain(error), needs_change: true, retry_after: None }
}
