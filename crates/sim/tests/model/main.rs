//! The product's state machine and clock, and its read barrier, in models small enough that every order of events within
//! stated bounds is tried.
//!
//! A rule that a promise stands on is a word of the model's policy. With all rules kept nothing may be found; with any of
//! them taken away something must be.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking and says where it was")]

mod barrier;
mod leases;
