//! Tokens that say who asks.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// How much somebody may do. Each may do what those before it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum AccessRole {
    /// Finds, reads and watches.
    Reader,
    /// Registers, and keeps alive and removes what it registered.
    Agent,
    /// Acts on all that is registered; over all tenants, on the cluster's nodes too.
    Operator,
    /// Makes and revokes tokens.
    Admin,
}

/// What can be done, as scopes name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Verb {
    Read,
    Watch,
    Register,
    Heartbeat,
    Deregister,
    /// Of events and schemas.
    Define,
    Operate,
    Administer,
}

/// Whether a token opens anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum TokenStatus {
    Active,
    Expired,
    Revoked,
}

/// `POST /api/tokens`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CreateTokenRequest {
    /// Whose entries it is for; `*` for every tenant's and the cluster itself. The asker's own, if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    pub role: AccessRole,
    /// Beginnings of the service names that it may write, at most 16; any, if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub services: Option<Vec<String>>,
    /// What it may do of what its role may; all of it, if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verbs: Option<Vec<Verb>>,
    /// How long it is good, 1,000 ms to ten years of cluster time; until it is revoked, if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_ms: Option<u64>,
    /// For people, at most 256 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
}

/// A new token, or one with a new secret. The secret is told here and nowhere else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CreatedToken {
    /// For `Authorization: Bearer`.
    pub token: String,
    #[serde(flatten)]
    pub info: TokenInfo,
}

/// What is known of a token: all but its secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TokenInfo {
    pub id: String,
    /// `*` for all.
    pub tenant: String,
    pub role: AccessRole,
    /// Empty: any.
    pub services: Vec<String>,
    /// Empty: all that the role may.
    pub verbs: Vec<Verb>,
    pub status: TokenStatus,
    /// Of cluster time, which stands still while there is no leader; `null` until it is revoked.
    #[schema(required)]
    pub expires_in_ms: Option<u64>,
    pub description: String,
    /// `token:ID` or `jwt:SUBJECT`; `null` where nobody had to say who asks.
    #[schema(required)]
    pub created_by: Option<String>,
    /// RFC 3339, as the others are.
    pub created_at: String,
    #[schema(required)]
    pub rotated_at: Option<String>,
    /// Noted about once an hour; `null` if it was not used yet.
    #[schema(required)]
    pub last_used_at: Option<String>,
    #[schema(required)]
    pub revoked_at: Option<String>,
}

/// `GET /api/tokens`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TokensResponse {
    pub tokens: Vec<TokenInfo>,
}

/// `POST /api/tokens/{id}/rotate`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RotateTokenRequest {
    /// So long the secret before stays good, at most 7 days of cluster time; not at all, if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overlap_ms: Option<u64>,
}

/// `DELETE /api/tokens/{id}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RevokeTokenResponse {
    pub id: String,
    pub revoked: bool,
}
