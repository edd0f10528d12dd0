//! Batches that are applied once, however often they are proposed: a node that lost the answer to its batch proposes it
//! again, and a write that was in hand when a leader died is neither lost nor done twice.

use serde::{Deserialize, Serialize};

use super::State;
use crate::command::{Once, Outcome, Refusal};
use crate::ids::Term;

/// Nodes whose last batch is remembered. Ids only grow, so the lowest is the longest gone; a cluster has a handful.
const SESSIONS_MAX: usize = 64;

/// A node's last batch and what it answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    pub(super) start: u64,
    pub(super) batch: u64,
    outcomes: Vec<Outcome>,
}

impl State {
    pub(super) fn apply_once(&mut self, term: Term, once: &Once, outcomes: &mut Vec<Outcome>) {
        let origin = once.origin;
        let last = self.sessions.get(&origin.node).filter(|session| session.start == origin.start);
        match last {
            Some(session) if session.batch == origin.batch && session.outcomes.len() == once.commands.len() => {
                outcomes.extend_from_slice(&session.outcomes);
            }
            Some(session) if session.batch >= origin.batch => {
                outcomes.extend(once.commands.iter().map(|_| Outcome::Refused(Refusal::BatchOutdated)));
            }
            _ => {
                let first = outcomes.len();
                outcomes.extend(once.commands.iter().map(|command| self.apply_command(term, command)));
                let session =
                    Session { start: origin.start, batch: origin.batch, outcomes: outcomes[first..].to_vec() };
                self.sessions.insert(origin.node, session);
                if self.sessions.len() > SESSIONS_MAX {
                    self.sessions.pop_first();
                }
            }
        }
    }
}
