//! Heartbeats, one by one and in batches.

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use jiff::Timestamp;
use rollcall_api::{
    HeartbeatRequest, HeartbeatResponse, HeartbeatsRequest, HeartbeatsResponse, Problem, RenewedLease,
};
use rollcall_registry::{
    Actor, Beaten, Command, Instance, InstanceId, LeaseId, LeaseSet, Outcome, Refusal, WallTime,
};

use super::{Id, Native, body_missing, json};
use crate::limits::BATCH_BYTES_MAX;
use crate::reply::{self, Failure};
use crate::request::Context;
use crate::{params, parse, render, translate};

/// Renew the lease of one instance
///
/// The body is optional. A status or metadata that really changes is a visible change; the lease stays.
#[utoipa::path(
    post, path = "/api/services/{id}/heartbeat", tag = "heartbeats", operation_id = "heartbeat",
    params(("id" = String, Path, description = "The instance")),
    request_body(content = Option<HeartbeatRequest>),
    responses(
        (status = 200, description = "Renewed", body = HeartbeatResponse),
        (status = 400, description = "Faulty; every fault is named", body = Problem),
        (status = 404, description = "`lease_not_found`: register again", body = Problem),
        (status = 409, description = "`lease_superseded`: a newer registration holds the id; stop", body = Problem),
        (status = 503, description = "`no_leader`, `overloaded`: not applied", body = Problem),
        (status = 504, description = "`outcome_unknown`: may have been applied", body = Problem),
    ),
)]
pub(super) async fn heartbeat(
    State(native): State<Native>,
    context: Context,
    Id(id): Id,
    request: Request,
) -> Result<Response, Failure> {
    params::none(request.uri())?;
    let request = native.parsed(request, context.deadline, parse::heartbeat).await?.unwrap_or_default();
    let beaten = native.beat(&context, &id, request).await??;
    let interval_ms = translate::heartbeat_interval_ms(beaten.ttl_ms);
    let now_ms = u64::try_from(Timestamp::now().as_millisecond()).unwrap_or(0);
    let answer = HeartbeatResponse {
        service_id: id.as_str().to_owned(),
        heartbeat_updated: true,
        next_heartbeat_due: render::rfc3339(WallTime(now_ms.saturating_add(interval_ms.into()))),
        next_heartbeat_in_ms: interval_ms,
        lease: RenewedLease { id: beaten.lease.0, ttl_ms: beaten.ttl_ms },
    };
    let mut response = json(StatusCode::OK, &answer);
    reply::written(&mut response, beaten.revision);
    Ok(response)
}

impl Native {
    /// Takes a heartbeat of one instance.
    pub(crate) async fn beat(
        &self,
        context: &Context,
        id: &InstanceId,
        request: HeartbeatRequest,
    ) -> Result<Result<Beaten, Refusal>, Failure> {
        match renew_known(self, context, id, &request).await? {
            Some(beaten) => Ok(Ok(beaten)),
            None if self.is_hidden(context, id) => Ok(Err(Refusal::LeaseNotFound)),
            None => beat(self, context, id.clone(), request).await,
        }
    }
}

/// The usual heartbeat says no more than that the instance lives. Where this node knows its lease, the log is spared
/// the id: a number renews as well. None if the longer way must be taken, whose refusals are exact.
async fn renew_known(
    native: &Native,
    context: &Context,
    id: &InstanceId,
    request: &HeartbeatRequest,
) -> Result<Option<Beaten>, Failure> {
    if request.status.is_some() || request.metadata.is_some() {
        return Ok(None);
    }
    let actor = context.actor();
    let known = native.replica.roll().read(|state| {
        let instance = state.get(&context.tenant, id)?.instance;
        let may = context.viewer.sees(&instance) && is_allowed(actor.as_ref(), &instance);
        may.then(|| (instance.lease, instance.registration.ttl_ms()))
    });
    let believed = request.lease_id.map(LeaseId);
    let Some((lease, ttl_ms)) = known.filter(|(lease, _)| believed.is_none_or(|believed| believed == *lease)) else {
        return Ok(None);
    };
    let command = Command::Renew { tenant: context.tenant.clone(), leases: LeaseSet::new(vec![lease]) };
    let applied = native.submit_plain(command, context).await?;
    let (not_found, superseded) = renewed(applied.outcome);
    let renewed = !not_found.contains(lease) && !superseded.contains(lease);
    Ok(renewed.then_some(Beaten { lease, ttl_ms, revision: applied.revision }))
}

/// Whether a lease may be renewed by number. Who registered an incarnation, and as what, does not change while its lease
/// lasts: so what is seen here holds when the renewal is applied.
fn is_allowed(actor: Option<&Actor>, instance: &Instance) -> bool {
    actor.is_none_or(|actor| actor.may_change(instance))
}

async fn beat(
    native: &Native,
    context: &Context,
    id: InstanceId,
    request: HeartbeatRequest,
) -> Result<Result<Beaten, Refusal>, Failure> {
    let command = Command::Beat {
        tenant: context.tenant.clone(),
        id,
        lease: request.lease_id.map(LeaseId),
        status: request.status.map(translate::status_in),
        metadata: request.metadata.map(translate::metadata_in),
    };
    match native.submit(command, context).await?.outcome {
        Outcome::Beaten(beaten) => Ok(Ok(beaten)),
        Outcome::Refused(refusal) => Ok(Err(refusal)),
        other => unreachable!("a heartbeat was answered by {other:?}"),
    }
}

fn renewed(outcome: Outcome) -> (LeaseSet, LeaseSet) {
    match outcome {
        Outcome::Renewed { not_found, superseded } => (not_found, superseded),
        other => unreachable!("a renewal was answered by {other:?}"),
    }
}

/// Renew many leases at once
///
/// What cannot be renewed is named; all else is renewed.
#[utoipa::path(
    post, path = "/api/heartbeats", tag = "heartbeats", operation_id = "heartbeats",
    request_body = HeartbeatsRequest,
    responses(
        (status = 200, description = "Renewed, but for those named", body = HeartbeatsResponse),
        (status = 400, description = "Faulty; every fault is named", body = Problem),
        (status = 413, description = "`body_too_large`: more than 4 MiB", body = Problem),
        (status = 503, description = "`no_leader`, `overloaded`: not applied", body = Problem),
        (status = 504, description = "`outcome_unknown`: may have been applied", body = Problem),
    ),
)]
pub(super) async fn heartbeats(
    State(native): State<Native>,
    context: Context,
    request: Request,
) -> Result<Response, Failure> {
    params::none(request.uri())?;
    let body = native.body(request, BATCH_BYTES_MAX, context.deadline).await?.ok_or_else(body_missing)?;
    let request = parse::heartbeats(body.value).map_err(Failure::faulty)?;
    let leases = LeaseSet::new(request.leases.into_iter().map(LeaseId).collect());
    let count = leases.as_slice().len();
    let actor = context.actor();
    let all_allowed = actor.is_none()
        || native.replica.roll().read(|state| {
            let mut held = leases.as_slice().iter().map(|lease| state.holder(*lease));
            held.all(|held| {
                held.is_some_and(|held| held.tenant == context.tenant && is_allowed(actor.as_ref(), held))
            })
        });
    let command = Command::Renew { tenant: context.tenant.clone(), leases };
    // Those of which this node does not know whose they are the state machine judges.
    let applied = match all_allowed {
        true => native.submit_plain(command, &context).await?,
        false => native.submit(command, &context).await?,
    };
    let (not_found, superseded) = renewed(applied.outcome);
    let numbers = |leases: &LeaseSet| leases.as_slice().iter().map(|lease| lease.0).collect::<Vec<_>>();
    let (not_found, superseded) = (numbers(&not_found), numbers(&superseded));
    let renewed = (count - not_found.len() - superseded.len()) as u64;
    let mut response = json(StatusCode::OK, &HeartbeatsResponse { renewed, not_found, superseded });
    reply::written(&mut response, applied.revision);
    Ok(response)
}
