//! The one task that follows the roll for all watchers of a node.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use parking_lot::Mutex;
use rollcall_api::UpdateType;
use rollcall_registry::{
    ChangeKind, Epoch, ForeignOrigin as Origin, Instance, Interests, PeerChange, Revision, State, TenantId, View,
    WallTime,
};
use rollcall_replica::Replica;
use slab::Slab;
use smallvec::SmallVec;
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::Question;
use super::feed::{Changes, Feed, Seat};
use super::frame::{self, Event};
use crate::limits::{FEED_BYTES_MAX, FEEDS_BYTES_MAX};
use crate::metrics::WatchMetrics;
use crate::render::{Moment, Renderer, Rendering};

/// Watchers that read the past at the same time. It is work without a wait in it, and must leave a thread to others.
const CATCHING_UP_MAX: usize = 1;

/// How often what everybody has fetched is dropped.
const TIDY_INTERVAL: Duration = Duration::from_secs(1);

/// Changes that are looked at under one lock.
pub(super) const STRETCH_CHANGES: usize = 1_024;

/// They end when they may make about this much text: what a watcher that does not read holds in memory.
pub(super) const STRETCH_BYTES: usize = 128 << 10;

type FeedId = usize;

/// Tells the changes of the roll to watchers. Cheap to clone; the task ends with the last clone.
#[derive(Clone)]
pub(crate) struct Hub {
    shared: Arc<Shared>,
    _task: Arc<AbortOnDropHandle<()>>,
}

pub(super) struct Shared {
    pub(super) replica: Replica,
    pub(super) renderer: Arc<Renderer>,
    pub(super) metrics: WatchMetrics,
    feeds: Mutex<Feeds>,
    /// For watchers that read the past.
    pub(super) catching_up: Semaphore,
    /// Everything up to here is in the feeds.
    told: AtomicU64,
    /// The number of the last change of another cluster's instance, which who follows those is woken by.
    pub(super) foreign: watch::Sender<u64>,
    /// Of the interests' hashes, so that nobody can register terms that collide.
    seed: u64,
    /// Of all feeds together.
    bytes: Arc<AtomicUsize>,
}

/// A change with what is needed to tell it.
pub(super) struct Changed {
    pub(super) revision: Revision,
    kind: ChangeKind,
    wall: WallTime,
    before: Option<Arc<Instance>>,
    /// As it stands now, or stood before it went.
    shown: View,
    /// Whose it is, unless it is this cluster's own.
    origin: Option<Origin>,
    is_gone: bool,
}

impl Changed {
    /// The next stretch of changes after a revision; none if some are forgotten, or if the roll is not there yet because
    /// it was replaced.
    pub(super) fn after(state: &State, revision: Revision) -> Option<Vec<Self>> {
        if revision > state.revision() {
            return None;
        }
        let mut bytes = 0;
        let stretch = state.changes_after(revision)?.take(STRETCH_CHANGES).take_while(|change| {
            let begins = bytes < STRETCH_BYTES;
            // Whoever it leaves is shown what it was.
            bytes += change.instance().bytes().max(change.before.map_or(0, |before| before.bytes()));
            begins
        });
        let changed = stretch.map(|change| Self {
            revision: change.revision,
            kind: change.kind,
            wall: change.wall,
            before: change.before.cloned(),
            shown: state.view_of_past(change.instance()),
            origin: None,
            is_gone: change.after.is_none(),
        });
        Some(changed.collect())
    }

    /// Of another cluster's instance. The revision is that cluster's.
    pub(super) fn foreign(state: &State, change: &PeerChange<'_>) -> Self {
        let (shown, origin) = state.foreign_changed(change);
        Self {
            revision: shown.instance.revision,
            kind: change.kind,
            wall: change.wall,
            before: change.before.cloned(),
            shown,
            origin: Some(origin),
            is_gone: change.after.is_none(),
        }
    }

    pub(super) fn tenant(&self) -> &TenantId {
        &self.shown.instance.tenant
    }

    /// What it is to those who ask a question, if anything.
    pub(super) fn update_for(&self, question: &Question) -> Option<UpdateType> {
        let matched = self.before.as_ref().is_some_and(|before| question.matches(before));
        let matches = !self.is_gone && question.matches(&self.shown.instance);
        frame::update_type(self.kind, matched, matches)
    }

    pub(super) fn event(&self, rendering: &mut Rendering<'_>, moment: &Moment, update: UpdateType) -> Event {
        let view = match (&self.before, update) {
            // What it became may be none of the watcher's business.
            (Some(before), UpdateType::Left) => &View { instance: before.clone(), deadline: self.shown.deadline },
            _ => &self.shown,
        };
        let point = (moment.epoch(), self.revision);
        frame::change(rendering, point, update, view, self.origin.as_ref(), self.wall)
    }
}

struct Feeds {
    /// The roll's, in which revisions are counted.
    epoch: Epoch,
    slots: Slab<Slot>,
    by_question: HashMap<Question, FeedId>,
    interests: HashMap<TenantId, Interests<FeedId>>,
}

struct Slot {
    feed: Arc<Feed>,
    /// What the commit at hand changes for it.
    pending: Vec<Event>,
}

impl Feeds {
    fn new(epoch: Epoch) -> Self {
        Self { epoch, slots: Slab::new(), by_question: HashMap::new(), interests: HashMap::new() }
    }

    /// Feeds that a change may concern, each once.
    fn concerned(&self, changed: &Changed) -> SmallVec<[FeedId; 16]> {
        let mut feeds = SmallVec::new();
        let Some(interests) = self.interests.get(changed.tenant()) else { return feeds };
        if let Some(before) = &changed.before {
            interests.concerned(before, |feed| feeds.push(feed));
        }
        if !changed.is_gone {
            interests.concerned(&changed.shown.instance, |feed| feeds.push(feed));
        }
        feeds.sort_unstable();
        feeds.dedup();
        feeds
    }

    fn remove(&mut self, feed: FeedId) {
        let question = &self.slots.remove(feed).feed.question;
        self.by_question.remove(question);
        if let Some(interests) = self.interests.get_mut(&question.tenant) {
            question.filters.iter().for_each(|filter| interests.remove(filter, feed));
            if interests.is_empty() {
                self.interests.remove(&question.tenant);
            }
        }
    }
}

impl Hub {
    /// Follows the roll from now on. `broken` is cancelled if it ceases to by a bug: then nothing would be told any more.
    /// Must be called on a runtime.
    pub(crate) fn start(
        replica: Replica,
        renderer: Arc<Renderer>,
        metrics: WatchMetrics,
        broken: CancellationToken,
    ) -> Self {
        // Before the roll is looked at, so that what is applied meanwhile is heard of.
        let applied = replica.roll().subscribe();
        let (told, epoch, foreign) =
            replica.roll().read(|state| (state.revision(), state.epoch(), state.foreign_sequence()));
        let shared = Arc::new(Shared {
            replica,
            renderer,
            metrics,
            feeds: Mutex::new(Feeds::new(epoch)),
            catching_up: Semaphore::new(CATCHING_UP_MAX),
            told: AtomicU64::new(told.0),
            foreign: watch::Sender::new(foreign),
            seed: rand::random(),
            bytes: Arc::default(),
        });
        let following = AssertUnwindSafe(follow(shared.clone(), applied)).catch_unwind();
        let task = tokio::spawn(async move {
            if following.await.is_err() {
                broken.cancel();
            }
        });
        Self { shared, _task: Arc::new(AbortOnDropHandle::new(task)) }
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// Everything up to here was told.
    pub(super) fn told(&self) -> Revision {
        Revision(self.shared.told.load(Ordering::Acquire))
    }

    /// Joins the watchers with a question as one that knows everything up to `known`. The seat misses nothing after the
    /// revision that comes with it.
    pub(super) fn join(&self, question: &Question, known: Revision) -> (Joined, Revision) {
        let feeds = &mut *self.shared.feeds.lock();
        let told = self.told();
        let id = match feeds.by_question.entry(question.clone()) {
            Entry::Occupied(entry) => *entry.get(),
            Entry::Vacant(entry) => {
                let feed = Arc::new(Feed::new(question.clone(), told, self.shared.bytes.clone()));
                let id = feeds.slots.insert(Slot { feed, pending: Vec::new() });
                let tenant = question.tenant.clone();
                let interests = feeds.interests.entry(tenant).or_insert_with(|| Interests::new(self.shared.seed));
                question.filters.iter().for_each(|filter| interests.insert(filter, id));
                self.shared.metrics.feeds.inc();
                *entry.insert(id)
            }
        };
        let feed = &feeds.slots[id].feed;
        let begins = if feed.reaches(known) { known } else { told };
        let seat = feed.join(begins);
        (Joined { hub: self.clone(), id, seat }, begins)
    }
}

/// A seat in a feed that ends with its last watcher.
pub(super) struct Joined {
    hub: Hub,
    id: FeedId,
    pub(super) seat: Seat,
}

impl Drop for Joined {
    fn drop(&mut self) {
        let shared = &self.hub.shared;
        let mut feeds = shared.feeds.lock();
        self.seat.feed.leave(&self.seat);
        // One that was cut off is no longer among them, and its place may have been taken.
        let is_among = feeds.slots.get(self.id).is_some_and(|slot| Arc::ptr_eq(&slot.feed, &self.seat.feed));
        if is_among && self.seat.feed.watchers() == 0 {
            feeds.remove(self.id);
            shared.metrics.feeds.dec();
        }
    }
}

async fn follow(shared: Arc<Shared>, mut applied: watch::Receiver<u64>) {
    let mut tidied = Instant::now();
    loop {
        match tokio::time::timeout(TIDY_INTERVAL, applied.changed()).await {
            Ok(Ok(())) => {
                while shared.tell() {
                    // A long stretch leaves room for those who join, and for whoever else runs here.
                    tokio::task::yield_now().await;
                }
            }
            Ok(Err(_)) => return,
            Err(_) => {}
        }
        if tidied.elapsed() >= TIDY_INTERVAL {
            shared.tidy(&shared.feeds.lock());
            tidied = Instant::now();
        }
    }
}

impl Shared {
    /// Tells what was applied since the last call, a stretch of it if it is much; then there is more. The changes of one
    /// log entry are applied under one lock, so that they are seen together.
    fn tell(&self) -> bool {
        let feeds = &mut *self.feeds.lock();
        let told = Revision(self.told.load(Ordering::Relaxed));
        let cluster_time = self.replica.cluster_time();
        let (changes, revision, foreign, moment) = self.replica.roll().read(|state| {
            let changes = match feeds.slots.is_empty() {
                true => Some(Vec::new()),
                false => Changed::after(state, told),
            };
            (changes, state.revision(), state.foreign_sequence(), Moment::of(state, cluster_time))
        });
        self.foreign.send_if_modified(|known| std::mem::replace(known, foreign) != foreign);
        let told = match changes {
            Some(_) if moment.epoch() != std::mem::replace(&mut feeds.epoch, moment.epoch()) => {
                self.cut_off(feeds);
                revision
            }
            Some(changes) => {
                self.tell_changes(feeds, &changes, moment);
                changes.last().map_or(revision, |changed| changed.revision)
            }
            // The state was replaced by one whose history begins later.
            None => {
                self.cut_off(feeds);
                revision
            }
        };
        self.told.store(told.0, Ordering::Release);
        told < revision
    }

    fn tell_changes(&self, feeds: &mut Feeds, changes: &[Changed], moment: Moment) {
        let mut rendering = self.renderer.at(moment);
        let mut touched: Vec<FeedId> = Vec::new();
        for changed in changes {
            let mut events: SmallVec<[(UpdateType, Event); 2]> = SmallVec::new();
            for id in feeds.concerned(changed) {
                let slot = &mut feeds.slots[id];
                let Some(update) = changed.update_for(&slot.feed.question) else { continue };
                let event = match events.iter().find(|(known, _)| *known == update) {
                    Some((_, event)) => event.clone(),
                    None => {
                        let event = changed.event(&mut rendering, &moment, update);
                        events.push((update, event.clone()));
                        event
                    }
                };
                if slot.pending.is_empty() {
                    touched.push(id);
                }
                slot.pending.push(event);
            }
            self.metrics.events.inc_by(events.len() as u64);
        }
        for id in touched {
            let slot = &mut feeds.slots[id];
            if let Some(commit) = Changes::of(&std::mem::take(&mut slot.pending)) {
                slot.feed.tell(commit, FEED_BYTES_MAX);
            }
            if self.bytes.load(Ordering::Relaxed) > FEEDS_BYTES_MAX {
                self.make_room(feeds);
            }
        }
    }

    /// What everybody has fetched goes first; then each feed has an equal share, and those who hold more are the slow ones.
    fn make_room(&self, feeds: &Feeds) {
        self.tidy(feeds);
        if self.bytes.load(Ordering::Relaxed) > FEEDS_BYTES_MAX {
            let share = FEEDS_BYTES_MAX / feeds.slots.len().max(1);
            feeds.slots.iter().for_each(|(_, slot)| slot.feed.trim(share));
        }
    }

    fn cut_off(&self, feeds: &mut Feeds) {
        for (_, slot) in std::mem::replace(feeds, Feeds::new(feeds.epoch)).slots {
            slot.feed.cut();
            self.metrics.feeds.dec();
        }
    }

    fn tidy(&self, feeds: &Feeds) {
        feeds.slots.iter().for_each(|(_, slot)| slot.feed.tidy());
    }
}
