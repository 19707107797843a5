//! The answers to the kubelet's questions.

use std::convert::Infallible;
use std::future::ready;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::{Request, Response};
use tokio::sync::watch::Receiver;
use tokio_stream::wrappers::WatchStream;
use tokio_stream::{Stream, StreamExt as _};
use tonic::Status;
use tonic::body::Body;
use tonic::server::{Grpc, NamedService};
use tonic_prost::ProstCodec;
use tower::{Service, service_fn};

use crate::api::{
    self, AllocateRequest, AllocateResponse, ContainerAllocateRequest, ContainerAllocateResponse, Device,
    DevicePluginOptions, DeviceSpec, Empty, ListAndWatchResponse,
};
use crate::devices::Devices;

/// The service that the kubelet calls.
#[derive(Debug, Clone)]
pub(crate) struct DevicePlugin {
    devices: Receiver<Devices>,
    permissions: String,
}

impl DevicePlugin {
    /// Offers these devices, to be used so by containers.
    pub(crate) fn new(devices: Receiver<Devices>, permissions: String) -> Self {
        Self { devices, permissions }
    }

    /// All devices now, and again after every change.
    fn list_and_watch(self) -> impl Stream<Item = Result<ListAndWatchResponse, Status>> {
        WatchStream::new(self.devices).map(|devices| Ok(listed(&devices)))
    }

    /// What has to be done to containers that get these devices.
    fn allocate(&self, request: &AllocateRequest) -> Result<AllocateResponse, Status> {
        let container_responses = request.container_requests.iter().map(|request| self.handed_over(request));
        Ok(AllocateResponse { container_responses: container_responses.collect::<Result<_, _>>()? })
    }

    fn handed_over(&self, request: &ContainerAllocateRequest) -> Result<ContainerAllocateResponse, Status> {
        let devices = request.devices_ids.iter().map(|id| self.node(id)).collect::<Result<_, _>>()?;
        // For programs that would rather not search /dev.
        let envs = [("DEVICES".to_owned(), request.devices_ids.join(","))].into();
        Ok(ContainerAllocateResponse { envs, devices })
    }

    fn node(&self, id: &str) -> Result<DeviceSpec, Status> {
        // By now it may be gone, although the kubelet has not heard of it yet.
        if self.devices.borrow().get(Path::new(id)) != Some(&true) {
            return Err(Status::unavailable(format!("{id} is not there")));
        }
        tracing::info!(device = id, "handed to a container");
        Ok(DeviceSpec {
            container_path: id.to_owned(),
            host_path: id.to_owned(),
            permissions: self.permissions.clone(),
        })
    }
}

/// A device's name for the kubelet is its path.
fn listed(devices: &Devices) -> ListAndWatchResponse {
    let devices = devices.iter().map(|(path, there)| Device {
        id: path.display().to_string(),
        health: if *there { api::HEALTHY } else { api::UNHEALTHY }.to_owned(),
    });
    ListAndWatchResponse { devices: devices.collect() }
}

impl NamedService for DevicePlugin {
    const NAME: &'static str = api::SERVICE;
}

impl Service<Request<Body>> for DevicePlugin {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(answer(self.clone(), request))
    }
}

/// One call, by the name of its method.
async fn answer(plugin: DevicePlugin, call: Request<Body>) -> Result<Response<Body>, Infallible> {
    Ok(match call.uri().path().rsplit('/').next() {
        Some("GetDevicePluginOptions") => {
            let options =
                |_: tonic::Request<Empty>| ready(Ok(tonic::Response::new(DevicePluginOptions::default())));
            Grpc::new(ProstCodec::default()).unary(service_fn(options), call).await
        }
        Some("ListAndWatch") => {
            let list =
                |_: tonic::Request<Empty>| ready(Ok(tonic::Response::new(plugin.clone().list_and_watch())));
            Grpc::new(ProstCodec::default()).server_streaming(service_fn(list), call).await
        }
        Some("Allocate") => {
            let allocate = |request: tonic::Request<AllocateRequest>| {
                ready(plugin.allocate(request.get_ref()).map(tonic::Response::new))
            };
            Grpc::new(ProstCodec::default()).unary(service_fn(allocate), call).await
        }
        // The other two are asked only of those that have said so in their options.
        _ => Status::unimplemented("this plugin has no such method").into_http(),
    })
}

#[cfg(test)]
mod tests {
    use tokio::sync::watch;

    use super::*;

    fn plugin() -> DevicePlugin {
        let (_, devices) = watch::channel([("/dev/lab-0".into(), true), ("/dev/lab-1".into(), false)].into());
        DevicePlugin::new(devices, "r".to_owned())
    }

    fn request(containers: &[&[&str]]) -> AllocateRequest {
        let ids = |ids: &&[&str]| ids.iter().map(ToString::to_string).collect();
        let container_requests =
            containers.iter().map(|devices| ContainerAllocateRequest { devices_ids: ids(devices) });
        AllocateRequest { container_requests: container_requests.collect() }
    }

    #[test]
    fn every_container_gets_its_own_devices() {
        let response = plugin().allocate(&request(&[&["/dev/lab-0"], &[]])).unwrap();
        let [first, second] = response.container_responses.as_slice() else { panic!("{response:?}") };
        let node = DeviceSpec {
            container_path: "/dev/lab-0".to_owned(),
            host_path: "/dev/lab-0".to_owned(),
            permissions: "r".to_owned(),
        };
        assert_eq!(first.devices, [node]);
        assert_eq!(first.envs.get("DEVICES").unwrap(), "/dev/lab-0");
        assert_eq!(second.devices, []);
    }

    #[test]
    fn what_is_not_there_is_given_to_nobody() {
        for id in ["/dev/lab-1", "/dev/mem"] {
            assert!(plugin().allocate(&request(&[&[id]])).is_err(), "{id}");
        }
    }

    #[tokio::test]
    async fn a_device_that_has_gone_is_listed_as_unhealthy() {
        let first = plugin().list_and_watch().next().await.unwrap().unwrap();
        let health: Vec<_> = first.devices.iter().map(|device| device.health.as_str()).collect();
        assert_eq!(health, [api::HEALTHY, api::UNHEALTHY]);
    }
}
