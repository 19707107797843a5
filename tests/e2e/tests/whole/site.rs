//! The lab that all scenarios share, and a scenario's place in it.

use std::sync::LazyLock;

use serde_json::{Value, json};
use tenon_api::reasons::condition::{DEGRADED, READY, WAITING};
use tenon_lab::claim::comes_true;
use tenon_lab::command::ShownOnPanic;
use tenon_lab::drivers::{Driver, ImageContent};
use tenon_lab::images::{self, Destination};
use tenon_lab::journey::Journey;
use tenon_lab::kernel::Origin;
use tenon_lab::state::{NodeState, State, condition};
use tenon_lab::{Lab, claim};
use tenon_order::ModuleKey;
use tokio::runtime::Runtime;
use tokio::sync::Mutex;

/// Clients and the nodes' tasks live as long as the runtime that they were made on.
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().unwrap());
/// Never dropped: its processes end with this one, and its folder goes with the next lab.
static LAB: Mutex<Option<Lab>> = Mutex::const_new(None);

/// A scenario's place: the lab, for itself alone, and a namespace.
pub(crate) struct Site<'a> {
    pub(crate) lab: &'a mut Lab,
    namespace: String,
}

/// Runs a scenario in a namespace of that name. When it fails, the logs' last lines are shown.
pub(crate) fn on_site(namespace: &str, scenario: impl AsyncFnOnce(Site<'_>)) {
    RUNTIME.block_on(async {
        let mut shared = LAB.lock().await;
        if shared.is_none() {
            *shared = Some(start().await);
        }
        let lab = shared.as_mut().unwrap();
        let logs = ShownOnPanic(lab.logs());
        let site = Site { lab, namespace: namespace.to_owned() };
        site.apply(&json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": namespace } }))
            .await;
        scenario(site).await;
        drop(logs);
    });
}

async fn start() -> Lab {
    let mut lab = Lab::start().await.unwrap();
    for (number, origin) in (1..).zip(Origin::ALL) {
        lab.add_node(&format!("mill-{number}"), origin).await.unwrap();
    }
    lab
}

impl Site<'_> {
    pub(crate) fn journey(&self, module: &str, kernel_module: &str) -> Journey {
        Journey::new(self.key(module), kernel_module)
    }

    pub(crate) fn key(&self, module: &str) -> ModuleKey {
        ModuleKey::new(&self.namespace, module).unwrap()
    }

    /// A driver for both kernels, pushed to the lab's registry; gives the reference.
    pub(crate) async fn push(&self, driver: Driver, name: &str, version: &str) -> String {
        let content = images::content(self.lab, driver, version).await.unwrap();
        self.push_content(&content, name).await
    }

    pub(crate) async fn push_content(&self, content: &ImageContent, name: &str) -> String {
        let registry = &self.lab.registry().host();
        images::push(self.lab, content, Destination { registry, name, user: None }).await.unwrap();
        format!("{registry}/{name}")
    }

    /// Applies an object in the scenario's namespace, as a person does.
    pub(crate) async fn apply(&self, object: &Value) {
        let line = ["apply", "--namespace", &self.namespace, "-f", "-"];
        self.lab.plane().kubectl_with_input(&line, &object.to_string()).await.unwrap();
    }

    pub(crate) async fn apply_module(&self, module: &Wanted<'_>) {
        self.apply(&module.manifest()).await;
    }

    /// Asks for a Module's end, and does not wait for it.
    pub(crate) async fn delete(&self, module: &str) {
        let line = ["delete", "--namespace", &self.namespace, "--wait=false", "module", module];
        self.lab.plane().kubectl(&line).await.unwrap();
    }

    /// Deletes a Module and waits until nothing of it is left.
    pub(crate) async fn remove(&self, journey: &mut Journey) {
        self.delete(journey.key().name()).await;
        journey.unloaded(self.lab, |_| {}).await.unwrap();
    }

    pub(crate) async fn loaded(&self, journey: &mut Journey) {
        journey.loaded(self.lab, |_| {}).await.unwrap();
    }

    /// Waits until a Module's state is such.
    pub(crate) async fn state_where(
        &self,
        module: &str,
        claim: &str,
        judge: impl Fn(&State) -> Result<(), String>,
    ) -> State {
        let (client, key) = (self.lab.plane().client(), self.key(module));
        comes_true(claim, async || {
            let state = State::of(&client, &key).await.map_err(|error| error.to_string())?;
            judge(&state).map(|()| state)
        })
        .await
        .unwrap_or_else(|broken: claim::Broken| panic!("{broken}"))
    }

    /// The same line in every node.
    pub(crate) async fn everywhere(&self, line: &str) -> Vec<String> {
        let mut said = Vec::new();
        for node in self.lab.nodes() {
            said.push(node.guest().shell(line).await.unwrap().trim_end().to_owned());
        }
        said
    }
}

/// A Module as the scenarios want it.
#[derive(Clone)]
pub(crate) struct Wanted<'a> {
    pub(crate) name: &'a str,
    pub(crate) image: &'a str,
    pub(crate) kernel_module: &'a str,
    pub(crate) parameters: &'a [&'a str],
    pub(crate) firmware: Option<&'a str>,
    pub(crate) secret: Option<&'a str>,
    /// What a prediction is good for; by default as the kernel's builder has it.
    pub(crate) inspection: Option<&'a str>,
    /// What must be there after the load.
    pub(crate) validated_by: &'a [&'a str],
}

impl<'a> Wanted<'a> {
    pub(crate) fn new(name: &'a str, kernel_module: &'a str, image: &'a str) -> Self {
        Self {
            name,
            image,
            kernel_module,
            parameters: &[],
            firmware: None,
            secret: None,
            inspection: None,
            validated_by: &[],
        }
    }

    fn manifest(&self) -> Value {
        let paths = (!self.validated_by.is_empty()).then_some(self.validated_by);
        // An API server takes `null` for a field that is not there.
        let spec = json!({
            "selector": { "kubernetes.io/os": "linux" },
            "inspection": self.inspection,
            // Both nodes at once: they have different kernels, and each is to be seen.
            "rollout": { "maxUnavailable": 2 },
            "imageRepoSecret": self.secret.map(|name| json!({ "name": name })),
            "moduleLoader": { "validation": paths.map(|paths| json!({ "paths": paths, "timeoutSeconds": 3 })), "container": {
                "registryTLS": { "insecure": true },
                "kernelMappings": [{ "regexp": "^.+$", "containerImage": self.image }],
                "modprobe": {
                    "moduleName": self.kernel_module,
                    "parameters": self.parameters,
                    "firmwarePath": self.firmware,
                },
            }},
        });
        json!({
            "apiVersion": "kmm.sigs.x-k8s.io/v1beta1", "kind": "Module", "metadata": { "name": self.name },
            "spec": spec,
        })
    }
}

/// What a Module says: the first condition of Degraded and Waiting that holds, or else Ready; its reason and message.
pub(crate) fn said(state: &State) -> Result<(String, String), String> {
    let module = state.module.as_ref().ok_or("there is no such Module")?;
    let observed = module.status.as_ref().and_then(|status| status.observed_generation);
    if observed != module.metadata.generation {
        return Err("not looked at yet".to_owned());
    }
    let holding =
        [DEGRADED, WAITING].into_iter().find(|type_| matches!(condition(module, type_), Some((true, ..))));
    let (_, reason, message) = condition(module, holding.unwrap_or(READY)).ok_or("no conditions")?;
    Ok((reason.to_owned(), message.to_owned()))
}

/// Whether a Module says this, for this reason.
pub(crate) fn says(state: &State, reason: &str, words: &[&str]) -> Result<(), String> {
    let (why, message) = said(state)?;
    let fits = why == reason && words.iter().all(|words| message.contains(words));
    if fits { Ok(()) } else { Err(format!("{why}: {message}")) }
}

/// Whether every node says this of the Module, and is itself not ready.
pub(crate) fn nodes_say(state: &State, words: &str) -> Result<(), String> {
    let says = |node: &NodeState| {
        node.reported().is_some_and(|reported| {
            reported.message.as_ref().is_some_and(|message| message.as_str().contains(words))
        })
    };
    let is_ready = |node: &NodeState| {
        let conditions = node.config.status.iter().flat_map(|status| &status.conditions);
        conditions.into_iter().any(|condition| condition.type_ == READY && condition.status == "True")
    };
    let other = state.nodes.iter().find(|node| !says(node) || is_ready(node));
    other.map_or(Ok(()), |node| Err(format!("{}: {:?}", node.name(), node.config.status)))
}
