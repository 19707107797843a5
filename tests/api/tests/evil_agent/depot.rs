//! Attempts at the depot: what other nodes have, and lies about kernels that would keep drivers from others.

use std::net::TcpStream;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{ListParams, Patch, PatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config, ResourceExt as _};
use serde_json::json;
use tenon_api::NodeModulesConfig;
use tenon_api::kernel_facts::{BUILD_ID, LABEL, MAX_BYTES, SOURCE};
use tenon_api::node_pod::{DEPOT_AUDIENCE, DEPOT_CONFIG_MAP, NAMESPACE, SERVICE_ACCOUNT};
use tenon_kmod::facts::KernelFacts;
use tenon_kmod::object::Architecture;
use tenon_lab::control_plane::Binding;
use tenon_lab::wait;

use crate::stand::{FOREIGN, OTHER, OWN, SHARED, Stand, assert_same, send};
use tenon_test_api::cluster::SOON;

/// The depot as the node pod's mounts describe it.
struct Depot {
    address: String,
    authority: std::path::PathBuf,
    _folder: tempfile::TempDir,
}

impl Depot {
    async fn of(stand: &Stand) -> Self {
        let maps: Api<ConfigMap> = Api::namespaced(stand.cluster.client.clone(), NAMESPACE);
        let data = maps.get(DEPOT_CONFIG_MAP).await.expect("the depot's ConfigMap").data.expect("data");
        let folder = tempfile::tempdir().expect("a folder");
        let authority = folder.path().join("ca.crt");
        std::fs::write(&authority, &data["ca.crt"]).expect("a file");
        Self { address: data["addresses"].trim().to_owned(), authority, _folder: folder }
    }

    /// A client with this token, or with none.
    async fn client(&self, token: &str) -> Client {
        let config: Kubeconfig = serde_json::from_value(json!({
            "clusters": [{"name": "d", "cluster": {"server": self.address, "certificate-authority": self.authority}}],
            "users": [{"name": "d", "user": if token.is_empty() { json!({}) } else { json!({"token": token}) }}],
            "contexts": [{"name": "d", "context": {"cluster": "d", "user": "d"}}],
            "current-context": "d",
        }))
        .expect("a kubeconfig");
        let mut config =
            Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await.expect("a config");
        // Every answer counts, also one that says to come back.
        config.default_retry = false;
        Client::try_from(config).expect("a client")
    }
}

/// A bundle as the enemy's own node gets it.
pub(crate) async fn fetch(stand: &Stand, bundle: &str) -> Vec<u8> {
    let client = Depot::of(stand).await.client(&stand.depot_token(OWN).await).await;
    let (status, bytes) = send(&client, "GET", &format!("/v1/bundles/{bundle}"), &[], Vec::new()).await;
    assert_eq!(status, 200);
    bytes
}

/// The bundle that a node is assigned for a Module.
async fn bundle(stand: &Stand, node: &str, module: &str) -> String {
    let config = stand.cluster.configs().get(node).await.expect("an object");
    let entry = config.spec.modules.into_iter().find(|entry| entry.name == module).expect("the Module");
    entry.bundle.expect("a bundle")
}

/// What it is, method, path, headers, and the status that denies it.
type Case<'a> = (&'a str, &'a str, &'a str, &'a [(&'a str, &'a str)], u16);

#[tokio::test(flavor = "multi_thread")]
async fn the_depot_gives_a_node_its_own_bundles_and_nothing_else() {
    let mut stand = Stand::start().await;
    let depot = Depot::of(&stand).await;
    let (own, foreign) = (bundle(&stand, OWN, SHARED).await, bundle(&stand, OTHER, FOREIGN).await);
    assert_ne!(own, foreign);
    let token = stand.depot_token(OWN).await;
    let client = depot.client(&token).await;
    let others = depot.client(&stand.depot_token(OTHER).await).await;
    let own_path = format!("/v1/bundles/{own}");
    let foreign_path = format!("/v1/bundles/{foreign}");
    let (status, whole) = send(&client, "GET", &own_path, &[], Vec::new()).await;
    assert!(status == 200 && !whole.is_empty(), "what it is assigned is served: {status}");
    assert_eq!(send(&others, "GET", &foreign_path, &[], Vec::new()).await.0, 200);

    let before = stand.picture_at_rest().await;
    let nothing: &[(&str, &str)] = &[];
    let zeros = format!("/v1/bundles/sha256:{}", "0".repeat(64));
    let long = format!("/v1/bundles/{}", "a".repeat(8000));
    let cases: [Case<'_>; 18] = [
        ("another node's bundle", "GET", &foreign_path, nothing, 403),
        ("its size", "HEAD", &foreign_path, nothing, 403),
        ("a part of it", "GET", &foreign_path, &[("range", "bytes=0-0")], 403),
        (
            "another node's bundle, in its name",
            "GET",
            &foreign_path,
            &[("x-forwarded-for", "10.0.0.9"), ("x-node", OTHER)],
            403,
        ),
        ("a bundle that nobody has", "GET", &zeros, nothing, 403),
        ("more than there is", "GET", &own_path, &[("range", "bytes=99999999999-")], 416),
        ("a way upwards", "GET", "/v1/bundles/../../etc/passwd", nothing, 404),
        ("an encoded way upwards", "GET", "/v1/bundles/%2e%2e%2f%2e%2e%2fetc%2fpasswd", nothing, 404),
        ("an absolute path", "GET", "/v1/bundles//etc/passwd", nothing, 404),
        ("a short digest", "GET", "/v1/bundles/sha256:00", nothing, 404),
        ("a long name", "GET", &long, nothing, 404),
        ("the list of bundles", "GET", "/v1/bundles/", nothing, 404),
        ("the root", "GET", "/", nothing, 404),
        ("the metrics", "GET", "/metrics", nothing, 404),
        ("its own bundle, replaced", "PUT", &own_path, nothing, 405),
        ("its own bundle, deleted", "DELETE", &own_path, nothing, 405),
        ("another node's bundle, replaced", "PUT", &foreign_path, nothing, 405),
        ("what kernels are known", "GET", "/v1/kernels/6.1.0/00ff", nothing, 405),
    ];
    for (what, method, path, headers, expected) in cases {
        let (status, answer) = send(&client, method, path, headers, Vec::new()).await;
        assert_eq!(status, expected, "{what}: {:.300}", String::from_utf8_lossy(&answer));
    }

    let plane = &stand.cluster.plane;
    let none =
        plane.token(NAMESPACE, SERVICE_ACCOUNT, Some(DEPOT_AUDIENCE), &Binding::None).await.expect("a token");
    let anothers =
        plane.token("hall", "default", Some(DEPOT_AUDIENCE), &Binding::None).await.expect("a token");
    let parts: Vec<_> = token.split('.').collect();
    let [head, payload, signature] = parts.as_slice() else { panic!("a token has three parts") };
    let other_token = stand.depot_token(OTHER).await;
    let others_payload = other_token.split('.').nth(1).expect("a token has three parts");
    for (what, token) in [
        ("no token", String::new()),
        ("the token for the API server", stand.token(OWN, None).await),
        ("a token that names no node", none),
        ("another account's token", anothers),
        ("another node's claims under its own signature", format!("{head}.{others_payload}.{signature}")),
        ("a token without signature", format!("eyJhbGciOiJub25lIn0.{payload}.")),
        ("a token of eight thousand bytes", "a".repeat(8000)),
    ] {
        let client = depot.client(&token).await;
        for path in [&own_path, &foreign_path] {
            assert_eq!(send(&client, "GET", path, &[], Vec::new()).await.0, 401, "{what}");
        }
    }
    let (status, _) = send(&client, "GET", &own_path, &[("x-large", &"x".repeat(60_000))], Vec::new()).await;
    assert_eq!(status, 431, "large headers");

    // Connections that say nothing do not keep others from theirs.
    let address = depot.address.trim_start_matches("https://");
    let silent: Vec<_> = (0..200).map(|_| TcpStream::connect(address).expect("a connection")).collect();
    assert_eq!(
        send(&others, "GET", &foreign_path, &[], Vec::new()).await.0,
        200,
        "beside {} silent ones",
        silent.len()
    );
    let (status, again) = send(&client, "GET", &own_path, &[], Vec::new()).await;
    assert!(status == 200 && again == whole, "the bundle is what it was");
    assert_same("asking the depot", &before, &stand.picture().await);
    stand.cluster.stop_operator().await;
}

fn facts(release: &str, build: &str) -> Vec<u8> {
    let mut facts =
        KernelFacts::new(release.parse().expect("a release"), Architecture::named("amd64").expect("amd64"));
    facts.build_id = Some(build.parse().expect("a build-id"));
    facts.encode()
}

/// The facts that nodes have told: whose, about which build, and the Node that they end with.
async fn told(stand: &Stand) -> Vec<[String; 3]> {
    let maps: Api<ConfigMap> = Api::namespaced(stand.cluster.client.clone(), NAMESPACE);
    let maps = maps.list(&ListParams::default().labels(&format!("{LABEL}=true"))).await.expect("a list");
    let said = |map: &ConfigMap, key| map.annotations().get(key).cloned().unwrap_or_default();
    let owner = |map: &ConfigMap| map.owner_references().iter().map(|owner| owner.name.clone()).collect();
    maps.iter().map(|map| [said(map, SOURCE), said(map, BUILD_ID), owner(map)]).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_tells_of_the_kernel_that_it_runs_once_in_one_object_and_of_no_other() {
    const MINE: &str = "aa00";
    let mut stand = Stand::start().await;
    let depot = Depot::of(&stand).await;
    let client = depot.client(&stand.depot_token(OWN).await).await;
    let configs: Api<NodeModulesConfig> = Api::all(stand.client(stand.token(OWN, None).await).await);
    let kernel = stand.cluster.kernel.clone();
    let says = async |release: &str, build: &str| {
        let status = json!({"status": {"kernelVersion": release, "kernelBuildId": build}});
        configs
            .patch_status(OWN, &PatchParams::default(), &Patch::Merge(status))
            .await
            .expect("its own status");
    };
    let ask = async |method: &str, release: &str, build: &str, body: Vec<u8>| {
        send(&client, method, &format!("/v1/kernels/{release}/{build}"), &[], body).await.0
    };
    let asked_for = async |build: &str, expected: u16| {
        wait::until(&format!("the answer {expected} about {build}"), SOON, async || {
            (ask("HEAD", &kernel, build, Vec::new()).await == expected).then_some(())
        })
        .await
        .expect("an answer");
    };

    // Its agent says that it runs another kernel, its kubelet does not.
    says("6.6.6-evil", MINE).await;
    let after = json!({"metadata": {"labels": {"seen": "evil"}}});
    stand.cluster.nodes().patch(OWN, &PatchParams::default(), &Patch::Merge(after)).await.expect("a label");
    stand.cluster.node_where(OWN, "a label", |node| node.labels().contains_key("seen")).await;
    for method in ["HEAD", "PUT"] {
        assert_eq!(ask(method, "6.6.6-evil", MINE, facts("6.6.6-evil", MINE)).await, 403, "{method}");
    }
    says(&kernel, MINE).await;
    asked_for(MINE, 404).await;
    let mut other_machine =
        KernelFacts::new(kernel.parse().expect("a release"), Architecture::named("arm64").expect("arm64"));
    other_machine.build_id = Some(MINE.parse().expect("a build-id"));
    for (what, build, body, expected) in [
        ("of a build that it does not run", "bb00", facts(&kernel, "bb00"), 403),
        ("of another build under its own's name", MINE, facts(&kernel, "bb00"), 422),
        ("of another release", MINE, facts("6.6.6", MINE), 422),
        ("of another architecture", MINE, other_machine.encode(), 422),
        ("nonsense", MINE, b"TENONKF1 nonsense".to_vec(), 422),
        ("too much", MINE, vec![0; MAX_BYTES + 1], 422),
        ("to a way upwards", "../../aa00", facts(&kernel, MINE), 404),
    ] {
        assert_eq!(ask("PUT", &kernel, build, body).await, expected, "{what}");
    }
    assert!(told(&stand).await.is_empty(), "nothing of this is kept");

    assert_eq!(ask("PUT", &kernel, MINE, facts(&kernel, MINE)).await, 204, "what it runs, it may tell");
    let mine = [format!("node:{OWN}"), MINE.to_owned(), OWN.to_owned()];
    assert_eq!(told(&stand).await, [mine]);
    // One build after the other.
    for number in 0..20 {
        let build = format!("cc{number:02}");
        says(&kernel, &build).await;
        asked_for(&build, 429).await;
        assert_eq!(ask("PUT", &kernel, &build, facts(&kernel, &build)).await, 429);
    }
    assert_eq!(told(&stand).await.len(), 1);
    // A new operator remembers nothing: what the node tells now takes the place of what it told.
    stand.cluster.stop_operator().await;
    stand.cluster.start_operator().await;
    wait::until("the depot asks for the last build", SOON, async || {
        // Its connections are refused until it listens.
        let head =
            http::Request::head(format!("/v1/kernels/{kernel}/cc19")).body(kube::client::Body::empty());
        let answer = client.send(head.expect("a request")).await.ok()?;
        (answer.status().as_u16() == 404).then_some(())
    })
    .await
    .expect("a depot");
    assert_eq!(ask("PUT", &kernel, "cc19", facts(&kernel, "cc19")).await, 204);
    assert_eq!(told(&stand).await, [[format!("node:{OWN}"), "cc19".to_owned(), OWN.to_owned()]]);
    stand.cluster.nodes().delete(OWN, &kube::api::DeleteParams::default()).await.expect("a deletion");
    wait::until("it is gone with its Node", SOON, async || told(&stand).await.is_empty().then_some(()))
        .await
        .expect("nothing of a node that is gone");
    stand.cluster.stop_operator().await;
}
