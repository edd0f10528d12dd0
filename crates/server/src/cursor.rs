//! Where a page ended, as opaque text: an answer's cursor is good for the same question at any node.

use std::fmt::Write;

use rollcall_registry::{Epoch, Filter, Position, Revision, Sort, TenantId};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::params::RankQuestion;

/// Twice the largest position, an id of 256 bytes escaped as JSON, with room for the numbers.
const TEXT_BYTES_MAX: usize = 8_192;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Cursor {
    pub(crate) epoch: Epoch,
    /// What all pages show.
    pub(crate) revision: Revision,
    pub(crate) position: Position,
    /// What the results are ranked by besides, which must not change from page to page.
    #[serde(default)]
    pub(crate) ranked_by: u64,
    /// Of tenant, filter, sort and rank.
    question: u64,
}

/// What a cursor is good for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Question<'a> {
    pub(crate) tenant: &'a TenantId,
    pub(crate) filter: &'a Filter,
    pub(crate) sort: Sort,
    pub(crate) rank: &'a RankQuestion,
    /// Other clusters' instances too.
    pub(crate) federated: bool,
}

/// The text is no cursor, or one of another question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CursorError {
    #[error("is no cursor of this cluster")]
    Mangled,
    #[error("belongs to another tenant, filter, sort or rank")]
    OtherQuestion,
}

impl Question<'_> {
    fn hash(self) -> u64 {
        let Self { tenant, filter, sort, rank, federated } = self;
        let question = (tenant, filter, sort, rank, federated);
        xxh3_64(&serde_json::to_vec(&question).expect("a filter has no failing serializer"))
    }
}

impl Cursor {
    pub(crate) fn new(
        epoch: Epoch,
        revision: Revision,
        position: Position,
        ranked_by: u64,
        question: Question<'_>,
    ) -> Self {
        Self { epoch, revision, position, ranked_by, question: question.hash() }
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

    pub(crate) fn decode(text: &str, question: Question<'_>) -> Result<Self, CursorError> {
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
        if cursor.question != question.hash() {
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

    fn by_rank<'a>(tenant: &'a TenantId, filter: &'a Filter, rank: &'a RankQuestion) -> Question<'a> {
        Question { tenant, filter, sort: Sort::Rank, rank, federated: false }
    }

    fn cursor(tenant: &TenantId, filter: &Filter) -> Cursor {
        // A position is what the registry says it is; this is its shape.
        let position = serde_json::from_str(r#"{"score":490,"lease":0,"id":"web-1\u00e9","total":9}"#).unwrap();
        Cursor::new(Epoch(3), Revision(7), position, 5, by_rank(tenant, filter, &RankQuestion::default()))
    }

    #[test]
    fn a_cursor_is_good_for_its_own_question_only() {
        let (tenant, other) = (TenantId::parse("a").unwrap(), TenantId::parse("b").unwrap());
        let (filter, narrower) = (Filter::default(), Filter { names: vec!["x".into()], ..Filter::default() });
        let cursor = cursor(&tenant, &filter);
        let text = cursor.encode();
        let rank = RankQuestion::default();
        assert_eq!(Cursor::decode(&text, by_rank(&tenant, &filter, &rank)), Ok(cursor));
        let nearer = crate::params::pick(&"/?requester_zone=a".parse().unwrap()).unwrap().rank;
        for question in [
            by_rank(&other, &filter, &rank),
            by_rank(&tenant, &narrower, &rank),
            by_rank(&tenant, &filter, &nearer),
            Question { sort: Sort::Id, ..by_rank(&tenant, &filter, &rank) },
        ] {
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
            let rank = RankQuestion::default();
            let question = by_rank(&tenant, &filter, &rank);
            assert_eq!(Cursor::decode(&mangled, question), Err(CursorError::Mangled), "{at}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,64}") {
            let (tenant, filter) = (TenantId::parse("a").unwrap(), Filter::default());
            let _ = Cursor::decode(&text, by_rank(&tenant, &filter, &RankQuestion::default()));
        }
    }
}
