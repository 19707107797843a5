//! `kubectl tenon retry`: what failed is tried again, without a change of the Module.

use std::collections::BTreeSet;
use std::time::{SystemTime, UNIX_EPOCH};

use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, Client, ResourceExt as _};
use serde::Serialize;
use serde_json::json;
use tenon_api::Module;
use tenon_api::labels::{self, LabelKind, annotation};
use tenon_api::module_image::{ImagePhase, Making, ModuleImage};
use tenon_api::node_modules_config::NodeModulesConfig;
use tenon_order::{ModuleKey, NodeName};
use tenon_plan::retry::{Retry, has_failed};

use crate::answer::{self, AnswerError, Format};
use crate::cluster::{ClusterArgs, ClusterError, block_on, is_silent};
use crate::failure::Failure;

/// Nodes that are named one by one; where more have failed, all that fail are meant.
const MOST_NAMED: usize = 1000;
/// Objects per page.
const PAGE: u32 = 500;

const LONG_ABOUT: &str = "Try again what failed.

Content that did not load is not tried again by itself where that would be no use or a danger: content that was rolled \
back, or that is suspected of taking the node down. After the cause is gone (a cable, a full disk, a firmware setting), \
this has it tried once more, on the nodes that failed and on no other. What is loaded stays as it is.";

#[derive(Debug, clap::Args)]
#[command(long_about = LONG_ABOUT)]
pub(crate) struct Args {
    /// The Module
    module: String,
    /// Only on this node; may be given several times. Images that could not be made are made again in any case
    #[arg(long = "node", value_name = "NODE")]
    nodes: Vec<NodeName>,
    /// For programs
    #[arg(short, long, value_enum, value_name = "FORMAT")]
    output: Option<Format>,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Why nothing is tried again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RetryError {
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    #[error("there is no Module {0}")]
    NoModule(ModuleKey),
    #[error("read {what} of Module {module}")]
    Read { what: &'static str, module: ModuleKey, source: Box<kube::Error> },
    #[error("Module {module} has not failed on node {node}")]
    NotFailed { module: ModuleKey, node: NodeName },
    #[error(transparent)]
    Answer(#[from] AnswerError),
    #[error("annotate Module {module}")]
    Write { module: ModuleKey, source: Box<kube::Error> },
}

impl RetryError {
    pub(crate) fn into_failure(self) -> Failure {
        let passing = match &self {
            Self::Read { source, .. } | Self::Write { source, .. } => is_silent(source),
            _ => false,
        };
        let hint = match &self {
            Self::NoModule(_) => Some("name its namespace with -n".to_owned()),
            Self::NotFailed { node, .. } => Some(format!(
                "kubectl get nmc {node} shows what the node has; without --node, all that failed are meant"
            )),
            _ => None,
        };
        Failure::new(self).hint(hint).passing(passing)
    }
}

pub(crate) fn run(args: &Args) -> Result<(), RetryError> {
    let again = block_on(retry(args))??;
    let said = match args.output {
        Some(format) => answer::written(&again, format)?,
        None => format!("{}\n", again.sentences()),
    };
    Ok(answer::say(&said)?)
}

/// What is tried again.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Again {
    namespace: String,
    name: String,
    /// The nodes on which it is.
    nodes: BTreeSet<String>,
    /// The kernels for which its image is made again.
    kernels: Vec<String>,
}

impl Again {
    fn sentences(&self) -> String {
        let Self { namespace, name, nodes, kernels } = self;
        if nodes.is_empty() && kernels.is_empty() {
            return format!(
                "{namespace}/{name} has failed on no node and in no Job: there is nothing to try again"
            );
        }
        let trying = (!nodes.is_empty()).then(|| self.sentence());
        let making = (!kernels.is_empty())
            .then(|| format!("{namespace}/{name}: its image for {} is made again", kernels.join(", ")));
        trying.into_iter().chain(making).collect::<Vec<_>>().join("\n")
    }

    fn sentence(&self) -> String {
        const SHOWN: usize = 8;
        let Self { namespace, name, nodes, .. } = self;
        let names: Vec<_> = nodes.iter().take(SHOWN).map(String::as_str).collect();
        let more = if nodes.len() > SHOWN { ", …" } else { "" };
        let count = if nodes.len() == 1 { "1 node".to_owned() } else { format!("{} nodes", nodes.len()) };
        format!("{namespace}/{name} is tried again on {count}: {}{more}", names.join(", "))
    }
}

async fn retry(args: &Args) -> Result<Again, RetryError> {
    let (client, key) = args.cluster.connect(&args.module).await?;
    let modules: Api<Module> = Api::namespaced(client.clone(), key.namespace());
    let read = |what| {
        let module = key.clone();
        move |source| RetryError::Read { what, module, source: Box::new(source) }
    };
    let module = modules.get_opt(&args.module).await.map_err(read("the object"))?;
    let module = module.ok_or_else(|| RetryError::NoModule(key.clone()))?;
    let failed = failed(&client, &key).await.map_err(read("the nodes"))?;
    let nodes = chosen(&key, &failed, &args.nodes)?;
    let kernels = unmade(&client, &key).await.map_err(read("the images"))?;
    let again = Again {
        namespace: key.namespace().to_owned(),
        name: key.name().to_owned(),
        nodes: nodes.iter().map(ToString::to_string).collect(),
        kernels,
    };
    if again.nodes.is_empty() && again.kernels.is_empty() {
        return Ok(again);
    }
    let named = if nodes.len() > MOST_NAMED { BTreeSet::new() } else { nodes };
    let text = Retry::text(number(&module), &named);
    let patch = json!({ "metadata": { "uid": module.uid(), "annotations": { annotation::RETRY: text } } });
    let params = PatchParams { field_manager: Some("kubectl-tenon".to_owned()), ..PatchParams::default() };
    let written = modules.patch_metadata(&args.module, &params, &Patch::Merge(&patch)).await;
    written.map_err(|source| RetryError::Write { module: key.clone(), source: Box::new(source) })?;
    Ok(again)
}

/// The kernels whose images could not be made.
async fn unmade(client: &Client, key: &ModuleKey) -> Result<Vec<String>, kube::Error> {
    let images: Api<ModuleImage> = Api::namespaced(client.clone(), key.namespace());
    let of_module = format!("{}={}", labels::MODULE_NAME, labels::value(key.name()));
    let list = images.list(&ListParams::default().labels(&of_module)).await?;
    let has_failed = |image: &&ModuleImage| {
        let Some(status) = &image.status else { return false };
        let unmade = |making: &&Making| making.renewing || status.phase != Some(ImagePhase::Ready);
        status.making.as_ref().filter(unmade).is_some_and(|making| making.failures > 0)
    };
    Ok(list.items.iter().filter(has_failed).map(|image| image.spec.kernel.clone()).collect())
}

/// The nodes on which the Module has failed.
async fn failed(client: &Client, key: &ModuleKey) -> Result<BTreeSet<NodeName>, kube::Error> {
    let configs: Api<NodeModulesConfig> = Api::all(client.clone());
    let label = LabelKind::ModuleInUse.key(key.namespace(), key.name());
    let mut page = ListParams::default().labels(&label).limit(PAGE);
    let mut nodes = BTreeSet::new();
    loop {
        let list = configs.list(&page).await?;
        nodes.extend(list.items.iter().filter(|config| has_failed_on(config, key)).filter_map(name));
        match list.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page = page.continue_token(&token),
            None => return Ok(nodes),
        }
    }
}

fn name(config: &NodeModulesConfig) -> Option<NodeName> {
    config.metadata.name.as_deref()?.parse().ok()
}

fn has_failed_on(config: &NodeModulesConfig, key: &ModuleKey) -> bool {
    let mut reported = config.status.iter().flat_map(|status| &status.modules);
    reported
        .any(|module| module.namespace == key.namespace() && module.name == key.name() && has_failed(module))
}

/// Of the nodes that have failed, those that are meant.
fn chosen(
    key: &ModuleKey,
    failed: &BTreeSet<NodeName>,
    wanted: &[NodeName],
) -> Result<BTreeSet<NodeName>, RetryError> {
    if let Some(node) = wanted.iter().find(|node| !failed.contains(*node)) {
        return Err(RetryError::NotFailed { module: key.clone(), node: node.clone() });
    }
    Ok(if wanted.is_empty() { failed.clone() } else { wanted.iter().cloned().collect() })
}

/// A number that is higher than the last one, whatever this machine's clock says.
fn number(module: &Module) -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    let last = module.annotations().get(annotation::RETRY);
    let last = last.and_then(|text| text.split_whitespace().next()?.parse::<i64>().ok()).unwrap_or_default();
    i64::try_from(now).unwrap_or_default().max(last.saturating_add(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> BTreeSet<NodeName> {
        text.split_whitespace().map(|name| name.parse().unwrap()).collect()
    }

    #[test]
    fn only_nodes_that_failed_are_tried_again() {
        let key: ModuleKey = "hall/gauge".parse().unwrap();
        let failed = names("elm oak");
        assert_eq!(chosen(&key, &failed, &[]).unwrap(), failed);
        assert_eq!(chosen(&key, &failed, &["oak".parse().unwrap()]).unwrap(), names("oak"));
        let refused = chosen(&key, &failed, &["fir".parse().unwrap()]).unwrap_err();
        assert_eq!(refused.to_string(), "Module hall/gauge has not failed on node fir");
    }

    #[test]
    fn what_is_tried_again_is_said_to_people_and_to_programs() {
        let again = |nodes: &[&str], kernels: &[&str]| Again {
            namespace: "hall".to_owned(),
            name: "gauge".to_owned(),
            nodes: nodes.iter().map(|node| (*node).to_owned()).collect(),
            kernels: kernels.iter().map(|kernel| (*kernel).to_owned()).collect(),
        };
        assert!(again(&[], &[]).sentences().ends_with("there is nothing to try again"));
        let both = again(&["elm", "oak"], &["6.1.0"]);
        let expected =
            "hall/gauge is tried again on 2 nodes: elm, oak\nhall/gauge: its image for 6.1.0 is made again";
        assert_eq!(both.sentences(), expected);
        let expected =
            json!({ "namespace": "hall", "name": "gauge", "nodes": ["elm", "oak"], "kernels": ["6.1.0"] });
        assert_eq!(serde_json::to_value(&both).unwrap(), expected);
    }

    #[test]
    fn the_number_grows_even_when_the_clock_has_gone_back() {
        let mut module = Module::new("gauge", tenon_api::ModuleSpec::default());
        let future = i64::MAX - 9;
        module.annotations_mut().insert(annotation::RETRY.to_owned(), format!("{future} oak"));
        assert_eq!(number(&module), future + 1);
        module.annotations_mut().insert(annotation::RETRY.to_owned(), "yesterday".to_owned());
        assert!(number(&module) > 1_700_000_000_000);
    }
}
