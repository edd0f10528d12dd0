//! One watcher, from the matches of now through what changed since to what changes.

use std::pin::Pin;
use std::time::Duration;

use rollcall_registry::{Epoch, Page, Position, Query, Ranking, Revision, Sort, State};
use smallvec::{SmallVec, smallvec};
use tokio::time::{Instant, Sleep};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::Question;
use super::feed::{Changes, Taken};
use super::foreign::Foreign;
use super::frame::Present;
use super::hub::{Changed, Hub, Joined, STRETCH_BYTES};
use super::places::Place;
use crate::render::Moment;

/// A bookmark comes at least every 10 s; watchers that began together are spread over this range.
const BOOKMARK_AFTER: std::ops::Range<Duration> = Duration::from_secs(7)..Duration::from_secs(9);

/// Service objects of a snapshot that are read at once.
pub(super) const SNAPSHOT_PAGE: usize = 128;

/// A watcher that is so far behind does not take a place in its feed yet.
const FAR_BEHIND: u64 = 4_096;

/// Bytes given out at once: as much as the connection holds back.
pub(super) const TOLD_BYTES: usize = 64 << 10;

/// Where a watcher begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Begin {
    /// With what matches now.
    Now,
    /// After this revision.
    After(Revision),
}

/// What came after the resume point is no longer known in full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Compacted {
    pub(crate) oldest_known: Revision,
}

/// What a watcher is told.
#[derive(Debug)]
pub(crate) enum Told {
    /// Some of those that matched at a revision, or of other clusters' that match.
    Snapshot { found: Vec<Present>, revision: Revision, moment: Moment },
    /// All of those were told.
    Synced(Revision),
    /// What changed, in order: here, or in other clusters.
    Changes(SmallVec<[Changes; 1]>),
    /// Everything up to here was told.
    Bookmark(Revision),
    /// The watcher has to begin again after this revision; nothing more comes.
    Resync(Revision),
}

/// Told by [`Self::next`]. Ends by itself when the node shuts down.
pub(crate) struct Watcher {
    hub: Hub,
    question: Question,
    phase: Phase,
    /// Everything up to here was told; nothing for certain before the snapshot is whole.
    told: Revision,
    epoch: Epoch,
    /// For who asks for other clusters' instances too.
    foreign: Option<Box<Foreign>>,
    bookmark: Pin<Box<Sleep>>,
    /// Waited for once, and not anew with each change.
    stopped: Pin<Box<WaitForCancellationFutureOwned>>,
    _place: Place,
}

enum Phase {
    Snapshot(Snapshot),
    /// A resumed watcher is told when it has come to the present.
    CatchUp {
        resumed: bool,
    },
    Live(Joined),
    Ended,
}

/// How far the matches of one revision were told.
struct Snapshot {
    revision: Revision,
    /// Which of the question's filters is at its turn.
    filter: usize,
    /// Read and not told yet.
    page: Option<(Page, Moment)>,
    after: Option<Position>,
}

impl Hub {
    /// Begins to watch. A resume point must have been applied here, and be of the roll's epoch.
    pub(crate) fn watch(
        &self,
        question: Question,
        begin: Begin,
        place: Place,
        stop: CancellationToken,
    ) -> Result<Watcher, Compacted> {
        let replica = &self.shared().replica;
        let first = page_of(&question, 0, None);
        let cluster_time = replica.cluster_time();
        let (begun, epoch) = replica.roll().read(|state| {
            let begun = match begin {
                // The first page is read at once, because what is present is found faster than what is past.
                Begin::Now => Ok(Some((state.query(&first), Moment::of(state, cluster_time)))),
                Begin::After(known) if known < state.oldest_known() => {
                    Err(Compacted { oldest_known: state.oldest_known() })
                }
                Begin::After(_) => Ok(None),
            };
            (begun, state.epoch())
        });
        let (phase, told) = match (begun?, begin) {
            (Some((page, moment)), _) => {
                let revision = page.revision;
                let page = Some((page, moment));
                (Phase::Snapshot(Snapshot { revision, filter: 0, page, after: None }), Revision(0))
            }
            (None, Begin::After(known)) => (Phase::CatchUp { resumed: true }, known),
            (None, Begin::Now) => unreachable!("a page was read"),
        };
        let bookmark = Box::pin(tokio::time::sleep(bookmark_after()));
        let stopped = Box::pin(stop.cancelled_owned());
        let foreign = None;
        Ok(Watcher { hub: self.clone(), question, phase, told, epoch, foreign, bookmark, stopped, _place: place })
    }
}

fn page_of(question: &Question, filter: usize, after: Option<Position>) -> Query {
    let (tenant, filter) = (question.tenant.clone(), question.filters[filter].clone());
    Query { tenant, filter, sort: Sort::Id, ranking: Ranking::default(), after, limit: SNAPSHOT_PAGE }
}

fn bookmark_after() -> Duration {
    rand::random_range(BOOKMARK_AFTER)
}

impl Watcher {
    /// The same, told of other clusters' instances too if that is asked for.
    pub(crate) fn federated(mut self, is_asked_for: bool) -> Self {
        self.foreign = is_asked_for.then(|| Box::new(Foreign::new(&self.hub)));
        self
    }

    /// The epoch in which its revisions are counted. A node has another one only after it was restored or recovered,
    /// which it has to be stopped for.
    pub(crate) fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Where it begins: the revision that the snapshot shows, or the resume point.
    pub(crate) fn begins(&self) -> Revision {
        match &self.phase {
            Phase::Snapshot(snapshot) => snapshot.revision,
            _ => self.told,
        }
    }

    /// The next thing to tell, waited for; none at the end. May be dropped and called again.
    pub(crate) async fn next(&mut self) -> Option<Told> {
        loop {
            let told = match &mut self.phase {
                Phase::Snapshot(_) => self.snapshot(),
                Phase::CatchUp { resumed } => {
                    let resumed = *resumed;
                    let hub = self.hub.clone();
                    let _turn = hub.shared().catching_up.acquire().await;
                    self.catch_up(resumed)
                }
                Phase::Live(_) => return self.live().await,
                Phase::Ended => return None,
            };
            if told.is_some() {
                return told;
            }
            // A long way through the past leaves room for others.
            tokio::task::yield_now().await;
        }
    }

    fn snapshot(&mut self) -> Option<Told> {
        let Phase::Snapshot(snapshot) = &mut self.phase else { unreachable!("this is the snapshot's turn") };
        let revision = snapshot.revision;
        if snapshot.filter == self.question.filters.len() {
            // One word ends it and what there is of other clusters.
            let told = match &mut self.foreign {
                Some(foreign) => foreign.next(&self.hub, &self.question, revision),
                None => Some(Told::Synced(revision)),
            };
            if let Some(Told::Synced(_)) = told {
                (self.told, self.phase) = (revision, Phase::CatchUp { resumed: false });
            }
            return told;
        }
        let replica = &self.hub.shared().replica;
        let read = snapshot.page.take().or_else(|| {
            let query = page_of(&self.question, snapshot.filter, snapshot.after.take());
            let cluster_time = replica.cluster_time();
            let read = |state: &State| (state.query_at(&query, revision), Moment::of(state, cluster_time));
            let (page, moment) = replica.roll().read(read);
            Some((page.ok()?, moment))
        });
        let Some((mut page, moment)) = read else {
            // Who takes so long for it that its revision is forgotten would not keep up with what comes after either.
            return Some(self.cut());
        };
        let mut bytes = 0;
        let fitting = page.found.iter().take_while(|view| {
            let begins = bytes < STRETCH_BYTES;
            bytes += view.instance.bytes();
            begins
        });
        page.cut(Sort::Id, fitting.count());
        let before = &self.question.filters[..snapshot.filter];
        let mut found = page.found;
        found.retain(|view| !before.iter().any(|earlier| earlier.matches(&view.instance)));
        snapshot.after = page.next;
        snapshot.filter += usize::from(snapshot.after.is_none());
        let found: Vec<_> = found.into_iter().map(|view| (view, None)).collect();
        (!found.is_empty()).then_some(Told::Snapshot { found, revision, moment })
    }

    /// One stretch of the way from what was told to the present.
    fn catch_up(&mut self, resumed: bool) -> Option<Told> {
        // A place first: what comes after it waits there while the rest is read.
        let is_far = self.hub.told().0.saturating_sub(self.told.0) > FAR_BEHIND;
        let joined = (!is_far).then(|| self.hub.join(&self.question, self.told));
        let mut events = Vec::new();
        if joined.as_ref().is_none_or(|(_, begins)| self.told < *begins) {
            let shared = self.hub.shared();
            let cluster_time = shared.replica.cluster_time();
            let read = |state: &State| (Changed::after(state, self.told), Moment::of(state, cluster_time));
            let (changes, moment) = shared.replica.roll().read(read);
            let Some(changes) = changes else { return Some(self.cut()) };
            let mut rendering = shared.renderer.at(moment);
            let concerns = changes.iter().filter(|changed| *changed.tenant() == self.question.tenant);
            events.extend(concerns.filter_map(|changed| {
                let update = changed.update_for(&self.question)?;
                Some(changed.event(&mut rendering, &moment, update))
            }));
            self.told = changes.last().map_or(self.told, |changed| changed.revision);
        }
        let told = Changes::of(&events).map(|changes| Told::Changes(smallvec![changes]));
        let Some((joined, _)) = joined.filter(|(_, begins)| self.told >= *begins) else { return told };
        if resumed && told.is_some() {
            // Once more, for the bookmark.
            return told;
        }
        self.phase = Phase::Live(joined);
        if resumed { Some(Told::Bookmark(self.told)) } else { told }
    }

    async fn live(&mut self) -> Option<Told> {
        loop {
            let Phase::Live(joined) = &mut self.phase else { unreachable!("only a watcher with a seat is live") };
            // Before what is there is fetched: then what was told up to here is among it.
            let told = self.hub.told();
            match joined.seat.take(TOLD_BYTES) {
                Taken::Commits(commits) => {
                    let known = self.told;
                    self.told = commits.last().map_or(known, |last| known.max(last.last()));
                    // A seat may begin before what the snapshot showed.
                    let new: SmallVec<_> = commits.into_iter().filter_map(|commit| commit.after(known)).collect();
                    if new.is_empty() {
                        continue;
                    }
                    return Some(Told::Changes(new));
                }
                Taken::Cut => return Some(self.cut()),
                Taken::Nothing => self.told = self.told.max(told),
            }
            // This roll's changes first: they wait in a feed, which ends for who falls behind, and the others do not.
            if let Some(foreign) = &mut self.foreign
                && foreign.has_news()
            {
                if self.bookmark.deadline() <= Instant::now() {
                    return Some(self.bookmark());
                }
                if let Some(told) = foreign.next(&self.hub, &self.question, self.told) {
                    return Some(told);
                }
                tokio::task::yield_now().await;
                continue;
            }
            tokio::select! {
                () = joined.seat.news() => {}
                () = foreign_news(&mut self.foreign) => {}
                () = &mut self.bookmark => return Some(self.bookmark()),
                () = &mut self.stopped => {
                    // It is not waited for again.
                    self.phase = Phase::Ended;
                    return None;
                }
            }
        }
    }

    fn bookmark(&mut self) -> Told {
        self.bookmark.as_mut().reset(Instant::now() + bookmark_after());
        Told::Bookmark(self.told)
    }

    /// Ends it where it is.
    fn cut(&mut self) -> Told {
        self.phase = Phase::Ended;
        self.hub.shared().metrics.resyncs.inc();
        Told::Resync(self.told)
    }
}

/// Waits until another cluster's instance changed, if that is anything to the watcher.
async fn foreign_news(foreign: &mut Option<Box<Foreign>>) {
    match foreign {
        Some(foreign) => foreign.news().await,
        None => std::future::pending().await,
    }
}
