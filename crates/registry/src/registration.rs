//! The one record that every face translates into.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::ids::{InstanceId, LeaseId, Revision, ServiceName, TenantId, WallTime};

/// An enum whose variants have one lower-case word each, on the wire and in filters.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum $name { $($variant),+ }

        impl $name {
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }
        }

        impl FromStr for $name {
            type Err = UnknownWord;

            fn from_str(text: &str) -> Result<Self, UnknownWord> {
                match text {
                    $($word => Ok(Self::$variant),)+
                    _ => Err(UnknownWord { known: &[$($word),+] }),
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

/// A word that is none of the known ones.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("must be one of {}", known.join(", "))]
pub struct UnknownWord {
    pub known: &'static [&'static str],
}

words! {
    /// What sort of thing is registered.
    Kind {
        Agent = "agent", Tool = "tool", Service = "service", Api = "api",
        Device = "device", Node = "node", Gateway = "gateway", Validator = "validator",
    }
}
words! {
    /// How an instance is spoken to.
    Protocol { Http = "http", Https = "https", Ws = "ws", Klp = "klp", Grpc = "grpc", Mqtt = "mqtt" }
}
words! {
    /// Who may see an instance, where requests carry an identity.
    Visibility { Private = "private", Internal = "internal", Restricted = "restricted", Public = "public" }
}
words! {
    /// What others are told of an instance's condition.
    Status { Active = "active", Degraded = "degraded", Maintenance = "maintenance", Error = "error", Offline = "offline" }
}

/// Compact JSON text, checked and re-rendered by the edge that made it. The state machine carries it and never reads it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JsonText(pub Box<str>);

/// One metadata value. Plain text is kept unquoted, so that a label compares without a JSON parser.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum MetadataValue {
    Text(Box<str>),
    /// A number, a boolean, null, a list or an object.
    Json(JsonText),
}

impl MetadataValue {
    /// Bytes of text this value holds.
    pub fn approximate_bytes(&self) -> usize {
        match self {
            Self::Text(text) | Self::Json(JsonText(text)) => text.len(),
        }
    }

    /// The value as a selector sees it. Lists and objects are no labels.
    pub fn label(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Json(JsonText(json)) if json.starts_with(['{', '[']) => None,
            Self::Json(JsonText(json)) => Some(json),
        }
    }
}

/// Top-level metadata, sorted by key, each key once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Metadata(Box<[(Box<str>, MetadataValue)]>);

impl Metadata {
    /// Of equal keys the last wins.
    pub fn new(mut pairs: Vec<(Box<str>, MetadataValue)>) -> Self {
        pairs.reverse();
        pairs.sort_by(|a, b| a.0.cmp(&b.0));
        pairs.dedup_by(|later, kept| later.0 == kept.0);
        Self(pairs.into())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn get(&self, key: &str) -> Option<&MetadataValue> {
        let at = self.0.binary_search_by(|(k, _)| (**k).cmp(key)).ok()?;
        Some(&self.0[at].1)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &MetadataValue)> {
        self.0.iter().map(|(k, v)| (&**k, v))
    }

    /// Bytes these pairs hold, each with the allocator's overhead guessed at 16 a piece.
    pub fn approximate_bytes(&self) -> usize {
        self.text_bytes() + self.0.len() * (size_of::<(Box<str>, MetadataValue)>() + 32)
    }

    /// Bytes of all keys and values.
    pub fn text_bytes(&self) -> usize {
        self.iter().map(|(key, value)| key.len() + value.approximate_bytes()).sum()
    }

    /// A shallow merge: the patch's keys replace, the others stay.
    pub fn merged(&self, patch: &Self) -> Self {
        let pairs = self.0.iter().chain(patch.0.iter()).cloned().collect();
        Self::new(pairs)
    }
}

/// Something an instance can do.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Capability {
    pub name: Box<str>,
    /// The whole capability object (types, schemas, metrics) where more than a name was given.
    pub detail: Option<JsonText>,
}

/// Where an instance runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Locality {
    pub region: Option<Box<str>>,
    pub zone: Option<Box<str>>,
}

/// What few registrations have. Boxed, so that the others do not pay for it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Extras {
    pub endpoints: Option<JsonText>,
    pub auth: Option<JsonText>,
    pub signature: Option<Box<str>>,
    pub public_key: Option<Box<str>>,
    pub locality: Locality,
    /// The document as it came in, where a face must give the same bytes back.
    pub document: Option<Box<str>>,
}

/// Everything an instance says of itself. Equal content registered again is a renewal.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Registration {
    pub name: ServiceName,
    pub kind: Kind,
    pub protocol: Protocol,
    pub visibility: Visibility,
    pub weight: u32,
    /// How long the lease lasts after a heartbeat.
    pub ttl_ms: u32,
    /// How long a lapsed instance stays on the roll as `offline` before it is removed; 0 removes it at once.
    pub reap_after_ms: u32,
    pub url: Box<str>,
    pub version: Option<Box<str>>,
    pub owner: Option<Box<str>>,
    pub tags: Box<[Box<str>]>,
    pub capabilities: Box<[Capability]>,
    pub consumed_events: Box<[Box<str>]>,
    pub produced_events: Box<[Box<str>]>,
    pub metadata: Metadata,
    pub extras: Option<Box<Extras>>,
}

impl Registration {
    pub fn region(&self) -> Option<&str> {
        self.extras.as_ref()?.locality.region.as_deref()
    }

    pub fn zone(&self) -> Option<&str> {
        self.extras.as_ref()?.locality.zone.as_deref()
    }

    /// Bytes this registration holds, to bound what is kept; allocator overhead is guessed at 16 a piece.
    pub fn approximate_bytes(&self) -> usize {
        let text = |text: &str| text.len() + 16;
        let option = |text: &Option<Box<str>>| text.as_deref().map_or(0, |t| t.len() + 16);
        let json = |json: &Option<JsonText>| json.as_ref().map_or(0, |j| j.0.len() + 16);
        let list = |list: &[Box<str>]| list.iter().map(|t| t.len() + 32).sum::<usize>();
        let capabilities = self.capabilities.iter().map(|c| c.name.len() + json(&c.detail) + 48).sum::<usize>();
        let extras = self.extras.as_ref().map_or(0, |e| {
            size_of::<Extras>()
                + json(&e.endpoints)
                + json(&e.auth)
                + option(&e.signature)
                + option(&e.public_key)
                + option(&e.document)
                + option(&e.locality.region)
                + option(&e.locality.zone)
        });
        size_of::<Self>()
            + text(self.name.as_str())
            + text(&self.url)
            + option(&self.version)
            + option(&self.owner)
            + list(&self.tags)
            + capabilities
            + list(&self.consumed_events)
            + list(&self.produced_events)
            + self.metadata.approximate_bytes()
            + extras
    }
}

/// One registered endpoint as the roll holds it: immutable, shared by readers, history and checkpoints. A change makes
/// a new one; a renewal makes none, because the deadline stands beside it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Instance {
    pub tenant: TenantId,
    pub id: InstanceId,
    pub registration: Arc<Registration>,
    /// Metadata that heartbeats merged in since the registration; kept apart so that a signature stays valid.
    pub reported_metadata: Option<Arc<Metadata>>,
    /// What the instance last said of itself.
    pub reported_status: Status,
    /// The lease ran out and the instance waits to be reaped or to come back.
    pub lapsed: bool,
    pub lease: LeaseId,
    /// The revision of the last visible change.
    pub revision: Revision,
    pub created_revision: Revision,
    pub registered_at: WallTime,
    /// Earlier leases of this id, newest last, so that a late heartbeat learns that it was superseded.
    pub superseded: Box<[LeaseId]>,
}

impl Instance {
    /// The status that others see.
    pub fn status(&self) -> Status {
        if self.lapsed { Status::Offline } else { self.reported_status }
    }

    /// One metadata value as others see it: what a heartbeat merged in wins.
    pub fn metadata_value(&self, key: &str) -> Option<&MetadataValue> {
        self.reported_metadata
            .as_ref()
            .and_then(|reported| reported.get(key))
            .or_else(|| self.registration.metadata.get(key))
    }

    /// The metadata as others see it, by key.
    pub fn metadata(&self) -> impl Iterator<Item = (&str, &MetadataValue)> {
        let reported = self.reported_metadata.as_deref();
        let own = self.registration.metadata.iter();
        own.filter(move |(key, _)| reported.is_none_or(|r| r.get(key).is_none()))
            .chain(reported.into_iter().flat_map(Metadata::iter))
    }
}
