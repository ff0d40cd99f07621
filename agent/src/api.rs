//! The local API: the views as JSON, metrics, health.
//!
//! It answers from memory; only `/v1/ippools` and the object parts of `/v1/explain` ask the API server, with a deadline.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{Path, Query, State, rejection::QueryRejection},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use fairlead_model::{NodeName, ServiceName};
use fairlead_observe::{
    ErrorView, ExplainView, IpPoolRow, L2Event, L2Row, ServiceView, StatusView,
};
use fairlead_rt::{BoxError, CancellationToken, metrics};
use tokio::net::{TcpListener, UnixListener};

use crate::views::Views;

/// Serves until told to stop.
///
/// # Errors
/// A listener that fails for good.
///
/// # Cancel safety
/// Dropping the future closes every connection.
pub async fn serve(
    listener: UnixListener,
    views: Arc<Views>,
    stop: CancellationToken,
) -> Result<(), BoxError> {
    let served =
        axum::serve(listener, router(views)).with_graceful_shutdown(stop.cancelled_owned());
    Ok(served.await?)
}

/// Serves `/metrics` and `/healthz`, and nothing else, to whoever may reach the address, until told to stop.
///
/// # Errors
/// A listener that fails for good.
///
/// # Cancel safety
/// Dropping the future closes every connection.
pub async fn serve_observers(
    listener: TcpListener,
    views: Arc<Views>,
    stop: CancellationToken,
) -> Result<(), BoxError> {
    let router = Router::new()
        .route("/metrics", get(metrics_text))
        .route("/healthz", get(healthz))
        .with_state(views);
    let served = axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned());
    Ok(served.await?)
}

/// Every path.
pub fn router(views: Arc<Views>) -> Router {
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/services", get(services))
        .route("/v1/ippools", get(ip_pools))
        .route("/v1/l2", get(l2))
        .route("/v1/l2/history", get(l2_history))
        .route("/v1/l2/move", post(l2_move))
        .route("/v1/explain/{namespace}/{name}", get(explain))
        .route("/metrics", get(metrics_text))
        .route("/healthz", get(healthz))
        .fallback(nothing)
        .with_state(views)
}

/// A refusal.
pub struct Refusal(StatusCode, ErrorView);

impl Refusal {
    /// With the closed word, one sentence, and what to do.
    pub fn new(status: StatusCode, reason: &str, message: impl Into<String>, remedy: &str) -> Self {
        Self(
            status,
            ErrorView {
                reason: reason.to_owned(),
                message: message.into(),
                remedy: Some(remedy.to_owned()),
            },
        )
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.0, Json(self.1)).into_response()
    }
}

async fn status(State(views): State<Arc<Views>>) -> Json<StatusView> {
    Json(views.status())
}

async fn services(State(views): State<Arc<Views>>) -> Json<Vec<ServiceView>> {
    Json(views.services())
}

async fn ip_pools(State(views): State<Arc<Views>>) -> Result<Json<Vec<IpPoolRow>>, Refusal> {
    views.ip_pools().await.map(Json)
}

async fn l2(State(views): State<Arc<Views>>) -> Json<Vec<L2Row>> {
    Json(views.l2())
}

async fn l2_history(State(views): State<Arc<Views>>) -> Json<Vec<L2Event>> {
    let history = views.l2.history.borrow();
    Json(history.iter().cloned().collect())
}

/// Which address, and where to.
#[derive(serde::Deserialize)]
struct Move {
    vip: std::net::IpAddr,
    node: String,
}

async fn l2_move(
    State(views): State<Arc<Views>>,
    asked: Result<Query<Move>, QueryRejection>,
) -> Result<Json<Vec<L2Row>>, Refusal> {
    let bad = |reason: &str, why: String| {
        let remedy = "write it as /v1/l2/move?vip=ADDRESS&node=NODE";
        Refusal::new(StatusCode::BAD_REQUEST, reason, why, remedy)
    };
    let Query(asked) = asked.map_err(|e| bad("BadMove", e.body_text()))?;
    let node = NodeName::new(&asked.node).map_err(|e| bad(e.reason(), e.to_string()))?;
    let moved = views.l2.move_to(asked.vip, node).await;
    moved.map_err(|(reason, why)| {
        let remedy =
            "ask the agent of the owner; `fairlead l2 list` names it and says who is heard";
        Refusal::new(StatusCode::CONFLICT, reason, why, remedy)
    })?;
    let mut rows = views.l2();
    rows.retain(|row| row.vip == asked.vip);
    Ok(Json(rows))
}

async fn explain(
    State(views): State<Arc<Views>>,
    Path((namespace, name)): Path<(String, String)>,
) -> Result<Json<ExplainView>, Refusal> {
    let name = ServiceName::new(&namespace, &name).map_err(|error| {
        let remedy = "write it as NAMESPACE/NAME";
        Refusal::new(
            StatusCode::BAD_REQUEST,
            error.reason(),
            error.to_string(),
            remedy,
        )
    })?;
    Ok(Json(views.explain(&name).await))
}

async fn metrics_text(State(views): State<Arc<Views>>) -> impl IntoResponse {
    (
        [(header::CONTENT_TYPE, metrics::CONTENT_TYPE)],
        views.metrics(),
    )
}

/// 200 as soon as a snapshot is in the kernel; until then 503 and what is missing.
async fn healthz(State(views): State<Arc<Views>>) -> (StatusCode, String) {
    match views.not_ready() {
        None => (StatusCode::OK, "ok\n".to_owned()),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
    }
}

async fn nothing() -> Refusal {
    let remedy = "paths: /v1/status, /v1/services, /v1/ippools, /v1/l2, /v1/l2/history, /v1/l2/move (POST), /v1/explain/NAMESPACE/NAME, /metrics, /healthz";
    Refusal::new(
        StatusCode::NOT_FOUND,
        "NoSuchPath",
        "there is nothing here",
        remedy,
    )
}
