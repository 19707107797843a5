//! The settings of the host's kubelet and containerd, and the script that shuts them in.

use std::path::Path;

use serde_json::json;

use super::traces::{ADDRESS, BRIDGE, CGROUP, SUBNET};
use crate::node_settings::{self, Runtime};
use crate::worker::settings::{PAUSE, REGISTRY};

pub(super) const AUTHORITY: &str = "ca.crt";
pub(super) const KUBECONFIG: &str = "kubelet.kubeconfig";
pub(super) const START: &str = "start";
pub(super) const REGISTRIES: &str = "registries";

/// The programs of a node, by the folders that hold them.
#[derive(Debug, Clone)]
pub(super) struct Programs {
    /// For `PATH`.
    pub(super) folders: Vec<String>,
    /// What runc needs beside the C library.
    pub(super) libraries: String,
    /// The network plugins.
    pub(super) plugins: String,
}

/// Paths below the node's folder and contents of everything that does not hold a key.
pub(super) fn files(
    folder: &Path,
    node: &str,
    kubelet_port: u16,
    programs: &Programs,
) -> Vec<(&'static str, String)> {
    let at = |name: &str| folder.join(name).display().to_string();
    vec![
        ("containerd.toml", containerd(&at, programs)),
        ("networks/10-lab.conflist", network()),
        ("kubelet.yaml", kubelet(&at, kubelet_port)),
        (START, start(&at, node, programs)),
    ]
}

/// Where containerd asks when an image's name begins with `name`: path below the node's folder, and content.
pub(super) fn registry(name: &str, url: &str) -> (String, String) {
    (format!("{REGISTRIES}/{name}/hosts.toml"), node_settings::mirror(url))
}

fn containerd(at: &impl Fn(&str) -> String, programs: &Programs) -> String {
    node_settings::containerd(&Runtime {
        pause: &format!("{REGISTRY}/{PAUSE}"),
        registries: &at(REGISTRIES),
        plugins: &programs.plugins,
        networks: &at("networks"),
        top: &format!("root = \"{}\"\noom_score = 0\n", at("containerd")),
        // A machine that is a guest or a container itself may not be allowed to shield anything from the OOM killer.
        cri: "  restrict_oom_score_adj = true\n",
    })
}

/// The bridge is there before the first pod: as a gateway of the plugin's it would have the host forward packets.
fn network() -> String {
    let addresses = json!({
        "type": "host-local",
        "ranges": [[{ "subnet": SUBNET, "gateway": ADDRESS }]],
        "routes": [{ "dst": "0.0.0.0/0" }],
    });
    node_settings::network(BRIDGE, &addresses, false).to_string()
}

fn kubelet(at: &impl Fn(&str) -> String, port: u16) -> String {
    let mut settings = node_settings::kubelet(&at(AUTHORITY));
    let own = json!({
        "address": ADDRESS,
        "port": port,
        "healthzPort": 0,
        "cgroupRoot": format!("/{CGROUP}"),
        // Many machines that are containers or small guests still have the first version.
        "failCgroupV1": false,
        "failSwapOn": false,
        "makeIPTablesUtilChains": false,
        "oomScoreAdj": 0,
        // They are not the host's own: see `start`.
        "protectKernelDefaults": true,
        "podLogsDir": at("pods"),
        "volumePluginDir": at("volume-plugins"),
    });
    if let (Some(settings), Some(own)) = (settings.as_object_mut(), own.as_object()) {
        settings.extend(own.clone());
    }
    settings.to_string()
}

/// Runs as the first process of a PID namespace, in a mount namespace: with it ends every process that it or a container
/// began, and every mount. What is written to the places that cannot be configured goes to memory; the kernel settings
/// that kubelet insists on are plain files that lie over the real ones.
fn start(at: &impl Fn(&str) -> String, node: &str, programs: &Programs) -> String {
    let (path, libraries) = (programs.folders.join(":"), &programs.libraries);
    let (containerd, containerd_log) = (at("containerd.toml"), at("containerd.log"));
    let (kubelet, kubelet_log) = (at("kubelet.yaml"), at("kubelet.log"));
    let (kubeconfig, root) = (at(KUBECONFIG), at("kubelet"));
    format!(
        "set -e
mount --make-rshared /
mount -t tmpfs -o mode=755 lab /run
for name in lib log; do
  mkdir -p /run/lab/$name/upper /run/lab/$name/work
  mount -t overlay -o lowerdir=/var/$name,upperdir=/run/lab/$name/upper,workdir=/run/lab/$name/work lab /var/$name
done
while read -r setting value; do
  echo $value >/run/lab/value-$value
  mount --bind /run/lab/value-$value /proc/sys/$setting
done <<END
vm/overcommit_memory 1
vm/panic_on_oom 0
kernel/panic 10
kernel/panic_on_oops 1
kernel/keys/root_maxkeys 1000000
kernel/keys/root_maxbytes 25000000
END
export PATH='{path}':$PATH LD_LIBRARY_PATH='{libraries}'
trap 'exit 1' TERM
serve() {{
  log=$1; shift
  (
    \"$@\" >>$log 2>&1 || true
    echo \"$1 ended\"
    kill 1
  ) &
}}
serve '{containerd_log}' containerd --config '{containerd}' --log-level warn
serve '{kubelet_log}' kubelet --config '{kubelet}' --kubeconfig '{kubeconfig}' --root-dir '{root}' \\
  --hostname-override {node} --node-ip {ADDRESS} --v 1
wait
"
    )
}
