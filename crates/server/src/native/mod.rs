//! The native face: `/api/…` and the routes that operators and orchestrators watch.

mod access_tokens;
mod alerts;
mod backup;
mod checks;
mod cluster;
mod discovery;
mod federation;
mod health;
mod heartbeats;
mod join_tokens;
mod klp;
mod members;
mod openapi;
mod orders;
mod pages;
mod pick;
mod protection;
mod quota;
mod ranking;
mod services;
mod signatures;
mod socket;
mod watch;

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use axum::Router;
use axum::body::Body;
use axum::extract::{FromRequestParts, Path, Request};
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use axum::routing::{delete, get, post, put};
use rollcall_registry::{Command, InstanceId, SignatureMode, State, TenantId};
use rollcall_replica::{Applied, Replica};
use serde::Serialize;
use serde_json::Value;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::alerts::webhook::Poster;
use crate::audit::{self, Deed};
use crate::auth::{Auth, Leash, Leashes};
use crate::body::{self, JsonBody, TextBody};
use crate::faces::{protolink, soorma};
use crate::fault::Faults;
use crate::federation::{Links, Pulls};
use crate::limits::{BACKUPS_MAX, BODIES_KIB_MAX, BODY_BYTES_MAX};
use crate::metrics::{AlertMetrics, EdgeMetrics, Metrics};
use crate::parse::TtlLimits;
use crate::prober::{CheckTerms, Checker};
use crate::quotas::Quotas;
use crate::render::Renderer;
use crate::reply::Failure;
use crate::request::Context;
use crate::schema::Validators;
use crate::startup::{self, Notice};
use crate::tls::Tls;
use crate::watch::{Hub, Places, WatcherLimits};

pub(crate) use health::{Health, alive, readyz};

/// Where operators say how much a tenant may have. No quota stands in the way to it.
pub(crate) const QUOTA: &str = "/api/quota";

/// What the handlers share. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Native {
    pub(crate) replica: Replica,
    /// Empty: any.
    pub(crate) tenants: Arc<[TenantId]>,
    /// Who is believed to be who.
    pub(crate) auth: Auth,
    /// Streams that last no longer than what opened them.
    pub(crate) leashes: Leashes,
    /// How other clusters are told, while this node leads.
    pub(crate) links: Links,
    /// What this node asks of them.
    pulls: Pulls,
    pub(crate) soorma: soorma::Terms,
    pub(crate) validators: Arc<Validators>,
    /// Lease of an agent that registers by Protolink's contract.
    pub(crate) protolink_ttl_ms: u32,
    /// How signatures are taken by tenants that say nothing of their own.
    signatures: SignatureMode,
    /// Sends alerts.
    poster: Poster,
    ttl: TtlLimits,
    renderer: Arc<Renderer>,
    hub: Hub,
    places: Places,
    pub(crate) quotas: Quotas,
    metrics: Arc<Metrics>,
    pub(crate) surroundings: Arc<Surroundings>,
    /// In KiB.
    bodies: Arc<Semaphore>,
    backups: Arc<Semaphore>,
    turns: Arc<pick::Turns>,
    pub(crate) checker: Checker,
    /// Set when shutdown was asked for.
    draining: CancellationToken,
    sockets: TaskTracker,
}

/// How a node's work ends.
pub(crate) struct Ends {
    /// Set when shutdown was asked for.
    pub(crate) draining: CancellationToken,
    /// Waited for before the node ends.
    pub(crate) sockets: TaskTracker,
    /// To be set when watchers are told nothing any more.
    pub(crate) broken: CancellationToken,
}

/// What the contracts need to know of the configuration.
#[derive(Clone)]
pub(crate) struct Faces {
    pub(crate) auth: Auth,
    pub(crate) soorma: soorma::Terms,
    pub(crate) protolink_ttl_ms: u32,
    pub(crate) signatures: SignatureMode,
    pub(crate) checks: CheckTerms,
    pub(crate) poster: Poster,
}

/// What a node stands on.
pub(crate) struct Surroundings {
    pub(crate) data_dir: PathBuf,
    /// Where clients reach this node.
    pub(crate) url: String,
    pub(crate) metrics: Arc<EdgeMetrics>,
    pub(crate) tls: Tls,
    /// Whoever reads the metrics may know which tenants there are.
    pub(crate) tell_tenants: bool,
    /// What hurts, once it was looked at.
    pub(crate) notices: OnceLock<Vec<Notice>>,
}

impl Surroundings {
    /// Looks at them, and warns of what hurts. Blocks.
    pub(crate) fn look(&self) {
        let notices = startup::look(&self.data_dir);
        for Notice { name, detail } in &notices {
            tracing::warn!(check = name, detail, "this node will not do well here");
        }
        assert!(self.notices.set(notices).is_ok(), "a node looks around once");
    }
}

impl Native {
    /// Must be called on a runtime, where it follows the roll for watchers.
    pub(crate) fn new(
        replica: Replica,
        tenants: &[TenantId],
        Faces { auth, soorma, protolink_ttl_ms, signatures, checks, poster }: Faces,
        ttl: TtlLimits,
        watchers: WatcherLimits,
        surroundings: Arc<Surroundings>,
        Ends { draining, sockets, broken }: Ends,
    ) -> Self {
        let links = Links::default();
        let metrics = Metrics::new(replica.clone(), links.clone(), &surroundings);
        let renderer = Arc::<Renderer>::default();
        let quotas = Quotas::start(replica.clone());
        Self {
            hub: Hub::start(replica.clone(), renderer.clone(), metrics.watch.clone(), broken),
            places: Places::new(watchers, quotas.clone(), metrics.watch.clone()),
            quotas,
            checker: Checker::new(replica.clone(), checks, metrics.checks.clone()),
            metrics: Arc::new(metrics),
            surroundings,
            replica,
            tenants: tenants.into(),
            auth,
            leashes: Leashes::default(),
            links,
            pulls: Pulls::default(),
            soorma,
            protolink_ttl_ms,
            signatures,
            poster,
            validators: Arc::default(),
            ttl,
            renderer,
            bodies: Arc::new(Semaphore::new(BODIES_KIB_MAX)),
            backups: Arc::new(Semaphore::new(BACKUPS_MAX)),
            turns: Arc::default(),
            draining,
            sockets,
        }
    }

    pub(crate) fn alert_metrics(&self) -> AlertMetrics {
        self.metrics.alerts.clone()
    }

    pub(crate) fn router(self) -> Router {
        Router::new()
            .route("/api/services/register", post(services::register))
            .route("/api/services", get(discovery::discover))
            .route("/api/services/watch", get(watch::watch))
            .route("/api/services/pick", get(pick::pick))
            .route("/ws/registry", get(socket::socket))
            .route("/api/services/{id}", get(services::get).delete(services::deregister))
            .route("/api/services/{id}/heartbeat", post(heartbeats::heartbeat))
            .route("/api/services/{id}/maintenance", put(orders::maintain).delete(orders::end_maintenance))
            .route("/api/services/{id}/drain", put(orders::drain).delete(orders::end_drain))
            .route("/api/orders", get(orders::list))
            .route("/api/trust", get(ranking::trusted))
            .route("/api/trust/{owner}", put(ranking::trust).delete(ranking::forget_trust))
            .route("/api/checks", get(checks::show).put(checks::set).delete(checks::reset))
            .route("/api/ranking", get(ranking::show).put(ranking::set).delete(ranking::reset))
            .route(QUOTA, get(quota::show).put(quota::set).delete(quota::clear))
            .route("/api/protection", get(protection::show).put(protection::set).delete(protection::reset))
            .route("/api/protection/release", post(protection::release))
            .route("/api/alerts", get(alerts::list))
            .route("/api/alerts/{name}", put(alerts::set).delete(alerts::remove))
            .route("/api/alerts/{name}/test", post(alerts::test))
            .route("/api/services/{id}/signature", get(signatures::of_service))
            .route("/api/signatures", get(signatures::mode).put(signatures::set_mode).delete(signatures::unset_mode))
            .route("/api/owner-keys", get(signatures::owner_keys))
            .route("/api/owner-keys/{owner}", put(signatures::put_owner_key).delete(signatures::remove_owner_key))
            .route("/api/heartbeats", post(heartbeats::heartbeats))
            .route("/api/tokens", get(access_tokens::list).post(access_tokens::create))
            .route("/api/tokens/{id}", delete(access_tokens::revoke))
            .route("/api/tokens/{id}/rotate", post(access_tokens::rotate))
            .route("/api/cluster/status", get(cluster::status))
            .route("/api/cluster/digest", get(cluster::digest))
            .route("/api/cluster/members", post(members::add))
            .route("/api/cluster/members/{id}", delete(members::remove))
            .route("/api/cluster/members/{id}/promote", post(members::promote))
            .route("/api/cluster/members/{id}/demote", post(members::demote))
            .route("/api/cluster/members/{id}/replace", post(members::replace))
            .route("/api/cluster/members/{id}/address", post(members::relocate))
            .route("/api/cluster/leader", post(members::transfer))
            .route("/api/cluster/tokens", get(join_tokens::list).post(join_tokens::create))
            .route("/api/cluster/tokens/{id}", delete(join_tokens::revoke))
            .route("/api/cluster/backup", get(backup::backup))
            .route("/api/federation", get(federation::status))
            .route("/api/federation/key", post(federation::key))
            .route("/api/federation/peers", post(federation::add))
            .route("/api/federation/peers/{name}", delete(federation::remove))
            .route("/api/federation/peers/{name}/pause", post(federation::pause))
            .route("/api/federation/peers/{name}/resume", post(federation::resume))
            .route("/klp/messages", post(klp::messages))
            .route("/klp/changes", post(klp::changes))
            .route("/livez", get(health::livez))
            .route("/readyz", get(readyz))
            .route("/metrics", get(health::metrics))
            .route("/openapi.json", get(openapi::document))
            .merge(pages::router())
            .merge(protolink::router())
            .merge(soorma::router(&self.soorma))
            .fallback(no_route)
            .method_not_allowed_fallback(no_method)
            .with_state(self)
    }

    /// Answers whoever the edge turns away: the failure is in the request, and the routes only dress it.
    pub(crate) fn refusals(&self) -> Router {
        protolink::refusals(refused).merge(soorma::refusals(&self.soorma, refused)).fallback(refused)
    }

    /// Brings a command into the log, on behalf of whoever asks, and waits until it is applied here.
    pub(crate) async fn submit(&self, command: Command, context: &Context) -> Result<Applied, Failure> {
        self.submit_plain(context.sign(command)?, context).await
    }

    /// As [`Self::submit`], for what was seen to be allowed to whoever asks whenever it is applied.
    pub(crate) async fn submit_plain(&self, command: Command, context: &Context) -> Result<Applied, Failure> {
        let deed = match audit::is_kept() {
            true => Deed::of(&command, self.replica.roll().read(State::revision)),
            false => None,
        };
        let result = self.replica.submit(command, context.deadline).await;
        if let Some(deed) = deed {
            deed.settle(Some(context), &result);
        }
        let applied = result?;
        context.written(applied.course);
        Ok(applied)
    }

    /// Holds a stream that is opened on somebody's behalf.
    pub(crate) fn leash(&self, context: &Context) -> Leash {
        self.leashes.hold(&context.identity, &self.draining)
    }

    pub(crate) async fn body(
        &self,
        request: Request,
        bytes_max: usize,
        deadline: Instant,
    ) -> Result<Option<JsonBody>, Failure> {
        body::read_json(request, bytes_max, deadline, &self.bodies).await
    }

    /// A body as it came in, whatever its type is said to be.
    pub(crate) async fn text(
        &self,
        request: Request,
        bytes_max: usize,
        deadline: Instant,
    ) -> Result<Option<TextBody>, Failure> {
        body::read_text(request, bytes_max, deadline, &self.bodies).await
    }

    /// A body of ordinary size, parsed; none if there is none. The text's share of memory is given back on return.
    async fn parsed<T>(
        &self,
        request: Request,
        deadline: Instant,
        parse: impl FnOnce(Value) -> Result<T, Faults>,
    ) -> Result<Option<T>, Failure> {
        let body = self.body(request, BODY_BYTES_MAX, deadline).await?;
        body.map(|body| parse(body.value).map_err(Failure::faulty)).transpose()
    }
}

pub(crate) fn body_missing() -> Failure {
    Failure::fault("", "a JSON body is required")
}

async fn refused(mut request: Request) -> Failure {
    request.extensions_mut().remove::<Failure>().expect("who is turned away is told why")
}

async fn no_route(request: Request) -> Failure {
    no_route_at(request.uri().path())
}

fn no_route_at(path: &str) -> Failure {
    let detail = format!("there is nothing at {}", path.escape_debug());
    Failure::new(StatusCode::NOT_FOUND, "no_such_route", detail)
}

pub(crate) async fn no_method(request: Request) -> Failure {
    let detail = format!("{} is not possible here", request.method());
    Failure::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail)
}

/// The instance that the path names.
struct Id(InstanceId);

impl FromRequestParts<Native> for Id {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, native: &Native) -> Result<Self, Failure> {
        let Path(text) = Path::<String>::from_request_parts(parts, native)
            .await
            .map_err(|rejection| Failure::fault("id", rejection.body_text()))?;
        InstanceId::parse(&text).map(Self).map_err(|error| Failure::invalid_id(&error))
    }
}

pub(crate) fn json(status: StatusCode, body: &impl Serialize) -> Response {
    json_text(status, serde_json::to_vec(body).expect("wire types have no failing serializer"))
}

/// An answer that is JSON text already.
pub(crate) fn json_text(status: StatusCode, text: Vec<u8>) -> Response {
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
