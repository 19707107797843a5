//! What Tenon's own pod says on a node: its loader and its agent.

use std::time::Duration;

use futures::future::try_join_all;
use k8s_openapi::api::core::v1::{ContainerState, ContainerStatus, Node, Pod};
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt as _};
use serde::Serialize;
use tenon_api::node_pod;
use tenon_order::NodeName;
use tenon_plan::provision::job::progress;

use super::shown::{aside, copy, copy_lines, say};
use super::{Args, LogsError, OF_NODES};
use crate::answer;
use crate::seen::node_pods_selector;

/// How often a pod is looked at whose container has not begun.
const LOOK: Duration = Duration::from_secs(1);

pub(super) async fn logs(args: &Args, node: &NodeName) -> Result<(), LogsError> {
    let (client, _) = args.cluster.client().await?;
    let source = Source { client, args, node: node.as_ref() };
    let containers: Vec<_> = OF_NODES.into_iter().filter(|container| args.means(container)).collect();
    if let Some(format) = args.output {
        return Ok(answer::say(&answer::written(&source.said(&containers).await?, format)?)?);
    }
    match containers.as_slice() {
        [one] => source.copy(one).await,
        // What was said before has ended.
        several if args.follow && !args.previous => {
            try_join_all(several.iter().map(|one| source.follow(one))).await.map(drop)
        }
        several => source.one_by_one(several).await,
    }
}

/// Where it is read.
struct Source<'a> {
    client: Client,
    args: &'a Args,
    node: &'a str,
}

impl Source<'_> {
    fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), node_pod::NAMESPACE)
    }

    /// The pod that serves the node; one that makes room for another only where there is no other.
    async fn pod(&self) -> Result<Pod, LogsError> {
        let its = ListParams::default()
            .labels(&node_pods_selector())
            .fields(&format!("spec.nodeName={}", self.node));
        let found = self.pods().list(&its).await.map_err(LogsError::read("the pods of nodes"))?;
        let latest =
            |pod: &Pod| (pod.metadata.deletion_timestamp.is_none(), pod.metadata.creation_timestamp.clone());
        match found.items.into_iter().max_by_key(latest) {
            Some(pod) => Ok(pod),
            None => Err(self.absence().await),
        }
    }

    /// Why there is no pod. Who may not read nodes is told of the pod.
    async fn absence(&self) -> LogsError {
        let nodes: Api<Node> = Api::all(self.client.clone());
        match nodes.get_opt(self.node).await {
            Ok(None) => LogsError::NoNode(self.node.to_owned()),
            _ => LogsError::NoPod { node: self.node.to_owned() },
        }
    }

    /// The log of a container that has one, as it comes.
    async fn open(
        &self,
        pod: &str,
        container: &'static str,
    ) -> Result<impl futures::AsyncBufRead + use<>, LogsError> {
        let opened = self.pods().log_stream(pod, &self.args.part(container)).await;
        opened.map_err(|error| self.unread(pod, container, error))
    }

    /// The kubelet may know better than the pod's status whether there is a log.
    fn unread(&self, pod: &str, container: &'static str, error: kube::Error) -> LogsError {
        match error {
            kube::Error::Api(status) if status.code == 400 && self.args.previous => {
                LogsError::NoFormer { pod: pod.to_owned(), container }
            }
            kube::Error::Api(status) if status.code == 400 => {
                LogsError::NotBegun { pod: pod.to_owned(), container, why: status.message }
            }
            error => LogsError::read(format!("the log of container {container} of pod {pod}"))(error),
        }
    }

    /// A pod whose container has the log. Where it is to be followed, its beginning is waited for, be it in another pod.
    async fn begun(&self, container: &'static str) -> Result<Pod, LogsError> {
        let mut told = None;
        loop {
            let pod = self.pod().await?;
            match lack(&pod, container, self.args.previous) {
                None => return Ok(pod),
                Some(lack) if !self.args.follow || self.args.previous => return Err(lack),
                Some(lack) => {
                    let why = lack.to_string();
                    if told.as_ref() != Some(&why) {
                        aside(&format!("({why})"));
                    }
                    told = Some(why);
                }
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// One log, as it is.
    async fn copy(&self, container: &'static str) -> Result<(), LogsError> {
        let pod = self.begun(container).await?.name_any();
        copy(self.open(&pod, container).await?, &pod).await
    }

    /// One log among several.
    async fn follow(&self, container: &'static str) -> Result<(), LogsError> {
        let pod = self.begun(container).await?.name_any();
        copy_lines(self.open(&pod, container).await?, &pod, container).await
    }

    /// One after the other. What one lacks is said in its place, and is an error where all lack it.
    async fn one_by_one(&self, containers: &[&'static str]) -> Result<(), LogsError> {
        let pod = self.pod().await?;
        let name = pod.name_any();
        let lacks: Vec<_> =
            containers.iter().map(|container| lack(&pod, container, self.args.previous)).collect();
        if lacks.iter().all(Option::is_some) {
            return lacks.into_iter().flatten().next().map_or(Ok(()), Err);
        }
        for (container, lack) in containers.iter().zip(lacks) {
            say(&format!("==> node {}: container {container} of pod {name}", self.node))?;
            match lack {
                None => copy(self.open(&name, container).await?, &name).await?,
                Some(lack) => say(&format!("({lack})"))?,
            }
        }
        Ok(())
    }

    async fn said(&self, containers: &[&'static str]) -> Result<Said, LogsError> {
        let pod = self.pod().await?;
        let mut said = Said {
            node: self.node.to_owned(),
            pod: pod.name_any(),
            containers: Vec::with_capacity(containers.len()),
        };
        for container in containers {
            let log = match lack(&pod, container, self.args.previous) {
                Some(lack) => Err(lack),
                None => self
                    .pods()
                    .logs(&said.pod, &self.args.part(container))
                    .await
                    .map_err(|error| self.unread(&said.pod, container, error)),
            };
            said.containers.push(match log {
                Ok(log) => ContainerSaid { name: container, log, lacks: None },
                Err(lack @ (LogsError::NotBegun { .. } | LogsError::NoFormer { .. })) => {
                    ContainerSaid { name: container, log: String::new(), lacks: Some(lack.to_string()) }
                }
                Err(error) => return Err(error),
            });
        }
        Ok(said)
    }
}

/// What keeps a container from having the log that is asked for.
pub(super) fn lack(pod: &Pod, container: &'static str, previous: bool) -> Option<LogsError> {
    let status = progress::containers(pod).find(|status| status.name == container);
    let former = status.is_some_and(has_former);
    let state = status.and_then(|status| status.state.as_ref());
    let begun = state.is_some_and(|state| state.running.is_some() || state.terminated.is_some());
    match previous {
        _ if former => None,
        false if begun => None,
        true => Some(LogsError::NoFormer { pod: pod.name_any(), container }),
        false => Some(LogsError::NotBegun { pod: pod.name_any(), container, why: waits(pod, state) }),
    }
}

/// Whether a container was started before, so that it has a former log; that is also its log until it runs again.
fn has_former(status: &ContainerStatus) -> bool {
    status.last_state.as_ref().is_some_and(|state| state.terminated.is_some())
}

/// Why a container has not begun: its own words, or the pod's.
fn waits(pod: &Pod, state: Option<&ContainerState>) -> String {
    let own = state.and_then(|state| state.waiting.clone()).map(|waiting| [waiting.reason, waiting.message]);
    let words: Vec<_> = own.into_iter().flatten().flatten().collect();
    if !words.is_empty() {
        return words.join(": ");
    }
    let phase = || pod.status.as_ref().and_then(|status| status.phase.clone());
    let hindrance = progress::hindrance(pod);
    hindrance.unwrap_or_else(|| format!("the pod is {}", phase().unwrap_or_else(|| "Pending".to_owned())))
}

/// What is said on a node, for programs.
#[derive(Debug, Serialize)]
struct Said {
    node: String,
    pod: String,
    containers: Vec<ContainerSaid>,
}

#[derive(Debug, Serialize)]
struct ContainerSaid {
    name: &'static str,
    /// Not text, perhaps; what is none in it is replaced.
    log: String,
    /// Why there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    lacks: Option<String>,
}
