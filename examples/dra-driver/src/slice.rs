//! The `ResourceSlice`: which devices this node has, for the scheduler.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::resource::v1::{Device, ResourceSlice};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::sync::watch::Receiver;
use tokio::time::sleep;

use crate::args::Args;
use crate::devices::Devices;

/// After what did not work.
const PAUSE: Duration = Duration::from_secs(5);

/// Keeps it as the devices are.
pub(crate) struct Slice {
    driver: String,
    node: String,
    client: Client,
    devices: Receiver<Devices>,
}

impl Slice {
    pub(crate) fn new(args: &Args, client: Client, devices: Receiver<Devices>) -> Self {
        Self { driver: args.driver_name.clone(), node: args.node_name.clone(), client, devices }
    }

    /// Publishes whenever the kubelet has registered this driver, which may have been away for so long that the kubelet has
    /// withdrawn the slice, and whenever the devices change after that.
    pub(crate) async fn keep(mut self, mut registrations: Receiver<u32>) {
        let mut go_on = registrations.changed().await.is_ok();
        while go_on {
            self.publish_until_done().await;
            go_on = tokio::select! {
                changed = self.devices.changed() => changed.is_ok(),
                registered = registrations.changed() => registered.is_ok(),
            };
        }
    }

    async fn publish_until_done(&mut self) {
        loop {
            let devices = self.devices.borrow_and_update().clone();
            match self.publish(&devices).await {
                Ok(()) => return tracing::info!(devices = devices.len(), "published"),
                Err(error) => tracing::warn!(error = format!("{error:#}"), "publish the ResourceSlice"),
            }
            sleep(PAUSE).await;
        }
    }

    async fn publish(&self, devices: &Devices) -> anyhow::Result<()> {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let node = nodes.get(&self.node).await.context("read the Node")?;
        let slices: Api<ResourceSlice> = Api::all(self.client.clone());
        let name = format!("{}-{}", self.node, self.driver);
        let former = slices.get_opt(&name).await.context("read the ResourceSlice")?;
        let wanted = json!({
            "apiVersion": "resource.k8s.io/v1",
            "kind": "ResourceSlice",
            // It goes with the node.
            "metadata": { "name": name, "ownerReferences": [{
                "apiVersion": "v1",
                "kind": "Node",
                "name": self.node,
                "uid": node.metadata.uid,
                "controller": true,
            }]},
            "spec": self.spec(devices, former.as_ref()),
        });
        let params = PatchParams::apply(&self.driver).force();
        slices.patch(&name, &params, &Patch::Apply(&wanted)).await.context("write the ResourceSlice")?;
        Ok(())
    }

    /// One pool with one slice per node. Whoever changes a pool gives it a higher generation.
    fn spec(&self, devices: &Devices, former: Option<&ResourceSlice>) -> Value {
        let generation = match former.map(|slice| &slice.spec) {
            None => 1,
            Some(former) if names(former.devices.as_deref()).eq(devices.keys()) => former.pool.generation,
            Some(former) => former.pool.generation + 1,
        };
        let device = |(name, path): (&String, &PathBuf)| json!({ "name": name, "attributes": { "path": { "string": path } } });
        json!({
            "driver": self.driver,
            "nodeName": self.node,
            "pool": { "name": self.node, "generation": generation, "resourceSliceCount": 1 },
            "devices": devices.iter().map(device).collect::<Vec<_>>(),
        })
    }
}

fn names(devices: Option<&[Device]>) -> impl Iterator<Item = &String> {
    devices.unwrap_or_default().iter().map(|device| &device.name)
}
