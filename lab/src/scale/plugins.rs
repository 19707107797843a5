//! What device plugins and version labels cost: a fleet whose plugins' pods are made by the real `DaemonSet` controller, and started
//! by kubelets that are played.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::{Api, Client, ResourceExt as _};
use serde_json::json;
use tenon_api::labels::{LabelKind, ROLE};
use tokio::task::JoinSet;

use super::meter::Party;
use super::play::{self, Figure};
use super::{Field, HALL, LABEL, ScaleError, spec};
use crate::wait;

/// The Module.
const DIAL: &str = "dial";
/// Requests that the bench has under way for itself.
const AT_ONCE: usize = 16;
/// How often the kubelets look.
const LOOK: Duration = Duration::from_millis(200);

/// The most writes for each node to load a driver, its plugin and its version.
pub const MOST_TO_LOAD: u64 = 4;
/// The most writes for each node to change them in order.
pub const MOST_TO_CHANGE: u64 = 7;
/// The most writes for each node to be rid of them.
pub const MOST_TO_DELETE: u64 = 7;
/// How many labels of the operator's a node has with a driver, its plugin and its version.
pub const LABELS: usize = 6;

/// The pods of plugins, placed and run in writing only, for as long as it lives.
#[derive(Debug)]
pub struct Kubelets {
    _task: JoinSet<()>,
}

impl Kubelets {
    /// Plays all of them.
    pub fn start(client: Client) -> Self {
        let mut task = JoinSet::new();
        task.spawn(async move {
            let pods: Api<Pod> = Api::all(client.clone());
            let plugins = ListParams::default().labels(ROLE);
            loop {
                // What goes wrong is tried again in the next turn; who waits for it says what is missing.
                if let Ok(list) = pods.list(&plugins).await {
                    stream::iter(list).for_each_concurrent(AT_ONCE, |pod| run(&client, pod)).await;
                }
                tokio::time::sleep(LOOK).await;
            }
        });
        Self { _task: task }
    }
}

/// Does what there is to do next about a pod.
async fn run(client: &Client, pod: Pod) {
    let name = pod.name_any();
    let pods: Api<Pod> = Api::namespaced(client.clone(), &pod.namespace().unwrap_or_default());
    if pod.metadata.deletion_timestamp.is_some() {
        let _ = pods.delete(&name, &DeleteParams::default().grace_period(0)).await;
        return;
    }
    let spec = pod.spec.as_ref();
    if spec.is_some_and(|spec| spec.node_name.is_none()) {
        let Some(node) = wanted(&pod) else { return };
        let binding = json!({
            "apiVersion": "v1", "kind": "Binding", "metadata": { "name": name },
            "target": { "apiVersion": "v1", "kind": "Node", "name": node },
        });
        let _: Result<serde_json::Value, _> =
            pods.create_subresource("binding", &name, &kube::api::PostParams::default(), &binding).await;
        return;
    }
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    if conditions.into_iter().any(|told| told.type_ == "Ready" && told.status == "True") {
        return;
    }
    let status = json!({ "status": {
        "phase": "Running", "conditions": [{ "type": "Ready", "status": "True" }],
    } });
    let _ = pods.patch_status(&name, &PatchParams::default(), &Patch::Strategic(status)).await;
}

/// The node that its controller wants it on.
fn wanted(pod: &Pod) -> Option<String> {
    let affinity = pod.spec.as_ref()?.affinity.as_ref()?.node_affinity.as_ref()?;
    let terms = &affinity.required_during_scheduling_ignored_during_execution.as_ref()?.node_selector_terms;
    let mut fields = terms.iter().flat_map(|term| term.match_fields.iter().flatten());
    fields.find(|field| field.key == "metadata.name")?.values.as_ref()?.first().cloned()
}

fn key(kind: LabelKind) -> String {
    kind.key(HALL, DIAL)
}

/// A Module appears with a device plugin and a version that the nodes are labelled with.
pub async fn load(field: &Field, image: &str, version: &str) -> Result<Figure, ScaleError> {
    field.account(HALL).await?;
    label(field, version).await?;
    field.rest().await?;
    let meter = field.meter().await?;
    wish(field, image, version).await?;
    serve(field, version).await?;
    figure(field, "cold roll-out, with plugin and version", meter).await
}

/// The Module gets another version, and the nodes are labelled with it.
pub async fn change(field: &Field, image: &str, version: &str) -> Result<Figure, ScaleError> {
    let meter = field.meter().await?;
    wish(field, image, version).await?;
    label(field, version).await?;
    serve(field, version).await?;
    figure(field, "ordered change, with plugin", meter).await
}

/// The operator is killed and started; nobody wishes anything.
pub async fn restart(field: &mut Field) -> Result<Figure, ScaleError> {
    let figure = play::restart(field).await?;
    Ok(Figure { scenario: "operator restart, with plugins", settled: None, ..figure })
}

/// The Module is deleted, and the plugin and the driver go.
pub async fn delete(field: &Field) -> Result<Figure, ScaleError> {
    let meter = field.meter().await?;
    field.delete(DIAL).await?;
    field.gone(DIAL).await?;
    figure(field, "delete, with plugin and version", meter).await
}

/// How many labels the Module's nodes have of the operator's; the user's apart, which says which version a node should have.
pub async fn labels(field: &Field) -> Result<usize, ScaleError> {
    let nodes: Api<Node> = Api::all(field.client());
    let list = nodes.list_metadata(&ListParams::default()).await?;
    let is_ours = |key: &&String| LabelKind::of_key(key).is_some_and(|kind| kind != LabelKind::VersionModule);
    Ok(list.items.iter().flat_map(|node| node.labels().keys()).filter(is_ours).count())
}

async fn wish(field: &Field, image: &str, version: &str) -> Result<(), ScaleError> {
    let mut spec = spec(image, (LABEL, "all"), Some("100%"));
    if let Some(container) = spec.pointer_mut("/moduleLoader/container").and_then(|it| it.as_object_mut()) {
        container.insert("version".to_owned(), json!(version));
    }
    if let Some(spec) = spec.as_object_mut() {
        spec.insert("devicePlugin".to_owned(), json!({ "container": { "image": "lab.invalid/plugin" } }));
    }
    field.apply(DIAL, &spec).await
}

/// Says which version each node should have.
async fn label(field: &Field, version: &str) -> Result<(), ScaleError> {
    let (nodes, patch): (Api<Node>, _) = (
        Api::all(field.client()),
        json!({ "metadata": { "labels": { key(LabelKind::VersionModule): version } } }),
    );
    stream::iter(field.nodes())
        .map(Ok)
        .try_for_each_concurrent(AT_ONCE, async |node| {
            let params = PatchParams::default();
            nodes.patch_metadata(node.name(), &params, &Patch::Merge(&patch)).await.map(drop)
        })
        .await?;
    Ok(())
}

/// Waits until each node has the version, and its plugin.
async fn serve(field: &Field, version: &str) -> Result<(), ScaleError> {
    let nodes: Api<Node> = Api::all(field.client());
    let selector = format!(
        "{}={version},{}={version},{}",
        key(LabelKind::VersionReady),
        key(LabelKind::VersionSchedulePod),
        key(LabelKind::DevicePluginReady)
    );
    let params = ListParams::default().labels(&selector);
    wait::until(format!("{version} and its plugin on all nodes"), super::PATIENCE, async || {
        let list = nodes.list_metadata(&params).await.ok()?;
        (list.items.len() == field.nodes().len()).then_some(())
    })
    .await?;
    field.settled(DIAL).await
}

async fn figure(field: &Field, scenario: &'static str, meter: super::Meter) -> Result<Figure, ScaleError> {
    let nodes = field.nodes().len();
    let bill = field.bill(meter).await?;
    Ok(Figure { scenario, nodes, pairs: nodes, times: None, settled: None, bill, more: BTreeMap::new() })
}

/// Counts alone: they are the same on every machine, but for how often a Module's status is written while its nodes report.
pub fn page(figures: &[Figure]) -> String {
    let mut page = "\
# Benchmarks: device plugins and version labels

Written by `make bench`; do not edit. A fleet of simulated nodes as in [the others](benchmarks.md), whose plugins' pods are made
by the real DaemonSet controller and started by kubelets that are played. Requests are counted from the audit log. For each node
the operator and its agent may write 4 times to load a driver with its plugin and its version, 7 times to change them in order,
and never when the operator is started anew; `make bench` fails if they do. All other writes are to what there is one of for all
nodes: the Module and its status, its images, its DaemonSets.

| scenario | nodes | writes per node | other writes | no-op | refused |
|---|---|---|---|---|---|
"
    .to_owned();
    for Figure { scenario, nodes, bill, pairs, .. } in figures {
        let per_node = super::report::ratio(bill.writes_to_nodes(), *pairs);
        let (others, no_op) = (bill.writes_to_others(), bill.no_op_writes);
        let refused = bill.refused(Party::Operator) + bill.refused(Party::Agents);
        // Writing into a string cannot fail.
        let _ = writeln!(page, "| {scenario} | {nodes} | {per_node:.2} | {others} | {no_op} | {refused} |");
    }
    page
}

#[cfg(test)]
mod tests {
    use super::super::meter::{Bill, Usages};
    use super::*;

    #[test]
    fn what_is_written_to_nodes_is_told_per_node_and_the_rest_as_it_is() {
        let requests =
            [("patch nodes 200", 30), ("patch nodemodulesconfigs 200", 10), ("patch modules/status 200", 7)];
        let requests = requests.map(|(kind, count)| (kind.to_owned(), count)).into();
        let bill = Bill {
            seconds: 1.0,
            requests: BTreeMap::from([(Party::Operator, requests)]),
            no_op_writes: 2,
            usages: Usages::default(),
        };
        let figure = Figure {
            scenario: "load",
            nodes: 10,
            pairs: 10,
            times: None,
            settled: None,
            bill,
            more: BTreeMap::new(),
        };
        let page = page(&[figure]);
        assert!(page.contains("| load | 10 | 4.00 | 7 | 2 | 0 |"), "{page}");
    }
}
