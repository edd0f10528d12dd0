//! The tokens that say who asks: made, listed, rotated and revoked at any node, each by whoever may go as far as it does.

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderValue, StatusCode, Uri, header};
use axum::response::Response;
use rollcall_api as api;
use rollcall_api::{
    CreateTokenRequest, CreatedToken, Problem, RevokeTokenResponse, RotateTokenRequest, TokenInfo, TokenStatus,
    TokensResponse,
};
use rollcall_registry::access::{
    ACCESS_TOKEN_DESCRIPTION_BYTES_MAX, ACCESS_TOKEN_OVERLAP_MS_MAX, ACCESS_TOKEN_TTL_MS_MAX,
    SCOPE_SERVICE_BYTES_MAX, SCOPE_SERVICES_MAX,
};
use rollcall_registry::{
    AccessRole, AccessToken, AccessTokenCommand, AccessTokenId, ClusterTime, Command, Grant, NewAccessToken, Outcome,
    Reach, Scopes, TenantId, TokenIdError, Verb, WallTime,
};
use rollcall_replica::{Consistency, TokenSecret};
use serde_json::Value;

use super::{Native, body_missing, json};
use crate::auth::{Principal, TOKEN_PREFIX, forbidden};
use crate::fault::{Faults, Fields};
use crate::params;
use crate::render::rfc3339;
use crate::reply::Failure;
use crate::request::Context;

/// Nobody types a shorter one in.
const TTL_MS_MIN: u64 = 1_000;

/// All tenants, as it is written.
const EVERY_TENANT: &str = "*";

/// What is wanted, checked.
struct Wanted {
    /// None: as far as whoever asks.
    reach: Option<Reach>,
    role: AccessRole,
    scopes: Scopes,
    ttl_ms: Option<u64>,
    description: Box<str>,
}

/// Make a token
///
/// Its secret is told in the answer and nowhere else: the cluster keeps its digest only. Nobody gives more than he has.
#[utoipa::path(
    post, path = "/api/tokens", tag = "tokens", operation_id = "createToken",
    request_body = CreateTokenRequest,
    responses(
        (status = 201, description = "Made", body = CreatedToken),
        (status = 400, description = "Faulty; every fault is named", body = Problem),
        (status = 409, description = "`too_many_tokens`; `feature_level_too_low`: an older node could not read it", body = Problem),
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
    let Wanted { reach, role, scopes, ttl_ms, description } =
        native.parsed(request, context.deadline, parse).await?.ok_or_else(body_missing)?;
    let principal = context.principal();
    let own = || principal.map_or_else(|| Reach::Tenant(context.tenant.clone()), |asker| asker.reach.clone());
    let reach = reach.unwrap_or_else(own);
    if !grant(principal).covers(&reach, &scopes) || principal.is_some_and(|asker| role > asker.role) {
        return Err(forbidden("a token may not do more than whoever asks for it"));
    }
    let secret = TokenSecret::draw();
    let create = AccessTokenCommand::Create {
        token: NewAccessToken {
            id: AccessTokenId(secret.id()),
            secret: secret.digest(),
            reach,
            role,
            scopes,
            ttl_ms,
            description,
            created_by: principal.map(|asker| asker.id.clone()),
        },
        first: false,
    };
    let token = submit(&native, &context, create).await?;
    tracing::info!(token = %token.id, tenant = %token.reach, role = %token.role, "a token was made");
    Ok(told(&native, StatusCode::CREATED, &secret, &token))
}

/// All tokens
///
/// Of the asker's tenant, or of all. Those that are over are listed until there is no room for more. No secret is told.
#[utoipa::path(
    get, path = "/api/tokens", tag = "tokens", operation_id = "listTokens",
    responses(
        (status = 200, description = "By their ids", body = TokensResponse),
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
    let grant = grant(context.principal());
    let tokens = native.replica.roll().read(|state| {
        let own = state.access_tokens().filter(|token| grant.reach.covers(&token.reach));
        own.map(|token| info(token, now.max(state.now()))).collect()
    });
    Ok(json(StatusCode::OK, &TokensResponse { tokens }))
}

/// Give a token another secret
///
/// The token stays what it is, and what was registered by it stays its own. The secret before may stay good for a while.
#[utoipa::path(
    post, path = "/api/tokens/{id}/rotate", tag = "tokens", operation_id = "rotateToken",
    params(("id" = String, Path, description = "The token's id: the part between the hyphens")),
    request_body(content = Option<RotateTokenRequest>),
    responses(
        (status = 200, description = "The token with its new secret", body = CreatedToken),
        (status = 400, description = "Faulty; every fault is named", body = Problem),
        (status = 404, description = "`token_not_found`", body = Problem),
        (status = 409, description = "`token_over`: it was revoked or has expired", body = Problem),
        (status = 503, description = "`no_leader`, `overloaded`: not applied", body = Problem),
        (status = 504, description = "`outcome_unknown`: it may have a secret now that nobody knows", body = Problem),
    ),
)]
pub(super) async fn rotate(
    State(native): State<Native>,
    context: Context,
    id: Result<Path<String>, PathRejection>,
    request: Request,
) -> Result<Response, Failure> {
    params::none(request.uri())?;
    let id = parse_id(id)?;
    let request = native.parsed(request, context.deadline, parse_rotation).await?.unwrap_or_default();
    let secret = TokenSecret::draw_for(id.0);
    let rotate = AccessTokenCommand::Rotate {
        id,
        secret: secret.digest(),
        overlap_ms: request.overlap_ms.unwrap_or(0),
        within: grant(context.principal()),
    };
    let token = submit(&native, &context, rotate).await?;
    tracing::info!(token = %token.id, tenant = %token.reach, "a token was rotated");
    Ok(told(&native, StatusCode::OK, &secret, &token))
}

/// Revoke a token
///
/// It opens nothing from then on, at each node as soon as that has applied it. What was registered by it stays.
#[utoipa::path(
    delete, path = "/api/tokens/{id}", tag = "tokens", operation_id = "revokeToken",
    params(("id" = String, Path, description = "The token's id: the part between the hyphens")),
    responses(
        (status = 200, description = "Revoked", body = RevokeTokenResponse),
        (status = 400, description = "Faulty; every fault is named", body = Problem),
        (status = 404, description = "`token_not_found`", body = Problem),
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
    let revoke = AccessTokenCommand::Revoke { id: parse_id(id)?, within: grant(context.principal()).reach };
    let token = submit(&native, &context, revoke).await?;
    tracing::info!(token = %token.id, tenant = %token.reach, "a token was revoked");
    Ok(json(StatusCode::OK, &RevokeTokenResponse { id: token.id.to_string(), revoked: true }))
}

/// How far whoever asks may go; everywhere, where nobody has to say who asks.
fn grant(principal: Option<&Principal>) -> Grant {
    principal.map_or_else(Grant::all, Principal::grant)
}

async fn submit(native: &Native, context: &Context, command: AccessTokenCommand) -> Result<AccessToken, Failure> {
    match native.submit(Command::AccessToken(command), context).await?.outcome {
        Outcome::AccessToken(token) => Ok(*token),
        Outcome::Refused(refusal) => Err(refusal.into()),
        other => unreachable!("a token was answered by {other:?}"),
    }
}

/// The answer that tells a secret, which nobody on the way is to keep.
fn told(native: &Native, status: StatusCode, secret: &TokenSecret, token: &AccessToken) -> Response {
    let info = info(token, native.replica.cluster_time());
    let token = secret.text(TOKEN_PREFIX).to_string();
    let mut response = json(status, &CreatedToken { token, info });
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn info(token: &AccessToken, now: ClusterTime) -> TokenInfo {
    let status = if token.revoked_at.is_some() {
        TokenStatus::Revoked
    } else if token.is_over(now) {
        TokenStatus::Expired
    } else {
        TokenStatus::Active
    };
    let time = |at: Option<WallTime>| at.map(rfc3339);
    TokenInfo {
        id: token.id.to_string(),
        tenant: token.reach.to_string(),
        role: role_out(token.role),
        services: token.scopes.services.iter().map(|prefix| String::from(&**prefix)).collect(),
        verbs: token.scopes.verbs.iter().map(|verb| verb_out(*verb)).collect(),
        status,
        expires_in_ms: token.expires_at.map(|at| now.ms_until(at)),
        description: String::from(&*token.description),
        created_by: token.created_by.as_ref().map(ToString::to_string),
        created_at: rfc3339(token.created_at),
        rotated_at: time(token.rotated_at),
        last_used_at: time(token.used_at),
        revoked_at: time(token.revoked_at),
    }
}

fn role_out(role: AccessRole) -> api::AccessRole {
    match role {
        AccessRole::Reader => api::AccessRole::Reader,
        AccessRole::Agent => api::AccessRole::Agent,
        AccessRole::Operator => api::AccessRole::Operator,
        AccessRole::Admin => api::AccessRole::Admin,
    }
}

fn verb_out(verb: Verb) -> api::Verb {
    match verb {
        Verb::Read => api::Verb::Read,
        Verb::Watch => api::Verb::Watch,
        Verb::Register => api::Verb::Register,
        Verb::Heartbeat => api::Verb::Heartbeat,
        Verb::Deregister => api::Verb::Deregister,
        Verb::Define => api::Verb::Define,
        Verb::Operate => api::Verb::Operate,
        Verb::Administer => api::Verb::Administer,
    }
}

fn parse_id(id: Result<Path<String>, PathRejection>) -> Result<AccessTokenId, Failure> {
    let id = id.ok().and_then(|Path(id)| id.parse::<AccessTokenId>().ok());
    id.ok_or_else(|| Failure::fault("id", TokenIdError.to_string()))
}

fn parse(body: Value) -> Result<Wanted, Faults> {
    let mut faults = Faults::default();
    let wanted = Fields::open("", body, &mut faults).map(|mut fields| {
        let reach = fields.text("tenant").and_then(|text| match &*text {
            EVERY_TENANT => Some(Reach::All),
            tenant => match TenantId::parse(tenant) {
                Ok(tenant) => Some(Reach::Tenant(tenant)),
                Err(error) => {
                    fields.fault("tenant", error.to_string());
                    None
                }
            },
        });
        let role = match fields.take("role") {
            None => Err("is required: reader, agent, operator or admin".to_owned()),
            Some(Value::String(word)) => word.parse::<AccessRole>().map_err(|error| error.to_string()),
            Some(_) => Err("must be a string".to_owned()),
        };
        let role = role.map_err(|message| fields.fault("role", message)).ok();
        let check_prefix = |prefix: &str| match prefix.len() {
            0 => Err("must not be empty; `*` stands for every service".to_owned()),
            bytes if bytes > SCOPE_SERVICE_BYTES_MAX => {
                Err(format!("is {bytes} bytes long, at most {SCOPE_SERVICE_BYTES_MAX} are allowed"))
            }
            _ => Ok(()),
        };
        // `web-*` says what is meant as well as `web-`.
        let bare = |prefix: String| Box::from(prefix.strip_suffix('*').unwrap_or(&prefix));
        let services = fields.texts("services", SCOPE_SERVICES_MAX, check_prefix).unwrap_or_default();
        let services = services.into_iter().map(bare).collect();
        let check_verb = |verb: &str| verb.parse::<Verb>().map(drop);
        let verbs = fields.texts("verbs", Verb::ALL.len(), check_verb).unwrap_or_default();
        let mut verbs: Vec<Verb> = verbs.iter().filter_map(|verb| verb.parse().ok()).collect();
        verbs.sort_unstable();
        verbs.dedup();
        let ttl_ms = fields.whole("ttl_ms");
        if ttl_ms.is_some_and(|ttl_ms| !(TTL_MS_MIN..=ACCESS_TOKEN_TTL_MS_MAX).contains(&ttl_ms)) {
            fields.fault("ttl_ms", format!("must be from {TTL_MS_MIN} to {ACCESS_TOKEN_TTL_MS_MAX}"));
        }
        let description = fields.checked("description", |text| {
            if text.len() > ACCESS_TOKEN_DESCRIPTION_BYTES_MAX {
                let bytes = text.len();
                return Err(format!(
                    "is {bytes} bytes long, at most {ACCESS_TOKEN_DESCRIPTION_BYTES_MAX} are allowed"
                ));
            }
            if text.chars().any(char::is_control) { Err("must be one line".to_owned()) } else { Ok(()) }
        });
        fields.finish();
        let scopes = Scopes { services, verbs: verbs.into() };
        let description = description.unwrap_or_default().into();
        // Without a role there is a fault.
        let role = role.unwrap_or(AccessRole::Reader);
        Wanted { reach, role, scopes, ttl_ms, description }
    });
    wanted.filter(|_| faults.is_empty()).ok_or(faults)
}

fn parse_rotation(body: Value) -> Result<RotateTokenRequest, Faults> {
    let mut faults = Faults::default();
    let request = Fields::open("", body, &mut faults).map(|mut fields| {
        let overlap_ms = fields.whole("overlap_ms");
        if overlap_ms.is_some_and(|overlap_ms| overlap_ms > ACCESS_TOKEN_OVERLAP_MS_MAX) {
            fields.fault("overlap_ms", format!("must be at most {ACCESS_TOKEN_OVERLAP_MS_MAX}"));
        }
        fields.finish();
        RotateTokenRequest { overlap_ms }
    });
    request.filter(|_| faults.is_empty()).ok_or(faults)
}
