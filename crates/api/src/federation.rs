//! Other clusters: whom operators name, what is told to whom, and the messages that clusters send each other.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::service::{UnknownWord, words};

words! {
    /// Who tells whom.
    Direction {
        /// This cluster tells, and takes nothing.
        Send = "send",
        Receive = "receive",
        Both = "both",
    }
}

words! {
    /// Whom of a tenant another cluster is told of. What is restricted or private is told to none.
    Offered {
        Public = "public",
        /// What is internal too.
        Internal = "internal",
    }
}

/// `POST /api/federation/peers`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AddPeerRequest {
    /// 1 to 64 ASCII letters, digits, `-`, `_`, `.`, `:`.
    pub name: String,
    /// The other cluster's Ed25519 key, as `rollcall federation key` prints it there.
    pub public_key: String,
    /// Of any of its nodes, in the order in which they are tried; 1 to 9.
    pub urls: Vec<String>,
    /// The authorities of its nodes' certificates, in PEM; those that the machine trusts, if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
    /// `both` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub direction: Option<Direction>,
    /// Tenants of this cluster, each with the name that it has in the other one; `default` with `default` if absent. No
    /// other tenant is told of or taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenants: Option<BTreeMap<String, String>>,
    /// `public` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offered: Option<Offered>,
    /// Only whoever fits is offered: labels as `env=prod,!secret`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    /// 0 to 10; below 6 nothing is told to it and nothing taken from it. 6 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trust: Option<f64>,
    /// Where several clusters know an id, it is shown as the one of the highest priority knows it; 0 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<u32>,
}

/// Another cluster.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PeerInfo {
    pub name: String,
    pub public_key: String,
    pub urls: Vec<String>,
    /// It has authorities of its own.
    pub ca: bool,
    pub direction: Direction,
    pub tenants: BTreeMap<String, String>,
    pub offered: Offered,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    pub trust: f64,
    pub priority: u32,
    pub paused: bool,
    /// It was removed, and what is left of it is being cleared away.
    pub leaving: bool,
    /// RFC 3339.
    pub added_at: String,
    /// What is known of it, if anything is taken from it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub receiving: Option<ReceivingInfo>,
    /// How it is told, if it is: at the leader only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sending: Option<SendingInfo>,
}

/// What another cluster told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ReceivingInfo {
    /// Its instances that are kept.
    pub instances: u64,
    pub bytes: u64,
    /// Everything up to this revision of its roll is known; `null` before it has told everything.
    #[schema(required)]
    pub revision: Option<u64>,
    /// Instances that it has told so far, while it tells everything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resync_received: Option<u64>,
    /// Instances that it told and that were not taken: there was no room, no tenant stands for theirs, or they were not to be
    /// told.
    pub lacking: u64,
    /// When it was last heard: RFC 3339; absent if it never was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heard_at: Option<String>,
    /// It has been out of reach for a while.
    pub stale: bool,
    /// Without another word of it what it told is believed for so long, by cluster time.
    pub expires_in_ms: u64,
}

words! {
    /// How far another cluster is told.
    SendingState {
        /// It is not known yet how far it has come.
        Asking = "asking",
        /// It is told everything.
        Resyncing = "resyncing",
        /// It is told what changes.
        Following = "following",
        /// None of its nodes could be told.
        Failing = "failing",
    }
}

/// How another cluster is told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SendingInfo {
    pub state: SendingState,
    /// It has acknowledged everything up to this revision; `null` while that is not known.
    #[schema(required)]
    pub acknowledged: Option<u64>,
    /// Revisions that it is behind, those that are not offered to it among them.
    #[schema(required)]
    pub lag: Option<u64>,
    /// Of a telling of everything: instances told, and about how many there are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resync: Option<ResyncInfo>,
    /// Requests that were answered since this node leads, and those that were not.
    pub successes: u64,
    pub failures: u64,
    /// Instances that this cluster cannot put into words.
    pub unsendable: u64,
    /// Instances that it did not take.
    pub refused: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ResyncInfo {
    pub told: u64,
    pub total: u64,
}

/// What became of the last request to each cluster that is told something.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PropagationRecord {
    pub peers_contacted: u64,
    pub successful_propagations: u64,
    pub failed_propagations: u64,
    pub propagation_results: Vec<PropagationResult>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PropagationResult {
    pub peer_id: String,
    pub success: bool,
    /// RFC 3339.
    pub at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_time_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// `GET /api/federation`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct FederationResponse {
    /// This cluster's Ed25519 key; `null` before it has one.
    #[schema(required)]
    pub public_key: Option<String>,
    /// The name that this cluster has in messages; `null` before it has a key.
    #[schema(required)]
    pub did: Option<String>,
    /// Who answers.
    pub node_id: u64,
    /// Who leads: that node tells the others, and knows how that goes.
    #[schema(required)]
    pub leader_id: Option<u64>,
    /// By name.
    pub peers: Vec<PeerInfo>,
    /// At the leader.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub propagation: Option<PropagationRecord>,
}

/// `POST /api/federation/key`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FederationKeyResponse {
    /// Ed25519, in base64.
    pub public_key: String,
    pub did: String,
}

/// `DELETE /api/federation/peers/{name}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RemovePeerResponse {
    pub name: String,
    pub removed: bool,
}

/// `POST /klp/messages`: one message, or several in their order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct KlpRequest {
    /// 1 to 256, all of one cluster.
    pub messages: Vec<KlpMessage>,
}

/// What one cluster tells another.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct KlpMessage {
    /// `SERVICE_REGISTRATION`, `SERVICE_STATUS_UPDATE`, `SERVICE_DEREGISTRATION`, `REGISTRY_SYNC`.
    #[serde(rename = "type")]
    pub message_type: String,
    /// The sender: `kind:did:KEY#ed25519`.
    pub source: String,
    /// Whom it is for, as `source`.
    pub target: String,
    /// What it says: FEDERATION.md.
    #[schema(value_type = Object)]
    pub payload: Map<String, Value>,
    pub metadata: KlpMetadata,
    /// 16 to 64 visible ASCII characters, other ones in each message.
    pub nonce: String,
    /// RFC 3339; within five minutes of the receiver's clock.
    pub timestamp: String,
    /// Of the message without this member, as canonical JSON (RFC 8785), by the sender's Ed25519 key.
    pub signature: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct KlpMetadata {
    pub priority: String,
    /// Seconds for which what is said holds without another word of its sender.
    pub ttl: u64,
    /// 1: nothing is passed on.
    pub hop_count: u32,
    pub trust_requirements: TrustRequirements,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TrustRequirements {
    /// How far the receiver must trust the sender.
    pub minimum_trust_score: f64,
    /// `none`, `basic`, `strong` or `cryptographic`; signatures are always checked.
    pub verification_level: String,
}

/// The answer to `POST /klp/messages`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct KlpResponse {
    /// Of each message, in their order.
    pub results: Vec<KlpResult>,
    pub received: KlpReceived,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct KlpResult {
    pub nonce: String,
    /// What it says is known now.
    pub accepted: bool,
    /// `applied`, `already_known`, `out_of_order`, `resync_needed`, `tenant_not_mapped`, `unreadable`, `not_offered`,
    /// `foreign_full`.
    pub code: String,
}

/// How far the sender has been heard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct KlpReceived {
    /// `null`: everything has to be told.
    #[schema(required)]
    pub stream: Option<KlpStream>,
    /// Everything up to this revision is known.
    pub revision: u64,
    /// While everything is told.
    #[schema(required)]
    pub resync: Option<KlpResync>,
    /// The latest time of a message, in milliseconds since 1970: what is older is refused.
    pub told_at_ms: u64,
}

/// The answer to `POST /klp/changes`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct KlpChanges {
    /// What is to be taken in, each a [`KlpMessage`].
    #[schema(value_type = Vec<KlpMessage>)]
    pub messages: Vec<Value>,
    /// A message with the question's nonce: how far the answer reaches, and how far the roll had come.
    #[schema(value_type = KlpMessage)]
    pub closing: Value,
}

/// One life of a roll, offered under one set of terms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct KlpStream {
    pub epoch: u64,
    pub since: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct KlpResync {
    pub at: u64,
    /// The number of the next instance.
    pub next: u64,
}
