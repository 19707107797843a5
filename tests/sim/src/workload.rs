//! What users, administrators and faults do in a run.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tenon_api::Module;
use tenon_api::labels::LabelKind;
use tenon_api::module::{
    CommonContainer, DevicePlugin, Dra, DraDeviceClass, KernelMapping, Modprobe, ModuleContainer,
    ModuleLoader, ModuleSpec, Rollout,
};
use tenon_order::ModuleKey;

use crate::api::Kind;
use crate::invariants::Before;
use crate::machine::IN_TREE;
use crate::registry::KERNELS;
use crate::rng::Rng;

/// A kind of run. The numbers are those of the fault matrix in the reliability goals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Workload {
    /// W1: a driver is loaded on three nodes.
    Load,
    /// W2: and removed, with nodes off and on.
    Delete,
    /// W3: its image is changed, perhaps more than once.
    Upgrade,
    /// W4: nodes reboot, some into another kernel.
    Kernels,
    /// W8: nodes come, go, are relabelled and tainted.
    Nodes,
    /// W9: two Modules share a kernel module; or have one name in two namespaces.
    Shared,
    /// W5: a driver is changed node by node, with a bad version on the way, and limits that change.
    Rolling,
    /// W14: a driver fails, or takes its node down, and is mended.
    Failing,
    /// Keys are rotated, stores wiped, nodes made anew, objects restored from a backup.
    Disasters,
    /// W10: a driver has a device plugin or a DRA driver beside it, which comes, changes and goes.
    Plugins,
    /// W10: and is changed node by node, as version labels say.
    Ordered,
    /// W12: somebody asks whether drivers will be there on another kernel.
    Preflights,
    /// Some of everything.
    Mixed,
}

impl Workload {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::Load,
        Self::Delete,
        Self::Upgrade,
        Self::Kernels,
        Self::Nodes,
        Self::Shared,
        Self::Rolling,
        Self::Failing,
        Self::Disasters,
        Self::Plugins,
        Self::Ordered,
        Self::Preflights,
        Self::Mixed,
    ];

    /// The name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Load => "load",
            Self::Delete => "delete",
            Self::Upgrade => "upgrade",
            Self::Kernels => "kernels",
            Self::Nodes => "nodes",
            Self::Shared => "shared",
            Self::Rolling => "rolling",
            Self::Failing => "failing",
            Self::Disasters => "disasters",
            Self::Plugins => "plugins",
            Self::Ordered => "ordered",
            Self::Preflights => "preflights",
            Self::Mixed => "mixed",
        }
    }

    /// The workload of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|workload| workload.name() == name)
    }
}

/// One act. Nodes and replicas are named by their place.
#[derive(Debug, Clone)]
pub enum Act {
    /// A user makes or changes a Module: driver, version, and what it selects.
    Put(ModuleKey, Wish),
    /// A user deletes a Module.
    Delete(ModuleKey),
    /// A user wants what failed tried again.
    Retry(ModuleKey, u32),
    /// An administrator labels a node, or takes the label away.
    Label(usize, &'static str, Option<&'static str>),
    /// A node is cordoned or the cordon lifted.
    Taint(usize, bool),
    /// A node restarts, perhaps with another kernel.
    Reboot(usize, Option<usize>),
    /// A node is switched off for so long.
    Off(usize, u64),
    /// The power goes, or (`true`) the loader is killed, in the midst of its next work.
    Fuse(usize, u32, bool),
    /// The agent is started anew.
    KillAgent(usize),
    /// The node's disk is wiped while it is off.
    Wipe(usize),
    /// The Node object is deleted, and the node registers anew; the store may be another.
    Remake(usize, bool),
    /// The node leaves for good.
    Leave(usize),
    /// A node joins.
    Join(usize),
    /// `rmmod` by hand.
    Rmmod(usize, &'static str),
    /// Somebody loads a module of their own under this name.
    Foreign(usize, &'static str),
    /// A program uses a module for so long.
    Use(usize, &'static str, u64),
    /// It no longer does.
    Unuse(usize, &'static str),
    /// The registry is down for so long.
    RegistryDown(u64),
    /// The registry is back.
    RegistryUp,
    /// A tag stands for another version from now on, or for nothing.
    Tag(String, Option<u32>),
    /// A tag is as it was.
    Untag(String),
    /// A replica's process is killed.
    Kill(usize),
    /// A replica's process is stopped for so long.
    Freeze(usize, u64),
    /// A replica's clock is wrong by so much.
    Skew(usize, i64),
    /// A watch of a replica breaks.
    BreakWatch(usize, Kind),
    /// Another key signs; the old one is gone, or (`true`) is kept beside it for a while.
    RotateKey(bool),
    /// The old key is dropped.
    DropOldKey,
    /// A user labels a node with the version of a Module that it should have, or takes the label away.
    Version(usize, ModuleKey, Option<u32>),
    /// Somebody deletes a node's plugin pods.
    KillPods(usize),
    /// Somebody changes the plugins' `DaemonSet`s.
    Meddle,
    /// Somebody else makes a device class.
    Class(&'static str),
    /// A user asks for a preflight on this kernel, or has asked enough.
    Preflight(&'static str, Option<&'static str>),
    /// Somebody makes a copy of nodes' objects.
    Backup,
    /// The copy is put back.
    Restore,
}

/// `spec.rollout.maxUnavailable`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// It is not set.
    Unset,
    /// So many nodes.
    Nodes(i32),
    /// So many of a hundred.
    Percent(u32),
}

/// What runs beside a driver; the number tells one spec from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plugin {
    /// Nothing.
    None,
    /// A device plugin.
    Device(u32),
    /// A DRA driver, with one or two device classes.
    Dra(u32),
}

/// The device classes of DRA drivers.
pub const CLASSES: [&str; 2] = ["gauge.test", "dial.test"];

/// What a user asks of a Module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wish {
    /// The driver.
    pub driver: &'static str,
    /// The image's version.
    pub version: u32,
    /// The label that nodes must have.
    pub selector: (&'static str, &'static str),
    /// How many of the kernels are mapped.
    pub kernels: usize,
    /// Whether the in-tree module makes room.
    pub in_tree: bool,
    /// A parameter, to change without a new image.
    pub parameter: u32,
    /// On how many nodes a change may take the driver away at a time.
    pub limit: Limit,
    /// What runs beside it.
    pub plugin: Plugin,
    /// Whether nodes get a version when their labels say so.
    pub is_ordered: bool,
}

impl Wish {
    /// `driver` at `version` on the nodes of hall a.
    pub const fn of(driver: &'static str, version: u32) -> Self {
        Self {
            driver,
            version,
            selector: ("hall", "a"),
            kernels: 2,
            in_tree: false,
            parameter: 0,
            limit: Limit::Unset,
            plugin: Plugin::None,
            is_ordered: false,
        }
    }

    /// The Module's object; its metadata is the server's.
    pub fn module(self) -> Module {
        let mapping =
            |kernel: &&str| KernelMapping { literal: Some((*kernel).to_owned()), ..KernelMapping::default() };
        let parameters =
            if self.parameter == 0 { Vec::new() } else { vec![format!("level={}", self.parameter)] };
        let container = ModuleContainer {
            container_image: Some(format!(
                "reg.test/{}:v{}-${{KERNEL_FULL_VERSION}}",
                self.driver, self.version
            )),
            kernel_mappings: KERNELS.iter().take(self.kernels).map(mapping).collect(),
            modprobe: Modprobe {
                module_name: Some(self.driver.to_owned()),
                parameters,
                ..Modprobe::default()
            },
            version: self.is_ordered.then(|| self.version.to_string()),
            in_tree_modules_to_remove: self.in_tree.then(|| vec![IN_TREE.to_owned()]),
            ..ModuleContainer::default()
        };
        let limit = match self.limit {
            Limit::Unset => None,
            Limit::Nodes(number) => Some(IntOrString::Int(number)),
            Limit::Percent(number) => Some(IntOrString::String(format!("{number}%"))),
        };
        let image = |number: u32| CommonContainer {
            image: format!("reg.test/plugin:{number}"),
            ..CommonContainer::default()
        };
        let class = |name: &&str| DraDeviceClass { name: (*name).to_owned(), ..DraDeviceClass::default() };
        let device_plugin = match self.plugin {
            Plugin::Device(number) => {
                Some(DevicePlugin { container: image(number), ..DevicePlugin::default() })
            }
            Plugin::None | Plugin::Dra(_) => None,
        };
        let dra = match self.plugin {
            Plugin::Dra(number) => Some(Dra {
                container: image(number),
                driver_name: self.driver.to_owned(),
                device_classes: CLASSES.iter().take(1 + number as usize % 2).map(class).collect(),
                ..Dra::default()
            }),
            Plugin::None | Plugin::Device(_) => None,
        };
        Module::new(
            self.driver,
            ModuleSpec {
                device_plugin,
                dra,
                rollout: limit.map(|limit| Rollout { max_unavailable: Some(limit) }),
                module_loader: Some(ModuleLoader { container, ..ModuleLoader::default() }),
                selector: BTreeMap::from([(self.selector.0.to_owned(), self.selector.1.to_owned())]),
                ..ModuleSpec::default()
            },
        )
    }
}

/// A run's plan.
#[derive(Debug)]
pub struct Script {
    /// How many replicas there are.
    pub replicas: usize,
    /// How many nodes there are; those that register by themselves.
    pub nodes: usize,
    /// Which of them.
    pub registers: BTreeSet<usize>,
    /// What is done when.
    pub acts: Vec<(u64, Act)>,
    /// When faults end.
    pub faults_end: u64,
    /// How long nothing may be written at the end.
    pub rest: u64,
    /// Whether the operator is started anew when everything is at rest.
    pub restarts: bool,
    /// The Modules.
    pub keys: Vec<(ModuleKey, &'static str)>,
    /// The label by which each is said to be ready.
    pub ready_labels: Vec<String>,
    /// Nodes whose next death is that of the loader alone.
    pub kills: BTreeSet<usize>,
    /// What was loaded before the work that is being looked at.
    pub before: Before,
}

/// A label that a discovery tool looks after.
pub const DISCOVERED: &str = "feature.node.kubernetes.io/gauge";

struct Draft<'a> {
    rng: &'a mut Rng,
    acts: Vec<(u64, Act)>,
    keys: Vec<(ModuleKey, &'static str)>,
    now: u64,
}

impl Script {
    /// The plan of a workload, drawn from `rng`.
    pub fn of(workload: Workload, rng: &mut Rng) -> Self {
        let mut draft = Draft { rng, acts: Vec::new(), keys: Vec::new(), now: 0 };
        let faulty = draft.draw(workload);
        let Draft { rng, mut acts, keys, now, .. } = draft;
        let nodes =
            if matches!(workload, Workload::Nodes | Workload::Rolling | Workload::Mixed) { 4 } else { 3 };
        acts.sort_by_key(|(at, _)| *at);
        let last = acts.last().map_or(0, |(at, _)| *at).max(now);
        let ready = |(key, _): &(ModuleKey, _)| LabelKind::Ready.key(key.namespace(), key.name());
        Self {
            ready_labels: keys.iter().map(ready).collect(),
            replicas: 2,
            nodes,
            registers: (0..if workload == Workload::Rolling { 4 } else { 3 }).collect(),
            acts,
            faults_end: if faulty { last + 500 } else { 0 },
            rest: if rng.chance(30) { 11 * 60 * 1000 } else { 5000 },
            restarts: rng.chance(200),
            keys,
            kills: BTreeSet::new(),
            before: Before::default(),
        }
    }
}

impl Draft<'_> {
    fn pass(&mut self, most: u64) {
        // Often close together: that is where things cross.
        let most = if self.rng.chance(500) { most.min(300) } else { most };
        self.now += self.rng.between(0, most);
    }

    fn act(&mut self, act: Act) {
        self.acts.push((self.now, act));
    }

    fn put(&mut self, key: &str, wish: Wish) {
        let Ok(key) = key.parse::<ModuleKey>() else { return };
        if !self.keys.iter().any(|(known, _)| *known == key) {
            self.keys.push((key.clone(), wish.driver));
        }
        self.act(Act::Put(key, wish));
    }

    fn delete(&mut self, key: &str) {
        if let Ok(key) = key.parse() {
            self.act(Act::Delete(key));
        }
    }

    fn node(&mut self) -> usize {
        usize::try_from(self.rng.below(3)).unwrap_or_default()
    }

    /// Says what is done; returns whether there are faults.
    fn draw(&mut self, workload: Workload) -> bool {
        let calm = self.rng.chance(if workload == Workload::Load { 700 } else { 100 });
        self.now = self.rng.between(0, 1500);
        match workload {
            Workload::Load => self.put("lab/gauge", Wish::of("gauge", 1)),
            Workload::Delete => self.deletion(),
            Workload::Upgrade => self.upgrade(),
            Workload::Kernels => self.kernels(),
            Workload::Nodes => self.nodes(),
            Workload::Shared => self.shared(true),
            Workload::Rolling => self.rolling(),
            Workload::Failing => self.failing(),
            Workload::Disasters => self.disasters(),
            Workload::Plugins => self.plugins(),
            Workload::Ordered => self.ordered(),
            Workload::Preflights => self.preflights(),
            Workload::Mixed => self.mixed(),
        }
        if !calm {
            self.faults();
        }
        !calm
    }

    fn deletion(&mut self) {
        let wish = Wish { in_tree: self.rng.chance(300), ..Wish::of("gauge", 1) };
        self.put("lab/gauge", wish);
        self.pass(8000);
        if self.rng.chance(500) {
            let (node, time) = (self.node(), self.rng.between(1000, 60_000));
            self.act(Act::Off(node, time));
            self.pass(2000);
        }
        self.delete("lab/gauge");
        if self.rng.chance(300) {
            self.pass(4000);
            self.put("lab/gauge", wish);
        }
    }

    fn upgrade(&mut self) {
        let in_tree = self.rng.chance(300);
        self.put("lab/gauge", Wish { in_tree, ..Wish::of("gauge", 1) });
        for _ in 0..self.rng.between(1, 3) {
            self.pass(5000);
            let version = u32::try_from(self.rng.between(1, 2)).unwrap_or(1);
            let parameter = u32::try_from(self.rng.below(3)).unwrap_or(0);
            self.put("lab/gauge", Wish { in_tree, parameter, ..Wish::of("gauge", version) });
        }
    }

    fn kernels(&mut self) {
        let kernels = if self.rng.chance(700) { 2 } else { 1 };
        self.put("lab/gauge", Wish { kernels, ..Wish::of("gauge", 1) });
        for _ in 0..self.rng.between(1, 4) {
            self.pass(5000);
            let node = self.node();
            let kernel = self.rng.chance(600).then(|| usize::from(self.rng.chance(500)));
            self.act(Act::Reboot(node, kernel));
            if self.rng.chance(200) {
                self.put("lab/gauge", Wish { kernels: 2, ..Wish::of("gauge", 2) });
            }
        }
    }

    fn nodes(&mut self) {
        let discovered = self.rng.chance(300);
        let selector = if discovered { (DISCOVERED, "true") } else { ("hall", "a") };
        self.put("lab/gauge", Wish { selector, ..Wish::of("gauge", 1) });
        for _ in 0..self.rng.between(1, 5) {
            self.pass(4000);
            let node = self.node();
            match self.rng.below(6) {
                0 => self.act(Act::Join(3)),
                1 => self.act(Act::Leave(node)),
                2 => self.act(Act::Taint(node, true)),
                3 => self.act(Act::Taint(node, false)),
                _ if discovered => {
                    self.act(Act::Label(node, DISCOVERED, None));
                    self.pass(20_000);
                    self.act(Act::Label(node, DISCOVERED, Some("true")));
                }
                _ => {
                    let value = if self.rng.chance(500) { None } else { Some("b") };
                    self.act(Act::Label(node, "hall", value));
                    self.pass(6000);
                    if self.rng.chance(600) {
                        self.act(Act::Label(node, "hall", Some("a")));
                    }
                }
            }
        }
    }

    /// `names`: perhaps under names that are easily mistaken for each other.
    fn shared(&mut self, names: bool) {
        let plain = self.rng.chance(500);
        let (one, other) = if plain || !names { ("lab/gauge", "lab/meter") } else { ("a-b/c", "a/b-c") };
        self.put(one, Wish::of("gauge", 1));
        self.pass(3000);
        self.put(other, Wish::of("meter", 1));
        for _ in 0..self.rng.between(1, 3) {
            self.pass(5000);
            let (key, driver) = if self.rng.chance(500) { (one, "gauge") } else { (other, "meter") };
            if self.rng.chance(400) {
                self.delete(key);
            } else {
                self.put(key, Wish::of(driver, 2));
            }
        }
    }

    fn limit(&mut self) -> Limit {
        match self.rng.below(5) {
            0 => Limit::Unset,
            1..=2 => Limit::Nodes(1),
            3 => Limit::Nodes(2),
            _ => Limit::Percent(50),
        }
    }

    fn rolling(&mut self) {
        let mut wish = Wish { limit: self.limit(), ..Wish::of("gauge", 1) };
        self.put("lab/gauge", wish);
        // Mostly after it has come up everywhere: only then there is something to lose.
        self.now += self.rng.between(0, 2500);
        for _ in 0..self.rng.between(1, 4) {
            self.pass(6000);
            match self.rng.below(8) {
                0 => {
                    let (node, kernel) = (self.node(), self.rng.chance(300).then_some(1));
                    self.act(Act::Reboot(node, kernel));
                }
                1 => {
                    let (node, time) = (self.node(), self.rng.between(1000, 90_000));
                    self.act(Act::Off(node, time));
                }
                2 => wish.limit = self.limit(),
                3 => wish.version = u32::try_from(self.rng.between(3, 5)).unwrap_or(3),
                4 => wish.parameter += 1,
                _ => wish.version = if wish.version == 1 { 2 } else { 1 },
            }
            self.put("lab/gauge", wish);
        }
    }

    fn failing(&mut self) {
        if self.rng.chance(600) {
            self.put("lab/gauge", Wish::of("gauge", 1));
            self.pass(6000);
        }
        let version = u32::try_from(self.rng.between(3, 5)).unwrap_or(3);
        self.put("lab/gauge", Wish::of("gauge", version));
        if self.rng.chance(600) {
            self.pass(60_000);
            match self.rng.below(4) {
                3 => {
                    if let Ok(key) = "lab/gauge".parse() {
                        self.act(Act::Retry(key, 1));
                    }
                }
                0 => self.put("lab/gauge", Wish::of("gauge", 2)),
                1 => self.put("lab/gauge", Wish::of("gauge", 1)),
                _ => self.delete("lab/gauge"),
            }
        }
        if self.rng.chance(300) {
            let node = self.node();
            self.act(Act::Use(node, "gauge", 20_000));
        }
    }

    fn disasters(&mut self) {
        self.put("lab/gauge", Wish::of("gauge", 1));
        self.pass(4000);
        self.act(Act::Backup);
        for _ in 0..self.rng.between(1, 3) {
            self.pass(5000);
            let node = self.node();
            match self.rng.below(6) {
                0 => self.act(Act::Wipe(node)),
                1 => {
                    let wiped = self.rng.chance(500);
                    self.act(Act::Remake(node, wiped));
                }
                2 => {
                    let kept = self.rng.chance(500);
                    self.act(Act::RotateKey(kept));
                    self.pass(20_000);
                    self.act(Act::DropOldKey);
                }
                3 => self.act(Act::Restore),
                4 => self.put("lab/gauge", Wish::of("gauge", 2)),
                _ => self.act(Act::Reboot(node, None)),
            }
        }
    }

    fn plugin(&mut self) -> Plugin {
        let number = u32::try_from(self.rng.below(4)).unwrap_or(0);
        match self.rng.below(8) {
            0 => Plugin::None,
            1..=4 => Plugin::Device(number),
            _ => Plugin::Dra(number),
        }
    }

    /// What happens beside, to plugins and their nodes.
    fn beside(&mut self) {
        let node = self.node();
        match self.rng.below(9) {
            0 => {
                let present = self.rng.chance(600);
                self.act(Act::Taint(node, present));
            }
            1 => self.act(Act::KillPods(node)),
            2 => self.act(Act::Meddle),
            3 => {
                let name = self.rng.pick(&CLASSES).copied().unwrap_or_default();
                self.act(Act::Class(name));
            }
            4 => self.act(Act::Reboot(node, None)),
            5 => {
                let time = self.rng.between(1000, 60_000);
                self.act(Act::Off(node, time));
            }
            6 => {
                let value = self.rng.chance(500).then_some("a");
                self.act(Act::Label(node, "hall", value));
            }
            _ => {}
        }
    }

    fn plugins(&mut self) {
        let mut wish = Wish { plugin: self.plugin(), ..Wish::of("gauge", 1) };
        if self.rng.chance(100) {
            self.act(Act::Class("gauge.test"));
        }
        self.put("lab/gauge", wish);
        self.now += self.rng.between(0, 6000);
        for _ in 0..self.rng.between(1, 5) {
            self.pass(8000);
            match self.rng.below(8) {
                0..=2 => wish.plugin = self.plugin(),
                3 => wish.version = u32::try_from(self.rng.between(1, 3)).unwrap_or(1),
                4 => wish.is_ordered = !wish.is_ordered,
                5 => {
                    self.delete("lab/gauge");
                    self.pass(6000);
                }
                _ => self.beside(),
            }
            self.put("lab/gauge", wish);
        }
        if self.rng.chance(300) {
            self.pass(8000);
            self.delete("lab/gauge");
        }
    }

    fn ordered(&mut self) {
        let Ok(key) = "lab/gauge".parse::<ModuleKey>() else { return };
        let mut wish = Wish { plugin: self.plugin(), is_ordered: true, ..Wish::of("gauge", 1) };
        self.put("lab/gauge", wish);
        for node in 0..3 {
            let version = self.rng.chance(900).then_some(1);
            self.act(Act::Version(node, key.clone(), version));
        }
        self.now += self.rng.between(0, 6000);
        for _ in 0..self.rng.between(1, 7) {
            self.pass(6000);
            let node = self.node();
            match self.rng.below(9) {
                0..=1 => wish.version = u32::try_from(self.rng.between(1, 2)).unwrap_or(1),
                2 => wish.plugin = self.plugin(),
                3 if self.rng.chance(300) => wish.is_ordered = !wish.is_ordered,
                4 => self.beside(),
                _ => {
                    let version = self.rng.chance(850).then_some(wish.version);
                    self.act(Act::Version(node, key.clone(), version));
                }
            }
            self.put("lab/gauge", wish);
        }
        if self.rng.chance(150) {
            self.pass(8000);
            self.delete("lab/gauge");
        }
    }

    fn preflights(&mut self) {
        let kernels = if self.rng.chance(700) { 2 } else { 1 };
        let mut wish = Wish { kernels, ..Wish::of("gauge", 1) };
        self.put("lab/gauge", wish);
        for _ in 0..self.rng.between(2, 6) {
            self.pass(5000);
            let name = if self.rng.chance(700) { "next" } else { "other" };
            match self.rng.below(8) {
                0 => self.act(Act::Preflight(name, None)),
                1..=3 => {
                    let kernel = self.rng.pick(&KERNELS).copied();
                    let kernel = kernel.filter(|_| self.rng.chance(800)).or(Some("9.9.9-none"));
                    self.act(Act::Preflight(name, kernel));
                }
                4 => self.put("lab/meter", Wish::of("meter", 1)),
                5 => self.delete("lab/meter"),
                6 => {
                    let (tag, version) = ("reg.test/gauge:v1-6.12.0-20-amd64", self.rng.chance(500));
                    self.act(Act::Tag(tag.to_owned(), version.then_some(2)));
                }
                _ => {
                    wish.version = 3 - wish.version;
                    wish.kernels = 3 - wish.kernels;
                    self.put("lab/gauge", wish);
                }
            }
        }
    }

    fn mixed(&mut self) {
        match self.rng.below(6) {
            0 => self.deletion(),
            1 => self.upgrade(),
            2 => self.kernels(),
            3 => self.nodes(),
            4 => self.shared(false),
            _ => self.failing(),
        }
        self.pass(3000);
        match self.rng.below(6) {
            0 => self.kernels(),
            1 => self.nodes(),
            2 => self.disasters(),
            3 => self.plugins(),
            4 => self.ordered(),
            _ => self.upgrade(),
        }
    }

    /// What breaks meanwhile.
    fn faults(&mut self) {
        let end = self.now + 3000;
        for _ in 0..self.rng.between(1, 6) {
            self.now = self.rng.between(0, end);
            let (replica, node) = (usize::from(self.rng.chance(500)), self.node());
            match self.rng.below(12) {
                0..=2 => self.act(Act::Kill(replica)),
                3 => {
                    let time = self.rng.between(500, 60_000);
                    self.act(Act::Freeze(replica, time));
                }
                4 => {
                    let hour: i64 = if self.rng.chance(500) { 3_600_000 } else { -3_600_000 };
                    self.act(Act::Skew(replica, hour));
                }
                5 => {
                    let kind = self.rng.pick(&crate::api::KINDS).copied().unwrap_or(Kind::Node);
                    self.act(Act::BreakWatch(replica, kind));
                }
                6..=7 => {
                    let (steps, kill) =
                        (u32::try_from(self.rng.below(24)).unwrap_or(0), self.rng.chance(500));
                    self.act(Act::Fuse(node, steps, kill));
                }
                8 => self.act(Act::KillAgent(node)),
                9 => self.act(Act::Reboot(node, None)),
                10 => {
                    let time = self.rng.between(500, 30_000);
                    self.act(Act::RegistryDown(time));
                }
                _ => self.act(Act::Rmmod(node, "gauge")),
            }
        }
        self.now = end;
    }
}
