//! Inspection against a real API server: what a kernel will refuse reaches no node, and what somebody says of a kernel
//! counts for whom it should. The nodes' agents are played; real ones are in `tests/e2e`.
#![expect(clippy::expect_used, reason = "a test that cannot be set up has failed")]

use std::path::Path;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::api::events::v1::Event;
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};
use tenon_api::NodeModulesConfig;
use tenon_api::kernel_facts::{ARCHITECTURE, BUILD_ID, DATA_KEY, IMAGE, LABEL, RELEASE, SOURCE};
use tenon_api::node_modules_config::ModulePhase;
use tenon_image::testing::layer;
use tenon_kmod::ModuleObject;
use tenon_kmod::facts::{KernelFacts, KernelSymbol, Namespace};
use tenon_lab::control_plane::audit::Mark;
use tenon_lab::wait;
use tenon_sign::{Certificate, Hash, Identity, LocalKey, sign};
use tenon_test_api::cluster::{self, Cluster, SOON, condition, order};

const BUILD: &str = "00112233445566778899aabbccddeeff00112233";

/// A name in `__versions` that every driver has, behind its checksum of eight bytes.
const LAYOUT: &[u8] = b"module_layout\0";

/// Facts about the kernel that the driver was built for, as far as the driver tells.
fn facts_of(driver: &[u8], release: &str) -> KernelFacts {
    let driver = ModuleObject::parse(driver).expect("a module");
    let mut facts = KernelFacts::new(release.parse().expect("a release"), driver.architecture);
    facts.build_id = Some(BUILD.parse().expect("a build-id"));
    facts.vermagic = driver.info.vermagic();
    facts.this_module_size = Some(driver.this_module_size);
    facts.modversions = Some(true);
    facts.complete = true;
    facts.policy.force_load = Some(false);
    let versions = driver.versions.expect("checksums").crcs;
    let symbol = |crc| KernelSymbol {
        crc: Some(crc),
        gpl_only: Some(false),
        namespace: Namespace::named(""),
        provider: None,
    };
    facts.exports = versions.into_iter().map(|(name, crc)| (name, symbol(crc))).collect();
    facts
}

/// The same driver, built against another `struct module`.
fn foreign(driver: &[u8]) -> Vec<u8> {
    let mut driver = driver.to_vec();
    let at = driver.windows(LAYOUT.len()).position(|window| window == LAYOUT).expect("module_layout");
    let crc = driver.get_mut(at - 8..at - 4).expect("its checksum");
    for byte in crc {
        *byte ^= 0xff;
    }
    driver
}

async fn say(cluster: &Cluster, facts: &KernelFacts, source: &str) {
    let maps: Api<ConfigMap> = Api::namespaced(cluster.client.clone(), "tenon-system");
    let name = "kernel-facts-said";
    let mut map: ConfigMap = serde_json::from_value(json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": name, "labels": {LABEL: "true"}, "annotations": {
            RELEASE: cluster.kernel, ARCHITECTURE: "amd64", BUILD_ID: BUILD, SOURCE: source,
        }},
    }))
    .expect("a ConfigMap");
    map.binary_data = Some([(DATA_KEY.to_owned(), ByteString(facts.encode()))].into());
    maps.patch(name, &PatchParams::apply("an-administrator").force(), &Patch::Apply(map))
        .await
        .expect("facts");
}

/// A node that has reported which build it runs.
async fn add_node(cluster: &Cluster, name: &str) {
    cluster.add_node(name).await;
    cluster.report(name, |status| status.kernel_build_id = Some(BUILD.to_owned())).await;
}

async fn versions(cluster: &Cluster) -> Vec<(String, Option<String>)> {
    let configs = cluster.configs().list(&ListParams::default()).await.expect("a list");
    configs.iter().map(|config| (config.name_any(), config.resource_version())).collect()
}

fn degraded(reason: &'static str) -> impl Fn(&tenon_api::Module) -> bool {
    move |module| condition(module, "Degraded").is_some_and(|c| c.0 == "True" && c.1 == reason)
}

async fn until_predicted(cluster: &Cluster, reason: &str) {
    wait::until(&format!("the prediction {reason}"), SOON, async || {
        let images = cluster.images().list(&ListParams::default()).await.ok()?;
        let status = images.items.first()?.status.clone()?;
        status.conditions.iter().any(|c| c.type_ == "Predicted" && c.reason == reason).then_some(())
    })
    .await
    .expect("a prediction");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nodes_enforce_signatures_only_what_is_signed_by_the_trusted_reaches_them() {
    let mut cluster = Cluster::start().await;
    cluster.stop_operator().await;
    let keys = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../crates/sign/testdata");
    let trust = keys.join("rsa.pem").display().to_string();
    cluster.flags = ["--nodes-signatures", "enforced", "--nodes-trust", &trust].map(str::to_owned).to_vec();
    cluster.start_operator().await;
    let driver = cluster.driver().to_vec();
    let mut facts = facts_of(&driver, &cluster.kernel);
    facts.policy.signatures = Some(true);
    (facts.policy.ecdsa, facts.policy.sha512) = (Some(false), Some(true));
    say(&cluster, &facts, "admin").await;
    add_node(&cluster, "pine").await;
    let signed = |name: &str| {
        let read = |kind: &str| std::fs::read(keys.join(format!("{name}.{kind}"))).expect("a key");
        let certificate = Certificate::read(&read("pem")).expect("a certificate");
        let key = LocalKey::read(&read("key")).expect("a key");
        let identity = Identity::new(certificate, Box::new(key)).expect("an identity");
        sign(&driver, &identity, Hash::Sha512).expect("a signed driver")
    };
    let mut changed = signed("rsa");
    // In the text of a message, where no parser stumbles over it.
    let at = changed.windows(11).position(|window| window == b"simple-kmod").expect("its name");
    *changed.get_mut(at).expect("a byte") ^= 1;
    for (tag, driver, words) in [
        ("unsigned", driver.clone(), "unsigned module"),
        ("foreign", signed("p384"), "unavailable key"),
        ("changed", changed, "is not that key's over this file"),
    ] {
        cluster.push(&format!("gauge:{tag}"), &[("extra/simple-kmod.ko", driver.as_slice())]);
        cluster.apply_module("gauge", &format!("gauge:{tag}"), Value::Null).await;
        let refused = |module: &tenon_api::Module| {
            condition(module, "Degraded")
                .is_some_and(|(_, reason, message)| reason == "WillNotLoad" && message.contains(words))
        };
        let module = cluster.module_where("gauge", tag, refused).await;
        let (_, _, message) = condition(&module, "Degraded").expect("a condition");
        assert!(message.contains("EKEYREJECTED"), "{message}");
        let config = cluster.configs().get("pine").await.expect("the node's object");
        assert!(order(&config).is_none(), "{tag}: {config:?}");
    }
    cluster.push("gauge:signed", &[("extra/simple-kmod.ko", signed("rsa").as_slice())]);
    cluster.apply_module("gauge", "gauge:signed", Value::Null).await;
    until_predicted(&cluster, "WillLoad").await;
    cluster.config_where("pine", "the driver is assigned", |config| order(config).is_some()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_kernel_will_refuse_touches_no_node_says_why_and_is_tried_with_warn() {
    let mut cluster = Cluster::start().await;
    let driver = cluster.driver().to_vec();
    say(&cluster, &facts_of(&driver, &cluster.kernel), "admin").await;
    for node in ["pine", "oak"] {
        add_node(&cluster, node).await;
    }
    cluster.push_driver("gauge:v1", "one");
    cluster.push("gauge:v2", &[("extra/simple-kmod.ko", &foreign(&driver))]);
    cluster.apply_module("gauge", "gauge:v1", Value::Null).await;
    until_predicted(&cluster, "WillLoad").await;
    for node in ["pine", "oak"] {
        cluster.config_where(node, "the driver is assigned", |config| order(config).is_some()).await;
        cluster.obey(node, ModulePhase::Loaded).await;
        let ready =
            |node: &k8s_openapi::api::core::v1::Node| node.labels().contains_key(cluster::READY_LABEL);
        cluster.node_where(node, "the ready label", ready).await;
    }

    let before = versions(&cluster).await;
    cluster.apply_module("gauge", "gauge:v2", Value::Null).await;
    let module = cluster.module_where("gauge", "WillNotLoad", degraded("WillNotLoad")).await;
    let (_, _, message) = condition(&module, "Degraded").expect("a condition");
    for part in ["ENOEXEC", "module_layout", "oak", &cluster.kernel] {
        assert!(message.contains(part), "{message}");
    }
    assert_eq!(versions(&cluster).await, before, "no NodeModulesConfig is touched");
    wait::until("an event on the Module", SOON, async || {
        let events: Api<Event> = Api::namespaced(cluster.client.clone(), "hall");
        let events = events.list(&ListParams::default()).await.ok()?;
        events.iter().any(|event| event.reason.as_deref() == Some("WillNotLoad")).then_some(())
    })
    .await
    .expect("an event");
    let table = cluster.plane.kubectl(&["-n", "hall", "get", "moduleimages"]).await.expect("a table");
    assert!(table.contains("PREDICTED") && table.contains("WillNotLoad"), "{table}");

    let old = order(&cluster.configs().get("pine").await.expect("an object"));
    let on_both = json!({"spec": {"inspection": "Warn", "rollout": {"maxUnavailable": 2}}});
    cluster.apply_module("gauge", "gauge:v2", on_both).await;
    for node in ["pine", "oak"] {
        cluster.config_where(node, "it is tried with Warn", |config| order(config) != old).await;
    }
    let module = cluster
        .module_where("gauge", "the warning", |m| condition(m, "Predicted").is_some_and(|c| c.0 == "False"))
        .await;
    assert_eq!(condition(&module, "Predicted").expect("a condition").1, "WillNotLoad");
    cluster.stop_operator().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn other_facts_unblock_without_a_change_of_the_module() {
    let mut cluster = Cluster::start().await;
    let driver = cluster.driver().to_vec();
    let right = facts_of(&driver, &cluster.kernel);
    let wrong = facts_of(&foreign(&driver), &cluster.kernel);
    say(&cluster, &wrong, "admin").await;
    add_node(&cluster, "yew").await;
    cluster.push_driver("gauge:v1", "one");
    cluster.apply_module("gauge", "gauge:v1", Value::Null).await;
    cluster.module_where("gauge", "WillNotLoad", degraded("WillNotLoad")).await;
    let config = cluster.configs().get("yew").await.expect("an object");
    assert!(order(&config).is_none() && config.spec.modules.is_empty());
    say(&cluster, &right, "admin").await;
    cluster.config_where("yew", "the driver is assigned", |config| order(config).is_some()).await;
    until_predicted(&cluster, "WillLoad").await;
    cluster.stop_operator().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_nodes_lie_keeps_the_driver_from_itself_alone_and_sends_one_other_first() {
    let mut cluster = Cluster::start().await;
    let driver = cluster.driver().to_vec();
    let lie = facts_of(&foreign(&driver), &cluster.kernel);
    say(&cluster, &lie, "node:ash").await;
    for node in ["ash", "elm", "fir"] {
        add_node(&cluster, node).await;
    }
    cluster.push_driver("gauge:v1", "one");
    cluster.apply_module("gauge", "gauge:v1", Value::Null).await;
    let assigned = |config: &NodeModulesConfig| order(config).is_some();
    cluster.config_where("elm", "one node goes first", assigned).await;
    cluster.module_where("gauge", "the liar's own state", degraded("WillNotLoad")).await;
    let module = cluster
        .module_where("gauge", "the others wait", |m| {
            condition(m, "Waiting").is_some_and(|c| c.1 == "WaitingForFirstNode")
        })
        .await;
    assert!(condition(&module, "Waiting").expect("a condition").2.contains("fir"));
    let held = async |node: &str| !assigned(&cluster.configs().get(node).await.expect("an object"));
    assert!(held("fir").await && held("ash").await);
    cluster.obey("elm", ModulePhase::Loaded).await;
    cluster.config_where("fir", "the others follow", assigned).await;
    assert!(held("ash").await, "its own word counts for itself");
    cluster.stop_operator().await;
}

/// What an image has of a kernel beside its headers.
#[derive(Clone, Copy)]
enum Beside {
    Module,
    Kernel,
}

/// Stores an image with the kernel's headers as Debian packages them, and beside them one of its own modules, or the kernel.
fn push_headers(cluster: &Cluster, beside: Beside) {
    let kernel = cluster::kernel();
    let folder = format!("usr/src/linux-headers-{}", kernel.release);
    let (name, path) = match beside {
        Beside::Module => {
            let name = "kernel/net/llc/llc.ko";
            (format!("lib/modules/{}/{name}", kernel.release), kernel.modules().join(name))
        }
        Beside::Kernel => (format!("boot/vmlinuz-{}", kernel.release), kernel.boot_image()),
    };
    let header = |name: &str| {
        let bytes = std::fs::read(kernel.headers().join(name)).expect("a header");
        (format!("{folder}/{name}"), bytes)
    };
    let mut files: Vec<_> =
        ["Module.symvers", ".config", "include/generated/utsrelease.h"].map(header).into();
    files.push((name, std::fs::read(path).expect("a file of the kernel")));
    let files: Vec<_> = files.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect();
    cluster.registry.put_image("headers", &kernel.release, "amd64", &[layer(&[]), layer(&files)]);
}

/// How often the image with headers was asked for by its name, and its blobs were pulled.
fn asked(cluster: &Cluster) -> (usize, usize) {
    let name = format!("/v2/headers/manifests/{}", cluster.kernel);
    let seen = cluster.registry.seen();
    let count = |path: &str| seen.iter().filter(|seen| seen.path.starts_with(path)).count();
    (count(&name), count("/v2/headers/blobs/"))
}

/// The facts that there are: source, image, build-id.
async fn told(cluster: &Cluster) -> Vec<[String; 3]> {
    let maps: Api<ConfigMap> = Api::namespaced(cluster.client.clone(), "tenon-system");
    let maps = maps.list(&ListParams::default().labels(&format!("{LABEL}=true"))).await.expect("a list");
    let said = |map: &ConfigMap, key| map.annotations().get(key).cloned().unwrap_or_default();
    maps.iter().map(|map| [SOURCE, IMAGE, BUILD_ID].map(|key| said(map, key))).collect()
}

/// The operator's writes of facts.
fn writes_of_facts(cluster: &Cluster, since: Mark) -> u64 {
    let writes = cluster.plane.audit().writes_since(since).expect("the audit log");
    let of_facts = writes.iter().filter(|(write, _)| {
        write.user.contains("tenon") && write.resource == "configmaps" && write.name.contains("facts")
    });
    of_facts.map(|(_, count)| count).sum()
}

/// The operator starts anew, as the next leader would, and has looked for the image with headers.
async fn restart(cluster: &mut Cluster) {
    let before = asked(cluster).0;
    cluster.stop_operator().await;
    cluster.start_operator().await;
    wait::until("the image with headers is asked for", SOON, async || {
        (asked(cluster).0 > before).then_some(())
    })
    .await
    .expect("a request");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_with_headers_tells_what_the_kernel_is_and_is_read_once() {
    let mut cluster = Cluster::start().await;
    let driver = cluster.driver().to_vec();
    cluster.stop_operator().await;
    let template = format!("{}/headers:${{KERNEL_FULL_VERSION}}", cluster.registry.host());
    cluster.flags = vec!["--facts-image".to_owned(), template];
    cluster.start_operator().await;
    add_node(&cluster, "pine").await;
    cluster.push("gauge:v1", &[("extra/simple-kmod.ko", &foreign(&driver))]);
    cluster.push_driver("gauge:v2", "one");

    // Nobody has pushed the image: the operator says so, and the driver is tried.
    cluster.apply_module("gauge", "gauge:v2", Value::Null).await;
    cluster.config_where("pine", "the driver is assigned", |config| order(config).is_some()).await;
    wait::until("an event of the operator", SOON, async || {
        let events: Api<Event> = Api::namespaced(cluster.client.clone(), "tenon-system");
        let events = events.list(&ListParams::default()).await.ok()?;
        let event = events.items.into_iter().find(|event| event.reason.as_deref() == Some("ImageAbsent"))?;
        let note = event.note.unwrap_or_default();
        (note.contains(&cluster.kernel) && note.contains("--facts-image")).then_some(())
    })
    .await
    .expect("an event");
    assert!(told(&cluster).await.is_empty());

    push_headers(&cluster, Beside::Module);
    restart(&mut cluster).await;
    until_predicted(&cluster, "WillLoad").await;
    let first = told(&cluster).await;
    let [[source, image, build]] = first.as_slice() else { panic!("one source, no node: {first:?}") };
    assert_eq!((source.as_str(), build.as_str()), ("toolkit", ""), "headers do not tell the build");
    assert!(image.contains("/headers:") && image.contains("@sha256:"), "{image}");

    let held = cluster.configs().get("pine").await.expect("an object").spec.order;
    cluster.apply_module("gauge", "gauge:v1", Value::Null).await;
    let module = cluster.module_where("gauge", "WillNotLoad", degraded("WillNotLoad")).await;
    assert!(condition(&module, "Degraded").expect("a condition").2.contains("module_layout"));
    assert_eq!(cluster.configs().get("pine").await.expect("an object").spec.order, held, "it is held back");

    // The next leader asks whether it is still the same image, and neither pulls nor writes anything.
    let (mark, pulled) = (cluster.plane.audit().mark(), asked(&cluster).1);
    restart(&mut cluster).await;
    cluster.apply_module("noise", "noise:absent", json!({"spec": {"selector": {"no": "such-node"}}})).await;
    cluster.module_where("noise", "the operator works again", |m| condition(m, "Ready").is_some()).await;
    assert_eq!((asked(&cluster).1, writes_of_facts(&cluster, mark)), (pulled, 0));

    push_headers(&cluster, Beside::Kernel);
    restart(&mut cluster).await;
    wait::until("facts from the other image", SOON, async || {
        let told = told(&cluster).await;
        let [[_, image, build]] = told.as_slice() else { panic!("the one before is replaced: {told:?}") };
        (*image != first[0][1] && build.len() == 40).then_some(())
    })
    .await
    .expect("other facts");
    assert_eq!(writes_of_facts(&cluster, mark), 1);
    cluster.stop_operator().await;
}
