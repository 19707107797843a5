use rstest::rstest;
use tenon_api::module::{Build, Inspection};
use tenon_api::module_image::{KernelVerdict, Making, VerdictReason};
use tenon_api::preflight_validation::{OldStage, OldStatus, PreflightValidationSpec};

use super::*;
use crate::fixture::{KERNEL, default_image, minimal_module, module};

fn at(second: i64) -> Time {
    Time(k8s_openapi::jiff::Timestamp::from_second(1_790_000_000 + second).unwrap())
}

fn preflight() -> PreflightValidation {
    let spec =
        PreflightValidationSpec { kernel_version: KERNEL.to_owned(), ..PreflightValidationSpec::default() };
    let mut preflight = PreflightValidation::new("next", spec);
    preflight.metadata.generation = Some(4);
    preflight
}

fn pushing() -> PreflightValidation {
    let mut preflight = preflight();
    preflight.spec.push_built_image = true;
    preflight
}

fn view<'a>(module: &'a Module, images: Vec<&'a ModuleImage>) -> View<'a> {
    View { module, images, architectures: ["amd64".to_owned()].into() }
}

/// What is told of the only Module.
fn told_of(preflight: &PreflightValidation, module: &Module, image: Option<&ModuleImage>) -> PreflightModule {
    let views = [view(module, image.into_iter().collect())];
    status(preflight, &views, &at(0)).modules.remove(0)
}

fn said(told: &PreflightModule) -> (VerificationStatus, VerificationStage, &str, &str) {
    (
        told.verification_status,
        told.verification_stage,
        told.reason.as_deref().unwrap(),
        told.status_reason.as_ref().unwrap().as_str(),
    )
}

fn judged(result: Predicted, errno: Option<&str>, why: &str) -> ModuleImage {
    let mut image = default_image('a');
    let reason = VerdictReason { reason: "UnknownSymbol".to_owned(), message: ShortMessage::new(why) };
    image.status.as_mut().unwrap().verdicts = vec![KernelVerdict {
        result,
        errno: errno.map(str::to_owned),
        reasons: Some(reason).filter(|_| !why.is_empty()).into_iter().collect(),
        source: "admin".to_owned(),
        ..KernelVerdict::default()
    }];
    image
}

fn in_state(phase: ImagePhase, reason: &str) -> ModuleImage {
    let mut image = default_image('a');
    image.status = Some(ModuleImageStatus {
        phase: Some(phase),
        reason: Some(reason.to_owned()),
        message: Some(ShortMessage::new("as it is")),
        resolved_from: Some(1),
        ..ModuleImageStatus::default()
    });
    image
}

fn to_build() -> Module {
    let mut module = minimal_module();
    let loader = module.spec.module_loader.as_mut().unwrap();
    loader.container.build = Some(Build { dockerfile: Some("FROM scratch".to_owned()), ..Build::default() });
    module
}

use VerificationStage::{Done, Image};
use VerificationStatus::{Failure, InProgress, Success};

#[rstest]
#[case::loads(
    judged(Predicted::Loads, None, ""),
    Success,
    reasons::WILL_LOAD,
    "verified image exists, and the kernel will load it"
)]
#[case::fails(
    judged(Predicted::Fails, Some("ENOENT"), "no symbol gauge_read"),
    Failure,
    reasons::WILL_NOT_LOAD,
    "verified image exists, but the kernel will refuse it with ENOENT: no symbol gauge_read"
)]
#[case::not_known(
    judged(Predicted::Unknown, None, "no checksums"),
    Success,
    reasons::NOT_PREDICTED,
    "verified image exists; whether the kernel will load it is unknown: not known: no checksums"
)]
fn what_inspection_says_decides(
    #[case] image: ModuleImage,
    #[case] status: VerificationStatus,
    #[case] reason: &str,
    #[case] message: &str,
) {
    let told = told_of(&preflight(), &minimal_module(), Some(&image));
    assert_eq!(said(&told), (status, Done, reason, message));
    assert_eq!(told.image.as_deref(), Some(image.spec.image.as_str()));
}

#[test]
fn without_facts_the_verdict_is_unknown_and_said_so() {
    let told = told_of(&preflight(), &minimal_module(), Some(&default_image('a')));
    let message = format!(
        "verified image exists; whether the kernel will load it is unknown: no facts about kernel {KERNEL} are known"
    );
    assert_eq!(said(&told), (Success, Done, reasons::NOT_PREDICTED, message.as_str()));
    assert_eq!(told.predicted, Some(Predicted::Unknown));
    let status = status(&preflight(), &[view(&minimal_module(), vec![&default_image('a')])], &at(0));
    assert_eq!((status.total, status.failed, status.in_progress, status.unpredicted), (1, 0, 0, 1));
    assert!(status.message.unwrap().as_str().contains("is not known: lab/gauge"));
}

#[test]
fn that_a_module_would_be_tried_all_the_same_saves_no_driver() {
    let mut module = minimal_module();
    module.spec.inspection = Some(Inspection::Warn);
    let told = told_of(&preflight(), &module, Some(&judged(Predicted::Fails, Some("ENOEXEC"), "why")));
    assert_eq!(told.verification_status, Failure);
    assert!(told.status_reason.unwrap().as_str().ends_with("so nodes will try it)"));
}

#[rstest]
#[case(ImagePhase::Waiting, reasons::IMAGE_ABSENT, Failure, "verified image does not exist: as it is")]
#[case(ImagePhase::Failed, reasons::NO_MODULE_FOR_KERNEL, Failure, "verified image is not usable: as it is")]
#[case(ImagePhase::Waiting, reasons::REGISTRY_DENIED, Failure, "verified image is not usable: as it is")]
#[case(
    ImagePhase::Waiting,
    reasons::BUILD_FAILED,
    Failure,
    "verified image does not exist and build/sign failed: as it is"
)]
#[case(
    ImagePhase::Failed,
    reasons::SIGN_FAILED,
    Failure,
    "verified image does not exist and build/sign failed: as it is"
)]
#[case(ImagePhase::Building, reasons::BUILDING, InProgress, "verification is not finished yet: as it is")]
#[case(ImagePhase::Signing, reasons::SIGNING, InProgress, "verification is not finished yet: as it is")]
#[case(ImagePhase::Waiting, reasons::QUEUED, InProgress, "verification is not finished yet: as it is")]
#[case(ImagePhase::Waiting, reasons::PULLING, InProgress, "verification is not finished yet: as it is")]
#[case(
    ImagePhase::Waiting,
    reasons::WAITING_FOR_MODULE,
    InProgress,
    "verification is not finished yet: as it is"
)]
fn only_what_goes_on_by_itself_is_in_progress(
    #[case] phase: ImagePhase,
    #[case] reason: &str,
    #[case] status: VerificationStatus,
    #[case] message: &str,
) {
    let told = told_of(&preflight(), &minimal_module(), Some(&in_state(phase, reason)));
    let stage = if status == InProgress { Image } else { Done };
    assert_eq!(said(&told), (status, stage, reason, message));
}

#[test]
fn a_failure_of_another_step_of_a_build_counts_as_the_builds() {
    let mut image = in_state(ImagePhase::Waiting, reasons::REGISTRY_DENIED);
    image.status.as_mut().unwrap().making = Some(Making::default());
    let told = told_of(&preflight(), &minimal_module(), Some(&image));
    assert!(said(&told).3.starts_with("verified image does not exist and build/sign failed"));
}

#[test]
fn what_would_have_to_be_built_is_named_and_fails_only_where_the_image_is_not_there() {
    let absent = in_state(ImagePhase::Waiting, reasons::IMAGE_ABSENT);
    let told = told_of(&preflight(), &to_build(), Some(&absent));
    assert_eq!((told.verification_status, told.reason.as_deref()), (Failure, Some(reasons::NOT_TRIED)));
    let message = told.status_reason.unwrap();
    assert!(message.as_str().starts_with("verified image does not exist: registry.test/gauge"), "{message}");
    assert!(message.as_str().contains("nodes use that image for other kernels"), "{message}");
    let told = told_of(&preflight(), &to_build(), Some(&judged(Predicted::Loads, None, "")));
    assert_eq!(told.verification_status, Success);
}

#[test]
fn what_was_made_and_not_pushed_is_no_loss_and_not_known_to_load() {
    let tried = in_state(ImagePhase::Waiting, reasons::NOT_PUSHED);
    let told = told_of(&preflight(), &to_build(), Some(&tried));
    let (status, stage, reason, message) = said(&told);
    assert_eq!((status, stage, reason), (Success, Done, reasons::NOT_PUSHED));
    assert!(message.starts_with("verified build succeeded: as it is, because"), "{message}");
    assert_eq!(told.predicted, Some(Predicted::Unknown));
    let status = super::status(&preflight(), &[view(&to_build(), vec![&tried])], &at(0));
    assert_eq!((status.failed, status.in_progress, status.unpredicted), (0, 0, 1));
    assert!(status.message.unwrap().as_str().starts_with("made on trial and not pushed"));
}

#[test]
fn an_image_that_nobody_has_looked_at_yet_is_in_progress() {
    let mut old = default_image('a');
    old.metadata.generation = Some(2);
    let mut other = default_image('a');
    other.spec.image = "registry.test/other:1".to_owned();
    for image in [None, Some(&old), Some(&other)] {
        let told = told_of(&preflight(), &minimal_module(), image);
        let (status, stage, reason, message) = said(&told);
        assert_eq!((status, stage, reason), (InProgress, Image, reasons::RESOLVING));
        assert!(message.starts_with("verification is not finished yet: "), "{message}");
    }
}

#[test]
fn a_kernel_without_a_mapping_fails_and_a_module_without_a_loader_has_nothing_to_verify() {
    let narrow = module(
        "modprobe: {moduleName: gauge}\nkernelMappings: [{literal: 5.4.0-1-none, containerImage: 'registry.test/gauge:1'}]",
    );
    let told = told_of(&preflight(), &narrow, None);
    let (status, stage, reason, message) = said(&told);
    assert_eq!((status, stage, reason), (Failure, Done, reasons::NO_MAPPING));
    assert!(message.starts_with("mapping not found: ") && message.contains(KERNEL), "{message}");
    let mut plugin = minimal_module();
    plugin.spec.module_loader = None;
    let told = told_of(&preflight(), &plugin, None);
    let message = "nothing to verify: the Module has no moduleLoader";
    assert_eq!(said(&told), (Success, Done, reasons::NO_MODULE_LOADER, message));
    assert_eq!(told.predicted, None);
}

#[test]
fn of_several_architectures_the_worst_is_told() {
    let (module, good) = (minimal_module(), judged(Predicted::Loads, None, ""));
    let mut bad = in_state(ImagePhase::Waiting, reasons::IMAGE_ABSENT);
    bad.spec.architecture = "arm64".to_owned();
    let mut view = view(&module, vec![&good, &bad]);
    view.architectures.insert("arm64".to_owned());
    let told = status(&preflight(), &[view], &at(0)).modules.remove(0);
    assert_eq!((told.verification_status, told.architecture.as_deref()), (Failure, Some("arm64")));
    assert!(told.status_reason.unwrap().as_str().ends_with(", on arm64"));
}

#[test]
fn times_stay_while_a_module_stands_as_it_stood_and_both_forms_say_the_same() {
    let (module, mut preflight) = (minimal_module(), preflight());
    let building = in_state(ImagePhase::Building, reasons::BUILDING);
    let first = status(&preflight, &[view(&module, vec![&building])], &at(0));
    assert_eq!(first.observed_generation, Some(4));
    let old = &first.cr_statuses["lab/gauge"];
    assert_eq!((old.verification_status, old.verification_stage), (OldStatus::False, OldStage::Build));
    preflight.status = Some(first.clone());
    assert_eq!(status(&preflight, &[view(&module, vec![&building])], &at(9)), first, "nothing to write");
    let ready = judged(Predicted::Loads, None, "");
    let second = status(&preflight, &[view(&module, vec![&ready])], &at(9));
    assert_eq!(second.modules[0].last_transition_time, at(9));
    let old = &second.cr_statuses["lab/gauge"];
    assert_eq!((old.verification_status, old.verification_stage), (OldStatus::True, OldStage::Done));
    assert_eq!(old.last_transition_time, at(9));
    assert_eq!(second.result, Some(Success));
    let failed = in_state(ImagePhase::Waiting, reasons::IMAGE_ABSENT);
    let old = status(&preflight, &[view(&module, vec![&failed])], &at(9)).cr_statuses["lab/gauge"].clone();
    assert_eq!((old.verification_status, old.verification_stage), (OldStatus::False, OldStage::Requeued));
}

#[test]
fn one_failure_decides_for_all_and_deleted_modules_do_not_count() {
    let (good, mut bad, mut gone) = (minimal_module(), minimal_module(), minimal_module());
    bad.metadata.name = Some("anvil".to_owned());
    gone.metadata.name = Some("zinc".to_owned());
    gone.metadata.deletion_timestamp = Some(at(0));
    let (ready, absent) =
        (judged(Predicted::Loads, None, ""), in_state(ImagePhase::Waiting, reasons::IMAGE_ABSENT));
    let views = [view(&good, vec![&ready]), view(&bad, vec![&absent]), view(&gone, vec![&ready])];
    let status = status(&preflight(), &views, &at(0));
    assert_eq!((status.result, status.total, status.failed), (Some(Failure), 2, 1));
    let message = status.message.unwrap();
    assert!(message.as_str().ends_with("these drivers would be lost: lab/anvil"), "{message}");
    let names: Vec<_> = status.modules.iter().map(|module| module.name.as_str()).collect();
    assert_eq!(names, ["anvil", "gauge"]);
}

#[test]
fn what_waits_for_a_module_that_fails_fails_with_it_and_waits_for_no_longer() {
    let mut needing = minimal_module();
    needing.metadata.name = Some("zinc".to_owned());
    let loader = needing.spec.module_loader.as_mut().unwrap();
    let build = serde_json::json!({ "source": { "git": { "uri": "https://git.test/zinc" },
        "artifacts": [{ "module": "gauge", "path": "Module.symvers", "to": "gauge" }] } });
    loader.container.build = Some(serde_json::from_value(build).unwrap());
    let needed = minimal_module();
    let waits = in_state(ImagePhase::Waiting, reasons::WAITING_FOR_MODULE);
    let of_zinc = |needed: &[View<'_>]| {
        let views: Vec<_> = needed.iter().cloned().chain([view(&needing, vec![&waits])]).collect();
        let status = status(&pushing(), &views, &at(0));
        let zinc = status.modules.into_iter().find(|module| module.name == "zinc").unwrap();
        (zinc.verification_status, zinc.status_reason.unwrap().to_string())
    };
    for (of_needed, expected) in [
        (in_state(ImagePhase::Building, reasons::BUILDING), InProgress),
        (judged(Predicted::Loads, None, ""), InProgress),
        (in_state(ImagePhase::Failed, reasons::BUILD_FAILED), Failure),
    ] {
        let (found, why) = of_zinc(&[view(&needed, vec![&of_needed])]);
        assert_eq!(found, expected, "{why}");
        assert_eq!(expected == Failure, why.contains("files of Module gauge"), "{why}");
    }
    assert_eq!(of_zinc(&[]).0, Failure, "there is no such Module");
}

#[test]
fn without_modules_there_is_nothing_to_lose() {
    let status = status(&preflight(), &[], &at(0));
    assert_eq!((status.result, status.total), (Some(Success), 0));
}

#[test]
fn a_name_that_is_no_kernels_fails_and_asks_for_no_image() {
    let mut preflight = preflight();
    preflight.spec.kernel_version = "6.1.0 /x".to_owned();
    assert_eq!(told_of(&preflight, &minimal_module(), None).reason.as_deref(), Some(reasons::SPEC_INVALID));
    assert_eq!(targets(&preflight, ["amd64".to_owned()].into()), Vec::new());
}

#[test]
fn a_preflight_asks_until_it_is_deleted() {
    let needs = |preflight: &PreflightValidation| -> Vec<Need> {
        targets(preflight, ["amd64".to_owned()].into()).into_iter().map(|(_, need)| need).collect()
    };
    assert_eq!((needs(&preflight()), needs(&pushing())), (vec![Need::Look], vec![Need::Foreseen]));
    let mut gone = pushing();
    gone.metadata.deletion_timestamp = Some(at(0));
    assert!(needs(&gone).is_empty());
}

#[rstest]
#[case("5.14.0-570.el9.x86_64", None, &["amd64"])]
#[case("5.14.0-570.el9.aarch64+64k", None, &["arm64"])]
#[case("6.1.0-57-cloud-amd64", None, &["amd64"])]
#[case("5.4.0-104-generic", None, &["s390x"])]
#[case("5.4.0-104-generic", Some("riscv64"), &["riscv64"])]
fn the_architecture_is_said_or_read_off_the_name_or_off_the_nodes(
    #[case] kernel: &str,
    #[case] said: Option<&str>,
    #[case] expected: &[&str],
) {
    let mut preflight = preflight();
    preflight.spec.kernel_version = kernel.to_owned();
    preflight.spec.architecture = said.map(str::to_owned);
    let all = || ["ppc64le".to_owned(), "s390x".to_owned()];
    let found = architectures(&preflight, ["s390x".to_owned()], all());
    assert_eq!(found.iter().map(String::as_str).collect::<Vec<_>>(), expected);
    if said.is_none() && expected == ["s390x"] {
        assert_eq!(architectures(&preflight, [], all()).len(), 2, "those of all nodes");
        assert_eq!(architectures(&preflight, [], []), ["amd64".to_owned()].into());
    }
}
