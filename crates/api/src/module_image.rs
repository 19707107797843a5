//! `ModuleImage` (`tenon.dev/v1alpha1`): the image of one Module for one kernel and architecture, and what became of it.
//!
//! The operator makes these objects, one for each kernel that a Module's nodes run; nobody needs to write one.

use k8s_openapi::api::core::v1::LocalObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use ring::digest;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::labels;
use crate::module::{Build, Predicted, RegistryTls, Sign};
use crate::serde_forms::{empty_is_absent, is_false, is_zero};

/// Which image, and how to get at it.
#[expect(clippy::duplicated_attributes, reason = "each printer column has a type of its own")]
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "tenon.dev",
    version = "v1alpha1",
    kind = "ModuleImage",
    plural = "moduleimages",
    shortname = "mimg",
    category = "tenon",
    namespaced,
    status = "ModuleImageStatus",
    derive = "PartialEq",
    doc = "The image of one Module for one kernel and architecture, resolved to a digest and packed for the nodes.",
    printcolumn(name = "Module", type_ = "string", json_path = ".spec.module"),
    printcolumn(name = "Kernel", type_ = "string", json_path = ".spec.kernel"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.reason"),
    printcolumn(
        name = "Predicted",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Predicted\")].reason",
        description = "Whether the kernel will load it, in a word"
    ),
    printcolumn(name = "Image", type_ = "string", json_path = ".spec.image", priority = 1),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.message", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct ModuleImageSpec {
    /// The Module's name; it is in the same namespace.
    #[schemars(length(min = 1, max = 253))]
    pub module: String,

    /// The kernel release, as the nodes report it.
    #[schemars(length(min = 1, max = 512))]
    pub kernel: String,

    /// The architecture, as Kubernetes names it (`amd64`).
    #[schemars(length(min = 1, max = 64))]
    pub architecture: String,

    /// The image reference, with all variables replaced.
    #[schemars(length(min = 1, max = 2048))]
    pub image: String,

    /// The directory in the image that holds `lib/modules/<kernel>`.
    #[schemars(length(min = 1, max = 1024))]
    pub dir_name: String,

    /// The directory in the image that holds firmware.
    #[serde(default, deserialize_with = "empty_is_absent", skip_serializing_if = "Option::is_none")]
    pub firmware_path: Option<String>,

    /// The Secret with the registry's credentials.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_repo_secret: Option<LocalObjectReference>,

    /// How the registry is spoken to.
    #[serde(default, rename = "registryTLS", skip_serializing_if = "Option::is_none")]
    pub registry_tls: Option<RegistryTls>,

    /// The Module's `imageRebuildTriggerGeneration`: another number has the image looked at again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rebuild_trigger: Option<i64>,

    /// How the image is built where it does not exist.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build: Option<Build>,

    /// How its modules are signed where it does not exist: those of another image, or those that were just built. With all
    /// variables replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sign: Option<Sign>,

    /// It is made to see whether that succeeds: it is published nowhere, and no node gets it.
    #[serde(default, skip_serializing_if = "is_false")]
    pub trial: bool,
}

impl ModuleImage {
    /// The object's name: `<module>-<12 hexadecimal digits>`, different for each kernel and architecture of a module.
    /// A module's name that leaves no room is cut, and then counts among what is hashed.
    pub fn name_for(module: &str, kernel: &str, architecture: &str) -> String {
        const DIGITS: usize = 12;
        let room = labels::MAX_NAME - DIGITS - 1;
        let mut hash = digest::Context::new(&digest::SHA256);
        let stem = module.get(..module.floor_char_boundary(room)).unwrap_or(module);
        if stem.len() < module.len() {
            hash.update(module.as_bytes());
            hash.update(&[0]);
        }
        hash.update(kernel.as_bytes());
        hash.update(&[0]);
        hash.update(architecture.as_bytes());
        format!("{stem}-{}", labels::hex(hash.finish().as_ref(), DIGITS))
    }
}

/// What became of the image.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ModuleImageStatus {
    /// In a word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<ImagePhase>,

    /// Why, in a word; one of [`crate::reasons`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,

    /// Why, in a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<crate::ShortMessage>,

    /// The digest that the reference stood for when it was resolved (`sha256:<hex>`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_digest: Option<String>,

    /// What the nodes get of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bundle: Option<BundleStatus>,

    /// The `metadata.generation` of the spec that was resolved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolved_from: Option<i64>,

    /// When it is tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_at: Option<Time>,

    /// How it was made, or is being made; absent where it was found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub making: Option<Making>,

    /// Whether the builds of the kernel whose facts are known will load what the Module asks for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub verdicts: Vec<KernelVerdict>,

    /// `Ready` and `Predicted`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// How far an image is.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ImagePhase {
    /// It is resolved and packed.
    Ready,
    /// A Job builds it, and signs its modules if they are to be signed.
    Building,
    /// A Job signs its modules.
    Signing,
    /// Something is missing; it is tried again.
    #[default]
    Waiting,
    /// It will not do without a change.
    Failed,
}

/// How an image is made that did not exist.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Making {
    /// The hash of all that it is made from: digests of images, settings, versions of Secrets (`sha256:<hex>`). Nothing is made
    /// twice from the same.
    #[schemars(length(max = 71))]
    pub inputs: String,

    /// The Job that makes it, in the image's namespace.
    #[schemars(length(max = 253))]
    pub job: String,

    /// How many Jobs have failed at it.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub failures: i32,

    /// The uid of the last Job that failed at it, so that none counts twice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub failed: Option<String>,

    /// The number of the wish to try again that was granted last (annotation `tenon.dev/retry` of the Module).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<i64>,

    /// Whether it is being made anew: what else the status tells of is the image of before, which nodes get until that is done.
    #[serde(default, skip_serializing_if = "is_false")]
    pub renewing: bool,
}

/// A bundle: the files of a module image that a node needs, and nothing else.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct BundleStatus {
    /// The SHA-256 of the list of its files (`sha256:<hex>`).
    pub digest: String,

    /// Bytes of the compressed archive.
    pub size: i64,

    /// Number of files.
    pub files: i64,
}

/// The most verdicts that a status holds.
pub const MAX_VERDICTS: usize = 16;

/// The most reasons that a verdict gives.
pub const MAX_REASONS: usize = 4;

/// Whether one build of a kernel will load the modules of a bundle, computed from facts about that build.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct KernelVerdict {
    /// The kernel's GNU build-id in hexadecimal; absent when the facts are those of every build of the release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub build_id: Option<String>,

    /// What is predicted.
    pub result: Predicted,

    /// The error with which the kernel will refuse it (`ENOEXEC`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub errno: Option<String>,

    /// Why, the most telling first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4))]
    pub reasons: Vec<VerdictReason>,

    /// Who says what the kernel is: `package`, `toolkit`, `admin`, or `node:<name>`.
    #[schemars(length(max = 260))]
    pub source: String,

    /// What was asked of the kernel: the hash of bundle and settings, and that of the facts. Another
    /// question makes another verdict.
    #[schemars(length(max = 71))]
    pub question: String,
}

/// One reason of a verdict.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct VerdictReason {
    /// In a word.
    #[schemars(length(max = 64))]
    pub reason: String,

    /// In a sentence, in the kernel's terms.
    pub message: crate::ShortMessage,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_the_modules_with_twelve_digits() {
        let name = ModuleImage::name_for("gauge", "6.1.0-56-amd64", "amd64");
        let digits = name.strip_prefix("gauge-").expect("begins with the module");
        assert_eq!(digits.len(), 12);
        assert!(digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
    }

    #[test]
    fn names_differ_wherever_the_objects_differ() {
        let names: std::collections::BTreeSet<_> = [
            ModuleImage::name_for("gauge", "6.1.0", "amd64"),
            ModuleImage::name_for("gauge", "6.1.0", "arm64"),
            ModuleImage::name_for("gauge", "6.1.0+", "amd64"),
            ModuleImage::name_for("gauge-a", "6.1.0", "amd64"),
            ModuleImage::name_for(&format!("{}a", "m".repeat(252)), "6.1.0", "amd64"),
            ModuleImage::name_for(&format!("{}b", "m".repeat(252)), "6.1.0", "amd64"),
        ]
        .into();
        assert_eq!(names.len(), 6);
        assert!(names.iter().all(|name| name.len() <= 253));
    }
}
