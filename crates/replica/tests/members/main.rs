//! Whole members in one process: real stores, a transport that a test can cut.

mod autopilot;
mod join;
mod moves;
mod operate;
mod upgrade;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use rollcall_registry::*;
use rollcall_replica::{
    Applied, Autopilot, BarrierError, ByteStream, Consistency, Door, Options, PeerRefusal, PeerRoute, Replica, Sent,
    StartMode, SubmitError, Transport, TransportError,
};
use tempfile::TempDir;
use tokio::time::Instant;

/// Carries requests straight to the member at an address, unless the way is cut.
#[derive(Clone, Default)]
struct Wires {
    members: Arc<Mutex<BTreeMap<String, Replica>>>,
    cut: Arc<Mutex<BTreeSet<String>>>,
    /// How many answers to forwarded batches are still to be lost.
    answers_to_lose: Arc<AtomicUsize>,
    /// How many appends still get through to a member, where they are counted.
    appends_left: Arc<Mutex<BTreeMap<String, usize>>>,
    /// Batches to this member wait for ever for their turn, and to the others there is no way.
    no_turn_at: Arc<Mutex<Option<String>>>,
    election_timeout_ms: Option<u64>,
    join_token_required: bool,
    autopilot: Autopilot,
    /// Who pretends to run an older program.
    older: Arc<Mutex<BTreeMap<String, FeatureLevel>>>,
    /// Where a member says it is reached, if not by its name.
    moved: Arc<Mutex<BTreeMap<String, String>>>,
    /// Where those wait that are to be added.
    doors: Arc<Mutex<BTreeMap<String, Door>>>,
}

struct Wire {
    wires: Wires,
    from: String,
}

impl Wire {
    fn member(&self, address: &str) -> Result<Replica, TransportError> {
        let cut = self.wires.cut.lock();
        let member = self.wires.members.lock().get(address).cloned();
        match member {
            Some(member) if !cut.contains(address) && !cut.contains(&self.from) => Ok(member),
            _ => Err(TransportError::Unreachable { address: address.to_owned(), source: "cut".into() }),
        }
    }
}

impl Transport for Wire {
    async fn call(
        &self,
        address: &str,
        route: PeerRoute,
        body: Bytes,
        timeout: Duration,
        sent: &Sent,
    ) -> Result<Bytes, TransportError> {
        let lost = |source: String| TransportError::Lost { address: address.to_owned(), source: source.into() };
        let door = self.wires.doors.lock().get(address).cloned();
        if let Some(door) = door
            && let Some(answer) = door.answer(route, body.clone()).await
        {
            return answer.map_err(|refusal| lost(refusal.to_string()));
        }
        let member = self.member(address)?;
        if route == PeerRoute::Append
            && let Some(left) = self.wires.appends_left.lock().get_mut(address)
        {
            let silent = || TransportError::Unreachable { address: address.to_owned(), source: "silent".into() };
            *left = left.checked_sub(1).ok_or_else(silent)?;
        }
        let no_turn_at = self.wires.no_turn_at.lock().clone().filter(|_| route == PeerRoute::Propose);
        match no_turn_at {
            Some(without_turn) if without_turn == address => std::future::pending().await,
            Some(_) => {
                return Err(TransportError::Unreachable { address: address.to_owned(), source: "no way".into() });
            }
            None => sent.set(),
        }
        let answer = tokio::time::timeout(timeout, member.handle_peer(route, body)).await;
        self.member(address).map_err(|_| lost("cut on the way back".to_owned()))?;
        let lose = |left: usize| left.checked_sub(1);
        if route == PeerRoute::Propose && self.wires.answers_to_lose.fetch_update(SeqCst, SeqCst, lose).is_ok() {
            return Err(lost("the answer was lost".to_owned()));
        }
        answer
            .map_err(|_| lost("timeout".to_owned()))?
            .map_err(|refusal| TransportError::Refused { address: address.to_owned(), reason: refusal.to_string() })
    }

    async fn is_gone(&self, address: &str) -> bool {
        !self.wires.members.lock().contains_key(address)
    }

    async fn call_streaming(
        &self,
        address: &str,
        _route: PeerRoute,
        body: ByteStream,
        _timeout: Duration,
    ) -> Result<Bytes, TransportError> {
        let member = self.member(address)?;
        member
            .handle_snapshot(body)
            .await
            .map_err(|refusal| TransportError::Refused { address: address.to_owned(), reason: refusal.to_string() })
    }
}

impl Wires {
    async fn start(&self, dir: &TempDir, name: &str, start: StartMode) -> Replica {
        self.start_as(dir, name, start, false).await
    }

    async fn start_as(&self, dir: &TempDir, name: &str, start: StartMode, learner: bool) -> Replica {
        let wire = Wire { wires: self.clone(), from: name.to_owned() };
        let options = self.options(dir, name, start, learner);
        let address = options.peer_address.clone();
        let replica = Replica::start(options, wire).await.expect("a member starts");
        self.members.lock().insert(address, replica.clone());
        replica
    }

    fn options(&self, dir: &TempDir, name: &str, start: StartMode, learner: bool) -> Options {
        let election_timeout_ms = self.election_timeout_ms.unwrap_or(400);
        Options {
            data_dir: dir.path().join(name),
            api_address: format!("{name}:7900"),
            peer_address: self.moved.lock().get(name).unwrap_or(&name.to_owned()).clone(),
            start,
            learner,
            feature_level: self.older.lock().get(name).copied().unwrap_or(FEATURE_LEVEL),
            join_token_required: self.join_token_required,
            autopilot: self.autopilot,
            heartbeat_interval_ms: 100,
            election_timeout_ms_min: election_timeout_ms,
            election_timeout_ms_max: 2 * election_timeout_ms,
            snapshot_entries: 20,
            log_entries_kept: 5,
            history: HistoryLimits::default(),
            version: "test",
            trace: None,
        }
    }

    /// A node that waits until it is added.
    async fn start_waiting(&self, dir: &TempDir, name: &str) -> Replica {
        let door = Door::default();
        self.doors.lock().insert(name.to_owned(), door.clone());
        self.start(dir, name, StartMode::Wait(door)).await
    }

    /// Starts a member again that was ended, on its directory.
    async fn resume(&self, dir: &TempDir, name: &str) -> Replica {
        self.start(dir, name, StartMode::Wait(Door::default())).await
    }

    /// Ends a member; its directory is free then.
    async fn end(&self, address: &str) {
        let member = self.members.lock().remove(address).expect("a member there");
        member.shutdown().await;
    }

    async fn three(&self, dir: &TempDir) -> [Replica; 3] {
        let a = self.start(dir, "a", StartMode::Bootstrap).await;
        let join = || StartMode::Join { peers: vec!["a".to_owned()], token: None };
        let b = self.start(dir, "b", join()).await;
        let c = self.start(dir, "c", join()).await;
        for member in [&a, &b, &c] {
            until("three voters", || async {
                let status = member.status().await;
                status.members.len() == 3 && status.members.iter().all(|m| m.voter && m.reachable)
            })
            .await;
            until("a member that is ready", || async { member.readiness().iter().all(|check| check.ok) }).await;
        }
        [a, b, c]
    }

    fn cut(&self, name: &str) {
        self.cut.lock().insert(name.to_owned());
    }

    fn heal(&self) {
        self.cut.lock().clear();
    }
}

async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !holds().await {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

fn tenant() -> TenantId {
    TenantId::parse("default").expect("a tenant")
}

fn id(text: &str) -> InstanceId {
    InstanceId::parse(text).expect("an id")
}

fn register(name: &str, url: &str) -> Command {
    let registration = Registration::new(id(name), ServiceName::parse("web").expect("a name"), url, 60_000);
    Command::Register { tenant: tenant(), registration: registration.pack(), condition: Condition::None }
}

fn registered(applied: &Applied) -> Registered {
    match &applied.outcome {
        Outcome::Registered(registered) => *registered,
        other => panic!("not registered: {other:?}"),
    }
}

fn shows(member: &Replica, name: &str) -> bool {
    member.roll().read(|state| state.get(&tenant(), &id(name)).is_some())
}

async fn same_digests(members: &[&Replica]) {
    until("equal digests", || async {
        let mut seen = BTreeSet::new();
        for member in members {
            let (index, digest) = member.digest(None, soon()).await.expect("a digest of now");
            seen.insert((index, digest.0));
        }
        seen.len() == 1
    })
    .await;
}

const LINEARIZABLE: Consistency = Consistency { linearizable: true, min_revision: None, max_staleness_ms: None };

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_single_member_does_the_whole_job_and_resumes() {
    let (dir, wires) = (TempDir::new().unwrap(), Wires::default());
    let a = wires.start(&dir, "a", StartMode::Bootstrap).await;
    let first = registered(&a.submit(register("x", "http://x"), soon()).await.unwrap());
    assert!(first.created);
    assert_eq!(first.revision, Revision(1));
    a.barrier(LINEARIZABLE, soon()).await.unwrap();
    assert!(shows(&a, "x"));
    let (index, digest) = a.digest(None, soon()).await.unwrap();
    a.shutdown().await;
    wires.members.lock().clear();
    drop(a);

    let a = wires.start(&dir, "a", StartMode::Bootstrap).await;
    a.barrier(LINEARIZABLE, soon()).await.unwrap();
    assert!(shows(&a, "x"), "p1: an acknowledged write is lost by a restart");
    let again = registered(&a.submit(register("x", "http://x"), soon()).await.unwrap());
    assert_eq!(again.lease, first.lease, "the same content again is a renewal");
    assert!(a.roll().applied_index() > index);
    assert_eq!(a.roll().read(|state| state.revision()), Revision(1));
    assert_ne!(a.digest(None, soon()).await.unwrap().1, digest, "the renewal moved the deadline");
    a.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p8_a_write_at_each_member_is_read_at_each_other() {
    let (dir, wires) = (TempDir::new().unwrap(), Wires::default());
    let members = wires.three(&dir).await;
    for (n, writer) in members.iter().enumerate() {
        let name = format!("x{n}");
        let applied = writer.submit(register(&name, "http://x"), soon()).await.unwrap();
        assert!(shows(writer, &name), "whoever took the write shows it at once");
        for reader in &members {
            let wanted = Consistency { min_revision: Some(applied.revision), ..Consistency::default() };
            reader.barrier(wanted, soon()).await.unwrap();
            assert!(shows(reader, &name));
        }
        let name = format!("y{n}");
        writer.submit(register(&name, "http://y"), soon()).await.unwrap();
        for reader in &members {
            assert_eq!(reader.barrier(LINEARIZABLE, soon()).await.unwrap().staleness_ms, 0);
            assert!(shows(reader, &name));
        }
    }
    same_digests(&members.each_ref()).await;
    for member in &members {
        member.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p1_a_write_is_held_through_an_election() {
    let (dir, wires) = (TempDir::new().unwrap(), Wires::default());
    let members = wires.three(&dir).await;
    let before = members[1].submit(register("before", "http://x"), soon()).await.unwrap();
    wires.cut("a");
    let during = members[1].submit(register("during", "http://x"), soon()).await.unwrap();
    assert!(during.revision > before.revision);
    until("another leader", || async { members[2].status().await.leader_id != Some(1) }).await;

    // The old leader, alone, neither acknowledges nor calls itself fresh.
    let alone = members[0].submit(register("alone", "http://x"), Instant::now() + Duration::from_millis(1_500)).await;
    assert!(alone.is_err());
    let wanted = Consistency { max_staleness_ms: Some(500), ..Consistency::default() };
    let stale = members[0].barrier(wanted, Instant::now() + Duration::from_millis(200)).await;
    assert!(matches!(stale, Err(BarrierError::TooStale { .. })), "{stale:?}");
    let cut_off = members[0].barrier(LINEARIZABLE, Instant::now() + Duration::from_millis(500)).await;
    assert_eq!(cut_off, Err(BarrierError::NoLeader));

    wires.heal();
    until("the old leader to learn", || async { shows(&members[0], "during") }).await;
    same_digests(&members.each_ref()).await;
    for member in &members {
        member.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_starts_is_current_with_the_first_append() {
    let (dir, wires) = (TempDir::new().unwrap(), Wires::default());
    let [a, b, c] = wires.three(&dir).await;
    a.submit(register("x", "http://x"), soon()).await.unwrap();
    same_digests(&[&a, &b, &c]).await;
    c.shutdown().await;
    wires.members.lock().remove("c");
    drop(c);

    wires.appends_left.lock().insert("c".to_owned(), 1);
    let c = wires.start(&dir, "c", StartMode::Wait(Door::default())).await;
    until("a current member", || async { c.barrier(Consistency::default(), soon()).await.is_ok() }).await;
    assert!(shows(&c, "x"));
    for member in [&a, &b, &c] {
        member.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p2_a_member_far_behind_catches_up_by_snapshot() {
    let (dir, wires) = (TempDir::new().unwrap(), Wires::default());
    let members = wires.three(&dir).await;
    wires.cut("c");
    for n in 0..200 {
        members[0].submit(register(&format!("x{n}"), "http://x"), soon()).await.unwrap();
    }
    wires.heal();
    until("the last write", || async { shows(&members[2], "x199") }).await;
    same_digests(&members.each_ref()).await;
    assert_eq!(members[2].roll().read(|state| state.len()), 200);
    for member in &members {
        member.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p13_noise_is_refused_on_every_route() {
    let (dir, wires) = (TempDir::new().unwrap(), Wires::default());
    let a = wires.start(&dir, "a", StartMode::Bootstrap).await;
    let garbage = a.handle_peer(PeerRoute::Append, Bytes::from_static(b"\xff\xff\xff")).await;
    assert!(matches!(garbage, Err(PeerRefusal::Malformed(_))), "{garbage:?}");
    for route in PeerRoute::ALL {
        let empty = a.handle_peer(*route, Bytes::new()).await;
        assert!(matches!(empty, Err(PeerRefusal::Malformed(_))), "{route:?}: {empty:?}");
    }
    a.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p4_a_silent_instance_is_struck_off_and_a_beating_one_is_not() {
    let (dir, wires) = (TempDir::new().unwrap(), Wires::default());
    let members = wires.three(&dir).await;
    let with_ttl = |name: &str, ttl_ms| match register(name, "http://x") {
        Command::Register { tenant, registration, condition } => {
            let registration = Registration { ttl_ms, ..registration.view().to_registration() }.pack();
            Command::Register { tenant, registration, condition }
        }
        _ => unreachable!(),
    };
    members[1].submit(with_ttl("silent", 1_000), soon()).await.unwrap();
    let beating = registered(&members[2].submit(with_ttl("beating", 3_000), soon()).await.unwrap());
    until("the silent one to go", || async {
        let leases = LeaseSet::new(vec![beating.lease]);
        let renewed = members[1].submit(Command::Renew { tenant: tenant(), leases }, soon()).await.unwrap();
        let nobody = LeaseSet::default();
        assert_eq!(renewed.outcome, Outcome::Renewed { not_found: nobody.clone(), superseded: nobody });
        !shows(&members[1], "silent")
    })
    .await;
    assert!(shows(&members[1], "beating"));
    same_digests(&members.each_ref()).await;
    for member in &members {
        member.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p1_a_write_whose_answer_is_lost_is_done_once() {
    let (dir, wires) = (TempDir::new().unwrap(), Wires::default());
    let members = wires.three(&dir).await;
    wires.answers_to_lose.store(3, SeqCst);
    let first = registered(&members[1].submit(register("x", "http://x"), soon()).await.unwrap());
    assert_eq!(wires.answers_to_lose.load(SeqCst), 0);
    assert!(first.created, "the answer is the one of the first time");
    assert_eq!(members[1].roll().read(|state| state.revision()), first.revision);

    wires.answers_to_lose.store(1, SeqCst);
    let gone = Command::Deregister { tenant: tenant(), id: id("x"), lease: None, condition: Condition::None };
    let gone = members[2].submit(gone, soon()).await.unwrap();
    assert_eq!(gone.outcome, Outcome::Deregistered { revision: Revision(first.revision.0 + 1) });
    same_digests(&members.each_ref()).await;
    for member in &members {
        member.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p1_a_write_that_never_went_out_is_certainly_not_applied() {
    let (dir, wires) = (TempDir::new().unwrap(), Wires::default());
    let members = wires.three(&dir).await;
    let join = StartMode::Join { peers: vec!["a".to_owned()], token: None };
    // One that never leads, so that all it writes goes to another.
    let learner = wires.start_as(&dir, "l", join, true).await;
    until("a learner that is ready", || async { learner.readiness().iter().all(|check| check.ok) }).await;
    *wires.no_turn_at.lock() = Some("a".to_owned());
    let submit = learner.submit(register("x", "http://x"), Instant::now() + Duration::from_secs(5));
    let (answer, ()) = tokio::join!(submit, async {
        wires.cut("a");
        until("another leader", || async { learner.status().await.leader_id.is_some_and(|id| id != 1) }).await;
    });
    assert_eq!(answer.unwrap_err(), SubmitError::NoLeader);
    wires.no_turn_at.lock().take();
    learner.submit(register("y", "http://y"), soon()).await.unwrap();
    assert!(!shows(&learner, "x"), "it was called not applied");
    wires.heal();
    for member in members.iter().chain([&learner]) {
        member.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p1_of_two_successors_the_one_with_the_longer_log_is_elected() {
    for (successor, behind) in [(1, 2), (2, 1)] {
        // Whoever leads before an election timeout has passed was elected because the leader's process had ended.
        let wires = Wires { election_timeout_ms: Some(10_000), ..Wires::default() };
        let dir = TempDir::new().unwrap();
        let members = wires.three(&dir).await;
        let names = ["a", "b", "c"];
        assert_eq!(members[0].status().await.leader_id, Some(1));
        wires.cut(names[behind]);
        for n in 0..10 {
            members[successor].submit(register(&format!("x{n}"), "http://x"), soon()).await.unwrap();
        }
        assert!(!shows(&members[behind], "x0"));
        let ended_at = Instant::now();
        wires.cut("a");
        wires.members.lock().remove("a");
        wires.cut.lock().remove(names[behind]);
        // Each notices it once, the one that cannot win first.
        members[behind].contact_lost();
        members[successor].contact_lost();
        let elected = Some(members[successor].node_id());
        until("the successor to lead", || async { members[behind].status().await.leader_id == elected }).await;
        assert!(ended_at.elapsed() < Duration::from_secs(10), "{:?}", ended_at.elapsed());
        members[behind].submit(register("after", "http://x"), soon()).await.unwrap();
        for member in &members[1..] {
            until("all that was acknowledged", || async { (0..10).all(|n| shows(member, &format!("x{n}"))) }).await;
        }
        // Nobody hands over, which would take as long as an election here: the members end with the test.
        same_digests(&[&members[1], &members[2]]).await;
    }
}
