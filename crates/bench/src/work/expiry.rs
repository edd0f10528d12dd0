//! Instances that all fall silent at once, and how late each node strikes them off.
//!
//! All are renewed by one request, so all are due at once: a TTL after that request was sent, at the earliest. From
//! then on each node is asked again and again how many are left; a step down between two answers is that many
//! instances whose end was seen when the second answer came.

use std::sync::Arc;
use std::time::Duration;

use hyper::Uri;
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::heartbeat::{batch_answer, batch_call};
use super::lookup::{Consistency, Find, tail_number};
use super::{Finished, Run, ms};
use crate::args::{Common, Node, Silence};
use crate::documents::{Documents, Shape};
use crate::engine::{Done, Meter};
use crate::enrol::enrol;
use crate::error::{Error, RequestError};
use crate::http::{Call, Connection, Keep};
use crate::lapses::Lapses;
use crate::record::Record;

/// So many register at once, and one more for each node.
pub(super) const SESSIONS_MIN: u16 = 16;

/// How long a node that was asked is left alone.
const POLL_PAUSE: Duration = Duration::from_millis(10);

/// Whoever is on the roll so long after the deadline stays there for good.
pub(super) const LATENESS_MAX: Duration = Duration::from_secs(60);

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
        let name = format!("bench-expiry-{}", run.name);
        let shape = Shape::usual(name.clone(), 0, 300, ms(ttl));
        let documents = Arc::new(Documents::new(format!("{name}-"), [shape]));
        let nodes = u16::try_from(run.target.endpoints.len()).unwrap_or(u16::MAX);
        let connections = run.target.connect(Node::Any, SESSIONS_MIN.saturating_add(nodes)).await?;
        let (leases, mut connections) = enrol(connections, &documents, instances.into()).await?;

        // The connections stand at the endpoints in turn: these are one for each.
        let mut watching = connections.split_off(connections.len() - usize::from(nodes));
        let find = Find::by(&format!("name={name}"), instances, Consistency::Local);
        for connection in &mut watching {
            let settled = find.settle(connection).await;
            settled.map_err(|source| Error::Request { action: "look up the instances", source })?;
        }

        let mut meter = Meter::begin(&["poll"], &run.processes);
        let sent = Instant::now();
        renew(&mut connections[0], leases).await?;
        let mut watches = JoinSet::new();
        for connection in watching {
            watches.spawn(Watch::new(connection, &name, instances, sent + ttl).until_gone());
        }
        let watches = watches.join_all().await;
        for watch in &watches {
            meter.record.add(&watch.record);
        }
        let own = json!({ "instances": instances, "ttl_ms": ms(ttl), "poll_pause_ms": ms(POLL_PAUSE) });
        let report = run.report("expiry", own, &meter.end(&run.processes));
        let lapses = watches.into_iter().map(|watch| watch.lapses).collect();
        Ok(run.finish(Lapses::tell(lapses, report)))
    }
}

/// One node, asked until nobody is left.
struct Watch {
    connection: Connection,
    call: Call,
    deadline: Instant,
    record: Record,
    lapses: Lapses,
}

impl Watch {
    fn new(connection: Connection, name: &str, instances: u32, deadline: Instant) -> Self {
        let uri =
            Uri::try_from(format!("/api/services?name={name}&limit=1")).expect("a bench's names need no coding");
        Self {
            lapses: Lapses::new(&connection.endpoint().authority, instances.into()),
            connection,
            call: Call::get(uri).keep(Keep::Tail),
            deadline,
            record: Record::new(&["poll"]),
        }
    }

    async fn until_gone(mut self) -> Self {
        while self.lapses.left() > 0 && Instant::now() < self.deadline + LATENESS_MAX {
            let asked = Instant::now();
            match self.poll().await {
                Ok(left) => {
                    let gone = self.lapses.left().saturating_sub(left);
                    self.lapses.note(self.deadline, gone);
                    self.record.success(Done::items(gone), asked.elapsed(), Duration::ZERO);
                }
                Err(error) => self.record.error(&error),
            }
            tokio::time::sleep(POLL_PAUSE).await;
        }
        self
    }

    async fn poll(&mut self) -> Result<u64, RequestError> {
        self.connection.send(&self.call).await?;
        tail_number(self.connection.body(), "total_count")
    }
}

/// Renews all, which must all be there.
pub(super) async fn renew(connection: &mut Connection, leases: Vec<u64>) -> Result<(), Error> {
    let count = leases.len() as u64;
    let failed = |source| Error::Request { action: "renew all instances", source };
    connection.send(&batch_call(leases)).await.map_err(failed)?;
    let renewed = batch_answer(connection).map_err(failed)?.renewed;
    if renewed == count {
        return Ok(());
    }
    let what = format!("only {renewed} of {count} were still there; give them a longer --ttl");
    Err(failed(RequestError::Unexpected { what }))
}
