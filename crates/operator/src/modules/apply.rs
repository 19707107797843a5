//! Writes a Module's finalizer and images.

use kube::api::{DeleteParams, ListParams, Patch, PatchParams, Preconditions};
use kube::{Api, ResourceExt};
use serde_json::json;
use tenon_api::labels::{field_manager, finalizer};
use tenon_api::module_image::ModuleImage;
use tenon_api::node_modules_config::NodeModulesConfig;
use tenon_api::{Guarded, Module};
use tenon_order::{ModuleKey, read_unverified};
use tenon_plan::provision::Images;
use tenon_plan::removal::{self, Finalizer};
use tracing::{debug, info};

use super::namespaces::Namespaces;
use super::observe::Provision;
use crate::client::readable;
use crate::controllers::{Failure, WriteError};
use crate::metrics::{Resource, Verb};
use crate::run::Context;
use crate::workloads;
use crate::world::World;

/// Node objects per page of the list that is read before a finalizer goes.
const PAGE: u32 = 500;

/// Why a Module's objects could not be written.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The finalizer.
    #[error("change the finalizer of Module {module}")]
    Finalizer {
        /// The Module.
        module: ModuleKey,
        /// Why not.
        #[source]
        source: WriteError,
    },
    /// Its namespace's label.
    #[error("change the label of the namespace of Module {module}")]
    Namespace {
        /// The Module.
        module: ModuleKey,
        /// Why not.
        #[source]
        source: WriteError,
    },
    /// The nodes' objects could not be read, so nobody knows whether anything is left.
    #[error("list NodeModulesConfigs before Module {module} may go")]
    List {
        /// The Module.
        module: ModuleKey,
        /// Why not.
        #[source]
        source: kube::Error,
    },
    /// Its device classes could not be read.
    #[error("list the device classes before Module {module} may go")]
    ListClasses {
        /// The Module.
        module: ModuleKey,
        /// Why not.
        #[source]
        source: kube::Error,
    },
    /// An image.
    #[error("write ModuleImage {image} of Module {module}")]
    Image {
        /// The Module.
        module: ModuleKey,
        /// The image.
        image: String,
        /// Why not.
        #[source]
        source: WriteError,
    },
}

impl Failure for ApplyError {
    fn is_conflict(&self) -> bool {
        match self {
            Self::Finalizer { source, .. } | Self::Namespace { source, .. } | Self::Image { source, .. } => {
                source.is_conflict()
            }
            Self::List { .. } | Self::ListClasses { .. } => false,
        }
    }

    fn is_not_leader(&self) -> bool {
        match self {
            Self::Finalizer { source, .. } | Self::Namespace { source, .. } | Self::Image { source, .. } => {
                source.is_not_leader()
            }
            Self::List { .. } | Self::ListClasses { .. } => false,
        }
    }
}

/// Writes; returns whether there was anything to write. The namespace's label comes before the finalizer, the finalizer comes before the images: nothing is made for a
/// Module that could vanish unseen.
pub(super) async fn apply(
    context: &Context,
    world: &World,
    key: &ModuleKey,
    observed: &Provision,
    namespaces: &Namespaces,
    finalizer: Finalizer,
    images: Images,
) -> Result<bool, ApplyError> {
    let Images { apply, delete } = images;
    let mut changed = !apply.is_empty() || !delete.is_empty();
    if observed.module.metadata.deletion_timestamp.is_none() {
        let failed = |source| ApplyError::Namespace { module: key.clone(), source };
        changed |= namespaces.mark(context, key.namespace()).await.map_err(failed)?;
    }
    if finalizer == Finalizer::Add {
        changed = true;
        write_finalizers(context, &observed.module, true)
            .await
            .map_err(|source| ApplyError::Finalizer { module: key.clone(), source })?;
    }
    for image in &apply {
        let failed = |source| ApplyError::Image { module: key.clone(), image: image.name_any(), source };
        write_image(context, world, image).await.map_err(failed)?;
    }
    for image in &delete {
        let failed = |source| ApplyError::Image { module: key.clone(), image: image.name_any(), source };
        delete_image(context, image).await.map_err(failed)?;
    }
    if finalizer == Finalizer::RemoveIfGone
        && is_gone(context, world, key).await?
        && !world.is_in_use(key, &observed.module)
        && !are_classes_left(context, key, &observed.module).await?
    {
        changed = true;
        leave_namespace(context, world, key, namespaces).await?;
        write_finalizers(context, &observed.module, false)
            .await
            .map_err(|source| ApplyError::Finalizer { module: key.clone(), source })?;
        info!(module = %key, "nothing is left on any node; the Module may go");
    }
    Ok(changed)
}

/// Takes the label from the Module's namespace if no other Module is in there.
pub(super) async fn leave_namespace(
    context: &Context,
    world: &World,
    key: &ModuleKey,
    namespaces: &Namespaces,
) -> Result<bool, ApplyError> {
    let left = namespaces.unmark_after(context, world, key).await;
    left.map_err(|source| ApplyError::Namespace { module: key.clone(), source })
}

/// Puts our finalizer on or takes it off; fails when the Module has changed since it was seen.
async fn write_finalizers(context: &Context, module: &Module, present: bool) -> Result<(), WriteError> {
    let mut finalizers: Vec<_> =
        module.finalizers().iter().filter(|name| *name != finalizer::MODULE).cloned().collect();
    finalizers.extend(present.then(|| finalizer::MODULE.to_owned()));
    let patch = json!({ "metadata": {
        "uid": module.uid(),
        "resourceVersion": module.resource_version(),
        "finalizers": finalizers,
    }});
    let modules: Api<Module> =
        Api::namespaced(context.client.clone(), &module.namespace().unwrap_or_default());
    let params =
        PatchParams { field_manager: Some(field_manager::MODULES.to_owned()), ..PatchParams::default() };
    let (name, patch) = (module.name_any(), Patch::Merge(&patch));
    let call = modules.patch_metadata(&name, &params, &patch);
    context.writes.make(Resource::Module, Verb::Patch, call).await?;
    Ok(())
}

async fn write_image(context: &Context, world: &World, image: &ModuleImage) -> Result<(), WriteError> {
    let params = PatchParams::apply(field_manager::MODULES).force();
    let (images, name, patch) = (images(context, image), image.name_any(), Patch::Apply(image));
    let call = async { readable(images.patch(&name, &params, &patch).await?) };
    let written = context.writes.make(Resource::ModuleImage, Verb::Patch, call).await?;
    world.wrote_image(written);
    Ok(())
}

async fn delete_image(context: &Context, image: &ModuleImage) -> Result<(), WriteError> {
    let same = Preconditions { uid: image.uid(), resource_version: None };
    let params = DeleteParams { preconditions: Some(same), ..DeleteParams::default() };
    let (images, name) = (images(context, image), image.name_any());
    let call = images.delete(&name, &params);
    match context.writes.make(Resource::ModuleImage, Verb::Delete, call).await {
        Err(WriteError::Api(kube::Error::Api(status))) if status.is_not_found() => Ok(()),
        other => other.map(drop),
    }
}

fn images(context: &Context, image: &ModuleImage) -> Api<Guarded<ModuleImage>> {
    Api::namespaced(context.client.clone(), &image.namespace().unwrap_or_default())
}

/// Whether no node holds the module: first by what is known, which costs nothing, then by a consistent list, because
/// what is known may be old.
async fn is_gone(context: &Context, world: &World, key: &ModuleKey) -> Result<bool, ApplyError> {
    let holds = |config: &NodeModulesConfig| is_held(key, config);
    if super::is_known_to_be_held(world, key, holds) {
        debug!("some node still has it");
        return Ok(false);
    }
    let configs: Api<Guarded<NodeModulesConfig>> = Api::all(context.client.clone());
    let mut page = ListParams::default().limit(PAGE);
    loop {
        let failed = |source| ApplyError::List { module: key.clone(), source };
        let list = configs.list(&page).await.map_err(failed)?;
        for config in list.items {
            if holds(&readable(config).map_err(failed)?) {
                return Ok(false);
            }
        }
        match list.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page = page.continue_token(&token),
            None => return Ok(true),
        }
    }
}

/// Whether device classes are left, which no owner reference takes along.
async fn are_classes_left(context: &Context, key: &ModuleKey, module: &Module) -> Result<bool, ApplyError> {
    let failed = |source| ApplyError::ListClasses { module: key.clone(), source };
    workloads::are_classes_left(context, module).await.map_err(failed)
}

/// An order counts even if it does not bear our signature (any more): a node may have followed it.
fn is_held(key: &ModuleKey, config: &NodeModulesConfig) -> bool {
    let order = config.spec.order.as_deref().and_then(|order| read_unverified(order).ok());
    removal::is_held(key, config, order.as_ref())
}
