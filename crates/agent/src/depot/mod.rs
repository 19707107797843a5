//! The client of the depot, which has the bundles.
//!
//! In comes a bundle's name, out goes a file that nobody else can see; whether it holds that bundle is for its reader
//! to say. Nothing is kept in memory: an interrupted transfer stays in its file and is taken up where it ended, at
//! whichever address answers. Addresses, certificates and token are read anew for every transfer, because they rotate.

mod error;
mod settings;
mod transfer;

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::{Method, Request, StatusCode, Uri};
use http_body_util::Full;
use hyper::body::Incoming;
use tenon_order::Digest;
use tracing::debug;

pub use error::DepotError;
pub use transfer::Transfer;

use crate::backoff::roll;
use crate::https::{self, Address};
use settings::Settings;

/// Where the depot's settings are, and where bundles go.
#[derive(Debug, Clone)]
pub struct Depot {
    /// Directory with `addresses` (one https URL per line) and `ca.crt`.
    pub dir: PathBuf,
    /// The token that the depot accepts.
    pub token_file: PathBuf,
    /// Where a bundle stays while it is being fetched.
    pub work_dir: PathBuf,
    /// How long an address may be silent.
    pub patience: Duration,
}

/// A transfer that came to its end.
#[derive(Debug)]
pub struct Fetched {
    /// What should be the bundle.
    pub file: File,
    /// Who says so.
    pub from: Address,
}

/// A transfer that did not come to its end.
#[derive(Debug)]
pub struct Interrupted {
    /// Why.
    pub error: DepotError,
    /// What has arrived so far, for the next try.
    pub transfer: Option<Transfer>,
}

/// An address that brought this much before it failed is worth asking again at once.
const PROGRESS: u64 = 64 * 1024;

impl Depot {
    /// Fetches a bundle, or what is still missing of it. Every address has a chance.
    pub async fn fetch(&self, bundle: Digest, begun: Option<Transfer>) -> Result<Fetched, Interrupted> {
        let mut transfer = match begun.map_or_else(|| self.begin(), Ok) {
            Ok(transfer) => transfer,
            Err(error) => return Err(Interrupted { error, transfer: None }),
        };
        match self.fetch_into(bundle, &mut transfer).await {
            Ok(from) => match transfer.finish() {
                Ok(file) => Ok(Fetched { file, from }),
                Err(source) => Err(Interrupted { error: self.work(source), transfer: None }),
            },
            Err(error) => Err(Interrupted { error, transfer: Some(transfer) }),
        }
    }

    /// Asks about, or tells of, the kernel that runs here. Every address has a chance; the status is the first's that
    /// decides, for of several replicas only one leads.
    pub async fn about_kernel(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<StatusCode, DepotError> {
        let settings = Settings::read(&self.dir, &self.token_file)?;
        let mut worst = DepotError::NoAddress { path: self.dir.join(settings::ADDRESSES) };
        for address in &settings.addresses {
            let mut request = Request::new(Full::new(body.clone()));
            *request.method_mut() = method.clone();
            *request.uri_mut() = Uri::try_from(path).unwrap_or_default();
            request.headers_mut().insert(AUTHORIZATION, settings.token.clone());
            match https::ask(address, Arc::clone(&settings.tls), request, self.patience).await {
                Ok(response) if response.status().is_server_error() => {
                    worst = DepotError::Status { address: address.clone(), status: response.status() };
                }
                Ok(response) => return Ok(response.status()),
                Err(error) => worst = error.into(),
            }
        }
        Err(worst)
    }

    fn begin(&self) -> Result<Transfer, DepotError> {
        Transfer::begin(&self.work_dir).map_err(|source| self.work(source))
    }

    fn work(&self, source: std::io::Error) -> DepotError {
        DepotError::Work { path: self.work_dir.clone(), source }
    }

    async fn fetch_into(&self, bundle: Digest, transfer: &mut Transfer) -> Result<Address, DepotError> {
        let settings = Settings::read(&self.dir, &self.token_file)?;
        let mut addresses = settings.addresses.clone();
        // A thousand nodes shall not all begin with the first.
        let first = usize::try_from(roll()).unwrap_or_default() % addresses.len().max(1);
        addresses.rotate_left(first);
        let mut left = addresses.len();
        let mut worst: Option<DepotError> = None;
        for address in addresses.iter().cycle() {
            if left == 0 {
                break;
            }
            let before = transfer.length();
            match self.fetch_from(address, &settings, bundle, transfer).await {
                Ok(()) => return Ok(address.clone()),
                Err(error) => {
                    debug!(%address, error = %tenon_api::message::chain(&error), arrived = transfer.length(), "no bundle");
                    left = if transfer.length() >= before + PROGRESS { addresses.len() } else { left - 1 };
                    worst = Some(match worst {
                        Some(known) if known.weight() > error.weight() => known,
                        _ => error,
                    });
                }
            }
        }
        Err(worst.unwrap_or_else(|| DepotError::NoAddress { path: self.dir.join(settings::ADDRESSES) }))
    }

    async fn fetch_from(
        &self,
        address: &Address,
        settings: &Settings,
        bundle: Digest,
        transfer: &mut Transfer,
    ) -> Result<(), DepotError> {
        let request = transfer.request(bundle, &settings.token);
        let asked = https::ask(address, Arc::clone(&settings.tls), request, self.patience).await?;
        let response = classify(address, asked)?;
        if let Err(source) = transfer.expect(&response) {
            // What has arrived does not go with what comes: begin again next time.
            transfer.restart();
            return Err(DepotError::Range { address: address.clone(), source });
        }
        self.receive(address, response.into_body(), transfer).await
    }

    async fn receive(
        &self,
        address: &Address,
        mut body: Incoming,
        transfer: &mut Transfer,
    ) -> Result<(), DepotError> {
        while let Some(bytes) = https::next_bytes(address, &mut body, self.patience).await? {
            if transfer.length() + bytes.len() as u64 > transfer::MAX_BYTES {
                return Err(DepotError::TooLarge { address: address.clone() });
            }
            transfer.append(&bytes).map_err(|source| self.work(source))?;
        }
        Ok(())
    }
}

fn classify(
    address: &Address,
    response: http::Response<Incoming>,
) -> Result<http::Response<Incoming>, DepotError> {
    let address = address.clone();
    match response.status() {
        StatusCode::OK | StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE => Ok(response),
        status @ (StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) => {
            let after = https::retry_after(response.headers(), std::time::SystemTime::now());
            Err(DepotError::Busy { address, status, after })
        }
        status => Err(DepotError::Status { address, status }),
    }
}
