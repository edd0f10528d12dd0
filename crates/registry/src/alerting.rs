//! Where operators are told of what goes wrong, and how far they were told.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize};

use crate::ids::Revision;
use crate::registration::words;

/// Targets of one tenant: a pager, a chat, a ticket system, and what comes after them.
pub const TARGETS_MAX: usize = 8;

/// Longest address of a target. A row holds one, with its secret.
pub const TARGET_URL_BYTES_MAX: usize = 1_024;

/// From what is worth the name to what a hash of SHA-256 is made of.
pub const TARGET_SECRET_BYTES: std::ops::RangeInclusive<usize> = 16..=128;

/// The longest that is waited between two alerts about one instance, in milliseconds: a day.
pub const TARGET_INTERVAL_MS_MAX: u32 = 86_400_000;

words! {
    /// What is sent to a target.
    AlertForm { Json = "json", Alertmanager = "alertmanager" }
}

/// What signs the alerts for a target. Kept as it is, because it must be used; shown by nothing.
#[derive(Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct AlertSecret(Box<str>);

impl AlertSecret {
    /// 16 to 128 bytes without control characters.
    pub fn parse(text: &str) -> Option<Self> {
        let is_good = TARGET_SECRET_BYTES.contains(&text.len()) && !text.chars().any(char::is_control);
        is_good.then(|| Self(text.into()))
    }

    /// The text itself, for whoever must sign by it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for AlertSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AlertSecret(…)")
    }
}

impl<'de> Deserialize<'de> for AlertSecret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| serde::de::Error::custom("a secret has 16 to 128 bytes"))
    }
}

/// Where alerts go, and how.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AlertTarget {
    pub url: Box<str>,
    pub form: AlertForm,
    pub secret: AlertSecret,
    /// Between two alerts about one instance at least.
    pub interval_ms: u32,
}

impl AlertTarget {
    pub(crate) fn is_within_bounds(&self) -> bool {
        self.url.len() <= TARGET_URL_BYTES_MAX && self.interval_ms <= TARGET_INTERVAL_MS_MAX
    }
}

/// An address may have a password in it.
impl fmt::Debug for AlertTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { url: _, form, secret: _, interval_ms } = self;
        f.debug_struct("AlertTarget").field("form", form).field("interval_ms", interval_ms).finish_non_exhaustive()
    }
}

/// How far a target was told. What comes after is told again by whoever leads next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ToldUpTo {
    /// All changes up to here.
    pub revision: Revision,
    /// How often protection had begun, and whether it was said to be in force.
    pub begun: u64,
    pub in_force: bool,
}
