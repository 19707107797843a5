//! The way to the API server.
//!
//! kube speaks through [`https`] and not through its own stack, whose kubeconfigs, ways to log in and proxies would be
//! most of this program.

use std::env;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::header::AUTHORIZATION;
use http::{Request, Response};
use hyper::body::Incoming;
use kube::Client;
use kube::client::Body;
use tower::service_fn;

use crate::https::{self, Address, AddressError, HttpsError};

/// How long the API server may take to begin an answer.
const PATIENCE: Duration = Duration::from_secs(15);

/// The API server cannot be spoken to.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// This is no pod.
    #[error("find the API server: {0} is not set, as it is in every pod")]
    NoPod(&'static str),
    /// The variables hold something else.
    #[error("find the API server by KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT")]
    Address(#[from] AddressError),
}

/// Where the API server is, and where the kubelet keeps what is needed to speak to it.
#[derive(Debug, Clone)]
pub struct ApiServer {
    /// Where it is.
    pub address: Address,
    /// Directory with `token` and `ca.crt`, both of which are read for every request: they rotate.
    pub account: PathBuf,
}

impl ApiServer {
    /// What the kubelet says to this pod.
    pub fn of_pod() -> Result<Self, ClientError> {
        let variable = |name| env::var(name).map_err(|_| ClientError::NoPod(name));
        let (host, port) = (variable("KUBERNETES_SERVICE_HOST")?, variable("KUBERNETES_SERVICE_PORT")?);
        let host = if host.contains(':') { format!("[{host}]") } else { host };
        Ok(Self {
            address: format!("https://{host}:{port}").parse()?,
            account: "/var/run/secrets/kubernetes.io/serviceaccount".into(),
        })
    }

    /// A client that speaks to it.
    pub fn client(self) -> Client {
        let server = Arc::new(self);
        let service = service_fn(move |request| {
            let server = Arc::clone(&server);
            async move { server.answer(request).await }
        });
        Client::new(service, "default")
    }

    async fn answer(&self, mut request: Request<Body>) -> Result<Response<Incoming>, HttpsError> {
        request.headers_mut().insert(AUTHORIZATION, https::bearer(&self.account.join("token"))?);
        let tls = https::trust(&self.account.join("ca.crt"))?;
        https::ask(&self.address, tls, request, PATIENCE).await
    }
}
