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

const INSTANCES: u64 = 200_000;
const SERVICES: u64 = 1_000;

/// Bytes per registration of the usual size, with all that the state keeps of it.
const BYTES_MAX: i64 = 750;

/// A bound further from the truth than this would let much be lost again unseen.
const BYTES_SLACK: i64 = 50;

/// What glibc maps for itself and gives back to the byte.
const LARGE: usize = 128 << 10;

/// Pieces in use, by their size in units of 16 bytes; beyond [`LARGE`] bytes instead of pieces.
static PIECES: [AtomicI64; LARGE / 16 + 1] = [const { AtomicI64::new(0) }; LARGE / 16 + 1];

struct Counting;

/// What the allocator takes for a piece: glibc's size word and rounding.
fn cost(bytes: usize) -> usize {
    (bytes + 8).next_multiple_of(16).max(32)
}

fn count(layout: Layout, sign: i64) {
    let (place, amount) = match cost(layout.size()) {
        large if large >= LARGE => (LARGE / 16, large as i64),
        small => (small / 16, 1),
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
    pieces.map(|(n, pieces)| if n == LARGE / 16 { pieces } else { pieces * n as i64 * 16 }).collect()
}

#[test]
fn a_registration_costs_no_more_than_it_must() {
    let before = in_use();
    let mut state = load::filled(INSTANCES, SERVICES);
    // What changed is handed to storage once in a while; a roll at rest has nothing left of it.
    drop(state.take_delta());
    let used: Vec<i64> = in_use().iter().zip(before).map(|(after, before)| after - before).collect();
    assert_eq!(state.len() as u64, INSTANCES);

    let instances = INSTANCES as i64;
    let bytes = used.iter().sum::<i64>() / instances;
    let mut parts = String::new();
    for (n, used) in used.iter().enumerate().filter(|(_, used)| **used >= instances) {
        let size = if n == LARGE / 16 { "tables".to_owned() } else { format!("of {} bytes", n * 16) };
        writeln!(parts, "{:6.1} in pieces {size}", *used as f64 / INSTANCES as f64).expect("writing to a string");
    }
    assert!(bytes <= BYTES_MAX, "{bytes} bytes per registration, at most {BYTES_MAX} are allowed\n{parts}");
    assert!(
        bytes >= BYTES_MAX - BYTES_SLACK,
        "{bytes} bytes per registration are well below {BYTES_MAX}: tell it\n{parts}"
    );
}
