//! What the API server serves before what: the operator's lease does not stand behind a fleet's reports.

use k8s_openapi::api::flowcontrol::v1::PriorityLevelConfiguration;
use kube::client::Body;
use kube::{Api, Client, ResourceExt};
use tenon_api::node_pod::{NAMESPACE, SERVICE_ACCOUNT};
use tenon_lab::wait;

use tenon_test_api::setup::{HEED, apply, deploy, plane_with_definitions, unbound};

/// The service account of `deploy/operator.yaml`.
const OPERATOR: &str = "tenon-operator";
const REPORTS: &str = "/apis/kmm.sigs.x-k8s.io/v1beta1/nodemodulesconfigs/oak";

#[tokio::test(flavor = "multi_thread")]
async fn the_operators_lease_is_served_with_elections_and_a_fleets_reports_are_not() {
    let plane = plane_with_definitions().await;
    for file in ["namespace.yaml", "rbac/agent.yaml", "rbac/operator.yaml", "flow-schemas.yaml"] {
        apply(&plane, &deploy(file)).await;
    }
    let levels: Api<PriorityLevelConfiguration> = Api::all(plane.client());
    let elections = levels.get("leader-election").await.expect("a level of every cluster").uid();
    let (operator, agent) = (unbound(&plane, OPERATOR).await, unbound(&plane, SERVICE_ACCOUNT).await);
    let lease = format!("/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases/tenon");
    wait::until("the schema is heeded", HEED, async || {
        (level(&operator, &lease).await == elections).then_some(())
    })
    .await
    .expect("the lease is at the level of elections");
    for (who, path) in [(&agent, lease.as_str()), (&agent, REPORTS), (&operator, REPORTS)] {
        let level = level(who, path).await;
        assert!(level.is_some() && level != elections, "{path}: {level:?}");
    }
}

/// The uid of the priority level at which a request was served, as the answer says it
/// (`k8s.io/api/flowcontrol/v1`, `ResponseHeaderMatchedPriorityLevelConfigurationUID`).
async fn level(client: &Client, path: &str) -> Option<String> {
    let request = http::Request::get(path).body(Body::empty()).expect("a request");
    let answer = client.send(request).await.expect("an answer, whatever it is");
    let level = answer.headers().get("x-kubernetes-pf-prioritylevel-uid")?;
    level.to_str().ok().map(str::to_owned)
}
