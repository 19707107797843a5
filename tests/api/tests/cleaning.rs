//! Images that were made here and that nothing needs any more, against a real API server: what is reported, what is deleted from the
//! registry, and what is not, whatever happens in between. No kubelet runs: the Jobs' program runs in this process.
#![expect(clippy::expect_used, clippy::panic, reason = "a test that cannot be set up has failed")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::api::events::v1::Event;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};
use tenon_api::made_image::MadePhase;
use tenon_api::module_image::ImagePhase;
use tenon_api::{MadeImage, Module, reasons};
use tenon_image::ImageReference;
use tenon_image::keyring::Keyring;
use tenon_image::manifest::OCI_MANIFEST;
use tenon_image::registry::{Proxies, Registry, RegistryError, Timing, TlsSettings, Transport};
use tenon_image::testing::{Deletion, layer};
use tenon_lab::claim::comes_true_within;
use tenon_lab::jobs;
use tenon_lab::registry::Protection;
use tenon_lab::setup::Supplies;
use tenon_lab::wait;
use tenon_test_api::cluster::{Cluster, condition};
use tokio::task::JoinSet;

const KEYS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../crates/sign/testdata");
const NODE: &str = "ash";
/// What belongs to a node that has left goes when the cluster's garbage collector gets to it. That looks for kinds that are new to it every
/// half minute, and on a busy machine not every look succeeds.
const SOON: Duration = Duration::from_mins(4);
/// Longer than the grace period, and than it takes to look twice.
const A_WHILE: Duration = Duration::from_secs(8);
/// How long nothing must have needed an image here.
const AFTER: &str = "--unneeded-after=3s";
const DELETE: &str = "--unneeded-images=delete";

/// A cluster with a node, a driver `plain:1`, a key, and somebody who runs the pods of Jobs.
struct Bench {
    cluster: Cluster,
    _pods: JoinSet<()>,
}

impl Bench {
    async fn start(flags: &[&str]) -> Self {
        let mut cluster = Cluster::start().await;
        cluster.stop_operator().await;
        cluster.flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        cluster.start_operator().await;
        cluster.add_node(NODE).await;
        cluster.push_driver("plain:1", "one");
        for (name, entry, file) in [("key", "key", "rsa.key"), ("cert", "cert", "rsa.pem")] {
            let content = fs::read_to_string(Path::new(KEYS).join(file)).expect("a key");
            let secret = json!({
                "apiVersion": "v1", "kind": "Secret", "metadata": { "name": name }, "stringData": { entry: content },
            });
            let params = PatchParams::apply("a-user").force();
            cluster.secrets().patch(name, &params, &Patch::Apply(secret)).await.expect("a Secret");
        }
        let pods = jobs::serve(cluster.client.clone());
        Self { cluster, _pods: pods }
    }

    async fn restart(&mut self, flags: &[&str]) {
        self.cluster.stop_operator().await;
        self.cluster.flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        self.cluster.start_operator().await;
    }

    /// A Module that wants `<host>/<name>:<kernel>`, which is signed here, made from this image of the test's registry.
    async fn sign(&self, name: &str, host: &str, from: &str) {
        let container = json!({
            "kernelMappings": [{ "regexp": "^.+$", "containerImage": format!("{host}/{name}:${{KERNEL_FULL_VERSION}}") }],
            "sign": {
                "keySecret": { "name": "key" }, "certSecret": { "name": "cert" },
                "unsignedImage": format!("{}/{from}", self.cluster.registry.host()),
                "filesToSign": ["/opt/lib/modules/${KERNEL_FULL_VERSION}/extra/*.ko"],
            },
        });
        let more = json!({ "spec": { "moduleLoader": { "container": container } } });
        self.cluster.apply_module(name, "replaced:1", more).await;
    }

    /// The same in the test's registry, until it is made; what is remembered of it.
    async fn made(&self, name: &str, from: &str) -> MadeImage {
        self.sign(name, &self.cluster.registry.host(), from).await;
        self.made_where(name, "it is needed", |made| phase(made) == Some(MadePhase::Needed)).await
    }

    fn api(&self) -> Api<MadeImage> {
        Api::namespaced(self.cluster.client.clone(), "hall")
    }

    /// What is remembered of the Module's image.
    async fn remembered(&self, module: &str) -> Option<MadeImage> {
        let list = self.api().list(&ListParams::default()).await.expect("a list");
        list.items.into_iter().find(|made| made.spec.module == module)
    }

    async fn made_where(&self, module: &str, what: &str, holds: impl Fn(&MadeImage) -> bool) -> MadeImage {
        comes_true_within(SOON, &format!("{what} ({module})"), async || match self.remembered(module).await {
            Some(made) if holds(&made) => Ok(made),
            other => Err(format!("{other:?}")),
        })
        .await
        .unwrap_or_else(|late| panic!("{late}"))
    }

    async fn refused(&self, module: &str, reason: &str) -> MadeImage {
        self.made_where(module, reason, |made| why(made) == Some(reason)).await
    }

    async fn is_forgotten(&self, module: &str) {
        comes_true_within(SOON, &format!("it is gone and forgotten ({module})"), async || {
            self.remembered(module).await.map_or(Ok(()), |made| Err(format!("{made:?}")))
        })
        .await
        .unwrap_or_else(|late| panic!("{late}"));
    }

    /// The kernel leaves the cluster.
    async fn leave(&self, node: &str) {
        self.cluster.nodes().delete(node, &DeleteParams::default()).await.expect("a deletion");
    }

    /// A node of the same kernel joins.
    async fn come_back(&self, node: &str) {
        self.cluster.join(node, &self.cluster.kernel).await;
    }

    /// What the test's registry has under a Module's tag.
    fn tag(&self, name: &str) -> Option<Vec<u8>> {
        self.cluster.registry.manifest(name, &self.cluster.kernel)
    }

    async fn is_ready(&self, module: &str) {
        comes_true_within(SOON, &format!("the image is ready ({module})"), async || {
            let images = self.cluster.images().list(&ListParams::default()).await;
            let images = images.map_err(|error| error.to_string())?.items;
            let image = images.into_iter().find(|image| image.spec.module == module);
            let phase = image.as_ref().and_then(|image| image.status.as_ref()?.phase);
            if phase == Some(ImagePhase::Ready) { Ok(()) } else { Err(format!("{image:?}")) }
        })
        .await
        .unwrap_or_else(|late| panic!("{late}"));
    }

    fn deletions(&self) -> usize {
        self.cluster.registry.seen().iter().filter(|seen| seen.method == "DELETE").count()
    }

    /// For [`A_WHILE`] this stays as it is.
    async fn stays(&self, what: &str, holds: impl AsyncFn() -> bool) {
        let otherwise = wait::until("what must not come", A_WHILE, async || (!holds().await).then_some(()));
        assert!(otherwise.await.is_err(), "{what}");
    }

    /// Events are sent aside from all else, so that one may come a little later than what it tells of.
    async fn is_told_once(&self, reason: &str) {
        let events: Api<Event> = Api::namespaced(self.cluster.client.clone(), "hall");
        let told = comes_true_within(SOON, &format!("an event tells of it ({reason})"), async || {
            let list = events.list(&ListParams::default()).await.map_err(|error| error.to_string())?;
            let told = list.items.iter().filter(|event| event.reason.as_deref() == Some(reason)).count();
            if told == 0 { Err("no event".to_owned()) } else { Ok(told) }
        })
        .await;
        assert_eq!(told.unwrap_or_else(|late| panic!("{late}")), 1, "{reason}");
    }
}

fn phase(made: &MadeImage) -> Option<MadePhase> {
    made.status.as_ref()?.phase
}

fn why(made: &MadeImage) -> Option<&str> {
    made.status.as_ref()?.reason.as_deref()
}

fn message(made: &MadeImage) -> String {
    made.status
        .as_ref()
        .and_then(|status| status.message.as_ref())
        .map(ToString::to_string)
        .unwrap_or_default()
}

fn client() -> Registry {
    let tls = TlsSettings { plain_http: true, ..TlsSettings::default() };
    let transport = Transport::new(Proxies::from_variables(|_| None));
    Registry::new(&transport, &tls, Keyring::default(), Timing::default()).expect("a client")
}

/// With Debian's docker-registry: reported first, deleted once that is allowed. One that deletes nothing says so, once.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_kernel_leaves_behind_is_reported_and_deleted_where_it_is_allowed() {
    let folder = tempfile::tempdir().expect("a folder");
    let supplies = Supplies::get().expect("the lab's supplies");
    let start = async |name: &str, keeps: bool| {
        let protection = Protection { keeps, ..Protection::default() };
        tenon_lab::Registry::start(&supplies, folder.path(), name, &protection).await.expect("a registry")
    };
    let (deletes, keeps) = (start("deletes", false).await, start("keeps", true).await);
    let settings = [&deletes, &keeps].map(|registry| format!("--registry={},plain-http", registry.host()));
    let flags = |more: &[&'static str]| -> Vec<String> {
        settings.iter().cloned().chain(more.iter().map(|flag| (*flag).to_owned())).collect()
    };
    let reporting = flags(&[AFTER]);
    let mut bench = Bench::start(&reporting.iter().map(String::as_str).collect::<Vec<_>>()).await;
    bench.sign("gauge", &deletes.host(), "plain:1").await;
    bench.sign("anvil", &keeps.host(), "plain:1").await;
    let made = bench.made_where("gauge", "it is needed", |made| phase(made) == Some(MadePhase::Needed)).await;
    bench.made_where("anvil", "it is needed", |made| phase(made) == Some(MadePhase::Needed)).await;
    let image: ImageReference = made.spec.image.parse().expect("a reference");
    let digest = client().resolve(&image).await.expect("the image");
    assert_eq!(digest.to_string(), made.spec.digest);
    let jobs: Api<Job> = Api::namespaced(bench.cluster.client.clone(), "hall");
    for job in jobs.list(&ListParams::default()).await.expect("a list") {
        let expires = job.spec.and_then(|spec| spec.ttl_seconds_after_finished);
        assert_eq!(expires, Some(3600), "its log can be read for an hour, however it ended");
    }

    bench.leave(NODE).await;
    let reported = bench.refused("gauge", reasons::DELETION_OFF).await;
    assert!(message(&reported).contains("--unneeded-images"), "{reported:?}");
    let is_there = async || client().resolve(&image).await.is_ok_and(|found| found == digest);
    bench.stays("nobody has allowed it to be deleted", is_there).await;

    let deleting = flags(&[AFTER, DELETE]);
    bench.restart(&deleting.iter().map(String::as_str).collect::<Vec<_>>()).await;
    bench.is_forgotten("gauge").await;
    assert!(matches!(client().resolve(&image).await, Err(RegistryError::Absent(_))));
    let refused = bench.refused("anvil", reasons::DELETION_UNSUPPORTED).await;
    assert!(message(&refused).contains("switch that on"), "{refused:?}");
    let image = refused.spec.image.parse().expect("a reference");
    client().resolve(&image).await.expect("it is there");
    bench.is_told_once(reasons::event::IMAGE_DELETED).await;
    bench.is_told_once(reasons::DELETION_UNSUPPORTED).await;
}

/// Everything that somebody else has a share in stays, whatever it says of itself.
#[tokio::test(flavor = "multi_thread")]
async fn only_what_was_made_here_and_is_nobody_elses_is_deleted() {
    let bench = Bench::start(&[AFTER, DELETE]).await;
    let registry = &bench.cluster.registry;
    // An index: with two images, of which one is for other machines.
    let path = format!("opt/lib/modules/{}/extra/simple-kmod.ko", bench.cluster.kernel);
    let layers = [layer(&[(path.as_str(), bench.cluster.driver())])];
    let both =
        ["amd64", "arm64"].map(|machine| (machine, registry.put_image("several", machine, machine, &layers)));
    registry.put_index("several", "1", &both);
    let several = bench.made("index", "several:1").await;
    let index: Value = serde_json::from_slice(&bench.tag("index").expect("an index")).expect("JSON");
    let parts: Vec<_> = index["manifests"].as_array().expect("images").iter().collect();
    assert_eq!(parts.len(), 2);
    let parts: Vec<_> =
        parts.iter().map(|part| part["digest"].as_str().expect("a digest").to_owned()).collect();

    let moved = bench.made("moved", "plain:1").await;
    bench.made("shared", "plain:1").await;
    bench.made("named", "plain:1").await;
    bench.made("kept", "plain:1").await;
    // Somebody else's name for the same content.
    let manifest = bench.tag("shared").expect("the image");
    registry.put_manifest("shared", "stable", OCI_MANIFEST, &manifest);
    // A copy, with all the marks of what was made here, which nobody here has made.
    let document: Value = serde_json::from_slice(&manifest).expect("JSON");
    let blobs = document["layers"].as_array().into_iter().flatten().chain([&document["config"]]);
    for blob in blobs {
        let digest = blob["digest"].as_str().and_then(|digest| digest.parse().ok()).expect("a digest");
        registry.put_blob("vendor", &registry.blob("shared", &digest).expect("a blob"));
    }
    registry.put_manifest("vendor", &bench.cluster.kernel, OCI_MANIFEST, &manifest);
    bench.cluster.apply_module("vendor", "vendor:${KERNEL_FULL_VERSION}", json!({})).await;
    bench.is_ready("vendor").await;
    // A Module in another namespace that names one literally, for nodes that are not there.
    let mut yard = Namespace::default();
    yard.metadata.name = Some("yard".to_owned());
    Api::<Namespace>::all(bench.cluster.client.clone())
        .create(&PostParams::default(), &yard)
        .await
        .expect("a namespace");
    let literal = json!({
        "apiVersion": "kmm.sigs.x-k8s.io/v1beta1", "kind": "Module", "metadata": { "name": "other" },
        "spec": {
            "selector": { "no": "node" },
            "moduleLoader": { "container": {
                "modprobe": { "moduleName": "simple-kmod" },
                "kernelMappings": [{
                    "regexp": "^.+$",
                    "containerImage": format!("{}/named:{}", registry.host(), bench.cluster.kernel),
                }],
            }},
        },
    });
    let modules: Api<Module> = Api::namespaced(bench.cluster.client.clone(), "yard");
    modules
        .patch("other", &PatchParams::apply("a-user").force(), &Patch::Apply(literal))
        .await
        .expect("a Module");
    // Whoever wants an image kept deletes what is remembered of it; nobody else writes there.
    let kept = bench.remembered("kept").await.expect("what is remembered");
    bench.api().delete(&kept.name_any(), &DeleteParams::default()).await.expect("a deletion");
    let forged =
        bench.api().create(&PostParams::default(), &MadeImage::new("forged", kept.spec.clone())).await;
    assert!(
        forged.is_err_and(|error| error.to_string().contains("only Tenon's operator")),
        "nobody else writes there"
    );
    // A tag stands for something else by now.
    bench.cluster.push_driver(&format!("moved:{}", bench.cluster.kernel), "by hand");
    let by_hand = bench.tag("moved");

    bench.leave(NODE).await;
    for gone in ["index", "moved"] {
        bench.is_forgotten(gone).await;
    }
    assert_eq!(bench.tag("index"), None);
    let there = |name: &str, digest: &str| registry.manifest(name, digest).is_some();
    assert!(!there("index", &several.spec.digest) && !parts.iter().any(|part| there("index", part)));
    assert_eq!(bench.tag("moved"), by_hand, "the tag is somebody else's");
    assert!(!there("moved", &moved.spec.digest));
    let shared = bench.refused("shared", reasons::SHARED_IN_REGISTRY).await;
    assert!(message(&shared).contains("shared:stable"), "{shared:?}");
    let deletions = bench.deletions();
    bench
        .stays("what others need is there", async || {
            ["shared", "named", "kept", "vendor"].iter().all(|name| bench.tag(name).is_some())
        })
        .await;
    assert_eq!(bench.deletions(), deletions, "nothing is tried again and again");
    let named = bench.remembered("named").await.expect("it is remembered");
    assert_eq!(phase(&named), Some(MadePhase::Needed));
    assert_eq!(bench.remembered("vendor").await, None, "nobody here has made it");
    assert!(there("several", &both[0].1.to_string()) && registry.manifest("plain", "1").is_some());
}

/// Who stops in the middle goes on from what is remembered, and a kernel that comes back meanwhile has its image.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_stops_in_the_middle_deletes_nothing_that_is_needed_again() {
    let flags = [AFTER, DELETE];
    let mut bench = Bench::start(&flags).await;
    let first = bench.made("gauge", "plain:1").await;
    let deleting = |made: &MadeImage| phase(made) == Some(MadePhase::Deleting);
    let needed = |made: &MadeImage| phase(made) == Some(MadePhase::Needed);

    // Stopped before it was deleted; the kernel comes back.
    bench.cluster.registry.set_deletion(Deletion::Ignored);
    bench.leave(NODE).await;
    bench.made_where("gauge", "it is being deleted", deleting).await;
    bench.cluster.stop_operator().await;
    bench.come_back("birch").await;
    bench.cluster.registry.set_deletion(Deletion::Allowed);
    bench.cluster.start_operator().await;
    bench.made_where("gauge", "it is needed again", needed).await;
    bench.stays("it stays", async || bench.tag("gauge").is_some()).await;

    // Stopped after it was deleted; the kernel comes back, and the image is made again.
    bench.cluster.registry.set_deletion(Deletion::Unanswered);
    bench.leave("birch").await;
    bench.made_where("gauge", "it is being deleted", deleting).await;
    comes_true_within(SOON, "it is deleted", async || {
        bench.tag("gauge").map_or(Ok(()), |_| Err("it is there".to_owned()))
    })
    .await
    .unwrap_or_else(|late| panic!("{late}"));
    bench.cluster.stop_operator().await;
    bench.come_back("cedar").await;
    bench.cluster.registry.set_deletion(Deletion::Allowed);
    bench.cluster.start_operator().await;
    bench.is_ready("gauge").await;
    let again = bench.made_where("gauge", "it is needed again", needed).await;
    assert_eq!(again.spec.digest, first.spec.digest, "equal content, equal digest");
    bench.stays("it stays", async || bench.tag("gauge").is_some()).await;

    // The kernel comes back while it is being deleted: nobody takes it for there that is about to go.
    bench.cluster.registry.set_deletion(Deletion::Unanswered);
    bench.leave("cedar").await;
    bench.made_where("gauge", "it is being deleted", deleting).await;
    bench.come_back("elm").await;
    bench.cluster.registry.set_deletion(Deletion::Allowed);
    bench.is_ready("gauge").await;
    bench.made_where("gauge", "it is needed again", needed).await;
    bench.stays("what is ready is there", async || bench.tag("gauge").is_some()).await;

    // Nobody comes back.
    bench.cluster.registry.set_deletion(Deletion::Unanswered);
    bench.leave("elm").await;
    bench.made_where("gauge", "it is being deleted", deleting).await;
    bench.restart(&flags).await;
    bench.cluster.registry.set_deletion(Deletion::Allowed);
    bench.is_forgotten("gauge").await;
    assert_eq!(bench.tag("gauge"), None);
}

/// What the registry refuses is said once, in words that name the way out, and not tried again at once.
#[tokio::test(flavor = "multi_thread")]
async fn what_may_not_be_deleted_is_said_once() {
    let mut bench = Bench::start(&[AFTER, DELETE]).await;
    bench.made("gauge", "plain:1").await;
    bench.cluster.registry.set_deletion(Deletion::Denied);
    // Also an image whose Module is gone is remembered.
    bench.leave(NODE).await;
    bench.cluster.delete_module("gauge").await;
    let refused = bench.refused("gauge", reasons::REGISTRY_DENIED).await;
    assert!(message(&refused).contains("right to delete"), "{refused:?}");
    bench.stays("it is tried once", async || bench.deletions() == 1).await;
    bench.restart(&[AFTER, DELETE]).await;
    bench.stays("also by who starts anew", async || bench.deletions() == 1).await;
    bench.is_told_once(reasons::REGISTRY_DENIED).await;
    let status = refused.status.expect("a status");
    assert!(status.retry_at > status.unneeded_since, "{status:?}");
}

/// A volume that is full is a named reason, and once there is room the image is there.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_volume_is_named_and_mends_itself() {
    let mut bench = Bench::start(&[]).await;
    let volume = Volume::mount(bench.cluster.cache.path(), 8 << 20);
    bench.restart(&[]).await;
    let filler = bench.cluster.cache.path().join("filler");
    fs::write(&filler, vec![1; 9 << 20]).expect_err("the volume is full");
    bench.cluster.apply_module("gauge", "plain:1", json!({})).await;
    let module = bench
        .cluster
        .module_where("gauge", "it says that the volume is full", |module| {
            condition(module, reasons::condition::WAITING)
                .is_some_and(|(_, reason, _)| reason == reasons::DEPOT_FULL)
        })
        .await;
    let (_, _, message) = condition(&module, reasons::condition::WAITING).expect("a condition");
    assert!(message.contains("--cache-dir"), "{message}");
    fs::remove_file(&filler).expect("room");
    bench.is_ready("gauge").await;
    bench.cluster.stop_operator().await;
    drop(volume);
}

/// A small volume in memory over a folder, as long as it lives.
struct Volume(PathBuf);

impl Volume {
    fn mount(folder: &Path, bytes: usize) -> Self {
        run("mount", &["-t", "tmpfs", "-o", &format!("size={bytes}"), "tmpfs"], folder);
        Self(folder.to_owned())
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        run("umount", &["--lazy"], &self.0);
    }
}

fn run(program: &str, arguments: &[&str], folder: &Path) {
    let status = Command::new(program).args(arguments).arg(folder).status();
    assert!(status.is_ok_and(|status| status.success()), "{program} {}", folder.display());
}
