//! Files that a build needs, gathered before it begins: out of images, from volumes, and unpacked where they are a source package.
//!
//! In comes what [`tenon_api::gather`] says; out go files in the folder where the Job may write, and nothing else: neither keys nor
//! credentials are where the compiler runs. Whatever images and volumes hold is somebody's who is not trusted.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use tenon_api::gather::{self, Gathering, Origin, Wanted};
use tenon_api::message::chain;
use tenon_api::task::{Place, Report, Trouble};
use tenon_image::extract::{self, ExtractError, Extracted, extract};
use tenon_image::keyring::Keyring;
use tenon_image::layers::{ImageFiles, LayersError};
use tenon_image::path::PathError;
use tenon_image::platform::{Architecture, ArchitectureError};
use tenon_image::registry::{PullError, RegistryError, Transport};
use tenon_image::{ImagePath, ImageReference};

use crate::credentials::{self, CredentialError};
use crate::plain::{self, PlainError};
use crate::source_package::{self, PackageError};
use crate::task::{self, TaskError};

/// Where things are mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mounts {
    /// The registries' credentials, each in a folder of its own.
    pub pull: PathBuf,
    /// Volumes, each in a folder of its own.
    pub claims: PathBuf,
    /// Where to write.
    pub work: PathBuf,
}

impl Default for Mounts {
    /// Where a Job has them.
    fn default() -> Self {
        let at = |path: &str| Path::new(path).to_owned();
        Self {
            pull: at(gather::PULL_DIR),
            claims: at(gather::CLAIMS_DIR),
            work: at(tenon_api::task::WORK_DIR),
        }
    }
}

/// Why not everything was gathered.
#[derive(Debug, thiserror::Error)]
pub enum GatherError {
    /// What is to be done is of another version's form.
    #[error("read what is to be gathered, in {}", gather::VARIABLE)]
    Gathering(#[source] serde_json::Error),
    /// A name for an architecture.
    #[error("read the architecture")]
    Architecture(#[source] ArchitectureError),
    /// A path in an image.
    #[error("{path}")]
    Path {
        /// As given.
        path: String,
        /// What is wrong with it.
        source: PathError,
    },
    /// The way to a registry.
    #[error(transparent)]
    Task(#[from] TaskError),
    /// What is mounted.
    #[error(transparent)]
    Credentials(#[from] CredentialError),
    /// The registry.
    #[error("get {image}")]
    Registry {
        /// Which image.
        image: ImageReference,
        /// What it said.
        source: RegistryError,
    },
    /// Its layers.
    #[error("get {image}")]
    Pull {
        /// Which image.
        image: ImageReference,
        /// What happened.
        source: PullError,
    },
    /// No image at all, or a hostile one.
    #[error("read {image}")]
    Layers {
        /// Which image.
        image: ImageReference,
        /// What is wrong in it.
        source: LayersError,
    },
    /// Files of it.
    #[error("take files out of {image}")]
    Extract {
        /// Which image.
        image: ImageReference,
        /// What happened.
        source: ExtractError,
    },
    /// Files of a volume.
    #[error("take {path} from the volume")]
    Plain {
        /// Where on the volume.
        path: String,
        /// What happened.
        source: PlainError,
    },
    /// A source package.
    #[error("unpack {path}")]
    Package {
        /// Which.
        path: String,
        /// What is wrong with it.
        source: Box<PackageError>,
    },
    /// The disk.
    #[error("make room in {path}", path = path.display())]
    Write {
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Work that ran aside.
    #[error("the work was interrupted")]
    Interrupted(#[from] tokio::task::JoinError),
}

impl GatherError {
    /// The word for it.
    pub fn trouble(&self) -> Trouble {
        match self {
            Self::Package { source, .. } if matches!(**source, PackageError::Io { .. }) => Trouble::Failed,
            Self::Task(error) => error.trouble(),
            Self::Credentials(CredentialError::Missing { .. } | CredentialError::Read { .. }) => {
                Trouble::SecretMissing
            }
            Self::Credentials(_) => Trouble::SecretMalformed,
            Self::Registry { source, .. } | Self::Pull { source: PullError::Registry(source), .. } => {
                task::trouble_of_registry(source)
            }
            Self::Pull { source: PullError::TooLarge { .. }, .. } | Self::Layers { .. } => {
                Trouble::ImageInvalid
            }
            Self::Extract { source: ExtractError::Write { .. } | ExtractError::Layers(_), .. }
            | Self::Pull { source: PullError::Spool { .. }, .. }
            | Self::Plain { source: PlainError::Io { .. }, .. }
            | Self::Gathering(_)
            | Self::Architecture(_)
            | Self::Write { .. }
            | Self::Interrupted(_) => Trouble::Failed,
            Self::Path { .. } | Self::Extract { .. } | Self::Plain { .. } | Self::Package { .. } => {
                Trouble::SourceInvalid
            }
        }
    }
}

/// Gathers what the variable says, and tells of each thing as it is done. The report is of a failure, where there is one.
pub async fn run(
    given: &str,
    transport: &Transport,
    mounts: &Mounts,
    tell: &mut dyn FnMut(String),
) -> Result<(), Report> {
    let failed =
        |error: GatherError| Report::Failed { trouble: error.trouble(), message: chain(&error).into() };
    attempt(given, transport, mounts, tell).await.map_err(failed)
}

async fn attempt(
    given: &str,
    transport: &Transport,
    mounts: &Mounts,
    tell: &mut dyn FnMut(String),
) -> Result<(), GatherError> {
    let gathering: Gathering = serde_json::from_str(given).map_err(GatherError::Gathering)?;
    let architecture = gathering.architecture.parse().map_err(GatherError::Architecture)?;
    for place in [gather::ARTIFACTS, gather::PACKAGE, gather::UNPACKED] {
        make_anew(&mounts.work.join(place))?;
    }
    for wanted in &gathering.files {
        let to = mounts.work.join(&wanted.to);
        if wanted.to == tenon_api::task::SOURCE {
            clear(&to)?;
        }
        match &wanted.from {
            Origin::Image { place, credentials } => {
                let from = Image { place, credentials: credentials.as_deref(), architecture: &architecture };
                let done = from.take(wanted, &to, transport, mounts).await?;
                let (files, left_out) = (done.files, done.left_out);
                tell(format!("{} of {}: {files} files, {left_out} left out", wanted.path, place.image));
            }
            Origin::Claim(folder) => {
                let (from, path) = (mounts.claims.join(folder), wanted.path.clone());
                let copied = tokio::task::spawn_blocking(move || plain::copy(&from, &path, &to)).await?;
                let files =
                    copied.map_err(|source| GatherError::Plain { path: wanted.path.clone(), source })?;
                tell(format!("{} of a volume: {files} files", wanted.path));
            }
        }
    }
    if let Some(package) = gathering.package {
        let (work, path) = (mounts.work.clone(), package.path.clone());
        let unpacked = tokio::task::spawn_blocking(move || source_package::unpack(&package, &work)).await?;
        let unpacked =
            unpacked.map_err(|source| GatherError::Package { path: path.clone(), source: source.into() })?;
        tell(format!("{path}: {unpacked}"));
    }
    Ok(())
}

/// What an earlier try in the same pod has left would be in the way. Links are removed, not followed.
fn clear(path: &Path) -> Result<(), GatherError> {
    match fs::remove_dir_all(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(GatherError::Write { path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}

fn make_anew(path: &Path) -> Result<(), GatherError> {
    clear(path)?;
    fs::create_dir(path).map_err(|source| GatherError::Write { path: path.to_owned(), source })
}

fn path_in_image(path: &str) -> Result<ImagePath, GatherError> {
    let whole = format!("/{}", path.trim_start_matches('/'));
    whole.parse().map_err(|source| GatherError::Path { path: path.to_owned(), source })
}

/// An image that has files, and how it is got at.
struct Image<'a> {
    place: &'a Place,
    credentials: Option<&'a str>,
    architecture: &'a Architecture,
}

impl Image<'_> {
    async fn take(
        &self,
        wanted: &Wanted,
        to: &Path,
        transport: &Transport,
        mounts: &Mounts,
    ) -> Result<Extracted, GatherError> {
        let path = path_in_image(&wanted.path)?;
        let otherwise = wanted.otherwise.as_deref().map(path_in_image).transpose()?;
        let image = task::reference(self.place)?;
        let keyring = match self.credentials {
            Some(folder) => credentials::keyring(&mounts.pull.join(folder))?,
            None => Keyring::default(),
        };
        let registry = task::registry(transport, self.place, &image, keyring)?;
        let in_registry = |source| GatherError::Registry { image: image.clone(), source };
        let found = registry.image(&image, self.architecture).await.map_err(in_registry)?;
        let limits = extract::limits();
        let layers = registry.pull_layers(&found, &mounts.work, &limits).await;
        let layers = layers.map_err(|source| GatherError::Pull { image: image.clone(), source })?;
        let to = to.to_owned();
        let taken = tokio::task::spawn_blocking(move || {
            let files = ImageFiles::flatten(layers, &limits);
            let files = files.map_err(|source| GatherError::Layers { image: image.clone(), source })?;
            let done = match (extract(&files, &path, &to, &limits), otherwise) {
                // Where it is nowhere, the first place is named.
                (Err(absent @ ExtractError::Absent(_)), Some(otherwise)) => {
                    extract(&files, &otherwise, &to, &limits).map_err(|error| match error {
                        ExtractError::Absent(_) => absent,
                        other => other,
                    })
                }
                (done, _) => done,
            };
            done.map_err(|source| GatherError::Extract { image: image.clone(), source })
        });
        taken.await?
    }
}
