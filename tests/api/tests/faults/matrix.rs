//! Which request of which stage meets which fault, and what must hold in every life all the same.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tenon_api::reasons::event;
use tenon_lab::faults::{Fault, Frozen, Kind, Proxy, Rule, Seen};

use crate::life::{Life, Stage};
use crate::snapshot;
use crate::stand::Stand;

/// Equal requests within one second: more is a client that does not wait after a failure. Undisturbed, three are seen.
pub(crate) const MOST_PER_SECOND: usize = 6;

/// Every fault that a write can meet. What is not done and what is done without an answer are each met twice over: as a
/// broken connection, and as silence.
pub(crate) const FAULTS: [Fault; 11] = [
    Fault::KillBefore,
    Fault::KillAfter,
    Fault::Answer(409, None),
    Fault::Answer(429, Some(1)),
    Fault::Answer(500, None),
    Fault::Answer(503, None),
    Fault::LoseAnswer,
    Fault::Swallow,
    Fault::Hush,
    Fault::Twice,
    Fault::Delay(Duration::from_secs(1)),
];

/// For how long a disturbance lasts that is not over with one write.
const WHILE: Duration = Duration::from_secs(3);

/// How a life is disturbed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Disturbance {
    /// One write of each stage meets this fault.
    Once(Fault),
    /// At the beginning of each stage every write meets this fault for a while.
    Writes(Fault),
    /// At the beginning of each stage every request meets this fault for a while, and watches that are open are cut.
    Everything(Fault),
    /// At the beginning of each stage the watch of one resource says nothing for a while.
    Stale(&'static str),
}

impl fmt::Display for Disturbance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Once(fault) => fault.fmt(f),
            Self::Writes(fault) => write!(f, "writes-{fault}"),
            Self::Everything(fault) => write!(f, "everything-{fault}"),
            Self::Stale(resource) => write!(f, "stale-{resource}"),
        }
    }
}

impl Disturbance {
    /// What such a life takes on an idle machine. An agent waits for an answer for 15 s.
    pub(crate) fn cost(self, victim: Victim) -> Duration {
        Duration::from_secs(match (self, victim) {
            (Self::Once(Fault::Swallow | Fault::Hush), Victim::Operator) => 16,
            (Self::Once(Fault::Swallow | Fault::Hush) | Self::Writes(_) | Self::Everything(_), _) => 80,
            (Self::Once(_), _) => 6,
            (Self::Stale(_), _) => 20,
        })
    }

    /// All disturbances of a victim's lives, with how many lives each takes.
    pub(crate) fn all(victim: Victim, reference: &Reference) -> Vec<(Self, usize)> {
        let once = FAULTS.iter().map(|fault| (Self::Once(*fault), reference.lives()));
        let writes = [Fault::Answer(409, None), Fault::Answer(500, None), Fault::LoseAnswer, Fault::Swallow];
        let everything = [Fault::Answer(429, Some(1)), Fault::Answer(503, None), Fault::Swallow];
        let stale: &[_] = match victim {
            Victim::Operator => &["nodes", "modules", "moduleimages", "nodemodulesconfigs", "jobs"],
            Victim::Agent => &["nodemodulesconfigs"],
        };
        once.chain(writes.map(|fault| (Self::Writes(fault), 1)))
            .chain(everything.map(|fault| (Self::Everything(fault), 1)))
            .chain(stale.iter().map(|resource| (Self::Stale(resource), 1)))
            .collect()
    }
}

/// Whose requests meet faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Victim {
    /// The operator.
    Operator,
    /// The agent of the node that the request is about.
    Agent,
}

impl Victim {
    fn proxy(self, stand: &Stand) -> &Arc<Proxy> {
        match self {
            Self::Operator => &stand.proxy,
            Self::Agent => &stand.agents,
        }
    }
}

/// A write of a stage: what it is, by names that all lives share, and which of several such.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Point {
    request: String,
    nth: usize,
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} #{}", self.request, self.nth)
    }
}

/// A request by names that all lives share.
fn shared_name(seen: &Seen, life: &str) -> String {
    let request = seen.line().replace(life, "LIFE");
    // Events have random names.
    match request.split_once("/events/") {
        Some((before, _)) => format!("{before}/events/*"),
        None => request,
    }
}

/// What an undisturbed life shows: everything that a disturbed one is measured by.
pub(crate) struct Reference {
    snapshots: BTreeMap<Stage, String>,
    events: BTreeMap<String, u64>,
    points: BTreeMap<Stage, Vec<Point>>,
}

impl Reference {
    pub(crate) fn points(&self, stage: Stage) -> &[Point] {
        self.points.get(&stage).map_or(&[], Vec::as_slice)
    }

    /// How many lives it takes to meet one fault at every point: each life has one point of each stage.
    pub(crate) fn lives(&self) -> usize {
        Stage::ALL.map(|stage| self.points(stage).len()).into_iter().max().unwrap_or_default()
    }

    pub(crate) fn count(&self) -> usize {
        Stage::ALL.map(|stage| self.points(stage).len()).into_iter().sum()
    }

    /// Lives an undisturbed life.
    pub(crate) async fn take(stand: &Stand, victim: Victim, name: &str) -> Result<Self, String> {
        let mut life = Life::new(stand, name.to_owned());
        let mut reference =
            Self { snapshots: BTreeMap::new(), events: BTreeMap::new(), points: BTreeMap::new() };
        for stage in Stage::ALL {
            victim.proxy(stand).forget();
            life.play(stage).await?;
            reference.snapshots.insert(stage, snapshot::of(life.objects().await?, name));
            let mut counts: BTreeMap<String, usize> = BTreeMap::new();
            let journal = victim.proxy(stand).journal();
            let points = journal.writes().map(|seen| {
                let request = shared_name(seen, name);
                let nth = counts.entry(request.clone()).or_default();
                *nth += 1;
                Point { request, nth: *nth }
            });
            reference.points.insert(stage, points.collect());
        }
        reference.events = life.events().await?;
        life.end().await;
        Ok(reference)
    }
}

/// What one disturbed life came to.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) struck: usize,
    /// Points that this life did not come to, because an earlier write had done the work already.
    pub(crate) missed: Vec<String>,
    pub(crate) busiest: usize,
    pub(crate) took: Duration,
}

/// Lives the life number `index` of this disturbance; an error says at which point what went wrong.
pub(crate) async fn disturb(
    stand: &Stand,
    reference: &Reference,
    victim: Victim,
    disturbance: Disturbance,
    index: usize,
) -> Result<Outcome, String> {
    let (begin, kills) = (Instant::now(), stand.operator.kills());
    let name =
        format!("{}-{disturbance}-{index}x", if victim == Victim::Agent { "agent" } else { "operator" });
    let mut play =
        Play { stand, reference, victim, life: Life::new(stand, name), outcome: Outcome::default() };
    let mut told = Ok(());
    for stage in Stage::ALL {
        let point = match disturbance {
            Disturbance::Once(_) => reference.points(stage).get(index),
            _ => None,
        };
        let at = || point.map_or_else(|| format!("{stage:?}"), |point| format!("{stage:?}, {point}"));
        told = play
            .stage(stage, disturbance, point)
            .await
            .map_err(|error| format!("{disturbance} at {}: {error}", at()));
        if told.is_err() {
            break;
        }
    }
    let Play { life, mut outcome, .. } = play;
    if told.is_ok() {
        let deaths = u64::try_from(stand.operator.kills() - kills).unwrap_or_default();
        told = no_more_events(&life.events().await?, &reference.events, deaths);
    }
    clear_up(victim.proxy(stand));
    life.end().await;
    outcome.took = begin.elapsed();
    told.map(|()| outcome)
}

/// The end of all disturbances; whether those that were to strike once have.
fn clear_up(proxy: &Proxy) -> bool {
    proxy.set_frozen(Frozen::Nothing);
    proxy.disarm()
}

/// A disturbed life while it is lived.
struct Play<'s> {
    stand: &'s Stand,
    reference: &'s Reference,
    victim: Victim,
    life: Life<'s>,
    outcome: Outcome,
}

impl Play<'_> {
    async fn stage(
        &mut self,
        stage: Stage,
        disturbance: Disturbance,
        point: Option<&Point>,
    ) -> Result<(), String> {
        let before = self.life.uids().await?;
        let proxy = self.victim.proxy(self.stand).clone();
        proxy.forget();
        self.begin(disturbance, point);
        let lasting = !matches!(disturbance, Disturbance::Once(_));
        let end = tokio::spawn({
            let proxy = proxy.clone();
            async move {
                if lasting {
                    tokio::time::sleep(WHILE).await;
                    clear_up(&proxy);
                }
            }
        });
        let played = self.life.play(stage).await;
        // A stage that came to rest before the disturbance was over has not been disturbed to its end.
        end.await.map_err(|error| error.to_string())?;
        let rested = if lasting { self.life.rest().await } else { Ok(()) };
        let journal = proxy.journal();
        self.outcome.struck += journal.struck().count();
        if !clear_up(&proxy) {
            self.outcome.missed.extend(point.map(|point| format!("{stage:?}, {point}")));
        }
        played?;
        rested?;
        self.check(stage, &before).await?;
        if let Some((line, count)) = journal.busiest(Duration::from_secs(1)) {
            self.outcome.busiest = self.outcome.busiest.max(count);
            if count > MOST_PER_SECOND {
                return Err(format!("{count} requests within one second: {line}"));
            }
        }
        Ok(())
    }

    fn begin(&self, disturbance: Disturbance, point: Option<&Point>) {
        let (proxy, name) = (self.victim.proxy(self.stand), self.life.name.clone());
        match disturbance {
            Disturbance::Once(fault) => {
                let Some(Point { request, nth }) = point.cloned() else { return };
                if self.victim == Victim::Agent {
                    aim_at_agent(self.stand, &self.life, &request);
                }
                let matches =
                    move |seen: &Seen| seen.kind == Kind::Write && shared_name(seen, &name) == request;
                proxy.arm(Rule::nth(nth, matches, fault));
            }
            Disturbance::Writes(fault) => proxy.arm(Rule::every(|seen| seen.kind == Kind::Write, fault)),
            Disturbance::Everything(fault) => {
                proxy.arm(Rule::every(|_| true, fault));
                proxy.cut_watches();
            }
            Disturbance::Stale(resource) => proxy.set_frozen(Frozen::Resource(resource.to_owned())),
        }
    }

    /// What must be as in the undisturbed life.
    async fn check(&self, stage: Stage, before: &BTreeMap<String, String>) -> Result<(), String> {
        self.stand.operator.check()?;
        let found = snapshot::of(self.life.objects().await?, &self.life.name);
        let expected = self.reference.snapshots.get(&stage).map_or("", String::as_str);
        if found != expected {
            return Err(format!("it ends otherwise:\n{}", snapshot::difference(expected, &found)));
        }
        same_objects(before, &self.life.uids().await?)
    }
}

/// The agent that dies is that of the node in the request.
fn aim_at_agent(stand: &Stand, life: &Life<'_>, request: &str) {
    let request = request.replace("LIFE", &life.name);
    // When the nodes join there is no agent to aim at yet.
    if let Some(node) = life.nodes.iter().find(|node| request.contains(node.name())) {
        stand.agents.set_killer(node.agent_killer());
    }
}

/// What was there and is still there is the same.
fn same_objects(before: &BTreeMap<String, String>, after: &BTreeMap<String, String>) -> Result<(), String> {
    let other: BTreeSet<_> =
        before.iter().filter(|(name, uid)| after.get(*name).is_some_and(|now| now != *uid)).collect();
    if other.is_empty() { Ok(()) } else { Err(format!("made anew: {other:?}")) }
}

/// An event may be lost with the operator that was to tell it, but nothing is told twice. Only a node's label may come and
/// go once more for each death: its node was about to change, the label was away already, and the next operator has another
/// node change first, while this one serves with what it has.
fn no_more_events(
    found: &BTreeMap<String, u64>,
    expected: &BTreeMap<String, u64>,
    deaths: u64,
) -> Result<(), String> {
    let labels = [event::MODULE_LOADED, event::MODULE_UNLOADED];
    let allowed = |about: &String| {
        let once = expected.get(about).copied().unwrap_or_default();
        once + if labels.iter().any(|reason| about.ends_with(reason)) { deaths } else { 0 }
    };
    let more: Vec<_> = found
        .iter()
        .filter(|(about, times)| **times > allowed(about))
        .map(|(about, times)| format!("{about}: {times} times"))
        .collect();
    if more.is_empty() {
        Ok(())
    } else {
        Err(format!("events that an undisturbed life does not have: {more:?}"))
    }
}
