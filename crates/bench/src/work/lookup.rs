//! All instances of one service, by its name.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use hyper::Uri;
use rollcall_api::DiscoverResponse;
use serde_json::json;
use tokio::time::Instant;

use super::{Finished, Operation, Run, each, lasting_ttl_ms, loop_load, loop_parameters};
use crate::args::{Common, Rate, Sessions, Window};
use crate::documents::{Documents, Shape};
use crate::engine;
use crate::enrol::enrol;
use crate::error::{Error, RequestError};
use crate::http::{Call, Connection, Keep};

/// More instances than a page holds cannot be looked up by one request.
const PAGE_MAX: u32 = 1_000;

/// A node that is behind shows what was registered elsewhere within this time.
const SETTLE_TIME_MAX: Duration = Duration::from_secs(10);
const SETTLE_PAUSE: Duration = Duration::from_millis(20);

#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    #[command(flatten)]
    sessions: Sessions,
    #[command(flatten)]
    window: Window,
    #[command(flatten)]
    rate: Rate,
    /// How many instances the service has; they are registered first
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=i64::from(PAGE_MAX)))]
    instances: u32,
    /// Whether to show what the asked node has, or every write acknowledged before
    #[arg(long, value_enum, default_value_t)]
    consistency: Consistency,
    #[command(flatten)]
    pub(super) common: Common,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Consistency {
    #[default]
    Local,
    Linearizable,
}

impl Consistency {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Linearizable => "linearizable",
        }
    }
}

impl Args {
    pub(super) async fn run(&self, run: &Run) -> Result<Finished, Error> {
        let ttl_ms = lasting_ttl_ms(&self.window);
        let (service, documents) = service(self.instances, ttl_ms);
        let connections = run.target.connect(self.sessions.node, self.sessions.sessions).await?;
        let (_, mut connections) = enrol(connections, &documents, self.instances.into()).await?;
        let find = Find::by(&format!("name={service}"), self.instances, self.consistency);
        for connection in &mut connections {
            find.settle(connection)
                .await
                .map_err(|source| Error::Request { action: "look up the service", source })?;
        }

        let load = loop_load("lookup", &["lookup"], &self.window, &self.rate);
        let (measured, _) = engine::run(&load, each(connections, |_| find.clone()), &run.processes).await;
        let own = json!({ "instances": self.instances, "consistency": self.consistency.word(), "ttl_ms": ttl_ms });
        let own = loop_parameters(&self.sessions, &self.window, &self.rate, own);
        Ok(run.finish(run.report("lookup", own, &measured)))
    }
}

/// A service of so many instances, called after their number.
pub(super) fn service(instances: u32, ttl_ms: u64) -> (String, Arc<Documents>) {
    let name = format!("bench-lookup-{instances}");
    let shape = Shape::usual(name.clone(), 0, 300, ttl_ms);
    let documents = Documents::new(format!("{name}-"), [shape]);
    (name, Arc::new(documents))
}

/// One query that must always find the same number.
#[derive(Clone)]
pub(super) struct Find {
    call: Call,
    expected: u32,
}

impl Find {
    /// The filter must be coded as a URI is.
    pub(super) fn by(filter: &str, expected: u32, consistency: Consistency) -> Self {
        let limit = expected.clamp(1, PAGE_MAX);
        let uri = format!("/api/services?{filter}&limit={limit}&consistency={}", consistency.word());
        let call = Call::get(Uri::try_from(uri).expect("a filter is coded as a URI is")).keep(Keep::Tail);
        Self { call, expected }
    }

    /// Asks until this node shows what was registered at another, and looks through one whole answer.
    pub(super) async fn settle(&self, connection: &mut Connection) -> Result<(), RequestError> {
        let deadline = Instant::now() + SETTLE_TIME_MAX;
        loop {
            match self.whole(connection).await {
                Err(RequestError::Unexpected { .. }) if Instant::now() < deadline => {
                    tokio::time::sleep(SETTLE_PAUSE).await;
                }
                settled => return settled,
            }
        }
    }

    async fn whole(&self, connection: &mut Connection) -> Result<(), RequestError> {
        connection.send(&self.call.clone().keep(Keep::All)).await?;
        let answer: DiscoverResponse = serde_json::from_slice(connection.body())
            .map_err(|error| RequestError::Unexpected { what: format!("no list was answered: {error}") })?;
        if answer.services.len() != self.expected.min(PAGE_MAX) as usize {
            return Err(self.unexpected(answer.services.len()));
        }
        self.check(answer.total_count)
    }

    fn check(&self, found: u64) -> Result<(), RequestError> {
        if found == u64::from(self.expected) { Ok(()) } else { Err(self.unexpected(found)) }
    }

    fn unexpected(&self, found: impl std::fmt::Display) -> RequestError {
        RequestError::Unexpected { what: format!("{found} instances were found instead of {}", self.expected) }
    }

    /// Asks, and compares the number alone.
    pub(super) async fn ask(&self, connection: &mut Connection) -> Result<(), RequestError> {
        connection.send(&self.call).await?;
        self.check(tail_number(connection.body(), "total_count")?)
    }
}

impl Operation for Find {
    async fn operate(&mut self, connection: &mut Connection, _number: u64) -> Result<u64, RequestError> {
        self.ask(connection).await?;
        Ok(1)
    }
}

/// A number that stands behind the page in an answer, found from the end without reading the page.
pub(super) fn tail_number<T: FromStr>(body: &[u8], field: &str) -> Result<T, RequestError> {
    let key = format!("\"{field}\":");
    let at = body.windows(key.len()).rposition(|window| window == key.as_bytes());
    let number = at.and_then(|at| {
        let rest = &body[at + key.len()..];
        let end = rest.iter().position(|byte| matches!(byte, b',' | b'}')).unwrap_or(rest.len());
        std::str::from_utf8(&rest[..end]).ok()?.trim().parse().ok()
    });
    number.ok_or_else(|| RequestError::Unexpected { what: format!("the answer has no {field}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found_behind_the_page() {
        let body = br#"{"services":[{"total_count":1}],"total_count":100,"search_time_ms":0.125}"#;
        assert_eq!(tail_number::<u64>(body, "total_count").ok(), Some(100));
        assert_eq!(tail_number::<f64>(body, "search_time_ms").ok(), Some(0.125));
        assert!(tail_number::<u64>(body, "revision").is_err());
    }
}
