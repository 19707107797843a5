//! Guests boot every kernel, obey, keep their disk, and confine containers as a node does.

use std::time::Duration;

use tenon_api::node_pod::{AGENT, LOADER};
use tenon_lab::guest::Program;
use tenon_lab::kernel::Origin;
use tenon_lab::setup::Supplies;
use tenon_lab::{Bench, wait};

/// Containers that hold busybox, for it can tell what it is allowed.
fn busybox(supplies: &Supplies) -> Vec<Program> {
    let program = |name: &str| Program {
        container: name.to_owned(),
        path: "/bin/busybox".to_owned(),
        binary: supplies.busybox.clone(),
    };
    vec![program(AGENT.name), program(LOADER.name)]
}

#[tokio::test]
async fn a_guest_keeps_its_disk_over_resets_and_a_new_kernel() {
    let bench = Bench::with_programs(vec![]).await.unwrap();
    let mut guest = bench.boot("guest", Origin::Stable).await.unwrap();
    let first = guest.hello().unwrap().clone();
    assert_eq!(first.release, guest.kernel().release);
    guest.shell("echo kept >/var/lib/tenon/note && sync && echo lost >/root/note").await.unwrap();
    guest.reset().await.unwrap();
    assert_ne!(guest.hello().unwrap().boot_id, first.boot_id);
    assert_eq!(guest.read_file("/var/lib/tenon/note").await.unwrap(), b"kept\n");
    assert!(guest.read_file("/root/note").await.is_err());

    guest.power_off().await.unwrap();
    let newer = bench.supplies().kernel(Origin::Backports).unwrap();
    guest.set_kernel(newer.clone()).unwrap();
    guest.switch_on().await.unwrap();
    assert_eq!(guest.shell("uname -r").await.unwrap().trim(), newer.release);
    assert_eq!(guest.shell("cat /var/lib/tenon/note").await.unwrap(), "kept\n");

    guest.power_off().await.unwrap();
    guest.wipe_disk().unwrap();
    guest.switch_on().await.unwrap();
    assert!(guest.read_file("/var/lib/tenon/note").await.is_err());
}

/// What a container sees of itself, into the directory that both share.
const REPORT: &str = "
B=/bin/busybox
{ echo uid $($B id -u); $B cat /proc/self/status; $B env; $B touch /x; $B ls /dev/kmsg; echo the end; } >/run/tenon/NAME 2>&1
exec $B sleep 1000";

#[tokio::test]
async fn containers_get_what_the_table_gives_them_and_no_more() {
    let bench = Bench::with_programs(busybox(&Supplies::get().unwrap())).await.unwrap();
    let guest = bench.boot("guest", Origin::Backports).await.unwrap();
    for container in [LOADER, AGENT] {
        guest.prepare_volumes(&container).await.unwrap();
        let mut config = bench.container("n1", &container, 1);
        let script = REPORT.replace("NAME", container.name);
        config["process"]["args"] = serde_json::json!(["/bin/busybox", "sh", "-c", script]);
        guest.start_container(container.name, &config).await.unwrap();
    }
    for (name, expected) in [
        (
            "loader",
            [
                "uid 0",
                "CapBnd:\t0000000400010000",
                "CapEff:\t0000000400010000",
                "Seccomp:\t2",
                "NODE_NAME=n1",
            ],
        ),
        (
            "agent",
            [
                "uid 65531",
                "CapBnd:\t0000000000000000",
                "NoNewPrivs:\t1",
                "KUBERNETES_SERVICE_HOST=10.0.2.2",
                "KUBERNETES_SERVICE_PORT=1",
            ],
        ),
    ] {
        let path = format!("/disk/pod/run/{name}");
        let report = wait::until(format!("the report of {name}"), Duration::from_mins(1), async || {
            let text = String::from_utf8(guest.read_file(&path).await.ok()?).unwrap();
            text.contains("the end").then_some(text)
        })
        .await
        .unwrap();
        for line in expected.into_iter().chain(["/x: Read-only file system", "/dev/kmsg: No such file"]) {
            assert!(report.contains(line), "{name} lacks {line}: {report}");
        }
    }
    guest.kill_container("loader").await.unwrap();
    wait::until("the loader's second start", Duration::from_mins(1), async || {
        (guest.containers().await.unwrap()["loader"].starts == 2).then_some(())
    })
    .await
    .unwrap();
    guest.stop_container("loader").await.unwrap();
    let state = guest.containers().await.unwrap()["loader"];
    assert!(!state.running, "{state:?}");
}

#[tokio::test]
async fn a_guest_that_panics_is_reported_with_the_kernels_last_words() {
    let bench = Bench::with_programs(vec![]).await.unwrap();
    let mut guest = bench.boot("guest", Origin::Stable).await.unwrap();
    let error = guest.shell("echo c >/proc/sysrq-trigger").await.unwrap_err().to_string();
    assert!(error.contains("died (Kernel panic - not syncing: sysrq triggered crash)"), "{error}");
    guest.wait_for_end().await.unwrap();
    assert!(!guest.is_on());
}
