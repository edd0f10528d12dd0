//! The works: one file for each.

mod expiry;
mod failover;
mod fill;
mod heartbeat;
mod hold;
mod lookup;
mod mixed;
mod query;
mod register;
mod transfer;
mod watch;
mod watch_expiry;
mod watch_idle;

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rand::SeedableRng;
use rand::rngs::SmallRng;
use serde_json::{Value, json};

use crate::args::{Common, Rate, Sessions, Window};
use crate::engine::{Done, Load, Measured, Session, Span};
use crate::error::{Error, RequestError};
use crate::files::raise_open_files;
use crate::http::{Connection, Endpoint};
use crate::report::Report;
use crate::target::{Access, Target};
use crate::usage::Processes;

/// Put load on the cluster and measure it
#[derive(clap::Subcommand, Clone, Debug)]
pub enum Work {
    /// New instances, each with an id of its own
    Register(register::Args),
    /// Renewals, one by one or in batches
    Heartbeat(heartbeat::Args),
    /// All instances of one service, by its name
    Lookup(lookup::Args),
    /// A capability, a tag and a label out of many: the few instances that have all three
    Query(query::Args),
    /// Heartbeats, lookups, queries and registrations together, by weight
    Mixed(Box<mixed::Args>),
    /// So many new instances as fast as they are taken, and what they cost in memory
    Fill(fill::Args),
    /// Many instances kept on the roll by timely heartbeats, and how many are lost
    Hold(hold::Args),
    /// Instances that all fall silent at once, and how late each node strikes them off
    Expiry(expiry::Args),
    /// The leader is killed, and how long no write is taken
    Failover(failover::Args),
    /// The lead is handed over again and again, and how long no write is taken each time
    Transfer(transfer::Args),
    /// Changes of one service, and how long until all its watchers have seen each
    Watch(watch::Args),
    /// Many watchers to whom nothing happens while others' services change, and what they cost
    WatchIdle(watch_idle::Args),
    /// Instances that all fall silent at once, and how late a watcher at each node is told of it
    WatchExpiry(watch_expiry::Args),
}

/// A work that came to its end.
#[derive(Clone, Debug)]
pub struct Finished {
    pub report: Report,
    /// The caller wants success in spite of errors.
    pub tolerate_errors: bool,
}

impl Work {
    /// Does the work.
    ///
    /// # Errors
    /// When it cannot be done at all. Errors while it is done are counted in the report.
    pub async fn run(self, access: Access) -> Result<Finished, Error> {
        self.check()?;
        let run = Run::begin(access, self.common()).await?;
        match self {
            Self::Register(args) => args.run(&run).await,
            Self::Heartbeat(args) => args.run(&run).await,
            Self::Lookup(args) => args.run(&run).await,
            Self::Query(args) => args.run(&run).await,
            Self::Mixed(args) => args.run(&run).await,
            Self::Fill(args) => args.run(&run).await,
            Self::Hold(args) => args.run(&run).await,
            Self::Expiry(args) => args.run(&run).await,
            Self::Failover(args) => args.run(&run).await,
            Self::Transfer(args) => args.run(&run).await,
            Self::Watch(args) => args.run(&run).await,
            Self::WatchIdle(args) => args.run(&run).await,
            Self::WatchExpiry(args) => args.run(&run).await,
        }
    }

    /// Refuses flags that do not go together, before anybody is asked anything.
    fn check(&self) -> Result<(), Error> {
        match self {
            Self::Heartbeat(args) => args.check(),
            Self::Query(args) => args.check(),
            Self::Mixed(args) => args.check(),
            Self::Hold(args) => args.check(),
            Self::Failover(args) => args.check(),
            Self::Watch(args) => args.check(),
            Self::WatchIdle(args) => args.check(),
            Self::Register(_)
            | Self::Lookup(_)
            | Self::Fill(_)
            | Self::Expiry(_)
            | Self::Transfer(_)
            | Self::WatchExpiry(_) => Ok(()),
        }
    }

    fn common(&self) -> &Common {
        match self {
            Self::Register(args) => &args.common,
            Self::Heartbeat(args) => &args.common,
            Self::Lookup(args) => &args.common,
            Self::Query(args) => &args.common,
            Self::Mixed(args) => &args.common,
            Self::Fill(args) => &args.common,
            Self::Hold(args) => &args.common,
            Self::Expiry(args) => &args.common,
            Self::Failover(args) => &args.common,
            Self::Transfer(args) => &args.common,
            Self::Watch(args) => &args.common,
            Self::WatchIdle(args) => &args.common,
            Self::WatchExpiry(args) => &args.common,
        }
    }
}

/// What every work begins with.
struct Run {
    target: Target,
    processes: Processes,
    /// Tells this run's instances from those of every other run.
    name: String,
    seed: u64,
    tolerate_errors: bool,
}

impl Run {
    async fn begin(access: Access, common: &Common) -> Result<Self, Error> {
        raise_open_files();
        let target = Target::find(access).await?;
        let processes = target.processes(common).await;
        let unix_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let (seed, tolerate_errors) = (common.seed, common.tolerate_errors);
        Ok(Self { target, processes, name: format!("{unix_ms:x}"), seed, tolerate_errors })
    }

    fn random(&self, session: usize) -> SmallRng {
        SmallRng::seed_from_u64(self.seed.wrapping_mul(1_000_003).wrapping_add(session as u64))
    }

    /// The parameters that say where, and those of the work.
    fn parameters(&self, own: Value) -> Value {
        let authority = |endpoint: &Arc<Endpoint>| endpoint.authority.clone();
        let endpoints: Vec<_> = self.target.endpoints.iter().map(authority).collect();
        let mut all = json!({ "endpoints": endpoints, "leader": self.target.leader_address(), "seed": self.seed });
        merge(&mut all, own);
        all
    }

    fn finish(&self, report: Report) -> Finished {
        Finished { report, tolerate_errors: self.tolerate_errors }
    }

    fn report(&self, work: &str, own: Value, measured: &Measured) -> Report {
        Report::new(work, "rollcall", self.parameters(own), measured)
    }
}

fn merge(into: &mut Value, from: Value) {
    if let (Value::Object(into), Value::Object(mut from)) = (into, from) {
        into.append(&mut from);
    }
}

/// The parameters of a closed loop, as reports show them.
fn loop_parameters(sessions: &Sessions, window: &Window, rate: &Rate, own: Value) -> Value {
    let mut all = json!({
        "sessions": sessions.sessions,
        "node": sessions.node.word(),
        "warm_up_ms": ms(window.warm_up),
        "duration_ms": ms(window.duration),
        "rate_per_s": rate.rate,
        "latency_from": if rate.rate.is_some() { "planned begin" } else { "begin" },
    });
    merge(&mut all, own);
    all
}

fn loop_load(title: &'static str, kinds: &'static [&'static str], window: &Window, rate: &Rate) -> Load {
    let span = Span::Window { warm_up: window.warm_up, duration: window.duration };
    Load { title, kinds, span, rate_per_s: rate.rate }
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// How long instances stand that were registered to be worked with: through the run and a while longer.
fn lasting_ttl_ms(window: &Window) -> u64 {
    const SPARE_MS: u64 = 3_600_000;
    const TTL_MS_MAX: u64 = 86_400_000;
    (ms(window.warm_up) + ms(window.duration)).saturating_add(SPARE_MS).min(TTL_MS_MAX)
}

/// One sort of operation, done again and again on one connection.
trait Operation: Send + 'static {
    /// Answers how many items it achieved.
    fn operate(
        &mut self,
        connection: &mut Connection,
        number: u64,
    ) -> impl Future<Output = Result<u64, RequestError>> + Send;

    /// The warm-up is over.
    fn warmed_up(&mut self) {}
}

/// A session that knows one operation.
struct One<O> {
    connection: Connection,
    operation: O,
}

impl<O: Operation> Session for One<O> {
    type Error = RequestError;

    async fn operate(&mut self, number: u64) -> Result<Done, RequestError> {
        self.operation.operate(&mut self.connection, number).await.map(Done::items)
    }

    fn warmed_up(&mut self) {
        self.operation.warmed_up();
    }
}

/// The connections, each with an operation of its own. The operation is told its place.
fn each<O>(connections: Vec<Connection>, mut operation: impl FnMut(usize) -> O) -> Vec<One<O>> {
    let one = |(place, connection)| One { connection, operation: operation(place) };
    connections.into_iter().enumerate().map(one).collect()
}
