//! A driver's way on a lab's nodes: loaded, changed, unloaded. Each step is believed when the cluster says so and the
//! nodes' kernels and disks do, too, and when it did not cost the API server more than it may.

use std::collections::BTreeMap;

use kube::Client;
use tenon_api::node_pod::NAMESPACE;
use tenon_order::ModuleKey;

use crate::claim::{Broken, comes_true};
use crate::control_plane::audit::{AuditError, Mark};
use crate::guest::{Guest, GuestError};
use crate::state::State;
use crate::{Lab, chain};

/// Writes per node and Module to load what was not there.
pub const COST_OF_LOAD: u64 = 3;
/// Writes per node and Module to change or unload.
pub const COST_OF_CHANGE: u64 = 4;

/// Where the loader keeps what it has.
const STORE: &str = "/var/lib/tenon";

/// One Module with one kernel module, on all nodes of a lab.
#[derive(Debug)]
pub struct Journey {
    key: ModuleKey,
    kernel_module: String,
    /// By node: the files that the loader keeps for it.
    kept: BTreeMap<String, Vec<String>>,
}

/// Writes of nodes and their objects, by node.
pub type Costs = BTreeMap<String, u64>;

/// Why a step is not believed.
#[derive(Debug, thiserror::Error)]
pub enum JourneyError {
    /// Something did not come true.
    #[error(transparent)]
    Broken(#[from] Broken),
    /// A node could not be looked at.
    #[error(transparent)]
    Guest(#[from] Box<GuestError>),
    /// The writes could not be counted.
    #[error(transparent)]
    Audit(#[from] AuditError),
}

impl From<GuestError> for JourneyError {
    fn from(error: GuestError) -> Self {
        Self::Guest(Box::new(error))
    }
}

impl Journey {
    /// Of a Module whose image holds this module, as the kernel names it.
    pub fn new(key: ModuleKey, kernel_module: impl Into<String>) -> Self {
        Self { key, kernel_module: kernel_module.into(), kept: BTreeMap::new() }
    }

    /// The Module.
    pub fn key(&self) -> &ModuleKey {
        &self.key
    }

    /// Waits until the Module's present settings are in force on every node. `watch` is shown every state on the way.
    pub async fn loaded(&mut self, lab: &Lab, watch: impl FnMut(&State)) -> Result<(), JourneyError> {
        let claim = format!("every node has loaded {}, and every object says so", self.key);
        self.comes_to(lab, claim, watch, State::is_loaded_everywhere).await?;
        for guest in lab.guests() {
            if !self.is_in_kernel(guest).await? {
                return Err(self.broken(guest, "the kernel has it", "/proc/modules does not name it"));
            }
            let kept = self.files(guest).await?;
            if kept.len() < 3 {
                return Err(self.broken(guest, "the loader keeps it for the next boot", &kept.join(" ")));
            }
            self.kept.entry(guest.name().to_owned()).or_default().extend(kept);
        }
        Ok(())
    }

    /// Waits until nothing of the Module is left: in the cluster, in the nodes' kernels, on their disks.
    pub async fn unloaded(&mut self, lab: &Lab, watch: impl FnMut(&State)) -> Result<(), JourneyError> {
        let claim = format!("nothing is left of {} in the cluster", self.key);
        self.comes_to(lab, claim, watch, State::is_forgotten).await?;
        for guest in lab.guests() {
            if self.is_in_kernel(guest).await? {
                return Err(self.broken(guest, "the kernel is rid of it", "/proc/modules names it"));
            }
            let kept = self.kept.remove(guest.name()).unwrap_or_default();
            // A file that another Module's bundle lists, too, stays.
            let left = format!(
                "for file in {}; do [ -e $file ] && ! grep -qs ${{file##*/}} {STORE}/bundles/* && echo $file; done; true",
                kept.join(" ")
            );
            let left = guest.shell(&left).await?;
            if !left.is_empty() {
                return Err(self.broken(guest, "its disk is rid of it", &format!("there is still {left}")));
            }
        }
        Ok(())
    }

    /// Whether a node's kernel has it.
    pub async fn is_in_kernel(&self, guest: &Guest) -> Result<bool, GuestError> {
        let modules = guest.shell("cut -d' ' -f1 /proc/modules").await?;
        Ok(modules.lines().any(|name| name == self.kernel_module))
    }

    /// What the step since `mark` has cost, if no node cost more than `most`.
    pub fn costs(&self, lab: &Lab, mark: Mark, most: u64) -> Result<Costs, JourneyError> {
        let costs = writes_by_node(lab, mark)?;
        let dear = costs.iter().find(|(_, writes)| **writes > most);
        if let Some((node, writes)) = dear {
            let claim = format!("at most {most} writes for node {node}");
            return Err(Broken { claim, instead: format!("{writes} writes") }.into());
        }
        Ok(costs)
    }

    async fn comes_to(
        &self,
        lab: &Lab,
        claim: String,
        mut watch: impl FnMut(&State),
        judge: impl Fn(&State) -> Result<(), String>,
    ) -> Result<(), Broken> {
        let client: Client = lab.plane().client();
        comes_true(claim, async || {
            let state = State::of(&client, &self.key).await.map_err(|error| chain(&error))?;
            watch(&state);
            judge(&state)
        })
        .await
    }

    /// The Module's record, its bundles' manifests, and the files that these list.
    async fn files(&self, guest: &Guest) -> Result<Vec<String>, GuestError> {
        let (namespace, name) = (self.key.namespace(), self.key.name());
        let record = format!("{STORE}/modules/{namespace}/{name}.json");
        let line = format!(
            "echo {record}; for digest in $(grep -o 'sha256:[0-9a-f]*' {record} | cut -d: -f2 | sort -u); do \
             [ -e {STORE}/bundles/$digest ] || continue; echo {STORE}/bundles/$digest; \
             cut -d' ' -f1 {STORE}/bundles/$digest | sed 's|^|{STORE}/files/|'; done"
        );
        Ok(guest.shell(&line).await?.lines().map(ToOwned::to_owned).collect())
    }

    fn broken(&self, guest: &Guest, claim: &str, instead: &str) -> JourneyError {
        let claim = format!("{}, {}: {claim}", guest.name(), self.key);
        Broken { claim, instead: instead.to_owned() }.into()
    }
}

/// How often Tenon has written each node and its object since then.
pub fn writes_by_node(lab: &Lab, mark: Mark) -> Result<Costs, AuditError> {
    let ours = format!("system:serviceaccount:{NAMESPACE}:");
    let mut costs: Costs = lab.guests().iter().map(|guest| (guest.name().to_owned(), 0)).collect();
    for (write, count) in lab.plane().audit().writes_since(mark)? {
        let counts = matches!(write.resource.as_str(), "nodes" | "nodemodulesconfigs") && write.code < 300;
        if counts && write.user.starts_with(&ours) {
            *costs.entry(write.name).or_default() += count;
        }
    }
    Ok(costs)
}
