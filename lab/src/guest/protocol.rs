//! What is said over a guest's second serial port: one line of JSON per request and per reply.
//!
//! Requests may overlap; replies carry the number of their request.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The line on the guest's console after which it listens.
pub const READY: &str = "tenon-lab: guest ready";
/// The port in the guest that leads to the loader's socket, as the agent's user.
pub const LOADER_PORT: u16 = 7000;
/// The disk that outlives the guest.
pub const DISK: &str = "/disk";
/// The pod's volumes. They lie on the disk, as a kubelet's do, and so outlive a boot.
pub const VOLUMES: &str = "/disk/pod";
/// Where containers' bundles lie: a folder each, with `rootfs` and `config.json`.
pub const CONTAINERS: &str = "/containers";

/// A request and its number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// The number that the reply will carry.
    pub id: u64,
    /// What is to be done.
    pub operation: Operation,
}

/// What a guest can be asked to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Operation {
    /// Say who you are.
    Hello,
    /// Run a program in the guest's own root.
    Exec {
        /// Program and arguments.
        argv: Vec<String>,
    },
    /// Read a file.
    ReadFile {
        /// Its path.
        path: String,
    },
    /// Write a file; its folder is made.
    WriteFile {
        /// Its path.
        path: String,
        /// Its permissions.
        mode: u32,
        /// All of it.
        content: Bytes,
    },
    /// Make a folder and its parents.
    MakeFolder {
        /// Its path.
        path: String,
        /// Its permissions.
        mode: u32,
    },
    /// Make a folder hold just these files, all changed at once, as a kubelet does with volumes.
    WriteVolume {
        /// The folder.
        path: String,
        /// The files.
        files: BTreeMap<String, Bytes>,
    },
    /// Run a container, and again whenever it ends, until told to stop.
    StartContainer {
        /// Its name: its folder below [`CONTAINERS`].
        name: String,
    },
    /// Send a container's first process a signal. One that ends is run again.
    SignalContainer {
        /// Its name.
        name: String,
        /// The signal's number.
        signal: i32,
    },
    /// End a container and do not run it again.
    StopContainer {
        /// Its name.
        name: String,
    },
    /// How the containers are.
    Containers,
    /// Open a file and keep it open.
    Hold {
        /// Its path.
        path: String,
    },
    /// Close what is held.
    LetGo {
        /// Its path.
        path: String,
    },
    /// Write everything to disk and switch off.
    PowerOff,
}

/// The answer to a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// The request's number.
    pub id: u64,
    /// What came of it.
    pub outcome: Outcome,
}

/// What came of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// It is done.
    Done,
    /// Who the guest is.
    Hello(Hello),
    /// The program ended.
    Exec(Output),
    /// The file's content.
    Content(Bytes),
    /// The containers by name.
    Containers(BTreeMap<String, ContainerState>),
    /// It could not be done.
    Failed {
        /// Why.
        message: String,
    },
}

/// What a guest says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// `uname -r`.
    pub release: String,
    /// `/proc/sys/kernel/random/boot_id`.
    pub boot_id: String,
    /// `uname -m`.
    pub machine: String,
}

/// What a program left behind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Output {
    /// Its exit status; 128 and the signal's number when a signal ended it.
    pub status: i32,
    /// What it wrote to its standard output.
    pub stdout: String,
    /// What it wrote to its standard error.
    pub stderr: String,
}

/// How a container is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ContainerState {
    /// Whether it runs now.
    pub running: bool,
    /// How often it was started.
    pub starts: u32,
    /// How it last ended.
    pub last_status: Option<i32>,
}

/// Bytes, in base64 on the line.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Bytes(pub Vec<u8>);

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&BASE64_STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        BASE64_STANDARD.decode(text).map(Self).map_err(serde::de::Error::custom)
    }
}
