//! Modules of an image are signed, and it is published again.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use tenon_image::ImageReference;
use tenon_image::layers::Limits;
use tenon_image::registry::Registry;
use tenon_image::revise::{
    Change, FilePattern, ReviseError, Revised, Revision, Source, Tried, revise, try_out,
};
use tenon_order::Digest;
use tenon_sign::{Hash, Identity, Signed, sign_file};

/// A module that unpacks to more is not believed.
pub const MODULE_LIMIT: usize = 192 << 20;

/// What is to be signed, and how.
#[derive(Debug, Clone)]
pub struct SignRequest {
    /// The modules, by their paths in the image.
    pub files: Vec<FilePattern>,
    /// What they are hashed with.
    pub hash: Hash,
    /// What the image's history says of it.
    pub note: String,
    /// Labels of the image.
    pub labels: BTreeMap<String, String>,
    /// Whether files of one kernel may be missing, where the image is for several.
    pub lenient: bool,
}

/// The SHA-256 of an identity's certificate, as it stands among the labels.
pub fn fingerprint(identity: &Identity) -> Digest {
    Digest::of(identity.certificate().der())
}

/// Signs modules of `from`, an image of a registry or of a folder, and publishes it as `to`, with temporary files in `work`.
/// Every architecture of an index is signed. Modules that this certificate has signed last stay as they are. Equal input makes the same digest.
pub async fn sign_image(
    from: Source<'_>,
    to: (&Registry, &ImageReference),
    request: SignRequest,
    identity: Identity,
    work: &Path,
) -> Result<Revised, ReviseError> {
    let from_digest = from.digest().await?;
    let revision = revision(request, identity);
    match from {
        // The name may lead to another image meanwhile.
        Source::Registry(registry, image) => {
            let image = image.with_digest(from_digest);
            revise(Source::Registry(registry, &image), to, &revision, work).await
        }
        Source::Layout(_) => revise(from, to, &revision, work).await,
    }
}

/// Signs modules of `from` as [`sign_image`] does, and publishes nothing.
pub async fn try_signing(
    from: Source<'_>,
    request: SignRequest,
    identity: Identity,
    work: &Path,
) -> Result<Tried, ReviseError> {
    try_out(from, &revision(request, identity), work).await
}

fn revision(request: SignRequest, identity: Identity) -> Revision {
    let hash = request.hash;
    let change: Change = Arc::new(move |_, module| {
        Ok(match sign_file(module, &identity, hash, MODULE_LIMIT)? {
            Signed::Anew(signed) => Some(signed),
            Signed::Already => None,
        })
    });
    Revision {
        files: request.files,
        change,
        note: request.note,
        lenient: request.lenient,
        labels: request.labels,
        limits: Limits::default(),
    }
}

/// Publishes an image as it is, with these labels.
pub async fn publish_image(
    from: Source<'_>,
    to: (&Registry, &ImageReference),
    labels: BTreeMap<String, String>,
    work: &Path,
) -> Result<Revised, ReviseError> {
    revise(from, to, &as_it_is(labels), work).await
}

/// Reads what an image says of itself, as [`publish_image`] does, and publishes nothing.
pub async fn try_publishing(from: Source<'_>, work: &Path) -> Result<Tried, ReviseError> {
    try_out(from, &as_it_is(BTreeMap::new()), work).await
}

fn as_it_is(labels: BTreeMap<String, String>) -> Revision {
    Revision {
        files: Vec::new(),
        change: Arc::new(|_, _| Ok(None)),
        note: String::new(),
        lenient: true,
        labels,
        limits: Limits::default(),
    }
}
