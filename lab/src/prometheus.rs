//! Debian's Prometheus, to try alerts on: its parser, its tests of rules, and itself, scraping what the operator tells.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use http_body_util::{BodyExt as _, Empty};
use hyper::body::Bytes;
use hyper::client::conn::http1::handshake;
use hyper::{Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::cache::{Cache, CacheError, Lock};
use crate::child::{Child, ChildError};
use crate::command::{self, CommandError};
use crate::control_plane::free_ports;
use crate::debian::{Archive, ArchiveError, Release};
use crate::wait::{self, TimedOut};

/// It listens within half a second on an idle machine.
const READY: Duration = Duration::from_mins(1);

/// Its programs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Programs {
    prometheus: PathBuf,
    promtool: PathBuf,
}

/// Why there is no Prometheus, or no answer of it.
#[derive(Debug, thiserror::Error)]
pub enum PrometheusError {
    /// The package.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// The cache.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// What promtool has to say.
    #[error(transparent)]
    Promtool(#[from] CommandError),
    /// The process.
    #[error(transparent)]
    Child(#[from] ChildError),
    /// Its files.
    #[error("{action} {path}")]
    Io {
        /// What was attempted.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// It does not listen.
    #[error(transparent)]
    NotReady(#[from] TimedOut),
    /// Nobody listens, or not for long enough.
    #[error("connect to {0}")]
    Connect(SocketAddr, #[source] io::Error),
    /// A request.
    #[error("ask for {path}")]
    Ask {
        /// What was asked for.
        path: String,
        /// Why there is no answer.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It refuses the query.
    #[error("ask for {path}: {answer}")]
    Refused {
        /// What was asked for.
        path: String,
        /// In its words.
        answer: String,
    },
}

impl Programs {
    /// Out of the package, which is fetched once.
    pub fn get() -> Result<Self, PrometheusError> {
        let cache = Cache::open()?;
        // The set-up's own lock: it looks for newer lists meanwhile.
        let _lock = Lock::take(&cache.folder("")?.join("setup.lock"))?;
        let archive = Archive::open(&cache)?;
        archive.refresh()?;
        let programs = archive.unpack("prometheus", Release::Stable)?.join("usr/bin");
        Ok(Self { prometheus: programs.join("prometheus"), promtool: programs.join("promtool") })
    }

    /// Whether a file of rules is one; otherwise what is wrong with it.
    pub fn check_rules(&self, rules: &Path) -> Result<(), PrometheusError> {
        command::run(Command::new(&self.promtool).args(["check", "rules"]).arg(rules))?;
        Ok(())
    }

    /// Runs a file of tests; the rules lie beside it.
    pub fn test_rules(&self, tests: &Path) -> Result<(), PrometheusError> {
        command::run(Command::new(&self.promtool).args(["test", "rules"]).arg(tests))?;
        Ok(())
    }
}

/// A running Prometheus. Dropping it ends it.
#[derive(Debug)]
pub struct Prometheus {
    _child: Child,
    address: SocketAddr,
}

impl Prometheus {
    /// Scrapes `target` and tries `rules` every second; its files are in a folder of the caller's.
    pub async fn start(
        programs: &Programs,
        folder: &Path,
        target: SocketAddr,
        rules: &str,
    ) -> Result<Self, PrometheusError> {
        let folder = folder.join("prometheus");
        let at = |action, path: &Path| {
            let path = path.to_owned();
            move |source| PrometheusError::Io { action, path, source }
        };
        fs::create_dir_all(&folder).map_err(at("create", &folder))?;
        let [port] = free_ports().map_err(at("find a port for", &folder))?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        // JSON is YAML.
        let settings = json!({
            "global": { "scrape_interval": "1s", "evaluation_interval": "1s" },
            "rule_files": ["rules.yaml"],
            "scrape_configs": [{ "job_name": "tenon-operator", "static_configs": [{ "targets": [target.to_string()] }] }],
        });
        for (name, text) in [("prometheus.yml", settings.to_string().as_str()), ("rules.yaml", rules)] {
            let path = folder.join(name);
            fs::write(&path, text).map_err(at("write", &path))?;
        }
        let mut command = Command::new(&programs.prometheus);
        command
            .arg(format!("--config.file={}", folder.join("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", folder.join("data").display()))
            .arg(format!("--web.listen-address={address}"));
        let prometheus = Self { _child: Child::start("prometheus", &command, &folder)?, address };
        let ready = async || {
            let answer = get(address, "/-/ready").await.ok()?;
            (answer.0 == StatusCode::OK).then_some(())
        };
        wait::until("Prometheus", READY, ready).await?;
        Ok(prometheus)
    }

    /// The series that an expression gives now: labels and value of each.
    pub async fn query(&self, expression: &str) -> Result<Vec<Value>, PrometheusError> {
        let path = expression.bytes().fold("/api/v1/query?query=".to_owned(), |mut path, byte| {
            // Writing to a string cannot go wrong.
            let _ = write!(path, "%{byte:02x}");
            path
        });
        let (_, text) = get(self.address, &path).await?;
        let answer: Value = serde_json::from_str(&text).unwrap_or_default();
        match answer.pointer("/data/result") {
            Some(Value::Array(series)) => Ok(series.clone()),
            _ => Err(PrometheusError::Refused { path: expression.to_owned(), answer: text }),
        }
    }
}

/// Asks a server for something, in plain HTTP.
pub async fn get(server: SocketAddr, path: &str) -> Result<(StatusCode, String), PrometheusError> {
    let stream =
        TcpStream::connect(server).await.map_err(|source| PrometheusError::Connect(server, source))?;
    exchange(stream, server, path)
        .await
        .map_err(|source| PrometheusError::Ask { path: path.to_owned(), source })
}

async fn exchange(
    stream: TcpStream,
    server: SocketAddr,
    path: &str,
) -> Result<(StatusCode, String), Box<dyn std::error::Error + Send + Sync>> {
    let (mut sender, connection) = handshake(TokioIo::new(stream)).await?;
    // It ends with the sender.
    tokio::spawn(connection);
    let request = Request::get(path).header(header::HOST, server.to_string()).body(Empty::<Bytes>::new())?;
    let (parts, body) = sender.send_request(request).await?.into_parts();
    let body = body.collect().await?.to_bytes();
    Ok((parts.status, String::from_utf8_lossy(&body).into_owned()))
}
