//! What an administrator says of a kernel.

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;
use tenon_api::kernel_facts::{ARCHITECTURE, DATA_KEY, LABEL, RELEASE, SOURCE};
use tenon_kmod::ModuleObject;
use tenon_kmod::facts::{KernelFacts, KernelSymbol, Namespace};

use crate::cluster::Cluster;

const NAME: &str = "kernel-facts-said";

/// Says what the driver's kernel offers: what the driver needs, or what is true of another.
pub async fn say(cluster: &Cluster, fits: bool) {
    tell(cluster, NAME, facts(cluster, &cluster.kernel, fits)).await;
}

/// Facts of a kernel with this release: it offers what the driver needs, or what is true of another.
pub fn facts(cluster: &Cluster, kernel: &str, fits: bool) -> KernelFacts {
    let driver = ModuleObject::parse(cluster.driver()).expect("a module");
    let mut facts = KernelFacts::new(kernel.parse().expect("a release"), driver.architecture);
    facts.vermagic = driver.info.vermagic();
    facts.this_module_size = Some(driver.this_module_size);
    facts.modversions = Some(true);
    facts.complete = true;
    facts.policy.force_load = Some(false);
    let symbol = |crc: u32| KernelSymbol {
        crc: Some(if fits { crc } else { crc ^ 1 }),
        gpl_only: Some(false),
        namespace: Namespace::named(""),
        provider: None,
    };
    let versions = driver.versions.expect("checksums").crcs;
    facts.exports = versions.into_iter().map(|(name, crc)| (name, symbol(crc))).collect();
    facts
}

/// Says these facts, under a name.
pub async fn tell(cluster: &Cluster, name: &str, facts: KernelFacts) {
    let mut map: ConfigMap = serde_json::from_value(json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": name, "labels": {LABEL: "true"}, "annotations": {
            RELEASE: facts.release.as_str(), ARCHITECTURE: "amd64", SOURCE: "admin",
        }},
    }))
    .expect("a ConfigMap");
    map.binary_data = Some([(DATA_KEY.to_owned(), ByteString(facts.encode()))].into());
    let maps: Api<ConfigMap> = Api::namespaced(cluster.client.clone(), "tenon-system");
    let params = PatchParams::apply("an-administrator").force();
    maps.patch(name, &params, &Patch::Apply(map)).await.expect("facts");
}
