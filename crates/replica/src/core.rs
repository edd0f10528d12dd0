//! What the replica's tasks share, and what they ask of it: who leads, what time it is, how fresh this node is.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use openraft::alias::CommittedLeaderIdOf;
use openraft::async_runtime::WatchReceiver;
use openraft::{Instant as _, RaftMetrics};
use parking_lot::Mutex;
use rollcall_registry::{ClusterTime, WallTime};
use rollcall_storage::{Backups, ClusterId, LogEnd, NodeId, Roll, SnapshotReceiver, StateMachine, TypeConfig};
use tokio::sync::{Notify, SetOnce};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::autopilot;
use crate::clock::{ClockOptions, Tenure, Told};
use crate::freshness::{Freshness, Stamps};
use crate::message::Lead;
use crate::meters::Meters;
use crate::network::{Leadership, Network};
use crate::options::Options;
use crate::proposer::Queue;
use crate::read_index::Rounds;
use crate::wall_clocks::WallClocks;

pub(crate) type Raft = openraft::Raft<TypeConfig, StateMachine>;
pub(crate) type Metrics = RaftMetrics<TypeConfig>;
pub(crate) type LeaderId = CommittedLeaderIdOf<TypeConfig>;

pub(crate) struct Core {
    pub options: Options,
    pub cluster: ClusterId,
    pub node_id: NodeId,
    pub raft: Raft,
    pub roll: Roll,
    pub log_end: LogEnd,
    /// Where snapshots from a leader are received.
    pub snapshots: SnapshotReceiver,
    pub backups: Backups,
    pub network: Network,
    pub queue: Queue,
    pub rounds: Rounds,
    pub stop: CancellationToken,
    /// Set when this node learns that it was removed from the cluster.
    pub removed: CancellationToken,
    /// Set when this node learns that it lost what it had acknowledged.
    pub forgot: SetOnce<Forgot>,
    /// One change of membership at a time.
    pub membership: tokio::sync::Mutex<()>,
    pub leading: Mutex<Tenure<LeaderId>>,
    pub freshness: Mutex<Freshness>,
    pub told: Mutex<Option<Told<LeaderId>>>,
    pub stamps: Stamps,
    /// Told when a connection broke on which a leader sent its appends.
    pub contact_lost: Notify,
    pub meters: Meters,
    pub wall_clocks: WallClocks,
    /// What this leader sees of the others.
    pub autopilot: Mutex<autopilot::Watch>,
}

/// What a log has lost.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Forgot {
    /// The furthest entry that the node said it has on its disk.
    pub acknowledged: u64,
    /// The last one that it has.
    pub last: u64,
}

/// For people to read; decides nothing.
pub(crate) fn wall() -> WallTime {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    WallTime(u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX))
}

/// A leader's view of its own lead, once everything before its first own entry is applied.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Leading {
    pub leader: LeaderId,
    pub now: ClusterTime,
    pub may_expire: bool,
}

impl Core {
    pub(crate) fn metrics(&self) -> Metrics {
        self.raft.metrics().borrow_watched().clone()
    }

    pub(crate) fn current_leader(&self) -> Option<NodeId> {
        self.raft.metrics().borrow_watched().current_leader
    }

    /// Who leads in which term, if anyone is known to.
    pub(crate) fn leadership(&self) -> Option<(u64, NodeId)> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        Some((metrics.current_term, metrics.current_leader?))
    }

    /// Whether a peer answered this leader lately.
    pub(crate) fn answers(&self, peer: NodeId, lately: Duration) -> bool {
        let metrics = self.metrics();
        let acked = metrics.heartbeat.as_ref().and_then(|heartbeats| heartbeats.get(&peer)?.as_ref());
        acked.is_some_and(|acked| acked.elapsed() <= lately)
    }

    /// What a leader may be away without being deposed, and what its lease lasts.
    pub(crate) fn quorum_lease(&self) -> Duration {
        Duration::from_millis(self.options.election_timeout_ms_min)
    }

    /// Reads the cluster clock if this node leads, and moves it on by what has passed.
    pub(crate) fn lead(&self) -> Option<Leading> {
        let (is_leader, alone, leader) = {
            let metrics = self.raft.metrics();
            let (is_leader, alone) = {
                let metrics = metrics.borrow_watched();
                let alone = metrics.membership_config.membership().voter_ids().eq([self.node_id]);
                (metrics.state.is_leader(), alone)
            };
            (is_leader, alone, self.raft.as_leader())
        };
        let mut leading = self.leading.lock();
        let (true, Ok(leader)) = (is_leader, leader) else {
            leading.end();
            self.network.set_lead(None);
            return None;
        };
        let id = leader.to_committed_leader_id();
        let at = Instant::now();
        if !leading.is_of(id) {
            self.network.set_lead(None);
            let applied_by = self.roll.applied().map(|applied| *applied.committed_leader_id());
            let options = ClockOptions { step_max: self.quorum_lease(), grace: self.grace() };
            let (now, told) = (self.roll.read(|state| state.now()), *self.told.lock());
            if !leading.begin(id, applied_by, options, now, told, at) {
                return None;
            }
        }
        // openraft counts what followers answer; without any this node is the quorum.
        let acked_at = if alone {
            Some(at)
        } else {
            leader.last_quorum_acked().and_then(|acked| at.checked_sub(acked.elapsed()))
        };
        let (now, may_expire) = leading.read(at, acked_at)?;
        // Whatever the leader acknowledged until a quorum last answered it has applied.
        let applied_index = self.roll.applied_index();
        self.network.set_lead(acked_at.map(|acked| Leadership { clock: now, quorum_acked_at: acked, applied_index }));
        if let Some(acked) = acked_at {
            self.freshness.lock().note(acked, applied_index, applied_index);
        }
        Some(Leading { leader: id, now, may_expire })
    }

    /// How long nothing expires after a change of leader: agents find the new one within two elections.
    fn grace(&self) -> Duration {
        Duration::from_millis(2 * self.options.election_timeout_ms_max)
    }

    /// Takes in what a leader said along with a request that this node accepted.
    pub(crate) fn hear(&self, leader: LeaderId, lead: Option<Lead>) {
        let at = Instant::now();
        {
            let mut told = self.told.lock();
            *told = Told::hear(*told, leader, lead.map(|lead| lead.clock), at);
        }
        if let Some(lead) = lead {
            self.freshness.lock().hear(&lead, &self.stamps, self.roll.applied_index());
        }
    }

    /// How long ago, at most, the state shown here was the cluster's; none before it ever was since the start.
    pub(crate) fn staleness(&self) -> Option<Duration> {
        self.freshness.lock().staleness(Instant::now(), self.roll.applied_index())
    }

    /// Cluster time as well as this node can tell, for people to read. Between the leader's words it runs on, but no
    /// longer than a leader may be silent.
    pub(crate) fn cluster_time(&self) -> ClusterTime {
        let applied = self.roll.read(|state| state.now());
        let told = self.lead().map(|lead| lead.now).or_else(|| {
            let told = (*self.told.lock())?;
            let since = told.at.elapsed().min(self.quorum_lease());
            Some(told.clock.plus_ms(u64::try_from(since.as_millis()).unwrap_or(0)))
        });
        told.map_or(applied, |told| told.max(applied))
    }

    pub(crate) fn peer_address(&self, node: NodeId) -> Option<String> {
        let metrics = self.raft.metrics();
        let membership = metrics.borrow_watched().membership_config.clone();
        membership.membership().get_node(&node).map(|member| member.peer_address.clone())
    }

    /// Waits until this entry is applied here, or until the deadline.
    pub(crate) async fn wait_applied(&self, index: u64, deadline: Instant) -> bool {
        let mut applied = self.roll.subscribe();
        let reached = applied.wait_for(|applied| *applied >= index);
        matches!(tokio::time::timeout_at(deadline, reached).await, Ok(Ok(_)))
    }

    /// Waits for a moment in which trying again may make sense: a change of leader, or a little while.
    pub(crate) async fn before_retry(&self, seen_leader: Option<NodeId>) {
        const PAUSE: Duration = Duration::from_millis(20);
        let mut metrics = self.raft.server_metrics();
        let changed = async {
            while metrics.borrow_watched().current_leader == seen_leader {
                if metrics.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        let _ = tokio::time::timeout(PAUSE, changed).await;
    }
}
