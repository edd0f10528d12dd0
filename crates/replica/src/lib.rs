//! One member of the Raft group that keeps the roll.
//!
//! It batches commands and proposes or forwards them, keeps the cluster clock while it leads, strikes off what lapsed,
//! makes sure of what a read asks for, and takes new members in. It knows openraft and the storage; it knows nothing of
//! HTTP, JSON, tenants' rules or faces, and it opens no socket: a [`Transport`] carries its bytes.
//!
//! - A write is answered when it is applied here; one whose fate is not known is never called refused.
//! - Cluster time moves only at a leader that holds its quorum, never faster than real time, and never back.
//! - Nothing is struck off but by an entry that went through the same queue as the heartbeats.
//! - A read is never answered from a node that was not current since it started.
//! - Every request between members names the cluster and the node it is meant for.
//!
//! Read in this order: [`Options`], [`Replica`], `core`, `bell`, `proposer`, `merged`, `passage` and `driver`, `clock` and
//! `pacer`, `freshness`, `read_index` and `barrier`, `succession`, `membership`, `admission` (with `join_secret` and `token_secret`), `announce`,
//! `autopilot`, `operate` and `lead`, `network` and `handler`; [`logic`] is what of these simulations drive as well;
//! [`offline`] is what is done without a member; `meters`, `wall_clocks` and `trace` are for operators.

mod admission;
mod announce;
mod autopilot;
mod barrier;
mod bell;
mod clock;
mod core;
mod driver;
mod failure;
mod freshness;
mod handler;
mod join_secret;
mod lead;
mod membership;
mod merged;
mod message;
mod meters;
mod network;
pub mod offline;
mod operate;
mod options;
mod pacer;
mod passage;
mod peer;
mod proposer;
mod read_index;
mod replica;
mod succession;
mod token_secret;
mod trace;
mod wall_clocks;

/// What a member decides, as plain state without tasks, clocks and wires. The member's tasks drive it, and simulations do.
pub mod logic {
    pub use rollcall_storage::log_id;

    pub use crate::barrier::Need;
    pub use crate::clock::{ClockOptions, LeaderClock, Tenure, Told};
    pub use crate::freshness::{Freshness, Stamps};
    pub use crate::merged::Commands;
    pub use crate::message::{Lead, ProposeResponse, Stamp};
    pub use crate::network::Leadership;
    pub use crate::pacer::{TICK, expiry, is_more_due};
    pub use crate::passage::{Attempt, Delivery, Next, Passage, Step};
    pub use crate::proposer::{Answer, Asker, Request, Ticket};
}

pub use admission::Door;
pub use autopilot::{Autopilot, AutopilotReport, Finding, Kept};
pub use barrier::{BarrierError, Consistency, DigestError, Freshness};
pub use failure::{Failure, StartError};
pub use join_secret::JoinSecret;
pub use membership::{ClusterStatus, MemberStatus};
pub use meters::{Follower, Meters, Observation};
pub use operate::{Objection, OperateError, Operated, Operation, Terms};
pub use options::{Options, StartMode};
pub use peer::{ByteStream, PeerRefusal, PeerRoute, Sent, Transport, TransportError};
pub use proposer::{Course, SubmitError};
pub use replica::{Applied, Check, Replica};
pub use rollcall_storage::meter;
pub use rollcall_storage::{Backup, ClusterId, Member, Moment, NodeId, Roll};
pub use token_secret::TokenSecret;
pub use trace::{TraceContext, TraceLink};
