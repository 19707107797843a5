//! Writes what was decided about a Module's plugin.

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::resource::v1::DeviceClass;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions, PropagationPolicy};
use kube::{Api, ResourceExt};
use serde_json::json;
use tenon_api::labels::field_manager;
use tenon_api::{Module, reasons};
use tenon_order::ModuleKey;
use tenon_plan::workload::class::{self, Classes};
use tenon_plan::workload::plan::{Plan, SetSeen};
use tenon_plan::workload::{Problem, Role};
use tracing::info;

use super::Workloads;
use super::observe::{self, ObserveError, Workload};
use crate::controllers::{Failure, WriteError};
use crate::metrics::{Resource, Verb};
use crate::run::Context;
use crate::world::{KnownPod, KnownSet, World};

/// Why a Module's plugin could not be seen to.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// What there is of it.
    #[error(transparent)]
    Observe(#[from] ObserveError),
    /// A `DaemonSet`.
    #[error("write DaemonSet {name} of Module {module}")]
    DaemonSet {
        /// The Module.
        module: ModuleKey,
        /// Which.
        name: String,
        /// Why not.
        #[source]
        source: WriteError,
    },
    /// A device class.
    #[error("write DeviceClass {name} of Module {module}")]
    DeviceClass {
        /// The Module.
        module: ModuleKey,
        /// Which.
        name: String,
        /// Why not.
        #[source]
        source: WriteError,
    },
    /// A pod that another operator holds on to.
    #[error("release pod {name} of Module {module}")]
    Pod {
        /// The Module.
        module: ModuleKey,
        /// Which.
        name: String,
        /// Why not.
        #[source]
        source: WriteError,
    },
}

impl ApplyError {
    fn write(&self) -> Option<&WriteError> {
        match self {
            Self::Observe(_) => None,
            Self::DaemonSet { source, .. } | Self::DeviceClass { source, .. } | Self::Pod { source, .. } => {
                Some(source)
            }
        }
    }
}

impl Failure for ApplyError {
    fn is_conflict(&self) -> bool {
        self.write().is_some_and(Failure::is_conflict)
    }

    fn is_not_leader(&self) -> bool {
        self.write().is_some_and(Failure::is_not_leader)
    }
}

/// Writes; returns whether there was anything to write, and why the plugin is not there as wished.
pub(super) async fn apply(
    workloads: &Workloads,
    context: &Context,
    world: &World,
    key: &ModuleKey,
    observed: &Workload,
    plan: Plan,
    classes: Classes,
) -> Result<(bool, Option<Problem>), ApplyError> {
    let Plan { apply, delete, problem } = plan;
    let Classes { apply: apply_classes, delete: delete_classes, taken } = classes;
    let mut changed = !delete.is_empty() || !apply_classes.is_empty() || !delete_classes.is_empty();
    let mut problem = problem.or(taken.into_iter().next());
    for (name, pod) in &observed.seen.stuck {
        changed = true;
        let failed = |source| ApplyError::Pod { module: key.clone(), name: name.clone(), source };
        release(context, key, name, pod).await.map_err(failed)?;
    }
    for set in &delete {
        let failed = |source| ApplyError::DaemonSet { module: key.clone(), name: set.name.clone(), source };
        delete_set(context, key, set).await.map_err(failed)?;
        info!(module = %key, daemon_set = set.name, "deleted: it is not wished any more");
    }
    for class in &delete_classes {
        let failed = |source| ApplyError::DeviceClass { module: key.clone(), name: class.name_any(), source };
        delete_class(context, class).await.map_err(failed)?;
    }
    if observed.module.metadata.deletion_timestamp.is_some() && !delete_classes.is_empty() {
        // Which the finalizer waits for.
        world.queues.modules.add(key.clone());
    }
    for class in &apply_classes {
        let name = class.name_any();
        let written = write_class(context, class, observed.knows_class(&name)).await;
        let refused = taken_or_refused(written, "DeviceClass", &name);
        let failed = |source| ApplyError::DeviceClass { module: key.clone(), name, source };
        problem = refused.map_err(failed)?.or(problem);
    }
    // Without its kind the driver could only fail, again and again.
    let may_run = Role::of(&observed.module) != Some(Role::Dra) || observed.has_classes();
    if let Some(set) = apply.filter(|_| may_run) {
        changed = true;
        let name = set.name_any();
        let written = write_set(workloads, context, world, &set).await;
        let refused = taken_or_refused(written, "DaemonSet", &name);
        let failed = |source| ApplyError::DaemonSet { module: key.clone(), name: name.clone(), source };
        let refused = refused.map_err(failed)?;
        if refused.is_none() {
            info!(module = %key, daemon_set = name, "applied");
        }
        problem = refused.or(problem);
    }
    Ok((changed, problem))
}

/// What the API server says of an object that it does not take, in its words; an error where it says nothing of the kind.
fn taken_or_refused(
    written: Result<(), WriteError>,
    kind: &str,
    name: &str,
) -> Result<Option<Problem>, WriteError> {
    match written {
        Ok(()) => Ok(None),
        Err(error) => refusal(&error, kind, name).map(Some).ok_or(error),
    }
}

fn refusal(error: &WriteError, kind: &str, name: &str) -> Option<Problem> {
    match error {
        WriteError::Api(kube::Error::Api(status)) if [400, 403, 422].contains(&status.code) => {
            Some(Problem {
                reason: reasons::PLUGIN_REFUSED,
                message: format!("{kind} {name} is not taken: {}", status.message),
            })
        }
        _ => None,
    }
}

/// Server-side apply. What somebody else has put into it beside is accepted: we have the last word on what we wish, and on nothing
/// else.
async fn write_set(
    workloads: &Workloads,
    context: &Context,
    world: &World,
    set: &DaemonSet,
) -> Result<(), WriteError> {
    let namespace = set.namespace().unwrap_or_default();
    let sets: Api<DaemonSet> = Api::namespaced(context.client.clone(), &namespace);
    let params = PatchParams::apply(field_manager::WORKLOADS).force();
    let (name, patch) = (set.name_any(), Patch::Apply(set));
    let call = sets.patch(&name, &params, &patch);
    let written = context.writes.make(Resource::DaemonSet, Verb::Patch, call).await?;
    if let Some(known) = KnownSet::of(&written) {
        workloads.memory().accepted.insert(known.seen.uid.clone(), known.generation);
        world.wrote_set(&namespace, &name, known);
    }
    Ok(())
}

/// In the background: its pods go by themselves, and whoever makes another waits for them.
async fn delete_set(context: &Context, key: &ModuleKey, set: &SetSeen) -> Result<(), WriteError> {
    let sets: Api<DaemonSet> = Api::namespaced(context.client.clone(), key.namespace());
    let params = DeleteParams {
        preconditions: Some(Preconditions { uid: Some(set.uid.clone()), resource_version: None }),
        propagation_policy: Some(PropagationPolicy::Background),
        ..DeleteParams::default()
    };
    let call = sets.delete(&set.name, &params);
    gone(context.writes.make(Resource::DaemonSet, Verb::Delete, call).await.map(drop))
}

/// Server-side apply. By force only of one that is known to be the Module's, so that what somebody else has made meanwhile is not
/// taken over.
async fn write_class(context: &Context, class: &DeviceClass, is_known: bool) -> Result<(), WriteError> {
    let classes: Api<DeviceClass> = Api::all(context.client.clone());
    let params = PatchParams { force: is_known, ..PatchParams::apply(field_manager::WORKLOADS) };
    let (name, patch) = (class.name_any(), Patch::Apply(class));
    let call = classes.patch(&name, &params, &patch);
    context.writes.make(Resource::DeviceClass, Verb::Patch, call).await.map(drop)
}

async fn delete_class(context: &Context, class: &DeviceClass) -> Result<(), WriteError> {
    let classes: Api<DeviceClass> = Api::all(context.client.clone());
    let same = Preconditions { uid: class.uid(), resource_version: None };
    let params = DeleteParams { preconditions: Some(same), ..DeleteParams::default() };
    let name = class.name_any();
    let call = classes.delete(&name, &params);
    gone(context.writes.make(Resource::DeviceClass, Verb::Delete, call).await.map(drop))
}

/// Takes the finalizer of KMM's from a pod that is being deleted: nobody else will.
async fn release(context: &Context, key: &ModuleKey, name: &str, pod: &KnownPod) -> Result<(), WriteError> {
    let pods: Api<Pod> = Api::namespaced(context.client.clone(), key.namespace());
    let patch = json!({"metadata": {"uid": pod.uid, "finalizers": pod.released}});
    let params =
        PatchParams { field_manager: Some(field_manager::WORKLOADS.to_owned()), ..PatchParams::default() };
    let patch = Patch::Merge(&patch);
    let call = pods.patch_metadata(name, &params, &patch);
    gone(context.writes.make(Resource::Pod, Verb::Patch, call).await.map(drop))
}

fn gone(result: Result<(), WriteError>) -> Result<(), WriteError> {
    match result {
        Err(WriteError::Api(kube::Error::Api(status))) if status.is_not_found() => Ok(()),
        other => other,
    }
}

/// Deletes what classes are left of a Module that is gone: one of them may have been on its way when the Module's finalizer went.
pub(super) async fn clear_classes(
    workloads: &Workloads,
    context: &Context,
    key: &ModuleKey,
) -> Result<bool, ApplyError> {
    let mark = class::mark_of(key.namespace(), key.name());
    let had_some = workloads.memory().with_classes.as_ref().is_some_and(|known| known.contains(&mark));
    if !had_some {
        return Ok(false);
    }
    let classes: Api<DeviceClass> = Api::all(context.client.clone());
    let failed = |source| ObserveError::Classes { module: key.clone(), source };
    let left = observe::list(&classes, &observe::of(&mark)).await.map_err(failed)?.unwrap_or_default();
    for class in &left {
        let failed = |source| ApplyError::DeviceClass { module: key.clone(), name: class.name_any(), source };
        delete_class(context, class).await.map_err(failed)?;
    }
    if let Some(known) = &mut workloads.memory().with_classes {
        known.remove(&mark);
    }
    Ok(!left.is_empty())
}

/// Whether device classes of a Module that is to go are left: no owner reference takes them along. It may have asked for them in a
/// former spec alone.
pub(crate) async fn are_classes_left(context: &Context, module: &Module) -> Result<bool, kube::Error> {
    let classes: Api<DeviceClass> = Api::all(context.client.clone());
    let left = observe::list(&classes, &observe::of(&class::mark(module))).await?;
    Ok(left.is_some_and(|left| !left.is_empty()))
}
