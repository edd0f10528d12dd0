//! Where a page ended, as opaque text: an answer's cursor is good for the same question at any node.

use std::fmt::Write;

use rollcall_registry::{Epoch, Filter, Position, Revision, Sort, TenantId};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

/// Twice the largest position, an id of 256 bytes escaped as JSON, with room for the numbers.
const TEXT_BYTES_MAX: usize = 8_192;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Cursor {
    pub(crate) epoch: Epoch,
    /// What all pages show.
    pub(crate) revision: Revision,
    pub(crate) position: Position,
    /// Of tenant, filter and sort.
    question: u64,
}

/// The text is no cursor, or one of another question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CursorError {
    #[error("is no cursor of this cluster")]
    Mangled,
    #[error("belongs to another tenant, filter or sort")]
    OtherQuestion,
}

fn question(tenant: &TenantId, filter: &Filter, sort: Sort) -> u64 {
    xxh3_64(&serde_json::to_vec(&(tenant, filter, sort)).expect("a filter has no failing serializer"))
}

impl Cursor {
    pub(crate) fn new(
        epoch: Epoch,
        revision: Revision,
        position: Position,
        (tenant, filter, sort): (&TenantId, &Filter, Sort),
    ) -> Self {
        Self { epoch, revision, position, question: question(tenant, filter, sort) }
    }

    /// Hexadecimal: the checksum, then the rest.
    pub(crate) fn encode(&self) -> String {
        let payload = serde_json::to_vec(self).expect("a cursor has no failing serializer");
        let mut text = format!("{:016x}", xxh3_64(&payload));
        for byte in payload {
            write!(text, "{byte:02x}").expect("writing to a string does not fail");
        }
        text
    }

    pub(crate) fn decode(
        text: &str,
        (tenant, filter, sort): (&TenantId, &Filter, Sort),
    ) -> Result<Self, CursorError> {
        let (sum, payload) = text.split_at_checked(16).ok_or(CursorError::Mangled)?;
        if text.len() > TEXT_BYTES_MAX {
            return Err(CursorError::Mangled);
        }
        let sum = u64::from_str_radix(sum, 16).map_err(|_| CursorError::Mangled)?;
        let payload = bytes_of_hex(payload).ok_or(CursorError::Mangled)?;
        if xxh3_64(&payload) != sum {
            return Err(CursorError::Mangled);
        }
        let cursor: Self = serde_json::from_slice(&payload).map_err(|_| CursorError::Mangled)?;
        if cursor.question != question(tenant, filter, sort) {
            return Err(CursorError::OtherQuestion);
        }
        Ok(cursor)
    }
}

fn bytes_of_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    pairs.iter().map(|[high, low]| u8::try_from(digit(*high)? << 4 | digit(*low)?).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cursor(tenant: &TenantId, filter: &Filter) -> Cursor {
        // A position is what the registry says it is; this is its shape.
        let position = serde_json::from_str(r#"{"score":490,"lease":0,"id":"web-1\u00e9","total":9}"#).unwrap();
        Cursor::new(Epoch(3), Revision(7), position, (tenant, filter, Sort::Rank))
    }

    #[test]
    fn a_cursor_is_good_for_its_own_question_only() {
        let (tenant, other) = (TenantId::parse("a").unwrap(), TenantId::parse("b").unwrap());
        let (filter, narrower) = (Filter::default(), Filter { names: vec!["x".into()], ..Filter::default() });
        let cursor = cursor(&tenant, &filter);
        let text = cursor.encode();
        assert_eq!(Cursor::decode(&text, (&tenant, &filter, Sort::Rank)), Ok(cursor));
        for question in
            [(&other, &filter, Sort::Rank), (&tenant, &narrower, Sort::Rank), (&tenant, &filter, Sort::Id)]
        {
            assert_eq!(Cursor::decode(&text, question), Err(CursorError::OtherQuestion));
        }
    }

    #[test]
    fn a_mangled_cursor_is_refused() {
        let (tenant, filter) = (TenantId::parse("a").unwrap(), Filter::default());
        let text = cursor(&tenant, &filter).encode();
        for at in 0..text.len() {
            let mut mangled = text.clone().into_bytes();
            mangled[at] = if mangled[at] == b'0' { b'1' } else { b'0' };
            let mangled = String::from_utf8(mangled).unwrap();
            assert_eq!(Cursor::decode(&mangled, (&tenant, &filter, Sort::Rank)), Err(CursorError::Mangled), "{at}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,64}") {
            let _ = Cursor::decode(&text, (&TenantId::parse("a").unwrap(), &Filter::default(), Sort::Id));
        }
    }
}
