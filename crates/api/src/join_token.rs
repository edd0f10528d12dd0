//! Tokens with which nodes join.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::cluster::Role;

/// `POST /api/cluster/tokens`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CreateJoinTokenRequest {
    /// How long it is good, 1,000 ms to 30 days of cluster time; an hour, if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_ms: Option<u64>,
    /// How many nodes it admits, 1 to 100; any number, if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uses: Option<u32>,
    /// `voter` (default): admits nodes of both roles. `learner`: admits learners only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
}

/// A new join token. The secret is told here and nowhere else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CreatedJoinToken {
    /// `join_token` of the node that is to join.
    pub token: String,
    #[serde(flatten)]
    pub info: JoinTokenInfo,
}

/// What is known of a join token: all but its secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct JoinTokenInfo {
    pub id: String,
    /// `learner`: admits learners only.
    pub role: Role,
    /// Of cluster time, which stands still while there is no leader; 0 when it has expired.
    pub expires_in_ms: u64,
    /// How many nodes it admits; `null` for any number.
    #[schema(required)]
    pub uses_max: Option<u32>,
    /// How many it has admitted.
    pub uses: u32,
    /// The peer addresses of those, where uses are counted.
    pub admitted: Vec<String>,
    /// RFC 3339.
    pub created_at: String,
}

/// `GET /api/cluster/tokens`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct JoinTokensResponse {
    pub tokens: Vec<JoinTokenInfo>,
}

/// `DELETE /api/cluster/tokens/{id}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RevokeJoinTokenResponse {
    pub id: String,
    pub revoked: bool,
}
