//! §4: which mapping a kernel gets, and what templates make of it.

use serde_json::{Value, json};
use tenon_api::{Module, ModuleImage};
use tenon_lab::wait;
use tenon_test_api::cluster::{Cluster, SOON, condition};

/// A kernel of a changed source tree, with a plus in its middle as well.
const KERNEL: &str = "6.12.95+deb12-cloud-amd64+";

/// The image that a Module's templates name for the node's kernel.
async fn image_of(cluster: &Cluster, module: &str) -> String {
    let what = format!("the image of {module}");
    let found = wait::until(&what, SOON, async || {
        let images = cluster.images().list(&kube::api::ListParams::default()).await.ok()?;
        let is_it = |image: &ModuleImage| image.spec.module == module;
        images.items.into_iter().find(is_it).map(|image| image.spec.image)
    });
    found.await.unwrap_or_else(|late| panic!("{late}"))
}

fn mappings(container_image: &str, mappings: &Value) -> Value {
    json!({"spec": {"moduleLoader": {"container": {"containerImage": container_image, "kernelMappings": mappings}}}})
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_mapping_that_fits_says_which_image() {
    let mut cluster = Cluster::start().await;
    cluster.add_node_with("pine", KERNEL).await;
    let trimmed = KERNEL.trim_end_matches('+');
    let cases = [
        (
            "literal",
            json!([{"literal": "6.1", "containerImage": "r/a:1"}, {"literal": trimmed, "containerImage": "r/a:2"}]),
            "r/a:2",
        ),
        (
            "first",
            json!([{"regexp": "cloud", "containerImage": "r/a:1"}, {"literal": trimmed, "containerImage": "r/a:2"}]),
            "r/a:1",
        ),
        ("unanchored", json!([{"regexp": "95.deb", "containerImage": "r/a:3"}]), "r/a:3"),
        (
            "anchored",
            json!([{"regexp": "^95", "containerImage": "r/a:1"}, {"regexp": "amd64$", "containerImage": "r/a:4"}]),
            "r/a:4",
        ),
        (
            "not-rust",
            json!([{"regexp": "[a&&z]{7}", "containerImage": "r/a:1"}, {"regexp": "\\Q95+deb\\E", "containerImage": "r/a:5"}]),
            "r/a:5",
        ),
        ("of-the-container", json!([{"regexp": ".", "containerImage": ""}]), "r/container:6"),
    ];
    for (name, list, _) in &cases {
        cluster.apply_module(name, "unused:1", mappings("r/container:6", list)).await;
    }
    for (name, _, image) in &cases {
        assert_eq!(image_of(&cluster, name).await, *image, "{name}");
    }
    cluster
        .apply_module(
            "none",
            "unused:1",
            mappings("r/a:1", &json!([{"literal": "6.1", "containerImage": ""}])),
        )
        .await;
    let nothing = |module: &Module| {
        condition(module, "Ready").is_some_and(|(.., message)| message.contains("kernelMappings"))
    };
    cluster.module_where("none", "no mapping fits", nothing).await;
    cluster.stop_operator().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn templates_have_kmms_variables_and_forms() {
    let mut cluster = Cluster::start().await;
    cluster.add_node_with("pine", KERNEL).await;
    let cases = [
        ("full", "r/a:${KERNEL_FULL_VERSION}", "r/a:6.12.95_deb12-cloud-amd64"),
        ("version", "r/a:$KERNEL_VERSION", "r/a:6.12.95_deb12-cloud-amd64"),
        ("xyz", "r/a:${KERNEL_XYZ}", "r/a:6.12.95_deb12"),
        ("x-y-z", "r/a:${KERNEL_X}-${KERNEL_Y}-$KERNEL_Z", "r/a:6-12-95_deb12"),
        ("names", "r/${MOD_NAMESPACE}/${MOD_NAME}:1", "r/hall/names:1"),
        ("default", "r/a:${NOBODY:-d}-${NOBODY-e}", "r/a:d-e"),
        ("assigned", "r/a:${NOBODY:=d}${NOBODY=e}", "r/a:de"),
        ("instead", "r/a:${KERNEL_X:+o}${KERNEL_X+p}${NOBODY:+q}", "r/a:op"),
    ];
    for (name, template, _) in &cases {
        cluster
            .apply_module(
                name,
                "unused:1",
                mappings(template, &json!([{"regexp": ".", "containerImage": ""}])),
            )
            .await;
    }
    for (name, _, image) in &cases {
        assert_eq!(image_of(&cluster, name).await, *image, "{name}");
    }
    // KMM puts nothing in its place and goes on.
    cluster
        .apply_module(
            "unset",
            "unused:1",
            mappings("r/a:${NOBODY}x", &json!([{"regexp": ".", "containerImage": ""}])),
        )
        .await;
    let named = |module: &Module| {
        condition(module, "Ready")
            .is_some_and(|(.., message)| message.contains("NOBODY") && message.contains("containerImage"))
    };
    cluster.module_where("unset", "the variable is named", named).await;
    cluster.stop_operator().await;
}
