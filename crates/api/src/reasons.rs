//! The words that conditions, statuses and events use: types of conditions, and reasons.
//!
//! They are part of the API: alerts and scripts match them, so they are never renamed.

/// Types of the conditions that Tenon's objects carry.
pub mod condition {
    /// Everything that the object asks for is so: every selected node has the module, the image exists, …
    pub const READY: &str = "Ready";
    /// Something is wrong that does not mend itself, or not soon: somebody should look.
    pub const DEGRADED: &str = "Degraded";
    /// Something outside is missing, and work resumes by itself once it is there.
    pub const WAITING: &str = "Waiting";
    /// Parts of the object are accepted and have no effect in this version; only there when it is so.
    pub const UNSUPPORTED: &str = "Unsupported";
    /// Whether the kernels concerned will load the driver, computed beforehand: `True`, `False`, or `Unknown`. On a Module
    /// it is only there when a kernel is predicted to refuse the driver.
    pub const PREDICTED: &str = "Predicted";
    /// Whether the device plugin or the DRA driver runs on every node that should have it; only there when the Module asks for
    /// one.
    pub const PLUGIN_READY: &str = "PluginReady";
    /// A change failed on as many nodes as may be unavailable, and the others keep what they have; only there when it is
    /// so.
    pub const ROLLOUT_PAUSED: &str = "RolloutPaused";
    /// The Module is paused by its annotation, and nodes stay as they are; only there when it is so.
    pub const PAUSED: &str = "Paused";
    /// Another Module is in this one's way on nodes of both; only there when it is so.
    pub const CONFLICT: &str = "Conflict";
}

/// Another Module loads the same kernel module, or one of the two removes what the other loads.
pub const KERNEL_MODULE_CONFLICT: &str = "KernelModuleConflict";
/// The module is loaded on every node that should have it.
pub const LOADED: &str = "Loaded";
/// Some nodes are still to load the module; nothing is wrong.
pub const LOADING: &str = "Loading";
/// No node matches the selector, so there is nothing to load.
pub const NO_NODES: &str = "NoNodes";
/// The Module has no `moduleLoader`: only a device plugin or a DRA driver runs.
pub const NO_MODULE_LOADER: &str = "NoModuleLoader";
/// No kernel mapping fits the kernel of some node.
pub const NO_MAPPING: &str = "NoMapping";
/// The condition does not hold, and that is good: nothing is degraded, nothing is waited for.
pub const AS_EXPECTED: &str = "AsExpected";
/// The object is being deleted and its module is being unloaded from the nodes.
pub const UNLOADING: &str = "Unloading";

/// A kernel's image is not ready yet.
pub const WAITING_FOR_IMAGE: &str = "WaitingForImage";
/// A node's module waits until its version label allows it (ordered upgrade).
pub const WAITING_FOR_VERSION_LABEL: &str = "WaitingForVersionLabel";
/// A node's agent has not registered its store yet, so no order can be signed for it.
pub const WAITING_FOR_NODE: &str = "WaitingForNode";
/// A changed module waits for its turn: the allowed number of nodes is already changing.
pub const WAITING_FOR_ROLLOUT: &str = "WaitingForRollout";
/// A change failed on as many nodes as may be unavailable: the others keep what they have.
pub const ROLLOUT_PAUSED: &str = "RolloutPaused";
/// The Module's annotation `tenon.dev/paused` keeps nodes as they are.
pub const PAUSED: &str = "Paused";
/// The node's label `tenon.dev/hold` keeps it as it is.
pub const NODE_ON_HOLD: &str = "NodeOnHold";
/// The node fetches the bundle.
pub const WAITING_FOR_BUNDLE: &str = "WaitingForBundle";

/// The driver is to be changed or unloaded, and the device plugin's or DRA driver's pod is still on the node: it leaves first.
pub const WAITING_FOR_PLUGIN: &str = "WaitingForPlugin";
/// The driver is to be changed or unloaded, and pods on the node use its devices by claims (DRA): they leave first.
/// Or a DRA driver is not wished any more, and goes when nobody uses its devices.
pub const WAITING_FOR_CLAIMS: &str = "WaitingForClaims";
/// The device plugin or the DRA driver runs on every node that should have it.
pub const PLUGIN_RUNNING: &str = "PluginRunning";
/// The device plugin or the DRA driver is still to start on some nodes, or its pods there are not ready.
pub const PLUGIN_STARTING: &str = "PluginStarting";
/// The Module's namespace enforces a Pod Security Standard that forbids the pods of device plugins and DRA drivers.
pub const POD_SECURITY_FORBIDS: &str = "PodSecurityForbids";
/// The API server does not take the `DaemonSet` or the device class; the message has its words.
pub const PLUGIN_REFUSED: &str = "PluginRefused";
/// A former `DaemonSet` or its pods are to be gone before the present one is made.
pub const PLUGIN_REPLACED: &str = "PluginReplaced";
/// A device class that the Module names was there before, and belongs to somebody else: it is left as it is.
pub const DEVICE_CLASS_TAKEN: &str = "DeviceClassTaken";
/// The cluster does not serve `resource.k8s.io/v1`, so no DRA driver can run: it takes Kubernetes 1.34.
pub const DRA_UNAVAILABLE: &str = "DraUnavailable";

/// The image exists and holds modules for the kernel.
pub const IMAGE_EXISTS: &str = "Exists";
/// The registry says that there is no such image.
pub const IMAGE_ABSENT: &str = "ImageAbsent";
/// The registry refuses the credentials, or asks for some.
pub const REGISTRY_DENIED: &str = "RegistryDenied";
/// The registry does not answer, or not usefully.
pub const REGISTRY_UNREACHABLE: &str = "RegistryUnreachable";
/// The registry denies the operator, and a node pulls the image for it.
pub const PULLING: &str = "Pulling";
/// A node was to pull the image and cannot; the message has the kubelet's words.
pub const PULL_FAILED: &str = "PullFailed";
/// The image was to be read on a node, and the pod that does it cannot start, or ended without a result.
pub const PULL_POD_FAILED: &str = "PullPodFailed";
/// No node that may pull images for the operator takes the pod.
pub const NO_NODE_TO_PULL: &str = "NoNodeToPull";
/// Files of the image are not for everybody to read, so a node's unprivileged pod cannot take them out.
pub const FILES_UNREADABLE: &str = "FilesUnreadable";
/// The image has no directory with modules for the kernel.
pub const NO_MODULE_FOR_KERNEL: &str = "NoModuleForKernel";
/// The image is malformed, hostile, or larger than allowed.
pub const IMAGE_INVALID: &str = "ImageInvalid";
/// The Module's spec asks for something that Tenon refuses; the message names the field.
pub const SPEC_INVALID: &str = "SpecInvalid";
/// The Module has fields that this version accepts and does not act upon; the message names them.
pub const FIELDS_WITHOUT_EFFECT: &str = "FieldsWithoutEffect";
/// The image reference is malformed or names a template variable that does not exist.
pub const REFERENCE_INVALID: &str = "ReferenceInvalid";
/// The operator could not keep what it packed: its own disk, or its own settings.
pub const DEPOT_FAILED: &str = "DepotFailed";
/// The volume with the operator's bundles is full.
pub const DEPOT_FULL: &str = "DepotFull";
/// A Secret that the Module names does not exist.
pub const SECRET_MISSING: &str = "SecretMissing";
/// A Secret that the Module names does not hold what it should.
pub const SECRET_MALFORMED: &str = "SecretMalformed";
/// A Job builds the image.
pub const BUILDING: &str = "Building";
/// The Job that builds the image did not succeed; the message has its last words.
pub const BUILD_FAILED: &str = "BuildFailed";
/// The node's or the namespace's settings keep the builder from working; the message names them.
pub const BUILDER_CONFINED: &str = "BuilderConfined";
/// As many Jobs make images as may at a time; the message says how many are before this one.
pub const QUEUED: &str = "Queued";
/// An image did not exist, and was built or signed by a preflight without `pushBuiltImage`: it is not published.
pub const NOT_PUSHED: &str = "NotPushed";
/// An image does not exist and could be made, which a preflight does not try: it would become another one under nodes.
pub const NOT_TRIED: &str = "NotTried";
/// A ConfigMap that the Module names does not exist, or has not the key.
pub const CONFIG_MAP_MISSING: &str = "ConfigMapMissing";
/// A build needs the kernel's driver toolkit, and nobody says which image that is; the message says what was looked at.
pub const TOOLKIT_UNKNOWN: &str = "ToolkitUnknown";
/// What is to be compiled, or what that needs, is not where the Module says, or of no use; the message names it.
pub const SOURCE_INVALID: &str = "SourceInvalid";
/// A build takes files of another Module's image, which is not ready for this kernel.
pub const WAITING_FOR_MODULE: &str = "WaitingForModule";
/// A Job signs the image's modules.
pub const SIGNING: &str = "Signing";
/// The Job that signs the image's modules did not succeed; the message says why.
pub const SIGN_FAILED: &str = "SignFailed";
/// Looking at the image has not come to an end yet.
pub const RESOLVING: &str = "Resolving";

/// An image that was made here is needed.
pub const NEEDED: &str = "Needed";
/// An image that was made here is not needed any more, and is deleted when it has not been for long enough.
pub const UNNEEDED: &str = "Unneeded";
/// An image that was made here is not needed any more, and kept: the operator deletes none.
pub const DELETION_OFF: &str = "DeletionOff";
/// The registry does not delete images at all.
pub const DELETION_UNSUPPORTED: &str = "DeletionUnsupported";
/// Something else in the registry stands for the same content, or holds it: another tag, somebody's index.
pub const SHARED_IN_REGISTRY: &str = "SharedInRegistry";
/// What the registry has does not bear the marks of an image that was made here.
pub const NOT_MADE_HERE: &str = "NotMadeHere";
/// The image is being deleted from its registry.
pub const DELETING: &str = "Deleting";

/// Every kernel whose facts are known will load the module.
pub const WILL_LOAD: &str = "WillLoad";
/// A kernel will refuse the module: with `inspection: Enforce` no node with it is touched.
pub const WILL_NOT_LOAD: &str = "WillNotLoad";
/// Whether the module will load is not known: facts about the kernel are missing or incomplete.
pub const NOT_PREDICTED: &str = "NotPredicted";
/// What is loaded has changed, and the prediction is being made anew.
pub const INSPECTING: &str = "Inspecting";
/// One node's facts say that the module will not load: another node of the same kernel tries it first.
pub const WAITING_FOR_FIRST_NODE: &str = "WaitingForFirstNode";

/// The kernel refused to load the module.
pub const LOAD_FAILED: &str = "LoadFailed";
/// Something other than Tenon had unloaded the module, and it was loaded again.
pub const RELOADED: &str = "Reloaded";
/// The module is loaded, and what must be there after the load (`moduleLoader.validation`) is waited for.
pub const VALIDATING: &str = "Validating";
/// The module is loaded, and what must be there after the load has not come in time.
pub const VALIDATION_FAILED: &str = "ValidationFailed";
/// What had to be there after the load, and was, is not there any more.
pub const PATH_VANISHED: &str = "PathVanished";
/// The new content failed to load and the last one that had loaded is back.
pub const ROLLED_BACK: &str = "RolledBack";
/// The module is used by something and was therefore not removed.
pub const IN_USE: &str = "InUse";
/// The node went down in this content's init twice in a row, or soon after it again and again.
pub const CRASH_SUSPECTED: &str = "CrashSuspected";
/// The module is loaded although nobody wishes it or orders its removal.
pub const ORPHANED: &str = "Orphaned";
/// The node reports an order that is more than a day ahead of the operator's clock.
pub const GENERATION_AHEAD: &str = "GenerationAhead";
/// The agent cannot reach the loader beside it.
pub const LOADER_UNREACHABLE: &str = "LoaderUnreachable";
/// The loader refused the order: another node's, another store's, an unknown key's, or a malformed one.
pub const ORDER_REFUSED: &str = "OrderRefused";
/// The node has no order, so nothing is asked of it.
pub const NO_ORDER: &str = "NoOrder";

/// Reasons of events, as KMM documents them.
pub mod event {
    /// A module was loaded on a node (Normal, on the Node).
    pub const MODULE_LOADED: &str = "ModuleLoaded";
    /// A module was unloaded from a node (Normal, on the Node).
    pub const MODULE_UNLOADED: &str = "ModuleUnloaded";
    /// A module that something other than Tenon had unloaded was loaded again (Warning, on the Node).
    pub const MODULE_RELOADED: &str = "ModuleReloaded";
    /// A module did not load on a node, which has none of it now (Warning, on the Node).
    pub const MODULE_LOAD_FAILED: &str = "ModuleLoadFailed";
    /// A module is loaded on a node, and what must be there after the load has not come in time (Warning, on the Node).
    pub const MODULE_VALIDATION_FAILED: &str = "ModuleValidationFailed";
    /// What had to be there after a module's load, and was, is not there any more (Warning, on the Node).
    pub const MODULE_PATH_VANISHED: &str = "ModulePathVanished";
    /// A module's new content did not load on a node, which has the former one again (Warning, on the Node).
    pub const MODULE_ROLLED_BACK: &str = "ModuleRolledBack";
    /// A module is not loaded on a node any more, because the node went down just after loading it (Warning, on the
    /// Node).
    pub const MODULE_CRASH_SUSPECTED: &str = "ModuleCrashSuspected";
    /// A module that should go or change is in use (Warning, on the Node).
    pub const MODULE_IN_USE: &str = "ModuleInUse";
    /// A change was stopped: it failed on as many nodes as may be unavailable (Warning, on the Module).
    pub const ROLLOUT_PAUSED: &str = "RolloutPaused";
    /// The image that should tell what a kernel is has nothing of it (Warning, on the operator's Deployment).
    pub const NO_KERNEL_IN_IMAGE: &str = "NoKernelInImage";
    /// A build was started for a kernel (Normal, on the Module).
    pub const BUILD_CREATED: &str = "BuildCreated";
    /// A build ended well (Normal, on the Module).
    pub const BUILD_SUCCEEDED: &str = "BuildSucceeded";
    /// A build failed (Warning, on the Module).
    pub const BUILD_FAILED: &str = "BuildFailed";
    /// Signing was started for a kernel (Normal, on the Module).
    pub const SIGN_CREATED: &str = "SignCreated";
    /// Signing ended well (Normal, on the Module).
    pub const SIGN_SUCCEEDED: &str = "SignSucceeded";
    /// Signing failed (Warning, on the Module).
    pub const SIGN_FAILED: &str = "SignFailed";
    /// An image that was made here and that nothing needed was deleted from its registry (Normal, on the MadeImage).
    pub const IMAGE_DELETED: &str = "ImageDeleted";
}
