//! The Job: what its pod may do, and what it is given.
//!
//! Two containers. The first, from an image of ours, copies the program into the pod; the second runs that program from the module
//! image, whose own programs are never started. Both pass Pod Security `restricted`. The pod is in the operator's namespace: nobody
//! who may only use a Module's namespace can enter it, and no Secret of anybody's is in reach.

use std::collections::BTreeMap;

use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::api::core::v1::{
    ConfigMapProjection, Container, EmptyDirVolumeSource, KeyToPath, PodSpec, PodTemplateSpec,
    ProjectedVolumeSource, ServiceAccountTokenProjection, Toleration, Volume, VolumeProjection,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::core::ObjectMeta;
use tenon_api::node_pod::DEPOT_CONFIG_MAP;
use tenon_api::pull::{
    ACCESS_DIR, ADDRESSES, AUDIENCE, AUTHORITY, CONTAINER, INSTALL, INSTALL_CONTAINER, PROGRAM_DIR, PULL,
    PullTask, SERVICE_ACCOUNT, TOKEN, VARIABLE,
};
use tenon_api::{ModuleImage, labels};
use tenon_order::Digest;

use crate::node::tolerates_startup;
use crate::provision::job::{PROGRAM, USER, confined, labels_of_kind, mount, run_as, variable};

/// A Job that has ended goes so soon: the operator deletes it, and this is for when there is none.
const KEEP_SECONDS: i32 = 120;
/// The longest that a node may take: images of drivers may be gigabytes, and the operator notices what is stuck before.
const DEADLINE_SECONDS: i64 = 1800;
/// The shortest life of a token that the API server allows. The kubelet renews it.
const TOKEN_SECONDS: i64 = 600;
/// The volume with the program.
const PROGRAM_VOLUME: &str = "program";
/// The volume with what is needed to reach the depot.
const ACCESS_VOLUME: &str = "access";
/// The program, without debugging information and with room to grow.
const PROGRAM_SIZE: &str = "256Mi";
/// What the program may take: it holds names, and passes the files on.
const MEMORY: &str = "256Mi";

/// What all these Jobs have in common.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Settings {
    /// The operator's namespace.
    pub namespace: String,
    /// The image of our program.
    pub program_image: String,
    /// The nodes that the administrator selected.
    pub nodes: BTreeMap<String, String>,
    /// What the Module puts up with, and the Job for it.
    pub tolerations: Vec<Toleration>,
}

/// The Job's name, by all that its result follows from, the nodes that are trusted with it too: nothing else asks for the same twice.
pub fn job_name(image: &ModuleImage, reference: &str, settings: &Settings) -> String {
    let spec = &image.spec;
    let firmware = spec.firmware_path.as_deref().unwrap_or_default();
    let mut all = vec![reference, &spec.architecture, &spec.kernel, &spec.dir_name, firmware];
    all.push(&settings.program_image);
    all.extend(settings.nodes.iter().flat_map(|(key, value)| [key.as_str(), value]));
    let tolerations: Vec<_> =
        settings.tolerations.iter().map(|toleration| format!("{toleration:?}")).collect();
    all.extend(tolerations.iter().map(String::as_str));
    let all = all.join("\n");
    format!("tenon-pull-{}", Digest::of(all.as_bytes()).hex().get(..16).unwrap_or_default())
}

/// The Job that has a node take the image's driver out of `reference`: the image's own, or with the digest that it was resolved to
/// before.
pub fn job(image: &ModuleImage, reference: &str, settings: &Settings) -> Job {
    let labels = labels_of_kind(image, labels::resource_type::PULL_IMAGE);
    Job {
        metadata: ObjectMeta {
            name: Some(job_name(image, reference, settings)),
            namespace: Some(settings.namespace.clone()),
            labels: Some(labels.clone()),
            annotations: Some(
                [(labels::annotation::PULLED_IMAGE.to_owned(), image.spec.image.clone())].into(),
            ),
            ..ObjectMeta::default()
        },
        spec: Some(JobSpec {
            // The operator decides about another try, and asks the registry before it.
            backoff_limit: Some(0),
            active_deadline_seconds: Some(DEADLINE_SECONDS),
            ttl_seconds_after_finished: Some(KEEP_SECONDS),
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta { labels: Some(labels), ..ObjectMeta::default() }),
                spec: Some(pod(image, reference, settings)),
            },
            ..JobSpec::default()
        }),
        ..Job::default()
    }
}

fn pod(image: &ModuleImage, reference: &str, settings: &Settings) -> PodSpec {
    let mut nodes = settings.nodes.clone();
    let tolerations = settings.tolerations.iter().cloned().chain([tolerates_startup()]);
    nodes.insert("kubernetes.io/os".to_owned(), "linux".to_owned());
    nodes.insert("kubernetes.io/arch".to_owned(), image.spec.architecture.clone());
    PodSpec {
        restart_policy: Some("Never".to_owned()),
        service_account_name: Some(SERVICE_ACCOUNT.to_owned()),
        // Its one token is for the depot, and mounted by name.
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        node_selector: Some(nodes),
        tolerations: Some(tolerations.collect()),
        security_context: Some(run_as(USER)),
        termination_grace_period_seconds: Some(1),
        volumes: Some(vec![program_volume(), access_volume()]),
        init_containers: Some(vec![install(settings)]),
        containers: vec![pull(image, reference)],
        ..PodSpec::default()
    }
}

fn program_volume() -> Volume {
    Volume {
        name: PROGRAM_VOLUME.to_owned(),
        empty_dir: Some(EmptyDirVolumeSource {
            size_limit: Some(Quantity(PROGRAM_SIZE.to_owned())),
            ..EmptyDirVolumeSource::default()
        }),
        ..Volume::default()
    }
}

fn access_volume() -> Volume {
    let item = |name: &str| KeyToPath { key: name.to_owned(), path: name.to_owned(), mode: None };
    let token = ServiceAccountTokenProjection {
        audience: Some(AUDIENCE.to_owned()),
        expiration_seconds: Some(TOKEN_SECONDS),
        path: TOKEN.to_owned(),
    };
    let depot = ConfigMapProjection {
        name: DEPOT_CONFIG_MAP.to_owned(),
        items: Some([ADDRESSES, AUTHORITY].map(item).to_vec()),
        optional: None,
    };
    Volume {
        name: ACCESS_VOLUME.to_owned(),
        projected: Some(ProjectedVolumeSource {
            default_mode: Some(0o440),
            sources: Some(vec![
                VolumeProjection { service_account_token: Some(token), ..VolumeProjection::default() },
                VolumeProjection { config_map: Some(depot), ..VolumeProjection::default() },
            ]),
        }),
        ..Volume::default()
    }
}

/// Puts the program into the pod.
fn install(settings: &Settings) -> Container {
    let to = format!("{PROGRAM_DIR}{PROGRAM}");
    Container {
        name: INSTALL_CONTAINER.to_owned(),
        image: Some(settings.program_image.clone()),
        command: Some(vec![PROGRAM.to_owned(), INSTALL.to_owned(), to]),
        volume_mounts: Some(vec![mount(PROGRAM_VOLUME, PROGRAM_DIR, false)]),
        ..confined("32Mi", MEMORY)
    }
}

/// Runs the program from the module image.
fn pull(image: &ModuleImage, reference: &str) -> Container {
    let task = PullTask {
        kernel: image.spec.kernel.clone(),
        dir_name: image.spec.dir_name.clone(),
        firmware_path: image.spec.firmware_path.clone(),
    };
    Container {
        name: CONTAINER.to_owned(),
        image: Some(reference.to_owned()),
        // What lies on the node may be another's who was allowed to pull it, or what a tag stood for once.
        image_pull_policy: Some("Always".to_owned()),
        command: Some(vec![format!("{PROGRAM_DIR}{PROGRAM}"), PULL.to_owned()]),
        // None of the image's.
        args: Some(Vec::new()),
        working_dir: Some("/".to_owned()),
        // A task is made of texts alone.
        env: Some(vec![variable(VARIABLE, &serde_json::to_string(&task).unwrap_or_default())]),
        volume_mounts: Some(vec![
            mount(PROGRAM_VOLUME, PROGRAM_DIR, true),
            mount(ACCESS_VOLUME, ACCESS_DIR, true),
        ]),
        ..confined("32Mi", MEMORY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::ready_image;

    const REFERENCE: &str = "registry.test/gauge:1";

    fn settings() -> Settings {
        Settings {
            namespace: "control".to_owned(),
            program_image: "registry.test/maker:1".to_owned(),
            nodes: [("pulls".to_owned(), "yes".to_owned())].into(),
            tolerations: Vec::new(),
        }
    }

    fn made() -> PodSpec {
        let mut image = ready_image(REFERENCE, 'a');
        image.spec.dir_name = "/opt/$(HOME)".to_owned();
        job(&image, REFERENCE, &settings()).spec.unwrap().template.spec.unwrap()
    }

    #[test]
    fn the_pod_has_one_token_for_the_depot_and_no_secret() {
        let pod = made();
        assert_eq!(pod.automount_service_account_token, Some(false));
        assert_eq!(pod.image_pull_secrets, None);
        let volumes = pod.volumes.unwrap();
        assert!(volumes.iter().all(|volume| volume.secret.is_none() && volume.host_path.is_none()));
        let tokens =
            volumes.iter().filter_map(|volume| volume.projected.as_ref()?.sources.as_ref()).flatten();
        let audiences: Vec<_> =
            tokens.filter_map(|source| source.service_account_token.as_ref()?.audience.as_deref()).collect();
        assert_eq!(audiences, [AUDIENCE]);
        let [install] = pod.init_containers.as_deref().unwrap() else { panic!("one container before") };
        assert_eq!(install.volume_mounts.as_ref().unwrap().len(), 1, "the token is not for it");
    }

    #[test]
    fn both_containers_may_do_nothing_and_the_images_own_program_is_not_started() {
        let pod = made();
        for container in pod.init_containers.iter().flatten().chain(&pod.containers) {
            let context = container.security_context.as_ref().unwrap();
            assert_eq!(context.allow_privilege_escalation, Some(false));
            assert_eq!(context.read_only_root_filesystem, Some(true));
            assert_eq!(context.capabilities.as_ref().unwrap().drop.as_deref().unwrap(), ["ALL"]);
            assert!(container.command.is_some());
        }
        assert_eq!(pod.security_context.unwrap().run_as_non_root, Some(true));
        let pull = &pod.containers[0];
        assert_eq!(pull.image.as_deref(), Some(REFERENCE));
        assert_eq!(pull.image_pull_policy.as_deref(), Some("Always"));
        let task = pull.env.as_ref().unwrap()[0].value.clone().unwrap();
        assert!(task.contains("/opt/$$(HOME)"), "Kubernetes would put a variable there: {task}");
    }

    #[test]
    fn it_runs_where_the_administrator_said_and_on_the_images_architecture() {
        let nodes: Vec<_> = made().node_selector.unwrap().into_iter().collect();
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        let expected =
            [pair("kubernetes.io/arch", "amd64"), pair("kubernetes.io/os", "linux"), pair("pulls", "yes")];
        assert_eq!(nodes, expected);
    }

    #[test]
    fn k1314_it_puts_up_with_the_taints_that_its_module_does() {
        let gpu = Toleration {
            key: Some("gpu".to_owned()),
            operator: Some("Exists".to_owned()),
            ..Toleration::default()
        };
        let wide = Settings { tolerations: vec![gpu.clone()], ..settings() };
        let image = ready_image(REFERENCE, 'a');
        let pod = job(&image, REFERENCE, &wide).spec.unwrap().template.spec.unwrap();
        assert_eq!(pod.tolerations, Some(vec![gpu, tolerates_startup()]));
        assert_ne!(job_name(&image, REFERENCE, &wide), job_name(&image, REFERENCE, &settings()));
    }

    #[test]
    fn another_wish_is_another_job_and_so_is_another_trust() {
        let image = ready_image(REFERENCE, 'a');
        let mut other = image.clone();
        other.spec.kernel = "6.12.0-1-amd64".to_owned();
        let mut elsewhere = settings();
        elsewhere.nodes.insert("pulls".to_owned(), "really".to_owned());
        let names = [
            job_name(&image, REFERENCE, &settings()),
            job_name(&image, "registry.test/gauge@sha256:0", &settings()),
            job_name(&other, REFERENCE, &settings()),
            job_name(&image, REFERENCE, &elsewhere),
        ];
        let different: std::collections::BTreeSet<_> = names.iter().collect();
        assert_eq!(different.len(), names.len(), "{names:?}");
        assert_eq!(names[0], job_name(&image.clone(), REFERENCE, &settings()));
    }
}
