//! A task, done: from what the environment says to the report.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use tenon_api::message::chain;
use tenon_api::module::SignatureHash;
use tenon_api::task::{self, Algorithm, Compiled, Place, Report, SignTask, Source, Task, Trouble, label};
use tenon_image::keyring::Keyring;
use tenon_image::layout::{Layout, LayoutError};
use tenon_image::path::PathError;
use tenon_image::publish::{self, Contents, ContentsError, FIRMWARE_PATH, PackError};
use tenon_image::reference::ReferenceError;
use tenon_image::registry::{
    PullError, Registry, RegistryError, Timing, TlsSettings, Transport, TransportError,
};
use tenon_image::revise::{FilePattern, PatternError, ReviseError, Revised, Source as ImageSource, Tried};
use tenon_image::{ImagePath, ImageReference};
use tenon_sign::{Hash, Identity, KeyKind};

use crate::credentials::{self, CredentialError};
use crate::sign_image::{SignRequest, fingerprint, publish_image, sign_image, try_publishing, try_signing};

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
    #[error("{image} is there already, and was not made by a Job of Tenon's: it is not written over")]
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
    /// A path in the image.
    #[error("{path}")]
    Path {
        /// As given.
        path: String,
        /// What is wrong with it.
        source: PathError,
    },
    /// Firmware in another place than where it is packed.
    #[error(
        "modprobe.firmwarePath is {path}, and what is compiled has its firmware in {FIRMWARE_PATH}: set it to that"
    )]
    Firmware {
        /// As given.
        path: String,
    },
    /// What was compiled cannot be read.
    #[error("read {path}", path = path.display())]
    Read {
        /// A file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// What was compiled has something in it that no image needs.
    #[error("{path} is neither a file nor a directory, or too deep: copy what a link leads to", path = path.display())]
    NotAFile {
        /// What.
        path: PathBuf,
    },
    /// What was compiled is no driver.
    #[error(transparent)]
    Contents(#[from] ContentsError),
    /// It cannot be packed.
    #[error(transparent)]
    Pack(#[from] PackError),
}

impl TaskError {
    /// The word for it.
    pub fn trouble(&self) -> Trouble {
        match self {
            Self::Credentials(CredentialError::Missing { .. } | CredentialError::Read { .. }) => {
                Trouble::SecretMissing
            }
            Self::Credentials(_) => Trouble::SecretMalformed,
            Self::Pattern { .. }
            | Self::Reference { .. }
            | Self::Path { .. }
            | Self::Firmware { .. }
            | Self::NotAFile { .. }
            | Self::Contents(_) => Trouble::ImageInvalid,
            Self::NotOurs { .. } => Trouble::NotOurs,
            Self::Kernel { .. } => Trouble::KernelRefuses,
            Self::Revise(error) => trouble_of(error),
            Self::NoTask | Self::Task(_) | Self::Transport { .. } | Self::Read { .. } | Self::Pack(_) => {
                Trouble::Failed
            }
        }
    }
}

impl TaskError {
    /// What to do about it, where that does not follow.
    fn way_out(&self) -> &'static str {
        match self {
            Self::Revise(ReviseError::NoFile { .. } | ReviseError::NotAFile { .. }) => {
                "; correct sign.filesToSign, or put it into the image that is signed"
            }
            _ => "",
        }
    }
}

fn trouble_of(error: &ReviseError) -> Trouble {
    match error {
        ReviseError::Registry(error) | ReviseError::Pull(PullError::Registry(error)) => {
            trouble_of_registry(error)
        }
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

/// The word for what a registry says.
pub(crate) fn trouble_of_registry(error: &RegistryError) -> Trouble {
    match error {
        RegistryError::Absent(_) | RegistryError::Platform { .. } => Trouble::ImageAbsent,
        RegistryError::Denied { .. } => Trouble::RegistryDenied,
        RegistryError::Unreachable { .. } => Trouble::RegistryUnreachable,
        RegistryError::Invalid { .. } => Trouble::ImageInvalid,
        RegistryError::Disk { .. } => Trouble::Failed,
    }
}

/// What the variable asks for, for people who read the log.
pub fn describe(task: Option<&str>) -> String {
    let version = env!("CARGO_PKG_VERSION");
    let Some(Ok(task)) = task.map(serde_json::from_str::<Task>) else {
        return format!("tenon-maker {version}: no task that it knows");
    };
    let from = match &task.from {
        Source::Image(place) => &place.image,
        Source::Built => "what was built",
        Source::Compiled(_) => "what was compiled",
    };
    let to = &task.to.image;
    let end = if task.trial { format!("publish nothing as {to}") } else { format!("publish it as {to}") };
    match &task.sign {
        Some(sign) => format!(
            "tenon-maker {version}: sign {} in {from} with {}, and {end}",
            sign.files.join(" "),
            sign.hash.as_str()
        ),
        None if task.trial => format!("tenon-maker {version}: look at {from}, and {end}"),
        None => format!("tenon-maker {version}: publish {from} as {to}"),
    }
}

/// Does what the variable says; the report, whatever comes.
pub async fn run(task: Option<&str>, transport: &Transport, mounts: &Mounts) -> Report {
    match attempt(task, transport, mounts).await {
        Ok(report) => report,
        Err(error) => Report::Failed {
            trouble: error.trouble(),
            message: format!("{}{}", chain(&error), error.way_out()).into(),
        },
    }
}

async fn attempt(task: Option<&str>, transport: &Transport, mounts: &Mounts) -> Result<Report, TaskError> {
    let task: Task = serde_json::from_str(task.ok_or(TaskError::NoTask)?).map_err(TaskError::Task)?;
    let signing = task.sign.as_ref().map(|sign| Signing::of(sign, mounts)).transpose()?;
    let to = reference(&task.to)?;
    let keyring = credentials::keyring(&mounts.registry)?;
    let here = registry(transport, &task.to, &to, keyring.clone())?;
    let identity = signing.as_ref().map(|signing| &signing.identity);
    if !task.trial
        && let Some(digest) = made_before(&here, &to, &task, identity).await?
    {
        return Ok(Report::Made { digest, message: "it was there already".into(), fresh: false });
    }
    let labels = labels(&task, identity);
    let (there, from, layout);
    let from = match &task.from {
        Source::Image(place) => {
            from = reference(place)?;
            there = registry(transport, place, &from, keyring)?;
            ImageSource::Registry(&there, &from)
        }
        Source::Compiled(compiled) => {
            layout = pack(compiled, mounts).await?;
            ImageSource::Layout(&layout)
        }
        Source::Built => {
            layout = open(mounts).await?;
            ImageSource::Layout(&layout)
        }
    };
    if task.trial {
        let Tried { changed, unchanged } = try_out(from, signing, mounts).await?;
        let message = format!("{changed} modules signed, {unchanged} were; nothing is published");
        return Ok(Report::Tried { message: message.into() });
    }
    let revised = publish(from, (&here, &to), signing, labels, mounts).await?;
    let digest = revised.reference.digest().map(ToString::to_string).unwrap_or_default();
    Ok(Report::Made { digest, message: summary(&revised).into(), fresh: true })
}

/// Makes an image of what was compiled: its modules and firmware, in one layer on nothing.
async fn pack(compiled: &Compiled, mounts: &Mounts) -> Result<Layout, TaskError> {
    let path = |path: &str| {
        path.parse::<ImagePath>().map_err(|source| TaskError::Path { path: path.to_owned(), source })
    };
    let dir_name = path(&compiled.dir_name)?;
    let firmware = compiled.firmware_path.as_deref().map(path).transpose()?;
    if let Some(other) = firmware.as_ref().filter(|path| path.as_str() != FIRMWARE_PATH) {
        return Err(TaskError::Firmware { path: other.to_string() });
    }
    let (from, work) = (mounts.work.join(task::COMPILED), mounts.work.clone());
    let firmware = firmware.map(|_| from.join(FIRMWARE_PATH.trim_start_matches('/')));
    // Not every kernel's sources have some.
    let firmware = firmware.filter(|path| path.is_dir());
    let packing = move || -> Result<Layout, TaskError> {
        only_files(&from, 0)?;
        let contents = Contents::scan(&from, &dir_name, firmware.as_deref())?;
        let packed = publish::pack(&contents, &contents.architecture, &work)?;
        // A new folder: whoever compiled may have left anything in any other.
        let layout = work.join("packed");
        let written = fs::create_dir(&layout).and_then(|()| packed.write_layout(&layout));
        written.map_err(|source| TaskError::Read { path: layout.clone(), source })?;
        Ok(Layout::open(&layout).map_err(ReviseError::from)?)
    };
    tokio::task::spawn_blocking(packing).await.map_err(ReviseError::Thread)?
}

/// What the container before has left.
async fn open(mounts: &Mounts) -> Result<Layout, TaskError> {
    let folder = mounts.work.join(task::LAYOUT);
    let opened: Result<Layout, LayoutError> =
        tokio::task::spawn_blocking(move || Layout::open(&folder)).await.map_err(ReviseError::Thread)?;
    Ok(opened.map_err(ReviseError::from)?)
}

/// Directories below each other.
const MAX_DEPTH: usize = 32;

/// Whoever compiled may have left links: to the key beside us, for one. What they lead to is not packed.
fn only_files(directory: &Path, depth: usize) -> Result<(), TaskError> {
    let read = |source| TaskError::Read { path: directory.to_owned(), source };
    let is = |path: &Path| path.symlink_metadata().map(|metadata| metadata.file_type());
    if depth > MAX_DEPTH || !is(directory).map_err(read)?.is_dir() {
        return Err(TaskError::NotAFile { path: directory.to_owned() });
    }
    for entry in fs::read_dir(directory).map_err(read)? {
        let path = entry.map_err(read)?.path();
        let kind = is(&path).map_err(read)?;
        if kind.is_dir() {
            only_files(&path, depth + 1)?;
        } else if !kind.is_file() {
            return Err(TaskError::NotAFile { path });
        }
    }
    Ok(())
}

/// How modules are signed.
struct Signing {
    files: Vec<FilePattern>,
    identity: Identity,
    hash: Hash,
}

impl Signing {
    fn of(sign: &SignTask, mounts: &Mounts) -> Result<Self, TaskError> {
        let files = sign.files.iter().map(|file| {
            let pattern = file.parse::<FilePattern>();
            pattern.map_err(|source| TaskError::Pattern { file: file.clone(), source })
        });
        let files = files.collect::<Result<Vec<_>, _>>()?;
        let identity = credentials::identity(&mounts.key, &mounts.certificate)?;
        let hash = match sign.hash {
            SignatureHash::Sha256 => Hash::Sha256,
            SignatureHash::Sha384 => Hash::Sha384,
            SignatureHash::Sha512 => Hash::Sha512,
        };
        verifiable(&identity, hash, &sign.lacking)?;
        Ok(Self { files, identity, hash })
    }

    /// What is asked for, and who signs.
    fn request(self, labels: BTreeMap<String, String>) -> (SignRequest, Identity) {
        let Self { files, identity, hash } = self;
        let note = format!("tenon: modules signed with {hash} by {}", identity.certificate().issued_as());
        (SignRequest { files, hash, note, labels, lenient: true }, identity)
    }
}

/// Publishes an image, its modules signed if they are to be.
async fn publish(
    from: ImageSource<'_>,
    to: (&Registry, &ImageReference),
    signing: Option<Signing>,
    labels: BTreeMap<String, String>,
    mounts: &Mounts,
) -> Result<Revised, ReviseError> {
    match signing {
        Some(signing) => {
            let (request, identity) = signing.request(labels);
            sign_image(from, to, request, identity, &mounts.work).await
        }
        None => publish_image(from, to, labels, &mounts.work).await,
    }
}

/// Does the same but for publishing.
async fn try_out(
    from: ImageSource<'_>,
    signing: Option<Signing>,
    mounts: &Mounts,
) -> Result<Tried, ReviseError> {
    match signing {
        Some(signing) => {
            let (request, identity) = signing.request(BTreeMap::new());
            try_signing(from, request, identity, &mounts.work).await
        }
        None => try_publishing(from, &mounts.work).await,
    }
}

fn summary(revised: &Revised) -> String {
    let count = |files: &BTreeMap<String, Vec<String>>| -> usize { files.values().map(Vec::len).sum() };
    let blobs = revised.blobs;
    format!(
        "{} modules signed, {} were; {} bytes of layers fetched; {} blobs mounted, {} copied, {} there before",
        count(&revised.changed),
        count(&revised.unchanged),
        revised.fetched,
        blobs.mounted,
        blobs.copied,
        blobs.present
    )
}

/// By what the image is known again.
fn labels(task: &Task, identity: Option<&Identity>) -> BTreeMap<String, String> {
    let certificate = identity.map(|identity| (label::CERTIFICATE, fingerprint(identity).to_string()));
    let made = [(label::SOURCE, task.made_from.clone()), (label::REQUEST, task.request.clone())];
    made.into_iter().chain(certificate).map(|(key, value)| (key.to_owned(), value)).collect()
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
    task: &Task,
    identity: Option<&Identity>,
) -> Result<Option<String>, TaskError> {
    let original = match registry.original(to).await {
        Ok(original) => original,
        Err(RegistryError::Absent(_)) => return Ok(None),
        Err(error) => return Err(ReviseError::from(error).into()),
    };
    let wanted = labels(task, identity);
    let found = || original.images.iter().map(|image| image.image.labels());
    if !found().any(|labels| labels.contains_key(label::SOURCE)) {
        return Err(TaskError::NotOurs { image: to.to_string() });
    }
    // What was signed and is not to be signed any more is another image.
    let unsigned =
        |labels: &BTreeMap<String, String>| identity.is_some() || !labels.contains_key(label::CERTIFICATE);
    let says =
        |labels: &BTreeMap<String, String>| wanted.iter().all(|(key, value)| labels.get(key) == Some(value));
    let is_it = found().all(|labels| says(labels) && unsigned(labels));
    let digest = original.reference.digest().map(ToString::to_string);
    Ok(digest.filter(|_| is_it))
}

pub(crate) fn reference(place: &Place) -> Result<ImageReference, TaskError> {
    place.image.parse().map_err(|source| TaskError::Reference { image: place.image.clone(), source })
}

pub(crate) fn registry(
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
