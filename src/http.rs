//! The page, `/metrics`, `/live`, `/ready` and `/status`: read-only, on loopback unless told otherwise.
//!
//! **Bounds.** At most [`MOST_CONNECTIONS`] connections are served at a time, the others wait in the
//! kernel's queue. Each is good for one request and ends after [`LONGEST`], whether its client is slow to
//! ask or slow to read; the head of a request has at most [`HEAD_BYTES`], a body is not read. So no
//! client can take memory or descriptors from the pipeline.

mod guard;
mod page;

use crate::{
    config::model::Http,
    health::{self, Health},
    metrics,
    status::{Status, UnitLine},
};
use axum::{
    Extension, Json, Router,
    extract::State,
    http::{StatusCode, header},
    middleware,
    response::{IntoResponse, Response},
    routing::get,
};
use guard::{Rules, Trusted, guard};
use hyper::server::conn::http1;
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use metrics_exporter_prometheus::PrometheusHandle;
use serde_json::{Value, json};
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::{net::TcpListener, sync::Semaphore};

const MOST_CONNECTIONS: usize = 64;
const LONGEST: Duration = Duration::from_secs(10);
const HEAD_BYTES: usize = 16 << 10;

#[derive(Clone)]
struct Shared {
    health: Health,
    prometheus: PrometheusHandle,
}

/// Serves on `address` (`host:port`; port 0 takes a free one) in the background, for the life of
/// the runtime, and takes the samples that the page's charts are made of. Gives the address that was bound.
pub async fn serve(
    address: &str,
    http: &Http,
    health: Health,
    prometheus: PrometheusHandle,
) -> std::io::Result<SocketAddr> {
    let listener = TcpListener::bind(address).await?;
    let bound = listener.local_addr()?;
    if !bound.ip().is_loopback() && http.token.is_none() {
        tracing::warn!(address = %bound, "whoever reaches this address can read the page and /status: set http.token_file to ask for a token");
    }
    let router = Router::new()
        .route("/", get(page))
        .route("/live", get(|| async { "live\n" }))
        .route("/ready", get(ready))
        .route("/status", get(status))
        .route("/metrics", get(exposition))
        .with_state(Shared { health: health.clone(), prometheus })
        .layer(middleware::from_fn_with_state(Arc::new(Rules::new(http)), guard));
    tokio::spawn(accept(listener, router));
    tokio::spawn(async move {
        let mut ticks = tokio::time::interval(health::INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            health.sample();
        }
    });
    Ok(bound)
}

async fn accept(listener: TcpListener, router: Router) {
    let slots = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // The client has gone again, or there are no descriptors: that may pass.
                tracing::debug!("http: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let service = TowerToHyperService::new(router.clone());
        tokio::spawn(async move {
            let mut builder = http1::Builder::new();
            builder.keep_alive(false).max_buf_size(HEAD_BYTES);
            let connection = builder.serve_connection(TokioIo::new(stream), service);
            match tokio::time::timeout(LONGEST, connection).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!("http: {error}"),
                Err(_) => tracing::debug!("http: a client took longer than {LONGEST:?}"),
            }
            drop(slot);
        });
    }
}

async fn page(State(shared): State<Shared>) -> impl IntoResponse {
    let headers =
        [(header::CONTENT_TYPE, "text/html; charset=utf-8"), (header::CONTENT_SECURITY_POLICY, page::policy())];
    (headers, page::render(&shared.health))
}

/// 200 while every unit progresses or is caught up, else 503 with those that are not and why. The reasons
/// are for those with the token.
async fn ready(State(shared): State<Shared>, Extension(Trusted(is_trusted)): Extension<Trusted>) -> Response {
    let Status { ready, units, .. } = Status::of(&shared.health);
    let code = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    if !is_trusted {
        return (code, Json(json!({ "ready": ready }))).into_response();
    }
    let waiting = units.iter().filter(|unit| !unit.is_ready()).map(|unit| {
        let UnitLine { pipeline, stage, unit, state, reason, .. } = unit;
        let mut entry = json!({ "pipeline": pipeline, "stage": stage, "unit": unit, "state": state });
        if let Some(reason) = reason {
            entry["reason"] = json!(reason);
        }
        entry
    });
    (code, Json(json!({ "ready": ready, "not_ready": waiting.collect::<Vec<Value>>() }))).into_response()
}

async fn status(State(shared): State<Shared>) -> Json<Status> {
    Json(Status::of(&shared.health))
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
