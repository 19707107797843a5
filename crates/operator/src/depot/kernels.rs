//! Which node runs which build of a kernel, of which builds there are facts, and which node is asked for some: one, not
//! all that run it.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tenon_api::kernel_facts;
use tenon_kmod::release::KernelRelease;
use tenon_order::NodeName;
use tokio::time::Instant;

/// How long a node that was asked has for its answer before another is asked, and how long a node is not heard again once
/// it has told something.
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

/// What a node runs: the build as its agent reports it, of the release that its kubelet reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunningKernel {
    /// The build.
    pub build: Build,
    /// The architecture, as Kubernetes names it.
    pub architecture: String,
    /// The Node object's uid.
    pub uid: String,
}

/// Whether facts about its kernel are wanted of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Demand {
    /// There are facts about this build.
    Known,
    /// The node is asked for them.
    Wanted,
    /// Another node is asked, or is to have its turn.
    AskedElsewhere,
    /// The node has told of another build a moment ago.
    ToldLately,
    /// The node has not reported that it runs this build, or its kubelet reports another release.
    NotItsOwn,
    /// What there is has not been read yet.
    Unread,
}

/// What is known of the nodes' kernels. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Kernels(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    nodes: HashMap<NodeName, RunningKernel>,
    /// By the name of their object: a release, and the build unless they count for all builds.
    facts: BTreeMap<String, (String, Option<String>)>,
    /// Who is asked, and until when. A node is asked about the build that it runs, and no longer than it runs it: there are
    /// never more of these than nodes.
    asked: HashMap<Build, (NodeName, Instant)>,
    /// Until when a node is not heard again.
    told: HashMap<NodeName, Instant>,
    complete: bool,
}

impl Kernels {
    /// The node runs this, or does not say.
    pub fn set_node(&self, node: &NodeName, running: Option<RunningKernel>) {
        let State { nodes, asked, .. } = &mut *self.lock();
        asked.retain(|build, (asked, _)| {
            asked != node || running.as_ref().is_some_and(|running| running.build == *build)
        });
        match running {
            Some(running) => nodes.insert(node.clone(), running),
            None => nodes.remove(node),
        };
    }

    /// What the node runs.
    pub fn running(&self, node: &NodeName) -> Option<RunningKernel> {
        self.lock().nodes.get(node).cloned()
    }

    /// What the node told is kept: it is not heard again for a while.
    pub fn told(&self, node: &NodeName, now: Instant) {
        let State { told, .. } = &mut *self.lock();
        told.retain(|_, until| *until > now);
        told.insert(node.clone(), now + PATIENCE);
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

    /// Whether facts about `build` are wanted of the node. The first that asks is the one, for its time; when that has
    /// passed, it is another's turn for as long.
    pub fn demand(&self, node: &NodeName, build: &Build, now: Instant) -> Demand {
        let mut state = self.lock();
        if !state.complete {
            return Demand::Unread;
        }
        if state.nodes.get(node).map(|running| &running.build) != Some(build) {
            return Demand::NotItsOwn;
        }
        if is_known(&state.facts, build) {
            return Demand::Known;
        }
        if state.told.get(node).is_some_and(|until| *until > now) {
            return Demand::ToldLately;
        }
        match state.asked.get(build) {
            Some((asked, until)) if asked == node && now < *until => Demand::Wanted,
            Some((asked, until)) if asked != node && now < *until => Demand::AskedElsewhere,
            // Whoever has let its time pass must not take the next turn by asking first.
            Some((asked, until)) if asked == node && now < *until + PATIENCE => Demand::AskedElsewhere,
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

    fn running(build_id: &str) -> RunningKernel {
        RunningKernel { build: build(build_id), architecture: "amd64".to_owned(), uid: "u-1".to_owned() }
    }

    fn names<const N: usize>(names: [&str; N]) -> [NodeName; N] {
        names.map(|name| name.parse().unwrap())
    }

    fn all_read(nodes: &[&NodeName]) -> Kernels {
        let kernels = Kernels::default();
        kernels.complete();
        for node in nodes {
            kernels.set_node(node, Some(running("00")));
        }
        kernels
    }

    #[test]
    fn one_node_is_asked_and_after_its_time_another() {
        let now = Instant::now();
        let [pine, oak, elm] = names(["pine", "oak", "elm"]);
        assert_eq!(Kernels::default().demand(&pine, &build("00"), now), Demand::Unread);
        let kernels = all_read(&[&pine, &oak]);
        assert_eq!(kernels.demand(&elm, &build("00"), now), Demand::NotItsOwn);
        assert_eq!(kernels.demand(&pine, &build("11"), now), Demand::NotItsOwn);
        assert_eq!(kernels.demand(&pine, &build("00"), now), Demand::Wanted);
        assert_eq!(kernels.demand(&oak, &build("00"), now), Demand::AskedElsewhere);
        assert_eq!(kernels.demand(&oak, &build("00"), now + PATIENCE), Demand::Wanted);
        kernels.set_node(&pine, None);
        assert_eq!(kernels.demand(&pine, &build("00"), now), Demand::NotItsOwn);
    }

    #[test]
    fn a_node_that_asks_again_and_again_does_not_keep_the_turn() {
        let now = Instant::now();
        let [pine, oak] = names(["pine", "oak"]);
        let kernels = all_read(&[&pine, &oak]);
        for part in 0..10 {
            assert_eq!(kernels.demand(&pine, &build("00"), now + PATIENCE / 10 * part), Demand::Wanted);
        }
        assert_eq!(kernels.demand(&pine, &build("00"), now + PATIENCE), Demand::AskedElsewhere);
        assert_eq!(kernels.demand(&oak, &build("00"), now + PATIENCE), Demand::Wanted);
        assert_eq!(kernels.demand(&pine, &build("00"), now + PATIENCE * 2), Demand::Wanted, "its turn again");
    }

    #[test]
    fn a_node_that_tells_of_one_build_after_another_is_heard_once_and_leaves_nothing() {
        let now = Instant::now();
        let [pine] = names(["pine"]);
        let kernels = all_read(&[]);
        for number in 0..100 {
            let id = format!("{number:04}");
            kernels.set_node(&pine, Some(running(&id)));
            assert_eq!(kernels.demand(&pine, &build(&id), now), Demand::Wanted);
        }
        assert_eq!(kernels.lock().asked.len(), 1, "it is asked about what it runs");
        kernels.told(&pine, now);
        for id in ["aa", "bb"] {
            kernels.set_node(&pine, Some(running(id)));
            assert_eq!(kernels.demand(&pine, &build(id), now), Demand::ToldLately);
        }
        assert_eq!(
            kernels.demand(&pine, &build("bb"), now + PATIENCE),
            Demand::Wanted,
            "a node may get a new kernel"
        );
    }

    #[test]
    fn what_is_known_is_asked_of_nobody() {
        let now = Instant::now();
        let [pine] = names(["pine"]);
        let kernels = all_read(&[&pine]);
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
