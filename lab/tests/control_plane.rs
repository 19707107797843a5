//! The control plane serves, counts what is written to it, hands out tokens and dies with its owner.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::Api;
use kube::api::{ListParams, ObjectMeta, PostParams};
use tenon_lab::ControlPlane;
use tenon_lab::control_plane::{Binding, Credential, Write};
use tenon_lab::wait;

const NAMESPACE: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: trial}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: worker, namespace: trial}
";

#[tokio::test]
async fn it_serves_counts_writes_and_hands_out_tokens() {
    let plane = ControlPlane::start().await.unwrap();
    plane.apply(NAMESPACE).await.unwrap();

    let token = plane.token("trial", "worker", None, &Binding::None).await.unwrap();
    let worker = plane.client_as(&Credential::Token(token)).await.unwrap();
    let refused = Api::<Namespace>::all(worker).list(&ListParams::default()).await.unwrap_err();
    assert!(refused.to_string().contains("system:serviceaccount:trial:worker"), "{refused}");

    let mark = plane.audit().mark();
    let maps: Api<ConfigMap> = Api::namespaced(plane.client(), "trial");
    let map = ConfigMap {
        metadata: ObjectMeta { name: Some("m".into()), ..Default::default() },
        ..Default::default()
    };
    maps.create(&PostParams::default(), &map).await.unwrap();
    let mut mine: BTreeMap<Write, u64> = plane.audit().writes_since(mark).unwrap();
    mine.retain(|write, _| write.user == "lab-admin");
    let expected = Write {
        user: "lab-admin".into(),
        verb: "create".into(),
        resource: "configmaps".into(),
        namespace: "trial".into(),
        name: "m".into(),
        code: 201,
        ..Default::default()
    };
    assert_eq!(mine, BTreeMap::from([(expected, 1)]));

    // Only the controllers finish the deletion of a namespace.
    plane.kubectl(&["delete", "namespace", "trial", "--wait=false"]).await.unwrap();
    let namespaces: Api<Namespace> = Api::all(plane.client());
    wait::until("the namespace's end", Duration::from_mins(1), async || {
        namespaces.get_opt("trial").await.unwrap().is_none().then_some(())
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn the_api_server_comes_back_with_its_objects() {
    let mut plane = ControlPlane::start_extent(tenon_lab::control_plane::Extent::ApiServer).await.unwrap();
    plane.apply("{apiVersion: v1, kind: Namespace, metadata: {name: lasting}}").await.unwrap();
    plane.stop_apiserver();
    assert!(plane.kubectl(&["get", "ns", "--request-timeout=1s"]).await.is_err());
    plane.start_apiserver().await.unwrap();
    let listed = plane.kubectl(&["get", "ns", "lasting", "-o", "name"]).await.unwrap();
    assert_eq!(listed.trim(), "namespace/lasting");
}
