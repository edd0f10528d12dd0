//! Changes of one service, and how long until all its watchers have seen each: as `rollcall bench watch` does it, with
//! puts of keys that are there, on leases that stay.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hdrhistogram::Histogram;
use rollcall_bench::args::{Common, Node, Rate, Sessions, Window};
use rollcall_bench::documents::Documents;
use rollcall_bench::{Board, Done, NotSeen, Processes, Report, Session, chain, histogram, note, percentiles};
use rollcall_tests::etcd::{EtcdClient, EtcdError, Watch, range_of_prefix};
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::target::Target;
use crate::work::{LASTING_TTL, documents, enrol, key_prefix, load, loop_parameters, ms, run_name};

#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Args {
    /// How many watch, each on a connection of its own
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    watchers: u32,
    /// Which node they watch at: the first endpoint, or the cluster's leader, or the first of its followers
    #[arg(long, value_enum, default_value_t)]
    at: Node,
    /// How many connections changes are sent on, each with one change at a time until all watchers have seen it
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    sessions: u16,
    /// Which nodes changes are sent to: those of the endpoints in turn, or only the cluster's leader, or only its followers
    #[arg(long, value_enum, default_value_t)]
    node: Node,
    #[command(flatten)]
    window: Window,
    #[command(flatten)]
    rate: Rate,
    /// How many keys the service has; they are registered first, and changed in turn
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    instances: u32,
    #[command(flatten)]
    pub(crate) common: Common,
}

impl Args {
    pub(crate) async fn run(&self, target: &Target, processes: &Processes) -> Result<Report, Box<dyn Error>> {
        let documents = documents(&format!("watch-{}", run_name()), 300, ms(LASTING_TTL));
        let sessions = Sessions { sessions: self.sessions, node: self.node };
        let leases = enrol(target, &sessions, &documents, self.instances.into(), LASTING_TTL).await?;

        let watched = target.first(self.at).ok_or("the cluster has no such node to watch at")?;
        let board = Arc::new(Board::new(self.watchers.into()));
        // They watch until this is dropped.
        let mut watchers = JoinSet::new();
        for _ in 0..self.watchers {
            let client = EtcdClient::connect(watched, target.timeout).await?;
            let stream = client.watch(range_of_prefix(&key_prefix(&documents))).await?;
            watchers.spawn(watch(stream, board.clone()));
        }

        let change = |client| Change {
            client,
            documents: documents.clone(),
            key_prefix: key_prefix(&documents),
            leases: leases.clone(),
            board: board.clone(),
            timeout: target.timeout,
            first_us: histogram(),
            last_us: histogram(),
        };
        let changing = target.connect(self.node, self.sessions).await?.into_iter().map(change).collect();
        let load = load("watch", &self.window, &self.rate);
        let (measured, changed) = rollcall_bench::run(&load, changing, processes).await;

        let own = json!({ "watchers": self.watchers, "watched": watched, "instances": self.instances });
        let parameters = loop_parameters(&sessions, &self.window, &self.rate, target, own);
        let (mut first_us, mut last_us) = (histogram(), histogram());
        for session in &changed {
            first_us += &session.first_us;
            last_us += &session.last_us;
        }
        let mut report = Report::new("watch", "etcd", parameters, &measured).with_extra(json!({
            "seen_by_first_us": percentiles(&first_us), "seen_by_last_us": percentiles(&last_us),
        }));
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
    first_us: Histogram<u64>,
    last_us: Histogram<u64>,
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
        note(&mut self.first_us, seen.first - sent);
        note(&mut self.last_us, seen.last - sent);
        Ok(Done::items(self.board.watchers()))
    }

    fn warmed_up(&mut self) {
        self.first_us.reset();
        self.last_us.reset();
    }
}
