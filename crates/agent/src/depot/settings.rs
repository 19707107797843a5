//! Where the depot is, whom to trust there, and who we are to it.

use std::path::Path;
use std::sync::Arc;

use http::HeaderValue;
use rustls::ClientConfig;

use super::DepotError;
use crate::https::{self, Address, HttpsError};

pub(super) const ADDRESSES: &str = "addresses";
const CERTIFICATES: &str = "ca.crt";

/// What is needed for a request.
pub(super) struct Settings {
    pub(super) addresses: Vec<Address>,
    pub(super) tls: Arc<ClientConfig>,
    pub(super) token: HeaderValue,
}

impl Settings {
    /// Reads what the kubelet keeps up to date. The files are small and in memory (tmpfs).
    pub(super) fn read(dir: &Path, token_file: &Path) -> Result<Self, DepotError> {
        Ok(Self {
            addresses: addresses(&dir.join(ADDRESSES))?,
            tls: https::trust(&dir.join(CERTIFICATES))?,
            token: https::bearer(token_file)?,
        })
    }
}

fn addresses(path: &Path) -> Result<Vec<Address>, DepotError> {
    let parse =
        |line: &str| line.parse().map_err(|source| DepotError::Address { path: path.to_owned(), source });
    let text = std::fs::read_to_string(path)
        .map_err(|source| HttpsError::Provided { path: path.to_owned(), source })?;
    text.lines().map(str::trim).filter(|line| !line.is_empty()).map(parse).collect()
}
