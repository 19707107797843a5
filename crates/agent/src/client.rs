//! The way to the API server: few connections, none of them believed in for long once it is silent.

use std::path::Path;
use std::time::Duration;

use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube::client::ConfigExt as _;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tower::{BoxError, ServiceBuilder};

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
    /// Neither a pod's `ServiceAccount` nor a kubeconfig.
    #[error("find the API server: neither a pod's ServiceAccount nor a kubeconfig; give --kubeconfig")]
    Infer(#[source] kube::config::InferConfigError),
    /// The configuration makes no client.
    #[error("make a client for the API server")]
    Client(#[source] kube::Error),
}

/// A client with the pod's own `ServiceAccount`, or with a kubeconfig.
pub async fn connect(kubeconfig: Option<&Path>) -> Result<Client, ClientError> {
    let config = match kubeconfig {
        Some(path) => read(path).await?,
        None => Config::infer().await.map_err(ClientError::Infer)?,
    };
    client(&config).map_err(ClientError::Client)
}

async fn read(path: &Path) -> Result<Config, ClientError> {
    let error = |source| ClientError::Kubeconfig { path: path.to_owned(), source };
    let kubeconfig = Kubeconfig::read_from(path).map_err(error)?;
    Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.map_err(error)
}

/// kube's own stack without what an agent has no use for: compression, retries behind its user's back, proxies.
fn client(config: &Config) -> kube::Result<Client> {
    let mut http = HttpConnector::new();
    http.enforce_http(false);
    http.set_connect_timeout(Some(Duration::from_secs(5)));
    // A watch says nothing for minutes; without these a server that vanished would not be missed before its timeout.
    http.set_keepalive(Some(Duration::from_secs(30)));
    http.set_keepalive_interval(Some(Duration::from_secs(10)));
    http.set_keepalive_retries(Some(3));
    http.set_tcp_user_timeout(Some(Duration::from_secs(30)));
    let https = config.rustls_https_connector_with_connector(http)?;
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .map_err(BoxError::from)
        .service(
            // A status is written rarely: its connection need not wait for the next one.
            HttpClient::builder(TokioExecutor::new()).pool_idle_timeout(Duration::from_secs(5)).build(https),
        );
    Ok(Client::new(service, config.default_namespace.clone()))
}
