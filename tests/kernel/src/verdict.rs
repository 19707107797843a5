//! What was predicted of a load against what the kernel did.

use std::collections::BTreeMap;

use tenon_kmod::facts::KernelFacts;
use tenon_kmod::failure::Errno;
use tenon_kmod::parameters::Parameter;
use tenon_kmod::predict::{
    Cause, Circumstances, Enforcement, LoadedModule, Prediction, Prerequisites, Verdict, predict_file,
};
use tenon_kmod::{ModuleName, ModuleObject};
use tenon_lab::trial::{Outcome, Tried};

use crate::cases::{Case, Sequence};

/// How a prediction stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// The kernel did what was predicted, to the number.
    Agreed,
    /// As predicted the kernel linked the module and called its init, which gave up by its own decision.
    Linked,
    /// It was said that it cannot be known, of a thing that no fact tells: whose key the kernel trusts, what a module's own
    /// function makes of a value.
    Open,
    /// The kernel did something else, or it was said that it cannot be known.
    Wrong,
}

/// One load, predicted and tried.
#[derive(Debug)]
pub struct Judged<'a> {
    /// The load.
    pub case: &'a Case,
    /// What was predicted.
    pub prediction: Prediction,
    /// What the kernel did.
    pub tried: &'a Tried,
    /// How the two compare.
    pub standing: Standing,
}

/// Predicts every load in the state in which the kernel met it, and compares.
pub fn judge<'a>(
    facts: &KernelFacts,
    enforcement: Enforcement,
    sequences: &'a [Sequence],
    outcomes: &'a [Outcome],
) -> Vec<Judged<'a>> {
    assert_eq!(sequences.len(), outcomes.len(), "an outcome for each sequence");
    let mut state = State { facts, enforcement, loaded: BTreeMap::new(), stays: Vec::new() };
    let mut judged = Vec::new();
    for (cases, outcome) in sequences.iter().zip(outcomes) {
        assert_eq!(cases.len(), outcome.tried.len(), "a result for each load");
        for (case, tried) in cases.iter().zip(&outcome.tried) {
            judged.push(state.meet(case, tried));
        }
        state.end(&outcome.left);
    }
    judged
}

/// What is loaded. That something is, is the kernel's word; what it is like, the prediction's.
struct State<'a> {
    facts: &'a KernelFacts,
    enforcement: Enforcement,
    loaded: BTreeMap<ModuleName, LoadedModule>,
    /// What would not go, from one sequence on to the end.
    stays: Vec<String>,
}

impl State<'_> {
    fn meet<'a>(&mut self, case: &'a Case, tried: &'a Tried) -> Judged<'a> {
        let circumstances = Circumstances {
            loaded: self.loaded.clone(),
            prerequisites: Prerequisites::AsListed,
            enforcement: self.enforcement,
            parameters: Parameter::parse_line(case.parameters).unwrap(),
            ..Circumstances::default()
        };
        let prediction = predict_file(&case.file, self.facts, &circumstances);
        let standing = compare(&prediction, tried);
        if let (0, Ok(module)) = (tried.errno, ModuleObject::parse(&case.file)) {
            let loaded = LoadedModule {
                exports: Some(module.exports.clone()),
                proprietary: prediction.proprietary,
                uncertain: false,
            };
            self.loaded.insert(module.name.clone(), loaded);
        }
        self.keep(&tried.loaded);
        Judged { case, prediction, tried, standing }
    }

    /// After a sequence: `left` is what it leaves behind, beside what those before it did.
    fn end(&mut self, left: &[String]) {
        self.stays.extend_from_slice(left);
        let stays = std::mem::take(&mut self.stays);
        self.keep(&stays);
        self.stays = stays;
    }

    fn keep(&mut self, listed: &[String]) {
        self.loaded.retain(|name, _| listed.iter().any(|other| name.matches(other)));
    }
}

fn compare(prediction: &Prediction, tried: &Tried) -> Standing {
    let init = init_returned(tried);
    match prediction.verdict {
        Verdict::Loads if tried.errno == 0 => Standing::Agreed,
        Verdict::Loads if init == Some(-tried.errno) => Standing::Linked,
        Verdict::Fails { errno: Errno(errno) } if errno == tried.errno && init.is_none() => Standing::Agreed,
        Verdict::Loads | Verdict::Fails { .. }
            if init.is_none() && is_about_a_key(prediction, tried.errno) =>
        {
            Standing::Open
        }
        Verdict::Unknown if prediction.reasons.iter().any(|reason| is_beyond_facts(&reason.cause)) => {
            Standing::Open
        }
        Verdict::Loads | Verdict::Fails { .. } | Verdict::Unknown => Standing::Wrong,
    }
}

/// The prediction says that the signature was not verified, and the kernel refused it: whoever demands signatures refuses
/// a stranger's before looking at anything else, and every kernel refuses what a trusted key has signed for another file.
fn is_about_a_key(prediction: &Prediction, errno: i32) -> bool {
    let refused = [Errno::EKEYREJECTED.0, Errno::EPERM.0].contains(&errno);
    refused && prediction.reasons.iter().any(|reason| reason.cause == Cause::SignatureUnverified)
}

fn is_beyond_facts(cause: &Cause) -> bool {
    matches!(cause, Cause::SignatureUnverified | Cause::ParameterNotChecked { .. } | Cause::TypesNotCompared)
}

/// What the module's init returned, by the kernel's word: `initcall_debug` makes it say `initcall f+0x0/0x9 [m] returned -19
/// after 12 usecs` (Linux, init/main.c). None when the kernel did not come that far.
fn init_returned(tried: &Tried) -> Option<i32> {
    let returned = |line: &String| {
        let (_, rest) = line.strip_prefix("initcall ")?.split_once("] returned ")?;
        rest.split(' ').next()?.parse().ok()
    };
    tried.log.iter().rev().find_map(returned)
}

#[cfg(test)]
mod tests {
    use tenon_kmod::KernelRelease;
    use tenon_kmod::predict::{Effect, Reason};

    use super::*;

    fn tried(errno: i32, log: &[&str]) -> Tried {
        Tried { errno, log: log.iter().map(ToString::to_string).collect(), loaded: vec![] }
    }

    fn predicted(verdict: Verdict) -> Prediction {
        Prediction { verdict, reasons: vec![], proprietary: None }
    }

    #[test]
    fn a_signature_that_was_not_verified_excuses_its_refusal_and_nothing_else() {
        let reasons = vec![Reason { cause: Cause::SignatureUnverified, effect: Effect::Note }];
        let signed = Prediction { reasons, ..predicted(Verdict::Loads) };
        assert_eq!(compare(&signed, &tried(129, &[])), Standing::Open);
        assert_eq!(compare(&signed, &tried(22, &[])), Standing::Wrong);
        assert_eq!(compare(&predicted(Verdict::Loads), &tried(129, &[])), Standing::Wrong);
    }

    #[test]
    fn what_would_not_go_once_is_there_to_the_end() {
        let facts =
            KernelFacts::new(KernelRelease::new("6.1.0").unwrap(), tenon_kmod::object::Architecture::Amd64);
        let enforcement = Enforcement::Permissive;
        let mut state = State { facts: &facts, enforcement, loaded: BTreeMap::new(), stays: Vec::new() };
        let there = |state: &State<'_>| state.loaded.keys().map(ToString::to_string).collect::<Vec<_>>();
        for (name, left, expected) in
            [("stuck", vec!["stuck".to_owned()], vec!["stuck"]), ("other", vec![], vec!["stuck"])]
        {
            state.loaded.insert(ModuleName::new(name).unwrap(), LoadedModule::default());
            state.end(&left);
            assert_eq!(there(&state), expected);
        }
    }

    #[test]
    fn only_the_same_number_for_the_same_cause_agrees() {
        let init = "initcall lab_init+0x0/0x1000 [lab] returned -22 after 7 usecs";
        let fails = predicted(Verdict::Fails { errno: Errno::EINVAL });
        assert_eq!(compare(&fails, &tried(22, &[])), Standing::Agreed);
        assert_eq!(compare(&fails, &tried(22, &[init])), Standing::Wrong, "it was linked");
        assert_eq!(compare(&fails, &tried(2, &[])), Standing::Wrong);
        assert_eq!(compare(&fails, &tried(0, &[])), Standing::Wrong);
        let loads = predicted(Verdict::Loads);
        assert_eq!(compare(&loads, &tried(0, &[])), Standing::Agreed);
        assert_eq!(
            compare(&loads, &tried(22, &["calling  lab_init+0x0/0x1000 [lab] @ 1", init])),
            Standing::Linked
        );
        assert_eq!(compare(&loads, &tried(22, &[])), Standing::Wrong);
        assert_eq!(compare(&predicted(Verdict::Unknown), &tried(0, &[])), Standing::Wrong);
    }
}
