//! The way to the API server.

use std::path::Path;
use std::time::Duration;

use kube::client::ClientBuilder;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tenon_api::Guarded;

use crate::deadline::Deadline;

/// The API server cannot be spoken to.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The given kubeconfig is unusable.
    #[error("read the kubeconfig {path}")]
    Kubeconfig {
        /// As given.
        path: std::path::PathBuf,
        /// What is wrong with it.
        #[source]
        source: kube::config::KubeconfigError,
    },
    /// Neither a pod's ServiceAccount nor a kubeconfig.
    #[error("find the API server: neither a pod's ServiceAccount nor a kubeconfig; give --kubeconfig")]
    Infer(#[source] kube::config::InferConfigError),
    /// The configuration makes no client.
    #[error("make a client for the API server")]
    Client(#[source] kube::Error),
}

/// Where the API server is and who we are to it.
pub async fn config(kubeconfig: Option<&Path>) -> Result<Config, ClientError> {
    let Some(path) = kubeconfig else { return Config::infer().await.map_err(ClientError::Infer) };
    let error = |source| ClientError::Kubeconfig { path: path.to_owned(), source };
    let kubeconfig = Kubeconfig::read_from(path).map_err(error)?;
    Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.map_err(error)
}

/// An object whose reader has no use for one that cannot be read.
pub(crate) fn readable<K>(object: Guarded<K>) -> Result<K, kube::Error> {
    object.object().map_err(kube::Error::SerdeError)
}

/// After so long without a word a connection is dead: watches end after 290 seconds of silence. An answer that breaks off in its midst, a
/// list's among them, would else be waited for until the process ends.
const SILENT: Duration = Duration::from_secs(320);

/// A client for everything but the lease: a request whose answer has not begun within `patience` has failed.
///
/// Nothing is tried again behind its user's back. A write is tried again by deciding anew, with what is known by then,
/// and each object waits longer after each failure; hidden retries would do neither.
pub fn client(mut config: Config, patience: Duration) -> Result<Client, ClientError> {
    config.default_retry = false;
    config.read_timeout.get_or_insert(SILENT);
    config.reset_reader_on_write = true;
    let builder = ClientBuilder::try_from(config).map_err(ClientError::Client)?;
    Ok(builder.with_layer(&Deadline(patience)).build())
}

/// A client that answers or fails within `deadline`: its own connections, no retries behind its user's back.
pub fn impatient(mut config: Config, deadline: Duration) -> Result<Client, ClientError> {
    config.connect_timeout = Some(deadline);
    config.read_timeout = Some(deadline);
    config.write_timeout = Some(deadline);
    client(config, deadline)
}
