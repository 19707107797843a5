//! The table as Kubernetes reads it.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetSpec, DaemonSetUpdateStrategy, RollingUpdateDaemonSet};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{
    CONTAINERS, Container, DAEMON_SET, Env, EnvSource, Mount, MountSource, NAMESPACE, SERVICE_ACCOUNT,
};
use crate::labels;

/// The images of the pod's containers.
#[derive(Clone, Copy, Debug)]
pub struct Images<'a> {
    /// The agent's image.
    pub agent: &'a str,
    /// The loader's image.
    pub loader: &'a str,
}

impl Images<'_> {
    fn of(&self, container: &Container) -> String {
        let image = if container.name == super::LOADER.name { self.loader } else { self.agent };
        image.to_owned()
    }
}

/// The `DaemonSet` that runs the pod on every Linux node.
pub fn daemon_set(images: Images<'_>) -> DaemonSet {
    DaemonSet {
        metadata: ObjectMeta {
            name: Some(DAEMON_SET.to_owned()),
            namespace: Some(NAMESPACE.to_owned()),
            labels: Some(pod_labels()),
            ..ObjectMeta::default()
        },
        spec: Some(DaemonSetSpec {
            selector: LabelSelector { match_labels: Some(pod_labels()), ..LabelSelector::default() },
            template: pod_template(images),
            update_strategy: Some(DaemonSetUpdateStrategy {
                type_: Some("RollingUpdate".to_owned()),
                // A new pod takes over what is loaded, so an update interrupts nothing.
                rolling_update: Some(RollingUpdateDaemonSet {
                    max_unavailable: Some(IntOrString::String("10%".to_owned())),
                    ..RollingUpdateDaemonSet::default()
                }),
            }),
            ..DaemonSetSpec::default()
        }),
        ..DaemonSet::default()
    }
}

/// The pod itself.
pub fn pod_template(images: Images<'_>) -> core::PodTemplateSpec {
    core::PodTemplateSpec {
        metadata: Some(ObjectMeta { labels: Some(pod_labels()), ..ObjectMeta::default() }),
        spec: Some(core::PodSpec {
            service_account_name: Some(SERVICE_ACCOUNT.to_owned()),
            // The agent's token is mounted by name; a pod-wide one would reach the loader too.
            automount_service_account_token: Some(false),
            enable_service_links: Some(false),
            // It may serve the driver that the cluster's network needs.
            host_network: Some(true),
            dns_policy: Some("Default".to_owned()),
            priority_class_name: Some("system-node-critical".to_owned()),
            tolerations: Some(vec![core::Toleration {
                operator: Some("Exists".to_owned()),
                ..core::Toleration::default()
            }]),
            node_selector: Some(one("kubernetes.io/os", "linux")),
            security_context: Some(core::PodSecurityContext {
                seccomp_profile: Some(runtime_default()),
                ..core::PodSecurityContext::default()
            }),
            termination_grace_period_seconds: Some(10),
            containers: CONTAINERS.iter().map(|entry| container(entry, images.of(entry))).collect(),
            volumes: Some(volumes()),
            ..core::PodSpec::default()
        }),
    }
}

fn pod_labels() -> BTreeMap<String, String> {
    [(labels::APP_NAME, labels::PRODUCT), (labels::COMPONENT, "node")]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into()
}

fn container(entry: &Container, image: String) -> core::Container {
    core::Container {
        name: entry.name.to_owned(),
        image: Some(image),
        command: Some(vec![entry.program.to_owned()]),
        args: (!entry.args.is_empty()).then(|| owned(entry.args)),
        env: Some(entry.env.iter().filter_map(env_var).collect()),
        resources: Some(core::ResourceRequirements {
            requests: Some(
                [("cpu", entry.requests.cpu), ("memory", entry.requests.memory)]
                    .map(|(name, amount)| (name.to_owned(), Quantity(amount.to_owned())))
                    .into(),
            ),
            limits: entry
                .memory_limit
                .map(|limit| [("memory".to_owned(), Quantity(limit.to_owned()))].into()),
            ..core::ResourceRequirements::default()
        }),
        security_context: Some(security_context(entry)),
        // The last lines of a container that ended are worth more than nothing in `kubectl describe`.
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        volume_mounts: Some(entry.mounts.iter().map(volume_mount).collect()),
        ..core::Container::default()
    }
}

fn security_context(entry: &Container) -> core::SecurityContext {
    core::SecurityContext {
        allow_privilege_escalation: Some(false),
        capabilities: Some(core::Capabilities {
            drop: Some(vec!["ALL".to_owned()]),
            add: (!entry.capabilities.is_empty()).then(|| owned(entry.capabilities)),
        }),
        privileged: Some(false),
        read_only_root_filesystem: Some(true),
        run_as_user: Some(entry.user),
        run_as_group: Some(entry.group),
        run_as_non_root: Some(entry.user != 0),
        se_linux_options: entry.selinux_type.map(|type_| core::SELinuxOptions {
            type_: Some(type_.to_owned()),
            ..core::SELinuxOptions::default()
        }),
        seccomp_profile: Some(runtime_default()),
        ..core::SecurityContext::default()
    }
}

fn runtime_default() -> core::SeccompProfile {
    core::SeccompProfile { type_: "RuntimeDefault".to_owned(), ..core::SeccompProfile::default() }
}

/// The variable as the pod asks for it; `None` where the kubelet sets it unasked.
fn env_var(env: &Env) -> Option<core::EnvVar> {
    let source = match env.source {
        EnvSource::NodeName => core::EnvVarSource {
            field_ref: Some(core::ObjectFieldSelector {
                field_path: "spec.nodeName".to_owned(),
                ..core::ObjectFieldSelector::default()
            }),
            ..core::EnvVarSource::default()
        },
        EnvSource::ApiServer => return None,
    };
    Some(core::EnvVar { name: env.name.to_owned(), value_from: Some(source), ..core::EnvVar::default() })
}

fn volume_mount(mount: &Mount) -> core::VolumeMount {
    core::VolumeMount {
        name: mount.name.to_owned(),
        mount_path: mount.path.to_owned(),
        read_only: mount.read_only.then_some(true),
        ..core::VolumeMount::default()
    }
}

fn volumes() -> Vec<core::Volume> {
    let mounts = CONTAINERS.iter().flat_map(|entry| entry.mounts);
    let by_name: BTreeMap<_, _> = mounts.map(|mount| (mount.name, volume(mount))).collect();
    by_name.into_values().collect()
}

fn volume(mount: &Mount) -> core::Volume {
    let mut volume = core::Volume { name: mount.name.to_owned(), ..core::Volume::default() };
    match mount.source {
        MountSource::HostPath { path, create } => {
            volume.host_path = Some(core::HostPathVolumeSource {
                path: path.to_owned(),
                type_: Some(if create { "DirectoryOrCreate" } else { "Directory" }.to_owned()),
            });
        }
        MountSource::EmptyDir { size_limit } => {
            volume.empty_dir = Some(core::EmptyDirVolumeSource {
                size_limit: Some(Quantity(size_limit.to_owned())),
                ..core::EmptyDirVolumeSource::default()
            });
        }
        MountSource::ConfigMap { name, optional } => {
            volume.config_map = Some(core::ConfigMapVolumeSource {
                name: name.to_owned(),
                optional: Some(optional),
                ..core::ConfigMapVolumeSource::default()
            });
        }
        MountSource::ApiToken => volume.projected = Some(api_token()),
        MountSource::Token { audience, file, seconds } => {
            volume.projected = Some(projected(vec![token(Some(audience), file, seconds)]));
        }
    }
    volume
}

/// A service account's token for the API server, with what belongs to it: what the API server would mount by itself if
/// it were left to.
pub fn api_token() -> core::ProjectedVolumeSource {
    let authority = core::VolumeProjection {
        config_map: Some(core::ConfigMapProjection {
            name: "kube-root-ca.crt".to_owned(),
            items: Some(vec![core::KeyToPath {
                key: "ca.crt".to_owned(),
                path: "ca.crt".to_owned(),
                ..core::KeyToPath::default()
            }]),
            ..core::ConfigMapProjection::default()
        }),
        ..core::VolumeProjection::default()
    };
    let namespace = core::VolumeProjection {
        downward_api: Some(core::DownwardAPIProjection {
            items: Some(vec![core::DownwardAPIVolumeFile {
                path: "namespace".to_owned(),
                field_ref: Some(core::ObjectFieldSelector {
                    field_path: "metadata.namespace".to_owned(),
                    ..core::ObjectFieldSelector::default()
                }),
                ..core::DownwardAPIVolumeFile::default()
            }]),
        }),
        ..core::VolumeProjection::default()
    };
    projected(vec![token(None, "token", 3607), authority, namespace])
}

fn token(audience: Option<&str>, file: &str, seconds: i64) -> core::VolumeProjection {
    core::VolumeProjection {
        service_account_token: Some(core::ServiceAccountTokenProjection {
            audience: audience.map(str::to_owned),
            expiration_seconds: Some(seconds),
            path: file.to_owned(),
        }),
        ..core::VolumeProjection::default()
    }
}

fn projected(sources: Vec<core::VolumeProjection>) -> core::ProjectedVolumeSource {
    core::ProjectedVolumeSource { sources: Some(sources), ..core::ProjectedVolumeSource::default() }
}

fn one(key: &str, value: &str) -> BTreeMap<String, String> {
    [(key.to_owned(), value.to_owned())].into()
}

fn owned(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const IMAGES: Images<'_> = Images { agent: "registry.example/a:1", loader: "registry.example/l:1" };

    fn pod() -> core::PodSpec {
        pod_template(IMAGES).spec.expect("a pod")
    }

    fn container_named(name: &str) -> core::Container {
        pod().containers.into_iter().find(|container| container.name == name).expect("the container")
    }

    #[test]
    fn only_the_loader_holds_capabilities_and_only_two() {
        let kept = |name| {
            let capabilities =
                container_named(name).security_context.and_then(|context| context.capabilities);
            let capabilities = capabilities.expect("capabilities are named");
            assert_eq!(capabilities.drop, Some(vec!["ALL".to_owned()]));
            capabilities.add.unwrap_or_default()
        };
        assert_eq!(kept("loader"), ["SYS_MODULE", "SYSLOG"]);
        assert!(kept("agent").is_empty());
    }

    #[test]
    fn nothing_is_privileged_or_writable_and_the_host_is_shared_only_by_its_network() {
        let pod = pod();
        for container in &pod.containers {
            let context = container.security_context.clone().expect("a security context");
            assert_eq!(context.privileged, Some(false), "{}", container.name);
            assert_eq!(context.allow_privilege_escalation, Some(false), "{}", container.name);
            assert_eq!(context.read_only_root_filesystem, Some(true), "{}", container.name);
            assert_eq!(context.seccomp_profile, Some(runtime_default()), "{}", container.name);
        }
        assert_eq!((pod.host_network, pod.host_pid, pod.host_ipc), (Some(true), None, None));
        // In a user namespace of its own no capability loads a module.
        assert_eq!(pod.host_users, None);
    }

    #[test]
    fn the_loader_gets_no_token_and_the_agent_of_the_host_only_its_modules_to_read() {
        let pod = pod();
        assert_eq!(pod.automount_service_account_token, Some(false));
        let volumes = pod.volumes.expect("volumes");
        let sources = |name| -> Vec<(core::VolumeMount, &core::Volume)> {
            let mounts = container_named(name).volume_mounts.expect("mounts");
            let volume = |mount: core::VolumeMount| {
                let volume = volumes.iter().find(|volume| volume.name == mount.name);
                (mount, volume.expect("every mount has its volume"))
            };
            mounts.into_iter().map(volume).collect()
        };
        let is_identity = |volume: &core::Volume| volume.projected.is_some() || volume.secret.is_some();
        assert!(!sources("loader").iter().any(|(_, volume)| is_identity(volume)));
        let of_the_host: Vec<_> = sources("agent")
            .into_iter()
            .filter_map(|(mount, volume)| volume.host_path.as_ref().zip(Some(mount)))
            .collect();
        let [(host, mount)] = of_the_host.as_slice() else { panic!("{of_the_host:?}") };
        assert_eq!((host.path.as_str(), mount.read_only), ("/lib/modules", Some(true)));
    }

    #[test]
    fn mounts_of_one_name_are_one_volume() {
        let mut seen: BTreeMap<&str, MountSource> = BTreeMap::new();
        for mount in CONTAINERS.iter().flat_map(|container| container.mounts) {
            let source = seen.entry(mount.name).or_insert(mount.source);
            assert_eq!(*source, mount.source, "{}", mount.name);
        }
    }

    #[test]
    fn the_selector_finds_the_pods() {
        let spec = daemon_set(IMAGES).spec.expect("a spec");
        let labels = spec.template.metadata.and_then(|metadata| metadata.labels);
        assert_eq!(spec.selector.match_labels, labels);
    }
}
