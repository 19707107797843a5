use rstest::rstest;
use serde_json::{Value, json};
use tenon_api::PreflightValidationStatus;

use super::answer::Answer;
use super::asked::stem;
use super::{duration, exit_code};
use crate::terminal::Look;

fn module(name: &str, status: &str, reason: &str, predicted: Option<&str>) -> Value {
    let mut module = json!({
        "namespace": "hall", "name": name, "verificationStatus": status, "verificationStage": "Done",
        "statusReason": "as it is", "lastTransitionTime": "2026-01-01T00:00:00Z", "reason": reason,
        "image": format!("registry.test/{name}:1"),
    });
    if let Some(predicted) = predicted {
        module["predicted"] = json!(predicted);
    }
    module
}

fn answer(modules: &[Value]) -> Answer {
    let status: PreflightValidationStatus =
        serde_json::from_value(json!({ "modules": modules, "message": "in a line" })).unwrap();
    Answer::new("6.1.0-57-amd64", None, &status)
}

fn loads() -> Value {
    module("gauge", "Success", "WillLoad", Some("Loads"))
}

#[rstest]
#[case::nothing_to_lose(&[], 0)]
#[case::all_load(&[loads()], 0)]
#[case::nothing_to_load(&[loads(), module("plug", "Success", "NoModuleLoader", None)], 0)]
#[case::not_known(&[loads(), module("anvil", "Success", "NotPredicted", Some("Unknown"))], 3)]
#[case::not_decided(&[loads(), module("anvil", "InProgress", "Building", None)], 3)]
#[case::no_answer(&[loads(), module("anvil", "Failure", "RegistryUnreachable", None)], 3)]
#[case::lost(&[loads(), module("anvil", "Failure", "ImageAbsent", None), module("late", "InProgress", "Building", None)], 1)]
#[case::refused(&[module("anvil", "Failure", "WillNotLoad", Some("Fails"))], 1)]
fn the_exit_code_is_the_answer(#[case] modules: &[Value], #[case] code: u8) {
    assert_eq!(answer(modules).code(), code);
}

#[test]
fn what_is_left_behind_is_no_good_end_and_no_lost_driver() {
    let lost = module("anvil", "Failure", "ImageAbsent", None);
    let unknown = module("anvil", "Success", "NotPredicted", Some("Unknown"));
    for (modules, gone, left) in [(vec![loads()], 0, 3), (vec![lost], 1, 1), (vec![unknown], 3, 3)] {
        let answer = answer(&modules);
        assert_eq!((exit_code(&answer, true), exit_code(&answer, false)), (gone, left));
    }
}

#[test]
fn a_driver_that_would_be_lost_is_named_with_the_next_step() {
    let answer = answer(&[loads(), module("anvil", "Failure", "NotTried", None)]);
    let text = answer.text(Look::PLAIN);
    assert_eq!(
        text,
        "MODULE       IMAGE                   VERDICT   REASON\n\
         hall/gauge   registry.test/gauge:1   Loads     WillLoad\n\
         hall/anvil   registry.test/anvil:1   Lost      NotTried\n\
         \n\
         hall/anvil\n  as it is\n  next: give each kernel an image of its own: ${KERNEL_FULL_VERSION} in containerImage; or publish the image\n\
         \n\
         in a line\n"
    );
    let told = serde_json::to_value(&answer).unwrap();
    assert_eq!((&told["result"], &told["modules"][1]["name"]), (&json!("Failure"), &json!("anvil")));
}

#[rstest]
#[case("6.1.0-57-cloud-amd64", "6.1.0-57-cloud-amd64")]
#[case("5.14.0-570.el9.x86_64+debug", "5.14.0-570.el9.x86-64-debug")]
#[case("6.1.0-RC1+", "6.1.0-rc1")]
#[case("+.+", "kernel")]
fn the_object_is_named_for_the_kernel(#[case] kernel: &str, #[case] expected: &str) {
    assert_eq!(stem(kernel), expected);
}

#[test]
fn times_have_one_unit() {
    let seconds = |text: &str| duration(text).map(|time| time.as_secs()).ok();
    let expected =
        [("90s", Some(90)), ("10m", Some(600)), ("2h", Some(7200)), ("7", Some(7)), ("", None), ("1d", None)];
    for (text, expected) in expected {
        assert_eq!(seconds(text), expected, "{text}");
    }
}
