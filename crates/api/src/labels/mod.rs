//! Labels, annotations, finalizers and field managers: the strings by which objects and programs find each other.
//!
//! They are KMM's, to the letter, because other programs select on them. The labels of one Module on a node carry
//! its namespace and name in their key; see [`LabelKind`].

mod module_label;

pub use module_label::{LabelKind, ModuleLabel, is_deprecated_ready};

/// The most bytes of an object's name.
pub const MAX_NAME: usize = 253;

/// The most bytes of a label's value, and of a label's key after the slash.
pub const MAX_LABEL: usize = 63;

/// The Module that an object was made for, by name.
pub const MODULE_NAME: &str = "kmm.node.kubernetes.io/module.name";
/// The namespace of the Module that a cluster-scoped object was made for.
pub const MODULE_NAMESPACE: &str = "kmm.node.kubernetes.io/module.namespace";
/// The kernel that an object is about.
pub const TARGET_KERNEL: &str = "kmm.node.kubernetes.io/target-kernel";
/// What a build or sign pod does: [`resource_type`].
pub const RESOURCE_TYPE: &str = "kmm.node.kubernetes.io/resource-type";
/// What a pod does for its Module: [`role`].
pub const ROLE: &str = "kmm.node.kubernetes.io/role";
/// The `ManagedClusterModule` that an object was made for.
pub const MANAGED_CLUSTER_MODULE: &str = "kmm.node.kubernetes.io/managedclustermodule.name";
/// On a namespace, with an empty value: it holds Modules and must not be deleted before them.
pub const CONTAINS_MODULES: &str = "kmm.node.k8s.io/contains-modules";
/// On a Node, set by its administrator, with any value but `false`: Tenon leaves the node as it is.
pub const HOLD: &str = "tenon.dev/hold";
/// The key of a taint that a node registers with, so that nothing is scheduled to it before its drivers are ready; Tenon takes it
/// away, whatever its effect.
pub const STARTUP_TAINT: &str = "tenon.dev/drivers-not-ready";
/// Which product an object belongs to: [`PRODUCT`].
pub const PART_OF: &str = "app.kubernetes.io/part-of";
/// The program that an object belongs to.
pub const COMPONENT: &str = "app.kubernetes.io/component";
/// Who made an object: on Jobs that make images [`PRODUCT`].
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// The name of the application that an object belongs to: [`PRODUCT`].
pub const APP_NAME: &str = "app.kubernetes.io/name";
/// The value of [`PART_OF`], [`MANAGED_BY`] and [`APP_NAME`] on Tenon's own objects.
pub const PRODUCT: &str = "tenon";

/// Values of [`ROLE`].
pub mod role {
    /// Runs the device plugin.
    pub const DEVICE_PLUGIN: &str = "device-plugin";
    /// Runs the DRA driver.
    pub const DRA: &str = "dra";
    /// Loads the module.
    pub const MODULE_LOADER: &str = "module-loader";
}

/// Values of [`RESOURCE_TYPE`].
pub mod resource_type {
    /// Builds an image.
    pub const BUILD_IMAGE: &str = "BuildImage";
    /// Signs an image's modules.
    pub const SIGN_IMAGE: &str = "SignImage";
    /// Takes a driver out of an image on a node; Tenon's alone.
    pub const PULL_IMAGE: &str = "PullImage";
}

/// Annotations.
pub mod annotation {
    /// On a Module, set by a user: what failed is to be tried again. A number that is higher each time (milliseconds
    /// since 1970), and after it, separated by spaces, the nodes that are meant; without any, all.
    pub const RETRY: &str = "tenon.dev/retry";
    /// On a Module, set by a user, with any value but `false`: nodes stay as they are.
    pub const PAUSED: &str = "tenon.dev/paused";
    /// On a Job that makes an image: the image's reference.
    pub const IMAGE: &str = "tenon.dev/image";
    /// On a Job that makes an image: the hash of where its pod may run, and of what it asks of a node.
    pub const PLACEMENT: &str = "tenon.dev/placement";
    /// On a `DaemonSet` of a plugin and on a device class: the hash of what was wished of it.
    pub const WISH: &str = "tenon.dev/wish";
    /// On the `DaemonSet` of a DRA driver: the driver's name, by which claims on its devices are told from others.
    pub const DRA_DRIVER: &str = "tenon.dev/dra-driver";
    /// On a Job that takes a driver out of an image on a node: the image's reference.
    pub const PULLED_IMAGE: &str = "tenon.dev/pulled-image";
    /// On a build or sign pod: the hash of what it was made from.
    pub const LAST_HASH: &str = "kmm.node.kubernetes.io/last-hash";
    /// On a build or sign pod: the event of its creation was sent.
    pub const CREATED_EVENT_SENT: &str = "kmm.node.kubernetes.io/created-event-sent";
}

/// Finalizers.
pub mod finalizer {
    /// On a Module: its module is still on some node.
    pub const MODULE: &str = "kmm.node.kubernetes.io/module-finalizer";
    /// On a device plugin's or DRA driver's pod: the node's label still says that it is ready.
    pub const NODE_LABELER: &str = "kmm.node.kubernetes.io/node-labeler";
    /// On a build or sign pod: it is kept for a while after it succeeded.
    pub const GC_DELAY: &str = "kmm.node.kubernetes.io/gc-delay";
    /// On a build or sign pod: the event of its end is still to be sent.
    pub const JOB_EVENT: &str = "kmm.node.kubernetes.io/job-event-finalizer";
    /// On another operator's worker pods; met only while taking over from KMM.
    pub const WORKER_POD: &str = "kmm.node.kubernetes.io/nodemodulesconfig-reconciler";
}

/// Field managers: who of Tenon's parts owns which fields under server-side apply.
pub mod field_manager {
    /// Specs and labels of `NodeModulesConfig`s, labels of Nodes.
    pub const NODES: &str = "tenon-nodes";
    /// Statuses of `NodeModulesConfig`s.
    pub const AGENT: &str = "tenon-agent";
    /// Statuses and finalizers of Modules, `ModuleImage`s' specs.
    pub const MODULES: &str = "tenon-modules";
    /// Statuses of `ModuleImage`s, and the Jobs that make images.
    pub const IMAGES: &str = "tenon-images";
    /// `MadeImage`s.
    pub const MADE_IMAGES: &str = "tenon-made-images";
    /// `DaemonSet`s of device plugins and DRA drivers, device classes.
    pub const WORKLOADS: &str = "tenon-workloads";
    /// `ConfigMap`s with what images tell of kernels.
    pub const FACTS_IMAGES: &str = "tenon-facts-images";
    /// `ConfigMap`s with what nodes tell of their kernels.
    pub const FACTS_NODES: &str = "tenon-facts-nodes";
}

/// A label's value for any text: the text itself where it may be one, else its beginning and a hash of it all.
/// Different texts give different values.
pub fn value(text: &str) -> String {
    if is_value(text) && !looks_hashed(text) {
        return text.to_owned();
    }
    hashed_value(text)
}

/// Whether the API server accepts the text as a label's value.
pub fn is_value(text: &str) -> bool {
    text.is_empty()
        || text.len() <= MAX_LABEL
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
            && text.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric())
            && text.bytes().last().is_some_and(|byte| byte.is_ascii_alphanumeric())
}

/// Hexadecimal digits of the hash that stands for a text that does not fit: 64 bits, never met by chance.
const HASH_DIGITS: usize = 16;

/// Begins the hash at the end of a value or key part.
const HASH_MARK: &str = "_.";

fn hashed_value(text: &str) -> String {
    let stem: String = text
        .chars()
        .map(|char| if char.is_ascii_alphanumeric() || "-.".contains(char) { char } else { '-' })
        .take(MAX_LABEL - HASH_MARK.len() - HASH_DIGITS)
        .skip_while(|char| !char.is_ascii_alphanumeric())
        .collect();
    let stem = if stem.is_empty() { "x" } else { &stem };
    format!("{stem}{HASH_MARK}{}", hash(&[text]))
}

/// Whether a text has the form that [`value`] gives to others.
fn looks_hashed(text: &str) -> bool {
    text.len()
        .checked_sub(HASH_DIGITS + HASH_MARK.len())
        .and_then(|at| text.get(at..))
        .is_some_and(|end| end.starts_with(HASH_MARK))
}

/// The beginning of the SHA-256 over parts, none of which contains a zero byte.
fn hash(parts: &[&str]) -> String {
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    for part in parts {
        context.update(part.as_bytes());
        context.update(&[0]);
    }
    hex(context.finish().as_ref(), HASH_DIGITS)
}

/// The first `digits` hexadecimal digits of bytes.
pub(crate) fn hex(bytes: &[u8], digits: usize) -> String {
    let mut hex = String::with_capacity(digits);
    let nibbles = bytes.iter().flat_map(|byte| [byte >> 4, byte & 0xf]).take(digits);
    hex.extend(nibbles.filter_map(|nibble| char::from_digit(nibble.into(), 16)));
    hex
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_value_that_may_be_one_stays() {
        for text in ["", "1.2.3", "v4", "a_b-c.d", &"x".repeat(63)] {
            assert_eq!(value(text), text);
        }
    }

    #[test]
    fn what_may_not_be_a_value_keeps_its_beginning() {
        assert!(value("6.1.0-56-cloud+").starts_with("6.1.0-56-cloud-_."));
        assert!(value(&"m".repeat(200)).starts_with("mmm"));
    }

    proptest! {
        #[test]
        fn every_value_is_valid_and_no_two_texts_share_one(one in ".{0,90}", other in ".{0,90}") {
            prop_assert!(is_value(&value(&one)), "{}", value(&one));
            prop_assert_eq!(one == other, value(&one) == value(&other));
            prop_assert_ne!(value(&value(&format!("{one}+"))), value(&format!("{one}+")));
        }
    }
}
