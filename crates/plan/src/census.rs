//! The cluster as numbers, for whoever watches over it: how each node stands with each Module, and what Modules ask for.
//!
//! Nobody is told by these what to do; alerts are. So everything here is one of a few words, however large the cluster.

use tenon_api::module::ModprobeArgs;
use tenon_api::node_modules_config::{ModulePhase, NodeModuleStatus};
use tenon_api::{Module, reasons};

use crate::assign::is_loaded;
use crate::node::{self, Selection};
use crate::pause::Pause;
use crate::resolve::{ResolveError, resolve};
use crate::rollout;
use crate::rollup::NodeView;

/// How a node stands with a Module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Standing {
    /// It has what it was told to have.
    Loaded,
    /// It should have the Module, and is told nothing yet: an image, a turn or a version label is missing.
    Waiting,
    /// It should have the Module, and its agent has never registered.
    Unregistered,
    /// It is one of the Module's nodes, and no kernel mapping fits: there is nothing for it, which may be meant.
    NoMapping,
    /// It was told what to have, and has said nothing of it yet.
    Ordered,
    /// It fetches the files.
    Fetching,
    /// The kernel or the loader refused it.
    Failed,
    /// What it was told to have failed, and it has the former content.
    RolledBack,
    /// It is not tried any more: the node went down just after loading it.
    CrashSuspected,
    /// It is loaded, and what must be there after the load is waited for.
    Validating,
    /// It is loaded, and what must be there after the load has not come in time.
    Unvalidated,
    /// It should change or go, and is in use.
    InUse,
    /// It is to go.
    Leaving,
    /// It is loaded, and nobody wishes it or orders its removal.
    Orphaned,
}

impl Standing {
    /// Each of them.
    pub const ALL: [Self; 14] = [
        Self::Loaded,
        Self::Waiting,
        Self::Unregistered,
        Self::NoMapping,
        Self::Ordered,
        Self::Fetching,
        Self::Failed,
        Self::RolledBack,
        Self::CrashSuspected,
        Self::Validating,
        Self::Unvalidated,
        Self::InUse,
        Self::Leaving,
        Self::Orphaned,
    ];

    /// As a label says it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Loaded => "loaded",
            Self::Waiting => "waiting",
            Self::Unregistered => "unregistered",
            Self::NoMapping => "no-mapping",
            Self::Ordered => "ordered",
            Self::Fetching => "fetching",
            Self::Failed => "failed",
            Self::RolledBack => "rolled-back",
            Self::CrashSuspected => "crash-suspected",
            Self::Validating => "validating",
            Self::Unvalidated => "unvalidated",
            Self::InUse => "in-use",
            Self::Leaving => "leaving",
            Self::Orphaned => "orphaned",
        }
    }

    /// Whether the node should have the driver and has none of it.
    pub const fn is_without(self) -> bool {
        match self {
            Self::Waiting
            | Self::Unregistered
            | Self::Ordered
            | Self::Fetching
            | Self::Failed
            | Self::CrashSuspected => true,
            Self::Loaded
            | Self::NoMapping
            | Self::RolledBack
            | Self::Validating
            | Self::Unvalidated
            | Self::InUse
            | Self::Leaving
            | Self::Orphaned => false,
        }
    }

    /// Whether the node's agent owes an answer: a healthy one gives it within moments.
    pub const fn is_silent(self) -> bool {
        matches!(self, Self::Unregistered | Self::Ordered)
    }
}

/// How the node stands with the Module; `None` when they have nothing to do with each other.
pub fn standing(module: &Module, view: &NodeView<'_>) -> Option<Standing> {
    let (entry, reported) = (view.entry(module), view.reported(module));
    let Some(entry) = entry else {
        let untold = untold(module, view);
        return match reported.and_then(|reported| reported.phase) {
            _ if untold.is_some_and(Standing::is_without) => untold,
            None | Some(ModulePhase::Removed) => untold,
            Some(ModulePhase::Orphaned) => Some(Standing::Orphaned),
            Some(ModulePhase::InUse) => Some(Standing::InUse),
            Some(_) => Some(Standing::Leaving),
        };
    };
    if is_loaded(entry, view.status(), view.facts) {
        return Some(Standing::Loaded);
    }
    if !view.is_registered() {
        return Some(Standing::Unregistered);
    }
    let answer = reported.filter(|_| rollout::answers(entry, view.status()));
    Some(match answer.and_then(|answer| answer.phase) {
        Some(ModulePhase::Failed | ModulePhase::Unknown) => Standing::Failed,
        Some(ModulePhase::RolledBack) => Standing::RolledBack,
        Some(ModulePhase::CrashSuspected) => Standing::CrashSuspected,
        Some(ModulePhase::Unvalidated) if is_too_late(answer) => Standing::Unvalidated,
        Some(ModulePhase::Unvalidated) => Standing::Validating,
        Some(ModulePhase::InUse) => Standing::InUse,
        Some(ModulePhase::WaitingForBundle) => Standing::Fetching,
        // Of another content, or another boot.
        Some(ModulePhase::Loaded | ModulePhase::Removed | ModulePhase::Orphaned) | None => Standing::Ordered,
    })
}

/// Whether the time is over for what must be there after the load: a Module may leave it an hour.
fn is_too_late(reported: Option<&NodeModuleStatus>) -> bool {
    reported.and_then(|reported| reported.reason.as_deref()) == Some(reasons::VALIDATION_FAILED)
}

/// How a node stands that is one of the Module's and is told nothing of it.
fn untold(module: &Module, view: &NodeView<'_>) -> Option<Standing> {
    let is_meant = module.spec.module_loader.is_some()
        && module.metadata.deletion_timestamp.is_none()
        && node::select(module, view.facts) == Selection::Selected
        // What is told to stand still waits for a person, who knows.
        && Pause::of(module, view.facts).is_none();
    is_meant.then(|| match resolve(module, &view.facts.kernel) {
        Err(ResolveError::NoMapping(_)) => Standing::NoMapping,
        _ if view.is_registered() => Standing::Waiting,
        _ => Standing::Unregistered,
    })
}

/// Whether some kernel's image of the Module may be built in the cluster.
pub fn is_built(module: &Module) -> bool {
    let Some(loader) = &module.spec.module_loader else { return false };
    let container = &loader.container;
    container.build.is_some() || container.kernel_mappings.iter().any(|mapping| mapping.build.is_some())
}

/// Whether some kernel's image of the Module may be signed in the cluster.
pub fn is_signed(module: &Module) -> bool {
    let Some(loader) = &module.spec.module_loader else { return false };
    let container = &loader.container;
    container.sign.is_some() || container.kernel_mappings.iter().any(|mapping| mapping.sign.is_some())
}

/// The most bytes of one value of a label.
const MOST_ARGUMENTS: usize = 512;

/// The Module's `modprobe.args`, those to load before those to unload, with commas, as KMM joins them.
pub fn arguments(module: &Module) -> Option<String> {
    module.spec.module_loader.as_ref()?.container.modprobe.args.as_ref().map(joined)
}

/// The Module's `modprobe.rawArgs`, joined likewise.
pub fn raw_arguments(module: &Module) -> Option<String> {
    module.spec.module_loader.as_ref()?.container.modprobe.raw_args.as_ref().map(joined)
}

fn joined(args: &ModprobeArgs) -> String {
    let all: Vec<_> = args.load.iter().chain(&args.unload).flatten().map(String::as_str).collect();
    let mut joined = all.join(",");
    joined.truncate(joined.floor_char_boundary(MOST_ARGUMENTS));
    joined
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use tenon_api::node_modules_config::NodeModulesConfig;

    use super::*;
    use crate::fixture::{KERNEL, Play, minimal_module, module, node};

    fn seen(module: &Module, config: Option<&NodeModulesConfig>) -> Option<Standing> {
        standing(module, &NodeView { facts: &node("n1"), config })
    }

    #[test]
    fn a_node_goes_from_unregistered_to_loaded() {
        let wish = minimal_module();
        assert_eq!(seen(&wish, None), Some(Standing::Unregistered));
        let mut play = Play::registered();
        assert_eq!(seen(&wish, play.config.as_ref()), Some(Standing::Waiting));
        play.decide_and_apply();
        assert_eq!(seen(&wish, play.config.as_ref()), Some(Standing::Ordered));
        play.obey();
        assert_eq!(seen(&wish, play.config.as_ref()), Some(Standing::Loaded));
    }

    #[rstest]
    #[case(ModulePhase::Failed, Standing::Failed, true)]
    #[case(ModulePhase::Unknown, Standing::Failed, true)]
    #[case(ModulePhase::RolledBack, Standing::RolledBack, false)]
    #[case(ModulePhase::CrashSuspected, Standing::CrashSuspected, true)]
    #[case(ModulePhase::Unvalidated, Standing::Validating, false)]
    #[case(ModulePhase::InUse, Standing::InUse, false)]
    #[case(ModulePhase::WaitingForBundle, Standing::Fetching, true)]
    fn what_the_node_says_is_its_standing(
        #[case] phase: ModulePhase,
        #[case] expected: Standing,
        #[case] without: bool,
    ) {
        let mut play = Play::registered();
        play.decide_and_apply();
        play.obey();
        let status = play.config.as_mut().and_then(|config| config.status.as_mut()).unwrap();
        status.modules.first_mut().unwrap().phase = Some(phase);
        let standing = seen(&minimal_module(), play.config.as_ref());
        assert_eq!(standing, Some(expected));
        assert_eq!(expected.is_without(), without);
    }

    #[rstest]
    #[case(reasons::VALIDATING, Standing::Validating)]
    #[case(reasons::VALIDATION_FAILED, Standing::Unvalidated)]
    fn what_is_still_waited_for_has_not_failed(#[case] reason: &str, #[case] expected: Standing) {
        let mut play = Play::registered();
        play.decide_and_apply();
        play.answer(ModulePhase::Unvalidated);
        play.status().modules.first_mut().unwrap().reason = Some(reason.to_owned());
        assert_eq!(seen(&minimal_module(), play.config.as_ref()), Some(expected));
        assert!(!expected.is_without() && !expected.is_silent());
    }

    #[test]
    fn a_node_that_booted_owes_an_answer() {
        let mut play = Play::registered();
        play.decide_and_apply();
        play.obey();
        let mut facts = node("n1");
        facts.boot_id = "boot-2".to_owned();
        let view = NodeView { facts: &facts, config: play.config.as_ref() };
        assert_eq!(standing(&minimal_module(), &view), Some(Standing::Ordered));
    }

    #[test]
    fn a_node_that_is_not_selected_has_no_standing_until_it_has_something_of_the_module() {
        let mut other = minimal_module();
        other.spec.selector = [("hall".to_owned(), "b".to_owned())].into();
        assert_eq!(seen(&other, None), None);
        let mut play = Play::registered();
        play.decide_and_apply();
        play.obey();
        let mut config = play.config.unwrap();
        config.spec.modules.clear();
        assert_eq!(seen(&other, Some(&config)), Some(Standing::Leaving));
    }

    /// A selector may be wider than the mappings: such a node is not without anything that it should have.
    #[test]
    fn a_node_whose_kernel_no_mapping_fits_is_in_a_phase_of_its_own_once_nothing_is_left() {
        let mut play = Play::registered();
        play.module = Some(module(&format!(
            "modprobe: {{moduleName: gauge}}\nkernelMappings: [{{literal: {KERNEL}, containerImage: 'registry.test/gauge:{KERNEL}'}}]"
        )));
        play.settle();
        let wish = play.module.clone().unwrap();
        let standing_of =
            |play: &Play| standing(&wish, &NodeView { facts: &play.node, config: play.config.as_ref() });
        assert_eq!(standing_of(&play), Some(Standing::Loaded));
        (play.node.kernel, play.node.boot_id) = ("7.2.0".parse().unwrap(), "boot-2".to_owned());
        play.decide_and_apply();
        assert_eq!(standing_of(&play), Some(Standing::Leaving), "until the node says that nothing is left");
        play.obey();
        assert_eq!(standing_of(&play), Some(Standing::NoMapping));
        assert!(!Standing::NoMapping.is_without() && !Standing::NoMapping.is_silent());
        play.node.labels.clear();
        assert_eq!(standing_of(&play), None, "of a node that is not selected");
        play.node.labels.insert("hall".to_owned(), "a".to_owned());
        play.node.labels.insert(tenon_api::labels::HOLD.to_owned(), "true".to_owned());
        assert_eq!(standing_of(&play), None, "whoever holds a node knows");
    }

    #[test]
    fn words_differ() {
        let words: std::collections::BTreeSet<_> = Standing::ALL.map(Standing::as_str).into();
        assert_eq!(words.len(), Standing::ALL.len());
    }

    #[test]
    fn arguments_are_joined_as_kmm_joins_them_and_bounded() {
        let wish = module(
            "modprobe: {moduleName: gauge, args: {load: [-v, -a], unload: [-r]}}\nkernelMappings: [{regexp: '^.+$', build: {dockerfileConfigMap: {name: d}}}]",
        );
        assert_eq!(arguments(&wish).as_deref(), Some("-v,-a,-r"));
        assert_eq!((raw_arguments(&wish), is_built(&wish), is_signed(&wish)), (None, true, false));
        assert_eq!(arguments(&minimal_module()), None);
        let mut long = wish;
        let loader = long.spec.module_loader.as_mut().unwrap();
        loader.container.modprobe.args.as_mut().unwrap().load = Some(vec!["é".repeat(1000)]);
        assert_eq!(arguments(&long).unwrap().len(), MOST_ARGUMENTS);
    }
}
