//! What becomes of a driver that works: its life, a node's boot, an operator's death.

use tenon_lab::drivers::Driver;
use tenon_lab::journey::{COST_OF_CHANGE, COST_OF_LOAD};
use tenon_lab::state::State;

use crate::site::{Site, Wanted, on_site};

const KERNEL_MODULE: &str = "simple_procfs_kmod";
const VERSION: &str = "cat /proc/simple-procfs-kmod";

async fn versions(site: &Site<'_>) -> (String, String) {
    (
        site.push(Driver::SimpleProcfsKmod, "gauge:1.0", "1.0").await,
        site.push(Driver::SimpleProcfsKmod, "gauge:2.0", "2.0").await,
    )
}

#[test]
fn a_driver_is_loaded_changed_and_removed_for_few_writes_and_leaves_nothing() {
    on_site("life", async |site| {
        let (first, second) = versions(&site).await;
        let mut journey = site.journey("gauge", KERNEL_MODULE);
        for (image, version, most) in [(&first, "1.0", COST_OF_LOAD), (&second, "2.0", COST_OF_CHANGE)] {
            let mark = site.lab.plane().audit().mark();
            site.apply_module(&Wanted::new("gauge", KERNEL_MODULE, image)).await;
            site.loaded(&mut journey).await;
            let told = format!("simple-procfs-kmod {version}");
            assert_eq!(site.everywhere(VERSION).await, [told.as_str(), told.as_str()]);
            journey.costs(site.lab, mark, most).unwrap();
        }
        let mark = site.lab.plane().audit().mark();
        site.remove(&mut journey).await;
        journey.costs(site.lab, mark, COST_OF_CHANGE).unwrap();
    });
}

#[test]
fn a_node_that_boots_anew_loads_its_driver_again_and_is_labelled_again() {
    on_site("boot", async |site| {
        let (image, _) = versions(&site).await;
        let mut journey = site.journey("gauge", KERNEL_MODULE);
        site.apply_module(&Wanted::new("gauge", KERNEL_MODULE, &image)).await;
        site.loaded(&mut journey).await;
        let node = site.lab.node("mill-1").unwrap();
        let before = node.guest().hello().unwrap().boot_id.clone();
        node.reset().await.unwrap();
        let after = node.guest().hello().unwrap().boot_id.clone();
        assert_ne!(after, before);
        site.loaded(&mut journey).await;
        let state = State::of(&site.lab.plane().client(), journey.key()).await.unwrap();
        let reported = state.nodes.first().unwrap().reported().unwrap();
        assert_eq!(reported.boot_id.as_deref(), Some(after.as_str()));
        site.remove(&mut journey).await;
    });
}

#[test]
fn a_change_that_an_operator_dies_of_is_finished_by_the_next() {
    on_site("death", async |site| {
        let (first, second) = versions(&site).await;
        let mut journey = site.journey("gauge", KERNEL_MODULE);
        site.apply_module(&Wanted::new("gauge", KERNEL_MODULE, &first)).await;
        site.loaded(&mut journey).await;
        site.apply_module(&Wanted::new("gauge", KERNEL_MODULE, &second)).await;
        site.state_where("gauge", "the change has begun", |state| {
            let wished = state.images.iter().any(|image| image.spec.image == second);
            if wished { Ok(()) } else { Err("the images are still the first version's".to_owned()) }
        })
        .await;
        site.lab.kill_operator();
        site.lab.start_operator().await.unwrap();
        site.loaded(&mut journey).await;
        assert_eq!(site.everywhere(VERSION).await, ["simple-procfs-kmod 2.0", "simple-procfs-kmod 2.0"]);
        site.remove(&mut journey).await;
    });
}
