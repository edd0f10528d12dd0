//! What a peer's request comes to. Every one names the cluster and the node it is meant for; a mismatch is refused.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use openraft::raft::{AppendEntriesRequest, TransferLeaderRequest, VoteRequest};
use rollcall_storage::codec::{self, Kind};
use rollcall_storage::{ClusterId, NodeId, SnapshotMeta, TypeConfig, Vote};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;
use tracing::Instrument;

use crate::core::{Core, Forgot};
use crate::membership;
use crate::message::{
    Adoption, Announcement, Envelope, EnvelopeHead, Forgotten, JoinRequest, OperateRequest, ProposeRequest,
    ProposeResponse, ReadIndexResponse, Stamped,
};
use crate::peer::{ByteStream, PeerRefusal, PeerRoute};
use crate::proposer::Request;
use crate::{admission, announce, operate, read_index, trace};

/// How long the leader keeps a follower's batch before it gives up on it: the longest deadline a client may set.
const PROPOSE_TIMEOUT: Duration = Duration::from_secs(60);

/// Before a snapshot's envelope stands its length.
const SNAPSHOT_LENGTH_BYTES: usize = 4;

/// A snapshot's envelope holds a vote and a membership.
const SNAPSHOT_HEAD_BYTES_MAX: usize = 1 << 20;

pub(crate) async fn handle(core: &Core, route: PeerRoute, body: Bytes) -> Result<Bytes, PeerRefusal> {
    match route {
        PeerRoute::Append => append(core, &body).await,
        PeerRoute::Vote => {
            let request: VoteRequest<TypeConfig> = open(core, &body)?.body;
            answer(&core.raft.vote(request).await.map_err(unavailable)?)
        }
        PeerRoute::PreVote => {
            let request: VoteRequest<TypeConfig> = open(core, &body)?.body;
            answer(&core.raft.pre_vote(request).await.map_err(unavailable)?)
        }
        PeerRoute::TransferLeader => {
            let request: TransferLeaderRequest<TypeConfig> = open(core, &body)?.body;
            answer(&core.raft.handle_transfer_leader(request).await.map_err(unavailable)?)
        }
        PeerRoute::Propose => {
            let Envelope { from, body: ProposeRequest { commands, once, batch, trace }, .. } = open(core, &body)?;
            let request = Request { commands, once, stays: true };
            if !request.fits_an_entry() {
                return Err(PeerRefusal::Malformed("a batch of more commands than an entry holds".to_owned()));
            }
            tracing::debug!(from, batch, "a follower's batch");
            let span = trace::from_peer(core.options.trace, trace, from);
            answer(&propose(core, request).instrument(span).await)
        }
        PeerRoute::ReadIndex => {
            let () = open(core, &body)?.body;
            let index = if core.lead().is_some() { read_index::local_index(core).await } else { None };
            let not_leader = || ReadIndexResponse::NotLeader { leader: core.current_leader() };
            answer(&index.map_or_else(not_leader, ReadIndexResponse::Index))
        }
        PeerRoute::Info => {
            let () = open(core, &body)?.body;
            answer(&membership::info(core))
        }
        PeerRoute::Join => {
            let request: JoinRequest = decode(&body)?;
            answer(&admission::take_in(core, request).await)
        }
        PeerRoute::Operate => {
            let OperateRequest { operation, terms } = open(core, &body)?.body;
            answer(&operate::run(core, &operation, terms).await)
        }
        PeerRoute::Greet => {
            let () = decode(&body)?;
            answer(&membership::greeting(core))
        }
        PeerRoute::Adopt => {
            let _: Adoption = decode(&body)?;
            Err(PeerRefusal::Misdirected(format!(
                "this is node {} of cluster {} already",
                core.node_id, core.cluster
            )))
        }
        PeerRoute::Farewell => {
            let () = open(core, &body)?.body;
            core.removed.cancel();
            answer(&())
        }
        PeerRoute::Standing => {
            let envelope: Envelope<()> = open(core, &body)?;
            answer(&membership::standing(core, envelope.from))
        }
        PeerRoute::Announce => {
            let Envelope { from, body, .. } = open::<Announcement>(core, &body)?;
            answer(&announce::note(core, from, &body).await)
        }
        PeerRoute::Forgot => {
            let forgotten: Forgotten = open(core, &body)?.body;
            forgot(core, forgotten);
            answer(&())
        }
        PeerRoute::Snapshot => Err(PeerRefusal::Malformed("a snapshot comes as a stream".to_owned())),
    }
}

async fn append(core: &Core, body: &Bytes) -> Result<Bytes, PeerRefusal> {
    let envelope: Envelope<AppendEntriesRequest<TypeConfig>> = open(core, body)?;
    let leader = envelope.body.vote.leader_id;
    let answered = core.raft.append_entries(envelope.body).await.map_err(unavailable)?;
    if answered.is_success() {
        core.hear(leader, envelope.lead);
    }
    answer(&Stamped { stamp: core.stamps.at(Instant::now()), answer: answered })
}

async fn propose(core: &Core, request: Request) -> ProposeResponse {
    if core.lead().is_none() {
        return ProposeResponse::NotLeader { leader: core.current_leader() };
    }
    let answer = core.queue.submit(request, Instant::now() + PROPOSE_TIMEOUT).await;
    ProposeResponse::of_answer(answer, core.current_leader())
}

/// A snapshot: the length of its envelope, the envelope, and the stream.
pub(crate) async fn receive_snapshot(core: &Core, mut body: ByteStream) -> Result<Bytes, PeerRefusal> {
    let cut = || PeerRefusal::Malformed("the snapshot was cut off".to_owned());
    let mut head = BytesMut::new();
    let length = loop {
        if let Some((length, _)) = head.split_first_chunk::<SNAPSHOT_LENGTH_BYTES>() {
            let length = u32::from_le_bytes(*length) as usize;
            if length > SNAPSHOT_HEAD_BYTES_MAX {
                return Err(PeerRefusal::Malformed(format!("a snapshot envelope of {length} bytes")));
            }
            if head.len() >= SNAPSHOT_LENGTH_BYTES + length {
                break length;
            }
        }
        let chunk = body.next().await.ok_or_else(cut)?.map_err(|_| cut())?;
        head.extend_from_slice(&chunk);
    };
    let rest = head.split_off(SNAPSHOT_LENGTH_BYTES + length).freeze();
    let envelope: Envelope<(Vote, SnapshotMeta)> = open(core, &head.freeze().slice(SNAPSHOT_LENGTH_BYTES..))?;
    let (vote, meta) = envelope.body;
    let body = futures_util::stream::once(async { Ok(rest) }).chain(body);
    let refused = |error| PeerRefusal::Malformed(format!("a snapshot was refused: {error}"));
    let snapshot = core.snapshots.receive(body).await.map_err(refused)?;
    core.meters.snapshots_received.add(1);
    if snapshot.meta != meta {
        return Err(PeerRefusal::Malformed("a snapshot holds another state than announced".to_owned()));
    }
    let installed = core.raft.install_full_snapshot(vote, snapshot).await.map_err(unavailable)?;
    if installed.vote == vote {
        core.hear(vote.leader_id, envelope.lead);
    }
    answer(&installed)
}

/// Ends this node if its log does not reach as far as it once said, to the leader that it still follows. Without what
/// is lost its word counts for nothing: it might vote for a leader that has not got it either (P1).
fn forgot(core: &Core, Forgotten { vote, acknowledged }: Forgotten) {
    let last = core.log_end.last().map_or(0, |last| last.index());
    if core.metrics().vote == vote && last < acknowledged {
        // Whoever was first has said it all.
        let _ = core.forgot.set(Forgot { acknowledged, last });
    }
}

/// Whether a request begins with an envelope for this node. What is behind that is not looked at.
pub(crate) fn is_addressed(core: &Core, route: PeerRoute, head: &[u8]) -> bool {
    envelope_head(route, head)
        .is_some_and(|EnvelopeHead { cluster, target, .. }| check_target(core, cluster, target).is_ok())
}

/// The peer address of whoever sends such a request: a member's as the membership has it, and of a node that asks to be
/// taken in, or says that it moved, as it says itself. None if nobody is named, or nobody whom this node knows.
pub(crate) fn sender_address(core: &Core, route: PeerRoute, body: &[u8]) -> Option<String> {
    match route {
        PeerRoute::Join => decode::<JoinRequest>(body).ok().map(|request| request.peer_address),
        // One that moved has a certificate of where it is now.
        PeerRoute::Announce => {
            decode::<Envelope<Announcement>>(body).ok().map(|announced| announced.body.peer_address)
        }
        PeerRoute::Greet | PeerRoute::Adopt => None,
        PeerRoute::Append
        | PeerRoute::Vote
        | PeerRoute::PreVote
        | PeerRoute::TransferLeader
        | PeerRoute::Snapshot
        | PeerRoute::Propose
        | PeerRoute::ReadIndex
        | PeerRoute::Info
        | PeerRoute::Operate
        | PeerRoute::Farewell
        | PeerRoute::Standing
        | PeerRoute::Forgot => {
            let EnvelopeHead { cluster, from, .. } = envelope_head(route, body)?;
            // In another cluster the same number is another node.
            (cluster == core.cluster).then(|| core.peer_address(from)).flatten()
        }
    }
}

fn envelope_head(route: PeerRoute, head: &[u8]) -> Option<EnvelopeHead> {
    let envelope = if route == PeerRoute::Snapshot { head.get(SNAPSHOT_LENGTH_BYTES..)? } else { head };
    codec::decode_head(Kind::PeerRequest, envelope).ok().map(|(head, _)| head)
}

/// Checks whom a request is meant for.
fn open<T: DeserializeOwned>(core: &Core, body: &[u8]) -> Result<Envelope<T>, PeerRefusal> {
    let envelope: Envelope<T> = decode(body)?;
    check_target(core, envelope.cluster, envelope.target)?;
    Ok(envelope)
}

fn check_target(core: &Core, cluster: ClusterId, target: NodeId) -> Result<(), PeerRefusal> {
    if cluster != core.cluster {
        return Err(PeerRefusal::Misdirected(format!(
            "this is a node of cluster {}, the request is meant for cluster {cluster}",
            core.cluster
        )));
    }
    if target != core.node_id {
        return Err(PeerRefusal::Misdirected(format!(
            "this is node {}, the request is meant for node {target}",
            core.node_id
        )));
    }
    Ok(())
}

fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, PeerRefusal> {
    codec::decode(Kind::PeerRequest, body).map_err(|error| PeerRefusal::Malformed(error.to_string()))
}

fn answer<T: Serialize>(answer: &T) -> Result<Bytes, PeerRefusal> {
    Ok(Bytes::from(codec::encode(Kind::PeerResponse, answer)))
}

fn unavailable(error: impl std::error::Error) -> PeerRefusal {
    PeerRefusal::Unavailable(error.to_string())
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::test_runner::TestRunner;

    use openraft::raft::{AppendEntriesRequest, TransferLeaderRequest, VoteRequest};
    use rollcall_registry::{
        Command, Condition, InstanceId, LeaseId, LeaseSet, Once, Origin, Registration, ServiceName, TenantId,
    };
    use tempfile::TempDir;

    use super::*;
    use crate::message::InfoResponse;
    use crate::peer::{Sent, Transport, TransportError};
    use crate::{Failure, Options, Replica, StartMode};

    struct Nowhere;

    impl Transport for Nowhere {
        async fn call(
            &self,
            address: &str,
            _: PeerRoute,
            _: Bytes,
            _: Duration,
            _: &Sent,
        ) -> Result<Bytes, TransportError> {
            Err(TransportError::Unreachable { address: address.to_owned(), source: "nobody is there".into() })
        }

        async fn is_gone(&self, _: &str) -> bool {
            false
        }

        async fn call_streaming(
            &self,
            address: &str,
            route: PeerRoute,
            _: ByteStream,
            timeout: Duration,
        ) -> Result<Bytes, TransportError> {
            self.call(address, route, Bytes::new(), timeout, &Sent::default()).await
        }
    }

    async fn member(dir: &TempDir) -> Replica {
        let options = Options {
            data_dir: dir.path().join("node"),
            api_address: "a:1".to_owned(),
            peer_address: "a:2".to_owned(),
            start: StartMode::Bootstrap,
            learner: false,
            feature_level: rollcall_registry::FEATURE_LEVEL,
            join_token_required: false,
            autopilot: crate::Autopilot::default(),
            heartbeat_interval_ms: 100,
            election_timeout_ms_min: 400,
            election_timeout_ms_max: 800,
            snapshot_entries: 100,
            log_entries_kept: 100,
            history: rollcall_registry::HistoryLimits::default(),
            version: "test",
            trace: None,
        };
        Replica::start(options, Nowhere).await.expect("a member starts")
    }

    /// Which cluster and node a request is meant for.
    type Target = (ClusterId, NodeId);

    fn request<T: Serialize>((cluster, target): Target, body: T) -> Bytes {
        codec::encode(Kind::PeerRequest, &Envelope { cluster, from: 2, target, lead: None, body }).into()
    }

    fn propose(target: Target, commands: Vec<Command>, once: Vec<Once>) -> Bytes {
        request(target, ProposeRequest { commands, once, batch: 1, trace: None })
    }

    /// A request of every route that has an envelope.
    fn requests(target: Target) -> [(PeerRoute, Bytes); 9] {
        let (old, nothing) = (Vote::new(0, 2), Vec::new());
        let (vote, transfer) = (VoteRequest::new(old, None), TransferLeaderRequest::new(old, 2, None));
        let append: AppendEntriesRequest<TypeConfig> =
            AppendEntriesRequest { vote: old, prev_log_id: None, entries: Vec::new(), leader_commit: None };
        let head = request(target, (old, SnapshotMeta::default()));
        let length = u32::try_from(head.len()).expect("a small envelope").to_le_bytes();
        [
            (PeerRoute::Append, request(target, append)),
            (PeerRoute::Vote, request::<VoteRequest<TypeConfig>>(target, vote.clone())),
            (PeerRoute::PreVote, request(target, vote)),
            (PeerRoute::TransferLeader, request::<TransferLeaderRequest<TypeConfig>>(target, transfer)),
            (PeerRoute::Snapshot, [&length[..], &head].concat().into()),
            (PeerRoute::Propose, propose(target, nothing, Vec::new())),
            (PeerRoute::ReadIndex, request(target, ())),
            (PeerRoute::Info, request(target, ())),
            (PeerRoute::Forgot, request(target, Forgotten { vote: old, acknowledged: 1 })),
        ]
    }

    async fn ask(member: &Replica, route: PeerRoute, body: Bytes) -> Result<Bytes, PeerRefusal> {
        match route {
            PeerRoute::Snapshot => {
                member.handle_snapshot(Box::pin(futures_util::stream::once(async { Ok(body) }))).await
            }
            _ => member.handle_peer(route, body).await,
        }
    }

    #[tokio::test]
    async fn p13_what_is_meant_for_another_cluster_or_another_node_is_refused_on_every_route() {
        let dir = TempDir::new().unwrap();
        let member = member(&dir).await;
        let (cluster, node) = (member.cluster_id(), member.node_id());
        for (route, body) in requests((cluster, node)) {
            assert!(member.is_addressed(route, &body), "{route:?}");
            let answer = ask(&member, route, body).await;
            assert!(!matches!(answer, Err(PeerRefusal::Misdirected(_))), "{route:?}: {answer:?}");
        }
        let (stranger, other) = (ClusterId(cluster.0 ^ 1), node + 1);
        for (target, named) in [((stranger, node), "of cluster"), ((cluster, other), "is node")] {
            for (route, body) in requests(target) {
                assert!(!member.is_addressed(route, &body), "{route:?}");
                match ask(&member, route, body).await {
                    Err(PeerRefusal::Misdirected(reason)) => assert!(reason.contains(named), "{route:?}: {reason}"),
                    answer => panic!("{route:?} for {target:?}: {answer:?}"),
                }
            }
        }
        assert!(!member.is_addressed(PeerRoute::Info, b"to you"));
        assert!(!member.is_addressed(PeerRoute::Snapshot, b"abc"));
        member.shutdown().await;
    }

    #[tokio::test]
    async fn p11_a_batch_that_makes_too_large_an_entry_is_refused() {
        let dir = TempDir::new().unwrap();
        let member = member(&dir).await;
        let target = (member.cluster_id(), member.node_id());
        let tenant = TenantId::parse("t").unwrap();
        let renew = |leases: std::ops::Range<u64>| Command::Renew {
            tenant: tenant.clone(),
            leases: LeaseSet::new(leases.map(LeaseId).collect()),
        };
        let gone = || Command::Deregister {
            tenant: tenant.clone(),
            id: InstanceId::parse("i").unwrap(),
            lease: None,
            condition: Condition::None,
        };
        let once = |batch, commands| Once { origin: Origin { node: 2, start: 1, batch }, commands };
        let no_once = Vec::new;
        let wide = |count| (0..count).map(|_| gone()).collect::<Vec<_>>();
        for (commands, once) in [
            (vec![renew(0..1 << 20)], no_once()),
            (vec![], vec![once(1, wide(4_097))]),
            (vec![], vec![once(1, vec![]), once(2, vec![])]),
        ] {
            let refused = member.handle_peer(PeerRoute::Propose, propose(target, commands, once)).await;
            assert!(matches!(refused, Err(PeerRefusal::Malformed(_))), "{refused:?}");
        }
        for (commands, once) in [(vec![renew(0..100_000)], no_once()), (vec![], vec![once(1, wide(1_000))])] {
            member.handle_peer(PeerRoute::Propose, propose(target, commands, once)).await.unwrap();
        }
        member.shutdown().await;
    }

    #[tokio::test]
    async fn p1_a_batch_of_an_earlier_process_is_refused_once_the_present_one_wrote() {
        let dir = TempDir::new().unwrap();
        let tenant = TenantId::parse("t").unwrap();
        let register = |id: &str| {
            let (id, name) = (InstanceId::parse(id).unwrap(), ServiceName::parse("web").unwrap());
            let registration = Registration::new(id, name, "http://web", 60_000).pack();
            Command::Register { tenant: tenant.clone(), registration, condition: Condition::None }
        };
        let mut member = member(&dir).await;
        for _ in 0..2 {
            member.shutdown().await;
            member = self::member(&dir).await;
            member.submit(register("a"), Instant::now() + Duration::from_secs(60)).await.unwrap();
        }
        let (target, node) = ((member.cluster_id(), member.node_id()), member.node_id());
        // Three processes have started; the numbers of their batches begin anew each time.
        for (start, id, refused) in [(1, "b", true), (2, "b", true), (3, "c", false)] {
            let once = Once { origin: Origin { node, start, batch: 1_000 }, commands: vec![register(id)] };
            let answer =
                member.handle_peer(PeerRoute::Propose, propose(target, Vec::new(), vec![once])).await.unwrap();
            let answer: ProposeResponse = codec::decode(Kind::PeerResponse, &answer).unwrap();
            // Whoever was outrun cannot know what became of its batch.
            match answer {
                ProposeResponse::Unknown if refused => {}
                ProposeResponse::Applied { .. } if !refused => {}
                answer => panic!("start {start}: {answer:?}"),
            }
            let listed = member.roll().read(|state| state.get(&tenant, &InstanceId::parse(id).unwrap()).is_some());
            assert_eq!(listed, !refused, "start {start}");
        }
        member.shutdown().await;
    }

    #[tokio::test]
    async fn p12_a_member_that_lost_what_it_acknowledged_ends_and_no_other_does() {
        let dir = TempDir::new().unwrap();
        let member = member(&dir).await;
        let target = (member.cluster_id(), member.node_id());
        let nobody = Command::Deregister {
            tenant: TenantId::parse("t").unwrap(),
            id: InstanceId::parse("i").unwrap(),
            lease: None,
            condition: Condition::None,
        };
        member.submit(nobody, Instant::now() + Duration::from_secs(60)).await.expect("it leads");
        let info = ask(&member, PeerRoute::Info, request(target, ())).await.unwrap();
        let info: InfoResponse = codec::decode(Kind::PeerResponse, &info).unwrap();
        let last = info.last_log_id.expect("it founded").index();
        let vote_of = |term| Vote::new_committed(term, member.node_id());
        let (earlier, vote) = (vote_of(0), vote_of(1));
        let told = [
            // Another leader may have taken it back.
            (earlier, last + 1, false),
            (vote, last, false),
            (vote, last + 1, true),
        ];
        for (vote, acknowledged, ends) in told {
            let body = request(target, Forgotten { vote, acknowledged });
            member.handle_peer(PeerRoute::Forgot, body).await.unwrap();
            let forgot = member.failed().now_or_never().map(|failure| match failure {
                Failure::Forgot { acknowledged, last, .. } => (acknowledged, last),
                failure => panic!("{failure}"),
            });
            assert_eq!(forgot, ends.then_some((acknowledged, last)), "{vote}");
        }
        member.shutdown().await;
    }

    /// What a member says is believed, so what is tried here is well addressed nonsense: it may be refused or answered,
    /// and the member goes on.
    #[test]
    fn p11_no_bytes_from_a_peer_stop_a_member() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let dir = TempDir::new().unwrap();
        let member = runtime.block_on(member(&dir));
        let (cluster, target) = (member.cluster_id(), member.node_id());
        let head = |lead| codec::encode(Kind::PeerRequest, &Envelope { cluster, from: 2, target, lead, body: () });
        let mut runner = TestRunner::new(ProptestConfig::with_cases(400));
        let route = prop::sample::select(PeerRoute::ALL.to_vec());
        let asked = runner.run(&(route, any::<bool>(), vec(any::<u8>(), 0..400)), |(route, addressed, noise)| {
            let mut body = if addressed { head(None) } else { Vec::new() };
            body.extend_from_slice(&noise);
            if route == PeerRoute::Snapshot {
                let length = u32::try_from(body.len() / 2).expect("a small request").to_le_bytes();
                body.splice(..0, length);
            }
            // What nonsense says by chance would be said: a vote, a farewell.
            if !matches!(route, PeerRoute::Vote | PeerRoute::PreVote | PeerRoute::Farewell) {
                drop(runtime.block_on(ask(&member, route, body.into())));
            }
            Ok(())
        });
        asked.unwrap();
        runtime.block_on(async {
            tokio::select! {
                failure = member.failed() => panic!("the member broke: {failure:?}"),
                answer = ask(&member, PeerRoute::Info, request((cluster, target), ())) => drop(answer.unwrap()),
            }
            member.shutdown().await;
        });
    }
}
