//! Asks other clusters for what they have not told yet, so that what is known of them is as fresh as their rolls are now.
//!
//! The answer goes the same way as what they tell by themselves: into this cluster's log, in their order. So a query that
//! waited for it is answered like any other, with its pages, its order and its priorities.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use parking_lot::Mutex;
use rollcall_api::{FederatedAnswer, FederatedSource, KlpChanges};
use rollcall_registry::{ClusterSeed, ClusterTime, ForeignOrigin, Peer, PeerName, Revision, TenantId};
use rollcall_replica::Replica;
use rollcall_signature::PublicKey;
use tokio::time::Instant;

use super::message::{self, Asked, Closing, Message, Own, did, nonce};
use super::nodes::{CHANGES, Nodes, NodesError, in_one_line};
use super::now;
use super::reception::take_in;
use crate::fault::Faults;
use crate::limits::BATCH_BYTES_MAX;
use crate::reply::Failure;

/// Terms of a peer: its name, and when they were laid down.
type Terms = (PeerName, ClusterTime);

/// What this node asks of other clusters. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Pulls(Arc<Mutex<BTreeMap<Terms, Arc<tokio::sync::Mutex<Turn>>>>>);

/// Whoever asks a cluster has its turn. Those who came before a question was put share its answer: it is fresh enough for
/// them.
#[derive(Default)]
struct Turn {
    nodes: Option<Nodes>,
    last: Option<(Instant, Result<(), PullError>)>,
}

/// Whether a cluster's instances are shown as its roll has them now, and if not, why.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    peer: PeerName,
    result: Result<(), PullError>,
}

impl Source {
    fn is_live(&self) -> bool {
        self.result.is_ok()
    }

    pub(crate) fn out(&self) -> FederatedSource {
        let answered = if self.is_live() { FederatedAnswer::Live } else { FederatedAnswer::Copy };
        let reason = self.result.as_ref().err().map(|error| error.word().to_owned());
        FederatedSource { peer: self.peer.as_str().to_owned(), answered, reason }
    }
}

/// Whoever has just answered is not out of reach, whenever it told something by itself.
pub(crate) fn freshen(origin: &mut ForeignOrigin, sources: Option<&[Source]>) {
    let mut live = sources.into_iter().flatten().filter(|source| source.is_live());
    if live.any(|source| source.peer == origin.peer) {
        origin.stale_after = ClusterTime(u64::MAX);
    }
}

/// Why a cluster's instances are shown as it told them before.
#[derive(Clone, Debug, thiserror::Error)]
enum PullError {
    #[error("it did not answer in time")]
    TimedOut,
    #[error("it cannot be reached: {0}")]
    Unreachable(String),
    #[error("it refused: {0}")]
    Refused(String),
    #[error("an operator has paused it here")]
    Paused,
    #[error("it is not trusted enough to be believed")]
    NotTrusted,
    #[error("it has to tell everything first")]
    Resyncing,
    #[error("its answer is none to what was asked: {0}")]
    Answer(&'static str),
    #[error("what it answered could not be taken in: {0}")]
    NotTaken(String),
    #[error("it is not a peer any more")]
    Gone,
}

impl PullError {
    /// What a client is told. Addresses and the like are an operator's to know.
    fn word(&self) -> &'static str {
        match self {
            Self::TimedOut => "timed_out",
            Self::Unreachable(_) => "unreachable",
            Self::Refused(_) => "refused",
            Self::Paused => "paused",
            Self::NotTrusted => "not_trusted",
            Self::Resyncing => "resyncing",
            Self::Answer(_) => "invalid_answer",
            Self::NotTaken(_) => "not_taken",
            Self::Gone => "gone",
        }
    }
}

impl From<NodesError> for PullError {
    fn from(error: NodesError) -> Self {
        match error {
            NodesError::Refused { code, .. } if code == "resync_needed" => Self::Resyncing,
            NodesError::Refused { .. } => Self::Refused(in_one_line(&error)),
            _ => Self::Unreachable(in_one_line(&error)),
        }
    }
}

impl Pulls {
    /// Asks all clusters that tell something for the tenant at once, each for `patience` at most.
    pub(crate) async fn refresh(&self, replica: &Replica, tenant: &TenantId, patience: Duration) -> Vec<Source> {
        let begun = Instant::now();
        let (seed, peers) = replica.roll().read(|state| {
            let mut asked = self.0.lock();
            asked.retain(|(name, since), _| state.peer(name).is_some_and(|peer| peer.since == *since));
            let told = state.peers().filter(|peer| {
                let shares = peer.terms.tenants.iter().any(|pair| pair.local == *tenant);
                shares && peer.terms.direction.receives() && !peer.leaving
            });
            let with_turn = told.map(|peer| {
                let terms = (peer.name().clone(), peer.since);
                (peer.clone(), asked.entry(terms).or_default().clone())
            });
            (state.cluster_seed(), with_turn.collect::<Vec<_>>())
        });
        let Some(seed) = seed else { return Vec::new() };
        let asked = peers.into_iter().map(|(peer, turn)| async move {
            let name = peer.name().clone();
            let result = match &peer {
                Peer { paused: true, .. } => Err(PullError::Paused),
                Peer { terms, .. } if !terms.is_trusted() => Err(PullError::NotTrusted),
                _ => fresh(replica, &seed, peer, &turn, begun, begun + patience).await,
            };
            if let Err(error) = &result {
                tracing::debug!(peer = %name, %error, "a peer is shown as it told itself before");
            }
            Source { peer: name, result }
        });
        join_all(asked).await
    }
}

/// Sees to it that what is known is as fresh as the cluster's roll was at `begun`.
async fn fresh(
    replica: &Replica,
    seed: &ClusterSeed,
    peer: Peer,
    turn: &tokio::sync::Mutex<Turn>,
    begun: Instant,
    until: Instant,
) -> Result<(), PullError> {
    let pulled = async {
        let turn = &mut *turn.lock().await;
        if let Some((asked, result)) = turn.last.as_ref().filter(|(asked, _)| *asked >= begun) {
            tracing::trace!(peer = %peer.name(), ago = ?asked.elapsed(), "somebody else has asked");
            return result.clone();
        }
        let nodes = match &mut turn.nodes {
            Some(nodes) => nodes,
            none => none.insert(Nodes::of(&peer.terms)?),
        };
        let asked = Instant::now();
        let result = pull(replica, &Own::of(seed), &peer, nodes, until).await;
        turn.last = Some((asked, result.clone()));
        result
    };
    tokio::time::timeout_at(until, pulled).await.unwrap_or(Err(PullError::TimedOut))
}

async fn pull(replica: &Replica, own: &Own, peer: &Peer, nodes: &mut Nodes, until: Instant) -> Result<(), PullError> {
    let key = PublicKey::from_bytes(peer.terms.key.0).map_err(|_| PullError::Answer("the peer's key is none"))?;
    // How far the cluster's roll had come when it was asked first.
    let mut goal: Option<Revision> = None;
    let mut applied = replica.roll().subscribe();
    loop {
        applied.mark_unchanged();
        let peer = known(replica, peer)?;
        let received = &peer.received;
        let stream = received.stream.filter(|_| received.resync.is_none()).ok_or(PullError::Resyncing)?;
        if received.sweep.is_some() {
            // What is not swept away yet is shown, and may not be so.
            applied.changed().await.map_err(|_| PullError::Gone)?;
            continue;
        }
        if goal.is_some_and(|goal| received.position >= goal) {
            return Ok(());
        }
        let (asked, nonce) = (Asked { after: received.position, told_at: received.told_at }, nonce());
        let question = message::ask(stream, asked, own, &did(&key), now(replica), &nonce);
        let question = serde_json::to_vec(&question).expect("a JSON value has no failing serializer");
        let answer: KlpChanges = nodes.post(CHANGES, question, BATCH_BYTES_MAX).await?;
        let target = own.did.clone();
        let read = move || believed(answer, key, &target, &nonce, asked.after);
        let (messages, closing) = match tokio::task::spawn_blocking(read).await {
            Ok(read) => read?,
            Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
        };
        let goal = *goal.get_or_insert(closing.present);
        let is_whole = closing.at >= goal;
        if messages.is_empty() {
            return if is_whole { Ok(()) } else { Err(PullError::Answer("it says nothing")) };
        }
        let failed = |failure: Failure| PullError::NotTaken(failure.detail().to_owned());
        match take_in(replica, &peer, messages, until).await {
            Ok(_) => reached(replica, &peer, closing.at).await?,
            // Its own word came first; it is looked at what that brought.
            Err(failure) if failure.code() == "message_replayed" => tokio::task::yield_now().await,
            Err(failure) => return Err(failed(failure)),
        }
        if is_whole {
            return Ok(());
        }
    }
}

/// The peer as it is known now, if it is still the same.
fn known(replica: &Replica, peer: &Peer) -> Result<Peer, PullError> {
    let same = |now: &&Peer| now.since == peer.since && !now.leaving;
    replica.roll().read(|state| state.peer(peer.name()).filter(same).cloned()).ok_or(PullError::Gone)
}

/// Waits until this node shows what was taken in.
async fn reached(replica: &Replica, peer: &Peer, position: Revision) -> Result<(), PullError> {
    let mut applied = replica.roll().subscribe();
    loop {
        let now = known(replica, peer)?.received;
        if now.stream != peer.received.stream || now.resync.is_some() {
            return Err(PullError::Resyncing);
        }
        if now.position >= position {
            return Ok(());
        }
        applied.changed().await.map_err(|_| PullError::Gone)?;
    }
}

/// An answer, if it is the peer's to this question and whole.
fn believed(
    answer: KlpChanges,
    key: PublicKey,
    target: &str,
    nonce: &str,
    after: Revision,
) -> Result<(Vec<Message>, Closing), PullError> {
    let mut faults = Faults::default();
    let closing = Message::parse_closing(answer.closing, &mut faults);
    let count = answer.messages.len() as u64;
    let messages = answer.messages.into_iter().filter_map(|message| Message::parse("messages", message, &mut faults));
    let messages: Vec<Message> = messages.collect();
    let Some(closing) = closing.filter(|_| faults.is_empty()) else {
        return Err(PullError::Answer("it cannot be read"));
    };
    if closing.nonce != nonce || closing.said.after != after || closing.said.count != count {
        return Err(PullError::Answer("it is to another question, or not whole"));
    }
    let is_of = |source: &PublicKey, of: &str| *source == key && of == target;
    let is_direct = messages.iter().all(|message| message.hop_count <= 1 && is_of(&message.source, &message.target));
    if !is_direct || !is_of(&closing.source, &closing.target) {
        return Err(PullError::Answer("it is another cluster's, or for another"));
    }
    if messages.iter().any(|message| message.stream != closing.stream || message.ttl_ms != closing.ttl_ms) {
        return Err(PullError::Answer("it is of several streams"));
    }
    if !closing.is_signed() || !messages.iter().all(Message::is_signed) {
        return Err(PullError::Answer("it is not signed by the peer's key"));
    }
    Ok((messages, closing.said))
}
