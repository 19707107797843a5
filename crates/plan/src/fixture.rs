//! Small objects for tests: each has only what its test is about.

use std::collections::BTreeMap;

use kube::ResourceExt;
use tenon_api::module_image::{BundleStatus, ImagePhase, ModuleImage, ModuleImageSpec, ModuleImageStatus};
use tenon_api::node_modules_config::{
    ModulePhase, NodeModule, NodeModuleStatus, NodeModulesConfig, NodeModulesConfigStatus,
};
use tenon_api::{Module, reasons};
use tenon_order::{ModuleKey, Order};

use crate::assign::{Assignment, Candidate, Observed, OrderChange, assign};
use crate::node::NodeFacts;
use crate::resolve::resolve;
use crate::rollout::Turn;
use crate::workload::PluginPod;
use crate::workload::claim::Users;

pub(crate) const KERNEL: &str = "6.1.0-56-cloud-amd64";
pub(crate) const STORE: &str = "00112233445566778899aabbccddeeff";
pub(crate) const NOW: u64 = 1_790_000_000_000;

/// A Module `lab/gauge` of which `loader` says how it is loaded (YAML of `moduleLoader.container`, indented by nothing).
pub(crate) fn module(container: &str) -> Module {
    let container = container.replace('\n', "\n      ");
    serde_saphyr::from_str(&format!(
        "apiVersion: kmm.sigs.x-k8s.io/v1beta1
kind: Module
metadata: {{name: gauge, namespace: lab, uid: m-1, generation: 3}}
spec:
  selector: {{hall: a}}
  moduleLoader:
    container:
      {container}
"
    ))
    .expect("a Module")
}

/// A Module that loads `gauge.ko` from `registry.test/gauge:<kernel>`.
pub(crate) fn minimal_module() -> Module {
    module(
        "modprobe: {moduleName: gauge}\nkernelMappings: [{regexp: '^.+$'}]\ncontainerImage: 'registry.test/gauge:${KERNEL_FULL_VERSION}'",
    )
}

pub(crate) fn node(name: &str) -> NodeFacts {
    NodeFacts {
        name: name.parse().expect("a node name"),
        uid: format!("uid-{name}"),
        kernel: KERNEL.parse().expect("a kernel release"),
        architecture: "amd64".to_owned(),
        boot_id: "boot-1".to_owned(),
        labels: BTreeMap::from([("hall".to_owned(), "a".to_owned())]),
        taints: Vec::new(),
        os_version: None,
    }
}

pub(crate) fn bundle(fill: char) -> String {
    format!("sha256:{}", fill.to_string().repeat(64))
}

pub(crate) fn ready_image(reference: &str, fill: char) -> ModuleImage {
    let mut image = ModuleImage::new(
        "gauge-1",
        ModuleImageSpec {
            module: "gauge".to_owned(),
            kernel: KERNEL.to_owned(),
            architecture: "amd64".to_owned(),
            image: reference.to_owned(),
            dir_name: "/opt".to_owned(),
            ..ModuleImageSpec::default()
        },
    );
    image.metadata.generation = Some(1);
    image.status = Some(ModuleImageStatus {
        phase: Some(ImagePhase::Ready),
        reason: Some(reasons::IMAGE_EXISTS.to_owned()),
        image_digest: Some(bundle('f')),
        bundle: Some(BundleStatus { digest: bundle(fill), size: 9, files: 1 }),
        resolved_from: Some(1),
        ..ModuleImageStatus::default()
    });
    image
}

pub(crate) fn default_image(fill: char) -> ModuleImage {
    ready_image(&format!("registry.test/gauge:{KERNEL}"), fill)
}

/// A cluster of one node, played by hand: the operator's decision is applied, the agent answers.
#[derive(Clone)]
pub(crate) struct Play {
    pub(crate) node: NodeFacts,
    pub(crate) module: Option<Module>,
    pub(crate) image: Option<ModuleImage>,
    pub(crate) config: Option<NodeModulesConfig>,
    pub(crate) order: Option<Order>,
    /// The key that has signed the order is none of ours any more.
    pub(crate) is_unproven: bool,
    pub(crate) undiscovered_for: Option<u64>,
    /// What becomes of a wish to be changed.
    pub(crate) turn: Turn,
    /// Those of its plugin.
    pub(crate) pods: Vec<PluginPod>,
    /// Those of the devices of its DRA driver.
    pub(crate) users: Users,
    pub(crate) now: u64,
    /// API writes on the node's object and the node.
    pub(crate) writes: usize,
}

impl Play {
    /// Where the node's agent has registered.
    pub(crate) fn registered() -> Self {
        let mut play = Self {
            node: node("n1"),
            module: Some(minimal_module()),
            image: Some(default_image('a')),
            config: None,
            order: None,
            is_unproven: false,
            undiscovered_for: None,
            turn: Turn::Given,
            pods: Vec::new(),
            users: Users::Nobody,
            now: NOW,
            writes: 0,
        };
        play.module = None;
        play.decide_and_apply();
        play.module = Some(minimal_module());
        play.status().store_id = Some(STORE.to_owned());
        play.writes = 0;
        play
    }

    pub(crate) fn key() -> ModuleKey {
        "lab/gauge".parse().expect("a key")
    }

    pub(crate) fn decide(&self) -> Assignment {
        let resolved = self.module.as_ref().map(|module| resolve(module, &self.node.kernel));
        assign(&Observed {
            node: &self.node,
            config: self.config.as_ref(),
            order: self.order.clone().filter(|_| !self.is_unproven),
            unproven: self.order.as_ref().filter(|_| self.is_unproven),
            modules: vec![Candidate {
                key: Self::key(),
                module: self.module.as_ref(),
                resolved,
                image: self.image.as_ref(),
                undiscovered_for: self.undiscovered_for,
                peers: Vec::new(),
                turn: self.turn,
                pods: &self.pods,
                users: &self.users,
            }],
            now: self.now,
        })
    }

    pub(crate) fn decide_and_apply(&mut self) -> Assignment {
        let decided = self.decide();
        if !decided.labels.is_empty() {
            self.writes += 1;
        }
        for (key, value) in &decided.labels {
            match value {
                Some(value) => self.node.labels.insert(key.clone(), value.clone()),
                None => self.node.labels.remove(key),
            };
        }
        if let Some(mut config) = decided.config.clone() {
            self.writes += 1;
            config.status = self.config.as_ref().and_then(|config| config.status.clone());
            config.spec.order = self.config.as_ref().and_then(|config| config.spec.order.clone());
            match &decided.order {
                OrderChange::Keep => {}
                OrderChange::Withdraw => (self.order, config.spec.order) = (None, None),
                OrderChange::Replace(order) => {
                    self.order = Some(order.clone());
                    config.spec.order = Some(format!("order {}", order.generation));
                }
            }
            self.config = Some(config);
        }
        decided
    }

    pub(crate) fn status(&mut self) -> &mut NodeModulesConfigStatus {
        self.config.as_mut().expect("the node's object").status.get_or_insert_default()
    }

    /// The agent reports that all that is ordered is done.
    pub(crate) fn obey(&mut self) {
        self.answer(ModulePhase::Loaded);
    }

    /// The agent reports this phase for all that is wished, and that the rest is gone.
    pub(crate) fn answer(&mut self, phase: ModulePhase) {
        let Some(order) = self.order.clone() else { return };
        let (boot_id, entries) = (
            self.node.boot_id.clone(),
            self.config.as_ref().expect("the node's object").spec.modules.clone(),
        );
        let status = self.status();
        status.order_generation = i64::try_from(order.generation.0).ok();
        // Content that came up once keeps the settings that it came up with.
        let before = std::mem::take(&mut status.modules);
        let came_up = |entry: &NodeModule| {
            let known = before.iter().find(|known| known.name == entry.name && known.bundle == entry.bundle);
            phase == ModulePhase::Loaded
                || known.is_some_and(|known| known.config.as_ref() == Some(&entry.config))
        };
        status.modules = entries
            .into_iter()
            .map(|entry| NodeModuleStatus {
                validated: entry
                    .validation
                    .clone()
                    .filter(|_| phase == ModulePhase::Loaded)
                    .unwrap_or_default()
                    .paths,
                config: came_up(&entry).then_some(entry.config),
                bundle: entry.bundle,
                phase: Some(phase),
                boot_id: (phase == ModulePhase::Loaded).then(|| boot_id.clone()),
                name: entry.name,
                namespace: entry.namespace,
                version: entry.version,
                message: Some("the kernel's words".into()),
                ..NodeModuleStatus::default()
            })
            .collect();
        self.writes += 1;
    }

    /// Decides, applies and obeys until nothing changes.
    pub(crate) fn settle(&mut self) {
        for _ in 0..10 {
            let before = self.writes;
            let decided = self.decide_and_apply();
            if matches!(decided.order, OrderChange::Replace(_)) {
                self.obey();
            }
            if self.writes == before {
                return;
            }
        }
        panic!("the node does not settle: {:?}", self.decide());
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.node.labels.contains_key("kmm.node.kubernetes.io/lab.gauge.ready")
    }

    pub(crate) fn delete_module(&mut self) {
        self.delete_module_of(self.module.clone().expect("a Module"));
    }

    pub(crate) fn delete_module_of(&mut self, mut module: Module) {
        module.finalizers_mut().push("kmm.node.kubernetes.io/module-finalizer".to_owned());
        module.metadata.deletion_timestamp =
            Some(serde_json::from_str("\"2026-01-01T00:00:00Z\"").expect("a time"));
        self.module = Some(module);
    }
}
