//! The way to the API server: few connections, none of them believed in for long once it is silent.

use std::time::Duration;

use http::header::AUTHORIZATION;
use http::{HeaderValue, Request};
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube::client::{Body, ConfigExt as _};
use kube::{Client, Config};
use tower::{BoxError, ServiceBuilder};
use tracing::warn;

/// Where the kubelet keeps the pod's token for the API server up to date.
const TOKEN_FILE: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

/// The API server cannot be spoken to.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// This is no pod, or one without a token.
    #[error(
        "find the API server: KUBERNETES_SERVICE_HOST, KUBERNETES_SERVICE_PORT and the pod's ServiceAccount"
    )]
    InCluster(#[source] kube::config::InClusterError),
    /// The configuration makes no client.
    #[error("make a client for the API server")]
    Client(#[source] kube::Error),
}

/// A client with the pod's own `ServiceAccount`.
///
/// kube's own stack without what an agent has no use for, which is more than half of it: kubeconfigs and their many
/// ways to log in, proxies, compression, retries behind its user's back.
pub fn connect() -> Result<Client, ClientError> {
    let config = Config::incluster_env().map_err(ClientError::InCluster)?;
    client(&config).map_err(ClientError::Client)
}

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
        .map_request(with_token)
        .map_err(BoxError::from)
        .service(
            // A status is written rarely: its connection need not wait for the next one.
            HttpClient::builder(TokioExecutor::new()).pool_idle_timeout(Duration::from_secs(5)).build(https),
        );
    Ok(Client::new(service, config.default_namespace.clone()))
}

/// The token is read for every request: there are few, and it rotates.
fn with_token(mut request: Request<Body>) -> Request<Body> {
    match std::fs::read_to_string(TOKEN_FILE) {
        Ok(token) => {
            if let Ok(mut value) = HeaderValue::from_str(&format!("Bearer {}", token.trim())) {
                value.set_sensitive(true);
                request.headers_mut().insert(AUTHORIZATION, value);
            }
        }
        Err(error) => warn!(%error, path = TOKEN_FILE, "cannot read the pod's token"),
    }
    request
}
