//! Why a bundle did not come.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use http::StatusCode;

use super::transfer::WrongRange;
use crate::https::{Address, AddressError, HttpsError};

/// Why a bundle did not come.
#[derive(Debug, thiserror::Error)]
pub enum DepotError {
    /// The conversation did not come to its end, or could not begin.
    #[error(transparent)]
    Https(#[from] HttpsError),
    /// The list of addresses is empty.
    #[error("{path} names no address of the depot: is the operator running?")]
    NoAddress {
        /// The file.
        path: PathBuf,
    },
    /// The list of addresses holds something else.
    #[error("read {path}")]
    Address {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: AddressError,
    },
    /// It has too much to do.
    #[error("{address} answered {status} and asks to be left alone for {} s", after.as_secs())]
    Busy {
        /// Who.
        address: Address,
        /// 429 or 503.
        status: StatusCode,
        /// For how long.
        after: Duration,
    },
    /// It does not give the bundle.
    #[error("{address} answered {status}: {}", meaning(*status))]
    Status {
        /// Who.
        address: Address,
        /// What.
        status: StatusCode,
    },
    /// It sends something else than was asked for.
    #[error("transfer from {address}")]
    Range {
        /// Who.
        address: Address,
        /// What is wrong.
        source: WrongRange,
    },
    /// It does not end.
    #[error("{address} sends more than a bundle may have")]
    TooLarge {
        /// Who.
        address: Address,
    },
    /// The node has no room.
    #[error("keep the bundle in {path}")]
    Work {
        /// Where.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

impl DepotError {
    /// How long to wait at least before the next try.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Busy { after, .. } => Some(*after),
            _ => None,
        }
    }

    /// Of several addresses' answers the heaviest is told: one that is busy will serve; one that refuses says more
    /// than one that is not there.
    pub(super) fn weight(&self) -> u8 {
        match self {
            Self::Busy { .. } => 2,
            Self::Status { .. } => 1,
            _ => 0,
        }
    }
}

fn meaning(status: StatusCode) -> &'static str {
    match status {
        StatusCode::UNAUTHORIZED => "it does not accept this pod's token",
        StatusCode::FORBIDDEN => "the operator has not assigned the bundle to this node",
        StatusCode::NOT_FOUND => "it cannot make the bundle: see the ModuleImage of the module",
        _ => "not what a depot says",
    }
}
