//! Signatures: how a tenant takes them, and the keys of owners.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::service::{UnknownWord, words};

words! {
    /// How a tenant takes signatures.
    SignatureMode {
        /// They are carried, and mean nothing.
        Off = "off",
        /// One that is there must be right, and whose owner has a key must sign.
        Accepted = "accepted",
        /// Whoever registers must sign.
        Required = "required",
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SignaturesResponse {
    pub tenant: String,
    pub mode: SignatureMode,
    /// The tenant has a mode of its own; otherwise it is what the node that answers is configured to.
    pub own: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SetSignaturesRequest {
    pub mode: SignatureMode,
}

/// An owner with the key that signs in their name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OwnerKeyInfo {
    pub owner: String,
    /// Ed25519, in base64.
    pub public_key: String,
    /// RFC 3339.
    pub pinned_at: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OwnerKeysResponse {
    /// By owner.
    pub owner_keys: Vec<OwnerKeyInfo>,
    /// Where the next page begins, if there is one: `after` of the request for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_after: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PutOwnerKeyRequest {
    /// Ed25519: 32 bytes in base64 or hexadecimal, with or without `ed25519:` before them.
    pub public_key: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RemoveOwnerKeyResponse {
    pub owner: String,
    pub removed: bool,
}

/// What it takes to check a registration's signature oneself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ServiceSignatureResponse {
    pub service_id: String,
    pub owner: String,
    /// Ed25519, in base64.
    pub public_key: String,
    /// Of `signed_document`, in base64.
    pub signature: String,
    /// What was signed: canonical JSON (RFC 8785), byte for byte.
    pub signed_document: String,
}
