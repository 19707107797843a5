//! What an administrator writes for containerd, the network plugins and kubelet, wherever the node is: in a guest
//! ([`crate::worker`]) or on the host ([`crate::host_node`]).

use k8s_openapi::api::core::v1::NodeStatus;
use serde_json::{Value, json};

/// Where containerd's plugin for kubelets finds what.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Runtime<'a> {
    /// The image that holds a pod's namespaces.
    pub(crate) pause: &'a str,
    /// A folder with a folder for every registry that is not to be spoken to by its own name over TLS.
    pub(crate) registries: &'a str,
    /// The network plugins' programs.
    pub(crate) plugins: &'a str,
    /// The networks.
    pub(crate) networks: &'a str,
    /// Further lines that concern containerd as a whole.
    pub(crate) top: &'a str,
    /// Further lines for the plugin.
    pub(crate) cri: &'a str,
}

/// Whether a kubelet says that its node is Ready, or what it says instead.
pub(crate) fn is_ready(status: &NodeStatus) -> Result<(), String> {
    let mut conditions = status.conditions.iter().flatten();
    let ready = conditions.find(|condition| condition.type_ == "Ready").ok_or("it reports nothing")?;
    if ready.status == "True" { Ok(()) } else { Err(ready.message.clone().unwrap_or_default()) }
}

/// containerd's configuration.
pub(crate) fn containerd(runtime: &Runtime<'_>) -> String {
    let Runtime { pause, registries, plugins, networks, top, cri } = runtime;
    format!(
        r#"version = 2
{top}[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
{cri}  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = "{registries}"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{plugins}"
    conf_dir = "{networks}"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
"#
    )
}

/// A registry's `hosts.toml`: where it answers instead.
pub(crate) fn mirror(url: &str) -> String {
    format!("server = \"{url}\"\n\n[host.\"{url}\"]\n  capabilities = [\"pull\", \"resolve\"]\n")
}

/// Pods on a bridge, with such addresses (of the plugin `host-local`). As a gateway the bridge gets its own address from the
/// plugin, which also lets the machine forward.
pub(crate) fn network(bridge: &str, addresses: &Value, gateway: bool) -> Value {
    json!({
        "cniVersion": "1.0.0",
        "name": "lab",
        "plugins": [{
            "type": "bridge",
            "bridge": bridge,
            "isGateway": gateway,
            "hairpinMode": true,
            "ipam": addresses,
        }],
    })
}

/// kubelet's configuration, trusting this authority's file.
pub(crate) fn kubelet(authority: &str) -> Value {
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "cgroupDriver": "cgroupfs",
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "authentication": {
            "anonymous": { "enabled": false },
            "webhook": { "enabled": true },
            "x509": { "clientCAFile": authority },
        },
        "authorization": { "mode": "Webhook" },
        // Changed ConfigMaps come with a pod's next turn: a minute by default, too long for a test.
        "syncFrequency": "5s",
        "runtimeRequestTimeout": "10m",
        // Not the disk: it is the host's, or there is little on it, and nothing to clear away.
        "evictionHard": { "memory.available": "16Mi" },
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
    })
}
