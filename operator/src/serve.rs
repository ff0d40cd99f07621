//! Metrics and liveness over HTTP.

use std::net::SocketAddr;

use anyhow::Context as _;
use axum::{Router, http::header, routing::get};
use fairlead_rt::{BoxError, CancellationToken, Metrics, metrics::CONTENT_TYPE};
use tokio::net::TcpListener;

/// Binds the address.
///
/// # Errors
/// Names the address that is taken or not ours.
pub async fn bind(addr: SocketAddr) -> anyhow::Result<TcpListener> {
    let bound = TcpListener::bind(addr).await;
    bound.with_context(|| format!("listen on {addr} (--operator-prometheus-serve-addr)"))
}

/// Serves `/metrics` and `/healthz` until `stop` fires.
///
/// # Errors
/// A listener that fails for good.
///
/// # Cancel safety
/// Dropping the future closes every connection.
pub async fn serve(
    listener: TcpListener,
    metrics: Metrics,
    stop: CancellationToken,
) -> Result<(), BoxError> {
    let text = move || async move { ([(header::CONTENT_TYPE, CONTENT_TYPE)], metrics.encode()) };
    let router = Router::new()
        .route("/metrics", get(text))
        .route("/healthz", get(|| async { "ok" }));
    let served = axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned());
    Ok(served.await?)
}
