//! One other cluster's task: tells it what is to be told, to any of its nodes, for as long as this node leads.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rollcall_api::{
    KlpReceived, KlpResponse, KlpStream, PropagationRecord, PropagationResult, ResyncInfo, SendingInfo, SendingState,
};
use rollcall_registry::federation::teller::{Batch, Next, Progress, Teller};
use rollcall_registry::{
    ClusterTime, Epoch, PeerName, PeerTerms, Received, Resync, Revision, State, Stream, WallTime,
};
use rollcall_replica::Replica;
use serde_json::json;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::message::{self, Own, did};
use super::nodes::{MESSAGES, Nodes, NodesError, in_one_line};
use super::{BOOKMARK_INTERVAL, now, wall};
use crate::render::rfc3339;

/// An answer to a batch has some 60 bytes for each message.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// After a round in which no node could be told, or nothing came of it. It doubles up to the longest.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// After something was applied it is waited for so long before it is looked whether a peer is to be told: of thousands of
/// entries in a second nearly all are heartbeats, which tell it nothing.
const SETTLE: Duration = Duration::from_millis(10);

/// What the links of this node say of themselves, while it leads. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Links(Arc<Mutex<BTreeMap<PeerName, LinkState>>>);

/// One link at one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct LinkState {
    pub(crate) acknowledged: Option<Revision>,
    progress: Option<Progress>,
    pub(crate) successes: u64,
    pub(crate) failures: u64,
    unsendable: u64,
    refused: u64,
    /// The last request: when, and how long it took or what was wrong.
    last: Option<(WallTime, Result<Duration, String>)>,
}

impl Links {
    pub(super) fn begin(&self, peer: &PeerName) {
        self.0.lock().insert(peer.clone(), LinkState::default());
    }

    pub(super) fn end(&self, peer: &PeerName) {
        self.0.lock().remove(peer);
    }

    fn note(&self, peer: &PeerName, note: impl FnOnce(&mut LinkState)) {
        if let Some(state) = self.0.lock().get_mut(peer) {
            note(state);
        }
    }

    pub(crate) fn all(&self) -> BTreeMap<PeerName, LinkState> {
        self.0.lock().clone()
    }
}

impl LinkState {
    pub(crate) fn info(&self, revision: Revision) -> SendingInfo {
        let state = match (&self.last, self.progress, self.acknowledged) {
            (Some((_, Err(_))), ..) => SendingState::Failing,
            (_, Some(_), _) => SendingState::Resyncing,
            (_, None, Some(_)) => SendingState::Following,
            (_, None, None) => SendingState::Asking,
        };
        SendingInfo {
            state,
            acknowledged: self.acknowledged.map(|revision| revision.0),
            lag: self.lag(revision),
            resync: self.progress.map(|Progress { told, total }| ResyncInfo { told, total }),
            successes: self.successes,
            failures: self.failures,
            unsendable: self.unsendable,
            refused: self.refused,
        }
    }

    /// Revisions that the other cluster is behind.
    pub(crate) fn lag(&self, revision: Revision) -> Option<u64> {
        self.acknowledged.map(|acknowledged| revision.0.saturating_sub(acknowledged.0))
    }
}

/// What became of the last request to each.
pub(crate) fn record(links: &BTreeMap<PeerName, LinkState>) -> PropagationRecord {
    let results = links.iter().filter_map(|(peer, state)| {
        let (at, result) = state.last.as_ref()?;
        Some(PropagationResult {
            peer_id: peer.as_str().to_owned(),
            success: result.is_ok(),
            at: rfc3339(*at),
            response_time_ms: result.as_ref().ok().map(|took| took.as_micros() as f64 / 1_000.0),
            error: result.as_ref().err().cloned(),
        })
    });
    let propagation_results: Vec<_> = results.collect();
    let successes = propagation_results.iter().filter(|result| result.success).count() as u64;
    PropagationRecord {
        peers_contacted: propagation_results.len() as u64,
        successful_propagations: successes,
        failed_propagations: propagation_results.len() as u64 - successes,
        propagation_results,
    }
}

/// One other cluster that is told what is offered to it.
pub(super) struct Link {
    pub(super) replica: Replica,
    pub(super) own: Arc<Own>,
    pub(super) terms: Arc<PeerTerms>,
    /// When they were laid down.
    pub(super) since: ClusterTime,
    pub(super) links: Links,
}

impl Link {
    /// Goes on until it is stopped, or its terms hold no more.
    pub(super) async fn run(self, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.follow() => {}
        }
    }

    async fn follow(&self) {
        let peer = &self.terms.name;
        let mut nodes = loop {
            match Nodes::of(&self.terms) {
                Ok(nodes) => break nodes,
                Err(error) => {
                    self.failed(&error);
                    tokio::time::sleep(PAUSE_MAX).await;
                }
            }
        };
        let mut applied = self.replica.roll().subscribe();
        let (mut teller, mut told_at, mut pause) = (Teller::default(), WallTime(0), PAUSE_MIN);
        let mut sign_due = Instant::now();
        loop {
            let is_due = Instant::now() >= sign_due;
            let Some(next) = self.look(|state, peer| teller.next(state, peer, is_due)) else { return };
            let batch = match next {
                Next::More => {
                    tokio::task::yield_now().await;
                    continue;
                }
                Next::Idle => {
                    tokio::select! {
                        moved = applied.changed() => {
                            if moved.is_err() {
                                return;
                            }
                            tokio::time::sleep(SETTLE).await;
                        }
                        () = tokio::time::sleep_until(sign_due) => {}
                    }
                    continue;
                }
                Next::Tell(batch) => batch,
            };
            told_at = WallTime((told_at.0 + 1).max(now(&self.replica).0));
            let begun = Instant::now();
            let told = self.tell(&mut nodes, &batch, told_at).await;
            match told {
                Ok((answer, unsendable)) => {
                    told_at = told_at.max(WallTime(answer.received.told_at_ms));
                    let received = received(&answer.received);
                    let settled = self.look(|state, peer| teller.settle(state, peer, &batch, &received));
                    let Some(is_further) = settled else { return };
                    let codes = ["tenant_not_mapped", "unreadable", "not_offered", "foreign_full"];
                    let refused = answer.results.iter().filter(|result| codes.contains(&&*result.code)).count();
                    let (acknowledged, progress) = (teller.acknowledged(), teller.progress());
                    self.links.note(peer, |link| {
                        (link.acknowledged, link.progress) = (acknowledged, progress);
                        link.successes += 1;
                        link.unsendable += unsendable;
                        link.refused += refused as u64;
                        link.last = Some((wall(), Ok(begun.elapsed())));
                    });
                    sign_due = Instant::now() + BOOKMARK_INTERVAL;
                    if is_further {
                        pause = PAUSE_MIN;
                        continue;
                    }
                }
                Err(error) => self.failed(&error),
            }
            tokio::time::sleep(pause.mul_f64(rand::random_range(0.5..1.0))).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Puts a batch into words, off the threads that answer clients, and tells it.
    async fn tell(
        &self,
        nodes: &mut Nodes,
        batch: &Arc<Batch>,
        told_at: WallTime,
    ) -> Result<(KlpResponse, u64), NodesError> {
        let (batch, own, key) = (batch.clone(), self.own.clone(), self.terms.key);
        let speak = move || {
            let target = rollcall_signature::PublicKey::from_bytes(key.0).map(|key| did(&key)).unwrap_or_default();
            let words = message::words(&batch, &own, &target, told_at);
            let body = serde_json::to_vec(&json!({ "messages": words.messages }));
            (body.expect("a JSON value has no failing serializer"), words.unsendable)
        };
        let (body, unsendable) = match tokio::task::spawn_blocking(speak).await {
            Ok(words) => words,
            Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
        };
        Ok((nodes.post(MESSAGES, body, ANSWER_BYTES_MAX).await?, unsendable))
    }

    /// Looks at the roll and at the peer as it stands there; none if it is not the same any more.
    fn look<T>(&self, look: impl FnOnce(&State, &rollcall_registry::Peer) -> T) -> Option<T> {
        self.replica.roll().read(|state| {
            let peer = state.peer(&self.terms.name).filter(|peer| peer.since == self.since && !peer.leaving)?;
            Some(look(state, peer))
        })
    }

    fn failed(&self, error: &NodesError) {
        let said = in_one_line(error);
        let peer = &self.terms.name;
        tracing::debug!(%peer, error = said, "a peer cannot be told");
        self.links.note(peer, |link| {
            if !matches!(link.last, Some((_, Err(_)))) {
                tracing::warn!(%peer, error = said, "a peer cannot be told; it is tried again");
            }
            link.failures += 1;
            link.last = Some((wall(), Err(said)));
        });
    }
}

/// What an answer says of how far the receiver has come.
fn received(answer: &KlpReceived) -> Received {
    Received {
        stream: answer
            .stream
            .map(|KlpStream { epoch, since }| Stream { epoch: Epoch(epoch), since: ClusterTime(since) }),
        position: Revision(answer.revision),
        resync: answer.resync.map(|resync| Resync { at: Revision(resync.at), next: resync.next }),
        ..Received::default()
    }
}
