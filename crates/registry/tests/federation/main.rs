//! One cluster tells another what it has, over a wire that loses, repeats and delays, while either's leader changes, either
//! is restored from what it kept, and terms are laid down anew. Whatever happened, once the wire is quiet the one knows
//! exactly what the other offers; and nothing that was not offered was ever known.

mod anew;
mod follower;
mod kept;
mod pages;

use std::collections::BTreeMap;

use follower::Follower;
use kept::Kept;
use rollcall_registry::federation::teller::{Batch, Next, Teller, Telling, missing};
use rollcall_registry::federation::{FOREIGN_MESSAGES_MAX, SWEEP_MAX};
use rollcall_registry::{
    ClusterKey, ClusterTime, Command, Condition, Direction, Epoch, FederationCommand, FederationOutcome,
    FederationRefusal, Filter, ForeignBatch, ForeignChange, ForeignMessage, HistoryLimits, InstanceId, Metadata,
    MetadataValue, Offered, Options, Outcome, Peer, PeerName, PeerTerms, Proposal, Query, Ranking, Received,
    Reception, Refusal, Registration, Revision, ServiceName, Sort, State, Status, TenantId, TenantPair, Term, Told,
    Trust, Visibility, WallTime,
};

const SEEDS: std::ops::Range<u64> = 0..60;
const STEPS: usize = 250;

/// SplitMix64: one number of state, so that a seed says everything.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % bound
    }

    fn once_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
}

fn tenant(name: &str) -> TenantId {
    TenantId::parse(name).expect("it is possible")
}

fn name(text: &str) -> PeerName {
    PeerName::parse(text).expect("it is possible")
}

fn terms(peer: &str, direction: Direction, pairs: &[(&str, &str)]) -> PeerTerms {
    PeerTerms {
        name: name(peer),
        key: ClusterKey([7; 32]),
        urls: ["http://peer:1".into()].into(),
        ca: None,
        direction,
        tenants: pairs.iter().map(|(l, r)| TenantPair { local: tenant(l), remote: tenant(r) }).collect(),
        offered: Offered::Public,
        selector: "!secret".parse().expect("it is possible"),
        trust: Trust::try_from(700).expect("it is possible"),
        priority: 0,
    }
}

/// A cluster, as far as there is one without consensus.
struct Cluster {
    state: State,
    now: ClusterTime,
    kept: Kept,
}

impl Cluster {
    fn new(history: usize) -> Self {
        let history = HistoryLimits { changes_max: history, bytes_max: usize::MAX };
        let state = State::new(Options { seed: 1, history });
        Self { state, now: ClusterTime(1), kept: Kept::default() }
    }

    fn apply(&mut self, command: Command) -> Outcome {
        let wall = WallTime(self.now.0);
        let proposal = Proposal { stamp: self.now, wall, commands: vec![command], once: Vec::new() };
        let outcome = self.state.apply(Term(1), &proposal).remove(0);
        self.state.assert_consistent();
        outcome
    }

    fn federation(&mut self, command: FederationCommand) -> Result<FederationOutcome, Refusal> {
        match self.apply(Command::Federation(command)) {
            Outcome::Federation(outcome) => Ok(*outcome),
            Outcome::Refused(refusal) => Err(refusal),
            other => panic!("{other:?}"),
        }
    }

    fn peer(&self, peer: &str) -> Peer {
        self.state.peer(&name(peer)).expect("it is possible").clone()
    }

    fn register(&mut self, of: &str, id: &str, url: &str, visibility: Visibility, secret: bool) {
        let label = secret.then_some(("secret", MetadataValue::Text("yes")));
        let registration = Registration {
            visibility,
            metadata: Metadata::new(label),
            ..Registration::new(
                InstanceId::parse(id).expect("it is possible"),
                ServiceName::parse("web").expect("it is possible"),
                url,
                1 << 30,
            )
        };
        let (tenant, registration, condition) = (tenant(of), registration.pack(), Condition::None);
        self.apply(Command::Register { tenant, registration, condition });
    }

    /// As an edge brings it in.
    fn receive(&mut self, batch: &Batch, told_at: u64) -> Result<(Vec<Reception>, Received), Refusal> {
        let messages = batch.tellings.iter().map(|telling| match telling.clone() {
            Telling::Put { after, revision, instance, .. } => {
                let (tenant, change) = (instance.tenant.clone(), ForeignChange::Put(told(&instance)));
                ForeignMessage::Change { after, revision, tenant, change }
            }
            Telling::Remove { after, revision, tenant, id } => {
                ForeignMessage::Change { after, revision, tenant, change: ForeignChange::Remove(id) }
            }
            Telling::Begin { at } => ForeignMessage::Begin { at },
            Telling::Entry { at, number, instance } => {
                let tenant = instance.tenant.clone();
                ForeignMessage::Entry { at, number, tenant, told: Ok(told(&instance)) }
            }
            Telling::End { at, count } => ForeignMessage::End { at, count },
            Telling::Bookmark { after, at } => ForeignMessage::Bookmark { after, at },
        });
        let batch = ForeignBatch {
            peer: name("a"),
            key: ClusterKey([7; 32]),
            stream: batch.stream,
            told_at: WallTime(told_at),
            ttl_ms: 3_600_000,
            messages: messages.collect(),
        };
        match self.federation(FederationCommand::Receive(batch))? {
            FederationOutcome::Received { results, received } => Ok((results, received)),
            other => panic!("{other:?}"),
        }
    }

    fn sweep(&mut self) {
        for _ in 0..1_000 {
            match self.federation(FederationCommand::Sweep { limit: 3 }) {
                Ok(FederationOutcome::Swept { more: true }) => {}
                Ok(FederationOutcome::Swept { more: false }) => return,
                other => panic!("{other:?}"),
            }
        }
        panic!("a sweep does not end");
    }

    /// What other clusters' instances a tenant is shown, with their URLs.
    fn foreign(&self, of: &str) -> BTreeMap<String, (String, Status)> {
        let filter = Filter { statuses: Status::ALL.to_vec(), ..Filter::default() };
        let query = Query {
            tenant: tenant(of),
            filter,
            sort: Sort::Id,
            ranking: Ranking::default(),
            after: None,
            limit: 1_000,
        };
        let found = self.state.query_federated(&query, None).expect("it is possible");
        let views = found.page.found.iter().zip(&found.origins).filter(|(_, origin)| origin.is_some());
        let shown = views.map(|(view, _)| {
            let registration = view.instance.registration();
            (registration.id.to_owned(), (registration.url.to_owned(), view.instance.status()))
        });
        shown.collect()
    }
}

fn told(instance: &rollcall_registry::Instance) -> Told {
    Told {
        registration: instance.registration.clone(),
        status: instance.status(),
        revision: instance.revision,
        registered_at: instance.registered_at,
    }
}

/// The receiver would not take it, but it is not to leave its cluster.
fn only_what_is_offered(telling: &Telling) {
    match telling {
        Telling::Put { instance, .. } | Telling::Entry { instance, .. } => {
            let registration = instance.registration();
            assert!(PAIRS.iter().any(|(local, _)| tenant(local) == instance.tenant), "{}", instance.tenant);
            assert_eq!(registration.visibility, Visibility::Public);
            assert!(registration.metadata.get("secret").is_none());
        }
        Telling::Remove { tenant: of, .. } => assert!(PAIRS.iter().any(|(local, _)| tenant(local) == *of), "{of}"),
        Telling::Begin { .. } | Telling::End { .. } | Telling::Bookmark { .. } => {}
    }
}

const PAIRS: [(&str, &str); 2] = [("red", "rouge"), ("blue", "bleu")];

struct World {
    random: Random,
    origin: Cluster,
    receiver: Cluster,
    teller: Teller,
    told_at: u64,
    /// Whatever was on the wire: anybody may send it again.
    recorded: Vec<(Batch, u64)>,
    /// Of what the receiver takes.
    follower: Follower,
}

impl World {
    fn new(seed: u64) -> Self {
        let (mut random, mut receiver) = (Random(seed), Cluster::new(1 << 20));
        // Few enough that history is gone now and then.
        let mut origin = Cluster::new(random.pick(&[4, 30, 1_000]));
        origin
            .federation(FederationCommand::Add(Box::new(terms("b", Direction::Send, &PAIRS))))
            .expect("it is possible");
        let mapped = PAIRS.map(|(local, remote)| (remote, local));
        receiver
            .federation(FederationCommand::Add(Box::new(terms("a", Direction::Receive, &mapped))))
            .expect("it is possible");
        let (teller, follower) = (Teller::default(), Follower::default());
        Self { random, origin, receiver, teller, told_at: 1, recorded: Vec::new(), follower }
    }

    fn run(&mut self) {
        for _ in 0..STEPS {
            self.origin.now.0 += 10;
            self.receiver.now.0 += 10;
            match self.random.below(40) {
                0..=15 => self.change(),
                16..=30 => drop(self.tell()),
                31 => self.repeat(),
                // Another node leads.
                32 => self.teller = Teller::default(),
                33 => self.receiver.kept.checkpoint(&mut self.receiver.state),
                34 => self.origin.kept.checkpoint(&mut self.origin.state),
                35 if self.random.once_in(4) => self.restore_receiver(),
                36 if self.random.once_in(4) => self.restore_origin(),
                37 if self.random.once_in(4) => self.lay_down_anew(),
                38 => drop(self.receiver.federation(FederationCommand::Sweep { limit: 1 })),
                39 => self.ask(),
                _ => {}
            }
            self.nothing_leaked();
            self.follower.follow(&self.receiver.state);
        }
        self.settle();
        self.follower.follow(&self.receiver.state);
        for (local, remote) in PAIRS {
            assert_eq!(self.receiver.foreign(remote), self.offered(local), "tenant {local}");
        }
    }

    fn change(&mut self) {
        let of = self.random.pick(&["red", "blue", "green"]);
        let id = self.random.pick(&["a", "b", "c", "d", "e", "f"]);
        if self.random.once_in(3) {
            let (tenant, id) = (tenant(of), InstanceId::parse(id).expect("it is possible"));
            let command = match self.random.once_in(2) {
                true => Command::Deregister { tenant, id, lease: None, condition: Condition::None },
                false => {
                    let status = Some(self.random.pick(Status::ALL));
                    Command::Beat { tenant, id, lease: None, status, metadata: None }
                }
            };
            self.origin.apply(command);
            return;
        }
        let url = self.random.pick(&["http://1", "http://2", "http://3"]);
        let visibility = self.random.pick(&[Visibility::Public, Visibility::Public, Visibility::Private]);
        let secret = self.random.once_in(5);
        self.origin.register(of, id, url, visibility, secret);
    }

    /// One step of the wire. False if there was nothing to do.
    fn tell(&mut self) -> bool {
        let peer = self.origin.peer("b");
        let is_due = self.random.once_in(3);
        let batch = match self.teller.next(&self.origin.state, &peer, is_due) {
            Next::Tell(batch) => batch,
            Next::More => return true,
            Next::Idle => return false,
        };
        assert!(batch.tellings.len() <= FOREIGN_MESSAGES_MAX);
        batch.tellings.iter().for_each(only_what_is_offered);
        self.told_at += 1;
        self.recorded.push((Batch::clone(&batch), self.told_at));
        // Lost on the way there, or cut short by what the receiver takes at once.
        if self.random.once_in(5) {
            return true;
        }
        let mut arrived = Batch::clone(&batch);
        if self.random.once_in(5) {
            arrived.tellings.truncate(self.random.below(arrived.tellings.len() as u64 + 1) as usize);
        }
        let (_, received) = self.receiver.receive(&arrived, self.told_at).expect("it is possible");
        // Lost on the way back.
        if !self.random.once_in(5) {
            self.teller.settle(&self.origin.state, &peer, &batch, &received);
        }
        true
    }

    /// Somebody sends again what they overheard.
    fn repeat(&mut self) {
        if self.recorded.is_empty() {
            return;
        }
        let at = self.random.below(self.recorded.len() as u64) as usize;
        let (batch, told_at) = self.recorded[at].clone();
        let before = self.receiver.peer("a").received;
        match self.receiver.receive(&batch, told_at) {
            Ok(_) => assert!(told_at >= before.told_at.0),
            Err(refusal) => assert_eq!(refusal, Refusal::Federation(FederationRefusal::Replayed)),
        }
        let after = self.receiver.peer("a").received;
        if told_at <= before.told_at.0 {
            assert_eq!(after.heard_at, before.heard_at, "what is repeated is no sign of life");
            assert_eq!(after.generation, before.generation, "what is repeated begins nothing");
        }
    }

    /// The receiver asks for what it was not told, and then knows what is offered now.
    fn ask(&mut self) {
        let peer = self.origin.peer("b");
        loop {
            let received = self.receiver.peer("a").received;
            if received.resync.is_some() || received.sweep.is_some() {
                return;
            }
            let missing = missing(&self.origin.state, &peer, received.position, received.position);
            // By another stream, or by what is forgotten, it cannot be told.
            let Some(batch) = missing.filter(|batch| Some(batch.stream) == received.stream) else { return };
            let reaches = batch.looked_at();
            if !batch.tellings.is_empty() {
                // In the name of its last word: what is on its way is not made a repetition by it.
                self.recorded.push((batch.clone(), received.told_at.0));
                let (_, now) = self.receiver.receive(&batch, received.told_at.0).expect("it is possible");
                assert_eq!(now.position, reaches);
                assert_eq!((now.told_at, now.heard_at), (received.told_at, received.heard_at));
            }
            if reaches == self.origin.state.revision() {
                break;
            }
        }
        for (local, remote) in PAIRS {
            assert_eq!(self.receiver.foreign(remote), self.offered(local), "tenant {local}");
        }
    }

    fn restore_receiver(&mut self) {
        if let Some(mut state) = self.receiver.kept.restore() {
            state.succeed(&self.receiver.state);
            self.receiver.state = state;
        }
    }

    fn restore_origin(&mut self) {
        if let Some(mut state) = self.origin.kept.restore() {
            state.begin_epoch(Epoch(self.origin.state.epoch().0 + 1));
            self.origin.state = state;
            self.teller = Teller::default();
        }
    }

    /// The receiver's operator changes their mind: the peer is taken away and named anew.
    fn lay_down_anew(&mut self) {
        let terms = PeerTerms::clone(&self.receiver.peer("a").terms);
        self.receiver.federation(FederationCommand::Remove { name: name("a") }).expect("it is possible");
        assert_eq!(self.receiver.foreign("rouge"), BTreeMap::new(), "nothing is shown of who was removed");
        self.receiver.sweep();
        self.receiver.federation(FederationCommand::Add(Box::new(terms))).expect("it is possible");
        // Its words are measured by no earlier ones.
        self.recorded.clear();
    }

    fn settle(&mut self) {
        let mut idle = 0;
        for _ in 0..5_000 {
            self.origin.now.0 += 10;
            self.receiver.now.0 += 10;
            idle = if self.tell() { 0 } else { idle + 1 };
            if idle > 10 {
                self.receiver.sweep();
                return;
            }
        }
        panic!("it does not come to an end");
    }

    fn offered(&self, of: &str) -> BTreeMap<String, (String, Status)> {
        let all = self.origin.state.tenant_instances_after(&tenant(of), None);
        let offered = all.filter(|instance| {
            let registration = instance.registration();
            registration.visibility == Visibility::Public && registration.metadata.get("secret").is_none()
        });
        let shown = offered
            .map(|instance| (instance.id().to_owned(), (instance.registration().url.to_owned(), instance.status())));
        shown.collect()
    }

    fn nothing_leaked(&self) {
        for of in ["red", "blue", "green"] {
            assert_eq!(self.receiver.foreign(of), BTreeMap::new(), "the receiver knows that tenant by another name");
        }
    }
}

#[test]
fn the_receiver_ends_up_with_what_is_offered_whatever_happens_on_the_way() {
    let seeds = match std::env::var("ROLLCALL_SEED") {
        Ok(seed) => seed.parse().map(|seed| seed..seed + 1).expect("ROLLCALL_SEED is a number"),
        Err(_) => SEEDS,
    };
    for seed in seeds {
        let run = std::panic::AssertUnwindSafe(|| World::new(seed).run());
        if std::panic::catch_unwind(run).is_err() {
            panic!(
                "seed {seed} fails, see above; replay it with\n    ROLLCALL_SEED={seed} cargo test -p rollcall-registry \
                 --test federation"
            );
        }
    }
}

/// A cluster that receives from `a`, told of three instances.
fn filled() -> (Cluster, Cluster, Teller) {
    let (mut origin, mut receiver) = (Cluster::new(1_000), Cluster::new(1_000));
    origin
        .federation(FederationCommand::Add(Box::new(terms("b", Direction::Send, &[("red", "rouge")]))))
        .expect("it is possible");
    let mapped = terms("a", Direction::Receive, &[("rouge", "red")]);
    receiver.federation(FederationCommand::Add(Box::new(mapped))).expect("it is possible");
    for id in ["x", "y", "z"] {
        origin.register("red", id, "http://1", Visibility::Public, false);
    }
    let mut teller = Teller::default();
    tell_all(&mut origin, &mut receiver, &mut teller, &mut 1);
    assert_eq!(receiver.foreign("rouge").len(), 3);
    (origin, receiver, teller)
}

fn tell_all(origin: &mut Cluster, receiver: &mut Cluster, teller: &mut Teller, told_at: &mut u64) {
    let peer = origin.peer("b");
    loop {
        match teller.next(&origin.state, &peer, false) {
            Next::Tell(batch) => {
                *told_at += 1;
                let (_, received) = receiver.receive(&batch, *told_at).expect("it is possible");
                teller.settle(&origin.state, &peer, &batch, &received);
            }
            Next::More => {}
            Next::Idle => return,
        }
    }
}

#[test]
fn without_a_word_from_its_cluster_nothing_is_believed_for_longer_than_it_asked_for() {
    let (mut origin, mut receiver, mut teller) = filled();
    let revision = receiver.state.revision();
    receiver.now.0 += 30_000;
    assert!(!receiver.peer("a").is_stale(receiver.now));
    receiver.now.0 += 1_000;
    assert!(receiver.peer("a").is_stale(receiver.now), "though nothing was applied since");
    receiver.federation(FederationCommand::Sweep { limit: SWEEP_MAX }).expect("it is possible");
    let peer = receiver.peer("a");
    assert!(peer.is_stale(receiver.state.now()));
    assert_eq!(receiver.foreign("rouge").len(), 3, "stale is not gone");
    receiver.now.0 += 3_600_000 - 31_000 - 1;
    receiver.sweep();
    assert_eq!(receiver.foreign("rouge").len(), 3);
    receiver.now.0 += 1;
    assert!(receiver.state.is_sweep_due(receiver.now));
    receiver.sweep();
    assert_eq!(receiver.foreign("rouge").len(), 0);
    assert_eq!(receiver.state.foreign_total(), (0, 0));
    assert_eq!(receiver.state.revision(), revision, "it is no change of this roll");
    // Its next word says that everything has to be told again.
    tell_all(&mut origin, &mut receiver, &mut teller, &mut 100);
    assert_eq!(receiver.foreign("rouge").len(), 0, "it does not know yet that it was forgotten");
    teller = Teller::default();
    tell_all(&mut origin, &mut receiver, &mut teller, &mut 200);
    assert_eq!(receiver.foreign("rouge").len(), 3);
}

#[test]
fn who_is_not_to_be_believed_is_not() {
    let refused = |change: &dyn Fn(&mut PeerTerms), expected: FederationRefusal| {
        let mut receiver = Cluster::new(10);
        let mut terms = terms("a", Direction::Receive, &[("rouge", "red")]);
        change(&mut terms);
        receiver.federation(FederationCommand::Add(Box::new(terms))).expect("it is possible");
        let mut origin = Cluster::new(10);
        origin
            .federation(FederationCommand::Add(Box::new(self::terms("b", Direction::Send, &[("red", "x")]))))
            .expect("it is possible");
        let Next::Tell(batch) = Teller::default().next(&origin.state, &origin.peer("b"), false) else {
            panic!("it asks first");
        };
        assert_eq!(receiver.receive(&batch, 5).unwrap_err(), Refusal::Federation(expected));
    };
    refused(&|terms| terms.trust = Trust::try_from(599).expect("it is possible"), FederationRefusal::NotTrusted);
    refused(&|terms| terms.direction = Direction::Send, FederationRefusal::NotReceived);
    refused(&|terms| terms.key = ClusterKey([8; 32]), FederationRefusal::Unknown);
    refused(&|terms| terms.name = name("other"), FederationRefusal::Unknown);
}

#[test]
fn who_is_paused_keeps_what_is_known_and_tells_nothing_more() {
    let (mut origin, mut receiver, mut teller) = filled();
    receiver.federation(FederationCommand::Pause { name: name("a"), paused: true }).expect("it is possible");
    origin.register("red", "w", "http://1", Visibility::Public, false);
    let peer = origin.peer("b");
    let Next::Tell(batch) = teller.next(&origin.state, &peer, false) else { panic!("there is a change") };
    let refused = receiver.receive(&batch, 50).unwrap_err();
    assert_eq!(refused, Refusal::Federation(FederationRefusal::Paused));
    assert_eq!(receiver.foreign("rouge").len(), 3);
    receiver.federation(FederationCommand::Pause { name: name("a"), paused: false }).expect("it is possible");
    tell_all(&mut origin, &mut receiver, &mut teller, &mut 60);
    assert_eq!(receiver.foreign("rouge").len(), 4);
}

#[test]
fn a_private_instance_is_taken_from_nobody_and_an_unmapped_tenant_neither() {
    let (origin, mut receiver, _) = filled();
    let instance = |visibility| {
        let mut cluster = Cluster::new(10);
        cluster.register("red", "p", "http://1", visibility, false);
        told(cluster.state.tenant_instances_after(&tenant("red"), None).next().expect("it is possible"))
    };
    let stream = receiver.peer("a").received.stream.expect("it is possible");
    let mut position = receiver.peer("a").received.position;
    let mut receive = |receiver: &mut Cluster, tenant_name: &str, told: Told| {
        let (after, revision) = (position, Revision(position.0 + 1));
        let change = ForeignChange::Put(Told { revision, ..told });
        position = revision;
        let messages = vec![ForeignMessage::Change { after, revision, tenant: tenant(tenant_name), change }];
        let (peer, key, told_at) = (name("a"), ClusterKey([7; 32]), WallTime(1_000));
        let batch = ForeignBatch { peer, key, stream, told_at, ttl_ms: 1_000, messages };
        match receiver.federation(FederationCommand::Receive(batch)).expect("it is possible") {
            FederationOutcome::Received { results, .. } => results[0],
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(receive(&mut receiver, "red", instance(Visibility::Private)), Reception::NotOffered);
    assert_eq!(receive(&mut receiver, "red", instance(Visibility::Restricted)), Reception::NotOffered);
    assert_eq!(receive(&mut receiver, "rouge", instance(Visibility::Public)), Reception::TenantNotMapped);
    assert_eq!(receive(&mut receiver, "red", instance(Visibility::Public)), Reception::Applied);
    assert_eq!(receiver.peer("a").received.lacking, 3);
    assert_eq!(receiver.foreign("rouge").len(), 4);
    drop(origin);
}

#[test]
fn the_cluster_of_higher_priority_speaks_for_an_id_that_several_know() {
    let (origin, mut receiver, _) = filled();
    let mut other = terms("c", Direction::Receive, &[("rouge", "red")]);
    (other.key, other.priority) = (ClusterKey([9; 32]), 5);
    receiver.federation(FederationCommand::Add(Box::new(other))).expect("it is possible");
    let instance = origin.state.tenant_instances_after(&tenant("red"), None).next().expect("it is possible");
    let mut registration = instance.registration().to_registration();
    registration.url = "http://from-c".into();
    let put = Told { registration: registration.pack(), ..told(instance) };
    let stream = rollcall_registry::Stream { epoch: Epoch(1), since: ClusterTime(1) };
    let entry = ForeignMessage::Entry { at: Revision(9), number: 0, tenant: tenant("red"), told: Ok(put) };
    let messages =
        vec![ForeignMessage::Begin { at: Revision(9) }, entry, ForeignMessage::End { at: Revision(9), count: 1 }];
    let (peer, key, told_at) = (name("c"), ClusterKey([9; 32]), WallTime(1_000));
    let batch = ForeignBatch { peer, key, stream, told_at, ttl_ms: 1_000, messages };
    receiver.federation(FederationCommand::Receive(batch)).expect("it is possible");
    let shown = receiver.foreign("rouge");
    assert_eq!(shown.len(), 3);
    assert_eq!(shown["x"].0, "http://from-c");
    assert_eq!(shown["y"].0, "http://1");
}
