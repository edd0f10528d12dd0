//! What a member is told when it starts.

use std::path::PathBuf;

use rollcall_registry::{FeatureLevel, HistoryLimits};

use crate::admission::Door;
use crate::autopilot::Autopilot;
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
