//! Watching: what a node tells of the roll's changes, by Server-Sent Events and by WebSocket.
//!
//! Server-Sent Events name their kind in the `event` field and carry one of these types in `data`: `snapshot`
//! ([`Snapshot`]), `synced`, `bookmark` and `resync` ([`Reached`]), `change` ([`ServiceUpdate`]). `change`, `synced` and
//! `bookmark` carry the [`ResumePoint`] in `id`; a snapshot does not, because who was told only a part of it must begin
//! again, nor does a change of another cluster's instance, after which no roll goes on.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::problem::Problem;
use crate::service::{ServiceObject, UnknownWord, words};

words! {
    /// What a change did.
    UpdateType {
        Registered = "registered",
        Updated = "updated",
        StatusChanged = "status_changed",
        /// It stopped matching the filter, and is still on the roll.
        Left = "left",
        Deregistered = "deregistered",
        Expired = "expired",
    }
}

impl UpdateType {
    /// Whether the instance no longer matches.
    pub fn is_gone(self) -> bool {
        matches!(self, Self::Left | Self::Deregistered | Self::Expired)
    }
}

/// One change: `event: change`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ServiceUpdate {
    /// Always `service_update`.
    #[serde(rename = "type")]
    pub message_type: String,
    pub update_type: UpdateType,
    /// As it is now; for `left`, `deregistered` and `expired`, as it last was while it matched.
    pub service: ServiceObject,
    /// The change's own. Each change has one, so that what is told twice can be known by it. Of an instance with an
    /// `origin` it is that cluster's.
    pub revision: u64,
    /// When it took place, RFC 3339, for people.
    pub timestamp: String,
}

/// `event: snapshot`: one of those that match at the beginning.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Snapshot {
    pub service: ServiceObject,
    /// The revision of the roll that the snapshot shows; the same for all of one snapshot. Of an instance with an `origin`,
    /// up to where everything was told of this roll.
    pub revision: u64,
}

/// `event: synced`, `bookmark` and `resync`: everything up to this revision was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Reached {
    pub revision: u64,
}

/// Where a watcher goes on, at any node: `EPOCH-REVISION`. The epoch moves when the roll is restored from a backup, so
/// that no revision of before can be taken for one of after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResumePoint {
    pub epoch: u64,
    pub revision: u64,
}

impl fmt::Display for ResumePoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.epoch, self.revision)
    }
}

/// A text that is no resume point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidResumePoint;

impl fmt::Display for InvalidResumePoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("must be EPOCH-REVISION, two decimal numbers")
    }
}

impl std::error::Error for InvalidResumePoint {}

impl FromStr for ResumePoint {
    type Err = InvalidResumePoint;

    fn from_str(text: &str) -> Result<Self, InvalidResumePoint> {
        let number = |digits: &str| {
            let is_plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
            is_plain.then(|| digits.parse().ok()).flatten().ok_or(InvalidResumePoint)
        };
        let (epoch, revision) = text.split_once('-').ok_or(InvalidResumePoint)?;
        Ok(Self { epoch: number(epoch)?, revision: number(revision)? })
    }
}

/// What a client sends at `GET /ws/registry`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum WsRequest {
    /// Begins a subscription: answered by `subscribed`, then by the matches of now and `synced`, or from
    /// `from_revision` on by the changes since. Several filters match what any of them matches.
    Subscribe {
        /// Objects of discovery's parameters: each value a text, a number or a list of such. None: everything.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        filters: Vec<Map<String, Value>>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        from_revision: Option<u64>,
        /// The epoch of `from_revision`, as `subscribed` told it. Without it that of now is assumed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        epoch: Option<u64>,
        /// Instances of other clusters too, as these told of them.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        include_federated: bool,
        /// Comes back in the answer, so that it can be told which request it answers.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        request_id: Option<String>,
    },
    /// Ends one.
    Unsubscribe {
        subscription_id: u64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        request_id: Option<String>,
    },
    /// Answered by `pong`, for clients that cannot send WebSocket pings.
    Ping,
}

/// What a node sends at `GET /ws/registry`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum WsResponse {
    Subscribed {
        subscription_id: u64,
        epoch: u64,
        /// Where the subscription begins: what its snapshot shows, or `from_revision`.
        revision: u64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        request_id: Option<String>,
    },
    Unsubscribed {
        subscription_id: u64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        request_id: Option<String>,
    },
    Snapshot {
        subscription_id: u64,
        service: Box<ServiceObject>,
        revision: u64,
    },
    Synced {
        subscription_id: u64,
        revision: u64,
    },
    ServiceUpdate {
        subscription_id: u64,
        update_type: UpdateType,
        service: Box<ServiceObject>,
        revision: u64,
        timestamp: String,
    },
    Bookmark {
        subscription_id: u64,
        revision: u64,
    },
    /// The subscription fell behind and has ended; begin again after `revision`.
    Resync {
        subscription_id: u64,
        revision: u64,
    },
    Pong,
    /// A request was refused; the connection and its subscriptions live on.
    Error {
        problem: Box<Problem>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        request_id: Option<String>,
    },
}
