//! How much a tenant may have.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::service::{UnknownWord, words};

words! {
    /// What is limited. Registrations and bytes are counted by the cluster, the others at each node.
    QuotaKind {
        Registrations = "registrations",
        Bytes = "bytes",
        Watchers = "watchers",
        RequestsPerSecond = "requests_per_second",
    }
}

/// `PUT /api/quota`: a tenant's limits. What is left out is not limited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct QuotaLimits {
    /// Instances on the roll, offline ones too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(maximum = 4_294_967_295_u64)]
    pub registrations: Option<u64>,
    /// Of registrations, and of the metadata that heartbeats reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// At each node, in the place of what the node is configured to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(maximum = 4_294_967_295_u64)]
    pub watchers: Option<u64>,
    /// At each node. Heartbeats have an allowance of their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 1_000_000)]
    pub requests_per_second: Option<u64>,
}

/// What a tenant has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct QuotaUsage {
    pub registrations: u64,
    pub bytes: u64,
    /// At the node that answers.
    pub watchers: u64,
}

/// A tenant's limits, and what it has of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct QuotaResponse {
    pub tenant: String,
    pub limits: QuotaLimits,
    pub used: QuotaUsage,
}

/// Which quota is used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct QuotaExceeded {
    pub quota: QuotaKind,
    pub limit: u64,
    pub used: u64,
}
