//! Everything that the API server says of one Module at one moment.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Node;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt as _};
use tenon_api::labels::{LabelKind, ModuleLabel};
use tenon_api::module_image::{ImagePhase, ModuleImage};
use tenon_api::node_modules_config::{ModulePhase, NodeModule, NodeModuleStatus, NodeModulesConfig};
use tenon_api::{Module, reasons};
use tenon_order::{ModuleKey, Wish, read_unverified};

/// Of a Module that is not there.
const GONE: &str = "gone";
/// Of a Module whose settings nobody has looked at.
const UNSEEN: &str = "not looked at yet";
/// Of a node that neither has nor shall have it.
const NOTHING: &str = "has nothing of it";

/// A Module and all that it has brought about.
#[derive(Debug)]
pub struct State {
    /// The Module, if it exists.
    pub module: Option<Module>,
    /// Its images.
    pub images: Vec<ModuleImage>,
    /// The nodes that it selects, and those that have anything of it; all of them when it is gone.
    pub nodes: Vec<NodeState>,
}

/// One node, as far as the Module goes.
#[derive(Debug)]
pub struct NodeState {
    /// The node.
    pub node: Node,
    /// Its object.
    pub config: NodeModulesConfig,
    key: ModuleKey,
}

impl State {
    /// Asks the API server.
    pub async fn of(client: &Client, key: &ModuleKey) -> Result<Self, kube::Error> {
        let modules: Api<Module> = Api::namespaced(client.clone(), key.namespace());
        let images: Api<ModuleImage> = Api::namespaced(client.clone(), key.namespace());
        let configs: Api<NodeModulesConfig> = Api::all(client.clone());
        let nodes: Api<Node> = Api::all(client.clone());
        let all = ListParams::default();
        let (module, images, configs, nodes) = tokio::try_join!(
            modules.get_opt(key.name()),
            images.list(&all),
            configs.list(&all),
            nodes.list(&all)
        )?;
        let mut configs: BTreeMap<_, _> =
            configs.into_iter().map(|config| (config.name_any(), config)).collect();
        let with_config = |node: Node| {
            Some(NodeState { config: configs.remove(&node.name_any())?, node, key: key.clone() })
        };
        let selects = |node: &NodeState| {
            let labels = node.node.labels();
            let selector = module.iter().flat_map(|module| &module.spec.selector);
            selector.into_iter().all(|(key, value)| labels.get(key) == Some(value))
        };
        let concerns =
            |node: &NodeState| selects(node) || node.entry().is_some() || node.reported().is_some();
        Ok(Self {
            nodes: nodes.into_iter().filter_map(with_config).filter(concerns).collect(),
            images: images.into_iter().filter(|image| image.spec.module == key.name()).collect(),
            module,
        })
    }

    /// Whether the Module's present settings are in force on every node, and every object says so: otherwise what is
    /// missing.
    pub fn is_loaded_everywhere(&self) -> Result<(), String> {
        let module = self.module.as_ref().ok_or("there is no such Module")?;
        self.is_ready(module)?;
        for node in &self.nodes {
            let entry = node.entry().ok_or_else(|| format!("{} is not told to load it", node.name()))?;
            // That the entry is what the Module asks for now, its status says: a change that does not reach a node costs it nothing.
            if !node.has(entry) {
                return Err(node.sentence());
            }
            if !node.is_labelled() {
                return Err(format!("{} is not labelled ready", node.name()));
            }
        }
        Ok(())
    }

    fn is_ready(&self, module: &Module) -> Result<(), String> {
        let numbers = module.status.as_ref().and_then(|status| status.module_loader).unwrap_or_default();
        let all = i32::try_from(self.nodes.len()).unwrap_or(i32::MAX);
        let is_ready = condition(module, reasons::condition::READY).is_some_and(|(holds, ..)| holds);
        let is_current = module.status.as_ref().and_then(|status| status.observed_generation)
            == module.metadata.generation;
        let counted =
            [numbers.nodes_matching_selector_number, numbers.desired_number, numbers.available_number];
        if is_ready && is_current && counted == [all; 3] {
            Ok(())
        } else {
            Err(self.sentence_of_module().unwrap_or_else(|| "the Module has no status yet".to_owned()))
        }
    }

    /// Whether no object knows anything of the Module any more: otherwise what does.
    pub fn is_forgotten(&self) -> Result<(), String> {
        if self.module.is_some() {
            return Err(self.sentence_of_module().unwrap_or_else(|| "the Module still exists".to_owned()));
        }
        if let Some(image) = self.images.first() {
            return Err(format!("ModuleImage {} still exists", image.name_any()));
        }
        self.nodes.iter().try_for_each(NodeState::has_forgotten)
    }

    /// Whether one of [`Self::sentences`] says that the subject has nothing to do with the Module.
    pub fn is_nothing(sentence: &str) -> bool {
        [GONE, NOTHING].contains(&sentence)
    }

    /// Whether it says that nobody has looked at the Module's present settings.
    pub fn is_unseen(sentence: &str) -> bool {
        sentence == UNSEEN
    }

    /// How things stand, by subject, in a few words: what a person follows.
    pub fn sentences(&self) -> BTreeMap<String, String> {
        let mut sentences = BTreeMap::new();
        for image in &self.images {
            sentences.insert(format!("image for {}", image.spec.kernel), sentence_of_image(image));
        }
        for node in &self.nodes {
            sentences.insert(node.name(), node.sentence());
        }
        let of_module = self.sentence_of_module().unwrap_or_else(|| GONE.to_owned());
        sentences.insert("Module".to_owned(), of_module);
        sentences
    }

    /// What the Module says of its present settings; nothing as long as nobody has looked at them.
    fn sentence_of_module(&self) -> Option<String> {
        let module = self.module.as_ref()?;
        let observed = module.status.as_ref().and_then(|status| status.observed_generation);
        let (_, reason, message) = condition(module, reasons::condition::READY)
            .filter(|_| observed == module.metadata.generation)
            .unwrap_or((false, UNSEEN, ""));
        Some(if message.is_empty() { reason.to_owned() } else { message.to_owned() })
    }
}

impl NodeState {
    /// The node's name.
    pub fn name(&self) -> String {
        self.node.name_any()
    }

    /// What the node is told of the Module.
    pub fn entry(&self) -> Option<&NodeModule> {
        let is_it =
            |entry: &&NodeModule| entry.namespace == self.key.namespace() && entry.name == self.key.name();
        self.config.spec.modules.iter().find(is_it)
    }

    /// What the node reports of the Module.
    pub fn reported(&self) -> Option<&NodeModuleStatus> {
        let is_it = |entry: &&NodeModuleStatus| {
            entry.namespace == self.key.namespace() && entry.name == self.key.name()
        };
        self.config.status.as_ref()?.modules.iter().find(is_it)
    }

    /// Whether the node's label says that the module is ready.
    pub fn is_labelled(&self) -> bool {
        self.node.labels().contains_key(&LabelKind::Ready.key(self.key.namespace(), self.key.name()))
    }

    /// The node's present boot.
    fn boot_id(&self) -> Option<&str> {
        Some(self.node.status.as_ref()?.node_info.as_ref()?.boot_id.as_str())
    }

    fn has(&self, entry: &NodeModule) -> bool {
        self.reported().is_some_and(|reported| {
            reported.phase == Some(ModulePhase::Loaded)
                && reported.bundle == entry.bundle
                && reported.config.as_ref() == Some(&entry.config)
                && reported.boot_id.as_deref() == self.boot_id()
        })
    }

    fn has_forgotten(&self) -> Result<(), String> {
        let is_of_module = |label: &&String| {
            ModuleLabel::parse(label)
                .is_some_and(|label| label.namespace == self.key.namespace() && label.name == self.key.name())
        };
        let labels = self.node.labels().keys().chain(self.config.labels().keys());
        if let Some(label) = labels.into_iter().find(is_of_module) {
            return Err(format!("{} still has the label {label}", self.name()));
        }
        if self.entry().is_some() || self.reported().is_some() {
            Err(self.sentence())
        } else if self.is_ordered() {
            Err(format!("the order of {} still names it", self.name()))
        } else {
            Ok(())
        }
    }

    /// A confirmed removal may stay in an order as long as there is need for an order at all.
    fn is_ordered(&self) -> bool {
        let Some(order) = &self.config.spec.order else { return false };
        let wish = read_unverified(order).map(|order| order.wish(&self.key).cloned());
        self.config.spec.modules.is_empty() || !matches!(wish, Ok(None | Some(Wish::Removed)))
    }

    fn sentence(&self) -> String {
        let label = if self.is_labelled() { ", labelled ready" } else { "" };
        match (self.entry(), self.reported()) {
            (Some(entry), _) if self.has(entry) => {
                format!(
                    "has loaded {}{}",
                    tag(entry),
                    if self.is_labelled() { label } else { ", not labelled" }
                )
            }
            (Some(entry), Some(reported)) if is_trouble(reported) => {
                format!("told to load {}{label}: {}", tag(entry), trouble(reported))
            }
            (Some(entry), _) => format!("told to load {}{label}", tag(entry)),
            (None, Some(reported)) if is_trouble(reported) => {
                format!("told to unload it{label}: {}", trouble(reported))
            }
            (None, Some(_)) => format!("told to unload it{label}"),
            (None, None) => format!("{NOTHING}{label}"),
        }
    }
}

fn is_trouble(reported: &NodeModuleStatus) -> bool {
    !matches!(
        reported.phase,
        None | Some(ModulePhase::Loaded | ModulePhase::Removed | ModulePhase::WaitingForBundle)
    )
}

fn trouble(reported: &NodeModuleStatus) -> String {
    let phase = reported.phase.unwrap_or_default();
    format!("{phase:?}: {}", reported.message.clone().unwrap_or_default())
}

fn tag(entry: &NodeModule) -> &str {
    last_part(&entry.config.container_image)
}

/// Name and tag of an image's reference.
fn last_part(image: &str) -> &str {
    image.rsplit_once('/').map_or(image, |(_, part)| part)
}

fn sentence_of_image(image: &ModuleImage) -> String {
    let name = last_part(&image.spec.image);
    let looked_for = || format!("looking for {name}");
    let status = image.status.as_ref().filter(|status| status.resolved_from == image.metadata.generation);
    let Some(status) = status else { return looked_for() };
    match (status.phase, &status.bundle) {
        (Some(ImagePhase::Ready), Some(bundle)) => {
            format!("{name} found and packed for the nodes: {} KiB", bundle.size / 1024)
        }
        _ => status.message.as_ref().map_or_else(looked_for, ToString::to_string),
    }
}

/// Whether a condition of a Module holds, with its reason and message.
pub fn condition<'a>(module: &'a Module, type_: &str) -> Option<(bool, &'a str, &'a str)> {
    let conditions = &module.status.as_ref()?.conditions;
    let condition = conditions.iter().find(|condition| condition.type_ == type_)?;
    Some((condition.status == "True", &condition.reason, &condition.message))
}
