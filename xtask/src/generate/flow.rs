//! Requests that must not wait behind others: the operator's lease behind thousands of agents' reports.

use anyhow::Result;
use k8s_openapi::api::flowcontrol::v1::{
    FlowSchema, FlowSchemaSpec, PolicyRulesWithSubjects, PriorityLevelConfigurationReference,
    ResourcePolicyRule, ServiceAccountSubject, Subject,
};
use tenon_api::node_pod::NAMESPACE;

use super::{OPERATOR, rbac, yaml};

/// `flow-schemas.yaml`.
pub(super) fn file() -> Result<String> {
    let texts = |texts: &[&str]| -> Vec<String> { texts.iter().map(|text| (*text).to_owned()).collect() };
    let lease = ResourcePolicyRule {
        api_groups: texts(&["coordination.k8s.io"]),
        resources: texts(&["leases"]),
        verbs: texts(&["get", "create", "update"]),
        namespaces: Some(texts(&[NAMESPACE])),
        cluster_scope: None,
    };
    let operator = Subject {
        kind: "ServiceAccount".to_owned(),
        service_account: Some(ServiceAccountSubject {
            name: OPERATOR.to_owned(),
            namespace: NAMESPACE.to_owned(),
        }),
        ..Subject::default()
    };
    let schema = FlowSchema {
        metadata: rbac::cluster("tenon-leader-election"),
        spec: Some(FlowSchemaSpec {
            // A level that every cluster has, for just this.
            priority_level_configuration: PriorityLevelConfigurationReference {
                name: "leader-election".to_owned(),
            },
            matching_precedence: Some(200),
            rules: Some(vec![PolicyRulesWithSubjects {
                subjects: vec![operator],
                resource_rules: Some(vec![lease]),
                ..PolicyRulesWithSubjects::default()
            }]),
            ..FlowSchemaSpec::default()
        }),
        ..FlowSchema::default()
    };
    yaml::documents([&schema])
}
