//! What people read when a driver does not load, or does not go.

use tenon_api::reasons;
use tenon_api::reasons::condition::READY;
use tenon_lab::drivers::Driver;
use tenon_lab::images;
use tenon_lab::state::condition;

use crate::site::{Wanted, nodes_say, on_site, says};

const FIRMWARE: &str = "lab-firmware.bin";

#[test]
fn a_driver_that_refuses_to_start_shows_the_kernels_words_and_harms_no_other() {
    on_site("refusal", async |site| {
        let words = "no such device, error 19";
        let broken = site.push(Driver::Broken, "broken:1.0", "1.0").await;
        let fine = site.push(Driver::SimpleKmod, "fine:1.0", "1.0").await;
        let wanted = Wanted { parameters: &["error=19"], ..Wanted::new("broken", "lab_broken", &broken) };
        site.apply_module(&wanted).await;
        site.apply_module(&Wanted::new("fine", "simple_kmod", &fine)).await;
        let (mut broken, mut fine) =
            (site.journey("broken", "lab_broken"), site.journey("fine", "simple_kmod"));
        site.state_where("broken", "the Module and the nodes quote the kernel", |state| {
            says(state, "InitFailed", &["mill-1", words]).and_then(|()| nodes_say(state, words))
        })
        .await;
        site.loaded(&mut fine).await;
        site.apply_module(&Wanted { parameters: &["error=0"], ..wanted }).await;
        site.loaded(&mut broken).await;
        site.remove(&mut broken).await;
        site.remove(&mut fine).await;
    });
}

#[test]
fn a_parameter_that_the_driver_does_not_take_is_named() {
    on_site("parameter", async |site| {
        let image = site.push(Driver::SimpleKmod, "simple:1.0", "1.0").await;
        // The kernel's own words are wanted here, not those of a prediction.
        let wanted = Wanted {
            parameters: &["count=many"],
            inspection: Some("Warn"),
            ..Wanted::new("simple", "simple_kmod", &image)
        };
        site.apply_module(&wanted).await;
        site.state_where("simple", "the Module names the parameter and the value", |state| {
            says(state, "InvalidParameter", &["count", "many"])
        })
        .await;
        site.apply_module(&Wanted { parameters: &["count=3"], ..wanted }).await;
        let mut journey = site.journey("simple", "simple_kmod");
        site.loaded(&mut journey).await;
        assert_eq!(site.everywhere("cat /sys/module/simple_kmod/parameters/count").await, ["3", "3"]);
        site.remove(&mut journey).await;
    });
}

#[test]
fn firmware_that_is_missing_is_named_and_an_image_that_has_it_mends_it() {
    on_site("firmware", async |site| {
        let without = images::content(site.lab, Driver::Firmware, "1.0").await.unwrap();
        let with = without.clone().with_firmware(FIRMWARE, b"spin up");
        let without = site.push_content(&without, "loom:1.0").await;
        let with = site.push_content(&with, "loom:1.1").await;
        site.apply_module(&Wanted::new("loom", "lab_firmware", &without)).await;
        site.state_where("loom", "the Module names the file", |state| {
            says(state, "FirmwareMissing", &[FIRMWARE]).and_then(|()| nodes_say(state, FIRMWARE))
        })
        .await;
        site.apply_module(&Wanted {
            firmware: Some("/firmware"),
            ..Wanted::new("loom", "lab_firmware", &with)
        })
        .await;
        let mut journey = site.journey("loom", "lab_firmware");
        site.loaded(&mut journey).await;
        assert_eq!(
            site.everywhere("cat /sys/module/lab_firmware/parameters/text").await,
            ["spin up", "spin up"]
        );
        site.remove(&mut journey).await;
    });
}

#[test]
fn a_driver_in_use_is_left_alone_and_goes_when_it_is_released() {
    const DEVICE: &str = "/dev/lab-chardev";
    on_site("busy", async |site| {
        let image = site.push(Driver::Chardev, "chardev:1.0", "1.0").await;
        site.apply_module(&Wanted::new("chardev", "lab_chardev", &image)).await;
        let mut journey = site.journey("chardev", "lab_chardev");
        site.loaded(&mut journey).await;
        let guest = site.lab.node("mill-1").unwrap().guest();
        guest.hold(DEVICE).await.unwrap();
        site.delete("chardev").await;
        site.state_where("chardev", "the deleted Module says where it is in use", |state| {
            says(state, reasons::IN_USE, &["mill-1", "in use"])?;
            let module = state.module.as_ref().ok_or("it is gone")?;
            let (_, reason, message) = condition(module, READY).ok_or("it says nothing")?;
            let fits = reason == reasons::UNLOADING && message.contains("1 node left");
            if fits { Ok(()) } else { Err(format!("{reason}: {message}")) }
        })
        .await;
        let guest = site.lab.node("mill-1").unwrap().guest();
        assert!(journey.is_in_kernel(guest).await.unwrap(), "what is in use is not torn out");
        guest.let_go(DEVICE).await.unwrap();
        journey.unloaded(site.lab, |_| {}).await.unwrap();
    });
}
