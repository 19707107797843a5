//! What a Module has for each kernel of its nodes, worked out once per kernel however many nodes run it.

use std::collections::BTreeMap;

use tenon_api::Module;
use tenon_api::module_image::{ModuleImage, ModuleImageStatus};
use tenon_api::node_modules_config::NodeModule;

use super::NodeView;
use crate::provision;
use crate::resolve::{self, ResolveError, Resolved};

/// What a Module has for the kernels, by release, then by architecture.
#[derive(Debug, Default)]
pub(super) struct Offers<'o>(BTreeMap<&'o str, BTreeMap<&'o str, Offer<'o>>>);

/// What it has for one of them.
#[derive(Debug)]
pub(super) struct Offer<'o> {
    /// The settings.
    pub resolved: Result<Resolved, ResolveError>,
    /// The image that the settings name, once it is looked for.
    pub image: Option<&'o ModuleImage>,
}

impl<'o> Offers<'o> {
    /// For the kernels of these nodes.
    pub(super) fn new(module: &Module, nodes: &[NodeView<'o>], images: &[&'o ModuleImage]) -> Self {
        let mut offers: BTreeMap<_, BTreeMap<_, _>> = BTreeMap::new();
        for NodeView { facts, .. } in nodes {
            let (kernel, architecture) = (facts.kernel.as_str(), facts.architecture.as_str());
            offers.entry(kernel).or_default().entry(architecture).or_insert_with(|| {
                let resolved = resolve::resolve(module, &facts.kernel);
                let image = resolved.as_ref().ok().and_then(|resolved| {
                    let is_it = |image: &&&ModuleImage| {
                        image.spec.kernel == kernel
                            && image.spec.architecture == architecture
                            && provision::is_asked_for(image, module, resolved)
                    };
                    images.iter().find(is_it).copied()
                });
                Offer { resolved, image }
            });
        }
        Self(offers)
    }

    /// For this kernel.
    pub(super) fn to(&self, kernel: &str, architecture: &str) -> Option<&Offer<'o>> {
        self.0.get(kernel)?.get(architecture)
    }
}

impl<'o> Offer<'o> {
    /// The bundle, as far as it is known.
    pub(super) fn bundle(&self) -> Option<&'o String> {
        self.image.and_then(provision::bundle).map(|(bundle, _)| &bundle.digest)
    }

    /// The image's status, when it answers the image's present spec.
    pub(super) fn image_status(&self) -> Option<&'o ModuleImageStatus> {
        let image = self.image?;
        image.status.as_ref().filter(|status| status.resolved_from == image.metadata.generation)
    }

    /// Whether a node's entry says the same. While the entry is still to be written anew, what the node has loaded by it is
    /// no answer to the Module.
    pub(super) fn is_in(&self, entry: &NodeModule) -> bool {
        self.resolved.as_ref().is_ok_and(|resolved| asks_for(entry, resolved, self.image))
    }
}

/// Whether a node's entry asks for what the Module has for the node's kernel now.
pub fn asks_for(entry: &NodeModule, resolved: &Resolved, image: Option<&ModuleImage>) -> bool {
    let bundle = image.and_then(provision::bundle).map(|(bundle, _)| &bundle.digest);
    entry.config.container_image == resolved.image
        && entry.config.modprobe == resolved.modprobe
        && entry.config.in_tree_modules_to_remove == resolved.in_tree_to_remove
        && bundle.is_none_or(|bundle| entry.bundle.as_ref() == Some(bundle))
}
