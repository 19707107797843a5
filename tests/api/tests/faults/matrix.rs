//! Which request of which stage meets which fault, and what must hold in every life all the same.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tenon_api::reasons::{REGISTRY_UNREACHABLE, event};
use tenon_lab::faults::{Fault, Frozen, Journal, Kind, Proxy, Rule, Seen};

use crate::life::{Life, Stage};
use crate::plot::Plot;
use crate::publishing::{self, Refusal};
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
    /// One request to the registry that publishes, or deletes, meets this.
    Publishing(Refusal),
    /// At the beginning of each stage the registry answers every request like this for a while.
    Outage(Refusal),
}

impl fmt::Display for Disturbance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Once(fault) => fault.fmt(f),
            Self::Writes(fault) => write!(f, "writes-{fault}"),
            Self::Everything(fault) => write!(f, "everything-{fault}"),
            Self::Stale(resource) => write!(f, "stale-{resource}"),
            Self::Publishing(refusal) => write!(f, "registry-{refusal}"),
            Self::Outage(refusal) => write!(f, "outage-{refusal}"),
        }
    }
}

impl Disturbance {
    /// What such a life takes on an idle machine. An agent waits for an answer for 15 s.
    pub(crate) fn cost(self, victim: Victim, plot: Plot) -> Duration {
        let more = match (self, victim) {
            (Self::Once(Fault::Swallow | Fault::Hush), Victim::Operator) => 18,
            (Self::Once(Fault::Swallow | Fault::Hush) | Self::Writes(_) | Self::Everything(_), _) => 74,
            (Self::Once(_) | Self::Publishing(_), _) => 0,
            (Self::Stale(_) | Self::Outage(_), _) => 14,
        };
        plot.cost() + Duration::from_secs(more)
    }

    /// All disturbances of a victim's lives, with how many lives each takes.
    pub(crate) fn all(victim: Victim, plot: Plot, reference: &Reference) -> Vec<(Self, usize)> {
        let publishing: &[_] = if plot.publishes() { &Refusal::ALL } else { &[] };
        let once = FAULTS.iter().map(|fault| (Self::Once(*fault), reference.lives()));
        let writes = [Fault::Answer(409, None), Fault::Answer(500, None), Fault::LoseAnswer, Fault::Swallow];
        let everything = [Fault::Answer(429, Some(1)), Fault::Answer(503, None), Fault::Swallow];
        let stale: &[_] = match victim {
            Victim::Operator => &["nodes", "modules", "moduleimages", "nodemodulesconfigs", "jobs"],
            Victim::Agent => &["nodemodulesconfigs"],
        };
        let stale_besides: &[_] =
            if plot == Plot::Plugin { &["daemonsets", "pods", "preflightvalidations"] } else { &[] };
        once.chain(writes.map(|fault| (Self::Writes(fault), 1)))
            .chain(everything.map(|fault| (Self::Everything(fault), 1)))
            .chain(stale.iter().chain(stale_besides).map(|resource| (Self::Stale(resource), 1)))
            .chain(
                publishing.iter().map(|refusal| (Self::Publishing(*refusal), reference.publishing_lives())),
            )
            .chain(publishing.iter().map(|refusal| (Self::Outage(*refusal), 1)))
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
    pub(crate) request: String,
    pub(crate) nth: usize,
}

impl Point {
    /// The points of these requests.
    pub(crate) fn all(requests: impl Iterator<Item = String>) -> Vec<Self> {
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        let points = requests.map(|request| {
            let nth = counts.entry(request.clone()).or_default();
            *nth += 1;
            Self { request, nth: *nth }
        });
        points.collect()
    }
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} #{}", self.request, self.nth)
    }
}

/// A request by names that all lives share.
fn shared_name(seen: &Seen, life: &str) -> String {
    let request = seen.line().replace(life, "LIFE");
    // Names of events are random, and these others are hashes.
    for kind in ["/events/", "/jobs/", "/madeimages/", "/daemonsets/"] {
        if let Some((before, name)) = request.split_once(kind) {
            let part = name.split_once('/').map(|(_, part)| format!("/{part}")).unwrap_or_default();
            return format!("{before}{kind}*{part}");
        }
    }
    request
}

/// Whether a write belongs to one stage. When it is found that nothing needs an image any more is waited for where images are cleaned
/// up, and nowhere else.
fn is_of_some_stage(plot: Plot, request: &str) -> bool {
    plot == Plot::CleanedUp || !request.contains("/madeimages/*/status")
}

/// What an undisturbed life shows: everything that a disturbed one is measured by.
pub(crate) struct Reference {
    snapshots: BTreeMap<Stage, String>,
    events: BTreeMap<String, u64>,
    points: BTreeMap<Stage, Vec<Point>>,
    /// Requests to the registry.
    publishing: BTreeMap<Stage, Vec<Point>>,
    jobs: usize,
    publications: usize,
}

impl Reference {
    pub(crate) fn points(&self, stage: Stage) -> &[Point] {
        self.points.get(&stage).map_or(&[], Vec::as_slice)
    }

    pub(crate) fn publishing(&self, stage: Stage) -> &[Point] {
        self.publishing.get(&stage).map_or(&[], Vec::as_slice)
    }

    /// How many lives it takes to meet one fault at every point: each life has one point of each stage.
    pub(crate) fn lives(&self) -> usize {
        self.points.values().map(Vec::len).max().unwrap_or_default()
    }

    /// The same for the requests to the registry.
    pub(crate) fn publishing_lives(&self) -> usize {
        self.publishing.values().map(Vec::len).max().unwrap_or_default()
    }

    pub(crate) fn count(&self) -> usize {
        self.points.values().map(Vec::len).sum()
    }

    /// How often this was written in a stage.
    fn times(&self, stage: Stage, request: &str) -> usize {
        self.points(stage).iter().filter(|point| point.request == request).count()
    }

    /// Lives an undisturbed life.
    pub(crate) async fn take(stand: &Stand, victim: Victim, name: &str) -> Result<Self, String> {
        let mut life = Life::new(stand, name.to_owned());
        let mut reference = Self {
            snapshots: BTreeMap::new(),
            events: BTreeMap::new(),
            points: BTreeMap::new(),
            publishing: BTreeMap::new(),
            jobs: 0,
            publications: 0,
        };
        for stage in stand.plot.stages() {
            victim.proxy(stand).forget();
            let before = stand.registry.seen().len();
            life.play(*stage).await?;
            reference.snapshots.insert(*stage, snapshot::of(life.objects().await?, stand.plot, name));
            let journal = victim.proxy(stand).journal();
            let requests = journal.writes().map(|seen| shared_name(seen, name));
            let requests = requests.filter(|request| is_of_some_stage(stand.plot, request));
            reference.points.insert(*stage, Point::all(requests));
            if stand.plot.publishes() {
                let requests = publishing::requests(stand, before, name);
                reference.publishing.insert(*stage, Point::all(requests.into_iter()));
            }
        }
        life.check()?;
        reference.events = life.events().await?;
        reference.jobs = life.jobs_ever();
        reference.publications = life.publications();
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
    /// The most equal requests within one second, and which.
    pub(crate) busiest: (usize, String),
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
    // Short enough for labels that hold it to be spelled out.
    let name = format!("{}-{disturbance}-{index}x", if victim == Victim::Agent { "agent" } else { "op" });
    let mut play =
        Play { stand, reference, victim, life: Life::new(stand, name), outcome: Outcome::default() };
    let mut told = Ok(());
    for stage in stand.plot.stages().iter().copied() {
        let point = match disturbance {
            Disturbance::Once(_) => reference.points(stage).get(index),
            Disturbance::Publishing(_) => reference.publishing(stage).get(index),
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
        let deaths = stand.operator.kills() - kills;
        told = nothing_twice(&life, reference, disturbance, deaths);
        if told.is_ok() {
            let deaths = u64::try_from(deaths).unwrap_or_default();
            let mut events = life.events().await?;
            if matches!(disturbance, Disturbance::Outage(_)) {
                events.retain(|about, _| !about.ends_with(REGISTRY_UNREACHABLE));
            }
            told = no_more_events(&events, &reference.events, deaths);
        }
    }
    clear_up(stand, victim.proxy(stand));
    life.end().await;
    outcome.took = begin.elapsed();
    told.map(|()| outcome)
}

/// The end of all disturbances; whether those that were to strike once have.
fn clear_up(stand: &Stand, proxy: &Proxy) -> bool {
    proxy.set_frozen(Frozen::Nothing);
    let hit = stand.registry.heal();
    proxy.disarm() && hit
}

/// No Job more than in the undisturbed life, and nothing published more often. What a pod has brought to an operator that died is
/// brought once more, and what a registry does not confirm is sent once more.
fn nothing_twice(
    life: &Life<'_>,
    reference: &Reference,
    disturbance: Disturbance,
    deaths: usize,
) -> Result<(), String> {
    let again = if life.stand.plot == Plot::Pulled { deaths } else { 0 };
    let jobs = life.jobs_ever();
    if jobs > reference.jobs + again {
        return Err(format!("{jobs} Jobs, not {}", reference.jobs));
    }
    let resent = matches!(disturbance, Disturbance::Publishing(_) | Disturbance::Outage(_));
    let publications = life.publications();
    if publications > reference.publications && !resent {
        return Err(format!("published {publications} times, not {}", reference.publications));
    }
    Ok(())
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
        let lasting = !matches!(disturbance, Disturbance::Once(_) | Disturbance::Publishing(_));
        let end = tokio::spawn({
            let (proxy, registry) = (proxy.clone(), self.stand.registry.clone());
            async move {
                if lasting {
                    tokio::time::sleep(WHILE).await;
                    proxy.set_frozen(Frozen::Nothing);
                    proxy.disarm();
                    registry.heal();
                }
            }
        });
        let played = self.life.play(stage).await;
        // A stage that came to rest before the disturbance was over has not been disturbed to its end.
        end.await.map_err(|error| error.to_string())?;
        let rested = if lasting { self.life.rest().await } else { Ok(()) };
        let journal = proxy.journal();
        let everything_hit = clear_up(self.stand, &proxy);
        let at_registry = usize::from(
            matches!(disturbance, Disturbance::Publishing(_)) && point.is_some() && everything_hit,
        );
        self.outcome.struck += journal.struck().count() + at_registry;
        if !everything_hit {
            self.outcome.missed.extend(point.map(|point| format!("{stage:?}, {point}")));
        }
        played?;
        rested?;
        self.check(stage, &before).await?;
        if matches!(disturbance, Disturbance::Once(_)) && self.victim == Victim::Operator {
            self.no_more_writes(stage, &journal)?;
        }
        if let Some((line, count)) = journal.busiest(Duration::from_secs(1)) {
            if count > MOST_PER_SECOND {
                return Err(format!("{count} requests within one second: {line}"));
            }
            if count > self.outcome.busiest.0 {
                self.outcome.busiest = (count, line);
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
            Disturbance::Publishing(refusal) => {
                let Some(point) = point else { return };
                publishing::aim(self.stand, &name, point, refusal);
            }
            Disturbance::Outage(refusal) => publishing::outage(self.stand, refusal),
        }
    }

    /// What is written of images and plugins is not written again and again.
    fn no_more_writes(&self, stage: Stage, journal: &Journal) -> Result<(), String> {
        let done = journal.writes().filter(|seen| seen.status.is_some_and(|status| status < 300));
        let requests = done.map(|seen| shared_name(seen, &self.life.name));
        let ours = |request: &String| {
            ["/jobs", "/moduleimages/", "/madeimages/", "/daemonsets/"]
                .iter()
                .any(|kind| request.contains(kind))
                && request.contains("LIFE")
                && is_of_some_stage(self.stand.plot, request)
        };
        let more: Vec<_> = Point::all(requests.filter(ours))
            .into_iter()
            .filter(|point| {
                point.nth > self.reference.times(stage, &point.request) + more_writes(&point.request)
            })
            .map(|point| point.to_string())
            .collect();
        if more.is_empty() { Ok(()) } else { Err(format!("written again and again: {more:?}")) }
    }

    /// What must be as in the undisturbed life.
    async fn check(&self, stage: Stage, before: &BTreeMap<String, String>) -> Result<(), String> {
        self.stand.operator.check()?;
        self.life.check()?;
        let found = snapshot::of(self.life.objects().await?, self.stand.plot, &self.life.name);
        let expected = self.reference.snapshots.get(&stage).map_or("", String::as_str);
        if found != expected {
            return Err(format!("it ends otherwise:\n{}", snapshot::difference(expected, &found)));
        }
        let after = self.life.uids().await?;
        // Who comes back has the image looked for anew, and nothing else.
        let looked_for_anew = |name: &String| stage == Stage::ComeBack && name.starts_with("ModuleImage ");
        let before = before.iter().filter(|(name, _)| !looked_for_anew(name));
        same_objects(before, &after)
    }
}

/// How often something may be written beside what is written in the undisturbed life: the write that met the fault is made once
/// more. Statuses tell besides of what is passing, as that a Job has no pod yet, if it is just then that somebody looks.
fn more_writes(request: &str) -> usize {
    const PASSING: usize = 3;
    if request.ends_with("/status") { 1 + PASSING } else { 1 }
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
fn same_objects<'o>(
    before: impl Iterator<Item = (&'o String, &'o String)>,
    after: &BTreeMap<String, String>,
) -> Result<(), String> {
    let other: BTreeSet<_> =
        before.filter(|(name, uid)| after.get(*name).is_some_and(|now| now != *uid)).collect();
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
