//! Will the drivers be there on a kernel that no node runs yet? Which images a PreflightValidation asks for, and what follows
//! for each Module from what became of them.
//!
//! A preflight is one more reason to want a Module's image for a kernel ([`crate::provision::Need`]); what is found, made and
//! inspected then is what nodes with that kernel would get. Nothing here speaks of nodes but their architectures, so nothing that
//! follows can touch one.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt as _;
use tenon_api::module::Predicted;
use tenon_api::module_image::{ImagePhase, ModuleImage, ModuleImageStatus};
use tenon_api::preflight_validation::{
    PreflightModule, PreflightValidation, PreflightValidationStatus, VerificationStage, VerificationStatus,
};
use tenon_api::{Module, ShortMessage, reasons};
use tenon_kmod::release::KernelRelease;

use crate::inspect;
use crate::provision::{self, Need, Target, making};
use crate::resolve::{ResolveError, Resolved, resolve};

/// What is assumed of a kernel whose name does not say it, where there is no node to tell.
const USUAL_ARCHITECTURE: &str = "amd64";

/// What kernels' names end in, and how Kubernetes calls that.
const MACHINES: [(&str, &str); 10] = [
    ("x86_64", "amd64"),
    ("amd64", "amd64"),
    ("aarch64", "arm64"),
    ("arm64", "arm64"),
    ("ppc64le", "ppc64le"),
    ("powerpc64le", "ppc64le"),
    ("s390x", "s390x"),
    ("riscv64", "riscv64"),
    ("loong64", "loong64"),
    ("loongarch64", "loong64"),
];

/// For which architectures a Module is looked at: as the preflight says; else as the kernel's name does; else as the nodes do that
/// the Module selects, or, where it selects none, all nodes.
pub fn architectures(
    preflight: &PreflightValidation,
    selected: impl IntoIterator<Item = String>,
    all: impl IntoIterator<Item = String>,
) -> BTreeSet<String> {
    let said = preflight.spec.architecture.clone().or_else(|| named(&preflight.spec.kernel_version));
    if let Some(architecture) = said {
        return [architecture].into();
    }
    let selected: BTreeSet<_> = selected.into_iter().collect();
    let found = if selected.is_empty() { all.into_iter().collect() } else { selected };
    if found.is_empty() { [USUAL_ARCHITECTURE.to_owned()].into() } else { found }
}

/// The architecture in a kernel's name: `5.14.0-570.el9.x86_64`, `6.1.0-57-cloud-amd64`, `5.14.0-570.el9.aarch64+64k`.
fn named(release: &str) -> Option<String> {
    release.rsplit(['.', '-', '+']).find_map(machine).map(str::to_owned)
}

fn machine(word: &str) -> Option<&'static str> {
    MACHINES.iter().find(|(machine, _)| *machine == word).map(|(_, name)| *name)
}

/// Whether a preflight still asks for anything.
pub fn is_live(preflight: &PreflightValidation) -> bool {
    preflight.metadata.deletion_timestamp.is_none()
}

/// Which images a preflight asks for, and why, on these architectures.
pub fn targets(preflight: &PreflightValidation, architectures: BTreeSet<String>) -> Vec<(Target, Need)> {
    let kernel: Option<KernelRelease> = preflight.spec.kernel_version.parse().ok();
    let Some(kernel) = kernel.filter(|_| is_live(preflight)) else { return Vec::new() };
    let need = if preflight.spec.push_built_image { Need::Foreseen } else { Need::Look };
    let target = |architecture| Target { kernel: kernel.clone(), architecture };
    architectures.into_iter().map(|architecture| (target(architecture), need)).collect()
}

/// A Module, what it has, and for which architectures it is looked at.
#[derive(Debug, Clone)]
pub struct View<'a> {
    /// The Module.
    pub module: &'a Module,
    /// Its images, for whatever kernels.
    pub images: Vec<&'a ModuleImage>,
    /// By [`architectures`].
    pub architectures: BTreeSet<String>,
}

/// The status of a preflight.
pub fn status(preflight: &PreflightValidation, views: &[View<'_>], now: &Time) -> PreflightValidationStatus {
    let known = preflight.status.as_ref().map(|status| status.modules.as_slice()).unwrap_or_default();
    let live = |view: &&View<'_>| view.module.metadata.deletion_timestamp.is_none();
    let mut modules: Vec<_> = views
        .iter()
        .filter(live)
        .map(|view| {
            let mut told = told(view, judge_all(preflight, view), now);
            let same = known.iter().find(|old| is_as_before(old, &told));
            if let Some(old) = same {
                told.last_transition_time.clone_from(&old.last_transition_time);
            }
            told
        })
        .collect();
    modules.sort_by(|one, other| (&one.namespace, &one.name).cmp(&(&other.namespace, &other.name)));
    while give_up_waiting(preflight, views, &mut modules) {}
    let old = modules.iter().map(|module| (format!("{}/{}", module.namespace, module.name), module.old()));
    let cr_statuses = old.collect();
    let count = |wanted: &dyn Fn(&PreflightModule) -> bool| {
        i32::try_from(modules.iter().filter(|module| wanted(module)).count()).unwrap_or(i32::MAX)
    };
    let of = |status| count(&|module| module.verification_status == status);
    let unpredicted = count(&is_unpredicted);
    let result = modules.iter().map(|module| module.verification_status).max();
    PreflightValidationStatus {
        result: Some(result.unwrap_or(VerificationStatus::Success)),
        message: Some(ShortMessage::new(summary(preflight, &modules))),
        observed_generation: preflight.metadata.generation,
        total: count(&|_| true),
        failed: of(VerificationStatus::Failure),
        in_progress: of(VerificationStatus::InProgress),
        unpredicted,
        modules,
        cr_statuses,
    }
}

/// Fails what waits for files of a Module that fails itself, or is not there; whether there was any.
fn give_up_waiting(
    preflight: &PreflightValidation,
    views: &[View<'_>],
    modules: &mut [PreflightModule],
) -> bool {
    let waits = |module: &PreflightModule| {
        module.verification_status == VerificationStatus::InProgress
            && module.reason.as_deref() == Some(reasons::WAITING_FOR_MODULE)
    };
    let lost = |waiting: &PreflightModule| -> Option<String> {
        let stands = |name: &String| {
            let is_it = |one: &&PreflightModule| one.namespace == waiting.namespace && one.name == *name;
            modules.iter().find(is_it).map(|one| one.verification_status)
        };
        let fails = |name: &String| matches!(stands(name), None | Some(VerificationStatus::Failure));
        let is_it = |view: &&View<'_>| {
            view.module.name_any() == waiting.name
                && view.module.namespace().as_ref() == Some(&waiting.namespace)
        };
        built_with(preflight, views.iter().find(is_it)?.module).into_iter().find(fails)
    };
    let found = modules.iter().position(|module| waits(module) && lost(module).is_some());
    let Some((found, needed)) = found.and_then(|found| Some((found, lost(modules.get(found)?)?))) else {
        return false;
    };
    if let Some(module) = modules.get_mut(found) {
        module.verification_status = VerificationStatus::Failure;
        module.verification_stage = VerificationStage::Done;
        module.status_reason = Some(ShortMessage::new(format!(
            "verified image does not exist and build/sign failed: it is built with files of Module {needed}, which has no image for \
             this kernel either"
        )));
    }
    true
}

/// The Modules whose files a Module is built with for the preflight's kernel.
fn built_with(preflight: &PreflightValidation, module: &Module) -> Vec<String> {
    let kernel = preflight.spec.kernel_version.parse::<KernelRelease>().ok();
    let resolved = kernel.and_then(|kernel| resolve(module, &kernel).ok());
    let source = resolved.and_then(|resolved| resolved.build?.source);
    source.into_iter().flat_map(|source| source.artifacts).filter_map(|artifact| artifact.module).collect()
}

/// Whether a Module succeeds although nobody knows whether the kernel will load its driver.
pub fn is_unpredicted(module: &PreflightModule) -> bool {
    module.verification_status == VerificationStatus::Success && module.predicted == Some(Predicted::Unknown)
}

fn is_as_before(old: &PreflightModule, new: &PreflightModule) -> bool {
    (&old.namespace, &old.name) == (&new.namespace, &new.name)
        && (old.verification_status, old.verification_stage)
            == (new.verification_status, new.verification_stage)
}

/// All Modules in a sentence: what is worst first.
fn summary(preflight: &PreflightValidation, modules: &[PreflightModule]) -> String {
    let kernel = &preflight.spec.kernel_version;
    let names = |wanted: &dyn Fn(&&PreflightModule) -> bool| -> Vec<String> {
        let named = |module: &PreflightModule| format!("{}/{}", module.namespace, module.name);
        modules.iter().filter(wanted).map(named).collect()
    };
    let is_unpushed = |module: &PreflightModule| module.reason.as_deref() == Some(reasons::NOT_PUSHED);
    let failed = names(&|module| module.verification_status == VerificationStatus::Failure);
    let open = names(&|module| module.verification_status == VerificationStatus::InProgress);
    let unpredicted = names(&|module| is_unpredicted(module) && !is_unpushed(module));
    let unpushed = names(&|module| is_unpredicted(module) && is_unpushed(module));
    if modules.is_empty() {
        return "there is no Module, so there is nothing to verify".to_owned();
    }
    let mut parts = Vec::new();
    if !failed.is_empty() {
        parts.push(format!("on kernel {kernel} these drivers would be lost: {}", failed.join(", ")));
    }
    if !open.is_empty() {
        parts.push(format!("not decided yet: {}", open.join(", ")));
    }
    if !unpredicted.is_empty() {
        let whose = unpredicted.join(", ");
        parts.push(format!(
            "the image exists, and whether kernel {kernel} will load it is not known: {whose}"
        ));
    }
    if !unpushed.is_empty() {
        let whose = unpushed.join(", ");
        parts.push(format!(
            "made on trial and not pushed, so whether kernel {kernel} will load it is not known: {whose}"
        ));
    }
    if parts.is_empty() {
        return format!("on kernel {kernel} every Module has its driver");
    }
    parts.join("; ")
}

/// What is known of one Module on one architecture.
#[derive(Debug)]
struct Verdict {
    status: VerificationStatus,
    reason: String,
    message: String,
    image: Option<String>,
    architecture: Option<String>,
    predicted: Option<Predicted>,
    reasons: Vec<tenon_api::module_image::VerdictReason>,
}

impl Verdict {
    fn new(status: VerificationStatus, reason: &str, message: impl Into<String>) -> Self {
        Self {
            status,
            reason: reason.to_owned(),
            message: message.into(),
            image: None,
            architecture: None,
            predicted: None,
            reasons: Vec::new(),
        }
    }

    /// The worst first: what fails, what is open, what nobody can predict.
    fn weight(&self) -> Reverse<(VerificationStatus, bool)> {
        Reverse((self.status, self.predicted == Some(Predicted::Unknown)))
    }
}

fn told(view: &View<'_>, verdict: Verdict, now: &Time) -> PreflightModule {
    let done = verdict.status != VerificationStatus::InProgress;
    PreflightModule {
        name: view.module.name_any(),
        namespace: view.module.namespace().unwrap_or_default(),
        verification_status: verdict.status,
        verification_stage: if done { VerificationStage::Done } else { VerificationStage::Image },
        status_reason: Some(ShortMessage::new(verdict.message)),
        last_transition_time: now.clone(),
        reason: Some(verdict.reason),
        image: verdict.image,
        architecture: verdict.architecture,
        predicted: verdict.predicted,
        verdict: verdict.reasons,
    }
}

/// A Module on all its architectures: the worst of them.
fn judge_all(preflight: &PreflightValidation, view: &View<'_>) -> Verdict {
    let kernel: KernelRelease = match preflight.spec.kernel_version.parse() {
        Ok(kernel) => kernel,
        Err(error) => {
            let message = format!("spec.kernelVersion names no kernel: {error}");
            return Verdict::new(VerificationStatus::Failure, reasons::SPEC_INVALID, message);
        }
    };
    let resolved = match resolve(view.module, &kernel) {
        Ok(resolved) => resolved,
        Err(error) => return unresolved(&error),
    };
    let several = view.architectures.len() > 1;
    let verdicts = view.architectures.iter().map(|architecture| {
        let is_it = |image: &&&ModuleImage| {
            image.spec.kernel == kernel.as_str() && image.spec.architecture == *architecture
        };
        let image = view.images.iter().find(is_it).copied();
        let mut verdict = judge(view.module, &resolved, image);
        if several {
            verdict.message = format!("{}, on {architecture}", verdict.message);
        }
        verdict.image = Some(resolved.image.clone());
        verdict.architecture = Some(architecture.clone());
        verdict
    });
    let worst = verdicts.min_by_key(Verdict::weight);
    worst.unwrap_or_else(|| looked_for(&resolved))
}

fn unresolved(error: &ResolveError) -> Verdict {
    match error {
        ResolveError::NoModuleLoader => Verdict::new(
            VerificationStatus::Success,
            error.reason(),
            "nothing to verify: the Module has no moduleLoader",
        ),
        ResolveError::NoMapping(_) => {
            Verdict::new(VerificationStatus::Failure, error.reason(), format!("mapping not found: {error}"))
        }
        _ => Verdict::new(VerificationStatus::Failure, error.reason(), error.to_string()),
    }
}

fn in_progress(reason: &str, message: &str) -> Verdict {
    let message = format!("verification is not finished yet: {message}");
    Verdict::new(VerificationStatus::InProgress, reason, message)
}

fn looked_for(resolved: &Resolved) -> Verdict {
    in_progress(reasons::RESOLVING, &format!("{} is being looked for", resolved.image))
}

/// What became of the image of one architecture.
fn judge(module: &Module, resolved: &Resolved, image: Option<&ModuleImage>) -> Verdict {
    let current = |image: &&ModuleImage| provision::is_asked_for(image, module, resolved);
    let Some(image) = image.filter(current) else { return looked_for(resolved) };
    let about_it = |status: &&ModuleImageStatus| status.resolved_from == image.metadata.generation;
    let Some(status) = image.status.as_ref().filter(about_it) else { return looked_for(resolved) };
    match status.phase {
        None => looked_for(resolved),
        Some(ImagePhase::Ready) => there(module, image),
        Some(ImagePhase::Building | ImagePhase::Signing | ImagePhase::Waiting | ImagePhase::Failed) => {
            not_there(resolved, image, status)
        }
    }
}

/// The image is there: will the kernel load what is in it?
fn there(module: &Module, image: &ModuleImage) -> Verdict {
    let (predicted, verdict) = inspect::summary(image);
    let verdict = verdict.filter(|_| provision::bundle(image).is_some());
    let said = verdict.map(inspect::sentence).unwrap_or_default();
    let (status, reason, message) = match predicted {
        Predicted::Loads => {
            (VerificationStatus::Success, reasons::WILL_LOAD, format!("verified image exists, and {said}"))
        }
        Predicted::Fails => {
            let tried = match module.spec.inspection {
                Some(tenon_api::module::Inspection::Warn) => {
                    " (spec.inspection is Warn, so nodes will try it)"
                }
                _ => "",
            };
            let message = format!("verified image exists, but {said}{tried}");
            (VerificationStatus::Failure, reasons::WILL_NOT_LOAD, message)
        }
        Predicted::Unknown => {
            let why = match verdict {
                Some(_) => said,
                None => format!("no facts about kernel {} are known", image.spec.kernel),
            };
            let message = format!("verified image exists; whether the kernel will load it is unknown: {why}");
            (VerificationStatus::Success, reasons::NOT_PREDICTED, message)
        }
    };
    let reasons = verdict.map(|verdict| verdict.reasons.clone()).unwrap_or_default();
    Verdict { predicted: Some(predicted), reasons, ..Verdict::new(status, reason, message) }
}

/// What goes on by itself, and needs nobody.
const UNDER_WAY: [&str; 7] = [
    reasons::RESOLVING,
    reasons::QUEUED,
    reasons::WAITING_FOR_MODULE,
    reasons::PULLING,
    reasons::BUILDING,
    reasons::SIGNING,
    reasons::INSPECTING,
];

/// Failures of making an image, which does not exist then.
const NOT_MADE: [&str; 2] = [reasons::BUILD_FAILED, reasons::SIGN_FAILED];

/// The image is not there, or is of no use: is that the last word?
fn not_there(resolved: &Resolved, image: &ModuleImage, status: &ModuleImageStatus) -> Verdict {
    let reason = status.reason.as_deref().unwrap_or(reasons::RESOLVING);
    let message = status.message.as_ref().map(ToString::to_string).unwrap_or_default();
    let fails = |reason: &str, message: String| Verdict::new(VerificationStatus::Failure, reason, message);
    if UNDER_WAY.contains(&reason) {
        return in_progress(reason, &message);
    }
    if reason == reasons::NOT_PUSHED {
        return on_trial(resolved, image, &message);
    }
    let could_be_made = resolved.build.is_some() || resolved.sign.is_some();
    if reason == reasons::IMAGE_ABSENT && could_be_made && !making::can_be_made(image) {
        return fails(reasons::NOT_TRIED, not_tried(resolved));
    }
    let message = if reason == reasons::IMAGE_ABSENT {
        format!("verified image does not exist: {message}")
    } else if NOT_MADE.contains(&reason) || status.making.is_some() {
        format!("verified image does not exist and build/sign failed: {message}")
    } else {
        // It may exist, and be of no use.
        format!("verified image is not usable: {message}")
    };
    fails(reason, message)
}

/// It could be made, and nothing of it is left: what is in it nobody can look at.
fn on_trial(resolved: &Resolved, image: &ModuleImage, message: &str) -> Verdict {
    let what = if resolved.build.is_some() { "build" } else { "sign" };
    let message = format!(
        "verified {what} succeeded: {message}, because spec.pushBuiltImage is false; so it was not inspected, and whether kernel {} \
         will load it is unknown",
        image.spec.kernel
    );
    let verdict = Verdict::new(VerificationStatus::Success, reasons::NOT_PUSHED, message);
    Verdict { predicted: Some(Predicted::Unknown), ..verdict }
}

fn not_tried(resolved: &Resolved) -> String {
    let how = if resolved.build.is_some() { "built" } else { "signed" };
    format!(
        "verified image does not exist: {} would be {how} for a node with this kernel; whether that succeeds was not tried, because \
         nodes use that image for other kernels, and it would become another",
        resolved.image
    )
}

#[cfg(test)]
mod tests;
