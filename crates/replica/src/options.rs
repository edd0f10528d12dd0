//! What a member is told when it starts.

use std::path::PathBuf;
use std::sync::Arc;

use openraft::{Config, SnapshotPolicy};
use rollcall_registry::{FeatureLevel, HistoryLimits};

use crate::admission::Door;
use crate::autopilot::Autopilot;
use crate::failure::StartError;
use crate::trace::TraceLink;

/// What a member needs to know to start.
#[derive(Clone, Debug)]
pub struct Options {
    pub data_dir: PathBuf,
    /// `host:port` where clients reach this node, as others are told.
    pub api_address: String,
    /// `host:port` where peers reach this node, as others are told.
    pub peer_address: String,
    pub start: StartMode,
    /// Stay a learner: hold everything, answer reads, never vote.
    pub learner: bool,
    /// Of the program. A test has a node pretend to run an older one.
    pub feature_level: FeatureLevel,
    /// Take in nobody that brings no join token. One that is brought must be good in any case.
    pub join_token_required: bool,
    /// What a leader does about the other members by itself.
    pub autopilot: Autopilot,
    pub heartbeat_interval_ms: u64,
    pub election_timeout_ms_min: u64,
    pub election_timeout_ms_max: u64,
    /// Log entries between two checkpoints.
    pub snapshot_entries: u64,
    /// Log entries kept behind a checkpoint, so that a follower that was away briefly needs no snapshot.
    pub log_entries_kept: u64,
    /// How much is kept of what changed, for watchers and pages.
    pub history: HistoryLimits,
    /// Of the program, as others are told.
    pub version: &'static str,
    /// Where traces are collected; none if nowhere.
    pub trace: Option<TraceLink>,
}

impl Options {
    /// How consensus goes by these options.
    pub(crate) fn consensus(&self) -> Result<Arc<Config>, StartError> {
        let config = Config {
            cluster_name: "rollcall".to_owned(),
            heartbeat_interval: self.heartbeat_interval_ms,
            election_timeout_min: self.election_timeout_ms_min,
            election_timeout_max: self.election_timeout_ms_max,
            snapshot_policy: SnapshotPolicy::LogsSinceLast(self.snapshot_entries),
            max_in_snapshot_log_to_keep: self.log_entries_kept,
            // A learner this far behind is sent a snapshot; it must not be less than what is kept between two.
            replication_lag_threshold: self.snapshot_entries.saturating_add(self.log_entries_kept).max(1_000),
            purge_batch_size: (self.log_entries_kept / 8).clamp(1, 1_024),
            max_payload_entries: 256,
            install_snapshot_timeout: 600_000,
            enable_pre_vote: Some(true),
            // A leader that restarts asks again: its lease is not what it was.
            enable_leader_restore: Some(false),
            quorum_loss_probe_interval: Some(2 * self.election_timeout_ms_max),
            backoff: "50ms 100ms 200ms 400ms ...1s".to_owned(),
            ..Config::default()
        };
        let config = config.validate().map_err(|error| StartError::Timing { reason: error.to_string() })?;
        Ok(Arc::new(config))
    }
}

/// How a node without an identity comes to one. A directory that already is a node's is resumed in any mode.
#[derive(Clone, Debug)]
pub enum StartMode {
    /// Founds a cluster of one.
    Bootstrap,
    /// Asks these peer addresses to be taken in, until one does.
    Join { peers: Vec<String>, token: Option<String> },
    /// Waits behind this door until an operator adds it.
    Wait(Door),
}
