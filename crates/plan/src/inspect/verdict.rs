//! One verdict: the modules that a Module wants of a bundle, in the order in which they would be loaded, against the facts
//! about one build of a kernel.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use tenon_api::module::Predicted;
use tenon_api::module_image::{
    KernelVerdict, MAX_REASONS, MAX_VERDICTS, ModuleImage, ModuleImageStatus, VerdictReason,
};
use tenon_api::{ShortMessage, reasons};
use tenon_kmod::dependency::{DependencyIndex, Origin, Role, Step};
use tenon_kmod::facts::KernelFacts;
use tenon_kmod::parameters::Parameter;
use tenon_kmod::predict::{
    Cause, Circumstances, Effect, Prediction, Reason, SignatureCheck, Verdict, predict,
};
use tenon_kmod::{ModuleName, ModuleObject};

use super::{Evidence, Question, Surroundings};
use crate::condition;
use crate::resolve::LoadSettings;

/// A module of a bundle.
#[derive(Debug, Clone)]
pub struct Driver {
    /// Its path in the bundle.
    pub path: String,
    /// What it is.
    pub object: ModuleObject,
    /// What its last signature is worth to a kernel that trusts the certificates in question.
    pub signature: SignatureCheck,
}

/// Facts about the kernel, or why there are none after all.
pub type Facts<'a> = Result<&'a KernelFacts, String>;

/// What is predicted of `drivers`, as `load` wants them, on the kernel of `facts`.
pub fn verdict(
    bundle: &str,
    drivers: &[Driver],
    load: &LoadSettings,
    evidence: &Evidence,
    facts: &Facts<'_>,
    around: &Surroundings,
) -> KernelVerdict {
    let outcome = match facts {
        Ok(facts) => foresee(drivers, load, facts, around),
        Err(why) => Outcome::unknown("FactsUnreadable", why.clone()),
    };
    KernelVerdict {
        build_id: evidence.build_id.clone(),
        result: outcome.result,
        errno: outcome.errno,
        reasons: outcome.reasons.into_iter().take(MAX_REASONS).collect(),
        source: evidence.source.to_string(),
        question: Question::new(bundle, load, evidence, around).into_text(),
    }
}

#[derive(Default)]
struct Outcome {
    result: Predicted,
    errno: Option<String>,
    reasons: Vec<VerdictReason>,
}

impl Outcome {
    fn unknown(reason: &str, message: impl Into<String>) -> Self {
        let reasons = vec![VerdictReason { reason: reason.to_owned(), message: ShortMessage::new(message) }];
        Self { result: Predicted::Unknown, errno: None, reasons }
    }
}

fn foresee(drivers: &[Driver], load: &LoadSettings, facts: &KernelFacts, around: &Surroundings) -> Outcome {
    let steps = match steps(drivers, load) {
        Ok(steps) => steps,
        Err(why) => return Outcome::unknown("NotOrdered", why),
    };
    let mut circumstances = Circumstances { enforcement: around.enforcement, ..Circumstances::default() };
    let mut outcome = Outcome { result: Predicted::Loads, ..Outcome::default() };
    for step in steps.iter().filter(|step| step.origin == Origin::Own) {
        let Some(Driver { path, object, signature }) = drivers.iter().find(|driver| driver.path == step.path)
        else {
            continue;
        };
        circumstances.signature = *signature;
        circumstances.parameters = if step.role == Role::Target { parameters(load) } else { Vec::new() };
        let prediction = predict(object, facts, &circumstances);
        circumstances.advance(object, &prediction);
        // What is loaded only if it can be, decides nothing.
        if step.role == Role::Soft {
            continue;
        }
        let result = result(&prediction, around.others);
        let about = (step.role != Role::Target).then_some(path.as_str());
        outcome.reasons.extend(told(&prediction, about));
        if outcome.result != Predicted::Fails && result != Predicted::Loads {
            outcome.result = result;
            if let (Predicted::Fails, Verdict::Fails { errno }) = (result, prediction.verdict) {
                outcome.errno =
                    Some(errno.describe().map_or_else(|| errno.to_string(), |(name, _)| name.to_owned()));
                // What comes after it is not reached.
                break;
            }
        }
    }
    outcome
}

/// What is loaded of the bundle and of the host, in order. What the bundle's modules need and it does not have is taken
/// to be the kernel's own; whether that is so, the symbols tell.
fn steps(drivers: &[Driver], load: &LoadSettings) -> Result<Vec<Step>, String> {
    let objects = drivers.iter().map(|driver| (driver.path.as_str(), &driver.object));
    let index = DependencyIndex::from_objects(objects).map_err(|error| error.to_string())?;
    let needed = drivers.iter().flat_map(|driver| driver.object.info.depends());
    let host: Vec<_> = needed.map(|name| format!("kernel/{name}.ko:")).collect();
    let host = DependencyIndex::from_modules_dep(&host.join("\n")).map_err(|error| error.to_string())?;
    let mut index = index.over(host);
    let names: Vec<_> =
        load.loading_order.iter().filter_map(|name| ModuleName::new(name.as_ref()).ok()).collect();
    index.add_loading_order(&names);
    let target = ModuleName::new(load.module.as_ref())
        .ok()
        .filter(|target| drivers.iter().any(|driver| driver.object.name == *target))
        .ok_or_else(|| format!("the image has no module {}", load.module))?;
    index.load_order(&target).map_err(|error| error.to_string())
}

fn parameters(load: &LoadSettings) -> Vec<Parameter> {
    load.parameters.iter().filter_map(|text| Parameter::parse(text).ok()).collect()
}

fn result(prediction: &Prediction, others: bool) -> Predicted {
    match prediction.verdict {
        Verdict::Loads => Predicted::Loads,
        Verdict::Unknown => Predicted::Unknown,
        Verdict::Fails { .. } => {
            let failing = |reason: &&Reason| matches!(reason.effect, Effect::Fails(_));
            let missing = |reason: &Reason| matches!(reason.cause, Cause::UnknownSymbol { .. });
            let only_missing = prediction.reasons.iter().filter(failing).all(missing);
            if others && only_missing { Predicted::Unknown } else { Predicted::Fails }
        }
    }
}

/// The reasons that count, those that decide first; `about` is the file, where it is not the one that was asked for.
fn told(prediction: &Prediction, about: Option<&str>) -> Vec<VerdictReason> {
    let weight = |effect: Effect| match effect {
        Effect::Fails(_) => 0,
        Effect::Unknown => 1,
        Effect::Note => 2,
    };
    let mut reasons: Vec<_> =
        prediction.reasons.iter().filter(|reason| reason.effect != Effect::Note).collect();
    reasons.sort_by_key(|reason| weight(reason.effect));
    reasons
        .into_iter()
        .map(|reason| {
            let file = about.map(|path| format!("{path}: ")).unwrap_or_default();
            let way_out = reason.way_out().map(|way| format!("; {way}")).unwrap_or_default();
            VerdictReason {
                reason: reason.name().to_owned(),
                message: ShortMessage::new(format!("{file}{reason}{way_out}")),
            }
        })
        .collect()
}

/// The facts that count for an image: of each build those from the best source. Sorted, and no more than a status holds.
pub fn best(mut evidence: Vec<Evidence>) -> Vec<Evidence> {
    evidence.sort();
    evidence.dedup_by(|later, earlier| later.build_id == earlier.build_id);
    evidence.truncate(MAX_VERDICTS);
    evidence
}

/// Whether verdicts answer these questions, each once and nothing else.
pub fn answer<'a>(
    verdicts: &[KernelVerdict],
    questions: impl IntoIterator<Item = &'a Question, IntoIter: ExactSizeIterator>,
) -> bool {
    let mut questions = questions.into_iter();
    verdicts.len() == questions.len()
        && questions.all(|question| verdicts.iter().any(|verdict| question.is_asked(&verdict.question)))
}

/// Puts verdicts into the status of an image, with the condition that sums them up.
pub fn report(
    image: &ModuleImage,
    mut status: ModuleImageStatus,
    verdicts: Vec<KernelVerdict>,
    now: &Time,
) -> ModuleImageStatus {
    let judged = ModuleImage {
        status: Some(ModuleImageStatus { verdicts: verdicts.clone(), ..ModuleImageStatus::default() }),
        ..image.clone()
    };
    let (result, verdict) = super::summary(&judged);
    let (truth, reason) = match result {
        Predicted::Loads => ("True", reasons::WILL_LOAD),
        Predicted::Fails => ("False", reasons::WILL_NOT_LOAD),
        Predicted::Unknown => ("Unknown", reasons::NOT_PREDICTED),
    };
    let message = match verdict {
        Some(verdict) => {
            let build = verdict.build_id.as_deref().map(|id| format!("build {id}: ")).unwrap_or_default();
            format!("{build}{}", super::sentence(verdict))
        }
        None => format!("no facts about kernel {} are known", image.spec.kernel),
    };
    let predicted = Condition {
        type_: reasons::condition::PREDICTED.to_owned(),
        status: truth.to_owned(),
        reason: reason.to_owned(),
        message: ShortMessage::new(message).into(),
        observed_generation: image.metadata.generation,
        last_transition_time: now.clone(),
    };
    let known = image.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    status.conditions.retain(|condition| condition.type_ != reasons::condition::PREDICTED);
    status.conditions.extend(condition::merge(known, vec![predicted]));
    status.verdicts = verdicts;
    status
}
