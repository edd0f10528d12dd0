//! Watching: what the applied log changes, told in order to whoever asked.
//!
//! One task, the [`Hub`], follows the roll. All watchers with the same question share one feed: a change is judged and
//! rendered once for it, whatever their number, and feeds that a change cannot concern are not even asked. A feed keeps
//! a bounded run of what it told, and each watcher a place in it; a watcher that falls out of it is cut and told so.
//!
//! A [`Watcher`] goes through three phases: the matches of one revision, page by page; what changed since then or since
//! its resume point, out of the roll's history; and then its feed. Each phase begins where the one before it ended, by
//! revision, so that nothing is told twice and nothing is missed. The task that serves the watcher drives it, so that a
//! slow reader slows nobody else.
//!
//! Whoever asks for other clusters' instances too reads those from the roll by itself (`foreign`): all of them, and from then
//! on their changes. They have no place in this roll's order, so that they come between its changes, and feeds are
//! shared with those who do not ask.
//!
//! Read in this order: `feed`, `hub`, `watcher`, `foreign`, then `frame` and `places`.

mod feed;
mod foreign;
mod frame;
mod hub;
mod places;
mod watcher;

use std::sync::Arc;

use rollcall_registry::{Filter, Instance, TenantId};

pub(crate) use feed::Changes;
pub(crate) use frame::{bookmark, change_members, resync, snapshot, snapshot_members, synced};
pub(crate) use hub::Hub;
pub(crate) use places::{Place, Places, WatcherLimits};
pub(crate) use watcher::{Begin, Compacted, Told, Watcher};

/// What a watcher wants to be told of. Watchers with equal questions share their work.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Question {
    pub(crate) tenant: TenantId,
    /// Whatever matches any of them.
    pub(crate) filters: Arc<[Filter]>,
}

impl Question {
    fn matches(&self, instance: &Instance) -> bool {
        self.filters.iter().any(|filter| filter.matches(instance))
    }
}
