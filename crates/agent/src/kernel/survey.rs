//! Facts about the running kernel, from its own modules below `/lib/modules`. Takes seconds to minutes and tens of
//! megabytes, so it runs in a process of its own, which leaves nothing of that behind.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use tenon_kmod::compression::Compression;
use tenon_kmod::facts::{KernelFacts, ModuleSurvey};
use tenon_kmod::release::{KernelRelease, KernelReleaseError};
use tenon_kmod::{ModuleName, ModuleObject};

/// The argument that makes this program write the facts to its standard output instead of being an agent.
pub const ARGUMENT: &str = "kernel-facts";

/// Larger modules are passed over: a few graphics drivers, whose symbols then stay unknown.
const MAX_MODULE: usize = 16 << 20;
/// No distribution's kernel has more.
const MAX_MODULES: usize = 20_000;
/// How deep `/lib/modules/<release>` is nested at most.
const MAX_DEPTH: usize = 16;
/// How long it may take.
const PATIENCE: Duration = Duration::from_mins(5);

/// Why there are no facts.
#[derive(Debug, thiserror::Error)]
pub enum SurveyError {
    /// The kernel's release is none.
    #[error("read the kernel's release")]
    Release(#[source] KernelReleaseError),
    /// The modules' directory cannot be read.
    #[error("read {path}")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// There is no module of this kernel.
    #[error("{path} has no module of the running kernel")]
    NoModules {
        /// The directory.
        path: PathBuf,
    },
    /// The facts cannot be handed over.
    #[error("write the facts")]
    Write(#[source] io::Error),
    /// The process that collects them cannot be started or read.
    #[error("run the process that reads the kernel's modules")]
    Process(#[source] io::Error),
    /// It takes too long.
    #[error("the kernel's modules could not be read within {} s", PATIENCE.as_secs())]
    Late,
    /// It ended without facts.
    #[error("the process that reads the kernel's modules ended without facts: {0}")]
    Failed(String),
}

/// Facts about the running kernel, encoded; made by another process.
pub async fn collect() -> Result<Vec<u8>, SurveyError> {
    let read = tokio::task::spawn_blocking(run).await;
    let (facts, status) =
        read.map_err(|error| SurveyError::Process(error.into()))?.map_err(SurveyError::Process)?;
    let fits = facts.len() <= tenon_api::kernel_facts::MAX_BYTES;
    if status.success() && fits && !facts.is_empty() {
        return Ok(facts);
    }
    Err(SurveyError::Failed(format!("{status}, {} bytes", facts.len())))
}

/// Starts the process and reads all that it says, but no more than facts may have. It ends by itself in time.
fn run() -> io::Result<(Vec<u8>, ExitStatus)> {
    let mut child = Command::new("/proc/self/exe")
        .arg(ARGUMENT)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()?;
    let most = u64::try_from(tenon_api::kernel_facts::MAX_BYTES).unwrap_or(u64::MAX);
    let mut facts = Vec::new();
    let read = match child.stdout.take() {
        // Closed behind the last byte, so that one who says more ends by that.
        Some(output) => output.take(most + 1).read_to_end(&mut facts).map(drop),
        None => Ok(()),
    };
    let status = child.wait()?;
    read.map(|()| (facts, status))
}

/// What the process of [`collect`] does: writes the facts to `output`.
pub fn write(output: &mut impl io::Write) -> Result<(), SurveyError> {
    yield_to_others();
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let directory = Path::new(tenon_api::node_pod::HOST_MODULES_DIR).join(&release);
    let release = KernelRelease::new(release).map_err(SurveyError::Release)?;
    let mut facts = survey(&directory, release)?;
    facts.build_id = super::of_notes(Path::new(super::NOTES));
    output.write_all(&facts.encode()).and_then(|()| output.flush()).map_err(SurveyError::Write)
}

/// Should memory run short, this process is to go, not the agent.
fn yield_to_others() {
    // Where it may not be written, the kernel chooses by size, which comes to the same.
    let _ = File::options()
        .write(true)
        .open("/proc/self/oom_score_adj")
        .and_then(|mut file| file.write_all(b"1000"));
}

/// Reads one module after the other.
fn survey(directory: &Path, release: KernelRelease) -> Result<KernelFacts, SurveyError> {
    let error = |source| SurveyError::Directory { path: directory.to_owned(), source };
    let mut modules = Vec::new();
    list(&directory.join("kernel"), MAX_DEPTH, &mut modules).map_err(error)?;
    // The same facts whatever the order of the directory.
    modules.sort();
    modules.truncate(MAX_MODULES);
    let mut survey = ModuleSurvey::new(release);
    let begin = Instant::now();
    for path in &modules {
        if begin.elapsed() > PATIENCE {
            return Err(SurveyError::Late);
        }
        if let Some(object) = read(path) {
            survey.add(&object);
        }
    }
    survey.finish().ok_or_else(|| SurveyError::NoModules { path: directory.to_owned() })
}

/// Module files below a directory. Links are not followed.
fn list(directory: &Path, depth: usize, into: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let (path, kind) = (entry.path(), entry.file_type()?);
        let name = entry.file_name();
        if kind.is_dir() && depth > 0 {
            list(&path, depth - 1, into)?;
        } else if kind.is_file() && name.to_str().is_some_and(|name| ModuleName::from_path(name).is_ok()) {
            into.push(path);
        }
    }
    Ok(())
}

/// A module, unless it is too large or cannot be read: it then says nothing.
fn read(path: &Path) -> Option<ModuleObject> {
    let most = u64::try_from(MAX_MODULE).ok()?;
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(most + 1).read_to_end(&mut bytes).ok()?;
    if bytes.len() > MAX_MODULE {
        return None;
    }
    let bytes = match Compression::detect(&bytes) {
        Some(compression) => compression.decompress(&bytes, MAX_MODULE).ok()?,
        None => bytes,
    };
    ModuleObject::parse(&bytes).ok()
}
