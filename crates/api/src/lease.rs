//! Leases and heartbeats.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::service::Status;

/// The lease in a service object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LeaseInfo {
    /// Names one incarnation of the instance; another registration of other content is another lease.
    pub id: u64,
    pub ttl_ms: u32,
    /// Milliseconds until the lease runs out if no heartbeat comes; 0 once it has.
    pub expires_in_ms: u64,
}

/// The lease that a registration was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LeaseGrant {
    pub id: u64,
    pub ttl_ms: u32,
    /// How often to beat, in milliseconds: a third of the TTL, so that two heartbeats may be lost.
    pub heartbeat_interval_ms: u32,
}

/// The lease that a heartbeat renewed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RenewedLease {
    pub id: u64,
    pub ttl_ms: u32,
}

/// The optional body of `POST /api/services/{id}/heartbeat`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HeartbeatRequest {
    /// The lease the sender believes to hold. Without it whatever lease is current is renewed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lease_id: Option<u64>,
    /// What the instance says of its condition; `offline` leaves default discovery and keeps the lease.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<Status>,
    /// Merged into the metadata key by key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Map<String, Value>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HeartbeatResponse {
    pub service_id: String,
    pub heartbeat_updated: bool,
    /// RFC 3339, by the answering node's clock. For people to read.
    pub next_heartbeat_due: String,
    /// A third of the TTL.
    pub next_heartbeat_in_ms: u32,
    pub lease: RenewedLease,
}

/// `POST /api/heartbeats`: at most 10,000 leases and 4 MiB of JSON.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HeartbeatsRequest {
    /// A lease given twice counts once.
    pub leases: Vec<u64>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HeartbeatsResponse {
    pub renewed: u64,
    /// Nobody's leases, or another tenant's: register again.
    pub not_found: Vec<u64>,
    /// A newer registration holds the instance: stop.
    pub superseded: Vec<u64>,
}
