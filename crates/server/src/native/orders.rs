//! What operators order for single instances: maintenance and drain.

use axum::extract::{Request, State};
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use rollcall_api::{OrderRequest, OrderResponse, OrdersResponse, Problem, StandingOrders};
use rollcall_registry::{Command, InstanceId, OrderKind, Orders, Outcome, Ruled, RulingChange};
use serde::Serialize;

use super::{Id, Native, json};
use crate::reply::{self, Failure, Shown};
use crate::request::Context;
use crate::{params, parse, translate};

/// Take an instance out of service
///
/// It is shown in `maintenance`, whatever it says of itself and checks find, until an operator lifts the order. The order
/// outlives the instance: whoever registers under the id again is under it still. Another reason replaces the one given.
#[utoipa::path(
    put, path = "/api/services/{id}/maintenance", tag = "operators", operation_id = "orderMaintenance",
    params(("id" = String, Path, description = "The instance")),
    request_body(content = Option<OrderRequest>),
    responses(
        (status = 200, description = "It is ordered", body = OrderResponse),
        (status = 400, description = "Faulty; every fault is named", body = Problem),
        (status = 404, description = "`not_found`: it is not on the roll and was not under maintenance when it left", body = Problem),
        (status = 409, description = "`too_many_rulings`: 10000 ids of the tenant are under maintenance; `feature_level_too_low`", body = Problem),
        (status = 503, description = "`no_leader`, `overloaded`: not applied", body = Problem),
        (status = 504, description = "`outcome_unknown`: may have been applied", body = Problem),
    ),
)]
pub(super) async fn maintain(
    State(native): State<Native>,
    context: Context,
    Id(id): Id,
    request: Request,
) -> Result<Response, Failure> {
    give(&native, &context, id, OrderKind::Maintenance, request).await
}

/// Put an instance back into service
///
/// Its status is again what it says and checks find.
#[utoipa::path(
    delete, path = "/api/services/{id}/maintenance", tag = "operators", operation_id = "liftMaintenance",
    params(("id" = String, Path, description = "The instance")),
    responses(
        (status = 200, description = "It is lifted, or did not stand", body = OrderResponse),
        (status = 400, description = "Faulty; every fault is named", body = Problem),
        (status = 404, description = "`not_found`: neither the instance nor an order for it is there", body = Problem),
        (status = 409, description = "`feature_level_too_low`", body = Problem),
        (status = 503, description = "`no_leader`, `overloaded`: not applied", body = Problem),
        (status = 504, description = "`outcome_unknown`: may have been applied", body = Problem),
    ),
)]
pub(super) async fn end_maintenance(
    State(native): State<Native>,
    context: Context,
    Id(id): Id,
    uri: Uri,
) -> Result<Response, Failure> {
    lift(&native, &context, id, OrderKind::Maintenance, &uri).await
}

/// Have an instance finish its work
///
/// It is shown in `maintenance`, so that it is given no new work, and the order is over when it has gone.
#[utoipa::path(
    put, path = "/api/services/{id}/drain", tag = "operators", operation_id = "orderDrain",
    params(("id" = String, Path, description = "The instance")),
    request_body(content = Option<OrderRequest>),
    responses(
        (status = 200, description = "It is ordered", body = OrderResponse),
        (status = 400, description = "Faulty; every fault is named", body = Problem),
        (status = 404, description = "`not_found`", body = Problem),
        (status = 409, description = "`feature_level_too_low`", body = Problem),
        (status = 503, description = "`no_leader`, `overloaded`: not applied", body = Problem),
        (status = 504, description = "`outcome_unknown`: may have been applied", body = Problem),
    ),
)]
pub(super) async fn drain(
    State(native): State<Native>,
    context: Context,
    Id(id): Id,
    request: Request,
) -> Result<Response, Failure> {
    give(&native, &context, id, OrderKind::Drain, request).await
}

/// Take back a drain
#[utoipa::path(
    delete, path = "/api/services/{id}/drain", tag = "operators", operation_id = "liftDrain",
    params(("id" = String, Path, description = "The instance")),
    responses(
        (status = 200, description = "It is lifted, or did not stand", body = OrderResponse),
        (status = 400, description = "Faulty; every fault is named", body = Problem),
        (status = 404, description = "`not_found`", body = Problem),
        (status = 409, description = "`feature_level_too_low`", body = Problem),
        (status = 503, description = "`no_leader`, `overloaded`: not applied", body = Problem),
        (status = 504, description = "`outcome_unknown`: may have been applied", body = Problem),
    ),
)]
pub(super) async fn end_drain(
    State(native): State<Native>,
    context: Context,
    Id(id): Id,
    uri: Uri,
) -> Result<Response, Failure> {
    lift(&native, &context, id, OrderKind::Drain, &uri).await
}

/// All orders that stand
///
/// Those for ids that are off the roll among them.
#[utoipa::path(
    get, path = "/api/orders", tag = "operators", operation_id = "listOrders",
    params(
        ("consistency" = Option<String>, Query, description = "`local` (default) or `linearizable`"),
        ("min_revision" = Option<u64>, Query, description = "Wait until this revision is shown"),
        ("max_staleness_ms" = Option<u64>, Query, description = "Refuse rather than answer from older state"),
    ),
    responses(
        (status = 200, description = "By id", body = OrdersResponse),
        (status = 400, description = "Faulty; every fault is named", body = Problem),
        (status = 503, description = "`not_ready`, `no_leader`, `too_stale`", body = Problem),
        (status = 504, description = "`revision_not_reached`", body = Problem),
    ),
)]
pub(super) async fn list(State(native): State<Native>, context: Context, uri: Uri) -> Result<Response, Failure> {
    let consistency = params::consistency(&uri)?;
    let freshness = native.replica.barrier(consistency, context.deadline).await?;
    let (mut orders, revision) = native.replica.roll().read(|state| {
        let present = state.orders(&context.tenant, &context.viewer).map(|(id, orders)| StandingOrders {
            service_id: id.to_owned(),
            present: true,
            operator: translate::orders_out(orders),
        });
        let absent = state.rulings().absent_orders(&context.tenant).map(|(id, order)| StandingOrders {
            service_id: id.as_str().to_owned(),
            present: false,
            operator: translate::orders_out(&Orders::of_absent(order.clone())),
        });
        (present.chain(absent).collect::<Vec<_>>(), state.revision())
    });
    orders.sort_by(|a, b| a.service_id.cmp(&b.service_id));
    let mut response = json(StatusCode::OK, &OrdersResponse { orders, revision: revision.0 });
    reply::show(&mut response, Shown { revision, freshness });
    Ok(response)
}

async fn give(
    native: &Native,
    context: &Context,
    id: InstanceId,
    kind: OrderKind,
    request: Request,
) -> Result<Response, Failure> {
    params::none(request.uri())?;
    let OrderRequest { reason } = native.parsed(request, context.deadline, parse::order).await?.unwrap_or_default();
    tracing::info!(tenant = %context.tenant, %id, order = %kind, reason, "an operator gives an order");
    let change = RulingChange::Give { id: id.clone(), kind, reason: reason.map(Into::into) };
    order(native, context, &id, change).await
}

async fn lift(
    native: &Native,
    context: &Context,
    id: InstanceId,
    kind: OrderKind,
    uri: &Uri,
) -> Result<Response, Failure> {
    params::none(uri)?;
    tracing::info!(tenant = %context.tenant, %id, order = %kind, "an operator lifts an order");
    order(native, context, &id, RulingChange::Lift { id: id.clone(), kind }).await
}

async fn order(
    native: &Native,
    context: &Context,
    id: &InstanceId,
    change: RulingChange,
) -> Result<Response, Failure> {
    let Ruled { changed, revision } = native.rule(context, change).await?;
    let (status, orders) = native.replica.roll().read(|state| {
        let view = state.get(&context.tenant, id);
        (view.map(|view| translate::status_out(view.instance.status())), state.orders_for(&context.tenant, id))
    });
    let answer = OrderResponse {
        service_id: id.as_str().to_owned(),
        changed,
        present: status.is_some(),
        status,
        operator: translate::orders_out(&orders),
        revision: revision.0,
    };
    let mut response = json(StatusCode::OK, &answer);
    reply::written(&mut response, revision);
    Ok(response)
}

impl Native {
    /// Lays down what an operator says of the tenant, and answers how it then stands.
    pub(super) async fn lay_down<T: Serialize>(
        &self,
        context: &Context,
        change: RulingChange,
        stands: impl FnOnce(&Self, Ruled) -> T,
    ) -> Result<Response, Failure> {
        tracing::info!(tenant = %context.tenant, ?change, "an operator lays down");
        let ruled = self.rule(context, change).await?;
        let mut response = json(StatusCode::OK, &stands(self, ruled));
        reply::written(&mut response, ruled.revision);
        Ok(response)
    }

    async fn rule(&self, context: &Context, change: RulingChange) -> Result<Ruled, Failure> {
        if let Some(principal) = context.principal() {
            let view = match &change {
                RulingChange::Give { id, .. } | RulingChange::Lift { id, .. } => {
                    self.replica.roll().read(|state| state.get(&context.tenant, id))
                }
                RulingChange::Trust { .. }
                | RulingChange::Ranking(_)
                | RulingChange::Quota(_)
                | RulingChange::Checks(_)
                | RulingChange::Protection(_)
                | RulingChange::Release
                | RulingChange::Target { .. }
                | RulingChange::Told { .. } => None,
            };
            // Of whom it is not known what it would be, it is not known that it is within a scope.
            view.map_or_else(
                || principal.check_tenant(),
                |view| principal.check_service(view.instance.registration().name),
            )?;
        }
        let command = Command::Rule { tenant: context.tenant.clone(), change };
        match self.submit(command, context).await?.outcome {
            Outcome::Ruled(ruled) => Ok(ruled),
            Outcome::Refused(refusal) => Err(refusal.into()),
            other => unreachable!("a ruling was answered by {other:?}"),
        }
    }
}
