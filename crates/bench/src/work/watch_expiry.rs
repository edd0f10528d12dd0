//! Instances that all fall silent at once, and how late a watcher at each node is told of each.
//!
//! As with `expiry` all are renewed by one request, so all are due at once: a TTL after that request was sent, at the
//! earliest. The report's operations are the ends that were told, their latency is how late.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::expiry::{LATENESS_MAX, SESSIONS_MIN, renew};
use super::{Finished, Run, ms};
use crate::args::{Common, Node, Silence};
use crate::documents::{Documents, Shape};
use crate::engine::{Done, Meter};
use crate::enrol::enrol;
use crate::error::{Error, RequestError};
use crate::events::EventStream;
use crate::lapses::Lapses;
use crate::record::Record;

#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    #[command(flatten)]
    silence: Silence,
    #[command(flatten)]
    pub(super) common: Common,
}

impl Args {
    pub(super) async fn run(&self, run: &Run) -> Result<Finished, Error> {
        let Silence { instances, ttl } = self.silence;
        let name = format!("bench-watch-expiry-{}", run.name);
        let shape = Shape::usual(name.clone(), 0, 300, ms(ttl));
        let documents = Arc::new(Documents::new(format!("{name}-"), [shape]));
        let connections = run.target.connect(Node::Any, SESSIONS_MIN).await?;
        let (leases, mut connections) = enrol(connections, &documents, instances.into()).await?;
        let mut streams = Vec::new();
        for endpoint in &run.target.endpoints {
            let opened = EventStream::open(endpoint.clone(), run.target.timeout, &format!("name={name}")).await;
            streams.push(opened.map_err(|source| Error::Request { action: "open the watches", source })?);
        }

        let mut meter = Meter::begin(&["expired"], &run.processes);
        let sent = Instant::now();
        renew(&mut connections[0], leases).await?;
        let mut watchers = JoinSet::new();
        for stream in streams {
            watchers.spawn(Watcher::new(stream, instances.into(), sent + ttl).until_gone());
        }
        let watchers = watchers.join_all().await;
        for watcher in &watchers {
            meter.record.add(&watcher.record);
        }
        let own = json!({ "instances": instances, "ttl_ms": ms(ttl), "latency_from": "deadline" });
        let report = run.report("watch-expiry", own, &meter.end(&run.processes));
        let lapses = watchers.into_iter().map(|watcher| watcher.lapses).collect();
        Ok(run.finish(Lapses::tell(lapses, report)))
    }
}

/// One node's watcher.
struct Watcher {
    stream: EventStream,
    deadline: Instant,
    record: Record,
    lapses: Lapses,
}

impl Watcher {
    fn new(stream: EventStream, instances: u64, deadline: Instant) -> Self {
        let lapses = Lapses::new(&stream.endpoint().authority, instances);
        Self { stream, deadline, record: Record::new(&["expired"]), lapses }
    }

    async fn until_gone(mut self) -> Self {
        // Those that are left are told of in the report.
        if let Ok(Err(error)) = tokio::time::timeout_at(self.deadline + LATENESS_MAX, self.all()).await {
            self.record.error(&error);
        }
        self
    }

    async fn all(&mut self) -> Result<(), RequestError> {
        let Self { stream, deadline, record, lapses } = self;
        while lapses.left() > 0 {
            stream
                .next(|event| {
                    if event.expired {
                        lapses.note(*deadline, 1);
                        record.success(Done::items(1), deadline.elapsed(), Duration::ZERO);
                    }
                })
                .await?;
        }
        Ok(())
    }
}
