//! A git server, as a vendor has one: `git daemon` with one repository, or files behind a password.

use std::convert::Infallible;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::child::{Child, ChildError};
use crate::command::{self, CommandError};
use crate::control_plane::free_ports_at;

/// A repository that is served. Dropping it ends the server.
#[derive(Debug)]
pub struct GitServer {
    _server: Server,
    repository: PathBuf,
    uri: String,
}

#[derive(Debug)]
#[expect(dead_code, reason = "held for what dropping it ends")]
enum Server {
    Daemon(Child),
    Files(JoinSet<()>),
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub enum GitError {
    /// git.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// The server.
    #[error(transparent)]
    Child(#[from] ChildError),
    /// A file, or a port.
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
}

impl GitServer {
    /// Serves a new repository called `driver.git` at this address of the host.
    pub fn start(folder: &Path, address: IpAddr) -> Result<Self, GitError> {
        let base = folder.join("git");
        let repository = new_repository(&base)?;
        let [port] = free_ports_at(address).map_err(at("find a port for", &base))?;
        let mut daemon = Command::new("git");
        daemon.args(["daemon", "--export-all", "--reuseaddr", "--informative-errors"]);
        daemon.arg(format!("--listen={address}")).arg(format!("--port={port}"));
        daemon.arg(format!("--base-path={}", base.display())).arg(&base);
        let child = Child::start("git-daemon", &daemon, folder)?;
        let uri = format!("git://{address}:{port}/driver.git");
        Ok(Self { _server: Server::Daemon(child), repository, uri })
    }

    /// Serves another new repository by HTTP, to those who have this name and password. It is a server of files, which gives out
    /// no single commits.
    pub async fn start_private(
        folder: &Path,
        address: IpAddr,
        (user, password): (&str, &str),
    ) -> Result<Self, GitError> {
        let base = folder.join("private-git");
        let repository = new_repository(&base)?;
        let listener = TcpListener::bind((address, 0)).await.map_err(at("find a port for", &base))?;
        let port = listener.local_addr().map_err(at("find a port for", &base))?.port();
        let allowed = format!("Basic {}", STANDARD.encode(format!("{user}:{password}")));
        let mut server = JoinSet::new();
        server.spawn(serve_files(listener, base, allowed));
        let uri = format!("http://{address}:{port}/driver.git/.git");
        Ok(Self { _server: Server::Files(server), repository, uri })
    }

    /// By what it is cloned.
    pub fn uri(&self) -> &str {
        &self.uri
    }

    /// Makes these files all that is in the repository, under a tag.
    pub fn commit(&self, files: &[(&str, &str)], tag: &str) -> Result<(), GitError> {
        let run = |arguments: &[&str]| command::run(git(&self.repository).args(arguments));
        run(&["rm", "-r", "--quiet", "--ignore-unmatch", "."])?;
        for (name, text) in files {
            let path = self.repository.join(name);
            let parent = path.parent().unwrap_or(&path);
            fs::create_dir_all(parent).map_err(at("create", parent))?;
            fs::write(&path, text).map_err(at("write", &path))?;
        }
        run(&["add", "--all"])?;
        run(&["commit", "--quiet", "--allow-empty", "--message", tag])?;
        run(&["tag", "--force", tag]).map(drop)?;
        // What whoever reads plain files looks at first.
        run(&["update-server-info"]).map(drop)?;
        Ok(())
    }
}

fn new_repository(base: &Path) -> Result<PathBuf, GitError> {
    let repository = base.join("driver.git");
    fs::create_dir_all(&repository).map_err(at("create", &repository))?;
    command::run(git(&repository).args(["init", "--quiet", "--initial-branch=main"]))?;
    Ok(repository)
}

/// Files below `base`, to whoever asks with these credentials.
async fn serve_files(listener: TcpListener, base: PathBuf, allowed: String) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        let (base, allowed) = (base.clone(), allowed.clone());
        let answer = service_fn(move |request: Request<hyper::body::Incoming>| {
            let answer = answer(&request, &base, &allowed);
            async move { Ok::<_, Infallible>(answer) }
        });
        connections.spawn(async move {
            // Whoever hangs up is not missed.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
        });
    }
}

fn answer<B>(request: &Request<B>, base: &Path, allowed: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    if request.headers().get(AUTHORIZATION).is_none_or(|given| given != allowed) {
        *response.status_mut() = StatusCode::UNAUTHORIZED;
        response
            .headers_mut()
            .insert(WWW_AUTHENTICATE, http::HeaderValue::from_static("Basic realm=\"git\""));
        return response;
    }
    match fs::read(base.join(request.uri().path().trim_start_matches('/'))) {
        Ok(bytes) => *response.body_mut() = bytes.into(),
        Err(_) => *response.status_mut() = StatusCode::NOT_FOUND,
    }
    response
}

fn git(repository: &Path) -> Command {
    let mut command = Command::new("git");
    command.current_dir(repository);
    command.args([
        "-c",
        "user.name=A Vendor",
        "-c",
        "user.email=vendor@example.com",
        "-c",
        "safe.directory=*",
    ]);
    command
}

fn at(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> GitError {
    let path = path.to_owned();
    move |source| GitError::Io { action, path, source }
}
