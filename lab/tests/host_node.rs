//! The host's own kubelet runs pods as any node does, at the machine's own speed.
#![expect(clippy::unwrap_used, reason = "what a test is made of may fail like the test")]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use serde_json::json;
use tenon_lab::build_images;
use tenon_lab::claim::comes_true_within;
use tenon_lab::control_plane::Extent;
use tenon_lab::dir::LabDir;
use tenon_lab::host_node;
use tenon_lab::kernel::Origin;
use tenon_lab::program_images::{self, ProgramImage};
use tenon_lab::registry::Protection;
use tenon_lab::setup::Supplies;
use tenon_lab::{ControlPlane, HostNode, Registry};
use tokio::sync::Mutex;

/// A pod's whole life on a busy machine.
const SOON: Duration = Duration::from_mins(5);
const NODE: &str = "anvil";
/// A test that looks for what its node left behind must have looked before the next node is there: that one waits for
/// nothing but the end of this one.
static ALONE: Mutex<()> = Mutex::const_new(());

struct Place {
    // In the order in which they end.
    node: HostNode,
    registry: Registry,
    plane: ControlPlane,
    supplies: Supplies,
    _dir: LabDir,
}

impl Place {
    async fn start() -> Self {
        let supplies = Supplies::get().unwrap();
        let dir = LabDir::create().unwrap();
        let plane = ControlPlane::start_in(dir.path(), Extent::Full).await.unwrap();
        let mut registry =
            Registry::start(&supplies, dir.path(), "registry", &Protection::default()).await.unwrap();
        let begun = Instant::now();
        let node = HostNode::start(&plane, &mut registry, NODE).await.unwrap();
        println!("node ready after {:.1?}", begun.elapsed());
        Self { node, registry, plane, supplies, _dir: dir }
    }

    /// Waits for a pod's end, well or not; gives its phase.
    async fn ended(&self, name: &str) -> String {
        let pods: Api<Pod> = Api::namespaced(self.plane.client(), "forge");
        comes_true_within(SOON, format!("pod {name} ends"), async || {
            let pod = pods.get(name).await.map_err(|error| error.to_string())?;
            let status = pod.status.unwrap_or_default();
            match status.phase.as_deref() {
                Some(phase @ ("Succeeded" | "Failed")) => Ok(phase.to_owned()),
                phase => Err(format!("{phase:?} {:?}", status.container_statuses)),
            }
        })
        .await
        .unwrap()
    }

    /// An image with busybox alone, by the name that pods pull it by.
    async fn push_busybox(&self) -> String {
        let busybox = ProgramImage {
            binary: &self.supplies.busybox,
            program: "/busybox",
            arguments: &[],
            labels: BTreeMap::new(),
        };
        let image = format!("{}/busybox:1", host_node::name_of(&self.registry));
        program_images::push(&busybox, &image).await.unwrap();
        image
    }

    async fn log(&self, pod: &str, container: &str) -> String {
        self.plane.kubectl(&["logs", "-n", "forge", pod, "-c", container]).await.unwrap()
    }
}

fn namespace(level: &str) -> String {
    let labels = json!({ "pod-security.kubernetes.io/enforce": level });
    json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "forge", "labels": labels } })
        .to_string()
}

#[tokio::test]
async fn a_restricted_pod_runs_and_kubectl_reads_its_log() {
    let _alone = ALONE.lock().await;
    let place = Place::start().await;
    let image = place.push_busybox().await;
    place.plane.apply(&namespace("restricted")).await.unwrap();
    let script = format!(
        "echo user $(/busybox id -u) && /busybox wget -q -O - http://{}/v2/ && \
         echo && /busybox grep -q eth0 /proc/net/dev && echo reached",
        host_node::name_of(&place.registry)
    );
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "caller", "namespace": "forge" },
        "spec": {
            "restartPolicy": "Never",
            "securityContext": { "runAsNonRoot": true, "runAsUser": 1000,
                "seccompProfile": { "type": "RuntimeDefault" } },
            "containers": [{
                "name": "caller", "image": image, "command": ["/busybox", "sh", "-c", script],
                "securityContext": { "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] },
                    "readOnlyRootFilesystem": true },
            }],
        },
    });
    let begun = Instant::now();
    place.plane.apply(&pod.to_string()).await.unwrap();
    let phase = place.ended("caller").await;
    println!("restricted pod ended after {:.1?}", begun.elapsed());
    let log = place.log("caller", "caller").await;
    assert_eq!((phase.as_str(), log.trim()), ("Succeeded", "user 1000\n{}\nreached"));

    let begun = Instant::now();
    drop(place.node);
    println!("node gone after {:.1?}", begun.elapsed());
    assert_eq!(traces(), Vec::<PathBuf>::new());
}

/// The bridge and the cgroups, which outlast a node's processes.
fn traces() -> Vec<PathBuf> {
    let cgroups = std::fs::read_dir("/sys/fs/cgroup").unwrap();
    let cgroups = cgroups.map(|entry| entry.unwrap().path().join("tenon-lab"));
    let places = cgroups.chain(["/sys/fs/cgroup/tenon-lab", "/sys/class/net/tenon-lab0"].map(PathBuf::from));
    places.filter(|path| path.exists()).collect()
}

/// Calls itself a second time to have an owner that can be killed.
#[tokio::test]
async fn what_a_killed_owner_left_behind_is_cleared_by_the_next() {
    const OWNER: &str = "TENON_LAB_TEST_NODE_OWNER";
    if let Some(told) = std::env::var_os(OWNER) {
        let place = Place::start().await;
        let kubelets = processes("kubelet");
        std::fs::write(told, kubelets.join(" ")).unwrap();
        std::future::pending::<()>().await;
        drop(place);
    }
    let _alone = ALONE.lock().await;
    let folder = tempfile::tempdir().unwrap();
    let told = folder.path().join("kubelets");
    let mut owner = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "what_a_killed_owner_left_behind_is_cleared_by_the_next"])
        .env(OWNER, &told)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let kubelets = comes_true_within(SOON, "another process has a node", async || {
        let text = std::fs::read_to_string(&told).unwrap_or_default();
        if text.is_empty() { Err("it does not say so".to_owned()) } else { Ok(text) }
    });
    let kubelets = kubelets.await.unwrap();
    owner.kill().unwrap();
    owner.wait().unwrap();
    comes_true_within(SOON, "its processes end with it", async || {
        let alive = processes("kubelet");
        let alive: Vec<_> = kubelets.split(' ').filter(|id| alive.iter().any(|one| one == id)).collect();
        if alive.is_empty() { Ok(()) } else { Err(alive.join(" ")) }
    })
    .await
    .unwrap();
    assert!(!traces().is_empty(), "the test is about what is left");
    let place = Place::start().await;
    drop(place.node);
    assert_eq!(traces(), Vec::<PathBuf>::new());
}

/// The processes that run a program of that name.
fn processes(name: &str) -> Vec<String> {
    let entries = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let runs = |id: &String| {
        let program = std::fs::read_link(format!("/proc/{id}/exe")).unwrap_or_default();
        program.file_name().is_some_and(|file| file == name)
    };
    entries.filter_map(|entry| entry.file_name().into_string().ok()).filter(runs).collect()
}

/// Compiles simple-kmod by the toolkit of a kernel; the sources are in the file itself, for its context is empty.
fn dockerfile() -> String {
    let write =
        |name: &str, text: &str| format!("RUN echo {} | base64 -d >/src/{name}\n", STANDARD.encode(text));
    let makefile = include_str!("../../examples/drivers/simple-kmod/Makefile");
    let source = include_str!("../../examples/drivers/simple-kmod/simple-kmod.c");
    format!(
        "ARG TOOLKIT\nFROM ${{TOOLKIT}} AS build\nARG KERNEL\nRUN mkdir /src\n{}{}\
         RUN make -s -C /src KERNEL=${{KERNEL}} && test \"$(cat /run/secrets/stamp/word)\" = sesame\n\
         FROM scratch\nARG KERNEL\n\
         COPY --from=build /src/simple-kmod.ko /opt/lib/modules/${{KERNEL}}/simple-kmod.ko\n",
        write("Makefile", makefile),
        write("simple-kmod.c", source),
    )
}

/// A pod that builds as an ordinary user, and then shows what came out.
fn build_pod(builder: &str, busybox: &str, arguments: &[String]) -> String {
    let mount = |name: &str, path: &str| json!({ "name": name, "mountPath": path, "readOnly": true });
    let work = json!({ "name": "work", "mountPath": "/work" });
    let show = "for part in /work/*; do echo $part; done; /busybox cat /work/image/index.json";
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "build", "namespace": "forge" },
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": false,
            "securityContext":
                { "runAsNonRoot": true, "runAsUser": 1000, "runAsGroup": 1000, "fsGroup": 1000 },
            "initContainers": [{
                "name": "build", "image": builder, "args": arguments,
                "securityContext": {
                    "allowPrivilegeEscalation": true, "readOnlyRootFilesystem": true,
                    "capabilities": { "drop": ["ALL"], "add": ["SETUID", "SETGID"] },
                },
                "volumeMounts": [
                    work,
                    mount("dockerfile", "/run/tenon/dockerfile"),
                    mount("stamp", "/run/secrets/stamp"),
                ],
            }],
            "containers": [{
                "name": "show", "image": busybox, "command": ["/busybox", "sh", "-c", show],
                "volumeMounts": [work],
            }],
            "volumes": [
                { "name": "work", "emptyDir": {} },
                { "name": "dockerfile", "configMap": { "name": "dockerfile" } },
                { "name": "stamp", "secret": { "secretName": "stamp" } },
            ],
        },
    })
    .to_string()
}

#[tokio::test]
async fn a_pod_of_an_ordinary_user_builds_a_driver_by_a_dockerfile() {
    let _alone = ALONE.lock().await;
    let (builder, toolkit, kernel) = tokio::task::spawn_blocking(|| {
        let kernel = Supplies::get().unwrap().kernel(Origin::Stable).unwrap().clone();
        let begun = Instant::now();
        let images = (build_images::builder().unwrap(), build_images::toolkit(&kernel).unwrap());
        println!("images made or found after {:.1?}", begun.elapsed());
        (images.0, images.1, kernel)
    })
    .await
    .unwrap();
    let place = Place::start().await;
    let registry = host_node::name_of(&place.registry);
    let names = ["builder:1".to_owned(), format!("toolkit:{}", build_images::toolkit_tag(&kernel))];
    let [builder_name, toolkit_name] = names.map(|name| format!("{registry}/{name}"));
    let begun = Instant::now();
    builder.push(&builder_name).await.unwrap();
    toolkit.push(&toolkit_name).await.unwrap();
    println!("images pushed after {:.1?}", begun.elapsed());
    let busybox = place.push_busybox().await;
    let objects = [
        json!({ "apiVersion": "v1", "kind": "ConfigMap", "data": { "dockerfile": dockerfile() },
            "metadata": { "name": "dockerfile", "namespace": "forge" } }),
        json!({ "apiVersion": "v1", "kind": "Secret", "stringData": { "word": "sesame" },
            "metadata": { "name": "stamp", "namespace": "forge" } }),
    ];
    place.plane.apply(&namespace("baseline")).await.unwrap();
    for object in objects {
        place.plane.apply(&object.to_string()).await.unwrap();
    }
    let arguments = [
        "--tls-verify=false".to_owned(),
        format!("--build-arg=TOOLKIT={toolkit_name}"),
        format!("--build-arg=KERNEL={}", kernel.release),
    ];
    for round in ["first", "second"] {
        let begun = Instant::now();
        place.plane.apply(&build_pod(&builder_name, &busybox, &arguments)).await.unwrap();
        let phase = place.ended("build").await;
        println!("{round} build ended after {:.1?}", begun.elapsed());
        let log = place.log("build", "build").await;
        println!("{log}");
        assert_eq!(phase, "Succeeded", "{log}");
        let shown = place.log("build", "show").await;
        println!("{shown}");
        assert!(shown.contains("/work/image\n") && !shown.contains("/work/storage"), "{shown}");
        assert!(shown.contains("\"manifests\""), "{shown}");
        place.plane.kubectl(&["delete", "pod", "-n", "forge", "build", "--now"]).await.unwrap();
    }
}
