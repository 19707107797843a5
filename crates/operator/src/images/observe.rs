//! Images, out of the index.

use std::collections::BTreeSet;
use std::sync::Arc;

use tenon_api::ModuleImage;
use tenon_order::Digest;
use tenon_plan::provision;

use crate::world::{ImageKey, Index};

/// The image, unless it is gone or going.
pub(super) fn image(index: &Index, key: &ImageKey) -> Option<Arc<ModuleImage>> {
    index.image(key).filter(|image| image.metadata.deletion_timestamp.is_none()).cloned()
}

/// An image for each of these bundles.
pub(super) fn with_bundles(index: &Index, wanted: &BTreeSet<Digest>) -> Vec<Arc<ModuleImage>> {
    let mut left = wanted.clone();
    let is_wanted = move |image: &&Arc<ModuleImage>| {
        let bundle = provision::bundle(image).and_then(|(bundle, _)| bundle.digest.parse().ok());
        bundle.is_some_and(|bundle: Digest| left.remove(&bundle))
    };
    index.images().filter(is_wanted).cloned().collect()
}
