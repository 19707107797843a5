//! Tenon as the pods that it is in production: its images in the lab's registry, and the workloads of `deploy/` word for
//! word. On a worker `registry.tenon.dev` is the lab's registry, so that not even the images' names differ.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use kube::Api;
use tenon_api::node_pod::{DAEMON_SET, NAMESPACE};

use crate::Lab;
use crate::claim::{Broken, comes_true_within};
use crate::cluster::{LabError, OPERATOR, deploy};
use crate::program_images::{self, ProgramImage};
use crate::programs::{self, Program};

/// The version that the manifests in `deploy/` name.
pub const SHIPPED: &str = env!("CARGO_PKG_VERSION");
/// Pods on an emulated processor: images are pulled, programs start, probes succeed.
const ROLLED_OUT: Duration = Duration::from_mins(6);
/// The workloads' images, by the programs in them.
const IMAGES: [Program; 4] = [Program::Operator, Program::Agent, Program::Loader, Program::Maker];

/// One release of Tenon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Release<'a> {
    /// Its version: the images' tag.
    pub version: &'a str,
    /// A folder with its programs; without one, those of this source tree.
    pub programs: Option<&'a Path>,
}

/// Which nodes get the node's pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nodes<'a> {
    /// Every node, as shipped.
    All,
    /// One: beside it there are nodes whose pods the lab plays.
    Only(&'a str),
}

impl Lab {
    /// Pushes a release's images to the lab's registry.
    pub async fn publish(&self, release: Release<'_>) -> Result<(), LabError> {
        for program in IMAGES {
            let folder = release.programs.map(Path::to_owned);
            let binary = tokio::task::spawn_blocking(move || match folder {
                Some(folder) => Ok(folder.join(program.name())),
                None => programs::program(program),
            });
            let binary: PathBuf = binary.await??;
            let path = format!("/{}", program.name());
            let labels = BTreeMap::from([("org.opencontainers.image.version", release.version)]);
            let image = ProgramImage { binary: &binary, program: &path, arguments: &[], labels };
            let reference = format!("{}/{}:{}", self.registry().host(), program.name(), release.version);
            program_images::push(&image, &reference).await?;
        }
        Ok(())
    }

    /// Publishes and installs this source tree's release on all nodes, and waits until it runs.
    pub async fn install(&self) -> Result<(), LabError> {
        self.publish(Release { version: SHIPPED, programs: None }).await?;
        self.deploy_operator(SHIPPED).await?;
        self.deploy_node_pod(SHIPPED, Nodes::All).await?;
        self.operator_rolled_out().await?;
        Ok(self.node_pods_rolled_out().await?)
    }

    /// Installs the operator as `deploy/operator.yaml` has it, or changes it to another version.
    pub async fn deploy_operator(&self, version: &str) -> Result<(), LabError> {
        Ok(self.plane().apply(&of_version(&manifest("operator.yaml")?, version)).await?)
    }

    /// Installs the node's pod as `deploy/node.yaml` has it, or changes it to another version.
    pub async fn deploy_node_pod(&self, version: &str, nodes: Nodes<'_>) -> Result<(), LabError> {
        let manifest = of_version(&manifest("node.yaml")?, version);
        let manifest = match nodes {
            Nodes::All => manifest,
            Nodes::Only(node) => narrowed(&manifest, node),
        };
        Ok(self.plane().apply(&manifest).await?)
    }

    /// Waits until all of the operator's pods are of the wished version and ready.
    pub async fn operator_rolled_out(&self) -> Result<(), Broken> {
        let deployments: Api<Deployment> = Api::namespaced(self.plane().client(), NAMESPACE);
        comes_true_within(ROLLED_OUT, "the operator's pods are ready", async || {
            let deployment = deployments.get(OPERATOR).await.map_err(|error| error.to_string())?;
            let wanted = deployment.spec.and_then(|spec| spec.replicas);
            let status = deployment.status.unwrap_or_default();
            let counted = [status.replicas, status.updated_replicas, status.available_replicas];
            let current = status.observed_generation == deployment.metadata.generation;
            if current && counted == [wanted; 3] { Ok(()) } else { Err(format!("{status:?}")) }
        })
        .await
    }

    /// Waits until the node's pods are of the wished version and ready everywhere.
    pub async fn node_pods_rolled_out(&self) -> Result<(), Broken> {
        let sets: Api<DaemonSet> = Api::namespaced(self.plane().client(), NAMESPACE);
        comes_true_within(ROLLED_OUT, "the nodes' pods are ready", async || {
            let set = sets.get(DAEMON_SET).await.map_err(|error| error.to_string())?;
            let status = set.status.unwrap_or_default();
            let wanted = status.desired_number_scheduled;
            let current = status.observed_generation == set.metadata.generation;
            let all =
                status.updated_number_scheduled == Some(wanted) && status.number_available == Some(wanted);
            if current && all && wanted > 0 { Ok(()) } else { Err(format!("{status:?}")) }
        })
        .await
    }
}

fn manifest(name: &str) -> Result<String, LabError> {
    let path = deploy().join(name);
    fs::read_to_string(&path).map_err(|source| LabError::Manifest { path, source })
}

fn of_version(manifest: &str, version: &str) -> String {
    let image = |program: Program, version: &str| format!("/{}:{version}\n", program.name());
    IMAGES.iter().fold(manifest.to_owned(), |text, program| {
        text.replace(&image(*program, SHIPPED), &image(*program, version))
    })
}

fn narrowed(manifest: &str, node: &str) -> String {
    let selector = "        kubernetes.io/os: linux\n";
    manifest.replace(selector, &format!("{selector}        kubernetes.io/hostname: {node}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manifests_name_the_images_that_are_pushed() {
        let shipped = [manifest("operator.yaml").unwrap(), manifest("node.yaml").unwrap()].join("---\n");
        let changed = of_version(&shipped, "0.9.9");
        for program in IMAGES {
            let count = |text: &str, version: &str| {
                text.matches(&format!("registry.tenon.dev/{}:{version}\n", program.name())).count()
            };
            assert_eq!(
                (count(&shipped, SHIPPED), count(&changed, "0.9.9"), count(&changed, SHIPPED)),
                (1, 1, 0)
            );
        }
    }

    #[test]
    fn a_narrowed_manifest_selects_one_node() {
        let shipped = manifest("node.yaml").unwrap();
        let narrowed = narrowed(&shipped, "loom-1");
        assert!(narrowed.contains(
            "nodeSelector:\n        kubernetes.io/os: linux\n        kubernetes.io/hostname: loom-1\n"
        ));
    }
}
