//! The rules of a Module that no type can say, in CEL, so that the API server itself refuses what breaks them and
//! names the field. They are KMM's; a limit on the length of names is not among them.
//!
//! A rule stands as near to the field as it can: the API server puts the path of the place where the rule stands
//! before the rule's own. Lists and strings that rules walk over have a maximal length, generously chosen, because
//! the API server refuses a definition whose rules might cost too much.

use k8s_openapi::api::core::v1::{Toleration, Volume};
use kube::core::{Reason, Rule};
use schemars::{Schema, SchemaGenerator};
use serde_json::{Value, json};

fn rule(expression: &str, message: &str) -> Rule {
    Rule::new(expression).message(message).reason(Reason::FieldValueInvalid)
}

fn required(expression: &str, message: &str) -> Rule {
    Rule::new(expression).message(message).reason(Reason::FieldValueRequired)
}

fn forbidden(expression: &str, message: &str) -> Rule {
    Rule::new(expression).message(message).reason(Reason::FieldValueForbidden)
}

/// `spec`: a module's devices are offered in one way.
pub(super) fn not_device_plugin_and_dra() -> Rule {
    forbidden(
        "!(has(self.devicePlugin) && has(self.dra))",
        "devicePlugin and dra cannot both be set: choose one way to offer the devices",
    )
    .field_path(".dra")
}

/// An image reference: without tag or digest nobody could say what is meant.
pub(super) fn image_has_tag_or_digest() -> Rule {
    rule(
        "self == '' || self.contains(':') || self.contains('@')",
        "must name a tag or a digest: <image>:<tag> or <image>@sha256:<digest>",
    )
}

/// A version: a node's label names it, so it must be what a label can say.
pub(super) fn version_is_label_value() -> Rule {
    rule(
        "self == '' || self.matches('^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$')",
        "must be what a node's label can say: letters, digits, '-', '_' and '.', with a letter or a digit at both ends",
    )
}

/// The container: every mapping has an image, its own or the container's.
pub(super) fn image_somewhere() -> Rule {
    required(
        "(has(self.containerImage) && self.containerImage != '') || \
         self.kernelMappings.all(m, has(m.containerImage) && m.containerImage != '')",
        "containerImage must be set, either here or in every item of kernelMappings",
    )
    .field_path(".containerImage")
}

/// The container and a mapping: the list replaces the single field.
pub(super) fn one_in_tree_field() -> Rule {
    forbidden(
        "!(has(self.inTreeModuleToRemove) && self.inTreeModuleToRemove != '' && has(self.inTreeModulesToRemove))",
        "inTreeModuleToRemove and inTreeModulesToRemove cannot both be set: put all names into inTreeModulesToRemove",
    )
    .field_path(".inTreeModuleToRemove")
}

/// The container: the list here and the single field in a mapping do not mix.
pub(super) fn in_tree_list_not_beside_mappings_single() -> Rule {
    forbidden(
        "!(has(self.inTreeModulesToRemove) && self.kernelMappings.exists(m, \
         has(m.inTreeModuleToRemove) && m.inTreeModuleToRemove != ''))",
        "inTreeModulesToRemove cannot be set while an item of kernelMappings sets inTreeModuleToRemove: \
         use inTreeModulesToRemove in both",
    )
    .field_path(".inTreeModulesToRemove")
}

/// The container: the single field here and the list in a mapping do not mix.
pub(super) fn in_tree_single_not_beside_mappings_list() -> Rule {
    forbidden(
        "!(has(self.inTreeModuleToRemove) && self.inTreeModuleToRemove != '' && \
         self.kernelMappings.exists(m, has(m.inTreeModulesToRemove)))",
        "inTreeModuleToRemove cannot be set while an item of kernelMappings sets inTreeModulesToRemove: \
         use inTreeModulesToRemove in both",
    )
    .field_path(".inTreeModuleToRemove")
}

/// A build: there is a recipe, and one only.
pub(super) fn one_dockerfile() -> Rule {
    required(
        "[has(self.dockerfileConfigMap) && has(self.dockerfileConfigMap.name) && self.dockerfileConfigMap.name != '', \
         has(self.dockerfile) && self.dockerfile != '', has(self.source)].exists_one(set, set)",
        "one of dockerfileConfigMap, dockerfile and source must be set, and not more",
    )
    .field_path(".dockerfileConfigMap")
}

/// A build's resources: its pod has no claims of devices that they could name.
pub(super) fn build_claims_no_devices() -> Rule {
    forbidden(
        "!has(self.resources) || !has(self.resources.claims) || size(self.resources.claims) == 0",
        "resources.claims cannot be set: a build's pod has no resource claims; set requests and limits",
    )
    .field_path(".resources.claims")
}

/// Sources: they are somewhere, and in one place only.
pub(super) fn one_place_of_sources() -> Rule {
    required(
        "[has(self.git), has(self.image), has(self.claim)].exists_one(set, set)",
        "one of git, image and claim must be set, and not more",
    )
    .field_path(".git")
}

/// Artifacts: they are somewhere, and in one place only.
pub(super) fn one_place_of_artifacts() -> Rule {
    required(
        "[has(self.image), has(self.module) && self.module != '', has(self.claim)].exists_one(set, set)",
        "one of image, module and claim must be set, and not more",
    )
    .field_path(".module")
}

/// A path in an image or on a volume: it leads nowhere else.
pub(super) fn is_path_inside() -> Rule {
    rule("!self.matches('(^|/)[.][.](/|$)')", "must not contain '..'")
}

/// A place for a file: below a directory, by a name of its own.
pub(super) fn is_relative_path() -> Rule {
    rule(
        "self.matches('^[A-Za-z0-9_+-][A-Za-z0-9_.+-]*(/[A-Za-z0-9_+-][A-Za-z0-9_.+-]*)*$')",
        "must be a relative path of letters, digits, '_', '.', '+' and '-', of which no part begins with a dot",
    )
}

/// Where a git repository is: git's other ways (`ext::`, a local path) run programs, or read what is not the user's.
pub(super) fn is_git_uri() -> Rule {
    rule(
        "self.matches('^(https?|git)://[^\\\\s@]+$')",
        "must begin with https://, http:// or git://, without a password: that goes into secret",
    )
}

/// What is taken from it: nothing that git would read as an option.
pub(super) fn is_git_ref() -> Rule {
    rule(
        "self == '' || self.matches('^[A-Za-z0-9_][A-Za-z0-9_./+-]*$')",
        "must be a branch, a tag, or a commit's whole name",
    )
}

/// A mapping: it says for which kernels it is.
pub(super) fn literal_or_regexp() -> Rule {
    required(
        "(has(self.literal) && self.literal != '') || (has(self.regexp) && self.regexp != '')",
        "literal or regexp must be set",
    )
    .field_path(".literal")
}

/// A mapping: it says so once.
pub(super) fn not_literal_and_regexp() -> Rule {
    forbidden(
        "!(has(self.literal) && self.literal != '' && has(self.regexp) && self.regexp != '')",
        "literal and regexp cannot both be set",
    )
    .field_path(".regexp")
}

/// A regexp: whether it matches does not matter here, but an expression that does not compile ends the evaluation,
/// and with it the request. (`|| true` would swallow that error.)
pub(super) fn regexp_compiles() -> Rule {
    rule("''.matches(self) ? true : true", "must be a valid RE2 regular expression")
}

/// `modprobe`: there is something to load and to unload.
pub(super) fn module_name_or_raw_args() -> Rule {
    required(
        "(has(self.moduleName) && self.moduleName != '') || \
         (has(self.rawArgs) && has(self.rawArgs.load) && has(self.rawArgs.unload))",
        "moduleName must be set unless both rawArgs.load and rawArgs.unload are",
    )
    .field_path(".moduleName")
}

/// `modprobe`: raw arguments leave nothing for the module's name to say.
pub(super) fn raw_args_without_module_name() -> Rule {
    forbidden(
        "!(has(self.moduleName) && self.moduleName != '' && has(self.rawArgs) && \
         (has(self.rawArgs.load) || has(self.rawArgs.unload)))",
        "rawArgs cannot be set together with moduleName",
    )
    .field_path(".rawArgs")
}

/// `modprobe`: one module alone has no order.
pub(super) fn loading_order_has_two() -> Rule {
    rule(
        "!has(self.modulesLoadingOrder) || size(self.modulesLoadingOrder) >= 2",
        "modulesLoadingOrder must have at least two items",
    )
    .field_path(".modulesLoadingOrder")
}

/// `modprobe`: no module depends on itself. Not with the reason `FieldValueDuplicate`: the API server leaves the message
/// out then.
pub(super) fn loading_order_is_unique() -> Rule {
    rule(
        "!has(self.modulesLoadingOrder) || \
         self.modulesLoadingOrder.all(m, self.modulesLoadingOrder.exists_one(n, n == m))",
        "modulesLoadingOrder must not name a module twice",
    )
    .field_path(".modulesLoadingOrder")
}

/// `modprobe`: an order is the order of loading a module.
pub(super) fn loading_order_needs_module_name() -> Rule {
    required(
        "!has(self.modulesLoadingOrder) || (has(self.moduleName) && self.moduleName != '')",
        "moduleName must be set when modulesLoadingOrder is",
    )
    .field_path(".moduleName")
}

/// `modprobe`: the module itself comes first, for it needs all others.
pub(super) fn loading_order_starts_with_module_name() -> Rule {
    rule(
        "!has(self.modulesLoadingOrder) || size(self.modulesLoadingOrder) == 0 || !has(self.moduleName) || \
         self.moduleName == '' || self.modulesLoadingOrder[0] == self.moduleName",
        "the first item of modulesLoadingOrder must be moduleName",
    )
    .field_path(".modulesLoadingOrder")
}

/// The container: to sign nothing is a mistake.
pub(super) fn container_signs_some_files() -> Rule {
    required(
        "!has(self.sign) || (has(self.sign.filesToSign) && size(self.sign.filesToSign) > 0)",
        "filesToSign must name at least one file",
    )
    .field_path(".sign.filesToSign")
}

/// The container: modules are below `dirName`.
pub(super) fn container_signs_below_dir_name() -> Rule {
    rule(
        "!has(self.sign) || !has(self.sign.filesToSign) || \
         self.sign.filesToSign.all(f, f.startsWith(self.modprobe.dirName + '/'))",
        "every item of filesToSign must start with modprobe.dirName and a slash",
    )
    .field_path(".sign.filesToSign")
}

/// The container's mappings: what a mapping signs is its own list after the container's.
pub(super) fn mappings_sign_some_files() -> Rule {
    required(
        "has(self.sign) || self.kernelMappings.all(m, !has(m.sign) || \
         (has(m.sign.filesToSign) && size(m.sign.filesToSign) > 0))",
        "sign.filesToSign of an item of kernelMappings must name at least one file",
    )
    .field_path(".kernelMappings")
}

/// The container's mappings: modules are below `dirName`.
pub(super) fn mappings_sign_below_dir_name() -> Rule {
    rule(
        "self.kernelMappings.all(m, !has(m.sign) || !has(m.sign.filesToSign) || \
         m.sign.filesToSign.all(f, f.startsWith(self.modprobe.dirName + '/')))",
        "every item of sign.filesToSign of kernelMappings must start with modprobe.dirName and a slash",
    )
    .field_path(".kernelMappings")
}

/// A validation: only there can a driver leave a trace that is looked for.
pub(super) fn validation_paths_below_dev_or_sys() -> Rule {
    rule(
        "self.paths.all(p, p.matches('^/(dev|sys)/[^/]'))",
        "every item of validation.paths must be an absolute path below /dev/ or /sys/, such as /dev/my-device or \
         /sys/class/my-class/my-device",
    )
    .field_path(".paths")
}

/// A validation: paths are compared as they are written.
pub(super) fn validation_paths_are_straight() -> Rule {
    rule(
        "self.paths.all(p, !p.matches('(^|/)[.]{1,2}(/|$)|.//|./$|[^!-~]'))",
        "every item of validation.paths must be of printable characters without spaces, and hold no '.', '..', '//' \
         or '/' at the end: write the path out",
    )
    .field_path(".paths")
}

/// A validation: what no node's agent could ever see would never be there.
pub(super) fn validation_paths_can_be_seen() -> Rule {
    rule(
        "self.paths.all(p, !p.matches('^/dev/(disk|block|char|fd|hugepages|mqueue|pts|shm)(/|$)|\
         ^/sys/(firmware|fs/(bpf|cgroup|pstore|selinux)|kernel/(config|debug|security|tracing))(/|$)'))",
        "an item of validation.paths cannot be seen: links that udev makes, and file systems of their own below /dev and /sys, are \
         not looked at; name the device node that the kernel makes, or a path below /sys/class, /sys/bus or /sys/module",
    )
    .field_path(".paths")
}

/// A validation: server-side apply and people take a list without repetitions.
pub(super) fn validation_paths_are_unique() -> Rule {
    rule(
        "self.paths.all(p, self.paths.exists_one(q, q == p))",
        "validation.paths must not name a path twice: take one of them out",
    )
    .field_path(".paths")
}

/// A device plugin or a DRA driver: Kubernetes knows no probes of init containers.
pub(super) fn no_probes_on_init_container() -> Rule {
    forbidden(
        "!has(self.initContainer) || \
         (!has(self.initContainer.startupProbe) && !has(self.initContainer.livenessProbe))",
        "initContainer cannot have probes",
    )
    .field_path(".initContainer")
}

/// A name of the form of a DNS subdomain (RFC 1123).
pub(super) fn is_dns_subdomain() -> Rule {
    rule(
        "self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*$')",
        "must be a DNS subdomain: lower case letters, digits, '-' and '.', beginning and ending with a letter or digit",
    )
}

/// The schema of `tolerations`, with the rules that pods' tolerations obey.
pub(super) fn tolerations(generator: &mut SchemaGenerator) -> Schema {
    let mut schema = list_of::<Toleration>(generator, 64, &toleration_rules());
    for (field, length) in [("key", 317), ("operator", 32), ("value", 63), ("effect", 32)] {
        if let Some(property) = schema.pointer_mut(&format!("/items/properties/{field}")) {
            set(property, "maxLength", json!(length));
        }
    }
    schema
}

fn toleration_rules() -> Vec<Rule> {
    let exists = "has(self.operator) && self.operator == 'Exists'";
    vec![
        rule(
            "!has(self.key) || self.key == '' || \
             (self.key.matches('^([a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?\
             [A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$') && size(self.key.split('/')[0]) <= 253 && size(self.key.split('/')[size(self.key.split('/')) - 1]) <= 63)",
            "key must be a label key: [<DNS subdomain>/]<name of at most 63 letters, digits, '-', '_' and '.'>",
        )
        .field_path(".key"),
        rule(
            &format!("(has(self.key) && self.key != '') || ({exists})"),
            "operator must be Exists when key is empty",
        )
        .field_path(".operator"),
        rule(
            "!has(self.operator) || self.operator in ['', 'Equal', 'Exists']",
            "operator must be Equal or Exists",
        )
        .field_path(".operator"),
        rule(
            &format!("!({exists}) || !has(self.value) || self.value == ''"),
            "value must be empty when operator is Exists",
        )
        .field_path(".value"),
        rule(
            "!has(self.tolerationSeconds) || (has(self.effect) && self.effect == 'NoExecute')",
            "effect must be NoExecute when tolerationSeconds is set",
        )
        .field_path(".effect"),
        rule(
            "!has(self.effect) || self.effect in ['', 'NoSchedule', 'PreferNoSchedule', 'NoExecute']",
            "effect must be NoSchedule, PreferNoSchedule or NoExecute",
        )
        .field_path(".effect"),
    ]
}

/// The schema of a plugin's `volumes`: of the host's directories only those where devices and sockets live.
pub(super) fn volumes(generator: &mut SchemaGenerator) -> Schema {
    let below = rule(
        "!has(self.hostPath) || self.hostPath.path.matches('^/+([.]/+)*(dev|sys|var|opt|run)(/.*)?$')",
        "hostPath.path must be below /dev, /sys, /var, /opt or /run",
    )
    .field_path(".hostPath.path");
    let straight = rule(
        "!has(self.hostPath) || !self.hostPath.path.matches('(^|/)[.][.](/|$)')",
        "hostPath.path must not contain '..'",
    )
    .field_path(".hostPath.path");

    let mut schema = list_of::<Volume>(generator, 128, &[below, straight]);
    if let Some(path) = schema.pointer_mut("/items/properties/hostPath/properties/path") {
        set(path, "maxLength", json!(4096));
    }
    set_map_key(&mut schema, "name");
    schema
}

/// A list of another API's type, with rules over each of its items.
fn list_of<T: schemars::JsonSchema>(generator: &mut SchemaGenerator, max: usize, rules: &[Rule]) -> Schema {
    let mut schema = generator.subschema_for::<Vec<T>>();
    schema.insert("maxItems".to_owned(), json!(max));
    if let Some(items) = schema.pointer_mut("/items") {
        set(items, "x-kubernetes-validations", json!(rules));
    }
    schema
}

/// Server-side apply merges the list's items by this key.
fn set_map_key(schema: &mut Schema, key: &str) {
    schema.insert("x-kubernetes-list-type".to_owned(), json!("map"));
    schema.insert("x-kubernetes-list-map-keys".to_owned(), json!([key]));
}

fn set(schema: &mut Value, keyword: &str, value: Value) {
    if let Value::Object(keywords) = schema {
        keywords.insert(keyword.to_owned(), value);
    }
}
