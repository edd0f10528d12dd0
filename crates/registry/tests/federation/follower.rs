//! Whoever follows the changes of other clusters' instances knows what is there: no change is left out, none is told that is
//! none, and who may have missed some is told so.

use std::collections::BTreeMap;
use std::sync::Arc;

use rollcall_registry::{ChangeKind, Instance, PeerChange, Stream};

use super::*;

/// Of all tenants that are shared.
type Known = BTreeMap<(TenantId, String, PeerName), Arc<Instance>>;

#[derive(Default)]
pub(crate) struct Follower {
    known: Known,
    sequence: u64,
    /// How often it had to begin with all there are.
    begun: usize,
}

/// All there are, in pages so small that most ids begin one.
fn all(state: &State) -> Known {
    let everything = [Filter { statuses: Status::ALL.to_vec(), ..Filter::default() }];
    let mut known = Known::new();
    for (_, of) in PAIRS {
        let mut after = None;
        loop {
            let page = state.foreign_page(&tenant(of), &everything, after.as_ref(), 2, usize::MAX);
            assert_eq!(page.sequence, state.foreign_sequence());
            for (view, origin) in page.found {
                let key = (view.instance.tenant.clone(), view.instance.id().to_owned(), origin.peer);
                assert!(known.insert(key, view.instance).is_none(), "it is on two pages");
            }
            after = match page.end {
                Some(end) => Some(end),
                None => break,
            };
        }
    }
    known
}

impl Follower {
    /// Everything that happened since the last call.
    pub(crate) fn follow(&mut self, state: &State) {
        match state.foreign_changes_after(self.sequence) {
            Some(changes) => changes.for_each(|change| self.take(&change)),
            None => {
                (self.known, self.sequence) = (all(state), state.foreign_sequence());
                self.begun += 1;
            }
        }
        assert_eq!(self.sequence, state.foreign_sequence());
        assert_eq!(self.known, all(state));
    }

    fn take(&mut self, change: &PeerChange<'_>) {
        let instance = change.instance();
        let key = (instance.tenant.clone(), instance.id().to_owned(), change.peer.clone());
        assert_eq!(change.sequence, self.sequence + 1, "changes are in order");
        assert_eq!(self.known.get(&key), change.before, "it follows on what was there");
        assert_ne!(change.before, change.after, "it is no change");
        let is_gone = matches!(change.kind, ChangeKind::Deregistered | ChangeKind::Expired);
        assert_eq!(
            (change.before.is_none(), change.after.is_none()),
            (change.kind == ChangeKind::Registered, is_gone)
        );
        match change.after {
            Some(after) => drop(self.known.insert(key, after.clone())),
            None => drop(self.known.remove(&key)),
        }
        self.sequence = change.sequence;
    }

    pub(crate) fn begun(&self) -> usize {
        self.begun
    }
}

/// What happened after a change, in short.
fn changes_after(state: &State, sequence: u64) -> Vec<(ChangeKind, String)> {
    let changes = state.foreign_changes_after(sequence).expect("nothing is forgotten");
    changes.map(|change| (change.kind, change.instance().id().to_owned())).collect()
}

/// Everything told anew, in another stream: these instances and no others.
fn tell_anew(receiver: &mut Cluster, life: u64, instances: &[Told]) {
    let at = Revision(100 + life);
    let entries = instances.iter().zip(0..).map(|(told, number)| ForeignMessage::Entry {
        at,
        number,
        tenant: tenant("red"),
        told: Ok(told.clone()),
    });
    let messages = [ForeignMessage::Begin { at }].into_iter().chain(entries);
    let messages = messages.chain([ForeignMessage::End { at, count: instances.len() as u64 }]).collect();
    let stream = Stream { epoch: Epoch(life), since: ClusterTime(1) };
    let (peer, key, told_at) = (name("a"), ClusterKey([7; 32]), WallTime(1_000 + life));
    let batch = ForeignBatch { peer, key, stream, told_at, ttl_ms: 3_600_000, messages };
    let FederationOutcome::Received { results, .. } =
        receiver.federation(FederationCommand::Receive(batch)).expect("it is possible")
    else {
        panic!("a batch is answered by what became of it");
    };
    assert!(results.iter().all(|result| *result == Reception::Applied), "{results:?}");
    receiver.sweep();
}

#[test]
fn what_is_told_again_as_it_was_is_no_change() {
    let (origin, mut receiver, _) = filled();
    let mut tellings: Vec<_> = origin.state.tenant_instances_after(&tenant("red"), None).map(|i| told(i)).collect();
    let sequence = receiver.state.foreign_sequence();
    assert_eq!(sequence, 3);
    tell_anew(&mut receiver, 1, &tellings);
    assert_eq!(receiver.state.foreign_sequence(), sequence);
    // Of the others each is one.
    let mut registration = tellings[0].registration.view().to_registration();
    registration.url = "http://2".into();
    tellings[0].registration = registration.pack();
    tellings[1].status = Status::Degraded;
    tellings.truncate(2);
    tell_anew(&mut receiver, 2, &tellings);
    let expected = [
        (ChangeKind::Updated, "x".to_owned()),
        (ChangeKind::StatusChanged, "y".to_owned()),
        (ChangeKind::Deregistered, "z".to_owned()),
    ];
    assert_eq!(changes_after(&receiver.state, sequence), expected);
}

#[test]
fn who_is_silent_for_too_long_has_its_instances_expire() {
    let (_, mut receiver, _) = filled();
    let sequence = receiver.state.foreign_sequence();
    receiver.now.0 += 3_600_000;
    receiver.sweep();
    let expected = ["x", "y", "z"].map(|id| (ChangeKind::Expired, id.to_owned()));
    assert_eq!(changes_after(&receiver.state, sequence), expected);
}

#[test]
fn the_instances_of_a_removed_peer_are_shown_no_more_and_then_told_gone() {
    let (_, mut receiver, _) = filled();
    let (sequence, mut follower) = (receiver.state.foreign_sequence(), Follower::default());
    follower.follow(&receiver.state);
    receiver.federation(FederationCommand::Remove { name: name("a") }).expect("it is possible");
    assert_eq!(all(&receiver.state), Known::new());
    receiver.sweep();
    let expected = ["x", "y", "z"].map(|id| (ChangeKind::Deregistered, id.to_owned()));
    assert_eq!(changes_after(&receiver.state, sequence), expected);
    follower.follow(&receiver.state);
    // Nothing is left of the peer either.
    let changes = receiver.state.foreign_changes_after(sequence).expect("nothing is forgotten");
    for change in changes {
        let (view, origin) = receiver.state.foreign_changed(&change);
        assert_eq!((view.deadline, origin.peer, origin.stale_after), (ClusterTime(0), name("a"), ClusterTime(0)));
    }
}

#[test]
fn a_state_that_takes_the_place_of_another_sends_followers_back_to_the_beginning() {
    let (_, mut receiver, _) = filled();
    let mut follower = Follower::default();
    follower.follow(&receiver.state);
    assert_eq!(follower.begun(), 0, "a new state knows all its changes");
    receiver.kept.checkpoint(&mut receiver.state);
    let mut restored = receiver.kept.restore().expect("it was kept");
    assert_eq!(restored.foreign_sequence(), 0, "changes are not kept");
    restored.succeed(&receiver.state);
    follower.follow(&restored);
    assert_eq!(follower.begun(), 1);
}
