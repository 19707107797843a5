//! Which mapping, image, build and sign settings a kernel gets: the first arrow.
//!
//! In goes a Module and a kernel, out come settings with every template expanded and the mapping merged over the
//! container. Unlike KMM, every field of a mapping counts (its merge forgets `baseImageRegistryTLS`, `kanikoParams`,
//! `selector` and `unsignedImageRegistryTLS`).

mod pattern;

use tenon_api::module::{Build, KernelMapping, Modprobe, Module, ModuleContainer, RegistryTls, Sign};
use tenon_api::reasons;
use tenon_kmod::release::{Distribution, KernelRelease, image_tag};
use tenon_order::{KmodName, MAX_NAMES, NameError, are_parameters};

use crate::modprobe::{self, ArgumentError, Arguments};
use crate::template::{self, TemplateError, Variables};
pub use pattern::PatternError;

/// What one kernel gets.
#[derive(Debug, Clone, PartialEq)]
pub struct Resolved {
    /// The image, with all variables replaced.
    pub image: String,
    /// How the image's registry is spoken to.
    pub registry_tls: RegistryTls,
    /// How the image is built if it does not exist.
    pub build: Option<Build>,
    /// How its modules are signed.
    pub sign: Option<Sign>,
    /// What the Module says of loading, as it says it.
    pub modprobe: Modprobe,
    /// In-tree modules to unload first, as the Module names them.
    pub in_tree_to_remove: Vec<String>,
    /// The same two, understood.
    pub load: LoadSettings,
}

/// What is loaded and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadSettings {
    /// The module.
    pub module: KmodName,
    /// Its parameters, each `name=value`.
    pub parameters: Vec<String>,
    /// KMM's `modulesLoadingOrder`: the first is loaded last. Empty: by the modules' own dependencies.
    pub loading_order: Vec<KmodName>,
    /// In-tree modules to unload first.
    pub in_tree_to_remove: Vec<KmodName>,
    /// The directory in the image that holds `lib/modules/<kernel>`.
    pub dir_name: String,
    /// The directory in the image that holds firmware.
    pub firmware_path: Option<String>,
}

/// Why a kernel gets nothing.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ResolveError {
    /// Only a device plugin or a DRA driver is wished.
    #[error("spec.moduleLoader is not set, so there is nothing to load")]
    NoModuleLoader,
    /// No mapping fits the kernel.
    #[error(
        "no item of spec.moduleLoader.container.kernelMappings fits kernel {0}; add a literal or a regexp for it"
    )]
    NoMapping(String),
    /// A mapping's regular expression does not compile.
    #[error("spec.moduleLoader.container.kernelMappings[{index}].regexp: {source}")]
    Regexp {
        /// Which mapping.
        index: usize,
        /// What is wrong with it.
        source: PatternError,
    },
    /// Neither the mapping nor the container names an image.
    #[error(
        "spec.moduleLoader.container.kernelMappings[{0}] fits, but neither it nor the container has a containerImage"
    )]
    NoImage(usize),
    /// A template has a variable that this kernel does not have.
    #[error("{field}: {source}")]
    Template {
        /// The template's path in the Module.
        field: &'static str,
        /// What is wrong with it.
        source: TemplateError,
    },
    /// An option of modprobe that Tenon refuses.
    #[error(transparent)]
    Argument(#[from] ArgumentError),
    /// `rawArgs.load` names no module, or several.
    #[error(
        "spec.moduleLoader.container.modprobe.rawArgs.load names {0} modules before the first parameter; name one, and use modulesLoadingOrder for more"
    )]
    RawModules(usize),
    /// What no order and no object of ours can hold. It is told of the Module that says it: an order with it would be no order for
    /// any Module of the node.
    #[error("{field} {what}")]
    Excessive {
        /// The field's path in the Module.
        field: &'static str,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A module's name is malformed.
    #[error("{parent}{field}: {source}")]
    Name {
        /// Where in the Module the name's field is.
        parent: &'static str,
        /// The field.
        field: &'static str,
        /// What is wrong with it.
        source: NameError,
    },
}

impl ResolveError {
    /// The word for conditions and events.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoModuleLoader => reasons::NO_MODULE_LOADER,
            Self::NoMapping(_) => reasons::NO_MAPPING,
            Self::Template { .. } | Self::NoImage(_) => reasons::REFERENCE_INVALID,
            Self::Regexp { .. }
            | Self::Argument(_)
            | Self::RawModules(_)
            | Self::Excessive { .. }
            | Self::Name { .. } => reasons::SPEC_INVALID,
        }
    }
}

/// Resolves `module` for `kernel`.
pub fn resolve(module: &Module, kernel: &KernelRelease) -> Result<Resolved, ResolveError> {
    let container = &module.spec.module_loader.as_ref().ok_or(ResolveError::NoModuleLoader)?.container;
    let (index, mapping) = first_match(&container.kernel_mappings, kernel)?;
    let mut variables = variables(module, kernel);
    let image = mapping
        .container_image
        .as_deref()
        .or(container.container_image.as_deref())
        .ok_or(ResolveError::NoImage(index))
        .and_then(|image| expand(IMAGE, image, &variables))?;
    at_most(!image.is_empty(), IMAGE, "is empty once its variables have their values")?;
    at_most(
        image.len() <= MAX_IMAGE,
        IMAGE,
        "has more than 2048 bytes once its variables have their values",
    )?;
    variables.set("CONTAINER_IMAGE", &image);
    let sign = merge_sign(container.sign.as_ref(), mapping.sign.as_ref())
        .map(|sign| expand_sign(sign, &variables, kernel))
        .transpose()?;
    let in_tree_to_remove = in_tree_to_remove(container, mapping);
    Ok(Resolved {
        image,
        registry_tls: mapping.registry_tls.or(container.registry_tls).unwrap_or_default(),
        build: merge_build(container.build.as_ref(), mapping.build.as_ref())
            .map(|build| expand_build(build, &variables, kernel))
            .transpose()?,
        sign,
        load: load_settings(&container.modprobe, &in_tree_to_remove)?,
        modprobe: container.modprobe.clone(),
        in_tree_to_remove,
    })
}

/// The place in the list of the mapping that a kernel's settings are taken from; `None` where none fits.
pub fn mapping(module: &Module, kernel: &KernelRelease) -> Option<usize> {
    let container = &module.spec.module_loader.as_ref()?.container;
    first_match(&container.kernel_mappings, kernel).ok().map(|(index, _)| index)
}

/// The first mapping that fits, and its place in the list.
fn first_match<'m>(
    mappings: &'m [KernelMapping],
    kernel: &KernelRelease,
) -> Result<(usize, &'m KernelMapping), ResolveError> {
    let release = kernel.without_plus();
    for (index, mapping) in mappings.iter().enumerate() {
        let fits = match (&mapping.literal, &mapping.regexp) {
            (Some(literal), _) => literal.strip_suffix('+').unwrap_or(literal) == release,
            (None, Some(regexp)) => {
                pattern::is_match(regexp, release).map_err(|source| ResolveError::Regexp { index, source })?
            }
            (None, None) => false,
        };
        if fits {
            return Ok((index, mapping));
        }
    }
    Err(ResolveError::NoMapping(kernel.to_string()))
}

/// KMM's variables and those that only some distributions' releases have. All are in the alphabet of image tags.
pub fn variables(module: &Module, kernel: &KernelRelease) -> Variables {
    let mut variables = kernel_variables(kernel);
    let mut set = |name, value: &str| variables.set(name, image_tag(value));
    set("MOD_NAME", module.metadata.name.as_deref().unwrap_or_default());
    set("MOD_NAMESPACE", module.metadata.namespace.as_deref().unwrap_or_default());
    variables
}

/// Those of them that say something of the kernel.
pub(crate) fn kernel_variables(kernel: &KernelRelease) -> Variables {
    let mut variables = Variables::default();
    let mut set = |name, value: &str| variables.set(name, image_tag(value));
    set("KERNEL_FULL_VERSION", kernel.without_plus());
    set("KERNEL_VERSION", kernel.without_plus());
    if let Some(parts) = kernel.parts() {
        set("KERNEL_XYZ", &parts.to_string());
        set("KERNEL_X", parts.x);
        set("KERNEL_Y", parts.y);
        set("KERNEL_Z", parts.z);
    }
    match kernel.distribution() {
        Distribution::Rhel(rpm) => {
            set("KERNEL_RHEL_VERSION", rpm.version);
            set("KERNEL_RHEL_RELEASE", rpm.release);
            set("KERNEL_RHEL_ARCH", rpm.arch);
        }
        Distribution::Debian(debian) => {
            set("KERNEL_DEBIAN_RELEASE", debian.release);
            set("KERNEL_DEBIAN_FLAVOR", debian.flavor);
        }
        Distribution::Ubuntu(ubuntu) => {
            set("KERNEL_UBUNTU_RELEASE", ubuntu.release);
            set("KERNEL_UBUNTU_FLAVOR", ubuntu.flavor);
        }
        _ => {}
    }
    variables
}

fn expand(field: &'static str, text: &str, variables: &Variables) -> Result<String, ResolveError> {
    template::expand(text, variables).map_err(|source| ResolveError::Template { field, source })
}

fn expand_sign(mut sign: Sign, variables: &Variables, kernel: &KernelRelease) -> Result<Sign, ResolveError> {
    if let Some(image) = &mut sign.unsigned_image {
        *image = expand("spec.moduleLoader.container.sign.unsignedImage", image, variables)?;
    }
    let of_paths = variables_of_paths(variables, kernel);
    for file in &mut sign.files_to_sign {
        *file = expand("spec.moduleLoader.container.sign.filesToSign", file, &of_paths)?;
    }
    Ok(sign)
}

fn expand_build(
    mut build: Build,
    variables: &Variables,
    kernel: &KernelRelease,
) -> Result<Build, ResolveError> {
    const TOOLKIT: &str = "spec.moduleLoader.container.build.source.toolkit";
    const IMAGE: &str = "spec.moduleLoader.container.build.source.image.reference";
    const ARTIFACT_IMAGE: &str = "spec.moduleLoader.container.build.source.artifacts.image.reference";
    const ARTIFACT_PATH: &str = "spec.moduleLoader.container.build.source.artifacts.path";
    let Some(source) = build.source.as_mut() else { return Ok(build) };
    let of_paths = variables_of_paths(variables, kernel);
    if let Some(toolkit) = &mut source.toolkit {
        *toolkit = expand(TOOLKIT, toolkit, variables)?;
    }
    if let Some(image) = &mut source.image {
        image.reference = expand(IMAGE, &image.reference, variables)?;
    }
    for artifact in &mut source.artifacts {
        if let Some(image) = &mut artifact.image {
            image.reference = expand(ARTIFACT_IMAGE, &image.reference, variables)?;
        }
        artifact.path = expand(ARTIFACT_PATH, &artifact.path, &of_paths)?;
    }
    Ok(build)
}

/// A path in an image has the release as the kernel says it; only tags have another alphabet.
fn variables_of_paths(variables: &Variables, kernel: &KernelRelease) -> Variables {
    let mut of_paths = variables.clone();
    for name in ["KERNEL_FULL_VERSION", "KERNEL_VERSION"] {
        of_paths.set(name, kernel.without_plus());
    }
    of_paths
}

/// The mapping's build over the container's: arguments by name, secrets beside one another, the rest replaced where set.
fn merge_build(container: Option<&Build>, mapping: Option<&Build>) -> Option<Build> {
    let (base, over) = match (container, mapping) {
        (Some(base), Some(over)) => (base, over),
        (one, other) => return other.or(one).cloned(),
    };
    let mut merged = base.clone();
    if over.dockerfile_config_map.is_some() || over.dockerfile.is_some() || over.source.is_some() {
        merged.dockerfile_config_map.clone_from(&over.dockerfile_config_map);
        merged.dockerfile.clone_from(&over.dockerfile);
        merged.source.clone_from(&over.source);
    }
    for arg in &over.build_args {
        match merged.build_args.iter_mut().find(|known| known.name == arg.name) {
            Some(known) => known.value.clone_from(&arg.value),
            None => merged.build_args.push(arg.clone()),
        }
    }
    merged.secrets.extend(over.secrets.iter().filter(|secret| !base.secrets.contains(secret)).cloned());
    merged.base_image_registry_tls = over.base_image_registry_tls.or(base.base_image_registry_tls);
    merged.kaniko_params = over.kaniko_params.clone().or_else(|| base.kaniko_params.clone());
    if !over.selector.is_empty() {
        merged.selector.clone_from(&over.selector);
    }
    merged.resources = over.resources.clone().or_else(|| base.resources.clone());
    merged.active_deadline_seconds = over.active_deadline_seconds.or(base.active_deadline_seconds);
    Some(merged)
}

/// The mapping's signing over the container's: files beside one another, the rest replaced where set.
fn merge_sign(container: Option<&Sign>, mapping: Option<&Sign>) -> Option<Sign> {
    let (base, over) = match (container, mapping) {
        (Some(base), Some(over)) => (base, over),
        (one, other) => return other.or(one).cloned(),
    };
    let mut merged = base.clone();
    if !over.key_secret.name.is_empty() {
        merged.key_secret = over.key_secret.clone();
    }
    if !over.cert_secret.name.is_empty() {
        merged.cert_secret = over.cert_secret.clone();
    }
    merged.unsigned_image = over.unsigned_image.clone().or(merged.unsigned_image);
    merged.unsigned_image_registry_tls =
        over.unsigned_image_registry_tls.or(base.unsigned_image_registry_tls);
    merged
        .files_to_sign
        .extend(over.files_to_sign.iter().filter(|file| !base.files_to_sign.contains(file)).cloned());
    merged.hash = over.hash.or(base.hash);
    Some(merged)
}

const IMAGE: &str = "spec.moduleLoader.container.containerImage";
const MODPROBE: &str = "spec.moduleLoader.container.modprobe";
const PARAMETERS: &str = "spec.moduleLoader.container.modprobe.parameters";
const DIR_NAME: &str = "spec.moduleLoader.container.modprobe.dirName";
const MODPROBED_DIR: &str = "spec.moduleLoader.container.modprobe.modprobedDir";
const LOADING_ORDER: &str = "spec.moduleLoader.container.modprobe.modulesLoadingOrder";
const IN_TREE: &str = "spec.moduleLoader.container.inTreeModulesToRemove";
const ARGS_LOAD: &str = "spec.moduleLoader.container.modprobe.args.load";
const ARGS_UNLOAD: &str = "spec.moduleLoader.container.modprobe.args.unload";
const RAW_LOAD: &str = "spec.moduleLoader.container.modprobe.rawArgs.load";
const RAW_UNLOAD: &str = "spec.moduleLoader.container.modprobe.rawArgs.unload";

/// The longest name of an image, as the definition of what we make has it.
const MAX_IMAGE: usize = 2048;
/// The longest directory, likewise.
const MAX_DIRECTORY: usize = 1024;
/// What a driver would be loaded without must not go unsaid.
const NOT_READ: &str =
    "is not read: put its options into parameters, and its softdeps into modulesLoadingOrder";
const TOO_MANY_NAMES: &str = "names more than 128 kernel modules";

fn at_most(holds: bool, field: &'static str, what: &'static str) -> Result<(), ResolveError> {
    if holds { Ok(()) } else { Err(ResolveError::Excessive { field, what }) }
}

/// What modprobe's settings mean here. A node's object repeats them, so an order can be made from it alone.
pub fn load_settings(
    modprobe: &Modprobe,
    in_tree_to_remove: &[String],
) -> Result<LoadSettings, ResolveError> {
    let mut dir_name = modprobe.dir_name.clone();
    let mut from = PARAMETERS;
    let (mut module, mut parameters) = (modprobe.module_name.clone(), modprobe.parameters.clone());
    let mut read = |field, list: Option<&Vec<String>>| -> Result<Arguments, ArgumentError> {
        let mut read = modprobe::parse(field, list.map_or(&[], Vec::as_slice))?;
        if let Some(dir) = read.dir_name.take() {
            dir_name = dir;
        }
        Ok(read)
    };
    if let Some(args) = &modprobe.args {
        read(ARGS_LOAD, args.load.as_ref())?;
        read(ARGS_UNLOAD, args.unload.as_ref())?;
    }
    if let Some(raw) = &modprobe.raw_args {
        read(RAW_UNLOAD, raw.unload.as_ref())?;
        let words = read(RAW_LOAD, raw.load.as_ref())?.positional;
        let names = words.iter().take_while(|word| !word.contains('=')).count();
        if names != 1 {
            return Err(ResolveError::RawModules(names));
        }
        let mut words = words.into_iter();
        module = words.next();
        parameters = words.collect();
        from = RAW_LOAD;
    }
    at_most(modprobe.modprobed_dir.is_none(), MODPROBED_DIR, NOT_READ)?;
    let wrong = "must have no empty parameter, none with control characters, and 4095 bytes of them at most";
    at_most(are_parameters(&parameters), from, wrong)?;
    at_most(modprobe.modules_loading_order.len() <= MAX_NAMES, LOADING_ORDER, TOO_MANY_NAMES)?;
    at_most(in_tree_to_remove.len() <= MAX_NAMES, IN_TREE, TOO_MANY_NAMES)?;
    // KMM puts it before `/lib/modules`, so nothing means the image's root.
    let dir_name = if dir_name.is_empty() { "/".to_owned() } else { dir_name };
    at_most(dir_name.len() <= MAX_DIRECTORY, DIR_NAME, "has more than 1024 bytes")?;
    Ok(LoadSettings {
        module: name(MODPROBE, ".moduleName", &module.ok_or(ResolveError::RawModules(0))?)?,
        parameters,
        loading_order: names(MODPROBE, ".modulesLoadingOrder", &modprobe.modules_loading_order)?,
        in_tree_to_remove: names("spec.moduleLoader.container", ".inTreeModulesToRemove", in_tree_to_remove)?,
        dir_name,
        firmware_path: modprobe.firmware_path.clone(),
    })
}

fn name(parent: &'static str, field: &'static str, text: &str) -> Result<KmodName, ResolveError> {
    text.parse().map_err(|source| ResolveError::Name { parent, field, source })
}

fn names(parent: &'static str, field: &'static str, list: &[String]) -> Result<Vec<KmodName>, ResolveError> {
    list.iter().map(|text| name(parent, field, text)).collect()
}

/// The mapping's list, when it has one, else the container's; the deprecated single field counts as a list of one.
fn in_tree_to_remove(container: &ModuleContainer, mapping: &KernelMapping) -> Vec<String> {
    let list = |list: &Option<Vec<String>>, single: &Option<String>| {
        list.clone().or_else(|| single.clone().map(|name| vec![name]))
    };
    list(&mapping.in_tree_modules_to_remove, &mapping.in_tree_module_to_remove)
        .or_else(|| list(&container.in_tree_modules_to_remove, &container.in_tree_module_to_remove))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests;
