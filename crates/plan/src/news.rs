//! What a node's new report says that its last one did not, as far as people want an event of it.

use tenon_api::node_modules_config::{ModulePhase, NodeModuleStatus, NodeModulesConfigStatus};
use tenon_api::reasons::{self, event};
use tenon_order::ModuleKey;

use crate::rollout::report;

/// Something that happened to a Module on a node. All of it is a warning: what goes well is told by labels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// The Module.
    pub module: ModuleKey,
    /// One of [`event`].
    pub reason: &'static str,
    /// In the node's words.
    pub message: String,
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

    #[test]
    fn a_module_that_is_unloaded_by_hand_twice_is_told_of_twice() {
        let (once, twice) =
            (status(ModulePhase::Loaded, "Reloaded", 2), status(ModulePhase::Loaded, "Reloaded", 3));
        assert_eq!(reasons(&once, &twice), ["ModuleReloaded"]);
    }
}
