//! Nodes whose kernels load nothing but what is signed by somebody they know: their makers, or the lab's keys.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::cluster::{Lab, LabError};
use crate::guest::{GuestError, Settings};
use crate::kernel::{KernelError, Origin};
use crate::node::Node;

/// How a kernel comes to trust a key, and nobody else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Secure Boot: firmware that trusts the certificate starts Debian's kernel as it is; it locks itself down.
    SecureBoot,
    /// The certificate takes the place of the one that was built into the kernel, which boots in a third of the time. It knows its own
    /// modules no more: once those that the machine needs are loaded, `sig_enforce` is switched on.
    BuiltIn,
}

/// Why there is no such node.
#[derive(Debug, thiserror::Error)]
pub enum EnforcingError {
    /// The node.
    #[error(transparent)]
    Lab(Box<LabError>),
    /// Its kernel.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// What is done in it.
    #[error(transparent)]
    Guest(#[from] GuestError),
    /// A folder, or the certificate.
    #[error("{action} {path}")]
    Io {
        /// What was attempted.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// It would load anything.
    #[error("the kernel of {0} does not enforce signatures")]
    Lax(String),
}

impl From<LabError> for EnforcingError {
    fn from(error: LabError) -> Self {
        Self::Lab(Box::new(error))
    }
}

/// What a node is made of that trusts the certificate in this folder ([`crate::certificates::make`]).
pub fn settings(
    lab: &Lab,
    name: &str,
    (origin, way): (Origin, Way),
    keys: &Path,
) -> Result<Settings, EnforcingError> {
    let mut settings = lab.guest_settings(name, origin)?;
    match way {
        Way::SecureBoot => {
            let certificate = keys.join("certificate.pem");
            settings.secure_boot = Some(lab.supplies().firmware.secure_boot(vec![certificate]));
        }
        Way::BuiltIn => {
            let certificate = keys.join("certificate.der");
            let certificate = fs::read(&certificate).map_err(at("read", &certificate))?;
            let folder = lab.folder().join(format!("kernel-of-{name}"));
            fs::create_dir_all(&folder).map_err(at("create", &folder))?;
            settings.kernel = settings.kernel.trusting(&[&certificate], &folder)?;
        }
    }
    Ok(settings)
}

/// Adds a node that loads nothing but what is signed.
pub async fn add<'l>(
    lab: &'l mut Lab,
    name: &str,
    (origin, way): (Origin, Way),
    keys: &Path,
) -> Result<&'l mut Node, EnforcingError> {
    const PARAMETER: &str = "/sys/module/module/parameters/sig_enforce";
    let node = lab.add_guest(settings(lab, name, (origin, way), keys)?).await?;
    if way == Way::BuiltIn {
        node.guest().shell(&format!("echo 1 >{PARAMETER}")).await?;
    }
    if node.guest().shell(&format!("cat {PARAMETER}")).await?.trim() != "Y" {
        return Err(EnforcingError::Lax(name.to_owned()));
    }
    Ok(node)
}

fn at(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> EnforcingError {
    let path = path.to_owned();
    move |source| EnforcingError::Io { action, path, source }
}
