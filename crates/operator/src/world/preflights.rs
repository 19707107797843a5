//! PreflightValidations, and what has them looked at again.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use kube::ResourceExt as _;
use tenon_api::PreflightValidation;
use tenon_order::ModuleKey;

use super::{Index, PROVISION_WITHIN, World, is_later};

/// Changes that come this close together are summed up once. A preflight is about all Modules: what one costs grows with them, so
/// it is not to be paid for each of their images.
const SUM_UP_WITHIN: Duration = Duration::from_millis(500);

impl World {
    /// A PreflightValidation was seen, or is gone. What it asks for is each Module's business; a status of ours that comes back is
    /// nobody's.
    pub fn preflight(&self, name: &str, preflight: Option<PreflightValidation>) {
        let known = self.read().preflight(name).cloned();
        let asks_the_same = match (&known, &preflight) {
            (Some(known), Some(seen)) => is_same_question(known, seen),
            (known, seen) => known.is_none() && seen.is_none(),
        };
        self.write().set_preflight(name, preflight.map(Arc::new));
        self.queues.preflights.add(name.to_owned());
        if !asks_the_same {
            self.provide_for_all();
        }
    }

    /// As [`Self::wrote_config`], of a PreflightValidation's status.
    pub fn wrote_preflight(&self, preflight: PreflightValidation) {
        let name = preflight.name_any();
        let _news = self.take_news();
        let known = self.read().preflight(&name).cloned();
        if known.is_some_and(|known| is_later(&preflight, &*known)) {
            self.preflight(&name, Some(preflight));
        }
    }

    /// Something that any preflight may be about has changed.
    pub(super) fn look_at_preflights_again(&self) {
        let names: Vec<_> = self.read().preflights().map(|preflight| preflight.name_any()).collect();
        for name in names {
            self.queues.preflights.add_within(name, SUM_UP_WITHIN);
        }
    }

    /// The nodes' architectures, where some preflight depends on them.
    pub(super) fn architectures_in_question(&self) -> Option<BTreeSet<String>> {
        let index = self.read();
        index.preflights().next().is_some().then(|| index.architectures())
    }

    /// A node has changed: the nodes' architectures were these, and these Modules' nodes are others now.
    pub(super) fn look_at_architectures_again(
        &self,
        before: Option<&BTreeSet<String>>,
        moved: &BTreeSet<ModuleKey>,
    ) {
        let Some(before) = before else { return };
        let same = *before == self.read().architectures();
        if !same {
            self.provide_for_all();
        }
        if !same || !moved.is_empty() {
            self.look_at_preflights_again();
        }
    }

    /// Any Module may need other images.
    fn provide_for_all(&self) {
        let keys: Vec<_> = self.read().modules().filter_map(|module| Index::key_of(module)).collect();
        for key in keys {
            self.queues.modules.add_within(key, PROVISION_WITHIN);
        }
    }
}

/// Whether two states of a PreflightValidation ask the same.
fn is_same_question(one: &PreflightValidation, other: &PreflightValidation) -> bool {
    one.spec == other.spec
        && one.metadata.uid == other.metadata.uid
        && one.metadata.deletion_timestamp == other.metadata.deletion_timestamp
}
