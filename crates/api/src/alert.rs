//! Where operators are told of what goes wrong, and what they are told.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::service::{Status, UnknownWord, words};

words! {
    /// In what form alerts are sent: Rollcall's own, or that of Prometheus Alertmanager's API v2.
    AlertForm { Json = "json", Alertmanager = "alertmanager" }
}
words! {
    /// What an alert is about.
    AlertKind {
        Degraded = "degraded", Error = "error", Offline = "offline",
        /// It fell silent and was struck off.
        Expired = "expired",
        Recovered = "recovered",
        /// It was taken off while something was wrong with it.
        Removed = "removed",
        ProtectionBegun = "protection_begun", ProtectionEnded = "protection_ended",
        /// Changes that nobody can tell any more.
        AlertsLost = "alerts_lost",
        Test = "test",
    }
}

/// `PUT /api/alerts/{name}`.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AlertTargetRequest {
    /// Where alerts are posted: `http://` or `https://`, at most 1,024 bytes.
    pub url: String,
    /// `json` if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<AlertForm>,
    /// What signs them: 16 to 128 bytes without control characters. If absent the one that the target has stays, or one is made up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
    /// Between two alerts about one instance at least: 0 to 86,400,000; 60,000 if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval_ms: Option<u32>,
}

/// Neither an address, which may have a password in it, nor a secret.
impl fmt::Debug for AlertTargetRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { url: _, format, secret: _, interval_ms } = self;
        let mut shown = f.debug_struct("AlertTargetRequest");
        shown.field("format", format).field("interval_ms", interval_ms).finish_non_exhaustive()
    }
}

/// A place where alerts go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AlertTargetInfo {
    pub name: String,
    pub url: String,
    pub format: AlertForm,
    pub interval_ms: u32,
    /// Everything up to this revision was told there. It is noted now and then.
    pub told_revision: u64,
}

/// The answer to `PUT /api/alerts/{name}`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SetAlertTargetResponse {
    pub target: AlertTargetInfo,
    /// The secret, if it was made up: told here and nowhere else.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
}

impl fmt::Debug for SetAlertTargetResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SetAlertTargetResponse").field("target", &self.target).finish_non_exhaustive()
    }
}

/// The answer to `DELETE /api/alerts/{name}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RemoveAlertTargetResponse {
    pub name: String,
    pub removed: bool,
}

/// `GET /api/alerts`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AlertTargetsResponse {
    /// By name.
    pub targets: Vec<AlertTargetInfo>,
}

/// The answer to `POST /api/alerts/{name}/test`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TestAlertResponse {
    pub name: String,
    pub delivered: bool,
    /// The HTTP status that came back, if any did. What else came back is not shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Why it was not delivered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// What is posted to a target of the form `json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AlertsMessage {
    /// In the order in which it happened.
    pub alerts: Vec<AlertInfo>,
}

/// One alert.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AlertInfo {
    /// The same when it is sent again.
    pub id: String,
    pub kind: AlertKind,
    pub tenant: String,
    /// When it happened: RFC 3339, by the leader's clock.
    pub at: String,
    /// For people.
    pub summary: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// `offline` for one that is gone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<Status>,
    /// What was told of it last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub previous: Option<AlertKind>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision: Option<u64>,
}
