//! `docs/troubleshooting.md` shows what goes wrong, and what is to be read of it with kubectl and `kubectl tenon explain`. Each of
//! its sections is made to happen here, its commands are run as a person runs them, and what they print is what the page shows.
//!
//! `TENON_BLESS=1` writes into the page what they print now.
#![expect(clippy::expect_used, clippy::panic, reason = "a test that cannot be set up has failed")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use k8s_openapi::api::batch::v1::Job;
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};
use tenon_api::Module;
use tenon_api::node_modules_config::{ModulePhase, NodeModulesConfig};
use tenon_api::task::Report;
use tenon_image::testing::{Auth, TestRegistry, layer};
use tenon_kmod::ModuleName;
use tenon_kmod::failure::{Attempt, Errno, LoadFailure};
use tenon_kmod::log::LogLine;
use tenon_lab::claim::{Broken, comes_true_within};
use tenon_lab::jobs;
use tenon_lab::programs::{Program, program};
use tenon_test_api::cluster::{Cluster, SOON, condition, order};
use tenon_test_api::facts;
use tokio::process::Command;

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/troubleshooting.md");
const BLESS: &str = "TENON_BLESS";
/// What the page calls the driver's kernel, whichever it is.
const KERNEL: &str = "6.1.0-57-amd64";
/// A kernel that was built to load nothing unsigned.
const STRICT_KERNEL: &str = "6.1.0-57-strict-amd64";
/// By which each Module here selects its node.
const LABEL: &str = "hall";

/// What the page shows: headings, and below them commands with what they print.
struct Page {
    text: String,
}

/// A command, and what the page says that it prints.
#[derive(Debug)]
struct Shown {
    heading: String,
    command: String,
    output: String,
}

impl Page {
    fn read() -> Self {
        Self { text: fs::read_to_string(PAGE).expect("docs/troubleshooting.md") }
    }

    fn commands(&self) -> Vec<Shown> {
        let (mut shown, mut heading, mut in_console) = (Vec::<Shown>::new(), "", false);
        for line in self.text.lines() {
            match (in_console, line) {
                (false, "```console") => in_console = true,
                (true, "```") => in_console = false,
                (true, _) => match (line.strip_prefix("$ "), shown.last_mut()) {
                    (Some(command), _) => shown.push(Shown {
                        heading: heading.to_owned(),
                        command: command.to_owned(),
                        output: String::new(),
                    }),
                    (None, Some(last)) => last.output.extend([line, "\n"]),
                    (None, None) => panic!("the page shows an output without a command: {line}"),
                },
                (false, _) => heading = line.strip_prefix("## ").unwrap_or(heading),
            }
        }
        shown
    }

    /// The page with other outputs.
    fn with(&self, shown: &[Shown]) -> String {
        let (mut text, mut shown, mut in_console) = (String::new(), shown.iter(), false);
        for line in self.text.lines() {
            let begins = line == "```console";
            in_console = begins || (in_console && line != "```");
            if !in_console || begins {
                text.extend([line, "\n"]);
            } else if line.starts_with("$ ") {
                let now = shown.next().expect("as many commands as before");
                text.extend([line, "\n", &now.output]);
            }
        }
        text
    }
}

/// A shell with kubectl, its plugin, and a kubeconfig whose namespace is that of the Modules.
struct Shell {
    folder: tempfile::TempDir,
    /// What the page has in place of what is other each time.
    names: Vec<(String, String)>,
}

impl Shell {
    async fn new(cluster: &Cluster, names: Vec<(String, String)>) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let kubectl = PathBuf::from(cluster.plane.kubectl_command().get_program());
        let plugin = tokio::task::spawn_blocking(|| program(Program::Cli)).await.expect("no panic");
        symlink(kubectl, folder.path().join("kubectl")).expect("a link");
        symlink(plugin.expect("the plugin"), folder.path().join("kubectl-tenon")).expect("a link");
        fs::copy(cluster.plane.kubeconfig(), folder.path().join("kubeconfig")).expect("a kubeconfig");
        let shell = Self { folder, names };
        shell.run("kubectl config set-context --current --namespace hall").await;
        shell
    }

    /// What a command prints, as the page has it.
    async fn run(&self, command: &str) -> String {
        let at = |name: &str| self.folder.path().join(name);
        let path = std::env::var("PATH").unwrap_or_default();
        let output = Command::new("sh")
            .args(["-c", &format!("{command} 2>&1")])
            .env("PATH", format!("{}:{path}", self.folder.path().display()))
            .env("KUBECONFIG", at("kubeconfig"))
            .env("HOME", self.folder.path())
            .env("LC_ALL", "C")
            .kill_on_drop(true)
            .output()
            .await
            .expect("a shell");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let text = self.names.iter().fold(text, |text, (known, shown)| text.replace(known, shown));
        let text = hashes(&text);
        if command.starts_with("kubectl get") { aligned(&text) } else { timeless(&text) }
    }
}

/// Names of Jobs end with a hash, and those of their pods with chance.
fn hashes(text: &str) -> String {
    let is_hash = |word: &str| word.len() == 12 && word.chars().all(|char| char.is_ascii_hexdigit());
    let mut shown = String::new();
    for word in text.split_inclusive(|char: char| !char.is_ascii_alphanumeric()) {
        let (bare, end) = match word.char_indices().last() {
            Some((at, char)) if !char.is_ascii_alphanumeric() => word.split_at(at),
            _ => (word, ""),
        };
        let by_chance = bare.len() == 5 && shown.ends_with("1c2d3e4f5a6b-");
        let bare = match bare {
            _ if is_hash(bare) => "1c2d3e4f5a6b",
            _ if by_chance => "x7k2p",
            _ => bare,
        };
        shown += bare;
        shown += end;
    }
    shown
}

/// A table whose ages and widths are the same each time.
fn aligned(text: &str) -> String {
    let Some(header) = text.lines().next() else { return String::new() };
    let names: Vec<&str> = header.split_whitespace().collect();
    let begins: Vec<_> = names.iter().filter_map(|name| header.find(name)).collect();
    // A cell may be empty, and is where its column begins.
    let cell = |line: &str, column: usize| {
        let begin = begins.get(column).copied().unwrap_or(line.len());
        let end = begins.get(column + 1).copied().unwrap_or(line.len());
        line.get(begin..end.min(line.len())).unwrap_or_default().trim().to_owned()
    };
    let mut rows: Vec<Vec<String>> =
        text.lines().map(|line| (0..names.len()).map(|column| cell(line, column)).collect()).collect();
    for row in rows.iter_mut().skip(1) {
        if let Some(age) = row.last_mut() {
            "1m".clone_into(age);
        }
    }
    let width = |column: usize| rows.iter().filter_map(|row| Some(row.get(column)?.len())).max().unwrap_or(0);
    let widths: Vec<_> = (0..names.len()).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("   ").trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}

/// Without what is another time whenever one looks.
fn timeless(text: &str) -> String {
    const AGAIN: &str = "tried again in ";
    let line = |line: &str| match line.split_once(AGAIN) {
        Some((before, _)) => format!("{before}{AGAIN}8 s\n"),
        None => format!("{}\n", line.trim_end()),
    };
    text.lines().map(line).collect()
}

async fn node(cluster: &Cluster, name: &str, kernel: &str, registers: bool) {
    cluster.join(name, kernel).await;
    let patch = Patch::Merge(json!({ "metadata": { "labels": { LABEL: name } } }));
    cluster.nodes().patch(name, &PatchParams::default(), &patch).await.expect("a label");
    if registers {
        cluster.register(name, kernel).await;
    }
}

/// A Module for one node, with this of a container beside the usual. It loads a kernel module that no other Module does.
async fn apply(cluster: &Cluster, module: &str, node: &str, image: &str, container: Value) {
    let own = json!({ "modprobe": { "moduleName": module } });
    apply_driver(cluster, module, node, image, merged(own, container)).await;
}

/// The same for a Module with the driver that the images hold.
async fn apply_driver(cluster: &Cluster, module: &str, node: &str, image: &str, container: Value) {
    let selector = json!({ "kubernetes.io/os": "linux", LABEL: node });
    let spec = json!({ "spec": { "selector": selector, "moduleLoader": { "container": container } } });
    cluster.apply_module(module, image, spec).await;
}

fn merged(mut one: Value, other: Value) -> Value {
    if let (Some(one), Value::Object(other)) = (one.as_object_mut(), other) {
        one.extend(other);
    }
    one
}

async fn secret(cluster: &Cluster, name: &str, type_: &str, data: Value) {
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": { "name": name }, "type": type_, "stringData": data,
    });
    let params = PatchParams::apply("a-user").force();
    cluster.secrets().patch(name, &params, &Patch::Apply(secret)).await.expect("a Secret");
}

/// The node does what it is told, and this comes of it.
async fn fails(cluster: &Cluster, node: &str, reason: &str, message: &str) {
    cluster.config_where(node, "it is assigned", |config| order(config).is_some()).await;
    cluster.obey(node, ModulePhase::Failed).await;
    cluster
        .report(node, |status| {
            for module in &mut status.modules {
                module.reason = Some(reason.to_owned());
                module.message = Some(message.into());
            }
        })
        .await;
}

async fn says(cluster: &Cluster, module: &str, reason: &str) {
    let is_it = |module: &Module| condition(module, "Ready").is_some_and(|(_, said, _)| said == reason);
    cluster.module_where(module, &format!("it says {reason}"), is_it).await;
}

/// Makes all that the page tells of, each with a Module of its own; by the page's headings.
async fn go_wrong(cluster: &Cluster, vault: &TestRegistry) -> Vec<(&'static str, &'static str)> {
    for name in ["oak", "fir", "yew", "bay"] {
        node(cluster, name, &cluster.kernel, true).await;
    }
    node(cluster, "ash", &cluster.kernel, false).await;
    node(cluster, "elm", STRICT_KERNEL, true).await;
    cluster.push_driver("gauge:v1", "one");
    cluster.push_driver("gauge:v2", "two");

    apply(cluster, "camera", "oak", "camera:2", Value::Null).await;
    vault.require(Auth::Basic("driver".to_owned(), "the right one".to_owned()));
    let login = json!({ "auths": { (vault.host()): { "username": "driver", "password": "another" } } });
    let login = json!({ ".dockerconfigjson": login.to_string() });
    secret(cluster, "vault", "kubernetes.io/dockerconfigjson", login).await;
    denied(cluster, vault).await;
    missing_secret(cluster).await;
    nothing_to_sign(cluster).await;
    let other_kernel = "opt/lib/modules/5.10.0-1-amd64/extra/lathe.ko";
    cluster.registry.put_image("lathe", "1", "amd64", &[layer(&[(other_kernel, cluster.driver())])]);
    apply(cluster, "lathe", "oak", "lathe:1", Value::Null).await;
    let literal = json!({ "kernelMappings": [{ "literal": "5.10.0-1-amd64", "containerImage": "registry.example/mill:1" }] });
    apply(cluster, "mill", "oak", "mill:1", literal).await;
    apply(cluster, "printer", "nowhere", "gauge:v1", Value::Null).await;
    apply_driver(cluster, "kiln", "ash", "gauge:v1", Value::Null).await;
    unsigned(cluster).await;
    apply_driver(cluster, "crane", "oak", "gauge:v1", Value::Null).await;
    cluster.config_where("oak", "it is assigned", |config| order(config).is_some()).await;
    apply_driver(cluster, "winch", "oak", "gauge:v2", Value::Null).await;
    rivals(cluster).await;
    in_the_way(cluster).await;
    wrong_parameter(cluster).await;
    paused(cluster).await;
    forbidden(cluster).await;
    vec![
        ("The image does not exist", "camera"),
        ("The registry refuses the pull secret", "scanner"),
        ("A Secret is missing", "lock"),
        ("What is to be signed is not in the image", "press"),
        ("The image has nothing for a node's kernel", "lathe"),
        ("No mapping fits a node's kernel", "mill"),
        ("No node is selected", "printer"),
        ("A node has no Tenon", "kiln"),
        ("The kernel loads nothing unsigned", "drill"),
        ("Two Modules load the same kernel module", "winch"),
        ("A module is loaded already", "loom"),
        ("A parameter has a wrong value", "saw"),
        ("It is paused", "fan"),
        ("The namespace forbids a device plugin", "plotter"),
    ]
}

async fn denied(cluster: &Cluster, vault: &TestRegistry) {
    let mapping = json!([{ "regexp": "^.+$", "containerImage": format!("{}/scanner:1", vault.host()) }]);
    let container = json!({ "modprobe": { "moduleName": "scanner" }, "kernelMappings": mapping });
    let spec = json!({ "spec": {
        "selector": { LABEL: "oak" }, "imageRepoSecret": { "name": "vault" },
        "moduleLoader": { "container": container },
    }});
    cluster.apply_module("scanner", "scanner:1", spec).await;
    says(cluster, "scanner", "RegistryDenied").await;
}

fn sign(cluster: &Cluster, key: &str) -> Value {
    json!({ "sign": {
        "keySecret": { "name": key }, "certSecret": { "name": "signing-cert" },
        "unsignedImage": format!("{}/gauge:v1", cluster.registry.host()),
        "filesToSign": ["/opt/lib/modules/${KERNEL_FULL_VERSION}/press.ko"],
    }})
}

async fn missing_secret(cluster: &Cluster) {
    apply(cluster, "lock", "oak", "lock:1-signed", sign(cluster, "signing-key")).await;
    says(cluster, "lock", "SecretMissing").await;
}

/// The Job's pod is run here, as a kubelet would.
async fn nothing_to_sign(cluster: &Cluster) {
    let keys = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../crates/sign/testdata");
    let read = |file: &str| fs::read_to_string(keys.join(file)).expect("a key");
    secret(cluster, "press-key", "Opaque", json!({ "key": read("rsa.key") })).await;
    secret(cluster, "signing-cert", "Opaque", json!({ "cert": read("rsa.pem") })).await;
    apply(cluster, "press", "oak", "press:1-signed", sign(cluster, "press-key")).await;
    let jobs_of: Api<Job> = Api::namespaced(cluster.client.clone(), "hall");
    let job = comes_true_within(SOON, "a Job signs", async || {
        let list = jobs_of.list(&ListParams::default()).await.map_err(|error| error.to_string())?;
        let mut names = list.items.iter().map(Job::name_any);
        names.find(|name| name.starts_with("press-sign-")).ok_or_else(|| "there is none".to_owned())
    });
    let job = job.await.unwrap_or_else(|late| panic!("{late}"));
    let pod = jobs::pod_of(&cluster.client, &job, SOON).await.expect("a pod");
    let report = jobs::run(&cluster.client, &pod).await.expect("a pod's end");
    assert!(matches!(report, Report::Failed { .. }), "{report:?}");
}

async fn unsigned(cluster: &Cluster) {
    let mut facts = facts::facts(cluster, STRICT_KERNEL, true);
    facts.policy.signatures_forced = Some(true);
    facts::tell(cluster, "kernel-facts-strict", facts).await;
    push_for(cluster, STRICT_KERNEL, "drill");
    apply_driver(cluster, "drill", "elm", "drill:1", Value::Null).await;
    says(cluster, "drill", "WillNotLoad").await;
}

/// What came first is loaded; of the other the loader says so.
async fn rivals(cluster: &Cluster) {
    let both = |config: &NodeModulesConfig| config.spec.modules.len() == 2;
    cluster.config_where("oak", "both are assigned", both).await;
    cluster.obey("oak", ModulePhase::Loaded).await;
    let message =
        "simple_kmod is already loaded for Module hall/crane, as another build or with other parameters";
    cluster
        .report("oak", |status| {
            for module in status.modules.iter_mut().filter(|module| module.name == "winch") {
                (module.phase, module.config) = (Some(ModulePhase::Failed), None);
                (module.reason, module.message) = (Some("ForeignModule".to_owned()), Some(message.into()));
            }
        })
        .await;
    says(cluster, "winch", "ForeignModule").await;
}

/// An image with the driver for another kernel.
fn push_for(cluster: &Cluster, kernel: &str, repository: &str) {
    let file = format!("opt/lib/modules/{kernel}/extra/simple-kmod.ko");
    cluster.registry.put_image(repository, "1", "amd64", &[layer(&[(&file, cluster.driver())])]);
}

/// As the loader says it.
async fn in_the_way(cluster: &Cluster) {
    apply_driver(cluster, "loom", "yew", "gauge:v1", Value::Null).await;
    let message = "simple_kmod is loaded already, was not loaded by Tenon, and is another build or has other parameters; unload it, \
                   or name it in inTreeModulesToRemove";
    fails(cluster, "yew", "ForeignModule", message).await;
    says(cluster, "loom", "ForeignModule").await;
}

async fn wrong_parameter(cluster: &Cluster) {
    let modprobe = json!({ "modprobe": { "moduleName": "simple-kmod", "parameters": ["count=many"] } });
    apply_driver(cluster, "saw", "bay", "gauge:v1", modprobe).await;
    let module = ModuleName::new("simple_kmod").expect("a name");
    let said = LogLine::parse("simple_kmod: `many' invalid for parameter `count'");
    let attempt = Attempt {
        module: &module,
        errno: Errno::EINVAL,
        lines: &[said],
        firmware: &[],
        modules_disabled: false,
        capable: true,
    };
    let message = LoadFailure::classify(&attempt).to_string();
    fails(cluster, "bay", "InvalidParameter", &message).await;
    says(cluster, "saw", "InvalidParameter").await;
}

async fn paused(cluster: &Cluster) {
    apply_driver(cluster, "fan", "fir", "gauge:v1", Value::Null).await;
    cluster.config_where("fir", "it is assigned", |config| order(config).is_some()).await;
    cluster.obey("fir", ModulePhase::Loaded).await;
    says(cluster, "fan", "Loaded").await;
    let patch = Patch::Merge(json!({ "metadata": { "annotations": { "tenon.dev/paused": "true" } } }));
    cluster.modules().patch("fan", &PatchParams::default(), &patch).await.expect("an annotation");
    apply_driver(cluster, "fan", "fir", "gauge:v2", Value::Null).await;
    says(cluster, "fan", "Paused").await;
}

async fn forbidden(cluster: &Cluster) {
    let label = json!({ "metadata": { "labels": { "pod-security.kubernetes.io/enforce": "baseline" } } });
    let namespaces: Api<k8s_openapi::api::core::v1::Namespace> = Api::all(cluster.client.clone());
    namespaces.patch("hall", &PatchParams::default(), &Patch::Merge(label)).await.expect("a label");
    let plugin = json!({ "container": { "image": "registry.example/plotter-plugin:1" } });
    let manifest = json!({
        "apiVersion": "kmm.sigs.x-k8s.io/v1beta1", "kind": "Module", "metadata": { "name": "plotter" },
        "spec": { "selector": { LABEL: "oak" }, "tolerations": [{ "operator": "Exists" }], "devicePlugin": plugin },
    });
    let params = PatchParams::apply("a-user").force();
    cluster.modules().patch("plotter", &params, &Patch::Apply(manifest)).await.expect("a Module");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_wrong_is_named_with_its_cause_and_the_next_step() {
    let mut cluster = Cluster::start().await;
    let vault = TestRegistry::start().await.expect("a registry");
    cluster.stop_operator().await;
    cluster.flags = vec!["--registry".to_owned(), format!("{},plain-http", vault.host())];
    cluster.start_operator().await;
    let wrong: BTreeMap<_, _> = go_wrong(&cluster, &vault).await.into_iter().collect();

    let page = Page::read();
    let mut shown = page.commands();
    let told: BTreeSet<_> = shown.iter().map(|shown| shown.heading.as_str()).collect();
    assert!(told.iter().eq(wrong.keys()), "the page tells of {told:?}");
    let known = |name: &str, shown: &str| (name.to_owned(), shown.to_owned());
    let names = vec![
        known(&cluster.registry.host(), "registry.example"),
        known(&vault.host(), "vault.example"),
        known(&cluster.kernel, KERNEL),
    ];
    let shell = Shell::new(&cluster, names).await;
    if std::env::var_os(BLESS).is_some() {
        for shown in &mut shown {
            shown.output = settled(&shell, &shown.command).await;
        }
        fs::write(PAGE, page.with(&shown)).expect("the page");
    }
    for shown in &shown {
        assert!(shown.command.contains(wrong[shown.heading.as_str()]), "{shown:?}");
        if shown.command.starts_with("kubectl tenon explain") {
            let next = shown.output.lines().find_map(|line| line.strip_prefix("next: ")).unwrap_or("nothing");
            assert!(!next.starts_with("nothing"), "{shown:?}");
        }
        prints(&shell, shown).await;
    }
    cluster.stop_operator().await;
}

/// Waits until a command prints what the page says: statuses are a moment behind each other.
async fn prints(shell: &Shell, shown: &Shown) {
    let same: Result<(), Broken> = comes_true_within(SOON, format!("$ {}", shown.command), async || {
        let now = shell.run(&shown.command).await;
        if now == shown.output {
            return Ok(());
        }
        Err(format!("it prints\n{now}and the page has\n{}", shown.output))
    })
    .await;
    same.unwrap_or_else(|late| {
        panic!("{late}\nif that is as it should be: {BLESS}=1 cargo test -p tenon-test-api --test troubleshooting")
    });
}

/// What a command prints when it prints the same for a while.
async fn settled(shell: &Shell, command: &str) -> String {
    let mut before = String::new();
    loop {
        let now = shell.run(command).await;
        if now == before {
            return now;
        }
        before = now;
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
}
