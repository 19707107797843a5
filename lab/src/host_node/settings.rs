//! The settings of the host's kubelet and containerd, and the script that shuts them in.

use std::path::Path;

use serde_json::json;

use super::traces::{ADDRESS, BRIDGE, CGROUP, SUBNET};
use crate::node_settings::{self, Runtime};
use crate::registry::User;
use crate::worker::settings::{PAUSE, REGISTRY};

pub(super) const AUTHORITY: &str = "ca.crt";
pub(super) const KUBECONFIG: &str = "kubelet.kubeconfig";
pub(super) const START: &str = "start";
pub(super) const REGISTRIES: &str = "registries";
const PROVIDERS: &str = "providers";
const PROVIDERS_FILE: &str = "providers.json";

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

/// Credentials for a registry that the kubelet gets from a program of its own (a credential provider).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    /// `host:port`, as images' names begin.
    pub registry: String,
    /// Who the kubelet is there.
    pub user: User,
}

/// What a node is made of.
#[derive(Debug, Clone, Copy)]
pub(super) struct NodeSettings<'a> {
    pub(super) name: &'a str,
    pub(super) port: u16,
    pub(super) programs: &'a Programs,
    pub(super) credentials: &'a [Credentials],
}

/// Paths below the node's folder and contents of everything that does not hold a key.
pub(super) fn files(folder: &Path, node: &NodeSettings<'_>) -> Vec<(&'static str, String)> {
    let NodeSettings { name: _, port: kubelet_port, programs, credentials: _ } = *node;
    let at = |name: &str| folder.join(name).display().to_string();
    vec![
        ("containerd.toml", containerd(&at, programs)),
        ("networks/10-lab.conflist", network()),
        ("kubelet.yaml", kubelet(&at, kubelet_port)),
        (START, start(&at, node)),
    ]
}

/// The kubelet's credential providers: their configuration, and the programs that it runs.
pub(super) fn providers(credentials: &[Credentials]) -> Vec<(String, String)> {
    let mut files = Vec::new();
    let mut providers = Vec::new();
    for (number, Credentials { registry, user }) in credentials.iter().enumerate() {
        let name = format!("provider-{number}");
        let answer = json!({
            "kind": "CredentialProviderResponse",
            "apiVersion": "credentialprovider.kubelet.k8s.io/v1",
            "cacheKeyType": "Registry",
            "auth": { registry: { "username": user.name, "password": user.password } },
        });
        let program = format!("#!/bin/sh\ncat >/dev/null\ncat <<'END'\n{answer}\nEND\n");
        files.push((format!("{PROVIDERS}/{name}"), program));
        providers.push(json!({
            "name": name,
            "matchImages": [registry],
            "defaultCacheDuration": "0s",
            "apiVersion": "credentialprovider.kubelet.k8s.io/v1",
        }));
    }
    if !providers.is_empty() {
        let configuration = json!({
            "apiVersion": "kubelet.config.k8s.io/v1",
            "kind": "CredentialProviderConfig",
            "providers": providers,
        });
        files.push((PROVIDERS_FILE.to_owned(), configuration.to_string()));
    }
    files
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
        // How soon it is noticed that a volume is full: after a minute by default.
        "volumeStatsAggPeriod": "5s",
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
fn start(at: &impl Fn(&str) -> String, node: &NodeSettings<'_>) -> String {
    let NodeSettings { name: node, port: _, programs, credentials } = *node;
    let providers = if credentials.is_empty() {
        String::new()
    } else {
        let (file, folder) = (at(PROVIDERS_FILE), at(PROVIDERS));
        format!("--image-credential-provider-config '{file}' --image-credential-provider-bin-dir '{folder}'")
    };
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
  --hostname-override {node} --node-ip {ADDRESS} --v 1 {providers}
wait
"
    )
}
