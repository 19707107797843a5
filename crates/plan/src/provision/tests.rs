use rstest::rstest;

use super::*;
use crate::fixture::{KERNEL, default_image, minimal_module, module};

fn target(kernel: &str) -> Target {
    Target { kernel: kernel.parse().unwrap(), architecture: "amd64".to_owned() }
}

fn targets(kernels: &[&str]) -> BTreeMap<Target, Need> {
    kernels.iter().map(|kernel| (target(kernel), Need::Node)).collect()
}

fn missing(reason: &'static str, retry_after: Option<Duration>) -> Finding {
    Finding::Missing { reason, message: "why".to_owned(), needs_change: false, retry_after }
}

#[test]
fn each_kernel_gets_an_image_of_its_own() {
    let module = minimal_module();
    let images = images(&module, &targets(&[KERNEL, "7.2.0"]), &[]);
    let mut names: Vec<_> = images.apply.iter().map(|image| image.spec.image.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, [format!("registry.test/gauge:{KERNEL}").as_str(), "registry.test/gauge:7.2.0"]);
    assert!(images.apply.iter().all(|image| image.owner_references().len() == 1));
}

#[test]
fn defect_11_a_second_look_changes_nothing_and_a_kernel_that_left_takes_its_image_along() {
    let module = minimal_module();
    let made = images(&module, &targets(&[KERNEL, "7.2.0"]), &[]).apply;
    let existing: Vec<_> = made.iter().collect();
    assert_eq!(images(&module, &targets(&[KERNEL, "7.2.0"]), &existing), Images::default());
    let left = images(&module, &targets(&[KERNEL]), &existing);
    assert_eq!((left.apply.len(), left.delete.len()), (0, 1));
    assert_eq!(left.delete[0].spec.kernel, "7.2.0");
}

#[test]
fn a_change_is_written_to_the_object_that_was_seen() {
    let mut module = minimal_module();
    let mut made = images(&module, &targets(&[KERNEL]), &[]).apply.remove(0);
    made.metadata.uid = Some("uid-1".to_owned());
    made.metadata.resource_version = Some("7".to_owned());
    module.spec.image_rebuild_trigger_generation = Some(1);
    let changed = images(&module, &targets(&[KERNEL]), &[&made]).apply.remove(0);
    assert_eq!(changed.metadata.uid.as_deref(), Some("uid-1"));
    assert_eq!(changed.metadata.resource_version.as_deref(), Some("7"));
    assert_eq!(changed.spec.rebuild_trigger, Some(1));
}

#[test]
fn a_deleted_module_needs_no_image() {
    let mut module = minimal_module();
    let made = images(&module, &targets(&[KERNEL]), &[]).apply;
    module.metadata.deletion_timestamp = Some(serde_json::from_str("\"2026-01-01T00:00:00Z\"").unwrap());
    assert_eq!(images(&module, &targets(&[KERNEL]), &made.iter().collect::<Vec<_>>()).delete.len(), 1);
}

#[rstest]
#[case::looked_for(Need::Look, "${KERNEL_FULL_VERSION}", (true, true))]
#[case::looked_for_but_shared_with_nodes(Need::Look, "v1", (false, false))]
#[case::to_be_made(Need::Foreseen, "${KERNEL_FULL_VERSION}", (true, false))]
#[case::to_be_made_but_shared_with_nodes(Need::Foreseen, "v1", (false, false))]
#[case::run_by_a_node(Need::Node, "v1", (true, false))]
fn what_a_preflight_asks_for_is_made_only_where_it_says_so_and_nodes_do_not_share_it(
    #[case] need: Need,
    #[case] tag: &str,
    #[case] (made, on_trial): (bool, bool),
) {
    let module = module(&format!(
        "modprobe: {{moduleName: gauge}}\nkernelMappings: [{{regexp: '^.+$'}}]\ncontainerImage: 'registry.test/gauge:{tag}'\nbuild: {{dockerfile: FROM scratch}}"
    ));
    let targets = [(target(KERNEL), Need::Node), (target("7.2.0"), need)].into();
    let images = images(&module, &targets, &[]).apply;
    let of = |kernel: &str| images.iter().find(|image| image.spec.kernel == kernel).unwrap();
    assert!(of(KERNEL).spec.build.is_some() && !of(KERNEL).spec.trial);
    assert_eq!((of("7.2.0").spec.build.is_some(), of("7.2.0").spec.trial), (made, on_trial));
}

#[test]
fn what_was_made_on_trial_is_looked_at_anew_for_a_node_and_is_another_jobs() {
    let module = module(
        "modprobe: {moduleName: gauge}\nkernelMappings: [{regexp: '^.+$'}]\ncontainerImage: 'registry.test/gauge:1'\nbuild: {dockerfile: FROM scratch}",
    );
    let mut tried = images(&module, &[(target(KERNEL), Need::Look)].into(), &[]).apply.remove(0);
    tried.metadata.generation = Some(1);
    assert!(tried.spec.trial);
    let real = images(&module, &targets(&[KERNEL]), &[&tried]).apply.remove(0);
    assert!(!real.spec.trial && real.spec.build == tried.spec.build);
    let inputs = making::Inputs { source: tenon_order::Digest::of(b"all"), key: None, certificate: None };
    assert_ne!(inputs.hash(&tried), inputs.hash(&real));
    // One that another preflight has published for its kernel is waited for.
    let shared = [(target(KERNEL), Need::Look), (target("7.2.0"), Need::Foreseen)].into();
    assert!(images(&module, &shared, &[]).apply.iter().all(|image| !image.spec.trial));
}

#[rstest]
#[case::absent(reasons::IMAGE_ABSENT, None, [2, 4, 8, 16, 30, 30])]
#[case::asked_for_more(reasons::REGISTRY_UNREACHABLE, Some(20), [20, 20, 20, 20, 30, 30])]
#[case::asked_for_ever(reasons::REGISTRY_UNREACHABLE, Some(u64::MAX), [600; 6])]
#[case::secret(reasons::SECRET_MISSING, None, [3; 6])]
fn what_is_missing_is_looked_for_again(
    #[case] reason: &'static str,
    #[case] asked: Option<u64>,
    #[case] seconds: [u64; 6],
) {
    let finding = missing(reason, asked.map(Duration::from_secs));
    let waits = (1..=6).filter_map(|attempt| retry_after(&finding, attempt)).map(|wait| wait.as_secs());
    assert_eq!(waits.collect::<Vec<_>>(), seconds);
}

#[test]
fn a_status_about_an_older_spec_is_no_bundle() {
    let mut image = default_image('a');
    assert!(bundle(&image).is_some());
    image.metadata.generation = Some(2);
    assert_eq!(bundle(&image), None);
}

#[test]
fn an_image_that_becomes_unfit_loses_its_bundle_and_says_why() {
    let image = default_image('a');
    let now: Time = serde_json::from_str("\"2026-01-01T00:00:00Z\"").unwrap();
    let status = status(&image, &missing(reasons::IMAGE_ABSENT, None).into(), &now);
    assert_eq!((status.phase, status.bundle, status.image_digest), (Some(ImagePhase::Waiting), None, None));
    assert_eq!(status.message.unwrap().as_str(), "why");
    assert_eq!(status.conditions[0].status, "False");
}

const SIGNED: &str = "modprobe: {moduleName: gauge}
containerImage: 'registry.test/gauge:1'
sign:
  keySecret: {name: key}
  certSecret: {name: cert}
  unsignedImage: 'registry.test/plain:1'
  filesToSign: ['/opt/lib/modules/${KERNEL_FULL_VERSION}/*.ko']
kernelMappings: [{regexp: '^.+$'}]";

#[test]
fn kernels_that_share_an_image_share_what_is_signed_in_it() {
    let module = module(SIGNED);
    let images = images(&module, &targets(&[KERNEL, "7.2.0"]), &[]).apply;
    let files: Vec<_> = images.iter().map(|image| image.spec.sign.clone().unwrap().files_to_sign).collect();
    let both = [format!("/opt/lib/modules/{KERNEL}/*.ko"), "/opt/lib/modules/7.2.0/*.ko".to_owned()];
    assert_eq!(files, [both.to_vec(), both.to_vec()]);
    let inputs = making::Inputs {
        source: tenon_order::Digest::of(b"plain"),
        key: Some("u-1/1".to_owned()),
        certificate: Some("u-2/1".to_owned()),
    };
    let job = |image: &ModuleImage| making::job_name(image, &inputs.hash(image));
    assert_eq!(job(&images[0]), job(&images[1]), "and the Job that signs it");
}

#[test]
fn what_is_built_is_signed_too() {
    let module = module(&format!("build: {{dockerfileConfigMap: {{name: recipe}}}}\n{SIGNED}"));
    let spec = images(&module, &targets(&[KERNEL]), &[]).apply.remove(0).spec;
    assert!(spec.build.is_some() && spec.sign.is_some());
}

#[test]
fn a_job_that_builds_is_told_as_building() {
    let mut image = default_image('a');
    let now: Time = serde_json::from_str("\"2026-01-01T00:00:00Z\"").unwrap();
    let phase = |image: &ModuleImage| {
        let look = Look::from(Finding::Making { message: "it works".to_owned() });
        status(image, &look, &now).phase
    };
    assert_eq!(phase(&image), Some(ImagePhase::Signing));
    image.spec.build = Some(tenon_api::module::Build::default());
    assert_eq!(phase(&image), Some(ImagePhase::Building));
}

#[test]
fn what_has_vanished_keeps_its_bundle_says_why_and_is_whole_again_when_it_is_back() {
    let mut image = default_image('a');
    let now: Time = serde_json::from_str("\"2026-01-01T00:00:00Z\"").unwrap();
    let former = image.status.clone().unwrap();
    let packed = Finding::Packed {
        image_digest: former.image_digest.clone().unwrap(),
        bundle: former.bundle.clone().unwrap(),
    };
    image.status = Some(status(&image, &packed.clone().into(), &now));
    assert!(!has_vanished(&image));
    image.status = Some(vanished(&image, &missing(reasons::IMAGE_ABSENT, None).into(), &now));
    for reason in [reasons::IMAGE_ABSENT, reasons::REGISTRY_UNREACHABLE] {
        let told = image.status.clone().unwrap();
        assert_eq!((&told.bundle, &told.image_digest), (&former.bundle, &former.image_digest), "{reason}");
        assert_eq!((told.phase, told.reason.as_deref()), (Some(ImagePhase::Ready), Some(reason)));
        assert_eq!(told.conditions[0].message, "nodes that have it keep it, others wait: why");
        assert!(has_vanished(&image) && renewal(&image).is_none(), "{reason}");
        // Looked for again, as ever, it is another trouble.
        image.status = Some(status(&image, &missing(reasons::REGISTRY_UNREACHABLE, None).into(), &now));
    }
    let again = Look { making: Some(Making::default()), ..Look::from(missing(reasons::QUEUED, None)) };
    let mut made = image.clone();
    made.status = Some(status(&image, &again, &now));
    assert!(renewal(&made).is_some() && !has_vanished(&made), "what can be made is made anew");
    image.status = Some(status(&image, &packed.into(), &now));
    assert!(!has_vanished(&image));
    // Of another spec there is nothing to be kept.
    image.metadata.generation = Some(2);
    let other = vanished(&image, &missing(reasons::IMAGE_ABSENT, None).into(), &now);
    assert_eq!((other.phase, other.bundle), (Some(ImagePhase::Waiting), None));
}

#[test]
fn what_is_made_anew_is_used_as_it_was_until_then() {
    let mut image = default_image('a');
    let now: Time = serde_json::from_str("\"2026-01-01T00:00:00Z\"").unwrap();
    let former = image.status.clone().unwrap();
    let making = Some(Making { inputs: "sha256:1".to_owned(), failures: 1, ..Making::default() });
    for finding in [Finding::Making { message: "it works".to_owned() }, missing(reasons::BUILD_FAILED, None)]
    {
        let said = told(&image, &finding);
        image.status = Some(status(&image, &Look { finding, making: making.clone(), retry_at: None }, &now));
        let told = image.status.clone().unwrap();
        assert_eq!((&told.bundle, &told.image_digest), (&former.bundle, &former.image_digest));
        assert_eq!((told.phase, told.reason.as_deref()), (Some(ImagePhase::Ready), Some(said.1)));
        assert_eq!(
            told.message.as_ref().map(ShortMessage::as_str),
            Some(said.2.as_str()),
            "and it does not grow from look to look"
        );
        assert_eq!(renewal(&image).map(|making| making.failures), Some(1));
    }
    let bundle = default_image('b').status.and_then(|status| status.bundle).unwrap();
    let packed = Finding::Packed { image_digest: "sha256:2".to_owned(), bundle };
    image.status = Some(status(&image, &Look { finding: packed, making, retry_at: None }, &now));
    assert_eq!(image.status.as_ref().and_then(|status| status.image_digest.as_deref()), Some("sha256:2"));
    assert_eq!(renewal(&image), None);
}

#[test]
fn what_was_made_for_an_older_spec_is_not_kept() {
    let mut image = default_image('a');
    image.metadata.generation = Some(2);
    let now: Time = serde_json::from_str("\"2026-01-01T00:00:00Z\"").unwrap();
    let finding = Finding::Making { message: "it works".to_owned() };
    let status = status(&image, &Look { finding, making: Some(Making::default()), retry_at: None }, &now);
    assert_eq!((status.phase, status.bundle), (Some(ImagePhase::Signing), None));
}
