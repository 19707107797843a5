//! `MadeImage` (`tenon.dev/v1alpha1`): an image that a Job of Tenon's has made, and whether anything needs it still.
//!
//! The operator makes these objects, one for each image; they are its memory of what is its own to delete. Whoever deletes one has
//! the image kept for good: what is not in this memory is nobody's to delete.

use k8s_openapi::api::core::v1::LocalObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{CustomResource, KubeSchema};
use ring::digest;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::labels;
use crate::module::RegistryTls;

/// Which image, and how its registry is spoken to.
#[expect(clippy::duplicated_attributes, reason = "each printer column has a type of its own")]
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "tenon.dev",
    version = "v1alpha1",
    kind = "MadeImage",
    plural = "madeimages",
    shortname = "made",
    category = "tenon",
    namespaced,
    status = "MadeImageStatus",
    derive = "PartialEq",
    doc = "An image that Tenon has built or signed in the cluster, and whether anything needs it still.",
    printcolumn(name = "Module", type_ = "string", json_path = ".spec.module"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.reason"),
    printcolumn(name = "Unneeded", type_ = "date", json_path = ".status.unneededSince"),
    printcolumn(name = "Image", type_ = "string", json_path = ".spec.image"),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.message", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct MadeImageSpec {
    /// The Module that it was made for; it is, or was, in the same namespace.
    #[schemars(length(min = 1, max = 253))]
    pub module: String,

    /// The reference under which it was published.
    #[schemars(length(min = 1, max = 2048))]
    pub image: String,

    /// What was published (`sha256:<hex>`): the reference may stand for something else by now.
    #[schemars(length(min = 71, max = 71))]
    pub digest: String,

    /// The Secret with the registry's credentials, by which it is deleted where the Module is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_repo_secret: Option<LocalObjectReference>,

    /// How the registry is spoken to.
    #[serde(default, rename = "registryTLS", skip_serializing_if = "Option::is_none")]
    pub registry_tls: Option<RegistryTls>,
}

impl MadeImage {
    /// The object's name: `<module>-<12 hexadecimal digits>`, different for each image and content. A module's name that leaves
    /// no room is cut.
    pub fn name_for(spec: &MadeImageSpec) -> String {
        const DIGITS: usize = 12;
        let room = labels::MAX_NAME - DIGITS - 1;
        let mut hash = digest::Context::new(&digest::SHA256);
        for part in [&spec.module, &spec.image, &spec.digest] {
            hash.update(part.as_bytes());
            hash.update(&[0]);
        }
        let stem = spec.module.get(..spec.module.floor_char_boundary(room)).unwrap_or(&spec.module);
        format!("{stem}-{}", labels::hex(hash.finish().as_ref(), DIGITS))
    }
}

/// Whether it is needed, and what is to become of it.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct MadeImageStatus {
    /// In a word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<MadePhase>,

    /// Why, in a word; one of [`crate::reasons`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,

    /// Why, in a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<crate::ShortMessage>,

    /// Since when nothing has needed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unneeded_since: Option<Time>,

    /// When it is tried again to delete it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_at: Option<Time>,

    /// While it is being deleted, and is an index: the digests of its images, which go after it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub parts: Vec<String>,
}

/// The most images of an index that are deleted with it.
pub const MAX_PARTS: usize = 32;

/// Whether an image is needed.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MadePhase {
    /// A Module, a node, or a Job needs it.
    Needed,
    /// Nothing does.
    Unneeded,
    /// It is being deleted from its registry.
    Deleting,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_differ_wherever_the_images_differ() {
        let spec = |module: &str, image: &str, digest: &str| MadeImageSpec {
            module: module.to_owned(),
            image: image.to_owned(),
            digest: digest.to_owned(),
            ..MadeImageSpec::default()
        };
        let names: std::collections::BTreeSet<_> = [
            spec("gauge", "a:1", "sha256:0"),
            spec("gauge", "a:2", "sha256:0"),
            spec("gauge", "a:1", "sha256:1"),
            spec(&format!("{}a", "m".repeat(252)), "a:1", "sha256:0"),
            spec(&format!("{}b", "m".repeat(252)), "a:1", "sha256:0"),
        ]
        .map(|spec| MadeImage::name_for(&spec))
        .into();
        assert_eq!(names.len(), 5);
        assert!(names.iter().all(|name| name.len() <= 253));
    }
}
