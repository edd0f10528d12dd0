//! A correct and simple replicated log, in place of openraft: terms, votes, commit by a majority of flushed copies,
//! conflicting tails cut off, checkpoints for who is too far behind, and read indexes confirmed by a quorum. Messages and
//! times come in as arguments; what is to be sent is left in `out`.
//!
//! `rollcall-sim`'s other half runs openraft itself; this one is here to be bent further than a library lets itself be.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;

use rollcall_registry::Proposal;
use rollcall_replica::logic::{Lead, Stamp};

use super::disk::{Disk, Entry, Position, Rows};
use super::flaw::Flaw;
use crate::random::Random;

pub(crate) type Node = u64;

/// In µs of the node's own clock.
pub(crate) type Local = u64;

pub(crate) const MS: u64 = 1_000;

pub(crate) const ELECTION_MS_MIN: u64 = 400;
pub(crate) const ELECTION_MS_MAX: u64 = 800;
const BEAT_MS: u64 = 100;

/// Between two checkpoints sent to one follower.
const SNAPSHOT_PAUSE_MS: u64 = 300;

/// Entries in one append.
const APPEND_MAX: usize = 64;

#[derive(Clone, Debug)]
pub(crate) enum Message {
    Vote {
        term: u64,
        last: Position,
        /// Asked for by the leader, or because the leader's process is gone: its lease protects nobody.
        at_once: bool,
    },
    Voted {
        term: u64,
        granted: bool,
    },
    Append {
        term: u64,
        before: Position,
        entries: Vec<Entry>,
        commit: u64,
        sent_at: Local,
        lead: Option<Lead>,
    },
    Snapshot {
        term: u64,
        rows: Rc<Rows>,
        sent_at: Local,
        lead: Option<Lead>,
    },
    Appended {
        term: u64,
        /// Up to where the logs are known to be equal; if they are not there, where to try next.
        matched: Result<u64, u64>,
        sent_at: Local,
        stamp: Option<Stamp>,
    },
}

/// What a leader knows of a follower.
#[derive(Debug, Default)]
struct Progress {
    next: u64,
    matched: u64,
    /// When the last request was sent that it answered.
    acked_at: Option<Local>,
    snapshot_at: Option<Local>,
}

/// An append's answer, and what its leader told, until the entries are flushed.
#[derive(Debug)]
struct Unanswered {
    leader: Node,
    term: u64,
    matched: u64,
    sent_at: Local,
    lead: Option<Lead>,
}

#[derive(Debug)]
enum Role {
    Follower,
    Candidate(BTreeSet<Node>),
    Leader(BTreeMap<Node, Progress>),
}

/// A read that waits for a quorum.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reading {
    pub index: u64,
    term: u64,
    asked_at: Local,
}

/// What the node around must do.
#[derive(Debug)]
pub(crate) enum Effect {
    Send(Node, Message),
    /// An append of the leader of this term was accepted.
    Heard(u64, Option<Lead>),
    /// The state is another's from now on.
    Installed(Rc<Rows>),
    /// The log was cut behind this index, and what stood there may yet be committed elsewhere.
    Discarded(u64),
    Leads(u64),
}

#[derive(Debug)]
pub(crate) struct Raft {
    pub node: Node,
    pub disk: Disk,
    pub commit: u64,
    pub leader: Option<Node>,
    pub out: Vec<Effect>,
    flaw: Option<Flaw>,
    peers: Vec<Node>,
    role: Role,
    heard_at: Option<Local>,
    election_at: Local,
    beat_at: Local,
    /// The first entry of this lead.
    first_own: u64,
    unanswered: Vec<Unanswered>,
    random: Random,
}

impl Raft {
    pub(crate) fn new(
        node: Node,
        nodes: u64,
        disk: Disk,
        now: Local,
        mut random: Random,
        flaw: Option<Flaw>,
    ) -> Self {
        let commit = disk.rows.as_ref().map_or(0, |rows| rows.at.index);
        let election_at = now + random.between(ELECTION_MS_MIN, ELECTION_MS_MAX) * MS;
        Self {
            node,
            disk,
            commit,
            leader: None,
            out: Vec::new(),
            flaw,
            peers: (1..=nodes).filter(|peer| *peer != node).collect(),
            role: Role::Follower,
            heard_at: None,
            election_at,
            beat_at: 0,
            first_own: 0,
            unanswered: Vec::new(),
            random,
        }
    }

    pub(crate) fn is_leader(&self) -> bool {
        matches!(self.role, Role::Leader(_))
    }

    pub(crate) fn term(&self) -> u64 {
        self.disk.term
    }

    fn quorum(&self) -> usize {
        self.peers.len().div_ceil(2) + 1
    }

    /// How far this node's own copy counts.
    fn own(&self) -> u64 {
        if self.flaw == Some(Flaw::UnflushedCounts) { self.disk.last().index } else { self.disk.flushed }
    }

    fn send(&mut self, to: Node, message: Message) {
        self.out.push(Effect::Send(to, message));
    }

    fn await_election(&mut self, now: Local) {
        self.election_at = now + self.random.between(ELECTION_MS_MIN, ELECTION_MS_MAX) * MS;
    }

    pub(crate) fn tick(&mut self, now: Local) {
        match self.role {
            Role::Leader(_) if now >= self.beat_at => self.broadcast(now),
            Role::Leader(_) => {}
            _ if now >= self.election_at => self.stand(now, false),
            _ => {}
        }
    }

    /// Stands for election.
    pub(crate) fn stand(&mut self, now: Local, at_once: bool) {
        self.disk.term += 1;
        self.disk.voted_for = Some(self.node);
        (self.leader, self.heard_at) = (None, None);
        self.role = Role::Candidate(BTreeSet::from([self.node]));
        self.await_election(now);
        let (term, last) = (self.term(), self.disk.last());
        for peer in self.peers.clone() {
            self.send(peer, Message::Vote { term, last, at_once });
        }
    }

    fn follow(&mut self, term: u64, now: Local) {
        if term > self.disk.term {
            (self.disk.term, self.disk.voted_for) = (term, None);
            self.leader = None;
            self.unanswered.clear();
        }
        if !matches!(self.role, Role::Follower) {
            self.role = Role::Follower;
            self.await_election(now);
        }
    }

    fn lead(&mut self, now: Local, born: u64) {
        let next = self.disk.last().index + 1;
        let progress = |peer: &Node| (*peer, Progress { next, ..Progress::default() });
        self.role = Role::Leader(self.peers.iter().map(progress).collect());
        self.leader = Some(self.node);
        let first = self.append(None, born);
        self.first_own = first.index;
        self.out.push(Effect::Leads(self.term()));
        self.broadcast(now);
    }

    fn append(&mut self, proposal: Option<Arc<Proposal>>, born: u64) -> Position {
        let at = Position { term: self.term(), index: self.disk.last().index + 1 };
        self.disk.log.push(Entry { at, proposal, born });
        at
    }

    /// Appends an entry of this leader's.
    pub(crate) fn propose(&mut self, proposal: Arc<Proposal>, born: u64, now: Local) -> Position {
        let at = self.append(Some(proposal), born);
        self.broadcast(now);
        at
    }

    fn broadcast(&mut self, now: Local) {
        self.beat_at = now + BEAT_MS * MS;
        for peer in self.peers.clone() {
            self.replicate(peer, now);
        }
        self.count(now);
    }

    fn replicate(&mut self, peer: Node, now: Local) {
        let (term, commit) = (self.term(), self.commit);
        let Role::Leader(progress) = &mut self.role else { return };
        let progress = progress.get_mut(&peer).expect("a peer has progress");
        let before = self.disk.position(progress.next - 1);
        let message = match (before, &self.disk.rows) {
            (Some(before), _) => {
                let first = usize::try_from(before.index - self.disk.purged.index).expect("a short log");
                let entries: Vec<_> = self.disk.log[first..].iter().take(APPEND_MAX).cloned().collect();
                Message::Append { term, before, entries, commit, sent_at: now, lead: None }
            }
            (None, Some(rows)) => {
                if progress.snapshot_at.is_some_and(|at| now < at + SNAPSHOT_PAUSE_MS * MS) {
                    // Until the checkpoint has arrived it is told only that it is led.
                    let before = Position::default();
                    let entries = Vec::new();
                    Message::Append { term, before, entries, commit: 0, sent_at: now, lead: None }
                } else {
                    progress.snapshot_at = Some(now);
                    Message::Snapshot { term, rows: rows.clone(), sent_at: now, lead: None }
                }
            }
            (None, None) => unreachable!("a log is purged behind a checkpoint only"),
        };
        self.send(peer, message);
    }

    pub(crate) fn receive(&mut self, from: Node, message: Message, now: Local, born: u64) {
        match message {
            Message::Vote { term, last, at_once } => self.vote(from, term, last, at_once, now),
            Message::Voted { term, granted } => {
                self.follow_later(term, now);
                let quorum = self.quorum();
                if let Role::Candidate(votes) = &mut self.role
                    && (term, granted) == (self.disk.term, true)
                {
                    votes.insert(from);
                    if votes.len() >= quorum {
                        self.lead(now, born);
                    }
                }
            }
            Message::Append { term, before, entries, commit, sent_at, lead } => {
                if self.accepts(from, term, sent_at, now) {
                    self.take(from, before, entries, commit, sent_at, lead);
                }
            }
            Message::Snapshot { term, rows, sent_at, lead } => {
                if self.accepts(from, term, sent_at, now) {
                    let at = rows.at;
                    if at.index > self.commit {
                        self.disk.install(rows.clone());
                        self.commit = at.index;
                        self.out.push(Effect::Discarded(0));
                        self.out.push(Effect::Installed(rows));
                    }
                    self.answer_when_flushed(from, at.index, sent_at, lead);
                }
            }
            Message::Appended { term, matched, sent_at, .. } => {
                self.follow_later(term, now);
                if term == self.disk.term {
                    self.answered(from, matched, sent_at, now);
                }
            }
        }
        self.flush_answers();
    }

    fn follow_later(&mut self, term: u64, now: Local) {
        if term > self.disk.term {
            self.follow(term, now);
        }
    }

    fn vote(&mut self, from: Node, term: u64, last: Position, at_once: bool, now: Local) {
        let led = self.heard_at.is_some_and(|at| now < at + ELECTION_MS_MIN * MS) || self.is_leader();
        if term > self.disk.term && led && !at_once {
            return;
        }
        self.follow_later(term, now);
        let free = match self.disk.voted_for {
            None => true,
            Some(voted) => voted == from || self.flaw == Some(Flaw::VoteForgotten),
        };
        let granted = term == self.disk.term && free && last >= self.disk.last() && !self.is_leader();
        if granted {
            self.disk.voted_for = Some(from);
            self.await_election(now);
        }
        self.send(from, Message::Voted { term: self.disk.term, granted });
    }

    fn accepts(&mut self, from: Node, term: u64, sent_at: Local, now: Local) -> bool {
        if term < self.disk.term {
            let message = Message::Appended { term: self.disk.term, matched: Err(0), sent_at, stamp: None };
            self.send(from, message);
            return false;
        }
        self.follow(term, now);
        self.leader = Some(from);
        self.heard_at = Some(now);
        self.await_election(now);
        true
    }

    fn take(
        &mut self,
        from: Node,
        before: Position,
        entries: Vec<Entry>,
        commit: u64,
        sent_at: Local,
        lead: Option<Lead>,
    ) {
        let known = before.index < self.disk.purged.index || self.disk.position(before.index) == Some(before);
        if !known {
            let next = self.disk.last().index.min(before.index - 1) + 1;
            let next = next.max(self.commit + 1);
            let term = self.disk.term;
            self.send(from, Message::Appended { term, matched: Err(next), sent_at, stamp: None });
            return;
        }
        let matched = before.index + entries.len() as u64;
        for entry in entries {
            let index = entry.at.index;
            if index <= self.disk.purged.index || self.disk.position(index) == Some(entry.at) {
                continue;
            }
            if index <= self.disk.last().index {
                assert!(index > self.commit, "node {} cuts off what it knows as committed", self.node);
                self.disk.truncate(index - 1);
                self.unanswered.retain(|waits| waits.matched < index);
                self.out.push(Effect::Discarded(index));
            }
            self.disk.log.push(entry);
        }
        self.commit = self.commit.max(commit.min(matched));
        self.answer_when_flushed(from, matched, sent_at, lead);
    }

    fn answer_when_flushed(&mut self, leader: Node, matched: u64, sent_at: Local, lead: Option<Lead>) {
        self.unanswered.push(Unanswered { leader, term: self.disk.term, matched, sent_at, lead });
        self.flush_answers();
    }

    fn flush_answers(&mut self) {
        let own = self.own();
        let (ready, waiting): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.unanswered).into_iter().partition(|waits| waits.matched <= own);
        self.unanswered = waiting;
        for Unanswered { leader, term, matched, sent_at, lead } in ready {
            if term == self.disk.term {
                self.out.push(Effect::Heard(term, lead));
                self.send(leader, Message::Appended { term, matched: Ok(matched), sent_at, stamp: None });
            }
        }
    }

    fn answered(&mut self, from: Node, matched: Result<u64, u64>, sent_at: Local, now: Local) {
        let last = self.disk.last().index;
        let Role::Leader(progress) = &mut self.role else { return };
        let progress = progress.get_mut(&from).expect("a peer has progress");
        progress.acked_at = progress.acked_at.max(Some(sent_at));
        let lags = match matched {
            Ok(matched) => {
                let moved = matched > progress.matched;
                progress.matched = progress.matched.max(matched);
                progress.next = progress.next.max(progress.matched + 1);
                moved && progress.next <= last
            }
            Err(next) => {
                progress.next = next.clamp(progress.matched + 1, last + 1);
                true
            }
        };
        if lags {
            self.replicate(from, now);
        }
        self.count(now);
    }

    /// The log was flushed up to here.
    pub(crate) fn flushed(&mut self, index: u64, now: Local) {
        self.disk.flushed = self.disk.flushed.max(index.min(self.disk.last().index));
        self.flush_answers();
        self.count(now);
    }

    /// Commits what a majority has flushed.
    fn count(&mut self, now: Local) {
        let own = self.own();
        let Role::Leader(progress) = &self.role else { return };
        let mut copies: Vec<u64> = progress.values().map(|progress| progress.matched).chain([own]).collect();
        copies.sort_unstable_by(|a, b| b.cmp(a));
        let most = copies[self.quorum() - 1];
        let of_this_lead = self.disk.position(most).is_some_and(|at| at.term == self.disk.term);
        if most > self.commit && of_this_lead {
            self.commit = most;
            // Whoever waits at a follower waits for this.
            self.broadcast(now);
        }
    }

    /// When the last request was sent that a quorum answered.
    pub(crate) fn quorum_acked_at(&self, now: Local) -> Option<Local> {
        let Role::Leader(progress) = &self.role else { return None };
        let mut acked: Vec<_> = progress.values().map(|progress| progress.acked_at).chain([Some(now)]).collect();
        acked.sort_unstable_by(|a, b| b.cmp(a));
        acked[self.quorum() - 1]
    }

    /// Asks a quorum whether this node leads.
    pub(crate) fn begin_reading(&mut self, now: Local) -> Option<Reading> {
        if !self.is_leader() {
            return None;
        }
        let index = self.commit.max(self.first_own);
        self.broadcast(now);
        Some(Reading { index, term: self.term(), asked_at: now })
    }

    /// Whether a quorum has answered since; an error if this lead is over.
    pub(crate) fn is_confirmed(&self, reading: &Reading, now: Local) -> Result<bool, ()> {
        if !self.is_leader() || self.term() != reading.term {
            return Err(());
        }
        let unasked = self.flaw == Some(Flaw::ReadWithoutQuorum);
        Ok(unasked || self.quorum_acked_at(now).is_some_and(|acked| acked >= reading.asked_at))
    }
}
