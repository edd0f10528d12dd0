//! Reads at one node: what they need is the product's to say, and this brings it about.

use std::time::Duration;

use rollcall_registry::Revision;
use rollcall_replica::logic::Need;
use rollcall_replica::{BarrierError, Consistency};
use tokio::time::Instant;

use super::flaw::Flaw;
use super::member::{Member, Now, Out, Wire};
use super::raft::{ELECTION_MS_MAX, Local, MS, Node, Reading};

#[derive(Clone, Copy, Debug)]
enum Kind {
    Client(u64, Consistency),
    /// What a process that starts asks once.
    CatchUp(Instant),
}

#[derive(Clone, Copy, Debug)]
struct Reader {
    kind: Kind,
    until: Local,
    /// The read index, once it is known.
    index: Option<u64>,
}

#[derive(Debug)]
enum Asking {
    Own(Reading),
    Leader(u64),
    Nobody,
}

/// One question for the index, on behalf of all that waited when it was asked.
#[derive(Debug)]
struct Round {
    readers: Vec<Reader>,
    asking: Asking,
    until: Local,
}

/// A read that was answered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Told {
    pub read: u64,
    pub wanted: Consistency,
    /// A read index was taken for it, so that it shows a moment since it was asked.
    pub confirmed: bool,
    pub answer: Result<u64, BarrierError>,
    pub applied: u64,
    pub revision: Revision,
}

#[derive(Debug, Default)]
pub(crate) struct Reads {
    /// For the next round.
    waiting: Vec<Reader>,
    round: Option<Round>,
    /// Until an index or a revision is applied.
    parked: Vec<Reader>,
    of_peers: Vec<(Node, u64, Reading, Local)>,
    pub told: Vec<Told>,
}

const PAUSE_MS: u64 = 20;

impl Reads {
    pub(crate) fn catch_up(&mut self, now: Now) {
        let until = now.local + 60_000 * MS;
        self.waiting.push(Reader { kind: Kind::CatchUp(now.instant), until, index: None });
    }
}

impl Member {
    /// A client asks.
    pub(crate) fn read(&mut self, read: u64, wanted: Consistency, patience_ms: u64, now: Now) {
        let until = now.local + patience_ms * MS;
        self.judge(Reader { kind: Kind::Client(read, wanted), until, index: None }, now);
        self.look_at_reads(now);
    }

    pub(crate) fn staleness(&mut self, now: Now) -> Option<Duration> {
        let staleness = self.freshness.staleness(now.instant, self.applied.index);
        if self.flaw == Some(Flaw::ServesUnready) { staleness.or(Some(Duration::ZERO)) } else { staleness }
    }

    fn judge(&mut self, reader: Reader, now: Now) {
        let applied = self.applied.index;
        let reached = reader.index.is_some_and(|index| applied >= index || self.flaw == Some(Flaw::ReadWithoutApply));
        if reader.index.is_some() && !reached {
            self.reads.parked.push(reader);
            return;
        }
        let Kind::Client(read, wanted) = reader.kind else { return };
        let (staleness, revision) = (self.staleness(now), self.state.revision());
        let answer = match wanted.need(reached, staleness, revision) {
            Ok(Need::Confirmation) => return self.reads.waiting.push(reader),
            Ok(Need::Revision(_)) => return self.reads.parked.push(reader),
            Ok(Need::Nothing(freshness)) => Ok(freshness.staleness_ms),
            Err(error) => Err(error),
        };
        self.reads.told.push(Told { read, wanted, confirmed: reached, answer, applied, revision });
    }

    /// A peer asks this leader for its index.
    pub(crate) fn remote_read(&mut self, from: Node, call: u64, leads: bool, now: Now) {
        match leads.then(|| self.raft.begin_reading(now.local)).flatten() {
            Some(reading) => {
                self.reads.of_peers.push((from, call, reading, now.local + ELECTION_MS_MAX * MS));
            }
            None => self.out.push(Out::Send(from, Wire::ReadIndexed(call, None))),
        }
    }

    pub(crate) fn read_indexed(&mut self, call: u64, index: Option<u64>, now: Now) {
        let ours = |round: &Round| matches!(round.asking, Asking::Leader(open) if open == call);
        if self.reads.round.as_ref().is_some_and(ours) {
            self.round_ends(index, now);
        }
    }

    fn round_ends(&mut self, index: Option<u64>, now: Now) {
        let Some(Round { readers, .. }) = self.reads.round.take() else { return };
        let Some(index) = index else {
            // The same readers ask again in a while.
            let until = now.local + PAUSE_MS * MS;
            self.reads.round = Some(Round { readers, asking: Asking::Nobody, until });
            return;
        };
        for reader in readers {
            if let Kind::CatchUp(asked_at) = reader.kind {
                self.freshness.note(asked_at, index, self.applied.index);
            } else {
                self.judge(Reader { index: Some(index), ..reader }, now);
            }
        }
    }

    /// Begins, confirms and ends rounds, and answers what was waited for.
    pub(crate) fn look_at_reads(&mut self, now: Now) {
        for reader in std::mem::take(&mut self.reads.parked) {
            self.judge(reader, now);
        }
        for (peer, call, reading, until) in std::mem::take(&mut self.reads.of_peers) {
            let index = match self.raft.is_confirmed(&reading, now.local) {
                Ok(true) => Some(reading.index),
                Ok(false) if now.local < until => {
                    self.reads.of_peers.push((peer, call, reading, until));
                    continue;
                }
                Ok(false) | Err(()) => None,
            };
            self.out.push(Out::Send(peer, Wire::ReadIndexed(call, index)));
        }
        let ended = self.reads.round.as_ref().and_then(|round| match &round.asking {
            Asking::Own(reading) => match self.raft.is_confirmed(reading, now.local) {
                Ok(true) => Some(Some(reading.index)),
                Ok(false) if now.local < round.until => None,
                Ok(false) | Err(()) => Some(None),
            },
            Asking::Leader(_) if now.local >= round.until => Some(None),
            Asking::Leader(_) | Asking::Nobody => None,
        });
        if let Some(index) = ended {
            self.round_ends(index, now);
        }
        self.give_up(now);
        self.begin_round(now);
    }

    fn begin_round(&mut self, now: Now) {
        let readers = match self.reads.round.take() {
            Some(Round { readers, asking: Asking::Nobody, until }) if now.local >= until => readers,
            Some(round) => {
                self.reads.round = Some(round);
                return;
            }
            None if self.reads.waiting.is_empty() => return,
            None => std::mem::take(&mut self.reads.waiting),
        };
        let (node, leader) = (self.node, self.raft.leader);
        let (asking, patience_ms) = match leader {
            Some(leader) if leader == node => match self.raft.begin_reading(now.local) {
                Some(reading) => (Asking::Own(reading), ELECTION_MS_MAX),
                None => (Asking::Nobody, PAUSE_MS),
            },
            Some(leader) => {
                let call = self.call();
                self.out.push(Out::Send(leader, Wire::ReadIndex(call)));
                (Asking::Leader(call), 2 * ELECTION_MS_MAX)
            }
            None => (Asking::Nobody, PAUSE_MS),
        };
        self.reads.round = Some(Round { readers, asking, until: now.local + patience_ms * MS });
    }

    fn give_up(&mut self, now: Now) {
        let (applied, revision) = (self.applied.index, self.state.revision());
        let Reads { waiting, round, parked, told, .. } = &mut self.reads;
        let readers = round.as_mut().map(|round| &mut round.readers);
        for list in [Some(waiting), readers, Some(parked)].into_iter().flatten() {
            list.retain(|reader| {
                let Kind::Client(read, wanted) = reader.kind else { return true };
                let goes_on = now.local < reader.until;
                if !goes_on {
                    let answer = Err(BarrierError::NoLeader);
                    told.push(Told { read, wanted, confirmed: false, answer, applied, revision });
                }
                goes_on
            });
        }
        if self.reads.round.as_ref().is_some_and(|round| round.readers.is_empty()) {
            self.reads.round = None;
        }
    }
}
