//! One client for registries that speak the OCI distribution specification.
//!
//! Every answer is one of a few outcomes ([`RegistryError`]): there, absent, denied, unreachable, invalid. Everything
//! has a deadline; what may heal is tried again until then. Sizes are bounded, and no byte is passed on whose digest
//! was not checked. Credentials go to the registry that they are for, to the token service that it names, and nowhere
//! else: a redirect to another host travels without them.

mod auth;
mod blob;
mod challenge;
mod error;
mod exchange;
mod image;
mod layers;
mod original;
mod removal;
mod transport;
mod upload;

use std::sync::Arc;
use std::time::Duration;

use crate::keyring::Keyring;

pub use error::{RegistryError, Subject, Trouble, Violation, What};
pub use image::PlatformImage;
pub use layers::PullError;
pub use original::{Original, OriginalImage};
pub use removal::TagOf;
pub use transport::{Proxies, TlsSettings, Transport, TransportError};
pub use upload::{Blob, Pushed};

/// How long things may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timing {
    /// For one manifest or configuration, all attempts together.
    pub manifest: Duration,
    /// For one blob in either direction, all attempts together.
    pub blob: Duration,
    /// Between the first and the second attempt; doubled from there on.
    pub pause: Duration,
    /// Attempts.
    pub attempts: u32,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            manifest: Duration::from_mins(1),
            blob: Duration::from_mins(20),
            pause: Duration::from_millis(250),
            attempts: 6,
        }
    }
}

/// A client with one set of credentials and TLS settings. Cheap to make from a shared [`Transport`]; never share one
/// between namespaces.
#[derive(Debug)]
pub struct Registry {
    clients: transport::Clients,
    plain_http: bool,
    keyring: Keyring,
    timing: Timing,
    auth: auth::Authenticator,
}

impl Registry {
    /// A client that uses these credentials and settings for every host.
    pub fn new(
        transport: &Transport,
        tls: &TlsSettings,
        keyring: Keyring,
        timing: Timing,
    ) -> Result<Self, TransportError> {
        Ok(Self {
            clients: transport.clients(tls)?,
            plain_http: tls.plain_http,
            keyring,
            timing,
            auth: auth::Authenticator::default(),
        })
    }
}

/// The credentials that worked, kept for what belongs together.
type Access = Option<Arc<crate::keyring::Credential>>;
