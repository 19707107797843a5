//! A Module, its images, and the kernels that it may need some for, out of the index.

use std::collections::BTreeMap;
use std::sync::Arc;

use tenon_api::Module;
use tenon_api::module_image::ModuleImage;
use tenon_order::ModuleKey;
use tenon_plan::node::{Selection, select};
use tenon_plan::provision::{Need, Target};

use crate::preflight;
use crate::world::Index;

/// A Module and what it may need images for.
#[derive(Debug)]
pub struct Provision {
    /// The Module.
    pub module: Arc<Module>,
    /// The kernels of its nodes, and those that preflights ask about.
    pub targets: BTreeMap<Target, Need>,
    /// The images that it has.
    pub images: Vec<Arc<ModuleImage>>,
}

impl Provision {
    /// `None` when there is no such Module.
    pub fn of(index: &Index, key: &ModuleKey) -> Option<Self> {
        let module = index.module(key)?.clone();
        // A node that repels new modules may have this one, and a label or taint may go at any time: its image is
        // kept at hand.
        let wanted = |selection: &Selection| !matches!(selection, Selection::Unselected);
        let of_nodes = index
            .nodes_of(key)
            .filter_map(|name| index.node(name))
            .filter(|facts| wanted(&select(&module, facts)))
            .map(|facts| Target { kernel: facts.kernel.clone(), architecture: facts.architecture.clone() })
            .map(|target| (target, Need::Node));
        let mut targets = preflight::wants(index, key, &module);
        targets.extend(of_nodes);
        Some(Self { images: index.images_of(key).cloned().collect(), targets, module })
    }
}
