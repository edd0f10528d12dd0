//! What clusters tell each other. What is said next is `rollcall_registry::federation::teller`'s to decide; here it is put into
//! words, signed and brought there, and whoever leads does so.
//!
//! Read in this order: `message`, `link`, `lead`.

mod lead;
mod link;
mod message;

pub(crate) use lead::attend;
pub(crate) use link::{Links, check_authorities, messages_url, record};
pub(crate) use message::{Message, Own};

/// How often another cluster is told that there was nothing to tell.
const BOOKMARK_INTERVAL: std::time::Duration = std::time::Duration::from_secs(10);
