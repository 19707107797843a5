//! Claims: prepared when a pod needs them, by a file that tells the container runtime which node to put into its containers,
//! and unprepared when no pod does any more. Both may be asked again at any time, and then nothing happens.

use std::fs;
use std::io::{self, Write as _};
use std::path::PathBuf;

use anyhow::{Context as _, bail, ensure};
use k8s_openapi::api::resource::v1::{DeviceRequestAllocationResult, ResourceClaim};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::sync::watch::Receiver;

use crate::api::{ClaimName, Prepared, PreparedDevice, Unprepared};
use crate::args::Args;
use crate::devices::Devices;

/// The second part of what CDI calls a kind; the first is the driver's name.
const CLASS: &str = "claim";

/// Prepares and unprepares.
#[derive(Clone)]
pub(crate) struct Claims {
    driver: String,
    folder: PathBuf,
    client: Client,
    devices: Receiver<Devices>,
}

impl Claims {
    pub(crate) fn new(args: &Args, client: Client, devices: Receiver<Devices>) -> Self {
        Self { driver: args.driver_name.clone(), folder: args.cdi_root.clone(), client, devices }
    }

    /// Prepares a claim; what does not work is tried again by the kubelet, and shown as an event of the pod.
    pub(crate) async fn prepare(&self, name: &ClaimName) -> Prepared {
        match self.try_prepare(name).await {
            Ok(devices) => {
                tracing::info!(namespace = name.namespace, claim = name.name, "prepared");
                Prepared { devices, error: String::new() }
            }
            Err(error) => {
                tracing::warn!(namespace = name.namespace, claim = name.name, error = format!("{error:#}"));
                Prepared { devices: Vec::new(), error: format!("{error:#}") }
            }
        }
    }

    async fn try_prepare(&self, name: &ClaimName) -> anyhow::Result<Vec<PreparedDevice>> {
        let claims: Api<ResourceClaim> = Api::namespaced(self.client.clone(), &name.namespace);
        let claim = claims.get(&name.name).await.context("read the ResourceClaim")?;
        ensure!(
            claim.metadata.uid.as_deref() == Some(&name.uid),
            "the ResourceClaim is another one of that name"
        );
        let results = allocated(&claim, &self.driver);
        let document = describe(&self.driver, &name.uid, &results, &self.devices.borrow())?;
        self.write(&name.uid, &document).context("write the description for the container runtime")?;
        Ok(results.iter().map(|result| prepared(&self.driver, &name.uid, result)).collect())
    }

    /// Whole or not at all: the container runtime may read it at any moment. (It looks at files that end in `.json`.)
    fn write(&self, uid: &str, document: &Value) -> io::Result<()> {
        fs::create_dir_all(&self.folder)?;
        let mut aside = tempfile::NamedTempFile::new_in(&self.folder)?;
        aside.write_all(document.to_string().as_bytes())?;
        aside.persist(self.file(uid)).map(drop).map_err(io::Error::from)
    }

    /// Forgets a claim.
    pub(crate) fn unprepare(&self, name: &ClaimName) -> Unprepared {
        let error = match fs::remove_file(self.file(&name.uid)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                format!("remove the description for the container runtime: {error}")
            }
            _ => String::new(),
        };
        tracing::info!(namespace = name.namespace, claim = name.name, error, "unprepared");
        Unprepared { error }
    }

    fn file(&self, uid: &str) -> PathBuf {
        self.folder.join(format!("{}-{CLASS}_{uid}.json", self.driver))
    }
}

/// The devices of this driver that a claim was given.
fn allocated<'a>(claim: &'a ResourceClaim, driver: &str) -> Vec<&'a DeviceRequestAllocationResult> {
    let allocation = claim.status.as_ref().and_then(|status| status.allocation.as_ref());
    let devices = allocation.and_then(|allocation| allocation.devices.as_ref());
    let results = devices.and_then(|devices| devices.results.as_ref()).into_iter().flatten();
    results.filter(|result| result.driver == driver).collect()
}

/// By what the container runtime knows a device of a claim.
fn cdi_name(uid: &str, device: &str) -> String {
    format!("{uid}-{device}")
}

fn prepared(driver: &str, uid: &str, result: &DeviceRequestAllocationResult) -> PreparedDevice {
    PreparedDevice {
        request_names: vec![result.request.clone()],
        pool_name: result.pool.clone(),
        device_name: result.device.clone(),
        cdi_device_ids: vec![format!("{driver}/{CLASS}={}", cdi_name(uid, &result.device))],
    }
}

/// What containers with the claim get, as CDI has it.
fn describe(
    driver: &str,
    uid: &str,
    results: &[&DeviceRequestAllocationResult],
    devices: &Devices,
) -> anyhow::Result<Value> {
    let mut described = Vec::new();
    for result in results {
        let Some(path) = devices.get(&result.device) else {
            bail!("device {} is not on this node", result.device);
        };
        let node = json!({ "path": path, "permissions": "rw" });
        let edits = json!({ "deviceNodes": [node], "env": [format!("DEVICES={}", path.display())] });
        described.push(json!({ "name": cdi_name(uid, &result.device), "containerEdits": edits }));
    }
    Ok(json!({ "cdiVersion": "0.6.0", "kind": format!("{driver}/{CLASS}"), "devices": described }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DRIVER: &str = "lab.example";

    fn claim() -> ResourceClaim {
        let result = |driver: &str, device: &str| json!({ "driver": driver, "device": device, "pool": "loom", "request": "one" });
        serde_json::from_value(json!({
            "metadata": { "name": "thread", "uid": "u-1" },
            "spec": {},
            "status": { "allocation": { "devices": { "results": [
                result(DRIVER, "lab-0"),
                result("other.example", "lab-1"),
            ]}}},
        }))
        .unwrap()
    }

    #[test]
    fn the_runtime_is_told_of_this_drivers_devices_and_the_kubelet_by_what_names() {
        let claim = claim();
        let results = allocated(&claim, DRIVER);
        let devices = [("lab-0".to_owned(), "/dev/lab-0".into())].into();
        let document = describe(DRIVER, "u-1", &results, &devices).unwrap();
        let named: Vec<_> = results.iter().map(|result| prepared(DRIVER, "u-1", result)).collect();
        let [named] = named.as_slice() else { panic!("{named:?}") };
        let kind = document["kind"].as_str().unwrap();
        let [device] = document["devices"].as_array().unwrap().as_slice() else { panic!("{document}") };
        assert_eq!(named.cdi_device_ids, [format!("{kind}={}", device["name"].as_str().unwrap())]);
        assert_eq!(device["containerEdits"]["deviceNodes"][0]["path"], "/dev/lab-0");
        assert_eq!(
            (named.pool_name.as_str(), named.request_names.as_slice()),
            ("loom", &["one".to_owned()][..])
        );
    }

    #[test]
    fn a_device_that_has_gone_is_named() {
        let claim = claim();
        let error = describe(DRIVER, "u-1", &allocated(&claim, DRIVER), &Devices::new()).unwrap_err();
        assert_eq!(error.to_string(), "device lab-0 is not on this node");
    }
}
