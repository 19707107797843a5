//! The command line of each component, in one place to be read and compared.

use std::path::Path;
use std::process::Command;

use super::Ports;
use super::binaries::{Binaries, Program};
use super::pki::Pki;

pub(super) const ADMIN: &str = "admin.kubeconfig";
pub(super) const MANAGER: &str = "kube-controller-manager.kubeconfig";
pub(super) const SCHEDULER: &str = "kube-scheduler.kubeconfig";
pub(super) const AUDIT_POLICY: &str = "audit-policy.yaml";
pub(super) const ETCD_DATA: &str = "etcd";
pub(super) const AUDIT_LOG: &str = "audit.log";

/// The issuer of ServiceAccount tokens, as kubeadm names it.
pub(super) const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// Leaves out what writes to Nodes and to Pods of nodes that say nothing.
pub(super) const NO_NODES: &str = "--controllers=*,-node-lifecycle-controller,-taint-eviction-controller,-ttl-controller,-pod-garbage-collector-controller";

/// What is made for each of a thousand nodes does not take minutes.
pub(super) const FAST: [&str; 2] = ["--kube-api-qps=500", "--kube-api-burst=500"];

/// New Nodes are not tainted as not ready: nobody would take the taint away.
pub(super) const NO_TAINTS: &str = "--disable-admission-plugins=TaintNodesByCondition";

pub(super) fn etcd(binaries: &Binaries, folder: &Path, ports: Ports) -> Command {
    let client = format!("http://127.0.0.1:{}", ports.etcd);
    let peer = format!("http://127.0.0.1:{}", ports.peer);
    let mut command = Command::new(binaries.program(Program::Etcd));
    command
        .args(["--name", "lab", "--log-level", "warn"])
        // The data may die with the lab.
        .arg("--unsafe-no-fsync")
        .arg("--data-dir")
        .arg(folder.join(ETCD_DATA))
        .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
        .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
        .args(["--initial-cluster", &format!("lab={peer}")]);
    command
}

pub(super) fn apiserver(binaries: &Binaries, pki: &Pki, folder: &Path, ports: Ports) -> Command {
    let mut command = Command::new(binaries.program(Program::KubeApiserver));
    command
        .arg(format!("--etcd-servers=http://127.0.0.1:{}", ports.etcd))
        .args(["--bind-address=127.0.0.1", "--advertise-address=127.0.0.1"])
        .arg(format!("--secure-port={}", ports.api))
        .args(["--endpoint-reconciler-type=none", "--service-cluster-ip-range=10.96.0.0/16"])
        .args(["--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction"])
        .args(["--allow-privileged", "--profiling=false"])
        .args([
            flag("--tls-cert-file", &pki.server_cert()),
            flag("--tls-private-key-file", &pki.server_key()),
        ])
        .arg(flag("--client-ca-file", &pki.ca_cert()))
        // For `kubectl logs`; a node's name is known to nobody but the API server.
        .arg("--kubelet-preferred-address-types=InternalIP")
        .arg(flag("--kubelet-client-certificate", &pki.kubelet_client_cert()))
        .arg(flag("--kubelet-client-key", &pki.kubelet_client_key()))
        .arg(format!("--service-account-issuer={ISSUER}"))
        .arg(flag("--service-account-key-file", &pki.account_public_key()))
        .arg(flag("--service-account-signing-key-file", &pki.account_key()))
        .arg(flag("--audit-policy-file", &folder.join(AUDIT_POLICY)))
        .arg(flag("--audit-log-path", &folder.join(AUDIT_LOG)))
        // Written before the answer goes out, so that a test finds its own request.
        .arg("--audit-log-mode=blocking");
    command
}

pub(super) fn controller_manager(binaries: &Binaries, pki: &Pki, folder: &Path) -> Command {
    let mut command = Command::new(binaries.program(Program::KubeControllerManager));
    command
        .arg(flag("--kubeconfig", &folder.join(MANAGER)))
        .args(["--leader-elect=false", "--secure-port=0", "--use-service-account-credentials"])
        // Nodes that are objects alone have no kubelet that reports; those of tests do not fall silent unless they say so.
        .args(["--node-monitor-grace-period=1h", "--node-startup-grace-period=1h"])
        .arg(flag("--root-ca-file", &pki.ca_cert()))
        .arg(flag("--service-account-private-key-file", &pki.account_key()));
    command
}

pub(super) fn scheduler(binaries: &Binaries, folder: &Path) -> Command {
    let mut command = Command::new(binaries.program(Program::KubeScheduler));
    command
        .arg(flag("--kubeconfig", &folder.join(SCHEDULER)))
        .args(["--leader-elect=false", "--secure-port=0"]);
    command
}

fn flag(name: &str, path: &Path) -> String {
    format!("{name}={}", path.display())
}
