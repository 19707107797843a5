//! A Module whose image is made in the cluster: by a Job that signs, in the Module's namespace, under a real kubelet; for a
//! kernel that loads nothing else.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]

mod shipped;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Event;
use kube::api::ListParams;
use kube::core::DynamicObject;
use kube::discovery::{ApiCapabilities, Discovery, verbs};
use kube::{Api, Client};
use serde_json::{Value, json};
use tenon_api::module_image::{ImagePhase, ModuleImage};
use tenon_api::{Module, reasons, task};
use tenon_image::keyring::Keyring;
use tenon_image::layers::{Found, ImageFiles, Limits};
use tenon_image::registry::{Proxies, Registry, RegistryError, Timing, TlsSettings, Transport};
use tenon_image::{ImagePath, ImageReference};
use tenon_lab::claim::comes_true_within;
use tenon_lab::command::ShownOnPanic;
use tenon_lab::guest::oci::HOST;
use tenon_lab::journey::Journey;
use tenon_lab::kernel::Origin;
use tenon_lab::{Guest, Lab};
use tenon_sign::{Certificate, Hash, Verdict, verify};

use shipped::KERNEL_MODULE;

const NODE: &str = "loom-1";
const MODULE: &str = "default/simple";
const KEYS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../crates/sign/testdata");
const SIGNED: &str = "simple-signed:1.0";
/// A pod on an emulated processor: its image is pulled, it starts, it signs.
const SIGNING: Duration = Duration::from_mins(5);

fn read(name: &str) -> String {
    fs::read_to_string(Path::new(KEYS).join(name)).unwrap()
}

async fn apply_secrets(lab: &Lab, key: &str, certificate: &str) {
    let secret = |name: &str, entry: &str, content: &str| {
        json!({
            "apiVersion": "v1", "kind": "Secret",
            "metadata": { "name": name, "namespace": "default" },
            "stringData": { entry: content },
        })
        .to_string()
    };
    for secret in
        [secret("signing-key", "key", &read(key)), secret("signing-cert", "cert", &read(certificate))]
    {
        lab.plane().apply(&secret).await.unwrap();
    }
}

fn image(lab: &Lab, name: &str) -> String {
    format!("{HOST}:{}/{name}", lab.registry().port())
}

/// With `more` beside what every Module has.
async fn apply_module(lab: &Lab, name: &str, more: Option<Value>) {
    let mut container = json!({
        "registryTLS": { "insecure": true },
        "kernelMappings": [{ "regexp": "^.+$", "containerImage": image(lab, name) }],
        "modprobe": { "moduleName": KERNEL_MODULE },
    });
    if let Some((container, sign)) = container.as_object_mut().zip(more) {
        container.insert("sign".to_owned(), sign);
    }
    let module = json!({
        "apiVersion": "kmm.sigs.x-k8s.io/v1beta1", "kind": "Module",
        "metadata": { "name": "simple", "namespace": "default" },
        "spec": { "selector": { "kubernetes.io/os": "linux" }, "moduleLoader": { "container": container } },
    });
    lab.plane().apply(&module.to_string()).await.unwrap();
}

fn sign(lab: &Lab) -> Value {
    json!({
        "keySecret": { "name": "signing-key" },
        "certSecret": { "name": "signing-cert" },
        "unsignedImage": image(lab, "simple:1.0"),
        "unsignedImageRegistryTLS": { "insecure": true },
        "filesToSign": ["/opt/lib/modules/${KERNEL_FULL_VERSION}/*.ko"],
    })
}

/// One worker, whose kernel trusts our certificate and, once all that it needs of its own modules is loaded, nobody else.
async fn start() -> (Lab, tempfile::TempDir) {
    let mut lab = Lab::start_without_operator().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let certificate = Certificate::read(read("rsa.pem").as_bytes()).unwrap();
    let mut settings = lab.guest_settings(NODE, Origin::Stable).unwrap();
    settings.kernel = settings.kernel.trusting(&[certificate.der()], folder.path()).unwrap();
    lab.add_worker_with(settings).await.unwrap();
    shipped::install(&lab).await;
    let enforce =
        "echo 1 >/sys/module/module/parameters/sig_enforce && cat /sys/module/module/parameters/sig_enforce";
    assert_eq!(machine(&lab).shell(enforce).await.unwrap().trim(), "Y");
    (lab, folder)
}

fn machine(lab: &Lab) -> &Guest {
    lab.worker(NODE).unwrap().guest()
}

async fn images(lab: &Lab) -> Vec<ModuleImage> {
    let images: Api<ModuleImage> = Api::namespaced(lab.plane().client(), "default");
    images.list(&ListParams::default()).await.unwrap().items
}

/// Waits until the image's status says this.
async fn comes_to(lab: &Lab, phase: ImagePhase, reason: &str) -> String {
    let claim = format!("the image is {phase:?} ({reason})");
    let mut message = String::new();
    comes_true_within(SIGNING, claim, async || {
        let images = images(lab).await;
        let status = images.first().and_then(|image| image.status.clone()).unwrap_or_default();
        message = status.message.clone().map(|message| message.to_string()).unwrap_or_default();
        let is_it = status.phase == Some(phase) && status.reason.as_deref() == Some(reason);
        if is_it { Ok(()) } else { Err(format!("{status:?}")) }
    })
    .await
    .unwrap();
    message
}

/// The kernel has said that it wants a signature.
async fn refused(lab: &Lab) {
    let modules: Api<Module> = Api::namespaced(lab.plane().client(), "default");
    comes_true_within(
        SIGNING,
        "the kernel refuses the unsigned driver, and the Module says so",
        async || {
            let module = modules.get("simple").await.map_err(|error| error.to_string())?;
            let conditions = module.status.unwrap_or_default().conditions;
            let degraded = conditions.iter().find(|condition| condition.type_ == "Degraded");
            let message = degraded.map(|condition| condition.message.clone()).unwrap_or_default();
            if message.contains("signature that it trusts") { Ok(()) } else { Err(message) }
        },
    )
    .await
    .unwrap();
}

async fn jobs(lab: &Lab) -> Vec<Job> {
    let jobs: Api<Job> = Api::namespaced(lab.plane().client(), "default");
    jobs.list(&ListParams::default()).await.unwrap().items
}

#[tokio::test(flavor = "multi_thread")]
async fn modules_are_signed_by_a_job_and_the_key_is_seen_nowhere_else() {
    let (mut lab, _kernel) = start().await;
    let _logs = ShownOnPanic(lab.logs());
    let lab = &mut lab;
    let mut journey = Journey::new(MODULE.parse().unwrap(), KERNEL_MODULE);
    apply_module(lab, "simple:1.0", None).await;
    refused(lab).await;

    apply_module(lab, SIGNED, Some(sign(lab))).await;
    let message = comes_to(lab, ImagePhase::Waiting, reasons::SECRET_MISSING).await;
    assert!(message.contains("default/signing-key"), "{message}");
    assert!(jobs(lab).await.is_empty(), "nothing is begun that cannot be done");

    // The certificate is another key's: the Job says so, and nothing is published.
    apply_secrets(lab, "rsa.key", "p384.pem").await;
    let message = comes_to(lab, ImagePhase::Waiting, reasons::SECRET_MALFORMED).await;
    assert!(message.contains("does not belong to the certificate"), "{message}");
    assert!(!is_published(lab).await);

    // Mended; nobody says so to anybody.
    apply_secrets(lab, "rsa.key", "rsa.pem").await;
    comes_to(lab, ImagePhase::Ready, reasons::IMAGE_EXISTS).await;
    journey.loaded(lab, |_| {}).await.unwrap();
    let certificate = Certificate::read(read("rsa.pem").as_bytes()).unwrap();
    let (verdict, labels) = signed(lab, &certificate).await;
    assert_eq!(verdict, Verdict::Good { certificate: 0, hash: Hash::Sha256 });
    assert!(labels.contains(task::label::SOURCE), "{labels:?}");
    assert!(
        event_reasons(lab)
            .await
            .is_superset(&["SignCreated", "SignFailed", "SignSucceeded"].map(str::to_owned).into())
    );

    key_is_nowhere_else(lab).await;
    lab.plane().kubectl(&["delete", "--wait=false", "module", "simple"]).await.unwrap();
    journey.unloaded(lab, |_| {}).await.unwrap();
    let client = lab.plane().client();
    comes_true_within(SIGNING, "the Jobs go with the Module", async || {
        let jobs: Api<Job> = Api::namespaced(client.clone(), "default");
        let left = jobs.list_metadata(&ListParams::default()).await.map_err(|error| error.to_string())?;
        if left.items.is_empty() { Ok(()) } else { Err(format!("{} are left", left.items.len())) }
    })
    .await
    .unwrap();
    for name in ["signing-key", "signing-cert"] {
        lab.plane().kubectl(&["delete", "secret", name]).await.unwrap();
    }
}

fn client(lab: &Lab) -> (Registry, ImageReference) {
    let tls = TlsSettings { plain_http: true, ..TlsSettings::default() };
    let transport = Transport::new(Proxies::default());
    let registry = Registry::new(&transport, &tls, Keyring::default(), Timing::default()).unwrap();
    (registry, format!("{}/{SIGNED}", lab.registry().host()).parse().unwrap())
}

async fn is_published(lab: &Lab) -> bool {
    let (registry, image) = client(lab);
    match registry.resolve(&image).await {
        Ok(_) => true,
        Err(RegistryError::Absent(_)) => false,
        Err(error) => panic!("{error}"),
    }
}

/// What the signature of the published module is worth, and the image's labels.
async fn signed(lab: &Lab, certificate: &Certificate) -> (Verdict, BTreeSet<String>) {
    let (registry, image) = client(lab);
    let image = registry.image(&image, &"amd64".parse().unwrap()).await.unwrap();
    let layers = registry.pull_layers(&image, &std::env::temp_dir(), &Limits::default()).await.unwrap();
    let files = ImageFiles::flatten(layers, &Limits::default()).unwrap();
    let kernel = &lab.supplies().kernel(Origin::Stable).unwrap().release;
    let path: ImagePath = format!("/opt/lib/modules/{kernel}/simple-kmod.ko").parse().unwrap();
    let Some(Found::File(at)) = files.tree().find(&path) else { panic!("{path} is not there") };
    let mut bytes = Vec::new();
    let mut take = |_, content: &mut dyn std::io::Read| content.read_to_end(&mut bytes).map(drop);
    files.read(&[at].into(), &mut take, &|error| std::io::Error::other(error)).unwrap();
    (verify(&bytes, std::slice::from_ref(certificate)), image.labels().keys().cloned().collect())
}

async fn event_reasons(lab: &Lab) -> BTreeSet<String> {
    let events: Api<Event> = Api::namespaced(lab.plane().client(), "default");
    let events = events.list(&ListParams::default()).await.unwrap();
    events.items.into_iter().filter_map(|event| event.reason).collect()
}

/// Neither in an object of the cluster but the Secret itself, nor in the log of a pod or program, nor in the registry.
async fn key_is_nowhere_else(lab: &Lab) {
    // A line from the middle of the PEM.
    let pem = read("rsa.key");
    let line = pem.lines().nth(8).unwrap().to_owned();
    let client = lab.plane().client();
    let mut looked_at = 0;
    for (kind, text) in objects(&client).await {
        looked_at += 1;
        assert!(kind == "Secret" || !text.contains(&line), "{kind}: {text}");
    }
    assert!(looked_at > 50, "{looked_at} objects");
    // The API server has no way to the worker's kubelet: its files are looked into where they are.
    let logs = machine(lab).shell("ls /var/log/pods | wc -l").await.unwrap();
    assert!(logs.trim().parse::<usize>().unwrap() >= 4, "the operators, the node, a Job: {logs}");
    let found = machine(lab).shell(&format!("grep -rlF -e '{line}' /var/log/pods || true")).await.unwrap();
    assert_eq!(found.trim(), "");
    for log in lab.logs() {
        let text = fs::read(&log).unwrap_or_default();
        assert!(!text.windows(line.len()).any(|window| window == line.as_bytes()), "{}", log.display());
    }
}

/// Every object that can be listed, as JSON.
async fn objects(client: &Client) -> Vec<(String, String)> {
    let discovery = Discovery::new(client.clone()).run().await.unwrap();
    let mut found = Vec::new();
    for (resource, capabilities) in
        discovery.groups().flat_map(kube::discovery::ApiGroup::recommended_resources)
    {
        if !ApiCapabilities::supports_operation(&capabilities, verbs::LIST) {
            continue;
        }
        let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
        let Ok(list) = api.list(&ListParams::default()).await else { continue };
        let texts = list.items.iter().map(|object| serde_json::to_string(object).unwrap());
        found.extend(texts.map(|text| (resource.kind.clone(), text)));
    }
    found
}
