//! Many watchers to whom nothing happens, and what they cost.
//!
//! Four windows of the same length: changes without watchers, nothing, watchers alone, and both. What changes cost is
//! the first less the second, and the fourth less the third: bookmarks and what a node does by itself are left aside.
//! Each watcher asks for a service of its own that nobody registers, all at one node. The report's operations are the
//! changes beside the watchers.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::watch::Changes;
use super::{Finished, One, Operation, Run, each, lasting_ttl_ms, loop_load, loop_parameters, merge};
use crate::args::{Common, Node, Rate, Sessions, Window, parse_rate};
use crate::documents::{Documents, Shape};
use crate::engine::{self, Measured, Meter};
use crate::enrol::enrol;
use crate::error::{Error, RequestError};
use crate::events::{EventStream, Kind, open_all};
use crate::http::Connection;
use crate::record::chain;
use crate::report::{percentiles, rounded};
use crate::usage::NodeUsage;

/// How many names the changed instances share.
const SERVICES: u64 = 100;

/// Versions of the second run of changes begin here.
const VERSION_SECOND: u64 = 1 << 32;

#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// How many watch, each a service of its own on a connection of its own
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    watchers: u32,
    /// Which node they watch at: the first endpoint, or the cluster's leader, or the first of its followers
    #[arg(long, value_enum, default_value_t)]
    at: Node,
    #[command(flatten)]
    sessions: Sessions,
    /// `--duration` is the length of each of the four windows, `--warm-up` how long changes run before each of theirs
    #[command(flatten)]
    window: Window,
    /// Changes per second, of services that nobody watches
    #[arg(long, value_name = "N", default_value = "1000", value_parser = parse_rate)]
    rate: f64,
    /// How many instances are changed in turn; they are registered first
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    instances: u32,
    #[command(flatten)]
    pub(super) common: Common,
}

impl Args {
    pub(super) fn check(&self) -> Result<(), Error> {
        if u32::from(self.sessions.sessions) <= self.instances {
            return Ok(());
        }
        // Of two changes of one instance at once, one could be none.
        Err(Error::Usage { what: "--sessions: there are fewer --instances than that".to_owned() })
    }

    pub(super) async fn run(&self, run: &Run) -> Result<Finished, Error> {
        let ttl_ms = lasting_ttl_ms(&self.window);
        let name = format!("bench-unwatched-{}", run.name);
        let shape = |number| Shape::usual(format!("{name}-{number}"), number, 300, ttl_ms);
        let documents = Arc::new(Documents::new(format!("{name}-"), (0..SERVICES).map(shape)));
        let connections = run.target.connect(self.sessions.node, self.sessions.sessions).await?;
        let (_, connections) = enrol(connections, &documents, self.instances.into()).await?;

        let changes = |version| Changes { documents: documents.clone(), instances: self.instances.into(), version };
        let (changed, connections) = self.change(run, connections, changes(0)).await;
        let nothing = self.pause(run).await;
        let watched = run.target.first(self.at).await?;
        let filter = move |place| format!("name={name}-nobody-{place}");
        let streams = open_all(&watched, run.target.timeout, self.watchers, filter).await?;
        let tally = Arc::new(Tally::default());
        // They watch until this is dropped.
        let mut watchers = JoinSet::new();
        for stream in streams {
            watchers.spawn(watch(stream, tally.clone()));
        }
        let watching = self.pause(run).await;
        let bookmarks = tally.bookmarks.load(Ordering::Relaxed);
        let (both, _) = self.change(run, connections, changes(VERSION_SECOND)).await;

        let own = json!({
            "watchers": self.watchers, "watched": watched.authority, "instances": self.instances, "ttl_ms": ttl_ms,
        });
        let parameters = loop_parameters(&self.sessions, &self.window, &self.rate(), own);
        let (without_us, with_us) = (change_us(&changed, &nothing), change_us(&both, &watching));
        let quotient = |(with, without): (f64, f64)| (without > 0.0).then(|| rounded(with / without, 3));
        let mut report = run.report("watch-idle", parameters, &both).with_extra(json!({
            "rss_growth_per_watcher_bytes": rss_growth(&nothing, &watching).map(|bytes| rounded(bytes / f64::from(self.watchers), 1)),
            "server_cpu_us_per_change_without_watchers": without_us,
            "server_cpu_us_per_change_with_watchers": with_us,
            "server_cpu_with_against_without": with_us.zip(without_us).and_then(quotient),
            "bookmarks_of_watchers_alone": bookmarks,
            "windows": {
                "changes": told(&changed), "nothing": told(&nothing), "watchers": told(&watching), "both": told(&both),
            },
        }));
        report.errors += changed.errors;
        report.error_examples.extend(changed.error_examples);
        let (lost, told) = (tally.lost.load(Ordering::Relaxed), tally.changes.load(Ordering::Relaxed));
        if lost > 0 {
            report.add_error(format!("{lost} watchers were lost: {}", tally.why()));
        }
        if told > 0 {
            report.add_error(format!("{told} changes were told to watchers whom they do not concern"));
        }
        Ok(run.finish(report))
    }

    fn rate(&self) -> Rate {
        Rate { rate: Some(self.rate) }
    }

    /// One window with changes.
    async fn change(&self, run: &Run, connections: Vec<Connection>, changes: Changes) -> (Measured, Vec<Connection>) {
        let load = loop_load("watch-idle", &["change"], &self.window, &self.rate());
        let changes = Arc::new(changes);
        let sessions = each(connections, |_| Change(changes.clone()));
        let (measured, sessions) = engine::run(&load, sessions, &run.processes).await;
        (measured, sessions.into_iter().map(|One { connection, .. }| connection).collect())
    }

    /// One window without.
    async fn pause(&self, run: &Run) -> Measured {
        let meter = Meter::begin(&["nothing"], &run.processes);
        tokio::time::sleep(self.window.duration).await;
        meter.end(&run.processes)
    }
}

/// What came to watchers to whom nothing should come but bookmarks.
#[derive(Debug, Default)]
struct Tally {
    bookmarks: AtomicU64,
    changes: AtomicU64,
    lost: AtomicU64,
    /// Of the first that was lost.
    why: Mutex<Option<String>>,
}

impl Tally {
    fn why(&self) -> String {
        self.why.lock().unwrap_or_else(PoisonError::into_inner).clone().unwrap_or_default()
    }
}

async fn watch(mut stream: EventStream, tally: Arc<Tally>) {
    let lost = loop {
        let told = stream.next(|event| {
            let counter = if event.kind == Kind::Bookmark { &tally.bookmarks } else { &tally.changes };
            counter.fetch_add(1, Ordering::Relaxed);
        });
        if let Err(error) = told.await {
            break chain(&error);
        }
    };
    tally.lost.fetch_add(1, Ordering::Relaxed);
    tally.why.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(lost);
}

struct Change(Arc<Changes>);

impl Operation for Change {
    async fn operate(&mut self, connection: &mut Connection, number: u64) -> Result<u64, RequestError> {
        self.0.make(connection, number).await?;
        Ok(1)
    }
}

/// Of all nodes; none if one's is unknown.
fn cpu_s(measured: &Measured) -> Option<f64> {
    let all: Option<f64> = measured.nodes.iter().map(|node| node.cpu_s).sum();
    all.filter(|_| !measured.nodes.is_empty())
}

fn operations(measured: &Measured) -> u64 {
    measured.kinds.iter().map(|kind| kind.latency_us.len()).sum()
}

/// What each change costs the nodes beyond what they do without changes.
fn change_us(changed: &Measured, unchanged: &Measured) -> Option<f64> {
    let all_s = cpu_s(changed)? - cpu_s(unchanged)? * changed.seconds / unchanged.seconds;
    let changes = operations(changed);
    (changes > 0).then(|| rounded(all_s * 1e6 / changes as f64, 2))
}

/// At the node whose memory grew most from the end of one window to that of another: the watched one.
fn rss_growth(before: &Measured, after: &Measured) -> Option<f64> {
    let growth =
        |(before, after): (&NodeUsage, &NodeUsage)| Some(after.rss_bytes_end? as f64 - before.rss_bytes_end? as f64);
    let growths: Option<Vec<f64>> = before.nodes.iter().zip(&after.nodes).map(growth).collect();
    growths?.into_iter().max_by(f64::total_cmp)
}

fn told(measured: &Measured) -> Value {
    let mut told =
        json!({ "seconds": rounded(measured.seconds, 3), "server_cpu_s": cpu_s(measured).map(|s| rounded(s, 2)) });
    if operations(measured) > 0 {
        merge(
            &mut told,
            json!({
                "operations": operations(measured), "latency_us": percentiles(&measured.kinds[0].latency_us),
            }),
        );
    }
    told
}
