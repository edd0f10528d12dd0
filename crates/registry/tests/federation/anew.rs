//! Everything told anew; what is told to nobody; and how much is taken.

use rollcall_registry::federation::FOREIGN_MAX_OF_PEER;

use super::*;

/// The next batch, taken in by the receiver.
fn tell_once(origin: &Cluster, receiver: &mut Cluster, teller: &mut Teller, told_at: u64) -> Batch {
    let peer = origin.peer("b");
    loop {
        match teller.next(&origin.state, &peer, false) {
            Next::Tell(batch) => {
                let (_, received) = receiver.receive(&batch, told_at).expect("it is possible");
                teller.settle(&origin.state, &peer, &batch, &received);
                return Batch::clone(&batch);
            }
            Next::More => {}
            Next::Idle => panic!("there is something to tell"),
        }
    }
}

#[test]
fn nothing_is_missing_while_everything_is_told_anew_and_what_is_gone_is_swept_after_it() {
    let (mut origin, mut receiver, _) = filled();
    for n in 0..300 {
        origin.register("red", &format!("n-{n:03}"), "http://2", Visibility::Public, false);
    }
    origin.apply(Command::Deregister {
        tenant: tenant("red"),
        id: InstanceId::parse("y").expect("it is possible"),
        lease: None,
        condition: Condition::None,
    });
    // Other terms are another stream, of which nothing was heard yet.
    let terms = PeerTerms::clone(&origin.peer("b").terms);
    origin.now.0 += 1;
    origin.federation(FederationCommand::Remove { name: name("b") }).expect("it is possible");
    origin.federation(FederationCommand::Add(Box::new(terms))).expect("it is possible");
    let (mut teller, mut told_at, mut entries) = (Teller::default(), 100, 0);
    loop {
        told_at += 1;
        let batch = tell_once(&origin, &mut receiver, &mut teller, told_at);
        let known = receiver.foreign("rouge");
        assert!(["x", "y", "z"].iter().all(|id| known.contains_key(*id)), "something is missing meanwhile");
        entries += batch.tellings.iter().filter(|telling| matches!(telling, Telling::Entry { .. })).count();
        if matches!(batch.tellings[..], [Telling::End { .. }]) {
            break;
        }
    }
    assert_eq!(entries, 302);
    receiver.sweep();
    let known = receiver.foreign("rouge");
    assert!(!known.contains_key("y"), "what was not told anew is gone");
    assert_eq!(known.len(), 302);
    assert_eq!(receiver.peer("a").received.sweep, None);
}

#[test]
fn a_telling_of_everything_ends_when_all_of_it_has_come() {
    let (origin, mut receiver, _) = filled();
    let instance = origin.state.tenant_instances_after(&tenant("red"), None).next().expect("it is possible");
    let (at, stream) = (Revision(50), receiver.peer("a").received.stream.expect("it is possible"));
    let entry = ForeignMessage::Entry { at, number: 0, tenant: tenant("red"), told: Ok(told(instance)) };
    let messages = vec![
        ForeignMessage::Begin { at },
        entry,
        ForeignMessage::End { at, count: 2 },
        ForeignMessage::End { at: Revision(51), count: 1 },
        ForeignMessage::End { at, count: 1 },
        ForeignMessage::End { at, count: 1 },
    ];
    let (peer, key, told_at) = (name("a"), ClusterKey([7; 32]), WallTime(1_000));
    let batch = ForeignBatch { peer, key, stream, told_at, ttl_ms: 1_000, messages };
    let outcome = receiver.federation(FederationCommand::Receive(batch)).expect("it is possible");
    let FederationOutcome::Received { results, received } = outcome else { panic!("{outcome:?}") };
    let (applied, early) = (Reception::Applied, Reception::OutOfOrder);
    assert_eq!(results, [applied, applied, early, early, applied, Reception::Already]);
    assert_eq!((received.resync, received.position), (None, at));
    receiver.sweep();
    assert_eq!(receiver.foreign("rouge").len(), 1);
}

#[test]
fn what_others_told_is_told_to_nobody() {
    let (_, mut receiver, _) = filled();
    receiver.register("rouge", "own", "http://own", Visibility::Public, false);
    let onward = terms("b", Direction::Send, &[("rouge", "rosso")]);
    let onward = PeerTerms { key: ClusterKey([9; 32]), ..onward };
    receiver.federation(FederationCommand::Add(Box::new(onward))).expect("it is possible");
    let mut third = Cluster::new(10);
    let from = terms("a", Direction::Receive, &[("rosso", "rouge")]);
    third.federation(FederationCommand::Add(Box::new(from))).expect("it is possible");
    let (mut teller, mut told_at) = (Teller::default(), 1);
    tell_all(&mut receiver, &mut third, &mut teller, &mut told_at);
    assert_eq!(third.foreign("rosso").into_keys().collect::<Vec<_>>(), ["own"]);
    receiver.register("rouge", "later", "http://own", Visibility::Public, false);
    tell_all(&mut receiver, &mut third, &mut teller, &mut told_at);
    assert_eq!(third.foreign("rosso").into_keys().collect::<Vec<_>>(), ["later", "own"]);
}

#[test]
fn of_one_cluster_no_more_is_kept_than_may_be_and_others_are_not_concerned() {
    let mut receiver = Cluster::new(10);
    for (peer, key) in [("a", 7), ("c", 9)] {
        let terms = terms(peer, Direction::Receive, &[("rouge", "red")]);
        let terms = PeerTerms { key: ClusterKey([key; 32]), ..terms };
        receiver.federation(FederationCommand::Add(Box::new(terms))).expect("it is possible");
    }
    let stream = rollcall_registry::Stream { epoch: Epoch(1), since: ClusterTime(1) };
    let at = Revision(9);
    let entry = |peer: &str, number: usize| {
        let registration = Registration {
            visibility: Visibility::Public,
            ..Registration::new(
                InstanceId::parse(&format!("{peer}-{number}")).expect("it is possible"),
                ServiceName::parse("web").expect("it is possible"),
                "http://1",
                1 << 30,
            )
        };
        let (status, revision, registered_at) = (Status::Active, Revision(1), WallTime(1));
        let told = Told { registration: registration.pack(), status, revision, registered_at };
        ForeignMessage::Entry { at, number: number as u64, tenant: tenant("red"), told: Ok(told) }
    };
    // Without the harness, which looks at all of it after each command.
    let mut receive = |peer: &str, key: u8, messages: Vec<ForeignMessage>| {
        let (key, told_at) = (ClusterKey([key; 32]), WallTime(1_000));
        let batch = ForeignBatch { peer: name(peer), key, stream, told_at, ttl_ms: 1_000, messages };
        let commands = vec![Command::Federation(FederationCommand::Receive(batch))];
        let proposal = Proposal { stamp: ClusterTime(1), wall: WallTime(1), commands, once: Vec::new() };
        match receiver.state.apply(Term(1), &proposal).remove(0) {
            Outcome::Federation(outcome) => match *outcome {
                FederationOutcome::Received { results, received } => (results, received),
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        }
    };
    for (peer, key) in [("a", 7), ("c", 9)] {
        assert_eq!(receive(peer, key, vec![ForeignMessage::Begin { at }]).0, [Reception::Applied]);
    }
    let all: Vec<usize> = (0..FOREIGN_MAX_OF_PEER).collect();
    for some in all.chunks(FOREIGN_MESSAGES_MAX) {
        let (results, _) = receive("a", 7, some.iter().map(|number| entry("a", *number)).collect());
        assert!(results.iter().all(|result| *result == Reception::Applied));
    }
    let (results, received) = receive("a", 7, vec![entry("a", FOREIGN_MAX_OF_PEER)]);
    assert_eq!((results, received.lacking), (vec![Reception::Full], 1));
    assert_eq!(receive("c", 9, vec![entry("c", 0)]).0, [Reception::Applied]);
    assert_eq!(receiver.state.foreign_total().0, FOREIGN_MAX_OF_PEER + 1);
    receiver.state.assert_consistent();
}

#[test]
fn revisions_of_another_life_of_a_roll_or_of_other_terms_count_for_nothing() {
    let (origin, mut receiver, _) = filled();
    let before = receiver.peer("a").received;
    let instance = origin.state.tenant_instances_after(&tenant("red"), None).next().expect("it is possible");
    let (stream, after) = (before.stream.expect("it is possible"), before.position);
    let revision = Revision(after.0 + 1);
    let put = ForeignChange::Put(Told { status: Status::Degraded, revision, ..told(instance) });
    let removed = ForeignChange::Remove(InstanceId::parse("y").expect("it is possible"));
    let change = |change| ForeignMessage::Change { after, revision, tenant: tenant("red"), change };
    let messages = vec![
        change(put),
        change(removed),
        ForeignMessage::Bookmark { after, at: revision },
        ForeignMessage::Entry { at: after, number: 0, tenant: tenant("red"), told: Ok(told(instance)) },
        ForeignMessage::End { at: after, count: 0 },
    ];
    let known = receiver.foreign("rouge");
    for other in [
        rollcall_registry::Stream { epoch: Epoch(stream.epoch.0 + 1), ..stream },
        rollcall_registry::Stream { since: ClusterTime(stream.since.0 + 1), ..stream },
    ] {
        let (peer, key, told_at) = (name("a"), ClusterKey([7; 32]), WallTime(1_000));
        let batch = ForeignBatch { peer, key, stream: other, told_at, ttl_ms: 1_000, messages: messages.clone() };
        let outcome = receiver.federation(FederationCommand::Receive(batch)).expect("it is possible");
        let FederationOutcome::Received { results, received } = outcome else { panic!("{outcome:?}") };
        assert!(results.iter().all(|result| *result == Reception::ResyncNeeded), "{results:?}");
        assert_eq!((received.stream, received.position), (Some(stream), after));
        assert_eq!(receiver.foreign("rouge"), known);
    }
}
