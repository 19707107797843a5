//! What to do next. Pure: what happened goes in, the next step comes out; times are given, nothing is read or sent.
//!
//! The agent has two sides. From the API server comes the node's object with the order ([`Cycle::see`]); with the
//! loader there is at most one conversation at a time (`Connect`, `Tell`, `Supply`, `Apply`, …). Between them bundles
//! are fetched. Whatever ends, the caller says so by the method of that name and asks [`Cycle::next`] again: steps
//! towards the loader come first, then a look whether what must be there after a load is, then a status if there is something new to say,
//! then a rest.

mod loader;
mod report;
mod validation;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tenon_api::node_modules_config::{NodeModulesConfig, NodeModulesConfigStatus};
use tenon_order::wire::Refusal;
use tenon_order::{Digest, NodeReport};

use crate::backoff::{Backoff, Dice};
use crate::validation::Validations;
use crate::watch::Seen;

/// For how long the API server may be silent before the loader is told to do with what it has. Less than the loader's
/// own patience (10 s), so that its report comes as an answer.
const SILENCE: Duration = Duration::from_secs(8);
/// How often the loader is asked how things stand when nothing else is asked of it. Only on this machine, and the only
/// way to learn that it knows a new key, or that somebody unloaded a module.
const LOOK: Duration = Duration::from_mins(5);
/// The same while it knows no key at all: no order can be signed before.
const LOOK_FOR_KEYS: Duration = Duration::from_secs(10);
/// A connection that has lived for this long is no sign of a loader that keeps failing.
const STEADY: Duration = Duration::from_secs(10);
/// Tries to reach the loader.
const RECONNECT: Backoff = Backoff { first: Duration::from_millis(100), most: Duration::from_secs(5) };
/// Tries to bring an order that was refused for something that mends itself.
const REFUSED: Backoff = Backoff { first: Duration::from_secs(2), most: Duration::from_secs(30) };
/// Tries to fetch a bundle.
const FETCH: Backoff = Backoff { first: Duration::from_secs(1), most: Duration::from_secs(30) };
/// Tries to carry out what was hindered by something outside, such as a program that uses the module.
const HINDERED: Backoff = Backoff { first: Duration::from_secs(10), most: Duration::from_mins(5) };
/// Tries to write the status.
const WRITE: Backoff = Backoff { first: Duration::from_millis(200), most: Duration::from_secs(30) };

/// What to do next.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Connect to the loader and ask how things stand.
    Connect,
    /// Bring it this order.
    Tell(String),
    /// Bring it this bundle, which has arrived.
    Supply(Digest),
    /// Have it carry out what it holds.
    Apply,
    /// Have it do with what it holds: there is no order to be had.
    Silent,
    /// Ask how things stand.
    Look,
    /// Look which of these paths are there.
    Validate(BTreeSet<String>),
    /// Write this status.
    Write(Box<NodeModulesConfigStatus>),
    /// Wait until something happens.
    Rest(Rest),
}

/// What may go on meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rest {
    /// The bundle to be fetched. A transfer of any other is to be ended.
    pub fetch: Option<Digest>,
    /// When there will be something to do even if nothing happens.
    pub until: Option<Instant>,
}

/// All that is known.
#[derive(Debug)]
pub struct Cycle {
    started: Instant,
    /// The node's object.
    object: Option<Box<NodeModulesConfig>>,
    /// Whether the API server has answered since the start.
    answered: bool,
    link: Link,
    /// Since when there is a conversation with the loader.
    talking: Option<Instant>,
    told: Told,
    /// Whether something came to the loader since it was last asked to apply.
    unapplied: bool,
    report: Option<NodeReport>,
    /// The running kernel's GNU build-id, where it shows one.
    build_id: Option<String>,
    /// What was found of what must be there after loads.
    validations: Validations,
    refused: Option<Refused>,
    /// How often in a row an order could not be brought or carried out.
    refusals: u32,
    /// Bundles that the loader misses.
    fetches: BTreeMap<Digest, Fetch>,
    fetching: Option<Digest>,
    /// A bundle that was fetched and is to be brought to the loader.
    arrived: Option<Digest>,
    /// When to carry out the same order again.
    again: Option<Retry>,
    /// When the last conversation ended.
    talked: Instant,
    /// Whether the loader may know more keys than it reported.
    must_look: bool,
    write: Option<Retry>,
    dice: Dice,
}

#[derive(Debug)]
enum Link {
    Down {
        since: Instant,
        problem: String,
        retry: Retry,
    },
    /// `failures` are those before it.
    Up {
        since: Instant,
        failures: u32,
    },
}

/// What the loader at the other end of this connection was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    Nothing,
    Silence,
    Order(Digest),
}

#[derive(Debug)]
struct Refused {
    order: Digest,
    reason: Refusal,
    message: String,
    /// `None`: not before something changes.
    retry: Option<Retry>,
}

#[derive(Debug)]
struct Fetch {
    since: Instant,
    retry: Retry,
    /// What went wrong, and since when something does.
    trouble: Option<(Instant, String)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Retry {
    at: Instant,
    failures: u32,
}

impl Retry {
    fn now(now: Instant) -> Self {
        Self { at: now, failures: 0 }
    }

    /// After one more failure.
    fn after(before: Option<Self>, backoff: Backoff, now: Instant, dice: &mut Dice) -> Self {
        let failures = before.map_or(0, |retry| retry.failures).saturating_add(1);
        Self { at: now + backoff.delay(failures, dice.roll()), failures }
    }
}

impl Cycle {
    /// Nothing is known yet. `dice` spreads what is tried again, so that no two nodes do so together.
    pub fn new(now: Instant, dice: Dice) -> Self {
        let problem = "it has not answered yet".to_owned();
        Self {
            started: now,
            object: None,
            answered: false,
            link: Link::Down { since: now, problem, retry: Retry::now(now) },
            talking: None,
            told: Told::Nothing,
            unapplied: false,
            report: None,
            build_id: None,
            validations: Validations::default(),
            refused: None,
            refusals: 0,
            fetches: BTreeMap::new(),
            fetching: None,
            arrived: None,
            again: None,
            talked: now,
            must_look: false,
            write: None,
            dice,
        }
    }

    /// What to do next; `wall` is the time by the clock, for the status.
    pub fn next(&self, now: Instant, wall: Timestamp) -> Step {
        if let Some(step) = self.talk(now) {
            return step;
        }
        if let Some(paths) = self.paths_to_look_for(now) {
            return Step::Validate(paths);
        }
        if let Some(status) = self.status_to_write(now, wall) {
            return Step::Write(Box::new(status));
        }
        Step::Rest(Rest { fetch: self.wanted(now), until: self.wake(now) })
    }

    /// The kernel that runs here has this GNU build-id. It stays the same for as long as the process lives.
    pub fn runs(&mut self, build_id: Option<String>) {
        self.build_id = build_id;
    }

    /// The API server told of the node's object.
    pub fn see(&mut self, seen: Seen) {
        match seen {
            Seen::Nothing => {}
            Seen::Absent | Seen::Malformed => {
                self.answered = true;
                self.object = None;
            }
            Seen::Present(object) => {
                self.answered = true;
                if !self.object.as_ref().is_some_and(|known| is_older(&object, known)) {
                    self.object = Some(object);
                }
            }
        }
    }

    /// The object was read anew: this is how it is, whatever was known. Versions begin again further down when a cluster
    /// is restored from a backup.
    pub fn see_anew(&mut self, seen: Seen) {
        if let Seen::Present(_) = seen {
            self.object = None;
        }
        self.see(seen);
    }

    /// A transfer began.
    pub fn began_fetch(&mut self, bundle: Digest) {
        self.fetching = Some(bundle);
    }

    /// A transfer came to its end.
    pub fn fetched(&mut self, bundle: Digest) {
        self.fetching = None;
        self.arrived = Some(bundle);
    }

    /// A bundle could not be fetched, or was not what its name says.
    pub fn fetch_failed(&mut self, bundle: Digest, problem: String, after: Option<Duration>, now: Instant) {
        self.fetching = self.fetching.filter(|fetching| *fetching != bundle);
        self.arrived = self.arrived.filter(|arrived| *arrived != bundle);
        let Some(fetch) = self.fetches.get_mut(&bundle) else { return };
        let since = fetch.trouble.as_ref().map_or(now, |(since, _)| *since);
        fetch.trouble = Some((since, problem));
        fetch.retry = Retry::after(Some(fetch.retry), FETCH, now, &mut self.dice);
        // A busy depot says how long; who asks it at once and who a little later is left to chance.
        if let Some(after) = after {
            let delay = crate::backoff::spread(after, after + after / 2, self.dice.roll());
            fetch.retry.at = fetch.retry.at.max(now + delay);
        }
    }

    /// The object that is known.
    pub fn object(&self) -> Option<&NodeModulesConfig> {
        self.object.as_deref()
    }

    fn order(&self) -> Option<(&str, Digest)> {
        let order = self.object.as_ref()?.spec.order.as_deref()?;
        Some((order, Digest::of(order.as_bytes())))
    }

    /// The bundle to be fetched: the one that is on its way, or the first whose time has come.
    fn wanted(&self, now: Instant) -> Option<Digest> {
        if !matches!((&self.link, self.told), (Link::Up { .. }, Told::Order(_))) || self.arrived.is_some() {
            return None;
        }
        let on_its_way = self.fetching.filter(|bundle| self.fetches.contains_key(bundle));
        let due = || self.fetches.iter().find(|(_, fetch)| fetch.retry.at <= now);
        on_its_way.or_else(|| due().map(|(bundle, _)| *bundle))
    }

    /// When there will be something to do even if nothing happens.
    fn wake(&self, now: Instant) -> Option<Instant> {
        let link = match &self.link {
            Link::Down { retry, .. } => Some(retry.at),
            Link::Up { .. } => None,
        };
        let refused = self.refused.as_ref().and_then(|refused| refused.retry);
        let retries = [refused, self.again, self.write];
        let fetches = self.fetches.values().map(|fetch| fetch.retry.at);
        let silence = (!self.answered && self.told == Told::Nothing).then_some(self.started + SILENCE);
        [link, silence, Some(self.look_at()), self.quiet_until(), self.validation_due(now)]
            .into_iter()
            .chain(retries.map(|retry| retry.map(|retry| retry.at)))
            .flatten()
            .chain(fetches)
            // What is due already waits for something else to end.
            .filter(|at| *at > now)
            .min()
    }
}

/// Whether `new` is an earlier state of the object `known`: a watch may lag behind what a write has answered.
fn is_older(new: &NodeModulesConfig, known: &NodeModulesConfig) -> bool {
    let version = |object: &NodeModulesConfig| object.metadata.resource_version.as_ref()?.parse::<u64>().ok();
    let is_same = new.metadata.uid == known.metadata.uid;
    is_same && version(new).zip(version(known)).is_some_and(|(new, known)| new < known)
}

#[cfg(test)]
mod tests;
