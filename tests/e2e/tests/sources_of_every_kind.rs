//! Sources of every kind, compiled by Jobs that a real kubelet runs, for one kernel: out of an image, a source package, a private git
//! repository and a volume; with files of another Module's image, with firmware, and with what is done before and after.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "what a test is made of may fail like the test"
)]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use kube::Api;
use kube::api::ListParams;
use serde_json::{Value, json};
use tenon_api::module_image::{ImagePhase, ModuleImage, ModuleImageStatus};
use tenon_api::reasons;
use tenon_lab::claim::comes_true_within;
use tenon_lab::command::ShownOnPanic;
use tenon_lab::git::GitServer;
use tenon_lab::host_node::ADDRESS;
use tenon_lab::kernel::Origin;
use tenon_lab::program_images::push_files;
use tenon_lab::{Lab, forge};

const DRIVERS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/drivers");
const PACKAGE: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/../../crates/maker/testdata/simple-kmod-1.0-1.src.rpm");
/// The first build brings the toolkit to the node.
const BUILT: Duration = Duration::from_mins(6);
const MAKEFILE: &str = "ccflags-y := -DDRIVER_VERSION=\\\"1.0\\\" -DLAB_SYMBOL=lab_core_answer\n";

fn source(file: &str) -> String {
    fs::read_to_string(Path::new(DRIVERS).join(file)).unwrap()
}

fn makefile(object: &str) -> String {
    format!("obj-m := {object}\n{MAKEFILE}")
}

/// A lab with a forge, and one node whose kernel everything is compiled for.
struct Site {
    lab: Lab,
    registry: String,
}

impl Site {
    async fn start() -> Self {
        let mut lab = Lab::start_without_operator().await.unwrap();
        let registry = forge::add(&mut lab).await.unwrap();
        lab.start_operator().await.unwrap();
        let settings = lab.guest_settings("mill", Origin::Stable).unwrap();
        lab.add_guest(settings).await.unwrap();
        lab.plane().kubectl(&["label", "node", "mill", "driver=yes"]).await.unwrap();
        Self { lab, registry }
    }

    async fn apply(&self, object: Value) {
        self.lab.plane().apply(&object.to_string()).await.unwrap();
    }

    /// A Module that is compiled from this.
    async fn module(&self, name: &str, kernel_module: &str, source: Value) {
        let image = format!("{}/{name}:1-${{KERNEL_FULL_VERSION}}", self.registry);
        let mut modprobe = json!({ "moduleName": kernel_module });
        if name == "firmware" {
            modprobe["firmwarePath"] = json!("/firmware");
        }
        let module = json!({
            "apiVersion": "kmm.sigs.x-k8s.io/v1beta1", "kind": "Module",
            "metadata": { "name": name, "namespace": "default" },
            "spec": {
                "selector": { "driver": "yes" },
                "moduleLoader": { "container": {
                    "build": { "source": source, "selector": { "kubernetes.io/hostname": forge::NODE } },
                    "kernelMappings": [{ "regexp": "^.+$", "containerImage": image }],
                    "modprobe": modprobe,
                }},
            },
        });
        self.apply(module).await;
    }

    async fn status_where(
        &self,
        module: &str,
        claim: &str,
        is_so: impl Fn(&ModuleImageStatus) -> bool,
    ) -> ModuleImageStatus {
        let images: Api<ModuleImage> = Api::namespaced(self.lab.plane().client(), "default");
        let begun = Instant::now();
        let claim = format!("{module}: {claim}");
        let status = comes_true_within(BUILT, &claim, async || {
            let all = images.list(&ListParams::default()).await.map_err(|error| error.to_string())?;
            let meant = all.items.into_iter().find(|image| image.spec.module == module);
            let status = meant.and_then(|image| image.status).unwrap_or_default();
            if is_so(&status) { Ok(status) } else { Err(format!("{status:?}")) }
        })
        .await
        .unwrap();
        println!("{claim} after {:.1?}", begun.elapsed());
        status
    }

    async fn ready(&self, module: &str) -> ModuleImageStatus {
        let is_ready = |status: &ModuleImageStatus| status.phase == Some(ImagePhase::Ready);
        self.status_where(module, "the image is there", is_ready).await
    }

    /// Waits until a file of the node says this.
    async fn node_says(&self, file: &str, expected: &str) {
        let guests = self.lab.guests();
        let guest = guests.first().unwrap();
        comes_true_within(BUILT, format!("{file} says {expected}"), async || {
            let said = guest.shell(&format!("cat {file} 2>&1 || true")).await;
            let said = said.map_err(|error| error.to_string())?;
            if said.trim() == expected { Ok(()) } else { Err(said) }
        })
        .await
        .unwrap();
    }

    async fn push_core(&self, comment: &str) {
        let files = [
            ("src/core/Kbuild.in".to_owned(), makefile("lab-core.o")),
            ("src/core/lab-core.c".to_owned(), source("lab-pair/lab-core.c")),
            ("src/core/NOTES".to_owned(), comment.to_owned()),
        ];
        let files: Vec<_> = files.iter().map(|(name, text)| (name.as_str(), text.as_bytes())).collect();
        push_files(&files, &format!("{}/sources:1", self.registry)).await.unwrap();
    }

    /// A volume with the client's sources.
    async fn volume(&self) {
        let folder = self.lab.folder().join("volume");
        let sources = folder.join("client");
        fs::create_dir_all(&sources).unwrap();
        fs::create_dir(folder.join("lost+found")).unwrap();
        fs::set_permissions(folder.join("lost+found"), fs::Permissions::from_mode(0o700)).unwrap();
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(sources.join("Makefile"), makefile("lab-client.o")).unwrap();
        fs::write(sources.join("lab-client.c"), source("lab-pair/lab-client.c")).unwrap();
        let spec = json!({ "accessModes": ["ReadOnlyMany"], "storageClassName": "" });
        let mut volume = json!({ "apiVersion": "v1", "kind": "PersistentVolume", "metadata": { "name": "shelf" }, "spec": spec });
        volume["spec"]["capacity"] = json!({ "storage": "1Gi" });
        volume["spec"]["hostPath"] = json!({ "path": folder });
        let mut claim = json!({
            "apiVersion": "v1", "kind": "PersistentVolumeClaim",
            "metadata": { "name": "shelf", "namespace": "default" }, "spec": spec,
        });
        claim["spec"]["volumeName"] = json!("shelf");
        claim["spec"]["resources"] = json!({ "requests": { "storage": "1Gi" } });
        self.apply(volume).await;
        self.apply(claim).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn drivers_are_compiled_from_sources_of_every_kind() {
    let site = Site::start().await;
    let _logs = ShownOnPanic(site.lab.logs());
    // The namespace lets no pod do more than compile.
    let label = ["label", "namespace", "default", "pod-security.kubernetes.io/enforce=restricted"];
    site.lab.plane().kubectl(&label).await.unwrap();
    a_dependent_waits_for_what_it_is_compiled_against(&site).await;
    a_source_package(&site).await;
    a_private_repository_with_firmware(&site).await;
    what_moves_is_compiled_anew_and_what_depends_on_it_too(&site).await;
}

/// The client from a volume; the core out of an image, whose Makefile is made before and whose notes are taken along after.
async fn a_dependent_waits_for_what_it_is_compiled_against(site: &Site) {
    site.volume().await;
    let artifacts = json!([
        { "module": "core", "path": "Module.symvers", "to": "core/Module.symvers" },
        { "module": "core", "path": "lab-core.ko", "to": "lab-core.ko" },
        { "claim": { "name": "shelf" }, "path": "client/lab-client.c", "to": "again.c" },
    ]);
    let client = json!({
        "claim": { "name": "shelf" }, "path": "client", "artifacts": artifacts,
        "after": "cmp lab-client.c \"$ARTIFACTS/again.c\"\ncp \"$ARTIFACTS/lab-core.ko\" \"$MODULES/\"",
    });
    site.module("client", "lab_client", client).await;
    let waits = |status: &ModuleImageStatus| status.reason.as_deref() == Some(reasons::WAITING_FOR_MODULE);
    let status = site.status_where("client", "it waits", waits).await;
    assert!(status.message.unwrap().as_str().contains("core"));

    site.push_core("one").await;
    let image =
        json!({ "reference": format!("{}/sources:1", site.registry), "registryTLS": { "insecure": true } });
    let core = json!({
        "image": image, "path": "src/core",
        "before": "cp Kbuild.in Kbuild\nexport NOTES=NOTES",
        "after": "grep -q lab_core_answer Module.symvers\ncp \"$NOTES\" \"$OUT/\"",
    });
    site.module("core", "lab_core", core).await;
    site.ready("core").await;
    site.ready("client").await;
    site.node_says("/sys/module/lab_client/version", "1.0").await;
}

async fn a_source_package(site: &Site) {
    let package = fs::read(PACKAGE).unwrap();
    let image = format!("{}/packages:1", site.registry);
    push_files(&[("driver/simple-kmod-1.0-1.src.rpm", &package)], &image).await.unwrap();
    let path = |name: &str| format!("driver/{name}.src.rpm");
    site.module("simple", "simple_kmod", json!({ "image": { "reference": image }, "path": path("none") }))
        .await;
    let invalid = |status: &ModuleImageStatus| status.reason.as_deref() == Some(reasons::SOURCE_INVALID);
    let status = site.status_where("simple", "what is missing is named", invalid).await;
    assert!(status.message.unwrap().as_str().contains("none.src.rpm"));
    let found = json!({ "image": { "reference": image }, "path": path("simple-kmod-1.0-1") });
    site.module("simple", "simple_kmod", found).await;
    site.ready("simple").await;
    site.node_says("/sys/module/simple_kmod/initstate", "live").await;
}

async fn a_private_repository_with_firmware(site: &Site) {
    let who = ("vendor", "s3cret of theirs");
    let server = GitServer::start_private(site.lab.folder(), ADDRESS.into(), who).await.unwrap();
    let (makefile, code) = (makefile("lab-firmware.o"), source("lab-firmware/lab-firmware.c"));
    let files = [
        ("Makefile", makefile.as_str()),
        ("lab-firmware.c", &code),
        ("blobs/lab-firmware.bin", "from sources"),
    ];
    server.commit(&files, "v1").unwrap();
    let secret = |password: &str| {
        json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "git-access", "namespace": "default" },
            "type": "kubernetes.io/basic-auth", "stringData": { "username": who.0, "password": password },
        })
    };
    site.apply(secret("guessed")).await;
    let source = json!({
        "git": { "uri": server.uri(), "ref": "v1", "secret": { "name": "git-access" } },
        "after": "mkdir -p \"$OUT/firmware\"\ncp blobs/* \"$OUT/firmware/\"",
    });
    site.module("firmware", "lab_firmware", source).await;
    let refused = |status: &ModuleImageStatus| status.reason.as_deref() == Some(reasons::BUILD_FAILED);
    let status = site.status_where("firmware", "a wrong password is told", refused).await;
    let message = status.message.unwrap().to_string();
    assert!(message.contains("the sources were not fetched") && !message.contains("guessed"), "{message}");
    site.apply(secret(who.1)).await;
    site.ready("firmware").await;
    site.node_says("/sys/module/lab_firmware/parameters/text", "from sources").await;
}

async fn what_moves_is_compiled_anew_and_what_depends_on_it_too(site: &Site) {
    let before = [site.ready("core").await, site.ready("client").await];
    site.push_core("two").await;
    for (module, before) in ["core", "client"].into_iter().zip(before) {
        let anew = |status: &ModuleImageStatus| {
            let making = |status: &ModuleImageStatus| status.making.as_ref().map(|making| making.job.clone());
            status.phase == Some(ImagePhase::Ready)
                && status.image_digest != before.image_digest
                && making(status) != making(&before)
        };
        site.status_where(module, "it is another image", anew).await;
    }
}
