//! How a changed driver comes to nodes that have it, against a real API server: at most so many nodes are without it at a
//! time, whoever dies and whatever fails.
#![expect(clippy::expect_used, clippy::panic, reason = "a test that cannot be set up has failed")]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt as _;
use kube::api::ListParams;
use serde_json::{Value, json};
use tenon_api::NodeModulesConfig;
use tenon_api::node_modules_config::ModulePhase;
use tenon_lab::wait;
use tenon_order::Wish;
use tenon_test_api::cluster::{Cluster, READY_LABEL, SOON, condition, order};
use tenon_test_api::plugin::{self, Said};
use tokio::task::JoinHandle;

const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const NODES: [&str; 5] = ["ash", "elm", "fir", "oak", "yew"];

/// Whether the node was told to replace what it had, and has not reported the new content as loaded since.
fn is_without(config: &NodeModulesConfig) -> bool {
    config.spec.modules.iter().any(|entry| {
        let Some(replaced) = &entry.replaces else { return false };
        let status = config.status.as_ref();
        let answered = status.and_then(|status| status.order_generation) >= Some(replaced.order);
        let mut reported = status.into_iter().flat_map(|status| &status.modules);
        let is_loaded = reported
            .any(|reported| reported.phase == Some(ModulePhase::Loaded) && reported.bundle == entry.bundle);
        !(answered && is_loaded)
    })
}

async fn all(cluster: &Cluster) -> Vec<NodeModulesConfig> {
    cluster.configs().list(&ListParams::default()).await.expect("a list").items
}

/// Looks on for as long as it lives: the most nodes that were without their driver at one instant.
struct Witness {
    most: Arc<AtomicUsize>,
    looks: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Witness {
    fn of(cluster: &Cluster) -> Self {
        let (most, looks) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (configs, seen, count) = (cluster.configs(), most.clone(), looks.clone());
        let task = tokio::spawn(async move {
            loop {
                if let Ok(list) = configs.list(&ListParams::default()).await {
                    seen.fetch_max(
                        list.iter().filter(|config| is_without(config)).count(),
                        Ordering::Relaxed,
                    );
                    count.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        Self { most, looks, task }
    }

    fn says(self) -> usize {
        self.task.abort();
        assert!(self.looks.load(Ordering::Relaxed) > 5, "it has looked");
        self.most.load(Ordering::Relaxed)
    }
}

/// Nodes that were told something and have not answered.
async fn told(cluster: &Cluster) -> BTreeSet<String> {
    let open = |config: &NodeModulesConfig| {
        let ordered = order(config).and_then(|order| i64::try_from(order.generation.0).ok());
        ordered > config.status.as_ref().and_then(|status| status.order_generation)
    };
    all(cluster).await.iter().filter(|config| open(config)).map(NodeModulesConfig::name_any).collect()
}

/// The one node that is told next.
async fn next(cluster: &Cluster) -> String {
    wait::until("the next node's turn", SOON, async || told(cluster).await.pop_first())
        .await
        .expect("a node's turn")
}

async fn fleet(cluster: &Cluster, rollout: Value) -> Value {
    for image in ["gauge:v1", "gauge:v2", "gauge:v3"] {
        cluster.push_driver(image, image);
    }
    let limit = json!({"spec": {"rollout": rollout}});
    cluster.apply_module("gauge", "gauge:v1", limit.clone()).await;
    for node in NODES {
        cluster.add_node(node).await;
    }
    for node in NODES {
        cluster.config_where(node, "the driver is assigned", |config| order(config).is_some()).await;
        cluster.obey(node, ModulePhase::Loaded).await;
    }
    for node in NODES {
        cluster.node_where(node, "the ready label", |node| node.labels().contains_key(READY_LABEL)).await;
    }
    limit
}

/// Everybody who is told obeys, until the whole fleet is ready.
async fn finish(cluster: &Cluster) {
    let done = wait::until("every node has the present content", SOON * 2, async || {
        for node in told(cluster).await {
            cluster.obey(&node, ModulePhase::Loaded).await;
        }
        let module = cluster.modules().get("gauge").await.ok()?;
        let is_ready = condition(&module, "Ready").is_some_and(|(status, ..)| status == "True");
        let updated = module.status.as_ref()?.rollout?.updated_number;
        (is_ready && updated == 5).then_some(())
    });
    if let Err(late) = done.await {
        let module = cluster.modules().get("gauge").await.expect("the Module");
        panic!("{late}: {:#?}", module.status);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_change_stops_at_the_allowed_number_of_nodes_through_restarts_and_a_good_one_heals_it() {
    let mut cluster = Cluster::start().await;
    let limit = fleet(&cluster, json!({"maxUnavailable": 2})).await;
    let witness = Witness::of(&cluster);
    cluster.apply_module("gauge", "gauge:v2", limit.clone()).await;
    let mut failed = BTreeSet::new();
    for phase in [ModulePhase::RolledBack, ModulePhase::Failed] {
        let node = next(&cluster).await;
        cluster.obey(&node, phase).await;
        failed.insert(node);
    }
    let module = cluster
        .module_where("gauge", "the change stops, saying so", |m| condition(m, "RolloutPaused").is_some())
        .await;
    let (_, reason, message) = condition(&module, "RolloutPaused").expect("a condition");
    assert_eq!(reason, "RolloutPaused");
    assert!(failed.iter().all(|node| message.contains(node.as_str())), "{message}");
    let numbers = module.status.as_ref().and_then(|status| status.rollout).expect("numbers");
    assert_eq!((numbers.unavailable_number, numbers.waiting_number, numbers.allowed_number), (2, 3, 2));

    // Another operator reads the same off the objects, and tells nobody anything.
    cluster.stop_operator().await;
    cluster.start_operator().await;
    cluster.apply_module("noise", "noise:absent", json!({"spec": {"selector": {"no": "such-node"}}})).await;
    cluster.module_where("noise", "the new operator works", |m| condition(m, "Ready").is_some()).await;
    cluster.delete_module("noise").await;
    assert!(told(&cluster).await.is_empty(), "nobody else is told to change");
    for node in NODES.into_iter().filter(|node| !failed.contains(*node)) {
        cluster
            .node_where(node, "a node that waits stays ready", |n| n.labels().contains_key(READY_LABEL))
            .await;
    }

    cluster.apply_module("gauge", "gauge:v3", limit).await;
    finish(&cluster).await;
    let module = cluster.modules().get("gauge").await.expect("the Module");
    assert!(condition(&module, "RolloutPaused").is_none(), "{:#?}", module.status);
    assert!((1..=2).contains(&witness.says()), "never more than two");
    cluster.stop_operator().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_node_after_the_other_by_default_and_a_lost_node_does_not_hold_the_others_up() {
    let mut cluster = Cluster::start().await;
    fleet(&cluster, json!({})).await;
    // Its kubelet has fallen silent: it would be told, and nobody would answer.
    let is_unreachable = |node: &Node| {
        let taints = node.spec.iter().filter_map(|spec| spec.taints.as_ref()).flatten();
        taints.filter(|taint| taint.effect == "NoExecute").any(|taint| taint.key == UNREACHABLE)
    };
    cluster.say_ready("ash", "Unknown").await;
    cluster.node_where("ash", "the controller of nodes taints it", is_unreachable).await;
    let witness = Witness::of(&cluster);
    let mark = cluster.plane.audit().mark();
    cluster.apply_module("gauge", "gauge:v2", json!({"spec": {"rollout": {"maxUnavailable": "10%"}}})).await;
    wait::until("all but the lost node are changed", SOON * 2, async || {
        for node in told(&cluster).await {
            assert_ne!(node, "ash", "nobody would answer");
            cluster.obey(&node, ModulePhase::Loaded).await;
        }
        let module = cluster.modules().get("gauge").await.ok()?;
        let status = module.status?;
        // Before the change was seen four had what was wished, too.
        let seen = status.observed_generation == module.metadata.generation;
        (seen && status.rollout?.updated_number == 4).then_some(())
    })
    .await
    .expect("four nodes");
    for node in ["elm", "fir", "oak", "yew"] {
        cluster.node_where(node, "the ready label again", |n| n.labels().contains_key(READY_LABEL)).await;
    }
    let writes = cluster.plane.audit().writes_since(mark).expect("the audit log");
    let of_objects = |resource: &str| matches!(resource, "nodes" | "nodemodulesconfigs");
    let ours: u64 = writes
        .iter()
        .filter(|(write, _)| of_objects(&write.resource) && write.user.contains("tenon") && write.code < 300)
        .map(|(_, count)| *count)
        .sum();
    assert_eq!(ours, 4 * 3, "a change costs what it costs without a limit: {writes:#?}");
    cluster.say_ready("ash", "True").await;
    finish(&cluster).await;
    assert_eq!(witness.says(), 1);
    cluster.stop_operator().await;
}

/// Runs `kubectl tenon retry gauge` and gives what it says.
async fn retry(cluster: &Cluster, more: &[&str]) -> Result<String, String> {
    let args = [&["retry", "gauge", "-n", "hall"], more].concat();
    let Said { code, out, err } = plugin::run(cluster.plane.kubeconfig(), &args).await;
    if code == 0 { Ok(out) } else { Err(err) }
}

/// How often the node was asked to try again.
fn tried(config: &NodeModulesConfig) -> Option<u64> {
    let order = order(config)?;
    order.modules.iter().find_map(|module| match &module.wish {
        Wish::Loaded(load) => Some(load.retry),
        Wish::Removed => None,
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn what_failed_is_told_and_tried_again_where_a_user_asks_for_it_and_nowhere_else() {
    let mut cluster = Cluster::start().await;
    let limit = fleet(&cluster, json!({"maxUnavailable": 2})).await;
    let nothing = retry(&cluster, &[]).await.expect("an answer");
    assert!(nothing.contains("failed on no node"), "{nothing}");
    cluster.apply_module("gauge", "gauge:v2", limit).await;
    let first = next(&cluster).await;
    cluster.obey(&first, ModulePhase::RolledBack).await;
    let second = next(&cluster).await;
    cluster.obey(&second, ModulePhase::CrashSuspected).await;
    cluster.module_where("gauge", "the change stops", |m| condition(m, "RolloutPaused").is_some()).await;
    let expected = [
        format!("Node/{first} ModuleRolledBack"),
        "Module/gauge ModuleRolledBack".to_owned(),
        format!("Node/{second} ModuleCrashSuspected"),
        "Module/gauge RolloutPaused".to_owned(),
    ];
    let columns =
        "jsonpath={range .items[*]}{.involvedObject.kind}/{.involvedObject.name} {.reason}{\"\\n\"}{end}";
    wait::until("the events of what failed", SOON, async || {
        let events = cluster.plane.kubectl(&["get", "events", "-A", "-o", columns]).await.ok()?;
        expected.iter().all(|event| events.lines().any(|line| line == event)).then_some(())
    })
    .await
    .expect("events");

    let ready = NODES.into_iter().find(|node| **node != first && **node != second).expect("a third node");
    let refused = retry(&cluster, &["--node", ready]).await.expect_err("nothing has failed there");
    assert!(refused.contains(&format!("has not failed on node {ready}")), "{refused}");
    let said = retry(&cluster, &["--node", &second]).await.expect("the annotation");
    assert!(said.contains(&format!("1 node: {second}")), "{said}");
    cluster.config_where(&second, "it is asked to try again", |config| tried(config) > Some(0)).await;
    assert_eq!(told(&cluster).await, BTreeSet::from([second.clone()]), "and nobody else is");
    let left = cluster.configs().get(&first).await.expect("the node's object");
    assert_eq!(tried(&left), Some(0));

    // It heals: another node's turn comes, and the second wish means whoever has failed.
    cluster.obey(&second, ModulePhase::Loaded).await;
    let third = next(&cluster).await;
    cluster.obey(&third, ModulePhase::Loaded).await;
    retry(&cluster, &[]).await.expect("the annotation");
    cluster.config_where(&first, "it is asked to try again", |config| tried(config) > Some(0)).await;
    let healed = cluster.configs().get(&third).await.expect("the node's object");
    assert_eq!(tried(&healed), Some(0), "what is loaded is left alone");
    finish(&cluster).await;
    cluster.stop_operator().await;
}
