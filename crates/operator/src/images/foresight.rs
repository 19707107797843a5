//! Verdicts: what is asked of which kernels about an image, and the answers. Facts are read one after the other, and the
//! last few kept: many images are for one kernel.

use std::fs::File;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, ResourceExt};
use tenon_api::ModuleImage;
use tenon_api::kernel_facts;
use tenon_api::module_image::KernelVerdict;
use tenon_api::task::Algorithm;
use tenon_image::bundle::BundleReader;
use tenon_kmod::ModuleObject;
use tenon_kmod::facts::{DecodeError, KernelFacts};
use tenon_order::{Digest, ModuleKey};
use tenon_plan::inspect::verdict::Driver;
use tenon_plan::inspect::{Question, Surroundings, verdict};
use tenon_plan::resolve::{LoadSettings, resolve};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::metrics::Stage;
use crate::registries::chain;
use crate::run::Context;
use crate::signatures::NodeSignatures;
use crate::world::{Index, KnownFacts};

/// Decoded facts that are kept; each takes a megabyte or two.
const KEPT: usize = 2;

/// Facts that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum FactsError {
    /// The API server does not give them.
    #[error("read ConfigMap {name}")]
    Read {
        /// Their name.
        name: String,
        /// Why not.
        #[source]
        source: kube::Error,
    },
    /// There are none in it.
    #[error("ConfigMap {0} has no binaryData.facts")]
    Absent(String),
    /// They are none.
    #[error("ConfigMap {name}")]
    Malformed {
        /// Their name.
        name: String,
        /// What is wrong with them.
        #[source]
        source: DecodeError,
    },
    /// Their annotations say that they are another kernel's.
    #[error("ConfigMap {name} holds the facts of kernel {found}, its annotations say otherwise")]
    OtherKernel {
        /// Their name.
        name: String,
        /// The kernel that they are about.
        found: String,
    },
}

/// The verdicts that an image should have.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    load: LoadSettings,
    around: Surroundings,
    facts: Vec<(String, KnownFacts)>,
}

impl Wanted {
    /// What is to be asked about an image; nothing when its Module does not say any more how it is loaded.
    pub(super) fn of(index: &Index, image: &ModuleImage, nodes: &NodeSignatures) -> Option<Self> {
        let namespace = image.namespace()?;
        let key = ModuleKey::new(&namespace, &image.spec.module).ok()?;
        let module = index.module(&key)?;
        let load = resolve(module, &image.spec.kernel.parse().ok()?).ok()?.load;
        let others = index.images().any(|other| {
            other.spec.kernel == image.spec.kernel
                && other.spec.architecture == image.spec.architecture
                && (other.namespace().as_deref() != Some(namespace.as_str())
                    || other.spec.module != image.spec.module)
        });
        let about: Vec<_> = index.facts().about(&image.spec.kernel, &image.spec.architecture).collect();
        let best = verdict::best(about.iter().map(|(_, known)| known.evidence.clone()).collect());
        let named = |evidence| {
            let (name, known) = about.iter().find(|(_, known)| known.evidence == evidence)?;
            Some(((*name).to_owned(), (*known).clone()))
        };
        let around = Surroundings {
            others,
            enforcement: nodes.enforcement(),
            trusted: nodes.trusted_text().to_owned(),
        };
        Some(Self { load, around, facts: best.into_iter().filter_map(named).collect() })
    }

    /// Whether these verdicts answer all of it.
    pub(super) fn is_answered(&self, bundle: &str, verdicts: &[KernelVerdict]) -> bool {
        let questions = self
            .facts
            .iter()
            .map(|(_, known)| Question::new(bundle, &self.load, &known.evidence, &self.around));
        verdict::answer(verdicts, &questions.collect::<Vec<_>>())
    }
}

/// Facts by the name of their `ConfigMap` and its version.
type Kept = (String, String, Arc<KernelFacts>);

/// Reads facts and gives verdicts.
#[derive(Debug)]
pub(super) struct Foresight {
    kept: Mutex<Vec<Kept>>,
    reading: Arc<Semaphore>,
}

impl Foresight {
    /// Reads modules only when `reading` lets it: each is held in memory.
    pub(super) fn new(reading: Arc<Semaphore>) -> Self {
        Self { kept: Mutex::default(), reading }
    }

    /// The verdicts on a bundle that is in the cache; nothing when it is not.
    pub(super) async fn verdicts(
        &self,
        context: &Context,
        bundle: Digest,
        wanted: &Wanted,
    ) -> Option<Vec<KernelVerdict>> {
        if wanted.facts.is_empty() {
            return Some(Vec::new());
        }
        let begin = Instant::now();
        let file = context.cache.get(&bundle).await.ok().flatten()?.file;
        let reading = self.reading.clone().acquire_owned().await.ok()?;
        let nodes = context.signatures.clone();
        let read = tokio::task::spawn_blocking(move || {
            let _reading = reading;
            drivers(file, &bundle, &nodes)
        });
        let drivers = read.await.ok()?.ok()?;
        let mut verdicts = Vec::new();
        for (name, known) in &wanted.facts {
            let facts = self.facts(context, name, known).await.map_err(|error| chain(&error));
            let facts = facts.as_deref().map_err(Clone::clone);
            verdicts.push(verdict::verdict(
                &bundle.to_string(),
                &drivers,
                &wanted.load,
                &known.evidence,
                &facts,
                &wanted.around,
            ));
        }
        context.metrics.took(Stage::Inspect, begin.elapsed().as_secs_f64());
        Some(verdicts)
    }

    /// What all known builds of the kernel were built without.
    pub(super) async fn lacking(&self, context: &Context, wanted: &Wanted) -> Vec<Algorithm> {
        let mut all: Option<Vec<Algorithm>> = None;
        for (name, known) in &wanted.facts {
            let Ok(facts) = self.facts(context, name, known).await else { return Vec::new() };
            let rules = [(Algorithm::Ecdsa, facts.policy.ecdsa), (Algorithm::Sha512, facts.policy.sha512)];
            let lacks = |algorithm: &Algorithm| rules.contains(&(*algorithm, Some(false)));
            let before = all.unwrap_or_else(|| rules.iter().map(|(algorithm, _)| *algorithm).collect());
            all = Some(before.into_iter().filter(lacks).collect());
        }
        all.unwrap_or_default()
    }

    async fn facts(
        &self,
        context: &Context,
        name: &str,
        known: &KnownFacts,
    ) -> Result<Arc<KernelFacts>, FactsError> {
        let version = &known.evidence.version;
        let kept = |kept: &Kept| kept.0 == name && kept.1 == *version;
        if let Some(found) = self.kept().iter().find(|entry| kept(entry)) {
            return Ok(found.2.clone());
        }
        let facts = Arc::new(read(context, name, known).await?);
        let mut entries = self.kept();
        entries.insert(0, (name.to_owned(), version.clone(), facts.clone()));
        entries.truncate(KEPT);
        Ok(facts)
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Vec<Kept>> {
        // Nothing panics while it holds the lock.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn read(context: &Context, name: &str, known: &KnownFacts) -> Result<KernelFacts, FactsError> {
    let maps: Api<ConfigMap> = Api::namespaced(context.client.clone(), &context.args.namespace);
    let map = maps.get(name).await.map_err(|source| FactsError::Read { name: name.to_owned(), source })?;
    let bytes = map.binary_data.as_ref().and_then(|data| data.get(kernel_facts::DATA_KEY));
    let bytes = bytes.ok_or_else(|| FactsError::Absent(name.to_owned()))?;
    let facts = KernelFacts::decode(&bytes.0)
        .map_err(|source| FactsError::Malformed { name: name.to_owned(), source })?;
    let build = facts.build_id.as_ref().map(ToString::to_string);
    // Facts that know their build may be given for every build of the release, not for another build.
    let other_build =
        known.evidence.build_id.is_some() && build.is_some() && build != known.evidence.build_id;
    if facts.release.as_str() != known.release
        || facts.architecture.as_str() != known.architecture
        || other_build
    {
        let found =
            format!("{} {} {}", facts.release, facts.architecture.as_str(), build.unwrap_or_default());
        return Err(FactsError::OtherKernel { name: name.to_owned(), found });
    }
    Ok(facts)
}

/// The modules of a bundle, with their paths. They were read once before the bundle was kept; one that cannot be read now
/// ends it all.
fn drivers(file: File, bundle: &Digest, nodes: &NodeSignatures) -> io::Result<Vec<Driver>> {
    let invalid = |error: &dyn std::error::Error| io::Error::new(io::ErrorKind::InvalidData, chain(error));
    let mut bundle = BundleReader::open(io::BufReader::new(file), bundle).map_err(|error| invalid(&error))?;
    let mut drivers = Vec::new();
    while let Some(file) = bundle.next_file().map_err(|error| invalid(&error))? {
        let path = file.entry().path.to_string();
        if path.strip_suffix(".ko").is_none() {
            continue;
        }
        let mut bytes = Vec::new();
        file.copy_to(&mut bytes).map_err(|error| invalid(&error))?;
        let object = ModuleObject::parse(&bytes).map_err(|error| invalid(&error))?;
        drivers.push(Driver { path, object, signature: nodes.check(&bytes) });
    }
    Ok(drivers)
}
