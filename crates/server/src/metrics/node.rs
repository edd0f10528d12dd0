//! What the member and its stores know of themselves.

use std::fmt;
use std::path::PathBuf;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::registry::Unit;
use rollcall_registry::{MARGIN_PARTS, Tally};
use rollcall_replica::meter::Counts;
use rollcall_replica::{Follower, Meters, Observation, Replica};

use super::encode::{NS_PER_SECOND, Writer};
use crate::startup;

/// Upper bounds of [`Tally::renewed`], in thousandths of a TTL.
const MARGIN_PERMILLE: [u64; MARGIN_PARTS + 1] = [0, 100, 200, 300, 400, 500, 600, 700, 800, 900, 1_000];

pub(super) struct Collected {
    pub(super) replica: Replica,
    pub(super) data_dir: PathBuf,
}

impl fmt::Debug for Collected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Collected").field("data_dir", &self.data_dir).finish_non_exhaustive()
    }
}

impl Collector for Collected {
    fn encode(&self, encoder: DescriptorEncoder) -> fmt::Result {
        let mut writer = Writer(encoder);
        let observed = self.replica.observe();
        build(&mut writer)?;
        raft(&mut writer, &observed)?;
        leading(&mut writer, &observed.followers)?;
        work(&mut writer, &self.replica, &observed)?;
        roll(&mut writer, &observed)?;
        self.disk(&mut writer)
    }
}

fn build(writer: &mut Writer<'_>) -> fmt::Result {
    let version = [("version", env!("CARGO_PKG_VERSION").to_owned())];
    writer.gauges("build_info", "Always 1; the label is the program's version.", None, [(version, 1.0)])
}

fn raft(writer: &mut Writer<'_>, observed: &Observation) -> fmt::Result {
    let flag = |holds: bool| f64::from(u8::from(holds));
    writer.gauge("raft_is_leader", "1 where this node leads.", None, flag(observed.is_leader))?;
    writer.gauge("raft_leader_known", "1 where this node knows a leader.", None, flag(observed.leader.is_some()))?;
    writer.gauge("raft_term", "The current term; each election takes a new one.", None, observed.term as f64)?;
    let index = |name, help, index| (name, help, index as f64);
    for (name, help, index) in [
        index("raft_last_log_index", "Index of the last entry in this node's log.", observed.last_log_index),
        index(
            "raft_committed_index",
            "Index up to which this node knows entries to be committed.",
            observed.committed_index,
        ),
        index("raft_applied_index", "Index of the last entry applied here.", observed.applied_index),
    ] {
        writer.gauge(name, help, None, index)?;
    }
    let roles = [("voter", observed.voters), ("learner", observed.learners)];
    let members = roles.map(|(role, count)| ([("role", role.to_owned())], count as f64));
    writer.gauges("raft_members", "Members by role, this node among them.", None, members)?;
    let help = "What all members can read: the lowest of their feature levels.";
    writer.gauge("feature_level", help, None, observed.feature_level.0 as f64)?;
    let caught_up = flag(observed.staleness.is_some());
    writer.gauge(
        "caught_up",
        "1 once this node was current since it started; before it refuses reads.",
        None,
        caught_up,
    )?;
    let staleness = observed.staleness.map_or(f64::NAN, |staleness| staleness.as_secs_f64());
    let help = "How old the state shown here may be; NaN before this node has caught up.";
    writer.gauge("staleness", help, Some(Unit::Seconds), staleness)?;
    let offset = observed.clock_offset_ms.map_or(f64::NAN, |ms| ms as f64 / 1_000.0);
    let help = "The peer's wall clock that is farthest off this node's; NaN before one was asked.";
    writer.gauge("clock_offset", help, Some(Unit::Seconds), offset)
}

/// What only the leader knows; elsewhere there are no samples.
fn leading(writer: &mut Writer<'_>, followers: &[Follower]) -> fmt::Result {
    let peer = |follower: &Follower| [("peer", follower.node_id.to_string())];
    let lag = followers.iter().map(|follower| (peer(follower), follower.lag_entries as f64));
    writer.gauges("raft_peer_lag_entries", "At the leader: entries that a peer lacks.", None, lag)?;
    let answers = followers.iter().map(|follower| {
        let [peer] = peer(follower);
        let role = if follower.voter { "voter" } else { "learner" };
        ([peer, ("role", role.to_owned())], f64::from(u8::from(follower.answers)))
    });
    let help = "At the leader: 1 for a peer that answered within the longest election timeout.";
    writer.gauges("raft_peer_answers", help, None, answers)
}

fn work(writer: &mut Writer<'_>, replica: &Replica, observed: &Observation) -> fmt::Result {
    let Meters {
        log_flush,
        commit,
        forward,
        entry_commands,
        leader_changes,
        snapshots_sent,
        snapshots_received,
        autopilot_removals,
    } = replica.meters();
    let state = replica.roll().meters();
    for (name, help, histogram) in [
        ("log_flush_duration", "Flushing the log to disk; every write waits for one.", &**log_flush),
        ("commit_duration", "At the leader: from proposing an entry until it is applied.", commit),
        ("forward_duration", "At a follower: from sending a batch to the leader until its answer.", forward),
        ("apply_duration", "Applying one entry to the state, waiting for readers included.", &state.apply),
        ("checkpoint_duration", "Writing one checkpoint of the state.", &state.checkpoint),
    ] {
        writer.histogram(name, help, Some(Unit::Seconds), &histogram.counts(), NS_PER_SECOND)?;
    }
    let help = "At the leader: commands in one log entry, every renewed lease counted.";
    writer.histogram("entry_commands", help, None, &entry_commands.counts(), 1.0)?;
    for (name, help, counter) in [
        ("leader_changes", "Leaders that this node has seen take over.", leader_changes),
        ("snapshots_sent", "Snapshots sent to a peer whole.", snapshots_sent),
        ("snapshots_received", "Snapshots received whole.", snapshots_received),
        (
            "autopilot_removals",
            "Nodes that this leader removed because they were out of reach for too long.",
            autopilot_removals,
        ),
    ] {
        writer.counter(name, help, None, counter.get() as f64)?;
    }
    let waiting = observed.waiting_requests as f64;
    writer.gauge("queue_requests", "Writes that wait for their turn to be proposed or forwarded.", None, waiting)?;
    let help = "Memory held by writes that wait or are on their way; beyond 128 MiB they are refused.";
    writer.gauge("queue", help, Some(Unit::Bytes), observed.waiting_bytes as f64)
}

fn roll(writer: &mut Writer<'_>, observed: &Observation) -> fmt::Result {
    writer.gauge(
        "instances",
        "Instances on the roll, offline ones too; each has a lease.",
        None,
        observed.instances as f64,
    )?;
    let help = "Instances whose lease ran out and that protection keeps on the roll, of all tenants.";
    writer.gauge("suspects", help, None, observed.suspects as f64)?;
    let help = "Tenants whose protection from a mass expiry is in force.";
    writer.gauge("tenants_protected", help, None, observed.tenants_protected as f64)?;
    let help = "Events and schemas that agents agreed upon, of all tenants.";
    writer.gauge("definitions", help, None, observed.definitions as f64)?;
    let help = "What definitions take; beyond 256 MiB, or 16 MiB of one tenant, more are refused.";
    writer.gauge("definitions", help, Some(Unit::Bytes), observed.definition_bytes as f64)?;
    writer.gauge("revision", "The number of the last visible change.", None, observed.revision.0 as f64)?;
    let help = "Cluster time; it stands still while no leader holds a quorum.";
    writer.gauge("cluster_time", help, Some(Unit::Seconds), observed.cluster_time.0 as f64 / 1_000.0)?;
    let Tally { created, replaced, deregistered, lapsed, suspected, expired, renewed, margin_permille } =
        observed.tally;
    let registrations = [([("result", "created")], created), ([("result", "replaced")], replaced)];
    writer.counters("registrations", "New instances and new incarnations applied here.", registrations)?;
    for (name, help, count) in [
        ("deregistrations", "Deregistrations applied here.", deregistered),
        ("renewals", "Leases renewed, as applied here.", renewed.iter().sum()),
        ("lapses", "Instances that turned offline for want of a heartbeat, as applied here.", lapsed),
        (
            "suspicions",
            "Leases that ran out while protection kept their instance on the roll, as applied here.",
            suspected,
        ),
        ("expiries", "Instances struck off for want of a heartbeat, as applied here.", expired),
    ] {
        writer.counter(name, help, None, count as f64)?;
    }
    // Nothing is left beyond the whole TTL.
    let counts =
        Counts { bounds: &MARGIN_PERMILLE, counts: renewed.into_iter().chain([0]).collect(), sum: margin_permille };
    let help = "How much of its TTL a lease had left when it was renewed; 0 is after the deadline.";
    writer.histogram("renewal_margin", help, Some(Unit::Other("ratio".to_owned())), &counts, 1e3)
}

impl Collected {
    fn disk(&self, writer: &mut Writer<'_>) -> fmt::Result {
        let usage = self.replica.disk_usage().map(|(store, bytes)| ([("store", store.to_owned())], bytes as f64));
        writer.gauges("data", "What the data directory holds, by store.", Some(Unit::Bytes), usage)?;
        let space = startup::space(&self.data_dir).map(|(size, free)| (size as f64, free as f64));
        let (size, free) = space.unwrap_or((f64::NAN, f64::NAN));
        writer.gauge("data_filesystem_size", "Size of the data directory's filesystem.", Some(Unit::Bytes), size)?;
        let help = "What this process may still write to the data directory's filesystem.";
        writer.gauge("data_filesystem_free", help, Some(Unit::Bytes), free)
    }
}
