//! A node's batches: the product's passage of each, brought on by events.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use rollcall_registry::{Proposal, WallTime};
use rollcall_replica::SubmitError;
use rollcall_replica::logic::{Answer, Asker, Attempt, Commands, Delivery, Next, Passage, Request, Step, Ticket};

use super::disk::Position;
use super::flaw::Flaw;
use super::member::{Member, Now, Out, Timer, Who, Wire};
use super::raft::{MS, Node};
use super::witness::Witness;

pub(crate) type Answers = Rc<RefCell<Vec<(Who, Result<Answer, SubmitError>)>>>;

/// A request in the queue or on its way.
#[derive(Debug)]
pub(crate) struct Pending {
    request: Request,
    who: Who,
    slot: Rc<Slot>,
    answers: Answers,
}

#[derive(Debug, Default)]
pub(crate) struct Slot {
    ticket: Ticket,
    /// It was answered, or nobody listens any more.
    over: Cell<bool>,
}

impl Asker for Pending {
    fn request(&self) -> &Request {
        &self.request
    }

    fn ticket(&self) -> &Ticket {
        &self.slot.ticket
    }

    fn is_abandoned(&self) -> bool {
        self.slot.over.get()
    }

    fn answer(self, answer: Result<Answer, SubmitError>) {
        if !self.slot.over.replace(true) {
            self.answers.borrow_mut().push((self.who, answer));
        }
    }
}

/// Where the batch under way is.
#[derive(Debug)]
pub(crate) enum Doing {
    Idle,
    /// Its stamp is read, and it is not in the log yet.
    Stamped {
        term: u64,
        proposal: Arc<Proposal>,
        born: u64,
    },
    InLog(Position),
    Forwarded {
        call: u64,
        leader: Node,
    },
    Paused {
        seen: Option<Node>,
    },
}

impl Member {
    /// Hands a request in.
    pub(crate) fn submit(&mut self, request: Request, who: Who, deadline_ms: u64) {
        let slot = Rc::new(Slot::default());
        self.open.insert(who, slot.clone());
        self.queue.push_back(Pending { request, who, slot, answers: self.answers.clone() });
        self.out.push(Out::After(deadline_ms * MS, Timer::Deadline(who)));
    }

    /// Whoever asked has hung up.
    pub(crate) fn abandon(&mut self, who: Who) {
        if let Some(slot) = self.open.remove(&who) {
            slot.over.set(true);
        }
    }

    pub(crate) fn deadline(&mut self, who: Who) {
        if let Some(slot) = self.open.remove(&who)
            && !slot.over.replace(true)
        {
            let error = if slot.ticket.withdraw() { SubmitError::NoLeader } else { SubmitError::Unknown };
            self.answers.borrow_mut().push((who, Err(error)));
        }
    }

    /// Takes a batch out of the queue.
    pub(crate) fn drive(&mut self, now: Now, witness: &mut Witness) {
        if self.queue.is_empty() {
            return;
        }
        let some = self.random.between(1, 8).min(self.queue.len() as u64);
        let batch = self.queue.drain(..some as usize).collect();
        self.origin.batch += 1;
        self.retries = 0;
        self.passage = Some(Passage::new(batch, self.origin));
        self.step(now, witness);
    }

    pub(crate) fn step(&mut self, now: Now, witness: &mut Witness) {
        let leader = self.raft.leader;
        let lead = self.lead(now, witness);
        let Some(passage) = &mut self.passage else { return };
        let batch = self.origin.batch;
        self.doing = match (passage.step(self.node, lead.is_some(), leader), lead) {
            (Step::Over, _) => {
                self.passage = None;
                Doing::Idle
            }
            (Step::Propose(commands), Some((stamp, _))) => {
                let (commands, once) = self.under_other_origin(commands);
                let wall = WallTime(now.world / MS);
                let proposal = Arc::new(Proposal { stamp, wall, commands, once });
                // A task that is starved comes late, or much too late.
                let late = match self.random.below(1_000) {
                    0..=4 => 5_000 * MS,
                    5..=15 => 200 * MS,
                    _ => MS,
                };
                self.out.push(Out::After(self.random.below(late), Timer::Write(batch)));
                Doing::Stamped { term: self.raft.term(), proposal, born: now.world }
            }
            (Step::Forward(leader, commands), _) => {
                let commands = self.under_other_origin(commands);
                let call = self.call();
                self.out.push(Out::Send(leader, Wire::Propose(call, Rc::new(commands))));
                Doing::Forwarded { call, leader }
            }
            (Step::Propose(_) | Step::Wait, _) => {
                self.out.push(Out::After(20 * MS, Timer::Retry(batch)));
                Doing::Paused { seen: leader }
            }
        };
    }

    /// Under the deliberate break only: nobody could know a batch again.
    fn under_other_origin(&mut self, mut commands: Commands) -> Commands {
        self.retries += 1;
        if self.flaw == Some(Flaw::NewOriginOnRetry) {
            commands.1.iter_mut().for_each(|once| once.origin.batch += self.retries << 32);
        }
        commands
    }

    /// The stamped batch reaches the log, if this still is the leader that stamped it.
    pub(crate) fn write(&mut self, now: Now) {
        let Doing::Stamped { term, .. } = self.doing else { return };
        let pinned = self.raft.term() == term || self.flaw == Some(Flaw::Unpinned);
        if self.raft.is_leader() && pinned {
            let Doing::Stamped { proposal, born, .. } = std::mem::replace(&mut self.doing, Doing::Idle) else {
                return;
            };
            let at = self.raft.propose(proposal, born, now.local);
            self.doing = Doing::InLog(at);
        } else {
            self.retry_later(Attempt::NotProposed);
        }
    }

    fn retry_later(&mut self, attempt: Attempt) {
        let Some(passage) = &mut self.passage else { return };
        match passage.came_to(attempt) {
            Next::Retry => {
                self.out.push(Out::After(20 * MS, Timer::Retry(self.origin.batch)));
                self.doing = Doing::Paused { seen: self.raft.leader };
            }
            Next::Over => {
                self.passage = None;
                self.doing = Doing::Idle;
            }
            Next::Deliver(delivery) => {
                self.passage = None;
                self.doing = Doing::Idle;
                if self.applied.index >= delivery.index() || self.flaw == Some(Flaw::AnsweredBeforeApplied) {
                    delivery.deliver();
                } else {
                    self.deliveries.push(*delivery);
                }
            }
        }
    }

    pub(crate) fn came_to(&mut self, attempt: Attempt, now: Now, witness: &mut Witness) {
        if let (Doing::InLog(at), Attempt::NotProposed) = (&self.doing, &attempt) {
            witness.disowned(*at);
        }
        self.retry_later(attempt);
        if matches!(self.doing, Doing::Idle) {
            self.drive(now, witness);
        }
    }

    pub(crate) fn after_apply(&mut self) {
        let applied = self.applied.index;
        let (ready, waiting): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.deliveries).into_iter().partition(|delivery| delivery.index() <= applied);
        self.deliveries = waiting;
        ready.into_iter().for_each(Delivery::deliver);
    }

    pub(crate) fn take_answers(&mut self) -> Vec<(Who, Result<Answer, SubmitError>)> {
        let answers: Vec<_> = std::mem::take(&mut *self.answers.borrow_mut());
        answers.iter().for_each(|(who, _)| drop(self.open.remove(who)));
        answers
    }
}
