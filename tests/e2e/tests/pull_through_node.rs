//! A registry whose credentials only a node's kubelet has, from a program of its own (a credential provider): the node takes drivers
//! out of its images for the operator, and another node loads them.
#![expect(clippy::unwrap_used, reason = "what a test is made of may fail like the test")]

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::ListParams;
use serde_json::json;
use tenon_api::module_image::{ModuleImage, ModuleImageStatus};
use tenon_api::node_pod::NAMESPACE;
use tenon_api::{labels, reasons};
use tenon_lab::Lab;
use tenon_lab::claim::comes_true_within;
use tenon_lab::command::ShownOnPanic;
use tenon_lab::drivers::Driver;
use tenon_lab::host_node::{ADDRESS, Credentials};
use tenon_lab::images::{self, Destination};
use tenon_lab::kernel::Origin;
use tenon_lab::program_images::{self, ProgramImage};
use tenon_lab::programs::{self, Program};
use tenon_lab::registry::{Protection, Registry, User};

/// The node whose kubelet has the credentials.
const PORTER: &str = "porter";
const SOON: Duration = Duration::from_mins(4);

struct Site {
    lab: Lab,
    /// Where nobody gets anything without credentials.
    vault: Registry,
    user: User,
}

impl Site {
    async fn start() -> Self {
        let mut lab = Lab::start_without_operator().await.unwrap();
        let user = User { name: "porter".to_owned(), password: "carries-it".to_owned() };
        let protection = Protection { user: Some(user.clone()), ..Protection::default() };
        let mut vault = Registry::start(lab.supplies(), lab.folder(), "vault", &protection).await.unwrap();
        let name = vault.at(ADDRESS.into());
        let credentials = Credentials { registry: name.clone(), user: user.clone() };
        lab.add_host_node_with(PORTER, &[credentials]).await.unwrap().trust(&name, &name).unwrap();
        vault.listen_at(ADDRESS.into()).await.unwrap();
        let program =
            tokio::task::spawn_blocking(|| programs::program(Program::Maker)).await.unwrap().unwrap();
        let maker = ProgramImage {
            binary: &program,
            program: "/tenon-maker",
            arguments: &[],
            labels: BTreeMap::new(),
        };
        program_images::push(&maker, &format!("{}/maker:lab", lab.registry_for_pods())).await.unwrap();
        let site = Self { lab, vault, user };
        site.push("simple:1", "1.1", true).await;
        site
    }

    fn vault(&self) -> String {
        self.vault.at(ADDRESS.into())
    }

    /// Pushes the driver in this version: to the vault, or to the registry that is open to all.
    async fn push(&self, name: &str, version: &str, locked: bool) {
        let content = images::content(&self.lab, Driver::SimpleKmod, version).await.unwrap();
        let registry = if locked { self.vault() } else { self.lab.registry_for_pods() };
        let user = locked.then_some(&self.user);
        images::push(&self.lab, &content, Destination { registry: &registry, name, user }).await.unwrap();
    }

    /// Starts the operator, anew if it runs.
    async fn operator(&mut self, more: &[&str]) {
        let own = [
            format!("--maker-image={}/maker:lab", self.lab.registry_for_pods()),
            format!("--registry={},plain-http", self.vault()),
        ];
        let more = more.iter().map(|flag| (*flag).to_owned());
        self.lab.tell_operator(own.into_iter().chain(more).collect());
        self.lab.kill_operator();
        self.lab.start_operator().await.unwrap();
    }

    async fn module(&self, image: &str) {
        let module = json!({
            "apiVersion": "kmm.sigs.x-k8s.io/v1beta1", "kind": "Module",
            "metadata": { "name": "simple", "namespace": "default" },
            "spec": {
                "selector": { "driver": "yes" },
                "moduleLoader": { "container": {
                    "kernelMappings": [{ "regexp": "^.+$", "containerImage": image }],
                    "modprobe": { "moduleName": "simple_kmod" },
                }},
            },
        });
        self.lab.plane().apply(&module.to_string()).await.unwrap();
    }

    /// A node that loads the driver.
    async fn add_guest(&mut self, name: &str) {
        self.lab.add_node(name, Origin::Stable).await.unwrap();
        self.label(name, "driver=yes").await;
    }

    async fn label(&self, node: &str, label: &str) {
        self.lab.plane().kubectl(&["label", "node", node, label]).await.unwrap();
    }

    /// Waits until the image's status is so.
    async fn image(&self, claim: &str, is_so: impl Fn(&ModuleImage) -> bool) -> ModuleImageStatus {
        let images: Api<ModuleImage> = Api::namespaced(self.lab.plane().client(), "default");
        comes_true_within(SOON, claim, async || {
            let images = images.list(&ListParams::default()).await.map_err(|error| error.to_string())?.items;
            let image = images.first().ok_or("there is none")?;
            let status = image.status.clone().unwrap_or_default();
            if is_so(image) { Ok(status) } else { Err(format!("{:?} {:?}", status.reason, status.message)) }
        })
        .await
        .unwrap()
    }

    /// Waits until the image is not to be had for this reason, and gives what is said of it.
    async fn says(&self, reason: &'static str, words: &str) -> String {
        let claim = format!("{reason}, with {words:?}");
        let message = |image: &ModuleImage| image.status.as_ref()?.message.as_ref().map(ToString::to_string);
        let status = self
            .image(&claim, |image| {
                let status = image.status.as_ref();
                status.is_some_and(|status| status.reason.as_deref() == Some(reason))
                    && message(image).is_some_and(|message| message.contains(words))
            })
            .await;
        status.message.unwrap_or_default().to_string()
    }

    /// Waits until the image of this reference is ready; gives its bundle.
    async fn bundle(&self, reference: &str) -> String {
        let status = self
            .image(&format!("{reference} is ready"), |image| {
                let status = image.status.as_ref();
                image.spec.image == reference
                    && status.is_some_and(|status| {
                        status.reason.as_deref() == Some(reasons::IMAGE_EXISTS)
                            && status.resolved_from == image.metadata.generation
                    })
            })
            .await;
        assert!(status.image_digest.unwrap().starts_with("sha256:"));
        status.bundle.unwrap().digest
    }

    async fn kernels_have(&self, version: &str) {
        comes_true_within(SOON, format!("the kernels have {version}"), async || {
            for guest in self.lab.guests() {
                let line = "cat /sys/module/simple_kmod/version 2>/dev/null || echo none";
                let said = guest.shell(line).await.map_err(|error| error.to_string())?;
                if said.trim() != version {
                    return Err(format!("{} has {}", guest.name(), said.trim()));
                }
            }
            Ok(())
        })
        .await
        .unwrap();
    }

    async fn jobs(&self) -> usize {
        let jobs: Api<Job> = Api::namespaced(self.lab.plane().client(), NAMESPACE);
        jobs.list(&ListParams::default()).await.unwrap().items.len()
    }

    /// Neither a Job nor a pod of one.
    async fn nothing_is_left(&self) {
        let pods: Api<Pod> = Api::namespaced(self.lab.plane().client(), NAMESPACE);
        let ours = format!("{}={}", labels::RESOURCE_TYPE, labels::resource_type::PULL_IMAGE);
        comes_true_within(SOON, "no Job and no pod is left", async || {
            let listed = pods.list(&ListParams::default().labels(&ours)).await;
            let pods = listed.map_err(|error| error.to_string())?.items.len();
            match (self.jobs().await, pods) {
                (0, 0) => Ok(()),
                (jobs, pods) => Err(format!("{jobs} Jobs and {pods} pods")),
            }
        })
        .await
        .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_only_a_node_may_pull_is_loaded_by_all_and_only_where_the_administrator_has_said_so() {
    let mut site = Site::start().await;
    let _logs = ShownOnPanic(site.lab.logs());
    site.add_guest("mill-1").await;
    let vault = site.vault();
    nobody_is_asked_who_was_not_selected(&mut site, &vault).await;
    a_selected_node_brings_it(&mut site, &vault).await;
    what_no_node_can_pull_is_told_in_the_kubelets_words(&site, &vault).await;
    an_empty_depot_is_filled_again(&mut site, &vault).await;
}

async fn nobody_is_asked_who_was_not_selected(site: &mut Site, vault: &str) {
    site.operator(&[]).await;
    site.module(&format!("{vault}/simple:1")).await;
    let message = site.says(reasons::REGISTRY_DENIED, "--pull-through-nodes").await;
    assert!(
        message.contains("401") || message.contains("denied") || message.contains("credentials"),
        "{message}"
    );
    assert_eq!(site.jobs().await, 0);
}

async fn a_selected_node_brings_it(site: &mut Site, vault: &str) {
    site.operator(&["--pull-through-nodes=pulls=yes"]).await;
    site.says(reasons::NO_NODE_TO_PULL, "").await;
    // Whoever starts anew finds the Job of before.
    site.operator(&["--pull-through-nodes=pulls=yes"]).await;
    site.label(PORTER, "pulls=yes").await;
    let bundle = site.bundle(&format!("{vault}/simple:1")).await;
    site.kernels_have("1.1").await;
    site.nothing_is_left().await;
    // The same image where everybody may read it gives the same bundle, from its layers.
    site.push("open:1", "1.1", false).await;
    let open = format!("{}/open:1", site.lab.registry_for_pods());
    site.module(&open).await;
    assert_eq!(site.bundle(&open).await, bundle);
    assert_eq!(site.jobs().await, 0, "no node was asked");
}

async fn what_no_node_can_pull_is_told_in_the_kubelets_words(site: &Site, vault: &str) {
    let missing = format!("{vault}/simple:2");
    site.module(&missing).await;
    let message = site.says(reasons::PULL_FAILED, "not found").await;
    assert!(message.contains("kubelet"), "{message}");
    site.push("simple:2", "1.2", true).await;
    site.bundle(&missing).await;
    site.kernels_have("1.2").await;
    site.nothing_is_left().await;
}

async fn an_empty_depot_is_filled_again(site: &mut Site, vault: &str) {
    site.lab.kill_operator();
    fs::remove_dir_all(site.lab.folder().join("depot")).unwrap();
    // By now the tag stands for something else: what nodes are assigned is had by its digest.
    site.push("simple:2", "1.3", true).await;
    site.operator(&["--pull-through-nodes=pulls=yes"]).await;
    site.bundle(&format!("{vault}/simple:2")).await;
    site.add_guest("mill-2").await;
    site.kernels_have("1.2").await;
    site.nothing_is_left().await;
}
