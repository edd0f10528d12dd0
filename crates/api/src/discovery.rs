//! Discovery.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::service::{ServiceObject, UnknownWord, words};

words! {
    /// From what another cluster's instances are shown.
    FederatedAnswer {
        /// As its roll had them when it was asked.
        Live = "live",
        /// As it told them before.
        Copy = "copy",
    }
}

/// Another cluster that was asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FederatedSource {
    pub peer: String,
    pub answered: FederatedAnswer,
    /// Why it is the copy: `timed_out`, `unreachable`, `refused`, `paused`, `not_trusted`, `resyncing`: it has to tell
    /// everything first, `invalid_answer`, `not_taken`, `gone`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

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
    /// The clusters that were asked; absent unless `federated=live`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub federated_sources: Option<Vec<FederatedSource>>,
    /// The revision of the roll that this answer shows.
    pub revision: u64,
    /// Where the next page begins, opaque; absent on the last page.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}
