//! Members with the real consensus on imagined disks, in one thread whose time passes only when everybody waits.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rollcall_registry::{FEATURE_LEVEL, HistoryLimits};
use rollcall_replica::{Autopilot, Door, Operation, Options, Replica, StartMode, Terms};
use rollcall_sim::history::{self, STEPS_MAX};
use rollcall_sim::random::Random;
use rollcall_storage::ImaginedDisk;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::clients::{self, TTLS_MS, Usage};
use crate::faults::{self, Fault, TROUBLED_MS, Trouble};
use crate::until;
use crate::wires::{Process, Wire, Wires};

pub(crate) const ELECTION_MS_MIN: u64 = 400;
pub(crate) const ELECTION_MS_MAX: u64 = 800;

const CLIENTS: u64 = 10;
const AGENTS: u64 = 8;
const WATCHERS: u64 = 2;

/// Members at most: more do not find other faults.
const MEMBERS_MAX: usize = 5;

/// After the last fault, until everybody is back and current.
const HEAL_DEADLINE: Duration = Duration::from_secs(60);

/// A flush of a quick disk takes at most so long, one of a slow disk so long.
const FLUSHES_US: [u64; 3] = [300, 2_000, 20_000];
const SLOW_FLUSH_US: u64 = 250_000;

/// One machine.
struct Machine {
    disk: ImaginedDisk,
    flush_us: Arc<AtomicU64>,
    /// How many troubles hold it down.
    down: u32,
    /// Its process was ended, and none was started since.
    ended: bool,
    /// Its process is on its way up or down.
    busy: Option<JoinHandle<()>>,
    removed: bool,
}

pub(crate) struct World {
    dir: TempDir,
    random: Random,
    wires: Wires,
    usage: Arc<Usage>,
    machines: BTreeMap<String, Machine>,
    /// How many machines there ever were.
    made: u64,
    lies: bool,
    counts: BTreeMap<&'static str, u64>,
    trace: Arc<Mutex<Vec<String>>>,
    /// Since when nobody runs.
    still_since_us: Option<u64>,
    started: Instant,
}

/// How a run went.
pub(crate) struct Report {
    pub faults: Vec<String>,
    pub counts: BTreeMap<&'static str, u64>,
    pub trace: Vec<String>,
}

fn memory_dir() -> TempDir {
    let memory = std::path::Path::new("/dev/shm");
    let dir = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    dir.expect("a directory")
}

/// Everything that a seed says, from beginning to end. Disks that lie lose what they acknowledged.
pub(crate) async fn run(seed: u64, lies: bool) -> Report {
    let mut random = Random::new(seed);
    let wires = Wires::new(random.fork());
    let mut world = World {
        dir: memory_dir(),
        usage: Usage::new(wires.clone()),
        wires,
        random,
        machines: BTreeMap::new(),
        made: 0,
        lies,
        counts: BTreeMap::new(),
        trace: Arc::default(),
        still_since_us: None,
        started: Instant::now(),
    };
    world.live().await;
    world.report().await
}

impl World {
    fn count(&mut self, what: &'static str, by: u64) {
        *self.counts.entry(what).or_default() += by;
    }

    fn note(&self, what: String) {
        self.trace.lock().push(format!("{:>6} {what}", self.started.elapsed().as_millis()));
    }

    fn breaks(&self, what: String) {
        self.usage.records.lock().faults.push(what);
    }

    async fn live(&mut self) {
        let nodes = [3, 3, 5][self.random.below(3) as usize];
        for _ in 0..nodes {
            self.make();
            self.settle(HEAL_DEADLINE).await;
        }
        if !self.all_are_ready(HEAL_DEADLINE).await {
            return self.breaks("P4: no cluster comes about".to_owned());
        }
        let mut tasks = Vec::new();
        for _ in 0..CLIENTS {
            tasks.push(tokio::spawn(clients::client(self.usage.clone(), self.random.fork())));
        }
        for number in 0..AGENTS {
            tasks.push(tokio::spawn(clients::agent(self.usage.clone(), number, self.random.fork())));
        }
        for _ in 0..WATCHERS {
            tasks.push(tokio::spawn(clients::watcher(self.usage.clone(), self.random.fork())));
        }
        for name in self.machines.keys() {
            tasks.push(tokio::spawn(clients::looker(self.usage.clone(), name.clone())));
        }
        self.trouble().await;
        self.heal().await;
        self.usage.stop.store(true, Ordering::Relaxed);
        for task in tasks {
            if let Err(error) = task.await {
                self.breaks(format!("somebody at work stopped: {error}"));
            }
        }
        self.judge().await;
    }

    async fn trouble(&mut self) {
        let faults = faults::draw(&mut self.random);
        let mut events: Vec<(u64, bool, usize)> = Vec::new();
        for (n, fault) in faults.iter().enumerate() {
            events.push((fault.at_ms, true, n));
            events.push(((fault.at_ms + fault.for_ms).min(TROUBLED_MS), false, n));
        }
        // What begins and ends at one moment begins first.
        events.sort_by_key(|(at_ms, begins, n)| (*at_ms, !begins, *n));
        let mut befell: Vec<Vec<String>> = vec![Vec::new(); faults.len()];
        let began = Instant::now();
        for (at_ms, begins, n) in events {
            let moment = began + Duration::from_millis(at_ms);
            until(moment.saturating_duration_since(Instant::now())).await;
            if begins {
                befell[n] = self.begin(&faults[n]);
            } else {
                self.end(&faults[n], &std::mem::take(&mut befell[n]));
            }
        }
    }

    /// Who is there and was not removed.
    fn names(&self) -> Vec<String> {
        self.machines.iter().filter(|(_, machine)| !machine.removed).map(|(name, _)| name.clone()).collect()
    }

    fn running(&self) -> Vec<(String, Process)> {
        let process = |name: String| self.wires.process(&name).map(|process| (name, process));
        self.names().into_iter().filter_map(process).collect()
    }

    fn leader(&self) -> Option<String> {
        let leads = |(_, process): &(String, Process)| process.replica.observe().is_leader;
        self.running().into_iter().find(leads).map(|(name, _)| name)
    }

    /// Strikes, and tells whom.
    fn begin(&mut self, fault: &Fault) -> Vec<String> {
        let names = self.names();
        let chosen = names[fault.number as usize % names.len()].clone();
        let one = if fault.leader { self.leader().unwrap_or(chosen) } else { chosen };
        self.note(format!("{fault}: {one}"));
        let others: Vec<String> = names.iter().filter(|name| **name != one).cloned().collect();
        match fault.trouble {
            Trouble::Kill | Trouble::PowerLoss => {
                self.count("crashes", 1);
                self.take_down(&one, fault.trouble == Trouble::PowerLoss);
                return vec![one];
            }
            Trouble::KillAll | Trouble::PowerLossOfAll => {
                self.count("crashes of all", 1);
                names.iter().for_each(|name| self.take_down(name, fault.trouble == Trouble::PowerLossOfAll));
                return names;
            }
            Trouble::Isolate | Trouble::Mute | Trouble::Deafen | Trouble::Part => {
                self.count("cuts", 1);
                let reach = if fault.trouble == Trouble::Part { &others[..1] } else { &others[..] };
                for other in reach {
                    if fault.trouble != Trouble::Deafen {
                        self.wires.cut(&one, other);
                    }
                    if fault.trouble != Trouble::Mute {
                        self.wires.cut(other, &one);
                    }
                }
            }
            Trouble::Lossy => {
                self.count("lossy", 1);
                self.wires.set_lossy();
            }
            Trouble::SlowDisk => {
                self.count("slow disks", 1);
                self.machines[&one].flush_us.store(SLOW_FLUSH_US, Ordering::Relaxed);
                return vec![one];
            }
            Trouble::Transfer => self.operate("transfers", Operation::Transfer { to: None }, None),
            Trouble::Join if names.len() < MEMBERS_MAX => {
                self.count("joins", 1);
                self.make();
            }
            Trouble::Remove if names.len() > 3 => {
                if let Some(process) = self.wires.process(&one) {
                    let node_id = process.replica.node_id();
                    self.operate("removals", Operation::Remove { node_id }, Some(one));
                }
            }
            Trouble::Join | Trouble::Remove => {}
        }
        Vec::new()
    }

    fn end(&mut self, fault: &Fault, befell: &[String]) {
        match fault.trouble {
            Trouble::Kill | Trouble::PowerLoss | Trouble::KillAll | Trouble::PowerLossOfAll => {
                befell.iter().for_each(|name| self.bring_up(name));
            }
            Trouble::Isolate | Trouble::Mute | Trouble::Deafen | Trouble::Part | Trouble::Lossy => self.wires.heal(),
            Trouble::SlowDisk => befell.iter().for_each(|name| self.quicken(name)),
            Trouble::Transfer | Trouble::Join | Trouble::Remove => {}
        }
    }

    fn quicken(&mut self, name: &str) {
        let flush_us = FLUSHES_US[self.random.below(FLUSHES_US.len() as u64) as usize];
        self.machines[name].flush_us.store(flush_us, Ordering::Relaxed);
    }

    /// Has some member do it; whatever comes of it, the cluster must live with it.
    fn operate(&mut self, what: &'static str, operation: Operation, about: Option<String>) {
        let running = self.running();
        let asked = running.into_iter().filter(|(name, _)| Some(name) != about.as_ref()).map(|(_, process)| process);
        let asked: Vec<Process> = asked.collect();
        if asked.is_empty() {
            return;
        }
        let process = asked[self.random.below(asked.len() as u64) as usize].clone();
        self.count(what, 1);
        let (trace, started) = (self.trace.clone(), self.started);
        tokio::spawn(async move {
            let deadline = Instant::now() + Duration::from_secs(5);
            let done = tokio::select! {
                () = process.life.cancelled() => "the process ended".to_owned(),
                done = process.replica.operate(operation, Terms::default(), deadline) => format!("{done:?}"),
            };
            trace.lock().push(format!("{:>6} {what}: {done}", started.elapsed().as_millis()));
        });
    }

    /// A new machine, with a process that founds the cluster or joins it.
    fn make(&mut self) {
        self.made += 1;
        let name = format!("n{}", self.made);
        let flush_us = Arc::new(AtomicU64::new(0));
        let random = Mutex::new(self.random.fork());
        let most_us = flush_us.clone();
        let flush_times = move || Duration::from_micros(50 + random.lock().below(most_us.load(Ordering::Relaxed)));
        let disk = ImaginedDisk::new(Arc::new(flush_times));
        disk.lie(self.lies);
        let machine = Machine { disk, flush_us, down: 0, ended: false, busy: None, removed: false };
        self.machines.insert(name.clone(), machine);
        self.quicken(&name);
        self.start(&name);
    }

    fn options(&self, name: &str) -> Options {
        let others = self.names().into_iter().filter(|other| other != name).collect::<Vec<_>>();
        Options {
            data_dir: PathBuf::from(self.dir.path()).join(name),
            api_address: format!("{name}:7900"),
            peer_address: name.to_owned(),
            start: if others.is_empty() {
                StartMode::Bootstrap
            } else if self.dir.path().join(name).exists() {
                StartMode::Wait(Door::default())
            } else {
                StartMode::Join { peers: others, token: None }
            },
            learner: false,
            feature_level: FEATURE_LEVEL,
            join_token_required: false,
            autopilot: Autopilot::default(),
            heartbeat_interval_ms: 100,
            election_timeout_ms_min: ELECTION_MS_MIN,
            election_timeout_ms_max: ELECTION_MS_MAX,
            snapshot_entries: 60,
            log_entries_kept: 20,
            history: HistoryLimits::default(),
            version: "simulated",
            trace: None,
        }
    }

    /// Starts a process once the one before it is gone.
    fn start(&mut self, name: &str) {
        let options = self.options(name);
        let machine = self.machines.get_mut(name).expect("a machine of this world");
        let (before, disk) = (machine.busy.take(), machine.disk.clone());
        let (wires, usage, from) = (self.wires.clone(), self.usage.clone(), name.to_owned());
        machine.busy = Some(tokio::spawn(async move {
            if let Some(before) = before
                && let Err(error) = before.await
            {
                usage.records.lock().faults.push(format!("{from} did not end: {error}"));
            }
            let life = CancellationToken::new();
            let wire = Wire { wires: wires.clone(), from: from.clone(), life: life.clone() };
            let open = move |dir: &_, registry| rollcall_storage::open_imagined(dir, registry, &disk);
            match Replica::start_on(options, wire, open).await {
                Ok(replica) => {
                    let process = Process { replica, life };
                    wires.connect(&from, process.clone());
                    let mut names = usage.names.lock();
                    if !names.contains(&from) {
                        names.push(from.clone());
                    }
                    drop(names);
                    tokio::spawn(mind(usage, from, process));
                }
                Err(error) if error.is_removed() => {}
                Err(error) => {
                    let mut text = error.to_string();
                    let mut source = std::error::Error::source(&error);
                    while let Some(error) = source {
                        text = format!("{text}: {error}");
                        source = error.source();
                    }
                    usage.records.lock().faults.push(format!("P1: {from} does not start: {text}"));
                }
            }
        }));
    }

    fn take_down(&mut self, name: &str, power: bool) {
        let machine = self.machines.get_mut(name).expect("a machine of this world");
        machine.down += 1;
        let Some(Process { replica, life }) = self.wires.process(name) else { return };
        machine.ended = true;
        let lost = if power {
            machine.disk.lose_power()
        } else {
            machine.disk.end_process();
            0
        };
        let before = machine.busy.take();
        life.cancel();
        machine.busy = Some(tokio::spawn(async move {
            if let Some(before) = before {
                // It has been up since, so this one is done.
                before.await.expect("a start does not panic");
            }
            replica.halt().await;
        }));
        self.wires.disconnect(name);
        self.count("unflushed entries lost", lost);
        if self.running().is_empty() {
            self.still_since_us = self.still_since_us.or(Some(self.usage.now_us()));
        }
    }

    fn bring_up(&mut self, name: &str) {
        let machine = self.machines.get_mut(name).expect("a machine of this world");
        machine.down = machine.down.saturating_sub(1);
        if machine.down > 0 || machine.removed || !machine.ended {
            return;
        }
        machine.ended = false;
        if let Some(since_us) = self.still_since_us.take() {
            let (now_us, step_us) = (self.usage.now_us(), ELECTION_MS_MAX * 1_000);
            self.usage.records.lock().leases.stood_still(since_us, now_us, step_us);
        }
        self.start(name);
    }

    /// Waits until every process that is on its way up or down is there.
    async fn settle(&mut self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        loop {
            let busy = |machine: &Machine| machine.busy.as_ref().is_some_and(|busy| !busy.is_finished());
            if !self.machines.values().any(busy) {
                return true;
            }
            if Instant::now() >= deadline {
                return false;
            }
            until(Duration::from_millis(10)).await;
        }
    }

    /// Whom its cluster removed, and whose process has ended since.
    fn bury(&mut self) {
        let removed: BTreeSet<String> = self.usage.removed();
        for (name, machine) in self.machines.iter_mut().filter(|(name, _)| removed.contains(*name)) {
            machine.removed = true;
            self.wires.disconnect(name);
        }
    }

    async fn all_are_ready(&mut self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        loop {
            self.bury();
            let (names, running) = (self.names(), self.running());
            let ready = |process: &Process| process.replica.readiness().iter().all(|check| check.ok);
            if names.len() == running.len() && running.iter().all(|(_, process)| ready(process)) {
                return true;
            }
            if Instant::now() >= deadline {
                for (name, process) in running {
                    self.note(format!("{name}: {:?}", process.replica.readiness()));
                }
                return false;
            }
            until(Duration::from_millis(20)).await;
        }
    }

    async fn heal(&mut self) {
        self.note("all trouble is over".to_owned());
        self.wires.heal();
        for name in self.names() {
            self.machines.get_mut(&name).expect("it is there").down = 0;
            self.bring_up(&name);
            self.quicken(&name);
        }
        if !self.all_are_ready(HEAL_DEADLINE).await {
            self.breaks(format!("P4: not everybody is back within {HEAL_DEADLINE:?}"));
        }
    }

    /// All are silent: whoever should be gone goes, and all nodes come to be of one mind.
    async fn judge(&mut self) {
        let longest_ms = TTLS_MS.iter().max().expect("there are TTLs") + 1_000 + 4 * ELECTION_MS_MAX;
        until(Duration::from_millis(longest_ms)).await;
        self.bury();
        let deadline = Instant::now() + HEAL_DEADLINE;
        loop {
            let mut digests = BTreeSet::new();
            for (_, process) in self.running() {
                let soon = Instant::now() + Duration::from_secs(5);
                digests
                    .insert(process.replica.digest(None, soon).await.ok().map(|(index, digest)| (index, digest.0)));
            }
            if digests.len() == 1 {
                break;
            }
            if Instant::now() >= deadline {
                return self.breaks(format!("P2: the nodes do not come to one digest: {digests:?}"));
            }
            until(Duration::from_millis(50)).await;
        }
        for (name, process) in self.running() {
            self.usage.follow(&process.replica, 0);
            process.replica.roll().read(|state| state.assert_consistent());
            for key in clients::agents_on(&process.replica) {
                self.breaks(format!("P4: i-{key} is on {name}'s roll, and has long been silent"));
            }
        }
    }

    async fn report(mut self) -> Report {
        for (_, process) in self.running() {
            process.replica.halt().await;
            process.life.cancel();
        }
        self.settle(HEAL_DEADLINE).await;
        let (mut faults, calls, leases) = {
            let mut records = self.usage.records.lock();
            let counts = [
                ("calls", records.calls.len() as u64),
                ("changes", records.changes.len() as u64),
                ("renewals", records.renewals),
                ("silences", records.silences),
            ];
            for (what, count) in counts {
                *self.counts.entry(what).or_default() += count;
            }
            let expired = records.changes.iter().filter(|change| change.1 == rollcall_registry::ChangeKind::Expired);
            *self.counts.entry("expiries").or_default() += expired.count() as u64;
            (std::mem::take(&mut records.faults), records.calls.clone(), records.leases.clone())
        };
        for call in &calls {
            let what = match call.told {
                history::Told::Done { .. } => "acknowledged",
                history::Told::Shown(_) => "reads",
                history::Told::Refused => "refused",
                history::Told::NotApplied => "not applied",
                history::Told::Unknown => "unknown",
            };
            *self.counts.entry(what).or_default() += 1;
        }
        for (what, count) in self.wires.counts() {
            *self.counts.entry(what).or_default() += count;
        }
        let found = history::check(&calls, STEPS_MAX);
        faults.extend(found.faults);
        faults.extend(
            found.undecided.into_iter().map(|key| format!("P8: of i-{key} no order was found, nor proof of none")),
        );
        faults.extend(leases.faults());
        Report { faults, counts: self.counts, trace: std::mem::take(&mut *self.trace.lock()) }
    }
}

/// A process ends by itself only if its cluster removed it.
async fn mind(usage: Arc<Usage>, name: String, process: Process) {
    tokio::select! {
        biased;
        () = process.life.cancelled() => {}
        failure = process.replica.failed() => {
            if process.life.is_cancelled() {
                return;
            }
            if failure.is_removed() {
                usage.bury(name);
                process.life.cancel();
                process.replica.halt().await;
            } else {
                usage.records.lock().faults.push(format!("P12: {name} ended by itself: {failure}"));
            }
        }
    }
}
