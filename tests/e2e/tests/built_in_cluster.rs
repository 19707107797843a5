//! Images that are built in the cluster: by Jobs that a real kubelet runs, with the shipped builder, for two kernels that load only
//! what is signed.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "what a test is made of may fail like the test"
)]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::batch::v1::Job;
use kube::Api;
use kube::api::ListParams;
use serde_json::{Value, json};
use tenon_api::module_image::{ModuleImage, ModuleImageStatus};
use tenon_api::reasons;
use tenon_image::keyring::Keyring;
use tenon_image::registry::{Proxies, Registry, Timing, TlsSettings, Transport};
use tenon_lab::certificates;
use tenon_lab::claim::comes_true_within;
use tenon_lab::command::ShownOnPanic;
use tenon_lab::enforcing::Way;
use tenon_lab::git::GitServer;
use tenon_lab::host_node::ADDRESS;
use tenon_lab::kernel::Origin;
use tenon_lab::program_images::{self, ProgramImage};
use tenon_lab::{Lab, enforcing, forge};

const DRIVERS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/drivers");
const KERNEL_MODULE: &str = "simple_kmod";
/// The nodes: both ways to have a kernel trust a key of ours.
const MILLS: [(&str, Origin, Way); 2] =
    [("mill-1", Origin::Stable, Way::BuiltIn), ("mill-2", Origin::Backports, Way::SecureBoot)];
/// Several times as long as it takes to look again at what images are made from.
const LOOKS: Duration = Duration::from_secs(7);
/// The first build brings the builder and the toolkit to the node.
const BUILT: Duration = Duration::from_mins(6);

fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap()
}

fn source(file: &str) -> String {
    read(Path::new(DRIVERS).join("simple-kmod").join(file))
}

/// A lab with a forge, and a node for each kernel that trusts our certificate and loads nothing else.
struct Site {
    lab: Lab,
    registry: String,
    keys: tempfile::TempDir,
}

impl Site {
    async fn start() -> Self {
        let mut lab = Lab::start_without_operator().await.unwrap();
        let registry = forge::add(&mut lab).await.unwrap();
        lab.start_operator().await.unwrap();
        let keys = tempfile::tempdir().unwrap();
        certificates::make(keys.path(), certificates::RSA_2048, "1").unwrap();
        for (name, origin, way) in MILLS {
            enforcing::add(&mut lab, name, (origin, way), keys.path()).await.unwrap();
            lab.plane().kubectl(&["label", "node", name, "driver=yes"]).await.unwrap();
        }
        let site = Self { lab, registry, keys };
        site.secrets().await;
        site
    }

    async fn secrets(&self) {
        let secrets = [("signing-key", "key", "key.pem"), ("signing-cert", "cert", "certificate.pem")];
        for (name, entry, file) in secrets {
            let secret = json!({
                "apiVersion": "v1", "kind": "Secret", "metadata": { "name": name, "namespace": "default" },
                "stringData": { entry: read(self.keys.path().join(file)) },
            });
            self.lab.plane().apply(&secret.to_string()).await.unwrap();
        }
    }

    async fn config_map(&self, dockerfile: &str) {
        let map = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "recipe", "namespace": "default" },
            "data": { "dockerfile": dockerfile },
        });
        self.lab.plane().apply(&map.to_string()).await.unwrap();
    }

    /// A Module that is built so, and signed.
    async fn module(&self, tag: &str, build: Value) {
        let mut build = build;
        build["selector"] = json!({ "kubernetes.io/hostname": forge::NODE });
        let image = format!("{}/simple:{tag}-${{KERNEL_FULL_VERSION}}", self.registry);
        let module = json!({
            "apiVersion": "kmm.sigs.x-k8s.io/v1beta1", "kind": "Module",
            "metadata": { "name": "simple", "namespace": "default" },
            "spec": {
                "selector": { "driver": "yes" },
                "moduleLoader": { "container": {
                    "build": build,
                    "sign": {
                        "keySecret": { "name": "signing-key" },
                        "certSecret": { "name": "signing-cert" },
                        "filesToSign": ["/opt/lib/modules/${KERNEL_FULL_VERSION}/*.ko"],
                    },
                    "kernelMappings": [{ "regexp": "^.+$", "containerImage": image }],
                    "modprobe": { "moduleName": KERNEL_MODULE },
                }},
            },
        });
        self.lab.plane().apply(&module.to_string()).await.unwrap();
    }

    async fn images(&self) -> BTreeMap<String, ModuleImage> {
        let images: Api<ModuleImage> = Api::namespaced(self.lab.plane().client(), "default");
        let images = images.list(&ListParams::default()).await.unwrap().items;
        images.into_iter().map(|image| (image.spec.kernel.clone(), image)).collect()
    }

    /// Waits until both kernels' images are so.
    async fn all(&self, claim: &str, is_so: impl Fn(&ModuleImageStatus) -> bool) -> Vec<ModuleImageStatus> {
        comes_true_within(BUILT, claim, async || {
            let images = self.images().await;
            let statuses: Vec<_> =
                images.values().map(|image| image.status.clone().unwrap_or_default()).collect();
            let told = |status: &ModuleImageStatus| {
                let message = status.message.clone().unwrap_or_default();
                format!("{:?} {:?} {message}", status.phase, status.reason)
            };
            let all = statuses.len() == 2 && statuses.iter().all(&is_so);
            if all { Ok(statuses) } else { Err(statuses.iter().map(told).collect::<Vec<_>>().join("; ")) }
        })
        .await
        .unwrap()
    }

    /// What the images' names stand for in the registry.
    async fn digests(&self) -> Vec<String> {
        let tls = TlsSettings { plain_http: true, ..TlsSettings::default() };
        let transport = Transport::new(Proxies::default());
        let registry = Registry::new(&transport, &tls, Keyring::default(), Timing::default()).unwrap();
        let mut digests = Vec::new();
        for image in self.images().await.into_values() {
            let reference = image.spec.image.parse().unwrap();
            digests.push(registry.resolve(&reference).await.unwrap().to_string());
        }
        digests
    }

    /// Neither in a Job, a pod, an image's status or an event, nor in what any container has said.
    async fn key_is_nowhere_else(&self) {
        let pem = read(self.keys.path().join("key.pem"));
        let line = pem.lines().nth(8).unwrap();
        let kinds = "jobs,pods,moduleimages,modules,events,configmaps";
        let mut told = self.lab.plane().kubectl(&["get", kinds, "-A", "-o", "yaml"]).await.unwrap();
        for container in ["build", "make"] {
            told.push_str(&self.log(container).await);
        }
        assert!(
            told.contains("kind: Job") && told.contains("modules signed"),
            "it was looked in the right places"
        );
        assert!(!told.contains(line), "the key is somewhere else than in its Secret");
    }

    /// What the containers of this name have said, of all Jobs.
    async fn log(&self, container: &str) -> String {
        let line = [
            "logs",
            "-n",
            "default",
            "-c",
            container,
            "-l",
            "app.kubernetes.io/managed-by=tenon",
            "--tail=-1",
        ];
        self.lab.plane().kubectl(&line).await.unwrap()
    }

    async fn jobs(&self) -> Vec<String> {
        let jobs: Api<Job> = Api::namespaced(self.lab.plane().client(), "default");
        let jobs = jobs.list(&ListParams::default()).await.unwrap().items;
        jobs.iter().map(kube::ResourceExt::name_any).collect()
    }

    /// Waits until every kernel has this version of the driver, or none at all.
    async fn kernels_have(&self, version: Option<&str>) {
        let begun = Instant::now();
        let claim = format!("the kernels have {version:?}");
        comes_true_within(BUILT, claim, async || {
            for guest in self.lab.guests() {
                let line = "cat /sys/module/simple_kmod/version 2>/dev/null || echo none";
                let said = guest.shell(line).await.map_err(|error| error.to_string())?;
                if said.trim() != version.unwrap_or("none") {
                    let images = self.images().await;
                    let told = images.values().filter_map(|image| image.status.as_ref()?.message.clone());
                    let told: Vec<_> = told.map(|message| message.to_string()).collect();
                    return Err(format!("{} has {}; {}", guest.name(), said.trim(), told.join("; ")));
                }
            }
            Ok(())
        })
        .await
        .unwrap();
        println!("the kernels have {version:?} after {:.1?}", begun.elapsed());
    }
}

/// Two stages; the sources stand in it, and a tool comes from an image that may move, in a registry that only its mirror stands for.
fn dockerfile(version: &str) -> String {
    let upstream = forge::MIRRORED;
    let write = |file: &str| format!("RUN echo {} | base64 -d >/src/{file}\n", STANDARD.encode(source(file)));
    format!(
        "ARG DTK_AUTO\nFROM ${{DTK_AUTO}} AS build\nARG KERNEL_FULL_VERSION\n\
         COPY --from={upstream}/tool:1 /busybox /usr/local/bin/\n\
         RUN mkdir /src\n{}{}\
         RUN make -C /lib/modules/${{KERNEL_FULL_VERSION}}/build M=/src VERSION={version} modules\n\n\
         FROM scratch\nARG KERNEL_FULL_VERSION\n\
         COPY --from=build /src/simple-kmod.ko /opt/lib/modules/${{KERNEL_FULL_VERSION}}/\n",
        write("Makefile"),
        write("simple-kmod.c"),
    )
}

async fn push_tool(site: &Site, label: &str) {
    let tool = ProgramImage {
        binary: &site.lab.supplies().busybox,
        program: "/busybox",
        arguments: &[],
        labels: [("moved", label)].into(),
    };
    program_images::push(&tool, &format!("{}/tool:1", site.registry)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn drivers_are_built_signed_and_loaded_by_kernels_that_load_nothing_else() {
    let mut site = Site::start().await;
    let _logs = ShownOnPanic(site.lab.logs());
    from_a_dockerfile(&mut site).await;
    from_git(&site).await;
    site.lab.plane().kubectl(&["delete", "--wait=false", "module", "simple"]).await.unwrap();
    site.kernels_have(None).await;
}

async fn from_a_dockerfile(site: &mut Site) {
    // What it builds on is not there yet; nor is the Dockerfile.
    site.module("1", json!({ "dockerfileConfigMap": { "name": "recipe" } })).await;
    let waits =
        |reason: &'static str| move |status: &ModuleImageStatus| status.reason.as_deref() == Some(reason);
    site.all("the ConfigMap is missed", waits(reasons::CONFIG_MAP_MISSING)).await;
    site.config_map(&dockerfile("1.1")).await;
    let statuses = site.all("an image is missed", waits(reasons::IMAGE_ABSENT)).await;
    assert!(statuses[0].message.clone().unwrap_or_default().as_str().contains("/tool:1"), "{statuses:?}");
    assert!(site.jobs().await.is_empty(), "nothing is begun that cannot be done");
    push_tool(site, "no").await;
    site.kernels_have(Some("1.1")).await;
    let jobs = site.jobs().await;
    assert_eq!(jobs.len(), 2, "one for each kernel: {jobs:?}");
    let log = site.log("build").await;
    for image in ["toolkit", "tool"] {
        let pinned = log.lines().any(|line| line.contains(&format!("/{image}@sha256:")));
        assert!(pinned, "{image} is not taken by its digest:\n{log}");
    }

    // Who starts anew builds nothing anew, however often it looks.
    site.lab.kill_operator();
    site.lab.start_operator().await.unwrap();
    tokio::time::sleep(LOOKS).await;
    assert_eq!(site.jobs().await, jobs);
    site.key_is_nowhere_else().await;

    // A mistake is told in the words of the program that found it, and nothing is published; the driver stays loaded.
    let published = site.digests().await;
    site.config_map(&dockerfile("1.2").replace("/build M=/src", "/build M=/nowhere")).await;
    let failed = site.all("the build fails", waits(reasons::BUILD_FAILED)).await;
    let message = failed[0].message.clone().unwrap_or_default().to_string();
    assert!(
        message.contains("No such file or directory") || message.contains("No rule to make"),
        "{message}"
    );
    assert_eq!(site.digests().await, published);
    site.kernels_have(Some("1.1")).await;
}

async fn from_git(site: &Site) {
    let server = GitServer::start(site.lab.folder(), ADDRESS.into()).unwrap();
    let makefile = "obj-m := simple-kmod.o\nccflags-y := -DDRIVER_VERSION=\\\"2.0\\\"\n";
    let code = source("simple-kmod.c");
    server.commit(&[("driver/Makefile", makefile), ("driver/simple-kmod.c", &code)], "v2").unwrap();
    site.module("2", json!({ "source": { "git": { "uri": server.uri(), "ref": "v2" }, "path": "driver" } }))
        .await;
    site.kernels_have(Some("2.0")).await;

    let dkms = "PACKAGE_NAME=simple\nPACKAGE_VERSION=3.0\nAUTOINSTALL=yes\n\
                MAKE[0]=\"make -C ${kernel_source_dir} M=${dkms_tree}/${PACKAGE_NAME}/${PACKAGE_VERSION}/build VERSION=3.0 modules\"\n\
                BUILT_MODULE_NAME[0]=simple-kmod\nDEST_MODULE_LOCATION[0]=/extra\n";
    let files = [("dkms.conf", dkms), ("Makefile", &source("Makefile")), ("simple-kmod.c", &code)];
    server.commit(&files, "v3").unwrap();
    site.module("3", json!({ "source": { "git": { "uri": server.uri(), "ref": "v3" } } })).await;
    site.kernels_have(Some("3.0")).await;
}
