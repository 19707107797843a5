//! Metrics, liveness and readiness over plain HTTP, for the kubelet and for Prometheus.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::lease::Claim;
use crate::metrics::Metrics;

mod readiness;

pub use readiness::{Part, Readiness};

/// What the answers are made from.
#[derive(Clone, Debug)]
pub struct Admin {
    /// What `/metrics` shows.
    pub metrics: Arc<Metrics>,
    /// What `/readyz` tells.
    pub readiness: Readiness,
    /// Whether this replica leads.
    pub claim: Claim,
}

/// Answers until `shutdown`.
pub async fn serve(admin: Admin, listener: TcpListener, shutdown: CancellationToken) -> std::io::Result<()> {
    axum::serve(listener, router(admin)).with_graceful_shutdown(shutdown.cancelled_owned()).await
}

/// The paths and their answers.
pub fn router(admin: Admin) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(async || "alive\n"))
        .route("/readyz", get(readyz))
        .with_state(admin)
}

async fn metrics(State(admin): State<Admin>) -> Response {
    admin.metrics.leader.set(i64::from(admin.claim.is_current()));
    match admin.metrics.encode() {
        Ok(text) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, kind)], text).into_response()
        }
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

async fn readyz(State(admin): State<Admin>) -> (StatusCode, String) {
    let (ready, mut lines) = admin.readiness.report();
    lines.push_str(if admin.claim.is_current() { "leadership: leader\n" } else { "leadership: standby\n" });
    (if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, lines)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt as _;

    async fn ask(admin: &Admin, path: &str) -> (StatusCode, String) {
        let request = axum::extract::Request::get(path).body(axum::body::Body::empty()).unwrap();
        let mut service = router(admin.clone());
        let response = tower_service::Service::call(&mut service, request).await.unwrap();
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    fn admin() -> Admin {
        Admin { metrics: Arc::default(), readiness: Readiness::default(), claim: Claim::without_election() }
    }

    #[tokio::test]
    async fn readiness_names_what_is_missing_and_who_leads() {
        let admin = admin();
        admin.readiness.ready(Part::Caches);
        admin.readiness.waiting(Part::OrderKey, "Secret drivers/tenon-order-key has no entry current");
        let (status, body) = ask(&admin, "/readyz").await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(
            body,
            "caches: ready\norder key: Secret drivers/tenon-order-key has no entry current\n\
             serving certificate: not there yet\nleadership: leader\n"
        );
        admin.readiness.ready(Part::OrderKey);
        admin.readiness.ready(Part::ServingCertificate);
        assert_eq!(ask(&admin, "/readyz").await.0, StatusCode::OK);
    }

    #[tokio::test]
    async fn metrics_are_served() {
        let admin = admin();
        let (status, body) = ask(&admin, "/metrics").await;
        assert_eq!(status, StatusCode::OK);
        assert!(body.contains("tenon_leader 1"), "{body}");
    }
}
