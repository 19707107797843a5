//! What guests are made of, made once for several of them: a folder, PID 1, a root file system with the containers'
//! programs. Enough to try the loader on real kernels without a cluster.

use std::io;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tenon_api::node_pod::{AGENT, Container, LOADER};

use crate::dir::{LabDir, LabDirError};
use crate::guest::oci::{self, Placement};
use crate::guest::root_disk::RootDiskError;
use crate::guest::seccomp::Profile;
use crate::guest::{self, Disk, Guest, GuestError, Program, Settings, root_disk};
use crate::kernel::Origin;
use crate::programs::{self, ProgramError};
use crate::setup::{SetupError, Supplies};

/// A place to boot guests at. Its folder goes with it.
#[derive(Debug)]
pub struct Bench {
    supplies: Supplies,
    seccomp: Profile,
    init: PathBuf,
    root: PathBuf,
    dir: LabDir,
}

/// Why guests cannot be booted.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// Supplies.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// The folder.
    #[error(transparent)]
    Dir(#[from] LabDirError),
    /// The project's own programs.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// The root file system.
    #[error("make the guests' root file system")]
    Root(#[from] RootDiskError),
    /// The seccomp profile.
    #[error("read the seccomp profile {path}")]
    Seccomp {
        /// Where it lies.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: io::Error,
    },
    /// A guest.
    #[error(transparent)]
    Guest(Box<GuestError>),
    /// Work that ran aside.
    #[error("the work was interrupted")]
    Interrupted(#[from] tokio::task::JoinError),
}

impl From<GuestError> for BenchError {
    fn from(error: GuestError) -> Self {
        Self::Guest(Box::new(error))
    }
}

impl Bench {
    /// With the agent and the loader of this source tree, built when need be.
    pub async fn start() -> Result<Self, BenchError> {
        let program = |container: &Container, program| -> Result<Program, ProgramError> {
            Ok(Program {
                container: container.name.to_owned(),
                path: container.program.to_owned(),
                binary: programs::program(program)?,
            })
        };
        let programs = tokio::task::spawn_blocking(move || -> Result<_, ProgramError> {
            Ok(vec![program(&AGENT, programs::Program::Agent)?, program(&LOADER, programs::Program::Loader)?])
        });
        Self::with_programs(programs.await??).await
    }

    /// With programs of the caller's in the containers.
    pub async fn with_programs(programs: Vec<Program>) -> Result<Self, BenchError> {
        tokio::task::spawn_blocking(move || Self::prepare(&programs)).await?
    }

    fn prepare(programs: &[Program]) -> Result<Self, BenchError> {
        let supplies = Supplies::get()?;
        let dir = LabDir::create()?;
        let init = programs::program(programs::Program::Init)?;
        let root = dir.path().join("root.img");
        root_disk(&root, &supplies, &init, programs)?;
        let path = supplies.seccomp_profile.clone();
        let seccomp = read_profile(&path).map_err(|source| BenchError::Seccomp { path, source })?;
        Ok(Self { supplies, seccomp, init, root, dir })
    }

    /// Boots a kernel; no container runs yet.
    pub async fn boot(&self, name: &str, origin: Origin) -> Result<Guest, BenchError> {
        let settings = self.settings(name, origin)?;
        self.boot_with(settings).await
    }

    /// As [`Self::boot`], with settings that the caller has changed.
    pub async fn boot_with(&self, settings: Settings) -> Result<Guest, BenchError> {
        Ok(Guest::boot(settings, self.dir.path()).await?)
    }

    /// What a guest of this bench is made of.
    pub fn settings(&self, name: &str, origin: Origin) -> Result<Settings, BenchError> {
        Ok(Settings {
            name: name.to_owned(),
            kernel: self.supplies.kernel(origin)?.clone(),
            init: self.init.clone(),
            root: self.root.clone(),
            memory: guest::MEMORY,
            disk_size: guest::DISK,
            kernel_arguments: Vec::new(),
            disk: Disk::Steady,
            secure_boot: None,
        })
    }

    /// Runs one of the table's containers in a guest, as a kubelet would. [`Guest::write_volume`] fills its volumes.
    pub async fn run(&self, guest: &Guest, container: &Container) -> Result<(), BenchError> {
        guest.prepare_volumes(container).await?;
        Ok(guest.start_container(container.name, &self.container(guest.name(), container, 0)).await?)
    }

    /// A container's configuration on a node, the API server being at that port of the host.
    pub fn container(&self, node: &str, container: &Container, api_port: u16) -> Value {
        oci::config(container, Placement { node, api_port, seccomp: &self.seccomp })
    }

    /// Kernels and programs.
    pub fn supplies(&self) -> &Supplies {
        &self.supplies
    }

    /// The folder with the guests' folders and everything's logs.
    pub fn folder(&self) -> &Path {
        self.dir.path()
    }

    /// Leaves the folder behind, for someone to read the logs.
    pub fn keep_folder(&mut self) {
        self.dir.keep();
    }

    pub(crate) fn seccomp(&self) -> &Profile {
        &self.seccomp
    }
}

fn read_profile(path: &Path) -> io::Result<Profile> {
    Ok(Profile::parse(&std::fs::read_to_string(path)?)?)
}
