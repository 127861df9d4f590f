//! `/metrics`, `/live`, `/ready` and `/status`: read-only, on loopback unless told otherwise.

use crate::{health::Health, metrics};
use axum::{Json, Router, extract::State, http::StatusCode, http::header, response::IntoResponse, routing::get};
use metrics_exporter_prometheus::PrometheusHandle;
use serde_json::{Value, json};
use std::net::SocketAddr;
use tokio::net::TcpListener;

#[derive(Clone)]
struct Shared {
    health: Health,
    prometheus: PrometheusHandle,
}

/// Serves on `address` (`host:port`; port 0 takes a free one) in the background, for the life of
/// the runtime. Gives the address that was bound.
pub async fn serve(address: &str, health: Health, prometheus: PrometheusHandle) -> std::io::Result<SocketAddr> {
    let listener = TcpListener::bind(address).await?;
    let bound = listener.local_addr()?;
    let router = Router::new()
        .route("/live", get(|| async { "live\n" }))
        .route("/ready", get(ready))
        .route("/status", get(status))
        .route("/metrics", get(exposition))
        .with_state(Shared { health, prometheus });
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!("http server ended: {error}");
        }
    });
    Ok(bound)
}

/// 200 while every unit progresses or is caught up, else 503 with those that are not and why.
async fn ready(State(shared): State<Shared>) -> impl IntoResponse {
    let units = shared.health.snapshot();
    let waiting: Vec<Value> = units
        .iter()
        .filter(|(_, status)| !status.state.is_ready())
        .map(|(id, status)| {
            let mut entry = json!({ "pipeline": id.pipeline, "stage": id.stage, "unit": id.unit });
            merge(&mut entry, json!(status.state));
            entry
        })
        .collect();
    let ready = waiting.is_empty() && !units.is_empty();
    let code = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, Json(json!({ "ready": ready, "not_ready": waiting })))
}

async fn status(State(shared): State<Shared>) -> Json<Value> {
    let units: Vec<Value> = shared
        .health
        .snapshot()
        .iter()
        .map(|(id, status)| {
            let mut entry = json!({ "pipeline": id.pipeline, "stage": id.stage, "unit": id.unit });
            merge(&mut entry, json!(status));
            entry
        })
        .collect();
    let (cpu_seconds, peak_rss_bytes) = metrics::process_usage();
    Json(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "cpu_seconds": cpu_seconds,
        "peak_rss_bytes": peak_rss_bytes,
        "units": units,
    }))
}

async fn exposition(State(shared): State<Shared>) -> impl IntoResponse {
    let (cpu_seconds, _) = metrics::process_usage();
    metrics::PROCESS_CPU.set(&[], cpu_seconds);
    if let Some(bytes) = metrics::resident_bytes() {
        metrics::PROCESS_RSS.set(&[], bytes as f64);
    }
    for (id, status) in shared.health.snapshot() {
        let ready = f64::from(u8::from(status.state.is_ready()));
        metrics::STAGE_READY.set(&[&id.pipeline, id.stage, &id.unit], ready);
    }
    shared.prometheus.run_upkeep();
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], shared.prometheus.render())
}

fn merge(into: &mut Value, from: Value) {
    if let (Value::Object(into), Value::Object(from)) = (into, from) {
        into.extend(from);
    }
}
