//! Tenon as it is shipped, on one worker, with a driver in the registry.

use tenon_lab::Lab;
use tenon_lab::drivers::Driver;
use tenon_lab::images::{self, Destination};

/// The module of the driver, as the kernel names it.
pub(crate) const KERNEL_MODULE: &str = "simple_kmod";

/// Installs it on the lab's worker, and pushes versions 1.0 and 2.0 of the driver as `simple`.
pub(crate) async fn install(lab: &Lab) {
    lab.install().await.unwrap();
    for version in ["1.0", "2.0"] {
        let content = images::content(lab, Driver::SimpleKmod, version).await.unwrap();
        let (registry, name) = (lab.registry().host(), format!("simple:{version}"));
        images::push(lab, &content, Destination { registry: &registry, name: &name, user: None })
            .await
            .unwrap();
    }
}
