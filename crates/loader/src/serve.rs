//! The resident loader: a socket and one agent at a time.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use tenon_order::NodeName;
use tenon_order::wire::{Request, WireError, read_message, write_message};

use crate::chores::{Chores, Wake};
use crate::filter::{self, FilterError};
use crate::patient::Patient;
use crate::session::{Session, explain};
use crate::settings::Settings;
use crate::store::StoreError;
use crate::work::WorkError;
use crate::{log, peer};

/// The loader cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// It does not know where it is.
    #[error("NODE_NAME is not set: orders are for a node by name")]
    NoNode,
    /// The socket could not be made.
    #[error("listen on {path}")]
    Listen {
        /// Where.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It would not end when told to.
    #[error("handle SIGTERM")]
    Signal(#[source] io::Error),
    /// Nothing is served without the filter.
    #[error(transparent)]
    Filter(#[from] FilterError),
    /// The store cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The node cannot be looked at.
    #[error(transparent)]
    Work(#[from] WorkError),
    /// The listening socket failed.
    #[error("wait for the agent")]
    Wait(#[source] io::Error),
}

/// Serves until the process is ended.
pub fn serve(settings: &Settings) -> Result<(), ServeError> {
    let node = settings.node.clone().ok_or(ServeError::NoNode)?;
    // The first process of a container is not ended by a signal that it does not handle.
    let (end, told) = io::pipe().map_err(ServeError::Signal)?;
    signal_hook::low_level::pipe::register(libc::SIGTERM, told).map_err(ServeError::Signal)?;
    let listener = listen(&settings.socket)
        .map_err(|source| ServeError::Listen { path: settings.socket.clone(), source })?;
    filter::install()?;
    let mut chores = Chores::new(settings, Some(end))?;
    log(&format!("listening on {}", settings.socket.display()));
    loop {
        match chores.until_readable(&listener).map_err(ServeError::Wait)? {
            Wake::Readable => match listener.accept() {
                Ok((stream, _)) => talk(&stream, settings, &node, &mut chores),
                Err(error) => log(&format!("accept: {error}")),
            },
            Wake::News => {}
            Wake::End => {
                chores.end();
                return Ok(());
            }
        }
    }
}

fn listen(path: &Path) -> io::Result<UnixListener> {
    // A socket that an earlier process left cannot be bound again.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    // The agent is another user; whom the kernel names as the peer is checked on every connection.
    fs::set_permissions(path, fs::Permissions::from_mode(0o666))?;
    Ok(listener)
}

/// Hears one peer until it goes or makes no sense.
pub fn talk(stream: &UnixStream, settings: &Settings, node: &NodeName, chores: &mut Chores<'_>) {
    if let Err(error) = converse(stream, settings, node, chores) {
        log(&format!("connection ended: {}", explain(&error)));
    }
}

/// Why a conversation ended other than by the peer's closing it.
#[derive(Debug, thiserror::Error)]
enum TalkError {
    #[error("user {0} is not the agent")]
    Peer(u32),
    #[error("use the socket")]
    Socket(#[source] io::Error),
    #[error(transparent)]
    Wire(#[from] WireError),
}

fn converse(
    stream: &UnixStream,
    settings: &Settings,
    node: &NodeName,
    chores: &mut Chores<'_>,
) -> Result<(), TalkError> {
    let uid = peer::uid(stream).map_err(TalkError::Socket)?;
    if uid != settings.agent_uid {
        return Err(TalkError::Peer(uid));
    }
    let mut session = Session::new(settings, node);
    loop {
        // News are told by hanging up: who connects asks how things stand. The end is seen by who listens.
        if chores.until_readable(stream).map_err(TalkError::Socket)? != Wake::Readable {
            return Ok(());
        }
        let mut peer = Patient::new(stream, settings.patience);
        let request = match read_message(&mut peer) {
            Err(WireError::Closed) => return Ok(()),
            request => request?,
        };
        if let Request::File { size, .. } = request {
            peer.extend(size);
        }
        let (reply, progress) = session.answer(request, &mut peer).map_err(TalkError::Socket)?;
        chores.note(progress);
        write_message(&mut Patient::new(stream, settings.patience), &reply)?;
    }
}

/// Logs how every Module stands.
pub fn log_report(report: &tenon_order::NodeReport) {
    for module in &report.modules {
        log(&format!("{}: {:?} ({:?}): {}", module.key, module.phase, module.reason, module.message));
    }
}
