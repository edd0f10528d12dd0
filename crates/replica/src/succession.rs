//! Takes over at once from a leader whose process has ended, instead of waiting until its lease runs out.
//!
//! A process that dies takes its connections with it, and the wires notice that within a moment. If then nobody listens
//! any more where the leader did, there is no leader: its lease protects nobody, and this node stands for election. If
//! somebody does listen, or no answer comes, nothing is concluded, and the election timeout decides as ever.
//!
//! Several may notice at once, and whoever stands second would take the first one's votes back. So each asks the others
//! how far their logs reach, and they stand in one order that all of them know: the furthest first.
//!
//! Being wrong (a firewall that refuses, say) costs an election and nothing else: what a leader may do is decided by
//! votes and by what a quorum answers it, and by no lease.

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use openraft::async_runtime::WatchReceiver;
use openraft::raft::TransferLeaderRequest;
use rollcall_storage::NodeId;

use crate::core::Core;
use crate::membership;

/// A process that ends closes its sockets one after the other: the last of them a little after the first.
const LOOKS: u32 = 10;
const BETWEEN_LOOKS: Duration = Duration::from_millis(5);

/// How long another may take to say how far its log reaches. It is read from memory.
const INFO_TIMEOUT: Duration = Duration::from_millis(50);

/// How long one that stands may take until it leads: two flushes of a slow disk.
const VOTE_TIMEOUT: Duration = Duration::from_millis(200);

/// After this many attempts the election timeout decides.
const ATTEMPTS: u32 = 5;

pub(crate) async fn drive(core: Arc<Core>) {
    let mut server = core.raft.server_metrics();
    let mut leader = None;
    loop {
        // Kept when another that stands has made openraft forget it.
        leader = server.borrow_watched().current_leader.or(leader);
        tokio::select! {
            () = core.stop.cancelled() => return,
            changed = server.changed() => if changed.is_err() { return },
            () = core.contact_lost.notified() => {
                let Some(leader) = server.borrow_watched().current_leader.or(leader) else { continue };
                tokio::select! {
                    () = core.stop.cancelled() => return,
                    () = succeed(&core, leader) => {}
                }
            }
        }
    }
}

async fn succeed(core: &Core, leader: NodeId) {
    if leader == core.node_id {
        return;
    }
    let Some(address) = core.peer_address(leader) else { return };
    for look in 0.. {
        if core.network.is_gone(&address).await {
            break;
        }
        if look == LOOKS {
            return;
        }
        tokio::time::sleep(BETWEEN_LOOKS).await;
    }
    tracing::info!(leader, address, "the leader's process has ended");
    for _ in 0..ATTEMPTS {
        let Some(before) = stand_before(core, leader).await else { return };
        if succeeded(core, leader, VOTE_TIMEOUT * before).await {
            return;
        }
        let vote = core.raft.metrics().borrow_watched().vote;
        // As if the leader had said so with its last breath: every voter lets go of its lease for that.
        let stand = TransferLeaderRequest::new(vote, core.node_id, None);
        if let Err(error) = core.raft.handle_transfer_leader(stand).await {
            tracing::debug!(%error, "cannot stand for election");
            return;
        }
        // Standing again would make void what the others are about to answer.
        if succeeded(core, leader, VOTE_TIMEOUT).await {
            return;
        }
    }
}

/// How many voters are to stand before this one: those that answer and whose log reaches further, and of equals the one
/// with the lower id. None if this node has no vote.
async fn stand_before(core: &Core, leader: NodeId) -> Option<u32> {
    let membership = core.metrics().membership_config.membership().clone();
    if !membership.voter_ids().any(|id| id == core.node_id) {
        return None;
    }
    let others = membership.voter_ids().filter(|id| *id != core.node_id && *id != leader);
    let others = others.filter_map(|id| Some((id, membership.get_node(&id)?)));
    let asked = others.map(|(id, member)| membership::ask_info(core, id, member, INFO_TIMEOUT));
    let others = join_all(asked).await;
    let own = (core.log_end.last(), Reverse(core.node_id));
    let further = others.iter().flatten().filter(|info| (info.last_log_id, Reverse(info.node_id)) > own);
    u32::try_from(further.count()).ok()
}

/// Whether another leader than the one that is gone is known within this time.
async fn succeeded(core: &Core, gone: NodeId, within: Duration) -> bool {
    let mut server = core.raft.server_metrics();
    let decided = async {
        while server.borrow_watched().current_leader.is_none_or(|now| now == gone) {
            if server.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    };
    tokio::time::timeout(within, decided).await.is_ok()
}
