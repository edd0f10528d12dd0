//! Takes over at once from a leader whose process has ended, instead of waiting until its lease runs out.
//!
//! A process that dies takes its connections with it, and the wires notice that within a moment. If then nobody listens
//! any more where the leader did, there is no leader: its lease protects nobody, and this node stands for election. If
//! somebody does listen, or no answer comes, nothing is concluded, and the election timeout decides as ever.
//!
//! Being wrong (a firewall that refuses, say) costs an election and nothing else: what a leader may do is decided by
//! votes and by what a quorum answers it, and by no lease.

use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
use openraft::raft::TransferLeaderRequest;

use crate::core::Core;

/// A process that ends closes its sockets one after the other: the last of them a little after the first.
const LOOKS: u32 = 10;
const BETWEEN_LOOKS: Duration = Duration::from_millis(5);

/// Two nodes that stand at the same moment may split the votes, so that each waits for a part of this by chance. A vote
/// takes a round trip and a flush.
const STAGGER_MS_MAX: u64 = 40;

/// How long the others may take to answer: two flushes of a slow disk.
const VOTE_TIMEOUT: Duration = Duration::from_millis(200);

/// After this many attempts the election timeout decides.
const ATTEMPTS: u32 = 5;

pub(crate) async fn drive(core: Arc<Core>) {
    loop {
        tokio::select! {
            () = core.stop.cancelled() => return,
            () = core.contact_lost.notified() => {}
        }
        tokio::select! {
            () = core.stop.cancelled() => return,
            () = succeed(&core) => {}
        }
    }
}

async fn succeed(core: &Core) {
    let Some(leader) = core.current_leader().filter(|leader| *leader != core.node_id) else { return };
    let Some(address) = core.peer_address(leader) else { return };
    let mut vote = core.raft.metrics().borrow_watched().vote;
    for look in 0.. {
        if core.network.is_gone(&address).await {
            break;
        }
        if look == LOOKS {
            return;
        }
        tokio::time::sleep(BETWEEN_LOOKS).await;
    }
    let is_voter = {
        let metrics = core.raft.metrics();
        let metrics = metrics.borrow_watched();
        metrics.membership_config.membership().voter_ids().any(|id| id == core.node_id)
    };
    if !is_voter {
        return;
    }
    tracing::info!(leader, address, "the leader's process has ended");
    for _ in 0..ATTEMPTS {
        tokio::time::sleep(Duration::from_millis(rand::random_range(0..STAGGER_MS_MAX))).await;
        if core.current_leader().is_some_and(|now| now != leader) {
            return;
        }
        let before = std::mem::replace(&mut vote, core.raft.metrics().borrow_watched().vote);
        if vote != before && vote.leader_id.node_id != core.node_id {
            // Somebody else stands; what comes of it shows by the next time.
            continue;
        }
        // As if the leader had said so with its last breath: every voter lets go of its lease for that.
        let stand = TransferLeaderRequest::new(vote, core.node_id, None);
        if let Err(error) = core.raft.handle_transfer_leader(stand).await {
            tracing::debug!(%error, "cannot stand for election");
            return;
        }
        // Standing again would make void what the others are about to answer.
        let mut server = core.raft.server_metrics();
        let decided = async {
            while server.borrow_watched().current_leader.is_none_or(|now| now == leader) {
                if server.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        let _ = tokio::time::timeout(VOTE_TIMEOUT, decided).await;
    }
}
