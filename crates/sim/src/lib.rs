//! Rollcall's replicated logic in worlds that one seed makes, to see what no test on real machines can repeat.
//!
//! A tool of the project: nothing of the product depends on it, and it holds no second version of what it tries. The state
//! machine, the way of a batch into the log, the cluster clock, the pacing of expiries and the read barriers are the
//! product's own, driven by events instead of tasks.
//!
//! - A seed says everything: no wall clock, no thread, no address and no unordered map decides anything.
//! - A failure names its seed, the line that replays it, and the promise that was broken.
//! - A run in which no faults happened proves nothing and fails.
//!
//! Read in this order: [`seeds`], [`exact`], [`history`].

pub mod exact;
pub mod history;
pub mod random;
pub mod seeds;
