//! openraft's network over a [`Transport`]: every request in an envelope that names cluster, sender and target.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use openraft::base::{BoxFuture, BoxStream};
use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2, stream_append_sequential};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use parking_lot::Mutex;
use rollcall_registry::ClusterTime;
use rollcall_storage::codec::{self, Kind};
use rollcall_storage::meter::Counter;
use rollcall_storage::{ClusterId, LogId, Member, NodeId, Snapshot, SnapshotData, TypeConfig, Vote};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use crate::message::{Envelope, Forgotten, Lead, Stamp, Stamped};
use crate::peer::{ByteStream, PeerRoute, Sent, Transport, TransportError};

/// How long a snapshot may take. Large states on slow disks and wires need minutes.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(600);

/// How long a commit waits for an entry that tells it along: what a loaded node takes from one to the next.
const COMMIT_WAIT: Duration = Duration::from_millis(3);

type Append = AppendEntriesRequest<TypeConfig>;

type CallFuture = Pin<Box<dyn Future<Output = Result<Bytes, TransportError>> + Send>>;

/// A [`Transport`] behind a pointer, so that nothing above is generic over it.
pub(crate) trait AnyTransport: Send + Sync {
    fn call(&self, address: String, route: PeerRoute, body: Bytes, timeout: Duration, sent: Sent) -> CallFuture;
    fn call_streaming(&self, address: String, route: PeerRoute, body: ByteStream, timeout: Duration) -> CallFuture;
    fn is_gone(&self, address: String) -> Pin<Box<dyn Future<Output = bool> + Send>>;
}

impl<T: Transport> AnyTransport for Arc<T> {
    fn call(&self, address: String, route: PeerRoute, body: Bytes, timeout: Duration, sent: Sent) -> CallFuture {
        let transport = self.clone();
        Box::pin(async move { T::call(&transport, &address, route, body, timeout, &sent).await })
    }

    fn call_streaming(&self, address: String, route: PeerRoute, body: ByteStream, timeout: Duration) -> CallFuture {
        let transport = self.clone();
        Box::pin(async move { T::call_streaming(&transport, &address, route, body, timeout).await })
    }

    fn is_gone(&self, address: String) -> Pin<Box<dyn Future<Output = bool> + Send>> {
        let transport = self.clone();
        Box::pin(async move { T::is_gone(&transport, &address).await })
    }
}

/// Why a member gave no usable answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    #[error(transparent)]
    Transport(#[from] TransportError),
    #[error("peer {address} answered in a form this node does not know")]
    Answer {
        address: String,
        #[source]
        source: codec::CodecError,
    },
}

impl CallError {
    /// True when the peer certainly did not act on the request.
    pub(crate) fn was_not_sent(&self) -> bool {
        matches!(self, Self::Transport(TransportError::Unreachable { .. } | TransportError::Refused { .. }))
    }
}

/// This node's way to its peers.
#[derive(Clone)]
pub(crate) struct Network {
    transport: Arc<dyn AnyTransport>,
    cluster: ClusterId,
    node_id: NodeId,
    /// What goes along while this node leads.
    lead: Arc<Mutex<Option<Leadership>>>,
    /// Each peer's stamp from its last answer.
    stamps: Arc<Mutex<BTreeMap<NodeId, Stamp>>>,
    /// The least that an append is waited for: its answer comes after the peer's flush, which may take longer than the
    /// heartbeat interval that openraft grants.
    append_patience: Duration,
    /// Whether entries follow one another, so that one will soon tell what was committed before.
    crowd: Arc<AtomicBool>,
    /// Where members are reached that moved, or that a way was last made to.
    addresses: Arc<Mutex<BTreeMap<NodeId, String>>>,
    /// How far each peer said, in this node's present lead, that its log reaches.
    acknowledged: Arc<Mutex<BTreeMap<NodeId, Forgotten>>>,
    pub(crate) snapshots_sent: Arc<Counter>,
}

/// What a leader knows of its own lead.
#[derive(Clone, Copy, Debug)]
pub struct Leadership {
    pub clock: ClusterTime,
    /// When the last request that a quorum answered was sent.
    pub quorum_acked_at: Instant,
    pub applied_index: u64,
}

impl Leadership {
    /// As it is told to a peer, whose stamp from its last answer is `echo`.
    pub fn told(&self, at: Instant, echo: Option<Stamp>) -> Lead {
        let quorum_age = at.saturating_duration_since(self.quorum_acked_at);
        Lead {
            clock: self.clock,
            quorum_age_ms: u64::try_from(quorum_age.as_millis()).unwrap_or(u64::MAX),
            applied_index: self.applied_index,
            echo,
        }
    }
}

impl Network {
    pub(crate) fn new(
        transport: Arc<dyn AnyTransport>,
        cluster: ClusterId,
        node_id: NodeId,
        append_patience: Duration,
    ) -> Self {
        let (lead, stamps, crowd, addresses, acknowledged, snapshots_sent) = Default::default();
        Self {
            transport,
            cluster,
            node_id,
            lead,
            stamps,
            append_patience,
            crowd,
            addresses,
            acknowledged,
            snapshots_sent,
        }
    }

    /// For what goes to a node outside of the cluster.
    pub(crate) fn transport(&self) -> &dyn AnyTransport {
        &*self.transport
    }

    pub(crate) async fn is_gone(&self, address: &str) -> bool {
        self.transport.is_gone(address.to_owned()).await
    }

    /// From now on a member is reached here, by whoever has a way to it already too.
    pub(crate) fn moved(&self, node_id: NodeId, peer_address: String) {
        self.addresses.lock().insert(node_id, peer_address);
    }

    pub(crate) fn set_lead(&self, lead: Option<Leadership>) {
        *self.lead.lock() = lead;
    }

    /// Tells whether the entry at hand was asked for by many.
    pub(crate) fn set_crowd(&self, crowd: bool) {
        self.crowd.store(crowd, Ordering::Relaxed);
    }

    fn note_acknowledged(&self, peer: NodeId, vote: Vote, log_id: Option<LogId>) {
        let Some(index) = log_id.map(|log_id| log_id.index()) else { return };
        let mut acknowledged = self.acknowledged.lock();
        let noted = acknowledged.entry(peer).or_insert(Forgotten { vote, acknowledged: index });
        if noted.vote != vote {
            *noted = Forgotten { vote, acknowledged: index };
        }
        noted.acknowledged = noted.acknowledged.max(index);
    }

    /// What a peer lost, if it has not got any more what stands before these entries.
    fn forgotten(&self, peer: NodeId, vote: Vote, missed: Option<LogId>) -> Option<Forgotten> {
        let missed = missed?.index();
        let noted = *self.acknowledged.lock().get(&peer)?;
        (noted.vote == vote && missed <= noted.acknowledged).then_some(noted)
    }

    fn envelope<T>(&self, target: NodeId, body: T) -> Envelope<T> {
        let lead = self.lead.lock().map(|lead| lead.told(Instant::now(), self.stamps.lock().get(&target).copied()));
        Envelope { cluster: self.cluster, from: self.node_id, target, lead, body }
    }

    pub(crate) async fn call<Q: Serialize, A: DeserializeOwned>(
        &self,
        target: NodeId,
        address: &str,
        route: PeerRoute,
        body: Q,
        timeout: Duration,
    ) -> Result<A, CallError> {
        self.call_telling(target, address, route, body, timeout, Sent::default()).await
    }

    /// As `call`, for who may drop it and must know then whether the peer can have seen it.
    pub(crate) async fn call_telling<Q: Serialize, A: DeserializeOwned>(
        &self,
        target: NodeId,
        address: &str,
        route: PeerRoute,
        body: Q,
        timeout: Duration,
        sent: Sent,
    ) -> Result<A, CallError> {
        call(&*self.transport, address, route, &self.envelope(target, body), timeout, sent).await
    }
}

/// A request outside of any cluster: join and info.
pub(crate) async fn call<Q: Serialize, A: DeserializeOwned>(
    transport: &dyn AnyTransport,
    address: &str,
    route: PeerRoute,
    request: &Q,
    timeout: Duration,
    sent: Sent,
) -> Result<A, CallError> {
    let owned = || address.to_owned();
    let body = codec::encode(Kind::PeerRequest, request);
    let answer = transport.call(owned(), route, Bytes::from(body), timeout, sent).await?;
    codec::decode(Kind::PeerResponse, &answer).map_err(|source| CallError::Answer { address: owned(), source })
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Connection;

    async fn new_client(&mut self, target: NodeId, member: &Member) -> Connection {
        self.moved(target, member.peer_address.clone());
        Connection { network: self.clone(), target, made_for: member.peer_address.clone() }
    }
}

/// The way to one peer.
pub(crate) struct Connection {
    network: Network,
    target: NodeId,
    made_for: String,
}

impl Connection {
    /// Where the peer is now: openraft keeps a way for as long as the peer is a member.
    fn address(&self) -> String {
        self.network.addresses.lock().get(&self.target).unwrap_or(&self.made_for).clone()
    }

    async fn raft_call<Q: Serialize, A: DeserializeOwned>(
        &self,
        route: PeerRoute,
        body: Q,
        timeout: Duration,
    ) -> Result<A, RPCError<TypeConfig>> {
        let answer = self.network.call(self.target, &self.address(), route, body, timeout).await;
        // Unreachable makes openraft back off; its other errors retry at once and would fill the log of a dead peer.
        answer.map_err(|error| RPCError::Unreachable(Unreachable::new(&error)))
    }

    /// Has a peer end that lost what it had acknowledged. openraft counts on that never to happen: it would go on to send
    /// what follows, which the peer cannot take.
    async fn tell_forgotten(&self, forgotten: Forgotten, timeout: Duration) {
        let Forgotten { acknowledged, .. } = forgotten;
        tracing::error!(node = self.target, acknowledged, "a node lost entries that it had acknowledged");
        let address = self.address();
        let told: Result<(), _> =
            self.network.call(self.target, &address, PeerRoute::Forgot, forgotten, timeout).await;
        if let Err(error) = told {
            tracing::info!(%error, node = self.target, "the node was not told; it will be with the next append");
        }
    }
}

/// Leaves out of a leader's appends those that hold nothing and tell of a commit, when the next one follows soon.
///
/// Nobody waits for them: whose batch was committed learns it with the answer, and after [`COMMIT_WAIT`] they go. What is
/// answered later answers for what was left out, and counts from when it was itself sent.
fn without_mere_commits<S>(appends: S, crowd: Arc<AtomicBool>) -> impl Stream<Item = Append> + Send + Unpin + 'static
where
    S: Stream<Item = Append> + Send + Unpin + 'static,
{
    // Fused: the end is seen when a commit is held back, and then once more.
    Box::pin(stream::unfold((appends.fuse(), crowd), async |(mut appends, crowd)| {
        let mut append = appends.next().await?;
        let until = Instant::now() + COMMIT_WAIT;
        while append.entries.is_empty() && crowd.load(Ordering::Relaxed) {
            match tokio::time::timeout_at(until, appends.next()).await {
                Ok(Some(next)) => append = next,
                Ok(None) | Err(_) => break,
            }
        }
        Some((append, (appends, crowd)))
    }))
}

impl RaftNetworkV2<TypeConfig> for Connection {
    type SnapshotData = SnapshotData;

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<
        's,
        Result<BoxStream<'s, Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>>>, RPCError<TypeConfig>>,
    >
    where
        S: Stream<Item = Append> + Send + Unpin + 'static,
    {
        let appends = without_mere_commits(input, self.network.crowd.clone());
        stream_append_sequential(self, appends, option)
    }

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        let timeout = option.hard_ttl().max(self.network.append_patience);
        let (vote, before) = (request.vote, request.prev_log_id);
        let last = request.entries.last().map(|entry| entry.log_id).or(before);
        let stamped: Stamped<AppendEntriesResponse<TypeConfig>> =
            self.raft_call(PeerRoute::Append, request, timeout).await?;
        self.network.stamps.lock().insert(self.target, stamped.stamp);
        match &stamped.answer {
            AppendEntriesResponse::Success => self.network.note_acknowledged(self.target, vote, last),
            AppendEntriesResponse::PartialSuccess(last) => {
                self.network.note_acknowledged(self.target, vote, *last);
            }
            AppendEntriesResponse::Conflict => {
                if let Some(forgotten) = self.network.forgotten(self.target, vote, before) {
                    self.tell_forgotten(forgotten, timeout).await;
                }
            }
            AppendEntriesResponse::HigherVote(_) => {}
        }
        Ok(stamped.answer)
    }

    async fn vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.raft_call(PeerRoute::Vote, request, option.hard_ttl()).await
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.raft_call(PeerRoute::PreVote, request, option.hard_ttl()).await
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.raft_call(PeerRoute::TransferLeader, request, option.hard_ttl()).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let unreachable = |error: &CallError| StreamingError::Unreachable(Unreachable::new(error));
        let network = &self.network;
        let envelope = network.envelope(self.target, (vote, snapshot.meta));
        let address = self.address();
        let head = codec::encode(Kind::PeerRequest, &envelope);
        // The envelope's length comes first, because the stream has no other seam.
        let length = u32::try_from(head.len()).expect("an envelope is small").to_le_bytes();
        let head = Bytes::from([&length[..], &head].concat());
        let body: ByteStream = Box::pin(stream::once(async { Ok(head) }).chain(snapshot.snapshot.into_stream()));
        let sending = network.transport.call_streaming(address.clone(), PeerRoute::Snapshot, body, SNAPSHOT_TIMEOUT);
        let answer = tokio::select! {
            answer = sending => answer.map_err(|error| unreachable(&error.into()))?,
            closed = cancel => return Err(StreamingError::Closed(closed)),
        };
        network.snapshots_sent.add(1);
        codec::decode(Kind::PeerResponse, &answer)
            .map_err(|source| unreachable(&CallError::Answer { address, source }))
    }
}

#[cfg(test)]
mod tests {
    use openraft::entry::RaftEntry;
    use rollcall_storage::LogEntry;

    use super::*;

    fn log_id(index: u64) -> LogId {
        openraft::testing::log_id::<TypeConfig>(1, 1, index)
    }

    fn append(entry: Option<u64>, commit: u64) -> Append {
        Append {
            vote: Vote::new_committed(1, 1),
            prev_log_id: Some(log_id(entry.map_or(commit, |index| index - 1))),
            entries: entry.map(|index| LogEntry::new_blank(log_id(index))).into_iter().collect(),
            leader_commit: Some(log_id(commit)),
        }
    }

    /// Whether it holds entries, and the commit that it tells.
    fn seen(append: Option<Append>) -> Option<(bool, Option<u64>)> {
        append.map(|append| (!append.entries.is_empty(), append.leader_commit.map(|commit| commit.index())))
    }

    #[tokio::test]
    async fn a_commit_waits_for_an_entry_where_many_write_and_not_for_long() {
        let crowd = Arc::new(AtomicBool::new(true));
        let (tell, told) = tokio::sync::mpsc::channel(3);
        // Like openraft's, it must not be asked again once it ended.
        let told = Box::pin(stream::unfold(told, async |mut told| Some((told.recv().await?, told))));
        let mut sent = without_mere_commits(told, crowd.clone());
        let say = |append| tell.try_send(append).expect("there is room");

        say(append(None, 4));
        say(append(None, 5));
        say(append(Some(6), 5));
        assert_eq!(seen(sent.next().await), Some((true, Some(5))));

        // No entry comes.
        say(append(None, 6));
        let said_at = Instant::now();
        assert_eq!(seen(sent.next().await), Some((false, Some(6))));
        assert!(said_at.elapsed() >= COMMIT_WAIT);

        // Where few write, each is told at once.
        crowd.store(false, Ordering::Relaxed);
        say(append(None, 7));
        say(append(Some(8), 7));
        assert_eq!(seen(sent.next().await), Some((false, Some(7))));
        assert_eq!(seen(sent.next().await), Some((true, Some(7))));

        // The last one is not swallowed.
        crowd.store(true, Ordering::Relaxed);
        say(append(None, 8));
        drop(tell);
        assert_eq!(seen(sent.next().await), Some((false, Some(8))));
        assert_eq!(seen(sent.next().await), None);
    }
}
