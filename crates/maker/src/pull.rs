//! Takes a driver out of the module image that this program runs in, and brings it to the operator's depot.
//!
//! That is all that a node is needed for: what is sent is an excerpt of the image, a layer ([`tenon_image::excerpt`]), and the
//! operator packs, checks and names the bundle. So nothing that happens here has to be trusted more than an image is.
//!
//! The environment may be the image's and is not heeded, but for the task: the pod's own settings go before the image's.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream;
use reqwest::header::RETRY_AFTER;
use reqwest::{Body, Client, Method, RequestBuilder, Response, StatusCode};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use tenon_api::message::chain;
use tenon_api::pull::{ACCESS_DIR, ADDRESSES, AUTHORITY, PATH, PullTask, TOKEN, VARIABLE};
use tenon_api::task::{Report, Trouble};
use tenon_image::excerpt::{Excerpt, ExcerptError, ExcerptRequest, RequestError};
use tenon_image::layers::Limits;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

/// How long it is tried to reach an operator that expects something from here: one that starts anew takes a minute or two.
const PATIENCE: Duration = Duration::from_mins(10);
/// Until a connection stands.
const CONNECT: Duration = Duration::from_secs(10);
/// Between two tries, unless the depot says otherwise.
const PAUSE: Duration = Duration::from_secs(2);
/// The longest that the depot may ask for.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// What is sent at once.
const PIECE: usize = 64 * 1024;
/// Pieces that wait to be sent.
const PIECES: usize = 4;
/// Bytes of a refusal that are repeated.
const WORDS: usize = 400;

/// Where things are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// The image's root.
    pub root: PathBuf,
    /// The depot's addresses and certificate, and the token for it.
    pub access: PathBuf,
}

impl Default for Places {
    /// Where the pod has them.
    fn default() -> Self {
        Self { root: "/".into(), access: ACCESS_DIR.into() }
    }
}

/// Why nothing was brought.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// There is no task.
    #[error("{VARIABLE} is not set: this program is started by a Job of the operator's")]
    NoTask,
    /// It is of another version's form.
    #[error("read the task in {VARIABLE}")]
    Task(#[source] serde_json::Error),
    /// A path in it, or the kernel.
    #[error("read the task in {VARIABLE}")]
    Request(#[from] RequestError),
    /// The image does not give what is wanted of it.
    #[error(transparent)]
    Excerpt(#[from] ExcerptError),
    /// A file that says where the depot is, whom to trust there, or who we are.
    #[error("read {path}, which the operator or the kubelet provides", path = path.display())]
    Access {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// There is no certificate to trust.
    #[error("{path} holds no certificate that can be trusted", path = path.display())]
    Authority {
        /// The file.
        path: PathBuf,
    },
    /// TLS cannot be set up.
    #[error("set up TLS")]
    Tls(#[source] rustls::Error),
    /// There is no way to speak to anybody.
    #[error("prepare the connection to the depot")]
    Client(#[source] reqwest::Error),
    /// There is no address.
    #[error("{path} names no address of the depot: is the operator running?", path = path.display())]
    NoAddress {
        /// The file.
        path: PathBuf,
    },
    /// The conversation did not come to its end.
    #[error("bring the driver to {address}")]
    Send {
        /// Whom.
        address: String,
        /// Why not.
        source: reqwest::Error,
    },
    /// It does not take it, or not now.
    #[error("{address} answered {status}: {words}")]
    Refused {
        /// Who.
        address: String,
        /// What.
        status: StatusCode,
        /// The same in words.
        words: String,
        /// When to ask again.
        after: Option<Duration>,
    },
    /// The program cannot be put where it is to be.
    #[error("copy this program to {path}", path = path.display())]
    Install {
        /// Where.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Work that ran aside.
    #[error("the work was interrupted")]
    Interrupted(#[from] tokio::task::JoinError),
}

impl PullError {
    /// The word for it.
    pub fn trouble(&self) -> Trouble {
        match self {
            Self::Excerpt(ExcerptError::Denied { .. }) => Trouble::Unreadable,
            Self::Excerpt(ExcerptError::TooMuch { .. }) => Trouble::ImageInvalid,
            _ => Trouble::Failed,
        }
    }

    /// Whether the depot may say something else a moment later.
    fn is_passing(&self) -> bool {
        match self {
            Self::Refused { status, .. } => {
                status.is_server_error() || *status == StatusCode::TOO_MANY_REQUESTS
            }
            Self::Send { .. } | Self::NoAddress { .. } => true,
            _ => false,
        }
    }

    /// For the Job's termination message.
    pub fn report(&self) -> Report {
        let way_out = match self.trouble() {
            Trouble::Unreadable => {
                "; a node's pod reads images as nobody in particular: let everybody read it (`chmod -R a+rX`), or give Tenon \
                 credentials for the registry (spec.imageRepoSecret)"
            }
            _ => "",
        };
        Report::Failed { trouble: self.trouble(), message: format!("{}{way_out}", chain(self)).into() }
    }
}

/// Copies this very program.
pub fn install(path: &Path) -> Result<(), PullError> {
    let copied = std::env::current_exe().and_then(|program| fs::copy(program, path));
    copied.map(drop).map_err(|source| PullError::Install { path: path.to_owned(), source })
}

/// Does the task, and says what it came to.
pub async fn run(task: Option<&str>, places: &Places) -> Result<String, PullError> {
    let task: PullTask = serde_json::from_str(task.ok_or(PullError::NoTask)?).map_err(PullError::Task)?;
    let request = ExcerptRequest::read(&task.kernel, &task.dir_name, task.firmware_path.as_deref())?;
    let root = places.root.clone();
    let excerpt =
        tokio::task::spawn_blocking(move || Excerpt::of(&root, &request, &Limits::default())).await??;
    let (bytes, files) = excerpt.size();
    println!("{files} files with {bytes} bytes for kernel {}", task.kernel);
    let address = bring(Arc::new(excerpt), &places.access).await?;
    Ok(format!("{files} files with {bytes} bytes brought to {address}"))
}

/// Brings the excerpt to whichever address takes it.
async fn bring(excerpt: Arc<Excerpt>, access: &Path) -> Result<String, PullError> {
    let begun = Instant::now();
    loop {
        let mut pause = PAUSE;
        let error = match try_all(&excerpt, access).await {
            Err(error) if error.is_passing() => error,
            done => return done,
        };
        if let PullError::Refused { after: Some(after), .. } = &error {
            pause = (*after).min(LONGEST_PAUSE);
        }
        if begun.elapsed() + pause > PATIENCE {
            return Err(error);
        }
        println!("{}; trying again", chain(&error));
        sleep(pause).await;
    }
}

/// Of several replicas one leads, and only that one expects anything.
async fn try_all(excerpt: &Arc<Excerpt>, access: &Path) -> Result<String, PullError> {
    let depot = Depot::read(access)?;
    let mut last = PullError::NoAddress { path: access.join(ADDRESSES) };
    for address in &depot.addresses {
        match depot.bring(address, excerpt).await {
            Ok(()) => return Ok(address.clone()),
            Err(error) if error.is_passing() => last = error,
            Err(error) => return Err(error),
        }
    }
    Err(last)
}

/// Where the depot is, and who we are to it. Read anew for each try: all of it may change.
struct Depot {
    addresses: Vec<String>,
    client: Client,
    token: String,
}

impl Depot {
    fn read(access: &Path) -> Result<Self, PullError> {
        let lines = text(&access.join(ADDRESSES))?;
        let lines = lines.lines().map(|line| line.trim().trim_end_matches('/'));
        Ok(Self {
            addresses: lines.filter(|line| !line.is_empty()).map(str::to_owned).collect(),
            client: client(&access.join(AUTHORITY))?,
            token: text(&access.join(TOKEN))?.trim().to_owned(),
        })
    }

    /// Asks first, so that nothing is sent to somebody who does not expect it.
    async fn bring(&self, address: &str, excerpt: &Arc<Excerpt>) -> Result<(), PullError> {
        self.send(address, self.request(Method::HEAD, address)).await?;
        let (sender, mut pieces) = mpsc::channel(PIECES);
        let source = Arc::clone(excerpt);
        let reading = tokio::task::spawn_blocking(move || read(&source, sender));
        let body = Body::wrap_stream(stream::poll_fn(move |context| pieces.poll_recv(context)));
        let sent = self.send(address, self.request(Method::PUT, address).body(body)).await;
        // Where the image cannot be read any more, that is why nothing was taken.
        match (reading.await?, sent) {
            (Err(error @ (ExcerptError::Denied { .. } | ExcerptError::Read { .. })), _) => Err(error.into()),
            (_, sent) => sent,
        }
    }

    fn request(&self, method: Method, address: &str) -> RequestBuilder {
        self.client.request(method, format!("{address}{PATH}")).bearer_auth(&self.token)
    }

    async fn send(&self, address: &str, request: RequestBuilder) -> Result<(), PullError> {
        let failed = |source| PullError::Send { address: address.to_owned(), source };
        let response = request.send().await.map_err(failed)?;
        if response.status().is_success() {
            return Ok(());
        }
        let (status, after) = (response.status(), retry_after(&response));
        let words = response.text().await.unwrap_or_default();
        let words: String = words.trim().chars().take(WORDS).collect();
        Err(PullError::Refused { address: address.to_owned(), status, words, after })
    }
}

fn retry_after(response: &Response) -> Option<Duration> {
    let seconds = response.headers().get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// Trusts whom the operator says, and nobody else; goes through no proxy.
fn client(authority: &Path) -> Result<Client, PullError> {
    let pem = text(authority)?;
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(CertificateDer::pem_slice_iter(pem.as_bytes()).filter_map(Result::ok));
    if roots.is_empty() {
        return Err(PullError::Authority { path: authority.to_owned() });
    }
    let tls = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(PullError::Tls)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let client = Client::builder().tls_backend_preconfigured(tls).no_proxy().connect_timeout(CONNECT);
    client.timeout(PATIENCE).build().map_err(PullError::Client)
}

fn text(path: &Path) -> Result<String, PullError> {
    fs::read_to_string(path).map_err(|source| PullError::Access { path: path.to_owned(), source })
}

type Piece = Result<Bytes, io::Error>;

/// Writes the excerpt into the channel. Whoever does not take it any more says so himself.
fn read(excerpt: &Excerpt, sender: mpsc::Sender<Piece>) -> Result<(), ExcerptError> {
    let mut pieces = Pieces { sender, held: Vec::with_capacity(PIECE) };
    let written = excerpt.write(&mut pieces).and_then(|()| pieces.flush().map_err(ExcerptError::Write));
    if written.is_err() {
        // Half an excerpt must not look like a whole one.
        let _ = pieces.sender.blocking_send(Err(io::ErrorKind::UnexpectedEof.into()));
    }
    written
}

/// What is written, in pieces.
struct Pieces {
    sender: mpsc::Sender<Piece>,
    held: Vec<u8>,
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = PIECE.saturating_sub(self.held.len());
        let taken = bytes.get(..room).unwrap_or(bytes);
        self.held.extend_from_slice(taken);
        if self.held.len() >= PIECE {
            self.flush()?;
        }
        Ok(taken.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.held.is_empty() {
            return Ok(());
        }
        let piece = std::mem::replace(&mut self.held, Vec::with_capacity(PIECE));
        self.sender.blocking_send(Ok(piece.into())).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}
