//! A git server, as a vendor has one: `git daemon` with one repository.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::child::{Child, ChildError};
use crate::command::{self, CommandError};
use crate::control_plane::free_ports_at;

/// A repository that is served. Dropping it ends the server.
#[derive(Debug)]
pub struct GitServer {
    _child: Child,
    repository: PathBuf,
    uri: String,
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
        let repository = base.join("driver.git");
        fs::create_dir_all(&repository).map_err(at("create", &repository))?;
        command::run(git(&repository).args(["init", "--quiet", "--initial-branch=main"]))?;
        let [port] = free_ports_at(address).map_err(at("find a port for", &base))?;
        let mut daemon = Command::new("git");
        daemon.args(["daemon", "--export-all", "--reuseaddr", "--informative-errors"]);
        daemon.arg(format!("--listen={address}")).arg(format!("--port={port}"));
        daemon.arg(format!("--base-path={}", base.display())).arg(&base);
        let child = Child::start("git-daemon", &daemon, folder)?;
        Ok(Self { _child: child, repository, uri: format!("git://{address}:{port}/driver.git") })
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
        Ok(())
    }
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
