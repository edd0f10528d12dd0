//! By what a tenant's results are ranked: weights, and trust in owners.

use axum::extract::{FromRequestParts, Path, Request, State};
use axum::http::request::Parts;
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use rollcall_api::{Problem, RankingRequest, RankingResponse, TrustInfo, TrustRequest, TrustsResponse};
use rollcall_registry::{OwnerName, RulingChange, TenantId, Trust};
use rollcall_replica::Consistency;

use super::{Native, body_missing, json};
use crate::reply::Failure;
use crate::request::Context;
use crate::{params, parse, translate};

/// The owner that the path names.
pub(super) struct Owner(OwnerName);

impl FromRequestParts<Native> for Owner {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, native: &Native) -> Result<Self, Failure> {
        let Path(text) = Path::<String>::from_request_parts(parts, native)
            .await
            .map_err(|rejection| Failure::fault("owner", rejection.body_text()))?;
        OwnerName::parse(&text).map(Self).map_err(|error| Failure::fault("owner", error.to_string()))
    }
}

/// All owners of whom it is known how far they are trusted
#[utoipa::path(
    get, path = "/api/trust", tag = "operators", operation_id = "listTrust",
    responses(
        (status = 200, description = "By name", body = TrustsResponse),
        (status = 400, description = "Faulty; every fault is named", body = Problem),
        (status = 503, description = "`no_leader`, `not_ready`", body = Problem),
    ),
)]
pub(super) async fn trusted(State(native): State<Native>, context: Context, uri: Uri) -> Result<Response, Failure> {
    params::none(&uri)?;
    native.as_laid_down(&context).await?;
    let owners = native.replica.roll().read(|state| {
        let trusted = state.rulings().trusted(&context.tenant);
        trusted.map(|(owner, trust)| info(owner, Some(trust))).collect()
    });
    Ok(json(StatusCode::OK, &TrustsResponse { owners }))
}

/// Say how far an owner is trusted
///
/// It counts in the rank of all the owner's instances.
#[utoipa::path(
    put, path = "/api/trust/{owner}", tag = "operators", operation_id = "setTrust",
    params(("owner" = String, Path, description = "The owner, as registrations name it")),
    request_body = TrustRequest,
    responses(
        (status = 200, description = "It is so", body = TrustInfo),
        (status = 400, description = "Faulty; every fault is named", body = Problem),
        (status = 409, description = "`too_many_rulings`: 10000 owners of the tenant are known; `feature_level_too_low`", body = Problem),
        (status = 503, description = "`no_leader`, `overloaded`: not applied", body = Problem),
        (status = 504, description = "`outcome_unknown`: may have been applied", body = Problem),
    ),
)]
pub(super) async fn trust(
    State(native): State<Native>,
    context: Context,
    Owner(owner): Owner,
    request: Request,
) -> Result<Response, Failure> {
    params::none(request.uri())?;
    let request = native.parsed(request, context.deadline, parse::trust).await?.ok_or_else(body_missing)?;
    let trust = Trust::try_from((request.trust * 1e2).round() as u16);
    let trust = trust.map_err(|error| Failure::fault("trust", error.to_string()))?;
    let change = RulingChange::Trust { owner: owner.clone(), trust: Some(trust) };
    native.lay_down(&context, change, |_, _| info(&owner, Some(trust))).await
}

/// Forget how far an owner is trusted
///
/// It then counts as one with 5.
#[utoipa::path(
    delete, path = "/api/trust/{owner}", tag = "operators", operation_id = "forgetTrust",
    params(("owner" = String, Path, description = "The owner, as registrations name it")),
    responses(
        (status = 200, description = "Nothing is known of it", body = TrustInfo),
        (status = 400, description = "Faulty; every fault is named", body = Problem),
        (status = 409, description = "`feature_level_too_low`", body = Problem),
        (status = 503, description = "`no_leader`, `overloaded`: not applied", body = Problem),
        (status = 504, description = "`outcome_unknown`: may have been applied", body = Problem),
    ),
)]
pub(super) async fn forget_trust(
    State(native): State<Native>,
    context: Context,
    Owner(owner): Owner,
    uri: Uri,
) -> Result<Response, Failure> {
    params::none(&uri)?;
    let change = RulingChange::Trust { owner: owner.clone(), trust: None };
    native.lay_down(&context, change, |_, _| info(&owner, None)).await
}

fn info(owner: &OwnerName, trust: Option<Trust>) -> TrustInfo {
    TrustInfo { owner: owner.as_str().to_owned(), trust: trust.map(translate::trust_out) }
}

/// By what the tenant's results are ranked
#[utoipa::path(
    get, path = "/api/ranking", tag = "operators", operation_id = "getRanking",
    responses(
        (status = 200, description = "The weights", body = RankingResponse),
        (status = 400, description = "Faulty; every fault is named", body = Problem),
        (status = 503, description = "`no_leader`, `not_ready`", body = Problem),
    ),
)]
pub(super) async fn show(State(native): State<Native>, context: Context, uri: Uri) -> Result<Response, Failure> {
    params::none(&uri)?;
    native.as_laid_down(&context).await?;
    Ok(json(StatusCode::OK, &native.ranking(&context.tenant)))
}

/// Say by what the tenant's results are ranked
///
/// Where a query does not say otherwise.
#[utoipa::path(
    put, path = "/api/ranking", tag = "operators", operation_id = "setRanking",
    request_body = RankingRequest,
    responses(
        (status = 200, description = "It is so", body = RankingResponse),
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
    let request = native.parsed(request, context.deadline, parse::ranking).await?.ok_or_else(body_missing)?;
    let weights = translate::rank_weights_in(request.weights);
    let weights = weights.map_err(|error| Failure::fault("weights", error.to_string()))?;
    native.lay_down(&context, RulingChange::Ranking(Some(weights)), |native, _| native.ranking(&context.tenant)).await
}

/// Rank the tenant's results by the default again
#[utoipa::path(
    delete, path = "/api/ranking", tag = "operators", operation_id = "resetRanking",
    responses(
        (status = 200, description = "It is so", body = RankingResponse),
        (status = 400, description = "Faulty; every fault is named", body = Problem),
        (status = 409, description = "`feature_level_too_low`", body = Problem),
        (status = 503, description = "`no_leader`, `overloaded`: not applied", body = Problem),
        (status = 504, description = "`outcome_unknown`: may have been applied", body = Problem),
    ),
)]
pub(super) async fn reset(State(native): State<Native>, context: Context, uri: Uri) -> Result<Response, Failure> {
    params::none(&uri)?;
    native.lay_down(&context, RulingChange::Ranking(None), |native, _| native.ranking(&context.tenant)).await
}

impl Native {
    /// Whoever looks what was laid down must not be shown what was there before.
    pub(super) async fn as_laid_down(&self, context: &Context) -> Result<(), Failure> {
        let wanted = Consistency { linearizable: true, ..Consistency::default() };
        self.replica.barrier(wanted, context.deadline).await?;
        Ok(())
    }

    fn ranking(&self, tenant: &TenantId) -> RankingResponse {
        let weights = self.replica.roll().read(|state| state.rulings().ranking(tenant));
        RankingResponse {
            weights: translate::rank_weights_out(weights.unwrap_or_default()),
            default: weights.is_none(),
        }
    }
}
