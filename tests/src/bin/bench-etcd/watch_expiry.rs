//! Leases that are renewed once more and then no longer, and how late a watcher at each node is told that their keys are
//! gone: as `rollcall bench watch-expiry` does it. etcd renews one lease at a time, so each has a deadline of its own.

use std::collections::HashMap;
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rollcall_bench::args::{Common, Node, Sessions, Silence};
use rollcall_bench::{Done, Lapses, Load, Processes, Report, Session, Span};
use rollcall_tests::etcd::{EtcdClient, EtcdError, KeepAlive, Watch, range_of_prefix};
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::target::Target;
use crate::work::{documents, enrol, key_prefix, ms, run_name};

/// As in `rollcall bench`: so many register at once.
const SESSIONS: Sessions = Sessions { sessions: 16, node: Node::Any };

/// Which key is there so long after its deadline stays there for good.
const LATENESS_MAX: Duration = Duration::from_secs(60);

/// The kind of an event that tells of a key that is gone.
const DELETED: i32 = 1;

#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Args {
    #[command(flatten)]
    silence: Silence,
    #[command(flatten)]
    pub(crate) common: Common,
}

impl Args {
    pub(crate) async fn run(&self, target: &Target, processes: &Processes) -> Result<Report, Box<dyn Error>> {
        let Silence { instances, ttl } = self.silence;
        let documents = documents(&format!("watch-expiry-{}", run_name()), 300, ms(ttl));
        let leases = enrol(target, &SESSIONS, &documents, instances.into(), ttl).await?;
        let mut streams = Vec::new();
        for address in &target.endpoints {
            let client = EtcdClient::connect(address, target.timeout).await?;
            streams.push(client.watch(range_of_prefix(&key_prefix(&documents))).await?);
        }

        let mut renewing = Vec::new();
        for client in target.connect(SESSIONS.node, SESSIONS.sessions).await? {
            let stream = client.keep_alive(leases[0]).await?;
            renewing.push(Renew { stream, leases: leases.clone(), sent: Vec::new() });
        }
        let span = Span::Count(instances.into());
        let load = Load { title: "watch-expiry", kinds: &["renewal"], span, rate_per_s: None };
        let (measured, renewed) = rollcall_bench::run(&load, renewing, processes).await;
        let deadline =
            |(number, sent): (u64, Instant)| (Bytes::from(format!("{}{number}", key_prefix(&documents))), sent + ttl);
        let deadlines = Arc::new(Deadlines {
            by_key: renewed.into_iter().flat_map(|session| session.sent).map(deadline).collect(),
        });

        let mut watchers = JoinSet::new();
        for stream in streams {
            watchers.spawn(until_gone(stream, deadlines.clone(), instances.into()));
        }
        let watched: Result<Vec<_>, EtcdError> = watchers.join_all().await.into_iter().collect();
        let parameters = json!({
            "endpoints": target.endpoints, "leader": target.leader(), "version": target.version,
            "instances": instances, "ttl_ms": ms(ttl),
        });
        Ok(Lapses::tell(watched?, Report::new("watch-expiry", "etcd", parameters, &measured)))
    }
}

/// When each lease may lapse at the earliest.
struct Deadlines {
    by_key: HashMap<Bytes, Instant>,
}

impl Deadlines {
    fn last(&self) -> Instant {
        self.by_key.values().copied().max().unwrap_or_else(Instant::now)
    }
}

async fn until_gone(mut stream: Watch, deadlines: Arc<Deadlines>, instances: u64) -> Result<Lapses, EtcdError> {
    let mut lapses = Lapses::new(stream.address(), instances);
    let until = deadlines.last() + LATENESS_MAX;
    while lapses.left() > 0 {
        // Those that are left are told of in the report.
        let Ok(events) = tokio::time::timeout_at(until, stream.next()).await else { break };
        for event in events?.iter().filter(|event| event.kind == DELETED) {
            if let Some(deadline) = deadlines.by_key.get(&event.key_value.key) {
                lapses.note(*deadline, 1);
            }
        }
    }
    Ok(lapses)
}

/// Renews the lease of the operation's number.
struct Renew {
    stream: KeepAlive,
    leases: Arc<Vec<i64>>,
    /// When, by the numbers.
    sent: Vec<(u64, Instant)>,
}

impl Session for Renew {
    type Error = EtcdError;

    async fn operate(&mut self, number: u64) -> Result<Done, EtcdError> {
        let sent = Instant::now();
        self.stream.renew(self.leases[number as usize]).await?;
        self.sent.push((number, sent));
        Ok(Done::items(1))
    }
}
