//! A container registry on loopback: Debian's docker-registry (distribution 2.8), plain or with TLS, open or with a password.
//! It may be had at further addresses of the host too: one process for each, all on the same data.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::json;

use crate::child::{Child, ChildError};
use crate::command::Tail;
use crate::control_plane::{Identity, free_ports};
use crate::setup::Supplies;
use crate::wait::{self, TimedOut};

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// It is ready in 25 ms on an idle machine.
const READY: Duration = Duration::from_secs(30);

/// How a registry is protected.
#[derive(Debug, Clone, Default)]
pub struct Protection {
    /// Its certificate; none means plain HTTP.
    pub tls: Option<Identity>,
    /// The one user that may use it; none means everybody.
    pub user: Option<User>,
    /// Whether it keeps what it has: it deletes nothing then.
    pub keeps: bool,
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
    listeners: Vec<Listener>,
    port: u16,
    program: PathBuf,
    folder: PathBuf,
    protection: Protection,
}

/// A process that serves what the registry holds.
#[derive(Debug)]
struct Listener {
    address: IpAddr,
    config: PathBuf,
    child: Child,
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
        let program = supplies.registry.clone();
        let listeners = Vec::new();
        let mut registry = Self { listeners, port, program, folder, protection: protection.clone() };
        registry.listen_at(LOOPBACK).await?;
        Ok(registry)
    }

    /// Serves the same at another address of the host too, at the same port; nothing happens when it does already.
    pub async fn listen_at(&mut self, address: IpAddr) -> Result<(), RegistryError> {
        if self.listeners.iter().any(|listener| listener.address == address) {
            return Ok(());
        }
        let config = self.folder.join(format!("{address}.yml"));
        // JSON is YAML.
        let settings = configuration(&self.folder, SocketAddr::new(address, self.port), &self.protection)?;
        write(&config, &settings.to_string())?;
        let child = start(&self.program, &config, &self.folder)?;
        self.listeners.push(Listener { address, config, child });
        self.wait_until_ready().await
    }

    /// What it is called where it is found at that address of the host: `address:port`.
    pub fn at(&self, address: IpAddr) -> String {
        SocketAddr::new(address, self.port).to_string()
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
    pub fn log(&self) -> PathBuf {
        self.folder.join("registry.log")
    }

    /// Ends it: connections are refused from now on.
    pub fn stop(&mut self) {
        self.listeners.iter_mut().for_each(|listener| listener.child.kill());
    }

    /// Starts it again with what it holds, at the same port.
    pub async fn resume(&mut self) -> Result<(), RegistryError> {
        for listener in &mut self.listeners {
            listener.child = start(&self.program, &listener.config, &self.folder)?;
        }
        self.wait_until_ready().await
    }

    async fn wait_until_ready(&mut self) -> Result<(), RegistryError> {
        let port = self.port;
        let listeners = &mut self.listeners;
        let waited = wait::until("the registry to listen", READY, async || {
            for Listener { address, child, .. } in listeners.iter_mut() {
                if let Err(error) = child.check() {
                    return Some(Err(error));
                }
                TcpStream::connect((*address, port)).ok()?;
            }
            Some(Ok(()))
        })
        .await;
        match waited {
            Ok(result) => Ok(result?),
            Err(source) => {
                let log = self.log();
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
    address: SocketAddr,
    protection: &Protection,
) -> Result<serde_json::Value, RegistryError> {
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
        "storage": { "filesystem": { "rootdirectory": folder.join("data") }, "delete": { "enabled": !protection.keeps } },
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
