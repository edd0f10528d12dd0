//! A cluster in a broken world, and whether it keeps its promises there.
//!
//! A [`World`] is a cluster whose nodes each have a disk that can lose power and fail ([`disk`]), a wall clock that jumps,
//! and, where the machine allows it, a network that cuts, loses and reorders ([`network`]). Clients and agents are at work
//! in it ([`load`]), watchers look on ([`witness`]), and a [`Storm`] strikes with faults that a seed chooses, one at a time
//! and several at once. At the end everything heals and must be of one mind, and the [`ledger`] holds all that anybody was
//! told against the order of the changes.
//!
//! - A run in which faults or calls did not happen fails: it would prove nothing.
//! - The seed chooses faults, victims and times; the machine's own timing is not in its hand.

pub mod disk;
pub mod ledger;
pub mod load;
pub mod network;
pub mod storm;
pub mod witness;
mod world;

pub use disk::{Disk, Flush, Libraries, SmallDisk};
pub use ledger::{Ledger, Totals};
pub use load::{Load, Pace};
pub use network::{Link, Network, Seat};
pub use storm::{Fault, Storm, Tally};
pub use witness::Witnesses;
pub use world::{Run, World, in_world};
