//! The registry contract of Protolink: `/agents`, and beside it the status page and the probes. Below `/ns/TENANT` the same
//! for a tenant, for clients that can set nothing but a URL.
//!
//! `docs/FACES.md` says what each field of a card becomes, and what differs from the original server.

mod card;
mod filter;
mod shown;
mod status;

use std::time::Duration;

use axum::Router;
use axum::extract::{FromRequestParts, RawPathParams, Request, State};
use axum::handler::Handler;
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, StatusCode, Uri, header};
use axum::middleware::{self, Next, map_response};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use rollcall_api::{HeartbeatRequest, Problem, header as names};
use rollcall_registry::{Condition, Filter, Query, Ranking, Refusal, Revision, Sort, TenantId, View};
use rollcall_replica::{BarrierError, Consistency, Freshness};
use serde::Serialize;
use tokio::time::Instant;
use utoipa::ToSchema;

use self::card::Card;
use self::filter::Wanted;
use self::shown::Shown;
use crate::limits::{BODY_BYTES_MAX, CARD_BYTES_MAX, CARDS_BYTES_MAX, CARDS_MAX};
use crate::native::{Health, Native, body_missing, json, json_text, no_method};
use crate::reply::{self, Failure};
use crate::request::Context;

const NAMESPACE: &str = "/ns";

/// The routes that are not everybody's.
const GUARDED: &[&str] = &["/agents", "/agents/heartbeat", "/status"];

const REQUEST_ID: HeaderName = HeaderName::from_static("x-protolink-request-id");

/// A read waits this long for a leader to confirm it: some elections, and much less than a client's patience.
const CONFIRMED_WITHIN: Duration = Duration::from_secs(3);

pub(crate) fn router() -> Router<Native> {
    let routes = Router::new()
        .route("/agents", get(discover).post(register).delete(unregister))
        .route("/agents/heartbeat", post(heartbeat))
        .route("/status", get(status_page))
        .route("/healthz", get(healthz))
        .method_not_allowed_fallback(no_method)
        .layer(middleware::from_fn(echo));
    let below = Router::new().route("/readyz", get(readyz)).merge(routes.clone());
    Router::new().nest(&format!("{NAMESPACE}/{{tenant}}"), below).merge(routes)
}

/// What is said to whoever the edge turned away from here.
pub(crate) fn refusals<H, T>(refused: H) -> Router
where
    H: Handler<T, ()>,
    T: 'static,
{
    let all = GUARDED.iter().flat_map(|path| [(*path).to_owned(), format!("{NAMESPACE}/{{tenant}}{path}")]);
    let routes = all.fold(Router::new(), |router, path| router.route(&path, any(refused.clone())));
    routes.layer(map_response(in_its_words)).layer(middleware::from_fn(echo))
}

/// Who is not known is told so as this contract does it; it has no word for who may not.
async fn in_its_words(mut response: Response) -> Response {
    if response.status() == StatusCode::UNAUTHORIZED
        && let Some(failure) = response.extensions_mut().remove::<Failure>()
    {
        let error = match failure.code() {
            "token_missing" => "Missing credentials".to_owned(),
            _ => format!("Authentication failed: {}", failure.detail()),
        };
        response.extensions_mut().insert(failure.said(&serde_json::json!({ "error": error })));
    }
    response
}

/// Whether a route is this contract's and asks who asks.
pub(crate) fn has(template: &str) -> bool {
    GUARDED.contains(&template)
}

/// A path as it is without the prefix that names a tenant, if what follows is a route of this face.
pub(crate) fn without_namespace(path: &str) -> &str {
    let tenant_and_rest = path.strip_prefix(NAMESPACE).and_then(|rest| rest.strip_prefix('/'));
    let Some((tenant, rest)) = tenant_and_rest.and_then(|path| path.split_at_checked(path.find('/')?)) else {
        return path;
    };
    let known = ["/agents", "/agents/heartbeat", "/status", "/healthz", "/readyz"].contains(&rest);
    if known && !tenant.is_empty() { rest } else { path }
}

/// Every answer bears the id of its request, or none.
async fn echo(request: Request, next: Next) -> Response {
    let id = request.headers().get(REQUEST_ID).cloned().unwrap_or_else(|| HeaderValue::from_static(""));
    let mut response = next.run(request).await;
    response.headers_mut().insert(REQUEST_ID, id);
    response
}

/// Whose request it is. Credentials are looked at where every request's are, in [`Context`]; a prefix of the path says
/// what the tenant header says, and must not say something else.
pub(crate) struct Caller(Context);

impl FromRequestParts<Native> for Caller {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, native: &Native) -> Result<Self, Failure> {
        let params = RawPathParams::from_request_parts(parts, native)
            .await
            .map_err(|rejection| Failure::fault("tenant", rejection.body_text()))?;
        let named = params.iter().find(|(name, _)| *name == "tenant");
        if let Some((_, text)) = named {
            let tenant = TenantId::parse(text).map_err(|error| Failure::fault("tenant", error.to_string()))?;
            let tenant = HeaderValue::from_str(tenant.as_str()).expect("a tenant is visible ASCII");
            if parts.headers.get_all(names::TENANT_ID).iter().any(|said| *said != tenant) {
                return Err(Failure::fault("tenant", "is another one than X-Tenant-ID names"));
            }
            parts.headers.insert(names::TENANT_ID, tenant);
        }
        Context::from_request_parts(parts, native).await.map(Self)
    }
}

/// What was done, in words that clients compare.
#[derive(Serialize, ToSchema)]
pub(crate) struct Done {
    status: &'static str,
}

fn done(status: &'static str, revision: Option<Revision>) -> Response {
    let mut response = json(StatusCode::OK, &Done { status });
    if let Some(revision) = revision {
        reply::written(&mut response, revision);
    }
    response
}

/// Register an agent
///
/// The body is an agent card; its `url` names the agent. A card of the same URL replaces the one before.
#[utoipa::path(
    post, path = "/agents", tag = "protolink", operation_id = "protolinkRegister",
    request_body = serde_json::Value,
    responses(
        (status = 200, description = "Registered", body = Done),
        (status = 400, description = "Faulty; every fault is named", body = Problem),
        (status = 403, description = "`signature_required`, `owner_mismatch`: where signatures count, this contract has none", body = Problem),
        (status = 413, description = "`body_too_large`: more than 256 KiB; `card_too_large`: more than 512 KiB on the roll", body = Problem),
        (status = 503, description = "`no_leader`, `overloaded`: not applied", body = Problem),
        (status = 504, description = "`outcome_unknown`: may have been applied", body = Problem),
    ),
)]
pub(crate) async fn register(
    State(native): State<Native>,
    Caller(context): Caller,
    request: Request,
) -> Result<Response, Failure> {
    let registration = {
        let body = native.text(request, CARD_BYTES_MAX, context.deadline).await?.ok_or_else(body_missing)?;
        Card::parse(&body.text)?.registration(native.protolink_ttl_ms)?
    };
    // The same card again goes to the end of the list, as another one does.
    let registered = native.register(&context, registration.pack(), Condition::Anew, None).await??;
    Ok(done("agent registered successfully", Some(registered.revision)))
}

/// Unregister an agent
///
/// The body is `{"agent_url": URL}`. An agent that is not there is unregistered already.
#[utoipa::path(
    delete, path = "/agents", tag = "protolink", operation_id = "protolinkUnregister",
    request_body = serde_json::Value,
    responses(
        (status = 200, description = "Not on the roll, any more or ever", body = Done),
        (status = 400, description = "Faulty; every fault is named", body = Problem),
        (status = 403, description = "`signature_required`: the agent's owner has a key", body = Problem),
        (status = 503, description = "`no_leader`, `overloaded`: not applied", body = Problem),
        (status = 504, description = "`outcome_unknown`: may have been applied", body = Problem),
    ),
)]
pub(crate) async fn unregister(
    State(native): State<Native>,
    Caller(context): Caller,
    request: Request,
) -> Result<Response, Failure> {
    const DONE: &str = "agent unregistered successfully";
    let Some(url) = agent_url(&native, &context, request).await? else { return Ok(done(DONE, None)) };
    match native.deregister(&context, card::id_of(&url), None, Condition::None, None).await? {
        Ok(revision) => Ok(done(DONE, Some(revision))),
        Err(Refusal::NotRegistered) => Ok(done(DONE, None)),
        Err(refusal) => Err(refusal.into()),
    }
}

/// Renew an agent's registration
///
/// The body is `{"agent_url": URL}`. Each heartbeat counts, whatever `Idempotency-Key` it bears.
#[utoipa::path(
    post, path = "/agents/heartbeat", tag = "protolink", operation_id = "protolinkHeartbeat",
    request_body = serde_json::Value,
    responses(
        (status = 200, description = "`agent heartbeat recorded`, or `agent not found`: register again", body = Done),
        (status = 400, description = "Faulty; every fault is named", body = Problem),
        (status = 503, description = "`no_leader`, `overloaded`: not applied", body = Problem),
        (status = 504, description = "`outcome_unknown`: may have been applied", body = Problem),
    ),
)]
pub(crate) async fn heartbeat(
    State(native): State<Native>,
    Caller(context): Caller,
    request: Request,
) -> Result<Response, Failure> {
    const NOT_FOUND: &str = "agent not found";
    let Some(url) = agent_url(&native, &context, request).await? else { return Ok(done(NOT_FOUND, None)) };
    match native.beat(&context, &card::id_of(&url), HeartbeatRequest::default()).await? {
        Ok(beaten) => Ok(done("agent heartbeat recorded", Some(beaten.revision))),
        Err(Refusal::LeaseNotFound) => Ok(done(NOT_FOUND, None)),
        Err(refusal) => Err(refusal.into()),
    }
}

async fn agent_url(native: &Native, context: &Context, request: Request) -> Result<Option<String>, Failure> {
    let body = native.text(request, BODY_BYTES_MAX, context.deadline).await?.ok_or_else(body_missing)?;
    card::agent_url(&body.text)
}

/// Find agents
///
/// All cards that match, in the order of registration. Parameters are fields of a card that must be equal: `name`,
/// `description`, `url`, `transport`, `version`, `protocol_version`, `role`, `capabilities.KEY`, and `tags`, which must all be
/// there. A field that no card has matches none.
#[utoipa::path(
    get, path = "/agents", tag = "protolink", operation_id = "protolinkDiscover",
    params(
        ("name" = Option<String>, Query, description = "The agent's name"),
        ("tags" = Option<Vec<String>>, Query, description = "All of these"),
        ("include_federated" = Option<bool>, Query, description = "Agents of other clusters too, after this one's"),
    ),
    responses(
        (status = 200, description = "Agent cards", body = Vec<serde_json::Value>),
        (status = 400, description = "The query does not parse or is too long", body = Problem),
        (status = 413, description = "`answer_too_large`: more than 32768 cards or 15 MiB match", body = Problem),
        (status = 503, description = "`not_ready`: this node has not caught up yet", body = Problem),
    ),
)]
pub(crate) async fn discover(
    State(native): State<Native>,
    Caller(context): Caller,
    uri: Uri,
) -> Result<Response, Failure> {
    let wanted = Wanted::of(&uri)?;
    let found = find(&native, &context, wanted.as_ref()).await?;
    if found.views.len() > CARDS_MAX {
        return Err(too_many(&format!("{} agents match, at most {CARDS_MAX} are listed", found.views.len())));
    }
    let mut text = vec![b'['];
    for (n, view) in found.views.iter().enumerate() {
        if n > 0 {
            text.push(b',');
        }
        Shown::of(&view.instance).write(&mut text);
        if text.len() > CARDS_BYTES_MAX {
            let count = found.views.len();
            return Err(too_many(&format!("the cards of {count} agents are more than {CARDS_BYTES_MAX} bytes")));
        }
    }
    text.push(b']');
    Ok(found.show(json_text(StatusCode::OK, text)))
}

/// A list that were cut short would say that the others are not there.
fn too_many(what: &str) -> Failure {
    let detail = format!("{what}: narrow the question by name or tags, or read page by page from /api/services");
    Failure::new(StatusCode::PAYLOAD_TOO_LARGE, "answer_too_large", detail)
}

/// Agents in the order of their registration, as of a revision.
struct Found {
    views: Vec<View>,
    shown: reply::Shown,
}

impl Found {
    fn show(&self, mut response: Response) -> Response {
        reply::show(&mut response, self.shown);
        response
    }
}

async fn find(native: &Native, context: &Context, wanted: Option<&Wanted>) -> Result<Found, Failure> {
    let freshness = barrier(native, context).await?;
    let query = |wanted: &Wanted| Query {
        tenant: context.tenant.clone(),
        filter: Filter { viewer: context.viewer.clone(), ..wanted.filter.clone() },
        sort: Sort::Lease,
        ranking: Ranking::default(),
        after: None,
        limit: u32::MAX as usize,
    };
    let query = wanted.map(query);
    let (mut views, revision) = native.replica.roll().read(|state| {
        let is_federated = wanted.is_some_and(|wanted| wanted.is_federated);
        let views = query.as_ref().map(|query| match is_federated {
            true => state.query_federated(query, None).map(|found| found.page.found).unwrap_or_default(),
            false => state.query(query).found,
        });
        (views.unwrap_or_default(), state.revision())
    });
    if let Some(wanted) = wanted {
        views.retain(|view| wanted.fits(&view.instance));
    }
    Ok(Found { views, shown: reply::Shown { revision, freshness } })
}

/// One registry shows at once what it was told; so do several nodes as long as there is a leader to confirm it. Clients
/// that cannot say how fresh an answer must be are better served from what this node knows than not at all.
async fn barrier(native: &Native, context: &Context) -> Result<Freshness, Failure> {
    let confirmed = Consistency { linearizable: true, ..Consistency::default() };
    let until = context.deadline.min(Instant::now() + CONFIRMED_WITHIN);
    match native.replica.barrier(confirmed, until).await {
        Err(BarrierError::NoLeader) => Ok(native.replica.barrier(Consistency::default(), context.deadline).await?),
        answer => Ok(answer?),
    }
}

/// The agents, for people
///
/// A page of the first thousand.
#[utoipa::path(
    get, path = "/status", tag = "protolink", operation_id = "protolinkStatus",
    responses(
        (status = 200, description = "A page", content_type = "text/html", body = String),
        (status = 400, description = "Faulty; every fault is named", body = Problem),
        (status = 503, description = "`not_ready`: this node has not caught up yet", body = Problem),
    ),
)]
pub(crate) async fn status_page(State(native): State<Native>, Caller(context): Caller) -> Result<Response, Failure> {
    let found = find(&native, &context, Some(&Wanted::default())).await?;
    let page = status::page(&context.tenant, &found.views, found.shown.revision);
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8")),
        // Nothing on the page needs more, whatever an agent calls itself.
        (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(status::POLICY)),
    ];
    Ok(found.show((headers, page).into_response()))
}

/// Whether the process moves, and whether it is ready
///
/// As `/livez`, in the words of Protolink's probes: a node that waits for others is alive and says that it is not ready.
#[utoipa::path(
    get, path = "/healthz", tag = "protolink", operation_id = "healthz",
    responses(
        (status = 200, description = "Alive", body = Health),
        (status = 503, description = "`stuck`: to be restarted", body = Problem),
    ),
)]
pub(crate) async fn healthz(State(native): State<Native>) -> Result<Response, Failure> {
    native.alive()?;
    let ready = native.readiness().iter().all(|check| check.ok);
    let status = if ready { "ready" } else { "starting" };
    let served = Some(native.served(ready));
    Ok(json(StatusCode::OK, &Health { status, served, checks: Vec::new(), warnings: Vec::new() }))
}

/// `/readyz` is one path for all faces; below a prefix it is asked for by this one alone.
async fn readyz(state: State<Native>, uri: Uri) -> Result<Response, Failure> {
    crate::native::readyz(state, uri).await
}
