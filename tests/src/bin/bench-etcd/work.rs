//! The works, each a closed loop of one sort of operation.

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use rollcall_bench::args::{Common, Rate, Sessions, Window, parse_positive_duration};
use rollcall_bench::documents::{Documents, Shape};
use rollcall_bench::{Done, Load, Processes, Report, Session, Span};
use rollcall_tests::etcd::messages::RangeRequest;
use rollcall_tests::etcd::{EtcdClient, EtcdError, KeepAlive, range_of_prefix};
use serde_json::{Value, json};

use crate::target::Target;
use crate::{failover, watch, watch_expiry};

/// How many names the instances share, as in `rollcall bench`.
const SERVICES: u64 = 1_000;

/// Longer than any run.
pub(crate) const LASTING_TTL: Duration = Duration::from_secs(7_200);

#[derive(clap::Subcommand, Debug)]
pub(crate) enum Work {
    /// A new lease and a new key, one after the other
    Register {
        #[command(flatten)]
        sessions: Sessions,
        #[command(flatten)]
        window: Window,
        #[command(flatten)]
        rate: Rate,
        #[command(flatten)]
        content: Content,
        /// How long a lease lasts that is not renewed
        #[arg(long, default_value = "30s", value_parser = parse_positive_duration)]
        ttl: Duration,
        #[command(flatten)]
        common: Common,
    },
    /// Renewals, each a round trip of its session's stream
    Heartbeat {
        #[command(flatten)]
        sessions: Sessions,
        #[command(flatten)]
        window: Window,
        #[command(flatten)]
        rate: Rate,
        /// How many leases with a key there are; they are registered first
        #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
        instances: u32,
        #[command(flatten)]
        common: Common,
    },
    /// All keys of one service
    Lookup {
        #[command(flatten)]
        sessions: Sessions,
        #[command(flatten)]
        window: Window,
        #[command(flatten)]
        rate: Rate,
        /// How many keys the service has; they are registered first
        #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000))]
        instances: u32,
        /// Whether to show what the asked node has, or every write acknowledged before
        #[arg(long, value_enum, default_value_t)]
        consistency: Consistency,
        #[command(flatten)]
        common: Common,
    },
    /// So many registrations as fast as it goes
    Fill {
        #[command(flatten)]
        sessions: Sessions,
        #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..))]
        instances: u64,
        #[command(flatten)]
        content: Content,
        /// How long a lease lasts that is not renewed
        #[arg(long, default_value = "1h", value_parser = parse_positive_duration)]
        ttl: Duration,
        #[command(flatten)]
        common: Common,
    },
    /// Writes one after another while the leader ends
    Failover(failover::Args),
    /// Changes of one service, and how long until all its watchers have seen each
    Watch(watch::Args),
    /// Leases that are not renewed any more, and how late a watcher at each node is told that their keys are gone
    WatchExpiry(watch_expiry::Args),
}

/// What registrations hold.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Content {
    /// The size of each instance's metadata
    #[arg(long, value_name = "BYTES", default_value_t = 300, value_parser = clap::value_parser!(u32).range(..=60_000))]
    metadata_bytes: u32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Consistency {
    /// etcd calls it serializable
    #[default]
    Local,
    Linearizable,
}

impl Work {
    pub(crate) fn common(&self) -> &Common {
        match self {
            Self::Register { common, .. }
            | Self::Heartbeat { common, .. }
            | Self::Lookup { common, .. }
            | Self::Fill { common, .. } => common,
            Self::Failover(args) => &args.common,
            Self::Watch(args) => &args.common,
            Self::WatchExpiry(args) => &args.common,
        }
    }

    pub(crate) async fn run(&self, target: &Target) -> Result<Report, Box<dyn Error>> {
        let processes = target.processes(self.common());
        match self {
            Self::Register { sessions, window, rate, content, ttl, .. } => {
                let registering = registering(target, sessions, &content.documents("register", *ttl), *ttl).await?;
                let measured = rollcall_bench::run(&load("register", window, rate), registering, &processes).await.0;
                let parameters = json!({ "metadata_bytes": content.metadata_bytes, "ttl_ms": ms(*ttl) });
                let parameters = loop_parameters(sessions, window, rate, target, parameters);
                Ok(Report::new("register", "etcd", parameters, &measured))
            }
            Self::Heartbeat { sessions, window, rate, instances, common } => {
                let leases = enrol(target, sessions, &lasting("heartbeat"), (*instances).into(), LASTING_TTL).await?;
                let mut beating = Vec::new();
                for (place, client) in target.connect(sessions.node, sessions.sessions).await?.into_iter().enumerate()
                {
                    let seed = common.seed.wrapping_mul(1_000_003).wrapping_add(place as u64);
                    let stream = client.keep_alive(leases[0]).await?;
                    beating.push(Beat { stream, leases: leases.clone(), random: SmallRng::seed_from_u64(seed) });
                }
                let measured = rollcall_bench::run(&load("heartbeat", window, rate), beating, &processes).await.0;
                let parameters = json!({ "instances": instances, "ttl_ms": ms(LASTING_TTL) });
                let parameters = loop_parameters(sessions, window, rate, target, parameters);
                let note = "etcd does not replicate renewals; followers hand them to the leader";
                Ok(Report::new("heartbeat", "etcd", parameters, &measured).with_extra(json!({ "note": note })))
            }
            Self::Lookup { sessions, window, rate, instances, consistency, .. } => {
                let documents = lasting(&format!("lookup-{instances}"));
                enrol(target, sessions, &documents, (*instances).into(), LASTING_TTL).await?;
                let serializable = *consistency == Consistency::Local;
                let request = RangeRequest { serializable, ..range_of_prefix(&key_prefix(&documents)) };
                let clients = target.connect(sessions.node, sessions.sessions).await?;
                let find = |client| Find { client, request: request.clone(), expected: (*instances).into() };
                let mut finding: Vec<Find> = clients.into_iter().map(find).collect();
                for find in &mut finding {
                    find.settle().await?;
                }
                let measured = rollcall_bench::run(&load("lookup", window, rate), finding, &processes).await.0;
                let consistency = if serializable { "serializable" } else { "linearizable" };
                let parameters = json!({ "instances": instances, "consistency": consistency });
                let parameters = loop_parameters(sessions, window, rate, target, parameters);
                Ok(Report::new("lookup", "etcd", parameters, &measured))
            }
            Self::Fill { sessions, instances, content, ttl, .. } => {
                let registering = registering(target, sessions, &content.documents("fill", *ttl), *ttl).await?;
                let load = Load { title: "fill", kinds: &["fill"], span: Span::Count(*instances), rate_per_s: None };
                let measured = rollcall_bench::run(&load, registering, &processes).await.0;
                let parameters = json!({
                    "sessions": sessions.sessions, "instances": instances, "endpoints": target.endpoints,
                    "version": target.version, "metadata_bytes": content.metadata_bytes, "ttl_ms": ms(*ttl),
                });
                Ok(Report::new("fill", "etcd", parameters, &measured))
            }
            Self::Failover(args) => args.run(target, &processes).await,
            Self::Watch(args) => args.run(target, &processes).await,
            Self::WatchExpiry(args) => args.run(target, &processes).await,
        }
    }
}

impl Content {
    /// Registrations of this run.
    fn documents(&self, kind: &str, ttl: Duration) -> Arc<Documents> {
        documents(&format!("{kind}-{}", run_name()), self.metadata_bytes as usize, ms(ttl))
    }
}

/// What tells this run's keys from those of every other run.
pub(crate) fn run_name() -> String {
    let unix_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    format!("{unix_ms:x}")
}

/// Registrations that stand longer than any run.
pub(crate) fn lasting(kind: &str) -> Arc<Documents> {
    documents(kind, 300, ms(LASTING_TTL))
}

pub(crate) fn documents(kind: &str, metadata_bytes: usize, ttl_ms: u64) -> Arc<Documents> {
    let shape = |number| Shape::usual(format!("bench-{kind}-{number}"), number, metadata_bytes, ttl_ms);
    Arc::new(Documents::new(format!("bench-{kind}-"), (0..SERVICES).map(shape)))
}

/// All keys of these documents begin with this.
pub(crate) fn key_prefix(documents: &Documents) -> String {
    format!("/registry/{}", documents.prefix())
}

pub(crate) fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

pub(crate) fn load(title: &'static str, window: &Window, rate: &Rate) -> Load {
    let span = Span::Window { warm_up: window.warm_up, duration: window.duration };
    let kinds: &'static [&'static str] = match title {
        "register" => &["register"],
        "heartbeat" => &["heartbeat"],
        "watch" => &["change"],
        _ => &["lookup"],
    };
    Load { title, kinds, span, rate_per_s: rate.rate }
}

/// The parameters of a closed loop, as reports show them.
pub(crate) fn loop_parameters(
    sessions: &Sessions,
    window: &Window,
    rate: &Rate,
    target: &Target,
    own: Value,
) -> Value {
    let mut all = json!({
        "endpoints": target.endpoints, "leader": target.leader(), "version": target.version,
        "sessions": sessions.sessions, "node": sessions.node.word(),
        "warm_up_ms": ms(window.warm_up), "duration_ms": ms(window.duration), "rate_per_s": rate.rate,
        "latency_from": if rate.rate.is_some() { "planned begin" } else { "begin" },
    });
    if let (Value::Object(all), Value::Object(mut own)) = (&mut all, own) {
        all.append(&mut own);
    }
    all
}

async fn registering(
    target: &Target,
    sessions: &Sessions,
    documents: &Arc<Documents>,
    ttl: Duration,
) -> Result<Vec<Register>, EtcdError> {
    let clients = target.connect(sessions.node, sessions.sessions).await?;
    let register = |client| Register {
        client,
        documents: documents.clone(),
        key_prefix: key_prefix(documents),
        ttl_s: ttl.as_secs().max(1) as i64,
        leases: Vec::new(),
    };
    Ok(clients.into_iter().map(register).collect())
}

/// Registers the first `count` documents before the measuring begins; answers their leases in that order.
pub(crate) async fn enrol(
    target: &Target,
    sessions: &Sessions,
    documents: &Arc<Documents>,
    count: u64,
    ttl: Duration,
) -> Result<Arc<Vec<i64>>, Box<dyn Error>> {
    let registering = registering(target, sessions, documents, ttl).await?;
    let load = Load { title: "set up", kinds: &["register"], span: Span::Count(count), rate_per_s: None };
    let (measured, registering) = rollcall_bench::run(&load, registering, &Processes::default()).await;
    if measured.errors > 0 {
        let example = measured.error_examples.into_iter().next().unwrap_or_default();
        return Err(format!("{} of {count} registrations failed: {example}", measured.errors).into());
    }
    let mut leases: Vec<(u64, i64)> = registering.into_iter().flat_map(|session| session.leases).collect();
    leases.sort_unstable();
    Ok(Arc::new(leases.into_iter().map(|(_, lease)| lease).collect()))
}

/// Grants a lease and puts the document of the operation's number on it.
struct Register {
    client: EtcdClient,
    documents: Arc<Documents>,
    key_prefix: String,
    ttl_s: i64,
    /// By the numbers of their documents.
    leases: Vec<(u64, i64)>,
}

impl Session for Register {
    type Error = EtcdError;

    async fn operate(&mut self, number: u64) -> Result<Done, EtcdError> {
        let lease = self.client.grant(self.ttl_s).await?;
        let key = Bytes::from(format!("{}{number}", self.key_prefix));
        self.client.put(key, self.documents.render(number), lease).await?;
        self.leases.push((number, lease));
        Ok(Done::items(1))
    }
}

/// Renews a lease chosen at random.
struct Beat {
    stream: KeepAlive,
    leases: Arc<Vec<i64>>,
    random: SmallRng,
}

impl Session for Beat {
    type Error = EtcdError;

    async fn operate(&mut self, _number: u64) -> Result<Done, EtcdError> {
        let chosen = self.random.random_range(0..self.leases.len());
        self.stream.renew(self.leases[chosen]).await?;
        Ok(Done::items(1))
    }
}

/// A range that must always hold the same number of keys.
struct Find {
    client: EtcdClient,
    request: RangeRequest,
    expected: i64,
}

/// Why a range is not what it must be.
#[derive(Debug, thiserror::Error)]
enum FindError {
    #[error("ask for the keys")]
    Ask(#[from] EtcdError),
    #[error("{found} keys were found instead of {expected}")]
    Count { found: i64, expected: i64 },
}

impl Find {
    /// Once linearizable, so that this node has everything that was put at another.
    async fn settle(&mut self) -> Result<(), FindError> {
        let whole = RangeRequest { serializable: false, ..self.request.clone() };
        self.ask(whole).await
    }

    async fn ask(&mut self, request: RangeRequest) -> Result<(), FindError> {
        let found = self.client.range(request).await?.count;
        if found == self.expected { Ok(()) } else { Err(FindError::Count { found, expected: self.expected }) }
    }
}

impl Session for Find {
    type Error = FindError;

    async fn operate(&mut self, _number: u64) -> Result<Done, FindError> {
        self.ask(self.request.clone()).await?;
        Ok(Done::items(1))
    }
}
