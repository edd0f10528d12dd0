//! Protection of a tenant's leases from a mass expiry.

use axum::extract::{Request, State};
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use rollcall_api::{Problem, ProtectionRequest, ProtectionResponse};
use rollcall_registry::{Protecting, RulingChange, TenantId};

use super::{Native, body_missing, json};
use crate::render::rfc3339;
use crate::reply::Failure;
use crate::request::Context;
use crate::{params, parse, translate};

/// How the tenant's protection from a mass expiry stands
#[utoipa::path(
    get, path = "/api/protection", tag = "operators", operation_id = "getProtection",
    responses(
        (status = 200, description = "When leases are held, and whether they are now", body = ProtectionResponse),
        (status = 400, description = "Faulty; every fault is named", body = Problem),
        (status = 503, description = "`no_leader`, `not_ready`", body = Problem),
    ),
)]
pub(super) async fn show(State(native): State<Native>, context: Context, uri: Uri) -> Result<Response, Failure> {
    params::none(&uri)?;
    native.as_laid_down(&context).await?;
    Ok(json(StatusCode::OK, &native.protecting(&context.tenant)))
}

/// Hold the tenant's leases when too many run out at once
///
/// Who is held stays on the roll as `suspect`, is served last, and is struck off at a bounded rate if it stays silent.
#[utoipa::path(
    put, path = "/api/protection", tag = "operators", operation_id = "setProtection",
    request_body = ProtectionRequest,
    responses(
        (status = 200, description = "It is so", body = ProtectionResponse),
        (status = 400, description = "Faulty; every fault is named", body = Problem),
        (status = 409, description = "`feature_level_too_low`", body = Problem),
        (status = 503, description = "`no_leader`, `overloaded`: not applied", body = Problem),
        (status = 504, description = "`outcome_unknown`: may have been applied", body = Problem),
    ),
)]
pub(super) async fn set(
    State(native): State<Native>,
    context: Context,
    request: Request,
) -> Result<Response, Failure> {
    params::none(request.uri())?;
    let request = native.parsed(request, context.deadline, parse::protection).await?.ok_or_else(body_missing)?;
    let protection = translate::protection_in(request);
    let protection = protection.map_err(|error| Failure::fault("", error.to_string()))?;
    native
        .lay_down(&context, RulingChange::Protection(Some(protection)), |native, _| {
            native.protecting(&context.tenant)
        })
        .await
}

/// Protect the tenant's leases no longer
///
/// Who is held is struck off.
#[utoipa::path(
    delete, path = "/api/protection", tag = "operators", operation_id = "resetProtection",
    responses(
        (status = 200, description = "It is so", body = ProtectionResponse),
        (status = 400, description = "Faulty; every fault is named", body = Problem),
        (status = 409, description = "`feature_level_too_low`", body = Problem),
        (status = 503, description = "`no_leader`, `overloaded`: not applied", body = Problem),
        (status = 504, description = "`outcome_unknown`: may have been applied", body = Problem),
    ),
)]
pub(super) async fn reset(State(native): State<Native>, context: Context, uri: Uri) -> Result<Response, Failure> {
    params::none(&uri)?;
    native.lay_down(&context, RulingChange::Protection(None), |native, _| native.protecting(&context.tenant)).await
}

/// End protection that is in force
///
/// Who is held is struck off, and for one window nobody is held: an operator knows that they are gone.
#[utoipa::path(
    post, path = "/api/protection/release", tag = "operators", operation_id = "releaseSuspects",
    responses(
        (status = 200, description = "It is over, or was not in force", body = ProtectionResponse),
        (status = 400, description = "Faulty; every fault is named", body = Problem),
        (status = 409, description = "`feature_level_too_low`", body = Problem),
        (status = 503, description = "`no_leader`, `overloaded`: not applied", body = Problem),
        (status = 504, description = "`outcome_unknown`: may have been applied", body = Problem),
    ),
)]
pub(super) async fn release(State(native): State<Native>, context: Context, uri: Uri) -> Result<Response, Failure> {
    params::none(&uri)?;
    native.lay_down(&context, RulingChange::Release, |native, _| native.protecting(&context.tenant)).await
}

impl Native {
    fn protecting(&self, tenant: &TenantId) -> ProtectionResponse {
        self.replica.roll().read(|state| {
            let Protecting { protection, since, begun, suspects } = state.protecting(tenant);
            ProtectionResponse {
                protection: protection.map(translate::protection_out),
                in_force: since.is_some(),
                since: since.map(rfc3339),
                begun,
                suspects: suspects as u64,
                instances: state.tenant_len(tenant) as u64,
                revision: state.revision().0,
            }
        })
    }
}
