//! How much a tenant may have.

use axum::extract::{Request, State};
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use rollcall_api::{Problem, QuotaLimits, QuotaResponse};
use rollcall_registry::RulingChange;

use super::{Native, body_missing, json};
use crate::reply::Failure;
use crate::request::Context;
use crate::{params, parse, translate};

/// How much the tenant may have, and has
#[utoipa::path(
    get, path = "/api/quota", tag = "operators", operation_id = "getQuota",
    responses(
        (status = 200, description = "Its limits; none of what is not limited", body = QuotaResponse),
        (status = 400, description = "Faulty; every fault is named", body = Problem),
        (status = 503, description = "`no_leader`, `not_ready`", body = Problem),
    ),
)]
pub(super) async fn show(State(native): State<Native>, context: Context, uri: Uri) -> Result<Response, Failure> {
    params::none(&uri)?;
    native.as_laid_down(&context).await?;
    Ok(json(StatusCode::OK, &native.quota_answer(&context)))
}

/// Say how much the tenant may have
///
/// It holds from then on, in the place of what was said before. What stands already stays, and is renewed.
#[utoipa::path(
    put, path = "/api/quota", tag = "operators", operation_id = "setQuota",
    request_body = QuotaLimits,
    responses(
        (status = 200, description = "It is so", body = QuotaResponse),
        (status = 400, description = "Faulty; every fault is named", body = Problem),
        (status = 409, description = "`too_many_quotas`: 10000 tenants have one; `feature_level_too_low`", body = Problem),
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
    let limits: QuotaLimits =
        native.parsed(request, context.deadline, parse::quota).await?.ok_or_else(body_missing)?;
    let change = RulingChange::Quota(Some(translate::quota_in(limits)));
    native.lay_down(&context, change, |native, _| native.quota_answer(&context)).await
}

/// Let the tenant have as much as it will
#[utoipa::path(
    delete, path = "/api/quota", tag = "operators", operation_id = "clearQuota",
    responses(
        (status = 200, description = "It is so", body = QuotaResponse),
        (status = 400, description = "Faulty; every fault is named", body = Problem),
        (status = 409, description = "`feature_level_too_low`", body = Problem),
        (status = 503, description = "`no_leader`, `overloaded`: not applied", body = Problem),
        (status = 504, description = "`outcome_unknown`: may have been applied", body = Problem),
    ),
)]
pub(super) async fn clear(State(native): State<Native>, context: Context, uri: Uri) -> Result<Response, Failure> {
    params::none(&uri)?;
    native.lay_down(&context, RulingChange::Quota(None), |native, _| native.quota_answer(&context)).await
}

impl Native {
    fn quota_answer(&self, context: &Context) -> QuotaResponse {
        let tenant = &context.tenant;
        let (quota, usage) = self.replica.roll().read(|state| (state.quota(tenant), state.usage(tenant)));
        QuotaResponse {
            tenant: tenant.as_str().to_owned(),
            limits: translate::quota_out(quota.unwrap_or_default()),
            used: translate::usage_out(usage, self.places.taken_by(tenant)),
        }
    }
}
