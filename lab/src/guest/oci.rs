//! The node pod's table as runc reads it: what a kubelet and containerd's CRI plugin would make of the same pod.
//!
//! What the pod does not say is taken from containerd's defaults (pkg/cri/server, `oci` package): mounts, masked paths,
//! device rules, namespaces of a pod on the host's network.

use serde_json::{Value, json};
use tenon_api::node_pod::{Container, EnvSource, Mount, MountSource};

use super::protocol::VOLUMES;
use super::seccomp::Profile;

/// What a kubelet knows when it starts a container.
#[derive(Debug, Clone, Copy)]
pub struct Placement<'a> {
    /// The node's name.
    pub node: &'a str,
    /// The API server's port on the host; the host is [`HOST`].
    pub api_port: u16,
    /// The default seccomp profile.
    pub seccomp: &'a Profile,
}

/// The host machine, seen from a guest.
pub const HOST: &str = "10.0.2.2";

/// The runtime's configuration of one container.
pub fn config(container: &Container, placement: Placement<'_>) -> Value {
    let capabilities: Vec<String> = container.capabilities.iter().map(|name| format!("CAP_{name}")).collect();
    let mounts: Vec<Value> = default_mounts().into_iter().chain(kubelet_mounts(container)).collect();
    let namespaces = ["pid", "ipc", "mount", "cgroup"].map(|kind| json!({ "type": kind }));
    json!({
        "ociVersion": "1.0.2",
        "process": process(container, placement, &capabilities),
        "root": { "path": "rootfs", "readonly": true },
        "mounts": mounts,
        "linux": {
            // Host network: no namespace of its own for network and host name.
            "namespaces": namespaces,
            "cgroupsPath": format!("/kubepods/tenon-node/{}", container.name),
            "resources": {
                // runc itself adds the harmless ones: null, zero, full, random, urandom, tty, ptmx.
                "devices": [{ "allow": false, "access": "rwm" }],
                "memory": container.memory_limit.and_then(bytes).map(|limit| json!({ "limit": limit })),
            },
            "maskedPaths": MASKED,
            "readonlyPaths": READ_ONLY,
            "seccomp": placement.seccomp.resolve(&capabilities),
        },
    })
}

/// Where the volume behind a mount lies in the guest.
pub fn source(mount: &Mount) -> String {
    match mount.source {
        MountSource::HostPath { path, .. } => path.to_owned(),
        MountSource::EmptyDir { .. }
        | MountSource::ConfigMap { .. }
        | MountSource::ApiToken
        | MountSource::Token { .. } => format!("{VOLUMES}/{}", mount.name),
    }
}

const MASKED: &[&str] = &[
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];

const READ_ONLY: &[&str] = &["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

fn process(container: &Container, placement: Placement<'_>, capabilities: &[String]) -> Value {
    let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned();
    let variables = container.env.iter().map(|env| {
        let value = match (env.source, env.name) {
            (EnvSource::NodeName, _) => placement.node.to_owned(),
            (EnvSource::ApiServer, "KUBERNETES_SERVICE_PORT") => placement.api_port.to_string(),
            (EnvSource::ApiServer, _) => HOST.to_owned(),
        };
        format!("{}={value}", env.name)
    });
    let program = std::iter::once(&container.program).chain(container.args);
    json!({
        "terminal": false,
        "user": { "uid": container.user, "gid": container.group },
        "args": program.collect::<Vec<_>>(),
        "env": std::iter::once(path).chain(variables).collect::<Vec<_>>(),
        "cwd": "/",
        // None inheritable, none ambient: a user other than root starts without any.
        "capabilities": { "bounding": capabilities, "effective": capabilities, "permitted": capabilities },
        "noNewPrivileges": true,
        "oomScoreAdj": -997,
    })
}

fn default_mounts() -> Vec<Value> {
    let mount = |target: &str, kind: &str, source: &str, options: &[&str]| json!({ "destination": target, "type": kind, "source": source, "options": options });
    vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        mount("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
        mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
        mount("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", "ro"]),
    ]
}

fn kubelet_mounts(container: &Container) -> Vec<Value> {
    let bind = |target: &str, source: &str, access: &str| json!({ "destination": target, "type": "bind", "source": source, "options": ["rbind", "rprivate", access] });
    let files = ["/etc/hosts", "/etc/hostname", "/etc/resolv.conf"].map(|path| bind(path, path, "rw"));
    let mounts = container
        .mounts
        .iter()
        .map(|mount| bind(mount.path, &source(mount), if mount.read_only { "ro" } else { "rw" }));
    files.into_iter().chain(mounts).collect()
}

/// A whole number of bytes as Kubernetes writes it.
fn bytes(quantity: &str) -> Option<u64> {
    let digits = quantity.find(|char: char| !char.is_ascii_digit()).unwrap_or(quantity.len());
    let (number, unit) = quantity.split_at(digits);
    let shift = match unit {
        "" => 0,
        "Ki" => 10,
        "Mi" => 20,
        "Gi" => 30,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use tenon_api::node_pod::{AGENT, LOADER};

    use super::*;

    fn made(container: &Container) -> Value {
        let seccomp = Profile::parse(r#"{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": []}"#).unwrap();
        config(container, Placement { node: "n1", api_port: 6443, seccomp: &seccomp })
    }

    fn bind<'a>(config: &'a Value, target: &str) -> &'a Value {
        let mounts = config["mounts"].as_array().unwrap();
        mounts.iter().find(|mount| mount["destination"] == target).unwrap()
    }

    #[test]
    fn the_loader_keeps_two_capabilities_and_gets_no_token() {
        let config = made(&LOADER);
        let kept = json!(["CAP_SYS_MODULE", "CAP_SYSLOG"]);
        for set in ["bounding", "effective", "permitted"] {
            assert_eq!(config["process"]["capabilities"][set], kept);
        }
        assert_eq!(config["process"]["capabilities"].get("ambient"), None);
        assert_eq!(config["process"]["user"]["uid"], 0);
        assert_eq!(config["root"]["readonly"], true);
        assert_eq!(bind(&config, "/lib/modules")["options"][2], "ro");
        assert_eq!(bind(&config, "/run/firmware_class")["source"], "/sys/module/firmware_class/parameters");
        assert!(!config["mounts"].to_string().contains("serviceaccount"));
        assert_eq!(config["linux"]["resources"]["memory"], Value::Null);
    }

    #[test]
    fn the_agent_is_nobody_and_shares_one_directory_with_the_loader() {
        let (agent, loader) = (made(&AGENT), made(&LOADER));
        assert_eq!(agent["process"]["capabilities"]["bounding"], json!([]));
        assert_eq!(agent["process"]["noNewPrivileges"], true);
        assert_eq!(bind(&agent, "/run/tenon"), bind(&loader, "/run/tenon"));
        let env = agent["process"]["env"].as_array().unwrap();
        for expected in ["NODE_NAME=n1", "KUBERNETES_SERVICE_HOST=10.0.2.2", "KUBERNETES_SERVICE_PORT=6443"] {
            assert!(env.contains(&json!(expected)), "{env:?}");
        }
        assert_eq!(agent["linux"]["resources"]["memory"]["limit"], 64 << 20);
    }

    #[test]
    fn quantities_are_bytes() {
        assert_eq!(bytes("64Mi"), Some(64 << 20));
        assert_eq!(bytes("10"), Some(10));
        assert_eq!(bytes("1.5Gi"), None);
    }
}
