//! Register, read and deregister one instance.

use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, Uri, header};
use axum::response::Response;
use rollcall_api::{
    DeregisterRequest, DeregisterResponse, Problem, RegisterRequest, RegisterResponse, ServiceObject,
};
use rollcall_registry::{Command, InstanceId, LeaseId, Outcome, Revision};
use uuid::Uuid;

use super::{Id, Native, body_missing, json, json_text};
use crate::render::Moment;
use crate::reply::{self, Failure, Shown};
use crate::request::{self, Context};
use crate::{params, parse, translate};

/// Put an instance on the roll
///
/// The same content again is a renewal; other content under the same id is a new incarnation with a new lease.
#[utoipa::path(
    post, path = "/api/services/register", tag = "services", operation_id = "register",
    params(
        ("If-Match" = Option<String>, Header, description = "`*` or the quoted revision that is to be replaced"),
        ("If-None-Match" = Option<String>, Header, description = "`*`: create only"),
    ),
    request_body = RegisterRequest,
    responses(
        (status = 201, description = "New on the roll", body = RegisterResponse),
        (status = 200, description = "Replaced or renewed", body = RegisterResponse),
        (status = 400, description = "Faulty; every fault is named", body = Problem),
        (status = 409, description = "`feature_level_too_low`: an older node could not read what it says", body = Problem),
        (status = 412, description = "`precondition_failed`: the condition does not hold", body = Problem),
        (status = 413, description = "`body_too_large`: more than 64 KiB", body = Problem),
        (status = 415, description = "`unsupported_media_type`: not JSON", body = Problem),
        (status = 503, description = "`no_leader`, `overloaded`: not applied", body = Problem),
        (status = 504, description = "`outcome_unknown`: may have been applied", body = Problem),
    ),
)]
pub(super) async fn register(
    State(native): State<Native>,
    context: Context,
    request: Request,
) -> Result<Response, Failure> {
    params::none(request.uri())?;
    let condition = request::condition(request.headers())?;
    let parse = |body| parse::register(body, native.ttl);
    let request = native.parsed(request, context.deadline, parse).await?.ok_or_else(body_missing)?;
    let registration = translate::registration(request, native.ttl, new_id);
    let (id, registration) = (registration.id.clone(), registration.pack());

    let tenant = context.tenant.clone();
    let command = Command::Register { tenant, registration: registration.clone(), condition };
    let registered = match native.submit(command, &context).await?.outcome {
        Outcome::Registered(registered) => registered,
        Outcome::Refused(refusal) => return Err(refusal.into()),
        other => unreachable!("a registration was answered by {other:?}"),
    };

    let cluster_time = native.replica.cluster_time();
    let (view, moment) = native.replica.roll().read(|state| {
        let view = state.get(&context.tenant, &id);
        let unchanged = |view: &rollcall_registry::View| {
            view.instance.lease == registered.lease && view.instance.revision == registered.revision
        };
        (view.filter(unchanged), Moment::of(state, cluster_time))
    });
    let view = view.unwrap_or_else(|| translate::registered_view(context.tenant, registration, registered));
    let text = native.renderer.at(moment).registered(&view, &registered);
    let status = if registered.created { StatusCode::CREATED } else { StatusCode::OK };
    let mut response = json_text(status, text);
    response.headers_mut().insert(header::ETAG, entity_tag(registered.revision));
    reply::written(&mut response, registered.revision);
    Ok(response)
}

fn new_id() -> InstanceId {
    InstanceId::parse(&Uuid::new_v4().to_string()).expect("a UUID is a valid id")
}

fn entity_tag(revision: Revision) -> HeaderValue {
    HeaderValue::try_from(format!("\"{revision}\"")).expect("digits in quotes are a valid header")
}

/// Read one instance
///
/// Whatever its status.
#[utoipa::path(
    get, path = "/api/services/{id}", tag = "services", operation_id = "getService",
    params(
        ("id" = String, Path, description = "The instance"),
        ("consistency" = Option<String>, Query, description = "`local` (default) or `linearizable`"),
        ("min_revision" = Option<u64>, Query, description = "Wait until this revision is shown"),
        ("max_staleness_ms" = Option<u64>, Query, description = "Refuse rather than answer from older state"),
        ("requester_id" = Option<String>, Query, description = "Who asks"),
    ),
    responses(
        (status = 200, description = "The instance; `ETag` is its revision in quotes", body = ServiceObject),
        (status = 400, description = "Faulty; every fault is named", body = Problem),
        (status = 404, description = "`not_found`", body = Problem),
        (status = 503, description = "`not_ready`, `no_leader`, `too_stale`", body = Problem),
        (status = 504, description = "`revision_not_reached`", body = Problem),
    ),
)]
pub(super) async fn get(
    State(native): State<Native>,
    context: Context,
    Id(id): Id,
    uri: Uri,
) -> Result<Response, Failure> {
    let consistency = params::read(&uri)?;
    let freshness = native.replica.barrier(consistency, context.deadline).await?;
    let cluster_time = native.replica.cluster_time();
    let (view, revision, moment) = native
        .replica
        .roll()
        .read(|state| (state.get(&context.tenant, &id), state.revision(), Moment::of(state, cluster_time)));
    let shown = Shown { revision, freshness };
    let view = view.ok_or_else(|| Failure::not_found().shown(shown))?;
    let mut text = Vec::new();
    native.renderer.at(moment).service(&view, &mut text);
    let mut response = json_text(StatusCode::OK, text);
    response.headers_mut().insert(header::ETAG, entity_tag(view.instance.revision));
    reply::show(&mut response, shown);
    Ok(response)
}

/// Take an instance off the roll
#[utoipa::path(
    delete, path = "/api/services/{id}", tag = "services", operation_id = "deregister",
    params(
        ("id" = String, Path, description = "The instance"),
        ("lease_id" = Option<u64>, Query, description = "Only while this lease is current"),
        ("If-Match" = Option<String>, Header, description = "`*` or the quoted revision that is to be removed"),
    ),
    request_body(content = Option<DeregisterRequest>),
    responses(
        (status = 200, description = "Removed", body = DeregisterResponse),
        (status = 400, description = "Faulty; every fault is named", body = Problem),
        (status = 404, description = "`not_found`, or `lease_not_found` for a lease that was never granted", body = Problem),
        (status = 409, description = "`lease_superseded`: a newer registration holds the id", body = Problem),
        (status = 412, description = "`precondition_failed`: the condition does not hold", body = Problem),
        (status = 503, description = "`no_leader`, `overloaded`: not applied", body = Problem),
        (status = 504, description = "`outcome_unknown`: may have been applied", body = Problem),
    ),
)]
pub(super) async fn deregister(
    State(native): State<Native>,
    context: Context,
    Id(id): Id,
    request: Request,
) -> Result<Response, Failure> {
    let lease = params::lease(request.uri())?.map(LeaseId);
    let condition = request::condition(request.headers())?;
    native.parsed(request, context.deadline, parse::deregister).await?;
    let service_id = id.as_str().to_owned();
    let command = Command::Deregister { tenant: context.tenant.clone(), id, lease, condition };
    let revision = match native.submit(command, &context).await?.outcome {
        Outcome::Deregistered { revision } => revision,
        Outcome::Refused(refusal) => return Err(refusal.into()),
        other => unreachable!("a deregistration was answered by {other:?}"),
    };
    let answer = DeregisterResponse { service_id, deregistered: true, revision: revision.0 };
    let mut response = json(StatusCode::OK, &answer);
    reply::written(&mut response, revision);
    Ok(response)
}
