//! Whether another operator for the same objects is at work: KMM's own, told by its lease being renewed.

use std::collections::BTreeMap;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};

/// The lease of KMM's operator, in whatever namespace it runs.
pub const KMM_LEASE: &str = "kmm.sigs.x-k8s.io";

/// KMM's operator is at work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Foreign {
    /// Where its lease is.
    pub namespace: String,
    /// The pod that holds it.
    pub holder: String,
}

/// What was last seen of KMM's leases. A lease that nobody renews is a leftover and hinders nobody.
#[derive(Debug, Default)]
pub struct ForeignWatch(BTreeMap<String, LeaseSpec>);

impl ForeignWatch {
    /// Whether one of `leases` has been renewed or taken since the last look.
    pub fn observe(&mut self, leases: &[Lease]) -> Option<Foreign> {
        let seen: BTreeMap<_, _> = leases.iter().filter_map(held).collect();
        let renewed =
            seen.iter().find(|(namespace, spec)| self.0.get(*namespace).is_some_and(|old| old != *spec));
        let foreign = renewed.map(|(namespace, spec)| Foreign {
            namespace: namespace.clone(),
            holder: spec.holder_identity.clone().unwrap_or_default(),
        });
        self.0 = seen;
        foreign
    }

    /// Whether the last look found no held lease, so that no second one is needed.
    pub fn is_clear(&self) -> bool {
        self.0.is_empty()
    }
}

fn held(lease: &Lease) -> Option<(String, LeaseSpec)> {
    let spec = lease.spec.as_ref()?;
    spec.holder_identity.as_deref().filter(|holder| !holder.is_empty())?;
    Some((lease.metadata.namespace.clone()?, spec.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

    fn lease(namespace: &str, holder: &str, renewal: i32) -> Lease {
        Lease {
            metadata: ObjectMeta { namespace: Some(namespace.into()), ..ObjectMeta::default() },
            spec: Some(LeaseSpec {
                holder_identity: Some(holder.into()),
                lease_transitions: Some(renewal),
                ..LeaseSpec::default()
            }),
        }
    }

    #[test]
    fn a_leftover_lease_hinders_nobody() {
        let mut watch = ForeignWatch::default();
        for _ in 0..3 {
            assert_eq!(watch.observe(&[lease("old-kmm", "gone", 1)]), None);
        }
        assert!(!watch.is_clear());
    }

    #[test]
    fn a_renewed_lease_is_noticed_in_any_namespace() {
        let mut watch = ForeignWatch::default();
        assert_eq!(watch.observe(&[lease("a", "dead", 1), lease("b", "alive", 1)]), None);
        let found = watch.observe(&[lease("a", "dead", 1), lease("b", "alive", 2)]);
        assert_eq!(found, Some(Foreign { namespace: "b".into(), holder: "alive".into() }));
    }

    #[test]
    fn a_released_lease_is_no_operator() {
        let mut watch = ForeignWatch::default();
        assert_eq!(watch.observe(&[lease("a", "", 1)]), None);
        assert!(watch.is_clear());
    }
}
