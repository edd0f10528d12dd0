//! The small values everything else is made of. One type for each number and each name, so that no two are mixed up.

use std::borrow::Borrow;
use std::fmt;

use arcstr::ArcStr;
use serde::{Deserialize, Deserializer, Serialize};

use crate::access::AccessTokenId;
use crate::packed;

/// Longest id, name, tag, capability, event or owner, in bytes. Long enough for a URL or a DID, short enough that a
/// full page of them fits a cache line budget of a few hundred kilobytes.
pub const NAME_BYTES_MAX: usize = 256;

/// Longest tenant name, in bytes.
pub const TENANT_BYTES_MAX: usize = 64;

/// Why a text is not a valid name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("must not be empty")]
    Empty,
    #[error("is {bytes} bytes long, at most {max} are allowed")]
    TooLong { bytes: usize, max: usize },
    #[error("must not contain control characters")]
    ControlCharacter,
    #[error("`{word}` is reserved")]
    Reserved { word: &'static str },
    #[error("may contain only ASCII letters, digits, `-`, `_`, `.` and `:`")]
    NotPlain,
}

/// The check shared by every name: 1 to `max` bytes of UTF-8 without control characters.
pub fn check_name(text: &str, max: usize) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    if text.len() > max {
        return Err(NameError::TooLong { bytes: text.len(), max });
    }
    if text.chars().any(char::is_control) {
        return Err(NameError::ControlCharacter);
    }
    Ok(())
}

fn check_plain(text: &str) -> Result<(), NameError> {
    check_name(text, TENANT_BYTES_MAX)?;
    let is_plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b':'));
    if is_plain { Ok(()) } else { Err(NameError::NotPlain) }
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        #[serde(transparent)]
        pub struct $name(ArcStr);

        /// As strict as the edge: what comes from a log, a disk or a peer may be anything.
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                packed::deserialize(deserializer, Self::parse)
            }
        }

        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }
    };
}

text_id! {
    /// Whose roll an instance stands on. Nothing crosses tenants.
    TenantId
}
text_id! {
    /// The name of one registered endpoint within its tenant.
    InstanceId
}
text_id! {
    /// The name that the instances of one service share.
    ServiceName
}
text_id! {
    /// Who owns instances.
    OwnerName
}
text_id! {
    /// What an event, a schema or a version of one is called.
    DefinitionName
}
text_id! {
    /// What operators call another cluster.
    PeerName
}
text_id! {
    /// What operators call a place where alerts go.
    TargetName
}
text_id! {
    /// Who acts: `token:ID` or `jwt:SUBJECT`. Compared within a tenant, where it is kept who registered what.
    PrincipalId
}

impl TenantId {
    /// 1 to 64 ASCII letters, digits, `-`, `_`, `.`, `:`: a tenant travels in headers and metric labels.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        check_plain(text).map(|()| Self(text.into()))
    }

    /// What comes before all names: where a range of them begins.
    pub(crate) fn least() -> Self {
        Self(ArcStr::new())
    }
}

impl InstanceId {
    /// An id that was checked before it was packed.
    pub(crate) fn kept(text: &str) -> Self {
        Self(text.into())
    }

    /// 1 to 256 bytes without control characters. `watch`, `register` and `pick` are the last segments of routes beside
    /// `/api/services/{id}`, so no instance can have them.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        Self::check(text).map(|()| Self(text.into()))
    }

    pub(crate) fn check(text: &str) -> Result<(), NameError> {
        check_name(text, NAME_BYTES_MAX)?;
        for word in ["watch", "register", "pick"] {
            if text == word {
                return Err(NameError::Reserved { word });
            }
        }
        Ok(())
    }
}

impl ServiceName {
    /// A name that was checked before it was packed.
    pub(crate) fn kept(text: &str) -> Self {
        Self(text.into())
    }

    /// 1 to 256 bytes without control characters.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        Self::check(text).map(|()| Self(text.into()))
    }

    pub(crate) fn check(text: &str) -> Result<(), NameError> {
        check_name(text, NAME_BYTES_MAX)
    }
}

impl OwnerName {
    /// 1 to 256 bytes without control characters.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        check_name(text, NAME_BYTES_MAX).map(|()| Self(text.into()))
    }
}

impl TargetName {
    /// 1 to 64 ASCII letters, digits, `-`, `_`, `.`, `:`: it travels in paths and logs.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        check_plain(text).map(|()| Self(text.into()))
    }
}

impl DefinitionName {
    /// 1 to 256 bytes without control characters.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        check_name(text, NAME_BYTES_MAX).map(|()| Self(text.into()))
    }

    /// What comes before all names: where a range of them begins.
    pub(crate) fn least() -> Self {
        Self(ArcStr::new())
    }
}

impl PeerName {
    /// As tenants: it travels in paths and metric labels.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        check_plain(text).map(|()| Self(text.into()))
    }
}

impl PrincipalId {
    /// 1 to 256 bytes without control characters.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        check_name(text, NAME_BYTES_MAX).map(|()| Self(text.into()))
    }

    pub(crate) fn of_token(id: AccessTokenId) -> Self {
        Self(format!("token:{id}").into())
    }
}

macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

number! {
    /// The number of a visible change, counted by the state machine and moved by nothing else.
    Revision
}
number! {
    /// Counts changes of definitions, which move no revision.
    Edition
}
number! {
    /// The revision that granted a lease: an instance's incarnation. Never used twice.
    LeaseId
}
number! {
    /// Moved by restore and recover only, so that no revision of an earlier life is mistaken for one of this.
    Epoch
}
number! {
    /// The term in which a leader proposed, as Raft has it.
    Term
}
number! {
    /// Milliseconds that some leader held a quorum, since the cluster was founded. Never goes back, never runs faster
    /// than real time, and stands still while nobody could have received a heartbeat.
    ClusterTime
}
number! {
    /// Milliseconds since 1970-01-01 UTC by the leader's clock. For people to read; decides nothing.
    WallTime
}

number! {
    /// What a program can read of what others write. Every node tells its own, and what needs a level is refused until
    /// all nodes have it.
    FeatureLevel
}

/// The level of this program. It is raised by one when something is added that an older program cannot read, with the
/// level named in [`Command::feature_level`](crate::Command::feature_level).
pub const FEATURE_LEVEL: FeatureLevel = FeatureLevel(5);

impl ClusterTime {
    pub fn plus_ms(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms))
    }

    /// Milliseconds from `self` until `later`, zero when that has passed.
    pub fn ms_until(self, later: Self) -> u64 {
        later.0.saturating_sub(self.0)
    }
}

#[cfg(test)]
mod tests {
    use serde::de::IntoDeserializer;
    use serde::de::value::StrDeserializer;

    use super::*;

    #[test]
    fn names_are_checked() {
        assert!(InstanceId::parse("web-1").is_ok());
        assert!(InstanceId::parse("http://a/b?c=d").is_ok());
        assert_eq!(InstanceId::parse(""), Err(NameError::Empty));
        assert_eq!(InstanceId::parse("a\nb"), Err(NameError::ControlCharacter));
        assert_eq!(InstanceId::parse("a\u{85}b"), Err(NameError::ControlCharacter));
        assert_eq!(InstanceId::parse("watch"), Err(NameError::Reserved { word: "watch" }));
        assert!(InstanceId::parse(&"x".repeat(256)).is_ok());
        assert_eq!(InstanceId::parse(&"x".repeat(257)), Err(NameError::TooLong { bytes: 257, max: 256 }));
        assert_eq!(TenantId::parse("a b"), Err(NameError::NotPlain));
    }

    #[test]
    fn p13_what_no_edge_lets_in_is_not_read_back() {
        fn read<T: for<'de> Deserialize<'de>>(text: &str) -> Result<T, String> {
            let text: StrDeserializer<'_, serde::de::value::Error> = text.into_deserializer();
            T::deserialize(text).map_err(|error| error.to_string())
        }
        assert_eq!(read("web-1"), InstanceId::parse("web-1").map_err(|_| String::new()));
        assert_eq!(read::<InstanceId>("watch").unwrap_err(), "`watch` is reserved");
        assert_eq!(read::<InstanceId>(&"x".repeat(257)).unwrap_err(), "is 257 bytes long, at most 256 are allowed");
        assert_eq!(read::<ServiceName>("a\nb").unwrap_err(), "must not contain control characters");
        assert_eq!(read::<TenantId>("").unwrap_err(), "must not be empty");
        assert!(read::<TenantId>("a b").is_err());
    }
}
