//! What a Module has for one kernel: which mapping fits, and how far its image is.

use tenon_api::module_image::{ImagePhase, ModuleImage, ModuleImageStatus};
use tenon_api::{Module, reasons};
use tenon_kmod::release::KernelRelease;
use tenon_plan::provision;
use tenon_plan::resolve::{self, ResolveError, Resolved};

use super::{State, Why};

/// What a Module has for one kernel and architecture.
#[derive(Debug)]
pub(crate) struct Offer<'s> {
    pub(crate) kernel: KernelRelease,
    pub(crate) architecture: String,
    /// The mapping that fits: its place in the list, and what it says.
    pub(crate) mapping: Option<(usize, String)>,
    /// The settings.
    pub(crate) resolved: Result<Resolved, ResolveError>,
    /// The object of the image that they name.
    pub(crate) image: Option<&'s ModuleImage>,
    /// How far it is.
    pub(crate) why: Why,
}

/// What `module` has for a kernel.
pub(crate) fn offer<'s>(
    module: &Module,
    images: impl Iterator<Item = &'s ModuleImage>,
    kernel: &KernelRelease,
    architecture: &str,
) -> Offer<'s> {
    let resolved = resolve::resolve(module, kernel);
    let mut images = images
        .filter(|image| image.spec.kernel == kernel.as_str() && image.spec.architecture == architecture);
    let image =
        resolved.as_ref().ok().and_then(|resolved| images.find(|image| image.spec.image == resolved.image));
    Offer {
        mapping: mapping(module, kernel),
        why: judge(&resolved, image),
        kernel: kernel.clone(),
        architecture: architecture.to_owned(),
        resolved,
        image,
    }
}

fn mapping(module: &Module, kernel: &KernelRelease) -> Option<(usize, String)> {
    let index = resolve::mapping(module, kernel)?;
    let mapping = module.spec.module_loader.as_ref()?.container.kernel_mappings.get(index)?;
    let said = match (&mapping.literal, &mapping.regexp) {
        (Some(literal), _) => format!("literal {literal}"),
        (None, Some(regexp)) => format!("regexp {regexp}"),
        (None, None) => String::new(),
    };
    Some((index, said))
}

fn judge(resolved: &Result<Resolved, ResolveError>, image: Option<&ModuleImage>) -> Why {
    let resolved = match resolved {
        Ok(resolved) => resolved,
        Err(error) => return Why::of(error.reason(), error.to_string()),
    };
    let looked_for = || Why::of(reasons::RESOLVING, format!("{} is being looked for", resolved.image));
    let Some(image) = image else { return looked_for() };
    let Some(status) = current(image) else { return looked_for() };
    let reason = status.reason.as_deref();
    let message = status.message.as_ref().map(ToString::to_string).unwrap_or_default();
    match status.phase {
        Some(ImagePhase::Ready) => renewed(image, &message),
        Some(ImagePhase::Failed) => {
            Why::of(reason.unwrap_or(reasons::IMAGE_INVALID), message).in_state(State::Trouble)
        }
        Some(ImagePhase::Waiting | ImagePhase::Building | ImagePhase::Signing) => {
            Why::of(reason.unwrap_or(reasons::RESOLVING), message)
        }
        None => looked_for(),
    }
}

/// An image that is there; if it is made anew and that fails, somebody should know, although nothing is missing.
fn renewed(image: &ModuleImage, message: &str) -> Why {
    let exists = |message: String| Why::of(reasons::IMAGE_EXISTS, message);
    let reason = image.status.as_ref().and_then(|status| status.reason.as_deref());
    match provision::renewal(image) {
        None if provision::has_vanished(image) => {
            let reason = reason.unwrap_or(reasons::IMAGE_ABSENT);
            Why::of(reason, format!("nodes that have it keep it, others wait: {message}"))
        }
        None => exists(String::new()),
        Some(making) if making.failures > 0 => {
            let reason = reason.unwrap_or(reasons::BUILD_FAILED);
            Why::of(reason, format!("the image of before is used: {message}")).in_state(State::Trouble)
        }
        Some(_) => exists(format!("it is being made anew: {message}")),
    }
}

/// The status, if it is about the present spec.
fn current(image: &ModuleImage) -> Option<&ModuleImageStatus> {
    image.status.as_ref().filter(|status| status.resolved_from == image.metadata.generation)
}

impl Offer<'_> {
    /// The bundle that nodes get, once there is one.
    pub(crate) fn bundle(&self) -> Option<&str> {
        self.image.and_then(provision::bundle).map(|(bundle, _)| bundle.digest.as_str())
    }
}
