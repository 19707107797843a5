//! A Module and all that bears on it, out of the index.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use tenon_api::Module;
use tenon_api::module_image::ModuleImage;
use tenon_api::node_modules_config::NodeModulesConfig;
use tenon_order::{ModuleKey, NodeName};
use tenon_plan::assign::Waiting;
use tenon_plan::node::NodeFacts;
use tenon_plan::rivals::Rival;
use tenon_plan::rollup::{NodeView, Observed};
use tenon_plan::workload::Problem;

use crate::world::Index;

/// A Module and its nodes, held on to while they are summed up.
#[derive(Debug)]
pub struct Rollup {
    /// The Module.
    pub module: Arc<Module>,
    nodes: Vec<(Arc<NodeFacts>, Option<Arc<NodeModulesConfig>>)>,
    images: Vec<Arc<ModuleImage>>,
    plugin_problem: Option<Problem>,
    leaving: BTreeMap<NodeName, Waiting>,
    rivals: Vec<(Arc<Module>, Vec<Arc<NodeFacts>>)>,
}

impl Rollup {
    /// `None` when there is no such Module, or not all of it has been looked at: whoever does so has it summed up.
    pub fn of(index: &Index, key: &ModuleKey) -> Option<Self> {
        if !index.is_looked_at(key) {
            return None;
        }
        let node = |name| Some((index.node(name)?.clone(), index.config(name).cloned()));
        let module = index.module(key)?.clone();
        Some(Self {
            rivals: rivals(index, key),
            module,
            nodes: index.nodes_of(key).filter_map(node).collect(),
            images: index.images_of(key).cloned().collect(),
            plugin_problem: index.plugin_problem(key).cloned(),
            leaving: index.leaving(key).map(|(node, waiting)| (node.clone(), waiting.clone())).collect(),
        })
    }

    /// The same, as the decision takes it. `now` is in milliseconds since 1970; statuses keep whole seconds.
    pub fn view(&self, now: u64) -> Observed<'_> {
        let second = i64::try_from(now / 1000).unwrap_or_default();
        Observed {
            module: &self.module,
            nodes: self
                .nodes
                .iter()
                .map(|(facts, config)| NodeView { facts, config: config.as_deref() })
                .collect(),
            images: self.images.iter().map(AsRef::as_ref).collect(),
            plugin_problem: self.plugin_problem.as_ref(),
            leaving: self.leaving.iter().collect(),
            rivals: self
                .rivals
                .iter()
                .map(|(module, nodes)| Rival { module, nodes: nodes.iter().map(AsRef::as_ref).collect() })
                .collect(),
            now: Time(Timestamp::from_second(second).unwrap_or_default()),
        }
    }
}

/// Modules that may be in this one's way, with the nodes of both.
fn rivals(index: &Index, key: &ModuleKey) -> Vec<(Arc<Module>, Vec<Arc<NodeFacts>>)> {
    let with_nodes = index.modules_touching(key).filter_map(|other| {
        let both = index.nodes_of(key).filter(|node| index.modules_of(node).any(|module| module == other));
        let nodes: Vec<_> = both.filter_map(|node| index.node(node).cloned()).collect();
        (!nodes.is_empty()).then_some((index.module(other)?.clone(), nodes))
    });
    with_nodes.collect()
}
