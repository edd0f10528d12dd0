//! What operators order for instances, and what checks find of them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::service::{Status, UnknownWord, words};

words! {
    /// What checks found of an instance.
    Verdict { Healthy = "healthy", Degraded = "degraded", Error = "error" }
}

/// `PUT /api/services/{id}/maintenance`, `PUT /api/services/{id}/drain`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct OrderRequest {
    /// For whoever wonders: 1 to 256 bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// An order that stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OrderInfo {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// RFC 3339, by the leader's clock. For people to read.
    pub since: String,
}

/// The orders for one instance. While one stands the instance is shown in `maintenance`, whatever it says and checks find.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OperatorOrders {
    /// Out of service until an operator lifts it; outlives the instance.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub maintenance: Option<OrderInfo>,
    /// To be given no new work until it goes; over when it has gone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drain: Option<OrderInfo>,
}

/// What checks last found of an instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HealthInfo {
    pub verdict: Verdict,
    /// Since when they find it: RFC 3339, by the leader's clock. For people to read.
    pub since: String,
}

/// What came of an order that was given or lifted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OrderResponse {
    pub service_id: String,
    /// Whether it was otherwise before.
    pub changed: bool,
    /// Whether the instance is on the roll now.
    pub present: bool,
    /// What others are told of it, if it is on the roll.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<Status>,
    /// All orders that stand for it now.
    pub operator: OperatorOrders,
    pub revision: u64,
}

/// One id with its orders.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StandingOrders {
    pub service_id: String,
    /// Whether the instance is on the roll.
    pub present: bool,
    pub operator: OperatorOrders,
}

/// `GET /api/orders`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OrdersResponse {
    /// By id.
    pub orders: Vec<StandingOrders>,
    pub revision: u64,
}
