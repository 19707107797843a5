//! Power cuts at random moments, on a disk that loses what was not flushed: whatever was going on, the node ends where the
//! order wants it.
//!
//! `TENON_POWER_CUTS` says how many there are for each kernel, `TENON_SEED` which.

use std::env;
use std::time::{Duration, Instant};

use rstest::rstest;
use tenon_lab::drivers::{Driver, Recipe};
use tenon_lab::guest::Disk;
use tenon_lab::kernel::Origin;
use tenon_lab::wait;
use tenon_order::{Load, NodeReport, Phase, Reason, Wish};

use crate::bundle::Bundle;
use crate::node::{LATER, Node, of};

/// A sample; the whole is for the matrix.
const CUTS: u64 = 3;

/// Chance that repeats itself, by `SplitMix64`.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}

/// What is wished of each Module, by chance: loaded in one of several ways, or removed.
struct Wishes {
    pair: Option<Load>,
    simple: Option<(Load, u64)>,
    procfs: Option<(Load, &'static str)>,
    firmware: Option<(Load, String)>,
}

impl Wishes {
    fn draw(node: &mut Node, chance: &mut Chance) -> Self {
        let pair = (chance.below(3) > 0).then(|| node.content(Driver::Pair));
        let simple = (chance.below(4) > 0).then(|| {
            let count = chance.below(1000);
            let parameters = vec![format!("count={count}")];
            (Load { parameters, ..node.content(Driver::SimpleKmod) }, count)
        });
        let procfs = (chance.below(4) > 0).then(|| {
            let version = match chance.below(3) {
                0 => "1.0",
                1 => "2.0",
                _ => "3.0",
            };
            (node.content(Recipe { version, ..Driver::SimpleProcfsKmod.into() }), version)
        });
        let firmware = (chance.below(3) > 0).then(|| {
            let text = format!("firmware {}", chance.below(1000));
            let bundle = Bundle::built(node.kernel(), Driver::Firmware.into());
            let bundle = bundle.with("firmware/lab-firmware.bin", text.as_str());
            (Load { firmware: true, ..node.content_of(bundle, Driver::Firmware) }, text)
        });
        Self { pair, simple, procfs, firmware }
    }

    fn order(&self, node: &mut Node) {
        let wish = |load: Option<&Load>| load.map_or(Wish::Removed, |load| Wish::Loaded(load.clone()));
        node.wish("pair", wish(self.pair.as_ref()));
        node.wish("simple", wish(self.simple.as_ref().map(|(load, _)| load)));
        node.wish("procfs", wish(self.procfs.as_ref().map(|(load, _)| load)));
        node.wish("firmware", wish(self.firmware.as_ref().map(|(load, _)| load)));
    }

    fn is_done(&self, report: &NodeReport) -> bool {
        let wished = [
            ("pair", self.pair.is_some()),
            ("simple", self.simple.is_some()),
            ("procfs", self.procfs.is_some()),
            ("firmware", self.firmware.is_some()),
        ];
        wished.into_iter().all(|(module, loaded)| {
            let found = of(report, module);
            // Only what waits for its turn may take longer.
            assert!(
                matches!(found.phase, Phase::Loaded | Phase::Removed)
                    || found.reason == Reason::LoadPostponed,
                "{found:?}"
            );
            found.phase == if loaded { Phase::Loaded } else { Phase::Removed }
        })
    }

    /// What the kernel itself says.
    async fn assert(&self, node: &Node) {
        let mut expected = Vec::new();
        if self.pair.is_some() {
            expected.extend(["lab_client", "lab_core"]);
        }
        if let Some((_, count)) = &self.simple {
            expected.push("simple_kmod");
            assert_eq!(node.parameter("simple_kmod", "count").await, count.to_string());
        }
        if let Some((_, version)) = &self.procfs {
            expected.push("simple_procfs_kmod");
            assert_eq!(node.text("/proc/simple-procfs-kmod").await, format!("simple-procfs-kmod {version}"));
        }
        if let Some((_, text)) = &self.firmware {
            expected.push("lab_firmware");
            assert_eq!(node.parameter("lab_firmware", "length").await, text.len().to_string());
        }
        let mut modules = node.modules().await;
        modules.sort();
        expected.sort_unstable();
        assert_eq!(modules, expected);
    }
}

/// The order is brought until it is fulfilled, as an agent does.
async fn fulfilled(node: &Node, wishes: &Wishes) {
    let done = async || wishes.is_done(&node.apply().await).then_some(());
    wait::until("the order to be fulfilled", LATER, done).await.unwrap();
    wishes.assert(node).await;
}

fn number(variable: &str) -> Option<u64> {
    env::var(variable).ok().and_then(|text| text.parse().ok())
}

#[rstest]
#[tokio::test]
async fn power_cuts_at_any_moment_end_where_the_order_wants(
    #[values(Origin::Stable, Origin::Backports)] origin: Origin,
) {
    let cuts = number("TENON_POWER_CUTS").unwrap_or(CUTS);
    let seed = number("TENON_SEED").unwrap_or(8);
    let mut chance = Chance(seed);
    let mut node = Node::boot_on(origin, Disk::Volatile).await;
    let first = Wishes::draw(&mut node, &mut chance);
    first.order(&mut node);
    let start = Instant::now();
    fulfilled(&node, &first).await;
    // Brought, taken in, applied: all of it may be cut off, and a little of the time after it.
    let whole = u64::try_from(start.elapsed().as_micros()).unwrap();
    for cut in 1..=cuts {
        let wishes = Wishes::draw(&mut node, &mut chance);
        wishes.order(&mut node);
        let brought = node.start_applying().await;
        let after = Duration::from_micros(chance.below(whole));
        // That it was applied in time is as good a moment as any.
        let _ = tokio::time::timeout(after, brought).await;
        let loss = node.guest.cut_power(chance.below(u64::MAX)).unwrap();
        println!(
            "cut {cut} of {cuts} (seed {seed}) {} ms after the order: of {} writes {} were not flushed, {} are lost",
            after.as_millis(),
            loss.writes,
            loss.unsafe_writes,
            loss.lost
        );
        node.switch_on().await;
        let start = Instant::now();
        fulfilled(&node, &wishes).await;
        println!("as it should be {} ms after the boot", start.elapsed().as_millis());
    }
    for module in ["pair", "simple", "procfs", "firmware"] {
        assert_eq!(node.remove(module).await.phase, Phase::Removed);
    }
    let left = "cd /var/lib/tenon && find files bundles marks firmware modules -type f";
    assert_eq!(node.guest.shell(left).await.unwrap(), "");
}
