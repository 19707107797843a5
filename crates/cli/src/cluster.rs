//! Which cluster, which namespace, and as whom: kubectl's own flags, and what they default to.

use std::path::PathBuf;
use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config};
use tenon_order::ModuleKey;

use crate::proxy;

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
    /// The kubeconfig's cluster, in place of the context's
    #[arg(long)]
    cluster: Option<String>,
    /// The kubeconfig's user, in place of the context's
    #[arg(long)]
    user: Option<String>,
    /// Ask as somebody else
    #[arg(long = "as", value_name = "USER")]
    impersonate: Option<String>,
    /// Ask as a member of this group; may be given several times, with --as
    #[arg(long = "as-group", value_name = "GROUP", requires = "impersonate")]
    groups: Vec<String>,
    /// For how long an answer is waited for: 500ms, 30s, 2m, 1h, or seconds; 0 is for ever
    #[arg(long, value_name = "DURATION", value_parser = timeout)]
    request_timeout: Option<Duration>,
}

/// As kubectl reads it: one number with its unit, or without one of seconds.
fn timeout(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no duration: give 500ms, 30s, 2m, 1h, or seconds");
    let digits = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u32 = number.parse().map_err(|_| wrong())?;
    let unit = match unit {
        "ms" => Duration::from_millis(1),
        "" | "s" => Duration::from_secs(1),
        "m" => Duration::from_mins(1),
        "h" => Duration::from_hours(1),
        _ => return Err(wrong()),
    };
    Ok(unit.saturating_mul(number))
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
        let options = KubeConfigOptions {
            context: self.context.clone(),
            cluster: self.cluster.clone(),
            user: self.user.clone(),
        };
        let kubeconfig = kubeconfig.map_err(failed)?;
        let named = proxy::named(&kubeconfig, &options);
        let mut config = Config::from_custom_kubeconfig(kubeconfig, &options).await.map_err(failed)?;
        config.proxy_url =
            proxy::to_server(named.as_deref(), |name| std::env::var(name).ok(), &config.cluster_url)
                .map_err(|source| failed(KubeconfigError::ParseProxyUrl(source)))?;
        if let Some(user) = &self.impersonate {
            config.auth_info.impersonate = Some(user.clone());
            config.auth_info.impersonate_groups =
                Some(self.groups.clone()).filter(|groups| !groups.is_empty());
        }
        if let Some(timeout) = self.request_timeout {
            let timeout = Some(timeout).filter(|timeout| !timeout.is_zero());
            (config.connect_timeout, config.read_timeout, config.write_timeout) = (timeout, timeout, timeout);
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_as_kubectl_reads_them() {
        for (text, millis) in
            [("0", 0), ("5", 5_000), ("500ms", 500), ("30s", 30_000), ("2m", 120_000), ("1h", 3_600_000)]
        {
            assert_eq!(timeout(text), Ok(Duration::from_millis(millis)));
        }
        for text in ["", "s", "5d", "-1s", "1m30s", "99999999999"] {
            assert!(timeout(text).is_err(), "{text}");
        }
    }
}
