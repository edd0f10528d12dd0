//! Changes of one service, and how long until all its watchers have seen each: as `rollcall bench watch` does it, with
//! puts of keys that are there, on leases that stay.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rollcall_bench::args::{Common, Rate, Watching, Window};
use rollcall_bench::documents::Documents;
use rollcall_bench::{Board, Delays, Done, NotSeen, Processes, Report, Session, chain};
use rollcall_tests::etcd::{EtcdClient, EtcdError, Watch, range_of_prefix};
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::target::Target;
use crate::work::{LASTING_TTL, documents, enrol, key_prefix, load, loop_parameters, ms, run_name};

#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Args {
    #[command(flatten)]
    watching: Watching,
    #[command(flatten)]
    window: Window,
    #[command(flatten)]
    rate: Rate,
    #[command(flatten)]
    pub(crate) common: Common,
}

impl Args {
    pub(crate) async fn run(&self, target: &Target, processes: &Processes) -> Result<Report, Box<dyn Error>> {
        let documents = documents(&format!("watch-{}", run_name()), 300, ms(LASTING_TTL));
        let (Watching { watchers, at, instances, .. }, sessions) = (self.watching, self.watching.sessions());
        let leases = enrol(target, &sessions, &documents, instances.into(), LASTING_TTL).await?;

        let watched = target.first(at).ok_or("the cluster has no such node to watch at")?;
        let board = Arc::new(Board::new(watchers.into()));
        // They watch until this is dropped.
        let mut watches = JoinSet::new();
        for _ in 0..watchers {
            let client = EtcdClient::connect(watched, target.timeout).await?;
            let stream = client.watch(range_of_prefix(&key_prefix(&documents))).await?;
            watches.spawn(watch(stream, board.clone()));
        }

        let change = |client| Change {
            client,
            documents: documents.clone(),
            key_prefix: key_prefix(&documents),
            leases: leases.clone(),
            board: board.clone(),
            timeout: target.timeout,
            delays: Delays::default(),
        };
        let changing = target.connect(sessions.node, sessions.sessions).await?.into_iter().map(change).collect();
        let load = load("watch", &self.window, &self.rate);
        let (measured, changed) = rollcall_bench::run(&load, changing, processes).await;

        let own = json!({ "watchers": watchers, "watched": watched, "instances": instances });
        let parameters = loop_parameters(&sessions, &self.window, &self.rate, target, own);
        let delays = Delays::report(changed.iter().map(|session| &session.delays));
        let mut report = Report::new("watch", "etcd", parameters, &measured).with_extra(delays);
        if let Some(why) = board.lost() {
            report.add_error(format!("a watcher was lost: {why}"));
        }
        Ok(report)
    }
}

/// Notes each change that comes.
async fn watch(mut stream: Watch, board: Arc<Board>) {
    let lost = loop {
        match stream.next().await {
            Ok(events) => events.iter().for_each(|event| board.note(event.key_value.mod_revision as u64)),
            Err(error) => break chain(&error),
        }
    };
    board.lose(lost);
}

/// Puts a document that differs from the one before and waits until all have seen it. Each watcher that saw it is an
/// item.
struct Change {
    client: EtcdClient,
    documents: Arc<Documents>,
    key_prefix: String,
    leases: Arc<Vec<i64>>,
    board: Arc<Board>,
    timeout: Duration,
    delays: Delays,
}

/// Why a change was not made, or not seen.
#[derive(Debug, thiserror::Error)]
enum ChangeError {
    #[error("put the key")]
    Put(#[from] EtcdError),
    #[error(transparent)]
    NotSeen(#[from] NotSeen),
}

impl Session for Change {
    type Error = ChangeError;

    async fn operate(&mut self, number: u64) -> Result<Done, ChangeError> {
        let instance = number % self.leases.len() as u64;
        let key = Bytes::from(format!("{}{instance}", self.key_prefix));
        let document = self.documents.render_version(instance, number);
        let sent = Instant::now();
        let revision = self.client.put(key, document, self.leases[instance as usize]).await?;
        let seen = self.board.seen_by_all(revision as u64, self.timeout).await?;
        self.delays.note(sent, seen);
        Ok(Done::items(self.board.watchers()))
    }

    fn warmed_up(&mut self) {
        self.delays.reset();
    }
}
