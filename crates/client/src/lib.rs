//! The Rust SDK of Rollcall: register, call in, and find who is present.
//!
//! - A [`Client`] knows several nodes and turns to the next when one does not answer. Any node serves any request.
//! - It never repeats a write whose outcome is unknown unless the write may safely happen twice, and never waits
//!   longer than the request's timeout.
//! - It follows no redirect and uses no proxy: nodes are spoken to directly.
//! - It knows nothing of the registry's rules: a node decides, the client asks.
//! - A [`Watch`] skips nothing and repeats nothing over any number of connections and nodes, or says that it tells all
//!   anew.
//! - It holds no cache and keeps no task running but in a [`Directory`], and that ends with it.
//!
//! [`KeepAlive`] holds a registration for as long as the program runs:
//!
//! ```no_run
//! use rollcall_client::api::{Capability, Kind};
//! use rollcall_client::{Client, DiscoverQuery, Filters, RegisterRequest};
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
//! let filters = Filters { capabilities: vec!["translate".into()], ..Filters::default() };
//! for service in client.discover(&DiscoverQuery::from(filters)).await?.services {
//!     tracing::info!("{} at {}", service.id, service.url);
//! }
//! present.await??;
//! # Ok(())
//! # }
//! ```
//!
//! [`Directory`] has at hand who is present, and picks one for each call:
//!
//! ```no_run
//! use rollcall_client::{Client, Directory, Filters, Strategy};
//!
//! # async fn call(url: &str) -> bool { url.is_empty() }
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::builder().endpoint("http://127.0.0.1:7900").endpoint("http://127.0.0.1:7910").build()?;
//! let translators = Filters {
//!     capabilities: vec!["translate".into()],
//!     statuses: vec!["active".into()],
//!     ..Filters::default()
//! };
//! let directory = Directory::start(&client, translators);
//! directory.ready().await?;
//! if let Some(translator) = directory.pick(Strategy::LeastRecentlyFailed) {
//!     match call(&translator.url).await {
//!         true => directory.report_success(&translator.id),
//!         false => directory.report_failure(&translator.id),
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! [`Watch`] tells each change as it comes:
//!
//! ```no_run
//! use rollcall_client::{Client, WatchEvent, WatchQuery};
//!
//! # async fn example(client: Client) -> Result<(), Box<dyn std::error::Error>> {
//! let mut watch = client.watch(&WatchQuery::default()).await?;
//! while let Some(event) = watch.next().await {
//!     match event? {
//!         WatchEvent::Init { .. } => tracing::info!("forget everything; what follows is all there is"),
//!         WatchEvent::Present(service) => tracing::info!("{} is there", service.id),
//!         WatchEvent::Changed(update) => tracing::info!("{} {}", update.service.id, update.update_type),
//!         _ => {}
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Read in this order: [`Client`], `request` (how one request finds a node), [`KeepAlive`], [`Watch`], [`Directory`],
//! [`Error`].

mod backup;
mod client;
mod cluster;
mod directory;
mod error;
mod federation;
mod keep_alive;
mod operator;
mod query;
mod request;
mod signature;
mod tls;
mod watch;

pub use backup::Backup;
pub use client::{Builder, Client, Condition, Readiness};
pub use cluster::{ChangeTerms, ClusterChange};
pub use directory::{Directory, Strategy};
pub use error::{BuildError, Error, WatchFault};
pub use keep_alive::{KeepAlive, KeepAliveError};
pub use operator::Order;
pub use query::{Consistency, DiscoverQuery, Federated, Filters, PickQuery, RankBy, Sort, WatchQuery, WatchStart};
pub use rollcall_api as api;
pub use rollcall_api::{
    HeartbeatRequest, Problem, RegisterRequest, ResumePoint, ServiceObject, ServiceUpdate, UpdateType,
};
pub use tls::TlsTrouble;
pub use watch::{InitCause, Watch, WatchEvent};
