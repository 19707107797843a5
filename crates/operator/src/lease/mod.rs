//! Which replica leads: a Lease in the operator's namespace, renewed by its holder.
//!
//! [`election`] decides, this file reads and writes. The task has its own client and its own deadlines, so that no
//! other work of the operator can keep it from renewing.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::{Api, ListParams, PostParams};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

pub mod election;
pub mod foreign;

mod claim;

pub use claim::{Claim, Leadership};
use claim::{ClaimWriter, moment};
use election::{Election, Intent, Timing};
use foreign::{Foreign, ForeignWatch, KMM_LEASE};

/// The Lease's name.
pub const LEASE: &str = "tenon-operator";

/// Why the election ended.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// The lease could not be renewed in time, or another replica has it.
    #[error(
        "leadership was lost: the Lease {namespace}/{LEASE} was not renewed in time or is another replica's"
    )]
    Lost {
        /// The operator's namespace.
        namespace: String,
    },
    /// KMM's operator is at work in this cluster.
    #[error(
        "KMM's operator is running: {holder:?} renews the Lease {namespace}/{KMM_LEASE}. Two operators must not share a \
         cluster: scale that Deployment to 0, then start Tenon again; nothing is unloaded meanwhile"
    )]
    Foreign {
        /// Where its lease is.
        namespace: String,
        /// Which pod holds it.
        holder: String,
    },
}

/// One look at the lease or one write of it went wrong; the next round tries again.
#[derive(Debug, thiserror::Error)]
enum RoundError {
    #[error("{verb} the lease")]
    Api { verb: &'static str, source: kube::Error },
    #[error("{verb} the lease: no answer in {} ms", after.as_millis())]
    Silent { verb: &'static str, after: Duration },
}

/// A replica that stands for election.
#[derive(Debug)]
pub struct Candidate {
    api: Api<Lease>,
    everywhere: Api<Lease>,
    namespace: String,
    me: String,
    timing: Timing,
    election: Election,
    /// The lease as we last wrote it: renewed without reading it first.
    ours: Option<Lease>,
    claim: ClaimWriter,
}

impl Candidate {
    /// A candidate named `identity` in `namespace`. `client` should answer or fail well within the lease's deadline.
    pub fn new(client: &Client, namespace: &str, identity: String, timing: Timing) -> (Candidate, Claim) {
        let (writer, claim) = ClaimWriter::new();
        let candidate = Candidate {
            api: Api::namespaced(client.clone(), namespace),
            everywhere: Api::all(client.clone()),
            namespace: namespace.to_owned(),
            election: Election::new(identity.clone(), timing),
            me: identity,
            timing,
            ours: None,
            claim: writer,
        };
        (candidate, claim)
    }

    /// Stands for election, leads, and gives the lease back once `release` is cancelled, when nothing is written any more.
    pub async fn run(mut self, release: CancellationToken) -> Result<(), LeaseError> {
        let ended = tokio::select! {
            biased;
            () = release.cancelled() => Ok(()),
            error = self.stand_and_lead() => Err(error),
        };
        self.claim.set(None);
        // Otherwise writes may be under way still: nobody else begins before the lease has run out.
        if ended.is_ok() {
            self.release().await;
        }
        ended
    }

    async fn stand_and_lead(&mut self) -> LeaseError {
        // One memory for both watches: a renewal between them is not missed.
        let mut foreign = ForeignWatch::default();
        if let Some(found) = self.await_no_foreign(&mut foreign).await {
            return found.into();
        }
        let namespace = self.namespace.clone();
        let (everywhere, interval) = (self.everywhere.clone(), self.timing.foreign_interval);
        tokio::select! {
            found = watch_foreign(&everywhere, &mut foreign, interval) => found.into(),
            () = self.elect() => LeaseError::Lost { namespace },
        }
    }

    /// Returns when leadership was lost.
    async fn elect(&mut self) {
        let mut led = false;
        loop {
            if let Err(error) = self.round().await {
                warn!(error = &error as &dyn std::error::Error, "the lease could not be looked after");
            }
            let until = self.election.leads_until().filter(|until| moment() < *until);
            if led && until.is_none() {
                return;
            }
            if !led && until.is_some() {
                info!(identity = self.me, "leading");
            }
            led = until.is_some();
            self.claim.set(until);
            let pause = until.map_or(self.timing.interval, |until| {
                self.timing.interval.min(until.saturating_sub(moment()))
            });
            tokio::time::sleep(pause).await;
        }
    }

    async fn round(&mut self) -> Result<(), RoundError> {
        if let Some(ours) = self.ours.take() {
            return self.write(Some(ours)).await;
        }
        let lease = self.timed("read", self.api.get_opt(LEASE)).await?;
        match self.observe(lease.as_ref()) {
            Intent::Claim | Intent::Renew => self.write(lease).await,
            Intent::Wait => {
                debug!("another replica leads");
                Ok(())
            }
        }
    }

    /// Writes our name into the lease, provided that it is still as `found`.
    async fn write(&mut self, found: Option<Lease>) -> Result<(), RoundError> {
        let absent = found.is_none();
        let wanted = claimed(found, &self.me, &self.timing, Timestamp::now());
        let sent = moment();
        let params = PostParams { field_manager: Some(LEASE.to_owned()), ..PostParams::default() };
        let written = if absent {
            self.timed("create", self.api.create(&params, &wanted)).await
        } else {
            self.timed("renew", self.api.replace(LEASE, &params, &wanted)).await
        };
        match written {
            Ok(lease) => {
                self.election.written(sent);
                if let Some(spec) = &lease.spec {
                    self.claim.saw(spec);
                }
                self.ours = Some(lease);
                Ok(())
            }
            // Somebody else was quicker, or only labelled it: the next look tells.
            Err(RoundError::Api { source: kube::Error::Api(status), .. })
                if status.is_conflict() || status.is_already_exists() || status.is_not_found() =>
            {
                self.look_again().await
            }
            Err(error) => Err(error),
        }
    }

    async fn look_again(&mut self) -> Result<(), RoundError> {
        let lease = self.timed("read", self.api.get_opt(LEASE)).await?;
        self.observe(lease.as_ref());
        Ok(())
    }

    fn observe(&mut self, lease: Option<&Lease>) -> Intent {
        let spec = lease.and_then(|lease| lease.spec.as_ref());
        if let Some(spec) = spec {
            self.claim.saw(spec);
        }
        self.election.observe(spec, moment())
    }

    /// Never waits beyond the end of our own leadership: others are told of its end in time.
    async fn timed<T>(
        &self,
        verb: &'static str,
        call: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<T, RoundError> {
        let left = self.election.leads_until().map(|until| until.saturating_sub(moment()));
        let after = left.unwrap_or(self.timing.deadline).min(self.timing.deadline / 2);
        match tokio::time::timeout(after, call).await {
            Ok(answer) => answer.map_err(|source| RoundError::Api { verb, source }),
            Err(_) => Err(RoundError::Silent { verb, after }),
        }
    }

    /// Gives the lease back, so that another replica need not wait.
    async fn release(&mut self) {
        let Some(mut lease) = self.held().await else { return };
        if let Some(spec) = &mut lease.spec {
            spec.holder_identity = None;
            spec.renew_time = Some(MicroTime(Timestamp::now()));
        }
        let params = PostParams { field_manager: Some(LEASE.to_owned()), ..PostParams::default() };
        match self.timed("release", self.api.replace(LEASE, &params, &lease)).await {
            Ok(_) => info!("gave the lease back"),
            Err(error) => {
                warn!(
                    error = &error as &dyn std::error::Error,
                    "another replica leads once the lease runs out"
                );
            }
        }
    }

    /// The lease, if it is ours. A renewal that was under way when the end came may have made it newer than we know.
    async fn held(&mut self) -> Option<Lease> {
        if let Some(ours) = self.ours.take() {
            return Some(ours);
        }
        self.election.leads_until()?;
        let lease = self.timed("read", self.api.get_opt(LEASE)).await.ok()??;
        let holder = lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref());
        (holder == Some(self.me.as_str())).then_some(lease)
    }

    /// Waits until it is certain that KMM's operator is not at work, or says that it is.
    async fn await_no_foreign(&self, watch: &mut ForeignWatch) -> Option<Foreign> {
        let started = moment();
        loop {
            match foreign_leases(&self.everywhere).await {
                Ok(leases) => {
                    if let Some(found) = watch.observe(&leases) {
                        return Some(found);
                    }
                    if watch.is_clear() || moment().saturating_sub(started) >= self.timing.foreign_patience {
                        return None;
                    }
                    debug!("a lease of KMM's operator is there; waiting to see whether it is renewed");
                }
                Err(error) => {
                    warn!(
                        error = &error as &dyn std::error::Error,
                        "cannot tell whether KMM's operator is at work"
                    );
                }
            }
            tokio::time::sleep(self.timing.interval).await;
        }
    }
}

impl From<Foreign> for LeaseError {
    fn from(found: Foreign) -> Self {
        LeaseError::Foreign { namespace: found.namespace, holder: found.holder }
    }
}

/// Returns when KMM's operator has come to life.
async fn watch_foreign(everywhere: &Api<Lease>, watch: &mut ForeignWatch, interval: Duration) -> Foreign {
    loop {
        match foreign_leases(everywhere).await {
            Ok(leases) => {
                if let Some(found) = watch.observe(&leases) {
                    return found;
                }
            }
            Err(error) => {
                warn!(
                    error = &error as &dyn std::error::Error,
                    "cannot tell whether KMM's operator is at work"
                );
            }
        }
        tokio::time::sleep(interval).await;
    }
}

/// KMM's leases in all namespaces. The field selector lets RBAC grant this for the one name.
async fn foreign_leases(everywhere: &Api<Lease>) -> Result<Vec<Lease>, kube::Error> {
    let selector = format!("metadata.name={KMM_LEASE}");
    Ok(everywhere.list(&ListParams::default().fields(&selector)).await?.items)
}

/// The lease in our name, everything else of `found` kept. The times are for people.
fn claimed(found: Option<Lease>, me: &str, timing: &Timing, now: Timestamp) -> Lease {
    let mut lease = found.unwrap_or_else(|| Lease {
        metadata: ObjectMeta { name: Some(LEASE.to_owned()), ..ObjectMeta::default() },
        spec: None,
    });
    let spec = lease.spec.get_or_insert_with(LeaseSpec::default);
    if spec.holder_identity.as_deref() != Some(me) {
        spec.holder_identity = Some(me.to_owned());
        spec.acquire_time = Some(MicroTime(now));
        spec.lease_transitions = Some(spec.lease_transitions.map_or(0, |count| count.saturating_add(1)));
    }
    spec.lease_duration_seconds = i32::try_from(timing.duration.as_secs()).ok();
    spec.renew_time = Some(MicroTime(now));
    lease
}
