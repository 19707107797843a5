//! A node: a virtual machine whose loader obeys the test.

use std::time::Duration;

use tenon_api::node_pod::LOADER;
use tenon_lab::drivers::{Driver, Recipe};
use tenon_lab::guest::{Disk, Guest, Program, Settings, oci};
use tenon_lab::kernel::{Kernel, Origin};
use tenon_lab::{Bench, programs, wait};
use tenon_order::wire::{Hello, Request, WireError};
use tenon_order::{
    Generation, Load, ModuleKey, ModuleReport, NodeReport, Order, OrderedModule, Phase, SigningKey, Wish,
    sign,
};

use crate::agent::Agent;
use crate::bundle::{Bundle, Depot};

/// For what takes a moment on an idle machine.
pub(crate) const SOON: Duration = Duration::from_mins(1);
/// For what the loader waits with on purpose.
pub(crate) const LATER: Duration = Duration::from_mins(5);
/// The node's name.
pub(crate) const NAME: &str = "press-7";
/// Where `firmware_class.path` shows.
pub(crate) const FIRMWARE_PATH: &str = "/sys/module/firmware_class/parameters/path";

/// The machine, and what its operator knows of it.
pub(crate) struct Node {
    pub(crate) guest: Guest,
    pub(crate) key: SigningKey,
    pub(crate) depot: Depot,
    /// The current order; its generation is the last one that was given out.
    pub(crate) order: Order,
    /// What was loaded before the loader ran.
    before: Vec<String>,
    bench: Bench,
}

impl Node {
    pub(crate) async fn boot(origin: Origin) -> Self {
        Self::boot_with(origin, &[]).await
    }

    /// With more words on the kernel's command line.
    pub(crate) async fn boot_with(origin: Origin, arguments: &[&str]) -> Self {
        let arguments = arguments.iter().map(ToString::to_string).collect();
        Self::boot_as(origin, |settings| Settings { kernel_arguments: arguments, ..settings }).await
    }

    /// With a disk of this kind.
    pub(crate) async fn boot_on(origin: Origin, disk: Disk) -> Self {
        Self::boot_as(origin, |settings| Settings { disk, ..settings }).await
    }

    async fn boot_as(origin: Origin, change: impl FnOnce(Settings) -> Settings) -> Self {
        let bench = bench().await;
        let settings = change(bench.settings(NAME, origin).unwrap());
        let guest = bench.boot_with(settings).await.unwrap();
        let key = SigningKey::from_pkcs8(&SigningKey::generate_pkcs8().unwrap()).unwrap();
        let order = Order {
            node: NAME.parse().unwrap(),
            store: "0".repeat(32).parse().unwrap(),
            generation: Generation(0),
            modules: Vec::new(),
        };
        let mut node = Self { guest, key, depot: Depot::new(), order, before: Vec::new(), bench };
        node.start().await;
        node.order.store = node.hello().await.store;
        node
    }

    /// What a kubelet does on a node that has just booted.
    async fn start(&mut self) {
        self.before = self.proc_modules().await;
        self.start_loader().await;
    }

    /// Runs the loader's container.
    pub(crate) async fn start_loader(&self) {
        self.write_keys(&[&self.key]).await;
        self.bench.run(&self.guest, &LOADER).await.unwrap();
    }

    /// Makes the mounted list of public keys hold these.
    pub(crate) async fn write_keys(&self, keys: &[&SigningKey]) {
        let keys = keys.iter().map(|key| key.public());
        let files = keys.map(|key| (key.id().to_string(), key.to_base64().into_bytes())).collect();
        let mount = LOADER.mounts.iter().find(|mount| mount.name == "order-keys").unwrap();
        self.guest.write_volume(&oci::source(mount), files).await.unwrap();
    }

    /// Boots it anew with the disk it has; its loader runs and has heard nothing yet.
    pub(crate) async fn reset(&mut self) {
        self.guest.reset().await.unwrap();
        self.start().await;
    }

    /// Boots it anew with the disk it has; no container runs yet.
    pub(crate) async fn reset_without_pod(&mut self) {
        self.guest.reset().await.unwrap();
        self.before = self.proc_modules().await;
    }

    /// Boots what was switched off, or has ended, with the disk it has; its loader runs and has heard nothing yet.
    pub(crate) async fn switch_on(&mut self) {
        self.guest.switch_on().await.unwrap();
        self.start().await;
    }

    /// Brings the order to a loader that has no time to report.
    pub(crate) async fn apply_to_the_end(&mut self) {
        {
            let (mut agent, _) = self.agent().await;
            agent.apply(&self.signed(), &self.depot).unwrap_err();
        }
        self.guest.wait_for_end().await.unwrap();
    }

    /// Brings the order and does not wait for what becomes of it.
    pub(crate) async fn start_applying(&self) -> tokio::task::JoinHandle<bool> {
        let (address, order, depot) =
            (self.guest.loader_address().unwrap(), self.signed(), self.depot.clone());
        // As soon as it listens.
        drop(self.hello().await);
        tokio::task::spawn_blocking(move || {
            let brought = Agent::connect(address).and_then(|(mut agent, _)| agent.apply(&order, &depot));
            brought.is_ok()
        })
    }

    /// Waits until a Module stands so, asking for nothing but reports.
    pub(crate) async fn until(&self, module: &str, phase: Phase) -> ModuleReport {
        let what = format!("{module} to be {phase:?}");
        let stands =
            async || Some(of(&self.ask(Request::Report).await, module)).filter(|now| now.phase == phase);
        wait::until(what, LATER, stands).await.unwrap()
    }

    /// Pulls the plug from it and boots another kernel.
    pub(crate) async fn reset_to(&mut self, origin: Origin) {
        self.guest.unplug();
        self.guest.set_kernel(self.bench.supplies().kernel(origin).unwrap().clone()).unwrap();
        self.reset().await;
    }

    pub(crate) fn kernel(&self) -> &Kernel {
        self.guest.kernel()
    }

    /// The kernel that it does not run.
    pub(crate) fn other_kernel(&self) -> &Kernel {
        let other = |kernel: &&Kernel| kernel.origin != self.kernel().origin;
        self.bench.supplies().kernels().iter().find(other).unwrap()
    }

    /// A conversation with the loader, as soon as it listens.
    pub(crate) async fn agent(&self) -> (Agent, Hello) {
        let address = self.guest.loader_address().unwrap();
        let answer = async || Agent::connect(address).ok();
        wait::until("the loader to answer", SOON, answer).await.unwrap()
    }

    pub(crate) async fn hello(&self) -> Hello {
        self.agent().await.1
    }

    /// What to order to have a driver's module loaded, which is the last of those it is made of.
    pub(crate) fn content<'a>(&mut self, recipe: impl Into<Recipe<'a>>) -> Load {
        let recipe = recipe.into();
        let bundle = Bundle::built(self.kernel(), recipe);
        self.content_of(bundle, recipe.driver)
    }

    /// The same with a bundle that is not quite the driver's.
    pub(crate) fn content_of(&mut self, bundle: Bundle, driver: Driver) -> Load {
        let digest = bundle.manifest().digest();
        self.depot.insert(digest, bundle);
        Load {
            kernel: self.kernel().release.clone(),
            bundle: digest,
            module: driver.modules().last().unwrap().parse().unwrap(),
            parameters: Vec::new(),
            loading_order: Vec::new(),
            in_tree_to_remove: Vec::new(),
            firmware: false,
            retry: 0,
        }
    }

    /// The order with one more wish, or another one, of the next generation.
    pub(crate) fn wish(&mut self, module: &str, wish: Wish) {
        self.forget(module);
        self.order.modules.push(OrderedModule { key: key(module), wish });
    }

    /// The order without a word about the Module, of the next generation.
    pub(crate) fn forget(&mut self, module: &str) {
        self.order.modules.retain(|ordered| ordered.key != key(module));
        self.order.generation.0 += 1;
    }

    /// The signed order.
    pub(crate) fn signed(&self) -> String {
        sign(&self.order, &self.key).unwrap()
    }

    /// Brings the order as it is now, and has it applied.
    pub(crate) async fn apply(&self) -> NodeReport {
        self.talk(|agent| agent.apply(&self.signed(), &self.depot)).await
    }

    /// Asks for a report by a request that carries nothing.
    pub(crate) async fn ask(&self, request: Request) -> NodeReport {
        self.talk(|agent| agent.report(&request)).await
    }

    /// A loader that has news hangs up, so that its agent asks anew: so does this one.
    async fn talk<T>(&self, say: impl Fn(&mut Agent) -> Result<T, WireError>) -> T {
        for _ in 0..3 {
            match say(&mut self.agent().await.0) {
                Err(WireError::Closed) => {}
                said => return said.unwrap(),
            }
        }
        panic!("the loader hangs up again and again")
    }

    /// Has a Module loaded, and says how it went.
    pub(crate) async fn load(&mut self, module: &str, load: &Load) -> ModuleReport {
        self.wish(module, Wish::Loaded(load.clone()));
        of(&self.apply().await, module)
    }

    /// Has a Module removed, and says how it went.
    pub(crate) async fn remove(&mut self, module: &str) -> ModuleReport {
        self.wish(module, Wish::Removed);
        of(&self.apply().await, module)
    }

    /// What is loaded beside what the node booted with, in the order of loading.
    pub(crate) async fn modules(&self) -> Vec<String> {
        let mut modules = self.proc_modules().await;
        modules.retain(|name| !self.before.contains(name));
        modules
    }

    async fn proc_modules(&self) -> Vec<String> {
        // The newest is the first.
        let text = self.guest.shell("cut -d' ' -f1 /proc/modules").await.unwrap();
        text.lines().rev().map(ToOwned::to_owned).collect()
    }

    /// A file's text in the guest, without its line end.
    pub(crate) async fn text(&self, path: &str) -> String {
        let bytes = self.guest.read_file(path).await.unwrap();
        String::from_utf8(bytes).unwrap().trim_end().to_owned()
    }

    /// A parameter as the loaded module shows it.
    pub(crate) async fn parameter(&self, module: &str, name: &str) -> String {
        self.text(&format!("/sys/module/{module}/parameters/{name}")).await
    }
}

/// With the loader as its sources are now; no agent runs.
async fn bench() -> Bench {
    let loader = tokio::task::spawn_blocking(|| programs::program(programs::Program::Loader));
    let loader = Program {
        container: LOADER.name.to_owned(),
        path: LOADER.program.to_owned(),
        binary: loader.await.unwrap().unwrap(),
    };
    Bench::with_programs(vec![loader]).await.unwrap()
}

/// The Modules of the scenarios live in one namespace.
pub(crate) fn key(module: &str) -> ModuleKey {
    ModuleKey::new("workshop", module).unwrap()
}

/// What a report says of a Module. Its messages are for people: they can be read in the test's output.
pub(crate) fn of(report: &NodeReport, module: &str) -> ModuleReport {
    let found = report.modules.iter().find(|report| report.key == key(module)).unwrap().clone();
    println!("{}: {module}: {:?} ({:?}): {}", report.kernel, found.phase, found.reason, found.message);
    found
}

/// Names as reports have them.
pub(crate) fn names(report: &ModuleReport) -> Vec<&str> {
    report.modules.iter().map(AsRef::as_ref).collect()
}
