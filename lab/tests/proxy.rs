//! The proxy does to a conversation with a real API server what it was told to, once, and nothing else.
#![expect(clippy::unwrap_used, reason = "a test program: whatever fails ends it")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{ObjectMeta, PostParams, WatchEvent, WatchParams};
use kube::config::{Config, KubeConfigOptions};
use kube::{Api, Client, ResourceExt as _};
use tenon_lab::ControlPlane;
use tenon_lab::control_plane::{Binding, Credential, Extent, kubeconfig};
use tenon_lab::faults::{Fault, Frozen, Kind, Proxy, Rule, Seen};
use tenon_lab::wait;
use tokio::time::timeout;

const SOON: Duration = Duration::from_secs(30);
/// Long enough for an answer that would come, were it not held back.
const HELD_BACK: Duration = Duration::from_secs(1);

const ACCOUNT: &str = "
apiVersion: v1
kind: ServiceAccount
metadata: {name: writer, namespace: default}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: writer}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: cluster-admin}
subjects: [{kind: ServiceAccount, name: writer, namespace: default}]
";

struct Conversation {
    proxy: Proxy,
    /// Through the proxy.
    maps: Api<ConfigMap>,
    /// Past it.
    truth: Api<ConfigMap>,
    _plane: ControlPlane,
}

impl Conversation {
    async fn begin() -> Self {
        let plane = ControlPlane::start_extent(Extent::ApiServer).await.unwrap();
        plane.apply(ACCOUNT).await.unwrap();
        let token = plane.token("default", "writer", None, &Binding::None).await.unwrap();
        let proxy = Proxy::start(&plane).await.unwrap();
        let config = kubeconfig(plane.pki(), proxy.port(), &Credential::Token(token));
        let mut config = Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await.unwrap();
        config.default_retry = false;
        Self {
            proxy,
            maps: Api::namespaced(Client::try_from(config).unwrap(), "default"),
            truth: Api::namespaced(plane.client(), "default"),
            _plane: plane,
        }
    }

    async fn create(&self, name: &str) -> kube::Result<ConfigMap> {
        let metadata = ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() };
        self.maps.create(&PostParams::default(), &ConfigMap { metadata, ..ConfigMap::default() }).await
    }

    async fn exists(&self, name: &str) -> bool {
        self.truth.get_opt(name).await.unwrap().is_some()
    }

    fn arm(&self, fault: Fault) {
        self.proxy.arm(Rule::nth(1, |seen| seen.kind == Kind::Write, fault));
    }
}

#[tokio::test]
async fn each_fault_does_to_one_write_what_it_says() {
    let talk = Conversation::begin().await;
    let deaths = Arc::new(AtomicUsize::new(0));
    let count = deaths.clone();
    talk.proxy.set_killer(move || {
        count.fetch_add(1, Ordering::SeqCst);
    });
    for (fault, is_done, dies) in
        [(Fault::KillBefore, false, true), (Fault::KillAfter, true, true), (Fault::LoseAnswer, true, false)]
    {
        talk.arm(fault);
        let name = fault.to_string();
        let before = deaths.load(Ordering::SeqCst);
        assert!(!matches!(talk.create(&name).await, Ok(_) | Err(kube::Error::Api(_))), "{fault}: no answer");
        assert_eq!(talk.exists(&name).await, is_done, "{fault}");
        assert_eq!(deaths.load(Ordering::SeqCst) - before, usize::from(dies), "{fault}");
    }
    for (fault, is_done) in [(Fault::Swallow, false), (Fault::Hush, true)] {
        talk.arm(fault);
        let name = fault.to_string();
        assert!(timeout(HELD_BACK, talk.create(&name)).await.is_err(), "{fault}: no answer");
        assert_eq!(talk.exists(&name).await, is_done, "{fault}");
    }
    talk.arm(Fault::Answer(429, Some(7)));
    let Err(kube::Error::Api(status)) = talk.create("refused").await else { panic!("it was done") };
    assert_eq!((status.code, status.details.unwrap().retry_after_seconds), (429, 7));
    assert!(!talk.exists("refused").await);
    talk.arm(Fault::Twice);
    let Err(kube::Error::Api(status)) = talk.create("twice").await else { panic!("it came once") };
    assert!(status.is_already_exists(), "the second of two equal requests is answered");
    talk.arm(Fault::Delay(HELD_BACK));
    let begin = std::time::Instant::now();
    talk.create("late").await.unwrap();
    assert!(begin.elapsed() >= HELD_BACK && talk.exists("late").await);
    talk.create("undisturbed").await.unwrap();
    let writes = talk.proxy.journal();
    let answers: Vec<_> = writes.writes().map(|seen: &Seen| seen.status).collect();
    let expected = [None, Some(201), Some(201), None, Some(201), None, Some(409), Some(201), Some(201)];
    assert_eq!(answers, expected, "what the API server did is written down, whoever heard of it");
}

#[tokio::test]
async fn watches_are_held_back_cut_and_refused() {
    let talk = Conversation::begin().await;
    let version = talk.truth.list(&kube::api::ListParams::default()).await.unwrap().metadata.resource_version;
    let version = version.unwrap();
    let mut events = talk.maps.watch(&WatchParams::default(), &version).await.unwrap().boxed();
    let name = |event: Option<WatchEvent<ConfigMap>>| match event {
        Some(WatchEvent::Added(map)) => map.name_any(),
        other => panic!("{other:?}"),
    };
    talk.create("seen").await.unwrap();
    assert_eq!(name(timeout(SOON, events.try_next()).await.unwrap().unwrap()), "seen");
    assert_eq!(talk.proxy.open_watches(), 1);

    talk.proxy.set_frozen(Frozen::Resource("configmaps".to_owned()));
    talk.create("held").await.unwrap();
    assert!(timeout(HELD_BACK, events.try_next()).await.is_err(), "nothing is said");
    talk.proxy.set_frozen(Frozen::Resource("secrets".to_owned()));
    assert_eq!(name(timeout(SOON, events.try_next()).await.unwrap().unwrap()), "held");

    talk.proxy.cut_watches();
    let end = timeout(SOON, events.next()).await.unwrap();
    assert!(!matches!(end, Some(Ok(_))), "the watch has ended: {end:?}");
    wait::until("no watch is open", SOON, async || (talk.proxy.open_watches() == 0).then_some(()))
        .await
        .unwrap();

    talk.proxy.set_down(true);
    assert!(talk.create("nowhere").await.is_err());
    talk.proxy.set_down(false);
    talk.create("again").await.unwrap();
    assert!(!talk.exists("nowhere").await && talk.exists("again").await);
}
