//! The Job that makes an image: what its pod may do, and what it is given.
//!
//! The pod passes the strictest of the Pod Security Standards (`restricted`), has no token, and sees three Secrets of its own
//! namespace, by files: the key, the certificate, the registries' credentials. The operator sees none of them.

use std::collections::BTreeMap;

use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::api::core::v1::{
    Capabilities, Container, EmptyDirVolumeSource, EnvVar, LocalObjectReference, PodSecurityContext, PodSpec,
    PodTemplateSpec, ResourceRequirements, SeccompProfile, SecretVolumeSource, SecurityContext, Toleration,
    Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::ResourceExt;
use kube::core::ObjectMeta;
use tenon_api::module::Sign;
use tenon_api::task::{self, Task};
use tenon_api::{ModuleImage, labels};
use tenon_kmod::release::image_tag;
use tenon_order::Digest;

use super::making::job_name;

/// A Job that has ended is kept for so long, for whoever wants to read its log.
const KEEP_SECONDS: i32 = 3600;
/// The longest that a Job may take: an image may have gigabytes to copy from one registry to another.
const DEADLINE_SECONDS: i64 = 3600;
/// Nobody in particular: the same as the operator's user.
const USER: i64 = 65532;
/// Where the program lies in its image.
const PROGRAM: &str = "/tenon-maker";
/// What a Job may write: the layers that it reads and writes.
const DISK: &str = "8Gi";
/// Modules are held in memory, one at a time: packed, unpacked, and signed.
const MEMORY: &str = "1Gi";

/// What all Jobs have in common.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// The image of the program that makes images.
    pub image: String,
    /// What its environment has besides the task: proxies.
    pub environment: BTreeMap<String, String>,
}

/// The Job that signs an image's modules. It belongs to the image's Module, whose tolerations it has.
pub fn sign_job(
    image: &ModuleImage,
    sign: &Sign,
    inputs: &Digest,
    task: &Task,
    tolerations: Option<&[Toleration]>,
    settings: &Settings,
) -> Job {
    let (secrets, registry) = (
        [
            ("key", sign.key_secret.name.as_str(), task::KEY_DIR),
            ("cert", sign.cert_secret.name.as_str(), task::CERT_DIR),
        ],
        image
            .spec
            .image_repo_secret
            .as_ref()
            .map(|LocalObjectReference { name }| ("registry", name.as_str(), task::REGISTRY_DIR)),
    );
    let mounted: Vec<_> = secrets.into_iter().chain(registry).collect();
    let labels = labels(image, labels::resource_type::SIGN_IMAGE);
    Job {
        metadata: ObjectMeta {
            name: Some(job_name(image, inputs)),
            namespace: image.namespace(),
            labels: Some(labels.clone()),
            annotations: Some(
                [
                    (labels::annotation::IMAGE.to_owned(), image.spec.image.clone()),
                    (labels::annotation::LAST_HASH.to_owned(), inputs.to_string()),
                ]
                .into(),
            ),
            owner_references: Some(owners(image)),
            ..ObjectMeta::default()
        },
        spec: Some(JobSpec {
            // The operator decides about another try: it knows why the last one failed.
            backoff_limit: Some(0),
            active_deadline_seconds: Some(DEADLINE_SECONDS),
            ttl_seconds_after_finished: Some(KEEP_SECONDS),
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta { labels: Some(labels), ..ObjectMeta::default() }),
                spec: Some(PodSpec {
                    // The program's image may be where the drivers' images are.
                    image_pull_secrets: image.spec.image_repo_secret.clone().map(|secret| vec![secret]),
                    ..pod(&mounted, task, tolerations, settings)
                }),
            },
            ..JobSpec::default()
        }),
        ..Job::default()
    }
}

/// The image's Module: another image of the same Module may have the same name, and the same Job.
fn owners(image: &ModuleImage) -> Vec<OwnerReference> {
    image.owner_references().iter().filter(|owner| owner.kind == "Module").cloned().collect()
}

/// KMM's, and those by which the operator finds it.
fn labels(image: &ModuleImage, kind: &str) -> BTreeMap<String, String> {
    let kernel = image_tag(&image.spec.kernel).to_lowercase().replace(['_', '.'], "-");
    [
        (labels::APP_NAME, labels::PRODUCT.to_owned()),
        (labels::PART_OF, labels::PRODUCT.to_owned()),
        (labels::MANAGED_BY, labels::PRODUCT.to_owned()),
        (labels::COMPONENT, kind.to_owned()),
        (labels::RESOURCE_TYPE, kind.to_owned()),
        (labels::MODULE_NAME, labels::value(&image.spec.module)),
        (labels::TARGET_KERNEL, labels::value(kernel.trim_matches('-'))),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into()
}

fn pod(
    secrets: &[(&str, &str, &str)],
    task: &Task,
    tolerations: Option<&[Toleration]>,
    settings: &Settings,
) -> PodSpec {
    let work = Volume {
        name: "work".to_owned(),
        empty_dir: Some(EmptyDirVolumeSource {
            size_limit: Some(Quantity(DISK.to_owned())),
            ..EmptyDirVolumeSource::default()
        }),
        ..Volume::default()
    };
    PodSpec {
        restart_policy: Some("Never".to_owned()),
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        node_selector: Some([("kubernetes.io/os".to_owned(), "linux".to_owned())].into()),
        tolerations: tolerations.map(<[Toleration]>::to_vec),
        security_context: Some(PodSecurityContext {
            run_as_non_root: Some(true),
            run_as_user: Some(USER),
            run_as_group: Some(USER),
            fs_group: Some(USER),
            seccomp_profile: Some(SeccompProfile {
                type_: "RuntimeDefault".to_owned(),
                ..SeccompProfile::default()
            }),
            ..PodSecurityContext::default()
        }),
        volumes: Some(secrets.iter().map(|(name, secret, _)| mounted(name, secret)).chain([work]).collect()),
        containers: vec![container(secrets, task, settings)],
        ..PodSpec::default()
    }
}

/// A Secret that is missing is the program's to name: a pod that waits for it would say so only in its own events.
fn mounted(name: &str, secret: &str) -> Volume {
    Volume {
        name: name.to_owned(),
        secret: Some(SecretVolumeSource {
            secret_name: Some(secret.to_owned()),
            default_mode: Some(0o440),
            optional: Some(true),
            ..SecretVolumeSource::default()
        }),
        ..Volume::default()
    }
}

fn container(secrets: &[(&str, &str, &str)], task: &Task, settings: &Settings) -> Container {
    let variable =
        |name: &str, value: String| EnvVar { name: name.to_owned(), value: Some(value), ..EnvVar::default() };
    let environment = settings.environment.iter().map(|(name, value)| variable(name, value.clone()));
    // A task is made of texts alone.
    let task = variable(task::VARIABLE, serde_json::to_string(task).unwrap_or_default());
    let mounts = secrets.iter().map(|(name, _, path)| VolumeMount {
        name: (*name).to_owned(),
        mount_path: (*path).to_owned(),
        read_only: Some(true),
        ..VolumeMount::default()
    });
    let work = VolumeMount {
        name: "work".to_owned(),
        mount_path: task::WORK_DIR.to_owned(),
        ..VolumeMount::default()
    };
    let quantities = |pairs: &[(&str, &str)]| {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), Quantity((*value).to_owned()))).collect()
    };
    Container {
        name: task::CONTAINER.to_owned(),
        image: Some(settings.image.clone()),
        command: Some(vec![PROGRAM.to_owned()]),
        env: Some(environment.chain([task]).collect()),
        volume_mounts: Some(mounts.chain([work]).collect()),
        resources: Some(ResourceRequirements {
            requests: Some(quantities(&[("cpu", "50m"), ("memory", "64Mi")])),
            limits: Some(quantities(&[("memory", MEMORY)])),
            ..ResourceRequirements::default()
        }),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            read_only_root_filesystem: Some(true),
            capabilities: Some(Capabilities {
                drop: Some(vec!["ALL".to_owned()]),
                ..Capabilities::default()
            }),
            ..SecurityContext::default()
        }),
        // What ends without a report (killed, out of memory) leaves its last words.
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        ..Container::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::ready_image;
    use tenon_api::module::SignatureHash;
    use tenon_api::task::{Place, SignTask};

    fn place(image: &str) -> Place {
        Place { image: image.to_owned(), plain_http: false, skip_verify: false, authority: None }
    }

    fn job(module: &str) -> Job {
        let mut image = ready_image("registry.test/gauge:1", 'a');
        image.spec.module = module.to_owned();
        image.spec.image_repo_secret = Some(LocalObjectReference { name: "pull".to_owned() });
        let sign = Sign {
            key_secret: LocalObjectReference { name: "our-key".to_owned() },
            cert_secret: LocalObjectReference { name: "our-cert".to_owned() },
            ..Sign::default()
        };
        let task = Task::Sign(SignTask {
            from: place("registry.test/plain:1"),
            to: place("registry.test/gauge:1"),
            files: vec!["/opt/*.ko".to_owned()],
            hash: SignatureHash::Sha256,
            request: "sha256:0".to_owned(),
            lacking: Vec::new(),
        });
        let settings = Settings { image: "registry.test/maker:1".to_owned(), ..Settings::default() };
        sign_job(&image, &sign, &Digest::of(b"inputs"), &task, None, &settings)
    }

    #[test]
    fn the_pod_is_given_its_task_and_three_secrets_and_nothing_else() {
        let pod = job("gauge").spec.unwrap().template.spec.unwrap();
        let volumes = pod.volumes.unwrap();
        let secrets: Vec<_> =
            volumes.iter().filter_map(|volume| volume.secret.as_ref()?.secret_name.as_deref()).collect();
        assert_eq!(secrets, ["our-key", "our-cert", "pull"]);
        assert_eq!(volumes.len(), 4, "and a place to write");
        assert_eq!(pod.image_pull_secrets.unwrap()[0].name, "pull");
        let [container] = pod.containers.as_slice() else { panic!("one container") };
        let [task] = container.env.as_deref().unwrap() else { panic!("one variable") };
        let given: Task = serde_json::from_str(task.value.as_deref().unwrap()).unwrap();
        assert!(matches!(given, Task::Sign(task) if task.to.image == "registry.test/gauge:1"));
        assert_eq!(pod.automount_service_account_token, Some(false));
    }

    #[test]
    fn names_and_labels_are_legal_for_every_module() {
        for module in ["gauge", "a.b.c", &"m".repeat(253), &format!("{}.x", "m".repeat(44))] {
            let job = job(module);
            let name = job.metadata.name.unwrap();
            assert!(name.len() <= 63 && !name.contains("--") && !name.contains('.'), "{name}");
            assert!(job.metadata.labels.unwrap().values().all(|value| labels::is_value(value)));
        }
    }
}
