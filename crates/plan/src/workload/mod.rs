//! What runs beside a driver: its device plugin, or its DRA driver. Decisions only, one file each.
//!
//! - [`daemon_set`]: the `DaemonSet` that runs it, as a value.
//! - [`version`]: the labels of an ordered upgrade, as a table.
//! - [`labels`]: which labels a node has for its sake. They are what its pods are placed by.
//! - [`claim`]: who uses the devices of a DRA driver, before which it does not leave.
//! - [`class`]: the device classes of a DRA driver, and whose they are.
//! - [`plan`]: what is to be applied and deleted for a Module.
//!
//! The order of events on a node is kept by labels alone. Before a driver is changed or unloaded its `.ready` label goes, so that the
//! `DaemonSet` controller takes the plugin's pod away; [`crate::assign`] orders nothing as long as such a pod is there. The label
//! comes back with the driver, and the pod with the label. Before the pods of a DRA driver those leave that use its devices; nobody is
//! evicted for that. No pod has a finalizer of ours, and no cordon or taint takes a label away:
//! whatever holds up a pod holds up its own node and nothing else.

pub mod claim;
pub mod class;
pub mod daemon_set;
pub mod labels;
pub mod plan;
pub mod version;

use tenon_api::Module;
use tenon_api::labels::{LabelKind, role};

/// What a workload does for its Module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// Offers the devices by the kubelet's device plugin interface.
    DevicePlugin,
    /// Offers them by dynamic resource allocation.
    Dra,
}

impl Role {
    /// What the Module asks for. The definition allows one of the two.
    pub fn of(module: &Module) -> Option<Self> {
        match (&module.spec.device_plugin, &module.spec.dra) {
            _ if module.metadata.deletion_timestamp.is_some() => None,
            (Some(_), _) => Some(Self::DevicePlugin),
            (None, Some(_)) => Some(Self::Dra),
            (None, None) => None,
        }
    }

    /// The value of the label that says so. KMM's pods up to 2.6 have none, and run device plugins.
    pub fn of_label(value: Option<&str>) -> Option<Self> {
        match value {
            None | Some(role::DEVICE_PLUGIN) => Some(Self::DevicePlugin),
            Some(role::DRA) => Some(Self::Dra),
            Some(_) => None,
        }
    }

    /// As the label has it, and the names of containers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::DevicePlugin => role::DEVICE_PLUGIN,
            Self::Dra => role::DRA,
        }
    }

    /// For people.
    pub const fn called(self) -> &'static str {
        match self {
            Self::DevicePlugin => "device plugin",
            Self::Dra => "DRA driver",
        }
    }

    /// The label of nodes where its pod is ready.
    pub const fn ready_label(self) -> LabelKind {
        match self {
            Self::DevicePlugin => LabelKind::DevicePluginReady,
            Self::Dra => LabelKind::DraReady,
        }
    }
}

/// A pod of a workload, on a node or about to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PluginPod {
    /// Its name.
    pub name: String,
    /// What it runs.
    pub role: Role,
    /// Whether it says that it is ready, and is not being deleted.
    pub is_ready: bool,
}

/// Why a workload is not there as wished.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// In a word; one of [`tenon_api::reasons`].
    pub reason: &'static str,
    /// In a sentence.
    pub message: String,
}
