//! New instances, each with an id of its own.

use std::sync::Arc;
use std::time::Duration;

use hyper::{StatusCode, Uri};
use serde_json::json;

use super::{Finished, Operation, Run, each, loop_load, loop_parameters, ms};
use crate::args::{Common, Rate, Sessions, Window, parse_positive_duration};
use crate::documents::{Documents, Shape};
use crate::engine;
use crate::enrol::REGISTER;
use crate::error::{Error, RequestError};
use crate::http::{Call, Connection};

/// How many names the instances share.
pub(super) const SERVICES: u64 = 1_000;

#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    #[command(flatten)]
    sessions: Sessions,
    #[command(flatten)]
    window: Window,
    #[command(flatten)]
    rate: Rate,
    #[command(flatten)]
    content: Content,
    /// How long an instance stands that is not renewed
    #[arg(long, default_value = "30s", value_parser = parse_positive_duration)]
    ttl: Duration,
    #[command(flatten)]
    pub(super) common: Common,
}

/// What registrations hold.
#[derive(clap::Args, Clone, Debug)]
pub(super) struct Content {
    /// The size of each new instance's metadata
    #[arg(long, value_name = "BYTES", default_value_t = 300, value_parser = clap::value_parser!(u32).range(..=60_000))]
    pub(super) metadata_bytes: u32,
}

impl Content {
    /// Instances of this run, of 1,000 services.
    pub(super) fn documents(&self, run: &Run, kind: &str, ttl: Duration) -> Arc<Documents> {
        let (bytes, ttl_ms) = (self.metadata_bytes as usize, ms(ttl));
        let shape = |number| Shape::usual(format!("bench-{kind}-{number}"), number, bytes, ttl_ms);
        Arc::new(Documents::new(format!("bench-{kind}-{}-", run.name), (0..SERVICES).map(shape)))
    }
}

impl Args {
    pub(super) async fn run(&self, run: &Run) -> Result<Finished, Error> {
        let documents = self.content.documents(run, "register", self.ttl);
        let connections = run.target.connect(self.sessions.node, self.sessions.sessions).await?;
        let sessions = each(connections, |_| Register { documents: documents.clone() });
        let load = loop_load("register", &["register"], &self.window, &self.rate);
        let (measured, _) = engine::run(&load, sessions, &run.processes).await;
        let own = json!({ "metadata_bytes": self.content.metadata_bytes, "ttl_ms": ms(self.ttl) });
        let own = loop_parameters(&self.sessions, &self.window, &self.rate, own);
        Ok(run.finish(run.report("register", own, &measured)))
    }
}

/// Registers the document of the operation's number, which must be new.
pub(super) struct Register {
    pub(super) documents: Arc<Documents>,
}

impl Operation for Register {
    async fn operate(&mut self, connection: &mut Connection, number: u64) -> Result<u64, RequestError> {
        let call = Call::post(Uri::from_static(REGISTER), self.documents.render(number)).expect(StatusCode::CREATED);
        connection.send(&call).await?;
        Ok(1)
    }
}
