//! How good a choice an instance is, and who is chosen.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::discovery::FederatedSource;
use crate::service::{ServiceObject, UnknownWord, words};

words! {
    /// How one of several instances is chosen.
    Strategy { Rank = "rank", Weighted = "weighted", RoundRobin = "round_robin" }
}

/// How good a choice an instance is, from 0 to 1, and what that came of. With `explain=true`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RankInfo {
    /// The weighted mean of the rest.
    pub score: f64,
    /// The share of `preferred_capabilities` that it has.
    pub capability: f64,
    /// By its status.
    pub health: f64,
    /// To the requester.
    pub proximity: f64,
    /// In its owner.
    pub trust: f64,
}

/// What each part of a rank counts: 0 to 1 each, in steps of a thousandth, not all 0. Only their proportion matters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RankWeights {
    #[serde(default)]
    pub capability: f64,
    #[serde(default)]
    pub health: f64,
    #[serde(default)]
    pub proximity: f64,
    #[serde(default)]
    pub trust: f64,
}

/// `PUT /api/ranking`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RankingRequest {
    /// What is left out counts nothing.
    pub weights: RankWeights,
}

/// By what the tenant's results are ranked where a query does not say otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RankingResponse {
    pub weights: RankWeights,
    /// Nobody chose them for this tenant.
    pub default: bool,
}

/// `PUT /api/trust/{owner}`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TrustRequest {
    /// 0 to 10, in steps of a hundredth.
    pub trust: f64,
}

/// How far an owner is trusted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TrustInfo {
    pub owner: String,
    /// 0 to 10; absent where nothing is known of the owner, who then counts as one with 5.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trust: Option<f64>,
}

/// `GET /api/trust`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TrustsResponse {
    /// By name.
    pub owners: Vec<TrustInfo>,
}

/// `GET /api/services/pick`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PickResponse {
    pub service: ServiceObject,
    pub strategy: Strategy,
    /// How many it was chosen from.
    pub candidates: u64,
    /// The range of `split` that was drawn.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version_range: Option<String>,
    /// The revision of the roll that it was chosen from.
    pub revision: u64,
    /// The clusters that were asked; absent unless `federated=live`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub federated_sources: Option<Vec<FederatedSource>>,
}
