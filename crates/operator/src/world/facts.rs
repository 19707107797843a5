//! Which kernels there are facts about. Only what names them is kept: the facts themselves are read when they are needed.

use std::collections::BTreeMap;

use futures::StreamExt;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::core::{ObjectMeta, PartialObjectMeta};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, ResourceExt};
use tenon_api::kernel_facts::{self, Source};
use tenon_plan::inspect::Evidence;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::World;

/// How long the watch may be silent before it is opened anew.
const WATCH_SECONDS: u32 = 290;

/// A `ConfigMap` with facts about one build of a kernel, by what its metadata says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownFacts {
    /// The kernel's release.
    pub release: String,
    /// The kernel's architecture, as Kubernetes names it.
    pub architecture: String,
    /// The build and who speaks of it.
    pub evidence: Evidence,
    /// The image that they were read from, by its digest.
    pub image: Option<String>,
}

impl KnownFacts {
    /// What the annotations say; `None` when they do not say which kernel it is, or are malformed.
    pub fn of(metadata: &ObjectMeta) -> Option<Self> {
        let annotation = |key: &str| metadata.annotations.as_ref()?.get(key).filter(|text| !text.is_empty());
        let build_id = annotation(kernel_facts::BUILD_ID).cloned();
        if build_id.as_deref().is_some_and(|build_id| !kernel_facts::is_build_id(build_id)) {
            return None;
        }
        Some(Self {
            release: annotation(kernel_facts::RELEASE)?.clone(),
            architecture: annotation(kernel_facts::ARCHITECTURE)?.clone(),
            image: annotation(kernel_facts::IMAGE).cloned(),
            evidence: Evidence {
                build_id,
                source: annotation(kernel_facts::SOURCE)
                    .map_or(Some(Source::Admin), |text| text.parse().ok())?,
                version: format!(
                    "{}/{}",
                    metadata.uid.as_deref().unwrap_or_default(),
                    metadata.resource_version.as_deref().unwrap_or_default()
                ),
            },
        })
    }
}

impl World {
    /// As [`Self::wrote_config`], of facts.
    pub fn wrote_facts(&self, name: &str, metadata: &ObjectMeta) {
        let _news = self.take_news();
        let written = super::version(metadata.resource_version.as_deref());
        let known = self.read().facts().version(name);
        let is_news = match known {
            Some(known) => written > Some(known),
            None => !super::lock(&self.ended_facts).is_past(&name.to_owned(), written),
        };
        if is_news {
            self.facts(name, KnownFacts::of(metadata));
        }
    }

    /// Facts are gone, says the watch; `version` is that of their deletion, unless a list lacks them.
    fn facts_gone(&self, name: &str, version: Option<u64>) {
        super::lock(&self.ended_facts).note(name.to_owned(), version, (self.clock.steady)());
        self.facts(name, None);
    }
}

/// All facts, by the name of their `ConfigMap`.
#[derive(Debug, Default)]
pub struct FactsIndex(BTreeMap<String, KnownFacts>);

impl FactsIndex {
    /// Those about the builds of a release, with their names.
    pub fn about<'a>(
        &'a self,
        release: &'a str,
        architecture: &'a str,
    ) -> impl Iterator<Item = (&'a str, &'a KnownFacts)> {
        let is_it = move |(_, facts): &(&String, &KnownFacts)| {
            facts.release == release && facts.architecture == architecture
        };
        self.0.iter().filter(is_it).map(|(name, facts)| (name.as_str(), facts))
    }

    /// Replaces what is known by this name; the releases that it concerned or concerns.
    pub(super) fn set(&mut self, name: &str, facts: Option<KnownFacts>) -> Vec<String> {
        let new = facts.as_ref().map(|facts| facts.release.clone());
        let unchanged = facts.as_ref() == self.0.get(name);
        let old = match facts {
            Some(facts) => self.0.insert(name.to_owned(), facts),
            None => self.0.remove(name),
        };
        if unchanged {
            return Vec::new();
        }
        old.map(|facts| facts.release).into_iter().chain(new).collect()
    }
}

/// Follows the facts' `ConfigMap`s until `shutdown`; `listed` turns true when all that there were have been seen.
pub async fn follow_facts(
    client: Client,
    namespace: &str,
    world: &World,
    listed: watch::Sender<bool>,
    shutdown: CancellationToken,
) {
    let config =
        watcher::Config::default().timeout(WATCH_SECONDS).labels(&format!("{}=true", kernel_facts::LABEL));
    let api: Api<PartialObjectMeta<ConfigMap>> = Api::namespaced(client, namespace);
    let mut events = Box::pin(watcher(api, config).default_backoff());
    let mut relisted: Vec<String> = Vec::new();
    while let Some(Some(event)) = shutdown.run_until_cancelled(events.next()).await {
        let _news = world.take_news();
        match event {
            Ok(Event::Init) => relisted.clear(),
            Ok(Event::InitApply(object)) => {
                relisted.push(object.name_any());
                see(&object, world);
            }
            Ok(Event::InitDone) => {
                let known = world.read().facts().names();
                for name in known.iter().filter(|name| !relisted.contains(name)) {
                    world.facts_gone(name, None);
                }
                listed.send_replace(true);
            }
            Ok(Event::Apply(object)) => see(&object, world),
            Ok(Event::Delete(object)) => {
                let version = super::version(object.metadata.resource_version.as_deref());
                world.facts_gone(&object.name_any(), version);
            }
            Err(error) => warn!(
                error = &error as &dyn std::error::Error,
                "the watch of kernel facts was interrupted; it is opened again"
            ),
        }
    }
}

impl FactsIndex {
    fn names(&self) -> Vec<String> {
        self.0.keys().cloned().collect()
    }

    /// The version of the `ConfigMap` of this name, where it is known.
    fn version(&self, name: &str) -> Option<u64> {
        let version = self.0.get(name)?.evidence.version.rsplit_once('/')?.1;
        super::version(Some(version))
    }
}

fn see(object: &PartialObjectMeta<ConfigMap>, world: &World) {
    let (name, facts) = (object.name_any(), KnownFacts::of(&object.metadata));
    if facts.is_none() {
        warn!(
            config_map = name,
            "the annotations of these kernel facts do not say which kernel they are about"
        );
    }
    world.facts(&name, facts);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::depot::Assignments;

    fn metadata(annotations: &[(&str, &str)]) -> ObjectMeta {
        ObjectMeta {
            uid: Some("u".to_owned()),
            resource_version: Some("7".to_owned()),
            annotations: Some(annotations.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()),
            ..ObjectMeta::default()
        }
    }

    const KERNEL: [(&str, &str); 2] =
        [(kernel_facts::RELEASE, "6.1.0"), (kernel_facts::ARCHITECTURE, "amd64")];

    #[test]
    fn annotations_say_which_kernel_and_by_whom() {
        let build = (kernel_facts::BUILD_ID, "00ff");
        let facts = KnownFacts::of(&metadata(&[KERNEL[0], KERNEL[1], build])).unwrap();
        assert_eq!(facts.evidence.source, Source::Admin, "who says nothing is the administrator");
        assert_eq!(facts.evidence.build_id.as_deref(), Some("00ff"));
        for wrong in [
            vec![KERNEL[0]],
            vec![KERNEL[0], KERNEL[1], (kernel_facts::BUILD_ID, "../x")],
            vec![KERNEL[0], KERNEL[1], (kernel_facts::SOURCE, "nobody")],
        ] {
            assert_eq!(KnownFacts::of(&metadata(&wrong)), None, "{wrong:?}");
        }
    }

    #[test]
    fn an_answer_about_facts_takes_nothing_back_that_the_watch_has_told() {
        let world = World::new(Assignments::default());
        let at = |version: &str, build: &str| ObjectMeta {
            resource_version: Some(version.to_owned()),
            ..metadata(&[KERNEL[0], KERNEL[1], (kernel_facts::BUILD_ID, build)])
        };
        let build = || {
            let index = world.read();
            index
                .facts()
                .about("6.1.0", "amd64")
                .next()
                .and_then(|(_, facts)| facts.evidence.build_id.clone())
        };
        world.wrote_facts("a", &at("7", "07"));
        world.facts("a", KnownFacts::of(&at("9", "09")));
        world.wrote_facts("a", &at("8", "08"));
        assert_eq!(build().as_deref(), Some("09"));
        world.facts_gone("a", Some(11));
        world.wrote_facts("a", &at("10", "10"));
        assert_eq!(build(), None, "they are gone");
        world.wrote_facts("a", &at("12", "12"));
        assert_eq!(build().as_deref(), Some("12"), "made anew");
    }

    #[test]
    fn facts_of_every_build_are_facts_of_this_one() {
        let mut index = FactsIndex::default();
        let known =
            |build: &str| KnownFacts::of(&metadata(&[KERNEL[0], KERNEL[1], (kernel_facts::BUILD_ID, build)]));
        let has_build = |index: &FactsIndex, release, build| {
            let is_about =
                |facts: &KnownFacts| facts.evidence.build_id.as_deref().is_none_or(|id| id == build);
            index.about(release, "amd64").any(|(_, facts)| is_about(facts))
        };
        assert_eq!(index.set("a", known("00")), ["6.1.0"]);
        assert!(index.set("a", known("00")).is_empty(), "the same again is no news");
        assert!(has_build(&index, "6.1.0", "00") && !has_build(&index, "6.1.0", "01"));
        index.set("b", known(""));
        assert!(has_build(&index, "6.1.0", "01") && !has_build(&index, "6.2.0", "01"));
        assert_eq!(index.about("6.1.0", "amd64").count(), 2);
        assert_eq!(index.about("6.1.0", "arm64").count(), 0);
    }
}
