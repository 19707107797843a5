//! Images that were made here: which of them anything needs still, and what becomes of the others.
//!
//! In: what Modules, their images, nodes and Jobs name. Out: for each [`MadeImage`] a [`Step`]. What is not among them is not
//! spoken of here: an image that somebody else has made is nobody's to delete, whatever its labels say.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::SignedDuration;
use kube::ResourceExt;
use serde::Serialize;
use serde_json::Value;
use tenon_api::made_image::{MadeImage, MadeImageStatus, MadePhase};
use tenon_api::module_image::ModuleImage;
use tenon_api::node_modules_config::NodeModule;
use tenon_api::{Module, ShortMessage, reasons};

use crate::provision::{self, making};

/// What the administrator has decided about images that nothing needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Whether they are deleted; if not, they are only reported.
    pub delete: bool,
    /// For how long nothing must have needed them.
    pub after: Duration,
}

/// Which contents a reference is needed for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Wanted {
    /// These: it was resolved to them.
    These(BTreeSet<String>),
    /// Whatever it stands for.
    Whatever,
}

/// What is named by anything in the cluster.
#[derive(Debug)]
pub struct Needs<C> {
    /// A reference in full, without its digest, however it is written; `None` for a text that is none.
    canonical: C,
    references: BTreeMap<String, Wanted>,
    /// References that are named where nothing says what they stand for.
    unresolved: BTreeSet<String>,
    digests: BTreeSet<String>,
    /// Texts that may name anything: Dockerfiles, scripts.
    texts: Vec<String>,
}

impl<C: Fn(&str) -> Option<String>> Needs<C> {
    /// Nothing is named yet.
    pub fn new(canonical: C) -> Self {
        Self {
            canonical,
            references: BTreeMap::new(),
            unresolved: BTreeSet::new(),
            digests: BTreeSet::new(),
            texts: Vec::new(),
        }
    }

    /// An image of a kernel that some node runs. What it was resolved to is needed; as long as it is not, whatever its reference
    /// stands for. So is what it is made from.
    pub fn add_image(&mut self, image: &ModuleImage) {
        // While it is made anew its name stands for something else, perhaps.
        let settled = Some(image).filter(|image| provision::renewal(image).is_none());
        let resolved = settled.and_then(provision::bundle).map(|(_, digest)| digest);
        // Whatever the status says that they are of: one more never hurts.
        self.digests.extend(texts(&image.status).into_iter().filter(|text| text.starts_with("sha256:")));
        for text in texts(&image.spec) {
            match resolved.filter(|_| text == image.spec.image) {
                Some(digest) => self.add_resolved(&text, digest),
                None => self.add_text(text),
            }
        }
    }

    /// A Module. What it names literally is needed also where no node asks for it now.
    pub fn add_module(&mut self, module: &Module) {
        for text in texts(&module.spec) {
            if text.contains('\n') {
                self.texts.push(text);
            } else if let Some(name) = self.reference(&text) {
                self.unresolved.insert(name);
            }
        }
    }

    /// What a node is told to have.
    pub fn add_entry(&mut self, entry: &NodeModule) {
        match &entry.image_digest {
            Some(digest) => {
                self.digests.insert(digest.clone());
            }
            // As KMM wrote it.
            None => self.add_text(entry.config.container_image.clone()),
        }
    }

    /// What a Job is making.
    pub fn add_job(&mut self, image: &str) {
        self.add_text(image.to_owned());
    }

    /// Whether anything needs this image.
    pub fn need(&self, made: &MadeImage) -> bool {
        let digest = &made.spec.digest;
        let named = || match self.name(&made.spec.image) {
            // Who cannot say what it names cannot say that nobody needs it.
            None => true,
            Some(name) => self.wants(&name, digest),
        };
        let told = |text: &String| text.contains(digest.as_str()) || text.contains(&made.spec.image);
        self.needs_content(digest) || named() || self.texts.iter().any(told)
    }

    /// Whether anything needs this content, under whatever name.
    pub fn needs_content(&self, digest: &str) -> bool {
        self.digests.contains(digest)
    }

    /// Whether anything needs what this reference stands for, whatever that is.
    pub fn needs_name(&self, image: &str) -> bool {
        let Some(name) = self.name(image) else { return true };
        self.references.contains_key(&name) || self.unresolved.contains(&name)
    }

    fn wants(&self, name: &str, digest: &str) -> bool {
        match self.references.get(name) {
            Some(Wanted::Whatever) => true,
            Some(Wanted::These(digests)) => digests.contains(digest),
            None => self.unresolved.contains(name),
        }
    }

    fn add_resolved(&mut self, text: &str, digest: &str) {
        let Some(name) = self.reference(text) else { return };
        let wanted = self.references.entry(name).or_insert_with(|| Wanted::These(BTreeSet::new()));
        if let Wanted::These(digests) = wanted {
            digests.insert(digest.to_owned());
        }
    }

    fn add_text(&mut self, text: String) {
        if text.contains('\n') {
            self.texts.push(text);
        } else if let Some(name) = self.reference(&text) {
            self.references.insert(name, Wanted::Whatever);
        }
    }

    /// The reference that a text is; its digest, if it names one, is noted.
    fn reference(&mut self, text: &str) -> Option<String> {
        let name = self.name(text)?;
        self.digests.extend(text.split_once('@').map(|(_, digest)| digest.to_owned()));
        Some(name)
    }

    fn name(&self, text: &str) -> Option<String> {
        (self.canonical)(text)
    }
}

/// All texts in an object, whatever they are called: a field that names an image is never forgotten here.
fn texts(value: &impl Serialize) -> Vec<String> {
    let mut found = Vec::new();
    let mut left: Vec<Value> = serde_json::to_value(value).into_iter().collect();
    while let Some(value) = left.pop() {
        match value {
            Value::String(text) => found.push(text),
            Value::Array(values) => left.extend(values),
            Value::Object(fields) => left.extend(fields.into_iter().map(|(_, value)| value)),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }
    found
}

/// What is to happen with an image that was made here.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Its status is to say this.
    Tell(MadeImageStatus),
    /// Nothing, before so much time has passed.
    Rest(Option<Duration>),
    /// It is deleted.
    Erase,
}

/// What is to happen with an image, by whether anything needs it.
pub fn step(made: &MadeImage, is_needed: bool, policy: Policy, now: &Time) -> Step {
    let known = made.status.as_ref();
    let tell = |status: MadeImageStatus, rest| match known {
        Some(known) if *known == status => Step::Rest(rest),
        _ => Step::Tell(status),
    };
    if is_needed {
        return tell(needed(), None);
    }
    let since = known.and_then(|known| known.unneeded_since.clone()).unwrap_or_else(|| now.clone());
    if !policy.delete {
        return tell(unneeded(since, reasons::DELETION_OFF, KEPT.to_owned()), None);
    }
    let due = making::later(&since, policy.after);
    if let Some(left) = left(&due, now) {
        let message = format!("nothing needs it; unless something does, it is deleted at {}", due.0);
        return tell(unneeded(since, reasons::UNNEEDED, message), Some(left));
    }
    let retry = known.and_then(|known| known.retry_at.as_ref());
    match retry.and_then(|at| left(at, now)) {
        Some(left) => Step::Rest(Some(left)),
        None => Step::Erase,
    }
}

const KEPT: &str = "nothing needs it, and it is kept: the operator's --unneeded-images is not delete";

fn needed() -> MadeImageStatus {
    MadeImageStatus {
        phase: Some(MadePhase::Needed),
        reason: Some(reasons::NEEDED.to_owned()),
        ..MadeImageStatus::default()
    }
}

fn unneeded(since: Time, reason: &str, message: String) -> MadeImageStatus {
    MadeImageStatus {
        phase: Some(MadePhase::Unneeded),
        reason: Some(reason.to_owned()),
        message: Some(ShortMessage::new(message)),
        unneeded_since: Some(since),
        ..MadeImageStatus::default()
    }
}

/// What is told before an image is deleted, with the digests of the images that go after it.
pub fn deleting(made: &MadeImage, parts: Vec<String>, now: &Time) -> MadeImageStatus {
    let since = made.status.as_ref().and_then(|known| known.unneeded_since.clone());
    let message = "it is being deleted from its registry".to_owned();
    MadeImageStatus {
        phase: Some(MadePhase::Deleting),
        parts,
        ..unneeded(since.unwrap_or_else(|| now.clone()), reasons::DELETING, message)
    }
}

/// What is told when an image could not be deleted. What was begun is gone on with when it is tried again.
pub fn refused(made: &MadeImage, reason: &str, message: String, now: &Time) -> MadeImageStatus {
    let known = made.status.as_ref();
    let since = known.and_then(|known| known.unneeded_since.clone()).unwrap_or_else(|| now.clone());
    MadeImageStatus {
        retry_at: Some(making::later(now, again_after(reason))),
        parts: known.map(|known| known.parts.clone()).unwrap_or_default(),
        ..unneeded(since, reason, message)
    }
}

/// What may pass by itself is tried again so soon.
const PASSING: Duration = Duration::from_mins(10);
/// What somebody has to change first, so seldom.
const LASTING: Duration = Duration::from_hours(6);

fn again_after(reason: &str) -> Duration {
    match reason {
        reasons::REGISTRY_UNREACHABLE | reasons::SECRET_MISSING => PASSING,
        _ => LASTING,
    }
}

fn left(at: &Time, now: &Time) -> Option<Duration> {
    let left: SignedDuration = at.0.duration_since(now.0);
    Duration::try_from(left).ok().filter(|left| !left.is_zero())
}

/// The most images of a namespace that are remembered though nothing needs them.
pub const MOST_UNNEEDED: usize = 500;

/// What is forgotten of one namespace's images, and kept in the registry for good: those that nothing has needed for longest, where
/// there are more than anybody will look at.
pub fn surplus<'m>(made: impl Iterator<Item = &'m MadeImage>) -> Vec<&'m MadeImage> {
    let since = |made: &MadeImage| made.status.as_ref()?.unneeded_since.clone();
    let mut unneeded: Vec<_> = made.filter_map(|made| Some((since(made)?, made.name_any(), made))).collect();
    unneeded.sort_by(|one, other| (&other.0, &other.1).cmp(&(&one.0, &one.1)));
    unneeded.into_iter().skip(MOST_UNNEEDED).map(|(_, _, made)| made).collect()
}

#[cfg(test)]
mod tests;
