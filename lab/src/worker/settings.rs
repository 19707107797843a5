//! What an administrator writes on a worker: the settings of containerd, the network plugins, kubelet and kube-proxy, and
//! the line that starts them.

use serde_json::json;

use crate::guest::oci::HOST;
use crate::node_settings::{self, Runtime};

/// The registry that the manifests in `deploy/` name. On a worker it is a mirror's name: the lab's own registry answers.
pub const REGISTRY: &str = "registry.tenon.dev";
/// The image that holds a pod's namespaces.
pub const PAUSE: &str = "pause:lab";
/// The pods' addresses on a worker.
const PODS: &str = "10.244.0.0/24";
/// The addresses of Services begin so; the first is the API server's.
pub const API_SERVICE: &str = "10.96.0.1";

/// Where files go.
pub(super) const KUBELET_CONFIG: &str = "/etc/kubernetes/kubelet.yaml";
pub(super) const KUBELET_KUBECONFIG: &str = "/etc/kubernetes/kubelet.kubeconfig";
pub(super) const PROXY_CONFIG: &str = "/etc/kubernetes/kube-proxy.yaml";
pub(super) const PROXY_KUBECONFIG: &str = "/etc/kubernetes/kube-proxy.kubeconfig";
pub(super) const AUTHORITY: &str = "/etc/kubernetes/ca.crt";
pub(super) const START: &str = "/etc/start-services";

/// Paths and contents of everything that does not hold a key, for a node and the registry's port on the host.
pub(super) fn files(node: &str, registry_port: u16) -> Vec<(String, String)> {
    let mirror = format!("http://{HOST}:{registry_port}");
    vec![
        ("/etc/containerd/config.toml".to_owned(), containerd()),
        (format!("/etc/containerd/certs.d/{REGISTRY}/hosts.toml"), node_settings::mirror(&mirror)),
        // By its own name it would be asked by TLS.
        (
            format!("/etc/containerd/certs.d/{HOST}:{registry_port}/hosts.toml"),
            node_settings::mirror(&mirror),
        ),
        ("/etc/cni/net.d/10-lab.conflist".to_owned(), network()),
        (KUBELET_CONFIG.to_owned(), kubelet()),
        (PROXY_CONFIG.to_owned(), kube_proxy(node)),
        (START.to_owned(), start(node)),
    ]
}

fn containerd() -> String {
    node_settings::containerd(&Runtime {
        pause: &format!("{REGISTRY}/{PAUSE}"),
        registries: "/etc/containerd/certs.d",
        plugins: "/usr/lib/cni",
        networks: "/etc/cni/net.d",
        top: "",
        cri: "  enable_cdi = true\n",
    })
}

fn network() -> String {
    let addresses = json!({
        "type": "host-local",
        "ranges": [[{ "subnet": PODS }]],
        "routes": [{ "dst": "0.0.0.0/0" }],
    });
    node_settings::network("cni0", &addresses, true).to_string()
}

/// JSON is YAML.
fn kubelet() -> String {
    node_settings::kubelet(AUTHORITY).to_string()
}

fn kube_proxy(node: &str) -> String {
    json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "clusterCIDR": PODS,
        "hostnameOverride": node,
        "clientConnection": { "kubeconfig": PROXY_KUBECONFIG },
        // As the kernel has it.
        "conntrack": { "maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s" },
    })
    .to_string()
}

/// What an init system does at boot: folders on the disk that lasts, pods' way out, and the services, each started again
/// when it ends.
fn start(node: &str) -> String {
    format!(
        "set -e
for name in containerd kubelet; do
  mkdir -p /disk/$name /var/lib/$name
  mount --bind /disk/$name /var/lib/$name
done
mount --make-rshared /
echo 1 >/proc/sys/net/ipv4/ip_forward
nft -f - <<END
table ip lab {{
  chain out {{
    type nat hook postrouting priority srcnat;
    ip saddr {PODS} ip daddr != {PODS} masquerade
  }}
}}
END
serve() {{
  name=$1; shift
  (
    while :; do
      \"$@\"
      echo \"$name: ended\"
      sleep 1
    done
  ) </dev/null >/dev/console 2>&1 &
}}
serve containerd containerd --log-level warn
serve kubelet kubelet --config {KUBELET_CONFIG} --kubeconfig {KUBELET_KUBECONFIG} --hostname-override {node} \\
  --node-ip 10.0.2.15 --v 1
serve kube-proxy kube-proxy --config {PROXY_CONFIG} --v 1
"
    )
}
