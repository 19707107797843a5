//! What nodes tell of their kernels, what is predicted by it, and whether the nodes agree.

use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::ListParams;
use kube::{Api, ResourceExt as _};
use tenon_api::ModuleImage;
use tenon_api::kernel_facts::{BUILD_ID, LABEL, RELEASE, SOURCE};
use tenon_api::module::Predicted;
use tenon_api::reasons;
use tenon_lab::claim::comes_true;
use tenon_lab::drivers::{self, Driver, ImageContent};

use crate::site::{Site, Wanted, nodes_say, on_site, says};

impl Site<'_> {
    /// Waits until every node has told what its kernel is; gives the releases.
    async fn told_kernels(&self) -> Vec<String> {
        let maps: Api<ConfigMap> = Api::namespaced(self.lab.plane().client(), "tenon-system");
        let params = ListParams::default().labels(&format!("{LABEL}=true"));
        let nodes: Vec<_> = self.lab.nodes().iter().map(|node| node.name().to_owned()).collect();
        comes_true("every node has told what its kernel is", async || {
            let maps = maps.list(&params).await.map_err(|error| error.to_string())?;
            let said = |map: &ConfigMap, key: &str| map.annotations().get(key).cloned().unwrap_or_default();
            let mut releases = Vec::new();
            for node in &nodes {
                let source = format!("node:{node}");
                let map = maps.iter().find(|map| said(map, SOURCE) == source);
                let map = map.ok_or_else(|| format!("nothing of {node}: {} objects", maps.items.len()))?;
                assert_eq!(said(map, BUILD_ID).len(), 40, "{node}");
                releases.push(said(map, RELEASE));
            }
            Ok(releases)
        })
        .await
        .unwrap_or_else(|broken: tenon_lab::claim::Broken| panic!("{broken}"))
    }

    /// Waits until this is predicted of the scenario's images, one for each kernel.
    async fn predicted(&self, namespace: &str, expected: Predicted) {
        let images: Api<ModuleImage> = Api::namespaced(self.lab.plane().client(), namespace);
        comes_true("the prediction stands in every ModuleImage", async || {
            let images = images.list(&ListParams::default()).await.map_err(|error| error.to_string())?;
            let verdicts: Vec<_> = images
                .iter()
                .map(|image| image.status.iter().flat_map(|status| &status.verdicts).collect::<Vec<_>>())
                .collect();
            let all = verdicts.len() == 2
                && verdicts.iter().all(|of_one| of_one.iter().any(|verdict| verdict.result == expected));
            if all { Ok(()) } else { Err(format!("{verdicts:?}")) }
        })
        .await
        .unwrap_or_else(|broken: tenon_lab::claim::Broken| panic!("{broken}"));
    }
}

#[test]
fn what_nodes_tell_of_their_kernels_predicts_what_happens_there() {
    on_site("foresight", async |site| {
        let releases = site.told_kernels().await;
        assert_eq!(releases.len(), 2);
        let fine = site.push(Driver::SimpleKmod, "foreseen:1.0", "1.0").await;
        let wanted = Wanted::new("foreseen", "simple_kmod", &fine);
        site.apply_module(&wanted).await;
        let mut journey = site.journey("foreseen", "simple_kmod");
        site.loaded(&mut journey).await;
        site.predicted("foresight", Predicted::Loads).await;

        // Each kernel is given the driver of the other.
        let kernels = site.lab.supplies().kernels().to_vec();
        let mut swapped = ImageContent::new();
        for (kernel, other) in [(0, 1), (1, 0)] {
            let built = drivers::build(kernels.get(other).unwrap(), Driver::SimpleKmod.into()).unwrap();
            swapped = swapped.with(&kernels.get(kernel).unwrap().release, &built);
        }
        let swapped = site.push_content(&swapped, "foreseen:1.1").await;
        let swapped = Wanted { image: &swapped, ..wanted.clone() };
        site.apply_module(&swapped).await;
        site.state_where("foreseen", "the Module says that it will not load", |state| {
            says(state, reasons::WILL_NOT_LOAD, &["ENOEXEC"])
        })
        .await;
        assert_eq!(
            site.everywhere("cat /sys/module/simple_kmod/initstate").await,
            ["live", "live"],
            "the driver that works stays"
        );

        // Sent all the same, it meets the loaders, which compare it with the running kernel's own modules.
        site.apply_module(&Wanted { inspection: Some("Warn"), ..swapped }).await;
        site.state_where("foreseen", "no node tries it, and each keeps what it has", |state| {
            nodes_say(state, "is not tried, and what is loaded stays")
        })
        .await;
        assert_eq!(site.everywhere("cat /sys/module/simple_kmod/initstate").await, ["live", "live"]);
        site.apply_module(&wanted).await;
        site.loaded(&mut journey).await;
        site.remove(&mut journey).await;
    });
}
