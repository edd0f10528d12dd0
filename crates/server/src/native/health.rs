//! What orchestrators ask.

use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, Uri, header};
use axum::response::Response;
use rollcall_api::Problem;
use serde::Serialize;
use utoipa::ToSchema;

use super::{Native, Surroundings, json};
use crate::reply::Failure;
use crate::{params, startup};

const OPEN_METRICS: HeaderValue =
    HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");

/// Why a node that is asked to end is not ready.
pub(super) const STOPPING: &str = "shutdown was asked for";

/// `GET /livez`, `GET /readyz`.
#[derive(Serialize, ToSchema)]
pub(crate) struct Health {
    pub(crate) status: &'static str,
    /// All but `/livez`.
    #[serde(flatten)]
    #[schema(value_type = Served)]
    pub(crate) served: Option<Served>,
    /// With `?verbose`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) checks: Vec<HealthCheck>,
    /// With `?verbose`: what hurts the node and does not keep it from working.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) warnings: Vec<HealthWarning>,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct HealthCheck {
    pub(crate) name: String,
    pub(crate) ok: bool,
    pub(crate) detail: String,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct HealthWarning {
    pub(crate) name: String,
    pub(crate) detail: String,
}

/// What the probes of Protolink look for in a registry's `/healthz` and `/readyz`.
#[derive(Serialize, ToSchema)]
pub(crate) struct Served {
    #[schema(required = false)]
    pub(crate) ready: bool,
    #[schema(required = false)]
    transport: &'static str,
    /// Where clients reach this node.
    #[schema(required = false)]
    url: String,
    #[schema(required = false)]
    capabilities: TransportCapabilities,
    #[schema(required = false)]
    metrics: TransportMetrics,
}

#[derive(Serialize, ToSchema)]
struct TransportCapabilities {
    networked: bool,
    streaming: bool,
    tls: bool,
    bidirectional: bool,
    persistent_connections: bool,
}

/// Requests of all faces since this process started.
#[derive(Serialize, ToSchema)]
struct TransportMetrics {
    requests_started: u64,
    requests_succeeded: u64,
    requests_failed: u64,
    active_requests: u64,
}

impl Native {
    pub(crate) fn served(&self, ready: bool) -> Served {
        let Surroundings { url, metrics, tls, .. } = &*self.surroundings;
        let (requests_succeeded, requests_failed) = metrics.http.succeeded_and_failed();
        let active_requests = u64::try_from(metrics.in_work.get()).unwrap_or(0);
        Served {
            ready,
            transport: "http",
            url: url.clone(),
            capabilities: TransportCapabilities {
                networked: true,
                streaming: false,
                tls: tls.clients.is_some(),
                bidirectional: false,
                persistent_connections: true,
            },
            metrics: TransportMetrics {
                requests_started: requests_succeeded + requests_failed + active_requests,
                requests_succeeded,
                requests_failed,
                active_requests,
            },
        }
    }

    /// Fails if the process is stuck.
    pub(crate) fn alive(&self) -> Result<(), Failure> {
        if self.replica.is_alive() {
            Ok(())
        } else {
            Err(Failure::new(StatusCode::SERVICE_UNAVAILABLE, "stuck", "the apply loop does not move"))
        }
    }

    /// What must hold for this node to be given work.
    pub(crate) fn readiness(&self) -> Vec<HealthCheck> {
        let stopping = self.draining.is_cancelled();
        let running = HealthCheck {
            name: "running".to_owned(),
            ok: !stopping,
            detail: if stopping { STOPPING } else { "no shutdown was asked for" }.to_owned(),
        };
        let of_replica = self.replica.readiness().into_iter();
        of_replica
            .map(|check| HealthCheck { name: check.name.to_owned(), ok: check.ok, detail: check.detail })
            .chain([running])
            .collect()
    }
}

/// What `/livez` says while there is nothing to complain of.
pub(crate) fn alive() -> Response {
    json(StatusCode::OK, &Health { status: "alive", served: None, checks: Vec::new(), warnings: Vec::new() })
}

/// Whether the process moves
///
/// Does not depend on the quorum: a node that waits for others is alive.
#[utoipa::path(
    get, path = "/livez", tag = "health", operation_id = "livez",
    responses(
        (status = 200, description = "Alive", body = Health),
        (status = 503, description = "`stuck`: to be restarted", body = Problem),
    ),
)]
pub(super) async fn livez(State(native): State<Native>) -> Result<Response, Failure> {
    native.alive()?;
    Ok(alive())
}

/// Whether the node should be given work
///
/// Named checks: a leader is known, the node has caught up, the disk takes writes, no shutdown was asked for.
/// Warnings never make a node unready: `disk_space`, `clock_offset`, `auth_off`, `tls_expiry`, `tls_files`, `peer_tls_expiry`,
/// `peer_tls_files`, and what its start found: `slow_flush`, `filesystem`, `open_files`.
#[utoipa::path(
    get, path = "/readyz", tag = "health", operation_id = "readyz",
    params(("verbose" = Option<bool>, Query, description = "Name every check, and what hurts the node")),
    responses(
        (status = 200, description = "Ready", body = Health),
        (status = 400, description = "Faulty; every fault is named", body = Problem),
        (status = 503, description = "`not_ready`: the checks that failed are in `errors`", body = Problem),
    ),
)]
pub(crate) async fn readyz(State(native): State<Native>, uri: Uri) -> Result<Response, Failure> {
    let verbose = params::verbose(&uri)?;
    let mut checks = native.readiness();
    if checks.iter().all(|check| check.ok) {
        if !verbose {
            checks.clear();
        }
        let warnings = if verbose { warnings(&native) } else { Vec::new() };
        let served = Some(native.served(true));
        return Ok(json(StatusCode::OK, &Health { status: "ready", served, checks, warnings }));
    }
    let failed = checks.into_iter().filter(|check| !check.ok);
    Err(Failure::not_ready(failed.map(|check| (check.name, check.detail))))
}

fn warnings(native: &Native) -> Vec<HealthWarning> {
    let Surroundings { data_dir, notices, tls, .. } = &*native.surroundings;
    let now = [
        startup::space(data_dir).and_then(startup::scarce_space),
        startup::clock(native.replica.observe().clock_offset_ms),
        native.replica.roll().read(|state| startup::open_door(state, native.auth.is_enforced())),
    ];
    let all = now.into_iter().flatten().chain(tls.notices()).chain(notices.get().into_iter().flatten().cloned());
    all.map(|notice| HealthWarning { name: notice.name.to_owned(), detail: notice.detail }).collect()
}

/// What this node counts
///
/// In the text format that Prometheus reads.
#[utoipa::path(
    get, path = "/metrics", tag = "health", operation_id = "metrics",
    responses(
        (status = 200, description = "OpenMetrics text", content_type = "application/openmetrics-text", body = String),
        (status = 400, description = "Faulty; every fault is named", body = Problem),
    ),
)]
pub(super) async fn metrics(State(native): State<Native>, uri: Uri) -> Result<Response, Failure> {
    params::none(&uri)?;
    let metrics = native.metrics.clone();
    let text = tokio::task::spawn_blocking(move || metrics.text()).await;
    let mut response = Response::new(text.expect("collecting metrics does not panic").into());
    response.headers_mut().insert(header::CONTENT_TYPE, OPEN_METRICS);
    Ok(response)
}
