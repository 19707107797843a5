//! Plays the nodes that pull images for the operator: runs the program of every pod that comes, on the files of the image that the pod
//! runs from, and says what a kubelet would say of its end.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Container, Pod};
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt as _};
use serde_json::json;
use tenon_api::node_pod::DEPOT_CONFIG_MAP;
use tenon_api::pull::{ADDRESSES, AUDIENCE, AUTHORITY, CONTAINER, SERVICE_ACCOUNT, TOKEN, VARIABLE};
use tenon_image::ImageReference;
use tenon_image::testing::TestRegistry;
use tenon_lab::ControlPlane;
use tenon_lab::control_plane::Binding;
use tenon_lab::jobs;
use tenon_maker::pull::{self, Places};
use tenon_order::Digest;
use tokio::task::{AbortHandle, JoinSet};

use crate::stand::{Driver, OPERATOR_NAMESPACE};

/// How often it is looked for pods.
const LOOK: Duration = Duration::from_millis(100);

/// What a node has.
pub(crate) struct Puller {
    pub(crate) plane: Arc<ControlPlane>,
    pub(crate) registry: Arc<TestRegistry>,
    pub(crate) driver: Arc<Driver>,
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

impl Puller {
    /// Runs pods from now on, each for as long as it is there.
    pub(crate) fn serve(self) -> JoinSet<()> {
        let (puller, mut tasks) = (Arc::new(self), JoinSet::new());
        tasks.spawn(async move {
            let mut looks = tokio::time::interval(LOOK);
            let (mut running, mut known) = (JoinSet::new(), BTreeMap::<String, AbortHandle>::new());
            loop {
                looks.tick().await;
                let Ok(pods) = jobs::waiting(&puller.plane.client(), None).await else { continue };
                known.retain(|uid, task| {
                    let is_there = pods.iter().any(|pod| pod.uid().as_ref() == Some(uid));
                    if !is_there {
                        task.abort();
                    }
                    is_there
                });
                for pod in pods {
                    let uid = pod.uid().unwrap_or_default();
                    let puller = puller.clone();
                    known.entry(uid).or_insert_with(|| {
                        running.spawn(async move {
                            // The operator may end in the middle of it: then there is no end to report.
                            let _ = puller.run(&pod).await;
                        })
                    });
                }
                while running.try_join_next().is_some() {}
            }
        });
        tasks
    }

    async fn run(&self, pod: &Pod) -> Result<(), Failure> {
        let containers = pod.spec.as_ref().map(|spec| spec.containers.as_slice()).unwrap_or_default();
        let container = containers.first().ok_or("a pod without a container")?;
        let image: ImageReference = container.image.as_deref().unwrap_or_default().parse()?;
        let tag = image.tag().ok_or("an image without a tag")?;
        let manifest = self.registry.manifest(image.repository(), tag).ok_or("no such image")?;
        let (root, access) = (tempfile::tempdir()?, tempfile::tempdir()?);
        self.driver.unpack(root.path(), tag)?;
        self.mount(pod, access.path()).await?;
        let places = Places { root: root.path().to_owned(), access: access.path().to_owned() };
        pull::run(task(container).as_deref(), &places).await?;
        self.report(pod, &image.by_digest(Digest::of(&manifest)).to_string()).await
    }

    /// What the pod needs to reach the depot.
    async fn mount(&self, pod: &Pod, folder: &Path) -> Result<(), Failure> {
        let maps: Api<ConfigMap> = Api::namespaced(self.plane.client(), OPERATOR_NAMESPACE);
        let depot = maps.get(DEPOT_CONFIG_MAP).await?.data.unwrap_or_default();
        for name in [ADDRESSES, AUTHORITY] {
            fs::write(folder.join(name), depot.get(name).ok_or("no address of the depot")?)?;
        }
        let binding = Binding::Pod { name: pod.name_any(), uid: pod.uid().unwrap_or_default() };
        let token = self.plane.token(OPERATOR_NAMESPACE, SERVICE_ACCOUNT, Some(AUDIENCE), &binding).await?;
        Ok(fs::write(folder.join(TOKEN), token)?)
    }

    async fn report(&self, pod: &Pod, image_id: &str) -> Result<(), Failure> {
        let now = "2026-01-01T00:00:00Z";
        let ended = json!({ "exitCode": 0, "reason": "Completed", "startedAt": now, "finishedAt": now });
        let status = json!({ "status": { "phase": "Succeeded", "containerStatuses": [{
            "name": CONTAINER, "image": "", "imageID": image_id, "ready": false, "restartCount": 0,
            "state": { "terminated": ended },
        }]}});
        let pods: Api<Pod> = Api::namespaced(self.plane.client(), OPERATOR_NAMESPACE);
        pods.patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Strategic(status)).await?;
        Ok(())
    }
}

fn task(container: &Container) -> Option<String> {
    let mut variables = container.env.iter().flatten();
    variables.find(|variable| variable.name == VARIABLE)?.value.clone()
}
