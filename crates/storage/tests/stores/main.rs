//! The stores through their public interface. Tests that hold a promise of the design bear its number.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails by panicking and says where it was")]

mod codec;
mod common;
mod crash;
mod data_dir;
mod log;
mod offline;
#[path = "../power_loss/mod.rs"]
mod power_loss;
mod state;
mod suite;
