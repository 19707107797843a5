//! A whole lab: what is installed, what a node reports, what its pod gets.

use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod};
use kube::Api;
use kube::api::{ObjectMeta, PostParams};
use tenon_api::node_pod::{DEPOT_CONFIG_MAP, NAMESPACE};
use tenon_lab::kernel::Origin;
use tenon_lab::{Lab, wait};

const SOON: Duration = Duration::from_mins(1);

#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_ready_and_its_pod_has_its_volumes() {
    let mut lab = Lab::start_without_operator().await.unwrap();
    let client = lab.plane().client();
    lab.add_node("n1", Origin::Stable).await.unwrap();

    let nodes: Api<Node> = Api::all(client.clone());
    let info = nodes.get("n1").await.unwrap().status.unwrap().node_info.unwrap();
    let hello = lab.node("n1").unwrap().guest().hello().unwrap().clone();
    assert_eq!((info.kernel_version, info.boot_id), (hello.release, hello.boot_id.clone()));
    wait::until("the taint to go", SOON, async || {
        let ready = nodes.get("n1").await.unwrap().spec.and_then(|spec| spec.taints).is_none();
        ready.then_some(())
    })
    .await
    .unwrap();
    let pods: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
    assert_eq!(pods.get("tenon-node-n1").await.unwrap().status.unwrap().phase.as_deref(), Some("Running"));

    let guest = lab.node("n1").unwrap().guest();
    let volume = "/disk/pod/api-token";
    assert!(guest.shell(&format!("cat {volume}/ca.crt")).await.unwrap().starts_with("-----BEGIN"));
    assert_eq!(guest.shell(&format!("cat {volume}/namespace")).await.unwrap(), NAMESPACE);
    let token = guest.shell(&format!("cat {volume}/token")).await.unwrap();
    let claims = token.split('.').nth(1).unwrap();
    let claims = base64::Engine::decode(&base64::prelude::BASE64_URL_SAFE_NO_PAD, claims).unwrap();
    let claims: serde_json::Value = serde_json::from_slice(&claims).unwrap();
    assert_eq!(claims["kubernetes.io"]["pod"]["name"], "tenon-node-n1");
    assert_eq!(claims["kubernetes.io"]["node"]["name"], "n1");

    // A ConfigMap that comes later reaches the running pod.
    let maps: Api<ConfigMap> = Api::namespaced(client, NAMESPACE);
    let metadata = ObjectMeta { name: Some(DEPOT_CONFIG_MAP.into()), ..Default::default() };
    let data = Some([("addresses".to_owned(), "https://10.0.2.2:1".to_owned())].into());
    let map = ConfigMap { metadata, data, ..Default::default() };
    maps.create(&PostParams::default(), &map).await.unwrap();
    wait::until("the ConfigMap in the guest", SOON, async || {
        guest.read_file("/disk/pod/depot/addresses").await.ok().filter(|text| text == b"https://10.0.2.2:1")
    })
    .await
    .unwrap();

    let node = lab.node("n1").unwrap();
    node.reset().await.unwrap();
    let again = nodes.get("n1").await.unwrap().status.unwrap().node_info.unwrap();
    assert_ne!(again.boot_id, hello.boot_id);
    assert_eq!(again.boot_id, node.guest().hello().unwrap().boot_id);
    assert!(node.guest().containers().await.unwrap()["agent"].starts >= 1);
}
