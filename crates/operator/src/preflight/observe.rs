//! A PreflightValidation and all that it is about, out of the index.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use tenon_api::{Module, ModuleImage, PreflightValidation};
use tenon_order::ModuleKey;
use tenon_plan::node::{Selection, select};
use tenon_plan::preflight::{self, View};
use tenon_plan::provision::{Need, Target};

use crate::world::Index;

/// A PreflightValidation, and the Modules that it is about.
#[derive(Debug)]
pub struct Preflight {
    /// The object.
    pub preflight: Arc<PreflightValidation>,
    modules: Vec<Known>,
}

/// What is known of one Module.
#[derive(Debug)]
struct Known {
    module: Arc<Module>,
    images: Vec<Arc<ModuleImage>>,
    architectures: BTreeSet<String>,
}

impl Preflight {
    /// `None` when there is no such object, or it is going.
    pub fn of(index: &Index, name: &str) -> Option<Self> {
        let preflight = index.preflight(name).filter(|preflight| preflight::is_live(preflight))?.clone();
        let known = |module: &Arc<Module>| {
            let key = Index::key_of(module)?;
            Some(Known {
                images: index.images_of(&key).cloned().collect(),
                architectures: architectures(index, &key, module, &preflight),
                module: module.clone(),
            })
        };
        let modules = index.modules().filter_map(known).collect();
        Some(Self { preflight, modules })
    }

    /// The same, as the decision takes it.
    pub fn views(&self) -> Vec<View<'_>> {
        self.modules.iter().map(Known::view).collect()
    }
}

impl Known {
    fn view(&self) -> View<'_> {
        View {
            module: &self.module,
            images: self.images.iter().map(AsRef::as_ref).collect(),
            architectures: self.architectures.clone(),
        }
    }
}

/// The kernels for which preflights want an image of a Module, and why.
pub fn wants(index: &Index, key: &ModuleKey, module: &Module) -> BTreeMap<Target, Need> {
    let mut wanted = BTreeMap::new();
    for preflight in index.preflights() {
        for (target, need) in preflight::targets(preflight, architectures(index, key, module, preflight)) {
            let known = wanted.entry(target).or_insert(need);
            *known = need.max(*known);
        }
    }
    wanted
}

fn architectures(
    index: &Index,
    key: &ModuleKey,
    module: &Module,
    preflight: &PreflightValidation,
) -> BTreeSet<String> {
    let is_selected = |selection: &Selection| !matches!(selection, Selection::Unselected);
    let selected = index
        .nodes_of(key)
        .filter_map(|name| index.node(name))
        .filter(|facts| is_selected(&select(module, facts)))
        .map(|facts| facts.architecture.clone());
    preflight::architectures(preflight, selected, index.architectures())
}

/// A time as statuses hold it: whole seconds. `now` is in milliseconds since 1970.
pub(super) fn time(now: u64) -> Time {
    let second = i64::try_from(now / 1000).unwrap_or_default();
    Time(Timestamp::from_second(second).unwrap_or_default())
}
