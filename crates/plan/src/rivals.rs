//! Modules that are in each other's way on a node: both load one kernel module, or one removes what the other loads.
//!
//! The nodes' loaders see to it that nothing breaks: what is loaded for one Module is neither replaced nor removed for
//! another, which fails there and says why. Here is told of it beforehand, and to both, by name.

use std::collections::{BTreeMap, BTreeSet};

use tenon_api::Module;
use tenon_api::module::Modprobe;
use tenon_order::{KmodName, NodeName};

use crate::node::{self, NodeFacts, Selection};
use crate::resolve::{Resolved, resolve};

/// Another Module, and the nodes that both of them bear on.
#[derive(Debug)]
pub struct Rival<'a> {
    /// The other Module.
    pub module: &'a Module,
    /// The nodes.
    pub nodes: Vec<&'a NodeFacts>,
}

/// What a Module may do to kernel modules on some node, as far as its text says: cheap, and rather too much than too
/// little.
#[derive(Debug, Default)]
pub struct Claims {
    loads: BTreeSet<String>,
    removes: BTreeSet<String>,
}

impl Claims {
    /// Those of a Module.
    pub fn of(module: &Module) -> Self {
        let mut claims = Self::default();
        let Some(loader) = &module.spec.module_loader else { return claims };
        let container = &loader.container;
        claims.loads.extend(names_loaded(&container.modprobe).map(spelled_by_kernel));
        let lists =
            std::iter::once((&container.in_tree_modules_to_remove, &container.in_tree_module_to_remove))
                .chain(
                    container.kernel_mappings.iter().map(|mapping| {
                        (&mapping.in_tree_modules_to_remove, &mapping.in_tree_module_to_remove)
                    }),
                );
        for (list, single) in lists {
            let names = list.iter().flatten().chain(single);
            claims.removes.extend(names.map(spelled_by_kernel));
        }
        claims
    }

    /// Whether two Modules may be in each other's way.
    pub fn touch(&self, other: &Self) -> bool {
        !self.loads.is_disjoint(&other.loads)
            || !self.loads.is_disjoint(&other.removes)
            || !self.removes.is_disjoint(&other.loads)
    }
}

fn names_loaded(modprobe: &Modprobe) -> impl Iterator<Item = &String> {
    let raw = modprobe.raw_args.iter().flat_map(|raw| raw.load.iter().flatten());
    modprobe.module_name.iter().chain(&modprobe.modules_loading_order).chain(raw)
}

fn spelled_by_kernel(name: impl AsRef<str>) -> String {
    name.as_ref().replace('-', "_")
}

/// How two Modules are in each other's way for one kernel.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Clash {
    BothLoad(String),
    /// The other removes what this one loads.
    IsRemoved(String),
    /// This one removes what the other loads.
    Removes(String),
}

fn clash(own: &Resolved, other: &Resolved) -> Option<Clash> {
    let first = |one: &BTreeSet<String>, other: &BTreeSet<String>| one.intersection(other).next().cloned();
    // The same build with the same parameters is loaded once, for both.
    let is_shared = own.image == other.image && own.load.parameters == other.load.parameters;
    let (own_loads, other_loads) = (loaded(own), loaded(other));
    let both = first(&own_loads, &other_loads).filter(|_| !is_shared).map(Clash::BothLoad);
    both.or_else(|| first(&own_loads, &replaced(other)).map(Clash::IsRemoved))
        .or_else(|| first(&replaced(own), &other_loads).map(Clash::Removes))
}

fn loaded(resolved: &Resolved) -> BTreeSet<String> {
    let load = &resolved.load;
    load.loading_order.iter().chain([&load.module]).map(KmodName::kernel_name).collect()
}

/// What must make room, other than for a module of its own name.
fn replaced(resolved: &Resolved) -> BTreeSet<String> {
    let names = resolved.load.in_tree_to_remove.iter().map(KmodName::kernel_name);
    let loaded = loaded(resolved);
    names.filter(|name| !loaded.contains(name)).collect()
}

/// In a sentence, if any of the others is in this Module's way.
pub fn conflict(module: &Module, rivals: &[Rival<'_>]) -> Option<String> {
    let is_deleted = |module: &Module| module.metadata.deletion_timestamp.is_some();
    if is_deleted(module) {
        return None;
    }
    let mut clashes: BTreeMap<(String, Clash), BTreeSet<&NodeName>> = BTreeMap::new();
    for rival in rivals.iter().filter(|rival| !is_deleted(rival.module)) {
        let mut by_kernel: BTreeMap<&str, Option<Clash>> = BTreeMap::new();
        let selected = |facts: &&&NodeFacts| {
            [module, rival.module].iter().all(|module| node::select(module, facts) == Selection::Selected)
        };
        for facts in rival.nodes.iter().filter(selected) {
            let found = by_kernel.entry(facts.kernel.as_str()).or_insert_with(|| {
                let own = resolve(module, &facts.kernel).ok()?;
                clash(&own, &resolve(rival.module, &facts.kernel).ok()?)
            });
            if let Some(found) = found {
                clashes.entry((name_of(rival.module), found.clone())).or_default().insert(&facts.name);
            }
        }
    }
    let more = clashes.len().saturating_sub(1);
    let ((other, clash), nodes) = clashes.into_iter().next()?;
    let place = match nodes.first() {
        Some(first) if nodes.len() == 1 => format!("on node {first}"),
        Some(first) => format!("on {} nodes ({first} and others)", nodes.len()),
        None => return None,
    };
    let sentence = match clash {
        Clash::BothLoad(name) => format!(
            "Module {other} loads kernel module {name}, too, {place}, from another image or with other parameters: \
             whichever is there stays, and the other is not loaded. Let one of them load it, or select other nodes"
        ),
        Clash::IsRemoved(name) => format!(
            "inTreeModulesToRemove of Module {other} names {name}, which this Module loads, {place}: what is loaded for \
             one Module is not removed for another. Take it out of that list, or select other nodes"
        ),
        Clash::Removes(name) => format!(
            "inTreeModulesToRemove names {name}, which Module {other} loads, {place}: what is loaded for one Module is \
             not removed for another. Take it out of the list, or select other nodes"
        ),
    };
    let more = if more == 0 { String::new() } else { format!(" (and {more} more such conflicts)") };
    Some(sentence + &more)
}

fn name_of(module: &Module) -> String {
    let part = |part: &Option<String>| part.clone().unwrap_or_default();
    format!("{}/{}", part(&module.metadata.namespace), part(&module.metadata.name))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::fixture::{module, node};

    fn named(name: &str, rest: &str) -> Module {
        let mut module = module(&format!("kernelMappings: [{{regexp: '.'}}]\n{rest}"));
        module.metadata.name = Some(name.to_owned());
        module
    }

    const GAUGE: &str = "modprobe: {moduleName: gauge-core}\ncontainerImage: 'a:1'";

    #[rstest]
    #[case(
        "modprobe: {moduleName: gauge_core}\ncontainerImage: 'b:1'",
        "loads kernel module gauge_core, too",
        "loads kernel module gauge_core, too"
    )]
    #[case(
        "modprobe: {moduleName: gauge_core, parameters: [a=1]}\ncontainerImage: 'a:1'",
        "loads kernel module gauge_core",
        "loads kernel module gauge_core"
    )]
    #[case(
        "modprobe: {moduleName: top, modulesLoadingOrder: [top, gauge_core]}\ncontainerImage: 'b:1'",
        "gauge_core, too",
        "gauge_core, too"
    )]
    #[case(
        "modprobe: {moduleName: top}\ncontainerImage: 'b:1'\ninTreeModulesToRemove: [gauge_core]",
        "inTreeModulesToRemove of Module lab/other names gauge_core, which this Module loads",
        "inTreeModulesToRemove names gauge_core, which Module lab/gauge loads"
    )]
    fn both_are_told_of_each_other(#[case] other: &str, #[case] one_says: &str, #[case] other_says: &str) {
        let (one, other) = (named("gauge", GAUGE), named("other", other));
        assert!(Claims::of(&one).touch(&Claims::of(&other)) && Claims::of(&other).touch(&Claims::of(&one)));
        let here = [node("n1"), node("n2")];
        let told = |module, rival| {
            conflict(module, &[Rival { module: rival, nodes: here.iter().collect() }]).unwrap()
        };
        let (own, its) = (told(&one, &other), told(&other, &one));
        assert!(own.contains(one_says) && own.contains("lab/other") && own.contains("2 nodes (n1"), "{own}");
        assert!(its.contains(other_says) && its.contains("lab/gauge"), "{its}");
    }

    #[rstest]
    #[case::another_module("modprobe: {moduleName: top}\ncontainerImage: 'b:1'")]
    #[case::the_same_build("modprobe: {moduleName: gauge-core}\ncontainerImage: 'a:1'")]
    fn who_is_in_nobodys_way_is_told_nothing(#[case] other: &str) {
        let (one, mut other) = (named("gauge", GAUGE), named("other", other));
        let here = node("n1");
        let told = |other: &Module| conflict(&one, &[Rival { module: other, nodes: vec![&here] }]);
        assert_eq!(told(&other), None);
        other.spec.module_loader = None;
        assert_eq!(told(&other), None);
    }

    #[test]
    fn on_nodes_that_only_one_of_them_is_for_there_is_no_conflict() {
        let (one, mut other) = (named("gauge", GAUGE), named("other", GAUGE));
        other.spec.module_loader.as_mut().unwrap().container.container_image = Some("b:1".to_owned());
        let here = node("n1");
        let told = |other: &Module| conflict(&one, &[Rival { module: other, nodes: vec![&here] }]);
        assert!(told(&other).is_some_and(|told| told.contains("on node n1")));
        other.spec.selector = [("hall".to_owned(), "b".to_owned())].into();
        assert_eq!(told(&other), None);
    }
}
