//! Other registries' wire contracts on the same roll.
//!
//! A face translates: requests of its contract into commands and queries on the one model, and what is on the roll into
//! its answers. It holds no state, no index and no rule of its own; what is registered through one face is found through
//! all the others.

pub(crate) mod protolink;
pub(crate) mod soorma;

use rollcall_registry::Status;

/// What is found by contracts that have no word for an instance's status: their clients would call those under maintenance.
const AVAILABLE: [Status; 3] = [Status::Active, Status::Degraded, Status::Error];
