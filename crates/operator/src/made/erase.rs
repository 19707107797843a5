//! Deletes an image from its registry: what it is there is looked at first, then that nothing needs it, then its object says what is
//! about to go, then it goes. Who stops in between goes on from the object.

use std::collections::BTreeSet;
use std::sync::Arc;

use kube::api::ListParams;
use kube::{Api, ResourceExt};
use tenon_api::made_image::MAX_PARTS;
use tenon_api::{Guarded, MadeImage, ModuleImage, reasons};
use tenon_image::ImageReference;
use tenon_image::registry::{Original, Proxies, Registry, RegistryError, Transport, Violation};
use tenon_order::{Digest, ModuleKey};
use tenon_plan::made;
use tenon_plan::provision::{Finding, making};

use super::observe::{Needs, canonical, needs};
use super::{apply, now};
use crate::budget::NotLeader;
use crate::controllers::WriteError;
use crate::registries::{self, TIMING, aside, chain, failed};
use crate::run::Context;
use crate::world::World;

/// Tags of a repository that are looked at: in one that has more, nobody knows what else an image is called.
const MOST_TAGS: usize = 2000;
/// `ModuleImage`s per page.
const PAGE: u32 = 500;
const IF_DENIED: &str = "give the account in spec.imageRepoSecret the right to delete, or leave the image to the registry's own rules";

/// What came of it.
#[derive(Debug)]
pub(super) enum Outcome {
    /// It is gone, and so is its object.
    Gone,
    /// Something needs it after all.
    Needed,
    /// Somebody has deleted the object, to have the image kept.
    Withdrawn,
    /// It cannot be deleted.
    Refused {
        /// The object, if it says already that the image is being deleted.
        begun: Option<Arc<MadeImage>>,
        /// Why, in a word.
        reason: &'static str,
        /// Why, in a sentence, with the way out.
        message: String,
    },
}

impl From<Finding> for Outcome {
    fn from(finding: Finding) -> Self {
        match finding {
            Finding::Missing { reason, message, .. } => refused(reason, message),
            Finding::Packed { .. } | Finding::Making { .. } => Self::Needed,
        }
    }
}

impl Outcome {
    /// The same once the object says that the image is being deleted.
    fn after(self, object: Arc<MadeImage>) -> Self {
        match self {
            Self::Refused { reason, message, .. } => Self::Refused { begun: Some(object), reason, message },
            other => other,
        }
    }
}

fn refused(reason: &'static str, message: String) -> Outcome {
    Outcome::Refused { begun: None, reason, message }
}

/// An image as it is in its registry.
struct There {
    registry: Registry,
    image: ImageReference,
    digest: Digest,
    /// The images of an index.
    parts: Vec<Digest>,
}

/// Deletes images. Connections are shared; credentials never are.
#[derive(Debug)]
pub(super) struct Eraser {
    transport: Transport,
}

impl Eraser {
    pub(super) fn new() -> Self {
        Self { transport: Transport::new(Proxies::from_environment()) }
    }

    /// Deletes an image that nothing has needed for long enough, with these of its repository's tags.
    pub(super) async fn erase(
        self: &Arc<Self>,
        context: &Context,
        world: &World,
        made: &MadeImage,
        tags: BTreeSet<String>,
    ) -> Result<Outcome, WriteError> {
        let (eraser, for_look) = (self.clone(), context.clone());
        let (secret, one) = (secret(world, made), made.clone());
        let look = aside(async move || eraser.look(&for_look, secret.as_deref(), &one, &tags).await);
        let there = match look.await.map_err(Outcome::from).flatten() {
            Ok(there) => Arc::new(there),
            Err(outcome) => return Ok(outcome),
        };
        // From now on nobody finds it there who would need it.
        let _erasing = world.erase(there.image.name());
        if is_needed(context, world, made, &there.parts).await? {
            return Ok(Outcome::Needed);
        }
        let parts = there.parts.iter().map(ToString::to_string).collect();
        let begun = Arc::new(apply::tell(context, made, made::deleting(made, parts, &now())).await?);
        if begun.metadata.deletion_timestamp.is_some() {
            return Ok(Outcome::Withdrawn);
        }
        // What names the others goes first: it never names what is not there.
        for digest in std::iter::once(&there.digest).chain(&there.parts) {
            if let Err(outcome) = delete(context, &there, *digest).await? {
                return Ok(outcome.after(begun));
            }
        }
        apply::forget(context, made).await?;
        Ok(Outcome::Gone)
    }

    /// Looks what the image is in its registry, and that nobody else has a share in it.
    async fn look(
        &self,
        context: &Context,
        secret: Option<&str>,
        made: &MadeImage,
        tags: &BTreeSet<String>,
    ) -> Result<There, Outcome> {
        let invalid =
            |error: &dyn std::error::Error| Outcome::from(failed(reasons::REFERENCE_INVALID, error));
        let image: ImageReference = made.spec.image.parse().map_err(|error| invalid(&error))?;
        let digest: Digest = made.spec.digest.parse().map_err(|error| invalid(&error))?;
        let registry = self.registry(context, secret, made, &image).await?;
        let parts = match registry.original(&image.by_digest(digest)).await {
            Ok(original) => parts(&original, digest)?,
            Err(RegistryError::Absent(_)) => left(&registry, &image, made).await?,
            Err(error) => return Err(trouble(&error)),
        };
        let there = There { registry, image, digest, parts };
        is_ours_alone(&there, tags).await?;
        Ok(there)
    }

    async fn registry(
        &self,
        context: &Context,
        secret: Option<&str>,
        made: &MadeImage,
        image: &ImageReference,
    ) -> Result<Registry, Outcome> {
        let namespace = made.namespace().unwrap_or_default();
        let keyring = registries::keyring(context, &namespace, secret, "spec.imageRepoSecret").await?;
        let tls = registries::tls(context, image, made.spec.registry_tls.unwrap_or_default()).await?;
        Registry::new(&self.transport, &tls, keyring, TIMING)
            .map_err(|error| failed(reasons::REGISTRY_UNREACHABLE, &error).into())
    }
}

/// The Module's Secret, as it is now; where the Module is gone, as it was.
fn secret(world: &World, made: &MadeImage) -> Option<String> {
    let key = ModuleKey::new(&made.namespace().unwrap_or_default(), &made.spec.module).ok();
    let module = key.and_then(|key| world.read().module(&key).cloned());
    let secret = match &module {
        Some(module) => &module.spec.image_repo_secret,
        None => &made.spec.image_repo_secret,
    };
    secret.as_ref().map(|secret| secret.name.clone())
}

/// The images of an index of ours. All of it must bear our marks: they prove nothing, but what has none is not what was made.
fn parts(original: &Original, digest: Digest) -> Result<Vec<Digest>, Outcome> {
    if !original.images.iter().all(|image| making::is_ours(image.image.labels())) {
        let message =
            format!("{} does not bear the marks of an image that was made here", original.reference);
        return Err(refused(reasons::NOT_MADE_HERE, message));
    }
    let parts = original.images.iter().map(|image| image.image.digest()).filter(|part| *part != digest);
    Ok(parts.take(MAX_PARTS).collect())
}

/// What is left of an index that is gone already.
async fn left(registry: &Registry, image: &ImageReference, made: &MadeImage) -> Result<Vec<Digest>, Outcome> {
    let noted = made.status.iter().flat_map(|status| &status.parts).filter_map(|part| part.parse().ok());
    let mut parts = Vec::new();
    for part in noted {
        match registry.original(&image.by_digest(part)).await {
            Ok(original) if original.images.iter().all(|one| making::is_ours(one.image.labels())) => {
                parts.push(part);
            }
            Ok(_) | Err(RegistryError::Absent(_)) => {}
            Err(error) => return Err(trouble(&error)),
        }
    }
    Ok(parts)
}

/// Whether no tag but `tags` leads to any of it. Deleted by content, it would be gone under every name.
async fn is_ours_alone(there: &There, tags: &BTreeSet<String>) -> Result<(), Outcome> {
    let There { registry, image, digest, parts } = there;
    let all: Vec<_> = std::iter::once(*digest).chain(parts.iter().copied()).collect();
    let found = registry.tags_of(image, &all, MOST_TAGS).await.map_err(|error| trouble(&error))?;
    let Some(found) = found else {
        let message = format!(
            "nobody knows which tags of {} stand for it: there are more than {MOST_TAGS}, or the registry does not list \
             them; delete it by hand",
            image.name()
        );
        return Err(refused(reasons::SHARED_IN_REGISTRY, message));
    };
    let name = |tag: &str| format!("{}:{tag}", image.name());
    let other = found.iter().find(|other| other.digest != *digest || !tags.contains(&name(&other.tag)));
    other.map_or(Ok(()), |other| {
        let how = if other.digest == *digest { "stands for it, too" } else { "is an index that names it" };
        let message = format!(
            "{} {how}, and would lose it; delete that tag first, or this MadeImage to keep it",
            name(&other.tag)
        );
        Err(refused(reasons::SHARED_IN_REGISTRY, message))
    })
}

/// Whether anything needs it: by what is known, and by a consistent list of what is looked for.
async fn is_needed(
    context: &Context,
    world: &World,
    made: &MadeImage,
    parts: &[Digest],
) -> Result<bool, WriteError> {
    let needs_it =
        |needs: &Needs| needs.need(made) || parts.iter().any(|part| needs.needs_content(&part.to_string()));
    if needs_it(&needs(world)) {
        return Ok(true);
    }
    let mut listed = Needs::new(canonical);
    let images: Api<Guarded<ModuleImage>> = Api::all(context.client.clone());
    let mut page = ListParams::default().limit(PAGE);
    loop {
        let list = images.list(&page).await?;
        for image in list.items {
            match image.0 {
                Ok(image) => listed.add_image(&image),
                // Nobody knows what it names.
                Err(_) => return Ok(true),
            }
        }
        match list.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page = page.continue_token(&token),
            None => return Ok(needs_it(&listed)),
        }
    }
}

/// Deletes one manifest, as long as this replica leads. That it is not there is as good.
async fn delete(
    context: &Context,
    there: &Arc<There>,
    digest: Digest,
) -> Result<Result<(), Outcome>, WriteError> {
    let (there, claim) = (there.clone(), context.claim.clone());
    let done = aside(async move || claim.during(there.registry.delete(&there.image, digest)).await);
    match done.await {
        Ok(Some(Ok(()) | Err(RegistryError::Absent(_)))) => Ok(Ok(())),
        Ok(Some(Err(error))) => Ok(Err(trouble(&error))),
        Ok(None) => Err(NotLeader.into()),
        Err(finding) => Ok(Err(finding.into())),
    }
}

fn trouble(error: &RegistryError) -> Outcome {
    let (reason, message) = why(error);
    refused(reason, message)
}

/// Why a registry did not do what it was to do, and the way out.
fn why(error: &RegistryError) -> (&'static str, String) {
    if let RegistryError::Invalid { source: Violation::Status { status: 400 | 405, .. }, .. } = error {
        let message = format!(
            "{}: it does not delete images; switch that on there, or leave them to its own rules",
            chain(error)
        );
        return (reasons::DELETION_UNSUPPORTED, message);
    }
    match registries::missing(error, "it is gone", IF_DENIED) {
        Finding::Missing { reason, message, .. } => (reason, message),
        Finding::Packed { .. } | Finding::Making { .. } => (reasons::REGISTRY_UNREACHABLE, chain(error)),
    }
}
