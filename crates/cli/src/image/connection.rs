//! How registries are spoken to, and what to do when one does not answer as it should.

use std::fs;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};

use tenon_image::ImageReference;
use tenon_image::keyring::{Keyring, KeyringError, SecretFormat};
use tenon_image::registry::{
    Proxies, Registry, RegistryError, Timing, TlsSettings, Transport, TransportError, Trouble,
};

#[derive(Debug, clap::Args)]
pub(super) struct ConnectionArgs {
    /// File with credentials, as `docker login` writes it [default: ~/.docker/config.json]
    #[arg(long, value_name = "FILE", env = "REGISTRY_AUTH_FILE")]
    authfile: Option<PathBuf>,
    /// Speak HTTP without TLS
    #[arg(long)]
    plain_http: bool,
    /// Accept any certificate of the registry
    #[arg(long, conflicts_with = "plain_http")]
    insecure_skip_tls_verify: bool,
    /// Trust this certificate authority too (PEM)
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
}

/// Why there is no connection to speak over.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectionError {
    #[error("read {flag} {path}", path = path.display())]
    File { flag: &'static str, path: PathBuf, source: io::Error },
    #[error("read {path}", path = path.display())]
    Authfile { path: PathBuf, source: KeyringError },
    #[error("prepare the connection to {registry}")]
    Transport { registry: String, source: TransportError },
    #[error("start")]
    Runtime(#[source] io::Error),
}

/// A client, and what is to be known about it when it fails.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) registry: Registry,
    /// Whether the credentials leave some registry to a program, which nobody runs here.
    helpers: bool,
    plain_http: bool,
}

impl ConnectionArgs {
    /// Whatever can be wrong on this side comes out before anything is sent.
    pub(super) fn connect(&self, to: &ImageReference) -> Result<Connection, ConnectionError> {
        let keyring = self.keyring()?;
        let tls = TlsSettings {
            plain_http: self.plain_http,
            skip_verify: self.insecure_skip_tls_verify,
            authority: self.ca_file.as_deref().map(|path| read("--ca-file", path)).transpose()?,
        };
        let helpers = keyring.mentions_helpers();
        // A person is waiting: rather say soon what is wrong.
        let timing = Timing { attempts: 4, ..Timing::default() };
        let registry = Registry::new(&Transport::new(Proxies::from_environment()), &tls, keyring, timing)
            .map_err(|source| ConnectionError::Transport { registry: to.registry().to_owned(), source })?;
        Ok(Connection { registry, helpers, plain_http: self.plain_http })
    }

    /// A file that was named must be there; the usual one need not.
    fn keyring(&self) -> Result<Keyring, ConnectionError> {
        let mut keyring = Keyring::default();
        let (path, data) = if let Some(path) = &self.authfile {
            (path.clone(), read("--authfile", path)?)
        } else {
            let Some(path) = usual_authfile().filter(|path| path.is_file()) else { return Ok(keyring) };
            let data = read("the credentials in", &path)?;
            (path, data)
        };
        let added = keyring.add(SecretFormat::DockerConfigJson, &data);
        added.map_err(|source| ConnectionError::Authfile { path, source })?;
        Ok(keyring)
    }
}

fn usual_authfile() -> Option<PathBuf> {
    let directory = std::env::var_os("DOCKER_CONFIG").map(PathBuf::from);
    let directory = directory.or_else(|| std::env::home_dir().map(|home| home.join(".docker")))?;
    Some(directory.join("config.json"))
}

fn read(flag: &'static str, path: &Path) -> Result<Vec<u8>, ConnectionError> {
    fs::read(path).map_err(|source| ConnectionError::File { flag, path: path.to_owned(), source })
}

/// Waits for what registries say.
pub(super) fn wait_for<T>(work: impl Future<Output = T>) -> Result<T, ConnectionError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    Ok(runtime.map_err(ConnectionError::Runtime)?.block_on(work))
}

impl Connection {
    /// What somebody can do about an answer.
    pub(super) fn hint(&self, error: &RegistryError) -> Option<String> {
        match error {
            RegistryError::Denied { subject, .. } => {
                let host = subject.image().registry();
                Some(if self.helpers {
                    format!(
                        "the credentials file leaves {host} to a helper program, which is not run; log in to a file of \
                         its own (`podman login --authfile FILE {host}`) and give --authfile FILE"
                    )
                } else {
                    format!(
                        "log in with `docker login {host}`, or give --authfile FILE; the account must be allowed to push"
                    )
                })
            }
            RegistryError::Unreachable { source: Trouble::Certificate(_), .. } => Some(
                "give the authority's certificate with --ca-file, or --insecure-skip-tls-verify".to_owned(),
            ),
            RegistryError::Unreachable { subject, source: Trouble::Connection(_), .. }
                if !self.plain_http =>
            {
                let host = subject.image().registry();
                Some(format!("is {host} right? For a registry without TLS give --plain-http"))
            }
            _ => None,
        }
    }
}

/// Whether the same may work later.
pub(super) fn passes(error: &RegistryError) -> bool {
    matches!(error, RegistryError::Unreachable { source, .. } if !matches!(source, Trouble::Certificate(_)))
}
