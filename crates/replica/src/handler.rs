//! What a peer's request comes to. Every one names the cluster and the node it is meant for; a mismatch is refused.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use openraft::raft::{AppendEntriesRequest, TransferLeaderRequest, VoteRequest};
use rollcall_storage::codec::{self, Kind};
use rollcall_storage::{SnapshotMeta, TypeConfig, Vote};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use crate::core::Core;
use crate::membership;
use crate::message::{Envelope, JoinRequest, ProposeRequest, ProposeResponse, ReadIndexResponse, Stamped};
use crate::peer::{ByteStream, PeerRefusal, PeerRoute};
use crate::proposer::{Request, SubmitError};
use crate::read_index;

/// How long the leader keeps a follower's batch before it gives up on it: the longest deadline a client may set.
const PROPOSE_TIMEOUT: Duration = Duration::from_secs(60);

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
            let request: ProposeRequest = open(core, &body)?.body;
            answer(&propose(core, request).await)
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
            answer(&membership::take_in(core, request).await)
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
    answer(&Stamped { stamp: core.stamps.now(), answer: answered })
}

async fn propose(core: &Core, request: ProposeRequest) -> ProposeResponse {
    let not_leader = || ProposeResponse::NotLeader { leader: core.current_leader() };
    if core.lead().is_none() {
        return not_leader();
    }
    let ProposeRequest { commands, once } = request;
    let request = Request { commands, once, stays: true };
    match core.queue.submit(request, Instant::now() + PROPOSE_TIMEOUT).await {
        Ok(answer) => {
            ProposeResponse::Applied { outcomes: answer.outcomes, revision: answer.revision, index: answer.index }
        }
        Err(SubmitError::Overloaded { retry_after_ms }) => ProposeResponse::Overloaded { retry_after_ms },
        Err(SubmitError::NoLeader | SubmitError::Stopping) => not_leader(),
        Err(SubmitError::Unknown) => ProposeResponse::Unknown,
    }
}

/// A snapshot: the length of its envelope, the envelope, and the stream.
pub(crate) async fn receive_snapshot(core: &Core, mut body: ByteStream) -> Result<Bytes, PeerRefusal> {
    let cut = || PeerRefusal::Malformed("the snapshot was cut off".to_owned());
    let mut head = BytesMut::new();
    let length = loop {
        if let Some((length, _)) = head.split_first_chunk::<4>() {
            let length = u32::from_le_bytes(*length) as usize;
            if length > SNAPSHOT_HEAD_BYTES_MAX {
                return Err(PeerRefusal::Malformed(format!("a snapshot envelope of {length} bytes")));
            }
            if head.len() >= 4 + length {
                break length;
            }
        }
        let chunk = body.next().await.ok_or_else(cut)?.map_err(|_| cut())?;
        head.extend_from_slice(&chunk);
    };
    let rest = head.split_off(4 + length).freeze();
    let envelope: Envelope<(Vote, SnapshotMeta)> = open(core, &head.freeze().slice(4..))?;
    let (vote, meta) = envelope.body;
    let body = futures_util::stream::once(async { Ok(rest) }).chain(body);
    let refused = |error| PeerRefusal::Malformed(format!("a snapshot was refused: {error}"));
    let snapshot = core.snapshots.receive(body).await.map_err(refused)?;
    if snapshot.meta != meta {
        return Err(PeerRefusal::Malformed("a snapshot holds another state than announced".to_owned()));
    }
    let installed = core.raft.install_full_snapshot(vote, snapshot).await.map_err(unavailable)?;
    if installed.vote == vote {
        core.hear(vote.leader_id, envelope.lead);
    }
    answer(&installed)
}

/// Checks whom a request is meant for.
fn open<T: DeserializeOwned>(core: &Core, body: &[u8]) -> Result<Envelope<T>, PeerRefusal> {
    let envelope: Envelope<T> = decode(body)?;
    if envelope.cluster != core.cluster {
        return Err(PeerRefusal::Misdirected(format!(
            "this is a node of cluster {}, the request is meant for cluster {}",
            core.cluster, envelope.cluster
        )));
    }
    if envelope.target != core.node_id {
        return Err(PeerRefusal::Misdirected(format!(
            "this is node {}, the request is meant for node {}",
            core.node_id, envelope.target
        )));
    }
    Ok(envelope)
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
