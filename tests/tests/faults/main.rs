//! Real processes in a broken world. What runs here for seconds, `scripts/soak` runs for hours.

mod corrupted;
mod disks;
mod edge;
mod storms;

/// Minutes that each test with a long form may take, where somebody asked for it.
fn soak() -> Option<u32> {
    std::env::var("ROLLCALL_SOAK_MINUTES").ok().map(|text| text.parse().expect("ROLLCALL_SOAK_MINUTES is a number"))
}
