//! Changes of one service, and how long until all its watchers have seen each.
//!
//! All watchers are at one node, each on a connection of its own. A change replaces a registration by one with another
//! URL, at any of the nodes that are written to. Whoever made it makes the next one when all watchers have seen this
//! one, so an operation is a change that was acknowledged and seen by all. Beside it stands how long after it was sent
//! it was seen by the first watcher and by the last, whenever the acknowledgement came.

use std::sync::Arc;
use std::time::Duration;

use hyper::Uri;
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::lookup::tail_number;
use super::{Finished, Operation, Run, each, lasting_ttl_ms, loop_load, loop_parameters};
use crate::args::{Common, Rate, Watching, Window};
use crate::board::{Board, Delays};
use crate::documents::{Documents, Shape};
use crate::engine;
use crate::enrol::{REGISTER, enrol};
use crate::error::{Error, RequestError};
use crate::events::{EventStream, Kind, open_all};
use crate::http::{Call, Connection, Keep};
use crate::record::chain;

#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    #[command(flatten)]
    watching: Watching,
    #[command(flatten)]
    window: Window,
    #[command(flatten)]
    rate: Rate,
    #[command(flatten)]
    pub(super) common: Common,
}

impl Args {
    pub(super) fn check(&self) -> Result<(), Error> {
        if u32::from(self.watching.sessions().sessions) <= self.watching.instances {
            return Ok(());
        }
        // Of two changes of one instance at once, one could be none.
        Err(Error::Usage { what: "--sessions: there are fewer --instances than that".to_owned() })
    }

    pub(super) async fn run(&self, run: &Run) -> Result<Finished, Error> {
        let Watching { watchers, at, instances, .. } = self.watching;
        let (sessions, ttl_ms) = (self.watching.sessions(), lasting_ttl_ms(&self.window));
        let name = format!("bench-watch-{}", run.name);
        let documents = Arc::new(Documents::new(format!("{name}-"), [Shape::usual(name.clone(), 0, 300, ttl_ms)]));
        let connections = run.target.connect(sessions.node, sessions.sessions).await?;
        let (_, connections) = enrol(connections, &documents, instances.into()).await?;

        let watched = run.target.first(at).await?;
        let filter = move |_| format!("name={name}");
        let streams = open_all(&watched, run.target.timeout, watchers, filter).await?;
        let board = Arc::new(Board::new(watchers.into()));
        // They watch until this is dropped.
        let mut watches = JoinSet::new();
        for stream in streams {
            watches.spawn(watch(stream, board.clone()));
        }

        let changes = Arc::new(Changes { documents, instances: instances.into(), version: 0 });
        let change = |_| Change {
            changes: changes.clone(),
            board: board.clone(),
            timeout: run.target.timeout,
            delays: Delays::default(),
        };
        let load = loop_load("watch", &["change"], &self.window, &self.rate);
        let (measured, changed) = engine::run(&load, each(connections, change), &run.processes).await;

        let own = json!({
            "watchers": watchers, "watched": watched.authority, "instances": instances, "ttl_ms": ttl_ms,
        });
        let report = run.report("watch", loop_parameters(&sessions, &self.window, &self.rate, own), &measured);
        let delays = Delays::report(changed.iter().map(|session| &session.operation.delays));
        let mut report = report.with_extra(delays);
        if let Some(why) = board.lost() {
            report.add_error(format!("a watcher was lost: {why}"));
        }
        Ok(run.finish(report))
    }
}

/// Notes each change that comes.
async fn watch(mut stream: EventStream, board: Arc<Board>) {
    let (mut last, mut faulty) = (0, None);
    let lost = loop {
        let told = stream.next(|event| {
            if event.kind != Kind::Change {
                return;
            }
            match event.revision {
                Some(revision) if revision > last => {
                    last = revision;
                    board.note(revision);
                }
                revision => faulty = Some(format!("it was told of revision {revision:?} after {last}")),
            }
        });
        if let Err(error) = told.await {
            break chain(&error);
        }
        if let Some(faulty) = faulty.take() {
            break faulty;
        }
    };
    board.lose(lost);
}

/// Instances that are on the roll, changed in turn.
pub(super) struct Changes {
    pub(super) documents: Arc<Documents>,
    pub(super) instances: u64,
    /// What the first change makes of its instance. Below it are versions that were there before.
    pub(super) version: u64,
}

impl Changes {
    /// Makes a change that nobody has made yet; answers its revision.
    pub(super) async fn make(&self, connection: &mut Connection, number: u64) -> Result<u64, RequestError> {
        let document = self.documents.render_version(number % self.instances, self.version + number);
        let call = Call::post(Uri::from_static(REGISTER), document).keep(Keep::Tail);
        connection.send(&call).await?;
        tail_number(connection.body(), "revision")
    }
}

/// Makes a change and waits until all have seen it. Each watcher that saw it is an item.
struct Change {
    changes: Arc<Changes>,
    board: Arc<Board>,
    timeout: Duration,
    delays: Delays,
}

impl Operation for Change {
    async fn operate(&mut self, connection: &mut Connection, number: u64) -> Result<u64, RequestError> {
        let sent = Instant::now();
        let revision = self.changes.make(connection, number).await?;
        let seen = self.board.seen_by_all(revision, self.timeout).await?;
        self.delays.note(sent, seen);
        Ok(self.board.watchers())
    }

    fn warmed_up(&mut self) {
        self.delays.reset();
    }
}
