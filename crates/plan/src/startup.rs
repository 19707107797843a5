//! What a node's start-up taint waits for: [`mod@crate::assign`] takes it away when nothing is awaited any more, and whoever asks is told.

use tenon_api::Module;
use tenon_api::labels::LabelKind;

use crate::node::{self, NodeFacts, Selection};
use crate::resolve::{ResolveError, resolve};

/// Whether a driver is still to come to the node: the Module wants the node, has something for its kernel, and is not ready there. A
/// pause and a hold change nothing about that: the taint waits for whoever ends them.
pub fn is_awaited(module: &Module, node: &NodeFacts) -> bool {
    let namespace = module.metadata.namespace.as_deref().unwrap_or_default();
    let name = module.metadata.name.as_deref().unwrap_or_default();
    module.metadata.deletion_timestamp.is_none()
        && module.spec.module_loader.is_some()
        && node::select(module, node) == Selection::Selected
        && !node.labels.contains_key(&LabelKind::Ready.key(namespace, name))
        && !matches!(resolve(module, &node.kernel), Err(ResolveError::NoMapping(_)))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Taint;
    use rstest::rstest;
    use tenon_api::labels::{HOLD, STARTUP_TAINT};

    use super::*;
    use crate::fixture::{Play, module};

    fn taint(key: &str) -> Taint {
        Taint { key: key.to_owned(), effect: "NoSchedule".to_owned(), ..Taint::default() }
    }

    /// What is said to be waited for is what the taint waits for.
    #[rstest]
    #[case::to_come(|_: &mut Play| {}, true)]
    #[case::ready(|play: &mut Play| play.settle(), false)]
    #[case::on_hold(|play: &mut Play| drop(play.node.labels.insert(HOLD.to_owned(), String::new())), true)]
    #[case::deselected(|play: &mut Play| drop(play.node.labels.remove("hall")), false)]
    #[case::repelled(|play: &mut Play| play.node.taints.push(taint("gpu")), false)]
    #[case::for_other_kernels(|play: &mut Play| {
        play.module = Some(module("modprobe: {moduleName: gauge}\nkernelMappings: [{literal: other}]\ncontainerImage: 'a:b'"));
    }, false)]
    #[case::deleted(|play: &mut Play| play.delete_module(), false)]
    fn a_driver_is_awaited_as_long_as_the_taint_stays(#[case] happens: fn(&mut Play), #[case] awaited: bool) {
        let mut play = Play::registered();
        happens(&mut play);
        play.node.taints.push(taint(STARTUP_TAINT));
        assert_eq!(is_awaited(play.module.as_ref().unwrap(), &play.node), awaited);
        assert_eq!(play.decide().untaint.is_empty(), awaited);
    }
}
