//! One ModuleImage per (Module, kernel, architecture), and what became of it: the second arrow. What exists is used; what does
//! not is made where the Module says how ([`making`]).

pub mod artifacts;
pub mod dockerfile;
pub mod job;
pub mod making;
pub mod pull;
pub mod toolkit;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, OwnerReference};
use kube::core::ObjectMeta;
use kube::{Resource, ResourceExt};
use tenon_api::module::RegistryTls;
use tenon_api::module_image::{
    BundleStatus, ImagePhase, Making, ModuleImage, ModuleImageSpec, ModuleImageStatus,
};
use tenon_api::{Module, ShortMessage, labels, reasons};
use tenon_kmod::release::KernelRelease;

use crate::condition;
use crate::resolve::{self, Resolved};

/// A kernel that a Module may need an image for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Target {
    /// The release.
    pub kernel: KernelRelease,
    /// The architecture, as Kubernetes names it.
    pub architecture: String,
}

/// Why a kernel's image is needed; of several reasons the last of these counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Need {
    /// A preflight asks whether it is there, or could be made. It is published nowhere.
    Look,
    /// A preflight asks to have it made and published.
    Foreseen,
    /// Some node of the Module runs the kernel.
    Node,
}

/// What is to be done with a Module's images.
#[derive(Debug, Default, PartialEq)]
pub struct Images {
    /// Made or changed.
    pub apply: Vec<ModuleImage>,
    /// Needed by nobody any more.
    pub delete: Vec<ModuleImage>,
}

/// Compares the images that `module` needs for `targets` with those it has.
///
/// An image whose kernel has left the cluster, and that no preflight asks for, goes; one whose kernel does not resolve any more
/// (its mapping was removed) goes too, for nothing will be loaded from it.
pub fn images(module: &Module, targets: &BTreeMap<Target, Need>, existing: &[&ModuleImage]) -> Images {
    let mut needed: Vec<(Need, ModuleImage)> = targets
        .iter()
        .filter(|_| module.metadata.deletion_timestamp.is_none())
        .filter_map(|(target, need)| {
            let resolved = resolve::resolve(module, &target.kernel).ok()?;
            Some((*need, image(module, target, resolved)))
        })
        .collect();
    confine(&mut needed);
    let mut wanted = needed.into_iter().map(|(_, image)| (image.name_any(), image)).collect();
    share_files(&mut wanted);
    let current = |name: &str| existing.iter().find(|image| image.name_any() == name);
    Images {
        delete: existing
            .iter()
            .filter(|image| !wanted.contains_key(&image.name_any()))
            .filter(|image| image.metadata.deletion_timestamp.is_none())
            .map(|image| (*image).clone())
            .collect(),
        apply: wanted
            .into_iter()
            .filter(|(name, image)| current(name).is_none_or(|known| known.spec != image.spec))
            .map(|(name, mut image)| {
                // What is changed is the object that was seen, not another of its name.
                if let Some(known) = current(&name) {
                    image.metadata.uid.clone_from(&known.metadata.uid);
                    image.metadata.resource_version.clone_from(&known.metadata.resource_version);
                }
                image
            })
            .collect(),
    }
}

/// What a preflight asks for is published only where one asks for that, and nothing that nodes use depends on it: an image that
/// they share would become another, for a kernel that they do not run.
fn confine(needed: &mut [(Need, ModuleImage)]) {
    let names = |wanted: Need| -> BTreeSet<String> {
        let of_it = needed.iter().filter(|(need, _)| *need == wanted);
        of_it.map(|(_, image)| image.spec.image.clone()).collect()
    };
    let (of_nodes, published) = (names(Need::Node), names(Need::Foreseen));
    for (need, ModuleImage { spec, .. }) in needed {
        if *need != Need::Node && of_nodes.contains(&spec.image) {
            (spec.build, spec.sign) = (None, None);
        }
        let could_be_made = spec.build.is_some() || spec.sign.is_some();
        // One that is published for another kernel is there then.
        spec.trial = *need == Need::Look && could_be_made && !published.contains(&spec.image);
    }
}

/// The most files that are signed in an image (`maxItems` of `sign.filesToSign`).
const MAX_FILES: usize = 128;

/// Kernels that share an image share what is signed in it: made for one of them alone, it would lack the others' modules.
fn share_files(images: &mut BTreeMap<String, ModuleImage>) {
    let mut shared: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for ModuleImage { spec, .. } in images.values() {
        let files = spec.sign.iter().flat_map(|sign| sign.files_to_sign.iter().cloned());
        shared.entry(spec.image.clone()).or_default().extend(files);
    }
    for ModuleImage { spec, .. } in images.values_mut() {
        // More than an object may hold are not shared: what each kernel wants is then another image, which is said of each.
        let shared = shared.get(&spec.image).filter(|files| files.len() <= MAX_FILES);
        if let Some((sign, files)) = spec.sign.as_mut().zip(shared) {
            sign.files_to_sign = files.iter().cloned().collect();
        }
    }
}

fn image(module: &Module, target: &Target, resolved: Resolved) -> ModuleImage {
    let kernel = target.kernel.to_string();
    let name = ModuleImage::name_for(&module.name_any(), &kernel, &target.architecture);
    let tls = resolved.registry_tls;
    ModuleImage {
        metadata: ObjectMeta {
            name: Some(name),
            namespace: module.namespace(),
            owner_references: module.controller_owner_ref(&()).map(|owner| {
                // The finalizer orders the deletion; there is nothing to block.
                vec![OwnerReference { block_owner_deletion: None, ..owner }]
            }),
            labels: Some(
                [(labels::MODULE_NAME.to_owned(), labels::value(&module.name_any()))].into_iter().collect(),
            ),
            ..ObjectMeta::default()
        },
        spec: ModuleImageSpec {
            module: module.name_any(),
            kernel,
            architecture: target.architecture.clone(),
            image: resolved.image,
            dir_name: resolved.load.dir_name,
            firmware_path: resolved.load.firmware_path,
            image_repo_secret: module.spec.image_repo_secret.clone(),
            registry_tls: (tls != RegistryTls::default()).then_some(tls),
            rebuild_trigger: module.spec.image_rebuild_trigger_generation,
            build: resolved.build,
            sign: resolved.sign,
            trial: false,
        },
        status: None,
    }
}

/// What looking for an image came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// It is there and packed.
    Packed {
        /// What the reference stands for (`sha256:<hex>`).
        image_digest: String,
        /// What the nodes get.
        bundle: BundleStatus,
    },
    /// It cannot be had; the reason is one of [`reasons`].
    Missing {
        /// Why, in a word.
        reason: &'static str,
        /// Why, in a sentence, with the way out.
        message: String,
        /// Whether it will not do without a change of the image or the Module.
        needs_change: bool,
        /// When the other side asked to be asked again.
        retry_after: Option<Duration>,
    },
    /// A Job makes it.
    Making {
        /// What it does, in a sentence.
        message: String,
    },
}

/// What looking for an image, or making it, came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Look {
    /// What was found.
    pub finding: Finding,
    /// How the image is made; `None` where it does not have to be.
    pub making: Option<Making>,
    /// When it is tried again to make it.
    pub retry_at: Option<Time>,
}

impl From<Finding> for Look {
    fn from(finding: Finding) -> Self {
        Self { finding, making: None, retry_at: None }
    }
}

/// The first wait before an image that is not there is looked for again.
const FIRST_RETRY: Duration = Duration::from_secs(2);
/// The longest such wait: a missing image may come at any time, and a HEAD costs little.
const LONGEST_RETRY: Duration = Duration::from_secs(30);
/// How often a Secret or ConfigMap that is not there, or not right, is read again: they are not watched, and who mends one looks
/// on. And how often who waits for a turn asks for it, and a pod that pulls an image is asked after.
const PROMPT_RETRY: Duration = Duration::from_secs(3);
const PROMPT: [&str; 7] = [
    reasons::SECRET_MISSING,
    reasons::SECRET_MALFORMED,
    reasons::CONFIG_MAP_MISSING,
    reasons::QUEUED,
    reasons::WAITING_FOR_MODULE,
    reasons::PULLING,
    reasons::NO_NODE_TO_PULL,
];
/// The longest that a registry may ask to be left alone.
const LONGEST_ASKED: Duration = Duration::from_mins(10);

/// When to look for an image again that was missing `attempts` times in a row. What needs a change is looked at again
/// too: a tag can be moved to a mended image without anybody telling the cluster.
pub fn retry_after(finding: &Finding, attempts: u32) -> Option<Duration> {
    let Finding::Missing { reason, retry_after, .. } = finding else { return None };
    if PROMPT.contains(reason) {
        return Some(PROMPT_RETRY);
    }
    let own = FIRST_RETRY.saturating_mul(1 << attempts.saturating_sub(1).min(8)).min(LONGEST_RETRY);
    Some(retry_after.map_or(own, |asked| asked.min(LONGEST_ASKED).max(own)))
}

/// The status that follows from a look.
///
/// What was packed for the present spec stays while it is made anew, and when that fails: nodes that come meanwhile need a driver
/// too, and the former one is as good as it was.
pub fn status(image: &ModuleImage, look: &Look, now: &Time) -> ModuleImageStatus {
    written(image, look, look.making.is_some() || has_vanished(image), now)
}

/// The status of an image that was packed, and cannot be had again for a node that asks for it. What nodes have of it stays.
pub fn vanished(image: &ModuleImage, look: &Look, now: &Time) -> ModuleImageStatus {
    written(image, look, true, now)
}

/// Whether that is what is known of an image, and nobody makes it anew.
pub fn has_vanished(image: &ModuleImage) -> bool {
    let reason = image.status.as_ref().and_then(|status| status.reason.as_deref());
    bundle(image).is_some()
        && renewal(image).is_none()
        && reason.is_some_and(|reason| reason != reasons::IMAGE_EXISTS)
}

fn written(image: &ModuleImage, look: &Look, keeps: bool, now: &Time) -> ModuleImageStatus {
    let (known, finding) = (image.status.as_ref(), &look.finding);
    let generation = image.metadata.generation;
    let (phase, reason, message) = told(image, finding);
    let packed = match finding {
        Finding::Packed { image_digest, bundle } => Some((bundle.clone(), image_digest.clone())),
        _ => None,
    };
    let former = bundle(image).filter(|_| keeps);
    let former = former.map(|(bundle, digest)| (bundle.clone(), digest.to_owned()));
    let renewing = packed.is_none() && former.is_some();
    let phase = if renewing { ImagePhase::Ready } else { phase };
    let why = match &look.making {
        _ if !renewing => message.clone(),
        Some(_) => format!("until it is made anew, the image of before is used: {message}"),
        None => format!("nodes that have it keep it, others wait: {message}"),
    };
    let ready = Condition {
        type_: reasons::condition::READY.to_owned(),
        status: condition::truth(phase == ImagePhase::Ready),
        reason: reason.to_owned(),
        message: ShortMessage::new(why).into(),
        observed_generation: generation,
        last_transition_time: now.clone(),
    };
    let conditions = known.map(|status| status.conditions.as_slice()).unwrap_or_default();
    let mut status = ModuleImageStatus {
        phase: Some(phase),
        reason: Some(reason.to_owned()),
        message: Some(ShortMessage::new(message)),
        resolved_from: generation,
        making: look.making.clone().map(|making| Making { renewing, ..making }),
        retry_at: look.retry_at.clone(),
        conditions: condition::merge(conditions, vec![ready]),
        ..ModuleImageStatus::default()
    };
    if let Some(known) = known.filter(|_| renewing) {
        let predicted = |condition: &&Condition| condition.type_ == reasons::condition::PREDICTED;
        status.verdicts.clone_from(&known.verdicts);
        status.conditions.extend(conditions.iter().find(predicted).cloned());
    }
    (status.bundle, status.image_digest) = packed.or(former).unzip();
    status
}

/// A finding as phase, reason and sentence.
fn told(image: &ModuleImage, finding: &Finding) -> (ImagePhase, &'static str, String) {
    match finding {
        Finding::Packed { bundle, .. } => (
            ImagePhase::Ready,
            reasons::IMAGE_EXISTS,
            format!("{} files, {} bytes packed for kernel {}", bundle.files, bundle.size, image.spec.kernel),
        ),
        Finding::Missing { reason, message, needs_change, .. } => {
            let phase = if *needs_change { ImagePhase::Failed } else { ImagePhase::Waiting };
            (phase, *reason, message.clone())
        }
        Finding::Making { message } if image.spec.build.is_some() => {
            (ImagePhase::Building, reasons::BUILDING, message.clone())
        }
        Finding::Making { message } => (ImagePhase::Signing, reasons::SIGNING, message.clone()),
    }
}

/// How an image that is used is made anew, as far as that is told.
pub fn renewal(image: &ModuleImage) -> Option<&Making> {
    image.status.as_ref()?.making.as_ref().filter(|making| making.renewing)
}

/// Whether an image is the one that its Module asks for now: the same reference, and what is read of it read in the same way. An
/// object that is still to be changed answers for what the Module was. How the image is made does not count: kernels that share
/// one share that, too ([`images`]).
pub fn is_asked_for(image: &ModuleImage, module: &Module, resolved: &Resolved) -> bool {
    let spec = &image.spec;
    spec.image == resolved.image
        && spec.dir_name == resolved.load.dir_name
        && spec.firmware_path == resolved.load.firmware_path
        && spec.image_repo_secret == module.spec.image_repo_secret
        && spec.registry_tls.unwrap_or_default() == resolved.registry_tls
        && spec.rebuild_trigger == module.spec.image_rebuild_trigger_generation
}

/// The bundle of an image whose status is about its present spec.
pub fn bundle(image: &ModuleImage) -> Option<(&BundleStatus, &str)> {
    let status = image.status.as_ref()?;
    let current =
        status.resolved_from == image.metadata.generation && status.phase == Some(ImagePhase::Ready);
    current.then_some(status.bundle.as_ref().zip(status.image_digest.as_deref())).flatten()
}

#[cfg(test)]
mod tests;
