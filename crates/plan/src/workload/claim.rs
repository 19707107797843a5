//! Who uses the devices of a DRA driver. As long as somebody does, neither the driver nor its plugin leaves the node.
//!
//! A pod's place among those that a claim is reserved for ends after the kubelet has had the driver unprepare the devices: that comes
//! before the pod's end is reported, and only then the reservation goes (`pkg/kubelet/kubelet.go`, `SyncTerminatingPod`). So a claim
//! that is reserved for nobody is unprepared as well, and the plugin is not needed for it any more.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{NodeSelector, NodeSelectorRequirement};
use k8s_openapi::api::resource::v1::{ResourceClaim, ResourceClaimConsumerReference};
use kube::ResourceExt as _;
use tenon_api::Module;
use tenon_order::NodeName;

/// A claim that holds devices of one node for somebody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InUse {
    /// Its namespace and name.
    pub claim: String,
    /// Where the devices are.
    pub node: NodeName,
    /// The drivers that they are of.
    pub drivers: BTreeSet<String>,
    /// For whom, in words: the first by name.
    pub user: String,
}

impl InUse {
    /// `None` of a claim that is for nobody, or not for one node's devices.
    pub fn of(claim: &ResourceClaim) -> Option<Self> {
        let status = claim.status.as_ref()?;
        let allocation = status.allocation.as_ref()?;
        let namespace = claim.namespace().unwrap_or_default();
        let results = allocation.devices.iter().flat_map(|devices| devices.results.iter().flatten());
        Some(Self {
            claim: format!("{namespace}/{}", claim.name_any()),
            node: only_node(allocation.node_selector.as_ref()?)?,
            drivers: results.map(|result| result.driver.clone()).collect(),
            user: status.reserved_for.iter().flatten().map(|user| in_words(&namespace, user)).min()?,
        })
    }
}

fn in_words(namespace: &str, user: &ResourceClaimConsumerReference) -> String {
    let kind = if user.resource == "pods" { "pod" } else { user.resource.as_str() };
    format!("{kind} {namespace}/{}", user.name)
}

/// The node that a scheduler names where devices are one node's own.
fn only_node(selector: &NodeSelector) -> Option<NodeName> {
    let [term] = selector.node_selector_terms.as_slice() else { return None };
    let names = |field: &&NodeSelectorRequirement| field.key == "metadata.name" && field.operator == "In";
    let field = term.match_fields.iter().flatten().find(names)?;
    match field.values.as_deref() {
        Some([name]) => name.parse().ok(),
        _ => None,
    }
}

/// Who uses devices of a Module's driver on a node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Users {
    /// Nobody, or it is no DRA driver.
    #[default]
    Nobody,
    /// The cluster's claims have not been read yet.
    Unknown,
    /// Somebody.
    Known {
        /// By the first claim by name.
        first: InUse,
        /// How many claims more.
        others: usize,
    },
}

impl Users {
    /// Of the claims on one node, those that hold devices of one of these drivers; by name.
    pub fn among<'c>(claims: impl IntoIterator<Item = &'c InUse>, drivers: &BTreeSet<String>) -> Self {
        let mut claims = claims.into_iter().filter(|claim| !claim.drivers.is_disjoint(drivers));
        let Some(first) = claims.next().cloned() else { return Self::Nobody };
        Self::Known { first, others: claims.count() }
    }

    /// What is waited for, in a sentence.
    pub fn sentence(&self) -> Option<String> {
        match self {
            Self::Nobody => None,
            Self::Unknown => Some("which devices are in use has not been read yet".to_owned()),
            Self::Known { first: InUse { claim, user, .. }, others } => {
                let others = match others {
                    0 => String::new(),
                    others => format!(" (and {others} more claims)"),
                };
                Some(format!(
                    "{user} uses claim {claim}{others}: the DRA driver and its plugin leave the node when nobody uses its devices"
                ))
            }
        }
    }
}

/// The driver that a Module asks for; also one that is to go. Its `DaemonSet`s may run others: see [`super::plan::drivers`].
pub fn driver(module: &Module) -> Option<&str> {
    module.spec.dra.as_ref().map(|dra| dra.driver_name.as_str())
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;

    fn claim(change: impl FnOnce(&mut Value)) -> ResourceClaim {
        let mut claim = json!({
            "metadata": {"name": "c", "namespace": "hall"},
            "spec": {},
            "status": {
                "allocation": {
                    "devices": {"results": [
                        {"driver": "gauge.test", "pool": "pine", "device": "d0", "request": "r"},
                        {"driver": "meter.test", "pool": "pine", "device": "d7", "request": "s"},
                    ]},
                    "nodeSelector": {"nodeSelectorTerms": [
                        {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["pine"]}]}
                    ]}
                },
                "reservedFor": [
                    {"resource": "pods", "name": "y", "uid": "2"},
                    {"resource": "pods", "name": "x", "uid": "1"},
                ]
            }
        });
        change(&mut claim);
        serde_json::from_value(claim).expect("a claim")
    }

    #[test]
    fn a_reserved_claim_names_its_node_its_drivers_and_a_user() {
        let used = InUse::of(&claim(|_| ())).expect("it is in use");
        let drivers: Vec<_> = used.drivers.iter().map(String::as_str).collect();
        assert_eq!(
            (used.claim.as_str(), used.node.as_ref(), drivers, used.user.as_str()),
            ("hall/c", "pine", vec!["gauge.test", "meter.test"], "pod hall/x")
        );
        let group = claim(|claim| {
            claim["status"]["reservedFor"] =
                json!([{"apiGroup": "g.test", "resource": "gangs", "name": "z", "uid": "3"}]);
        });
        assert_eq!(InUse::of(&group).expect("it is in use").user, "gangs hall/z");
    }

    #[rstest]
    #[case::without_status(|claim: &mut Value| claim["status"] = Value::Null)]
    #[case::not_allocated(|claim: &mut Value| claim["status"]["allocation"] = Value::Null)]
    #[case::for_nobody(|claim: &mut Value| claim["status"]["reservedFor"] = json!([]))]
    #[case::anywhere(|claim: &mut Value| claim["status"]["allocation"]["nodeSelector"] = Value::Null)]
    #[case::by_label(|claim: &mut Value| claim["status"]["allocation"]["nodeSelector"] = json!({"nodeSelectorTerms": [
        {"matchExpressions": [{"key": "metadata.name", "operator": "In", "values": ["pine"]}]}]}))]
    #[case::not_there(|claim: &mut Value| claim["status"]["allocation"]["nodeSelector"]["nodeSelectorTerms"][0]["matchFields"][0]["operator"] = json!("NotIn"))]
    #[case::two_nodes(|claim: &mut Value| claim["status"]["allocation"]["nodeSelector"]["nodeSelectorTerms"][0]["matchFields"][0]["values"] = json!(["pine", "oak"]))]
    #[case::two_terms(|claim: &mut Value| {
        let terms = claim["status"]["allocation"]["nodeSelector"]["nodeSelectorTerms"].as_array_mut().unwrap();
        terms.push(terms[0].clone());
    })]
    fn a_claim_holds_nothing_up(#[case] change: fn(&mut Value)) {
        assert_eq!(InUse::of(&claim(change)), None);
    }

    #[test]
    fn only_the_claims_of_the_driver_count() {
        let gauges = InUse::of(&claim(|_| ())).unwrap();
        let others = InUse { drivers: ["other.test".to_owned()].into(), ..gauges.clone() };
        let driver = BTreeSet::from(["gauge.test".to_owned()]);
        assert_eq!(Users::among([&others], &driver), Users::Nobody);
        let users = Users::among([&others, &gauges, &gauges], &driver);
        assert_eq!(users, Users::Known { first: gauges, others: 1 });
        let told = users.sentence().unwrap();
        assert!(told.starts_with("pod hall/x uses claim hall/c (and 1 more claims): "), "{told}");
        assert_eq!(Users::Nobody.sentence(), None);
        assert!(Users::Unknown.sentence().is_some());
    }
}
