//! What storage would hold of a cluster.

use std::collections::BTreeMap;
use std::sync::Arc;

use rollcall_registry::state::{Delta, Header, Past, Restoring};
use rollcall_registry::{
    ClusterTime, FederationKey, FederationRow, Foreign, ForeignKey, Instance, InstanceId, LeaseId, Options, Revision,
    State, TenantId,
};

#[derive(Default)]
pub(crate) struct Kept {
    header: Option<Header>,
    instances: BTreeMap<(TenantId, InstanceId), Arc<Instance>>,
    deadlines: BTreeMap<LeaseId, ClusterTime>,
    past: BTreeMap<Revision, Vec<Past>>,
    federation: BTreeMap<FederationKey, FederationRow>,
    foreign: BTreeMap<ForeignKey, Foreign>,
}

impl Kept {
    pub(crate) fn checkpoint(&mut self, state: &mut State) {
        let Delta { header, removed, removed_leases, instances, deadlines, past, federation, foreign, .. } =
            state.take_delta();
        self.header = Some(header);
        removed.iter().for_each(|key| drop(self.instances.remove(key)));
        self.deadlines.retain(|lease, _| !removed_leases.contains(lease));
        self.instances.extend(instances.into_iter().map(|instance| (instance.key(), instance)));
        self.deadlines.extend(deadlines);
        if !past.changes.is_empty() {
            self.past.insert(past.first, past.changes);
        }
        for key in federation.removed {
            assert!(self.federation.remove(&key).is_some(), "{key:?} was removed, but had no row");
        }
        self.federation.extend(federation.put.into_iter().map(|row| (row.key(), row)));
        for key in foreign.removed {
            assert!(self.foreign.remove(&key).is_some(), "{key:?} was removed, but had no row");
        }
        self.foreign.extend(foreign.put.into_iter().map(|entry| (entry.key(), entry)));
    }

    /// The state as it was kept, if it was.
    pub(crate) fn restore(&self) -> Option<State> {
        let mut restoring = Restoring::new(Options::default(), self.header.clone()?);
        self.deadlines.iter().for_each(|(lease, deadline)| restoring.deadline(*lease, *deadline));
        for instance in self.instances.values() {
            restoring.instance(Instance::clone(instance)).expect("the rows are whole");
        }
        self.past.iter().for_each(|(first, changes)| restoring.past(*first, changes.clone()));
        for row in self.federation.values() {
            restoring.federation(row.clone()).expect("the rows are whole");
        }
        for entry in self.foreign.values() {
            restoring.foreign(entry.clone()).expect("the rows are whole");
        }
        let mut state = restoring.finish().expect("the rows are whole");
        state.assert_consistent();
        // All of it is kept already.
        let delta = state.take_delta();
        assert!(delta.foreign.put.is_empty() && delta.federation.put.is_empty(), "what is kept is written again");
        Some(state)
    }
}
