//! One batch's way into the log, as plain state: when it is proposed or forwarded, what a lost answer means, what is
//! proposed again and under which origin, and what whoever asked is told. The `driver` brings what this decides to openraft
//! and to the wires.

use rollcall_registry::Origin;
use rollcall_storage::{LogId, NodeId};

use crate::merged::{Commands, Merged, Sizes, merge};
use crate::message::ProposeResponse;
use crate::proposer::{Answer, Asker, Course, SubmitError, give_back, take};

/// What trying to bring in a batch came to.
#[derive(Debug)]
pub enum Attempt {
    Done(Answer),
    /// Certainly not in the log.
    NotProposed,
    Overloaded {
        retry_after_ms: u64,
    },
    /// May be in the log.
    Unknown,
}

impl Attempt {
    /// What a leader's answer to a forwarded batch means.
    pub fn of_response(response: ProposeResponse, decided: impl FnOnce() -> Course) -> Self {
        match response {
            ProposeResponse::Applied { outcomes, revision, log_id } => {
                Self::Done(Answer { outcomes, revision, log_id, course: decided() })
            }
            ProposeResponse::NotLeader { .. } => Self::NotProposed,
            ProposeResponse::Overloaded { retry_after_ms } => Self::Overloaded { retry_after_ms },
            ProposeResponse::Unknown => Self::Unknown,
        }
    }
}

impl ProposeResponse {
    /// What a leader tells of a follower's batch.
    pub fn of_answer(answer: Result<Answer, SubmitError>, leader: Option<NodeId>) -> Self {
        match answer {
            Ok(Answer { outcomes, revision, log_id, .. }) => Self::Applied { outcomes, revision, log_id },
            Err(SubmitError::Overloaded { retry_after_ms }) => Self::Overloaded { retry_after_ms },
            // What the cluster cannot read yet is refused where it came in.
            Err(SubmitError::NoLeader | SubmitError::Stopping | SubmitError::FeatureLevel { .. }) => {
                Self::NotLeader { leader }
            }
            Err(SubmitError::Unknown) => Self::Unknown,
        }
    }
}

/// What is to be done with a batch now.
#[derive(Debug)]
pub enum Step {
    /// Nobody waits for it any more.
    Over,
    Propose(Commands),
    Forward(NodeId, Commands),
    /// There is no leader: try again when there may be one.
    Wait,
}

/// What comes of an attempt.
#[derive(Debug)]
pub enum Next<A> {
    Over,
    Retry,
    /// To be handed out as soon as the entry is applied here.
    Deliver(Box<Delivery<A>>),
}

/// Outcomes on their way to whoever asked.
#[derive(Debug)]
pub struct Delivery<A> {
    batch: Vec<A>,
    merged: Merged,
    sizes: Sizes,
    answer: Answer,
}

impl<A: Asker> Delivery<A> {
    /// Whoever is answered must find it at this node too.
    pub fn index(&self) -> u64 {
        self.log_id().index()
    }

    pub fn log_id(&self) -> LogId {
        self.answer.log_id
    }

    pub fn deliver(self) {
        self.merged.distribute(self.batch, &self.answer, &self.sizes);
    }
}

/// A batch under way.
#[derive(Debug)]
pub struct Passage<A> {
    batch: Vec<A>,
    origin: Origin,
    /// Once an answer was lost nothing can be withdrawn any more; until then everything can that is not on its way.
    lost: bool,
    /// What the attempt under way will answer.
    tried: Option<(Merged, Sizes)>,
}

impl<A: Asker> Passage<A> {
    pub fn new(batch: Vec<A>, origin: Origin) -> Self {
        Self { batch, origin, lost: false, tried: None }
    }

    /// `leads`: this node leads and everything before its lead is applied. `leader`: whom it believes to lead.
    pub fn step(&mut self, node: NodeId, leads: bool, leader: Option<NodeId>) -> Step {
        if self.lost {
            if self.batch.iter().all(Asker::is_abandoned) {
                return Step::Over;
            }
        } else {
            take(&mut self.batch);
        }
        if !leads {
            // These wait for this leader, which no longer is one; whoever sent them finds the next.
            let (stay, leave): (Vec<_>, Vec<_>) =
                std::mem::take(&mut self.batch).into_iter().partition(|asker| asker.request().stays);
            let error = if self.lost { SubmitError::Unknown } else { SubmitError::NoLeader };
            stay.into_iter().for_each(|asker| asker.answer(Err(error)));
            self.batch = leave;
        }
        if self.batch.is_empty() {
            return Step::Over;
        }
        let target = match (leads, leader) {
            (true, _) => None,
            (false, Some(leader)) if leader != node => Some(leader),
            (false, _) => {
                self.not_proposed();
                return Step::Wait;
            }
        };
        let mut merged = merge(&self.batch, self.origin);
        let commands = merged.take_commands();
        self.tried = Some((merged, Sizes::of(&commands)));
        match target {
            None => Step::Propose(commands),
            Some(leader) => Step::Forward(leader, commands),
        }
    }

    /// Takes in what the last step's attempt came to.
    pub fn came_to(&mut self, attempt: Attempt) -> Next<A> {
        let (merged, sizes) = self.tried.take().expect("an attempt follows a step");
        let refusal = match attempt {
            Attempt::Done(answer) if answer.outcomes.len() == sizes.all => {
                let batch = std::mem::take(&mut self.batch);
                return Next::Deliver(Box::new(Delivery { batch, merged, sizes, answer }));
            }
            Attempt::Done(answer) => {
                tracing::error!(expected = sizes.all, got = answer.outcomes.len(), "an entry answered amiss");
                SubmitError::Unknown
            }
            Attempt::Overloaded { retry_after_ms } if !self.lost => SubmitError::Overloaded { retry_after_ms },
            Attempt::Unknown => {
                self.lost = true;
                return Next::Retry;
            }
            Attempt::NotProposed | Attempt::Overloaded { .. } => {
                self.not_proposed();
                return Next::Retry;
            }
        };
        std::mem::take(&mut self.batch).into_iter().for_each(|asker| asker.answer(Err(refusal)));
        Next::Over
    }

    fn not_proposed(&self) {
        if !self.lost {
            give_back(&self.batch);
        }
    }
}
