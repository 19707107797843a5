//! §1.8: what is refused. KMM asks webhooks; here the API server says so itself. Which mistakes it refuses, field by field, is
//! in `tests/api/tests/crds.rs` with its table `module-rules.yaml`.

use std::io::Write as _;

use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};
use tenon_api::Module;
use tenon_api::labels::CONTAINS_MODULES;
use tenon_kmod::release::KernelRelease;
use tenon_lab::wait;
use tenon_plan::resolve::{ResolveError, resolve};
use tenon_test_api::cluster::{Cluster, SOON, condition};
use tenon_test_api::setup::{plane_with_definitions, unbound};

/// Answers by its message whether each of some kernels fits a pattern, as the API server's `matches()` has it, which is
/// Go's RE2, as KMM's is.
const ORACLE: &str = "
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: oracle}
spec:
  matchConstraints:
    resourceRules:
    - {apiGroups: [''], apiVersions: [v1], operations: [CREATE], resources: [configmaps]}
    objectSelector: {matchLabels: {ask: oracle}}
  validations:
  - expression: 'false'
    message: <no expression>
    messageExpression: >-
      '<' + object.data.kernels.split(' ').map(kernel, kernel.matches(object.data.pattern) ? '1' : '0').join('') + '>'
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: oracle}
spec: {policyName: oracle, validationActions: [Deny]}
";

const KERNELS: [&str; 24] = [
    "6.1.0-56-cloud-amd64",
    "5.14.0-70.58.1.el9_0.x86_64",
    "4.18.0-305.el8.x86_64",
    "6.12.95+deb12-cloud-amd64",
    "6.8.0-1008-aws",
    "6.1",
    "6{1}",
    "66",
    "a",
    "K",
    "k",
    "s",
    "[a]",
    "a]",
    "a-b",
    "a&&b",
    "a~~b",
    "<6>",
    "\\d",
    "a{,2}",
    "AaA",
    "_",
    "x^$y",
    "6--1",
];

/// Where RE2 and Rust's `regex` crate part, and what vendors write.
const PATTERNS: &[&str] = &[
    r"^.+$",
    r".*",
    r"^6\.1",
    r"el9_0\.x86_64$",
    r"^5\.14\.0-\d+\.el9",
    r"^.+\.fc3[78]\.x86_64$",
    r"^[\d.]+-\w+$",
    r"a&&b",
    r"[a&&b]",
    r"[a~~b]",
    r"[a--b]",
    r"[0-9--1]",
    r"[a-b-c]",
    r"[a[b]]",
    r"[[a]",
    r"[]a]",
    r"[^]a]",
    r"[a-]",
    r"[-a]",
    r"[[:alpha:]]",
    r"[[:^alpha:]]",
    r"[[:word:]]",
    r"[[:foo:]]",
    r"[[:alpha:]-z]",
    r"[[.a.]]",
    r"[[=a=]]",
    r"[:alpha:]",
    r"\<6",
    r"6\>",
    r"\<6\>",
    r"\b6\b",
    r"\B6",
    r"6\b{start}",
    r"\b{start}6",
    r"\b{2}6",
    r"\_",
    r"\-",
    r"\&",
    r"\~",
    r"\ ",
    r"6{",
    r"6{1",
    r"6{1}",
    r"6\{1\}",
    r"6{1,}",
    r"6{,2}",
    r"a{,2}",
    r"6{01}",
    r"6{1,2}",
    r"6{2,1}",
    r"6{1000}",
    r"6{1001}",
    r"{",
    r"}",
    r"{2}",
    r"a{2}{3}",
    r"(a{2}){3}",
    r"(6{100}){10}",
    r"(6{100}){11}",
    r"((6{10}){10}){10}",
    r"((6{10}){10}){11}",
    r"(6{1001}){0}",
    r"((6{100}){0}){100}",
    r"6{0}",
    r"6**",
    r"6*?",
    r"6+?",
    r"6??",
    r"6++",
    r"6*+",
    r"6{2}?",
    r"*",
    r"+6",
    r"|*",
    r"(*)",
    r"(|*)",
    r"^*",
    r"$+",
    r"()",
    r"(|)",
    r"a||b",
    r"(",
    r")",
    r"a)",
    r"(a",
    r"[",
    r"]",
    r"[a",
    r"[]",
    r"[^]",
    r"\",
    r"[\",
    r"[a\]",
    r"\Qa]\E",
    r"\Q6{1}",
    r"\Q[a]\E",
    r"\Q\E",
    r"6\Q\E",
    r"6+\Q\E+",
    r"\Qab\E+",
    r"\E",
    r"[\Qa\E]",
    r"\Q\d\E",
    r"\056",
    r"\56",
    r"\0",
    r"\1",
    r"\8",
    r"\123",
    r"\x36",
    r"\x{36}",
    r"\x{0036}",
    r"\x{}",
    r"\x3",
    r"\x{110000}",
    r"\x",
    r"\xG0",
    r"\a",
    r"\f",
    r"\n",
    r"\r",
    r"\t",
    r"\v",
    r"\e",
    r"\cA",
    r"\C",
    r"\X",
    r"\R",
    r"\h",
    r"\K",
    r"\G",
    r"\Z",
    r"\z",
    r"\A6",
    r"64\z",
    r"64\Z",
    r"\u0036",
    r"\d",
    r"\D",
    r"\s",
    r"\S",
    r"\w",
    r"\W",
    r"[\d]",
    r"[^\d]",
    r"[\D]",
    r"[\w-]",
    r"[a-\d]",
    r"[\b]",
    r"[\A]",
    r"\pN",
    r"\PN",
    r"\pX",
    r"\p",
    r"\p{",
    r"\p{}",
    r"\p{N}",
    r"\p{^N}",
    r"\P{^N}",
    r"\p{Lu}",
    r"\p{Greek}",
    r"\p{^Greek}",
    r"\p{Latin}",
    r"\p{Nope}",
    r"[\pN]",
    r"[^\pN]",
    r"[\p{^Lu}]",
    r"\p{Alphabetic}",
    r"\p{White_Space}",
    r"\p{sc=Greek}",
    r"\p{Any}",
    r"\p{L}{1000}",
    r"(?i)k",
    r"(?i)K",
    r"(?i)[k]",
    r"(?i)[^k]",
    r"(?i)\x{212A}",
    r"(?i)\x{17F}",
    r"(?i)\P{Lu}",
    r"(?i)\p{Lu}",
    r"(?i)[[:^lower:]]",
    r"(?i)[^[:lower:]]",
    r"(?i)\W",
    r"(?-i)K",
    r"(?i:k)K",
    r"(?i)a(?-i)K",
    r"a(?i)b|K",
    r"(a(?i)A)A",
    r"(?i)*",
    r"a(?i)*A",
    r"a(?i)+(?i)+",
    r"(?i-)",
    r"(?-)",
    r"(?)",
    r"(?:)",
    r"(?i-s:K)",
    r"(?--i)",
    r"(?im)^a$",
    r"(?s).",
    r"(?m)^6",
    r"(?U)6+",
    r"(?u)6",
    r"(?x) 6",
    r"(?R)6",
    r"(?L)6",
    r"(?#a)6",
    r"(?i",
    r"(?i)(?s",
    r"(?",
    r"(?P<n>6)",
    r"(?<n>6)",
    r"(?P<1>6)",
    r"(?P<a b>6)",
    r"(?P<>6)",
    r"(?P<n>6)(?P<n>6)",
    r"(?P<n>6)|(?<n>1)",
    r"(?P<n",
    r"(?P=n)",
    r"(?P>n)",
    r"(?'n'6)",
    r"(?=6)",
    r"(?!6)",
    r"(?<=6)",
    r"(?<!6)",
    r"(?>6)",
    r"(?|6)",
    r"\g{1}",
    r"6(?:1)?+",
    r"\p{Lu",
    r"ä",
    r"[ä-ö]",
    r"[^ä]",
    r"ä|6",
    r"(?i)Ä",
    r"^(?:6|5)\.(?:1|14)",
    r"x86_64|amd64",
    r"^[4-6]\.[0-9]{1,2}\.0",
    r"(^|-)aws$",
    r"\.el[89](_\d+)?\.",
    r"^(?i)aAa$",
    r"[[:digit:]]+[[:punct:]]",
];

/// What random patterns are put together from.
const PIECES: &[&str] = &[
    "6",
    "1",
    "a",
    "K",
    "b",
    ".",
    "*",
    "+",
    "?",
    "|",
    "(",
    ")",
    "(?:",
    "(?i)",
    "(?-i:",
    "(?s)",
    "[",
    "]",
    "[^",
    "-",
    "&&",
    "--",
    "~~",
    "{2}",
    "{,2}",
    "{1,3}",
    "{",
    "}",
    "^",
    "$",
    r"\b",
    r"\B",
    r"\d",
    r"\W",
    r"\s",
    r"\Q",
    r"\E",
    r"\056",
    r"\x41",
    r"\pN",
    r"\p{^Lu}",
    "[:alpha:]",
    "[:^punct:]",
    r"\<",
    r"\.",
    r"\-",
    "_",
    r"\A",
    r"\z",
    "(?P<n>",
    r"\n",
    "[a-k]",
    "[^6]",
    "<",
    ">",
];

/// The same patterns each time.
fn random_patterns(count: usize) -> impl Iterator<Item = String> {
    let mut state: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut random = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % below as u64).unwrap_or_default()
    };
    (0..count).map(move |_| (0..=random(7)).map(|_| PIECES[random(PIECES.len())]).collect())
}

/// Our verdict, in the oracle's form; `None` where the pattern is refused.
fn our_verdict(pattern: &str) -> Option<String> {
    let module: Module = serde_json::from_value(json!({
        "apiVersion": "kmm.sigs.x-k8s.io/v1beta1", "kind": "Module", "metadata": {"namespace": "hall", "name": "gauge"},
        "spec": {"selector": {}, "moduleLoader": {"container": {
            "modprobe": {"moduleName": "gauge"}, "kernelMappings": [{"regexp": pattern, "containerImage": "registry.example/a:1"}],
        }}},
    }))
    .expect("a Module");
    let fits = |kernel: &&str| match resolve(&module, &KernelRelease::new(*kernel).expect("a release")) {
        Ok(_) => Some('1'),
        Err(ResolveError::NoMapping(_)) => Some('0'),
        Err(ResolveError::Regexp { .. }) => None,
        Err(other) => panic!("{pattern}: {other}"),
    };
    KERNELS.iter().map(fits).collect()
}

/// The API server's verdict; `Err` is an answer that is none of the oracle's.
async fn its_verdict(maps: &Api<ConfigMap>, pattern: &str) -> Result<Option<String>, String> {
    let question = serde_json::from_value(json!({
        "metadata": {"name": "question", "labels": {"ask": "oracle"}},
        "data": {"pattern": pattern, "kernels": KERNELS.join(" ")},
    }));
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    match maps.create(&dry, &question.expect("a ConfigMap")).await {
        Ok(_) => Err("the oracle is not heeded yet".to_owned()),
        Err(kube::Error::Api(status)) => {
            let answer = status.message.rsplit_once('<').and_then(|(_, rest)| rest.split_once('>'));
            match answer.map(|(answer, _)| answer) {
                Some("no expression") => Ok(None),
                Some(answer) if answer.len() == KERNELS.len() => Ok(Some(answer.to_owned())),
                _ => Err(status.message.clone()),
            }
        }
        Err(other) => Err(other.to_string()),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn regular_expressions_fit_and_are_refused_as_by_the_api_servers_own_engine() {
    let plane = plane_with_definitions().await;
    plane.apply(ORACLE).await.expect("the oracle");
    let maps: Api<ConfigMap> = Api::namespaced(plane.client(), "default");
    wait::until("the oracle answers", SOON, async || its_verdict(&maps, "^6").await.ok())
        .await
        .expect("an oracle");
    let (mut verdicts, mut refused, mut differences) = (0, 0, Vec::new());
    for pattern in PATTERNS.iter().map(|pattern| (*pattern).to_owned()).chain(random_patterns(600)) {
        let its = its_verdict(&maps, &pattern).await.unwrap_or_else(|other| panic!("{pattern}: {other}"));
        let ours = our_verdict(&pattern);
        refused += usize::from(its.is_none());
        verdicts += its.as_ref().map_or(1, String::len);
        if ours != its {
            differences.push(format!("{pattern}\n  the API server: {its:?}\n  Tenon:          {ours:?}"));
        }
    }
    assert!(differences.is_empty(), "{} differ:\n{}", differences.len(), differences.join("\n"));
    let said = format!(
        "{} patterns ({refused} of them refused by both) x {} kernels: {verdicts} verdicts, all the same",
        PATTERNS.len() + 600,
        KERNELS.len()
    );
    // Past the harness, which shows what a test prints only when it fails.
    let _ = writeln!(std::io::stdout(), "{said}");
}

fn is_labelled(namespace: &Namespace) -> bool {
    namespace.labels().get(CONTAINS_MODULES).is_some_and(String::is_empty)
}

async fn hall_where(cluster: &Cluster, what: &str, holds: impl Fn(&Namespace) -> bool) {
    let namespaces: Api<Namespace> = Api::all(cluster.client.clone());
    wait::until(what, SOON, async || namespaces.get("hall").await.ok().filter(&holds))
        .await
        .unwrap_or_else(|late| panic!("{late}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_with_modules_is_kept_and_one_without_goes() {
    let mut cluster = Cluster::start().await;
    let namespaces: Api<Namespace> = Api::all(cluster.client.clone());
    let dry = DeleteParams { dry_run: true, ..DeleteParams::default() };
    let mark = cluster.plane.audit().mark();
    for name in ["gauge", "anvil"] {
        let nowhere = json!({"spec": {"selector": {"no": "such-node"}}});
        cluster.apply_module(name, "gauge:1", nowhere).await;
        cluster.module_where(name, "it is taken up", |module| !module.finalizers().is_empty()).await;
    }
    hall_where(&cluster, "the label is there", is_labelled).await;
    // The policy is heeded some time after it was made.
    let refusal =
        wait::until("the namespace is kept", SOON, async || namespaces.delete("hall", &dry).await.err());
    let refusal = refusal.await.expect("a refusal").to_string();
    for part in
        ["namespace hall has Modules", "kubectl delete modules.kmm.sigs.x-k8s.io --all --namespace hall"]
    {
        assert!(refusal.contains(part), "{refusal}");
    }

    // One goes, one stays; a restart finds everything as it should be.
    cluster.delete_module("gauge").await;
    wait::until("one Module is gone", SOON, async || {
        cluster.modules().get_opt("gauge").await.ok()?.is_none().then_some(())
    })
    .await
    .expect("a deletion");
    hall_where(&cluster, "the label stays", is_labelled).await;
    cluster.stop_operator().await;
    cluster.start_operator().await;
    cluster.delete_module("anvil").await;
    hall_where(&cluster, "the label goes with the last Module", |namespace| !is_labelled(namespace)).await;
    namespaces.delete("hall", &dry).await.expect("nothing keeps it any more");
    let writes = cluster.plane.audit().writes_since(mark).expect("the audit log");
    let labelled: u64 = writes
        .iter()
        .filter(|(write, _)| write.resource == "namespaces" && write.user.contains("tenon-operator"))
        .map(|(_, count)| count)
        .sum();
    assert_eq!(labelled, 2, "one write for the first Module, one for the last: {writes:#?}");

    // Whoever means it takes the label away: then the namespace goes, its Modules before it.
    cluster.apply_module("gauge", "gauge:1", Value::Null).await;
    hall_where(&cluster, "the label is there again", is_labelled).await;
    let label = format!("{CONTAINS_MODULES}-");
    cluster.plane.kubectl(&["label", "namespace", "hall", &label]).await.expect("no label");
    namespaces.delete("hall", &DeleteParams::default()).await.expect("a deletion");
    wait::until("the namespace is gone", SOON, async || {
        namespaces.get_opt("hall").await.ok()?.is_none().then_some(())
    })
    .await
    .expect("nothing is stuck");
    cluster.stop_operator().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_namespace_the_operator_changes_that_label_alone() {
    let mut cluster = Cluster::start().await;
    cluster.stop_operator().await;
    let operator: Api<Namespace> = Api::all(unbound(&cluster.plane, "tenon-operator").await);
    // What is let through changes nothing, so that the next try is no repetition of what is so already.
    let patch = async |change: &Value| {
        operator
            .patch("hall", &PatchParams { dry_run: true, ..PatchParams::default() }, &Patch::Merge(change))
            .await
            .map_err(|error| error.to_string())
    };
    let labels = |labels: Value| json!({"metadata": {"labels": labels}});
    let foreign = labels(json!({"pod-security.kubernetes.io/enforce": "privileged"}));
    let refusal = wait::until("the policy is heeded", SOON, async || patch(&foreign).await.err());
    let refusal = refusal.await.expect("a refusal");
    assert!(refusal.contains("changes nothing of a namespace but the label"), "{refusal}");
    cluster.plane.kubectl(&["label", "namespace", "hall", "owner=a"]).await.expect("a label");
    let others = [
        labels(json!({CONTAINS_MODULES: "", "owner": null})),
        labels(json!({CONTAINS_MODULES: "", "owner": "b"})),
        json!({"metadata": {"annotations": {"a": "b"}}}),
        json!({"metadata": {"finalizers": ["example.com/a"]}}),
        json!({"metadata": {"annotations": {"a": "b"}, "labels": {CONTAINS_MODULES: ""}}}),
    ];
    for other in &others {
        let refusal = patch(other).await.expect_err("nothing but the label");
        assert!(refusal.contains("but the label"), "{other}: {refusal}");
    }
    for present in [Value::from(""), Value::Null] {
        patch(&labels(json!({CONTAINS_MODULES: present}))).await.expect("the label");
    }
}

/// What no rule about one object can refuse is told, to both.
#[tokio::test(flavor = "multi_thread")]
async fn two_modules_in_each_others_way_are_both_told_of_the_other() {
    let mut cluster = Cluster::start().await;
    cluster.push_driver("gauge:v1", "one");
    cluster.push_driver("anvil:v1", "two");
    for node in ["ash", "oak"] {
        cluster.add_node(node).await;
    }
    cluster.apply_module("gauge", "gauge:v1", Value::Null).await;
    cluster.module_where("gauge", "it is alone", |module| condition(module, "Ready").is_some()).await;
    cluster.apply_module("anvil", "anvil:v1", Value::Null).await;
    let says = |words: &'static [&'static str]| {
        move |module: &Module| {
            condition(module, "Conflict").is_some_and(|(status, reason, message)| {
                let is_so = status == "True" && reason == "KernelModuleConflict";
                is_so && words.iter().all(|word| message.contains(word))
            })
        }
    };
    for (name, other) in [("gauge", "Module hall/anvil loads"), ("anvil", "Module hall/gauge loads")] {
        let told = |module: &Module| {
            says(&["simple_kmod", "2 nodes"])(module)
                && condition(module, "Conflict").is_some_and(|(.., message)| message.contains(other))
        };
        cluster.module_where(name, "it is told of the other", told).await;
    }
    // The other one's image with the same parameters is the same module.
    cluster.apply_module("anvil", "gauge:v1", Value::Null).await;
    for name in ["gauge", "anvil"] {
        cluster.module_where(name, "they share it", |module| condition(module, "Conflict").is_none()).await;
    }
    let removes = json!({"spec": {"moduleLoader": {"container": {
        "modprobe": {"moduleName": "other"}, "inTreeModulesToRemove": ["simple-kmod"],
    }}}});
    cluster.apply_module("anvil", "anvil:v1", removes).await;
    cluster
        .module_where("gauge", "it is to make room", says(&["inTreeModulesToRemove of Module hall/anvil"]))
        .await;
    cluster
        .module_where(
            "anvil",
            "nothing makes room for it",
            says(&["names simple_kmod, which Module hall/gauge loads"]),
        )
        .await;
    cluster.delete_module("anvil").await;
    cluster
        .module_where("gauge", "it is alone again", |module| condition(module, "Conflict").is_none())
        .await;
    cluster.stop_operator().await;
}
