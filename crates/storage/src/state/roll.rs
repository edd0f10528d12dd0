//! The replicated state as readers see it, and as apply changes it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use openraft::EntryPayload;
use openraft::entry::RaftEntry;
use parking_lot::{Mutex, RwLock};
use rollcall_registry::{ClusterTime, Digest, State, Term};
use tokio::sync::watch;

use super::rows::StateHeader;
use crate::meter::Histogram;
use crate::types::{LogEntry, LogId, Reply, StoredMembership};

/// Digests kept: at 100 entries per second, a minute and a half of them.
const DIGESTS_MAX: usize = 8192;

/// A cheap handle on the replicated state in memory.
///
/// Reads take a short shared lock, and apply takes the lock for one entry at a time.
#[derive(Clone, Debug)]
pub struct Roll(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    replicated: RwLock<Replicated>,
    applied: watch::Sender<u64>,
    applying_since: Mutex<Option<Instant>>,
    meters: StateMeters,
}

/// How long work on the state took.
#[derive(Debug)]
pub struct StateMeters {
    /// Applying one log entry.
    pub apply: Histogram,
    /// Writing one checkpoint.
    pub checkpoint: Histogram,
}

#[derive(Debug)]
pub(super) struct Replicated {
    pub(super) state: State,
    pub(super) applied: Option<LogId>,
    pub(super) membership: StoredMembership,
    digests: Digests,
}

/// The digests after the last entries, in the order of their indexes.
#[derive(Debug, Default)]
struct Digests(VecDeque<(u64, Digest)>);

impl Digests {
    fn push(&mut self, index: u64, digest: Digest) {
        if self.0.len() == DIGESTS_MAX {
            self.0.pop_front();
        }
        self.0.push_back((index, digest));
    }

    fn get(&self, index: u64) -> Option<Digest> {
        let at = self.0.binary_search_by_key(&index, |(index, _)| *index).ok()?;
        Some(self.0[at].1)
    }
}

impl Replicated {
    pub(super) fn new(state: State, applied: Option<LogId>, membership: StoredMembership) -> Self {
        let mut replicated = Self { state, applied, membership, digests: Digests::default() };
        if let Some(applied) = applied {
            replicated.digests.push(applied.index, replicated.state.digest());
        }
        replicated
    }

    /// Beside the rows, what the state is kept as.
    pub(super) fn header(&self) -> StateHeader {
        StateHeader { applied: self.applied, membership: self.membership.clone(), header: self.state.header() }
    }

    fn apply(&mut self, entry: LogEntry) -> Reply {
        let log_id = entry.log_id();
        assert!(self.applied < Some(log_id), "log applied out of order: {log_id} after {:?}", self.applied);
        let outcomes = match entry.payload {
            EntryPayload::Blank => Vec::new(),
            EntryPayload::Normal(payload) => {
                self.state.apply(Term(log_id.committed_leader_id().term), payload.proposal())
            }
            EntryPayload::Membership(membership) => {
                self.membership = StoredMembership::new(Some(log_id), membership);
                Vec::new()
            }
        };
        self.applied = Some(log_id);
        self.digests.push(log_id.index, self.state.digest());
        Reply { outcomes, revision: self.state.revision() }
    }
}

impl Roll {
    pub(super) fn new(replicated: Replicated) -> Self {
        let applied = watch::Sender::new(replicated.applied.map_or(0, |applied| applied.index));
        let applying_since = Mutex::new(None);
        let meters = StateMeters { apply: Histogram::of_durations(), checkpoint: Histogram::of_durations() };
        Self(Arc::new(Shared { replicated: RwLock::new(replicated), applied, applying_since, meters }))
    }

    /// Shows the state as it is after some log entry. `f` runs under a shared lock that holds up apply: collect `Arc`s
    /// in it and render outside.
    pub fn read<T>(&self, f: impl FnOnce(&State) -> T) -> T {
        f(&self.0.replicated.read().state)
    }

    /// The index of the last log entry applied; 0 before the first.
    pub fn applied_index(&self) -> u64 {
        self.applied().map_or(0, |applied| applied.index)
    }

    /// The last log entry applied.
    pub fn applied(&self) -> Option<LogId> {
        self.0.replicated.read().applied
    }

    /// The membership as of the last log entry applied.
    pub fn membership(&self) -> StoredMembership {
        self.0.replicated.read().membership.clone()
    }

    /// Tells the applied index after each round of apply, before the round's commands are answered.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.0.applied.subscribe()
    }

    /// The digest of the whole state after exactly the log entry `index`, of which the last 8,192 are kept.
    pub fn digest_at(&self, index: u64) -> Option<Digest> {
        self.0.replicated.read().digests.get(index)
    }

    /// When the first instance lapses or is reaped if no heartbeat comes, if that is by `up_to`.
    pub fn next_due_by(&self, up_to: ClusterTime) -> Option<ClusterTime> {
        self.0.replicated.write().state.next_due_by(up_to)
    }

    /// Since when the present round of apply has been running; none between rounds.
    pub fn applying_since(&self) -> Option<Instant> {
        *self.0.applying_since.lock()
    }

    pub fn meters(&self) -> &StateMeters {
        &self.0.meters
    }

    /// Counts what is applied from here on, and not what a start replayed.
    pub fn begin_tally(&self) {
        self.with(|replicated| replicated.state.begin_tally());
    }

    /// Marks a round of apply until the guard is dropped.
    pub(super) fn begin_round(&self) -> Round<'_> {
        *self.0.applying_since.lock() = Some(Instant::now());
        Round(&self.0)
    }

    pub(super) fn apply(&self, entry: LogEntry) -> Reply {
        let begun = Instant::now();
        let reply = self.0.replicated.write().apply(entry);
        self.0.meters.apply.observe_duration(begun.elapsed());
        reply
    }

    /// Tells the applied index to subscribers.
    pub(super) fn publish(&self) {
        self.0.applied.send_replace(self.applied_index());
    }

    pub(super) fn with<T>(&self, f: impl FnOnce(&mut Replicated) -> T) -> T {
        f(&mut self.0.replicated.write())
    }
}

pub(super) struct Round<'a>(&'a Shared);

impl Drop for Round<'_> {
    fn drop(&mut self) {
        *self.0.applying_since.lock() = None;
    }
}
