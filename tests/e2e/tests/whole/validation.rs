//! What must be there after the load before a node counts as ready.

use tenon_lab::drivers::Driver;
use tenon_lab::state::NodeState;

use crate::site::{Wanted, nodes_say, on_site, says};

const DEVICE: &str = "/dev/lab-chardev";

#[test]
fn a_driver_is_ready_when_its_device_is_there() {
    on_site("device", async |site| {
        let device = site.push(Driver::Chardev, "device:1.0", "1.0").await;
        let waiting = site.push(Driver::SimpleKmod, "waiting:1.0", "1.0").await;
        // Nothing makes this device but another Module.
        site.apply_module(&Wanted {
            validated_by: &["/sys/module/simple_kmod", DEVICE],
            ..Wanted::new("waiting", "simple_kmod", &waiting)
        })
        .await;
        let state = site
            .state_where("waiting", "the Module and the nodes name what is missing", |state| {
                says(state, "ValidationFailed", &[DEVICE]).and_then(|()| nodes_say(state, DEVICE))
            })
            .await;
        assert!(!state.nodes.iter().any(NodeState::is_labelled), "no node is ready");
        assert_eq!(
            site.everywhere("grep -c '^simple_kmod ' /proc/modules").await,
            ["1", "1"],
            "it is loaded"
        );

        site.apply_module(&Wanted {
            validated_by: &[DEVICE, "/sys/class/misc/lab-chardev"],
            ..Wanted::new("device", "lab_chardev", &device)
        })
        .await;
        let (mut device, mut waiting) =
            (site.journey("device", "lab_chardev"), site.journey("waiting", "simple_kmod"));
        site.loaded(&mut device).await;
        site.loaded(&mut waiting).await;
        site.remove(&mut waiting).await;
        site.remove(&mut device).await;
    });
}
