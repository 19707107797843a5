//! The Job that makes an image: what its pod may do, and what it is given.
//!
//! The container that signs and publishes passes the strictest of the Pod Security Standards (`restricted`), has no token, and
//! sees three Secrets of its own namespace, by files: the key, the certificate, the registries' credentials. The operator sees
//! none of them. What is built is built before, in containers of their own ([`Recipe`]), which never sees the key.

mod dockerfile;
mod gather;
pub mod progress;
mod recipe;
mod sources;

use std::collections::BTreeMap;

use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::api::core::v1::{
    Capabilities, Container, EmptyDirVolumeSource, EnvVar, PodSecurityContext, PodSpec, PodTemplateSpec,
    ResourceRequirements, SeccompProfile, SecretVolumeSource, SecurityContext, Toleration, Volume,
    VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::ResourceExt;
use kube::core::ObjectMeta;
use tenon_api::task::{self, Task};
use tenon_api::{Module, ModuleImage, labels};
use tenon_kmod::release::image_tag;
use tenon_order::Digest;

use super::making::job_name;
use crate::node::tolerates_startup;
pub use dockerfile::FromDockerfile;
pub use gather::{ArtifactFiles, Holder, Pulled};
pub use recipe::{Base, Recipe};
pub use sources::{FromSources, Place as SourcePlace};

/// A Job that has ended is kept for so long, for whoever wants to read its log.
const KEEP_SECONDS: i32 = 3600;
/// The longest that a Job's pod may take: an image may have gigabytes to copy from one registry to another.
const DEADLINE_SECONDS: i64 = 3600;
/// So much later the Job itself gives up. A pod that is ended by its kubelet, at its own deadline, keeps its log and its last
/// words; one that the Job ends is deleted. This one is for pods that no kubelet ends. It leaves a pod the time to be placed and
/// to end.
const DEADLINE_SLACK_SECONDS: i64 = 120;
/// Nobody in particular: the same as the operator's user.
pub(super) const USER: i64 = 65532;
/// The user of the builder's image. Who publishes what it has built reads its files.
const BUILDER: i64 = 1000;
/// Where the program lies in its image.
pub(super) const PROGRAM: &str = "/tenon-maker";
/// The volume where a Job may write.
const WORK: &str = "work";
/// How much, where the build says nothing: the layers that it reads and writes, and a toolkit unpacked.
const DISK: &str = "16Gi";
/// The resource that says how much.
const EPHEMERAL_STORAGE: &str = "ephemeral-storage";
/// Modules are held in memory, one at a time: packed, unpacked, and signed.
const MEMORY: &str = "1Gi";

/// What all Jobs have in common.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// The image of the program that makes images.
    pub image: String,
    /// The image of the builder.
    pub builder: String,
    /// What its environment has besides the task: proxies.
    pub environment: BTreeMap<String, String>,
}

/// What one Job needs to know.
#[derive(Debug, Clone, Copy)]
pub struct Order<'a> {
    /// The hash of all that the image is made from.
    pub inputs: &'a Digest,
    /// What the program is told.
    pub task: &'a Task,
    /// What is built before it; nothing where modules of another image are signed.
    pub recipe: Option<&'a Recipe>,
    /// The Module that the image is for: its nodes are where Jobs run, unless its build says otherwise.
    pub module: Option<&'a Module>,
}

/// The Job that makes an image. It belongs to the image's Module, whose tolerations it has.
pub fn job(image: &ModuleImage, order: &Order<'_>, settings: &Settings) -> Job {
    let build = image.spec.build.as_ref();
    let kind = match build {
        Some(_) => labels::resource_type::BUILD_IMAGE,
        None => labels::resource_type::SIGN_IMAGE,
    };
    let labels = labels(image, kind);
    let annotations = order.recipe.map(Recipe::annotations).filter(|annotations| !annotations.is_empty());
    Job {
        metadata: ObjectMeta {
            name: Some(job_name(image, order.inputs)),
            namespace: image.namespace(),
            labels: Some(labels.clone()),
            annotations: Some(
                [
                    (labels::annotation::IMAGE.to_owned(), image.spec.image.clone()),
                    (labels::annotation::LAST_HASH.to_owned(), order.inputs.to_string()),
                    (labels::annotation::PLACEMENT.to_owned(), placement(image, order.module)),
                ]
                .into(),
            ),
            owner_references: Some(owners(image)),
            ..ObjectMeta::default()
        },
        spec: Some(JobSpec {
            // The operator decides about another try: it knows why the last one failed.
            backoff_limit: Some(0),
            active_deadline_seconds: Some(deadline(image).saturating_add(DEADLINE_SLACK_SECONDS)),
            ttl_seconds_after_finished: Some(KEEP_SECONDS),
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta { labels: Some(labels), annotations, ..ObjectMeta::default() }),
                spec: Some(pod(image, order, settings)),
            },
            ..JobSpec::default()
        }),
        ..Job::default()
    }
}

/// The hash of where a Job's pod may run, and of what it asks of a node. It makes no other image, so it is no part of the Job's
/// name; but who corrects it does not want to wait for a pod that no node takes.
pub fn placement(image: &ModuleImage, module: Option<&Module>) -> String {
    let selector = node_selector(image, module);
    let tolerations = module.map(|module| &module.spec.tolerations);
    let resources = image.spec.build.as_ref().map(|build| &build.resources);
    // Texts and lists of them are always JSON.
    Digest::of(&serde_json::to_vec(&(selector, tolerations, resources)).unwrap_or_default()).to_string()
}

/// How many seconds a Job's pod may take.
pub fn deadline(image: &ModuleImage) -> i64 {
    let build = image.spec.build.as_ref();
    build.and_then(|build| build.active_deadline_seconds).unwrap_or(DEADLINE_SECONDS)
}

/// How much a Job may write: as much as its build may, by its limit of ephemeral storage.
pub fn disk(image: &ModuleImage) -> Quantity {
    let limits = image.spec.build.as_ref().and_then(|build| build.resources.as_ref()?.limits.as_ref());
    let limit = limits.and_then(|limits| limits.get(EPHEMERAL_STORAGE));
    limit.cloned().unwrap_or_else(|| Quantity(DISK.to_owned()))
}

/// The image's Module: another image of the same Module may have the same name, and the same Job.
fn owners(image: &ModuleImage) -> Vec<OwnerReference> {
    image.owner_references().iter().filter(|owner| owner.kind == "Module").cloned().collect()
}

/// KMM's, and those by which the operator finds it.
fn labels(image: &ModuleImage, kind: &str) -> BTreeMap<String, String> {
    let kernel = image_tag(&image.spec.kernel).to_lowercase().replace(['_', '.'], "-");
    let mut all = labels_of_kind(image, kind);
    all.insert(labels::TARGET_KERNEL.to_owned(), labels::value(kernel.trim_matches('-')));
    all
}

/// What every Job of ours says of itself: of which kind it is, and for which Module.
pub(super) fn labels_of_kind(image: &ModuleImage, kind: &str) -> BTreeMap<String, String> {
    [
        (labels::APP_NAME, labels::PRODUCT.to_owned()),
        (labels::PART_OF, labels::PRODUCT.to_owned()),
        (labels::MANAGED_BY, labels::PRODUCT.to_owned()),
        (labels::COMPONENT, kind.to_owned()),
        (labels::RESOURCE_TYPE, kind.to_owned()),
        (labels::MODULE_NAME, labels::value(&image.spec.module)),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into()
}

fn pod(image: &ModuleImage, order: &Order<'_>, settings: &Settings) -> PodSpec {
    let secrets = secrets(image);
    let user = if order.recipe.is_some() { BUILDER } else { USER };
    let mut volumes: Vec<_> =
        secrets.iter().map(|mount| volume_of_secret(mount.volume, mount.secret)).collect();
    volumes.push(work(disk(image)));
    volumes.extend(order.recipe.into_iter().flat_map(|recipe| recipe.volumes(image)));
    let registry = secrets.iter().find(|mount| mount.volume == REGISTRY).copied();
    let before = order.recipe.map(|recipe| recipe.containers(image, registry, settings));
    PodSpec {
        restart_policy: Some("Never".to_owned()),
        active_deadline_seconds: Some(deadline(image)),
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        // The program's image may be where the drivers' images are.
        image_pull_secrets: image.spec.image_repo_secret.clone().map(|secret| vec![secret]),
        node_selector: Some(node_selector(image, order.module)),
        tolerations: Some(tolerations(order.module)),
        security_context: Some(run_as(user)),
        volumes: Some(volumes),
        init_containers: before,
        containers: vec![container(&secrets, order.task, settings)],
        ..PodSpec::default()
    }
}

/// What a Job puts up with: what its Module does, and that its nodes may have no driver yet.
fn tolerations(module: Option<&Module>) -> Vec<Toleration> {
    let own = module.into_iter().flat_map(|module| module.spec.tolerations.iter().cloned());
    own.chain([tolerates_startup()]).collect()
}

/// Where a Job runs: what the build says, or where the Module's nodes are, as KMM's documents have it. What is compiled is
/// compiled on the architecture that it is for.
fn node_selector(image: &ModuleImage, module: Option<&Module>) -> BTreeMap<String, String> {
    let build = image.spec.build.as_ref();
    let own = build.map(|build| &build.selector).filter(|selector| !selector.is_empty());
    let mut selector = own.or(module.map(|module| &module.spec.selector)).cloned().unwrap_or_default();
    selector.insert("kubernetes.io/os".to_owned(), "linux".to_owned());
    if build.is_some() {
        selector.insert("kubernetes.io/arch".to_owned(), image.spec.architecture.clone());
    }
    selector
}

/// A Secret, and where the program finds it.
#[derive(Debug, Clone, Copy)]
struct Mount<'a> {
    volume: &'static str,
    secret: &'a str,
    path: &'static str,
}

/// The volume with the registries' credentials.
const REGISTRY: &str = "registry";

/// What the program may read.
fn secrets(image: &ModuleImage) -> Vec<Mount<'_>> {
    let sign = image.spec.sign.iter().flat_map(|sign| {
        [
            Mount { volume: "key", secret: &sign.key_secret.name, path: task::KEY_DIR },
            Mount { volume: "cert", secret: &sign.cert_secret.name, path: task::CERT_DIR },
        ]
    });
    let registry = image.spec.image_repo_secret.iter().map(|secret| Mount {
        volume: REGISTRY,
        secret: &secret.name,
        path: task::REGISTRY_DIR,
    });
    sign.chain(registry).collect()
}

fn work(size: Quantity) -> Volume {
    Volume {
        name: WORK.to_owned(),
        empty_dir: Some(EmptyDirVolumeSource { size_limit: Some(size), ..EmptyDirVolumeSource::default() }),
        ..Volume::default()
    }
}

/// A Secret that is missing is the program's to name: a pod that waits for it would say so only in its own events.
fn volume_of_secret(name: &str, secret: &str) -> Volume {
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

pub(super) fn mount(name: &str, path: &str, read_only: bool) -> VolumeMount {
    VolumeMount {
        name: name.to_owned(),
        mount_path: path.to_owned(),
        read_only: read_only.then_some(true),
        ..VolumeMount::default()
    }
}

pub(super) fn variable(name: &str, value: &str) -> EnvVar {
    EnvVar { name: name.to_owned(), value: Some(literal(value)), ..EnvVar::default() }
}

/// A text as a container is to get it: Kubernetes replaces `$(NAME)` in commands, arguments and variables, and takes `$$` for one
/// dollar sign.
fn literal(text: &str) -> String {
    text.replace('$', "$$")
}

fn quantities(pairs: &[(&str, &str)]) -> BTreeMap<String, Quantity> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), Quantity((*value).to_owned()))).collect()
}

/// A user without rights, to whom volumes belong.
pub(super) fn run_as(user: i64) -> PodSecurityContext {
    PodSecurityContext {
        run_as_non_root: Some(true),
        run_as_user: Some(user),
        run_as_group: Some(user),
        fs_group: Some(user),
        ..PodSecurityContext::default()
    }
}

/// What every container has that does nothing of a user's: `restricted`, and so much memory, requested and at most.
pub(super) fn confined(requested: &str, most: &str) -> Container {
    Container {
        resources: Some(ResourceRequirements {
            requests: Some(quantities(&[("cpu", "50m"), ("memory", requested)])),
            limits: Some(quantities(&[("memory", most)])),
            ..ResourceRequirements::default()
        }),
        security_context: Some(restricted()),
        // What ends without a report (killed, out of memory) leaves its last words.
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        ..Container::default()
    }
}

/// What the Pod Security Standard `restricted` asks of a container.
fn restricted() -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        read_only_root_filesystem: Some(true),
        capabilities: Some(Capabilities { drop: Some(vec!["ALL".to_owned()]), ..Capabilities::default() }),
        seccomp_profile: Some(SeccompProfile {
            type_: "RuntimeDefault".to_owned(),
            ..SeccompProfile::default()
        }),
        ..SecurityContext::default()
    }
}

/// The program that signs and publishes. It alone is given the key.
fn container(secrets: &[Mount<'_>], task: &Task, settings: &Settings) -> Container {
    let environment = settings.environment.iter().map(|(name, value)| variable(name, value));
    // A task is made of texts alone.
    let task = variable(task::VARIABLE, &serde_json::to_string(task).unwrap_or_default());
    let mounts = secrets.iter().map(|secret| mount(secret.volume, secret.path, true));
    Container {
        name: task::CONTAINER.to_owned(),
        image: Some(settings.image.clone()),
        command: Some(vec![PROGRAM.to_owned()]),
        env: Some(environment.chain([task]).collect()),
        volume_mounts: Some(mounts.chain([mount(WORK, task::WORK_DIR, false)]).collect()),
        ..confined("64Mi", MEMORY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::ready_image;
    use k8s_openapi::api::core::v1::LocalObjectReference;
    use tenon_api::module::{Build, BuildArg, Sign, SignatureHash};
    use tenon_api::task::{Place, SignTask, Source};

    fn place(image: &str) -> Place {
        Place { image: image.to_owned(), plain_http: false, skip_verify: false, authority: None }
    }

    fn task(from: Source) -> Task {
        let text = "sha256:0".to_owned();
        let sign = SignTask {
            files: vec!["/opt/*.ko".to_owned()],
            hash: SignatureHash::Sha256,
            lacking: Vec::new(),
        };
        Task {
            from,
            to: place("registry.test/gauge:1"),
            made_from: text.clone(),
            request: text,
            sign: Some(sign),
            trial: false,
        }
    }

    fn image(name: &str) -> ModuleImage {
        let named = |name: &str| LocalObjectReference { name: name.to_owned() };
        let mut image = ready_image("registry.test/gauge:1", 'a');
        image.spec.module = name.to_owned();
        image.spec.image_repo_secret = Some(named("pull"));
        image.spec.sign =
            Some(Sign { key_secret: named("our-key"), cert_secret: named("our-cert"), ..Sign::default() });
        image
    }

    fn made(image: &ModuleImage, recipe: Option<&Recipe>, module: Option<&Module>) -> Job {
        let from =
            if recipe.is_some() { Source::Built } else { Source::Image(place("registry.test/plain:1")) };
        let (inputs, task) = (Digest::of(b"inputs"), task(from));
        let order = Order { inputs: &inputs, task: &task, recipe, module };
        let settings = Settings {
            image: "registry.test/maker:1".to_owned(),
            builder: "registry.test/builder:1".to_owned(),
            environment: [("HTTPS_PROXY".to_owned(), "http://proxy:1".to_owned())].into(),
        };
        job(image, &order, &settings)
    }

    fn pod_of(job: Job) -> PodSpec {
        job.spec.unwrap().template.spec.unwrap()
    }

    #[test]
    fn another_place_or_need_is_another_placement_and_not_another_image() {
        let (mut image, mut module) = (image("gauge"), crate::fixture::minimal_module());
        image.spec.build = Some(Build::default());
        let mut placements = vec![placement(&image, Some(&module))];
        assert_eq!(
            made(&image, None, Some(&module)).annotations().get("tenon.dev/placement"),
            placements.last()
        );
        module.spec.tolerations.push(Toleration { key: Some("gpu".to_owned()), ..Toleration::default() });
        placements.push(placement(&image, Some(&module)));
        let build = image.spec.build.as_mut().unwrap();
        build.selector.insert("disk".to_owned(), "ssd".to_owned());
        placements.push(placement(&image, Some(&module)));
        let limits = Some([("memory".to_owned(), Quantity("9Gi".to_owned()))].into());
        image.spec.build.as_mut().unwrap().resources =
            Some(ResourceRequirements { limits, ..ResourceRequirements::default() });
        placements.push(placement(&image, Some(&module)));
        let different: std::collections::BTreeSet<_> = placements.iter().collect();
        assert_eq!(different.len(), 4);
        let name = made(&image, None, Some(&module)).name_any();
        assert_eq!(name, made(&image, None, None).name_any());
    }

    #[test]
    fn the_pod_is_given_its_task_and_three_secrets_and_nothing_else() {
        let pod = pod_of(made(&image("gauge"), None, None));
        let volumes = pod.volumes.unwrap();
        let secrets: Vec<_> =
            volumes.iter().filter_map(|volume| volume.secret.as_ref()?.secret_name.as_deref()).collect();
        assert_eq!(secrets, ["our-key", "our-cert", "pull"]);
        assert_eq!(volumes.len(), 4, "and a place to write");
        assert_eq!(pod.image_pull_secrets.unwrap()[0].name, "pull");
        let [container] = pod.containers.as_slice() else { panic!("one container") };
        let [_, task] = container.env.as_deref().unwrap() else { panic!("two variables") };
        let given: Task = serde_json::from_str(task.value.as_deref().unwrap()).unwrap();
        assert_eq!(given.to.image, "registry.test/gauge:1");
        assert_eq!(pod.automount_service_account_token, Some(false));
        assert!(pod.init_containers.is_none());
    }

    fn to_build() -> (ModuleImage, Recipe) {
        let mut image = image("gauge");
        image.spec.build = Some(Build {
            secrets: vec![LocalObjectReference { name: "licence".to_owned() }],
            active_deadline_seconds: Some(600),
            ..Build::default()
        });
        let arguments = vec![BuildArg { name: "KERNEL_VERSION".to_owned(), value: "6.1".to_owned() }];
        let base = Base {
            name: "registry.test:5000/toolkit:6.1".to_owned(),
            pinned: "registry.test:5000/toolkit@sha256:0".to_owned(),
            registry: "registry.test:5000".to_owned(),
            insecure: true,
            authority: None,
        };
        let recipe = FromDockerfile { dockerfile: "FROM x".to_owned(), arguments, bases: vec![base] };
        (image, Recipe::Dockerfile(recipe))
    }

    #[test]
    fn the_builder_never_sees_the_key_and_the_signer_none_of_the_builds_secrets() {
        let (image, recipe) = to_build();
        let pod = pod_of(made(&image, Some(&recipe), None));
        let mounts = |container: &Container| -> Vec<String> {
            container.volume_mounts.iter().flatten().map(|mount| mount.mount_path.clone()).collect()
        };
        let [build] = pod.init_containers.as_deref().unwrap() else { panic!("one container before") };
        let builder = mounts(build);
        assert!(builder.contains(&"/run/secrets/licence".to_owned()), "{builder:?}");
        assert!(!builder.iter().any(|path| path == task::KEY_DIR || path == task::CERT_DIR), "{builder:?}");
        assert!(!mounts(&pod.containers[0]).iter().any(|path| path.starts_with("/run/secrets")));
        let context = build.security_context.as_ref().unwrap();
        assert_eq!(context.privileged, None);
        assert_eq!(context.capabilities.as_ref().unwrap().add.as_deref().unwrap(), ["SETUID", "SETGID"]);
        assert_eq!(build.env.as_ref().unwrap()[0].name, "HTTPS_PROXY");
    }

    #[test]
    fn what_is_built_is_what_was_hashed() {
        let (image, recipe) = to_build();
        let job = made(&image, Some(&recipe), None);
        let annotations =
            job.spec.as_ref().unwrap().template.metadata.as_ref().unwrap().annotations.clone().unwrap();
        assert!(annotations.values().any(|text| text == "FROM x"));
        assert!(
            annotations
                .values()
                .any(|text| text.contains("location = \"registry.test:5000\"\ninsecure = true"))
        );
        let later = job.spec.as_ref().unwrap().active_deadline_seconds;
        assert!(later > Some(600 + 30), "a pod has ended by itself before its Job ends it: {later:?}");
        assert_eq!(pod_of(job.clone()).active_deadline_seconds, Some(600));
        let arguments = pod_of(job).init_containers.unwrap().remove(0).args.unwrap();
        let pin = "--build-context=registry.test:5000/toolkit:6.1=docker-image://registry.test:5000/toolkit@sha256:0";
        assert_eq!(arguments, ["--build-arg=KERNEL_VERSION=6.1", pin]);
    }

    #[test]
    fn a_job_may_write_as_much_as_its_build_may() {
        let (mut image, recipe) = to_build();
        let size = |image: &ModuleImage| {
            let volumes = pod_of(made(image, Some(&recipe), None)).volumes.unwrap();
            let work = volumes.into_iter().find(|volume| volume.name == WORK).unwrap();
            work.empty_dir.unwrap().size_limit.unwrap().0
        };
        assert_eq!(size(&image), "16Gi");
        let limits = Some(quantities(&[("ephemeral-storage", "40Gi")]));
        image.spec.build.as_mut().unwrap().resources =
            Some(ResourceRequirements { limits, ..ResourceRequirements::default() });
        assert_eq!(size(&image), "40Gi");
    }

    #[test]
    fn what_compiles_may_do_nothing_else() {
        let (mut image, _) = to_build();
        image.spec.kernel = "6.1.0-9-amd64".to_owned();
        let arg = |name: &str, value: &str| BuildArg { name: name.to_owned(), value: value.to_owned() };
        let recipe = Recipe::Sources(Box::new(FromSources {
            place: SourcePlace::Git {
                uri: "https://git.test/a.git".to_owned(),
                reference: None,
                secret: Some("git".to_owned()),
            },
            path: Some("/driver/".to_owned()),
            toolkit: Base { pinned: "registry.test/toolkit@sha256:0".to_owned(), ..Base::default() },
            artifacts: Vec::new(),
            before: Some("./configure".to_owned()),
            script: None,
            after: Some("cp a \"$OUT\"".to_owned()),
            arguments: vec![arg("KERNEL_FULL_VERSION", "6.1.0-9-amd64"), arg("OUT", "/elsewhere")],
        }));
        let pod = pod_of(made(&image, Some(&recipe), None));
        let [fetch, compile] = pod.init_containers.as_deref().unwrap() else { panic!("two containers") };
        for container in [fetch, compile] {
            let context = container.security_context.as_ref().unwrap();
            assert_eq!(context.allow_privilege_escalation, Some(false));
            assert_eq!(context.capabilities.as_ref().unwrap().add, None);
        }
        let mounts = |container: &Container| -> Vec<String> {
            container.volume_mounts.iter().flatten().map(|mount| mount.mount_path.clone()).collect()
        };
        assert_eq!(mounts(fetch), ["/work", "/run/tenon/git"]);
        assert_eq!(mounts(compile), ["/work"], "neither keys nor credentials");
        assert_eq!(compile.image.as_deref(), Some("registry.test/toolkit@sha256:0"));
        let last = |name: &str| {
            let mut all = compile.env.iter().flatten().rev();
            all.find(|variable| variable.name == name).unwrap().value.clone().unwrap()
        };
        assert_eq!(last("SOURCE"), "/work/source/driver");
        assert_eq!(last("OUT"), "/work/out", "ours goes before the user's");
        assert_eq!(last("MODULES"), "/work/out/opt/lib/modules/6.1.0-9-amd64");
        // Kubernetes would make one of `$$`, and another text of `$(NAME)`.
        let command = compile.command.clone().unwrap().remove(2);
        assert!(command.contains("cd \"$$SOURCE\"") && !command.replace("$$", "").contains('$'), "{command}");
        let places = ["./configure", "make -C", "cp a \"$$OUT\""].map(|text| command.find(text).unwrap());
        assert!(places.is_sorted(), "{command}");
    }

    #[test]
    fn jobs_run_where_the_build_says_or_where_the_modules_nodes_are() {
        let (mut image, recipe) = to_build();
        let mut module = crate::fixture::minimal_module();
        module.spec.selector = [("gpu".to_owned(), "yes".to_owned())].into();
        module.spec.tolerations = vec![k8s_openapi::api::core::v1::Toleration {
            key: Some("gpu".to_owned()),
            ..Default::default()
        }];
        let selector = |pod: &PodSpec| -> Vec<String> {
            pod.node_selector.iter().flatten().map(|(key, value)| format!("{key}={value}")).collect()
        };
        let pod = pod_of(made(&image, Some(&recipe), Some(&module)));
        assert_eq!(selector(&pod), ["gpu=yes", "kubernetes.io/arch=amd64", "kubernetes.io/os=linux"]);
        let tolerated: Vec<_> =
            pod.tolerations.iter().flatten().filter_map(|all| all.key.as_deref()).collect();
        assert_eq!(tolerated, ["gpu", "tenon.dev/drivers-not-ready"], "the driver must not wait for itself");
        image.spec.build.as_mut().unwrap().selector = [("disk".to_owned(), "ssd".to_owned())].into();
        let pod = pod_of(made(&image, Some(&recipe), Some(&module)));
        assert_eq!(selector(&pod), ["disk=ssd", "kubernetes.io/arch=amd64", "kubernetes.io/os=linux"]);
        image.spec.build = None;
        let pod = pod_of(made(&image, None, Some(&module)));
        assert_eq!(selector(&pod), ["gpu=yes", "kubernetes.io/os=linux"]);
    }

    #[test]
    fn names_and_labels_are_legal_for_every_module() {
        for module in ["gauge", "a.b.c", &"m".repeat(253), &format!("{}.x", "m".repeat(44))] {
            let job = made(&image(module), None, None);
            let name = job.metadata.name.unwrap();
            assert!(name.len() <= 63 && !name.contains("--") && !name.contains('.'), "{name}");
            assert!(job.metadata.labels.unwrap().values().all(|value| labels::is_value(value)));
        }
    }
}
