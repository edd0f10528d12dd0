//! Free data by key: what selectors look at and what heartbeats may add to.

use std::cmp::Ordering;
use std::fmt;

use arcstr::ArcStr;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::packed::{self, Malformed, Packer, Part, Parts, Unpacker};

/// One metadata value. Plain text is kept unquoted, so that a label compares without a JSON parser.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetadataValue<'a> {
    Text(&'a str),
    /// A number, a boolean, null, a list or an object: compact JSON, rendered by the edge.
    Json(&'a str),
}

impl<'a> MetadataValue<'a> {
    /// The value as a selector sees it. Lists and objects are no labels.
    pub fn label(self) -> Option<&'a str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Json(json) if json.starts_with(['{', '[']) => None,
            Self::Json(json) => Some(json),
        }
    }

    fn as_str(self) -> &'a str {
        let (Self::Text(text) | Self::Json(text)) = self;
        text
    }

    fn pack(self, packer: &mut Packer) {
        // One number tells the length and which of both it is.
        let text = self.as_str();
        packer.number(text.len() as u64 * 2 + u64::from(matches!(self, Self::Json(_))));
        packer.rest(text);
    }
}

impl<'a> Part<'a> for MetadataValue<'a> {
    fn unpack(rest: &mut Unpacker<'a>) -> Result<Self, Malformed> {
        let number = rest.number()?;
        let text = rest.take(number / 2)?;
        Ok(if number % 2 == 0 { Self::Text(text) } else { Self::Json(text) })
    }
}

/// A key with its value.
pub type Pair<'a> = (&'a str, MetadataValue<'a>);

impl<'a> Part<'a> for Pair<'a> {
    fn unpack(rest: &mut Unpacker<'a>) -> Result<Self, Malformed> {
        Ok((rest.text()?, MetadataValue::unpack(rest)?))
    }
}

/// Pairs in the order of their keys, each key once.
pub type Pairs<'a> = Parts<'a, Pair<'a>>;

impl<'a> Pairs<'a> {
    pub fn get(self, key: &str) -> Option<MetadataValue<'a>> {
        { self }.find(|(k, _)| *k >= key).filter(|(k, _)| *k == key).map(|(_, value)| value)
    }

    /// Bytes of all keys and values.
    pub fn text_bytes(self) -> usize {
        self.map(|(key, value)| key.len() + value.as_str().len()).sum()
    }

    pub(crate) fn check_order(self) -> Result<(), Malformed> {
        self.check()?;
        if self.is_sorted_by(|a, b| a.0 < b.0) { Ok(()) } else { Err(Malformed::Order) }
    }

    /// Both, by key; of a key that both have, the patch's value.
    pub(crate) fn merge(self, patch: Self) -> impl Iterator<Item = Pair<'a>> {
        let (mut own, mut patch) = (self.peekable(), patch.peekable());
        std::iter::from_fn(move || {
            let (Some(a), Some(b)) = (own.peek(), patch.peek()) else { return own.next().or_else(|| patch.next()) };
            match a.0.cmp(b.0) {
                Ordering::Less => own.next(),
                Ordering::Equal => {
                    own.next();
                    patch.next()
                }
                Ordering::Greater => patch.next(),
            }
        })
    }
}

/// Top-level metadata in one packed text.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Metadata(ArcStr);

impl Metadata {
    /// Of equal keys the last wins.
    pub fn new<'a>(pairs: impl IntoIterator<Item = Pair<'a>>) -> Self {
        let mut pairs: Vec<_> = pairs.into_iter().collect();
        pairs.reverse();
        pairs.sort_by(|a, b| a.0.cmp(b.0));
        pairs.dedup_by(|later, kept| later.0 == kept.0);
        Self::packed(pairs)
    }

    fn packed<'a>(in_order: impl IntoIterator<Item = Pair<'a>>) -> Self {
        let mut packer = Packer::default();
        for (key, value) in in_order {
            packer.text(key);
            value.pack(&mut packer);
        }
        Self(packer.as_str().into())
    }

    pub fn pairs(&self) -> Pairs<'_> {
        Pairs::of(&self.0)
    }

    /// What is kept, travels and is digested.
    pub(crate) fn as_packed(&self) -> &str {
        &self.0
    }

    /// Bytes that this metadata takes.
    pub fn bytes(&self) -> usize {
        self.0.len()
    }

    /// A shallow merge: the patch's keys replace, the others stay.
    pub fn merged(&self, patch: &Self) -> Self {
        Self::packed(self.pairs().merge(patch.pairs()))
    }
}

impl fmt::Debug for Metadata {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.pairs()).finish()
    }
}

impl Serialize for Metadata {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Metadata {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        packed::deserialize(deserializer, |text| Pairs::of(text).check_order().map(|()| Self(text.into())))
    }
}

#[cfg(test)]
mod tests {
    use super::MetadataValue::{Json, Text};
    use super::*;

    fn pairs(metadata: &Metadata) -> Vec<Pair<'_>> {
        metadata.pairs().collect()
    }

    #[test]
    fn is_sorted_and_of_equal_keys_the_last_wins() {
        let metadata = Metadata::new([("b", Text("1")), ("a", Json("[2]")), ("b", Text("3"))]);
        assert_eq!(pairs(&metadata), [("a", Json("[2]")), ("b", Text("3"))]);
        assert_eq!(metadata, Metadata::new([("a", Json("[2]")), ("b", Text("3"))]));
        assert_ne!(metadata, Metadata::new([("a", Text("[2]")), ("b", Text("3"))]));
        assert_eq!(metadata.pairs().get("b"), Some(Text("3")));
        assert_eq!(metadata.pairs().get("aa"), None);
        assert_eq!(metadata.pairs().get("c"), None);
    }

    #[test]
    fn a_patch_replaces_and_adds() {
        let metadata = Metadata::new([("a", Text("1")), ("c", Text("2"))]);
        let patch = Metadata::new([("b", Text("3")), ("c", Text("4")), ("d", Text("5"))]);
        let merged = [("a", Text("1")), ("b", Text("3")), ("c", Text("4")), ("d", Text("5"))];
        assert_eq!(pairs(&metadata.merged(&patch)), merged);
        assert_eq!(metadata.merged(&Metadata::default()), metadata);
        assert_eq!(Metadata::default().merged(&patch), patch);
    }

    #[test]
    fn what_is_out_of_order_is_refused() {
        let check = |text: &str| Pairs::of(text).check_order();
        assert_eq!(check("\x01a\x02x\x01b\x02y"), Ok(()));
        assert_eq!(check("\x01b\x02x\x01a\x02y"), Err(Malformed::Order));
        assert_eq!(check("\x01a\x02x\x01a\x02y"), Err(Malformed::Order));
        assert_eq!(check("\x01a"), Err(Malformed::Short));
    }
}
