//! A task, done: from what the environment says to the report.

use std::path::{Path, PathBuf};

use tenon_api::message::chain;
use tenon_api::module::SignatureHash;
use tenon_api::task::{self, Algorithm, Place, Report, SignTask, Task, Trouble, label};
use tenon_image::ImageReference;
use tenon_image::keyring::Keyring;
use tenon_image::reference::ReferenceError;
use tenon_image::registry::{
    PullError, Registry, RegistryError, Timing, TlsSettings, Transport, TransportError,
};
use tenon_image::revise::{FilePattern, PatternError, ReviseError, Source};
use tenon_sign::{Hash, Identity, KeyKind};

use crate::credentials::{self, CredentialError};
use crate::sign_image::{SignRequest, fingerprint, sign_image};

/// Where things are mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mounts {
    /// The private key's Secret.
    pub key: PathBuf,
    /// The certificate's Secret.
    pub certificate: PathBuf,
    /// The registries' credentials.
    pub registry: PathBuf,
    /// Where to write.
    pub work: PathBuf,
}

impl Default for Mounts {
    /// Where a Job has them.
    fn default() -> Self {
        let at = |path: &str| Path::new(path).to_owned();
        Self {
            key: at(task::KEY_DIR),
            certificate: at(task::CERT_DIR),
            registry: at(task::REGISTRY_DIR),
            work: at(task::WORK_DIR),
        }
    }
}

/// Why a task was not done.
#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    /// There is none.
    #[error("{} is not set: this program is started by a Job of the operator's", task::VARIABLE)]
    NoTask,
    /// It is of another version's form.
    #[error("read the task in {}", task::VARIABLE)]
    Task(#[source] serde_json::Error),
    /// A reference in it.
    #[error("{image}")]
    Reference {
        /// As given.
        image: String,
        /// What is wrong with it.
        source: ReferenceError,
    },
    /// A pattern in it.
    #[error("sign.filesToSign: {file}")]
    Pattern {
        /// As given.
        file: String,
        /// What is wrong with it.
        source: PatternError,
    },
    /// What is mounted.
    #[error(transparent)]
    Credentials(#[from] CredentialError),
    /// Somebody else's image has the name.
    #[error("{image} is there already, and was not made by signing: it is not written over")]
    NotOurs {
        /// Which.
        image: String,
    },
    /// Nobody could verify what would be made.
    #[error(
        "the kernel was built without {what}, which signatures by {subject} ({key}) with {hash} need: {way_out}"
    )]
    Kernel {
        /// What it lacks.
        what: &'static str,
        /// Whose certificate it is.
        subject: String,
        /// The key's kind.
        key: KeyKind,
        /// The hash.
        hash: Hash,
        /// What would do.
        way_out: &'static str,
    },
    /// The way to a registry.
    #[error("prepare the connection to {registry}")]
    Transport {
        /// Its host.
        registry: String,
        /// Why not.
        source: TransportError,
    },
    /// The image.
    #[error(transparent)]
    Revise(#[from] ReviseError),
}

impl TaskError {
    /// The word for it.
    pub fn trouble(&self) -> Trouble {
        match self {
            Self::Credentials(CredentialError::Missing { .. } | CredentialError::Read { .. }) => {
                Trouble::SecretMissing
            }
            Self::Credentials(_) => Trouble::SecretMalformed,
            Self::Pattern { .. } | Self::Reference { .. } => Trouble::ImageInvalid,
            Self::NotOurs { .. } => Trouble::NotOurs,
            Self::Kernel { .. } => Trouble::KernelRefuses,
            Self::Revise(error) => trouble_of(error),
            Self::NoTask | Self::Task(_) | Self::Transport { .. } => Trouble::Failed,
        }
    }
}

fn trouble_of(error: &ReviseError) -> Trouble {
    match error {
        ReviseError::Registry(error) | ReviseError::Pull(PullError::Registry(error)) => match error {
            RegistryError::Absent(_) | RegistryError::Platform { .. } => Trouble::ImageAbsent,
            RegistryError::Denied { .. } => Trouble::RegistryDenied,
            RegistryError::Unreachable { .. } => Trouble::RegistryUnreachable,
            RegistryError::Invalid { .. } => Trouble::ImageInvalid,
            RegistryError::Disk { .. } => Trouble::Failed,
        },
        ReviseError::Pull(PullError::TooLarge { .. })
        | ReviseError::Layout(_)
        | ReviseError::Layers(_)
        | ReviseError::NoFile { .. }
        | ReviseError::NotAFile { .. }
        | ReviseError::TooLarge { .. }
        | ReviseError::Change { .. }
        | ReviseError::Name { .. }
        | ReviseError::Documents(_) => Trouble::ImageInvalid,
        ReviseError::Pull(PullError::Spool { .. }) | ReviseError::Spool { .. } | ReviseError::Thread(_) => {
            Trouble::Failed
        }
    }
}

/// What the variable asks for, for people who read the log.
pub fn describe(task: Option<&str>) -> String {
    match task.map(serde_json::from_str) {
        Some(Ok(Task::Sign(SignTask { from, to, files, hash, .. }))) => format!(
            "tenon-maker {}: sign {} in {} with {}, and publish it as {}",
            env!("CARGO_PKG_VERSION"),
            files.join(" "),
            from.image,
            hash.as_str(),
            to.image
        ),
        _ => format!("tenon-maker {}: no task that it knows", env!("CARGO_PKG_VERSION")),
    }
}

/// Does what the variable says; the report, whatever comes.
pub async fn run(task: Option<&str>, transport: &Transport, mounts: &Mounts) -> Report {
    match attempt(task, transport, mounts).await {
        Ok(report) => report,
        Err(error) => Report::Failed { trouble: error.trouble(), message: chain(&error).into() },
    }
}

async fn attempt(task: Option<&str>, transport: &Transport, mounts: &Mounts) -> Result<Report, TaskError> {
    let task: Task = serde_json::from_str(task.ok_or(TaskError::NoTask)?).map_err(TaskError::Task)?;
    let Task::Sign(task) = task;
    sign(&task, transport, mounts).await
}

async fn sign(task: &SignTask, transport: &Transport, mounts: &Mounts) -> Result<Report, TaskError> {
    let files = task.files.iter().map(|file| {
        let pattern = file.parse::<FilePattern>();
        pattern.map_err(|source| TaskError::Pattern { file: file.clone(), source })
    });
    let files = files.collect::<Result<Vec<_>, _>>()?;
    let (from, to) = (reference(&task.from)?, reference(&task.to)?);
    let identity = credentials::identity(&mounts.key, &mounts.certificate)?;
    let hash = match task.hash {
        SignatureHash::Sha256 => Hash::Sha256,
        SignatureHash::Sha384 => Hash::Sha384,
        SignatureHash::Sha512 => Hash::Sha512,
    };
    verifiable(&identity, hash, &task.lacking)?;
    let keyring = credentials::keyring(&mounts.registry)?;
    let there = registry(transport, &task.from, &from, keyring.clone())?;
    let here = registry(transport, &task.to, &to, keyring)?;
    if let Some(digest) = made_before(&here, &to, task, &identity).await? {
        return Ok(Report::Made { digest, message: "it was there already".into() });
    }
    let request = SignRequest {
        files,
        hash,
        note: format!("tenon: modules signed with {hash} by {}", identity.certificate().issued_as()),
        request: Some(task.request.clone()),
    };
    let from = Source::Registry(&there, &from);
    let revised = sign_image(from, (&here, &to), request, identity, &mounts.work).await?;
    let count = |files: &std::collections::BTreeMap<String, Vec<String>>| -> usize {
        files.values().map(Vec::len).sum()
    };
    let blobs = revised.blobs;
    let message = format!(
        "{} modules signed, {} were; {} bytes of layers fetched; {} blobs mounted, {} copied, {} there before",
        count(&revised.changed),
        count(&revised.unchanged),
        revised.fetched,
        blobs.mounted,
        blobs.copied,
        blobs.present
    );
    let digest = revised.reference.digest().map(ToString::to_string).unwrap_or_default();
    Ok(Report::Made { digest, message: message.into() })
}

/// Whether a kernel that lacks these can verify what would be made.
fn verifiable(identity: &Identity, hash: Hash, lacking: &[Algorithm]) -> Result<(), TaskError> {
    let (subject, key) = (identity.certificate().subject().to_owned(), identity.certificate().kind());
    let refused = |what, way_out| Err(TaskError::Kernel { what, subject, key, hash, way_out });
    if key != KeyKind::Rsa && lacking.contains(&Algorithm::Ecdsa) {
        return refused("ECDSA", "sign with an RSA key");
    }
    if hash != Hash::Sha256 && lacking.contains(&Algorithm::Sha512) {
        return refused("SHA-512", "set sign.hash to sha256");
    }
    Ok(())
}

/// The digest of an image that was made of the same, by the same certificate: then there is nothing to do.
async fn made_before(
    registry: &Registry,
    to: &ImageReference,
    task: &SignTask,
    identity: &Identity,
) -> Result<Option<String>, TaskError> {
    let original = match registry.original(to).await {
        Ok(original) => original,
        Err(RegistryError::Absent(_)) => return Ok(None),
        Err(error) => return Err(ReviseError::from(error).into()),
    };
    let source = reference(&task.from)?.digest().map(ToString::to_string).unwrap_or_default();
    let wanted = [
        (label::SOURCE, source),
        (label::CERTIFICATE, fingerprint(identity).to_string()),
        (label::REQUEST, task.request.clone()),
    ];
    let labels = || original.images.iter().map(|image| image.image.labels());
    if !labels().any(|labels| labels.contains_key(label::SOURCE)) {
        return Err(TaskError::NotOurs { image: to.to_string() });
    }
    let is_it = labels().all(|labels| wanted.iter().all(|(key, value)| labels.get(*key) == Some(value)));
    let digest = original.reference.digest().map(ToString::to_string);
    Ok(digest.filter(|_| is_it))
}

fn reference(place: &Place) -> Result<ImageReference, TaskError> {
    place.image.parse().map_err(|source| TaskError::Reference { image: place.image.clone(), source })
}

fn registry(
    transport: &Transport,
    place: &Place,
    reference: &ImageReference,
    keyring: Keyring,
) -> Result<Registry, TaskError> {
    let tls = TlsSettings {
        plain_http: place.plain_http,
        skip_verify: place.skip_verify,
        authority: place.authority.clone().map(String::into_bytes),
    };
    Registry::new(transport, &tls, keyring, Timing::default())
        .map_err(|source| TaskError::Transport { registry: reference.registry().to_owned(), source })
}
