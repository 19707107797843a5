//! The operator's workload: a Deployment, the Service of its depot, and the namespace of it all.

use std::collections::BTreeMap;

use anyhow::Result;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tenon_api::labels;
use tenon_api::node_pod::{NAMESPACE, api_token};

use super::{OPERATOR, rbac, yaml};

/// The Service through which agents reach the depot.
const DEPOT_SERVICE: &str = "tenon-depot";
const DEPOT_PORT: i32 = 8443;
pub(super) const ADMIN_PORT: i32 = 8080;
pub(super) const ADMIN_PORT_NAME: &str = "admin";
const CACHE_DIR: &str = "/var/cache/tenon";
const API_TOKEN_DIR: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// The image of one of Tenon's programs, of this version.
pub(super) fn image(program: &str) -> String {
    format!("registry.tenon.dev/tenon-{program}:{}", env!("CARGO_PKG_VERSION"))
}

/// A variable that names an image of ours.
fn variable((name, program): (&str, &str)) -> core::EnvVar {
    core::EnvVar { name: name.to_owned(), value: Some(image(program)), ..core::EnvVar::default() }
}

/// `namespace.yaml`.
pub(super) fn namespace_file() -> Result<String> {
    let mut metadata = rbac::cluster(NAMESPACE);
    // The node's pod needs directories of the host and a capability; no other namespace does.
    let level = [("enforce", "privileged"), ("audit", "privileged"), ("warn", "privileged")]
        .map(|(mode, level)| (format!("pod-security.kubernetes.io/{mode}"), level.to_owned()));
    metadata.labels.get_or_insert_default().extend(level);
    yaml::documents([&core::Namespace { metadata, ..core::Namespace::default() }])
}

/// `operator.yaml`.
pub(super) fn file() -> Result<String> {
    // The Service first: its address is among the environment of pods that start after it.
    yaml::documents(&[yaml::value(service())?, yaml::value(deployment())?])
}

fn service() -> core::Service {
    core::Service {
        metadata: rbac::namespaced(DEPOT_SERVICE),
        spec: Some(core::ServiceSpec {
            selector: Some(pod_labels()),
            ports: Some(vec![core::ServicePort {
                name: Some("depot".to_owned()),
                port: DEPOT_PORT,
                target_port: Some(IntOrString::String("depot".to_owned())),
                ..core::ServicePort::default()
            }]),
            ..core::ServiceSpec::default()
        }),
        ..core::Service::default()
    }
}

fn deployment() -> Deployment {
    Deployment {
        metadata: rbac::namespaced(OPERATOR),
        spec: Some(DeploymentSpec {
            // One leads, all serve bundles and are ready to lead.
            replicas: Some(2),
            selector: LabelSelector { match_labels: Some(pod_labels()), ..LabelSelector::default() },
            template: core::PodTemplateSpec {
                metadata: Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta {
                    labels: Some(pod_labels()),
                    ..Default::default()
                }),
                spec: Some(pod()),
            },
            ..DeploymentSpec::default()
        }),
        ..Deployment::default()
    }
}

fn pod() -> core::PodSpec {
    core::PodSpec {
        service_account_name: Some(OPERATOR.to_owned()),
        automount_service_account_token: Some(false),
        // The depot's address comes to the operator in the environment, and by it to the agents: these cannot resolve the
        // Service's name on the host's network.
        enable_service_links: Some(true),
        priority_class_name: Some("system-cluster-critical".to_owned()),
        tolerations: Some(vec![core::Toleration {
            key: Some("node-role.kubernetes.io/control-plane".to_owned()),
            operator: Some("Exists".to_owned()),
            effect: Some("NoSchedule".to_owned()),
            ..core::Toleration::default()
        }]),
        node_selector: Some([("kubernetes.io/os".to_owned(), "linux".to_owned())].into()),
        topology_spread_constraints: Some(vec![core::TopologySpreadConstraint {
            max_skew: 1,
            topology_key: "kubernetes.io/hostname".to_owned(),
            when_unsatisfiable: "ScheduleAnyway".to_owned(),
            label_selector: Some(LabelSelector {
                match_labels: Some(pod_labels()),
                ..LabelSelector::default()
            }),
            ..core::TopologySpreadConstraint::default()
        }]),
        security_context: Some(core::PodSecurityContext {
            run_as_non_root: Some(true),
            run_as_user: Some(65532),
            run_as_group: Some(65532),
            fs_group: Some(65532),
            seccomp_profile: Some(core::SeccompProfile {
                type_: "RuntimeDefault".to_owned(),
                ..core::SeccompProfile::default()
            }),
            ..core::PodSecurityContext::default()
        }),
        containers: vec![container()],
        volumes: Some(vec![
            core::Volume {
                name: "cache".to_owned(),
                empty_dir: Some(core::EmptyDirVolumeSource {
                    // The operator keeps below 2 Gi; the rest is room for what is being written.
                    size_limit: Some(Quantity("4Gi".to_owned())),
                    ..core::EmptyDirVolumeSource::default()
                }),
                ..core::Volume::default()
            },
            core::Volume {
                name: "api-token".to_owned(),
                projected: Some(api_token()),
                ..core::Volume::default()
            },
        ]),
        ..core::PodSpec::default()
    }
}

fn container() -> core::Container {
    let quantities = |amounts: &[(&str, &str)]| -> Option<BTreeMap<String, Quantity>> {
        Some(
            amounts
                .iter()
                .map(|(name, amount)| ((*name).to_owned(), Quantity((*amount).to_owned())))
                .collect(),
        )
    };
    core::Container {
        name: "operator".to_owned(),
        image: Some(image("operator")),
        command: Some(vec!["/tenon-operator".to_owned()]),
        // Whoever mirrors the images names these here, too.
        env: Some(
            [("TENON_MAKER_IMAGE", "maker"), ("TENON_BUILDER_IMAGE", "builder")].map(variable).to_vec(),
        ),
        ports: Some(vec![port("depot", DEPOT_PORT), port(ADMIN_PORT_NAME, ADMIN_PORT)]),
        liveness_probe: Some(probe("/healthz")),
        readiness_probe: Some(probe("/readyz")),
        resources: Some(core::ResourceRequirements {
            requests: quantities(&[("cpu", "50m"), ("memory", "64Mi")]),
            limits: quantities(&[("memory", "512Mi")]),
            ..core::ResourceRequirements::default()
        }),
        security_context: Some(core::SecurityContext {
            allow_privilege_escalation: Some(false),
            capabilities: Some(core::Capabilities {
                drop: Some(vec!["ALL".to_owned()]),
                ..core::Capabilities::default()
            }),
            read_only_root_filesystem: Some(true),
            ..core::SecurityContext::default()
        }),
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        volume_mounts: Some(vec![
            core::VolumeMount {
                name: "cache".to_owned(),
                mount_path: CACHE_DIR.to_owned(),
                ..core::VolumeMount::default()
            },
            core::VolumeMount {
                name: "api-token".to_owned(),
                mount_path: API_TOKEN_DIR.to_owned(),
                read_only: Some(true),
                ..core::VolumeMount::default()
            },
        ]),
        ..core::Container::default()
    }
}

fn port(name: &str, number: i32) -> core::ContainerPort {
    core::ContainerPort {
        name: Some(name.to_owned()),
        container_port: number,
        ..core::ContainerPort::default()
    }
}

fn probe(path: &str) -> core::Probe {
    core::Probe {
        http_get: Some(core::HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::String(ADMIN_PORT_NAME.to_owned()),
            ..core::HTTPGetAction::default()
        }),
        // A node that is short of processor time is no reason to start the operator anew.
        timeout_seconds: Some(5),
        ..core::Probe::default()
    }
}

pub(super) fn pod_labels() -> BTreeMap<String, String> {
    [(labels::APP_NAME, labels::PRODUCT), (labels::COMPONENT, "operator")]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into()
}
