//! A real control plane with everything of `deploy/`, a registry, simulated nodes, and the operator as a process of its
//! own that speaks with the API server through a proxy.

use std::fs;
use std::io;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tenon_test_api::setup;

use k8s_openapi::api::core::v1::Pod;
use kube::{Client, ResourceExt as _};
use tenon_api::task::{BUILD_CONTAINER, LAYOUT};
use tenon_image::manifest::OCI_LAYER_GZIP;
use tenon_image::testing::{Auth, TestLayout, TestRegistry, layer};
use tenon_lab::child::Child;
use tenon_lab::control_plane::{Binding, Credential, Extent, kubeconfig};
use tenon_lab::faults::Proxy;
use tenon_lab::fleet::Fleet;
use tenon_lab::kernel::Origin;
use tenon_lab::programs::{Program, program};
use tenon_lab::scale::plugins::Kubelets;
use tenon_lab::setup::Supplies;
use tenon_lab::{ControlPlane, drivers, jobs, wait};
use tokio::task::JoinSet;

use crate::plot::Plot;
use crate::puller::Puller;

pub(crate) const OPERATOR_NAMESPACE: &str = "tenon-system";

/// The annotation of a pod that builds, out of which its container reads what to build.
const DOCKERFILE: &str = "tenon.dev/dockerfile";

/// What takes a second on an idle machine, a fault's delay included; but for what waits for the cluster's garbage collector, which looks
/// for kinds that are new to it every half minute.
pub(crate) const SOON: Duration = Duration::from_mins(4);

/// The operator's patience with the API server; short, so that requests without an answer do not take the day.
const API_TIMEOUT: &str = "3";

/// The whole, started once and used by one life after the other.
pub(crate) struct Stand {
    pub(crate) plot: Plot,
    pub(crate) client: Client,
    /// Between the operator and the API server.
    pub(crate) proxy: Arc<Proxy>,
    /// Between all agents and the API server.
    pub(crate) agents: Arc<Proxy>,
    pub(crate) fleet: Fleet,
    pub(crate) driver: Arc<Driver>,
    pub(crate) registry: Arc<TestRegistry>,
    pub(crate) operator: Operator,
    /// Plays those of plugins.
    _kubelets: Option<Kubelets>,
    /// Plays the kubelet of Jobs.
    _jobs: JoinSet<()>,
    _plane: Arc<ControlPlane>,
    _cache: tempfile::TempDir,
}

impl Stand {
    pub(crate) async fn start(plot: Plot) -> Self {
        let driver = tokio::task::spawn_blocking(Driver::build).await.expect("the driver");
        let plane = setup::plane_of_extent(Extent::Full).await;
        for file in [
            "namespace.yaml",
            "rbac/operator.yaml",
            "rbac/agent.yaml",
            "rbac/admission.yaml",
            "rbac/puller.yaml",
        ] {
            setup::apply(&plane, &setup::deploy(file)).await;
        }
        let registry = TestRegistry::start().await.expect("a registry");
        let cache = tempfile::tempdir().expect("a folder");
        let proxy = Arc::new(Proxy::start(&plane).await.expect("a proxy"));
        let agents = Arc::new(Proxy::start(&plane).await.expect("a proxy"));
        let fleet = Fleet::new(&plane, &plane.folder().join("fleet")).expect("a fleet");
        let operator =
            Operator::new(&plane, &proxy, &registry, plot.flags(), cache.path().join("bundles")).await;
        let (plane, registry, driver) = (Arc::new(plane), Arc::new(registry), Arc::new(driver));
        let jobs = if plot == Plot::Pulled {
            registry.require(Auth::Basic("user".to_owned(), "word".to_owned()));
            Puller { plane: plane.clone(), registry: registry.clone(), driver: driver.clone() }.serve()
        } else {
            let driver = driver.clone();
            jobs::serve_after(plane.client(), move |pod, work| driver.leave(pod, work))
        };
        let stand = Self {
            plot,
            _kubelets: (plot == Plot::Plugin).then(|| Kubelets::start(plane.client())),
            _jobs: jobs,
            client: plane.client(),
            proxy,
            agents,
            fleet,
            driver,
            registry,
            operator,
            _plane: plane,
            _cache: cache,
        };
        for version in ["v1", "v2"] {
            stand.put_image("gauge", version);
        }
        stand
    }

    /// Stores an image with the driver.
    pub(crate) fn put_image(&self, repository: &str, tag: &str) {
        self.registry.put_image(repository, tag, "amd64", &[self.driver.layer(tag)]);
    }
}

/// The driver that images hold, and the kernel that it is for: a real one, built once.
pub(crate) struct Driver {
    pub(crate) kernel: String,
    bytes: Vec<u8>,
}

impl Driver {
    fn build() -> Self {
        let supplies = Supplies::get().expect("the lab's supplies");
        let kernel = supplies.kernel(Origin::Stable).expect("the stable kernel");
        let built = drivers::build(kernel, drivers::Driver::SimpleKmod.into()).expect("the driver");
        let file = built.files().into_iter().next().expect("a module");
        Self { kernel: kernel.release.clone(), bytes: fs::read(file).expect("the module's bytes") }
    }

    /// The files of an image; `mark` makes the content another.
    fn files<'s>(&'s self, mark: &'s str) -> [(String, &'s [u8]); 2] {
        let folder = format!("opt/lib/modules/{}", self.kernel);
        [
            (format!("{folder}/extra/simple-kmod.ko"), self.bytes.as_slice()),
            (format!("{folder}/modules.order"), mark.as_bytes()),
        ]
    }

    fn layer(&self, mark: &str) -> Vec<u8> {
        let files = self.files(mark);
        layer(&files.each_ref().map(|(path, content)| (path.as_str(), *content)))
    }

    /// An image's files as a container finds them.
    pub(crate) fn unpack(&self, root: &Path, mark: &str) -> io::Result<()> {
        for (path, content) in self.files(mark) {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap_or(root))?;
            fs::write(path, content)?;
        }
        Ok(())
    }

    /// What the container that builds leaves to the one that signs and publishes, if the pod has one. What it builds follows from
    /// the Dockerfile.
    fn leave(&self, pod: &Pod, work: &Path) -> io::Result<()> {
        let containers = pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten());
        if !containers.into_iter().any(|container| container.name == BUILD_CONTAINER) {
            return Ok(());
        }
        let dockerfile = pod.annotations().get(DOCKERFILE).map(String::as_str).unwrap_or_default();
        let layout = TestLayout::create(&work.join(LAYOUT))?;
        let image = layout.put_image("amd64", &[(OCI_LAYER_GZIP, self.layer(dockerfile))])?;
        layout.put_index(&[image])
    }
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
    async fn new(
        plane: &ControlPlane,
        proxy: &Arc<Proxy>,
        registry: &TestRegistry,
        flags: &[&str],
        cache: PathBuf,
    ) -> Self {
        let program = tokio::task::spawn_blocking(|| program(Program::Operator));
        let program = program.await.expect("a thread").expect("the operator's program");
        let token =
            plane.token(OPERATOR_NAMESPACE, "tenon-operator", None, &Binding::None).await.expect("a token");
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
        command.args(flags);
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
