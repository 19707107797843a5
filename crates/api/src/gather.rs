//! What the operator hands to the container of a build that gathers files from images and volumes, before anything is compiled.
//!
//! It is the program that makes images, started with this variable instead of [`crate::task::VARIABLE`]: so what somebody has put
//! into an image is read by the one reader that trusts none of it, and an image of sources needs no program. Where it fails it
//! leaves a [`crate::task::Report`]; where it does not, nothing.

use serde::{Deserialize, Serialize};

use crate::task::Place;

/// The variable of the container's environment that holds the [`Gathering`], as one line of JSON.
pub const VARIABLE: &str = "TENON_GATHER";
/// The container of the Job's pod that gathers, after the one that fetches.
pub const CONTAINER: &str = "gather";

/// Where Secrets with registries' credentials are mounted, each in a folder of its number.
pub const PULL_DIR: &str = "/run/tenon/pull";
/// Where volumes are mounted, each in a folder of its number.
pub const CLAIMS_DIR: &str = "/run/tenon/claims";
/// What is gathered besides the sources, within the directory where the Job may write.
pub const ARTIFACTS: &str = "artifacts";
/// What a source package unpacks to, within the directory where the Job may write: its files as they are.
pub const PACKAGE: &str = "package";
/// What is compiled of it, within the directory where the Job may write.
pub const UNPACKED: &str = "unpacked";

/// What is to be gathered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Gathering {
    /// The architecture that the build is for, as Kubernetes names it.
    pub architecture: String,
    /// Files, and where they go.
    pub files: Vec<Wanted>,
    /// A source package to unpack then, within the directory where the Job may write.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub package: Option<Package>,
}

/// A file, or a directory with all that is in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Wanted {
    /// What has it.
    pub from: Origin,
    /// Where in it.
    pub path: String,
    /// Where an image has it that does not have it there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub otherwise: Option<String>,
    /// Where it goes, within the directory where the Job may write.
    pub to: String,
}

/// What has files that a build needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Origin {
    /// An image, by its digest.
    #[serde(rename_all = "camelCase")]
    Image {
        /// Which.
        place: Place,
        /// The folder below [`PULL_DIR`] with credentials of its registry.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        credentials: Option<String>,
    },
    /// A volume, mounted in this folder below [`CLAIMS_DIR`].
    Claim(String),
}

/// A source package.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Package {
    /// The file, within the directory where the Job may write.
    pub path: String,
    /// Whether the build says itself what becomes of the package's patches.
    pub patched_by_user: bool,
}
