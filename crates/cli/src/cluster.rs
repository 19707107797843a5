//! Which cluster, which namespace, and as whom: kubectl's own flags, and what they default to.

use std::path::PathBuf;

use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config};
use tenon_order::ModuleKey;

#[derive(Debug, clap::Args)]
pub(crate) struct ClusterArgs {
    /// The Module's namespace [default: the kubeconfig's]
    #[arg(short, long)]
    namespace: Option<String>,
    /// The kubeconfig file [default: as kubectl finds it]
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// The kubeconfig's context
    #[arg(long)]
    context: Option<String>,
}

/// Why there is no cluster to ask.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClusterError {
    #[error("read the kubeconfig")]
    Kubeconfig(#[source] Box<KubeconfigError>),
    #[error("connect to the API server")]
    Client(#[source] Box<kube::Error>),
    #[error("{0}/{1} names no Module")]
    Name(String, String),
    #[error("set up the program")]
    Runtime(#[source] std::io::Error),
}

impl ClusterArgs {
    /// A client, and the Module that is meant.
    pub(crate) async fn connect(&self, module: &str) -> Result<(Client, ModuleKey), ClusterError> {
        let (client, namespace) = self.client().await?;
        let key = ModuleKey::new(&namespace, module)
            .map_err(|_| ClusterError::Name(namespace.clone(), module.to_owned()))?;
        Ok((client, key))
    }

    /// A client, and the namespace that is meant.
    pub(crate) async fn client(&self) -> Result<(Client, String), ClusterError> {
        let failed = |source| ClusterError::Kubeconfig(Box::new(source));
        let kubeconfig = match &self.kubeconfig {
            Some(path) => Kubeconfig::read_from(path),
            None => Kubeconfig::read(),
        };
        let options = KubeConfigOptions { context: self.context.clone(), ..KubeConfigOptions::default() };
        let config =
            Config::from_custom_kubeconfig(kubeconfig.map_err(failed)?, &options).await.map_err(failed)?;
        let namespace = self.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        let client = Client::try_from(config).map_err(|source| ClusterError::Client(Box::new(source)))?;
        Ok((client, namespace))
    }
}

/// Runs what asks a cluster.
pub(crate) fn block_on<T>(work: impl Future<Output = T>) -> Result<T, ClusterError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    Ok(runtime.map_err(ClusterError::Runtime)?.block_on(work))
}

/// Whether the API server did not answer, or not this time: the same may work later.
pub(crate) fn is_silent(error: &kube::Error) -> bool {
    match error {
        kube::Error::Api(status) => status.code == 429 || status.code >= 500,
        _ => true,
    }
}
