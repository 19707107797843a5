//! An image that does not exist is made, by a Job: what is to happen next.
//!
//! A Job's name is a hash of all that the image is made from. So nothing is made twice, whoever looks and however often the
//! operator starts anew; and whatever changes makes another Job, before which the former one ends.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use tenon_api::module::{Build, BuildArg, Sign};
use tenon_api::module_image::{Making, ModuleImageSpec};
use tenon_api::task::label;
use tenon_api::{ModuleImage, labels};
use tenon_order::Digest;

/// What an image is made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Inputs {
    /// The digest of the image whose modules are signed, or the hash of all that goes into the build ([`BuildInputs`]).
    pub source: Digest,
    /// Which Secret with the private key it is: its uid and version. What stands in it is not for the operator to read.
    pub key: Option<String>,
    /// Which Secret with the certificate.
    pub certificate: Option<String>,
}

impl Inputs {
    /// The hash of all that the image is made from.
    pub fn hash(&self, image: &ModuleImage) -> Digest {
        #[derive(Serialize)]
        struct All<'a> {
            image: &'a str,
            request: String,
            inputs: &'a Inputs,
            /// What publishes nothing is not what publishes.
            #[serde(skip_serializing_if = "is_false")]
            trial: bool,
        }
        let ModuleImageSpec { image, sign, trial, .. } = &image.spec;
        hash(&All { image, request: request(sign.as_ref()), inputs: self, trial: *trial })
    }
}

/// What goes into a build. Equal inputs are not built twice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BuildInputs<'a> {
    /// The Dockerfile, or what is said of the sources.
    pub recipe: &'a str,
    /// Its arguments, ours among them.
    pub arguments: &'a [BuildArg],
    /// The images that it names, and the digests that these names stand for.
    pub bases: &'a BTreeMap<String, Digest>,
    /// The Secrets that it may read: their uids and versions.
    pub secrets: &'a BTreeMap<String, String>,
    /// For which architecture.
    pub architecture: &'a str,
    /// The Module's `imageRebuildTriggerGeneration`.
    pub trigger: Option<i64>,
}

impl BuildInputs<'_> {
    /// Their hash.
    pub fn hash(&self) -> Digest {
        hash(self)
    }
}

/// The argument that is the kernel's driver toolkit, as in KMM for OpenShift.
pub const TOOLKIT: &str = "DTK_AUTO";

/// A build's arguments: the user's, and those that every build gets, which go before (as in KMM). `toolkit` is the name of the
/// kernel's driver toolkit, where it is known.
pub fn arguments(image: &ModuleImage, build: &Build, toolkit: Option<&str>) -> Vec<BuildArg> {
    let kernel = image.spec.kernel.strip_suffix('+').unwrap_or(&image.spec.kernel);
    let namespace = image.metadata.namespace.as_deref().unwrap_or_default();
    let ours = [
        ("KERNEL_VERSION", kernel),
        ("KERNEL_FULL_VERSION", kernel),
        ("MOD_NAME", &image.spec.module),
        ("MOD_NAMESPACE", namespace),
    ];
    let ours: Vec<_> = ours.into_iter().chain(toolkit.map(|toolkit| (TOOLKIT, toolkit))).collect();
    let is_ours = |arg: &&BuildArg| ours.iter().any(|(name, _)| *name == arg.name);
    let users = build.build_args.iter().filter(|arg| !is_ours(arg)).cloned();
    let named =
        |(name, value): &(&str, &str)| BuildArg { name: (*name).to_owned(), value: (*value).to_owned() };
    users.chain(ours.iter().map(named)).collect()
}

/// The hash of what is asked for: which files are signed, hashed with what. It stands among the image's labels.
pub fn request(sign: Option<&Sign>) -> String {
    let Some(sign) = sign else { return hash(&"unsigned").to_string() };
    let mut files: Vec<&str> = sign.files_to_sign.iter().map(String::as_str).collect();
    files.sort_unstable();
    files.dedup();
    hash(&(files, sign.hash.unwrap_or_default().as_str())).to_string()
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde asks for")]
fn is_false(flag: &bool) -> bool {
    !*flag
}

fn hash(value: &impl Serialize) -> Digest {
    // Texts, digests and lists of them are always JSON.
    Digest::of(&serde_json::to_vec(value).unwrap_or_default())
}

/// Whether there is a way to make an image.
pub fn can_be_made(image: &ModuleImage) -> bool {
    image.spec.build.is_some() || image.spec.sign.is_some()
}

/// Whether an image with these labels was made by a Job of ours.
pub fn is_ours(labels: &BTreeMap<String, String>) -> bool {
    labels.contains_key(label::SOURCE) && labels.contains_key(label::REQUEST)
}

/// Whether an image with these labels was made by a Job of ours, but not from what it would be made from now, as far as that is
/// known. What somebody else has made is as it should be.
pub fn is_outdated(labels: &BTreeMap<String, String>, sign: Option<&Sign>, source: Option<&Digest>) -> bool {
    let says = |key: &str, value: &str| labels.get(key).is_some_and(|known| known == value);
    let same_source = source.is_none_or(|source| says(label::SOURCE, &source.to_string()));
    is_ours(labels) && !(same_source && says(label::REQUEST, &request(sign)))
}

/// The Job that makes an image, by what it is made from: `<module>-build-<12 hexadecimal digits>`, or `-sign-` where nothing is
/// built.
pub fn job_name(image: &ModuleImage, inputs: &Digest) -> String {
    const DIGITS: usize = 12;
    let kind = if image.spec.build.is_some() { "-build-" } else { "-sign-" };
    // A Job's name becomes a label of its pods.
    let room = labels::MAX_LABEL - kind.len() - DIGITS;
    let module = &image.spec.module;
    let stem = module.get(..module.floor_char_boundary(room)).unwrap_or(module);
    let hex: String = inputs.to_string().chars().skip("sha256:".len()).take(DIGITS).collect();
    // Labels allow a dot, names of pods do not end a part with a dash.
    let stem = stem.replace('.', "-");
    format!("{}{kind}{hex}", stem.trim_end_matches('-'))
}

/// A Job that makes an image, as it is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobSeen {
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// The Module that it was made for, as its label says it.
    pub module: String,
    /// How far it is.
    pub state: JobState,
    /// The hash of where it may run ([`super::job::placement`]).
    pub placement: String,
    /// Why it has failed, in Kubernetes's words.
    pub message: String,
}

/// How far a Job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobState {
    /// It works, or is about to.
    Running,
    /// It has done its work.
    Succeeded,
    /// It has given up.
    Failed,
    /// It is being deleted, and its pod with it.
    Leaving,
}

/// What is to happen next for an image that is not there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// A Job is made.
    Start,
    /// It goes on by itself.
    Follow,
    /// The Job has ended, and the image is not there: the report is read, and the failure noted.
    Note(JobSeen),
    /// What is in the way is deleted: a Job that has failed long enough ago, or one that makes the image from what it is not
    /// to be made from any more.
    Clear(JobSeen),
    /// Not yet.
    Wait(Duration),
}

/// What is to happen next for an image that was not there after `jobs`, all that make it, had been looked at. `module` is whose
/// image it is, by its label.
pub fn step(
    known: Option<&Making>,
    retry_at: Option<&Time>,
    (module, wanted): (&str, &str),
    jobs: &[JobSeen],
    now: Timestamp,
) -> Step {
    // Never two at once, and none from what is outdated: two would race for one name.
    for job in jobs.iter().filter(|job| job.name != wanted) {
        match job.state {
            // Another Module's makes an image of the same name: it is looked for again when that has ended.
            JobState::Running if job.module != module => return Step::Follow,
            JobState::Running => return Step::Clear(job.clone()),
            JobState::Leaving => return Step::Follow,
            JobState::Succeeded | JobState::Failed => {}
        }
    }
    let known = known.filter(|known| known.job == wanted);
    let wait = known.and(retry_at).and_then(|at| until(at.0, now));
    match jobs.iter().find(|job| job.name == wanted) {
        None => wait.map_or(Step::Start, Step::Wait),
        Some(JobSeen { state: JobState::Running | JobState::Leaving, .. }) => Step::Follow,
        Some(job) if known.is_none_or(|known| known.failed.as_deref() != Some(&job.uid)) => {
            Step::Note(job.clone())
        }
        Some(job) => wait.map_or(Step::Clear(job.clone()), Step::Wait),
    }
}

fn until(at: Timestamp, now: Timestamp) -> Option<Duration> {
    Duration::try_from(at.duration_since(now)).ok().filter(|left| !left.is_zero())
}

/// The first wait after a failure.
const FIRST_AGAIN: Duration = Duration::from_secs(10);
/// The longest: also for what will not do without a change, for what is outside may have changed.
const LONGEST_AGAIN: Duration = Duration::from_mins(10);

/// After so many failures in a row the next try comes so much later.
pub fn again_after(failures: i32, needs_change: bool) -> Duration {
    if needs_change {
        return LONGEST_AGAIN;
    }
    let doubled = u32::try_from(failures.saturating_sub(1)).unwrap_or(0).min(16);
    FIRST_AGAIN.saturating_mul(1 << doubled).min(LONGEST_AGAIN)
}

/// That time from now on, in whole seconds, as statuses hold it.
pub fn later(now: &Time, after: Duration) -> Time {
    let after = SignedDuration::try_from(after).unwrap_or(SignedDuration::MAX);
    Time(now.0.checked_add(after).unwrap_or(now.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;
    use tenon_api::module::SignatureHash;

    const WANTED: &str = "gauge-sign-0";

    fn job(name: &str, state: JobState) -> JobSeen {
        JobSeen {
            name: name.to_owned(),
            uid: format!("{name}-1"),
            module: "gauge".to_owned(),
            state,
            placement: String::new(),
            message: String::new(),
        }
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_790_000_000 + seconds).unwrap()
    }

    fn failed(uid: Option<&str>) -> Making {
        let (inputs, failed) = (String::new(), uid.map(str::to_owned));
        Making { inputs, job: WANTED.to_owned(), failures: 1, failed, ..Making::default() }
    }

    #[rstest]
    #[case::nothing_there(None, &[], Step::Start)]
    #[case::running(None, &[job(WANTED, JobState::Running)], Step::Follow)]
    #[case::done_but_nothing_there(None, &[job(WANTED, JobState::Succeeded)], Step::Note(job(WANTED, JobState::Succeeded)))]
    #[case::failed(None, &[job(WANTED, JobState::Failed)], Step::Note(job(WANTED, JobState::Failed)))]
    #[case::failed_and_noted(Some(failed(Some("gauge-sign-0-1"))), &[job(WANTED, JobState::Failed)], Step::Wait(Duration::from_secs(5)))]
    #[case::another_has_failed(Some(failed(Some("gauge-sign-0-0"))), &[job(WANTED, JobState::Failed)], Step::Note(job(WANTED, JobState::Failed)))]
    #[case::failed_and_gone(Some(failed(Some("gauge-sign-0-1"))), &[], Step::Wait(Duration::from_secs(5)))]
    #[case::an_outdated_one_runs(None, &[job("gauge-sign-9", JobState::Running)], Step::Clear(job("gauge-sign-9", JobState::Running)))]
    #[case::an_outdated_one_ends(None, &[job("gauge-sign-9", JobState::Leaving), job(WANTED, JobState::Failed)], Step::Follow)]
    #[case::an_outdated_one_has_ended(None, &[job("gauge-sign-9", JobState::Failed)], Step::Start)]
    #[case::it_is_being_deleted(None, &[job(WANTED, JobState::Leaving)], Step::Follow)]
    fn one_job_at_a_time_makes_an_image(
        #[case] known: Option<Making>,
        #[case] jobs: &[JobSeen],
        #[case] expected: Step,
    ) {
        let retry_at = known.is_some().then(|| Time(at(5)));
        assert_eq!(step(known.as_ref(), retry_at.as_ref(), ("gauge", WANTED), jobs, at(0)), expected);
    }

    #[test]
    fn when_its_time_has_come_the_failed_job_goes_and_another_starts() {
        let (known, retry_at) = (failed(Some("gauge-sign-0-1")), Time(at(5)));
        let failed = job(WANTED, JobState::Failed);
        let step = |jobs: &[JobSeen]| step(Some(&known), Some(&retry_at), ("gauge", WANTED), jobs, at(5));
        assert_eq!(step(std::slice::from_ref(&failed)), Step::Clear(failed));
        assert_eq!(step(&[]), Step::Start);
    }

    #[test]
    fn another_modules_job_is_waited_for_and_left_alone() {
        let other = |state| JobSeen { module: "anvil".to_owned(), ..job("anvil-sign-0", state) };
        let step = |state| step(None, None, ("gauge", WANTED), &[other(state)], at(0));
        assert_eq!(step(JobState::Running), Step::Follow);
        assert_eq!(step(JobState::Succeeded), Step::Start);
    }

    #[test]
    fn what_changes_is_tried_at_once() {
        let (known, retry_at) = (failed(None), Time(at(500)));
        assert_eq!(step(Some(&known), Some(&retry_at), ("gauge", "gauge-sign-1"), &[], at(0)), Step::Start);
    }

    #[test]
    fn failures_are_tried_again_ever_later() {
        let waits: Vec<_> = (1..=8).map(|failures| again_after(failures, false).as_secs()).collect();
        assert_eq!(waits, [10, 20, 40, 80, 160, 320, 600, 600]);
        assert_eq!(again_after(1, true).as_secs(), 600);
    }

    fn sign(files: &[&str], hash: Option<SignatureHash>) -> Sign {
        let files_to_sign = files.iter().map(|file| (*file).to_owned()).collect();
        Sign { files_to_sign, hash, ..Sign::default() }
    }

    #[test]
    fn only_what_counts_makes_another_request() {
        let request = |files: &[&str], hash| request(Some(&sign(files, hash)));
        let one = request(&["/a", "/b"], None);
        assert_eq!(one, request(&["/b", "/a", "/b"], Some(SignatureHash::Sha256)));
        assert_ne!(one, request(&["/a"], None));
        assert_ne!(one, request(&["/a", "/b"], Some(SignatureHash::Sha512)));
    }

    #[test]
    fn what_was_made_from_something_else_is_outdated_and_what_others_made_never_is() {
        let (sign, source) = (sign(&["/a"], None), Digest::of(b"source"));
        let made = |source: &Digest, request: String| {
            let entries = [(label::SOURCE, source.to_string()), (label::REQUEST, request)];
            entries.map(|(key, value)| (key.to_owned(), value)).into()
        };
        let is_outdated = |labels: &BTreeMap<String, String>| is_outdated(labels, Some(&sign), Some(&source));
        let request = || request(Some(&sign));
        assert!(!is_outdated(&made(&source, request())));
        assert!(is_outdated(&made(&Digest::of(b"older"), request())));
        assert!(is_outdated(&made(&source, "sha256:0".to_owned())));
        assert!(is_outdated(&made(&source, super::request(None))), "it was not to be signed then");
        assert!(!is_outdated(&BTreeMap::new()));
    }

    fn to_build() -> ModuleImage {
        let mut image = crate::fixture::ready_image("registry.test/gauge:1", 'a');
        image.spec.kernel = "6.1.0+".to_owned();
        image.spec.build = Some(Build::default());
        image
    }

    #[test]
    fn every_build_gets_our_arguments_whatever_the_user_says() {
        let arg = |name: &str, value: &str| BuildArg { name: name.to_owned(), value: value.to_owned() };
        let build = Build { build_args: vec![arg("A", "1"), arg("KERNEL_VERSION", "5")], ..Build::default() };
        let arguments = arguments(&to_build(), &build, Some("toolkit:6"));
        assert_eq!(arguments[..2], [arg("A", "1"), arg("KERNEL_VERSION", "6.1.0")], "without the plus");
        assert_eq!(arguments.last(), Some(&arg("DTK_AUTO", "toolkit:6")));
        assert_eq!(arguments.iter().filter(|arg| arg.name == "KERNEL_VERSION").count(), 1);
        // KMM says here what its own object is called, which is another name in a preflight.
        assert!(arguments.contains(&arg("MOD_NAME", &to_build().spec.module)));
    }

    #[test]
    fn whatever_goes_into_a_build_makes_another_job() {
        let (none, bases) = (BTreeMap::new(), BTreeMap::from([("a:1".to_owned(), Digest::of(b"a"))]));
        let secrets = BTreeMap::from([("s".to_owned(), "u/1".to_owned())]);
        let arguments = [BuildArg { name: "A".to_owned(), value: "1".to_owned() }];
        let plain = BuildInputs {
            recipe: "FROM a:1",
            arguments: &[],
            bases: &none,
            secrets: &BTreeMap::new(),
            architecture: "amd64",
            trigger: None,
        };
        let all = [
            plain.clone(),
            BuildInputs { recipe: "FROM a:2", ..plain.clone() },
            BuildInputs { arguments: &arguments, ..plain.clone() },
            BuildInputs { bases: &bases, ..plain.clone() },
            BuildInputs { secrets: &secrets, ..plain.clone() },
            BuildInputs { architecture: "arm64", ..plain.clone() },
            BuildInputs { trigger: Some(1), ..plain.clone() },
        ];
        let image = to_build();
        let name = |inputs: &BuildInputs<'_>| {
            let inputs = Inputs { source: inputs.hash(), key: None, certificate: None };
            job_name(&image, &inputs.hash(&image))
        };
        let names: std::collections::BTreeSet<_> = all.iter().map(name).collect();
        assert_eq!(names.len(), all.len());
        assert!(names.iter().all(|name| name.contains("-build-")));
        assert_eq!(name(&plain), name(&plain.clone()));
    }
}
