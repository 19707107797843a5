//! What watches over Tenon: alerts, a dashboard, and where Prometheus finds the metrics. All of it is made from two tables, whose
//! every expression is tested with Prometheus's own parser, and whose every metric is one of docs/metrics.md.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::{Value, json};
use tenon_api::labels;
use tenon_api::node_pod::NAMESPACE;

use super::{operator, rbac, yaml};

/// The Service by which Prometheus finds the operator's replicas.
const SERVICE: &str = "tenon-operator-metrics";
/// Where each alert is explained.
const RUNBOOKS: &str = "https://tenon.dev/docs/alerts.html";

/// How much of a trouble.
#[derive(Clone, Copy)]
enum Severity {
    /// Somebody should come now.
    Critical,
    /// Somebody should look today.
    Warning,
    /// Somebody should know.
    Info,
}

impl Severity {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Critical => "critical",
            Self::Warning => "warning",
            Self::Info => "info",
        }
    }
}

/// One alert.
struct Alert {
    name: &'static str,
    severity: Severity,
    /// What must hold…
    expression: &'static str,
    /// … and for how long.
    lasting: &'static str,
    /// A sentence.
    summary: &'static str,
    /// What to look at.
    next: &'static str,
}

const ALERTS: [Alert; 16] = [
    Alert {
        name: "TenonNoLeader",
        severity: Severity::Critical,
        expression: "(sum(tenon_leader) or vector(0)) == 0",
        lasting: "2m",
        summary: "No replica of Tenon's operator leads: nothing changes on any node.",
        next: "Look at the pods of Deployment tenon-operator and at their /readyz. What is loaded stays loaded.",
    },
    Alert {
        name: "TenonLeaderChangesOften",
        severity: Severity::Warning,
        expression: "max(max_over_time(tenon_lease_transitions[1h]) - min_over_time(tenon_lease_transitions[1h])) > 4",
        lasting: "5m",
        summary: "The replicas of Tenon's operator take the lead from each other again and again.",
        next: "Look for restarts of the operator's pods, and for a slow API server.",
    },
    Alert {
        name: "TenonNodeWithoutDriver",
        severity: Severity::Warning,
        expression: "max(tenon_longest_without_driver_seconds) > 900",
        lasting: "1m",
        summary: "A node has been without a driver that it should have for {{ $value | humanizeDuration }}.",
        next: "kubectl tenon status shows which, kubectl tenon explain why.",
    },
    Alert {
        name: "TenonNoMapping",
        severity: Severity::Info,
        // More than a day before: a selector may be wider than the mappings, and then some are always there.
        expression: "sum(tenon_module_nodes{phase=\"no-mapping\"}) > \
                     (sum(tenon_module_nodes{phase=\"no-mapping\"} offset 1d) or vector(0))",
        lasting: "15m",
        summary: "{{ $value }} nodes match a Module and run a kernel that none of its mappings fits, more than a day ago.",
        next: "kubectl tenon explain names the kernels: add a mapping, or leave it at that if no driver is meant for them.",
    },
    Alert {
        name: "TenonDriverFailed",
        severity: Severity::Warning,
        expression: "sum(tenon_module_nodes{phase=~\"failed|rolled-back|unvalidated\"}) > 0",
        lasting: "5m",
        summary: "A driver does not load on {{ $value }} nodes.",
        next: "kubectl tenon explain has the kernel's own words.",
    },
    Alert {
        name: "TenonCrashSuspected",
        severity: Severity::Critical,
        expression: "sum(tenon_module_nodes{phase=\"crash-suspected\"}) > 0",
        lasting: "1m",
        summary: "A driver is not loaded any more on {{ $value }} nodes that went down just after loading it.",
        next: "Take the driver back before more nodes get it; kubectl tenon explain names the nodes.",
    },
    Alert {
        name: "TenonDriverInUse",
        severity: Severity::Info,
        expression: "sum(tenon_module_nodes{phase=\"in-use\"}) > 0",
        lasting: "1h",
        summary: "A driver that should change or go is in use on {{ $value }} nodes.",
        next: "Drain what uses it; kubectl tenon explain names it.",
    },
    Alert {
        name: "TenonRolloutStuck",
        severity: Severity::Warning,
        expression: "sum(tenon_modules{condition=\"RolloutPaused\"}) > 0",
        lasting: "5m",
        summary: "The change of {{ $value }} Modules has stopped: it failed on as many nodes as may be unavailable.",
        next: "Correct the Module, or try again with kubectl tenon retry.",
    },
    Alert {
        name: "TenonModuleDegraded",
        severity: Severity::Warning,
        expression: "sum(tenon_modules{condition=\"Degraded\"}) > 0",
        lasting: "30m",
        summary: "{{ $value }} Modules have something amiss that does not mend itself.",
        next: "kubectl get modules -A names the reason, kubectl tenon explain the way out.",
    },
    Alert {
        name: "TenonAgentSilent",
        severity: Severity::Warning,
        expression: "max(tenon_longest_silence_seconds) > 600",
        lasting: "1m",
        summary: "A node's agent has owed an answer for {{ $value | humanizeDuration }}.",
        next: "Look at the node's pod of DaemonSet tenon-node. What is loaded stays loaded.",
    },
    Alert {
        name: "TenonImageCannotBeMade",
        severity: Severity::Warning,
        expression: "sum(tenon_module_images{reason=~\"BuildFailed|BuilderConfined|SignFailed|ToolkitUnknown|SourceInvalid|\
                     ConfigMapMissing|SecretMissing|SecretMalformed\"}) > 0",
        lasting: "10m",
        summary: "{{ $value }} images of drivers cannot be built or signed.",
        next: "kubectl get moduleimages -A has the reason, kubectl tenon logs the Job's words.",
    },
    Alert {
        name: "TenonImageUnavailable",
        severity: Severity::Warning,
        expression: "sum(tenon_module_images{reason=~\"ImageAbsent|RegistryDenied|RegistryUnreachable|PullFailed|PullPodFailed|\
                     NoNodeToPull|FilesUnreadable|NoModuleForKernel|ImageInvalid|SpecInvalid|ReferenceInvalid\"}) > 0",
        lasting: "15m",
        summary: "{{ $value }} images of drivers are not to be had, or of no use.",
        next: "kubectl get moduleimages -A has the reason.",
    },
    Alert {
        name: "TenonDepotFails",
        severity: Severity::Warning,
        expression: "sum(tenon_module_images{reason=~\"DepotFull|DepotFailed\"}) > 0",
        lasting: "5m",
        summary: "Tenon's operator cannot keep what the nodes are to load.",
        next: "Look at the volume of the operator's --cache-dir.",
    },
    Alert {
        name: "TenonCertificateNearExpiry",
        severity: Severity::Critical,
        expression: "min by (certificate) (tenon_certificate_expiry_timestamp_seconds) - time() < 5 * 86400",
        lasting: "1h",
        summary: "The {{ $labels.certificate }}'s certificate expires in {{ $value | humanizeDuration }} and was not renewed.",
        next: "The leader renews it when two thirds of its life are over: look at its log and at its rights on Secrets.",
    },
    Alert {
        name: "TenonReconcilesFail",
        severity: Severity::Warning,
        expression: "sum by (controller) (rate(tenon_reconciles_total{outcome=\"failed\"}[10m])) / \
                     sum by (controller) (rate(tenon_reconciles_total[10m])) > 0.5",
        lasting: "15m",
        summary: "More than half of what controller {{ $labels.controller }} does fails.",
        next: "The log of the replica that leads names the error.",
    },
    Alert {
        name: "TenonQueueSlow",
        severity: Severity::Warning,
        expression: "histogram_quantile(0.9, sum by (controller, le) (rate(tenon_queue_wait_seconds_bucket[10m]))) > 30",
        lasting: "15m",
        summary: "Objects wait more than 30 s for controller {{ $labels.controller }}.",
        next: "Raise --writes-per-second if the API server has room, and the operator's share of a processor.",
    },
];

/// The groups of rules, as Prometheus reads them.
fn groups() -> Value {
    let rules = ALERTS.iter().map(|alert| {
        json!({
            "alert": alert.name,
            "expr": alert.expression,
            "for": alert.lasting,
            "labels": { "severity": alert.severity.as_str() },
            "annotations": {
                "summary": alert.summary,
                "description": alert.next,
                "runbook_url": format!("{RUNBOOKS}#{}", alert.name.to_lowercase()),
            },
        })
    });
    json!({ "groups": [{ "name": "tenon", "rules": rules.collect::<Vec<_>>() }] })
}

/// `monitoring/prometheus-rules.yaml`, for the Prometheus operator.
pub(super) fn rules_file() -> Result<String> {
    let rule = json!({
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": rbac::namespaced("tenon"),
        "spec": groups(),
    });
    yaml::documents([&rule])
}

/// `monitoring/plain/rules.yaml`, for a Prometheus that reads files.
pub(super) fn plain_rules_file() -> Result<String> {
    yaml::documents([&groups()])
}

/// `monitoring/service-monitor.yaml`: every replica is asked, for each knows its own part.
pub(super) fn service_monitor_file() -> Result<String> {
    let mut metadata = rbac::namespaced(SERVICE);
    let own = (labels::APP_NAME.to_owned(), SERVICE.to_owned());
    metadata.labels.get_or_insert_default().extend([own.clone()]);
    let service = Service {
        metadata,
        spec: Some(ServiceSpec {
            cluster_ip: Some("None".to_owned()),
            selector: Some(operator::pod_labels()),
            ports: Some(vec![ServicePort {
                name: Some(operator::ADMIN_PORT_NAME.to_owned()),
                port: operator::ADMIN_PORT,
                target_port: Some(IntOrString::String(operator::ADMIN_PORT_NAME.to_owned())),
                ..ServicePort::default()
            }]),
            // Also what is not ready tells why.
            publish_not_ready_addresses: Some(true),
            ..ServiceSpec::default()
        }),
        status: None,
    };
    let monitor = json!({
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "ServiceMonitor",
        "metadata": rbac::namespaced("tenon-operator"),
        "spec": {
            "namespaceSelector": { "matchNames": [NAMESPACE] },
            "selector": { "matchLabels": BTreeMap::from([own]) },
            "endpoints": [{ "port": operator::ADMIN_PORT_NAME, "path": "/metrics", "interval": "30s" }],
        },
    });
    yaml::documents(&[yaml::value(service)?, monitor])
}

/// One picture of the dashboard: what it shows, in which unit, and its lines, each with how it is called.
type Panel = (&'static str, &'static str, &'static [(&'static str, &'static str)]);

/// The dashboard's rows.
const ROWS: [(&str, &[Panel]); 5] = [
    (
        "Drivers on nodes",
        &[
            ("Nodes by phase", "short", &[("sum by (phase) (tenon_module_nodes)", "{{phase}}")]),
            ("Modules by condition", "short", &[("sum by (condition) (tenon_modules)", "{{condition}}")]),
            (
                "Longest trouble",
                "s",
                &[
                    ("max(tenon_longest_without_driver_seconds)", "without its driver"),
                    ("max(tenon_longest_silence_seconds)", "silent"),
                ],
            ),
        ],
    ),
    (
        "The way to a loaded module",
        &[
            (
                "Time of each stage (median)",
                "s",
                &[(
                    "histogram_quantile(0.5, sum by (stage, le) (rate(tenon_stage_time_seconds_bucket[30m])))",
                    "{{stage}}",
                )],
            ),
            (
                "Time of each stage (95 %)",
                "s",
                &[(
                    "histogram_quantile(0.95, sum by (stage, le) (rate(tenon_stage_time_seconds_bucket[30m])))",
                    "{{stage}}",
                )],
            ),
            (
                "Failures in an hour",
                "short",
                &[("sum by (stage, reason) (increase(tenon_failures_total[1h]))", "{{stage}}: {{reason}}")],
            ),
        ],
    ),
    (
        "Images",
        &[
            ("Images by phase", "short", &[("sum by (phase) (tenon_module_images)", "{{phase}}")]),
            (
                "Images that are not ready",
                "short",
                &[("sum by (reason) (tenon_module_images{phase!=\"ready\"})", "{{reason}}")],
            ),
            (
                "Requests to registries",
                "reqps",
                &[("sum by (outcome) (rate(tenon_registry_requests_total[5m]))", "{{outcome}}")],
            ),
            ("Images that were made here", "short", &[("max by (state) (tenon_made_images)", "{{state}}")]),
        ],
    ),
    (
        "The operator",
        &[
            ("Leader", "short", &[("tenon_leader", "{{pod}}")]),
            (
                "Reconciles",
                "ops",
                &[(
                    "sum by (controller, outcome) (rate(tenon_reconciles_total[5m]))",
                    "{{controller}}: {{outcome}}",
                )],
            ),
            ("Queues", "short", &[("sum by (controller) (tenon_queue_depth)", "{{controller}}")]),
            (
                "Wait in queues (90 %)",
                "s",
                &[(
                    "histogram_quantile(0.9, sum by (controller, le) (rate(tenon_queue_wait_seconds_bucket[5m])))",
                    "{{controller}}",
                )],
            ),
            (
                "Writes to the API server",
                "wps",
                &[("sum by (resource, verb) (rate(tenon_api_writes_total[5m]))", "{{verb}} {{resource}}")],
            ),
            (
                "Life of certificates",
                "s",
                &[(
                    "min by (certificate) (tenon_certificate_expiry_timestamp_seconds) - time()",
                    "{{certificate}}",
                )],
            ),
        ],
    ),
    (
        "The depot",
        &[
            ("Bytes sent", "Bps", &[("sum(rate(tenon_depot_sent_bytes_total[5m]))", "sent")]),
            (
                "Transfers",
                "ops",
                &[
                    ("sum by (outcome) (rate(tenon_depot_transfers_total[5m]))", "{{outcome}}"),
                    ("sum(tenon_depot_transfers_running)", "running"),
                ],
            ),
            (
                "Requests not served",
                "reqps",
                &[("sum by (reason) (rate(tenon_depot_rejections_total[5m]))", "{{reason}}")],
            ),
            ("Cache", "bytes", &[("sum by (pod) (tenon_depot_cached_bytes)", "{{pod}}")]),
        ],
    ),
];

/// Of the 24 columns that a dashboard has.
const WIDTH: usize = 8;
const HEIGHT: usize = 8;

/// `monitoring/dashboard.json`, as Grafana imports it.
pub(super) fn dashboard_file() -> Result<String> {
    let (mut panels, mut y) = (Vec::new(), 0);
    for (row, pictures) in ROWS {
        panels.push(json!({
            "id": panels.len() + 1, "type": "row", "title": row, "collapsed": false, "panels": [],
            "gridPos": { "x": 0, "y": y, "w": 24, "h": 1 },
        }));
        y += 1;
        for (index, picture) in pictures.iter().enumerate() {
            let place = json!({
                "x": index % 3 * WIDTH, "y": y + index / 3 * HEIGHT, "w": WIDTH, "h": HEIGHT,
            });
            panels.push(panel(panels.len() + 1, picture, &place));
        }
        y += pictures.len().div_ceil(3) * HEIGHT;
    }
    let dashboard = json!({
        "uid": "tenon",
        "title": "Tenon",
        "description": "Kernel drivers on nodes, and the operator that brings them there.",
        "tags": ["tenon", "kubernetes"],
        "schemaVersion": 38,
        "editable": true,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": { "from": "now-6h", "to": "now" },
        "templating": { "list": [{
            "name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus",
            "hide": 0, "refresh": 1, "multi": false, "includeAll": false, "current": {}, "options": [],
        }] },
        "annotations": { "list": [] },
        "links": [],
        "panels": panels,
    });
    let text = serde_json::to_string_pretty(&dashboard).context("write the dashboard as JSON")?;
    Ok(text + "\n")
}

fn panel(id: usize, (title, unit, lines): &Panel, place: &Value) -> Value {
    let source = json!({ "type": "prometheus", "uid": "${datasource}" });
    let targets = lines.iter().zip('A'..).map(|((expression, legend), letter)| {
        json!({
            "refId": letter.to_string(), "datasource": source, "expr": expression, "legendFormat": legend,
            "range": true, "editorMode": "code",
        })
    });
    json!({
        "id": id, "type": "timeseries", "title": title, "datasource": source, "gridPos": place,
        "fieldConfig": { "defaults": { "unit": unit, "min": 0, "custom": { "fillOpacity": 10 } }, "overrides": [] },
        "options": { "legend": { "displayMode": "list", "placement": "bottom", "showLegend": true },
                     "tooltip": { "mode": "multi", "sort": "desc" } },
        "targets": targets.collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::repository;

    fn page(name: &str) -> String {
        std::fs::read_to_string(repository::path("docs").join(name)).unwrap()
    }

    /// The metrics that a page explains, a histogram also by its parts.
    fn explained() -> BTreeSet<String> {
        let page = page("metrics.md");
        let first = page.lines().filter_map(|line| line.strip_prefix("| `")?.split_once(" |"));
        let rows = first.flat_map(|(column, rest)| column.split(", ").map(move |cell| (cell, rest)));
        let mut names = BTreeSet::new();
        for (cell, rest) in rows {
            let name = cell.trim_matches('`').split('{').next().unwrap_or_default();
            names.insert(name.to_owned());
            if rest.contains("a histogram of") {
                names.extend(["_bucket", "_sum", "_count"].map(|part| format!("{name}{part}")));
            }
        }
        names
    }

    /// The words of an expression that are called as our metrics are.
    fn metrics(expression: &str) -> BTreeSet<String> {
        let words = expression.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
        words
            .filter(|word| word.starts_with("tenon_") || word.starts_with("kmm_"))
            .map(str::to_owned)
            .collect()
    }

    fn expressions() -> impl Iterator<Item = &'static str> {
        let drawn = ROWS.iter().flat_map(|(_, panels)| *panels).flat_map(|(_, _, lines)| *lines);
        ALERTS.iter().map(|alert| alert.expression).chain(drawn.map(|(expression, _)| *expression))
    }

    #[test]
    fn every_metric_that_is_asked_for_exists() {
        let known = explained();
        for expression in expressions() {
            let asked = metrics(expression);
            assert!(!asked.is_empty(), "{expression}");
            assert!(asked.is_subset(&known), "{expression}: {:?}", asked.difference(&known));
        }
    }

    #[test]
    fn every_alert_is_explained_and_has_a_test_of_its_own() {
        let page = page("alerts.md");
        let explained: Vec<_> = page.lines().filter_map(|line| line.strip_prefix("## Tenon")).collect();
        let names: Vec<_> = ALERTS.iter().filter_map(|alert| alert.name.strip_prefix("Tenon")).collect();
        assert_eq!(explained, names);
        for alert in &ALERTS {
            let path = repository::path("tests/api/tests/alerting").join(format!("{}.yaml", alert.name));
            assert!(path.is_file(), "{} has no test", alert.name);
        }
    }

    #[test]
    fn every_reason_that_an_alert_asks_for_is_one_of_the_api_s() {
        let page = page("status.md");
        for alert in &ALERTS {
            let Some((_, reasons)) = alert.expression.split_once("reason=~\"") else { continue };
            for reason in reasons.split('"').next().unwrap_or_default().split('|') {
                assert!(page.contains(&format!("| `{reason}` |")), "{}: {reason}", alert.name);
            }
        }
    }
}
