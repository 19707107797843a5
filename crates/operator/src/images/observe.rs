//! Images, out of the index.

use std::collections::BTreeSet;
use std::sync::Arc;

use tenon_api::ModuleImage;
use tenon_api::module_image::{BundleStatus, ImagePhase, ModuleImageSpec, ModuleImageStatus};
use tenon_api::node_modules_config::NodeModule;
use tenon_image::ImageReference;
use tenon_order::{Digest, ModuleKey};
use tenon_plan::node::NodeFacts;
use tenon_plan::provision;
use tenon_plan::resolve::resolve;
use tracing::warn;

use crate::world::{ImageKey, Index, World};

/// The image, unless it is gone or going.
pub(super) fn image(index: &Index, key: &ImageKey) -> Option<Arc<ModuleImage>> {
    index.image(key).filter(|image| image.metadata.deletion_timestamp.is_none()).cloned()
}

/// Whether something is being deleted out of the image's repository: it may be this.
pub(super) fn is_being_erased(world: &World, image: &ModuleImage) -> bool {
    image.spec.image.parse::<ImageReference>().is_ok_and(|image| world.is_erasing(&image.name()))
}

/// An image for each of these bundles: one that has it now, else what the nodes that are assigned it say of theirs. A
/// Module may have moved on to an image that cannot be had, and its nodes stay with the former one.
pub(super) fn with_bundles(index: &Index, wanted: &BTreeSet<Digest>) -> Vec<Arc<ModuleImage>> {
    let has = |image: &&Arc<ModuleImage>, digest: Digest| {
        provision::bundle(image).and_then(|(bundle, _)| bundle.digest.parse().ok()) == Some(digest)
    };
    let find = |digest: &Digest| {
        let current = index.images().find(|image| has(image, *digest)).cloned();
        let former =
            || index.entries_with(*digest).find_map(|(node, entry)| former(index, node, entry).map(Arc::new));
        let image = current.or_else(former);
        if image.is_none() {
            warn!(bundle = %digest, "a node asks for a bundle that no image is known for");
        }
        image
    };
    wanted.iter().filter_map(find).collect()
}

/// The image that a node's entry was made from.
fn former(index: &Index, node: &NodeFacts, entry: &NodeModule) -> Option<ModuleImage> {
    let modprobe = &entry.config.modprobe;
    let settings =
        tenon_plan::resolve::load_settings(modprobe, &entry.config.in_tree_modules_to_remove).ok()?;
    let module = ModuleKey::new(&entry.namespace, &entry.name).ok().and_then(|key| index.module(&key));
    let registry_tls =
        module.and_then(|module| resolve(module, &node.kernel).ok()).map(|known| known.registry_tls);
    // The object drops a trailing `+`; the image has the directory under either name.
    let same_kernel = entry.config.kernel_version == node.kernel.without_plus();
    let kernel = if same_kernel { node.kernel.to_string() } else { entry.config.kernel_version.clone() };
    let mut image = ModuleImage::new(
        &ModuleImage::name_for(&entry.name, &kernel, &node.architecture),
        ModuleImageSpec {
            module: entry.name.clone(),
            kernel,
            architecture: node.architecture.clone(),
            image: entry.config.container_image.clone(),
            dir_name: settings.dir_name,
            firmware_path: settings.firmware_path,
            image_repo_secret: entry.image_repo_secret.clone(),
            registry_tls,
            rebuild_trigger: None,
            trial: false,
            build: None,
            sign: None,
        },
    );
    image.metadata.namespace = Some(entry.namespace.clone());
    image.status = Some(ModuleImageStatus {
        phase: Some(ImagePhase::Ready),
        image_digest: entry.image_digest.clone(),
        bundle: Some(BundleStatus { digest: entry.bundle.clone()?, ..BundleStatus::default() }),
        ..ModuleImageStatus::default()
    });
    Some(image)
}
