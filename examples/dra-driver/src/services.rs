//! What the kubelet calls: who this is, to prepare claims and to forget them, whether all is well.

use std::convert::Infallible;
use std::future::ready;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::{Request, Response};
use tokio::sync::watch::Sender;
use tonic::Status;
use tonic::body::Body;
use tonic::server::{Grpc, NamedService};
use tonic_prost::ProstCodec;
use tower::{Service, service_fn};

use crate::api::{
    self, ClaimsRequest, Empty, HealthResponse, PluginInfo, PrepareResponse, RegistrationStatus,
    UnprepareResponse,
};
use crate::args::Args;
use crate::claims::Claims;

/// A gRPC service.
pub(crate) trait Methods: Clone + Send + Sync + 'static {
    /// As calls name it.
    const NAME: &'static str;

    /// Answers a call of a method.
    fn answer(self, method: &str, call: Request<Body>) -> impl Future<Output = Response<Body>> + Send;
}

/// A service as the server takes it.
#[derive(Debug, Clone)]
pub(crate) struct Served<M>(pub(crate) M);

impl<M: Methods> NamedService for Served<M> {
    const NAME: &'static str = M::NAME;
}

impl<M: Methods> Service<Request<Body>> for Served<M> {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, call: Request<Body>) -> Self::Future {
        let methods = self.0.clone();
        let path = call.uri().path().to_owned();
        Box::pin(async move {
            let method = path.rsplit('/').next().unwrap_or_default();
            Ok(methods.answer(method, call).await)
        })
    }
}

/// One question, one answer.
async fn unary<Q, A, F>(call: Request<Body>, mut answer: impl FnMut(Q) -> F + Send) -> Response<Body>
where
    Q: prost::Message + Default + Send + Sync + 'static,
    A: prost::Message + Send + Sync + 'static,
    F: Future<Output = A> + Send,
{
    let method = |question: tonic::Request<Q>| {
        let answer = answer(question.into_inner());
        async move { Ok(tonic::Response::new(answer.await)) }
    };
    Grpc::new(ProstCodec::default()).unary(service_fn(method), call).await
}

fn unknown() -> Response<Body> {
    Status::unimplemented("there is no such method").into_http()
}

/// Tells the kubelet who this is.
#[derive(Debug, Clone)]
pub(crate) struct Registration {
    info: PluginInfo,
    registered: Sender<u32>,
}

impl Registration {
    /// Counts how often the kubelet has registered this driver.
    pub(crate) fn new(args: &Args, registered: Sender<u32>) -> Self {
        let info = PluginInfo {
            kind: api::PLUGIN_TYPE.to_owned(),
            name: args.driver_name.clone(),
            endpoint: args.driver_socket().display().to_string(),
            supported_versions: vec![api::PLUGIN_VERSION.to_owned()],
        };
        Self { info, registered }
    }

    fn heard(&self, status: &RegistrationStatus) -> Empty {
        if status.plugin_registered {
            tracing::info!("registered with the kubelet");
            self.registered.send_modify(|count| *count = count.wrapping_add(1));
        } else {
            tracing::error!(error = status.error, "the kubelet does not register this driver");
        }
        Empty {}
    }
}

impl Methods for Registration {
    const NAME: &'static str = api::REGISTRATION;

    async fn answer(self, method: &str, call: Request<Body>) -> Response<Body> {
        match method {
            "GetInfo" => unary(call, |_: Empty| ready(self.info.clone())).await,
            "NotifyRegistrationStatus" => unary(call, |status| ready(self.heard(&status))).await,
            _ => unknown(),
        }
    }
}

/// Prepares claims, one after the other.
#[derive(Clone)]
pub(crate) struct Driver(pub(crate) Claims);

impl Driver {
    async fn prepare(&self, request: ClaimsRequest) -> PrepareResponse {
        let mut response = PrepareResponse::default();
        for claim in request.claims {
            let prepared = self.0.prepare(&claim).await;
            response.claims.insert(claim.uid, prepared);
        }
        response
    }

    fn unprepare(&self, request: ClaimsRequest) -> UnprepareResponse {
        let unprepared = request.claims.into_iter().map(|claim| {
            let unprepared = self.0.unprepare(&claim);
            (claim.uid, unprepared)
        });
        UnprepareResponse { claims: unprepared.collect() }
    }
}

impl Methods for Driver {
    const NAME: &'static str = api::DRA_PLUGIN;

    async fn answer(self, method: &str, call: Request<Body>) -> Response<Body> {
        match method {
            "NodePrepareResources" => unary(call, |request| self.prepare(request)).await,
            "NodeUnprepareResources" => unary(call, |request| ready(self.unprepare(request))).await,
            _ => unknown(),
        }
    }
}

/// Whether all is well: who can answer is.
#[derive(Debug, Clone)]
pub(crate) struct Health;

impl Methods for Health {
    const NAME: &'static str = api::HEALTH;

    async fn answer(self, method: &str, call: Request<Body>) -> Response<Body> {
        match method {
            "Check" => unary(call, |_: Empty| ready(HealthResponse { status: api::SERVING })).await,
            _ => unknown(),
        }
    }
}
