//! What a registration costs in memory, counted where it is allocated: a bound on the whole, and by size what it is
//! made of, which a failure tells.
//!
//! One test, because all tests of a program share its allocator.

#[path = "../../benches/roll/load.rs"]
#[allow(dead_code)]
mod load;

use std::alloc::{GlobalAlloc, Layout, System};
use std::fmt::Write as _;
use std::sync::atomic::{AtomicI64, Ordering};

use rollcall_registry::{Metadata, MetadataValue, PackedRegistration, Registration};

const INSTANCES: u64 = 200_000;
const SERVICES: u64 = 1_000;

/// Bytes per registration of the usual size, with all that the state keeps of it.
const BYTES_MAX: f64 = 775.0;

/// Bytes that a label costs beside its text when no other instance has it.
const OWN_LABEL_BYTES_MAX: f64 = 30.0;

/// A bound further from the truth than this would let much be lost again unseen.
const BYTES_SLACK: f64 = 40.0;

/// From here on pieces are counted by the byte, and not by their number.
const LARGE: usize = 128 << 10;

/// Pieces in use, by their size in words; beyond [`LARGE`] bytes instead of pieces.
static PIECES: [AtomicI64; LARGE / WORD + 1] = [const { AtomicI64::new(0) }; LARGE / WORD + 1];

const WORD: usize = 8;

struct Counting;

/// What a piece takes of the server's allocator, mimalloc: there are four sizes between two powers of two.
fn cost(bytes: usize) -> usize {
    let words = bytes.div_ceil(WORD).max(1);
    let step = match (words - 1).checked_ilog2() {
        None => 1,
        Some(..3) => 2,
        Some(bits) => 1 << (bits - 2),
    };
    words.next_multiple_of(step) * WORD
}

fn count(layout: Layout, sign: i64) {
    let (place, amount) = match cost(layout.size()) {
        large if large >= LARGE => (LARGE / WORD, large as i64),
        small => (small / WORD, 1),
    };
    PIECES[place].fetch_add(sign * amount, Ordering::Relaxed);
}

#[allow(unsafe_code)] // An allocator is unsafe by contract; this one counts and passes on.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout, 1);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(layout, -1);
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Bytes in use in pieces of each size.
fn in_use() -> Vec<i64> {
    let pieces = PIECES.iter().map(|pieces| pieces.load(Ordering::Relaxed)).enumerate();
    pieces.map(|(n, pieces)| if n == LARGE / WORD { pieces } else { pieces * (n * WORD) as i64 }).collect()
}

/// Bytes per instance of a roll of these, and what they are made of.
fn bytes_of(registration: impl Fn(u64) -> PackedRegistration) -> (f64, String) {
    let before = in_use();
    let mut state = load::filled(INSTANCES, registration);
    // What changed is handed to storage once in a while; a roll at rest has nothing left of it.
    drop(state.take_delta());
    let each = |used: i64| used as f64 / INSTANCES as f64;
    let used: Vec<f64> = in_use().iter().zip(before).map(|(after, before)| each(after - before)).collect();
    let mut parts = String::new();
    for (n, used) in used.iter().enumerate().filter(|(_, used)| **used >= 1.0) {
        let size = if n == LARGE / WORD { "tables".to_owned() } else { format!("pieces of {} bytes", n * WORD) };
        writeln!(parts, "{used:6.1} in {size}").expect("writing to a string");
    }
    assert_eq!(state.len() as u64, INSTANCES);
    (used.iter().sum(), parts)
}

/// The usual registration with a label that is its own, and so much less of its note.
fn with_own_label(n: u64) -> PackedRegistration {
    let own = format!("{n:012}");
    let usual = load::registration(n, SERVICES);
    let shorter = |(key, value)| match (key, value) {
        ("note", MetadataValue::Text(note)) => (key, MetadataValue::Text(&note["request".len() + own.len() + 2..])),
        other => other,
    };
    let pairs = usual.view().metadata.map(shorter).chain([("request", MetadataValue::Text(&own))]);
    let labelled = Registration { metadata: Metadata::new(pairs), ..usual.view().to_registration() }.pack();
    assert_eq!(labelled.bytes(), usual.bytes());
    labelled
}

#[test]
fn a_registration_costs_no_more_than_it_must() {
    let (bytes, parts) = bytes_of(|n| load::registration(n, SERVICES));
    assert!(bytes <= BYTES_MAX, "{bytes} bytes per registration, at most {BYTES_MAX} are allowed\n{parts}");
    let least = BYTES_MAX - BYTES_SLACK;
    assert!(bytes >= least, "{bytes} bytes per registration: say less than {BYTES_MAX} then\n{parts}");

    let (labelled, parts) = bytes_of(with_own_label);
    let label = labelled - bytes;
    assert!(label <= OWN_LABEL_BYTES_MAX, "a label of one instance costs {label} bytes beside its text\n{parts}");
}
