//! The pod that runs on every node: its two containers, their privileges, and what each may see of the host.
//!
//! This table is the only place where these settings stand. The `DaemonSet` is made from it ([`daemon_set`]), and so are
//! the containers of test guests, so that what is tested is what is deployed.

mod daemon_set;

pub use daemon_set::{Images, api_token, daemon_set, pod_template};

/// The namespace of all that belongs to Tenon itself.
pub const NAMESPACE: &str = "tenon-system";
/// The `DaemonSet`'s name.
pub const DAEMON_SET: &str = "tenon-node";
/// The service account of the node's pod; only the agent gets its token.
pub const SERVICE_ACCOUNT: &str = "tenon-agent";
/// The audience of the token that the depot accepts.
pub const DEPOT_AUDIENCE: &str = "tenon-depot";
/// The `ConfigMap` with the depot's addresses and certificate authority.
pub const DEPOT_CONFIG_MAP: &str = "tenon-depot";
/// The `ConfigMap` with the public keys that orders are signed with.
pub const ORDER_KEYS_CONFIG_MAP: &str = "tenon-order-keys";
/// The directory that agent and loader share, with the loader's socket.
pub const RUN_DIR: &str = "/run/tenon";
/// The loader's store, on the host and in the container.
pub const STORE_DIR: &str = "/var/lib/tenon";
/// Where the kernel's own modules are, on the host and in the container.
pub const HOST_MODULES_DIR: &str = "/lib/modules";
/// Where the loader sees the kernel's firmware search path (`/sys/module/firmware_class/parameters`). Not below `/sys`:
/// a container's `/sys` is read-only, and usual `AppArmor` profiles refuse writes there.
pub const FIRMWARE_CLASS_DIR: &str = "/run/firmware_class";
/// Where the loader sees the public keys.
pub const ORDER_KEYS_DIR: &str = "/etc/tenon/order-keys";
/// Where the agent sees the depot's addresses and certificate authority.
pub const DEPOT_DIR: &str = "/etc/tenon/depot";
/// Where the agent finds its token for the depot.
pub const DEPOT_TOKEN_FILE: &str = "/var/run/secrets/tenon/token/depot";
/// Where the agent unpacks.
pub const AGENT_WORK_DIR: &str = "/tmp/tenon";

/// One container of the pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Container {
    /// Its name.
    pub name: &'static str,
    /// Its program, an absolute path in its image.
    pub program: &'static str,
    /// The program's arguments.
    pub args: &'static [&'static str],
    /// The user it runs as.
    pub user: i64,
    /// The group it runs as.
    pub group: i64,
    /// The capabilities it keeps, without the prefix `CAP_`; all others are dropped.
    pub capabilities: &'static [&'static str],
    /// Its `SELinux` type, where the host has `SELinux`.
    pub selinux_type: Option<&'static str>,
    /// Its environment.
    pub env: &'static [Env],
    /// What it sees beside its image.
    pub mounts: &'static [Mount],
    /// What the scheduler counts.
    pub requests: Resources,
    /// The most memory it may use. The loader has no limit: what a module's init allocates is charged to it.
    pub memory_limit: Option<&'static str>,
}

/// CPU and memory, as Kubernetes writes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resources {
    /// CPU, e.g. `10m`.
    pub cpu: &'static str,
    /// Memory, e.g. `16Mi`.
    pub memory: &'static str,
}

/// One variable of a container's environment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Env {
    /// Its name.
    pub name: &'static str,
    /// Who sets it.
    pub source: EnvSource,
}

/// Who sets a variable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EnvSource {
    /// The kubelet, to the name of the pod's node, because the pod asks for it.
    NodeName,
    /// The kubelet, to the API server's address, unasked.
    ApiServer,
}

/// Something that a container sees beside its image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mount {
    /// The volume's name; two mounts of one name are one volume.
    pub name: &'static str,
    /// Where it comes from.
    pub source: MountSource,
    /// Where the container sees it.
    pub path: &'static str,
    /// Whether the container may only read it.
    pub read_only: bool,
}

/// Where a mount comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MountSource {
    /// A directory of the host.
    HostPath {
        /// The directory.
        path: &'static str,
        /// Whether it is made when it does not exist; otherwise the pod waits for it.
        create: bool,
    },
    /// An empty directory that lives as long as the pod.
    EmptyDir {
        /// The most it may hold, as Kubernetes writes it.
        size_limit: &'static str,
    },
    /// The keys of a `ConfigMap` as files.
    ConfigMap {
        /// Its name.
        name: &'static str,
        /// Whether the pod starts without it.
        optional: bool,
    },
    /// A service account's token for the API server, with its certificate authority and the namespace's name: files
    /// `token`, `ca.crt` and `namespace`, as every client expects them.
    ApiToken,
    /// A service account's token for another audience.
    Token {
        /// The audience.
        audience: &'static str,
        /// The file's name.
        file: &'static str,
        /// The token's lifetime; the kubelet renews it in time.
        seconds: i64,
    },
}

const NODE_NAME: Env = Env { name: "NODE_NAME", source: EnvSource::NodeName };

const RUN: Mount = Mount {
    name: "run",
    source: MountSource::EmptyDir { size_limit: "1Mi" },
    path: RUN_DIR,
    read_only: false,
};

const HOST_MODULES: Mount = Mount {
    name: "host-modules",
    source: MountSource::HostPath { path: HOST_MODULES_DIR, create: false },
    path: HOST_MODULES_DIR,
    read_only: true,
};

/// Talks to the API server and the depot; holds no capability, and sees nothing of the host but the kernel's own modules,
/// which everybody may read: facts about the kernel are read off them.
pub const AGENT: Container = Container {
    name: "agent",
    program: "/tenon-agent",
    args: &[],
    user: 65531,
    group: 65531,
    capabilities: &[],
    selinux_type: None,
    env: &[
        NODE_NAME,
        Env { name: "KUBERNETES_SERVICE_HOST", source: EnvSource::ApiServer },
        Env { name: "KUBERNETES_SERVICE_PORT", source: EnvSource::ApiServer },
    ],
    mounts: &[
        RUN,
        HOST_MODULES,
        Mount {
            name: "work",
            source: MountSource::EmptyDir { size_limit: "2Gi" },
            path: AGENT_WORK_DIR,
            read_only: false,
        },
        Mount {
            name: "depot",
            // The operator makes it; until then the agent reports and waits.
            source: MountSource::ConfigMap { name: DEPOT_CONFIG_MAP, optional: true },
            path: DEPOT_DIR,
            read_only: true,
        },
        Mount {
            name: "api-token",
            source: MountSource::ApiToken,
            path: "/var/run/secrets/kubernetes.io/serviceaccount",
            read_only: true,
        },
        Mount {
            name: "depot-token",
            source: MountSource::Token { audience: DEPOT_AUDIENCE, file: "depot", seconds: 3600 },
            path: "/var/run/secrets/tenon/token",
            read_only: true,
        },
    ],
    requests: Resources { cpu: "10m", memory: "16Mi" },
    memory_limit: Some("64Mi"),
};

/// Loads modules; knows no network and no Kubernetes, and gets no token.
pub const LOADER: Container = Container {
    name: "loader",
    program: "/tenon-loader",
    args: &["serve"],
    // Modules expect to be loaded by root, and a granted capability reaches another user only through a file's
    // capabilities, which not every registry and snapshotter keeps.
    user: 0,
    group: 0,
    // SYSLOG: to read the kernel's reason for a refusal where `kernel.dmesg_restrict` is set.
    capabilities: &["SYS_MODULE", "SYSLOG"],
    selinux_type: Some("spc_t"),
    env: &[NODE_NAME],
    mounts: &[
        RUN,
        Mount {
            name: "store",
            source: MountSource::HostPath { path: STORE_DIR, create: true },
            path: STORE_DIR,
            read_only: false,
        },
        HOST_MODULES,
        Mount {
            name: "firmware-class",
            source: MountSource::HostPath { path: "/sys/module/firmware_class/parameters", create: false },
            path: FIRMWARE_CLASS_DIR,
            read_only: false,
        },
        Mount {
            name: "order-keys",
            source: MountSource::ConfigMap { name: ORDER_KEYS_CONFIG_MAP, optional: true },
            path: ORDER_KEYS_DIR,
            read_only: true,
        },
    ],
    requests: Resources { cpu: "5m", memory: "8Mi" },
    memory_limit: None,
};

/// The pod's containers, in the order in which they are started.
pub const CONTAINERS: [Container; 2] = [LOADER, AGENT];
