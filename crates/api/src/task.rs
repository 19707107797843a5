//! What the operator hands to a Job that makes an image, and what the Job answers: the contract between the two.
//!
//! The task is one line of JSON in the container's environment, without anything secret; keys, certificates and registries'
//! credentials are mounted. The report is the container's termination message: a Job has no token, and needs none.

use serde::{Deserialize, Serialize};

use crate::ShortMessage;
use crate::module::SignatureHash;
use crate::reasons;
use crate::serde_forms::is_false;

/// The variable of the container's environment that holds the [`Task`].
pub const VARIABLE: &str = "TENON_TASK";
/// Where the kubelet looks for the [`Report`]; the default of `terminationMessagePath`.
pub const REPORT_PATH: &str = "/dev/termination-log";
/// The container of the Job's pod that reports.
pub const CONTAINER: &str = "make";

/// Where the Secret with the private key is mounted.
pub const KEY_DIR: &str = "/run/tenon/key";
/// Where the Secret with the certificate is mounted.
pub const CERT_DIR: &str = "/run/tenon/cert";
/// Where the Secret with the registries' credentials is mounted.
pub const REGISTRY_DIR: &str = "/run/tenon/registry";
/// Where the Job may write.
pub const WORK_DIR: &str = "/work";

/// The entry of a Secret that holds the private key, as in KMM.
pub const KEY_ENTRY: &str = "key";
/// The entry of a Secret that holds the certificate, as in KMM.
pub const CERT_ENTRY: &str = "cert";

/// What the container before has built, as an OCI image layout, within the directory where the Job may write.
pub const LAYOUT: &str = "image";

/// What the container before has compiled, as the files of an image, within the directory where the Job may write.
pub const COMPILED: &str = "out";
/// The sources, within the directory where the Job may write.
pub const SOURCE: &str = "source";

/// The container of the Job's pod that fetches sources, before the one that compiles them.
pub const FETCH_CONTAINER: &str = "fetch";
/// The container of the Job's pod that builds, before the one that reports.
pub const BUILD_CONTAINER: &str = "build";
/// Where the build finds the Dockerfile, under the name `dockerfile`.
pub const DOCKERFILE_DIR: &str = "/run/tenon/dockerfile";
/// Where the build finds more authorities to trust, in PEM.
pub const AUTHORITIES_DIR: &str = "/run/tenon/authorities";
/// Where the build finds how registries are spoken to.
pub const REGISTRIES_DIR: &str = "/run/tenon/registries";
/// The file with it, in the form of containers-registries.conf(5), version 2.
pub const REGISTRIES_FILE: &str = "registries.conf";
/// Where the build's Secrets are, each in a directory of its name; as in KMM.
pub const SECRETS_DIR: &str = "/run/secrets";
/// Where the Secret for a git repository is mounted.
pub const GIT_DIR: &str = "/run/tenon/git";
/// Where a volume with sources is mounted.
pub const CLAIM_DIR: &str = "/run/tenon/claim";
/// What the builder's own messages begin with.
pub const BUILDER_SAYS: &str = "tenon-build: ";
/// The builder's exit code when what confines it keeps it from working: `EX_CONFIG` of sysexits.h.
pub const CONFINED: i32 = 78;

/// Labels of images that a Job has published, by which they are known again. Labels, because Docker's manifests have no
/// annotations.
pub mod label {
    /// What the image was made from: the digest of another image, or the hash of all that went into its build.
    pub const SOURCE: &str = "dev.tenon.made-from";
    /// The SHA-256 of the certificate, in DER, that its modules are signed by.
    pub const CERTIFICATE: &str = "dev.tenon.signed-by";
    /// The hash of what was asked for: which files are signed, hashed with what.
    pub const REQUEST: &str = "dev.tenon.made-as";
}

/// What a Job is to do: publish an image, or find out whether it could be made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Task {
    /// Where its content comes from.
    pub from: Source,
    /// What it is called.
    pub to: Place,
    /// [`label::SOURCE`].
    pub made_from: String,
    /// [`label::REQUEST`].
    pub request: String,
    /// What is signed in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sign: Option<SignTask>,
    /// All but publishing it is done.
    #[serde(default, skip_serializing_if = "is_false")]
    pub trial: bool,
}

/// Where an image's content comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Source {
    /// Another image, by its digest.
    Image(Place),
    /// What the container before has built: [`LAYOUT`].
    Built,
    /// What the container before has compiled: [`COMPILED`].
    Compiled(Compiled),
}

/// Where the files of an image lie that were compiled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Compiled {
    /// The directory that holds `lib/modules/<kernel>`.
    pub dir_name: String,
    /// The directory that holds firmware, if there is any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub firmware_path: Option<String>,
}

/// Modules of an image are to be signed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SignTask {
    /// The modules in it, by path; the shell's wildcards mean what they mean there.
    pub files: Vec<String>,
    /// What they are hashed with.
    pub hash: SignatureHash,
    /// What the kernels in question were built without: a signature that needs it is not made.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lacking: Vec<Algorithm>,
}

/// What not every kernel verifies signatures with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Algorithm {
    /// Signatures of elliptic keys (`CONFIG_CRYPTO_ECDSA`).
    Ecdsa,
    /// SHA-384 and SHA-512 (`CONFIG_CRYPTO_SHA512`).
    Sha512,
}

/// An image, and how its registry is spoken to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Place {
    /// The reference.
    pub image: String,
    /// Without TLS.
    #[serde(default)]
    pub plain_http: bool,
    /// Any certificate will do.
    #[serde(default)]
    pub skip_verify: bool,
    /// One more authority to trust (PEM).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authority: Option<String>,
}

/// How a Job has ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Report {
    /// The image is there.
    Made {
        /// Its digest.
        digest: String,
        /// What it took, for people.
        message: ShortMessage,
        /// Whether this Job has published it. What was there before may be anybody's, whatever its labels say.
        #[serde(default, skip_serializing_if = "is_false")]
        fresh: bool,
    },
    /// It could be made, which was all that was asked: it is published nowhere.
    Tried {
        /// What it took, for people.
        message: ShortMessage,
    },
    /// It is not, and nothing is to be seen of it.
    Failed {
        /// Why, in a word.
        trouble: Trouble,
        /// Why, in a sentence.
        message: ShortMessage,
    },
}

/// Why a Job failed, in a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Trouble {
    /// A Secret does not exist.
    SecretMissing,
    /// A Secret does not hold what it should.
    SecretMalformed,
    /// The registry says that there is no such image.
    ImageAbsent,
    /// The registry refuses the credentials, or asks for some.
    RegistryDenied,
    /// The registry does not answer, or not usefully.
    RegistryUnreachable,
    /// The image is malformed, hostile, or without what was asked for.
    ImageInvalid,
    /// The image is there already, and somebody else has made it.
    NotOurs,
    /// The kernel could not verify such a signature.
    KernelRefuses,
    /// What is to be compiled, or what it needs, is not where it should be, or of no use.
    SourceInvalid,
    /// A file of the image is not for everybody to read, and who is to read it is nobody in particular.
    Unreadable,
    /// Anything else.
    Failed,
}

impl Trouble {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::SecretMissing,
        Self::SecretMalformed,
        Self::ImageAbsent,
        Self::RegistryDenied,
        Self::RegistryUnreachable,
        Self::ImageInvalid,
        Self::NotOurs,
        Self::KernelRefuses,
        Self::SourceInvalid,
        Self::Unreadable,
        Self::Failed,
    ];

    /// The word for statuses and events.
    pub fn reason(self) -> &'static str {
        match self {
            Self::SecretMissing => reasons::SECRET_MISSING,
            Self::SecretMalformed => reasons::SECRET_MALFORMED,
            Self::ImageAbsent => reasons::IMAGE_ABSENT,
            Self::RegistryDenied => reasons::REGISTRY_DENIED,
            Self::RegistryUnreachable => reasons::REGISTRY_UNREACHABLE,
            Self::ImageInvalid => reasons::IMAGE_INVALID,
            Self::KernelRefuses => reasons::WILL_NOT_LOAD,
            Self::SourceInvalid => reasons::SOURCE_INVALID,
            Self::Unreadable => reasons::FILES_UNREADABLE,
            Self::NotOurs | Self::Failed => reasons::SIGN_FAILED,
        }
    }

    /// Whether the same will not do again: something must be changed first.
    pub fn needs_change(self) -> bool {
        matches!(
            self,
            Self::ImageInvalid | Self::NotOurs | Self::KernelRefuses | Self::SourceInvalid | Self::Unreadable
        )
    }
}

impl Report {
    /// Reads a termination message.
    pub fn read(message: &str) -> Option<Self> {
        serde_json::from_str(message).ok()
    }
}
