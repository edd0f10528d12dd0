//! A Rollcall node's edge: configuration, the client port with its HTTP API, and the wires to the other nodes.
//!
//! Everything a client sends is judged here, completely and before anything else: what goes on to the replica is a typed
//! command or query that only the roll itself can still refuse. The crate keeps no state of the roll, decides nothing by
//! a clock, and never names openraft or RocksDB.
//!
//! - Bad input is a 4xx that names every fault; no input makes a 5xx.
//! - A 5xx of a write says whether the write may have been applied.
//! - A read that cannot be answered as asked is refused, never answered with less.
//! - Bodies, headers, connections, requests in work and the time each may take are bounded; see `limits`.
//! - Wire types and the roll's types meet in `translate` and, on the way that is taken most, in `render`; statuses are
//!   given in `reply`.
//!
//! Read in this order: [`config`], [`Server`], [`Probe`], `listener`, [`tls`], `edge`, `native`, `watch`; then `request`, `params`,
//! `body`, `json`, `fault`, `parse`, `signing` for what comes in, `translate`, [`render`], `cursor`, `reply` for what goes out, `faces` with
//! `auth` and `schema`, `prober` and `alerts` over `outbound`, and `peer`.

mod alerts;
pub mod audit;
mod auth;
mod body;
pub mod config;
mod cursor;
mod edge;
mod faces;
mod fault;
mod federation;
mod json;
mod limits;
mod listener;
mod metrics;
mod native;
mod outbound;
mod params;
mod parse;
mod peer;
mod probe;
mod prober;
mod quotas;
pub mod render;
mod reply;
mod request;
mod schema;
mod secret;
mod server;
mod signing;
mod slow;
mod startup;
pub mod telemetry;
pub mod tls;
mod translate;
mod watch;

pub use auth::{ADMIN_TOKEN, FirstToken, JwtConfig, JwtConfigError, RESET_REQUEST, SetError};
pub use config::{Checks, Config, ConfigError, Settings};
pub use outbound::{Network, NetworkError};
pub use probe::Probe;
/// What an operator does to a directory whose node does not run.
pub use rollcall_replica::offline;
pub use secret::Secret;
pub use server::{RunError, Server, run};
