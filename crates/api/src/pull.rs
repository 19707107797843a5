//! What the operator hands to a pod that takes a driver out of an image on a node, and where the pod finds what it needs: the
//! contract between the two.
//!
//! The pod runs our program inside the module image. What it is to look for is one line of JSON in its environment; the answer
//! goes to the depot, and why there is none into the termination message, as a [`Report`](crate::task::Report).

use serde::{Deserialize, Serialize};

/// The variable of the container's environment that holds the [`PullTask`].
pub const VARIABLE: &str = "TENON_PULL";
/// The first argument of the program that has it copy itself to the path in the second.
pub const INSTALL: &str = "install";
/// The first argument of the program that has it do the task in [`VARIABLE`].
pub const PULL: &str = "pull";

/// The container that puts the program into the pod.
pub const INSTALL_CONTAINER: &str = "install";
/// The container that runs from the module image.
pub const CONTAINER: &str = "pull";

/// Where the program lies, in both containers. No image has this directory.
pub const PROGRAM_DIR: &str = "/.tenon-program";
/// Where the depot's addresses and certificate lie, and the token for it.
pub const ACCESS_DIR: &str = "/.tenon-access";
/// The file in [`ACCESS_DIR`] with the addresses, one a line.
pub const ADDRESSES: &str = "addresses";
/// The file in [`ACCESS_DIR`] with the certificate of the depot's authority, in PEM.
pub const AUTHORITY: &str = "ca.crt";
/// The file in [`ACCESS_DIR`] with the token.
pub const TOKEN: &str = "token";

/// The pod's ServiceAccount, which may do nothing.
pub const SERVICE_ACCOUNT: &str = "tenon-pull";
/// Whom the pod's token is made for: the depot, and only to bring what was expected of this pod.
pub const AUDIENCE: &str = "tenon-depot-pull";
/// The path at the depot where it goes.
pub const PATH: &str = "/v1/pulled";

/// What is to be taken out of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PullTask {
    /// The kernel whose modules are wanted.
    pub kernel: String,
    /// The directory that holds `lib/modules/<kernel>`.
    pub dir_name: String,
    /// The directory that holds firmware, if there is any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub firmware_path: Option<String>,
}
