//! Who the operator is: the keys that sign orders, and the certificate that the depot serves with.
//!
//! Both stand in Secrets that all replicas read and only a leader writes. They are looked at every minute, so that a
//! Secret that a user has replaced is taken up; when nothing has changed, nothing is written.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use kube::Client;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::admin::{Part, Readiness};
use crate::args::DepotUrl;
use crate::budget::Writes;
use crate::lease::{Claim, Leadership};
use crate::metrics::{Certificate, Metrics};

pub mod authority;
pub mod object;
pub mod order_keys;
pub mod serving;

use order_keys::{OrderKeyError, OrderKeys};
use serving::{ServingCertificate, ServingError};

const INTERVAL: Duration = Duration::from_mins(1);
const RETRY: Duration = Duration::from_secs(3);
/// One look, all its requests together.
const PATIENCE: Duration = Duration::from_secs(30);

/// The keys that sign orders, once they are there. The last good ones stay when the Secret becomes unreadable.
pub type OrderKeyHandle = watch::Receiver<Option<Arc<OrderKeys>>>;

/// Looks after keys and certificates.
pub struct Identity {
    /// The API server.
    pub client: Client,
    /// The operator's namespace.
    pub namespace: String,
    /// Where agents are told to find the depot.
    pub urls: Vec<DepotUrl>,
    /// Leave to write.
    pub writes: Writes,
    /// Whether this replica leads.
    pub claim: Claim,
    /// Where to say what is missing.
    pub readiness: Readiness,
    /// Where the keys go.
    pub keys: watch::Sender<Option<Arc<OrderKeys>>>,
    /// Where the certificate goes.
    pub certificate: Arc<ServingCertificate>,
    /// Where it is told until when certificates last.
    pub metrics: Arc<Metrics>,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity")
            .field("namespace", &self.namespace)
            .field("urls", &self.urls)
            .finish_non_exhaustive()
    }
}

/// What keeps one of them from being there.
#[derive(Debug, thiserror::Error)]
enum Missing {
    #[error(transparent)]
    OrderKey(#[from] OrderKeyError),
    #[error(transparent)]
    Serving(#[from] ServingError),
    #[error("the leader has not made it yet")]
    NotMade,
    #[error("the API server does not answer")]
    Silent,
}

impl Identity {
    /// Looks after them until `shutdown`.
    pub async fn run(self, shutdown: CancellationToken) {
        let mut leadership = self.claim.changes();
        loop {
            let key = self.looked_after(Part::OrderKey, self.order_keys()).await;
            let certificate = self.looked_after(Part::ServingCertificate, self.serving()).await;
            let pause = if key && certificate { INTERVAL } else { RETRY };
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
                () = changed(&mut leadership) => {}
            }
        }
    }

    async fn looked_after(&self, part: Part, look: impl Future<Output = Result<(), Missing>>) -> bool {
        match tokio::time::timeout(PATIENCE, look).await.unwrap_or(Err(Missing::Silent)) {
            Ok(()) => {
                self.readiness.ready(part);
                true
            }
            Err(Missing::NotMade) => {
                self.readiness.waiting(part, Missing::NotMade);
                false
            }
            Err(missing) => {
                error!(%part, error = &missing as &dyn Error, "keys or certificates need attention");
                self.readiness.waiting(part, missing);
                false
            }
        }
    }

    fn author(&self) -> Option<&Writes> {
        self.claim.is_current().then_some(&self.writes)
    }

    async fn order_keys(&self) -> Result<(), Missing> {
        let keys = order_keys::ensure(&self.client, &self.namespace, self.author())
            .await?
            .ok_or(Missing::NotMade)?;
        self.keys.send_if_modified(|held| {
            let same = held.as_ref().is_some_and(|held| held.published() == keys.published());
            if !same {
                info!(keys = ?keys.published().keys(), "orders are signed with these keys");
                *held = Some(Arc::new(keys));
            }
            !same
        });
        Ok(())
    }

    async fn serving(&self) -> Result<(), Missing> {
        let now = Timestamp::now().as_second();
        let serving = serving::ensure(&self.client, &self.namespace, &self.urls, now, self.author()).await?;
        let serving = serving.ok_or(Missing::NotMade)?;
        self.certificate
            .set(&serving.leaf)
            .map_err(|source| ServingError::Key { namespace: self.namespace.clone(), source })?;
        for (certificate, pair) in
            [(Certificate::Depot, &serving.leaf), (Certificate::Authority, &serving.authority)]
        {
            if let Ok(at) = pair.expires() {
                self.metrics.expires(certificate, at);
            }
        }
        Ok(())
    }
}

/// Waits for the next change of leadership; for ever when there will be none.
async fn changed(leadership: &mut watch::Receiver<Leadership>) {
    if leadership.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}
