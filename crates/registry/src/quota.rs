//! How much of the cluster a tenant may have, as operators lay it down. Without a quota nothing is limited.

use serde::{Deserialize, Serialize};

use crate::instance::Instance;
use crate::metadata::Metadata;
use crate::registration::{PackedRegistration, words};

/// Tenants that may have a quota at once. Quotas do not lapse, so that nothing else would bound them.
pub const QUOTAS_MAX: usize = 10_000;

words! {
    /// What is limited. The first two are counted in the replicated state, the others at each node.
    QuotaKind {
        Registrations = "registrations",
        Bytes = "bytes",
        Watchers = "watchers",
        RequestsPerSecond = "requests_per_second",
    }
}

/// A tenant's limits; none: there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quota {
    /// Instances on the roll, offline ones too.
    pub registrations: Option<u64>,
    /// Of registrations, and of what heartbeats reported beside them.
    pub bytes: Option<u64>,
    /// At each node.
    pub watchers: Option<u64>,
    /// At each node.
    pub requests_per_second: Option<u64>,
}

impl Quota {
    pub fn limit(&self, kind: QuotaKind) -> Option<u64> {
        let Self { registrations, bytes, watchers, requests_per_second } = self;
        *match kind {
            QuotaKind::Registrations => registrations,
            QuotaKind::Bytes => bytes,
            QuotaKind::Watchers => watchers,
            QuotaKind::RequestsPerSecond => requests_per_second,
        }
    }
}

/// What a tenant has of what is counted in the replicated state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub registrations: u64,
    pub bytes: u64,
}

/// What a quota counts of one instance.
pub(crate) fn bytes_of(registration: &PackedRegistration, reported: Option<&Metadata>) -> u64 {
    (registration.bytes() + reported.map_or(0, |reported| reported.pairs().text_bytes())) as u64
}

pub(crate) fn bytes_of_instance(instance: &Instance) -> u64 {
    bytes_of(&instance.registration, instance.seldom.reported_metadata())
}
