//! One life of a Module on its nodes, from their joining to the Module's end, in stages that each come to rest.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Namespace, Node, Secret};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};
use tenon_api::labels::{LabelKind, ModuleLabel, annotation};
use tenon_api::{MadeImage, Module, ModuleImage, NodeModulesConfig, PreflightValidation};
use tenon_lab::faults::{Fault, Seen};
use tenon_lab::fleet::{Machine, SimNode};
use tenon_lab::wait;

use crate::plot::Plot;
use crate::stand::{OPERATOR_NAMESPACE, Stand, until};
use crate::witness::Witness;

const KEYS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../crates/sign/testdata");
/// For how long nothing may be written before a stage counts as at rest. The controllers gather events for 300 ms.
const QUIET: Duration = Duration::from_millis(800);
/// The same after a write that is not answered: the operator's patience (three seconds), and its pause before it writes
/// again.
const UNANSWERED: Duration = Duration::from_secs(5);

/// A part of a life. A fault strikes in one stage and is over when the stage is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Stage {
    /// Two nodes come.
    Join,
    /// The Module is created, and loaded on both.
    Load,
    /// It gets another image, which is signed for it.
    Change,
    /// One of the nodes starts anew.
    Reboot,
    /// The Module is created, and its image made by a Job.
    Make,
    /// What it is built from changes.
    Renew,
    /// The Module is created, and a node pulls its image.
    Pull,
    /// It gets another image, which a node pulls.
    PullAnother,
    /// The Module is created with a device plugin and the version that its node is labelled with, and a preflight for the node's kernel.
    Equip,
    /// The Module gets another version, and then its node another label.
    Upgrade,
    /// The node leaves the Module, and is back before its image is deleted.
    ComeBack,
    /// The node leaves the Module, and its image is deleted.
    Leave,
    /// The Module is deleted, and nothing is left of it.
    Unload,
}

/// The namespace, nodes and Module of one life; all names hold the life's.
pub(crate) struct Life<'s> {
    pub(crate) stand: &'s Stand,
    witness: Option<Witness>,
    /// No part of any other name: it is replaced when lives are compared.
    pub(crate) name: String,
    pub(crate) nodes: Vec<SimNode>,
}

impl<'s> Life<'s> {
    pub(crate) fn new(stand: &'s Stand, name: String) -> Self {
        Self { stand, witness: None, name, nodes: Vec::new() }
    }

    /// Does what begins a stage and waits until the stage has come to its end and everything is at rest.
    pub(crate) async fn play(&mut self, stage: Stage) -> Result<(), String> {
        match stage {
            Stage::Join => self.join().await,
            Stage::Load => self.apply("gauge:v1", &json!({})).await,
            Stage::Change => {
                self.apply(&self.signed(), &json!({ "sign": self.sign(Some("gauge:v2")) })).await
            }
            Stage::Reboot => self.reboot().await,
            Stage::Make => self.make().await,
            Stage::Renew => self.renew().await,
            Stage::Pull => self.pull("one").await,
            Stage::PullAnother => self.pull("two").await,
            Stage::Equip => self.upgrade("1", "gauge:v1").await,
            Stage::Upgrade => self.upgrade("2", "gauge:v2").await,
            Stage::ComeBack => self.come_back().await,
            Stage::Leave => self.leave().await,
            Stage::Unload => self.unload().await,
        }
        .map_err(|error| format!("{stage:?}: {error}"))?;
        self.rest().await.map_err(|error| format!("{stage:?}: {error}"))
    }

    async fn join(&mut self) -> Result<(), String> {
        let mut namespace = Namespace::default();
        namespace.metadata.name = Some(self.name.clone());
        let namespaces: Api<Namespace> = Api::all(self.stand.client.clone());
        namespaces.create(&PostParams::default(), &namespace).await.map_err(text)?;
        self.witness = Some(Witness::of(self.stand, &self.name));
        for (name, file) in [("key", "rsa.key"), ("cert", "rsa.pem")] {
            let content = std::fs::read_to_string(Path::new(KEYS).join(file)).map_err(text)?;
            let secret = json!({
                "apiVersion": "v1", "kind": "Secret", "metadata": { "name": name },
                "stringData": { name: content },
            });
            let secrets: Api<Secret> = Api::namespaced(self.stand.client.clone(), &self.name);
            let params = PatchParams::apply("a-user");
            secrets.patch(name, &params, &Patch::Apply(secret)).await.map_err(text)?;
        }
        for tree in self.stand.plot.nodes() {
            let machine = Machine {
                name: format!("{}-{tree}", self.name),
                kernel: self.stand.driver.kernel.clone(),
                labels: BTreeMap::from([("hall".to_owned(), self.name.clone())]),
                api_port: self.stand.agents.port(),
            };
            self.nodes.push(self.stand.fleet.join(&machine).await.map_err(text)?);
        }
        until("the nodes are registered", async || {
            let configs = self.configs().await?;
            let registered = |config: &NodeModulesConfig| {
                config
                    .status
                    .as_ref()
                    .is_some_and(|status| status.store_id.is_some() && !status.key_ids.is_empty())
            };
            (configs.len() == self.nodes.len() && configs.iter().all(registered)).then_some(())
        })
        .await
    }

    /// An image of this life's own: nobody has made it before.
    fn signed(&self) -> String {
        format!("{}:v2", self.name)
    }

    /// How modules are signed: of another image, or of what is built.
    pub(crate) fn sign(&self, unsigned: Option<&str>) -> Value {
        let mut sign = json!({
            "keySecret": { "name": "key" }, "certSecret": { "name": "cert" },
            "filesToSign": ["/opt/lib/modules/${KERNEL_FULL_VERSION}/extra/*.ko"],
        });
        if let Some(image) = unsigned {
            sign["unsignedImage"] = format!("{}/{image}", self.stand.registry.host()).into();
        }
        sign
    }

    async fn apply(&self, image: &str, container: &Value) -> Result<(), String> {
        self.write(image, container).await?;
        self.is_ready_everywhere(image).await
    }

    /// Creates or changes the Module: the image that it names, and what else stands in its container.
    pub(crate) async fn write(&self, image: &str, container: &Value) -> Result<(), String> {
        let image = format!("{}/{image}", self.stand.registry.host());
        let mut manifest = json!({
            "apiVersion": "kmm.sigs.x-k8s.io/v1beta1", "kind": "Module", "metadata": {"name": "gauge"},
            "spec": {
                "selector": {"hall": self.name},
                // No kubelet runs, so the nodes are soon tainted as unreachable.
                "tolerations": [{"operator": "Exists"}],
                "moduleLoader": {"container": {
                    "modprobe": {"moduleName": "simple-kmod"},
                    "kernelMappings": [{"regexp": "^.+$", "containerImage": image}]
                }}
            }
        });
        for (name, value) in container.as_object().into_iter().flatten() {
            manifest["spec"]["moduleLoader"]["container"][name] = value.clone();
        }
        if self.stand.plot == Plot::Plugin {
            manifest["spec"]["devicePlugin"] = json!({"container": {"image": "lab.invalid/plugin"}});
        }
        let params = PatchParams::apply("a-user").force();
        self.modules().patch("gauge", &params, &Patch::Apply(manifest)).await.map(drop).map_err(text)
    }

    /// The Module has this version, and then its nodes are to have it; a preflight for their kernel sees the image.
    async fn upgrade(&self, version: &str, image: &str) -> Result<(), String> {
        let preflight = json!({
            "apiVersion": "kmm.sigs.x-k8s.io/v1beta2", "kind": "PreflightValidation",
            "metadata": {"name": self.name}, "spec": {"kernelVersion": self.stand.driver.kernel},
        });
        let params = PatchParams::apply("a-user").force();
        self.preflights().patch(&self.name, &params, &Patch::Apply(preflight)).await.map_err(text)?;
        self.write(image, &json!({ "version": version })).await?;
        let nodes: Api<Node> = Api::all(self.stand.client.clone());
        let label = |kind: LabelKind| kind.key(&self.name, "gauge");
        let labels = json!({"metadata": {"labels": {label(LabelKind::VersionModule): version}}});
        for node in &self.nodes {
            nodes.patch(node.name(), &params_of_user(), &Patch::Merge(&labels)).await.map_err(text)?;
        }
        self.is_ready_everywhere(image).await?;
        until("the version's plugin runs on every node, and the preflight has its verdict", async || {
            let has = |node: &Node| {
                let value = |kind| node.labels().get(&label(kind)).map(String::as_str);
                value(LabelKind::VersionReady) == Some(version)
                    && value(LabelKind::VersionSchedulePod) == Some(version)
                    && value(LabelKind::DevicePluginReady).is_some()
            };
            let status = self.preflights().get(&self.name).await.ok()?.status?;
            let is_about_it = status
                .modules
                .iter()
                .any(|module| module.image.as_ref().is_some_and(|it| it.ends_with(image)));
            let told = is_about_it && status.in_progress == 0;
            // That of a former version goes when no node has it.
            let sets = self.daemon_sets().list(&ListParams::default()).await.ok()?.items.len();
            (told && sets == 1 && self.node_objects().await?.iter().all(has)).then_some(())
        })
        .await
    }

    async fn reboot(&mut self) -> Result<(), String> {
        let node = &mut self.nodes[1];
        node.power_off();
        node.boot().await.map_err(text)?;
        let (name, boot) = (node.name().to_owned(), node.boot_id());
        // As long as the machine needs to come up: the operator has seen the new boot by then.
        let nodes: Api<Node> = Api::all(self.stand.client.clone());
        until("the label is withdrawn", async || {
            (ready_labels(&nodes.get(&name).await.ok()?) == 0).then_some(())
        })
        .await?;
        self.nodes[1].switch_on().map_err(text)?;
        until("the rebooted node reports", async || {
            let configs = self.configs().await?;
            let config = configs.iter().find(|config| config.name_any() == name)?;
            (config.status.as_ref()?.boot_id.as_deref() == Some(boot.as_str())).then_some(())
        })
        .await?;
        self.is_ready_everywhere(&self.signed()).await
    }

    async fn unload(&self) -> Result<(), String> {
        if self.stand.plot == Plot::Plugin {
            self.preflights().delete(&self.name, &DeleteParams::default()).await.map_err(text)?;
        }
        self.modules().delete("gauge", &DeleteParams::default()).await.map_err(text)?;
        until("nothing is left", async || {
            let gone = self.modules().get_opt("gauge").await.ok()?.is_none()
                && self.images().list(&ListParams::default()).await.ok()?.items.is_empty()
                && self.daemon_sets().list(&ListParams::default()).await.ok()?.items.is_empty();
            let empty = |config: &NodeModulesConfig| {
                let reported = config.status.as_ref().map_or(0, |status| status.modules.len());
                config.spec.order.is_none() && config.spec.modules.is_empty() && reported == 0
            };
            let nodes = self.node_objects().await?;
            let clean =
                self.configs().await?.iter().all(empty) && nodes.iter().all(|node| our_labels(node) == 0);
            (gone && clean).then_some(())
        })
        .await
    }

    pub(crate) async fn is_ready_everywhere(&self, image: &str) -> Result<(), String> {
        let mut instead = String::new();
        let ready = until("the Module is ready on every node", async || {
            let module = self.modules().get("gauge").await.ok()?;
            instead = format!("{:#?}", module.status);
            let status = module.status.as_ref()?;
            let condition = status.conditions.iter().find(|condition| condition.type_ == "Ready")?;
            let current =
                condition.status == "True" && condition.observed_generation == module.metadata.generation;
            let loaded = |config: &NodeModulesConfig| {
                let reported = config.status.as_ref().and_then(|status| status.modules.first());
                let config = reported.and_then(|reported| reported.config.as_ref());
                config.is_some_and(|config| config.container_image.ends_with(image))
            };
            let nodes = self.node_objects().await?;
            let all =
                self.configs().await?.iter().all(loaded) && nodes.iter().all(|node| ready_labels(node) == 1);
            let available = status.module_loader.as_ref()?.available_number;
            (current && all && usize::try_from(available) == Ok(self.nodes.len())).then_some(())
        })
        .await;
        ready.map_err(|late| format!("{late}; the Module says {instead}"))
    }

    /// Waits until neither the operator nor an agent has written anything for a while.
    pub(crate) async fn rest(&self) -> Result<(), String> {
        let mut last = String::new();
        until("nobody writes any more", async || {
            let (operator, agents) = (self.stand.proxy.journal(), self.stand.agents.journal());
            let ends = operator.writes().chain(agents.writes()).map(|seen| (seen.at + quiet(seen), seen));
            let (end, write) = ends.max_by_key(|(end, _)| *end)?;
            last = write.line();
            (end < Instant::now()).then_some(())
        })
        .await
        .map_err(|late| format!("{late}; the last write is {last}"))
    }

    /// What was wrong at any moment.
    pub(crate) fn check(&self) -> Result<(), String> {
        self.witness.as_ref().map_or(Ok(()), Witness::check)
    }

    /// How many Jobs there were.
    pub(crate) fn jobs_ever(&self) -> usize {
        self.witness.as_ref().map_or(0, Witness::jobs)
    }

    /// Takes everything away that a life leaves or, when it went wrong, has left.
    pub(crate) async fn end(self) {
        let strip = json!({"metadata": {"finalizers": null}});
        let modules = self.modules();
        let _ = modules.delete("gauge", &DeleteParams::default()).await;
        let _ = modules.patch("gauge", &PatchParams::default(), &Patch::Merge(&strip)).await;
        let _ = self.preflights().delete(&self.name, &DeleteParams::default()).await;
        let made: Api<MadeImage> = Api::namespaced(self.stand.client.clone(), &self.name);
        let _ = made.delete_collection(&DeleteParams::default(), &ListParams::default()).await;
        let configs: Api<NodeModulesConfig> = Api::all(self.stand.client.clone());
        for node in self.nodes {
            let name = node.name().to_owned();
            let _ = node.remove().await;
            let _ = configs.delete(&name, &DeleteParams::default()).await;
            let gone = async || configs.get_opt(&name).await.ok()?.is_none().then_some(());
            let _ = wait::until("the node's object is gone", Duration::from_secs(30), gone).await;
        }
    }

    pub(crate) fn modules(&self) -> Api<Module> {
        Api::namespaced(self.stand.client.clone(), &self.name)
    }

    pub(crate) fn images(&self) -> Api<ModuleImage> {
        Api::namespaced(self.stand.client.clone(), &self.name)
    }

    fn preflights(&self) -> Api<PreflightValidation> {
        Api::all(self.stand.client.clone())
    }

    fn daemon_sets(&self) -> Api<DaemonSet> {
        Api::namespaced(self.stand.client.clone(), &self.name)
    }

    /// This life's preflight, if it has one.
    async fn preflight(&self) -> Result<Option<PreflightValidation>, String> {
        self.preflights().get_opt(&self.name).await.map_err(text)
    }

    /// The Jobs that are not on their way out: those of a Module that is gone are.
    async fn jobs(&self) -> Result<Vec<Job>, String> {
        let jobs: Api<Job> = Api::namespaced(self.stand.client.clone(), &self.name);
        let mut items = jobs.list(&ListParams::default()).await.map_err(text)?.items;
        let module = self.modules().get_opt("gauge").await.map_err(text)?;
        items.retain(|job| module.is_some() && job.metadata.deletion_timestamp.is_none());
        Ok(items)
    }

    /// The Jobs that have nodes pull this life's images and have not ended. One that has goes by itself at last.
    async fn pulls(&self) -> Result<Vec<String>, String> {
        let jobs: Api<Job> = Api::namespaced(self.stand.client.clone(), OPERATOR_NAMESPACE);
        let mut images = Vec::new();
        for job in jobs.list(&ListParams::default()).await.map_err(text)? {
            let image = job.annotations().get(annotation::PULLED_IMAGE).cloned();
            let ours = image.filter(|image| image.contains(&format!("/{}:", self.name)));
            images.extend(ours.filter(|_| crate::witness::works(&job)));
        }
        Ok(images)
    }

    /// This life's nodes.
    pub(crate) async fn node_objects(&self) -> Option<Vec<Node>> {
        let nodes: Api<Node> = Api::all(self.stand.client.clone());
        Some(nodes.list(&ListParams::default().labels(&format!("hall={}", self.name))).await.ok()?.items)
    }

    /// Their objects.
    pub(crate) async fn configs(&self) -> Option<Vec<NodeModulesConfig>> {
        let configs: Api<NodeModulesConfig> = Api::all(self.stand.client.clone());
        let mut items = configs.list(&ListParams::default()).await.ok()?.items;
        items.retain(|config| config.name_any().starts_with(&format!("{}-", self.name)));
        Some(items)
    }

    /// Every event of this life: what it is about and why, and how often it was told.
    pub(crate) async fn events(&self) -> Result<BTreeMap<String, u64>, String> {
        use k8s_openapi::api::events::v1::Event;
        let events: Api<Event> = Api::all(self.stand.client.clone());
        let mut counts = BTreeMap::new();
        for event in events.list(&ListParams::default()).await.map_err(text)? {
            let about = event.regarding.clone().unwrap_or_default();
            let (kind, name) = (about.kind.unwrap_or_default(), about.name.unwrap_or_default());
            // The names of these are hashes.
            let name = if kind == "MadeImage" { "*".to_owned() } else { name };
            let ours = name.starts_with(&self.name) || about.namespace.as_deref() == Some(self.name.as_str());
            let by_us = matches!(event.reporting_controller.as_deref(), Some("tenon-operator" | "kmm"));
            if ours && by_us {
                let key = format!("{kind} {name}: {}", event.reason.unwrap_or_default());
                let times = event.series.map_or(1, |series| u64::try_from(series.count).unwrap_or(1));
                *counts.entry(key.replace(&self.name, "LIFE")).or_default() += times;
            }
        }
        Ok(counts)
    }

    /// What one could look at in the cluster, as JSON, for a life to be compared with another.
    pub(crate) async fn objects(&self) -> Result<Value, String> {
        let none = || "the API server does not answer".to_owned();
        let nodes = self.node_objects().await.ok_or_else(none)?;
        let labels: BTreeMap<_, _> = nodes.iter().map(|node| (node.name_any(), labels(node))).collect();
        let configs = self.configs().await.ok_or_else(none)?;
        let orders: BTreeMap<_, _> = configs
            .iter()
            .map(|config| {
                let order =
                    config.spec.order.as_deref().and_then(|order| tenon_order::read_unverified(order).ok());
                (config.name_any(), order.map(|order| order.content().modules))
            })
            .collect();
        let loaders: BTreeMap<_, _> = self
            .nodes
            .iter()
            .map(|node| {
                let deeds: Vec<_> = node.loader().deeds().iter().map(|deed| format!("{deed:?}")).collect();
                (node.name().to_owned(), deeds)
            })
            .collect();
        Ok(json!({
            "labels": labels,
            "configs": configs,
            "orders": orders,
            "loaders": loaders,
            "modules": self.modules().list(&ListParams::default()).await.map_err(text)?.items,
            "images": self.images().list(&ListParams::default()).await.map_err(text)?.items,
            "preflight": self.preflight().await?,
            "sets": self.daemon_sets().list(&ListParams::default()).await.map_err(text)?.items.iter().map(placed).collect::<Vec<_>>(),
            "made": self.remembered().await.ok_or_else(none)?,
            "pulls": self.pulls().await?,
            "jobs": self.jobs().await?.iter().map(|job| job.annotations().get(annotation::IMAGE).cloned()).collect::<Vec<_>>(),
        }))
    }

    /// The uids of what the operator creates: an object that was deleted and made anew has another.
    pub(crate) async fn uids(&self) -> Result<BTreeMap<String, String>, String> {
        let mut uids = BTreeMap::new();
        for image in self.images().list(&ListParams::default()).await.map_err(text)? {
            uids.insert(format!("ModuleImage {}", image.name_any()), image.uid().unwrap_or_default());
        }
        for made in self.made().await.unwrap_or_default() {
            uids.insert(format!("MadeImage {}", made.name_any()), made.uid().unwrap_or_default());
        }
        for job in self.jobs().await? {
            uids.insert(format!("Job {}", job.name_any()), job.uid().unwrap_or_default());
        }
        for set in self.daemon_sets().list(&ListParams::default()).await.map_err(text)? {
            uids.insert(format!("DaemonSet {}", set.name_any()), set.uid().unwrap_or_default());
        }
        for config in self.configs().await.unwrap_or_default() {
            uids.insert(format!("NodeModulesConfig {}", config.name_any()), config.uid().unwrap_or_default());
        }
        Ok(uids)
    }
}

/// For how long nothing may be written after this.
fn quiet(seen: &Seen) -> Duration {
    match seen.fault {
        // Who waits for an answer in vain writes once more.
        Some(Fault::Swallow | Fault::Hush) => UNANSWERED,
        _ => QUIET,
    }
}

/// Without those that Kubernetes's own controllers repeat by their former names, a while after the node has come.
fn labels(node: &Node) -> BTreeMap<String, String> {
    let mut labels = node.labels().clone();
    labels.retain(|name, _| !name.starts_with("beta.kubernetes.io/"));
    labels
}

/// Where a plugin's pods go, and what they run. Its name is a hash of what each life has another of.
fn placed(set: &DaemonSet) -> Option<Value> {
    let pod = set.spec.as_ref()?.template.spec.as_ref()?;
    Some(json!({"on": pod.node_selector, "containers": pod.containers}))
}

/// Those of the operator's; the user's stays where a user put it.
fn our_labels(node: &Node) -> usize {
    let is_ours =
        |key: &&String| ModuleLabel::parse(key).is_some_and(|label| label.kind != LabelKind::VersionModule);
    node.labels().keys().filter(is_ours).count()
}

fn params_of_user() -> PatchParams {
    PatchParams { field_manager: Some("a-user".to_owned()), ..PatchParams::default() }
}

fn ready_labels(node: &Node) -> usize {
    let is_ready =
        |key: &&String| ModuleLabel::parse(key).is_some_and(|label| label.kind == LabelKind::Ready);
    node.labels().keys().filter(is_ready).count()
}

pub(crate) fn text(error: impl std::error::Error) -> String {
    let causes = std::iter::successors(Some(&error as &dyn std::error::Error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
