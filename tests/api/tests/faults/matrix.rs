//! Which request of which stage meets which fault, and what must hold in every life all the same.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tenon_lab::faults::{Fault, Kind, Proxy, Rule, Seen};

use crate::life::{Life, Stage};
use crate::snapshot;
use crate::stand::Stand;

/// Equal requests within one second: more is a client that does not wait after a failure. Undisturbed, three are seen.
const MOST_PER_SECOND: usize = 6;

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

/// Lives the life number `index` with this fault; an error says at which point what went wrong.
pub(crate) async fn disturb(
    stand: &Stand,
    reference: &Reference,
    victim: Victim,
    fault: Fault,
    index: usize,
) -> Result<Outcome, String> {
    let begin = Instant::now();
    let name = format!("{}-{fault}-{index}x", if victim == Victim::Agent { "agent" } else { "operator" });
    let mut life = Life::new(stand, name.clone());
    let mut outcome = Outcome::default();
    let mut told = Ok(());
    for stage in Stage::ALL {
        let points = reference.points(stage);
        let point = points.get(index);
        told = strike(
            stand,
            reference,
            victim,
            &mut life,
            stage,
            point.map(|point| (point, fault)),
            &mut outcome,
        )
        .await
        .map_err(|error| match point {
            Some(point) => format!("{fault} at {stage:?}, {point}: {error}"),
            None => format!("{stage:?}, after {fault} in an earlier stage: {error}"),
        });
        if told.is_err() {
            break;
        }
    }
    if told.is_ok() {
        told = no_more_events(&life.events().await?, &reference.events);
    }
    victim.proxy(stand).disarm();
    life.end().await;
    outcome.took = begin.elapsed();
    told.map(|()| outcome)
}

/// One stage of a life.
async fn strike(
    stand: &Stand,
    reference: &Reference,
    victim: Victim,
    life: &mut Life<'_>,
    stage: Stage,
    point: Option<(&Point, Fault)>,
    outcome: &mut Outcome,
) -> Result<(), String> {
    let proxy = victim.proxy(stand);
    let (name, before) = (life.name.clone(), life.uids().await?);
    proxy.forget();
    if let Some((Point { request, nth }, fault)) = point {
        if victim == Victim::Agent {
            aim_at_agent(stand, life, request);
        }
        let request = request.clone();
        let matches = move |seen: &Seen| seen.kind == Kind::Write && shared_name(seen, &name) == request;
        proxy.arm(Rule::nth(*nth, matches, fault));
    }
    let played = life.play(stage).await;
    let journal = proxy.journal();
    if proxy.disarm() {
        outcome.struck += usize::from(point.is_some());
    } else {
        outcome.missed.extend(point.map(|(point, _)| format!("{stage:?}, {point}")));
    }
    played?;
    stand.operator.check()?;
    let found = snapshot::of(life.objects().await?, &life.name);
    let expected = reference.snapshots.get(&stage).map_or("", String::as_str);
    if found != expected {
        return Err(format!("it ends otherwise:\n{}", snapshot::difference(expected, &found)));
    }
    same_objects(&before, &life.uids().await?)?;
    if let Some((line, count)) = journal.busiest(Duration::from_secs(1)) {
        outcome.busiest = outcome.busiest.max(count);
        if count > MOST_PER_SECOND {
            return Err(format!("{count} requests within one second: {line}"));
        }
    }
    Ok(())
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

/// An event may be lost with the operator that was to tell it, but nothing is told twice.
fn no_more_events(found: &BTreeMap<String, u64>, expected: &BTreeMap<String, u64>) -> Result<(), String> {
    let more: Vec<_> = found
        .iter()
        .filter(|(about, times)| **times > expected.get(*about).copied().unwrap_or_default())
        .map(|(about, times)| format!("{about}: {times} times"))
        .collect();
    if more.is_empty() {
        Ok(())
    } else {
        Err(format!("events that an undisturbed life does not have: {more:?}"))
    }
}
