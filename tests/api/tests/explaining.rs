//! `kubectl tenon explain` and `status` against a real API server with the operator at work: each kind of trouble is named with its
//! cause and the next step, what is well in a line.
#![expect(clippy::expect_used, clippy::panic, reason = "a test that cannot be set up has failed")]

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use k8s_openapi::api::batch::v1::Job;
use kube::api::{ListParams, Patch, PatchParams};
use kube::config::Kubeconfig;
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};
use tenon_api::node_modules_config::ModulePhase;
use tenon_lab::claim::{Broken, comes_true_within};
use tenon_lab::control_plane::{Binding, Credential};
use tenon_lab::forward_proxy::ForwardProxy;
use tenon_lab::jobs;
use tenon_test_api::cluster::{Cluster, SOON, condition, order};
use tenon_test_api::facts;
use tenon_test_api::plugin::{self, plugin};
use tokio::io::{AsyncBufReadExt as _, BufReader};

const NODE: &str = "oak";

/// What it says on standard output and, if it fails, on standard error; and its exit code.
async fn run_as(kubeconfig: PathBuf, args: &[&str]) -> (i32, String) {
    let said = plugin::run(kubeconfig, args).await;
    (said.code, said.whole())
}

/// Asks until the answer ends with this code and has all of these parts: statuses are a moment behind each other.
async fn says(cluster: &Cluster, args: &[&str], code: i32, parts: &[&str]) -> String {
    let said: Result<_, Broken> = comes_true_within(SOON, format!("{args:?} says {parts:?}"), async || {
        let (ended, text) = run_as(cluster.plane.kubeconfig(), args).await;
        let lacks = parts.iter().any(|part| !text.contains(part));
        if ended != code || lacks { Err(format!("code {ended}:\n{text}")) } else { Ok(text) }
    })
    .await;
    let text = said.unwrap_or_else(|late| panic!("{late}"));
    // For whoever reads the test's output to see what a person sees.
    println!("$ kubectl tenon {}\n{text}", args.join(" "));
    text
}

async fn explains(cluster: &Cluster, what: &str, code: i32, parts: &[&str]) -> String {
    says(cluster, &["explain", what, "-n", "hall"], code, parts).await
}

/// A Module whose container has this beside the usual.
async fn apply(cluster: &Cluster, module: &str, image: &str, container: Value) {
    let spec = json!({ "spec": { "moduleLoader": { "container": container } } });
    cluster.apply_module(module, image, spec).await;
}

async fn job_of(cluster: &Cluster, module: &str) -> String {
    let jobs: Api<Job> = Api::namespaced(cluster.client.clone(), "hall");
    comes_true_within(SOON, format!("a Job for {module}"), async || {
        let list = jobs.list(&ListParams::default()).await.map_err(|error| error.to_string())?;
        let mut names = list.items.iter().map(Job::name_any);
        names.find(|name| name.starts_with(module)).ok_or_else(|| "there is none".to_owned())
    })
    .await
    .unwrap_or_else(|late| panic!("{late}"))
}

/// Somebody who may see Modules, their images and nodes, and nothing else.
async fn reader(cluster: &Cluster) -> PathBuf {
    let account = json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": "reader", "namespace": "hall" } });
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": { "name": "reader" },
        "rules": [
            { "apiGroups": ["kmm.sigs.x-k8s.io"], "resources": ["modules", "nodemodulesconfigs"], "verbs": ["get", "list"] },
            { "apiGroups": ["tenon.dev"], "resources": ["moduleimages"], "verbs": ["get", "list"] },
            { "apiGroups": [""], "resources": ["nodes"], "verbs": ["get", "list"] },
        ],
    });
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": { "name": "reader" },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "reader" },
        "subjects": [{ "kind": "ServiceAccount", "name": "reader", "namespace": "hall" }],
    });
    for object in [account, role, binding] {
        cluster.plane.apply(&object.to_string()).await.expect("an object");
    }
    let token = cluster.plane.token("hall", "reader", None, &Binding::None).await.expect("a token");
    cluster.plane.write_kubeconfig_as("reader", &Credential::Token(token)).expect("a kubeconfig")
}

/// The lines of `status --watch`, until one has this in it.
async fn watched(lines: &mut tokio::io::Lines<BufReader<tokio::process::ChildStdout>>, part: &str) -> String {
    let found = tokio::time::timeout(SOON, async {
        while let Some(line) = lines.next_line().await.expect("a line") {
            if line.contains(part) {
                return line;
            }
        }
        panic!("the plugin has ended before it said {part}");
    });
    found.await.unwrap_or_else(|_| panic!("nothing with {part} was added"))
}

#[tokio::test(flavor = "multi_thread")]
async fn each_trouble_is_named_with_its_cause_and_the_next_step() {
    let mut cluster = Cluster::start().await;
    cluster.add_node(NODE).await;
    cluster.push_driver("gauge:v1", "one");

    // From nothing to loaded, as somebody sees it who looks on.
    let mut watch = plugin(cluster.plane.kubeconfig(), &["status", "-n", "hall", "--watch"]).await;
    let mut watch = watch.stdout(Stdio::piped()).spawn().expect("the plugin runs");
    let mut lines = BufReader::new(watch.stdout.take().expect("its output")).lines();
    watched(&mut lines, "There is no Module here").await;
    cluster.apply_module("gauge", "gauge:v1", Value::Null).await;
    cluster.config_where(NODE, "the driver is assigned", |config| order(config).is_some()).await;
    explains(&cluster, "gauge", 0, &["… node oak: NotApplied", "next: wait; the node has been told"]).await;
    cluster.obey(NODE, ModulePhase::Loaded).await;
    let line = watched(&mut lines, "1/1").await;
    assert!(line.contains("gauge") && line.contains(&cluster.kernel), "{line}");
    watch.kill().await.expect("it ends");
    let text = explains(&cluster, "module/gauge", 0, &["✓ Module hall/gauge", "next: nothing"]).await;
    assert!(text.lines().count() == 4 && text.contains("loaded on 1 of 1 node from"), "{text}");

    // What needs somebody.
    apply(&cluster, "absent", "absent:1", Value::Null).await;
    let sign = json!({ "sign": {
        "keySecret": { "name": "no-key" }, "certSecret": { "name": "no-cert" },
        "unsignedImage": format!("{}/gauge:v1", cluster.registry.host()),
        "filesToSign": ["/opt/lib/modules/${KERNEL_FULL_VERSION}/extra/*.ko"],
    }});
    apply(&cluster, "keyless", "signed:1", sign).await;
    let narrow =
        json!({ "kernelMappings": [{ "literal": "5.4.0-none", "containerImage": "registry.test/x:1" }] });
    apply(&cluster, "narrow", "x:1", narrow).await;
    cluster.apply_module("nowhere", "gauge:v1", json!({ "spec": { "selector": { "hall": "none" } } })).await;
    apply(&cluster, "broken", "built:1", json!({ "build": { "dockerfile": "FROM scratch\nADD x /" } })).await;
    let job = job_of(&cluster, "broken").await;
    explains(&cluster, "broken", 0, &["Building", &job, "kubectl tenon logs broken -n hall --follow"]).await;
    let pod = jobs::pod_of(&cluster.client, &job, SOON).await.expect("a pod");
    jobs::fail_build(&cluster.client, &pod, 2, "error: simple.c:7: expected ';'\u{1b}[2J")
        .await
        .expect("an end");

    explains(
        &cluster,
        "absent",
        1,
        &["absent:1: ImageAbsent", "kernelMappings[0] (regexp ^.+$)", "next: push the image"],
    )
    .await;
    explains(&cluster, "keyless", 1, &["SecretMissing", "no-key", "next: create the Secret"]).await;
    let kernel = format!("next: add a literal or a regexp for kernel {}", cluster.kernel);
    explains(&cluster, "narrow", 1, &["NoMapping", &kernel]).await;
    explains(&cluster, "nowhere", 1, &["NoNodes", "no node has a label hall", "next: compare spec.selector"])
        .await;
    let parts = [
        "BuildFailed",
        &job,
        "      > error: simple.c:7: expected ';'",
        "it has failed once",
        "next: read the whole log",
    ];
    let text = explains(&cluster, "broken", 1, &parts).await;
    assert!(!text.contains('\u{1b}'), "{text:?}");

    // What the kernel will refuse is not tried; what it has loaded stays.
    facts::say(&cluster, false).await;
    cluster.push_driver("other:v1", "two");
    cluster.apply_module("refused", "other:v1", Value::Null).await;
    let parts = [
        "inspection (by admin): WillNotLoad",
        "ModuleLayout",
        "node oak: WillNotLoad",
        "next: build the driver",
    ];
    explains(&cluster, "refused", 1, &parts).await;
    explains(&cluster, "gauge", 0, &["loaded on 1 of 1 node"]).await;

    let table =
        says(&cluster, &["status", "-A"], 0, &["NAMESPACE", "absent", "BuildFailed", "NoMapping"]).await;
    let row = |module: &str| table.lines().find(|line| line.starts_with("hall") && line.contains(module));
    assert!(row("gauge").is_some_and(|row| row.contains("Ready") && row.contains("1/1")), "{table}");
    assert!(
        row("absent").is_some_and(|row| row.contains("Trouble") && row.contains("ImageAbsent")),
        "{table}"
    );
    let json = says(&cluster, &["explain", "absent", "-n", "hall", "-o", "json"], 1, &[]).await;
    let json: Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(
        (&json["finding"]["state"], &json["finding"]["reason"]),
        (&json!("Trouble"), &json!("ImageAbsent"))
    );

    // A node that fails, in its kernel's words.
    cluster
        .report(NODE, |status| {
            for module in &mut status.modules {
                module.phase = Some(ModulePhase::Failed);
                module.reason = Some("UnknownSymbol".to_owned());
                module.message = Some("gauge: Unknown symbol foo (err -2)".into());
            }
        })
        .await;
    cluster
        .module_where("gauge", "it is told", |module| {
            condition(module, "Degraded").is_some_and(|c| c.0 == "True")
        })
        .await;
    let parts = [
        "node oak: UnknownSymbol",
        "> gauge: Unknown symbol foo (err -2)",
        "next: load what exports the symbol",
    ];
    explains(&cluster, "gauge", 1, &parts).await;
    explains(
        &cluster,
        "node/oak",
        1,
        &["✗ Module hall/gauge: UnknownSymbol", "Module hall/absent: ImageAbsent"],
    )
    .await;
    says(
        &cluster,
        &["status", "gauge", "-n", "hall"],
        0,
        &["NODE", "oak", "gauge:v1", "UnknownSymbol", "symbol foo"],
    )
    .await;

    a_taint_keeps_a_module_away(&cluster).await;

    // With fewer rights the rest is told.
    let (code, text) = run_as(reader(&cluster).await, &["explain", "broken", "-n", "hall"]).await;
    assert!(code == 1 && text.contains("note: Jobs are left out") && text.contains("BuildFailed"), "{text}");
    cluster.stop_operator().await;
}

/// A Module that tolerates nothing, and a node that it selects.
async fn a_taint_keeps_a_module_away(cluster: &Cluster) {
    let patch = Patch::Merge(
        json!({ "spec": { "taints": [{ "key": "gpu", "value": "yes", "effect": "NoSchedule" }] } }),
    );
    cluster.nodes().patch(NODE, &PatchParams::default(), &patch).await.expect("a taint");
    cluster.apply_module("shy", "gauge:v1", json!({ "spec": { "tolerations": [] } })).await;
    let is_told = "selector matches; taint";
    explains(cluster, "node/oak", 1, &["– Module hall/shy: ", is_told, "gpu=yes:NoSchedule"]).await;
    explains(cluster, "shy", 1, &["NoNodes", "node oak: selector matches; taint", "gpu=yes:NoSchedule"])
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_and_who_does_not_answer_are_told_apart() {
    let cluster = Cluster::start().await;
    let (code, text) = run_as(cluster.plane.kubeconfig(), &["explain", "gauge", "-n", "hall"]).await;
    assert_eq!((code, text.starts_with("error: there is no Module hall/gauge\nhint: ")), (1, true), "{text}");
    let (code, text) = run_as(cluster.plane.kubeconfig(), &["explain", "node/fir"]).await;
    assert!(code == 1 && text.contains("there is no node fir"), "{text}");

    let folder = tempfile::tempdir().expect("a folder");
    let elsewhere = folder.path().join("kubeconfig");
    let text = std::fs::read_to_string(cluster.plane.kubeconfig()).expect("a kubeconfig");
    let port = format!(":{}", cluster.plane.port());
    assert!(text.contains(&port), "{port}");
    std::fs::write(&elsewhere, text.replace(&port, ":1")).expect("a kubeconfig");
    for args in [["explain", "gauge"], ["status", "-A"]] {
        let ended = tokio::time::timeout(Duration::from_mins(1), run_as(elsewhere.clone(), &args)).await;
        let (code, text) = ended.expect("it does not wait for ever");
        assert!(code == 3 && text.starts_with("error: read"), "{code}: {text}");
    }
    asks_through_a_proxy(&cluster, folder.path()).await;
}

/// An API server that nobody reaches but by a proxy.
async fn asks_through_a_proxy(cluster: &Cluster, folder: &Path) {
    let (host, port) = ("api.behind.test", cluster.plane.port());
    let hosts = [(host.to_owned(), SocketAddr::from((Ipv4Addr::LOCALHOST, port)))].into();
    let proxy = ForwardProxy::start(Ipv4Addr::LOCALHOST.into(), hosts).await.expect("a proxy");
    let mut config = Kubeconfig::read_from(cluster.plane.kubeconfig()).expect("a kubeconfig");
    let behind = config.clusters.first_mut().and_then(|named| named.cluster.as_mut()).expect("a cluster");
    behind.server = Some(format!("https://{host}:{port}"));
    behind.tls_server_name = Some("kubernetes".to_owned());
    let write = |name: &str, config: &Kubeconfig| {
        let path = folder.join(name);
        std::fs::write(&path, serde_json::to_vec(config).expect("a kubeconfig")).expect("a kubeconfig");
        path
    };
    let plain = write("plain", &config);
    if let Some(behind) = config.clusters.first_mut().and_then(|named| named.cluster.as_mut()) {
        behind.proxy_url = Some(proxy.uri());
    }
    let named = write("named", &config);
    let uri = proxy.uri();
    let cases: [(_, &[(&str, &str)], _); 4] = [
        (&plain, &[("HTTPS_PROXY", &uri)], 0),
        (&plain, &[("HTTPS_PROXY", &uri), ("NO_PROXY", "behind.test")], 3),
        (&named, &[], 0),
        (&named, &[("NO_PROXY", "behind.test")], 0),
    ];
    for (kubeconfig, variables, code) in cases {
        let mut command = plugin(kubeconfig.clone(), &["status", "-A"]).await;
        for name in ["HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy"] {
            command.env_remove(name);
        }
        let asked = proxy.asked().len();
        let output = command.envs(variables.iter().copied()).output().await.expect("the plugin runs");
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{variables:?}: {text}");
        assert_eq!(proxy.asked().len() > asked, code == 0, "{variables:?}");
    }
}
