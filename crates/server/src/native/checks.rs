//! Which of a tenant's instances the nodes check.

use axum::extract::{Request, State};
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use rollcall_api::{CheckScope, ChecksRequest, ChecksResponse, Problem};
use rollcall_registry::{RulingChange, TenantChecks, TenantId};

use super::{Native, body_missing, json};
use crate::reply::Failure;
use crate::request::Context;
use crate::{params, parse, translate};

/// Which of the tenant's instances are checked
#[utoipa::path(
    get, path = "/api/checks", tag = "operators", operation_id = "getChecks",
    responses(
        (status = 200, description = "As it is", body = ChecksResponse),
        (status = 400, description = "Faulty; every fault is named", body = Problem),
        (status = 503, description = "`no_leader`, `not_ready`", body = Problem),
    ),
)]
pub(super) async fn show(State(native): State<Native>, context: Context, uri: Uri) -> Result<Response, Failure> {
    params::none(&uri)?;
    native.as_laid_down(&context).await?;
    Ok(json(StatusCode::OK, &native.checks(&context.tenant)))
}

/// Say which of the tenant's instances are checked
///
/// `asked`: those that ask, which is so where nothing is said; `all`: all that have a URL that can be checked; `none`. What
/// checks found of an instance that is checked no more is forgotten.
#[utoipa::path(
    put, path = "/api/checks", tag = "operators", operation_id = "setChecks",
    request_body = ChecksRequest,
    responses(
        (status = 200, description = "It is so", body = ChecksResponse),
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
    let request = native.parsed(request, context.deadline, parse::checks).await?.ok_or_else(body_missing)?;
    let (scope, interval_ms) = (translate::check_scope_in(request.scope), request.interval_ms);
    let change = RulingChange::Checks(Some(TenantChecks { scope, interval_ms }));
    native.lay_down(&context, change, |native, _| native.checks(&context.tenant)).await
}

/// Check those that ask again
#[utoipa::path(
    delete, path = "/api/checks", tag = "operators", operation_id = "resetChecks",
    responses(
        (status = 200, description = "It is so", body = ChecksResponse),
        (status = 400, description = "Faulty; every fault is named", body = Problem),
        (status = 409, description = "`feature_level_too_low`", body = Problem),
        (status = 503, description = "`no_leader`, `overloaded`: not applied", body = Problem),
        (status = 504, description = "`outcome_unknown`: may have been applied", body = Problem),
    ),
)]
pub(super) async fn reset(State(native): State<Native>, context: Context, uri: Uri) -> Result<Response, Failure> {
    params::none(&uri)?;
    native.lay_down(&context, RulingChange::Checks(None), |native, _| native.checks(&context.tenant)).await
}

impl Native {
    fn checks(&self, tenant: &TenantId) -> ChecksResponse {
        let own = self.replica.roll().read(|state| state.rulings().checks(tenant));
        ChecksResponse {
            scope: own.map_or(CheckScope::Asked, |own| translate::check_scope_out(own.scope)),
            interval_ms: own.and_then(|own| own.interval_ms),
            default: own.is_none(),
            enabled: self.checker.is_enabled(),
        }
    }
}
