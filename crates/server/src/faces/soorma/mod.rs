//! The registry contract of Soorma, as its SDK speaks it: `/v1/agents`, `/v1/events`, `/v1/schemas` and `/health`.
//!
//! Answers that say no have the shape that the SDK's server gives them, `{"detail": …}`. Reads are linearizable, because
//! the SDK cannot ask for it and expects of any node what it just wrote through another.
//!
//! Read in this order: `wire`, `translate`, then the handlers.

pub(crate) mod agents;
pub(crate) mod events;
mod fields;
pub(crate) mod schemas;
mod translate;
mod wire;

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{FromRequestParts, Path, Request, State};
use axum::handler::Handler;
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode, Uri};
use axum::middleware::map_response;
use axum::response::Response;
use axum::routing::{any, delete, get, post};
use rollcall_registry::Reach;
use rollcall_replica::Consistency;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tower_http::cors::{AllowHeaders, AllowMethods, AllowOrigin, CorsLayer};

use crate::limits::BODY_BYTES_MAX;
use crate::native::{Native, json as answer};
use crate::params::Last;
use crate::reply::{Failure, Shown};
use crate::request::Context;
use fields::Faults;

/// What the operator chooses, because the contract has no word for it.
#[derive(Clone, Debug)]
pub(crate) struct Terms {
    pub(crate) ttl_ms: u32,
    /// What the contract calls the interval of the cleanup.
    pub(crate) reap_after_ms: u32,
    /// Whose pages may ask from within a browser.
    pub(crate) origins: Arc<[HeaderValue]>,
}

pub(crate) fn router(terms: &Terms) -> Router<Native> {
    let versioned = Router::new()
        .route("/agents", get(agents::list).post(agents::register))
        .route("/agents/discover", get(agents::discover))
        .route("/agents/{id}", delete(agents::deregister))
        .route("/agents/{id}/heartbeat", post(agents::heartbeat).put(agents::heartbeat))
        .route("/events", get(events::list).post(events::define))
        .route("/events/{id}", delete(events::remove))
        .route("/schemas", get(schemas::list).post(schemas::define))
        .route("/schemas/{id}", get(schemas::latest))
        .route("/schemas/{id}/versions/{version}", get(schemas::version).delete(schemas::remove))
        .route("/schemas/{id}/validate", post(schemas::validate))
        .route("/schemas/{id}/compatibility", get(schemas::compatibility).put(schemas::set_compatibility))
        .fallback(no_route)
        .method_not_allowed_fallback(no_method);
    dressed(Router::new().nest("/v1", versioned).route("/health", get(health)), terms)
}

/// What is said to whoever the edge turned away from here.
pub(crate) fn refusals<H, T>(terms: &Terms, refused: H) -> Router
where
    H: Handler<T, ()>,
    T: 'static,
{
    dressed(Router::new().route("/v1/{*rest}", any(refused)), terms)
}

/// Every answer as this contract has it.
fn dressed<S: Clone + Send + Sync + 'static>(face: Router<S>, terms: &Terms) -> Router<S> {
    let origins = CorsLayer::new()
        .allow_origin(AllowOrigin::list(terms.origins.iter().cloned()))
        .allow_credentials(true)
        .allow_methods(AllowMethods::mirror_request())
        .allow_headers(AllowHeaders::mirror_request());
    face.layer(map_response(as_detail)).layer(origins)
}

/// What says no says it as this contract does.
async fn as_detail(mut response: Response) -> Response {
    if let Some(failure) = response.extensions_mut().remove::<Failure>() {
        let detail = |failure: &Failure| match failure.code() {
            // In the words of the SDK's server.
            "token_missing" => json!({ "detail": "Missing bearer token" }),
            _ => json!({ "detail": failure.detail() }),
        };
        response.extensions_mut().insert(failure.or_said(detail));
    }
    response
}

async fn no_route() -> Failure {
    Failure::new(StatusCode::NOT_FOUND, "no_such_route", "Not Found")
}

async fn no_method() -> Failure {
    Failure::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "Method Not Allowed")
}

/// What the service is. The path is shared with the dashboard.
pub(crate) async fn root(Caller(_): Caller) -> Response {
    let version = env!("CARGO_PKG_VERSION");
    answer(StatusCode::OK, &json!({ "service": "registry-service", "version": version, "status": "operational" }))
}

/// Whether this node can be given work
#[utoipa::path(
    get, path = "/health", tag = "soorma", operation_id = "soormaHealth",
    responses(
        (status = 200, description = "`{\"status\": \"healthy\"}`", body = Value),
        (status = 503, description = "`{\"status\": \"unhealthy\"}`", body = Value),
    ),
)]
pub(crate) async fn health(State(native): State<Native>) -> Response {
    let is_ready = native.replica.readiness().iter().all(|check| check.ok);
    let (status, word) =
        if is_ready { (StatusCode::OK, "healthy") } else { (StatusCode::SERVICE_UNAVAILABLE, "unhealthy") };
    answer(status, &json!({ "status": word }))
}

/// Whose request it is: by the token where tokens are checked, else by the header or the default.
pub(crate) struct Caller(pub(crate) Context);

impl FromRequestParts<Native> for Caller {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, native: &Native) -> Result<Self, Failure> {
        if native.auth.is_enforced() {
            return Context::from_request_parts(parts, native).await.map(Self);
        }
        let Some(principal) = native.auth.principal(&parts.headers).await? else {
            return Context::from_request_parts(parts, native).await.map(Self);
        };
        let viewer = principal.viewer();
        let mut context = match principal.reach {
            Reach::Tenant(tenant) => Context::of_tenant(tenant, parts, native)?,
            // Who speaks for all tenants says which one is meant.
            Reach::All => Context::from_request_parts(parts, native).await?,
        };
        context.viewer = viewer;
        Ok(Self(context))
    }
}

/// What the path names; what cannot be decoded names nothing.
pub(crate) struct Named<T>(T);

impl<T: DeserializeOwned + Send> FromRequestParts<Native> for Named<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, native: &Native) -> Result<Self, Failure> {
        let path = Path::<T>::from_request_parts(parts, native).await;
        path.map(|Path(names)| Self(names)).map_err(|_| Failure::new(StatusCode::NOT_FOUND, "not_found", "Not Found"))
    }
}

/// The body of a request, taken apart by `parse`.
async fn parsed<T>(
    native: &Native,
    context: &Context,
    request: Request<Body>,
    parse: impl FnOnce(Value, &mut Faults) -> Option<T>,
) -> Result<T, Failure> {
    let mut faults = Faults::default();
    match native.body(request, BODY_BYTES_MAX, context.deadline).await {
        Ok(Some(body)) => {
            let parsed = parse(body.value, &mut faults);
            parsed.filter(|_| faults.is_empty()).ok_or_else(|| faults.into_failure())
        }
        Ok(None) => {
            faults.push("missing", &["body".into()], "Field required", &Value::Null);
            Err(faults.into_failure())
        }
        // What is no JSON is a body that does not validate.
        Err(failure) if matches!(failure.code(), "malformed_json" | "unsupported_media_type") => {
            faults.push("json_invalid", &["body".into()], failure.detail(), &Value::Null);
            Err(faults.into_failure())
        }
        Err(failure) => Err(failure),
    }
}

/// What the query asks for, as far as it is known; the last of repeated parameters counts.
fn params(uri: &Uri) -> Last {
    Last::of(uri)
}

/// Waits until what the roll shows is what was written last, through whichever node.
async fn current(native: &Native, context: &Context) -> Result<rollcall_replica::Freshness, Failure> {
    let linearizable = Consistency { linearizable: true, ..Consistency::default() };
    Ok(native.replica.barrier(linearizable, context.deadline).await?)
}

fn shown(native: &Native, freshness: rollcall_replica::Freshness) -> Shown {
    Shown { revision: native.replica.roll().read(|state| state.revision()), freshness }
}

/// `{"NAME":[…],"count":n}` of objects that are JSON text already.
fn listed(name: &str, objects: &[impl AsRef<str>]) -> Vec<u8> {
    let bytes: usize = objects.iter().map(|object| object.as_ref().len() + 1).sum();
    let mut text = String::with_capacity(bytes + name.len() + 32);
    text.push_str("{\"");
    text.push_str(name);
    text.push_str("\":[");
    for (n, object) in objects.iter().enumerate() {
        text.push_str(if n > 0 { "," } else { "" });
        text.push_str(object.as_ref());
    }
    text.push_str("],\"count\":");
    text.push_str(&objects.len().to_string());
    text.push('}');
    text.into_bytes()
}
