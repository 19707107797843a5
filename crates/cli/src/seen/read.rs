//! Reading: few requests, in pages, with the rights of whoever asks. What may not be read is noted, and the rest goes on.

use std::collections::BTreeSet;
use std::fmt::Debug;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::jiff::Timestamp;
use kube::api::ListParams;
use kube::core::NamespaceResourceScope;
use kube::{Api, Client, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;
use tenon_api::labels::{self, LabelKind};
use tenon_api::module_image::ImagePhase;
use tenon_api::node_pod;
use tenon_api::{Guarded, Module, ModuleImage, NodeModulesConfig};
use tenon_order::ModuleKey;

use super::{Seen, key, node_pods_selector};
use crate::cluster::is_silent;
use crate::failure::Failure;
use crate::standing::plugin_starting;

/// Objects per page.
const PAGE: u32 = 500;
/// Of so many single objects each is read by itself; of more, all are.
const MOST_SINGLE: usize = 16;
/// Nodes that are looked at to find out what a selector might have meant.
const MOST_OTHERS: u32 = 500;

/// Why there is nothing to tell.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SeenError {
    #[error("there is no Module {0}")]
    NoModule(ModuleKey),
    #[error("there is no node {0}")]
    NoNode(String),
    #[error("{what} cannot be read: {why}")]
    Unreadable { what: String, why: String },
    #[error("read {what}")]
    Read { what: String, source: Box<kube::Error> },
}

impl SeenError {
    pub(crate) fn into_failure(self) -> Failure {
        let (passing, code) = match &self {
            Self::Read { source, .. } => (is_silent(source), api_code(source)),
            _ => (false, None),
        };
        let hint = match (&self, code) {
            (Self::NoModule(key), _) => Some(format!(
                "kubectl tenon status -A shows all Modules; is {} its namespace?",
                key.namespace()
            )),
            (Self::NoNode(_), _) => Some("kubectl get nodes shows what there is".to_owned()),
            (Self::Read { .. }, Some(404)) => {
                Some("is Tenon installed there? kubectl apply -f deploy/crds brings its kinds".to_owned())
            }
            (Self::Read { .. }, Some(403)) => {
                Some("ask for the right to get and list it; nothing can be told without".to_owned())
            }
            _ => None,
        };
        Failure::new(self).hint(hint).passing(passing)
    }
}

/// The code of an answer that is an error.
fn api_code(error: &kube::Error) -> Option<u16> {
    match error {
        kube::Error::Api(status) => Some(status.code),
        _ => None,
    }
}

/// The label selector for what belongs to a Module.
pub(crate) fn of_module(name: &str) -> String {
    format!("{}={}", labels::MODULE_NAME, labels::value(name))
}

/// Reads a cluster, bit by bit.
pub(crate) struct Reader {
    client: Client,
    seen: Box<Seen>,
}

impl Reader {
    pub(crate) fn new(client: Client) -> Self {
        Self { client, seen: Box::new(Seen { now: Timestamp::now(), ..Seen::default() }) }
    }

    pub(crate) fn done(self) -> Seen {
        *self.seen
    }

    /// All Modules of a namespace or of all, with their images.
    pub(crate) async fn modules(
        &mut self,
        namespace: Option<&str>,
        selector: Option<&str>,
    ) -> Result<(), SeenError> {
        let modules = list(&api::<Module>(&self.client, namespace), selector, None).await;
        self.seen.modules = self.guarded(modules.map_err(failed("the Modules"))?);
        let images = list(&api::<ModuleImage>(&self.client, namespace), None, None).await;
        self.images(images)
    }

    /// One Module, with its images.
    pub(crate) async fn module(&mut self, key: &ModuleKey) -> Result<(), SeenError> {
        let what = format!("Module {key}");
        let modules: Api<Guarded<Module>> = Api::namespaced(self.client.clone(), key.namespace());
        let found = match modules.get_opt(key.name()).await {
            Ok(found) => found.ok_or_else(|| SeenError::NoModule(key.clone()))?,
            Err(source) => return Err(failed(&what)(source)),
        };
        let module = found.0.map_err(|unreadable| SeenError::Unreadable { what, why: unreadable.error })?;
        self.seen.modules = vec![module];
        let (api, label) = (api::<ModuleImage>(&self.client, Some(key.namespace())), of_module(key.name()));
        let images = list(&api, Some(&label), None).await;
        self.images(images)
    }

    /// The Modules of all namespaces for which this holds, with their images and Jobs.
    pub(crate) async fn modules_where(
        &mut self,
        concerns: impl Fn(&Seen, &Module) -> bool,
    ) -> Result<(), SeenError> {
        let modules = list(&api::<Module>(&self.client, None), None, None).await;
        let modules = self.allowed("Modules", "list them", modules)?.unwrap_or_default();
        let mut modules = self.guarded(modules);
        modules.retain(|module| concerns(&self.seen, module));
        let mut images = Vec::new();
        for module in &modules {
            let key = key(module);
            let listed = list(
                &api::<ModuleImage>(&self.client, Some(key.namespace())),
                Some(&of_module(key.name())),
                None,
            )
            .await;
            let listed = self.allowed("ModuleImages", "list them", listed)?.unwrap_or_default();
            images.extend(self.guarded(listed));
        }
        (self.seen.modules, self.seen.images) = (modules, images);
        Ok(())
    }

    fn images(&mut self, listed: Result<Vec<Guarded<ModuleImage>>, kube::Error>) -> Result<(), SeenError> {
        let images = self.allowed("ModuleImages", "list them", listed)?.unwrap_or_default();
        self.seen.images = self.guarded(images);
        Ok(())
    }

    /// The nodes that the Module selects, those that have it, and what all of them report.
    pub(crate) async fn nodes_of(&mut self, module: &Module) -> Result<(), SeenError> {
        let key = key(module);
        let wanted = module.spec.selector.iter().map(|(key, value)| format!("{key}={value}"));
        let selector = wanted.collect::<Vec<_>>().join(",");
        let nodes: Api<Node> = Api::all(self.client.clone());
        let selected = list(&nodes, Some(&selector), None).await;
        let selected = self.allowed("Nodes", "list them", selected)?;
        let knows_nodes = selected.is_some();
        self.add_nodes(selected.unwrap_or_default());

        let in_use = LabelKind::ModuleInUse.key(key.namespace(), key.name());
        let having = list(&self.configs(), Some(&in_use), None).await;
        let Some(having) = self.allowed("NodeModulesConfigs", "list them", having)? else { return Ok(()) };
        self.add_configs(having);
        self.missing_configs().await?;
        let left: Vec<_> =
            self.seen.configs.keys().filter(|name| !self.seen.nodes.contains_key(*name)).cloned().collect();
        // Of more than these, what their own objects say is enough.
        for name in left.iter().filter(|_| knows_nodes).take(MOST_SINGLE) {
            let node = nodes.get_opt(name).await;
            let node = self.allowed("Nodes", "get them", node)?.flatten();
            self.add_nodes(node.into_iter().collect());
        }
        if knows_nodes && self.seen.nodes.is_empty() {
            let others = nodes.list(&ListParams::default().limit(MOST_OTHERS)).await;
            self.seen.others =
                self.allowed("Nodes", "list them", others)?.map(|list| list.items).unwrap_or_default();
        }
        Ok(())
    }

    /// The objects of nodes that nothing was told.
    async fn missing_configs(&mut self) -> Result<(), SeenError> {
        let missing: BTreeSet<String> =
            self.seen.nodes.keys().filter(|name| !self.seen.configs.contains_key(*name)).cloned().collect();
        let api = self.configs();
        if missing.len() > MOST_SINGLE {
            let mut all = list(&api, None, None).await.map_err(failed("the NodeModulesConfigs"))?;
            all.retain(|config| missing.contains(&config.name_any()));
            self.add_configs(all);
            return Ok(());
        }
        for name in missing {
            let config = api.get_opt(&name).await;
            let config = self.allowed("NodeModulesConfigs", "get them", config)?.flatten();
            self.add_configs(config.into_iter().collect());
        }
        Ok(())
    }

    /// One node, with its object, and Tenon's own pod there.
    pub(crate) async fn node(&mut self, name: &str) -> Result<(), SeenError> {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let node = nodes.get_opt(name).await.map_err(failed(&format!("node {name}")))?;
        let node = node.ok_or_else(|| SeenError::NoNode(name.to_owned()))?;
        self.add_nodes(vec![node]);
        let config = self.configs().get_opt(name).await;
        let config = self.allowed("NodeModulesConfigs", "get them", config)?.flatten();
        self.add_configs(config.into_iter().collect());
        self.node_pods(Some(name)).await
    }

    /// Tenon's own pods on one node, or on all.
    pub(crate) async fn node_pods(&mut self, node: Option<&str>) -> Result<(), SeenError> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), node_pod::NAMESPACE);
        let on = node.map(|node| format!("spec.nodeName={node}"));
        let found = list(&pods, Some(&node_pods_selector()), on.as_deref()).await;
        self.seen.node_pods =
            self.allowed("Pods", &format!("list them in {}", node_pod::NAMESPACE), found)?;
        Ok(())
    }

    /// The Jobs that make the images of a Module, with their pods, if any of its images may have some.
    pub(crate) async fn jobs_of(&mut self, key: &ModuleKey) -> Result<(), SeenError> {
        let is_made = |image: &ModuleImage| {
            let status = image.status.as_ref();
            let is_there = status.is_some_and(|status| status.phase == Some(ImagePhase::Ready));
            !is_there
                || status.and_then(|status| status.making.as_ref()).is_some_and(|making| making.renewing)
        };
        if !self.seen.images.iter().any(is_made) {
            return Ok(());
        }
        let (of_module, namespace) = (of_module(key.name()), key.namespace());
        let jobs: Api<Job> = Api::namespaced(self.client.clone(), namespace);
        let jobs = list(&jobs, Some(&of_module), None).await;
        self.seen.jobs =
            self.allowed("Jobs", &format!("list them in {namespace}"), jobs)?.unwrap_or_default();
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let pods = list(&pods, Some(&of_module), None).await;
        self.seen.pods =
            self.allowed("Pods", &format!("list them in {namespace}"), pods)?.unwrap_or_default();
        Ok(())
    }

    /// The pods of a Module's plugin that is still to come, on one node or on all.
    pub(crate) async fn plugin_pods(&mut self, module: &Module, node: Option<&str>) -> Result<(), SeenError> {
        if plugin_starting(module).is_none() {
            return Ok(());
        }
        let key = key(module);
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), key.namespace());
        let selector = format!("{},!{}", of_module(key.name()), labels::RESOURCE_TYPE);
        let on = node.map(|node| format!("spec.nodeName={node}"));
        let found = list(&pods, Some(&selector), on.as_deref()).await;
        let found = self.allowed("Pods", &format!("list them in {}", key.namespace()), found)?;
        self.seen.plugin_pods.extend(found.map(|found| (key, found)));
        Ok(())
    }

    /// Whether Tenon's own pods may say why a node is silent.
    pub(crate) fn asks_for_node_pods(&self) -> bool {
        let answers = |name: &String| {
            let status = self.seen.configs.get(name).and_then(|config| config.status.as_ref());
            status.is_some_and(|status| {
                let mut conditions = status.conditions.iter();
                status.store_id.is_some() && !conditions.any(crate::standing::is_mute)
            })
        };
        !self.seen.nodes.keys().all(answers)
    }

    pub(crate) fn seen(&self) -> &Seen {
        &self.seen
    }

    fn configs(&self) -> Api<Guarded<NodeModulesConfig>> {
        Api::all(self.client.clone())
    }

    fn add_nodes(&mut self, nodes: Vec<Node>) {
        self.seen.nodes.extend(nodes.into_iter().map(|node| (node.name_any(), node)));
    }

    fn add_configs(&mut self, configs: Vec<Guarded<NodeModulesConfig>>) {
        let configs = self.guarded(configs);
        self.seen.configs.extend(configs.into_iter().map(|config| (config.name_any(), config)));
    }

    /// What can be read; the rest is noted.
    fn guarded<K>(&mut self, objects: Vec<Guarded<K>>) -> Vec<K>
    where
        K: Resource<DynamicType = ()>,
    {
        let mut good = Vec::with_capacity(objects.len());
        for object in objects {
            match object.0 {
                Ok(object) => good.push(object),
                Err(unreadable) => {
                    let name = unreadable.metadata.name.unwrap_or_default();
                    self.seen.gaps.push(format!(
                        "{} {name} cannot be read: {}",
                        K::kind(&()),
                        unreadable.error
                    ));
                }
            }
        }
        good
    }

    /// What was asked for; `None`, and a note, where that is not allowed.
    fn allowed<T>(
        &mut self,
        kind: &str,
        how: &str,
        read: Result<T, kube::Error>,
    ) -> Result<Option<T>, SeenError> {
        match read {
            Ok(found) => Ok(Some(found)),
            Err(error) if api_code(&error) == Some(403) => {
                let gap = format!("{kind} are left out: you may not {how}");
                if !self.seen.gaps.contains(&gap) {
                    self.seen.gaps.push(gap);
                }
                Ok(None)
            }
            Err(source) => Err(failed(&format!("the {kind}"))(source)),
        }
    }
}

/// The objects of a kind in one namespace, or in all.
pub(crate) fn api<K>(client: &Client, namespace: Option<&str>) -> Api<Guarded<K>>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

fn failed(what: &str) -> impl FnOnce(kube::Error) -> SeenError + use<> {
    let what = what.to_owned();
    move |source| SeenError::Read { what, source: Box::new(source) }
}

/// All objects, page by page.
async fn list<K>(api: &Api<K>, labels: Option<&str>, fields: Option<&str>) -> Result<Vec<K>, kube::Error>
where
    K: Clone + DeserializeOwned + Debug,
{
    let mut page = ListParams::default().limit(PAGE);
    page.label_selector = labels.filter(|labels| !labels.is_empty()).map(str::to_owned);
    page.field_selector = fields.map(str::to_owned);
    let mut objects = Vec::new();
    loop {
        let list = api.list(&page).await?;
        objects.extend(list.items);
        match list.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page = page.continue_token(&token),
            None => return Ok(objects),
        }
    }
}
