use clap::Parser as _;
use k8s_openapi::api::core::v1::Pod;
use rstest::rstest;
use serde_json::{Value, json};

use super::node::lack;
use super::shown::Lines;
use super::{Args, OF_JOBS, OF_NODES};
use crate::{Cli, Command};

fn args(line: &str) -> Args {
    let words = ["kubectl-tenon", "logs"].into_iter().chain(line.split(' '));
    match Cli::try_parse_from(words).unwrap().command {
        Command::Logs(args) => args,
        other => panic!("{other:?}"),
    }
}

#[rstest]
#[case::a_module("gauge --kernel 6.1.0 -c build -f", None)]
#[case::by_its_kind("module/gauge --tail 5", None)]
#[case::a_node("node/oak -c loader -p", None)]
#[case::no_kernel("node/oak --kernel 6.1.0", Some("--kernel is for Modules"))]
#[case::no_former_life("gauge -p", Some("--previous is for nodes"))]
#[case::not_of_a_node("node/oak -c build", Some("loader and agent"))]
#[case::not_of_a_module("gauge -c loader", Some("name a node as node/NAME"))]
fn what_a_kind_does_not_have_is_refused(#[case] line: &str, #[case] expected: Option<&str>) {
    let told = args(line).misplaced();
    match expected {
        None => assert_eq!(told, None),
        Some(part) => assert!(told.is_some_and(|told| told.contains(part)), "{told:?}"),
    }
}

#[test]
fn flags_mean_what_they_mean_to_kubectl() {
    let part = args("node/oak -c loader --tail=-1 -f").part("loader");
    assert_eq!((part.container.as_deref(), part.follow, part.tail_lines), (Some("loader"), true, None));
    let part = args("node/oak -p --tail 7").part("agent");
    assert_eq!((part.previous, part.tail_lines), (true, Some(7)));
    for wrong in ["--tail=-2", "-c none", "-f -o json"] {
        let words = ["kubectl-tenon", "logs", "node/oak"].into_iter().chain(wrong.split(' '));
        assert!(Cli::try_parse_from(words).is_err(), "{wrong}");
    }
    // What the refusals say.
    assert_eq!((OF_NODES, OF_JOBS), (["loader", "agent"], ["fetch", "gather", "build", "make"]));
}

fn pod(status: &Value) -> Pod {
    serde_json::from_value(json!({ "metadata": { "name": "tenon-node-x" }, "status": status })).unwrap()
}

fn loader(state: &Value, last: &Value) -> Value {
    json!({ "phase": "Running", "containerStatuses": [{
        "name": "loader", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state, "lastState": last,
    }] })
}

fn ended() -> Value {
    json!({ "terminated": { "exitCode": 1 } })
}

#[rstest]
#[case::runs(loader(&json!({ "running": {} }), &json!({})), false, None)]
#[case::has_ended(loader(&ended(), &json!({})), false, None)]
#[case::fails_again_and_again(loader(&json!({ "waiting": { "reason": "CrashLoopBackOff" } }), &ended()), false, None)]
#[case::its_former_life(loader(&json!({ "running": {} }), &ended()), true, None)]
#[case::its_first_life(
    loader(&json!({ "running": {} }), &json!({})), true,
    Some("container loader of pod tenon-node-x was not started anew: there is no former log")
)]
#[case::waits(
    loader(&json!({ "waiting": { "reason": "ErrImagePull", "message": "no such image" } }), &json!({})), false,
    Some("container loader of pod tenon-node-x has not begun: ErrImagePull: no such image")
)]
#[case::has_no_node(
    json!({ "phase": "Pending", "conditions": [
        { "type": "PodScheduled", "status": "False", "message": "0/1 nodes are available" }] }), false,
    Some("container loader of pod tenon-node-x has not begun: 0/1 nodes are available")
)]
#[case::nobody_has_said_anything(
    json!({}), false, Some("container loader of pod tenon-node-x has not begun: the pod is Pending")
)]
fn a_container_has_a_log_or_it_is_said_why_not(
    #[case] status: Value,
    #[case] previous: bool,
    #[case] expected: Option<&str>,
) {
    let told = lack(&pod(&status), "loader", previous).map(|error| error.to_string());
    assert_eq!(told.as_deref(), expected);
}

#[rstest]
fn lines_are_whole_whatever_the_pieces(#[values(1, 3, 100)] piece: usize) {
    let mut lines = Lines::default();
    let mut whole = Vec::new();
    for piece in b"one\n\ntwo\nthree".chunks(piece) {
        whole.extend(lines.next(piece));
    }
    assert_eq!(whole, [b"one".as_slice(), b"", b"two"]);
    assert_eq!(lines.rest().as_deref(), Some(b"three".as_slice()));
}

#[test]
fn a_line_without_end_is_not_held() {
    let mut lines = Lines::default();
    let mut given = 0;
    for _ in 0..1000 {
        given += lines.next(&[b'x'; 1000]).iter().map(Vec::len).sum::<usize>();
    }
    assert!(given > 900_000, "{given}");
}
