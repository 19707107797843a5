//! What `deploy/monitoring` holds, tried with Prometheus itself: its parser, its tests of rules, and an alert that rings because of a
//! real operator.
#![expect(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test that cannot be set up has failed"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use tenon_lab::prometheus::{Programs, Prometheus};
use tenon_lab::wait;
use tenon_test_api::cluster::{Cluster, SOON};
use tenon_test_api::setup;

fn monitoring(file: &str) -> PathBuf {
    setup::deploy(&format!("monitoring/{file}"))
}

fn read(path: &Path) -> Value {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

async fn programs() -> Programs {
    tokio::task::spawn_blocking(Programs::get).await.unwrap().unwrap()
}

/// A folder with the rules as promtool wants them.
fn folder_with(rules: &Value) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("rules.yaml"), rules.to_string()).unwrap();
    folder
}

/// Every expression of the dashboard.
fn drawn() -> Vec<String> {
    let dashboard = read(&monitoring("dashboard.json"));
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let lines = panels.filter_map(|panel| panel["targets"].as_array()).flatten();
    lines.map(|line| line["expr"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn prometheus_understands_every_rule_and_every_picture() {
    let programs = programs().await;
    let rule = read(&monitoring("prometheus-rules.yaml"));
    assert_eq!(rule["spec"], read(&monitoring("plain/rules.yaml")), "both have the same rules");
    let rules = folder_with(&rule["spec"]);
    programs.check_rules(&rules.path().join("rules.yaml")).unwrap();
    let recorded = drawn().into_iter().enumerate();
    let recorded: Vec<_> =
        recorded.map(|(number, expr)| json!({"record": format!("drawn:{number}"), "expr": expr})).collect();
    assert!(recorded.len() > 20, "the dashboard has pictures");
    let drawn = folder_with(&json!({"groups": [{"name": "dashboard", "rules": recorded}]}));
    programs.check_rules(&drawn.path().join("rules.yaml")).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn every_alert_rings_when_it_should_and_only_then() {
    let programs = programs().await;
    let rules = read(&monitoring("plain/rules.yaml"));
    let folder = folder_with(&rules);
    for rule in rules["groups"][0]["rules"].as_array().unwrap() {
        let file = format!("{}.yaml", rule["alert"].as_str().unwrap());
        let source = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/alerting")).join(&file);
        let tests = folder.path().join(&file);
        fs::copy(&source, &tests).unwrap_or_else(|error| panic!("{}: {error}", source.display()));
        programs.test_rules(&tests).unwrap_or_else(|wrong| panic!("{file}: {wrong:?}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_is_not_there_rings_until_nobody_wants_it() {
    let programs = programs().await;
    let mut cluster = Cluster::start().await;
    let operator = cluster.show_metrics().await;
    let mut rules = read(&monitoring("plain/rules.yaml"));
    for rule in rules["groups"][0]["rules"].as_array_mut().unwrap() {
        rule["for"] = json!("2s");
    }
    let prometheus =
        Prometheus::start(&programs, cluster.plane.folder(), operator, &rules.to_string()).await.unwrap();
    let gives = async |what: &str, expression: &str| {
        let found =
            wait::until(what, SOON, async || prometheus.query(expression).await.ok()?.into_iter().next());
        found.await.unwrap_or_else(|late| panic!("{late}"))
    };
    gives("the operator is scraped, and counts no Module", "kmm_module_num == 0").await;
    let ringing = r#"ALERTS{alertname="TenonImageUnavailable",alertstate="firing"}"#;
    // Nothing rings by itself: longer than the alert's `for`.
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(prometheus.query(ringing).await.unwrap(), Vec::<Value>::new());

    cluster.add_node("n1").await;
    cluster.apply_module("gauge", "gauge:none", json!({})).await;
    let alert = gives("the alert rings", ringing).await;
    assert_eq!(alert["metric"]["severity"], "warning");
    gives("the reason is told", r#"tenon_module_images{phase="waiting",reason="ImageAbsent"} == 1"#).await;
    gives("a replica leads", "tenon_leader == 1").await;

    cluster.delete_module("gauge").await;
    gives("the alert ends", &format!("absent({ringing})")).await;
}
