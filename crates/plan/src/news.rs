//! What a node's new report says that its last one did not, as far as people want an event of it.

use tenon_api::node_modules_config::{ModulePhase, NodeModuleStatus, NodeModulesConfigStatus};
use tenon_api::reasons::{self, event};
use tenon_order::ModuleKey;

use crate::rollout::report;

/// Something that happened to a Module on a node and that somebody should look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// The Module.
    pub module: ModuleKey,
    /// One of [`event`].
    pub reason: &'static str,
    /// In the node's words.
    pub message: String,
}

/// Modules of the node's kernel in `before` that are not there any more in `after`, or not as they were; and why, if it was not for
/// good.
pub fn unloaded(
    before: &NodeModulesConfigStatus,
    after: &NodeModulesConfigStatus,
) -> Vec<(ModuleKey, Option<&'static str>)> {
    let gone = before.modules.iter().filter(|module| module.boot_id.is_some()).filter_map(|known| {
        let module = report(Some(after), &known.namespace, &known.name);
        let module = module.filter(|module| module.boot_id.is_some());
        let why = match module {
            _ if after.boot_id.is_some() && after.boot_id != known.boot_id => Some(RESTARTED),
            None => None,
            Some(module) if is_another(known, module) => Some(REPLACED),
            Some(_) => return None,
        };
        Some((ModuleKey::new(&known.namespace, &known.name).ok()?, why))
    });
    gone.collect()
}

const RESTARTED: &str = "the node has restarted";
const REPLACED: &str = "it has been changed";

/// Whether what is loaded has taken the place of what was. What KMM loaded has neither bundle nor time, and is adopted; what somebody
/// unloaded by hand is told of by its own name.
fn is_another(known: &NodeModuleStatus, module: &NodeModuleStatus) -> bool {
    let is_reloaded = module.reason.as_deref() == Some(reasons::RELOADED);
    let other_content = known.bundle.is_some() && known.bundle != module.bundle;
    let loaded_again = known.loaded_at.is_some() && known.loaded_at != module.loaded_at;
    other_content || loaded_again && !is_reloaded
}

/// What is new in `after`. The same thing told again is not: a node that fails for the same reason as before has
/// nothing to say.
pub fn pieces(before: &NodeModulesConfigStatus, after: &NodeModulesConfigStatus) -> Vec<Piece> {
    let new = after.modules.iter().filter_map(|module| {
        let reason = reason(module)?;
        let known = report(Some(before), &module.namespace, &module.name);
        if known.is_some_and(|known| is_the_same(known, module)) {
            return None;
        }
        let message = module.message.as_ref().map(ToString::to_string).unwrap_or_default();
        Some(Piece { module: ModuleKey::new(&module.namespace, &module.name).ok()?, reason, message })
    });
    new.collect()
}

fn reason(module: &NodeModuleStatus) -> Option<&'static str> {
    match module.phase? {
        ModulePhase::Loaded if module.reason.as_deref() == Some(reasons::RELOADED) => {
            Some(event::MODULE_RELOADED)
        }
        ModulePhase::Loaded if module.reason.as_deref() == Some(reasons::PATH_VANISHED) => {
            Some(event::MODULE_PATH_VANISHED)
        }
        ModulePhase::Unvalidated if module.reason.as_deref() == Some(reasons::VALIDATION_FAILED) => {
            Some(event::MODULE_VALIDATION_FAILED)
        }
        ModulePhase::Failed => Some(event::MODULE_LOAD_FAILED),
        ModulePhase::RolledBack => Some(event::MODULE_ROLLED_BACK),
        ModulePhase::CrashSuspected => Some(event::MODULE_CRASH_SUSPECTED),
        ModulePhase::InUse => Some(event::MODULE_IN_USE),
        ModulePhase::Loaded
        | ModulePhase::Unvalidated
        | ModulePhase::Removed
        | ModulePhase::Orphaned
        | ModulePhase::WaitingForBundle
        | ModulePhase::Unknown => None,
    }
}

/// Whether both tell of the same thing: messages may differ in numbers, and a module that was loaded again at another time
/// was unloaded again.
fn is_the_same(known: &NodeModuleStatus, module: &NodeModuleStatus) -> bool {
    known.phase == module.phase
        && known.reason == module.reason
        && known.bundle == module.bundle
        && known.loaded_at == module.loaded_at
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn status(phase: ModulePhase, reason: &str, second: i64) -> NodeModulesConfigStatus {
        let module: NodeModuleStatus = serde_json::from_value(serde_json::json!({
            "name": "gauge", "namespace": "hall", "phase": phase, "reason": reason, "message": "as the kernel said",
            "loadedAt": format!("2026-01-01T00:00:{second:02}Z"),
        }))
        .unwrap();
        NodeModulesConfigStatus { modules: vec![module], ..NodeModulesConfigStatus::default() }
    }

    fn reasons(before: &NodeModulesConfigStatus, after: &NodeModulesConfigStatus) -> Vec<&'static str> {
        pieces(before, after).into_iter().map(|piece| piece.reason).collect()
    }

    #[rstest]
    #[case(ModulePhase::Failed, "InitFailed", &["ModuleLoadFailed"])]
    #[case(ModulePhase::RolledBack, "InitFailed", &["ModuleRolledBack"])]
    #[case(ModulePhase::CrashSuspected, "CrashSuspected", &["ModuleCrashSuspected"])]
    #[case(ModulePhase::InUse, "InUse", &["ModuleInUse"])]
    #[case(ModulePhase::Loaded, "Reloaded", &["ModuleReloaded"])]
    #[case(ModulePhase::Loaded, "Loaded", &[])]
    #[case(ModulePhase::Unvalidated, "Validating", &[])]
    #[case(ModulePhase::Unvalidated, "ValidationFailed", &["ModuleValidationFailed"])]
    #[case(ModulePhase::Loaded, "PathVanished", &["ModulePathVanished"])]
    #[case(ModulePhase::WaitingForBundle, "BundleMissing", &[])]
    fn trouble_is_told_once(#[case] phase: ModulePhase, #[case] reason: &str, #[case] told: &[&str]) {
        let fine = status(ModulePhase::Loaded, "Adopted", 1);
        let trouble = status(phase, reason, 2);
        assert_eq!(reasons(&fine, &trouble), told);
        assert_eq!(reasons(&NodeModulesConfigStatus::default(), &trouble), told);
        assert_eq!(reasons(&trouble, &trouble), [""; 0]);
    }

    /// In the kernel since this boot and second; not there without a boot.
    fn in_kernel(boot: Option<&str>, second: i64, bundle: Option<&str>) -> NodeModulesConfigStatus {
        let mut status = status(ModulePhase::Loaded, "Loaded", second);
        status.boot_id = Some(boot.unwrap_or("one").to_owned());
        status.modules[0].boot_id = boot.map(str::to_owned);
        status.modules[0].bundle = bundle.map(str::to_owned);
        status
    }

    #[rstest]
    #[case::as_it_was(in_kernel(Some("one"), 1, Some("a")), &[])]
    #[case::not_loaded(in_kernel(None, 1, Some("a")), &[None])]
    #[case::not_told_of(NodeModulesConfigStatus { boot_id: Some("one".to_owned()), ..Default::default() }, &[None])]
    #[case::another_content(in_kernel(Some("one"), 2, Some("b")), &[Some(REPLACED)])]
    #[case::other_parameters(in_kernel(Some("one"), 2, Some("a")), &[Some(REPLACED)])]
    #[case::another_boot(in_kernel(Some("two"), 2, Some("a")), &[Some(RESTARTED)])]
    fn what_left_the_kernel_is_told_when_it_has(
        #[case] after: NodeModulesConfigStatus,
        #[case] told: &[Option<&'static str>],
    ) {
        let before = in_kernel(Some("one"), 1, Some("a"));
        let told: Vec<_> = told.iter().map(|why| (ModuleKey::new("hall", "gauge").unwrap(), *why)).collect();
        assert_eq!(unloaded(&before, &after), told);
        let never = in_kernel(None, 1, None);
        assert_eq!(unloaded(&never, &after), []);
    }

    #[test]
    fn what_kmm_loaded_and_what_came_back_have_not_been_replaced() {
        let mut kmms = in_kernel(Some("one"), 1, None);
        kmms.modules[0].loaded_at = None;
        assert_eq!(unloaded(&kmms, &in_kernel(Some("one"), 2, Some("a"))), []);
        let (before, mut after) =
            (in_kernel(Some("one"), 1, Some("a")), in_kernel(Some("one"), 2, Some("a")));
        after.modules[0].reason = Some("Reloaded".to_owned());
        assert_eq!(unloaded(&before, &after), []);
    }

    #[test]
    fn a_module_that_is_unloaded_by_hand_twice_is_told_of_twice() {
        let (once, twice) =
            (status(ModulePhase::Loaded, "Reloaded", 2), status(ModulePhase::Loaded, "Reloaded", 3));
        assert_eq!(reasons(&once, &twice), ["ModuleReloaded"]);
    }
}
