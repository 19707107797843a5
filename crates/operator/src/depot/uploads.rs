//! Facts that a node sends about the kernel that it runs: checked here, kept by whoever takes them from the queue.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use tenon_api::kernel_facts::MAX_BYTES;
use tenon_kmod::facts::KernelFacts;
use tenon_order::NodeName;
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::answer::Refused;
use super::kernels::RunningKernel;
use super::shares::Shares;

/// Uploads at once: each is held in memory, packed and unpacked.
const AT_ONCE: usize = 2;
/// Of one node.
const PER_NODE: usize = 1;
/// How long an upload may take, so that nobody keeps a turn by sending a byte now and then.
const PATIENCE: Duration = Duration::from_mins(1);

/// Facts that a node has sent.
#[derive(Debug)]
pub struct Upload {
    /// The node.
    pub node: NodeName,
    /// What it runs, and what the facts are about.
    pub running: RunningKernel,
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
    nodes: Shares<NodeName>,
}

impl Uploads {
    pub(super) fn new(queue: mpsc::Sender<Upload>) -> Self {
        Self { queue, turns: Semaphore::new(AT_ONCE), nodes: Shares::new(PER_NODE) }
    }

    /// Reads the body, checks that it is facts about what the node runs, and has it kept.
    pub(super) async fn take(
        &self,
        node: NodeName,
        running: RunningKernel,
        body: Incoming,
    ) -> Result<(), Refused> {
        // The node's own first: nobody takes two of the turns.
        let _share = self.nodes.take(&node).ok_or(Refused::NodeBusy)?;
        let _turn = self.turns.try_acquire().map_err(|_| Refused::Busy)?;
        let body = tokio::time::timeout(PATIENCE, Limited::new(body, MAX_BYTES).collect());
        let body = body.await.map_err(|_| Refused::TooSlow)?.map_err(|_| Refused::Facts)?;
        let facts = body.to_bytes();
        let checked = tokio::task::spawn_blocking({
            let (facts, running) = (facts.clone(), running.clone());
            move || is_about(&facts, &running)
        });
        if !checked.await.unwrap_or(false) {
            return Err(Refused::Facts);
        }
        let (kept, answer) = oneshot::channel();
        let upload = Upload { node, running, facts, kept };
        self.queue.try_send(upload).map_err(|_| Refused::Busy)?;
        match answer.await {
            Ok(true) => Ok(()),
            _ => Err(Refused::NotKept),
        }
    }
}

/// Whether these are facts about this very build.
fn is_about(facts: &[u8], running: &RunningKernel) -> bool {
    let Ok(facts) = KernelFacts::decode(facts) else { return false };
    facts.build_id.is_some_and(|build_id| build_id.to_string() == running.build.build_id)
        && facts.release.as_str() == running.build.release
        && facts.architecture.as_str() == running.architecture
}
