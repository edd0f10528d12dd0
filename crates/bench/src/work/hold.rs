//! Many instances kept on the roll by timely heartbeats, as the hosts of many agents do it, and lookups beside it. The
//! report's operations are the batches of heartbeats; the processor time it gives for each includes the lookups'.
//!
//! Leases stand in blocks, each renewed by one request. While the instances are being registered the blocks that are
//! full are renewed as they become due. Then each block gets its place in an even plan, the one that was touched
//! longest ago first, so that no lease waits longer than twice the interval.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyper::Uri;
use serde_json::json;
use tokio::time::Instant;

use super::heartbeat::{batch_answer, batch_call};
use super::lookup::{Consistency, Find, tail_number};
use super::{Finished, One, Operation, Run, each, ms};
use crate::args::{Common, Sessions, Window, parse_positive_duration, parse_rate};
use crate::documents::{Documents, Shape};
use crate::engine::{self, Done, Load, Session, Span};
use crate::enrol::register;
use crate::error::{Error, RequestError};
use crate::http::{Call, Connection, Keep};
use crate::report::{per, percentiles, rounded};
use crate::usage::Processes;

/// How many instances a service has.
const SERVICE_INSTANCES: u32 = 100;

/// Enough for a few hundred lookups a second, each of some milliseconds.
const LOOKUP_SESSIONS: u16 = 16;

const METADATA_BYTES: usize = 300;

#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    #[command(flatten)]
    sessions: Sessions,
    #[command(flatten)]
    window: Window,
    /// How many instances are held
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..))]
    instances: u32,
    /// How long an instance stands that is not renewed
    #[arg(long, default_value = "60s", value_parser = parse_positive_duration)]
    ttl: Duration,
    /// How often each instance is renewed
    #[arg(long, default_value = "20s", value_parser = parse_positive_duration)]
    every: Duration,
    /// How many are renewed by one request
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    batch: u32,
    /// Lookups per second beside the heartbeats
    #[arg(long, value_name = "N", default_value = "100", value_parser = parse_rate)]
    lookup_rate: f64,
    #[command(flatten)]
    pub(super) common: Common,
}

impl Args {
    pub(super) fn check(&self) -> Result<(), Error> {
        if self.every.saturating_mul(2) < self.ttl {
            return Ok(());
        }
        Err(Error::Usage { what: "--every: must be less than half of --ttl".to_owned() })
    }

    pub(super) async fn run(&self, run: &Run) -> Result<Finished, Error> {
        let roll = HeldRoll::new(run, self.instances, ms(self.ttl));
        let connections = run.target.connect(self.sessions.node, self.sessions.sessions).await?;
        let fill_begun = Instant::now();
        let (plan, connections) = self.fill(connections, &roll).await?;
        let fill_s = fill_begun.elapsed().as_secs_f64();

        let span = Span::Window { warm_up: self.window.warm_up, duration: self.window.duration };
        let beats_per_s = plan.blocks.len() as f64 / self.every.as_secs_f64();
        let beats = Load { title: "hold", kinds: &["heartbeats"], span, rate_per_s: Some(beats_per_s) };
        let lookups = Load { title: "lookups", kinds: &["lookup"], span, rate_per_s: Some(self.lookup_rate) };
        let plan = Arc::new(plan);
        let beat = |_| Renew { plan: plan.clone() };
        let finds = roll.finds();
        let lookup = |_| Lookup { finds: finds.clone() };
        let mut looking = run.target.connect(self.sessions.node, LOOKUP_SESSIONS).await?;
        for connection in &mut looking {
            let settled = finds[roll.last_service()].settle(connection).await;
            settled.map_err(|source| Error::Request { action: "look up a service", source })?;
        }
        let looking = each(looking, lookup);
        let unwatched = Processes::default();
        let ((measured, _), (looked, mut looking)) = tokio::join!(
            engine::run(&beats, each(connections, beat), &run.processes),
            engine::run(&lookups, looking, &unwatched),
        );

        let present = match looking.first_mut() {
            Some(One { connection, .. }) => roll.count(connection).await?,
            None => 0,
        };
        let own = json!({
            "sessions": self.sessions.sessions, "node": self.sessions.node.word(),
            "warm_up_ms": ms(self.window.warm_up), "duration_ms": ms(self.window.duration),
            "instances": self.instances, "ttl_ms": ms(self.ttl), "every_ms": ms(self.every), "batch": self.batch,
            "lookup_rate_per_s": self.lookup_rate, "latency_from": "planned begin",
        });
        let report = run.report("hold", own, &measured);
        let renewals_per_s = report.items_per_s;
        let (lapsed, lookup) = (plan.lapsed().len(), &looked.kinds[0].latency_us);
        let mut report = report.with_extra(json!({
            "fill_s": rounded(fill_s, 3),
            "fill_per_s": per(self.instances.into(), fill_s),
            "renewals_per_s": renewals_per_s,
            "lapsed": lapsed,
            "present_at_end": present,
            "lookups": lookup.len(),
            "lookups_per_s": per(lookup.len() as f64, looked.seconds),
            "lookup_errors": looked.errors,
            "lookup_latency_us": percentiles(lookup),
        }));
        report.errors += looked.errors;
        report.error_examples.extend(looked.error_examples);
        if present != u64::from(self.instances) {
            report.add_error(format!("{present} of {} instances are on the roll at the end", self.instances));
        }
        Ok(run.finish(report))
    }

    /// Registers all, and renews meanwhile what is due.
    async fn fill(&self, connections: Vec<Connection>, roll: &HeldRoll) -> Result<(Plan, Vec<Connection>), Error> {
        let ledger = Arc::new(Mutex::new(Ledger::new(self.instances, self.batch, self.every)));
        let fill = |connection| Filling { connection, documents: roll.documents.clone(), ledger: ledger.clone() };
        let sessions = connections.into_iter().map(fill).collect();
        let count = u64::from(self.instances);
        let load = Load { title: "set up", kinds: &["register"], span: Span::Count(count), rate_per_s: None };
        let (measured, sessions) = engine::run(&load, sessions, &Processes::default()).await;
        if measured.errors > 0 {
            let example = measured.error_examples.into_iter().next().unwrap_or_default();
            return Err(Error::SetUp { count, failed: measured.errors, example });
        }
        let connections = sessions.into_iter().map(|session| session.connection).collect();
        let plan = locked(&ledger).plan();
        Ok((plan, connections))
    }
}

/// This run's instances, as they can be found.
struct HeldRoll {
    documents: Arc<Documents>,
    names: Vec<String>,
    instances: u32,
    tag: String,
}

impl HeldRoll {
    fn new(run: &Run, instances: u32, ttl_ms: u64) -> Self {
        let tag = format!("held-{}", run.name);
        let services = instances.div_ceil(SERVICE_INSTANCES);
        let name = |service: u32| format!("bench-hold-{}-{service}", run.name);
        let shape = |service| {
            let mut shape = Shape::usual(name(service), service.into(), METADATA_BYTES, ttl_ms);
            shape.tags[0].clone_from(&tag);
            shape
        };
        let documents = Documents::new(format!("bench-hold-{}-", run.name), (0..services).map(shape));
        Self { documents: Arc::new(documents), names: (0..services).map(name).collect(), instances, tag }
    }

    /// A lookup of each service; every instance of it must be there.
    fn finds(&self) -> Arc<Vec<Find>> {
        let services = self.names.len() as u32;
        let find = |(service, name): (u32, &String)| {
            let instances = self.instances / services + u32::from(service < self.instances % services);
            Find::by(&format!("name={name}"), instances, Consistency::Local)
        };
        Arc::new((0..).zip(&self.names).map(find).collect())
    }

    /// The service of the instance that was registered last.
    fn last_service(&self) -> usize {
        (self.instances as usize - 1) % self.names.len()
    }

    async fn count(&self, connection: &mut Connection) -> Result<u64, Error> {
        let uri = format!("/api/services?tags={}&limit=1&consistency=linearizable", self.tag);
        let call = Call::get(Uri::try_from(uri).expect("a bench's tags need no coding")).keep(Keep::All);
        let counted = match connection.send(&call).await {
            Ok(()) => tail_number(connection.body(), "total_count"),
            Err(error) => Err(error),
        };
        counted.map_err(|source| Error::Request { action: "count the instances", source })
    }
}

/// What is registered so far, and when it has to be renewed.
struct Ledger {
    leases: Vec<u64>,
    batch: usize,
    every: Duration,
    /// Of each full block.
    touched: Vec<Instant>,
    /// In the order of time.
    due: VecDeque<(Instant, usize)>,
}

impl Ledger {
    fn new(instances: u32, batch: u32, every: Duration) -> Self {
        let leases = Vec::with_capacity(instances as usize);
        Self { leases, batch: batch as usize, every, touched: Vec::new(), due: VecDeque::new() }
    }

    fn add(&mut self, lease: u64, now: Instant) {
        self.leases.push(lease);
        if self.leases.len().is_multiple_of(self.batch) {
            self.due.push_back((now + self.every, self.touched.len()));
            self.touched.push(now);
        }
    }

    /// The leases of a block that is due, which the caller renews now.
    fn take_due(&mut self, now: Instant) -> Option<Vec<u64>> {
        let (_, block) = *self.due.front().filter(|(due, _)| *due <= now)?;
        self.due.pop_front();
        self.due.push_back((now + self.every, block));
        self.touched[block] = now;
        Some(self.leases.chunks(self.batch).nth(block)?.to_vec())
    }

    /// The blocks, the one that was touched longest ago first.
    fn plan(&mut self) -> Plan {
        let mut blocks: Vec<_> = std::mem::take(&mut self.leases).chunks(self.batch).map(<[u64]>::to_vec).collect();
        let touched = |place: usize| self.touched.get(place).copied();
        let mut order: Vec<usize> = (0..blocks.len()).collect();
        // The last block may not be full; it was touched last.
        order.sort_by_key(|place| (touched(*place).is_none(), touched(*place)));
        let blocks = order.into_iter().map(|place| std::mem::take(&mut blocks[place])).collect();
        Plan { blocks, lapsed: Mutex::new(BTreeSet::new()) }
    }
}

/// The blocks in the order in which they are renewed, over and over.
struct Plan {
    blocks: Vec<Vec<u64>>,
    lapsed: Mutex<BTreeSet<u64>>,
}

impl Plan {
    fn lapsed(&self) -> MutexGuard<'_, BTreeSet<u64>> {
        locked(&self.lapsed)
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Renews leases that must all be there.
async fn renew(connection: &mut Connection, leases: Vec<u64>) -> Result<(u64, Vec<u64>), RequestError> {
    connection.send(&batch_call(leases)).await?;
    let answer = batch_answer(connection)?;
    Ok((answer.renewed, [answer.not_found, answer.superseded].concat()))
}

fn lost(count: usize) -> RequestError {
    RequestError::Unexpected { what: format!("{count} leases of a batch have lapsed") }
}

/// Registers one instance after another, but renews first what is due.
struct Filling {
    connection: Connection,
    documents: Arc<Documents>,
    ledger: Arc<Mutex<Ledger>>,
}

impl Session for Filling {
    type Error = RequestError;

    async fn operate(&mut self, number: u64) -> Result<Done, RequestError> {
        loop {
            let due = locked(&self.ledger).take_due(Instant::now());
            let Some(leases) = due else { break };
            let (_, lapsed) = renew(&mut self.connection, leases).await?;
            if !lapsed.is_empty() {
                return Err(lost(lapsed.len()));
            }
        }
        let begun = Instant::now();
        let lease = register(&mut self.connection, &self.documents, number).await?;
        locked(&self.ledger).add(lease, begun);
        Ok(Done::items(1))
    }
}

/// Renews the block whose turn it is.
struct Renew {
    plan: Arc<Plan>,
}

impl Operation for Renew {
    async fn operate(&mut self, connection: &mut Connection, number: u64) -> Result<u64, RequestError> {
        let block = (number % self.plan.blocks.len() as u64) as usize;
        let (renewed, lapsed) = renew(connection, self.plan.blocks[block].clone()).await?;
        if lapsed.is_empty() {
            return Ok(renewed);
        }
        let count = lapsed.len();
        self.plan.lapsed().extend(lapsed);
        Err(lost(count))
    }
}

/// Looks up one service after another.
struct Lookup {
    finds: Arc<Vec<Find>>,
}

impl Operation for Lookup {
    async fn operate(&mut self, connection: &mut Connection, number: u64) -> Result<u64, RequestError> {
        // A step that shares no divisor with most numbers of services, so that neighbours are far apart.
        let place = number.wrapping_mul(7_919) % self.finds.len() as u64;
        self.finds[place as usize].ask(connection).await?;
        Ok(1)
    }
}
