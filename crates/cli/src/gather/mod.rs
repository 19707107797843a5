//! `kubectl tenon gather`: one archive for who is to help, with what Tenon knows and says, and no Secret.
//!
//! What is read ([`Reading`]) goes through one [`Redactor`] before it reaches the archive: there is no other way in.

mod known;
mod redact;
mod tail;

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::process::ExitCode;

use flate2::Compression;
use flate2::write::GzEncoder;
use futures::AsyncBufReadExt as _;
use k8s_openapi::api::core::v1::{Pod, Secret};
use k8s_openapi::jiff::Timestamp;
use kube::api::{ApiResource, DynamicObject, ListParams, LogParams};
use kube::core::{GroupVersionKind, Request};
use kube::{Api, Client, Resource as _, ResourceExt};
use serde::Serialize;
use serde_json::{Value, json};
use tenon_api::labels;
use tenon_api::node_pod::NAMESPACE;
use tenon_order::ModuleKey;

use crate::answer::{self, AnswerError, Format};
use crate::cluster::{ClusterArgs, ClusterError, block_on};
use crate::explain;
use crate::failure::Failure;
use redact::{RedactError, Redactor};
use tail::Tail;

/// Objects per page.
const PAGE: u32 = 500;
/// Of each container's log: the end.
const MOST_LINES: i64 = 20_000;
const MOST_BYTES: usize = 8 << 20;
/// Node pods and Jobs' pods whose logs are read, the newest: a cluster may have thousands.
const MOST_PODS: usize = 50;
/// Modules that are explained.
const MOST_EXPLAINED: usize = 100;
/// The operator's port for metrics.
const ADMIN_PORT: u16 = 8080;

const LONG_ABOUT: &str = "Gather in one archive what helps somebody else to help you.

Into FILE (.tar.gz, readable by you alone) go Tenon's objects, nodes (kernel, labels, taints, conditions), the Jobs that make images, \
Tenon's pods, events, logs, metrics, versions, and what `explain` says of each Module that is not as wished. Of Secrets only the \
names and the names of their entries. Their values are blotted out wherever they are met, as is what looks like a credential, \
the values of environment variables and build arguments, and Dockerfiles. It reads with your own rights; what you may not read is left out, and \
listed in gaps.txt. Look through it before you pass it on: names of nodes, images and hosts are in it.";

#[derive(Debug, clap::Args)]
#[command(long_about = LONG_ABOUT)]
pub(crate) struct Args {
    /// The archive; it must not exist yet [default: tenon-gather-TIME.tar.gz]
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,
    /// For programs
    #[arg(short, long, value_enum, value_name = "FORMAT")]
    output: Option<Format>,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Why there is no archive.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GatherError {
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    #[error("write {path}")]
    Write { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Redact(#[from] RedactError),
    #[error(transparent)]
    Answer(#[from] AnswerError),
}

impl GatherError {
    pub(crate) fn into_failure(self) -> Failure {
        Failure::new(self)
    }
}

/// A kind whose objects are gathered whole.
struct Gathered {
    file: &'static str,
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    plural: &'static str,
    /// Which of them: those with these labels, in this namespace.
    labels: &'static str,
    namespace: Option<&'static str>,
    /// A cluster may be without this kind.
    optional: bool,
}

const fn all(
    file: &'static str,
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    plural: &'static str,
) -> Gathered {
    Gathered { file, group, version, kind, plural, labels: "", namespace: None, optional: false }
}

/// Of Jobs and pods that make images.
const MAKES_IMAGES: &str = labels::RESOURCE_TYPE;

const GATHERED: [Gathered; 10] = [
    all("modules", "kmm.sigs.x-k8s.io", "v1beta1", "Module", "modules"),
    all("nodemodulesconfigs", "kmm.sigs.x-k8s.io", "v1beta1", "NodeModulesConfig", "nodemodulesconfigs"),
    all("moduleimages", "tenon.dev", "v1alpha1", "ModuleImage", "moduleimages"),
    all("madeimages", "tenon.dev", "v1alpha1", "MadeImage", "madeimages"),
    Gathered {
        optional: true,
        ..all(
            "preflightvalidations",
            "kmm.sigs.x-k8s.io",
            "v1beta2",
            "PreflightValidation",
            "preflightvalidations",
        )
    },
    Gathered { labels: MAKES_IMAGES, ..all("jobs", "batch", "v1", "Job", "jobs") },
    Gathered { namespace: Some(NAMESPACE), ..all("deployments", "apps", "v1", "Deployment", "deployments") },
    Gathered { namespace: Some(NAMESPACE), ..all("daemonsets", "apps", "v1", "DaemonSet", "daemonsets") },
    Gathered { namespace: Some(NAMESPACE), ..all("pods", "", "v1", "Pod", "pods") },
    Gathered { labels: MAKES_IMAGES, ..all("pods-of-jobs", "", "v1", "Pod", "pods") },
];

pub(crate) fn run(args: &Args) -> Result<ExitCode, GatherError> {
    let path = args.to.clone().unwrap_or_else(|| {
        let now = Timestamp::now().strftime("%Y%m%dT%H%M%SZ").to_string();
        PathBuf::from(format!("tenon-gather-{now}.tar.gz"))
    });
    let gathered = block_on(gather(args, path))??;
    answer::say(&match args.output {
        Some(format) => answer::written(&gathered, format)?,
        None => gathered.sentence(),
    })?;
    Ok(ExitCode::SUCCESS)
}

/// What was written.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Written {
    archive: PathBuf,
    files: usize,
    /// What could not be read, and why.
    gaps: Vec<String>,
}

impl Written {
    fn sentence(&self) -> String {
        let left_out = match self.gaps.len() {
            0 => String::new(),
            1 => "; one thing could not be read (gaps.txt)".to_owned(),
            many => format!("; {many} things could not be read (gaps.txt)"),
        };
        let path = self.archive.display();
        format!("{path}: {} files{left_out}. Look through it before you pass it on.\n", self.files)
    }
}

async fn gather(args: &Args, path: PathBuf) -> Result<Written, GatherError> {
    let (client, _) = args.cluster.client().await?;
    let mut reading = Reading { client, gaps: Vec::new() };
    let modules = reading.objects(&GATHERED[0]).await;
    let namespaces: BTreeSet<_> =
        modules.iter().filter_map(ResourceExt::namespace).chain([NAMESPACE.to_owned()]).collect();
    let (secrets, known) = reading.secrets(&namespaces).await;
    let mut archive = Archive::create(path, Redactor::new(known)?)?;
    archive.add_object("versions.json", reading.versions().await)?;
    archive.add_object("objects/secrets.json", Value::Array(secrets))?;
    archive.add_object("objects/nodes.json", Value::Array(reading.nodes().await))?;
    for kind in &GATHERED {
        let objects = reading.objects(kind).await;
        archive.add_object(&format!("objects/{}.json", kind.file), json!(objects))?;
    }
    archive.add_object("objects/events.json", Value::Array(reading.events(&namespaces).await))?;
    for key in not_well(&modules) {
        if let Some(page) = Box::pin(reading.explain(&key)).await {
            archive.add_text(&format!("explain/{}.{}.txt", key.namespace(), key.name()), &page)?;
        }
    }
    for pod in reading.pods().await {
        reading.pod(&pod, &mut archive).await?;
    }
    archive.finish(&reading.gaps)
}

/// The Modules that are not as wished.
fn not_well(modules: &[DynamicObject]) -> Vec<ModuleKey> {
    let is_ready = |module: &&DynamicObject| {
        let conditions = module.data.pointer("/status/conditions").and_then(Value::as_array);
        conditions
            .into_iter()
            .flatten()
            .any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
    };
    let others = modules.iter().filter(|module| !is_ready(module));
    let keys = others.filter_map(|module| ModuleKey::new(&module.namespace()?, &module.name_any()).ok());
    keys.take(MOST_EXPLAINED).collect()
}

/// Reads a cluster; what cannot be read is a gap, and no reason to stop.
struct Reading {
    client: Client,
    gaps: Vec<String>,
}

impl Reading {
    fn had<T>(&mut self, what: &str, read: Result<T, kube::Error>) -> Option<T> {
        read.map_err(|error| self.gaps.push(format!("{what}: {error}"))).ok()
    }

    async fn objects(&mut self, kind: &Gathered) -> Vec<DynamicObject> {
        let kind_name = GroupVersionKind::gvk(kind.group, kind.version, kind.kind);
        let resource = ApiResource::from_gvk_with_plural(&kind_name, kind.plural);
        let api: Api<DynamicObject> = match kind.namespace {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &resource),
            None => Api::all_with(self.client.clone(), &resource),
        };
        let mut read = list(&api, kind.labels).await;
        if kind.optional && matches!(&read, Err(kube::Error::Api(status)) if status.is_not_found()) {
            read = Ok(Vec::new());
        }
        self.had(kind.file, read).unwrap_or_default()
    }

    /// Names of Secrets and of their entries; and, never to be written, all that must not be met in the archive.
    async fn secrets(&mut self, namespaces: &BTreeSet<String>) -> (Vec<Value>, BTreeSet<String>) {
        let (mut shown, mut known) = (Vec::new(), BTreeSet::new());
        for namespace in namespaces {
            let api: Api<Secret> = Api::namespaced(self.client.clone(), namespace);
            let read = list(&api, "").await;
            for secret in self.had(&format!("Secrets of namespace {namespace}"), read).unwrap_or_default() {
                let data = secret.data.clone().unwrap_or_default();
                for (entry, value) in &data {
                    // What every Secret of a service account has is no secret.
                    if !["namespace", "ca.crt"].contains(&entry.as_str()) {
                        let stored = json!(value);
                        known.extend(known::forms(stored.as_str().unwrap_or_default(), &value.0));
                    }
                }
                shown.push(json!({
                    "namespace": namespace, "name": secret.name_any(), "type": secret.type_,
                    "entries": data.keys().collect::<Vec<_>>(),
                }));
            }
        }
        (shown, known)
    }

    async fn versions(&mut self) -> Value {
        let server = self.client.apiserver_version().await;
        let server = self.had("the API server's version", server).map(|version| version.git_version);
        json!({ "kubectl-tenon": env!("CARGO_PKG_VERSION"), "kubernetes": server, "gathered": Timestamp::now().to_string() })
    }

    /// Of nodes what bears on drivers.
    async fn nodes(&mut self) -> Vec<Value> {
        let nodes = self.objects(&all("nodes", "", "v1", "Node", "nodes")).await;
        let shown = nodes.iter().map(|node| {
            let spec = |field: &str| node.data.pointer(field).cloned();
            json!({
                "name": node.name_any(), "uid": node.uid(), "labels": node.labels(),
                "taints": spec("/spec/taints"), "unschedulable": spec("/spec/unschedulable"),
                "nodeInfo": spec("/status/nodeInfo"), "conditions": spec("/status/conditions"),
            })
        });
        shown.collect()
    }

    /// Of the namespaces with Modules, and those of nodes.
    async fn events(&mut self, namespaces: &BTreeSet<String>) -> Vec<Value> {
        let kind = GroupVersionKind::gvk("", "v1", "Event");
        let resource = ApiResource::from_gvk_with_plural(&kind, "events");
        let mut events = Vec::new();
        for namespace in namespaces.iter().map(String::as_str).chain(["default"]).collect::<BTreeSet<_>>() {
            let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), namespace, &resource);
            let read = list(&api, "").await;
            let read = self.had(&format!("events of namespace {namespace}"), read).unwrap_or_default();
            events.extend(read.into_iter().map(|event| json!(event)));
        }
        events
    }

    async fn explain(&mut self, key: &ModuleKey) -> Option<String> {
        let page = Box::pin(explain::page(self.client.clone(), key)).await;
        page.map_err(|error| self.gaps.push(format!("explanation of Module {key}: {error}"))).ok()
    }

    /// All of the operator's pods, and the newest of nodes and of Jobs.
    async fn pods(&mut self) -> Vec<Pod> {
        let own: Api<Pod> = Api::namespaced(self.client.clone(), NAMESPACE);
        let everywhere: Api<Pod> = Api::all(self.client.clone());
        let component =
            |name: &str| format!("{}={},{}={name}", labels::APP_NAME, labels::PRODUCT, labels::COMPONENT);
        let mut pods = Vec::new();
        for (what, api, selector, most) in [
            ("the operator's pods", &own, component("operator"), usize::MAX),
            ("the pods on nodes", &own, component("node"), MOST_PODS),
            ("the pods of Jobs", &everywhere, MAKES_IMAGES.to_owned(), MOST_PODS),
        ] {
            let read = list(api, &selector).await;
            let mut found = self.had(what, read).unwrap_or_default();
            found.sort_by_key(|pod| std::cmp::Reverse(pod.metadata.creation_timestamp.clone()));
            if found.len() > most {
                self.gaps.push(format!("{what}: the logs of {most} of {} are read", found.len()));
                found.truncate(most);
            }
            pods.append(&mut found);
        }
        pods
    }

    /// The logs of a pod, those of a container's former life too; and the operator's metrics.
    async fn pod(&mut self, pod: &Pod, archive: &mut Archive) -> Result<(), GatherError> {
        let (namespace, name) = (pod.namespace().unwrap_or_default(), pod.name_any());
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &namespace);
        let spec = pod.spec.as_ref();
        let containers =
            spec.into_iter().flat_map(|spec| spec.init_containers.iter().flatten().chain(&spec.containers));
        for container in containers {
            for previous in [false, true] {
                let params = LogParams {
                    container: Some(container.name.clone()),
                    previous,
                    timestamps: true,
                    tail_lines: Some(MOST_LINES),
                    ..LogParams::default()
                };
                let read = end_of_log(&api, &name, &params).await;
                let former = if previous { ".previous" } else { "" };
                // That a container has had no former life is no gap.
                let log =
                    if previous { read.ok() } else { self.had(&format!("log of {namespace}/{name}"), read) };
                if let Some(log) = log {
                    archive
                        .add_text(&format!("logs/{namespace}/{name}/{}{former}.log", container.name), &log)?;
                }
            }
        }
        if pod.labels().get(labels::COMPONENT).is_some_and(|component| component == "operator") {
            let path = Request::new(Pod::url_path(&(), Some(&namespace)));
            if let Ok(request) = path.get_subresource("proxy/metrics", &format!("{name}:{ADMIN_PORT}")) {
                let read = self.client.request_text(request).await;
                if let Some(metrics) = self.had(&format!("metrics of {name}"), read) {
                    archive.add_text(&format!("metrics/{name}.txt"), &metrics)?;
                }
            }
        }
        Ok(())
    }
}

/// The end of a log; where reading breaks off, it says so.
async fn end_of_log(api: &Api<Pod>, pod: &str, params: &LogParams) -> Result<String, kube::Error> {
    let mut log = std::pin::pin!(api.log_stream(pod, params).await?);
    let mut tail = Tail::new(MOST_BYTES);
    loop {
        let read = match log.fill_buf().await {
            Ok([]) => break,
            Ok(piece) => {
                tail.push(piece);
                piece.len()
            }
            Err(error) => {
                tail.push(format!("\n<here reading broke off: {error}>\n").as_bytes());
                break;
            }
        };
        log.consume_unpin(read);
    }
    Ok(tail.into_text())
}

async fn list<K>(api: &Api<K>, labels: &str) -> Result<Vec<K>, kube::Error>
where
    K: Clone + serde::de::DeserializeOwned + std::fmt::Debug,
{
    let mut page = ListParams::default().limit(PAGE).labels(labels);
    let mut objects = Vec::new();
    loop {
        let list = api.list(&page).await?;
        objects.extend(list.items);
        match list.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page = page.continue_token(&token),
            None => return Ok(objects),
        }
    }
}

/// What is written; nothing gets into it but through the redactor.
struct Archive {
    path: PathBuf,
    redactor: Redactor,
    tar: tar::Builder<GzEncoder<File>>,
    files: usize,
    now: u64,
}

impl Archive {
    fn create(path: PathBuf, redactor: Redactor) -> Result<Self, GatherError> {
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        let file = file.map_err(|source| GatherError::Write { path: path.clone(), source })?;
        let tar = tar::Builder::new(GzEncoder::new(file, Compression::default()));
        let now = u64::try_from(Timestamp::now().as_second()).unwrap_or_default();
        Ok(Self { path, redactor, tar, files: 0, now })
    }

    fn add_object(&mut self, name: &str, object: Value) -> Result<(), GatherError> {
        let object = self.redactor.object(object);
        let text = serde_json::to_string_pretty(&object).map_err(AnswerError::Json)?;
        self.append(name, &text)
    }

    fn add_text(&mut self, name: &str, text: &str) -> Result<(), GatherError> {
        let text = self.redactor.text(text);
        self.append(name, &text)
    }

    /// Of what is redacted.
    fn append(&mut self, name: &str, text: &str) -> Result<(), GatherError> {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(self.now);
        self.files += 1;
        let name = format!("tenon-gather/{name}");
        let appended = self.tar.append_data(&mut header, name, text.as_bytes());
        appended.map_err(|source| GatherError::Write { path: self.path.clone(), source })
    }

    fn finish(mut self, gaps: &[String]) -> Result<Written, GatherError> {
        self.add_text("gaps.txt", &gaps.join("\n"))?;
        let ended = self.tar.into_inner().and_then(GzEncoder::finish).and_then(|file| file.sync_all());
        ended.map_err(|source| GatherError::Write { path: self.path.clone(), source })?;
        // These are texts of the cluster, too.
        let gaps = gaps.iter().map(|gap| self.redactor.text(gap)).collect();
        Ok(Written { archive: self.path, files: self.files, gaps })
    }
}
