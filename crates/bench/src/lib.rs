//! The load generator: what `rollcall bench` does, and an engine that other generators can use.
//!
//! - It knows a cluster by its HTTP contract alone and shares nothing with the server but the wire types.
//! - It is a closed loop: each session has one request at a time on one kept connection. It shares the machine with
//!   what it measures, so a request is rendered beforehand where that can be, and of an answer only that is looked at
//!   which the work needs. What the generator itself costs is in every report.
//! - What is not the expected success is an error, counted and never left out silently.
//! - It writes nothing but a progress line, on a terminal: reports go back to the caller.
//!
//! The engine knows nothing of HTTP or Rollcall. To put load on something else, implement [`Session`] and [`run`] it:
//!
//! ```
//! use std::time::Duration;
//!
//! use rollcall_bench::{Done, Load, Processes, Report, Session, Span};
//!
//! struct Echo;
//!
//! impl Session for Echo {
//!     type Error = std::io::Error;
//!
//!     async fn operate(&mut self, _number: u64) -> Result<Done, Self::Error> {
//!         tokio::time::sleep(Duration::from_millis(1)).await;
//!         Ok(Done::items(1))
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() {
//! let span = Span::Window { warm_up: Duration::ZERO, duration: Duration::from_millis(50) };
//! let load = Load { title: "echo", kinds: &["echo"], span, rate_per_s: None };
//! let (measured, _sessions) = rollcall_bench::run(&load, vec![Echo, Echo], &Processes::default()).await;
//! let report = Report::new("echo", "nothing", serde_json::json!({"sessions": 2}), &measured);
//! assert!(report.operations > 0);
//! # }
//! ```
//!
//! Read in this order: [`engine`], [`report`], `http` (one connection), `target` (which nodes), [`work`]; for watches
//! `events` (a stream) and `board` (who has seen what).

pub mod args;
mod board;
pub mod documents;
pub mod engine;
mod enrol;
mod error;
mod events;
mod files;
mod http;
mod lapses;
mod pace;
mod progress;
mod record;
pub mod report;
mod target;
mod usage;
pub mod work;

pub use board::{Board, Delays, NotSeen};
pub use engine::{Done, Load, Measured, Session, Span, run};
pub use error::{Error, RequestError};
pub use files::raise_open_files;
pub use lapses::Lapses;
pub use record::{KindRecord, Percentiles, chain, histogram, note};
pub use report::{Report, percentiles};
pub use target::Access;
pub use usage::{NodeUsage, Processes, Watched};
pub use work::{Finished, Work};
