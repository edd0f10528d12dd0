//! The leader's read index, asked for once for all reads that wait for it.
//!
//! A read that arrives while a round is under way waits for the next one: the round may have begun before the write
//! that the reader knows of.

use std::sync::Arc;
use std::time::Duration;

use openraft::ReadPolicy;
use rollcall_storage::NodeId;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::core::Core;
use crate::message::ReadIndexResponse;
use crate::peer::PeerRoute;

/// Reads that may wait for one round.
const WAITING_MAX: usize = 65_536;

/// Where linearizable reads are handed in.
pub(crate) struct Rounds {
    sender: mpsc::Sender<oneshot::Sender<u64>>,
}

pub(crate) type Readers = mpsc::Receiver<oneshot::Sender<u64>>;

pub(crate) fn rounds() -> (Rounds, Readers) {
    let (sender, readers) = mpsc::channel(WAITING_MAX);
    (Rounds { sender }, readers)
}

impl Rounds {
    /// The index that must be applied for a read to show everything acknowledged before this call.
    pub(crate) async fn read_index(&self, deadline: Instant) -> Option<u64> {
        let (sender, index) = oneshot::channel();
        self.sender.try_send(sender).ok()?;
        tokio::time::timeout_at(deadline, index).await.ok()?.ok()
    }
}

pub(crate) async fn drive(core: Arc<Core>, mut readers: Readers) {
    loop {
        let first = tokio::select! {
            () = core.stop.cancelled() => return,
            first = readers.recv() => first,
        };
        let Some(first) = first else { return };
        let mut round = vec![first];
        while let Ok(next) = readers.try_recv() {
            round.push(next);
        }
        tokio::select! {
            () = core.stop.cancelled() => return,
            () = answer(&core, round) => {}
        }
    }
}

async fn answer(core: &Core, mut round: Vec<oneshot::Sender<u64>>) {
    loop {
        round.retain(|reader| !reader.is_closed());
        if round.is_empty() {
            return;
        }
        let leader = core.current_leader();
        let index = match leader {
            Some(leader) if leader == core.node_id => local_index(core).await,
            Some(leader) => remote_index(core, leader).await,
            None => None,
        };
        match index {
            Some(index) => {
                for reader in round {
                    // Whoever asked may have gone.
                    let _ = reader.send(index);
                }
                return;
            }
            None => core.before_retry(leader).await,
        }
    }
}

/// Confirms with a quorum that this node leads, and tells what was committed when it was asked.
pub(crate) async fn local_index(core: &Core) -> Option<u64> {
    let patience = Duration::from_millis(core.options.election_timeout_ms_max);
    let confirmed = tokio::time::timeout(patience, core.raft.get_read_linearizer(ReadPolicy::ReadIndex)).await;
    Some(confirmed.ok()?.ok()?.read_log_id().index())
}

async fn remote_index(core: &Core, leader: NodeId) -> Option<u64> {
    let address = core.peer_address(leader)?;
    // Longer than the leader takes to say that it cannot confirm.
    let patience = Duration::from_millis(2 * core.options.election_timeout_ms_max);
    match core.network.call(leader, &address, PeerRoute::ReadIndex, (), patience).await {
        Ok(ReadIndexResponse::Index(index)) => Some(index),
        Ok(ReadIndexResponse::NotLeader { .. }) => None,
        Err(error) => {
            tracing::debug!(%error, leader, "no read index from the leader");
            None
        }
    }
}
