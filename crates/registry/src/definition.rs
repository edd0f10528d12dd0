//! What agents agree upon beside the roll: the events they exchange and the schemas of what these carry.
//!
//! An event has one definition, which may be replaced. A schema has versions, each of which is defined once; its latest is
//! the one that was defined last, whatever its number. Neither has a lease: they outlive the agents that brought them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::ids::{DefinitionName, Edition, TenantId, WallTime};
use crate::registration::UnknownWord;

/// Definitions that one tenant may have, of all sorts: a hundred agents with a hundred events each. They do not lapse, so
/// that nothing else would bound them.
pub const DEFINITIONS_MAX: usize = 10_000;

/// Bytes of one tenant's definitions: all events or schemas of a tenant are one answer, which so is bounded too.
pub const DEFINITION_BYTES_MAX: usize = 16 << 20;

/// Bytes of all tenants' definitions together, because tenants come into being by being named.
pub const DEFINITION_BYTES_MAX_IN_ALL: usize = 256 << 20;

/// What a definition takes beside its texts, in memory and as a row.
const BYTES_BESIDE: usize = 256;

/// What a new version of a schema must be to the one before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Compatibility {
    /// Nothing.
    #[default]
    None,
    /// Whoever reads by the new version can read what was written by the one before.
    Backward,
    /// Whoever reads by the version before can read what is written by the new one.
    Forward,
    /// Both.
    Full,
}

impl Compatibility {
    pub const ALL: &[Self] = &[Self::None, Self::Backward, Self::Forward, Self::Full];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Backward => "backward",
            Self::Forward => "forward",
            Self::Full => "full",
        }
    }
}

impl FromStr for Compatibility {
    type Err = UnknownWord;

    fn from_str(text: &str) -> Result<Self, UnknownWord> {
        let known = Self::ALL.iter().copied().find(|mode| mode.as_str() == text);
        known.ok_or(UnknownWord { known: &["none", "backward", "forward", "full"] })
    }
}

impl fmt::Display for Compatibility {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An event, as an edge was told of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventDefinition {
    pub name: DefinitionName,
    /// Where it is published.
    pub topic: Box<str>,
    /// The whole definition as a compact JSON object, checked and rendered by the edge.
    pub document: Box<str>,
}

/// One version of a schema.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SchemaDefinition {
    pub name: DefinitionName,
    pub version: DefinitionName,
    /// The agent that brought it.
    pub owner: Option<Box<str>>,
    pub description: Option<Box<str>>,
    /// JSON schema as compact JSON, rendered by the edge.
    pub schema: Box<str>,
}

/// What names a definition within its tenant. Their order is the one in which they are listed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum DefinitionKey {
    Event(DefinitionName),
    /// Name and version.
    Schema(DefinitionName, DefinitionName),
    /// Of the schema's name.
    Compatibility(DefinitionName),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DefinitionContent {
    Event(EventDefinition),
    Schema(SchemaDefinition),
    Compatibility { name: DefinitionName, mode: Compatibility },
}

impl DefinitionContent {
    pub fn key(&self) -> DefinitionKey {
        match self {
            Self::Event(event) => DefinitionKey::Event(event.name.clone()),
            Self::Schema(schema) => DefinitionKey::Schema(schema.name.clone(), schema.version.clone()),
            Self::Compatibility { name, .. } => DefinitionKey::Compatibility(name.clone()),
        }
    }

    /// About what it takes, in memory or as a row.
    pub fn bytes(&self) -> usize {
        let texts = match self {
            Self::Event(event) => event.name.as_str().len() * 2 + event.topic.len() + event.document.len(),
            Self::Schema(schema) => {
                let names = schema.name.as_str().len() * 2 + schema.version.as_str().len() * 2;
                let optional = [&schema.owner, &schema.description].into_iter().flatten();
                names + optional.map(|text| text.len()).sum::<usize>() + schema.schema.len()
            }
            Self::Compatibility { name, .. } => name.as_str().len() * 2,
        };
        texts + BYTES_BESIDE
    }
}

/// A definition as it stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Definition {
    pub tenant: TenantId,
    pub content: DefinitionContent,
    /// Of its last change. Of two versions of a schema the one with the later edition is the later one.
    pub edition: Edition,
    pub defined_at: WallTime,
    pub updated_at: WallTime,
}

/// What is to become of a definition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DefinitionChange {
    /// Defines an event, or replaces its definition.
    Event(EventDefinition),
    /// Defines a version of a schema that is not defined yet.
    Schema {
        schema: SchemaDefinition,
        compared: Compared,
    },
    /// Sets what later versions of a schema must be.
    Compatibility {
        name: DefinitionName,
        mode: Compatibility,
    },
    Remove(DefinitionKey),
}

impl DefinitionChange {
    pub fn bytes(&self) -> usize {
        match self {
            Self::Event(event) => event.topic.len() + event.document.len() + BYTES_BESIDE,
            Self::Schema { schema, .. } => schema.schema.len() + BYTES_BESIDE,
            Self::Compatibility { .. } | Self::Remove(_) => BYTES_BESIDE,
        }
    }
}

/// What an edge compared a new version with. Comparing schemas is too much for the state machine, so it only sees to it
/// that nothing came in between.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compared {
    pub mode: Compatibility,
    /// Of the latest version.
    pub latest: Option<Edition>,
}

/// A change of a definition that took place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Defined {
    /// There was none under its name before.
    pub created: bool,
    /// The definition's; an earlier one when it was defined so already.
    pub edition: Edition,
    pub defined_at: WallTime,
    pub updated_at: WallTime,
}

/// A deterministic no to a change of a definition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum DefinitionRefusal {
    #[error("this version of the schema is defined already, by edition {edition}")]
    Exists { edition: Edition },
    #[error("there is no such definition")]
    NotDefined,
    #[error("the schema has changed since it was compared")]
    Outdated,
    #[error("the tenant has {count} definitions, and at most {count_max} are allowed: remove some")]
    TooMany { count: u64, count_max: u64 },
    #[error("the tenant's definitions would take {bytes} bytes, and at most {bytes_max} are allowed: remove some")]
    TooLarge { bytes: u64, bytes_max: u64 },
    #[error(
        "the definitions of all tenants would take {bytes} bytes, and at most {bytes_max} are allowed: remove some"
    )]
    Full { bytes: u64, bytes_max: u64 },
}
