//! Who may do what: as little as each program needs, and nothing that is listed or watched where reading by name does.

use anyhow::Result;
use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::api::rbac::v1::{
    ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef, Subject,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use tenon_api::node_pod::{DEPOT_CONFIG_MAP, NAMESPACE, ORDER_KEYS_CONFIG_MAP, SERVICE_ACCOUNT as AGENT};
use tenon_api::pull::SERVICE_ACCOUNT as PULLER;
use tenon_api::{image_stream, labels};

use super::{OPERATOR, yaml};

/// The group of the kinds that Tenon shares with KMM.
pub(super) const KMM_GROUP: &str = "kmm.sigs.x-k8s.io";

/// The group of the kinds that are Tenon's alone.
pub(super) const TENON_GROUP: &str = "tenon.dev";
const NO_GROUP: &str = "";
const RBAC_GROUP: &str = "rbac.authorization.k8s.io";

/// The role by which the operator reads the Secrets that Modules name, and its binding.
const SECRETS: &str = "tenon-operator-secrets";
/// The Secret with the private keys that sign orders.
const ORDER_KEY_SECRET: &str = "tenon-order-key";
/// The Secret with the certificates that the operator serves with.
const SERVING_SECRET: &str = "tenon-serving-cert";

/// `rbac/agent.yaml`.
pub(super) fn agent_file() -> Result<String> {
    let objects = [
        yaml::value(account(AGENT))?,
        yaml::value(cluster_role(AGENT, agent_rules()))?,
        yaml::value(binding(AGENT))?,
    ];
    yaml::documents(&objects)
}

/// What every agent may do.
fn agent_rules() -> Vec<PolicyRule> {
    vec![
        // The API server cannot narrow reads to one object per node, so there is nothing secret in these objects; an
        // admission policy narrows the writes.
        rule(KMM_GROUP, &["nodemodulesconfigs"], &["get", "list", "watch"]),
        rule(KMM_GROUP, &["nodemodulesconfigs/status"], &["patch"]),
    ]
}

/// The Secrets that Modules name, each by its name.
fn secret_rules() -> Vec<PolicyRule> {
    vec![rule(NO_GROUP, &["secrets"], &["get"])]
}

/// `rbac/puller.yaml`: of pods that take drivers out of images. There is no rule: it may do nothing.
pub(super) fn puller_file() -> Result<String> {
    yaml::documents([&account(PULLER)])
}

/// `rbac/operator.yaml`.
pub(super) fn operator_file() -> Result<String> {
    let objects = [
        yaml::value(account(OPERATOR))?,
        yaml::value(cluster_role(OPERATOR, operator_rules()))?,
        yaml::value(binding(OPERATOR))?,
        yaml::value(binding_to(
            "system:service-account-issuer-discovery",
            "tenon-operator-issuer-discovery",
        ))?,
        // Pull secrets, each by the name that a Module gives. Never listed, never watched, never cached. Apart, so that an
        // administrator may bind it in some namespaces alone.
        yaml::value(cluster_role(SECRETS, secret_rules()))?,
        yaml::value(binding_to(SECRETS, SECRETS))?,
        yaml::value(Role { metadata: namespaced(OPERATOR), rules: Some(own_rules()) })?,
        yaml::value(RoleBinding {
            metadata: namespaced(OPERATOR),
            role_ref: role_ref("Role", OPERATOR),
            subjects: Some(vec![subject(OPERATOR)]),
        })?,
    ];
    yaml::documents(&objects)
}

/// `openshift.yaml`: apart from the rest, for other clusters have no such namespace. There the operator reads one object, by its name.
pub(super) fn openshift_file() -> Result<String> {
    let metadata = || ObjectMeta { namespace: Some(image_stream::NAMESPACE.to_owned()), ..cluster(OPERATOR) };
    let reads = PolicyRule {
        resource_names: Some(owned(&[image_stream::NAME])),
        ..rule(image_stream::GROUP, &[image_stream::RESOURCE], &["get"])
    };
    let objects = [
        yaml::value(Role { metadata: metadata(), rules: Some(vec![reads]) })?,
        yaml::value(RoleBinding {
            metadata: metadata(),
            role_ref: role_ref("Role", OPERATOR),
            subjects: Some(vec![subject(OPERATOR)]),
        })?,
    ];
    yaml::documents(&objects)
}

/// What an account may do.
pub(crate) struct Granted {
    /// Its name.
    pub(crate) account: &'static str,
    /// Where; nothing: everywhere.
    pub(crate) namespace: Option<&'static str>,
    /// What.
    pub(crate) rules: Vec<PolicyRule>,
}

/// All that `rbac/` gives to anybody.
pub(crate) fn granted() -> Vec<Granted> {
    let given = |account, namespace, rules| Granted { account, namespace, rules };
    vec![
        given(AGENT, None, agent_rules()),
        given(OPERATOR, None, operator_rules()),
        given(OPERATOR, None, secret_rules()),
        given(OPERATOR, Some(NAMESPACE), own_rules()),
    ]
}

/// What the operator may do in the whole cluster.
fn operator_rules() -> Vec<PolicyRule> {
    vec![
        rule(KMM_GROUP, &["modules"], &["list", "watch", "patch"]),
        rule(KMM_GROUP, &["modules/status"], &["patch"]),
        // An owner reference that blocks the owner's deletion asks for this.
        rule(KMM_GROUP, &["modules/finalizers"], &["update"]),
        rule(KMM_GROUP, &["preflightvalidations"], &["list", "watch"]),
        rule(KMM_GROUP, &["preflightvalidations/status"], &["patch"]),
        // A node's object goes with its node, by its owner reference.
        rule(KMM_GROUP, &["nodemodulesconfigs"], &["get", "list", "watch", "create", "patch"]),
        rule(TENON_GROUP, &["moduleimages"], &["list", "watch", "create", "patch", "delete"]),
        rule(TENON_GROUP, &["moduleimages/status"], &["patch"]),
        // Its memory of the images that it has made.
        rule(TENON_GROUP, &["madeimages"], &["list", "create", "patch", "delete"]),
        rule(TENON_GROUP, &["madeimages/status"], &["patch"]),
        // Labels, and the start-up taint; never a node's status.
        rule(NO_GROUP, &["nodes"], &["get", "list", "watch", "patch"]),
        // One label only, and an admission policy sees to that: it says that a namespace has Modules. Others say whether it lets plugins run.
        rule(NO_GROUP, &["namespaces"], &["get", "patch"]),
        // Dockerfiles, each by the name that a Module gives.
        rule(NO_GROUP, &["configmaps"], &["get"]),
        // What makes images, each in the namespace of its Module, and what their pods say when they have ended.
        rule("batch", &["jobs"], &["get", "list", "watch", "create", "delete"]),
        // The pods of plugins as well. Of these nothing is changed but the finalizer that KMM has left on them.
        rule(NO_GROUP, &["pods"], &["list", "watch", "patch"]),
        // Device plugins and DRA drivers, each in the namespace of its Module.
        rule("apps", &["daemonsets"], &["list", "watch", "create", "patch", "delete"]),
        rule("resource.k8s.io", &["deviceclasses"], &["get", "list", "watch", "create", "patch", "delete"]),
        // Who uses the devices of DRA drivers: before such a driver is changed, they have left.
        rule("resource.k8s.io", &["resourceclaims"], &["list", "watch"]),
        rule("events.k8s.io", &["events"], &["create", "patch"]),
        // Whether another operator for the same kinds is at work.
        PolicyRule {
            resource_names: Some(vec![KMM_GROUP.to_owned()]),
            ..rule("coordination.k8s.io", &["leases"], &["list"])
        },
    ]
}

/// What the operator may do in its own namespace.
fn own_rules() -> Vec<PolicyRule> {
    let own = |group, resource, names: &[&str]| PolicyRule {
        resource_names: Some(owned(names)),
        ..rule(group, &[resource], &["get", "update"])
    };
    vec![
        // Creation cannot be narrowed to names.
        rule(NO_GROUP, &["configmaps", "secrets"], &["create"]),
        // Facts about kernels, found by their label. Those that an image or a node tells are applied again when these change,
        // never by force: what somebody else has written stays.
        rule(NO_GROUP, &["configmaps"], &["get", "list", "watch", "patch"]),
        rule("coordination.k8s.io", &["leases"], &["create"]),
        own(NO_GROUP, "secrets", &[ORDER_KEY_SECRET, SERVING_SECRET]),
        own(NO_GROUP, "configmaps", &[ORDER_KEYS_CONFIG_MAP, DEPOT_CONFIG_MAP]),
        own("coordination.k8s.io", "leases", &[OPERATOR]),
    ]
}

/// The name under which the API server knows a service account.
pub(super) fn username(account: &str) -> String {
    format!("system:serviceaccount:{NAMESPACE}:{account}")
}

fn rule(group: &str, resources: &[&str], verbs: &[&str]) -> PolicyRule {
    PolicyRule {
        api_groups: Some(vec![group.to_owned()]),
        resources: Some(owned(resources)),
        verbs: owned(verbs),
        ..PolicyRule::default()
    }
}

fn owned(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

fn account(name: &str) -> ServiceAccount {
    ServiceAccount {
        metadata: namespaced(name),
        // Whoever needs the token mounts it by name.
        automount_service_account_token: Some(false),
        ..ServiceAccount::default()
    }
}

fn cluster_role(name: &str, rules: Vec<PolicyRule>) -> ClusterRole {
    ClusterRole { metadata: cluster(name), rules: Some(rules), ..ClusterRole::default() }
}

fn binding(name: &str) -> ClusterRoleBinding {
    ClusterRoleBinding {
        metadata: cluster(name),
        role_ref: role_ref("ClusterRole", name),
        subjects: Some(vec![subject(name)]),
    }
}

/// Binds the operator to a role of another name.
fn binding_to(role: &str, name: &str) -> ClusterRoleBinding {
    ClusterRoleBinding {
        metadata: cluster(name),
        role_ref: role_ref("ClusterRole", role),
        subjects: Some(vec![subject(OPERATOR)]),
    }
}

fn role_ref(kind: &str, name: &str) -> RoleRef {
    RoleRef { api_group: RBAC_GROUP.to_owned(), kind: kind.to_owned(), name: name.to_owned() }
}

fn subject(account: &str) -> Subject {
    Subject {
        kind: "ServiceAccount".to_owned(),
        name: account.to_owned(),
        namespace: Some(NAMESPACE.to_owned()),
        ..Subject::default()
    }
}

/// The metadata of an object of the cluster.
pub(super) fn cluster(name: &str) -> ObjectMeta {
    let part_of = (labels::PART_OF.to_owned(), labels::PRODUCT.to_owned());
    ObjectMeta { name: Some(name.to_owned()), labels: Some([part_of].into()), ..ObjectMeta::default() }
}

/// The metadata of an object in Tenon's own namespace.
pub(super) fn namespaced(name: &str) -> ObjectMeta {
    ObjectMeta { namespace: Some(NAMESPACE.to_owned()), ..cluster(name) }
}
