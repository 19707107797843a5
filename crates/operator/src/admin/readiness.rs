//! What this replica still waits for before it can do its work.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// What has to be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// Everything that is watched has been listed once.
    Caches,
    /// The key that signs orders.
    OrderKey,
    /// The depot's certificate.
    ServingCertificate,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Part::Caches => "caches",
            Part::OrderKey => "order key",
            Part::ServingCertificate => "serving certificate",
        })
    }
}

/// Which parts are there. Clones share the state.
#[derive(Clone, Debug)]
pub struct Readiness(Arc<Mutex<BTreeMap<Part, Option<String>>>>);

impl Default for Readiness {
    fn default() -> Self {
        let all = [Part::Caches, Part::OrderKey, Part::ServingCertificate];
        Readiness(Arc::new(Mutex::new(
            all.into_iter().map(|part| (part, Some("not there yet".to_owned()))).collect(),
        )))
    }
}

impl Readiness {
    /// The part is there.
    pub fn ready(&self, part: Part) {
        self.set(part, None);
    }

    /// The part is missing, and why.
    pub fn waiting(&self, part: Part, reason: impl fmt::Display) {
        self.set(part, Some(reason.to_string()));
    }

    fn set(&self, part: Part, missing: Option<String>) {
        // A panic elsewhere leaves a map that is still whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(part, missing);
    }

    /// Whether everything is there, and one line per part.
    pub fn report(&self) -> (bool, String) {
        let parts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let lines = parts.iter().map(|(part, missing)| match missing {
            None => format!("{part}: ready\n"),
            Some(reason) => format!("{part}: {reason}\n"),
        });
        (parts.values().all(Option::is_none), lines.collect())
    }
}
