//! The connection to the loader beside us.
//!
//! The protocol is blocking and an answer may take minutes, so every conversation has a thread while it lasts; between
//! them only the connection's end is waited for, which is how a loader that was started anew is noticed.

use std::fs::File;
use std::io::{self, BufReader};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tenon_image::bundle::{BundleReader, ReadError};
use tenon_order::wire::{Client, Refusal, Reply, Request, WireError, read_message, write_message};
use tenon_order::{Digest, Generation, NodeReport};
use tokio::task::{JoinError, spawn_blocking};

/// A conversation that did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// Nobody listens.
    #[error("connect to the loader at {path}")]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The connection broke.
    #[error("talk to the loader")]
    Wire(#[from] WireError),
    /// The loader refused something else than an order. The connection is still good, unless a bundle was passed on.
    #[error("the loader refused ({reason:?}): {message}")]
    Refused {
        /// Why.
        reason: Refusal,
        /// Why in its words.
        message: String,
    },
    /// An answer to another question.
    #[error("the loader gave an answer to something else than {0}")]
    Unexpected(&'static str),
    /// The bundle is not what its name says.
    #[error(transparent)]
    Bundle(#[from] ReadError),
    /// The thread of the conversation ended early.
    #[error("talk to the loader in a thread")]
    Thread(#[source] JoinError),
}

impl LinkError {
    /// Whether the bundle that was to be passed on is at fault, not the way to the loader.
    pub fn is_bundles_fault(&self) -> bool {
        matches!(self, Self::Bundle(error) if error.is_bundles_fault())
    }
}

/// What the loader says to an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It is kept; these bundles are missing.
    Accepted {
        /// Its place in the sequence.
        generation: Generation,
        /// Bundles that are not complete in the store.
        missing: Vec<Digest>,
    },
    /// It is not.
    Refused {
        /// Why.
        reason: Refusal,
        /// Why in the loader's words.
        message: String,
    },
}

/// A connection.
#[derive(Debug, Clone)]
pub struct Link {
    stream: Arc<UnixStream>,
}

impl Link {
    /// Connects and asks how things stand.
    pub async fn connect(socket: &Path) -> Result<(Self, NodeReport), LinkError> {
        let path = socket.to_owned();
        in_thread(move || {
            let stream = UnixStream::connect(&path).map_err(|source| LinkError::Connect { path, source })?;
            let link = Self { stream: Arc::new(stream) };
            let report = link.greet()?;
            Ok((link, report))
        })
        .await
    }

    /// Brings an order.
    pub async fn tell(&self, order: String) -> Result<Answer, LinkError> {
        let link = self.clone();
        in_thread(move || match link.call(&Request::Order { order })? {
            Reply::Accepted { generation, missing } => Ok(Answer::Accepted { generation, missing }),
            Reply::Refused { reason, message } => Ok(Answer::Refused { reason, message }),
            other => Err(unexpected("Order", other)),
        })
        .await
    }

    /// Has the loader carry out what it holds.
    pub async fn apply(&self) -> Result<NodeReport, LinkError> {
        let link = self.clone();
        in_thread(move || link.ask_report(&Request::Apply)).await
    }

    /// Has the loader do with what it holds: there is no order to be had.
    pub async fn go_on_alone(&self) -> Result<NodeReport, LinkError> {
        let link = self.clone();
        in_thread(move || link.ask_report(&Request::Silent)).await
    }

    /// Asks how things stand.
    pub async fn look(&self) -> Result<NodeReport, LinkError> {
        let link = self.clone();
        in_thread(move || link.greet()).await
    }

    /// Passes on what the loader needs of a bundle, verifying all of it.
    ///
    /// After an error the connection is of no more use: the loader may be waiting for bytes that do not come.
    pub async fn supply(&self, bundle: Digest, file: File) -> Result<(), LinkError> {
        let link = self.clone();
        in_thread(move || link.pass_on(bundle, file)).await
    }

    /// Waits until the loader is gone. Only between conversations: then it has nothing to say.
    pub async fn closed(&self) -> io::Result<()> {
        // Registered anew each time: what was readable in the last conversation must not count. The next conversation
        // takes back the mode, which both descriptors share.
        self.stream.set_nonblocking(true)?;
        let socket = tokio::net::UnixStream::from_std(self.stream.try_clone()?)?;
        socket.readable().await
    }

    fn call(&self, request: &Request) -> Result<Reply, LinkError> {
        self.stream.set_nonblocking(false).map_err(WireError::Io)?;
        Ok(Client::new(&*self.stream).call(request)?)
    }

    /// On a greeting the loader looks for new keys; the report names those that it has.
    fn greet(&self) -> Result<NodeReport, LinkError> {
        match self.call(&Request::Hello)? {
            Reply::Hello(_) => self.ask_report(&Request::Report),
            other => Err(unexpected("Hello", other)),
        }
    }

    fn ask_report(&self, request: &Request) -> Result<NodeReport, LinkError> {
        match self.call(request)? {
            Reply::Report(report) => Ok(report),
            other => Err(unexpected("Report", other)),
        }
    }

    fn pass_on(&self, bundle: Digest, file: File) -> Result<(), LinkError> {
        let mut reader = BundleReader::open(BufReader::new(file), &bundle)?;
        let manifest = reader.manifest().emit();
        let mut needed: Vec<Digest> = match self.call(&Request::Bundle { digest: bundle, manifest })? {
            Reply::Need { files } => files.into_iter().map(|file| file.digest).collect(),
            other => return Err(unexpected("Bundle", other)),
        };
        needed.sort();
        needed.dedup();
        let mut stream = &*self.stream;
        while let Some(file) = reader.next_file()? {
            let digest = file.entry().digest;
            // What the loader has is read and verified all the same: a bundle is good as a whole or not at all.
            let Ok(index) = needed.binary_search(&digest) else { continue };
            needed.remove(index);
            write_message(&mut stream, &Request::File { digest, size: file.entry().size })?;
            file.copy_to(&mut stream)?;
            match read_message(&mut stream)? {
                Reply::Stored => {}
                other => return Err(unexpected("File", other)),
            }
        }
        Ok(())
    }
}

fn unexpected(asked: &'static str, reply: Reply) -> LinkError {
    match reply {
        Reply::Refused { reason, message } => LinkError::Refused { reason, message },
        _ => LinkError::Unexpected(asked),
    }
}

async fn in_thread<T: Send + 'static>(
    talk: impl FnOnce() -> Result<T, LinkError> + Send + 'static,
) -> Result<T, LinkError> {
    spawn_blocking(talk).await.map_err(LinkError::Thread)?
}
