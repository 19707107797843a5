//! What RBAC cannot say: an agent writes only its own node's status, only the operator writes what nodes should do, and which images
//! it has made; a namespace with Modules is not deleted. And the operator changes of a namespace one label alone, of a pod one
//! finalizer, and `DaemonSet`s and device classes only where they are a Module's.
//!
//! All are admission policies that the API server evaluates itself; when one cannot be evaluated, the write is refused.

use anyhow::Result;
use k8s_openapi::api::admissionregistration::v1::{
    MatchCondition, MatchResources, NamedRuleWithOperations, ValidatingAdmissionPolicy,
    ValidatingAdmissionPolicyBinding, ValidatingAdmissionPolicyBindingSpec, ValidatingAdmissionPolicySpec,
    Validation,
};
use tenon_api::labels::{CONTAINS_MODULES, MODULE_NAME, MODULE_NAMESPACE, finalizer};
use tenon_api::node_pod::SERVICE_ACCOUNT as AGENT;

use super::{OPERATOR, rbac, yaml};

/// The claim by which a token names the node that its pod runs on.
const NODE_CLAIM: &str = "authentication.kubernetes.io/node-name";

/// `rbac/admission.yaml`.
pub(super) fn file() -> Result<String> {
    let mut objects = Vec::new();
    let policies = [
        agents_report_on_their_own_node(),
        only_the_operator_writes_specs(),
        only_the_operator_remembers_images(),
        namespaces_with_modules_stay(),
        the_operator_labels_namespaces_only(),
        the_operator_releases_pods_only(),
        the_operator_runs_modules_plugins_only(),
        the_operator_keeps_modules_classes_only(),
    ];
    for policy in policies {
        let name = policy.metadata.name.clone().unwrap_or_default();
        objects.push(yaml::value(policy)?);
        objects.push(yaml::value(ValidatingAdmissionPolicyBinding {
            metadata: rbac::cluster(&name),
            spec: Some(ValidatingAdmissionPolicyBindingSpec {
                policy_name: Some(name),
                validation_actions: Some(vec!["Deny".to_owned()]),
                ..ValidatingAdmissionPolicyBindingSpec::default()
            }),
        })?);
    }
    yaml::documents(&objects)
}

fn agents_report_on_their_own_node() -> ValidatingAdmissionPolicy {
    let claim = format!("request.userInfo.extra['{NODE_CLAIM}']");
    policy(
        "tenon-agents-report-on-their-own-node",
        rules(rbac::KMM_GROUP, &["nodemodulesconfigs", "nodemodulesconfigs/*"], &["*"]),
        ("is-an-agent", format!("request.userInfo.username == '{}'", rbac::username(AGENT))),
        vec![
            refuse(
                "request.operation == 'UPDATE' && has(request.subResource) && request.subResource == 'status'",
                "an agent writes nothing but the status of a NodeModulesConfig",
            ),
            refuse(
                &format!("has(request.userInfo.extra) && '{NODE_CLAIM}' in request.userInfo.extra"),
                "this token names no node: only a token bound to a pod on a node may write a status",
            ),
            refuse(
                &format!(
                    "has(request.userInfo.extra) && '{NODE_CLAIM}' in request.userInfo.extra && \
                     {claim}.size() == 1 && {claim}[0] == request.name"
                ),
                "an agent writes the status of its own node only: the object's name must be the node in its token",
            ),
        ],
    )
}

/// Everybody else may touch the metadata, as the garbage collector must, and may delete: without the object nothing is
/// asked of the node, and what is loaded stays.
fn only_the_operator_writes_specs() -> ValidatingAdmissionPolicy {
    policy(
        "tenon-only-the-operator-writes-specs",
        rules(rbac::KMM_GROUP, &["nodemodulesconfigs"], &["CREATE", "UPDATE"]),
        ("is-not-the-operator", format!("request.userInfo.username != '{}'", rbac::username(OPERATOR))),
        vec![refuse(
            "request.operation == 'UPDATE' && has(object.spec) == has(oldObject.spec) && \
             (!has(object.spec) || object.spec == oldObject.spec)",
            "only Tenon's operator writes what a node should have: change the Module instead",
        )],
    )
}

/// What is in that memory is deleted from registries. Everybody else may only delete an object, and have its image kept.
fn only_the_operator_remembers_images() -> ValidatingAdmissionPolicy {
    policy(
        "tenon-only-the-operator-remembers-images",
        rules(rbac::TENON_GROUP, &["madeimages", "madeimages/*"], &["CREATE", "UPDATE"]),
        ("is-not-the-operator", format!("request.userInfo.username != '{}'", rbac::username(OPERATOR))),
        vec![refuse(
            // Metadata may change: the garbage collector takes its finalizer away.
            "request.operation == 'UPDATE' && object.spec == oldObject.spec && has(object.status) == has(oldObject.status) \
             && (!has(object.status) || object.status == oldObject.status)",
            "only Tenon's operator writes down which images it has made: delete the object to have the image kept",
        )],
    )
}

/// With a namespace its Modules would go, and with these the drivers from nodes. One that is on its way out already is
/// left alone: whatever comes then is the cluster's own work.
fn namespaces_with_modules_stay() -> ValidatingAdmissionPolicy {
    let label = format!("'{CONTAINS_MODULES}'");
    let mut stays = refuse(
        &format!(
            "!has(oldObject.metadata.labels) || !({label} in oldObject.metadata.labels) || \
             oldObject.metadata.labels[{label}] != ''"
        ),
        "the namespace has Modules: delete them first",
    );
    stays.message_expression = Some(format!(
        "'namespace ' + request.name + ' has Modules, and their drivers would be unloaded with it: delete them first, with \
         kubectl delete modules.kmm.sigs.x-k8s.io --all --namespace ' + request.name + \
         '. If nothing looks after its Modules any more, take the label away, with \
         kubectl label namespace ' + request.name + ' {CONTAINS_MODULES}-'"
    ));
    policy(
        "tenon-namespaces-with-modules-stay",
        rules("", &["namespaces"], &["DELETE"]),
        ("is-not-going-already", "!has(oldObject.metadata.deletionTimestamp)".to_owned()),
        vec![stays],
    )
}

/// RBAC lets the operator patch namespaces, for one label's sake.
fn the_operator_labels_namespaces_only() -> ValidatingAdmissionPolicy {
    let kept_in = |one: &str, other: &str| {
        format!(
            "(!has({one}.metadata.labels) || {one}.metadata.labels.all(key, key == '{CONTAINS_MODULES}' || \
             (has({other}.metadata.labels) && key in {other}.metadata.labels && \
             {other}.metadata.labels[key] == {one}.metadata.labels[key])))"
        )
    };
    let message = format!("Tenon's operator changes nothing of a namespace but the label {CONTAINS_MODULES}");
    policy(
        "tenon-the-operator-labels-namespaces-only",
        rules("", &["namespaces", "namespaces/*"], &["*"]),
        is_the_operator(),
        vec![
            refuse(CHANGES_ITSELF, &message),
            refuse(
                &format!("{} && {}", kept_in("object", "oldObject"), kept_in("oldObject", "object")),
                &message,
            ),
            refuse(
                &["metadata.annotations", "metadata.finalizers", "metadata.ownerReferences", "spec"]
                    .map(same)
                    .join(" && "),
                &message,
            ),
        ],
    )
}

/// RBAC lets the operator patch pods, to take from those that KMM has left behind the finalizer for which nobody else cares.
fn the_operator_releases_pods_only() -> ValidatingAdmissionPolicy {
    let labeler = format!("'{}'", finalizer::NODE_LABELER);
    let message = format!(
        "Tenon's operator changes nothing of a pod but takes the finalizer {} away",
        finalizer::NODE_LABELER
    );
    policy(
        "tenon-the-operator-releases-pods-only",
        rules("", &["pods", "pods/*"], &["*"]),
        is_the_operator(),
        vec![
            refuse(CHANGES_ITSELF, &message),
            refuse(
                &format!(
                    "(!has(object.metadata.finalizers) || (has(oldObject.metadata.finalizers) && \
                     object.metadata.finalizers.all(name, name in oldObject.metadata.finalizers))) && \
                     (!has(oldObject.metadata.finalizers) || oldObject.metadata.finalizers.all(name, name == {labeler} || \
                     (has(object.metadata.finalizers) && name in object.metadata.finalizers)))"
                ),
                &message,
            ),
            refuse(
                &["metadata.labels", "metadata.annotations", "metadata.ownerReferences", "spec"]
                    .map(same)
                    .join(" && "),
                &message,
            ),
        ],
    )
}

/// RBAC lets the operator write `DaemonSet`s everywhere: Modules are everywhere. But not the agents', a network's or a store's.
fn the_operator_runs_modules_plugins_only() -> ValidatingAdmissionPolicy {
    let owned = |object: &str| {
        format!(
            "has({object}.metadata.ownerReferences) && {object}.metadata.ownerReferences.exists(owner, owner.kind == 'Module' && \
             owner.apiVersion.startsWith('{}/') && has(owner.controller) && owner.controller) && \
             has({object}.metadata.labels) && '{MODULE_NAME}' in {object}.metadata.labels",
            rbac::KMM_GROUP,
        )
    };
    policy(
        "tenon-the-operator-runs-modules-plugins-only",
        rules("apps", &["daemonsets", "daemonsets/*"], &["*"]),
        is_the_operator(),
        before_and_after(
            owned,
            "Tenon's operator writes no DaemonSet but those of Modules: their label and their controller say so",
        ),
    )
}

/// The same of device classes, which have no owner: their labels say whose they are. So one that somebody else has made is never merged
/// with a Module's.
fn the_operator_keeps_modules_classes_only() -> ValidatingAdmissionPolicy {
    let labelled = |object: &str| {
        format!(
            "has({object}.metadata.labels) && '{MODULE_NAME}' in {object}.metadata.labels && \
             '{MODULE_NAMESPACE}' in {object}.metadata.labels"
        )
    };
    let message = "Tenon's operator writes no DeviceClass but those of Modules, and hands none from one Module to another: \
                   their labels say whose they are";
    let mut validations = before_and_after(labelled, message);
    let stays = [MODULE_NAME, MODULE_NAMESPACE]
        .map(|label| format!("object.metadata.labels['{label}'] == oldObject.metadata.labels['{label}']"));
    validations.push(refuse(&format!("request.operation != 'UPDATE' || ({})", stays.join(" && ")), message));
    policy(
        "tenon-the-operator-keeps-modules-classes-only",
        rules("resource.k8s.io", &["deviceclasses"], &["*"]),
        is_the_operator(),
        validations,
    )
}

/// Whatever is written, this is to hold of the object as it is and as it will be.
fn before_and_after(holds: impl Fn(&str) -> String, message: &str) -> Vec<Validation> {
    vec![
        refuse(&format!("request.operation == 'CREATE' || ({})", holds("oldObject")), message),
        refuse(&format!("request.operation == 'DELETE' || ({})", holds("object")), message),
    ]
}

fn is_the_operator() -> (&'static str, String) {
    ("is-the-operator", format!("request.userInfo.username == '{}'", rbac::username(OPERATOR)))
}

/// It is neither made nor deleted, and none of its subresources is written.
const CHANGES_ITSELF: &str =
    "request.operation == 'UPDATE' && !(has(request.subResource) && request.subResource != '')";

/// That this field is as it was.
fn same(field: &str) -> String {
    format!(
        "has(object.{field}) == has(oldObject.{field}) && (!has(object.{field}) || object.{field} == oldObject.{field})"
    )
}

fn policy(
    name: &str,
    rules: MatchResources,
    (condition, expression): (&str, String),
    validations: Vec<Validation>,
) -> ValidatingAdmissionPolicy {
    ValidatingAdmissionPolicy {
        metadata: rbac::cluster(name),
        spec: Some(ValidatingAdmissionPolicySpec {
            failure_policy: Some("Fail".to_owned()),
            match_constraints: Some(rules),
            match_conditions: Some(vec![MatchCondition { name: condition.to_owned(), expression }]),
            validations: Some(validations),
            ..ValidatingAdmissionPolicySpec::default()
        }),
        status: None,
    }
}

fn rules(group: &str, resources: &[&str], operations: &[&str]) -> MatchResources {
    let owned = |texts: &[&str]| Some(texts.iter().map(|text| (*text).to_owned()).collect());
    MatchResources {
        resource_rules: Some(vec![NamedRuleWithOperations {
            api_groups: owned(&[group]),
            api_versions: owned(&["*"]),
            operations: owned(operations),
            resources: owned(resources),
            ..NamedRuleWithOperations::default()
        }]),
        ..MatchResources::default()
    }
}

fn refuse(unless: &str, message: &str) -> Validation {
    Validation {
        expression: unless.to_owned(),
        message: Some(message.to_owned()),
        reason: Some("Forbidden".to_owned()),
        ..Validation::default()
    }
}
