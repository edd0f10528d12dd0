//! Who belongs to the cluster and who leads it, as operators change it.

use axum::extract::{Path, Request, State};
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use rollcall_api::{
    AddMemberRequest, ClusterChangeResponse, Problem, RelocateMemberRequest, ReplaceMemberRequest, Role,
    TransferLeaderRequest, WriteOutcome,
};
use rollcall_replica::{Objection, OperateError, Operated, Operation, Terms};
use serde_json::Value;

use super::{Native, body_missing, json};
use crate::audit;
use crate::config::split_address;
use crate::fault::{Faults, Fields};
use crate::params;
use crate::reply::Failure;
use crate::request::Context;

/// Add a node
///
/// The node waits to be added: it was started on an empty directory with neither `bootstrap` nor `join`. It is dialled
/// first; then it gets an id, becomes a learner, and a voter once it has caught up.
#[utoipa::path(
    post, path = "/api/cluster/members", tag = "cluster", operation_id = "addMember",
    params(
        ("dry_run" = Option<bool>, Query, description = "Check everything and change nothing"),
        ("if_membership" = Option<u64>, Query, description = "Only if the membership is still that of this log entry"),
    ),
    request_body = AddMemberRequest,
    responses(
        (status = 200, description = "What a dry run found", body = ClusterChangeResponse),
        (status = 201, description = "Added; it catches up now", body = ClusterChangeResponse),
        (status = 400, description = "Faulty; every fault is named", body = Problem),
        (status = 409, description = "`already_member`, `foreign_node`, `node_unreachable`, `membership_changed`, `change_in_progress`", body = Problem),
        (status = 503, description = "`no_leader`: not applied", body = Problem),
        (status = 504, description = "`outcome_unknown`: look at the status", body = Problem),
    ),
)]
pub(super) async fn add(
    State(native): State<Native>,
    context: Context,
    request: Request,
) -> Result<Response, Failure> {
    let terms = params::terms(request.uri(), false)?;
    let parsed = native.parsed(request, context.deadline, add_request).await?.ok_or_else(body_missing)?;
    let AddMemberRequest { peer_address, api_address, role } = parsed;
    let add = Operation::Add { peer_address, api_address, learner: role == Some(Role::Learner) };
    operate(&native, &context, add, terms, if terms.dry_run { StatusCode::OK } else { StatusCode::CREATED }).await
}

/// Make a learner a voter
///
/// Once it has caught up. A node that joined becomes one by itself, unless it is to stay a learner.
#[utoipa::path(
    post, path = "/api/cluster/members/{id}/promote", tag = "cluster", operation_id = "promoteMember",
    params(
        ("id" = u64, Path, description = "The node"),
        ("dry_run" = Option<bool>, Query, description = "Check everything and change nothing"),
        ("force" = Option<bool>, Query, description = "Even if too few voters can be reached"),
        ("if_membership" = Option<u64>, Query, description = "Only if the membership is still that of this log entry"),
    ),
    responses(
        (status = 200, description = "A voter", body = ClusterChangeResponse),
        (status = 400, description = "Faulty; every fault is named", body = Problem),
        (status = 404, description = "`node_not_found`", body = Problem),
        (status = 409, description = "`not_caught_up`, `quorum_at_risk`, `membership_changed`, `change_in_progress`", body = Problem),
        (status = 503, description = "`no_leader`: not applied", body = Problem),
        (status = 504, description = "`outcome_unknown`: look at the status", body = Problem),
    ),
)]
pub(super) async fn promote(
    State(native): State<Native>,
    context: Context,
    id: Result<Path<u64>, axum::extract::rejection::PathRejection>,
    uri: Uri,
) -> Result<Response, Failure> {
    let (node_id, terms) = (node(id)?, params::terms(&uri, true)?);
    operate(&native, &context, Operation::Promote { node_id }, terms, StatusCode::OK).await
}

/// Make a voter a learner
///
/// For good: it is not promoted again by itself. A leader hands over first.
#[utoipa::path(
    post, path = "/api/cluster/members/{id}/demote", tag = "cluster", operation_id = "demoteMember",
    params(
        ("id" = u64, Path, description = "The node"),
        ("dry_run" = Option<bool>, Query, description = "Check everything and change nothing"),
        ("force" = Option<bool>, Query, description = "Even if too few voters can be reached"),
        ("if_membership" = Option<u64>, Query, description = "Only if the membership is still that of this log entry"),
    ),
    responses(
        (status = 200, description = "A learner", body = ClusterChangeResponse),
        (status = 400, description = "Faulty; every fault is named", body = Problem),
        (status = 404, description = "`node_not_found`", body = Problem),
        (status = 409, description = "`quorum_at_risk`, `last_voter`, `membership_changed`, `change_in_progress`", body = Problem),
        (status = 503, description = "`no_leader`: not applied", body = Problem),
        (status = 504, description = "`outcome_unknown`: look at the status", body = Problem),
    ),
)]
pub(super) async fn demote(
    State(native): State<Native>,
    context: Context,
    id: Result<Path<u64>, axum::extract::rejection::PathRejection>,
    uri: Uri,
) -> Result<Response, Failure> {
    let (node_id, terms) = (node(id)?, params::terms(&uri, true)?);
    operate(&native, &context, Operation::Demote { node_id }, terms, StatusCode::OK).await
}

/// Remove a node
///
/// It is told so, marks its directory and ends. Its id is never given again. A leader hands over first.
#[utoipa::path(
    delete, path = "/api/cluster/members/{id}", tag = "cluster", operation_id = "removeMember",
    params(
        ("id" = u64, Path, description = "The node"),
        ("dry_run" = Option<bool>, Query, description = "Check everything and change nothing"),
        ("force" = Option<bool>, Query, description = "Even if too few voters can be reached"),
        ("if_membership" = Option<u64>, Query, description = "Only if the membership is still that of this log entry"),
    ),
    responses(
        (status = 200, description = "Removed", body = ClusterChangeResponse),
        (status = 400, description = "Faulty; every fault is named", body = Problem),
        (status = 404, description = "`node_not_found`", body = Problem),
        (status = 409, description = "`quorum_at_risk`, `last_voter`, `membership_changed`, `change_in_progress`", body = Problem),
        (status = 503, description = "`no_leader`: not applied", body = Problem),
        (status = 504, description = "`outcome_unknown`: look at the status", body = Problem),
    ),
)]
pub(super) async fn remove(
    State(native): State<Native>,
    context: Context,
    id: Result<Path<u64>, axum::extract::rejection::PathRejection>,
    uri: Uri,
) -> Result<Response, Failure> {
    let (node_id, terms) = (node(id)?, params::terms(&uri, true)?);
    operate(&native, &context, Operation::Remove { node_id }, terms, StatusCode::OK).await
}

/// Replace a node
///
/// Whoever waits at the address is added, catches up, and takes the place of the other in one change.
#[utoipa::path(
    post, path = "/api/cluster/members/{id}/replace", tag = "cluster", operation_id = "replaceMember",
    params(
        ("id" = u64, Path, description = "The node that leaves"),
        ("dry_run" = Option<bool>, Query, description = "Check everything and change nothing"),
        ("force" = Option<bool>, Query, description = "Even if too few voters can be reached"),
        ("if_membership" = Option<u64>, Query, description = "Only if the membership is still that of this log entry"),
    ),
    request_body = ReplaceMemberRequest,
    responses(
        (status = 200, description = "The successor catches up now", body = ClusterChangeResponse),
        (status = 400, description = "Faulty; every fault is named", body = Problem),
        (status = 404, description = "`node_not_found`", body = Problem),
        (status = 409, description = "`already_member`, `foreign_node`, `node_unreachable`, `quorum_at_risk`, `membership_changed`, `change_in_progress`", body = Problem),
        (status = 503, description = "`no_leader`: not applied", body = Problem),
        (status = 504, description = "`outcome_unknown`: look at the status", body = Problem),
    ),
)]
pub(super) async fn replace(
    State(native): State<Native>,
    context: Context,
    id: Result<Path<u64>, axum::extract::rejection::PathRejection>,
    request: Request,
) -> Result<Response, Failure> {
    let (node_id, terms) = (node(id)?, params::terms(request.uri(), true)?);
    let parsed = native.parsed(request, context.deadline, replace_request).await?.ok_or_else(body_missing)?;
    let ReplaceMemberRequest { peer_address, api_address } = parsed;
    let replace = Operation::Replace { node_id, peer_address, api_address };
    operate(&native, &context, replace, terms, StatusCode::OK).await
}

/// Say where a node is reached from now on
///
/// For one that did not say so itself, as it does when it is started with another address. It must answer there.
#[utoipa::path(
    post, path = "/api/cluster/members/{id}/address", tag = "cluster", operation_id = "relocateMember",
    params(
        ("id" = u64, Path, description = "The node"),
        ("dry_run" = Option<bool>, Query, description = "Check everything and change nothing"),
        ("if_membership" = Option<u64>, Query, description = "Only if the membership is still that of this log entry"),
    ),
    request_body = RelocateMemberRequest,
    responses(
        (status = 200, description = "All members know", body = ClusterChangeResponse),
        (status = 400, description = "Faulty; every fault is named", body = Problem),
        (status = 404, description = "`node_not_found`", body = Problem),
        (status = 409, description = "`already_member`: another's address, `foreign_node`, `node_unreachable`, `membership_changed`, `change_in_progress`", body = Problem),
        (status = 503, description = "`no_leader`: not applied", body = Problem),
        (status = 504, description = "`outcome_unknown`: look at the status", body = Problem),
    ),
)]
pub(super) async fn relocate(
    State(native): State<Native>,
    context: Context,
    id: Result<Path<u64>, axum::extract::rejection::PathRejection>,
    request: Request,
) -> Result<Response, Failure> {
    let (node_id, terms) = (node(id)?, params::terms(request.uri(), false)?);
    let parsed = native.parsed(request, context.deadline, relocate_request).await?.ok_or_else(body_missing)?;
    let RelocateMemberRequest { peer_address, api_address } = parsed;
    let relocate = Operation::Relocate { node_id, peer_address, api_address };
    operate(&native, &context, relocate, terms, StatusCode::OK).await
}

/// Hand over the lead
///
/// To the voter named, or to the one whose log reaches furthest.
#[utoipa::path(
    post, path = "/api/cluster/leader", tag = "cluster", operation_id = "transferLeader",
    params(
        ("dry_run" = Option<bool>, Query, description = "Check everything and change nothing"),
        ("if_membership" = Option<u64>, Query, description = "Only if the membership is still that of this log entry"),
    ),
    request_body(content = Option<TransferLeaderRequest>),
    responses(
        (status = 200, description = "Who leads now", body = ClusterChangeResponse),
        (status = 400, description = "Faulty; every fault is named", body = Problem),
        (status = 404, description = "`node_not_found`", body = Problem),
        (status = 409, description = "`not_a_voter`, `node_unreachable`, `membership_changed`", body = Problem),
        (status = 503, description = "`no_leader`: not applied", body = Problem),
        (status = 504, description = "`outcome_unknown`: look at the status", body = Problem),
    ),
)]
pub(super) async fn transfer(
    State(native): State<Native>,
    context: Context,
    request: Request,
) -> Result<Response, Failure> {
    let terms = params::terms(request.uri(), false)?;
    let parsed = native.parsed(request, context.deadline, transfer_request).await?;
    let transfer = Operation::Transfer { to: parsed.unwrap_or_default().node_id };
    operate(&native, &context, transfer, terms, StatusCode::OK).await
}

async fn operate(
    native: &Native,
    context: &Context,
    operation: Operation,
    terms: Terms,
    status: StatusCode,
) -> Result<Response, Failure> {
    let named = (audit::is_kept() && !terms.dry_run).then(|| operation.clone());
    let result = native.replica.operate(operation, terms, context.deadline).await;
    if let Some(operation) = named
        && matches!(result, Ok(_) | Err(OperateError::Unknown))
    {
        let revision = result.is_ok().then(|| native.replica.roll().read(|state| state.revision()));
        audit::operated(context, &operation, revision);
    }
    let Operated { node_id, leader_id, membership_index, voters, learners, warnings } = result?;
    let (voters, learners) = (voters.into_iter().collect(), learners.into_iter().collect());
    let dry_run = terms.dry_run;
    let answer = ClusterChangeResponse { node_id, leader_id, membership_index, voters, learners, warnings, dry_run };
    Ok(json(status, &answer))
}

/// The node that the path names.
fn node(id: Result<Path<u64>, axum::extract::rejection::PathRejection>) -> Result<u64, Failure> {
    id.map(|Path(id)| id).map_err(|_| Failure::fault("id", "must be a node's number"))
}

fn add_request(body: Value) -> Result<AddMemberRequest, Faults> {
    let mut faults = Faults::default();
    let request = Fields::open("", body, &mut faults).and_then(|mut fields| {
        let (peer_address, api_address) = addresses(&mut fields);
        let role = role(&mut fields);
        fields.finish();
        Some(AddMemberRequest { peer_address: peer_address?, api_address, role })
    });
    request.filter(|_| faults.is_empty()).ok_or(faults)
}

fn replace_request(body: Value) -> Result<ReplaceMemberRequest, Faults> {
    let mut faults = Faults::default();
    let request = Fields::open("", body, &mut faults).and_then(|mut fields| {
        let (peer_address, api_address) = addresses(&mut fields);
        fields.finish();
        Some(ReplaceMemberRequest { peer_address: peer_address?, api_address })
    });
    request.filter(|_| faults.is_empty()).ok_or(faults)
}

fn relocate_request(body: Value) -> Result<RelocateMemberRequest, Faults> {
    let ReplaceMemberRequest { peer_address, api_address } = replace_request(body)?;
    Ok(RelocateMemberRequest { peer_address, api_address })
}

fn transfer_request(body: Value) -> Result<TransferLeaderRequest, Faults> {
    let mut faults = Faults::default();
    let request = Fields::open("", body, &mut faults).map(|mut fields| {
        let node_id = fields.whole("node_id");
        fields.finish();
        TransferLeaderRequest { node_id }
    });
    request.filter(|_| faults.is_empty()).ok_or(faults)
}

pub(super) fn role(fields: &mut Fields<'_>) -> Option<Role> {
    let role = fields.text("role")?;
    let found = match role.as_str() {
        "voter" => Some(Role::Voter),
        "learner" => Some(Role::Learner),
        _ => None,
    };
    if found.is_none() {
        fields.fault("role", "must be one of voter, learner");
    }
    found
}

fn addresses(fields: &mut Fields<'_>) -> (Option<String>, Option<String>) {
    let check = |text: &str| match split_address(text) {
        Some((_, port)) if port != 0 => Ok(()),
        _ => Err("must be HOST:PORT that the members can connect to"),
    };
    let (peer, api) = (fields.checked("peer_address", check), fields.checked("api_address", check));
    if peer.is_none() && fields.faults.is_empty() {
        fields.fault("peer_address", "is required");
    }
    (peer, api)
}

impl From<OperateError> for Failure {
    fn from(error: OperateError) -> Self {
        let (status, code) = match &error {
            OperateError::NoLeader => (StatusCode::SERVICE_UNAVAILABLE, "no_leader"),
            OperateError::Unknown => (StatusCode::GATEWAY_TIMEOUT, "outcome_unknown"),
            OperateError::NoSuchNode { .. } => (StatusCode::NOT_FOUND, "node_not_found"),
            OperateError::Refused { objection, .. } => (
                StatusCode::CONFLICT,
                match objection {
                    Objection::MembershipChanged => "membership_changed",
                    Objection::ChangeInProgress => "change_in_progress",
                    Objection::AlreadyMember => "already_member",
                    Objection::ForeignNode => "foreign_node",
                    Objection::NodeUnreachable => "node_unreachable",
                    Objection::NotCaughtUp => "not_caught_up",
                    Objection::NotAVoter => "not_a_voter",
                    Objection::QuorumAtRisk => "quorum_at_risk",
                    Objection::LastVoter => "last_voter",
                    Objection::FeatureLevel => "feature_level_too_low",
                },
            ),
        };
        let outcome = if error == OperateError::Unknown { WriteOutcome::Unknown } else { WriteOutcome::NotApplied };
        Self::new(status, code, error.to_string()).with_outcome(outcome)
    }
}
