//! Which node runs which build of a kernel, of which builds there are facts, and which node is asked for some: one, not
//! all that run it.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tenon_api::kernel_facts;
use tenon_kmod::release::KernelRelease;
use tenon_order::NodeName;
use tokio::time::Instant;

/// How long a node that was asked has for its answer before another is asked.
const PATIENCE: Duration = Duration::from_mins(10);

/// One build of a kernel.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Build {
    /// The release (`uname -r`).
    pub release: String,
    /// The GNU build-id in hexadecimal.
    pub build_id: String,
}

impl Build {
    /// Reads `<release>/<build-id>`, which may come from anybody.
    pub fn parse(text: &str) -> Option<Self> {
        let (release, build_id) = text.split_once('/')?;
        let release: KernelRelease = release.parse().ok()?;
        kernel_facts::is_build_id(build_id)
            .then(|| Self { release: release.as_str().to_owned(), build_id: build_id.to_owned() })
    }
}

/// Whether facts about its kernel are wanted of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Demand {
    /// There are facts about this build.
    Known,
    /// The node is asked for them.
    Wanted,
    /// Another node is asked.
    AskedElsewhere,
    /// The node has not reported that it runs this build.
    NotItsOwn,
    /// What there is has not been read yet.
    Unread,
}

/// What is known of the nodes' kernels. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Kernels(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    nodes: HashMap<NodeName, Build>,
    /// By the name of their object: a release, and the build unless they count for all builds.
    facts: BTreeMap<String, (String, Option<String>)>,
    asked: HashMap<Build, (NodeName, Instant)>,
    complete: bool,
}

impl Kernels {
    /// The node runs this build, or does not say.
    pub fn set_node(&self, node: &NodeName, build: Option<Build>) {
        let mut state = self.lock();
        match build {
            Some(build) => state.nodes.insert(node.clone(), build),
            None => state.nodes.remove(node),
        };
    }

    /// There are facts of this name about the builds of a release, or about one build; or there are none any more.
    pub fn set_facts(&self, name: &str, about: Option<(String, Option<String>)>) {
        let mut state = self.lock();
        match about {
            Some(about) => state.facts.insert(name.to_owned(), about),
            None => state.facts.remove(name),
        };
        let State { asked, facts, .. } = &mut *state;
        asked.retain(|build, _| !is_known(facts, build));
    }

    /// Everything has been read once.
    pub fn complete(&self) {
        self.lock().complete = true;
    }

    /// Whether facts about `build` are wanted of the node. The first that asks is the one, for its time.
    pub fn demand(&self, node: &NodeName, build: &Build, now: Instant) -> Demand {
        let mut state = self.lock();
        if !state.complete {
            return Demand::Unread;
        }
        if state.nodes.get(node) != Some(build) {
            return Demand::NotItsOwn;
        }
        if is_known(&state.facts, build) {
            return Demand::Known;
        }
        match state.asked.get(build) {
            Some((asked, until)) if asked != node && *until > now => Demand::AskedElsewhere,
            _ => {
                state.asked.insert(build.clone(), (node.clone(), now + PATIENCE));
                Demand::Wanted
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_known(facts: &BTreeMap<String, (String, Option<String>)>, build: &Build) -> bool {
    facts.values().any(|(release, about)| {
        *release == build.release && about.as_ref().is_none_or(|about| *about == build.build_id)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn build(build_id: &str) -> Build {
        Build { release: "6.1.0".to_owned(), build_id: build_id.to_owned() }
    }

    fn names<const N: usize>(names: [&str; N]) -> [NodeName; N] {
        names.map(|name| name.parse().unwrap())
    }

    #[test]
    fn one_node_is_asked_and_after_its_time_another() {
        let (kernels, now) = (Kernels::default(), Instant::now());
        let [pine, oak, elm] = names(["pine", "oak", "elm"]);
        assert_eq!(kernels.demand(&pine, &build("00"), now), Demand::Unread);
        kernels.complete();
        for node in [&pine, &oak] {
            kernels.set_node(node, Some(build("00")));
        }
        assert_eq!(kernels.demand(&elm, &build("00"), now), Demand::NotItsOwn);
        assert_eq!(kernels.demand(&pine, &build("11"), now), Demand::NotItsOwn);
        assert_eq!(kernels.demand(&pine, &build("00"), now), Demand::Wanted);
        assert_eq!(kernels.demand(&oak, &build("00"), now), Demand::AskedElsewhere);
        assert_eq!(kernels.demand(&pine, &build("00"), now), Demand::Wanted, "it may ask again");
        assert_eq!(kernels.demand(&oak, &build("00"), now + PATIENCE), Demand::Wanted);
        kernels.set_node(&pine, None);
        assert_eq!(kernels.demand(&pine, &build("00"), now), Demand::NotItsOwn);
    }

    #[test]
    fn what_is_known_is_asked_of_nobody() {
        let (kernels, now) = (Kernels::default(), Instant::now());
        let [pine] = names(["pine"]);
        kernels.complete();
        kernels.set_node(&pine, Some(build("00")));
        for about in [Some("00".to_owned()), None] {
            kernels.set_facts("a", Some(("6.1.0".to_owned(), about)));
            assert_eq!(kernels.demand(&pine, &build("00"), now), Demand::Known);
        }
        kernels.set_facts("a", Some(("6.1.0".to_owned(), Some("11".to_owned()))));
        assert_eq!(kernels.demand(&pine, &build("00"), now), Demand::Wanted);
        kernels.set_facts("a", None);
        assert!(kernels.lock().facts.is_empty());
    }

    #[test]
    fn a_path_names_one_build_or_none() {
        assert_eq!(Build::parse("6.1.0/00"), Some(build("00")));
        for text in ["", "6.1.0", "6.1.0/", "/00", "6.1.0/0", "6.1.0/00/11", "../00", "6.1.0/zz"] {
            assert_eq!(Build::parse(text), None, "{text}");
        }
    }
}
