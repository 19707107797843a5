//! The manifests of `examples/vendors`, word for word: each ends in a device that is used.

use serde_json::json;
use tenon_lab::drivers::{Driver, ImageContent};
use tenon_lab::images::{self, Destination};
use tenon_lab::journey::Journey;

use super::{NODE, Site};

/// What the accelerator's firmware says.
pub(crate) const ANSWER: &str = "the loom is strung";
pub(crate) const ACCELERATOR: [&str; 2] = ["lab-accel-system", "lab-accel"];
/// Names the link of the kernel's own driver and that of the vendor's, as far as they are there.
const LINKS: &str = "ls -d /sys/class/net/dummy0 /sys/class/net/labnet0 2>/dev/null || true";

/// Leaves the accelerator as it is.
pub(crate) async fn manifests_of_vendors_end_in_devices_that_are_used(site: &Site) {
    push(site).await;
    // The kernel's own driver is there before its vendor's newer one, with its link.
    let before = site.shell(&format!("modprobe dummy && cat /sys/module/dummy/taint && {LINKS}")).await;
    assert_eq!(before, "\n/sys/class/net/dummy0");
    for manifest in ["gpu", "storage", "network"] {
        let text = site.example(&format!("vendors/{manifest}.yaml"));
        site.lab.plane().apply(&text).await.unwrap();
    }
    let labels =
        ["feature.node.kubernetes.io/lab-accel.present", "lab.tenon.dev/storage", "lab.tenon.dev/nic"]
            .map(|key| format!("{key}=true"));
    let [accelerator, storage, link] = labels.each_ref().map(String::as_str);
    site.kubectl(&["label", "node", NODE, accelerator, storage, link]).await;

    let mut storage = loaded(site, "lab-volume-system/lab-volume", "lab_volume").await;
    a_disk_keeps_what_is_written(site).await;
    loaded(site, "lab-net-system/lab-net", "dummy").await;
    a_link_leads_somewhere(site).await;
    site.offers("lab.tenon.dev/accel", "1").await;
    a_pod_reads_what_the_firmware_says(site).await;
    loaded(site, &ACCELERATOR.join("/"), "lab_accel").await;

    for (namespace, module) in [("lab-volume-system", "lab-volume"), ("lab-net-system", "lab-net")] {
        site.kubectl(&["delete", "--wait=false", "--namespace", namespace, "module", module]).await;
    }
    site.unloaded(&mut storage).await;
    assert_eq!(site.shell("grep -c '^lab_volume_core ' /proc/modules || true").await, "0");
    let of_the_kernel = format!("cat /sys/module/dummy/taint; {LINKS}");
    site.shell_says(&of_the_kernel, "\n/sys/class/net/dummy0").await;
}

async fn push(site: &Site) {
    let registry = site.lab.registry().host();
    for (driver, name) in
        [(Driver::Accel, "lab-accel:1.0"), (Driver::Volume, "lab-volume:1.0"), (Driver::Net, "lab-net:1.0")]
    {
        let content = with_firmware(driver, images::content(&site.lab, driver, "1.0").await.unwrap());
        let to = Destination { registry: &registry, name, user: None };
        images::push(&site.lab, &content, to).await.unwrap();
    }
}

fn with_firmware(driver: Driver, content: ImageContent) -> ImageContent {
    match driver {
        Driver::Accel => content.with_firmware("lab-accel/ucode.bin", format!("accel:{ANSWER}\n").as_bytes()),
        _ => content,
    }
}

async fn loaded(site: &Site, module: &str, kernel_module: &str) -> Journey {
    let mut journey = Journey::new(module.parse().unwrap(), kernel_module);
    site.loaded(&mut journey).await;
    journey
}

async fn a_pod_reads_what_the_firmware_says(site: &Site) {
    let container = json!({
        "name": "user",
        "image": format!("{}/busybox:1.0", site.registry()),
        "command": ["/busybox", "cat", "/dev/lab-accel"],
        "resources": { "limits": { "lab.tenon.dev/accel": "1" } },
    });
    site.apply(&json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "weaver", "namespace": "default" },
        "spec": { "restartPolicy": "Never", "terminationGracePeriodSeconds": 1, "containers": [container] },
    }))
    .await;
    site.pod_says("weaver", "Succeeded", ANSWER).await;
    site.kubectl(&["delete", "pod", "weaver"]).await;
}

async fn a_disk_keeps_what_is_written(site: &Site) {
    let both = "grep -cE '^(lab_volume_core|crc7) ' /proc/modules";
    assert_eq!(site.shell(both).await, "2", "what it needs, and what it would like to have");
    let written = "busybox mke2fs /dev/labvol0 >/dev/null && mkdir -p /mnt/lab && mount -t ext4 /dev/labvol0 /mnt/lab && \
                   echo warp >/mnt/lab/thread && umount /mnt/lab";
    site.shell(written).await;
    let read = "mount -t ext4 -o ro /dev/labvol0 /mnt/lab && cat /mnt/lab/thread && umount /mnt/lab";
    assert_eq!(site.shell(read).await, "warp");
}

async fn a_link_leads_somewhere(site: &Site) {
    assert_eq!(site.shell("cat /sys/module/dummy/version").await, "1.0", "the vendor's");
    assert_eq!(site.shell(LINKS).await, "/sys/class/net/labnet0", "the kernel's own has gone with its link");
    site.shell("busybox ip address add 198.51.100.1/24 dev labnet0 && busybox ip link set labnet0 up").await;
    let replies = "busybox ping -c 2 -W 10 198.51.100.7 | grep -c 'bytes from 198.51.100.7'";
    assert_eq!(site.shell(replies).await, "2");
}
