//! What is to be done about a reason: nothing, wait, or a step that only a person can take.
//!
//! The words are those of `docs/status.md`, which has every reason as well; a test holds one against the other. In steps
//! `{module}`, `{namespace}`, `{node}` and `{kernel}` stand for what the finding is about.

use tenon_order::ModuleKey;

use super::State;

/// What a step is about.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Subject<'a> {
    pub(crate) module: Option<&'a ModuleKey>,
    pub(crate) node: Option<&'a str>,
    pub(crate) kernel: Option<&'a str>,
}

impl Subject<'_> {
    /// The step that a reason asks for, with the names of what it is about.
    pub(crate) fn step(self, reason: &str) -> Option<String> {
        let step = on(reason).step;
        let (namespace, module) =
            self.module.map_or(("NAMESPACE", "MODULE"), |key| (key.namespace(), key.name()));
        let filled = step
            .replace("{module}", module)
            .replace("{namespace}", namespace)
            .replace("node/{node}", &format!("node/{}", self.node.unwrap_or("NODE")))
            .replace("{node}", self.node.unwrap_or("the node"))
            .replace("{kernel}", self.kernel.unwrap_or("of the node"));
        Some(filled).filter(|step| !step.is_empty())
    }
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Advice {
    /// Whether it needs somebody.
    pub(crate) state: State,
    /// The next step, or what is waited for.
    pub(crate) step: &'static str,
}

/// The operator has said nothing of a Module. This program's own word: no object has it.
pub(crate) const OPERATOR_SILENT: &str = "OperatorSilent";

/// About a reason; one of a newer version needs somebody to read the message.
pub(crate) fn on(reason: &str) -> Advice {
    const UNKNOWN: Advice = Advice { state: State::Trouble, step: "read the message above" };
    const SILENT: Advice = Advice {
        state: State::Trouble,
        step: "look at the operator: kubectl -n tenon-system get pods, kubectl -n tenon-system logs deploy/tenon-operator",
    };
    if reason == OPERATOR_SILENT {
        return SILENT;
    }
    let known = TABLE.iter().find(|(name, ..)| *name == reason);
    known.map_or(UNKNOWN, |(_, state, step)| Advice { state: *state, step })
}

const READY: State = State::Ready;
const UNDERWAY: State = State::Underway;
const TROUBLE: State = State::Trouble;

const BUILD_FOR_KERNEL: &str =
    "build the driver for kernel {kernel} with that kernel's headers, and publish the image";
const READ_AND_MEND: &str = "read the kernel's words above, and mend the driver or what it needs";

#[rustfmt::skip]
const TABLE: &[(&str, State, &str)] = &[
    // Modules, images, nodes.
    ("Loaded", READY, ""),
    ("NoModuleLoader", READY, ""),
    ("AsExpected", READY, ""),
    ("Exists", READY, ""),
    ("WillLoad", READY, ""),
    ("NotPredicted", READY, ""),
    ("NoOrder", READY, ""),
    ("Loading", UNDERWAY, "the nodes load it"),
    ("Unloading", UNDERWAY, "it is being unloaded"),
    ("WaitingForImage", UNDERWAY, "the image is being prepared"),
    ("Inspecting", UNDERWAY, "the prediction is being made anew"),
    ("WaitingForFirstNode", UNDERWAY, "another node tries it first; if it fails there, look at that node"),
    ("WaitingForPlugin", UNDERWAY, "the plugin's pod leaves the node first; if it does not end, look at that pod"),
    ("WaitingForClaims", UNDERWAY, "end or drain the pods that use its devices (kubectl drain keeps new ones away), or wait for them"),
    ("PluginRunning", READY, ""),
    ("PluginStarting", UNDERWAY, "kubectl -n {namespace} get pods -o wide -l kmm.node.kubernetes.io/module.name={module}"),
    ("PodSecurityForbids", TROUBLE, "kubectl label --overwrite namespace {namespace} pod-security.kubernetes.io/enforce=privileged"),
    ("PluginRefused", TROUBLE, "correct the field of spec.devicePlugin or spec.dra that the message names"),
    ("PluginReplaced", UNDERWAY, "the former plugin's pods end first; if one does not, look at that pod"),
    ("DeviceClassTaken", TROUBLE, "name another class in spec.dra.deviceClasses, or delete that one"),
    ("DraUnavailable", TROUBLE, "DRA takes Kubernetes 1.34; use a device plugin on this cluster"),
    ("WaitingForRollout", UNDERWAY, "nodes are changed a few at a time (spec.rollout.maxUnavailable)"),
    ("Paused", UNDERWAY, "when nodes may change again: kubectl tenon resume {module} -n {namespace}"),
    ("NodeOnHold", UNDERWAY, "when the node may change again: kubectl tenon resume --node {node}"),
    ("WaitingForBundle", UNDERWAY, "the node fetches the files"),
    ("Pulling", UNDERWAY, "a node pulls the image"),
    ("Queued", UNDERWAY, "other Jobs are before it (--jobs-at-once of the operator)"),
    ("Building", UNDERWAY, "follow the build: kubectl tenon logs {module} -n {namespace} --follow"),
    ("Signing", UNDERWAY, "follow the signing: kubectl tenon logs {module} -n {namespace} --follow"),
    ("Resolving", UNDERWAY, "the image is being looked for"),
    ("NoNodes", TROUBLE, "compare spec.selector with the nodes' labels (kubectl get nodes --show-labels), and spec.tolerations with their taints"),
    ("NoMapping", TROUBLE, "add a literal or a regexp for kernel {kernel} to spec.moduleLoader.container.kernelMappings"),
    ("WillNotLoad", TROUBLE, "build the driver for this kernel, as the reasons above say; or set spec.inspection: Warn to have it tried all the same"),
    ("WaitingForVersionLabel", TROUBLE, "when the node's turn has come, label it with the Module's version (spec.moduleLoader.container.version)"),
    ("WaitingForNode", TROUBLE, "look at the node's pod: kubectl -n tenon-system get pods -o wide -l app.kubernetes.io/component=node"),
    ("RolloutPaused", TROUBLE, "correct the image or the parameters; or, when the cause was another and is gone, kubectl tenon retry {module} -n {namespace}"),
    ("ImageAbsent", TROUBLE, "push the image, or correct containerImage; it is looked for again by itself"),
    ("RegistryDenied", TROUBLE, "correct the credentials in the Secret that spec.imageRepoSecret names"),
    ("RegistryUnreachable", TROUBLE, "check the registry's name, the network and its certificate (registryTLS, or --registry of the operator)"),
    ("PullFailed", TROUBLE, "mend what the kubelet says above; it is tried again by itself"),
    ("PullPodFailed", TROUBLE, "mend what the message says; it is tried again by itself"),
    ("NoNodeToPull", TROUBLE, "label a node so that it may pull images for the operator (--pull-through-nodes)"),
    ("FilesUnreadable", TROUBLE, "chmod -R a+rX the files in the image; or give the operator credentials in spec.imageRepoSecret"),
    ("NoModuleForKernel", TROUBLE, "build an image with modules for kernel {kernel}, or correct modprobe.dirName"),
    ("ImageInvalid", TROUBLE, "mend what the message names, in the image or in the Module"),
    ("SpecInvalid", TROUBLE, "correct the field of the Module that the message names"),
    ("FieldsWithoutEffect", READY, ""),
    ("ReferenceInvalid", TROUBLE, "correct the image's name in the Module; docs/templates.md lists the variables"),
    ("DepotFailed", TROUBLE, "look at the operator's log and disk: kubectl -n tenon-system logs deploy/tenon-operator"),
    ("DepotFull", TROUBLE, "enlarge the volume of the operator's --cache-dir, or lower --cache-limit"),
    ("SecretMissing", TROUBLE, "create the Secret that the message names, in namespace {namespace}; work goes on by itself"),
    ("SecretMalformed", TROUBLE, "correct the Secret that the message names; work goes on by itself"),
    ("NotTried", TROUBLE, "give each kernel an image of its own: ${KERNEL_FULL_VERSION} in containerImage; or publish the image"),
    ("NotPushed", READY, "have it pushed, and inspected: kubectl tenon preflight {kernel} --push-built-image"),
    ("ConfigMapMissing", TROUBLE, "create the ConfigMap that the message names, with the entry dockerfile; work goes on by itself"),
    ("BuildFailed", TROUBLE, "read the whole log (kubectl tenon logs {module} -n {namespace}), correct what is built; kubectl tenon retry {module} -n {namespace} has it built again at once"),
    ("BuilderConfined", TROUBLE, "build on other nodes (build.selector), or change the settings that the message names"),
    ("ToolkitUnknown", TROUBLE, "name the kernel's driver toolkit: --toolkit-image of the operator; on OpenShift apply deploy/openshift.yaml"),
    ("SourceInvalid", TROUBLE, "correct build.source as the message says"),
    ("WaitingForModule", UNDERWAY, "another Module's image comes first; if it is not to be had, explain that Module"),
    ("SignFailed", TROUBLE, "read the whole log (kubectl tenon logs {module} -n {namespace}), correct the key, the certificate or the Module"),
    ("LoadFailed", TROUBLE, READ_AND_MEND),
    ("RolledBack", TROUBLE, "mend the image or the parameters; or, when the cause was another and is gone, kubectl tenon retry {module} -n {namespace}"),
    ("InUse", TROUBLE, "stop what uses the module on {node} (lsmod and fuser say what); it is tried again by itself"),
    ("CrashSuspected", TROUBLE, "change the image or the parameters; or, when it was not the driver, kubectl tenon retry {module} -n {namespace} --node {node}"),
    ("Orphaned", TROUBLE, "create the Module again and delete it properly, or unload the driver by hand on {node}"),
    ("GenerationAhead", TROUBLE, "correct the clocks, then run tenon-loader reset in the loader's container on {node}"),
    ("LoaderUnreachable", TROUBLE, "look at the loader's log: kubectl tenon logs node/{node} -c loader; if it was started anew, also with --previous"),
    ("OrderRefused", UNDERWAY, "a new key reaches a node within a minute or two; if it stays, look at the loader's log: kubectl tenon logs node/{node} -c loader"),
    // Images that were made here.
    ("Needed", READY, ""),
    ("Unneeded", READY, ""),
    ("DeletionOff", READY, ""),
    ("Deleting", UNDERWAY, "the image is being deleted"),
    ("DeletionUnsupported", TROUBLE, "switch deletion on in the registry, or leave the image to its own rules"),
    ("SharedInRegistry", TROUBLE, "delete the other tag that the message names; or the MadeImage, to keep the image"),
    ("NotMadeHere", TROUBLE, "look at who pushed the image; delete the MadeImage to keep it"),
    // One module on one node.
    ("Adopted", READY, ""),
    ("Reloaded", READY, ""),
    ("Removed", READY, ""),
    ("Validating", UNDERWAY, "the driver is loaded, and its device is waited for"),
    ("ValidationFailed", TROUBLE, "look at the kernel's log of {node} for what the driver says of its device; or correct moduleLoader.validation.paths"),
    ("PathVanished", TROUBLE, "look at the kernel's log of {node}: the device went after the load; the driver stays loaded, and the node ready"),
    ("NotOrdered", TROUBLE, "create the Module again and delete it properly, or unload the driver by hand on {node}"),
    ("Disappeared", TROUBLE, "find out what unloads the driver on {node}; it is loaded again within seconds"),
    ("NotApplied", UNDERWAY, "the node has been told, and answers next"),
    ("BundleMissing", UNDERWAY, "the node fetches the files"),
    ("WrongKernel", UNDERWAY, "the operator makes a new order for the kernel that runs now"),
    ("LoadPostponed", UNDERWAY, "it is tried again half a minute after the boot"),
    ("ModuleInvalid", TROUBLE, "compare modprobe.moduleName with the files in the image"),
    ("DependencyMissing", TROUBLE, "put the module that the message names into the image"),
    ("ForeignModule", TROUBLE, "unload the other module on {node}, or name it in inTreeModulesToRemove; let one Module load it"),
    ("InTreeModuleInUse", TROUBLE, "stop what uses the in-tree module on {node}"),
    ("NoWayBack", TROUBLE, "install the kernel's own modules on {node}, or unload the driver by hand"),
    ("Permanent", TROUBLE, "reboot {node}: no kernel unloads this driver"),
    ("KernelModuleConflict", TROUBLE, "let one of the two Modules load it, or make their selectors exclude each other"),
    ("FirmwareConflict", TROUBLE, "let one Module bring the firmware file that the message names"),
    ("FirmwarePathTaken", TROUBLE, "clear firmware_class.path on {node}, or take it from the kernel's command line"),
    ("FirmwarePathFailed", TROUBLE, "look at AppArmor or SELinux denials on {node}"),
    ("AlreadyLoaded", TROUBLE, "wait a moment, or unload the module of that name on {node}"),
    ("UnknownSymbol", TROUBLE, "load what exports the symbol first, or build for kernel {kernel}"),
    ("ProprietarySymbols", TROUBLE, "ask the vendor: the kernel allows GPL-only symbols or a proprietary module's, not both"),
    ("SymbolVersion", TROUBLE, BUILD_FOR_KERNEL),
    ("VersionMagic", TROUBLE, BUILD_FOR_KERNEL),
    ("StructModuleSize", TROUBLE, BUILD_FOR_KERNEL),
    ("NamespaceNotImported", TROUBLE, "add MODULE_IMPORT_NS to the driver"),
    ("DuplicateSymbol", TROUBLE, "unload the other module on {node}, or name it in inTreeModulesToRemove"),
    ("InvalidParameter", TROUBLE, "correct modprobe.parameters; modinfo -p lists what the driver takes"),
    ("InvalidFormat", TROUBLE, "build the driver anew: the file is damaged, or not for this machine"),
    ("TypeInformation", TROUBLE, "build with kernel {kernel}'s headers, or without BTF"),
    ("Blacklisted", TROUBLE, "take the driver out of module_blacklist= on {node}'s kernel command line"),
    ("SignatureRejected", TROUBLE, "sign the driver (docs/signing.md), and enroll the certificate on {node}"),
    ("Lockdown", TROUBLE, "sign the driver (docs/signing.md), and enroll the certificate on {node}"),
    ("ImaAppraisal", TROUBLE, "change the node's IMA policy: it wants a signature on the file"),
    ("SecurityModule", TROUBLE, "look at the audit log of {node}"),
    ("NoCapability", TROUBLE, "compare the node pod with deploy/node.yaml: it lacks CAP_SYS_MODULE"),
    ("ModulesDisabled", TROUBLE, "reboot {node}: kernel.modules_disabled is set"),
    ("FirmwareMissing", TROUBLE, "put the firmware file into the image and set modprobe.firmwarePath"),
    ("InitFailed", TROUBLE, "read the driver's own words above; it is tried again, at the latest after five minutes"),
    ("KernelRefused", TROUBLE, READ_AND_MEND),
    ("StoreFailed", TROUBLE, "look at the disk of {node} that holds /var/lib/tenon"),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// The page's rows: reason and way out.
    fn page() -> Vec<(String, String)> {
        let page = include_str!("../../../../docs/status.md");
        let (_, tables) = page.split_once("\n## Reasons of ").unwrap();
        let (tables, _) = tables.split_once("\n## Events").unwrap();
        let rows = tables.lines().filter(|line| line.starts_with("| `"));
        rows.map(|row| {
            let cells: Vec<_> = row.trim_matches('|').split(" | ").collect();
            let reason = cells[0].trim().trim_matches('`').to_owned();
            (reason, cells.last().unwrap().trim().to_owned())
        })
        .collect()
    }

    #[test]
    fn there_is_advice_on_every_reason_of_the_page_and_on_no_other() {
        let known: BTreeSet<&str> = TABLE.iter().map(|(reason, ..)| *reason).collect();
        assert_eq!(known.len(), TABLE.len(), "each once");
        let page = page();
        let explained: BTreeSet<&str> = page.iter().map(|(reason, _)| reason.as_str()).collect();
        assert_eq!(known, explained);
    }

    #[test]
    fn who_should_only_wait_is_not_troubled() {
        for (reason, way_out) in page() {
            let Advice { state, step } = on(&reason);
            // A foreign module of the name, loaded or being loaded: mostly the former.
            if way_out.starts_with("Wait") && reason != "AlreadyLoaded" {
                assert_eq!(state, State::Underway, "{reason}: {way_out}");
            }
            if way_out == "–" {
                assert_eq!(state, State::Ready, "{reason}");
            }
            // What was only tried has ended well, and there is more to be had.
            let asks_nothing = state == State::Ready && reason != "NotPushed";
            assert_eq!(step.is_empty(), asks_nothing, "{reason}: whoever is to do something is told what");
        }
    }

    #[test]
    fn a_command_about_a_node_names_one_thing() {
        let step = |node| Subject { node, ..Subject::default() }.step("LoaderUnreachable").unwrap();
        assert!(step(Some("oak")).contains("kubectl tenon logs node/oak -c loader"));
        assert!(step(None).contains("kubectl tenon logs node/NODE -c loader"));
    }

    #[test]
    fn a_reason_of_a_newer_version_wants_a_look() {
        assert_eq!(on("FluxCapacitorEmpty").state, State::Trouble);
    }
}
