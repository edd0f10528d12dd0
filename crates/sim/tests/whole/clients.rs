//! Who uses the roll: clients that write, on conditions too, remove and read; agents that beat and fall silent; watchers.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rollcall_registry::{
    ChangeKind, Command, Condition, InstanceId, LeaseId, LeaseSet, Outcome, Refusal, Registration, Revision,
    ServiceName, TenantId,
};
use rollcall_replica::{Applied, Consistency, Replica, SubmitError};
use rollcall_sim::history::{Ask, Call, Key, Leases, Told};
use rollcall_sim::random::Random;
use tokio::time::Instant;

use crate::until;
use crate::wires::{Process, Wires};

/// Instances that clients share.
const KEYS: u64 = 5;

/// Agents have instances of their own from here on.
const AGENTS_FIRST: Key = 100;

pub(crate) const TTLS_MS: [u64; 3] = [1_000, 1_500, 3_000];

/// Nobody who does not beat ends within a run.
const LONG_TTL_MS: u32 = 3_600_000;

const LINEARIZABLE: Consistency = Consistency { linearizable: true, min_revision: None, max_staleness_ms: None };

/// A visible change: the kind of it, whose, and which url stood there after.
type Seen = (u64, ChangeKind, String, Option<String>);

#[derive(Default)]
pub(crate) struct Records {
    pub calls: Vec<Call>,
    pub leases: Leases,
    pub renewals: u64,
    pub silences: u64,
    /// What was told of the changes, by whoever was told most.
    pub changes: Vec<Seen>,
    pub faults: Vec<String>,
}

/// What everybody at work shares.
pub(crate) struct Usage {
    pub wires: Wires,
    /// Whoever ever ran.
    pub names: Mutex<Vec<String>>,
    removed: Mutex<BTreeSet<String>>,
    pub records: Mutex<Records>,
    pub stop: AtomicBool,
    started: Instant,
    values: AtomicU64,
}

pub(crate) fn tenant() -> TenantId {
    TenantId::parse("default").expect("a tenant")
}

fn id(key: Key) -> InstanceId {
    InstanceId::parse(&format!("i-{key}")).expect("an id")
}

fn register(key: Key, value: u64, ttl_ms: u32, condition: Condition) -> Command {
    let name = ServiceName::parse("web").expect("a name");
    let registration = Registration::new(id(key), name, &format!("http://{value}"), ttl_ms);
    Command::Register { tenant: tenant(), registration: registration.pack(), condition }
}

impl Usage {
    pub(crate) fn new(wires: Wires) -> Arc<Self> {
        Arc::new(Self {
            wires,
            names: Mutex::default(),
            removed: Mutex::default(),
            records: Mutex::default(),
            stop: AtomicBool::new(false),
            started: Instant::now(),
            values: AtomicU64::new(1),
        })
    }

    pub(crate) fn now_us(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_micros()).expect("a run ends some day")
    }

    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    /// Its cluster has removed this node.
    pub(crate) fn bury(&self, name: String) {
        self.removed.lock().insert(name);
    }

    pub(crate) fn removed(&self) -> BTreeSet<String> {
        self.removed.lock().clone()
    }

    fn value(&self) -> u64 {
        self.values.fetch_add(1, Ordering::Relaxed)
    }

    fn any(&self, random: &mut Random) -> Option<Process> {
        let names = self.names.lock().clone();
        let place = random.below(names.len() as u64) as usize;
        self.wires.process(names.get(place)?)
    }

    fn breaks(&self, what: String) {
        self.records.lock().faults.push(what);
    }
}

/// What a node answers, unless its process ends first.
async fn answer<T>(process: &Process, asked: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        () = process.life.cancelled() => None,
        answer = asked => Some(answer),
    }
}

fn told(answer: Option<Result<Applied, SubmitError>>) -> Told {
    match answer {
        None | Some(Err(SubmitError::Unknown)) => Told::Unknown,
        Some(Err(_)) => Told::NotApplied,
        Some(Ok(applied)) => match applied.outcome {
            Outcome::Registered(registered) => Told::Done { revision: registered.revision.0 },
            Outcome::Deregistered { revision } => Told::Done { revision: revision.0 },
            Outcome::Refused(Refusal::ConditionFailed { .. } | Refusal::NotRegistered) => Told::Refused,
            other => panic!("a good write was answered {other:?}"),
        },
    }
}

fn shown(replica: &Replica, key: Key) -> Told {
    let view = replica.roll().read(|state| state.get(&tenant(), &id(key)));
    Told::Shown(view.map(|view| {
        let url = view.instance.registration().url.to_owned();
        (view.instance.revision.0, url.strip_prefix("http://").and_then(|value| value.parse().ok()).expect("a value"))
    }))
}

pub(crate) async fn client(usage: Arc<Usage>, mut random: Random) {
    let mut seen = [0; KEYS as usize];
    while usage.goes_on() {
        until(Duration::from_millis(random.between(1, 50))).await;
        let Some(process) = usage.any(&mut random) else { continue };
        let key = random.below(KEYS);
        let expected = seen[key as usize];
        let ask = match random.below(20) {
            0..=4 => Ask::Write { value: usage.value() },
            5..=8 if expected > 0 => Ask::Replace { value: usage.value(), expected },
            5..=9 => Ask::Create { value: usage.value() },
            10..=11 => Ask::Remove,
            _ => Ask::Read,
        };
        let patience = Duration::from_millis([300, 1_000, 3_000][random.below(3) as usize]);
        let (asked_us, deadline) = (usage.now_us(), Instant::now() + patience);
        let command = match ask {
            Ask::Write { value } => register(key, value, LONG_TTL_MS, Condition::None),
            Ask::Create { value } => register(key, value, LONG_TTL_MS, Condition::Absent),
            Ask::Replace { value, expected } => {
                register(key, value, LONG_TTL_MS, Condition::Unchanged(Revision(expected)))
            }
            Ask::Remove | Ask::Read => {
                Command::Deregister { tenant: tenant(), id: id(key), lease: None, condition: Condition::None }
            }
        };
        let told = if ask == Ask::Read {
            let read = answer(&process, process.replica.barrier(LINEARIZABLE, deadline)).await;
            read.and_then(Result::ok).map_or(Told::Unknown, |_| shown(&process.replica, key))
        } else {
            told(answer(&process, process.replica.submit(command, deadline)).await)
        };
        if let Told::Shown(shown) = told {
            seen[key as usize] = shown.map_or(0, |(revision, _)| revision);
        }
        let told_us = usage.now_us();
        usage.records.lock().calls.push(Call { key, asked_us, told_us, ask, told });
    }
}

pub(crate) async fn agent(usage: Arc<Usage>, number: u64, mut random: Random) {
    let key = AGENTS_FIRST + number;
    while usage.goes_on() {
        let ttl_ms = TTLS_MS[random.below(TTLS_MS.len() as u64) as usize];
        let mut lease = None;
        while usage.goes_on() {
            if lease.is_some() && random.permille(40) {
                usage.records.lock().silences += 1;
                until(Duration::from_millis(2 * ttl_ms)).await;
                break;
            }
            lease = usage.beat(key, lease, ttl_ms, &mut random).await;
            until(Duration::from_millis(ttl_ms / 3)).await;
        }
    }
}

impl Usage {
    /// Registers, or renews the lease. Answers the lease that the agent holds, as far as it knows.
    async fn beat(&self, key: Key, lease: Option<u64>, ttl_ms: u64, random: &mut Random) -> Option<u64> {
        let Some(process) = self.any(random) else { return lease };
        let command = match lease {
            Some(lease) => Command::Renew { tenant: tenant(), leases: LeaseSet::new(vec![LeaseId(lease)]) },
            None => register(key, self.value(), u32::try_from(ttl_ms).expect("a short TTL"), Condition::None),
        };
        let (sent_us, deadline) = (self.now_us(), Instant::now() + Duration::from_millis(ttl_ms / 2));
        let answer = answer(&process, process.replica.submit(command, deadline)).await;
        let Some(Ok(Applied { outcome, .. })) = answer else { return lease };
        let told_us = self.now_us();
        let mut records = self.records.lock();
        match (outcome, lease) {
            (Outcome::Registered(registered), _) => {
                records.renewals += 1;
                records.leases.renewed((key, registered.lease.0), ttl_ms * 1_000, sent_us);
                Some(registered.lease.0)
            }
            (Outcome::Renewed { not_found, superseded }, Some(lease)) => {
                if not_found.contains(LeaseId(lease)) {
                    records.leases.ended((key, lease), told_us);
                    return None;
                }
                // Its own registration of before, whose answer it never got.
                if superseded.contains(LeaseId(lease)) {
                    return None;
                }
                records.renewals += 1;
                records.leases.renewed((key, lease), ttl_ms * 1_000, sent_us);
                Some(lease)
            }
            (other, _) => panic!("a good heartbeat was answered {other:?}"),
        }
    }
}

/// Follows the changes, now at this node and now at that.
pub(crate) async fn watcher(usage: Arc<Usage>, mut random: Random) {
    let mut reached = 0;
    while usage.goes_on() {
        until(Duration::from_millis(random.between(20, 150))).await;
        let Some(process) = usage.any(&mut random) else { continue };
        let fresh = process.replica.barrier(Consistency::default(), Instant::now()).await.is_ok();
        if fresh && !process.life.is_cancelled() {
            reached = usage.follow(&process.replica, reached);
        }
    }
}

impl Usage {
    /// P9: takes in what a node says has changed since, and tells how far that goes.
    pub(crate) fn follow(&self, replica: &Replica, reached: u64) -> u64 {
        let now_us = self.now_us();
        let (seen, ended): (Vec<Seen>, Vec<_>) = replica.roll().read(|state| {
            if state.revision().0 <= reached {
                return Default::default();
            }
            let changes = state.changes_after(Revision(reached)).expect("all history is kept");
            let seen = |change: rollcall_registry::Change<'_>| {
                let instance = change.instance();
                let url = change.after.map(|after| after.registration().url.to_owned());
                let name = instance.id().to_owned();
                let key: Key =
                    name.strip_prefix("i-").and_then(|key| key.parse().ok()).expect("an instance of this run");
                let ended = (change.kind == ChangeKind::Expired).then_some((key, instance.lease.0));
                ((change.revision.0, change.kind, name, url), ended)
            };
            changes.map(seen).unzip()
        });
        let mut records = self.records.lock();
        let mut reached = reached;
        for (change, ended) in seen.into_iter().zip(ended) {
            reached += 1;
            if change.0 != reached {
                records.faults.push(format!("P9: revision {} is told in the place of {reached}", change.0));
                return reached;
            }
            match records.changes.get(reached as usize - 1) {
                Some(known) if *known == change => {}
                Some(known) => {
                    let known = known.clone();
                    records.faults.push(format!("P2: revision {reached} is {known:?} and is {change:?}"));
                }
                None => {
                    records.changes.push(change);
                    if let Some(lease) = ended {
                        records.leases.ended(lease, now_us);
                    }
                }
            }
        }
        reached
    }
}

/// Agents that a node has on its roll.
pub(crate) fn agents_on(replica: &Replica) -> Vec<Key> {
    let listed = |key: &Key| replica.roll().read(|state| state.get(&tenant(), &id(*key)).is_some());
    (AGENTS_FIRST..AGENTS_FIRST + 100).filter(listed).collect()
}

/// P6: what a node shows never goes back, whatever becomes of its processes.
pub(crate) async fn looker(usage: Arc<Usage>, name: String) {
    let mut shown = (Revision(0), rollcall_registry::ClusterTime(0));
    while usage.goes_on() {
        until(Duration::from_millis(40)).await;
        let Some(process) = usage.wires.process(&name) else { continue };
        if process.replica.barrier(Consistency::default(), Instant::now()).await.is_err() {
            continue;
        }
        let now = process.replica.roll().read(|state| (state.revision(), state.now()));
        if now.0 < shown.0 || now.1 < shown.1 {
            usage.breaks(format!("P6: {name} showed {shown:?} and then {now:?}"));
        }
        shown = now;
    }
}
