//! A real control plane with everything of `deploy/`, a registry, simulated nodes, and the operator as a process of its
//! own that speaks with the API server through a proxy.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kube::Client;
use tenon_image::testing::{TestRegistry, layer};
use tenon_lab::child::Child;
use tenon_lab::control_plane::{Binding, Credential, Extent, kubeconfig};
use tenon_lab::faults::Proxy;
use tenon_lab::fleet::Fleet;
use tenon_lab::kernel::Origin;
use tenon_lab::programs::{Program, program};
use tenon_lab::setup::Supplies;
use tenon_lab::{ControlPlane, drivers, jobs, wait};
use tokio::task::JoinSet;

use crate::setup;

/// What takes a second on an idle machine, a fault's delay included.
pub(crate) const SOON: Duration = Duration::from_secs(90);

/// The operator's patience with the API server; short, so that requests without an answer do not take the day.
const API_TIMEOUT: &str = "3";

/// The whole, started once and used by one life after the other.
pub(crate) struct Stand {
    pub(crate) client: Client,
    /// Between the operator and the API server.
    pub(crate) proxy: Arc<Proxy>,
    /// Between all agents and the API server.
    pub(crate) agents: Arc<Proxy>,
    pub(crate) fleet: Fleet,
    pub(crate) kernel: String,
    pub(crate) registry: TestRegistry,
    pub(crate) operator: Operator,
    /// Plays the kubelet of Jobs.
    _jobs: JoinSet<()>,
    _plane: ControlPlane,
    _cache: tempfile::TempDir,
}

impl Stand {
    pub(crate) async fn start() -> Self {
        let (kernel, driver) = tokio::task::spawn_blocking(driver).await.expect("the driver");
        let plane = setup::plane_of_extent(Extent::Full).await;
        for file in ["namespace.yaml", "rbac/operator.yaml", "rbac/agent.yaml", "rbac/admission.yaml"] {
            setup::apply(&plane, &setup::deploy(file)).await;
        }
        let registry = TestRegistry::start().await.expect("a registry");
        for version in ["v1", "v2"] {
            let folder = format!("opt/lib/modules/{kernel}");
            let files = [
                (format!("{folder}/extra/simple-kmod.ko"), driver.as_slice()),
                // Makes the content another.
                (format!("{folder}/modules.order"), version.as_bytes()),
            ];
            let files = files.each_ref().map(|(path, content)| (path.as_str(), *content));
            registry.put_image("gauge", version, "amd64", &[layer(&files)]);
        }
        let cache = tempfile::tempdir().expect("a folder");
        let proxy = Arc::new(Proxy::start(&plane).await.expect("a proxy"));
        let agents = Arc::new(Proxy::start(&plane).await.expect("a proxy"));
        let fleet = Fleet::new(&plane, &plane.folder().join("fleet")).expect("a fleet");
        let operator = Operator::new(&plane, &proxy, &registry, cache.path().join("bundles")).await;
        Self {
            _jobs: jobs::serve(plane.client()),
            client: plane.client(),
            proxy,
            agents,
            fleet,
            kernel,
            registry,
            operator,
            _plane: plane,
            _cache: cache,
        }
    }
}

/// The driver that images hold, and the kernel that it is for: a real one, built once.
fn driver() -> (String, Vec<u8>) {
    let supplies = Supplies::get().expect("the lab's supplies");
    let kernel = supplies.kernel(Origin::Stable).expect("the stable kernel");
    let built = drivers::build(kernel, drivers::Driver::SimpleKmod.into()).expect("the driver");
    let file = built.files().into_iter().next().expect("a module");
    (kernel.release.clone(), std::fs::read(file).expect("the module's bytes"))
}

/// The operator's process, started anew whenever it was killed, as a kubelet would.
pub(crate) struct Operator {
    command: Arc<Command>,
    folder: PathBuf,
    process: Arc<Mutex<Option<Child>>>,
    kills: Arc<AtomicUsize>,
    keeper: JoinSet<()>,
}

impl Operator {
    async fn new(plane: &ControlPlane, proxy: &Arc<Proxy>, registry: &TestRegistry, cache: PathBuf) -> Self {
        let program = tokio::task::spawn_blocking(|| program(Program::Operator));
        let program = program.await.expect("a thread").expect("the operator's program");
        let token =
            plane.token("tenon-system", "tenon-operator", None, &Binding::None).await.expect("a token");
        let config = kubeconfig(plane.pki(), proxy.port(), &Credential::Token(token));
        let path = plane.folder().join("operator.kubeconfig");
        std::fs::write(&path, serde_json::to_string(&config).expect("JSON")).expect("a kubeconfig");
        let depot = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port");
        let mut command = Command::new(program);
        command.arg("--kubeconfig").arg(path).arg("--cache-dir").arg(cache).args([
            "--listen-depot",
            &depot.to_string(),
            "--advertise",
            &format!("https://{depot}"),
            "--listen-admin",
            "127.0.0.1:0",
            "--leader-election",
            "off",
            "--api-timeout",
            API_TIMEOUT,
            "--registry",
            &format!("{},plain-http", registry.host()),
            "--log-level",
            "info,tenon_operator=debug",
        ]);
        let process: Arc<Mutex<Option<Child>>> = Arc::default();
        let kills = Arc::new(AtomicUsize::new(0));
        let (victim, count) = (process.clone(), kills.clone());
        proxy.set_killer(move || {
            if let Some(mut process) = victim.lock().expect("the operator's process").take() {
                process.kill();
                count.fetch_add(1, Ordering::SeqCst);
            }
        });
        let folder = plane.folder().to_owned();
        Self { command: Arc::new(command), folder, process, kills, keeper: JoinSet::new() }
    }

    /// Starts it, and again whenever it has been killed.
    pub(crate) fn start(&mut self) {
        let (command, folder, process) = (self.command.clone(), self.folder.clone(), self.process.clone());
        self.keeper.spawn(async move {
            let mut pause = tokio::time::interval(Duration::from_millis(20));
            loop {
                pause.tick().await;
                let mut process = process.lock().expect("the operator's process");
                if process.is_none() {
                    *process =
                        Some(Child::start("operator", &command, &folder).expect("the operator starts"));
                }
            }
        });
    }

    /// Kills it for good.
    pub(crate) fn stop(&mut self) {
        self.keeper = JoinSet::new();
        if let Some(mut process) = self.process.lock().expect("the operator's process").take() {
            process.kill();
        }
    }

    /// How often it was killed by a fault.
    pub(crate) fn kills(&self) -> usize {
        self.kills.load(Ordering::SeqCst)
    }

    /// An operator that ends by itself is a defect.
    pub(crate) fn check(&self) -> Result<(), String> {
        match self.process.lock().expect("the operator's process").as_mut().map(Child::check) {
            Some(Err(error)) => Err(error.to_string()),
            _ => Ok(()),
        }
    }
}

/// Waits; what does not come is told, not panicked about: another life may do better.
pub(crate) async fn until<T>(what: &str, probe: impl AsyncFnMut() -> Option<T>) -> Result<T, String> {
    wait::until(what, SOON, probe).await.map_err(|late| late.to_string())
}
