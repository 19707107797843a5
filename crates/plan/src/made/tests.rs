use k8s_openapi::jiff::Timestamp;
use rstest::rstest;
use tenon_api::made_image::MadeImageSpec;
use tenon_api::module::{Build, Sign};
use tenon_api::module_image::ImagePhase;

use super::*;
use crate::fixture::{bundle, module, ready_image};

const IMAGE: &str = "registry.test/gauge:1";
const DELETE: Policy = Policy { delete: true, after: Duration::from_secs(100) };
const REPORT: Policy = Policy { delete: false, ..DELETE };

/// As references are read elsewhere, but for what does not count here: whole texts only, docker.io filled in.
fn canonical(text: &str) -> Option<String> {
    let name = text.split('@').next()?;
    let is_reference = !name.is_empty() && !name.contains([' ', '$', '{']);
    is_reference
        .then(|| if name.contains('/') { name.to_owned() } else { format!("docker.io/library/{name}") })
}

fn made(digest: char) -> MadeImage {
    made_as(IMAGE, digest)
}

fn made_as(image: &str, digest: char) -> MadeImage {
    let spec = MadeImageSpec {
        module: "gauge".to_owned(),
        image: image.to_owned(),
        digest: bundle(digest),
        ..MadeImageSpec::default()
    };
    MadeImage::new(&MadeImage::name_for(&spec), spec)
}

/// Resolved to `sha256:ff…`.
fn image() -> ModuleImage {
    ready_image(IMAGE, 'a')
}

fn needs(images: &[ModuleImage]) -> Needs<fn(&str) -> Option<String>> {
    let mut needs = Needs::new(canonical as fn(&str) -> Option<String>);
    for image in images {
        needs.add_image(image);
    }
    needs
}

#[test]
fn what_an_image_was_resolved_to_is_needed_and_what_its_tag_stood_for_before_is_not() {
    let needs = needs(&[image()]);
    assert!(needs.need(&made('f')));
    assert!(!needs.need(&made('0')));
    assert!(needs.needs_name(IMAGE), "what it stands for now is not to go all the same");
}

#[test]
fn while_an_image_is_looked_for_whatever_its_name_stands_for_is_needed() {
    let mut waiting = image();
    waiting.metadata.generation = Some(2);
    assert!(needs(&[waiting.clone()]).need(&made('0')));
    if let Some(status) = &mut waiting.status {
        status.phase = Some(ImagePhase::Waiting);
    }
    assert!(needs(&[image(), waiting]).need(&made('0')), "one that is resolved beside it changes nothing");
}

#[test]
fn another_namespaces_or_names_image_of_the_same_content_keeps_it() {
    let mut other = ready_image("mirror.test/other:2", 'a');
    other.metadata.namespace = Some("hall".to_owned());
    assert!(needs(&[other]).need(&made('f')));
}

#[test]
fn a_name_is_the_same_however_it_is_written() {
    let by = |image: &str| ModuleImage { status: None, ..ready_image(image, 'a') };
    assert!(needs(&[by("gauge:1")]).need(&made_as("docker.io/library/gauge:1", '0')));
    assert!(!needs(&[by("gauge:2")]).need(&made_as("docker.io/library/gauge:1", '0')));
    let by_digest = by(&format!("elsewhere.test/gauge@{}", bundle('0')));
    assert!(needs(&[by_digest]).need(&made('0')));
}

#[test]
fn what_another_image_is_made_from_is_needed() {
    let mut signed = ready_image("registry.test/signed:1", 'a');
    signed.spec.sign = Some(Sign { unsigned_image: Some(IMAGE.to_owned()), ..Sign::default() });
    assert!(needs(&[signed]).need(&made('0')));
    let mut built = ready_image("registry.test/built:1", 'a');
    let dockerfile = format!("FROM {IMAGE}\nRUN true\n");
    built.spec.build = Some(Build { dockerfile: Some(dockerfile), ..Build::default() });
    assert!(needs(&[built]).need(&made('0')));
}

#[test]
fn what_a_module_names_literally_is_needed_without_any_node() {
    let naming = |image: &str| {
        let mappings = "kernelMappings: [{regexp: '^.+$'}]";
        module(&format!("modprobe: {{moduleName: gauge}}\n{mappings}\ncontainerImage: '{image}'"))
    };
    let (literal, template) = (naming(IMAGE), naming("registry.test/gauge:${KERNEL_FULL_VERSION}"));
    let by = |module: &Module, images: &[ModuleImage]| {
        let mut needs = needs(images);
        needs.add_module(module);
        needs.need(&made('0'))
    };
    assert!(by(&literal, &[]));
    assert!(!by(&template, &[]));
    assert!(!by(&literal, &[image()]), "its tag stands for something else by now");
}

#[test]
fn what_a_node_is_told_to_have_and_what_a_job_makes_is_needed() {
    let mut entry = NodeModule { image_digest: Some(bundle('0')), ..NodeModule::default() };
    let mut assigned = needs(&[]);
    assigned.add_entry(&entry);
    assert!(assigned.need(&made('0')) && !assigned.need(&made('1')));
    // As KMM wrote it.
    entry.image_digest = None;
    entry.config.container_image = IMAGE.to_owned();
    let mut taken_over = needs(&[]);
    taken_over.add_entry(&entry);
    assert!(taken_over.need(&made('0')));
    let mut making = needs(&[]);
    making.add_job(IMAGE);
    assert!(making.need(&made('0')));
}

#[test]
fn who_cannot_say_what_a_reference_is_keeps_it() {
    assert!(needs(&[]).need(&made_as("not a reference", '0')));
}

fn at(seconds: i64) -> Time {
    Time(Timestamp::from_second(1_790_000_000 + seconds).unwrap())
}

fn told(step: Step) -> MadeImage {
    let Step::Tell(status) = step else { panic!("{step:?}") };
    MadeImage { status: Some(status), ..made('0') }
}

fn why(made: &MadeImage) -> &str {
    made.status.as_ref().and_then(|status| status.reason.as_deref()).unwrap_or_default()
}

#[test]
fn what_nothing_needs_is_told_of_and_goes_when_its_time_has_passed() {
    let unneeded = told(step(&made('0'), false, DELETE, &at(0)));
    assert_eq!(why(&unneeded), reasons::UNNEEDED);
    assert_eq!(step(&unneeded, false, DELETE, &at(60)), Step::Rest(Some(Duration::from_secs(40))));
    assert_eq!(step(&unneeded, false, DELETE, &at(100)), Step::Erase);
    // A clock that was set back makes it later, never sooner.
    assert_eq!(step(&unneeded, false, DELETE, &at(-50)), Step::Rest(Some(Duration::from_secs(150))));
}

#[test]
fn without_leave_nothing_goes_however_long_it_takes() {
    let unneeded = told(step(&made('0'), false, REPORT, &at(0)));
    assert_eq!(why(&unneeded), reasons::DELETION_OFF);
    assert_eq!(step(&unneeded, false, REPORT, &at(1_000_000)), Step::Rest(None));
    assert_eq!(
        step(&unneeded, false, DELETE, &at(1_000_000)),
        Step::Erase,
        "the time counts that has passed"
    );
}

#[rstest]
#[case::told(0)]
#[case::due(200)]
fn what_is_needed_again_stays_and_its_time_begins_anew(#[case] after: i64) {
    let unneeded = told(step(&made('0'), false, DELETE, &at(0)));
    let again = told(step(&unneeded, true, DELETE, &at(after)));
    assert_eq!(why(&again), reasons::NEEDED);
    assert_eq!(step(&again, true, DELETE, &at(after)), Step::Rest(None));
    let unneeded = told(step(&again, false, DELETE, &at(300)));
    assert_eq!(step(&unneeded, false, DELETE, &at(399)), Step::Rest(Some(Duration::from_secs(1))));
}

#[test]
fn a_deletion_that_was_begun_is_ended_unless_the_image_is_needed_again() {
    let unneeded = told(step(&made('0'), false, DELETE, &at(0)));
    let status = deleting(&unneeded, vec![bundle('1')], &at(100));
    let begun = MadeImage { status: Some(status), ..made('0') };
    assert_eq!(step(&begun, false, DELETE, &at(101)), Step::Erase);
    assert_eq!(why(&told(step(&begun, true, DELETE, &at(101)))), reasons::NEEDED);
    let status = refused(&begun, reasons::REGISTRY_UNREACHABLE, "why".to_owned(), &at(102));
    assert_eq!(status.parts, [bundle('1')], "what is left to do is remembered");
}

#[rstest]
#[case::passing(reasons::REGISTRY_UNREACHABLE, 600)]
#[case::lasting(reasons::REGISTRY_DENIED, 21_600)]
#[case::lasting(reasons::DELETION_UNSUPPORTED, 21_600)]
fn what_cannot_be_deleted_is_said_once_and_tried_seldom(#[case] reason: &str, #[case] again: u64) {
    let unneeded = told(step(&made('0'), false, DELETE, &at(0)));
    let status = refused(&unneeded, reason, "why".to_owned(), &at(100));
    let refused = MadeImage { status: Some(status), ..made('0') };
    let wait = Duration::from_secs(again - 1);
    assert_eq!(step(&refused, false, DELETE, &at(101)), Step::Rest(Some(wait)));
    let later = 100 + i64::try_from(again).unwrap();
    assert_eq!(step(&refused, false, DELETE, &at(later)), Step::Erase);
    assert_eq!(why(&told(step(&refused, false, REPORT, &at(101)))), reasons::DELETION_OFF);
}

#[test]
fn no_more_is_remembered_than_anybody_looks_at() {
    let all: Vec<_> = (0..MOST_UNNEEDED + 2)
        .map(|number| {
            let mut one = told(step(&made('0'), false, REPORT, &at(i64::try_from(number).unwrap())));
            one.metadata.name = Some(format!("gauge-{number}"));
            one
        })
        .collect();
    let needed = told(step(&all[0], true, REPORT, &at(0)));
    let names: Vec<_> = surplus(all.iter().chain([&needed])).iter().map(|made| made.name_any()).collect();
    assert_eq!(names, ["gauge-1", "gauge-0"], "the longest unneeded, and nothing that is needed");
}
