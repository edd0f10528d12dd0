//! The tokens with which nodes join: made, listed and revoked at any node.

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderValue, StatusCode, Uri, header};
use axum::response::Response;
use rollcall_api::{
    CreateJoinTokenRequest, CreatedJoinToken, JoinTokenInfo, JoinTokensResponse, Problem, RevokeJoinTokenResponse,
    Role,
};
use rollcall_registry::state::{JOIN_TOKEN_TTL_MS_MAX, JOIN_TOKEN_USES_MAX};
use rollcall_registry::{ClusterTime, Command, JoinToken, JoinTokenCommand, JoinTokenId, Outcome, TokenIdError};
use rollcall_replica::{Consistency, JoinSecret};
use serde_json::Value;

use super::{Native, json};
use crate::fault::{Faults, Fields};
use crate::params;
use crate::render::rfc3339;
use crate::reply::Failure;
use crate::request::Context;

/// Long enough to start some machines by it, short enough that nobody forgets one that is good.
const TTL_MS_DEFAULT: u64 = 3_600_000;

/// Nobody types a shorter one in.
const TTL_MS_MIN: u64 = 1_000;

/// Make a join token
///
/// Its secret is told in the answer and nowhere else: the cluster keeps its digest only.
#[utoipa::path(
    post, path = "/api/cluster/tokens", tag = "cluster", operation_id = "createJoinToken",
    request_body(content = Option<CreateJoinTokenRequest>),
    responses(
        (status = 201, description = "Made", body = CreatedJoinToken),
        (status = 400, description = "Faulty; every fault is named", body = Problem),
        (status = 409, description = "`too_many_join_tokens`: 256 are there", body = Problem),
        (status = 503, description = "`no_leader`, `overloaded`: not applied", body = Problem),
        (status = 504, description = "`outcome_unknown`: one may have been made whose secret nobody knows", body = Problem),
    ),
)]
pub(super) async fn create(
    State(native): State<Native>,
    context: Context,
    request: Request,
) -> Result<Response, Failure> {
    params::none(request.uri())?;
    let CreateJoinTokenRequest { ttl_ms, uses, role } =
        native.parsed(request, context.deadline, parse).await?.unwrap_or_default();
    let secret = JoinSecret::draw();
    let create = JoinTokenCommand::Create {
        id: secret.id(),
        secret: secret.digest(),
        learners_only: role == Some(Role::Learner),
        ttl_ms: ttl_ms.unwrap_or(TTL_MS_DEFAULT),
        uses_max: uses,
    };
    let token = submit(&native, &context, create).await?;
    tracing::info!(token = %token.id, uses_max = token.uses_max, expires_at = %token.expires_at, "a join token was made");
    let info = info(&token, native.replica.cluster_time());
    let mut response = json(StatusCode::CREATED, &CreatedJoinToken { token: secret.text().to_string(), info });
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// All join tokens
///
/// Those that have expired are listed until the next one is made. No secret is told.
#[utoipa::path(
    get, path = "/api/cluster/tokens", tag = "cluster", operation_id = "listJoinTokens",
    responses(
        (status = 200, description = "By their ids", body = JoinTokensResponse),
        (status = 400, description = "Faulty; every fault is named", body = Problem),
        (status = 503, description = "`no_leader`, `not_ready`", body = Problem),
    ),
)]
pub(super) async fn list(State(native): State<Native>, context: Context, uri: Uri) -> Result<Response, Failure> {
    params::none(&uri)?;
    // Whoever looks whether a token is gone must not be shown an old list.
    let wanted = Consistency { linearizable: true, ..Consistency::default() };
    native.replica.barrier(wanted, context.deadline).await?;
    let now = native.replica.cluster_time();
    let tokens = native.replica.roll().read(|state| state.join_tokens().map(|token| info(token, now)).collect());
    Ok(json(StatusCode::OK, &JoinTokensResponse { tokens }))
}

/// Revoke a join token
///
/// Nobody joins by it any more. Who has joined stays.
#[utoipa::path(
    delete, path = "/api/cluster/tokens/{id}", tag = "cluster", operation_id = "revokeJoinToken",
    params(("id" = String, Path, description = "The token's id: the part between the hyphens")),
    responses(
        (status = 200, description = "Revoked", body = RevokeJoinTokenResponse),
        (status = 400, description = "Faulty; every fault is named", body = Problem),
        (status = 404, description = "`join_token_not_found`", body = Problem),
        (status = 503, description = "`no_leader`, `overloaded`: not applied", body = Problem),
        (status = 504, description = "`outcome_unknown`: may have been revoked", body = Problem),
    ),
)]
pub(super) async fn revoke(
    State(native): State<Native>,
    context: Context,
    id: Result<Path<String>, PathRejection>,
    uri: Uri,
) -> Result<Response, Failure> {
    params::none(&uri)?;
    let id = id.ok().and_then(|Path(id)| id.parse::<JoinTokenId>().ok());
    let id = id.ok_or_else(|| Failure::fault("id", TokenIdError.to_string()))?;
    let token = submit(&native, &context, JoinTokenCommand::Revoke { id }).await?;
    tracing::info!(token = %token.id, uses = token.uses, "a join token was revoked");
    Ok(json(StatusCode::OK, &RevokeJoinTokenResponse { id: token.id.to_string(), revoked: true }))
}

async fn submit(native: &Native, context: &Context, command: JoinTokenCommand) -> Result<JoinToken, Failure> {
    match native.submit(Command::JoinToken(command), context).await?.outcome {
        Outcome::JoinToken(token) => Ok(*token),
        Outcome::Refused(refusal) => Err(refusal.into()),
        other => unreachable!("a join token was answered by {other:?}"),
    }
}

fn info(token: &JoinToken, now: ClusterTime) -> JoinTokenInfo {
    JoinTokenInfo {
        id: token.id.to_string(),
        role: if token.learners_only { Role::Learner } else { Role::Voter },
        expires_in_ms: now.ms_until(token.expires_at),
        uses_max: token.uses_max,
        uses: token.uses,
        admitted: token.admitted.iter().map(|address| String::from(&**address)).collect(),
        created_at: rfc3339(token.created_at),
    }
}

fn parse(body: Value) -> Result<CreateJoinTokenRequest, Faults> {
    let mut faults = Faults::default();
    let request = Fields::open("", body, &mut faults).map(|mut fields| {
        let ttl_ms = fields.whole("ttl_ms");
        if ttl_ms.is_some_and(|ttl_ms| !(TTL_MS_MIN..=JOIN_TOKEN_TTL_MS_MAX).contains(&ttl_ms)) {
            fields.fault("ttl_ms", format!("must be from {TTL_MS_MIN} to {JOIN_TOKEN_TTL_MS_MAX}"));
        }
        let uses = fields.number("uses", 1, JOIN_TOKEN_USES_MAX);
        let role = super::members::role(&mut fields);
        fields.finish();
        CreateJoinTokenRequest { ttl_ms, uses, role }
    });
    request.filter(|_| faults.is_empty()).ok_or(faults)
}
