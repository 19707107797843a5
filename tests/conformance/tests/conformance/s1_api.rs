//! §1: the kinds, as programs written for KMM ask for them.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::APIResource;
use tenon_test_api::setup::plane_with_definitions;

/// A kind that other programs name.
struct Served {
    kind: &'static str,
    version: &'static str,
    plural: &'static str,
    short: Option<&'static str>,
    namespaced: bool,
}

const KINDS: [Served; 2] = [
    Served { kind: "Module", version: "v1beta1", plural: "modules", short: None, namespaced: true },
    Served {
        kind: "NodeModulesConfig",
        version: "v1beta1",
        plural: "nodemodulesconfigs",
        short: Some("nmc"),
        namespaced: false,
    },
];

#[tokio::test]
async fn the_kinds_are_served_by_their_names_with_a_status_of_their_own() {
    let plane = plane_with_definitions().await;
    for Served { kind, version, plural, short, namespaced } in &KINDS {
        let group = format!("kmm.sigs.x-k8s.io/{version}");
        let served = plane.client().list_api_group_resources(&group).await.expect("the group").resources;
        let named = |name: &str| -> Option<&APIResource> { served.iter().find(|one| one.name == name) };
        let found = named(plural).unwrap_or_else(|| panic!("{plural} are not served"));
        assert_eq!((found.kind.as_str(), found.namespaced), (*kind, *namespaced));
        // More of them than KMM has do no harm.
        let answers = |short: &str| found.short_names.iter().flatten().any(|name| name == short);
        assert!(short.is_none_or(answers), "{kind}: {:?}", found.short_names);
        assert!(named(&format!("{plural}/status")).is_some(), "{kind} has a status of its own");
        assert!(named(&format!("{plural}/scale")).is_none(), "{kind} has no scale");
    }
}
