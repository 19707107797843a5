//! The scenarios: what users, machines and strangers do to a cluster, each measured from its beginning to rest.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt as _};
use serde::Serialize;
use serde_json::{Value, json};
use tenon_api::NodeModulesConfig;
use tenon_api::labels::LabelKind;
use tenon_image::publish::FIRMWARE_PATH;
use tenon_order::ModuleKey;

use super::meter::{self, Bill};
use super::{Act, Field, GROUP, GROUPS, HALL, LABEL, ScaleError, Times, spec};
use crate::wait;

/// The name of [`cold`].
pub const COLD: &str = "cold roll-out";
/// The name of [`restart`].
pub const RESTART: &str = "operator restart";
/// The name of [`change`] with a limit of the caller's.
pub const CHANGE_ALL: &str = "change, all at once";

/// The Module of most scenarios.
const GAUGE: &str = "gauge";
/// Requests that the bench has under way for itself.
const AT_ONCE: usize = 16;

/// What came of a scenario.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Figure {
    /// Which.
    pub scenario: &'static str,
    /// With so many nodes.
    pub nodes: usize,
    /// (Module, node) pairs that changed; what is counted is divided by it.
    pub pairs: usize,
    /// When the nodes had done it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub times: Option<Times>,
    /// When the Module said so, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub settled: Option<f64>,
    /// What it cost.
    pub bill: Bill,
    /// What else was to be seen.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub more: BTreeMap<&'static str, Value>,
}

fn key(name: &str) -> Result<ModuleKey, ScaleError> {
    Ok(ModuleKey::new(HALL, name)?)
}

/// A Module appears, and is loaded on all nodes.
pub async fn cold(field: &Field, image: &str) -> Result<Figure, ScaleError> {
    load(field, COLD, image, None).await
}

/// The Module's image is another one. Without a limit of the caller's, 10 % of the nodes change at a time.
pub async fn change(field: &Field, image: &str, unavailable: Option<&str>) -> Result<Figure, ScaleError> {
    let scenario = if unavailable.is_some() { CHANGE_ALL } else { "change, 10 % at a time" };
    load(field, scenario, image, unavailable).await
}

async fn load(
    field: &Field,
    scenario: &'static str,
    image: &str,
    unavailable: Option<&str>,
) -> Result<Figure, ScaleError> {
    let nodes = field.nodes().len();
    let (meter, deeds) = (field.meter().await?, field.deeds());
    field.apply(GAUGE, &spec(image, (LABEL, "all"), unavailable)).await?;
    let times = field.times(&key(GAUGE)?, Act::Load, &deeds, &meter).await?;
    field.settled(GAUGE).await?;
    let settled = Some(meter.elapsed().as_secs_f64());
    let bill = field.bill(meter).await?;
    Ok(Figure { scenario, nodes, pairs: nodes, times: Some(times), settled, bill, more: BTreeMap::new() })
}

/// The Module is deleted, and unloaded everywhere.
pub async fn delete(field: &Field) -> Result<Figure, ScaleError> {
    let nodes = field.nodes().len();
    let (meter, deeds) = (field.meter().await?, field.deeds());
    field.delete(GAUGE).await?;
    let times = field.times(&key(GAUGE)?, Act::Unload, &deeds, &meter).await?;
    field.gone(GAUGE).await?;
    let settled = Some(meter.elapsed().as_secs_f64());
    let bill = field.bill(meter).await?;
    let scenario = "delete";
    Ok(Figure { scenario, nodes, pairs: nodes, times: Some(times), settled, bill, more: BTreeMap::new() })
}

/// The operator is killed and started; nobody wishes anything.
pub async fn restart(field: &mut Field) -> Result<Figure, ScaleError> {
    let (nodes, meter) = (field.nodes().len(), field.meter().await?);
    field.kill_operator();
    field.start_operator()?;
    field.operator_ready().await?;
    let settled = Some(meter.elapsed().as_secs_f64());
    let bill = field.bill(meter).await?;
    Ok(Figure { scenario: RESTART, nodes, pairs: nodes, times: None, settled, bill, more: BTreeMap::new() })
}

/// A hundred Modules, each on its hundredth of the nodes (as many as there are nodes, if these are fewer), get another
/// parameter, five a second.
pub async fn edits(field: &Field, image: &str) -> Result<Figure, ScaleError> {
    let nodes = field.nodes().len();
    let names: Vec<_> = (0..GROUPS.min(nodes)).map(|group| format!("edited-{group}")).collect();
    let wish = |group: usize, level: u32| {
        let group = group.to_string();
        let mut spec = spec(image, (GROUP, &group), Some("100%"));
        if let Some(modprobe) = spec.pointer_mut("/moduleLoader/container/modprobe") {
            *modprobe = json!({ "moduleName": "simple-kmod", "parameters": [format!("level={level}")] });
        }
        spec
    };
    for (group, name) in names.iter().enumerate() {
        field.apply(name, &wish(group, 1)).await?;
    }
    for name in &names {
        field.settled(name).await?;
    }
    field.rest().await?;
    let meter = field.meter().await?;
    let mut period = tokio::time::interval(Duration::from_millis(200));
    for (group, name) in names.iter().enumerate() {
        period.tick().await;
        field.apply(name, &wish(group, 2)).await?;
    }
    let last_edit = Instant::now();
    for name in &names {
        field.settled(name).await?;
    }
    let after_last = last_edit.elapsed().as_secs_f64();
    let settled = Some(meter.elapsed().as_secs_f64());
    let bill = field.bill(meter).await?;
    for name in &names {
        field.delete(name).await?;
    }
    for name in &names {
        field.gone(name).await?;
    }
    Ok(Figure {
        scenario: "100 Modules edited",
        nodes,
        pairs: nodes,
        times: None,
        settled,
        bill,
        more: BTreeMap::from([("allReadyAfterLastEditSeconds", json!(after_last))]),
    })
}

/// For ten seconds, ten nodes a second come, load, and go again.
pub async fn churn(field: &mut Field) -> Result<Figure, ScaleError> {
    const COMERS: usize = 100;
    let nodes = field.nodes().len();
    let meter = field.meter().await?;
    let mut guests = Vec::new();
    let mut period = tokio::time::interval(Duration::from_millis(100));
    for number in 0..COMERS {
        period.tick().await;
        guests.push(field.join(nodes + number).await?);
    }
    let module = key(GAUGE)?;
    let loaded = |guest: &crate::fleet::SimNode| guest.loader().loaded().any(|(key, _)| *key == module);
    wait::until("the comers to load", super::PATIENCE, async || guests.iter().all(loaded).then_some(()))
        .await?;
    for guest in guests {
        period.tick().await;
        guest.remove().await?;
    }
    field.settled(GAUGE).await?;
    let settled = Some(meter.elapsed().as_secs_f64());
    let configs: Api<NodeModulesConfig> = Api::all(field.client());
    let left = wait::until("the objects of the gone nodes to go", super::PATIENCE, async || {
        let list = configs.list_metadata(&ListParams::default()).await.ok()?;
        (list.items.len() <= nodes).then_some(list.items.len())
    })
    .await?;
    let bill = field.bill(meter).await?;
    Ok(Figure {
        scenario: "churn",
        nodes,
        pairs: COMERS,
        times: None,
        settled,
        bill,
        more: BTreeMap::from([("objectsLeft", json!(left.saturating_sub(nodes)))]),
    })
}

/// Pods of others appear by the thousand, and every node's kubelet reports every ten seconds; it is none of Tenon's
/// business.
pub async fn noise(field: &Field, pods: usize) -> Result<Figure, ScaleError> {
    const BEATS: usize = 3;
    const NOISE: &str = "noise";
    let nodes = field.nodes().len();
    let namespaces: Api<Namespace> = Api::all(field.client());
    let mut namespace = Namespace::default();
    namespace.metadata.name = Some(NOISE.to_owned());
    namespaces.create(&PostParams::default(), &namespace).await?;
    field.account(NOISE).await?;
    field.rest().await?;
    let before = field.operator_usage()?;
    let meter = field.meter().await?;
    let api: Api<Pod> = Api::namespaced(field.client(), NOISE);
    stream::iter((0..pods).map(Ok))
        .try_for_each_concurrent(AT_ONCE, async |number| {
            api.create(&PostParams::default(), &foreign(number)).await.map(drop)
        })
        .await?;
    let created = field.operator_usage()?;
    let all: Api<Node> = Api::all(field.client());
    let mut period = tokio::time::interval(Duration::from_secs(10));
    for beat in 0..BEATS {
        period.tick().await;
        stream::iter(field.nodes())
            .map(Ok)
            .try_for_each_concurrent(AT_ONCE, async |node| {
                let status = json!({ "status": { "conditions": [{
                    "type": "Ready", "status": "True", "reason": "KubeletReady", "message": format!("beat {beat}"),
                }] } });
                all.patch_status(node.name(), &PatchParams::default(), &Patch::Strategic(status))
                    .await
                    .map(drop)
            })
            .await?;
    }
    let after = field.operator_usage()?;
    let bill = field.bill(meter).await?;
    Ok(Figure {
        scenario: "foreign noise",
        nodes,
        pairs: nodes,
        times: None,
        settled: None,
        bill,
        more: BTreeMap::from([
            ("foreignPods", json!(pods)),
            ("residentBeforeKib", json!(before.resident)),
            ("residentWithPodsKib", json!(created.resident)),
            ("residentAfterBeatsKib", json!(after.resident)),
            ("cpuSecondsOfPods", json!(created.cpu_seconds - before.cpu_seconds)),
            ("cpuSecondsOfBeats", json!(after.cpu_seconds - created.cpu_seconds)),
        ]),
    })
}

fn foreign(number: usize) -> Pod {
    let mut pod: Pod = serde_json::from_value(json!({
        "spec": {
            "nodeSelector": { "nowhere": "" },
            "containers": [{ "name": "app", "image": "lab.invalid/app" }],
        },
    }))
    .unwrap_or_default();
    pod.metadata.name = Some(format!("app-{number}"));
    pod
}

/// The API server dies and returns with all agents connected; then the Module changes, so that all must have found it.
pub async fn server_restart(field: &mut Field, image: &str) -> Result<Figure, ScaleError> {
    let nodes = field.nodes().len();
    let (meter, deeds) = (field.meter().await?, field.deeds());
    field.plane_mut().restart_apiserver().await?;
    let back = meter.elapsed().as_secs_f64();
    wait::until("the API server to take the change", super::PATIENCE, async || {
        field.apply(GAUGE, &spec(image, (LABEL, "all"), Some("100%"))).await.ok()
    })
    .await?;
    let times = field.times(&key(GAUGE)?, Act::Load, &deeds, &meter).await?;
    field.settled(GAUGE).await?;
    let settled = Some(meter.elapsed().as_secs_f64());
    let bill = field.bill(meter).await?;
    Ok(Figure {
        scenario: "API server restart, then a change",
        nodes,
        pairs: nodes,
        times: Some(times),
        settled,
        bill,
        more: BTreeMap::from([("serverBackSeconds", json!(back))]),
    })
}

/// A driver with so many bytes of firmware; the operator dies while it is fetched.
pub async fn heavy(field: &mut Field, image: &str, bytes: usize) -> Result<Figure, ScaleError> {
    let nodes = field.nodes().len();
    let (meter, deeds) = (field.meter().await?, field.deeds());
    let mut wish = spec(image, (LABEL, "all"), None);
    if let Some(modprobe) = wish.pointer_mut("/moduleLoader/container/modprobe") {
        *modprobe = json!({ "moduleName": "simple-kmod", "firmwarePath": FIRMWARE_PATH });
    }
    field.apply("heavy", &wish).await?;
    let sent = |text: &str| meter::series(text, "tenon_depot_sent_bytes_total");
    let needed = bytes as u64 * nodes as u64;
    wait::until("half of the bytes to be sent", super::PATIENCE, async || {
        let text = field.operator_metrics().await.ok()?;
        (sent(&text) >= needed / 2).then_some(())
    })
    .await?;
    let first = field.operator_metrics().await?;
    field.kill_operator();
    field.start_operator()?;
    let times = field.times(&key("heavy")?, Act::Load, &deeds, &meter).await?;
    field.settled("heavy").await?;
    let settled = Some(meter.elapsed().as_secs_f64());
    let second = field.operator_metrics().await?;
    let bill = field.bill(meter).await?;
    field.delete("heavy").await?;
    field.gone("heavy").await?;
    let rejected = |text: &str| meter::series(text, "tenon_depot_rejections_total");
    Ok(Figure {
        scenario: "200 MB driver, the operator killed half-way",
        nodes,
        pairs: nodes,
        times: Some(times),
        settled,
        bill,
        more: BTreeMap::from([
            ("bytesSent", json!(sent(&first) + sent(&second))),
            ("bytesNeeded", json!(needed)),
            ("askedToComeBack", json!(rejected(&first) + rejected(&second))),
        ]),
    })
}

/// How many nodes carry the Module's ready label.
pub async fn ready_labels(field: &Field) -> Result<usize, ScaleError> {
    let nodes: Api<Node> = Api::all(field.client());
    let list = nodes.list_metadata(&ListParams::default()).await?;
    let ready = LabelKind::Ready.key(HALL, GAUGE);
    Ok(list.items.iter().filter(|node| node.labels().contains_key(&ready)).count())
}
