//! What clusters tell each other. What is said next is `rollcall_registry::federation::teller`'s to decide; here it is put into
//! words, signed and brought there, and whoever leads does so.
//!
//! Read in this order: `message`, `nodes`, `link`, `lead`; then `reception`, and `pull`, by which a node asks another cluster
//! for what it has not told yet.

mod lead;
mod link;
mod message;
mod nodes;
mod pull;
mod reception;

pub(crate) use lead::attend;
pub(crate) use link::{Links, record};
pub(crate) use message::{Asked, Closing, Message, Own, closing, did, words};
pub(crate) use nodes::{check_authorities, klp_url};
pub(crate) use pull::{Pulls, Source, freshen};
pub(crate) use reception::{take_in, unknown_peer};

use std::time::{SystemTime, UNIX_EPOCH};

use rollcall_registry::{State, WallTime};
use rollcall_replica::Replica;

/// How often another cluster is told that there was nothing to tell.
const BOOKMARK_INTERVAL: std::time::Duration = std::time::Duration::from_secs(10);

fn wall() -> WallTime {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    WallTime(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// The time that is given to a message: never before what the roll knows.
fn now(replica: &Replica) -> WallTime {
    replica.roll().read(State::wall).max(wall())
}
