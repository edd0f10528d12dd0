//! The world: one queue of events in the order of their times, and nothing else that happens.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::rc::Rc;
use std::time::Duration;

use rollcall_registry::{Outcome, Revision};
use rollcall_replica::SubmitError;
use tokio::time::Instant;

use super::clients::{AGENTS, Agent, Operation, Watcher};
use super::disk::Disk;
use super::faults::{Fault, TROUBLED_MS, Target, Trouble};
use super::flaw::Flaw;
use super::member::{Member, Now, Out, Start, Timer, Who, Wire};
use super::net::Network;
use super::raft::{MS, Node};
use super::rewrite::{Rewriter, everything};
use super::witness::{DRIFT_PPM_MAX, Witness};
use crate::random::Random;

/// From the end of all trouble until everything must have come to rest: the longest lease and its reaping, a second, an
/// election with a few failed attempts, and the grace.
const HEALED_MS: u64 = 14_000;

/// The last stretch, in which cluster time must run with the world's.
const RESTED_MS: u64 = 4_000;

/// What a flush takes at most, on quick disks and on others.
const FLUSHES_MAX: &[u64] = &[500, 2_500, 30 * MS];
const FLUSH_MAX_SLOW: u64 = 250 * MS;

pub(crate) enum Event {
    Timer(Node, u64, Timer),
    Deliver(Node, Node, Wire),
    CallFailed(Node, u64, u64, bool),
    Begin(usize),
    End(usize),
    /// An agent does something.
    Agent(usize),
    /// An operation reaches a node.
    Ask(Node, u64),
    /// A node's word reaches an agent.
    Hear(u64, Result<Outcome, SubmitError>, u64),
    HangUp(Node, u64),
    Read,
    Watch(usize),
    Heal,
    Rest,
}

pub(crate) struct Scheduled(u64, u64, Event);

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        (self.0, self.1) == (other.0, other.1)
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.0, self.1).cmp(&(other.0, other.1))
    }
}

/// A machine: its process, if one runs, or what it left on the disk.
pub(crate) struct Machine {
    pub(crate) member: Option<Member>,
    pub(crate) disk: Disk,
    pub(crate) drift_ppm: i64,
    /// How many pauses hold it.
    pub(crate) paused: u32,
    pub(crate) down: u32,
    pub(crate) slow: u32,
    pub(crate) flush_max: u64,
    /// What came while it stood still.
    pub(crate) backlog: Vec<Event>,
}

pub(crate) struct World {
    pub(crate) now: u64,
    pub(crate) epoch: Instant,
    pub(crate) queue: BinaryHeap<Reverse<Scheduled>>,
    pub(crate) scheduled: u64,
    pub(crate) random: Random,
    pub(crate) machines: Vec<Machine>,
    pub(crate) network: Network,
    pub(crate) agents: Vec<Agent>,
    pub(crate) watchers: Vec<Watcher>,
    pub(crate) operations: BTreeMap<u64, Operation>,
    pub(crate) reads: BTreeMap<u64, (u64, u64)>,
    pub(crate) asked: u64,
    pub(crate) faults: Vec<Fault>,
    /// Whom each fault befell.
    pub(crate) befell: Vec<Vec<Node>>,
    pub(crate) witness: Witness,
    pub(crate) rewriter: Rc<Rewriter>,
    pub(crate) flaw: Option<Flaw>,
    pub(crate) idle_since: Option<u64>,
    pub(crate) troubled: bool,
    pub(crate) rested_at: Option<u64>,
    pub(crate) events: u64,
}

impl World {
    pub(crate) fn new(seed: u64, nodes: u64, faults: Vec<Fault>, flaw: Option<Flaw>) -> Self {
        let mut random = Random::new(seed);
        let rewriter = Rc::new(Rewriter::new(flaw));
        let network = Network::new(random.fork());
        let agents = (0..AGENTS).map(|_| Agent::new(&mut random, nodes)).collect();
        let watcher = |random: &mut Random| Watcher {
            node: random.between(1, nodes),
            revision: Revision(0),
            present: BTreeMap::new(),
            synced: true,
        };
        let watchers = (0..3).map(|_| watcher(&mut random)).collect();
        let machine = |random: &mut Random| Machine {
            member: None,
            disk: Disk::default(),
            drift_ppm: random.below(2 * DRIFT_PPM_MAX + 1).cast_signed() - DRIFT_PPM_MAX.cast_signed(),
            paused: 0,
            down: 0,
            slow: 0,
            flush_max: random.pick(FLUSHES_MAX),
            backlog: Vec::new(),
        };
        let machines = (0..nodes).map(|_| machine(&mut random)).collect();
        let befell = vec![Vec::new(); faults.len()];
        let mut world = Self {
            now: 0,
            epoch: Instant::now() + Duration::from_secs(1 << 20),
            queue: BinaryHeap::new(),
            scheduled: 0,
            random,
            machines,
            network,
            agents,
            watchers,
            operations: BTreeMap::new(),
            reads: BTreeMap::new(),
            asked: 0,
            faults,
            befell,
            witness: Witness::new(rewriter.clone()),
            rewriter,
            flaw,
            idle_since: None,
            troubled: true,
            rested_at: None,
            events: 0,
        };
        (1..=nodes).for_each(|node| world.start(node));
        for n in 0..world.faults.len() {
            let Fault { at_ms, for_ms, .. } = world.faults[n];
            world.schedule(at_ms * MS, Event::Begin(n));
            world.schedule((at_ms + for_ms) * MS, Event::End(n));
        }
        for agent in 0..world.agents.len() {
            let at = world.random.below(2_000 * MS);
            world.schedule(at, Event::Agent(agent));
        }
        (0..3).for_each(|watcher| world.schedule(500 * MS, Event::Watch(watcher)));
        world.schedule(600 * MS, Event::Read);
        world.schedule(TROUBLED_MS * MS, Event::Heal);
        world
    }

    /// Until everything has come to rest, or a promise is broken.
    pub(crate) fn run(&mut self) {
        while self.witness.broken.is_none()
            && let Some(Reverse(Scheduled(at, _, event))) = self.queue.pop()
        {
            self.now = at;
            self.events += 1;
            if !self.happens(event) {
                return;
            }
        }
    }

    pub(crate) fn schedule(&mut self, at: u64, event: Event) {
        self.scheduled += 1;
        self.queue.push(Reverse(Scheduled(at.max(self.now), self.scheduled, event)));
    }

    pub(crate) fn machine(&mut self, node: Node) -> &mut Machine {
        &mut self.machines[node as usize - 1]
    }

    pub(crate) fn moment(&self, node: Node) -> Now {
        let drift_ppm = self.machines[node as usize - 1].drift_ppm;
        let local = self.now.saturating_add_signed(self.now.cast_signed() * drift_ppm / 1_000_000);
        Now { world: self.now, local, instant: self.epoch + Duration::from_micros(local) }
    }

    /// Does something at a node, if its process runs, and carries out what comes of it.
    pub(crate) fn at(&mut self, node: Node, act: impl FnOnce(&mut Member, Now, &mut Witness)) {
        let now = self.moment(node);
        let Some(member) = &mut self.machines[node as usize - 1].member else { return };
        act(member, now, &mut self.witness);
        self.carry_out(node);
    }

    fn carry_out(&mut self, node: Node) {
        let now = self.moment(node);
        let Some(member) = &mut self.machines[node as usize - 1].member else { return };
        let (answers, told) = (member.take_answers(), std::mem::take(&mut member.reads.told));
        let process = member.process;
        for (who, answer) in answers {
            self.answered(node, who, answer);
        }
        for told in told {
            self.read_told(node, told);
        }
        let Some(member) = &mut self.machines[node as usize - 1].member else { return };
        let outs = std::mem::take(&mut member.out);
        let drift_ppm = self.machines[node as usize - 1].drift_ppm;
        for out in outs {
            match out {
                Out::After(local, timer) => {
                    let world = local.saturating_add_signed(-(local.cast_signed() * drift_ppm / 1_000_000));
                    self.schedule(now.world + world, Event::Timer(node, process, timer));
                }
                Out::Send(to, wire) => self.send(node, process, to, wire),
            }
        }
    }

    pub(crate) fn send(&mut self, from: Node, process: u64, to: Node, wire: Wire) {
        let call = match &wire {
            Wire::Propose(call, _) | Wire::ReadIndex(call) => Some(*call),
            _ => None,
        };
        if to as usize > self.machines.len() {
            return;
        }
        if let Some(call) = call
            && self.machine(to).down > 0
        {
            // Nobody listens there: certainly not sent.
            self.schedule(self.now + 200, Event::CallFailed(from, process, call, false));
            return;
        }
        if let (Wire::Propose(call, _), Some((late, patience))) = (&wire, self.network.hold_up()) {
            self.witness.count("held up");
            self.schedule(self.now + patience, Event::CallFailed(from, process, *call, true));
            self.schedule(self.now + late, Event::Deliver(from, to, wire));
            return;
        }
        let mut arrivals = self.network.send(from, to);
        if call.is_some() {
            // A call goes over a connection, which doubles nothing.
            arrivals.truncate(1);
        }
        if arrivals.is_empty() {
            self.witness.count("lost");
            if let Some(call) = call {
                let late = self.random.between(50, 1_000) * MS;
                self.schedule(self.now + late, Event::CallFailed(from, process, call, true));
            }
        }
        if arrivals.len() > 1 {
            self.witness.count("doubled");
        }
        for late in arrivals {
            self.schedule(self.now + late, Event::Deliver(from, to, wire.clone()));
        }
    }

    /// False when the run is over.
    fn happens(&mut self, event: Event) -> bool {
        let node = match &event {
            Event::Timer(node, ..)
            | Event::Deliver(_, node, _)
            | Event::CallFailed(node, ..)
            | Event::Ask(node, _)
            | Event::HangUp(node, _) => Some(*node),
            _ => None,
        };
        if let Some(node) = node
            && self.machine(node).paused > 0
        {
            self.machine(node).backlog.push(event);
            return true;
        }
        match event {
            Event::Timer(node, process, timer) => {
                if self.runs(node, process) {
                    self.at(node, |member, now, witness| member.timer(timer, now, witness));
                }
            }
            Event::Deliver(from, to, wire) => {
                self.at(to, |member, now, witness| member.receive(from, wire, now, witness));
            }
            Event::CallFailed(node, process, call, sent) => {
                if self.runs(node, process) {
                    self.at(node, |member, now, witness| member.call_failed(call, sent, now, witness));
                }
            }
            Event::Begin(fault) => self.begin(fault),
            Event::End(fault) => self.end(fault),
            Event::Agent(agent) => self.agent(agent),
            Event::Ask(node, asked) => self.ask(node, asked),
            Event::Hear(asked, answer, index) => self.hear(asked, answer, index),
            Event::HangUp(node, asked) => {
                if let Some(member) = &mut self.machine(node).member {
                    member.abandon(Who::Client(asked));
                }
            }
            Event::Read => self.read(),
            Event::Watch(watcher) => self.watch(watcher),
            Event::Heal => self.heal(),
            Event::Rest => return self.rest(),
        }
        true
    }

    fn runs(&self, node: Node, process: u64) -> bool {
        self.machines[node as usize - 1].member.as_ref().is_some_and(|member| member.process == process)
    }

    fn start(&mut self, node: Node) {
        let (now, random) = (self.moment(node), self.random.fork());
        let (nodes, flaw, rewriter) = (self.machines.len() as u64, self.flaw, self.rewriter.clone());
        let machine = self.machine(node);
        let disk = std::mem::take(&mut machine.disk);
        let flush_max = if machine.slow > 0 { FLUSH_MAX_SLOW } else { machine.flush_max };
        let start = Start { node, nodes, disk, random, flaw, rewriter, flush_max };
        machine.member = Some(Member::start(start, now));
        self.carry_out(node);
    }

    fn crash(&mut self, node: Node) {
        let mut random = self.random.fork();
        let machine = self.machine(node);
        let Some(member) = machine.member.take() else { return };
        let mut disk = member.raft.disk;
        let lost = disk.lose_power(&mut random);
        machine.disk = disk;
        machine.backlog.clear();
        if lost > 0 {
            self.witness.count("unflushed entries lost");
        }
    }

    fn leader(&self) -> Node {
        let leading = self.machines.iter().filter_map(|machine| machine.member.as_ref());
        let leader = leading.filter(|member| member.raft.is_leader()).max_by_key(|member| member.raft.term());
        leader.map_or(1, |member| member.node)
    }

    fn begin(&mut self, n: usize) {
        let fault = self.faults[n];
        let all: Vec<Node> = (1..=self.machines.len() as u64).collect();
        let whom = |target| match target {
            Target::Leader => vec![self.leader()],
            Target::Node(node) => vec![node],
        };
        let befell = match fault.trouble {
            Trouble::CrashAll | Trouble::PauseAll => all.clone(),
            Trouble::Crash(target)
            | Trouble::Pause(target)
            | Trouble::Isolate(target)
            | Trouble::Mute(target)
            | Trouble::SlowDisk(target)
            | Trouble::Depose(target) => whom(target),
            Trouble::Storm => Vec::new(),
        };
        self.befell[n].clone_from(&befell);
        self.witness.note(self.now, format!("{} {befell:?}", fault.trouble));
        match fault.trouble {
            Trouble::Crash(_) | Trouble::CrashAll => {
                self.witness.count("crashes");
                for node in befell {
                    self.machine(node).down += 1;
                    self.crash(node);
                }
            }
            Trouble::Pause(_) | Trouble::PauseAll => {
                self.witness.count("pauses");
                befell.into_iter().for_each(|node| self.machine(node).paused += 1);
            }
            Trouble::Isolate(_) | Trouble::Mute(_) => {
                self.witness.count("cuts");
                for node in befell {
                    for other in all.iter().filter(|other| **other != node) {
                        self.network.cut.insert((node, *other));
                        if matches!(fault.trouble, Trouble::Isolate(_)) {
                            self.network.cut.insert((*other, node));
                        }
                    }
                }
            }
            Trouble::Storm => {
                self.witness.count("storms");
                self.network.storms += 1;
            }
            Trouble::SlowDisk(_) => {
                for node in befell {
                    self.machine(node).slow += 1;
                    self.machine(node).member.iter_mut().for_each(|member| member.flush_max = FLUSH_MAX_SLOW);
                }
            }
            Trouble::Depose(_) => {
                for node in befell {
                    if self.machine(node).paused == 0 {
                        self.at(node, |member, now, witness| {
                            member.raft.stand(now.local, true);
                            member.settle(now, witness);
                        });
                    }
                }
            }
        }
        self.look_who_runs();
    }

    fn end(&mut self, n: usize) {
        let (fault, befell) = (self.faults[n], self.befell[n].clone());
        match fault.trouble {
            Trouble::Crash(_) | Trouble::CrashAll => {
                for node in befell {
                    self.machine(node).down -= 1;
                    if self.machine(node).down == 0 {
                        self.start(node);
                    }
                }
            }
            Trouble::Pause(_) | Trouble::PauseAll => befell.into_iter().for_each(|node| self.resume(node)),
            Trouble::Isolate(_) | Trouble::Mute(_) => {
                self.network.cut.retain(|(a, b)| !befell.contains(a) && !befell.contains(b));
            }
            Trouble::Storm => self.network.storms -= 1,
            Trouble::SlowDisk(_) => {
                for node in befell {
                    let machine = self.machine(node);
                    machine.slow -= 1;
                    if machine.slow == 0 {
                        let flush_max = machine.flush_max;
                        machine.member.iter_mut().for_each(|member| member.flush_max = flush_max);
                    }
                }
            }
            Trouble::Depose(_) => {}
        }
        self.look_who_runs();
    }

    fn resume(&mut self, node: Node) {
        let machine = self.machine(node);
        machine.paused -= 1;
        if machine.paused == 0 {
            let mut backlog = std::mem::take(&mut machine.backlog);
            // Tasks that were all made ready by the wake come in no order.
            if self.random.permille(500) {
                let place = self.random.below(backlog.len() as u64) as usize;
                backlog.rotate_left(place);
            }
            backlog.into_iter().for_each(|event| self.schedule(self.now, event));
        }
    }

    /// Cluster time must stand still while no majority runs.
    fn look_who_runs(&mut self) {
        let running = self.machines.iter().filter(|machine| machine.down == 0 && machine.paused == 0).count();
        let majority = running > self.machines.len() / 2;
        match (majority, self.idle_since) {
            (false, None) => self.idle_since = Some(self.now),
            (true, Some(since)) => {
                self.witness.was_idle(self.now - since);
                self.idle_since = None;
            }
            _ => {}
        }
    }

    fn heal(&mut self) {
        self.witness.note(self.now, "all trouble is over".to_owned());
        for n in 0..self.faults.len() {
            let Fault { at_ms, for_ms, .. } = self.faults[n];
            if at_ms < TROUBLED_MS && at_ms + for_ms > TROUBLED_MS {
                self.end(n);
                // Nothing is ended twice.
                self.faults[n] = Fault { for_ms: 0, trouble: Trouble::Depose(Target::Leader), ..self.faults[n] };
            }
        }
        self.troubled = false;
        self.schedule(self.now + (HEALED_MS - RESTED_MS) * MS, Event::Rest);
    }

    /// Everything must have come to rest, and stay so while time runs on.
    fn rest(&mut self) -> bool {
        let Some(before) = self.rested_at else {
            self.rested_at = Some(self.witness.clock_max().0);
            self.schedule(self.now + RESTED_MS * MS, Event::Rest);
            return true;
        };
        let passed = self.witness.clock_max().0 - before;
        if passed < RESTED_MS - 200 {
            self.witness.breaks("P4", format!("cluster time moved by {passed} ms in {RESTED_MS} ms without trouble"));
        }
        let last = self.witness.last_index();
        let (roll, changes) = (self.witness.roll.digest(), self.witness.changes.len() as u64);
        for machine in &self.machines {
            let Some(member) = &machine.member else { continue };
            let (node, applied) = (member.node, member.applied.index);
            if applied != last || member.state.digest() != roll {
                self.witness
                    .breaks("P2", format!("node {node} came to rest at entry {applied}, not as all at {last}"));
            }
            if let Some(view) = everything(&member.state).next() {
                let who = view.instance.id().to_owned();
                self.witness.breaks("P4", format!("{who} is on node {node}'s roll, and has long been silent"));
            }
            member.state.assert_consistent();
        }
        for watcher in &self.watchers {
            if watcher.revision.0 != changes || !watcher.present.is_empty() {
                let Watcher { revision, present, .. } = watcher;
                let left = present.len();
                self.witness
                    .breaks("P9", format!("a watcher stands at {revision} of {changes}, with {left} present"));
            }
        }
        false
    }
}
