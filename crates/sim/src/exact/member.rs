//! One node's process: what the product's tasks do with the product's logic, done by events.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use rollcall_registry::state::Delta;
use rollcall_registry::{ClusterTime, HistoryLimits, Options, Origin, Outcome, State, Term};
use rollcall_replica::SubmitError;
use rollcall_replica::logic::{
    Answer, Attempt, ClockOptions, Commands, Delivery, Freshness, Leadership, Passage, ProposeResponse, Request,
    Stamp, Stamps, Tenure, Told, expiry, is_more_due, log_id,
};
use tokio::time::Instant;

use super::batches::{Answers, Doing, Pending, Slot};
use super::disk::{Disk, Position, Rows};
use super::flaw::Flaw;
use super::raft::{ELECTION_MS_MAX, ELECTION_MS_MIN, Effect, Local, MS, Message, Node, Raft};
use super::reads::Reads;
use super::rewrite::Rewriter;
use super::witness::Witness;
use crate::random::Random;

/// A moment, by all who have one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Now {
    /// In µs since the world began.
    pub world: u64,
    pub local: Local,
    /// The node's monotonic clock, as the product's logic sees it.
    pub instant: Instant,
}

/// Who is to be told what became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Who {
    Client(u64),
    Peer(Node, u64),
    Pacer(u64),
}

/// What goes over the wires.
#[derive(Clone, Debug)]
pub(crate) enum Wire {
    Raft(Message),
    Propose(u64, Rc<Commands>),
    Proposed(u64, ProposeResponse),
    ReadIndex(u64),
    ReadIndexed(u64, Option<u64>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Timer {
    Tick,
    Raft,
    Flushed,
    Apply,
    /// The batch's entry is handed to the log.
    Write(u64),
    Retry(u64),
    Deadline(Who),
    Checkpointed,
}

pub(crate) enum Out {
    Send(Node, Wire),
    /// After so many µs of the node's clock.
    After(u64, Timer),
}

pub(crate) struct Member {
    pub(crate) node: Node,
    /// Drawn when the process started.
    pub(crate) process: u64,
    pub(crate) raft: Raft,
    pub(crate) state: State,
    pub(crate) applied: Position,
    pub(crate) freshness: Freshness,
    pub(crate) reads: Reads,
    pub(crate) out: Vec<Out>,
    pub(crate) answers: Answers,
    pub(crate) random: Random,
    pub(crate) flaw: Option<Flaw>,
    /// How long this disk takes at most, in µs.
    pub(crate) flush_max: u64,
    pub(crate) rewriter: Rc<Rewriter>,
    pub(crate) tenure: Tenure<u64>,
    pub(crate) told: Option<Told<u64>>,
    pub(crate) leadership: Option<Leadership>,
    pub(crate) stamps: Stamps,
    pub(crate) peer_stamps: BTreeMap<Node, Stamp>,
    pub(crate) queue: VecDeque<Pending>,
    pub(crate) open: BTreeMap<Who, Rc<Slot>>,
    pub(crate) passage: Option<Passage<Pending>>,
    pub(crate) doing: Doing,
    pub(crate) origin: Origin,
    pub(crate) retries: u64,
    pub(crate) deliveries: Vec<Delivery<Pending>>,
    pub(crate) calls: u64,
    pub(crate) expiring: bool,
    pub(crate) flushing: Option<u64>,
    pub(crate) applying: bool,
    pub(crate) checkpoint: Option<(Delta, Position)>,
    pub(crate) checkpointed: u64,
    pub(crate) entries_between: u64,
}

/// What a process begins with.
pub(crate) struct Start {
    pub node: Node,
    pub nodes: u64,
    pub disk: Disk,
    pub random: Random,
    pub flaw: Option<Flaw>,
    pub rewriter: Rc<Rewriter>,
    pub flush_max: u64,
}

impl Member {
    pub(crate) fn start(start: Start, now: Now) -> Self {
        let Start { node, nodes, mut disk, mut random, flaw, rewriter, flush_max } = start;
        let process = random.draw();
        disk.starts += 1;
        let started = if flaw == Some(Flaw::StartsForgotten) { 1 } else { disk.starts };
        let changes_max = random.pick(&[5, 1_000]);
        let history = HistoryLimits { changes_max, ..HistoryLimits::default() };
        let options = Options { seed: random.draw(), history };
        let (state, mut applied) = match &disk.rows {
            Some(rows) => (rows.restore(options), rows.at),
            None => (State::new(options), Position::default()),
        };
        // What a checkpoint holds was flushed before it.
        disk.flushed = disk.flushed.max(applied.index.min(disk.last().index));
        if flaw == Some(Flaw::ReplaysTwice)
            && let Some(before) = disk.position(applied.index.saturating_sub(1))
        {
            applied = before;
        }
        let entries_between = random.between(10, 60);
        let raft = Raft::new(node, nodes, disk, now.local, random.fork(), flaw);
        let mut member = Self {
            node,
            process,
            raft,
            state,
            applied,
            freshness: Freshness::default(),
            reads: Reads::default(),
            out: Vec::new(),
            answers: Answers::default(),
            random,
            flaw,
            flush_max,
            rewriter,
            tenure: Tenure::default(),
            told: None,
            leadership: None,
            stamps: Stamps::new(process, now.instant),
            peer_stamps: BTreeMap::new(),
            queue: VecDeque::new(),
            open: BTreeMap::new(),
            passage: None,
            doing: Doing::Idle,
            origin: Origin { node, start: started, batch: 0 },
            retries: 0,
            deliveries: Vec::new(),
            calls: 0,
            expiring: false,
            flushing: None,
            applying: false,
            checkpoint: None,
            checkpointed: applied.index,
            entries_between,
        };
        member.out.push(Out::After(member.random.below(50 * MS), Timer::Tick));
        member.out.push(Out::After(member.random.below(10 * MS), Timer::Raft));
        member.reads.catch_up(now);
        member
    }

    pub(crate) fn call(&mut self) -> u64 {
        self.calls += 1;
        self.process.wrapping_add(self.calls)
    }

    /// As the member's core does: reads the clock where this node leads, and starts it where its lead has begun.
    pub(crate) fn lead(&mut self, now: Now, witness: &mut Witness) -> Option<(ClusterTime, bool)> {
        if !self.raft.is_leader() {
            self.tenure.end();
            self.leadership = None;
            return None;
        }
        let term = self.raft.term();
        if !self.tenure.is_of(term) {
            self.leadership = None;
            let mut options = ClockOptions {
                step_max: Duration::from_millis(ELECTION_MS_MIN),
                grace: Duration::from_millis(2 * ELECTION_MS_MAX),
            };
            let (mut base, mut told) = (self.state.now(), self.told);
            match self.flaw {
                Some(Flaw::NoStepCap) => options.step_max = Duration::from_secs(3_600),
                Some(Flaw::NoGrace) => options.grace = Duration::ZERO,
                Some(Flaw::ClockFromNothing) => (base, told) = (ClusterTime(0), None),
                _ => {}
            }
            if !self.tenure.begin(term, Some(self.applied.term), options, base, told, now.instant) {
                return None;
            }
            witness.clock_begins(term, now.world);
        }
        let acked_at = self.raft.quorum_acked_at(now.local).map(|acked| {
            let ago = Duration::from_micros(now.local - acked);
            now.instant.checked_sub(ago).expect("the clock began long ago")
        });
        let (clock, may_expire) = self.tenure.read(now.instant, acked_at)?;
        witness.clock(self.node, clock, now.world);
        let applied_index = self.applied.index;
        self.leadership = acked_at.map(|acked| Leadership { clock, quorum_acked_at: acked, applied_index });
        if let Some(acked) = acked_at {
            self.freshness.note(acked, applied_index, applied_index);
        }
        Some((clock, may_expire))
    }

    pub(crate) fn timer(&mut self, timer: Timer, now: Now, witness: &mut Witness) {
        match timer {
            Timer::Tick => {
                self.out.push(Out::After(50 * MS, Timer::Tick));
                self.pace(now, witness);
                self.checkpoint();
            }
            Timer::Raft => {
                self.out.push(Out::After(10 * MS, Timer::Raft));
                self.raft.tick(now.local);
            }
            Timer::Flushed => {
                if let Some(index) = self.flushing.take() {
                    self.raft.flushed(index, now.local);
                }
            }
            Timer::Apply => {
                self.applying = false;
                self.apply(now, witness);
            }
            Timer::Write(batch) if batch == self.origin.batch => self.write(now),
            Timer::Retry(batch) if batch == self.origin.batch && matches!(self.doing, Doing::Paused { .. }) => {
                self.step(now, witness);
            }
            Timer::Write(_) | Timer::Retry(_) => {}
            Timer::Deadline(who) => self.deadline(who),
            Timer::Checkpointed => self.keep(),
        }
        self.settle(now, witness);
    }

    pub(crate) fn receive(&mut self, from: Node, wire: Wire, now: Now, witness: &mut Witness) {
        match wire {
            Wire::Raft(message) => {
                if let Message::Appended { stamp: Some(stamp), .. } = &message {
                    self.peer_stamps.insert(from, *stamp);
                }
                self.raft.receive(from, message, now.local, now.world);
            }
            Wire::Propose(call, commands) => {
                if self.lead(now, witness).is_some() {
                    let (commands, once) = Commands::clone(&commands);
                    self.submit(Request { commands, once, stays: true }, Who::Peer(from, call), 60_000);
                } else {
                    let response = ProposeResponse::NotLeader { leader: self.raft.leader };
                    self.out.push(Out::Send(from, Wire::Proposed(call, response)));
                }
            }
            Wire::Proposed(call, response) => {
                if matches!(self.doing, Doing::Forwarded { call: open, .. } if open == call) {
                    let course = witness.course(now.instant);
                    self.came_to(Attempt::of_response(response, || course), now, witness);
                }
            }
            Wire::ReadIndex(call) => {
                let leads = self.lead(now, witness).is_some();
                self.remote_read(from, call, leads, now);
            }
            Wire::ReadIndexed(call, index) => self.read_indexed(call, index, now),
        }
        self.settle(now, witness);
    }

    /// A request brought no answer, and whether it was sent is known.
    pub(crate) fn call_failed(&mut self, call: u64, sent: bool, now: Now, witness: &mut Witness) {
        if matches!(self.doing, Doing::Forwarded { call: open, .. } if open == call) {
            let lost = sent && self.flaw != Some(Flaw::LostIsNotProposed);
            self.came_to(if lost { Attempt::Unknown } else { Attempt::NotProposed }, now, witness);
        }
        self.read_indexed(call, None, now);
        self.settle(now, witness);
    }

    /// Carries out what the last event brought about, until nothing is left.
    pub(crate) fn settle(&mut self, now: Now, witness: &mut Witness) {
        while !self.raft.out.is_empty() {
            for effect in std::mem::take(&mut self.raft.out) {
                self.effect(effect, now, witness);
            }
        }
        if let Doing::Forwarded { leader, .. } = self.doing
            && self.raft.leader != Some(leader)
        {
            // A deposed leader may never answer, and what it has in hand is decided without it.
            let lost = self.flaw != Some(Flaw::LostIsNotProposed);
            self.came_to(if lost { Attempt::Unknown } else { Attempt::NotProposed }, now, witness);
        }
        if matches!(self.doing, Doing::Paused { seen } if seen != self.raft.leader) {
            self.step(now, witness);
        }
        if matches!(self.doing, Doing::Idle) {
            self.drive(now, witness);
        }
        self.look_at_reads(now);
        if self.flushing.is_none() && self.raft.disk.flushed < self.raft.disk.last().index {
            self.flushing = Some(self.raft.disk.last().index);
            self.out.push(Out::After(self.random.between(100, self.flush_max), Timer::Flushed));
        }
        if !self.applying && self.applied.index < self.raft.commit {
            self.applying = true;
            let late = if self.random.permille(20) { 30 * MS } else { 500 };
            self.out.push(Out::After(self.random.below(late), Timer::Apply));
        }
    }

    fn effect(&mut self, effect: Effect, now: Now, witness: &mut Witness) {
        match effect {
            Effect::Send(to, mut message) => {
                match &mut message {
                    Message::Append { lead, .. } | Message::Snapshot { lead, .. } => {
                        let echo = self.peer_stamps.get(&to).copied();
                        *lead = self.leadership.map(|leadership| leadership.told(now.instant, echo));
                    }
                    Message::Appended { stamp, .. } => *stamp = Some(self.stamps.at(now.instant)),
                    Message::Vote { .. } | Message::Voted { .. } => {}
                }
                self.out.push(Out::Send(to, Wire::Raft(message)));
            }
            Effect::Heard(term, lead) => {
                self.told = Told::hear(self.told, term, lead.map(|lead| lead.clock), now.instant);
                match lead {
                    Some(lead) if self.flaw == Some(Flaw::FreshFromArrival) => {
                        self.freshness.note(now.instant, lead.applied_index, self.applied.index);
                    }
                    Some(lead) => self.freshness.hear(&lead, &self.stamps, self.applied.index),
                    None => {}
                }
            }
            Effect::Installed(rows) => self.install(&rows, witness),
            Effect::Discarded(from) => {
                self.flushing = self.flushing.map(|index| index.min(from.saturating_sub(1)));
                if matches!(self.doing, Doing::InLog(at) if at.index >= from) {
                    // Another node may have committed it.
                    let lost = self.flaw != Some(Flaw::DiscardedIsNotProposed);
                    self.came_to(if lost { Attempt::Unknown } else { Attempt::NotProposed }, now, witness);
                }
            }
            Effect::Leads(term) => witness.leads(self.node, term, now.world),
        }
    }

    fn install(&mut self, rows: &Rc<Rows>, witness: &mut Witness) {
        let history = HistoryLimits { changes_max: 1_000, ..HistoryLimits::default() };
        let state = rows.restore(Options { seed: self.random.draw(), history });
        witness.installed(self.node, rows.at, &self.state, &state);
        (self.state, self.applied) = (state, rows.at);
        (self.checkpoint, self.checkpointed) = (None, rows.at.index);
        self.after_apply();
    }

    fn apply(&mut self, now: Now, witness: &mut Witness) {
        while self.applied.index < self.raft.commit {
            let entry = self.raft.disk.entry(self.applied.index + 1).expect("what is committed is here").clone();
            let outcomes = match &entry.proposal {
                Some(proposal) => self.rewriter.apply(&mut self.state, Term(entry.at.term), proposal),
                None => Vec::new(),
            };
            self.applied = entry.at;
            witness.applied(self.node, &entry, &outcomes, &self.state);
            if matches!(self.doing, Doing::InLog(at) if at == entry.at) {
                // What is in its own log is its own.
                let log_id = log_id(entry.at.term, self.node, entry.at.index);
                let revision = self.state.revision();
                let answer = Answer { outcomes, revision, log_id, course: witness.course(now.instant) };
                self.came_to(Attempt::Done(answer), now, witness);
            }
        }
        self.after_apply();
        if self.random.permille(10) {
            self.state.assert_consistent();
        }
    }

    /// The pacer's tick.
    fn pace(&mut self, now: Now, witness: &mut Witness) {
        let Some((clock, may_expire)) = self.lead(now, witness) else {
            self.state.next_due_by(self.state.now());
            return;
        };
        if self.expiring {
            return;
        }
        let term = Term(self.raft.term());
        if let Some(request) = expiry(term, clock, may_expire, |by| self.state.next_due_by(by)) {
            self.rewriter.proposes(term, clock, &self.state);
            self.expiring = true;
            let who = Who::Pacer(self.call());
            self.submit(request, who, ELECTION_MS_MAX);
        }
    }

    /// The pacer learns what became of its expiry.
    pub(crate) fn paced(&mut self, answer: &Result<Answer, SubmitError>, now: Now, witness: &mut Witness) {
        self.expiring = false;
        if answer.as_ref().is_ok_and(|answer| is_more_due(&answer.outcomes)) {
            self.pace(now, witness);
        }
        self.settle(now, witness);
    }

    fn checkpoint(&mut self) {
        if self.checkpoint.is_none() && self.applied.index >= self.checkpointed + self.entries_between {
            self.checkpoint = Some((self.state.take_delta(), self.applied));
            self.checkpointed = self.applied.index;
            self.out.push(Out::After(self.random.below(60 * MS), Timer::Checkpointed));
        }
    }

    /// The checkpoint is on disk, all at once, if the log that it stands on is.
    fn keep(&mut self) {
        let Some((_, at)) = &self.checkpoint else { return };
        if self.raft.disk.flushed < at.index {
            self.out.push(Out::After(5 * MS, Timer::Checkpointed));
            return;
        }
        let Some((delta, at)) = self.checkpoint.take() else { return };
        let disk = &mut self.raft.disk;
        disk.rows = Some(Rc::new(Rows::write(disk.rows.as_ref(), delta, at)));
        let kept = self.random.pick(&[0, 5, 50]);
        self.raft.disk.purge(at.index.saturating_sub(kept));
    }
}

/// Whether a renewal of a lease stands among those that took effect.
pub(crate) fn was_renewed(outcome: &Outcome, lease: rollcall_registry::LeaseId) -> bool {
    matches!(outcome, Outcome::Renewed { not_found, superseded }
        if !not_found.contains(lease) && !superseded.contains(lease))
}
