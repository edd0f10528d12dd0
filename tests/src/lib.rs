//! A cluster of real nodes for tests: processes of the built binary, on free ports, in directories of their own.
//!
//! It knows the program from outside only: by its flags, its HTTP contract and its signals. It reads no node's files but
//! to damage them in [`faults`], and links no crate of the workspace: that is for the programs beside it, `bench-etcd` and
//! `bench-suite`, which use the load generator's engine and report.
//!
//! - Nodes die with the test that started them, however it ends.
//! - Nobody sleeps: [`wait_until`] waits for a condition with a deadline, and is the only place that pauses.
//! - When a test fails the end of every node's log is shown; when it passes, no log may tell of a panic.
//!
//! Read in this order: [`Cluster`], [`Node`], [`Api`], [`Events`], [`Collector`], [`Receiver`], [`Agents`], [`Proxy`], [`Wire`]; [`mesh`] is
//! several clusters that tell each other, with [`Clients`] at work; [`Docker`] runs nodes in containers instead; [`etcd`] is the same for the neighbour that is measured beside. Then [`faults`]: a cluster under
//! faults that a seed chooses, and what was promised held against what clients saw.
//! The binary is `$ROLLCALL_BIN`, else `rollcall` in the target directory that the test was built in.

mod agents;
mod api;
mod clients;
mod cluster;
mod collector;
mod docker;
pub mod etcd;
pub mod faults;
pub mod mesh;
mod node;
mod ports;
mod process;
mod proxy;
mod receiver;
mod wait;
mod watch;
mod wire;

pub use agents::Agents;
pub use api::{Answer, Api};
pub use clients::{Clients, Times};
pub use cluster::Cluster;
pub use collector::{Collector, Span};
pub use docker::{Docker, skip, workspace};
pub use node::{Node, rollcall};
pub use ports::Port;
pub use process::{Process, built};
pub use proxy::Proxy;
pub use receiver::{Received, Receiver};
pub use wait::{pass, wait_until};
pub use watch::{Event, Events};
pub use wire::Wire;
