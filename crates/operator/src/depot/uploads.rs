//! Facts that a node sends about the kernel that it runs: checked here, kept by whoever takes them from the queue.

use bytes::Bytes;
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use tenon_api::kernel_facts::MAX_BYTES;
use tenon_kmod::facts::KernelFacts;
use tenon_order::NodeName;
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::answer::Refused;
use super::kernels::Build;

/// Uploads at once: each is held in memory, packed and unpacked.
const AT_ONCE: usize = 2;

/// Facts that a node has sent.
#[derive(Debug)]
pub struct Upload {
    /// The node.
    pub node: NodeName,
    /// The build that it runs, and that the facts are about.
    pub build: Build,
    /// The architecture that the facts are about, as Kubernetes names it.
    pub architecture: &'static str,
    /// The facts, as they are kept.
    pub facts: Bytes,
    /// To say whether they are kept.
    pub kept: oneshot::Sender<bool>,
}

/// Takes uploads in.
#[derive(Debug)]
pub(super) struct Uploads {
    queue: mpsc::Sender<Upload>,
    turns: Semaphore,
}

impl Uploads {
    pub(super) fn new(queue: mpsc::Sender<Upload>) -> Self {
        Self { queue, turns: Semaphore::new(AT_ONCE) }
    }

    /// Reads the body, checks that it is facts about `build`, and has it kept.
    pub(super) async fn take(&self, node: NodeName, build: Build, body: Incoming) -> Result<(), Refused> {
        let _turn = self.turns.try_acquire().map_err(|_| Refused::Busy)?;
        let body = Limited::new(body, MAX_BYTES).collect().await.map_err(|_| Refused::Facts)?;
        let facts = body.to_bytes();
        let read = facts.clone();
        let architecture = tokio::task::spawn_blocking({
            let build = build.clone();
            move || about(&read, &build)
        });
        let architecture = architecture.await.ok().flatten().ok_or(Refused::Facts)?;
        let (kept, answer) = oneshot::channel();
        let upload = Upload { node, build, architecture, facts, kept };
        self.queue.try_send(upload).map_err(|_| Refused::Busy)?;
        match answer.await {
            Ok(true) => Ok(()),
            _ => Err(Refused::NotKept),
        }
    }
}

/// The architecture of facts that are about this very build.
fn about(facts: &[u8], build: &Build) -> Option<&'static str> {
    let facts = KernelFacts::decode(facts).ok()?;
    let same_build = facts.build_id.is_some_and(|build_id| build_id.to_string() == build.build_id);
    (same_build && facts.release.as_str() == build.release).then(|| facts.architecture.as_str())
}
