//! The Rust SDK of Rollcall: register, call in, and find who is present.
//!
//! - A [`Client`] knows several nodes and turns to the next when one does not answer. Any node serves any request.
//! - It never repeats a write whose outcome is unknown unless the write may safely happen twice, and never waits
//!   longer than the request's timeout.
//! - It follows no redirect and uses no proxy: nodes are spoken to directly.
//! - It holds no cache, keeps no task running, and knows nothing of the registry's rules: a node decides, the client
//!   asks.
//!
//! [`KeepAlive`] holds a registration for as long as the program runs:
//!
//! ```no_run
//! use rollcall_client::api::{Capability, Kind};
//! use rollcall_client::{Client, DiscoverQuery, RegisterRequest};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::builder()
//!     .endpoint("http://127.0.0.1:7900")
//!     .endpoint("http://127.0.0.1:7910")
//!     .build()?;
//!
//! let translator = RegisterRequest {
//!     id: Some("translator-1".into()),
//!     name: "translator".into(),
//!     kind: Some(Kind::Agent),
//!     url: "http://127.0.0.1:8080".into(),
//!     capabilities: Some(vec![Capability::Name("translate".into())]),
//!     ttl_ms: Some(10_000),
//!     ..RegisterRequest::default()
//! };
//! let presence = client.keep_alive(&translator).await?;
//! let present = tokio::spawn(presence.run(async {
//!     let _ = tokio::signal::ctrl_c().await;
//! }));
//!
//! let query = DiscoverQuery { capabilities: vec!["translate".into()], ..DiscoverQuery::default() };
//! for service in client.discover(&query).await?.services {
//!     tracing::info!("{} at {}", service.id, service.url);
//! }
//! present.await??;
//! # Ok(())
//! # }
//! ```
//!
//! Read in this order: [`Client`], `request` (how one request finds a node), [`KeepAlive`], [`Error`].

mod client;
mod error;
mod keep_alive;
mod query;
mod request;

pub use client::{Builder, Client, Condition, Readiness};
pub use error::{BuildError, Error};
pub use keep_alive::{KeepAlive, KeepAliveError};
pub use query::{Consistency, DiscoverQuery, Sort};
pub use rollcall_api as api;
pub use rollcall_api::{HeartbeatRequest, Problem, RegisterRequest, ServiceObject};
