//! What must be there after a load (`spec.moduleLoader.validation`): which paths to look for and when, and what was
//! found. Pure: what is there goes in.
//!
//! A path that has been there once since the load counts for as long as the load does, also when the agent starts anew:
//! what it has told of the load is remembered from its own status. So a device that goes and comes back while it is reset
//! takes no label from the node; it is reported.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use tenon_api::module::Validation;
use tenon_api::node_modules_config::{ModulePhase, NodeModuleStatus, NodeModulesConfigSpec};
use tenon_api::reasons;
use tenon_order::{ModuleKey, ModuleReport, NodeReport, Phase};

/// How often a path that is missing is looked for, at first and later: sysfs tells nobody what comes.
const EAGER: Duration = Duration::from_secs(1);
const PATIENT: Duration = Duration::from_secs(5);
/// For how long after the first look it is looked for eagerly.
const SOON: Duration = Duration::from_secs(15);
/// How often it is looked whether what was there still is.
const AT_REST: Duration = Duration::from_mins(5);

/// One load of a module: what was found after another counts no more.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Load {
    boot_id: String,
    bundle: String,
    /// In seconds since 1970, as the status has it.
    at: u64,
}

impl Load {
    fn of(module: &ModuleReport, report: &NodeReport) -> Option<Self> {
        let bundle = String::from(module.bundle?);
        Some(Self { boot_id: report.boot_id.clone(), bundle, at: module.loaded_at? / 1000 })
    }

    fn is_told_by(&self, told: &NodeModuleStatus) -> bool {
        let at = told.loaded_at.as_ref().and_then(|time| u64::try_from(time.0.as_second()).ok());
        told.boot_id.as_ref() == Some(&self.boot_id)
            && told.bundle.as_ref() == Some(&self.bundle)
            && at == Some(self.at)
    }
}

/// A load, and what must be there after it.
#[derive(Debug)]
pub(crate) struct Question<'a> {
    key: &'a ModuleKey,
    load: Load,
    validation: &'a Validation,
    /// What the status says of the same load.
    told: Option<&'a NodeModuleStatus>,
}

/// The loads after which something must be there.
pub(crate) fn questions<'a>(
    spec: &'a NodeModulesConfigSpec,
    report: &'a NodeReport,
    told: &'a [NodeModuleStatus],
) -> Vec<Question<'a>> {
    let of = |module: &'a ModuleReport| {
        let key = &module.key;
        let is_it = |namespace: &str, name: &str| namespace == key.namespace() && name == key.name();
        let wish = spec.modules.iter().find(|wish| is_it(&wish.namespace, &wish.name))?;
        let load = Load::of(module, report)?;
        let validation = wish.validation.as_ref()?;
        if module.phase != Phase::Loaded || wish.bundle.as_ref() != Some(&load.bundle) {
            return None;
        }
        let told = told.iter().find(|told| is_it(&told.namespace, &told.name) && load.is_told_by(told));
        Some(Question { key, load, validation, told })
    };
    report.modules.iter().filter_map(of).collect()
}

/// What was found of one load.
#[derive(Debug)]
struct Found {
    load: Load,
    /// Paths that have been there since.
    seen: BTreeSet<String>,
    /// Paths that were not there when it was looked last.
    absent: BTreeSet<String>,
    since: Instant,
    looked: Instant,
    is_late: bool,
}

impl Found {
    fn begin(question: &Question<'_>, now: Instant) -> Self {
        let told = question.told;
        Self {
            load: question.load.clone(),
            seen: told.map(|told| told.validated.iter().cloned().collect()).unwrap_or_default(),
            absent: BTreeSet::new(),
            since: now,
            looked: now,
            is_late: told.is_some_and(|told| told.reason.as_deref() == Some(reasons::VALIDATION_FAILED)),
        }
    }

    fn look(&mut self, validation: &Validation, there: &BTreeSet<String>, now: Instant) {
        let (mut present, absent): (BTreeSet<_>, _) =
            validation.paths.iter().cloned().partition(|path| there.contains(path));
        self.seen.append(&mut present);
        self.absent = absent;
        self.looked = now;
        let deadline = self.since + Duration::from_secs(validation.timeout());
        self.is_late = self.has_missing() && (self.is_late || now >= deadline);
    }

    fn has_missing(&self) -> bool {
        !self.absent.is_subset(&self.seen)
    }

    /// When to look again.
    fn due(&self, validation: &Validation, now: Instant) -> Instant {
        let is_known = |path: &String| self.seen.contains(path) || self.absent.contains(path);
        if !validation.paths.iter().all(is_known) {
            return now;
        }
        let after = match self.has_missing() {
            true if self.looked < self.since + SOON => EAGER,
            true => PATIENT,
            false => AT_REST,
        };
        self.looked + after
    }
}

/// What is to be said of a load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) phase: ModulePhase,
    /// Where the loader's own does not stand.
    pub(crate) reason: Option<(&'static str, String)>,
    /// The wished paths that have been there.
    pub(crate) validated: Vec<String>,
}

/// What was found of all loads.
#[derive(Debug, Default)]
pub struct Validations {
    found: BTreeMap<ModuleKey, Found>,
}

impl Validations {
    /// When to look next.
    pub(crate) fn due(&self, questions: &[Question<'_>], now: Instant) -> Option<Instant> {
        let due = |question: &Question<'_>| {
            self.of(question).map_or(now, |found| found.due(question.validation, now))
        };
        questions.iter().map(due).min()
    }

    /// It was looked for all the paths of these loads, and so many are there. What is known of other loads is forgotten.
    pub(crate) fn look(&mut self, questions: &[Question<'_>], there: &BTreeSet<String>, now: Instant) {
        let mut known = std::mem::take(&mut self.found);
        for question in questions {
            let found = known.remove(question.key).filter(|found| found.load == question.load);
            let mut found = found.unwrap_or_else(|| Found::begin(question, now));
            found.look(question.validation, there, now);
            self.found.insert(question.key.clone(), found);
        }
    }

    /// What is to be said of the load that a question is about.
    pub(crate) fn outcome(&self, question: &Question<'_>) -> Outcome {
        let Validation { paths, .. } = question.validation;
        let found = self.of(question);
        let seen = |path: &&String| match found {
            Some(found) => found.seen.contains(*path),
            None => question.told.is_some_and(|told| told.validated.contains(path)),
        };
        let (validated, missing): (Vec<_>, Vec<_>) = paths.iter().partition(seen);
        let gone: Vec<_> = validated
            .iter()
            .copied()
            .filter(|path| found.is_some_and(|f| f.absent.contains(*path)))
            .collect();
        let is_late = found.is_some_and(|found| found.is_late);
        let (phase, reason) = judge(question.validation, &missing, &gone, is_late);
        Outcome { phase, reason, validated: validated.into_iter().cloned().collect() }
    }

    fn of(&self, question: &Question<'_>) -> Option<&Found> {
        self.found.get(question.key).filter(|found| found.load == question.load)
    }
}

/// The question about this module.
pub(crate) fn about<'q, 'a>(questions: &'q [Question<'a>], key: &ModuleKey) -> Option<&'q Question<'a>> {
    questions.iter().find(|question| question.key == key)
}

/// The paths to look for.
pub(crate) fn paths(questions: &[Question<'_>]) -> BTreeSet<String> {
    questions.iter().flat_map(|question| question.validation.paths.iter().cloned()).collect()
}

fn judge(
    validation: &Validation,
    missing: &[&String],
    gone: &[&String],
    is_late: bool,
) -> (ModulePhase, Option<(&'static str, String)>) {
    let timeout = validation.timeout();
    if !missing.is_empty() && is_late {
        let message = format!(
            "the driver is loaded, and {} not there, {timeout} seconds after it was first looked for \
             (moduleLoader.validation)",
            are(missing)
        );
        return (ModulePhase::Unvalidated, Some((reasons::VALIDATION_FAILED, message)));
    }
    if !missing.is_empty() {
        let message = format!(
            "the driver is loaded, and {} not there yet; that is a failure after {timeout} seconds \
             (moduleLoader.validation)",
            are(missing)
        );
        return (ModulePhase::Unvalidated, Some((reasons::VALIDATING, message)));
    }
    let vanished = (!gone.is_empty()).then(|| {
        let message = format!("{} not there any more; after the load it was so", are(gone));
        (reasons::PATH_VANISHED, message)
    });
    (ModulePhase::Loaded, vanished)
}

fn are(paths: &[&String]) -> String {
    let names: Vec<_> = paths.iter().map(|path| path.as_str()).collect();
    format!("{} {}", names.join(", "), if names.len() == 1 { "is" } else { "are" })
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use tenon_api::node_modules_config::NodeModule;
    use tenon_order::{Digest, Generation, Reason};

    use super::*;

    const NODE: &str = "/dev/gauge0";
    const LINK: &str = "/sys/class/gauge/gauge0";

    fn spec(paths: &[&str]) -> NodeModulesConfigSpec {
        let validation = Validation {
            paths: paths.iter().map(|path| (*path).to_owned()).collect(),
            timeout_seconds: Some(20),
        };
        let entry = NodeModule {
            name: "gauge".to_owned(),
            namespace: "hall".to_owned(),
            bundle: Some(String::from(Digest::of(b"1"))),
            validation: Some(validation),
            ..NodeModule::default()
        };
        NodeModulesConfigSpec { modules: vec![entry], order: None }
    }

    fn report(loaded_at: u64) -> NodeReport {
        let module = ModuleReport {
            key: "hall/gauge".parse().unwrap(),
            phase: Phase::Loaded,
            reason: Reason::Loaded,
            message: String::new(),
            bundle: Some(Digest::of(b"1")),
            parameters: vec![],
            loaded_at: Some(loaded_at),
            modules: vec![],
            rolled_back: None,
        };
        NodeReport {
            store: "0123456789abcdef0123456789abcdef".parse().unwrap(),
            generation: Some(Generation(1)),
            boot_id: "boot-1".to_owned(),
            kernel: "6.1".to_owned(),
            key_ids: vec![],
            modules: vec![module],
        }
    }

    /// One node's life: what is there at which second, and what is said then.
    struct Life {
        spec: NodeModulesConfigSpec,
        report: NodeReport,
        told: Vec<NodeModuleStatus>,
        begun: Instant,
        known: Validations,
    }

    impl Life {
        fn new(paths: &[&str]) -> Self {
            let known = Validations::default();
            Self { spec: spec(paths), report: report(7_400), told: vec![], begun: Instant::now(), known }
        }

        fn look(&mut self, second: u64, there: &[&str]) -> (ModulePhase, Option<&'static str>) {
            let questions = questions(&self.spec, &self.report, &self.told);
            let there = there.iter().map(|path| (*path).to_owned()).collect();
            self.known.look(&questions, &there, self.begun + Duration::from_secs(second));
            let outcome = self.known.outcome(&questions[0]);
            (outcome.phase, outcome.reason.map(|(reason, _)| reason))
        }

        fn due(&self, second: u64) -> Duration {
            let now = self.begun + Duration::from_secs(second);
            let questions = questions(&self.spec, &self.report, &self.told);
            self.known.due(&questions, now).unwrap() - self.begun
        }

        /// The agent starts anew, and has its status to go by.
        fn restart(&mut self) {
            let outcome = self.known.outcome(&questions(&self.spec, &self.report, &self.told)[0]);
            self.told = vec![NodeModuleStatus {
                name: "gauge".to_owned(),
                namespace: "hall".to_owned(),
                boot_id: Some("boot-1".to_owned()),
                bundle: Some(String::from(Digest::of(b"1"))),
                loaded_at: Some(Time(Timestamp::from_second(7).unwrap())),
                reason: outcome.reason.map(|(reason, _)| reason.to_owned()),
                validated: outcome.validated,
                ..NodeModuleStatus::default()
            }];
            self.known = Validations::default();
        }
    }

    const READY: (ModulePhase, Option<&str>) = (ModulePhase::Loaded, None);
    const VALIDATING: (ModulePhase, Option<&str>) = (ModulePhase::Unvalidated, Some("Validating"));
    const FAILED: (ModulePhase, Option<&str>) = (ModulePhase::Unvalidated, Some("ValidationFailed"));
    const VANISHED: (ModulePhase, Option<&str>) = (ModulePhase::Loaded, Some("PathVanished"));

    #[test]
    fn what_is_there_at_once_is_never_waited_for() {
        let mut life = Life::new(&[NODE, LINK]);
        assert_eq!(life.due(0), Duration::ZERO, "before anything is said it is looked");
        assert_eq!(life.look(0, &[NODE, LINK]), READY);
        assert_eq!(life.due(1), AT_REST);
    }

    #[test]
    fn a_path_that_does_not_come_becomes_a_failure_and_ends_it_when_it_comes() {
        let mut life = Life::new(&[NODE, LINK]);
        assert_eq!(life.look(0, &[LINK]), VALIDATING);
        assert_eq!(life.due(0), EAGER);
        assert_eq!(life.look(19, &[LINK]), VALIDATING);
        assert_eq!(life.due(19), Duration::from_secs(19) + PATIENT);
        assert_eq!(life.look(20, &[LINK]), FAILED);
        assert_eq!(life.look(90, &[NODE]), VANISHED, "each was there once");
        assert_eq!(life.look(91, &[NODE, LINK]), READY);
    }

    #[test]
    fn the_message_names_what_is_missing_and_nothing_else() {
        let mut life = Life::new(&[NODE, LINK]);
        life.look(0, &[LINK]);
        let outcome = life.known.outcome(&questions(&life.spec, &life.report, &life.told)[0]);
        let (_, message) = outcome.reason.unwrap();
        assert!(message.contains(NODE) && !message.contains(LINK), "{message}");
        assert_eq!(outcome.validated, [LINK]);
    }

    #[test]
    fn what_vanishes_is_reported_and_withdraws_nothing() {
        let mut life = Life::new(&[NODE]);
        assert_eq!(life.look(0, &[NODE]), READY);
        assert_eq!(life.look(300, &[]), VANISHED);
        life.restart();
        assert_eq!(life.look(301, &[]), VANISHED, "also by an agent that has not seen it itself");
        assert_eq!(life.look(600, &[NODE]), READY);
    }

    #[test]
    fn a_failure_stays_one_when_the_agent_starts_anew() {
        let mut life = Life::new(&[NODE]);
        life.look(0, &[]);
        assert_eq!(life.look(20, &[]), FAILED);
        life.restart();
        assert_eq!(life.look(21, &[]), FAILED);
        assert_eq!(life.look(22, &[NODE]), READY);
    }

    #[test]
    fn another_load_and_another_wish_are_other_questions() {
        let mut life = Life::new(&[NODE]);
        assert_eq!(life.look(0, &[NODE]), READY);
        life.spec = spec(&[NODE, LINK]);
        assert_eq!(life.due(1), Duration::from_secs(1), "of the new path nothing is known");
        assert_eq!(life.look(1, &[NODE]), VALIDATING);
        life.spec = spec(&[NODE]);
        life.report = report(9_000);
        assert_eq!(life.look(2, &[]), VALIDATING, "it was loaded again");
    }

    #[test]
    fn what_is_not_loaded_as_wished_is_not_asked_about() {
        let (spec, mut report) = (spec(&[NODE]), report(1));
        report.modules[0].phase = Phase::InUse;
        assert!(questions(&spec, &report, &[]).is_empty());
        report.modules[0].phase = Phase::Loaded;
        report.modules[0].bundle = Some(Digest::of(b"2"));
        assert!(questions(&spec, &report, &[]).is_empty());
    }
}
