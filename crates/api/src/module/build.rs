//! How an image that does not exist is built.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{LocalObjectReference, ResourceRequirements};
use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use super::{RegistryTls, rules};
use crate::serde_forms::empty_is_absent;

/// How an image that does not exist is built.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = rules::one_dockerfile(), validation = rules::build_claims_no_devices())]
pub struct Build {
    /// A ConfigMap in the Module's namespace whose key `dockerfile` holds the Dockerfile. One of this, `dockerfile` and `source`
    /// is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dockerfile_config_map: Option<LocalObjectReference>,

    /// The Dockerfile itself. Tenon's own: KMM's API has no such field.
    #[serde(default, deserialize_with = "empty_is_absent", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 65536))]
    pub dockerfile: Option<String>,

    /// Sources that are compiled with a kernel's driver toolkit, without a Dockerfile. Tenon's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<BuildSource>,

    /// Build arguments, beside those that every build gets (`KERNEL_VERSION`, `KERNEL_FULL_VERSION`, `MOD_NAME`,
    /// `MOD_NAMESPACE`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub build_args: Vec<BuildArg>,

    /// Secrets in the Module's namespace that the build may read, each below `/run/secrets/<name>`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<LocalObjectReference>,

    /// How the registry of the base images is spoken to.
    #[serde(default, rename = "baseImageRegistryTLS", skip_serializing_if = "Option::is_none")]
    pub base_image_registry_tls: Option<RegistryTls>,

    /// Accepted for compatibility: Tenon does not build with kaniko.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kaniko_params: Option<KanikoParams>,

    /// Labels that a node must have to run the build; the Module's own selector where there are none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub selector: BTreeMap<String, String>,

    /// What the build may use of its node, over the defaults (4 GiB of memory, 16 GiB of `ephemeral-storage`). Tenon's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,

    /// Seconds that one try may take, an hour where it is not set. Tenon's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 86400))]
    pub active_deadline_seconds: Option<i64>,
}

/// Sources, and how they are compiled: by an ordinary user who may do nothing but compile.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = rules::one_place_of_sources())]
pub struct BuildSource {
    /// A git repository.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub git: Option<GitSource>,

    /// An image that holds the sources, for the kernel's architecture. Where its tag moves, it is built anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageSource>,

    /// A `PersistentVolumeClaim` in the Module's namespace; it is read, not written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim: Option<ClaimSource>,

    /// The directory in it that is compiled: with a `Makefile` of the kernel's kind or a `dkms.conf`. Without it, the topmost one.
    /// Where it ends in `.src.rpm`, that file is unpacked, and what it has for its first source is compiled.
    #[serde(default, deserialize_with = "empty_is_absent", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub path: Option<String>,

    /// The image with compiler and kernel headers; may use template variables. Without it, what the operator's `--toolkit-image`
    /// names, or on OpenShift the cluster's own.
    #[serde(default, deserialize_with = "empty_is_absent", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 2048))]
    pub toolkit: Option<String>,

    /// Files of other images, of other Modules' images and of volumes, that the build finds below `$ARTIFACTS`. Every
    /// `Module.symvers` among them is in `KBUILD_EXTRA_SYMBOLS`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["to".into()]))]
    pub artifacts: Vec<Artifact>,

    /// What a shell does in that directory before anything is compiled. What it exports the rest finds.
    #[serde(default, deserialize_with = "empty_is_absent", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16384))]
    pub before: Option<String>,

    /// What a shell does in that directory, instead of what `Makefile` or `dkms.conf` say: it leaves modules in
    /// `$MODULES`, and firmware in `$OUT/firmware`. The build arguments are its variables.
    #[serde(default, deserialize_with = "empty_is_absent", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 65536))]
    pub script: Option<String>,

    /// What a shell does in that directory after all was compiled: the modules in `$MODULES`, with what `depmod` and dependents read
    /// beside them, and the firmware in `$OUT/firmware` then, the image will hold.
    #[serde(default, deserialize_with = "empty_is_absent", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16384))]
    pub after: Option<String>,
}

/// Files that a build needs besides its sources: an image's, another Module's, or a volume's.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = rules::one_place_of_artifacts())]
pub struct Artifact {
    /// An image, for the kernel's architecture.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageSource>,

    /// A Module of the same namespace: its image for the same kernel, once that is ready.
    #[serde(default, deserialize_with = "empty_is_absent", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub module: Option<String>,

    /// A `PersistentVolumeClaim` in the Module's namespace; it is read, not written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim: Option<ClaimSource>,

    /// The file or directory in it; may use template variables. Of a Module's image, unless it begins with a slash, counted from
    /// where that has its modules for the kernel.
    #[schemars(length(min = 1, max = 256))]
    #[x_kube(validation = rules::is_path_inside())]
    pub path: String,

    /// Where it is found below `$ARTIFACTS`.
    #[schemars(length(min = 1, max = 128))]
    #[x_kube(validation = rules::is_relative_path())]
    pub to: String,
}

/// An image whose files a build needs.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ImageSource {
    /// Its name; may use template variables.
    #[schemars(length(min = 1, max = 2048))]
    #[x_kube(validation = rules::image_has_tag_or_digest())]
    pub reference: String,

    /// A Secret in the Module's namespace with its registry's credentials. Without it, the Module's `imageRepoSecret`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<LocalObjectReference>,

    /// How its registry is spoken to. Without it, what `baseImageRegistryTLS` says.
    #[serde(default, rename = "registryTLS", skip_serializing_if = "Option::is_none")]
    pub registry_tls: Option<RegistryTls>,
}

/// A git repository.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct GitSource {
    /// Where: `https://…`, `http://…` or `git://…`.
    #[schemars(length(max = 2048))]
    #[x_kube(validation = rules::is_git_uri())]
    pub uri: String,

    /// A branch, a tag, or a commit's whole name. Without it, the branch that the repository names.
    #[serde(
        default,
        rename = "ref",
        deserialize_with = "empty_is_absent",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(length(max = 256))]
    #[x_kube(validation = rules::is_git_ref())]
    pub reference: Option<String>,

    /// A Secret in the Module's namespace with `username` and `password` (type `kubernetes.io/basic-auth`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<LocalObjectReference>,
}

/// Sources on a volume.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ClaimSource {
    /// The claim.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// One build argument.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct BuildArg {
    /// The argument's name.
    pub name: String,

    /// The argument's value.
    pub value: String,
}

/// Settings of kaniko, another project's builder.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct KanikoParams {
    /// The tag of its image.
    #[serde(default, deserialize_with = "empty_is_absent", skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
}
