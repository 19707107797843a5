//! The side of the status: whether there is something to write, and whether its time has come.
//!
//! In the good case a change is reported once, when it is done. So nothing is written while something is under way,
//! unless it takes so long, or is so troubled, that people will ask.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use tenon_api::node_modules_config::{NodeModulesConfig, NodeModulesConfigStatus};

use super::{Cycle, Link, Retry, Told, WRITE};
use crate::status::{self, Facts, Obstacle};
use crate::watch::Seen;

/// How long a loader may be away: it may just be started anew.
const UNREACHABLE: Duration = Duration::from_secs(10);
/// How long loading may take.
const WORKING: Duration = Duration::from_secs(30);
/// How long a transfer may take.
const FETCHING: Duration = Duration::from_secs(5);
/// How long a transfer may be in trouble.
const TROUBLED: Duration = Duration::from_secs(2);

impl Cycle {
    /// A status was written, and this is the object now.
    pub fn wrote(&mut self, object: Box<NodeModulesConfig>) {
        self.write = None;
        self.see(Seen::Present(object));
    }

    /// A status was not written; the object may have been read again ([`Cycle::see`]).
    pub fn write_failed(&mut self, now: Instant) {
        self.write = Some(Retry::after(self.write, WRITE, now, &mut self.dice));
    }

    /// What to write now, if anything.
    pub(super) fn status_to_write(&self, now: Instant, wall: Timestamp) -> Option<NodeModulesConfigStatus> {
        let object = self.object.as_ref()?;
        let is_early = |at: Option<Instant>| at.is_some_and(|at| now < at);
        if is_early(self.quiet_until()) || is_early(self.write.map(|retry| retry.at)) {
            return None;
        }
        let nothing = NodeModulesConfigStatus::default();
        let previous = object.status.as_ref().unwrap_or(&nothing);
        let bundles = self.fetches.iter().map(|(bundle, fetch)| {
            let on_its_way = || "the bundle is on its way from the depot".to_owned();
            (*bundle, fetch.trouble.as_ref().map_or_else(on_its_way, |(_, problem)| problem.clone()))
        });
        let new = status::compute(&Facts {
            spec: &object.spec,
            previous,
            report: self.report.as_ref(),
            build_id: self.build_id.as_deref(),
            obstacle: self.obstacle().as_ref(),
            bundles: &bundles.collect(),
            validations: &self.validations,
            now: wall,
        });
        status::differs(previous, &new).then_some(new)
    }

    /// Until when nothing is written, because what is under way will have come to its end by then.
    pub(super) fn quiet_until(&self) -> Option<Instant> {
        match (&self.link, self.talking) {
            (Link::Down { since, .. }, _) => return Some(*since + UNREACHABLE),
            (Link::Up { .. }, Some(since)) => return Some(since + WORKING),
            (Link::Up { .. }, None) => {}
        }
        if self.must_register() || !matches!(self.told, Told::Order(_)) {
            return None;
        }
        let patience = self.fetches.values().map(|fetch| {
            let slow = fetch.since + FETCHING;
            fetch.trouble.as_ref().map_or(slow, |(since, _)| slow.min(*since + TROUBLED))
        });
        patience.min()
    }

    /// Whether the operator has to know who the loader is before it can sign an order.
    fn must_register(&self) -> bool {
        let previous = self.object.as_ref().and_then(|object| object.status.clone()).unwrap_or_default();
        self.report.as_ref().is_some_and(|report| status::registration_differs(&previous, report))
    }

    fn obstacle(&self) -> Option<Obstacle> {
        if let Link::Down { problem, .. } = &self.link {
            return Some(Obstacle::Unreachable(problem.clone()));
        }
        if self.talking.is_some() {
            return Some(Obstacle::Working);
        }
        let (_, order) = self.order()?;
        let refused = self.refused.as_ref().filter(|refused| refused.order == order)?;
        Some(Obstacle::Refused { reason: refused.reason, message: refused.message.clone() })
    }
}
