//! Protection from a mass expiry.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `PUT /api/protection`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ProtectionRequest {
    /// Leases are held when more than this share of them would run out within the window: 0.001 to 0.999.
    pub share: f64,
    /// 1,000 to 3,600,000; 60,000 if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub window_ms: Option<u32>,
    /// How many of those held are struck off in a minute at most: 1 to 6,000; 60 if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub release_per_minute: Option<u32>,
    /// With fewer leases the tenant is not protected: 1 to 1,000,000; 10 if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub leases_min: Option<u32>,
}

/// When a tenant's leases are held.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ProtectionRule {
    pub share: f64,
    pub window_ms: u32,
    pub release_per_minute: u32,
    pub leases_min: u32,
}

/// How the tenant's protection stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ProtectionResponse {
    /// Absent where the tenant's leases are not protected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protection: Option<ProtectionRule>,
    /// Whatever runs out now is held.
    pub in_force: bool,
    /// Since when it is in force: RFC 3339, by the leader's clock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// How often it came into force since it was switched on.
    pub begun: u64,
    /// How many instances are held.
    pub suspects: u64,
    /// Of how many instances on the roll, offline ones too.
    pub instances: u64,
    pub revision: u64,
}
