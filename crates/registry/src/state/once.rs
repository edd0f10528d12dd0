//! Batches that are applied once, however often they are proposed: a node that lost the answer to its batch proposes it
//! again, and a write that was in hand when a leader died is neither lost nor done twice.
//!
//! A node's batches are ordered, by the start of its process and then by their numbers, and once one was applied nothing
//! that is earlier ever is: neither a batch that the same process gave up, nor one of an earlier process that a stalled
//! leader still has in hand. So one batch for each node is all that must be remembered.

use serde::{Deserialize, Serialize};

use super::State;
use crate::command::{Once, Outcome, Refusal};
use crate::ids::{ClusterTime, Term};

/// Nodes whose last batch is remembered; a cluster has a handful. Beyond it the one that wrote longest ago is forgotten.
const SESSIONS_MAX: usize = 64;

/// A node's last batch and what it answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    pub(super) start: u64,
    pub(super) batch: u64,
    /// When the node last wrote.
    used: ClusterTime,
    outcomes: Vec<Outcome>,
}

impl Session {
    /// Where the batch stands among all of its node's.
    fn place(&self) -> (u64, u64) {
        (self.start, self.batch)
    }
}

impl State {
    /// The last start of a node's process that brought a batch in; 0 if none did. The next one must be later.
    pub fn last_start(&self, node: u64) -> u64 {
        self.sessions.get(&node).map_or(0, |session| session.start)
    }

    pub(super) fn apply_once(&mut self, term: Term, once: &Once, outcomes: &mut Vec<Outcome>) {
        let origin = once.origin;
        let place = (origin.start, origin.batch);
        match self.sessions.get(&origin.node) {
            Some(session) if session.place() == place && session.outcomes.len() == once.commands.len() => {
                outcomes.extend_from_slice(&session.outcomes);
            }
            Some(session) if session.place() >= place => {
                outcomes.extend(once.commands.iter().map(|_| Outcome::Refused(Refusal::BatchOutdated)));
            }
            _ => {
                let first = outcomes.len();
                outcomes.extend(once.commands.iter().map(|command| self.apply_command(term, command)));
                let session = Session {
                    start: origin.start,
                    batch: origin.batch,
                    used: self.now,
                    outcomes: outcomes[first..].to_vec(),
                };
                self.sessions.insert(origin.node, session);
                if self.sessions.len() > SESSIONS_MAX {
                    let others = self.sessions.iter().filter(|(node, _)| **node != origin.node);
                    let oldest = others.min_by_key(|(_, session)| session.used).map(|(node, _)| *node);
                    oldest.map(|node| self.sessions.remove(&node));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::{
        Command, Condition, InstanceId, Options, Origin, Proposal, Registration, ServiceName, TenantId, WallTime,
    };

    fn tenant() -> TenantId {
        TenantId::parse("default").unwrap()
    }

    fn register(id: &str) -> Command {
        let registration = Registration::new(
            InstanceId::parse(id).unwrap(),
            ServiceName::parse("web").unwrap(),
            "http://web",
            1_000,
        );
        Command::Register { tenant: tenant(), registration: registration.pack(), condition: Condition::None }
    }

    fn proposal(stamp: u64, commands: Vec<Command>, once: Vec<Once>) -> Proposal {
        Proposal { stamp: ClusterTime(stamp), wall: WallTime(0), commands, once }
    }

    fn once(node: u64, batch: u64, command: Command) -> Once {
        Once { origin: Origin { node, start: 1, batch }, commands: vec![command] }
    }

    #[test]
    fn p3_an_entry_that_holds_a_sign_of_life_does_not_strike_off() {
        let mut state = State::new(Options::default());
        state.apply(Term(1), &proposal(0, vec![register("a"), register("b")], Vec::new()));
        let expire = Command::Expire { term: Term(1), up_to: ClusterTime(1_000), limit: 10 };
        let outcomes = state.apply(Term(1), &proposal(1_000, vec![expire], vec![once(1, 1, register("a"))]));
        assert_eq!(outcomes[0], Outcome::Expired { count: 1, more: false });
        assert!(matches!(&outcomes[1], Outcome::Registered(registered) if !registered.created), "{outcomes:?}");
        assert!(state.get(&tenant(), &InstanceId::parse("a").unwrap()).is_some());
        assert!(state.get(&tenant(), &InstanceId::parse("b").unwrap()).is_none());
    }

    #[test]
    fn the_node_that_wrote_longest_ago_is_forgotten_first() {
        let mut state = State::new(Options::default());
        for node in 2..2 + SESSIONS_MAX as u64 {
            state.apply(Term(1), &proposal(node, Vec::new(), vec![once(node, 1, register("x"))]));
        }
        // The lowest id writes last: it stays, and the second lowest goes.
        let batch = || vec![once(1, 1, register("y"))];
        let first = state.apply(Term(1), &proposal(100, Vec::new(), batch()));
        assert_eq!(state.apply(Term(1), &proposal(200, Vec::new(), batch())), first);
        assert_eq!(state.sessions.len(), SESSIONS_MAX);
        assert!(!state.sessions.contains_key(&2));
    }
}
