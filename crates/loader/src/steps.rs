//! Doing what was planned, step by step; what takes it back is handed out when a step fails.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::path::{Component, Path, PathBuf};

use tenon_kmod::ModuleName;
use tenon_kmod::compression::{self, DecompressError};
use tenon_kmod::failure::{Errno, LoadFailure};
use tenon_kmod::name::ModuleNameError;
use tenon_order::{KmodName, Reason};

use crate::machine::Machine;
use crate::plan::{Step, undo};
use crate::record::{Piece, Source};
use crate::settings::Settings;
use crate::store::{Store, StoreError};
use crate::{bounded, failure, kernel};

/// A step that could not be done.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// The kernel refused a module.
    #[error("{0}")]
    Insert(Box<LoadFailure>),
    /// No module can have the name.
    #[error("load a module: {0}")]
    Name(#[source] ModuleNameError),
    /// The kernel kept a module.
    #[error("unload {name}: {}", Errno(error.raw_os_error()))]
    Remove {
        /// Which.
        name: KmodName,
        /// Why.
        error: rustix::io::Errno,
        /// Whether the kernel lets go of no module before the next boot.
        disabled: bool,
    },
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A file of the host could not be read.
    #[error("read {path}: {source}")]
    Host {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A packed file of the host could not be unpacked.
    #[error("unpack {path}: {source}")]
    Unpack {
        /// Which.
        path: PathBuf,
        /// Why.
        source: DecompressError,
    },
    /// `firmware_class.path` could not be written.
    #[error("write firmware_class.path: {0}")]
    FirmwarePath(#[source] io::Error),
}

impl StepError {
    /// The reason to report.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Insert(failure) => failure::reason(&failure.reason),
            Self::Remove { disabled: true, .. } => Reason::ModulesDisabled,
            Self::Remove { error: rustix::io::Errno::AGAIN | rustix::io::Errno::BUSY, .. } => Reason::InUse,
            Self::Remove { error: rustix::io::Errno::PERM, .. } => Reason::NoCapability,
            Self::Remove { .. } => Reason::KernelRefused,
            Self::Store(_) => Reason::StoreFailed,
            Self::Name(_) => Reason::ModuleInvalid,
            Self::Host { .. } | Self::Unpack { .. } => Reason::DependencyMissing,
            Self::FirmwarePath(_) => Reason::FirmwarePathFailed,
        }
    }
}

/// A run that failed.
#[derive(Debug)]
pub struct Interrupted {
    /// What could not be done.
    pub cause: StepError,
    /// What takes back all that was done.
    pub undo: Vec<Step>,
}

impl Interrupted {
    /// Whether code of the modules that were to be loaded has run: of the one that failed, or of those before it.
    pub fn has_run(&self) -> bool {
        let began = matches!(self.cause.reason(), Reason::InitFailed | Reason::FirmwareMissing);
        began || self.undo.iter().any(|step| matches!(step, Step::Remove { .. }))
    }
}

/// Looks at every byte that the steps would need, and for the host's files that may have to be brought back, before the
/// first step is done.
pub fn verify(steps: &[Step], machine: &dyn Machine) -> Result<(), StepError> {
    for step in steps {
        match step {
            Step::Insert(piece) | Step::Remove { back: Some(piece), .. } => match &piece.source {
                Source::Store(digest) => machine.verify(*digest)?,
                Source::Host(path) => machine.verify_host(path)?,
            },
            Step::Link { digest, .. } => machine.verify(*digest)?,
            Step::Remove { back: None, .. } | Step::Unlink { .. } | Step::FirmwarePath { .. } => {}
        }
    }
    Ok(())
}

/// Does the steps up to the first that cannot be done. Returns the soft pieces that did not load, which fails nothing.
pub fn run(steps: &[Step], machine: &dyn Machine) -> Result<Vec<KmodName>, Interrupted> {
    let mut done = Vec::new();
    let mut left_out = Vec::new();
    for step in steps {
        match (machine.perform(step), step) {
            (Ok(()), _) => done.push(step.clone()),
            (Err(_), Step::Insert(piece)) if piece.soft => left_out.push(piece.name.clone()),
            (Err(cause), _) => return Err(Interrupted { cause, undo: undo(&done) }),
        }
    }
    Ok(left_out)
}

/// Does each of the steps that can be done, whatever stands in the way of another; returns what could not.
pub fn run_each(steps: &[Step], machine: &dyn Machine) -> Vec<StepError> {
    steps.iter().filter_map(|step| machine.perform(step).err()).collect()
}

/// Does one step on the machine that this program runs on.
pub(crate) fn perform(step: &Step, store: &Store, settings: &Settings) -> Result<(), StepError> {
    match step {
        Step::Insert(piece) => insert(piece, store, settings),
        Step::Remove { name, .. } => kernel::remove(name).map_err(|error| StepError::Remove {
            name: name.clone(),
            error,
            disabled: kernel::modules_disabled(settings),
        }),
        Step::Link { path, digest, .. } => Ok(store.link_firmware(path, *digest)?),
        Step::Unlink { path, .. } => Ok(store.unlink_firmware(path)?),
        Step::FirmwarePath { to, .. } => {
            kernel::set_firmware_path(settings, to).map_err(StepError::FirmwarePath)
        }
    }
}

fn insert(piece: &Piece, store: &Store, settings: &Settings) -> Result<(), StepError> {
    let file = match &piece.source {
        // The descriptor whose bytes were just looked at is the one that the kernel reads.
        Source::Store(digest) => store.verified(*digest)?,
        Source::Host(path) => host_file(path, store, settings)?,
    };
    let name = ModuleName::new(piece.name.as_ref()).map_err(StepError::Name)?;
    failure::explained(&name, settings, || kernel::insert(&file, &piece.parameters))
        .map_err(|failure| StepError::Insert(Box::new(failure)))
}

/// A module of the host, unpacked into the store where it is packed: not every kernel unpacks by itself.
fn host_file(path: &str, store: &Store, settings: &Settings) -> Result<File, StepError> {
    let (mut file, path) = open_host_file(path, settings)?;
    let failed = |source: io::Error| StepError::Host { path: path.clone(), source };
    let mut start = [0; 6];
    let length = file.read(&mut start).map_err(failed)?;
    if compression::Compression::detect(start.split_at(length).0).is_none() {
        return Ok(file);
    }
    file.rewind().map_err(failed)?;
    let packed = bounded::read(file, bounded::MODULE).map_err(failed)?;
    let bytes = compression::decompress(&packed, bounded::MODULE)
        .map_err(|source| StepError::Unpack { path: path.clone(), source })?;
    Ok(store.unnamed(|file| file.write_all(&bytes))?)
}

/// Opens a file below the running kernel's `/lib/modules`; says where it is.
pub(crate) fn open_host_file(path: &str, settings: &Settings) -> Result<(File, PathBuf), StepError> {
    let below = Path::new(path);
    let path = settings.lib_modules.join(kernel::release()).join(below);
    let failed = |source: io::Error| StepError::Host { path: path.clone(), source };
    if !below.components().all(|part| matches!(part, Component::Normal(_))) {
        return Err(failed(io::ErrorKind::InvalidInput.into()));
    }
    let file = File::open(&path).map_err(failed)?;
    Ok((file, path))
}

#[cfg(test)]
mod tests {
    use tenon_kmod::failure::Attempt;

    use super::*;

    fn refused(errno: Errno) -> StepError {
        let module = &ModuleName::new("nic").unwrap();
        let attempt =
            Attempt { module, errno, lines: &[], firmware: &[], modules_disabled: false, capable: true };
        StepError::Insert(Box::new(LoadFailure::classify(&attempt)))
    }

    #[test]
    fn code_has_run_when_init_gave_up_or_another_was_loaded_before() {
        let has_run = |errno, undo| Interrupted { cause: refused(errno), undo }.has_run();
        let lib = || Step::Remove { name: "lib".parse().unwrap(), back: None };
        assert!(has_run(Errno(19), vec![]), "ENODEV of an init");
        assert!(!has_run(Errno::ENOEXEC, vec![]), "the kernel does not run what does not fit it");
        assert!(!has_run(
            Errno::ENOEXEC,
            vec![Step::FirmwarePath { from: String::new(), to: "/store/firmware".to_owned() }]
        ));
        assert!(has_run(Errno::ENOEXEC, vec![lib()]));
    }
}
