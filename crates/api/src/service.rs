//! A registration as it is sent, and the service object as it is answered.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::check::{CheckInfo, HealthCheck};
use crate::lease::{LeaseGrant, LeaseInfo};
use crate::operator::{HealthInfo, OperatorOrders};
use crate::ranking::RankInfo;

macro_rules! words {
    // A word is a `tt`: what comes as a `literal` is wrapped, and the derive of the schema does not see it.
    ($(#[$doc:meta])* $name:ident { $($(#[$attribute:meta])* $variant:ident = $word:tt),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
        pub enum $name { $($(#[$attribute])* #[serde(rename = $word)] $variant),+ }

        impl $name {
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl FromStr for $name {
            type Err = UnknownWord;

            fn from_str(text: &str) -> Result<Self, UnknownWord> {
                Self::ALL.iter().copied().find(|word| word.as_str() == text).ok_or(UnknownWord {
                    known: &[$($word),+],
                })
            }
        }
    };
}

pub(crate) use words;

/// A word that is none of the known ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownWord {
    pub known: &'static [&'static str],
}

impl fmt::Display for UnknownWord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "must be one of {}", self.known.join(", "))
    }
}

impl std::error::Error for UnknownWord {}

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
words! {
    /// How an endpoint is called.
    Method {
        Get = "GET", Post = "POST", Put = "PUT", Delete = "DELETE", Patch = "PATCH", Options = "OPTIONS", Head = "HEAD",
    }
}
words! {
    /// How callers of an instance prove who they are.
    AuthType {
        None = "none", ApiKey = "api_key", Jwt = "jwt", Oauth = "oauth",
        Certificate = "certificate", Signature = "signature",
    }
}

/// Something an instance can do: a bare name, or an object that says more.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum Capability {
    Name(String),
    Detail(Box<CapabilityDetail>),
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CapabilityDetail {
    /// 1 to 256 bytes; what discovery's `capabilities` filter compares.
    pub capability_name: String,
    /// For instance `processing`, `storage`, `communication`, `analysis`, `generation` or `validation`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capability_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input_types: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_types: Option<Vec<String>>,
    /// Usually a JSON schema.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input_schema: Option<Value>,
    /// Usually a JSON schema.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_schema: Option<Value>,
    /// A number or a word.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub complexity_level: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub performance_metrics: Option<Map<String, Value>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub required_permissions: Option<Vec<String>>,
}

/// One operation that an instance offers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Endpoint {
    pub path: String,
    pub method: Method,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Usually a JSON schema.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input_schema: Option<Value>,
    /// Usually a JSON schema.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_schema: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auth_required: Option<bool>,
}

/// How callers of an instance prove who they are. Carried, never checked or used.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Auth {
    #[serde(rename = "type")]
    pub auth_type: AuthType,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub public_key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auth_endpoint: Option<String>,
}

/// Where an instance runs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Locality {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// -90 to 90 degrees, kept to a millionth; together with `longitude`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latitude: Option<f64>,
    /// -180 to 180 degrees.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub longitude: Option<f64>,
}

/// `POST /api/services/register`. At most 64 KiB of JSON.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RegisterRequest {
    /// 1 to 256 bytes without control characters; a UUID is made up if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The name that the instances of one service share, 1 to 256 bytes without control characters.
    pub name: String,
    /// `service` if absent.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<Kind>,
    /// At most 256 bytes; semver if it is to be found by range.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// At most 64, each 1 to 256 bytes; repeated ones count once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tags: Option<Vec<String>>,
    /// Where the instance is reached, with a scheme; at most 2,048 bytes.
    pub url: String,
    /// Worked out from the scheme of `url` if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoints: Option<Vec<Endpoint>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auth: Option<Auth>,
    /// 1 to 256 bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// `private` if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub visibility: Option<Visibility>,
    /// At most 256, no name twice.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capabilities: Option<Vec<Capability>>,
    /// At most 256, each 1 to 256 bytes; repeated ones count once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub consumed_events: Option<Vec<String>>,
    /// At most 256, each 1 to 256 bytes; repeated ones count once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub produced_events: Option<Vec<String>>,
    /// Free JSON by key; keys of 1 to 256 bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Map<String, Value>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub locality: Option<Locality>,
    /// Share of the load among equals, 0 to 1,000,000; 1 if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
    /// How long the lease lasts after a heartbeat, 1,000 to 86,400,000 unless configured otherwise; 30,000 if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl_ms: Option<u32>,
    /// How long the instance stays on the roll as `offline` after its lease ran out; 0, the default, removes it at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reap_after_ms: Option<u32>,
    /// Asks the nodes to check the instance.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health_check: Option<HealthCheck>,
    /// Carried, not verified.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signature: Option<String>,
    /// Carried, not verified.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub public_key: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RegisterResponse {
    pub success: bool,
    /// The instance's id; made up by the server if the request named none.
    pub registration_id: String,
    pub service: ServiceObject,
    pub lease: LeaseGrant,
    /// The revision of the instance's last visible change; an earlier one if the registration was a renewal.
    pub revision: u64,
}

/// The optional body of `DELETE /api/services/{id}`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DeregisterRequest {
    /// Accepted, not verified.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deregistration_signature: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeregisterResponse {
    pub service_id: String,
    pub deregistered: bool,
    pub revision: u64,
}

fn is_false(flag: &bool) -> bool {
    !flag
}

/// One registered instance: what it said of itself, and what the roll knows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ServiceObject {
    pub id: String,
    pub tenant: String,
    pub name: String,
    #[serde(rename = "type")]
    pub kind: Kind,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    pub tags: Vec<String>,
    pub url: String,
    pub protocol: Protocol,
    #[schema(value_type = Vec<Endpoint>)]
    pub endpoints: Vec<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Auth>)]
    pub auth: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    pub visibility: Visibility,
    /// As registered: names as text, objects as objects.
    #[schema(value_type = Vec<Capability>)]
    pub capabilities: Vec<Value>,
    pub consumed_events: Vec<String>,
    pub produced_events: Vec<String>,
    /// With what heartbeats merged in since.
    pub metadata: BTreeMap<String, Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub locality: Option<Locality>,
    pub weight: u32,
    pub ttl_ms: u32,
    pub reap_after_ms: u32,
    /// How it asks to be checked.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<HealthCheck>)]
    pub health_check: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signature: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub public_key: Option<String>,
    /// Worked out from what the instance says, what operators ordered and what checks found.
    pub status: Status,
    /// Its lease ran out together with too many others of the tenant: it is kept on the roll for a while, and served last.
    #[serde(default, skip_serializing_if = "is_false")]
    pub suspect: bool,
    /// What the instance says of itself, where anything else has a part in `status`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reported_status: Option<Status>,
    /// What operators ordered, if anything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operator: Option<OperatorOrders>,
    /// What checks found, if it is checked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health: Option<HealthInfo>,
    pub lease: LeaseInfo,
    /// The revision of the last visible change.
    pub revision: u64,
    /// The revision that first put the id on the roll.
    pub created_revision: u64,
    /// RFC 3339, by the leader's clock. For people to read.
    pub registered_at: String,
    /// When the last heartbeat was taken: RFC 3339, by the leader's clock. For people to read.
    pub heartbeat: String,
    /// The peer whose cluster's roll it is on, if it is not on this one. Revisions are that cluster's, and it has no lease
    /// here: `lease.id` is 0, `heartbeat` is when its cluster was last heard.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub origin: Option<String>,
    /// That cluster has been out of reach for a while, so that this may not be so any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stale: Option<bool>,
    /// With `explain=true`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rank: Option<RankInfo>,
    /// When one instance is read: who checks it, if it is checked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub check: Option<CheckInfo>,
}
