//! How modules are signed for kernels that load only signed ones.

use k8s_openapi::api::core::v1::LocalObjectReference;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::RegistryTls;
use crate::serde_forms::empty_is_absent;

/// How modules are signed.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Sign {
    /// A Secret in the Module's namespace whose key `key` holds the private key.
    pub key_secret: LocalObjectReference,

    /// A Secret in the Module's namespace whose key `cert` holds the certificate.
    pub cert_secret: LocalObjectReference,

    /// The image whose modules are signed; needed when it is not built. May use template variables.
    #[serde(default, deserialize_with = "empty_is_absent", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 2048))]
    pub unsigned_image: Option<String>,

    /// How the unsigned image's registry is spoken to.
    #[serde(default, rename = "unsignedImageRegistryTLS", skip_serializing_if = "Option::is_none")]
    pub unsigned_image_registry_tls: Option<RegistryTls>,

    /// Paths in the image of the files to sign, all below `modprobe.dirName`. May use template variables and the
    /// shell's wildcards.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 128), inner(length(max = 1024)))]
    pub files_to_sign: Vec<String>,

    /// What the modules are hashed with. Tenon's own: KMM's API has no such field, and signs with `sha256`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash: Option<SignatureHash>,
}

/// What a module is hashed with before it is signed.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum SignatureHash {
    /// Every kernel knows it.
    #[default]
    Sha256,
    /// Not known to a kernel that has SHA-512 in a module of its own, until that is loaded.
    Sha384,
    /// As with `sha384`.
    Sha512,
}

impl SignatureHash {
    /// As the kernel's `sign-file` spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha384 => "sha384",
            Self::Sha512 => "sha512",
        }
    }
}
