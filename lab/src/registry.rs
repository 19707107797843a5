//! A container registry on loopback: Debian's docker-registry (distribution 2.8), plain or with TLS, open or with a password.

use std::fs;
use std::io;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::json;

use crate::child::{Child, ChildError};
use crate::command::Tail;
use crate::control_plane::{Identity, free_ports};
use crate::setup::Supplies;
use crate::wait::{self, TimedOut};

/// It is ready in 25 ms on an idle machine.
const READY: Duration = Duration::from_secs(30);

/// How a registry is protected.
#[derive(Debug, Clone, Default)]
pub struct Protection {
    /// Its certificate; none means plain HTTP.
    pub tls: Option<Identity>,
    /// The one user that may use it; none means everybody.
    pub user: Option<User>,
}

/// A user of a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// The name.
    pub name: String,
    /// The password.
    pub password: String,
}

impl User {
    /// What `docker login` writes, and what a pull secret holds.
    pub fn docker_config(&self, registry: &str) -> String {
        let Self { name, password } = self;
        json!({ "auths": { registry: { "username": name, "password": password } } }).to_string()
    }
}

/// A running registry. Dropping it ends it; what it holds is in its folder.
#[derive(Debug)]
pub struct Registry {
    child: Child,
    port: u16,
    config: PathBuf,
    program: PathBuf,
    folder: PathBuf,
}

/// Why there is no registry.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
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
    /// The password.
    #[error("hash the registry's password")]
    Password(#[from] bcrypt::BcryptError),
    /// The program.
    #[error(transparent)]
    Child(#[from] ChildError),
    /// It does not listen.
    #[error("the registry does not listen; its log {log} ends with\n{tail}")]
    NotReady {
        /// Its log.
        log: PathBuf,
        /// The log's last lines.
        tail: Tail,
        /// What was waited for.
        #[source]
        source: TimedOut,
    },
}

impl Registry {
    /// Starts a registry of that name in a folder; names keep several apart.
    pub async fn start(
        supplies: &Supplies,
        folder: &Path,
        name: &str,
        protection: &Protection,
    ) -> Result<Self, RegistryError> {
        let folder = folder.join(name);
        fs::create_dir_all(&folder).map_err(at("create", &folder))?;
        let [port] = free_ports().map_err(at("find a port for", &folder))?;
        let config = folder.join("config.yml");
        // JSON is YAML.
        write(&config, &configuration(&folder, port, protection)?.to_string())?;
        let program = supplies.registry.clone();
        let child = start(&program, &config, &folder)?;
        let mut registry = Self { child, port, config, program, folder };
        registry.wait_until_ready().await?;
        Ok(registry)
    }

    /// `127.0.0.1:port`, as image references begin.
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Its port on loopback; a guest reaches it at 10.0.2.2.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The requests that it answered, among other things.
    pub fn log(&self) -> &Path {
        self.child.log()
    }

    /// Ends it: connections are refused from now on.
    pub fn stop(&mut self) {
        self.child.kill();
    }

    /// Starts it again with what it holds, at the same port.
    pub async fn resume(&mut self) -> Result<(), RegistryError> {
        self.child = start(&self.program, &self.config, &self.folder)?;
        self.wait_until_ready().await
    }

    async fn wait_until_ready(&mut self) -> Result<(), RegistryError> {
        let port = self.port;
        let child = &mut self.child;
        let waited = wait::until("the registry to listen", READY, async || {
            if let Err(error) = child.check() {
                return Some(Err(error));
            }
            TcpStream::connect(("127.0.0.1", port)).is_ok().then_some(Ok(()))
        })
        .await;
        match waited {
            Ok(result) => Ok(result?),
            Err(source) => {
                let log = self.child.log().to_owned();
                Err(RegistryError::NotReady { tail: Tail::of_file(&log), log, source })
            }
        }
    }
}

fn start(program: &Path, config: &Path, folder: &Path) -> Result<Child, ChildError> {
    let mut command = Command::new(program);
    command.arg("serve").arg(config);
    Child::start("registry", &command, folder)
}

fn configuration(
    folder: &Path,
    port: u16,
    protection: &Protection,
) -> Result<serde_json::Value, RegistryError> {
    let address = format!("127.0.0.1:{port}");
    let mut http = json!({ "addr": address });
    let mut auth = json!({});
    if let Some(identity) = &protection.tls {
        let (certificate, key) = (folder.join("tls.crt"), folder.join("tls.key"));
        write(&certificate, &identity.certificate)?;
        write(&key, &identity.key)?;
        http = json!({ "addr": address, "tls": { "certificate": certificate, "key": key } });
    }
    if let Some(user) = &protection.user {
        let passwords = folder.join("htpasswd");
        // The cheapest cost that there is: nobody attacks it.
        write(&passwords, &format!("{}:{}\n", user.name, bcrypt::hash(&user.password, 4)?))?;
        auth = json!({ "htpasswd": { "realm": "lab", "path": passwords } });
    }
    Ok(json!({
        "version": "0.1",
        "storage": { "filesystem": { "rootdirectory": folder.join("data") }, "delete": { "enabled": true } },
        "http": http,
        "auth": auth,
    }))
}

fn write(path: &Path, text: &str) -> Result<(), RegistryError> {
    fs::write(path, text).map_err(at("write", path))
}

fn at(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> RegistryError {
    let path = path.to_owned();
    move |source| RegistryError::Io { action, path, source }
}
