//! The side of the loader: what to ask it, and what its answers change.

use std::collections::BTreeMap;
use std::time::Instant;

use tenon_order::wire::Refusal;
use tenon_order::{Digest, ModuleReport, NodeReport, Phase, Reason};

use super::{
    Cycle, Fetch, HINDERED, LOOK, LOOK_FOR_KEYS, Link, RECONNECT, REFUSED, Refused, Retry, SILENCE, STEADY,
    Step, Told,
};

impl Cycle {
    /// The next thing to say to the loader, if it is not busy.
    pub(super) fn talk(&self, now: Instant) -> Option<Step> {
        if self.talking.is_some() {
            return None;
        }
        if let Link::Down { retry, .. } = &self.link {
            return (retry.at <= now).then_some(Step::Connect);
        }
        if let Some(order) = self.order_to_tell(now) {
            return Some(Step::Tell(order.to_owned()));
        }
        let is_over = self.answered || now >= self.started + SILENCE;
        if self.told == Told::Nothing && is_over {
            return Some(Step::Silent);
        }
        if let Some(bundle) = self.arrived {
            return Some(Step::Supply(bundle));
        }
        if self.unapplied {
            return Some(Step::Apply);
        }
        (self.must_look || self.look_at() <= now).then_some(Step::Look)
    }

    /// A conversation began.
    pub fn began_talk(&mut self, now: Instant) {
        self.talking = Some(now);
    }

    /// There is a connection, and this is how things stand.
    pub fn connected(&mut self, report: NodeReport, now: Instant) {
        self.ended_talk(now);
        let failures = match &self.link {
            Link::Down { retry, .. } => retry.failures,
            Link::Up { failures, .. } => *failures,
        };
        self.link = Link::Up { since: now, failures };
        self.told = Told::Nothing;
        self.refused = None;
        self.report = Some(report);
    }

    /// There is no connection, or none any more.
    pub fn lost(&mut self, problem: String, now: Instant) {
        self.talking = None;
        self.unapplied = false;
        self.arrived = None;
        self.fetching = None;
        self.again = None;
        let (since, before) = match &self.link {
            Link::Down { since, retry, .. } => (*since, *retry),
            Link::Up { since, .. } if now >= *since + STEADY => (now, Retry::now(now)),
            Link::Up { failures, .. } => (now, Retry { at: now, failures: *failures }),
        };
        let retry = match before.failures {
            // It may just be started anew.
            0 => Retry { at: now, failures: 1 },
            _ => Retry::after(Some(before), RECONNECT, now, &mut self.dice),
        };
        self.link = Link::Down { since, problem, retry };
    }

    /// The loader keeps the order; these bundles are missing.
    pub fn accepted(&mut self, order: Digest, missing: Vec<Digest>, now: Instant) {
        self.ended_talk(now);
        if self.told != Told::Order(order) {
            self.again = None;
        }
        self.told = Told::Order(order);
        self.refused = None;
        self.unapplied = true;
        let mut known = std::mem::take(&mut self.fetches);
        let begun = |bundle| {
            let fetch = known.remove(&bundle);
            (bundle, fetch.unwrap_or(Fetch { since: now, retry: Retry::now(now), trouble: None }))
        };
        self.fetches = missing.into_iter().map(begun).collect::<BTreeMap<_, _>>();
        self.arrived = self.arrived.filter(|bundle| self.fetches.contains_key(bundle));
    }

    /// The loader does not keep the order.
    pub fn refused(&mut self, order: Digest, reason: Refusal, message: String, now: Instant) {
        self.ended_talk(now);
        // Was it a key, then the loader has just looked for new ones, and the operator could use what it found.
        self.must_look = matches!(reason, Refusal::NoKeys | Refusal::Signature);
        self.again = None;
        self.refuse(order, reason, message, now);
    }

    /// The loader could not do what it was asked for, whatever that was.
    pub fn cannot_follow(&mut self, reason: Refusal, message: String, now: Instant) {
        self.ended_talk(now);
        self.unapplied = false;
        if self.told == Told::Nothing {
            self.told = Told::Silence;
        }
        self.must_look = false;
        if let Some((_, order)) = self.order() {
            self.refuse(order, reason, message, now);
        }
    }

    fn refuse(&mut self, order: Digest, reason: Refusal, message: String, now: Instant) {
        self.refusals = self.refusals.saturating_add(1);
        let failures = self.refusals - 1;
        let before = Some(Retry { at: now, failures });
        let retry = mends_itself(reason).then(|| Retry::after(before, REFUSED, now, &mut self.dice));
        self.refused = Some(Refused { order, reason, message, retry });
    }

    /// The loader has a bundle.
    pub fn supplied(&mut self, bundle: Digest, now: Instant) {
        self.ended_talk(now);
        self.arrived = None;
        self.fetches.remove(&bundle);
        self.unapplied = true;
    }

    /// The loader has done what it could.
    pub fn applied(&mut self, report: NodeReport, now: Instant) {
        self.ended_talk(now);
        self.unapplied = false;
        self.refusals = 0;
        let hindered = report.modules.iter().any(|module| self.is_hindered(module));
        self.again = hindered.then(|| Retry::after(self.again, HINDERED, now, &mut self.dice));
        self.report = Some(report);
    }

    /// The loader has loaded what it had.
    pub fn loaded_from_store(&mut self, report: NodeReport, now: Instant) {
        self.ended_talk(now);
        self.told = Told::Silence;
        self.report = Some(report);
    }

    /// The loader said how things stand.
    pub fn looked(&mut self, report: NodeReport, now: Instant) {
        self.ended_talk(now);
        let hindered = report.modules.iter().any(|module| self.is_hindered(module));
        if hindered && self.again.is_none() {
            self.again = Some(Retry::now(now));
        }
        self.must_look = false;
        self.report = Some(report);
    }

    fn ended_talk(&mut self, now: Instant) {
        self.talking = None;
        self.talked = now;
    }

    pub(super) fn look_at(&self) -> Instant {
        let has_keys = self.report.as_ref().is_none_or(|report| !report.key_ids.is_empty());
        self.talked + if has_keys { LOOK } else { LOOK_FOR_KEYS }
    }

    /// The order, if it is not the one that was told last or if it is to be told again.
    fn order_to_tell(&self, now: Instant) -> Option<&str> {
        let (order, digest) = self.order()?;
        let is_due = |retry: Option<Retry>| retry.is_some_and(|retry| retry.at <= now);
        let is_news = match &self.refused {
            Some(refused) if refused.order == digest => is_due(refused.retry),
            _ => self.told != Told::Order(digest) || is_due(self.again) && !self.unapplied,
        };
        is_news.then_some(order)
    }

    /// Whether another try may end differently although nobody changes the order.
    fn is_hindered(&self, module: &ModuleReport) -> bool {
        match module.phase {
            Phase::InUse => true,
            Phase::Failed => matches!(
                module.reason,
                Reason::Disappeared
                    | Reason::NotApplied
                    | Reason::InUse
                    | Reason::InTreeModuleInUse
                    | Reason::NoWayBack
                    | Reason::LoadPostponed
                    | Reason::ForeignModule
                    | Reason::FirmwareConflict
                    | Reason::FirmwarePathTaken
                    | Reason::FirmwarePathFailed
                    | Reason::InitFailed
                    | Reason::StoreFailed
            ),
            // The store lost what it said it had.
            Phase::WaitingForBundle => self.fetches.is_empty(),
            Phase::Loaded | Phase::RolledBack | Phase::Removed | Phase::Orphaned | Phase::CrashSuspected => {
                false
            }
        }
    }
}

/// Whether the same order may be accepted later.
fn mends_itself(reason: Refusal) -> bool {
    match reason {
        Refusal::NoKeys
        | Refusal::Signature
        | Refusal::StoreFailed
        | Refusal::WrongManifest
        | Refusal::NotWanted
        | Refusal::WrongDigest => true,
        Refusal::Malformed
        | Refusal::WrongNode
        | Refusal::WrongStore
        | Refusal::OlderGeneration
        | Refusal::SameGeneration => false,
    }
}
