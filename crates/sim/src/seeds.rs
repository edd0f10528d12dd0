//! Where seeds come from: each commit tries others, and each can be tried again.

use std::process::Command;

/// Where there is neither a variable nor a commit.
const FALLBACK: u64 = 0x726F_6C6C_6361_6C6C;

/// The first seed: `$ROLLCALL_SIM_BASE`, else out of the hash of the commit that is checked out.
///
/// # Panics
/// When the variable is no number.
pub fn base() -> u64 {
    if let Ok(base) = std::env::var("ROLLCALL_SIM_BASE") {
        return base.parse().unwrap_or_else(|_| panic!("ROLLCALL_SIM_BASE is no number: {base}"));
    }
    let root = env!("CARGO_MANIFEST_DIR");
    let commit = Command::new("git").args(["-C", root, "rev-parse", "HEAD"]).output().ok();
    let hash =
        commit.filter(|output| output.status.success()).and_then(|output| String::from_utf8(output.stdout).ok());
    hash.and_then(|hash| u64::from_str_radix(hash.get(..15)?, 16).ok()).unwrap_or(FALLBACK)
}

/// How many seeds are tried: `$ROLLCALL_SIM_SEEDS`, else `short`.
///
/// # Panics
/// When the variable is no number.
pub fn count(short: u64) -> u64 {
    match std::env::var("ROLLCALL_SIM_SEEDS") {
        Ok(count) => count.parse().unwrap_or_else(|_| panic!("ROLLCALL_SIM_SEEDS is no number: {count}")),
        Err(_) => short,
    }
}

/// The seed to replay alone: `$ROLLCALL_SIM_SEED`.
///
/// # Panics
/// When the variable is no number.
pub fn replayed() -> Option<u64> {
    let seed = std::env::var("ROLLCALL_SIM_SEED").ok()?;
    Some(seed.parse().unwrap_or_else(|_| panic!("ROLLCALL_SIM_SEED is no number: {seed}")))
}
