//! Checks that the nodes make of instances by themselves, for those that ask or whose tenant does.
//!
//! Every node checks its share, by itself and without asking anybody ([`share`]); what it found last it keeps to itself and
//! shows to whoever asks it. Only when enough results in a row speak against the verdict that stands ([`verdict`]) does it
//! bring another one into the log. So a check costs the cluster nothing, and two nodes that check the same for a moment do no harm.
//!
//! - Nothing is connected to but an address that was judged after its name was looked up (`outbound`), once for the whole check.
//! - Of what the other side says, a number is told at most ([`finding`]).
//! - A check that fails renews nothing; one that is healthy renews where the registration says so.
//!
//! Read in this order: [`plan`], `outbound`, [`dial`], [`finding`], [`http`], [`tcp`], [`grpc`], [`verdict`], [`share`], [`table`].

mod dial;
mod finding;
mod grpc;
mod http;
pub(crate) mod plan;
mod share;
mod table;
mod tcp;
mod verdict;

use std::collections::VecDeque;
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use parking_lot::{Mutex, RwLock};
use rollcall_api::{CheckInfo, CheckType};
use rollcall_registry::{
    Command, Epoch, Instance, InstanceId, LeaseId, LeaseSet, Outcome, Revision, TenantChecks, TenantId, Verdict,
};
use rollcall_replica::Replica;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::metrics::{CheckMetrics, Checked};
use crate::outbound::Network;
use dial::Dialer;
use finding::{Broken, Finding, Trouble};
use plan::Plan;
use share::{Probers, Roster};
use table::{Put, TICK_MS, Table, Work};

/// Checks under way at once, each with a connection or two. So many hanging for their usual time are a hundred in a second.
const AT_ONCE_MAX: usize = 512;

/// Checks begun in one tick: 2,000 in a second, so that nobody can have a node flood whom they like.
const BEGUN_AT_ONCE_MAX: usize = 200;

/// How often it is looked who is alive, and whether this node is.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Instances that are looked at under one lock.
const STRETCH: usize = 512;

/// Verdicts and renewals are of a moment: the next check brings others.
const SUBMIT_TIMEOUT: Duration = Duration::from_secs(5);

/// Verdicts that nobody asks for any more, taken back in one tick and remembered at most.
const TAKEN_BACK_AT_ONCE: usize = 32;
const TAKEN_BACK_MAX: usize = 10_000;

/// What could not be taken back is looked for again after this.
const RETRY_AFTER: Duration = Duration::from_secs(10);

/// Checks that began more ticks after they were due are late.
const LATE_TICKS: u64 = 1_000 / TICK_MS;

/// What an operator says of checks.
#[derive(Clone, Debug)]
pub(crate) struct CheckTerms {
    pub(crate) enabled: bool,
    pub(crate) allowed: Vec<Network>,
    pub(crate) ca: Option<PathBuf>,
}

/// Checks this node's share. Cheap to clone; clones are one.
#[derive(Clone)]
pub(crate) struct Checker(Arc<Shared>);

struct Shared {
    replica: Replica,
    enabled: bool,
    dialer: Dialer,
    /// Who checks, as this node sees it.
    probers: RwLock<Probers>,
    /// Whether this node hears of what changes, and may check.
    is_ready: AtomicBool,
    table: Mutex<Table>,
    at_once: Arc<Semaphore>,
    metrics: CheckMetrics,
    /// Something could not be taken back.
    is_left_over: AtomicBool,
    begun: Instant,
}

/// How far the task has followed the roll.
struct Followed {
    /// None: all of it is to be looked at.
    at: Option<(Epoch, Revision)>,
    probers: Probers,
    /// What tenants say of checks.
    tenants: Vec<(TenantId, TenantChecks)>,
    looked_at: Instant,
    /// Incarnations with a verdict that nobody asks for.
    orphans: VecDeque<(TenantId, InstanceId, LeaseId)>,
    retry_at: Option<Instant>,
    is_full: bool,
}

impl Checker {
    pub(crate) fn new(replica: Replica, terms: CheckTerms, metrics: CheckMetrics) -> Self {
        let CheckTerms { enabled, allowed, ca } = terms;
        Self(Arc::new(Shared {
            replica,
            enabled,
            dialer: Dialer::new(&allowed, ca),
            probers: RwLock::new(Arc::new([])),
            is_ready: AtomicBool::new(false),
            table: Mutex::default(),
            at_once: Arc::new(Semaphore::new(AT_ONCE_MAX)),
            metrics,
            is_left_over: AtomicBool::new(false),
            begun: Instant::now(),
        }))
    }

    pub(crate) fn is_enabled(&self) -> bool {
        self.0.enabled
    }

    /// Who checks an instance, and what this node last found if it does. None: nobody does, as far as this node knows.
    pub(crate) fn info(&self, instance: &Instance, tenant: Option<TenantChecks>) -> Option<CheckInfo> {
        let plan = self.0.plan(instance, tenant).filter(|_| self.0.is_ready.load(Ordering::Relaxed))?;
        let probers = self.0.probers.read().clone();
        let prober = share::prober(&probers, &instance.tenant, instance.id())?;
        let is_own = prober.node_id == self.0.replica.node_id();
        let latest = is_own.then(|| self.0.table.lock().latest(&instance.key(), instance.lease)).flatten();
        Some(CheckInfo {
            check_type: plan.check_type,
            interval_ms: plan.interval_ms,
            prober: prober.node_id,
            prober_address: prober.api_address.to_string(),
            latest,
        })
    }

    /// Checks until it is asked to stop.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let Self(shared) = self;
        tokio::select! {
            () = stop.cancelled() => {}
            () = shared.drive() => {}
        }
    }
}

impl Shared {
    fn now(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX) / TICK_MS
    }

    fn plan(&self, instance: &Instance, tenant: Option<TenantChecks>) -> Option<Plan> {
        if self.enabled { Plan::of(instance, tenant) } else { None }
    }

    async fn drive(self: Arc<Self>) {
        let _looking = AbortOnDropHandle::new(tokio::spawn(self.clone().look()));
        let mut followed = Followed {
            at: None,
            probers: Arc::new([]),
            tenants: Vec::new(),
            looked_at: Instant::now(),
            orphans: VecDeque::new(),
            retry_at: None,
            is_full: false,
        };
        let mut works = JoinSet::new();
        let mut ticks = tokio::time::interval(Duration::from_millis(TICK_MS));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            ticks.tick().await;
            while let Some(ended) = works.try_join_next() {
                if let Err(error) = ended {
                    tracing::error!(%error, "a check ended by a bug");
                }
            }
            // Whoever hears of nothing does not know whom to check, and could not say what it found.
            if !self.is_ready.load(Ordering::Relaxed) {
                continue;
            }
            self.follow(&mut followed).await;
            for (tenant, id, lease) in followed.orphans.drain(..followed.orphans.len().min(TAKEN_BACK_AT_ONCE)) {
                works.spawn(self.clone().take_back(tenant, id, lease));
            }
            let now = self.now();
            for _ in 0..BEGUN_AT_ONCE_MAX {
                let Ok(permit) = self.at_once.clone().try_acquire_owned() else { break };
                let Some(work) = self.table.lock().begin(now) else { break };
                works.spawn(self.clone().check(work, permit));
            }
        }
    }

    /// Keeps in mind who is alive.
    async fn look(self: Arc<Self>) {
        let mut roster = Roster::default();
        let mut looks = tokio::time::interval(LOOK_INTERVAL);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            let probers = roster.note(&self.replica.status().await);
            if *self.probers.read() != probers {
                tracing::debug!(?probers, "other nodes check");
                *self.probers.write() = probers;
            }
            let is_ready = self.replica.readiness().iter().all(|check| check.ok);
            self.is_ready.store(is_ready, Ordering::Relaxed);
        }
    }

    /// Brings the table up to what the roll is now.
    async fn follow(&self, followed: &mut Followed) {
        let now = Instant::now();
        let probers = self.probers.read().clone();
        if !Arc::ptr_eq(&probers, &followed.probers) {
            (followed.probers, followed.at) = (probers, None);
        }
        if self.is_left_over.swap(false, Ordering::Relaxed) {
            followed.retry_at = Some(now + RETRY_AFTER);
        }
        if followed.retry_at.is_some_and(|at| at <= now) {
            (followed.retry_at, followed.at) = (None, None);
        }
        if followed.at.is_none() || now.saturating_duration_since(followed.looked_at) >= LOOK_INTERVAL {
            followed.looked_at = now;
            let tenants: Vec<_> = self.replica.roll().read(|state| {
                state.rulings().all_checks().map(|(tenant, checks)| (tenant.clone(), checks)).collect()
            });
            if tenants != followed.tenants {
                (followed.tenants, followed.at) = (tenants, None);
            }
        }
        let is_followed = match followed.at {
            Some(at) => self.follow_changes(followed, at).await,
            None => false,
        };
        if !is_followed {
            self.look_at_all(followed).await;
        }
        self.metrics.targets.set(i64::try_from(self.table.lock().len()).unwrap_or(i64::MAX));
    }

    /// Takes in what changed. False if that is not known any more.
    async fn follow_changes(&self, followed: &mut Followed, (epoch, mut revision): (Epoch, Revision)) -> bool {
        loop {
            let changes = self.replica.roll().read(|state| {
                if state.epoch() != epoch || state.revision() < revision {
                    return None;
                }
                let changes = state.changes_after(revision)?.take(STRETCH);
                let changes =
                    changes.map(|change| (change.revision, change.instance().clone(), change.after.is_none()));
                Some(changes.collect::<Vec<_>>())
            });
            let Some(changes) = changes else { return false };
            let Some((latest, ..)) = changes.last() else { return true };
            revision = *latest;
            for (_, instance, is_gone) in changes {
                if is_gone {
                    self.table.lock().remove(instance.key());
                } else {
                    self.consider(followed, &instance);
                }
            }
            followed.at = Some((epoch, revision));
            tokio::task::yield_now().await;
        }
    }

    /// Looks at the whole roll, a piece at a time.
    async fn look_at_all(&self, followed: &mut Followed) {
        followed.is_full = false;
        followed.orphans.clear();
        // What changes meanwhile is followed afterwards.
        followed.at = Some(self.replica.roll().read(|state| (state.epoch(), state.revision())));
        self.table.lock().begin_round();
        let mut after = None;
        loop {
            let piece: Vec<_> = self
                .replica
                .roll()
                .read(|state| state.instances_after(after.as_ref()).take(STRETCH).cloned().collect());
            let Some(last) = piece.last() else { break };
            after = Some(last.key());
            piece.iter().for_each(|instance| self.consider(followed, instance));
            tokio::task::yield_now().await;
        }
        self.table.lock().end_round();
    }

    /// Has an instance checked, or no more.
    fn consider(&self, followed: &mut Followed, instance: &Instance) {
        let prober = share::prober(&followed.probers, &instance.tenant, instance.id());
        let is_own = prober.is_some_and(|prober| prober.node_id == self.replica.node_id());
        let tenant = || {
            let known = followed.tenants.binary_search_by(|(tenant, _)| tenant.cmp(&instance.tenant));
            known.ok().map(|at| followed.tenants[at].1)
        };
        let plan = if is_own { self.plan(instance, tenant()) } else { None };
        match plan {
            Some(plan) => {
                if self.table.lock().put(instance.key(), instance.lease, plan, self.now()) == Put::Full {
                    self.metrics.refused.inc();
                    if !std::mem::replace(&mut followed.is_full, true) {
                        tracing::warn!(max = table::TARGETS_MAX, "more instances ask for checks than a node makes");
                    }
                }
            }
            None => {
                self.table.lock().remove(instance.key());
                if is_own && instance.seldom.observed().is_some() {
                    if followed.orphans.len() < TAKEN_BACK_MAX {
                        let (tenant, id) = instance.key();
                        followed.orphans.push_back((tenant, id, instance.lease));
                    } else {
                        self.is_left_over.store(true, Ordering::Relaxed);
                    }
                }
            }
        }
    }

    /// Has a verdict forgotten that nobody asks for.
    async fn take_back(self: Arc<Self>, tenant: TenantId, id: InstanceId, lease: LeaseId) {
        let command = Command::Unchecked { tenant, id, lease };
        // Whoever left or registered anew meanwhile has none.
        if !self.submit(command).await {
            self.is_left_over.store(true, Ordering::Relaxed);
        }
    }

    async fn submit(&self, command: Command) -> bool {
        match self.replica.submit(command, Instant::now() + SUBMIT_TIMEOUT).await {
            Ok(applied) => {
                if let Outcome::Refused(refusal) = &applied.outcome {
                    tracing::debug!(%refusal, "what was checked is not there any more");
                }
                true
            }
            Err(error) => {
                tracing::debug!(%error, "what a check found is not in the log");
                false
            }
        }
    }

    /// One check, and what comes of it.
    async fn check(self: Arc<Self>, work: Work, permit: OwnedSemaphorePermit) {
        if work.late > LATE_TICKS {
            self.metrics.late.inc();
        }
        self.metrics.in_work.inc();
        let finding = perform(&self.dialer, &work.plan).await;
        self.metrics.in_work.dec();
        drop(permit);
        let (result, broken) = (finding.result, finding.broken);
        let checked = Checked { kind: work.plan.check_type.as_str(), result: result.as_str() };
        self.metrics.checks.get_or_create(&checked).inc();
        let streak = self.table.lock().note(&work, finding, Timestamp::now());
        if let Some(streak) = streak {
            if result == Verdict::Healthy && work.plan.renews {
                let leases = LeaseSet::new(vec![work.lease]);
                self.submit(Command::Renew { tenant: work.name.0.clone(), leases }).await;
            }
            self.conclude(&work, &streak, broken).await;
        }
        self.table.lock().end(&work, self.now());
    }

    /// Brings another verdict into the log, if results speak for one.
    async fn conclude(&self, work: &Work, streak: &verdict::Streak, broken: Option<Broken>) {
        let (tenant, id) = &*work.name;
        let standing = self.replica.roll().read(|state| state.get(tenant, id)).map(|view| view.instance);
        let Some(instance) = standing.filter(|instance| instance.lease == work.lease) else { return };
        let standing = instance.seldom.observed().map(|observed| observed.verdict);
        let Some(verdict) = streak.verdict(standing, work.plan.needed) else { return };
        tracing::info!(
            %tenant,
            %id,
            %verdict,
            before = standing.map(Verdict::as_str),
            broken = broken.map(Broken::reason),
            "checks find otherwise"
        );
        let (tenant, id) = (tenant.clone(), id.clone());
        if self.submit(Command::Observe { tenant, id, lease: work.lease, verdict }).await {
            self.metrics.verdicts.inc();
        }
    }
}

async fn perform(dialer: &Dialer, plan: &Plan) -> Finding {
    let checked = match plan.check_type {
        CheckType::Http => http::check(dialer, plan).await,
        CheckType::Tcp => tcp::check(dialer, plan).await,
        CheckType::Grpc => grpc::check(dialer, plan).await,
    };
    checked.unwrap_or_else(Finding::broken)
}

/// Gives something the time that an answer may take.
async fn within<T>(plan: &Plan, asked: impl Future<Output = Result<T, Trouble>>) -> Result<T, Trouble> {
    let timeout_ms = plan.timeout_ms;
    let answered = tokio::time::timeout(Duration::from_millis(timeout_ms.into()), asked).await;
    answered.unwrap_or(Err(Trouble::TimedOut { timeout_ms }))
}
