//! The host's end of the second serial port.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::oneshot;

use super::protocol::{Operation, Outcome, Reply, Request};

/// How long an operation may take unless the caller knows better. A loaded machine emulates slowly.
const PATIENCE: Duration = Duration::from_mins(1);

/// A connection to a guest.
#[derive(Debug)]
pub struct Channel {
    writer: tokio::sync::Mutex<OwnedWriteHalf>,
    pending: Arc<Mutex<Pending>>,
    reader: tokio::task::JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Pending {
    last: u64,
    waiting: HashMap<u64, oneshot::Sender<Outcome>>,
}

/// Why a guest did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// QEMU's socket.
    #[error("talk to the guest by {path}")]
    Socket {
        /// Which.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The line broke: the guest is gone.
    #[error("the guest hung up before it answered to {operation}")]
    HungUp {
        /// The request.
        operation: String,
    },
    /// It did not answer in time.
    #[error("the guest has not answered to {operation} for {} s", patience.as_secs())]
    Silent {
        /// The request.
        operation: String,
        /// How long it had.
        patience: Duration,
    },
    /// It tried, and says why it cannot.
    #[error("the guest says to {operation}: {message}")]
    Refused {
        /// The request.
        operation: String,
        /// The guest's words.
        message: String,
    },
    /// It answered to something else.
    #[error("the guest answered to {operation} with {answer:?}")]
    Unexpected {
        /// The request.
        operation: String,
        /// The answer.
        answer: Outcome,
    },
}

impl Channel {
    /// Connects to QEMU's end. The guest must have said that it is ready.
    pub async fn connect(path: &Path) -> Result<Self, ChannelError> {
        let stream = UnixStream::connect(path)
            .await
            .map_err(|source| ChannelError::Socket { path: path.to_owned(), source })?;
        let (read, write) = stream.into_split();
        let pending = Arc::new(Mutex::new(Pending::default()));
        let reader = tokio::spawn(dispatch(BufReader::new(read), pending.clone()));
        Ok(Self { writer: tokio::sync::Mutex::new(write), pending, reader })
    }

    /// Asks and waits for the answer.
    pub async fn call(&self, operation: Operation) -> Result<Outcome, ChannelError> {
        let name = name(&operation);
        let (id, answer) = {
            let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
            pending.last += 1;
            let (sender, receiver) = oneshot::channel();
            let id = pending.last;
            pending.waiting.insert(id, sender);
            (id, receiver)
        };
        let hung_up = || ChannelError::HungUp { operation: name.clone() };
        let mut line = serde_json::to_vec(&Request { id, operation }).map_err(|_| hung_up())?;
        line.push(b'\n');
        self.writer.lock().await.write_all(&line).await.map_err(|_| hung_up())?;
        match tokio::time::timeout(PATIENCE, answer).await {
            Ok(Ok(Outcome::Failed { message })) => Err(ChannelError::Refused { operation: name, message }),
            Ok(Ok(outcome)) => Ok(outcome),
            Ok(Err(_)) => Err(hung_up()),
            Err(_) => Err(ChannelError::Silent { operation: name, patience: PATIENCE }),
        }
    }

    /// As [`Self::call`], for what is merely done.
    pub async fn order(&self, operation: Operation) -> Result<(), ChannelError> {
        let name = name(&operation);
        match self.call(operation).await? {
            Outcome::Done => Ok(()),
            answer => Err(ChannelError::Unexpected { operation: name, answer }),
        }
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

async fn dispatch(mut lines: BufReader<OwnedReadHalf>, pending: Arc<Mutex<Pending>>) {
    let mut line = Vec::new();
    while lines.read_until(b'\n', &mut line).await.is_ok_and(|length| length > 0) {
        // What is no reply is noise from before the guest took the port over.
        if let Ok(Reply { id, outcome }) = serde_json::from_slice(&line) {
            let waiting = pending.lock().unwrap_or_else(PoisonError::into_inner).waiting.remove(&id);
            if let Some(sender) = waiting {
                // Whoever asked may have given up.
                let _ = sender.send(outcome);
            }
        }
        line.clear();
    }
    pending.lock().unwrap_or_else(PoisonError::into_inner).waiting.clear();
}

/// The operation without contents, for messages.
pub(super) fn name(operation: &Operation) -> String {
    match operation {
        Operation::WriteFile { path, .. } => format!("WriteFile {path}"),
        Operation::WriteVolume { path, files } => {
            format!("WriteVolume {path} {:?}", files.keys().collect::<Vec<_>>())
        }
        other => format!("{other:?}"),
    }
}
