//! Label selectors over metadata, in the syntax operators know from Kubernetes:
//! `env=prod,tier in (a,b),track notin (canary),!legacy,owner`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::instance::Instance;

/// Most requirements one selector may have. Each costs a posting-list operation.
pub const REQUIREMENTS_MAX: usize = 32;

/// One comma-separated part of a selector.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Requirement {
    /// The key's value is one of these.
    In {
        key: Box<str>,
        values: Box<[Box<str>]>,
    },
    /// The key is missing or its value is none of these.
    NotIn {
        key: Box<str>,
        values: Box<[Box<str>]>,
    },
    Exists {
        key: Box<str>,
    },
    Missing {
        key: Box<str>,
    },
}

impl Requirement {
    /// The values that are compared with.
    pub fn values(&self) -> &[Box<str>] {
        match self {
            Self::In { values, .. } | Self::NotIn { values, .. } => values,
            Self::Exists { .. } | Self::Missing { .. } => &[],
        }
    }

    pub(crate) fn matches(&self, instance: &Instance) -> bool {
        let has = |key: &str, values: &[Box<str>]| {
            let label = instance.metadata_value(key).and_then(|value| value.label());
            label.is_some_and(|label| values.iter().any(|v| **v == *label))
        };
        match self {
            Self::In { key, values } => has(key, values),
            Self::NotIn { key, values } => !has(key, values),
            Self::Exists { key } => instance.metadata_value(key).is_some(),
            Self::Missing { key } => instance.metadata_value(key).is_none(),
        }
    }
}

/// All requirements must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Selector(pub Box<[Requirement]>);

/// What is wrong with a selector.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    #[error("`{part}`: a key is missing")]
    KeyMissing { part: String },
    #[error("`{part}`: expected `key`, `!key`, `key=value`, `key!=value`, `key in (a,b)` or `key notin (a,b)`")]
    Syntax { part: String },
    #[error("`{part}`: a list in parentheses must follow `in` and `notin`")]
    ListMissing { part: String },
    #[error("has an unclosed parenthesis")]
    Unclosed,
    #[error("has {count} requirements, at most {REQUIREMENTS_MAX} are allowed")]
    TooMany { count: usize },
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::In { key, values } => match &**values {
                [value] => write!(f, "{key}={value}"),
                values => write!(f, "{key} in ({})", values.join(",")),
            },
            Self::NotIn { key, values } => match &**values {
                [value] => write!(f, "{key}!={value}"),
                values => write!(f, "{key} notin ({})", values.join(",")),
            },
            Self::Exists { key } => f.write_str(key),
            Self::Missing { key } => write!(f, "!{key}"),
        }
    }
}

/// As it is parsed.
impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, requirement) in self.0.iter().enumerate() {
            let separator = if n > 0 { "," } else { "" };
            write!(f, "{separator}{requirement}")?;
        }
        Ok(())
    }
}

impl FromStr for Selector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, SelectorError> {
        let mut requirements = Vec::new();
        for part in split_outside_parentheses(text)? {
            requirements.push(parse_requirement(part.trim())?);
        }
        if requirements.len() > REQUIREMENTS_MAX {
            return Err(SelectorError::TooMany { count: requirements.len() });
        }
        Ok(Self(requirements.into()))
    }
}

fn split_outside_parentheses(text: &str) -> Result<Vec<&str>, SelectorError> {
    let mut parts = Vec::new();
    let (mut start, mut depth) = (0, 0u32);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'(' => depth += 1,
            b')' => depth = depth.checked_sub(1).ok_or(SelectorError::Unclosed)?,
            b',' if depth == 0 => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    if depth > 0 {
        return Err(SelectorError::Unclosed);
    }
    parts.push(&text[start..]);
    Ok(parts)
}

fn parse_requirement(part: &str) -> Result<Requirement, SelectorError> {
    let key = |key: &str| -> Result<Box<str>, SelectorError> {
        match key.trim() {
            "" => Err(SelectorError::KeyMissing { part: part.to_owned() }),
            key if key.contains(['(', ')', '!', '=', ' ']) => Err(SelectorError::Syntax { part: part.to_owned() }),
            key => Ok(key.into()),
        }
    };
    let one = |value: &str| Box::from([Box::from(value.trim())]);
    if let Some((left, right)) = part.split_once("!=") {
        return Ok(Requirement::NotIn { key: key(left)?, values: one(right) });
    }
    if let Some((left, right)) = part.split_once("==").or_else(|| part.split_once('=')) {
        return Ok(Requirement::In { key: key(left)?, values: one(right) });
    }
    if let Some(missing) = part.strip_prefix('!') {
        return Ok(Requirement::Missing { key: key(missing)? });
    }
    if let Some((left, rest)) = part.split_once(char::is_whitespace) {
        let rest = rest.trim_start();
        let (negated, list) = if let Some(list) = rest.strip_prefix("notin") {
            (true, list)
        } else if let Some(list) = rest.strip_prefix("in") {
            (false, list)
        } else {
            return Err(SelectorError::Syntax { part: part.to_owned() });
        };
        let list = list.trim().strip_prefix('(').and_then(|list| list.strip_suffix(')'));
        let list = list.ok_or_else(|| SelectorError::ListMissing { part: part.to_owned() })?;
        let (key, values) = (key(left)?, list.split(',').map(|v| Box::from(v.trim())).collect());
        return Ok(if negated { Requirement::NotIn { key, values } } else { Requirement::In { key, values } });
    }
    Ok(Requirement::Exists { key: key(part)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_syntax_parses() {
        let selector: Selector =
            "env=prod, tier in (a, b),track notin (canary),!legacy,owner,x!=1,y==2".parse().unwrap();
        assert_eq!(selector.0.len(), 7);
        assert_eq!(selector.to_string().parse(), Ok(selector.clone()), "{selector}");
        assert_eq!(selector.0[1], Requirement::In { key: "tier".into(), values: ["a".into(), "b".into()].into() });
        assert_eq!(selector.0[3], Requirement::Missing { key: "legacy".into() });
        assert_eq!(selector.0[5], Requirement::NotIn { key: "x".into(), values: ["1".into()].into() });
    }

    #[test]
    fn faults_are_named() {
        for (text, part) in [
            ("", "key is missing"),
            ("=x", "key is missing"),
            ("a in b", "list in parentheses"),
            ("a in (b", "unclosed"),
            ("a b", "expected"),
            (",", "key is missing"),
        ] {
            let error = text.parse::<Selector>().expect_err(text).to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
