//! The `DaemonSet` of a Module's plugin, as a value.
//!
//! It is KMM's in all that others see of it: labels, node selector, names of containers and volumes, privileges. It differs where
//! KMM's does harm: its name follows from what it is for, so that there is one for each Module, role and version and no selector ever
//! has to change; its pods carry no finalizer; a DRA driver's pods have a network of their own and no probe but the user's.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetSpec};
use k8s_openapi::api::core::v1::{
    Container, EnvVar, EnvVarSource, HostPathVolumeSource, LocalObjectReference, ObjectFieldSelector,
    PodSpec, PodTemplateSpec, SecurityContext, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, OwnerReference};
use kube::core::ObjectMeta;
use kube::{Resource as _, ResourceExt as _};
use tenon_api::labels::{self, LabelKind};
use tenon_api::module::CommonContainer;
use tenon_api::{Module, labels::annotation};
use tenon_order::Digest;

use super::{Role, claim};
use crate::node;

/// What is not to be evicted for the sake of others.
const PRIORITY: &str = "system-node-critical";
/// Where a driver that is made for KMM expects to be asked for its health. Nobody asks there but a probe of the user's.
const HEALTH_PORT: &str = "51515";
/// Hexadecimal digits at the end of a name.
const NAME_HASH: usize = 10;
/// The longest name: pods are named after it.
const LONGEST_NAME: usize = 57;

/// A directory of the host that every container of a role sees.
struct HostDirectory {
    volume: &'static str,
    path: &'static str,
    /// What the kubelet has made, and what a runtime may not have made yet.
    kind: &'static str,
}

const DEVICE_PLUGINS: [HostDirectory; 1] = [HostDirectory {
    volume: "kubelet-device-plugins",
    path: "/var/lib/kubelet/device-plugins",
    kind: "Directory",
}];

const DRA_PLUGINS: [HostDirectory; 3] = [
    HostDirectory { volume: "kubelet-plugins", path: "/var/lib/kubelet/plugins", kind: "DirectoryOrCreate" },
    HostDirectory {
        volume: "kubelet-plugins-registry",
        path: "/var/lib/kubelet/plugins_registry",
        kind: "DirectoryOrCreate",
    },
    HostDirectory { volume: "cdi", path: "/var/run/cdi", kind: "DirectoryOrCreate" },
];

/// What the Module says of its plugin, whichever it is.
struct Asked<'a> {
    container: &'a CommonContainer,
    init_container: Option<&'a CommonContainer>,
    service_account_name: Option<&'a String>,
    volumes: &'a [Volume],
    automount: Option<bool>,
}

impl<'a> Asked<'a> {
    fn of(module: &'a Module, role: Role) -> Option<Self> {
        match role {
            Role::DevicePlugin => module.spec.device_plugin.as_ref().map(|plugin| Self {
                container: &plugin.container,
                init_container: plugin.init_container.as_ref(),
                service_account_name: plugin.service_account_name.as_ref(),
                volumes: &plugin.volumes,
                automount: plugin.automount_service_account_token,
            }),
            Role::Dra => module.spec.dra.as_ref().map(|dra| Self {
                container: &dra.container,
                init_container: dra.init_container.as_ref(),
                service_account_name: dra.service_account_name.as_ref(),
                volumes: &dra.volumes,
                automount: dra.automount_service_account_token,
            }),
        }
    }
}

/// The name of a Module's `DaemonSet`: the same for the same Module, role and version, and for no others.
pub fn name(module: &Module, role: Role) -> String {
    let version = node::version(module).unwrap_or_default();
    let uid = module.uid().unwrap_or_default();
    let all = format!("{uid}\0{}\0{}\0{version}", module.name_any(), role.as_str());
    let hash = Digest::of(all.as_bytes()).hex();
    let hash = hash.get(..NAME_HASH).unwrap_or(&hash);
    let name = module.name_any();
    let room = LONGEST_NAME - NAME_HASH - role.as_str().len() - 2;
    let stem = name.get(..name.floor_char_boundary(room)).unwrap_or_default();
    format!("{}-{}-{hash}", stem.trim_end_matches(['-', '.']), role.as_str())
}

/// The labels by which a Module's `DaemonSet`s are found.
pub fn module_label(name: &str) -> String {
    labels::value(name)
}

/// The `DaemonSet` that the Module asks for; `None` when it asks for none.
pub fn daemon_set(module: &Module) -> Option<DaemonSet> {
    let role = Role::of(module)?;
    let asked = Asked::of(module, role)?;
    let selected = selected_by(module, role);
    let mut template = selected.clone();
    template.extend(product(role));
    let mut set = DaemonSet {
        metadata: ObjectMeta {
            name: Some(name(module, role)),
            namespace: module.namespace(),
            labels: Some(template.clone()),
            owner_references: Some(vec![owner(module)]),
            ..ObjectMeta::default()
        },
        spec: Some(DaemonSetSpec {
            selector: LabelSelector { match_labels: Some(selected), ..LabelSelector::default() },
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta { labels: Some(template), ..ObjectMeta::default() }),
                spec: Some(pod(module, role, &asked)),
            },
            ..DaemonSetSpec::default()
        }),
        status: None,
    };
    let driver = claim::driver(module).filter(|_| role == Role::Dra);
    let driver = driver.map(|driver| (annotation::DRA_DRIVER.to_owned(), driver.to_owned()));
    // Among what is wished: a driver may be renamed and nothing else.
    set.metadata.annotations = driver.map(|driver| [driver].into());
    let wish = wish(&set);
    set.annotations_mut().insert(annotation::WISH.to_owned(), wish);
    Some(set)
}

/// The hash of what is wished of an object.
pub(super) fn wish(object: &impl serde::Serialize) -> String {
    let text = serde_json::to_vec(object).unwrap_or_default();
    let hash = Digest::of(&text).hex();
    hash.get(..32).unwrap_or(&hash).to_owned()
}

/// What tells the pods of this `DaemonSet` from all others.
fn selected_by(module: &Module, role: Role) -> BTreeMap<String, String> {
    let mut all: BTreeMap<String, String> = [
        (labels::MODULE_NAME.to_owned(), module_label(&module.name_any())),
        (labels::ROLE.to_owned(), role.as_str().to_owned()),
    ]
    .into();
    all.extend(schedule_label(module));
    all
}

/// The label of the version whose plugin may run on a node.
fn schedule_label(module: &Module) -> Option<(String, String)> {
    let version = node::version(module)?;
    Some((key(LabelKind::VersionSchedulePod, module), labels::value(version)))
}

fn product(role: Role) -> BTreeMap<String, String> {
    [
        (labels::APP_NAME, labels::PRODUCT),
        (labels::PART_OF, labels::PRODUCT),
        (labels::COMPONENT, role.as_str()),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into()
}

/// The owner of everything that is made for a Module.
fn owner(module: &Module) -> OwnerReference {
    OwnerReference {
        api_version: Module::api_version(&()).into_owned(),
        kind: Module::kind(&()).into_owned(),
        name: module.name_any(),
        uid: module.uid().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// Where the pods may run: where the driver is ready, or, without a driver of ours, on all nodes of the Module.
fn node_selector(module: &Module, role: Role) -> BTreeMap<String, String> {
    if module.spec.module_loader.is_none() {
        return module.spec.selector.clone();
    }
    let mut selector: BTreeMap<_, _> = [(key(LabelKind::Ready, module), String::new())].into();
    if role == Role::DevicePlugin {
        selector.insert(key(LabelKind::DevicePluginTarget, module), String::new());
    }
    selector.extend(schedule_label(module));
    selector
}

fn key(kind: LabelKind, module: &Module) -> String {
    kind.key(&module.namespace().unwrap_or_default(), &module.name_any())
}

fn pod(module: &Module, role: Role, asked: &Asked<'_>) -> PodSpec {
    let directories = directories(role);
    let own = directories.iter().filter(|own| asked.volumes.iter().all(|volume| volume.name != own.volume));
    let own = own.map(|directory| Volume {
        name: directory.volume.to_owned(),
        host_path: Some(HostPathVolumeSource {
            path: directory.path.to_owned(),
            type_: Some(directory.kind.to_owned()),
        }),
        ..Volume::default()
    });
    let secret = module.spec.image_repo_secret.iter();
    let secrets: Vec<LocalObjectReference> = secret.cloned().collect();
    let init = |asked| Container { name: format!("{}-init", role.as_str()), ..container(role, asked) };
    PodSpec {
        containers: vec![Container {
            name: role.as_str().to_owned(),
            startup_probe: asked.container.startup_probe.clone(),
            liveness_probe: asked.container.liveness_probe.clone(),
            ..container(role, asked.container)
        }],
        init_containers: asked.init_container.map(|asked| vec![init(asked)]),
        node_selector: Some(node_selector(module, role)),
        priority_class_name: Some(PRIORITY.to_owned()),
        service_account_name: asked.service_account_name.cloned(),
        automount_service_account_token: asked.automount,
        image_pull_secrets: (!secrets.is_empty()).then_some(secrets),
        tolerations: (!module.spec.tolerations.is_empty()).then(|| module.spec.tolerations.clone()),
        volumes: Some(own.chain(asked.volumes.iter().cloned()).collect()),
        ..PodSpec::default()
    }
}

const fn directories(role: Role) -> &'static [HostDirectory] {
    match role {
        Role::DevicePlugin => &DEVICE_PLUGINS,
        Role::Dra => &DRA_PLUGINS,
    }
}

/// A container, but for its name and probes. What the user says comes before what it gets by itself.
fn container(role: Role, asked: &CommonContainer) -> Container {
    let is_free = |directory: &&HostDirectory| {
        asked.volume_mounts.iter().all(|m| !is_at(&m.mount_path, directory.path))
    };
    let own = directories(role).iter().filter(is_free).map(|directory| VolumeMount {
        name: directory.volume.to_owned(),
        mount_path: directory.path.to_owned(),
        ..VolumeMount::default()
    });
    let some = |list: &[String]| (!list.is_empty()).then(|| list.to_vec());
    let env = environment(role, &asked.env);
    let privileged = || SecurityContext { privileged: Some(true), ..SecurityContext::default() };
    Container {
        image: Some(asked.image.clone()),
        command: some(&asked.command),
        args: some(&asked.args),
        env: (!env.is_empty()).then_some(env),
        image_pull_policy: asked.image_pull_policy.clone(),
        resources: asked.resources.clone(),
        volume_mounts: Some(own.chain(asked.volume_mounts.iter().cloned()).collect()),
        security_context: Some(asked.security_context.clone().unwrap_or_else(privileged)),
        ..Container::default()
    }
}

fn is_at(one: &str, other: &str) -> bool {
    one.trim_end_matches('/') == other.trim_end_matches('/')
}

/// What a DRA driver made for KMM finds in its environment, unless the user says otherwise.
fn environment(role: Role, asked: &[EnvVar]) -> Vec<EnvVar> {
    let own = match role {
        Role::DevicePlugin => Vec::new(),
        Role::Dra => vec![
            of_field("NODE_NAME", "spec.nodeName"),
            of_field("POD_UID", "metadata.uid"),
            of_text("CDI_ROOT", "/var/run/cdi"),
            of_text("KUBELET_REGISTRAR_DIRECTORY_PATH", "/var/lib/kubelet/plugins_registry"),
            of_text("KUBELET_PLUGINS_DIRECTORY_PATH", "/var/lib/kubelet/plugins"),
            of_text("HEALTHCHECK_PORT", HEALTH_PORT),
        ],
    };
    let free = own.into_iter().filter(|own| asked.iter().all(|asked| asked.name != own.name));
    free.chain(asked.iter().cloned()).collect()
}

fn of_text(name: &str, value: &str) -> EnvVar {
    EnvVar { name: name.to_owned(), value: Some(value.to_owned()), value_from: None }
}

fn of_field(name: &str, path: &str) -> EnvVar {
    let field = ObjectFieldSelector { field_path: path.to_owned(), ..ObjectFieldSelector::default() };
    let value_from = Some(EnvVarSource { field_ref: Some(field), ..EnvVarSource::default() });
    EnvVar { name: name.to_owned(), value: None, value_from }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn module(name: &str, spec: &str) -> Module {
        serde_saphyr::from_str(&format!(
            "apiVersion: kmm.sigs.x-k8s.io/v1beta1\nkind: Module\nmetadata: {{name: {name}, namespace: lab, uid: m-1}}\nspec:\n  selector: {{hall: a}}\n{spec}"
        ))
        .expect("a Module")
    }

    const LOADER: &str = "  moduleLoader: {container: {modprobe: {moduleName: gauge}, kernelMappings: [{regexp: '^.+$', containerImage: 'r.test/g:1'}]}}\n";
    const VERSIONED: &str = "  moduleLoader: {container: {version: '1.0', modprobe: {moduleName: gauge}, kernelMappings: [{regexp: '^.+$', containerImage: 'r.test/g:1'}]}}\n";
    const PLUGIN: &str = "  devicePlugin: {container: {image: 'r.test/p:1'}}\n";
    const DRA: &str = "  dra: {driverName: gauge.test, container: {image: 'r.test/d:1'}}\n";

    fn pod_of(set: &DaemonSet) -> PodSpec {
        set.spec.clone().unwrap().template.spec.unwrap()
    }

    #[test]
    fn a_device_plugin_runs_where_the_driver_is_ready_and_the_node_is_a_target() {
        let set = daemon_set(&module("gauge", &format!("{LOADER}{PLUGIN}"))).unwrap();
        let pod = pod_of(&set);
        let selector: Vec<_> = pod.node_selector.unwrap().into_iter().collect();
        assert_eq!(
            selector,
            [
                ("kmm.node.kubernetes.io/lab.gauge.device-plugin-target".to_owned(), String::new()),
                ("kmm.node.kubernetes.io/lab.gauge.ready".to_owned(), String::new()),
            ]
        );
        assert_eq!(pod.priority_class_name.as_deref(), Some("system-node-critical"));
        assert_eq!(pod.containers[0].name, "device-plugin");
        assert_eq!(pod.containers[0].security_context.as_ref().unwrap().privileged, Some(true));
        let volume = &pod.volumes.unwrap()[0];
        assert_eq!(volume.name, "kubelet-device-plugins");
        assert_eq!(volume.host_path.as_ref().unwrap().path, "/var/lib/kubelet/device-plugins");
        let selected = set.spec.unwrap().selector.match_labels.unwrap();
        assert_eq!(selected["kmm.node.kubernetes.io/module.name"], "gauge");
        assert_eq!(selected["kmm.node.kubernetes.io/role"], "device-plugin");
        assert_eq!(selected.len(), 2);
    }

    #[test]
    fn a_version_is_among_what_pods_are_placed_and_selected_by() {
        let set = daemon_set(&module("gauge", &format!("{VERSIONED}{PLUGIN}"))).unwrap();
        let key = "beta.kmm.node.kubernetes.io/version-schedule-pod.lab.gauge";
        assert_eq!(pod_of(&set).node_selector.unwrap()[key], "1.0");
        let spec = set.spec.unwrap();
        assert_eq!(spec.selector.match_labels.unwrap()[key], "1.0");
        assert_eq!(spec.template.metadata.unwrap().labels.unwrap()[key], "1.0");
    }

    #[test]
    fn without_a_loader_the_plugin_runs_on_all_nodes_of_the_module() {
        let set = daemon_set(&module("gauge", PLUGIN)).unwrap();
        assert_eq!(pod_of(&set).node_selector.unwrap(), [("hall".to_owned(), "a".to_owned())].into());
        assert_eq!(daemon_set(&module("gauge", LOADER)), None);
    }

    #[test]
    fn every_field_of_the_user_reaches_the_pod() {
        let spec = "  devicePlugin:
    serviceAccountName: plugin
    automountServiceAccountToken: false
    volumes: [{name: extra, emptyDir: {}}]
    initContainer: {image: 'r.test/i:1', command: [prepare]}
    container:
      image: r.test/p:1
      command: [/plugin]
      args: [--fast]
      env: [{name: A, value: b}]
      imagePullPolicy: Always
      resources: {limits: {cpu: 100m}}
      volumeMounts: [{name: extra, mountPath: /extra}]
      livenessProbe: {exec: {command: ['true']}}
      startupProbe: {exec: {command: ['true']}}
      securityContext: {privileged: false, runAsUser: 7}
  tolerations: [{key: a, operator: Exists}]
  imageRepoSecret: {name: pull}
";
        let set = daemon_set(&module("gauge", &format!("{LOADER}{spec}"))).unwrap();
        let pod = serde_json::to_value(pod_of(&set)).unwrap();
        let expected = serde_json::json!({
            "serviceAccountName": "plugin", "automountServiceAccountToken": false,
            "imagePullSecrets": [{"name": "pull"}], "tolerations": [{"key": "a", "operator": "Exists"}],
        });
        for (field, value) in expected.as_object().unwrap() {
            assert_eq!(&pod[field], value, "{field}");
        }
        assert_eq!(pod["volumes"][1], serde_json::json!({"name": "extra", "emptyDir": {}}));
        assert_eq!(
            pod["initContainers"][0],
            serde_json::json!({
                "name": "device-plugin-init", "image": "r.test/i:1", "command": ["prepare"],
                "securityContext": {"privileged": true},
                "volumeMounts": [{"name": "kubelet-device-plugins", "mountPath": "/var/lib/kubelet/device-plugins"}],
            })
        );
        assert_eq!(
            pod["containers"][0],
            serde_json::json!({
                "name": "device-plugin", "image": "r.test/p:1", "command": ["/plugin"], "args": ["--fast"],
                "env": [{"name": "A", "value": "b"}], "imagePullPolicy": "Always",
                "resources": {"limits": {"cpu": "100m"}},
                "livenessProbe": {"exec": {"command": ["true"]}}, "startupProbe": {"exec": {"command": ["true"]}},
                "securityContext": {"privileged": false, "runAsUser": 7},
                "volumeMounts": [
                    {"name": "kubelet-device-plugins", "mountPath": "/var/lib/kubelet/device-plugins"},
                    {"name": "extra", "mountPath": "/extra"},
                ],
            })
        );
    }

    #[test]
    fn a_volume_and_a_mount_of_the_users_own_take_the_place_of_ours() {
        let spec = "  devicePlugin:
    volumes: [{name: kubelet-device-plugins, hostPath: {path: /var/lib/kubelet/device-plugins}}]
    container:
      image: r.test/p:1
      volumeMounts: [{name: kubelet-device-plugins, mountPath: /var/lib/kubelet/device-plugins/}]
";
        let pod = pod_of(&daemon_set(&module("gauge", spec)).unwrap());
        assert_eq!(pod.volumes.unwrap().len(), 1);
        assert_eq!(pod.containers[0].volume_mounts.as_ref().unwrap().len(), 1);
    }

    #[test]
    fn two_dra_drivers_on_one_node_share_neither_a_network_nor_a_probe() {
        let set = daemon_set(&module("gauge", &format!("{LOADER}{DRA}"))).unwrap();
        let pod = pod_of(&set);
        assert_eq!((pod.host_network, pod.containers[0].liveness_probe.as_ref()), (None, None));
        assert!(pod.containers[0].ports.is_none());
        let names: Vec<_> = pod.containers[0].env.iter().flatten().map(|env| env.name.as_str()).collect();
        assert_eq!(
            names,
            [
                "NODE_NAME",
                "POD_UID",
                "CDI_ROOT",
                "KUBELET_REGISTRAR_DIRECTORY_PATH",
                "KUBELET_PLUGINS_DIRECTORY_PATH",
                "HEALTHCHECK_PORT"
            ]
        );
        let volumes: Vec<_> = pod.volumes.iter().flatten().map(|volume| volume.name.as_str()).collect();
        assert_eq!(volumes, ["kubelet-plugins", "kubelet-plugins-registry", "cdi"]);
        let selector: Vec<_> = pod.node_selector.unwrap().into_keys().collect();
        assert_eq!(selector, ["kmm.node.kubernetes.io/lab.gauge.ready"]);
    }

    #[test]
    fn what_the_user_says_of_the_environment_counts() {
        let spec = "  dra: {driverName: gauge.test, container: {image: 'r.test/d:1', env: [{name: HEALTHCHECK_PORT, value: '9'}]}}\n";
        let pod = pod_of(&daemon_set(&module("gauge", spec)).unwrap());
        let ports: Vec<_> =
            pod.containers[0].env.iter().flatten().filter(|env| env.name == "HEALTHCHECK_PORT").collect();
        assert_eq!(ports.len(), 1);
        assert_eq!(ports[0].value.as_deref(), Some("9"));
    }

    #[test]
    fn a_name_is_short_legal_and_of_one_module_role_and_version() {
        let long = "a".repeat(40) + "." + &"b".repeat(200);
        let names = [
            name(&module("gauge", LOADER), Role::DevicePlugin),
            name(&module("gauge", LOADER), Role::Dra),
            name(&module("gauge", VERSIONED), Role::DevicePlugin),
            name(&module("gauge.v2", LOADER), Role::DevicePlugin),
            name(&module(&long, LOADER), Role::DevicePlugin),
            name(&module(&format!("{long}c"), LOADER), Role::DevicePlugin),
        ];
        let distinct: std::collections::BTreeSet<_> = names.iter().collect();
        assert_eq!(distinct.len(), names.len(), "{names:?}");
        for name in &names {
            assert!(name.len() <= LONGEST_NAME && !name.contains(".-"), "{name}");
        }
        assert!(names[0].starts_with("gauge-device-plugin-"), "as those of KMM begin");
    }

    #[test]
    fn every_label_is_legal_however_long_the_name() {
        let set = daemon_set(&module(&"x".repeat(200), &format!("{VERSIONED}{PLUGIN}"))).unwrap();
        let template = set.spec.unwrap().template.metadata.unwrap().labels.unwrap();
        assert!(template.values().all(|value| labels::is_value(value)), "{template:?}");
        assert!(template.keys().all(|key| key.split('/').next_back().unwrap().len() <= labels::MAX_LABEL));
    }

    #[test]
    fn a_wish_that_is_another_has_another_mark() {
        let wish = |spec: &str| {
            let set = daemon_set(&module("gauge", spec)).unwrap();
            set.metadata.annotations.unwrap()[annotation::WISH].clone()
        };
        assert_eq!(wish(PLUGIN), wish(PLUGIN));
        assert_ne!(wish(PLUGIN), wish("  devicePlugin: {container: {image: 'r.test/p:2'}}\n"));
    }
}
