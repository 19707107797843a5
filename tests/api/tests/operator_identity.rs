//! The operator's leadership, keys, certificates and token checks against a real API server.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser as _;
use k8s_openapi::ByteString;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Secret, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt as _};
use serde_json::json;
use tenon_lab::ControlPlane;
use tenon_lab::control_plane::{Binding, Extent, Mark, Write};
use tenon_lab::wait::until;
use tenon_operator::Args;
use tenon_operator::args::DepotUrl;
use tenon_operator::budget::Writes;
use tenon_operator::depot::token::Refusal;
use tenon_operator::depot::{TokenError, TokenVerifier};
use tenon_operator::identity::order_keys::{self, OrderKeyError};
use tenon_operator::identity::{authority::Serving, serving};
use tenon_operator::lease::election::Timing;
use tenon_operator::lease::foreign::KMM_LEASE;
use tenon_operator::lease::{Candidate, Claim, LEASE, LeaseError};
use tenon_operator::metrics::Metrics;
use tenon_operator::run::run_until;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// A quarter of the real times, for a test's sake; the API server is next door.
const TIMING: Timing = Timing {
    duration: Duration::from_secs(4),
    deadline: Duration::from_secs(3),
    interval: Duration::from_millis(400),
    foreign_patience: Duration::from_secs(3),
    foreign_interval: Duration::from_secs(1),
};
const SOON: Duration = Duration::from_secs(30);
const NOW: i64 = 1_800_000_000;

async fn api_server() -> ControlPlane {
    ControlPlane::start_extent(Extent::ApiServer).await.unwrap()
}

async fn namespace(client: &Client, name: &str) {
    let namespace = Namespace {
        metadata: ObjectMeta { name: Some(name.into()), ..ObjectMeta::default() },
        ..Namespace::default()
    };
    Api::<Namespace>::all(client.clone()).create(&PostParams::default(), &namespace).await.unwrap();
}

/// What was written to the operator's namespace. The API server itself writes elsewhere, and goes on after it is ready.
fn written_since(plane: &ControlPlane, mark: Mark) -> Vec<Write> {
    let writes = plane.audit().writes_since(mark).unwrap();
    writes.into_keys().filter(|write| write.namespace == "drivers").collect()
}

fn leader() -> Writes {
    Writes::new(1000, Claim::without_election(), Arc::new(Metrics::new()))
}

/// A candidate that is running.
struct Replica {
    claim: Claim,
    release: CancellationToken,
    task: JoinHandle<Result<(), LeaseError>>,
}

impl Replica {
    fn start(client: &Client, namespace: &str, name: &str) -> Self {
        let (candidate, claim) = Candidate::new(client, namespace, name.to_owned(), TIMING);
        let release = CancellationToken::new();
        Replica { claim, task: tokio::spawn(candidate.run(release.clone())), release }
    }

    async fn leads(&self, what: &str) {
        until(what, SOON, async || self.claim.is_current().then_some(())).await.unwrap();
    }

    async fn ended(self, what: &str) -> Result<(), LeaseError> {
        tokio::time::timeout(SOON, self.task).await.expect(what).unwrap()
    }
}

async fn lease(client: &Client, namespace: &str) -> Lease {
    Api::<Lease>::namespaced(client.clone(), namespace).get(LEASE).await.unwrap()
}

fn holder(lease: &Lease) -> Option<&str> {
    lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref())
}

#[tokio::test(flavor = "multi_thread")]
async fn leadership_passes_at_once_when_given_back_and_after_its_time_when_not() {
    let mut plane = api_server().await;
    let client = plane.client();
    namespace(&client, "drivers").await;

    let first = Replica::start(&client, "drivers", "first");
    first.leads("the first replica to lead").await;
    let second = Replica::start(&client, "drivers", "second");
    assert_eq!(holder(&lease(&client, "drivers").await), Some("first"));

    // Somebody labels the lease: renewing goes on, and the label stays.
    let label = json!({ "metadata": { "labels": { "team": "metal" } } });
    let leases: Api<Lease> = Api::namespaced(client.clone(), "drivers");
    let labelled = leases.patch(LEASE, &PatchParams::default(), &Patch::Merge(&label)).await.unwrap();
    let renewed = until("a renewal after the label", SOON, async || {
        let now = lease(&client, "drivers").await;
        (now.spec != labelled.spec).then_some(now)
    })
    .await
    .unwrap();
    assert_eq!((holder(&renewed), renewed.labels()["team"].as_str()), (Some("first"), "metal"));
    assert!(first.claim.is_current() && !second.claim.is_current());

    let began = Instant::now();
    first.release.cancel();
    first.ended("the first replica to resign").await.unwrap();
    second.leads("the second replica to follow").await;
    assert!(began.elapsed() < TIMING.duration, "it need not wait for a lease that was given back");

    // The second dies without a word.
    second.task.abort();
    let began = Instant::now();
    let third = Replica::start(&client, "drivers", "third");
    third.leads("the third replica to take over").await;
    assert!(began.elapsed() >= TIMING.duration, "a silent leader's lease is respected for its whole time");
    let transitions = lease(&client, "drivers").await.spec.and_then(|spec| spec.lease_transitions);
    assert_eq!(transitions, Some(2));
    assert_eq!(third.claim.transitions(), Some(2), "what is counted is what the lease says");

    // The API server falls silent: leadership ends by the leader's own clock.
    let began = Instant::now();
    plane.stop_apiserver();
    let claim = third.claim.clone();
    assert!(matches!(third.ended("the loss to be noticed").await, Err(LeaseError::Lost { .. })));
    assert!(!claim.is_current());
    assert!(began.elapsed() < TIMING.duration, "others may lead from then on");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_whose_lease_was_taken_ends() {
    let plane = api_server().await;
    let client = plane.client();
    namespace(&client, "drivers").await;
    let robbed = Replica::start(&client, "drivers", "robbed");
    robbed.leads("the replica to lead").await;
    let theft = json!({ "spec": { "holderIdentity": "robber" } });
    let leases: Api<Lease> = Api::namespaced(client.clone(), "drivers");
    leases.patch(LEASE, &PatchParams::default(), &Patch::Merge(&theft)).await.unwrap();
    assert!(matches!(robbed.ended("the loss to be noticed").await, Err(LeaseError::Lost { .. })));
    assert_eq!(holder(&lease(&client, "drivers").await), Some("robber"));
}

#[tokio::test(flavor = "multi_thread")]
async fn tenon_stops_while_kmms_operator_is_at_work() {
    let plane = api_server().await;
    let client = plane.client();
    namespace(&client, "drivers").await;
    namespace(&client, "kmm-somewhere").await;
    let leases: Api<Lease> = Api::namespaced(client.clone(), "kmm-somewhere");
    let leftover = Lease {
        metadata: ObjectMeta { name: Some(KMM_LEASE.into()), ..ObjectMeta::default() },
        spec: Some(LeaseSpec { holder_identity: Some("kmm-operator-1".into()), ..LeaseSpec::default() }),
    };
    leases.create(&PostParams::default(), &leftover).await.unwrap();
    let renew = async |count: i32| {
        let renewal = json!({ "spec": { "leaseTransitions": count } });
        leases.patch(KMM_LEASE, &PatchParams::default(), &Patch::Merge(&renewal)).await.unwrap();
    };

    let began = Instant::now();
    let replica = Replica::start(&client, "drivers", "tenon");
    replica.leads("a leftover lease to be passed over").await;
    assert!(began.elapsed() >= TIMING.foreign_patience);

    renew(1).await;
    let Err(LeaseError::Foreign { namespace, holder: found }) =
        replica.ended("KMM's renewal to be noticed").await
    else {
        panic!("another operator's renewal must end ours");
    };
    assert_eq!((namespace.as_str(), found.as_str()), ("kmm-somewhere", "kmm-operator-1"));
    // Nobody begins before the time of its writes is over.
    assert_eq!(holder(&lease(&client, "drivers").await), Some("tenon"), "the lease runs out");

    let again = Replica::start(&client, "drivers", "tenon-2");
    let claim = again.claim.clone();
    let renewing = async {
        for count in 2.. {
            assert!(!claim.is_current(), "nobody leads beside a living operator");
            renew(count).await;
        }
    };
    tokio::select! {
        ended = again.ended("KMM's renewals to be noticed") => {
            assert!(matches!(ended, Err(LeaseError::Foreign { .. })));
        }
        () = renewing => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_order_key_is_made_once_and_is_the_users_afterwards() {
    let plane = api_server().await;
    let (client, author) = (plane.client(), leader());
    namespace(&client, "drivers").await;
    let secrets: Api<Secret> = Api::namespaced(client.clone(), "drivers");
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "drivers");

    let standby = order_keys::ensure(&client, "drivers", None).await.unwrap();
    assert!(standby.is_none());
    assert!(secrets.get_opt(order_keys::SECRET).await.unwrap().is_none(), "a standby makes nothing");

    // Several at once, as when leadership passes in an unlucky moment: all end up with one key.
    let all = (0..8).map(|_| order_keys::ensure(&client, "drivers", Some(&author)));
    let made = futures::future::join_all(all).await;
    let ids: BTreeSet<_> =
        made.iter().map(|keys| keys.as_ref().unwrap().as_ref().unwrap().published()).collect();
    assert_eq!(ids.len(), 1);
    let published = ids.first().unwrap();
    assert_eq!(maps.get(order_keys::CONFIG_MAP).await.unwrap().data.as_ref(), Some(published));

    let mark = plane.audit().mark();
    order_keys::ensure(&client, "drivers", Some(&author)).await.unwrap().unwrap();
    let standby = order_keys::ensure(&client, "drivers", None).await.unwrap().unwrap();
    assert_eq!(&standby.published(), published);
    assert_eq!(written_since(&plane, mark), [], "nothing changed, nothing is written");

    // What somebody writes into the ConfigMap does not stay.
    let forged = json!({ "data": { "0123456789abcdef": "Zm9yZ2Vk" } });
    maps.patch(order_keys::CONFIG_MAP, &PatchParams::default(), &Patch::Merge(&forged)).await.unwrap();
    order_keys::ensure(&client, "drivers", Some(&author)).await.unwrap().unwrap();
    assert_eq!(maps.get(order_keys::CONFIG_MAP).await.unwrap().data.as_ref(), Some(published));

    // A malformed Secret is reported, and neither it nor what is published changes.
    let mut malformed = secrets.get(order_keys::SECRET).await.unwrap();
    malformed.data = Some([(order_keys::CURRENT.to_owned(), ByteString(b"no key".to_vec()))].into());
    let malformed = secrets.replace(order_keys::SECRET, &PostParams::default(), &malformed).await.unwrap();
    let error = order_keys::ensure(&client, "drivers", Some(&author)).await.unwrap_err();
    assert!(matches!(error, OrderKeyError::Malformed { .. }), "{error}");
    let after = secrets.get(order_keys::SECRET).await.unwrap();
    assert_eq!(after.resource_version(), malformed.resource_version());
    assert_eq!(maps.get(order_keys::CONFIG_MAP).await.unwrap().data.as_ref(), Some(published));
}

/// Tries again after a conflict with another replica, as the operator does.
async fn ensured(client: &Client, urls: &[DepotUrl], now: i64, author: &Writes) -> Serving {
    until("the serving certificate", SOON, async || {
        serving::ensure(client, "drivers", urls, now, Some(author)).await.ok().flatten()
    })
    .await
    .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_serving_certificate_is_shared_renewed_and_published() {
    let plane = api_server().await;
    let (client, author) = (plane.client(), leader());
    namespace(&client, "drivers").await;
    let urls = ["https://depot.example:9443".parse().unwrap(), "https://10.0.0.7:9443".parse().unwrap()];
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "drivers");

    assert!(serving::ensure(&client, "drivers", &urls, NOW, None).await.unwrap().is_none());
    let all = futures::future::join_all((0..4).map(|_| ensured(&client, &urls, NOW, &author))).await;
    assert!(all.iter().all(|serving| *serving == all[0]), "all replicas serve with one certificate");
    let published = maps.get(serving::CONFIG_MAP).await.unwrap().data.unwrap();
    assert_eq!(published[serving::TRUSTED], all[0].trusted());
    assert_eq!(published[serving::ADDRESSES], "https://depot.example:9443\nhttps://10.0.0.7:9443\n");

    let mark = plane.audit().mark();
    assert_eq!(ensured(&client, &urls, NOW + 60, &author).await, all[0]);
    assert_eq!(written_since(&plane, mark), [], "nothing changed, nothing is written");

    let in_three_weeks = NOW + 21 * 24 * 3600;
    let renewed =
        futures::future::join_all((0..4).map(|_| ensured(&client, &urls, in_three_weeks, &author))).await;
    let standby = serving::ensure(&client, "drivers", &urls, in_three_weeks, None).await.unwrap().unwrap();
    assert_ne!(standby.leaf, all[0].leaf);
    assert_eq!(standby.authority, all[0].authority);
    assert!(renewed.contains(&standby));

    let moved = ["https://elsewhere.example".parse().unwrap()];
    ensured(&client, &moved, in_three_weeks, &author).await;
    let published = maps.get(serving::CONFIG_MAP).await.unwrap().data.unwrap();
    assert_eq!(published[serving::ADDRESSES], "https://elsewhere.example:443\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_of_the_api_server_are_verified_without_asking_it() {
    let mut plane = api_server().await;
    let client = plane.client();
    namespace(&client, "drivers").await;
    let named = |name: &str| ObjectMeta { name: Some(name.into()), ..ObjectMeta::default() };
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), "drivers");
    for name in ["tenon-agent", "another"] {
        let account = ServiceAccount { metadata: named(name), ..ServiceAccount::default() };
        accounts.create(&PostParams::default(), &account).await.unwrap();
    }
    let node = Node { metadata: named("pine"), ..Node::default() };
    let node = Api::<Node>::all(client.clone()).create(&PostParams::default(), &node).await.unwrap();
    let bound = Binding::Node { name: "pine".into(), uid: node.uid().unwrap() };
    let token = async |account: &str, audience: Option<&str>, binding: &Binding| {
        plane.token("drivers", account, audience, binding).await.unwrap()
    };
    let good = token("tenon-agent", Some("tenon-depot"), &bound).await;
    let for_the_api = token("tenon-agent", None, &bound).await;
    let unbound = token("tenon-agent", Some("tenon-depot"), &Binding::None).await;
    let anothers = token("another", Some("tenon-depot"), &bound).await;

    let verifier = TokenVerifier::new(client.clone(), "drivers");
    assert_eq!(verifier.verify(&good).await, Ok("pine".parse().unwrap()));
    for (token, refusal) in
        [(for_the_api, Refusal::Audience), (unbound, Refusal::Node), (anothers, Refusal::Subject)]
    {
        assert_eq!(verifier.verify(&token).await, Err(TokenError::Refused(refusal)));
    }

    plane.stop_apiserver();
    assert_eq!(verifier.verify(&good).await, Ok("pine".parse().unwrap()), "the keys are at hand");
    let late = TokenVerifier::new(client, "drivers");
    assert_eq!(late.verify(&good).await, Err(TokenError::KeysUnknown));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_operator_makes_what_is_its_own_and_leaves_the_lease_free() {
    let plane = api_server().await;
    let client = plane.client();
    namespace(&client, "drivers").await;
    let cache = tempfile::tempdir().unwrap();
    let [kubeconfig, cache] =
        [plane.kubeconfig().as_path(), cache.path()].map(|path| path.display().to_string());
    let flags =
        ["tenon-operator", "--namespace=drivers", "--listen-depot=127.0.0.1:0", "--listen-admin=127.0.0.1:0"];
    let paths = [format!("--kubeconfig={kubeconfig}"), format!("--cache-dir={cache}")];
    let args = Args::try_parse_from(flags.into_iter().map(str::to_owned).chain(paths)).unwrap();
    let shutdown = CancellationToken::new();
    let operator = tokio::spawn(run_until(args, shutdown.clone()));

    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "drivers");
    for name in [order_keys::CONFIG_MAP, serving::CONFIG_MAP] {
        until(format!("the ConfigMap {name}"), SOON, async || maps.get_opt(name).await.unwrap())
            .await
            .unwrap();
    }
    let addresses = maps.get(serving::CONFIG_MAP).await.unwrap().data.unwrap()[serving::ADDRESSES].clone();
    assert_eq!(addresses, "https://tenon-depot.drivers.svc:8443\n");
    assert!(holder(&lease(&client, "drivers").await).is_some());

    shutdown.cancel();
    tokio::time::timeout(SOON, operator).await.expect("the operator to end").unwrap().unwrap();
    assert_eq!(holder(&lease(&client, "drivers").await), None);
}
