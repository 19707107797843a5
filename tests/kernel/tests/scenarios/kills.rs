//! The loader can be killed at any moment: started again and told the same, it ends where it would have ended.

use std::time::{Duration, Instant};

use rstest::rstest;
use tenon_api::node_pod::LOADER;
use tenon_lab::drivers::{Driver, Recipe};
use tenon_lab::kernel::Origin;
use tenon_lab::wait;
use tenon_order::{Load, Phase, Wish};

use crate::agent::Agent;
use crate::node::{Node, SOON, of};

/// How many moments are tried, spread over the time that a change takes: half of that of the first order, whose files
/// all had to be brought.
const MOMENTS: u32 = 5;

/// Two states of the node that differ in everything: what is loaded, in which version, with which parameters.
struct States {
    pair: Load,
    one: Load,
    two: Load,
}

impl States {
    fn wish(&self, node: &mut Node, second: bool) {
        let (pair, procfs) = if second {
            (Wish::Removed, Wish::Loaded(self.two.clone()))
        } else {
            (Wish::Loaded(self.pair.clone()), Wish::Loaded(self.one.clone()))
        };
        node.wish("pair", pair);
        node.wish("procfs", procfs);
    }

    async fn assert(&self, node: &Node, second: bool) {
        let report = node.apply().await;
        let (pair, procfs) = (of(&report, "pair").phase, of(&report, "procfs"));
        let (loaded, version) = if second {
            (vec!["simple_procfs_kmod"], "2.0")
        } else {
            (vec!["lab_client", "lab_core", "simple_procfs_kmod"], "1.0")
        };
        assert_eq!(pair, if second { Phase::Removed } else { Phase::Loaded });
        assert_eq!(procfs.phase, Phase::Loaded);
        let mut modules = node.modules().await;
        modules.sort();
        assert_eq!(modules, loaded);
        let text = node.text("/proc/simple-procfs-kmod").await;
        assert_eq!(text, format!("simple-procfs-kmod {version}"));
    }
}

#[rstest]
#[tokio::test]
async fn a_killed_loader_ends_where_it_would_have_ended(
    #[values(Origin::Stable, Origin::Backports)] origin: Origin,
) {
    let mut node = Node::boot(origin).await;
    let states = States {
        pair: node.content(Driver::Pair),
        one: node.content(Driver::SimpleProcfsKmod),
        two: node.content(Recipe { version: "2.0", ..Driver::SimpleProcfsKmod.into() }),
    };
    states.wish(&mut node, false);
    let start = Instant::now();
    node.apply().await;
    let whole = start.elapsed();
    let mut second = false;
    for moment in 0..MOMENTS {
        second = !second;
        states.wish(&mut node, second);
        let starts = starts(&node).await;
        let after = whole / 2 * moment / MOMENTS;
        let done = killed_while_applying(&node, after).await;
        println!("killed {} ms after the order; the agent had its report: {done}", after.as_millis());
        wait::until("the loader's next start", SOON, async || {
            (self::starts(&node).await > starts).then_some(())
        })
        .await
        .unwrap();
        states.assert(&node, second).await;
    }
    for module in ["pair", "procfs"] {
        assert_eq!(node.remove(module).await.phase, Phase::Removed);
    }
    assert_eq!(node.modules().await, [""; 0]);
    let left = "cd /var/lib/tenon && find files bundles marks firmware -type f";
    assert_eq!(node.guest.shell(left).await.unwrap(), "");
}

async fn starts(node: &Node) -> u32 {
    node.guest.containers().await.unwrap().get(LOADER.name).unwrap().starts
}

/// Brings the order, and kills the loader meanwhile. Says whether the report came all the same.
async fn killed_while_applying(node: &Node, after: Duration) -> bool {
    let (address, order, depot) = (node.guest.loader_address().unwrap(), node.signed(), node.depot.clone());
    let brought = tokio::task::spawn_blocking(move || {
        let (mut agent, _) = Agent::connect(address)?;
        agent.apply(&order, &depot)
    });
    let kill = format!("usleep {}; kill -9 $(pidof tenon-loader)", after.as_micros());
    node.guest.shell(&kill).await.unwrap();
    brought.await.unwrap().is_ok()
}
