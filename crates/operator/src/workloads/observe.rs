//! A Module and all that there is of its plugin: out of the index, and by name what is not watched.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::api::resource::v1::DeviceClass;
use kube::api::ListParams;
use kube::core::PartialObjectMeta;
use kube::{Api, ResourceExt};
use tenon_api::{Module, labels, reasons};
use tenon_order::ModuleKey;
use tenon_plan::pause::is_paused;
use tenon_plan::workload::class::{self, Classes, Mark};
use tenon_plan::workload::plan::{Observed, SetSeen};
use tenon_plan::workload::{Problem, Role};

use super::Workloads;
use crate::run::Context;
use crate::world::{self, World};

/// The label of a namespace that says which pods it takes.
const ENFORCE: &str = "pod-security.kubernetes.io/enforce";
/// For how long what a namespace says counts without being read anew.
const ENFORCED_FOR: Duration = Duration::from_secs(2);

/// What could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ObserveError {
    /// The Module's namespace.
    #[error("read namespace {namespace}")]
    Namespace {
        /// Which.
        namespace: String,
        /// Why not.
        #[source]
        source: kube::Error,
    },
    /// Device classes.
    #[error("read the device classes of Module {module}")]
    Classes {
        /// The Module.
        module: ModuleKey,
        /// Why not.
        #[source]
        source: kube::Error,
    },
}

/// A Module and its plugin.
#[derive(Debug)]
pub(super) struct Workload {
    /// The Module.
    pub(super) module: Arc<Module>,
    sets: Vec<SetSeen>,
    /// What is there, with what the pods wait for.
    pub(super) seen: world::Workload,
    enforces: Option<String>,
    /// When to look again at what was not read anew.
    pub(super) again: Option<Duration>,
    in_use: BTreeMap<String, String>,
    /// Classes that bear the Module's mark or have a name that it wishes; `None` where the cluster has no such kind.
    classes: Option<Vec<DeviceClass>>,
}

impl Workload {
    /// `None` when there is no such Module.
    pub(super) async fn of(
        workloads: &Workloads,
        context: &Context,
        world: &World,
        key: &ModuleKey,
    ) -> Result<Option<Self>, ObserveError> {
        let Some(module) = world.read().module(key).cloned() else { return Ok(None) };
        let seen = world.workload(key, &module.uid().unwrap_or_default());
        let is_accepted = |set: &SetSeen, generation: i64| {
            workloads.memory().accepted.get(&set.uid).is_some_and(|accepted| *accepted == generation)
        };
        let sets = seen.sets.iter().map(|(set, generation)| SetSeen {
            is_changed: set.is_changed && !is_accepted(set, *generation),
            ..set.clone()
        });
        let sets = sets.collect();
        let (enforces, again) = match Role::of(&module) {
            Some(_) => enforces(workloads, context, key).await?,
            None => (None, None),
        };
        Ok(Some(Self {
            sets,
            enforces,
            again,
            classes: classes(workloads, context, key, &module).await?,
            in_use: world.in_use(key, &module),
            seen,
            module,
        }))
    }

    /// The same, as the decision takes it.
    pub(super) fn view(&self) -> Observed<'_> {
        Observed {
            module: &self.module,
            sets: &self.sets,
            versions: &self.seen.versions,
            orphans: self.seen.orphans,
            enforces: self.enforces.as_deref(),
            in_use: &self.in_use,
        }
    }

    /// What becomes of the driver's device classes.
    pub(super) fn classes(&self) -> Classes {
        match &self.classes {
            _ if is_paused(&self.module) => Classes::default(),
            Some(known) => class::classes(&self.module, known),
            None if Role::of(&self.module) == Some(Role::Dra) => Classes {
                taken: vec![Problem {
                    reason: reasons::DRA_UNAVAILABLE,
                    message: "the cluster does not serve resource.k8s.io/v1, so no DRA driver can run: it takes Kubernetes 1.34".to_owned(),
                }],
                ..Classes::default()
            },
            None => Classes::default(),
        }
    }

    /// Whether there is such a class.
    pub(super) fn knows_class(&self, name: &str) -> bool {
        self.classes.iter().flatten().any(|class| class.name_any() == name)
    }

    /// Whether the cluster knows of device classes.
    pub(super) fn has_classes(&self) -> bool {
        self.classes.is_some()
    }
}

/// Which pods a namespace takes. While a plugin comes or goes its Module is looked at several times a second, so what was read of the
/// namespace a moment ago counts, and it is said when to look again: unless it was read since that was said last.
async fn enforces(
    workloads: &Workloads,
    context: &Context,
    key: &ModuleKey,
) -> Result<(Option<String>, Option<Duration>), ObserveError> {
    let namespace = key.namespace();
    {
        let mut memory = workloads.memory();
        let now = Instant::now();
        let asked = memory.to_look_again.get(key).copied();
        if let Some((level, read)) = memory.enforced.get(namespace).cloned()
            && let Some(left) = ENFORCED_FOR.checked_sub(now.saturating_duration_since(read))
        {
            if asked.is_some_and(|asked| asked < read) {
                memory.to_look_again.remove(key);
                return Ok((level, None));
            }
            memory.to_look_again.entry(key.clone()).or_insert(now);
            return Ok((level, Some(left)));
        }
        memory.to_look_again.remove(key);
    }
    let namespaces: Api<PartialObjectMeta<Namespace>> = Api::all(context.client.clone());
    let failed = |source| ObserveError::Namespace { namespace: namespace.to_owned(), source };
    let read = Instant::now();
    let found = namespaces.get_metadata_opt(namespace).await.map_err(failed)?;
    let level = found.and_then(|found| found.labels().get(ENFORCE).cloned());
    let mut memory = workloads.memory();
    memory.enforced.retain(|_, (_, read)| read.elapsed() < ENFORCED_FOR);
    memory.enforced.insert(namespace.to_owned(), (level.clone(), read));
    Ok((level, None))
}

/// The classes that concern the Module. Those of one that asks for none are looked for only where there were some.
async fn classes(
    workloads: &Workloads,
    context: &Context,
    key: &ModuleKey,
    module: &Module,
) -> Result<Option<Vec<DeviceClass>>, ObserveError> {
    let failed = |source| ObserveError::Classes { module: key.clone(), source };
    let api: Api<DeviceClass> = Api::all(context.client.clone());
    let wishes = Role::of(module) == Some(Role::Dra);
    let known = workloads.memory().with_classes.clone();
    let mark = class::mark(module);
    let had_some = if let Some(known) = known {
        known.contains(&mark)
    } else {
        let params = ListParams::default().labels(labels::MODULE_NAMESPACE);
        let all = list(&api, &params).await.map_err(failed)?.unwrap_or_default();
        let marks: BTreeSet<_> = all.iter().filter_map(class::mark_on).collect();
        workloads.memory().with_classes.get_or_insert(marks).contains(&mark)
    };
    // Of one that is to go nothing stays, whoever has made it.
    if !wishes && !had_some && module.metadata.deletion_timestamp.is_none() {
        return Ok(Some(Vec::new()));
    }
    let Some(mut classes) = list(&api, &of(&mark)).await.map_err(failed)? else { return Ok(None) };
    let asked = module.spec.dra.iter().flat_map(|dra| &dra.device_classes);
    for asked in asked.filter(|_| wishes) {
        if classes.iter().all(|class| class.name_any() != asked.name) {
            classes.extend(api.get_opt(&asked.name).await.map_err(failed)?);
        }
    }
    let mut memory = workloads.memory();
    if let Some(known) = &mut memory.with_classes {
        let _ = if wishes || !classes.is_empty() { known.insert(mark) } else { known.remove(&mark) };
    }
    Ok(Some(classes))
}

/// To list the classes that bear a mark.
pub(super) fn of(mark: &Mark) -> ListParams {
    let selectors: Vec<_> = mark.iter().map(|(key, value)| format!("{key}={value}")).collect();
    ListParams::default().labels(&selectors.join(","))
}

/// `None` where the cluster has no such kind.
pub(super) async fn list(
    api: &Api<DeviceClass>,
    params: &ListParams,
) -> Result<Option<Vec<DeviceClass>>, kube::Error> {
    match api.list(params).await {
        Ok(list) => Ok(Some(list.items)),
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}
