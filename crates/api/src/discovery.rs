//! Discovery.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::service::ServiceObject;

/// `GET /api/services`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DiscoverResponse {
    pub services: Vec<ServiceObject>,
    /// All matches, not only this page's.
    pub total_count: u64,
    pub search_time_ms: f64,
    /// Whether other registries' instances are among them.
    pub federated_results: bool,
    pub local_count: u64,
    pub federated_count: u64,
    /// The revision of the roll that this answer shows.
    pub revision: u64,
    /// Where the next page begins, opaque; absent on the last page.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}
