//! How an instance is checked, and what checks last found.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::operator::Verdict;
use crate::service::{UnknownWord, words};

words! {
    /// What is tried of an instance.
    CheckType { Http = "http", Tcp = "tcp", Grpc = "grpc" }
}
words! {
    /// Which instances of a tenant are checked.
    CheckScope { Nobody = "none", Asked = "asked", All = "all" }
}

/// How a registration asks to be checked. An empty one asks for the defaults.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HealthCheck {
    /// By default `http` where `url` is `http` or `https`, `grpc` where it is `grpc` or `grpcs`, else `tcp`.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub check_type: Option<CheckType>,
    /// Of `http`: what is asked by `GET`, appended to `url`; `metadata.health_check_endpoint` if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Of `grpc`: the service whose health is asked for; the whole server's if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// How often, 1,000 to 3,600,000; a third of `ttl_ms`, at most 60,000, if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval_ms: Option<u32>,
    /// How long an answer may take, 100 to 10,000; 5,000 if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u32>,
    /// So many results in a row must be healthy before checks find it `healthy`, 1 to 10; 2 if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub passes_needed: Option<u32>,
    /// So many results in a row must not be before checks find it `degraded` or in `error`, 1 to 10; 3 if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failures_needed: Option<u32>,
    /// Whether a healthy result renews the lease; false if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub renews: Option<bool>,
}

/// Who checks an instance, and what they last found. At the node that checks it the figures are there too.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CheckInfo {
    #[serde(rename = "type")]
    pub check_type: CheckType,
    pub interval_ms: u32,
    /// The node that checks it, as the asked node sees it.
    pub prober: u64,
    /// Where clients reach that node.
    pub prober_address: String,
    /// At that node, once there was a check.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latest: Option<CheckResult>,
}

/// What one check found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CheckResult {
    /// RFC 3339, by the clock of the node that checks. For people to read.
    pub checked_at: String,
    /// What this check by itself found.
    pub result: Verdict,
    /// So many checks in a row found the same.
    pub in_a_row: u32,
    /// The mean of the parts, 0 to 1; healthy above 0.7. None if the check itself failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub score: Option<f64>,
    /// How long the slowest answer took.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_time_ms: Option<u32>,
    pub parts: Vec<CheckPart>,
    /// What is wrong, in words of the node that checks.
    pub issues: Vec<String>,
}

/// A part of a check.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CheckPart {
    /// `connectivity`, `endpoint`, `serving` or `response_time`.
    pub part: String,
    /// 0 to 1.
    pub score: f64,
}

/// `PUT /api/checks`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ChecksRequest {
    pub scope: CheckScope,
    /// How often those are checked that do not say it themselves, 1,000 to 3,600,000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval_ms: Option<u32>,
}

/// Which of a tenant's instances are checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ChecksResponse {
    /// `asked`: those that ask by `health_check` or `metadata.health_check_endpoint`; `all`: these and whatever else has a
    /// URL that can be checked.
    pub scope: CheckScope,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval_ms: Option<u32>,
    /// Nobody chose it for this tenant.
    pub default: bool,
    /// Whether the asked node checks at all: `checks` of its configuration.
    pub enabled: bool,
}
