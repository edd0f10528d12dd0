//! Applies an entry as the product does, or, under a deliberate break, as a state machine would that lacks a check. All
//! nodes lack it alike, so that they still agree with each other.

use std::cell::RefCell;
use std::collections::BTreeMap;

use rollcall_registry::{
    ClusterTime, Command, Condition, Filter, InstanceId, Outcome, Proposal, Query, Ranking, Sort, State, TenantId,
    Term,
};

use super::flaw::Flaw;

/// The tenants of every simulated roll.
pub(crate) const TENANTS: &[&str] = &["red", "blue"];

pub(crate) fn tenant(name: &str) -> TenantId {
    TenantId::parse(name).expect("a plain name")
}

/// What a leader saw as due, by the expiry that it proposed.
type Due = BTreeMap<(Term, ClusterTime), Vec<(TenantId, InstanceId)>>;

#[derive(Debug, Default)]
pub(crate) struct Rewriter {
    flaw: Option<Flaw>,
    due: RefCell<Due>,
}

impl Rewriter {
    pub(crate) fn new(flaw: Option<Flaw>) -> Self {
        Self { flaw, due: RefCell::default() }
    }

    /// A leader proposes to strike off what is due in its own state.
    pub(crate) fn proposes(&self, term: Term, up_to: ClusterTime, state: &State) {
        if self.flaw != Some(Flaw::ExpiryUnchecked) {
            return;
        }
        let due = everything(state).filter(|view| view.deadline <= up_to).map(|view| view.instance.key()).collect();
        self.due.borrow_mut().insert((term, up_to), due);
    }

    pub(crate) fn apply(&self, state: &mut State, term: Term, proposal: &Proposal) -> Vec<Outcome> {
        match self.flaw {
            Some(Flaw::ExpiryUnchecked) => self.apply_unchecked(state, term, proposal),
            Some(Flaw::IncarnationForgotten) => {
                let mut proposal = proposal.clone();
                proposal.once.iter_mut().flat_map(|once| &mut once.commands).for_each(|command| {
                    if let Command::Beat { lease, .. } | Command::Deregister { lease, .. } = command {
                        *lease = None;
                    }
                });
                state.apply(term, &proposal)
            }
            _ => state.apply(term, proposal),
        }
    }

    fn apply_unchecked(&self, state: &mut State, term: Term, proposal: &Proposal) -> Vec<Outcome> {
        let mut rest = proposal.clone();
        let at = rest.commands.iter().position(|command| matches!(command, Command::Expire { .. }));
        let Some(Command::Expire { term: proposed, up_to, .. }) = at.map(|at| rest.commands.remove(at)) else {
            return state.apply(term, proposal);
        };
        let mut outcomes = state.apply(term, &rest);
        let due = self.due.borrow().get(&(proposed, up_to)).cloned().unwrap_or_default();
        let count = due.len() as u32;
        let commands = due
            .into_iter()
            .map(|(tenant, id)| Command::Deregister { tenant, id, lease: None, condition: Condition::None })
            .collect();
        state.apply(term, &Proposal { commands, once: Vec::new(), ..rest });
        outcomes.insert(at.unwrap_or(0), Outcome::Expired { count, more: false });
        outcomes
    }
}

/// All instances of all tenants.
pub(crate) fn everything(state: &State) -> impl Iterator<Item = rollcall_registry::View> {
    TENANTS.iter().flat_map(|name| {
        let query = Query {
            tenant: tenant(name),
            filter: Filter::default(),
            sort: Sort::Id,
            ranking: Ranking::default(),
            after: None,
            limit: rollcall_registry::query::LIMIT_MAX,
        };
        state.query(&query).found
    })
}
