//! What the watchers with one question are told, kept for as long as it takes them to come and fetch it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use rollcall_registry::Revision;
use slab::Slab;
use smallvec::SmallVec;
use tokio::sync::watch;

use super::Question;
use super::frame::Event;

/// What a commit costs beside its text.
const COMMIT_BYTES: usize = 128;

/// Room for commits that an idle feed does not give back.
const COMMITS_KEPT_FREE: usize = 8;

/// The changes that were told together, as they are sent.
#[derive(Clone, Debug)]
pub(crate) struct Changes {
    /// Server-Sent Events, one after the other.
    frames: Bytes,
    /// The revision of each, and where it ends in `frames`.
    ends: SmallVec<[(Revision, u32); 2]>,
}

impl Changes {
    /// None of no events.
    pub(super) fn of(events: &[Event]) -> Option<Self> {
        let frames = match events {
            [] => return None,
            // Shared with all other feeds that it concerns.
            [event] => event.frame.clone(),
            events => events.iter().map(|event| &event.frame[..]).collect::<Vec<_>>().concat().into(),
        };
        let mut end = 0;
        let ends = events.iter().map(|event| {
            end += event.frame.len();
            (event.revision, u32::try_from(end).expect("a commit is some megabytes"))
        });
        Some(Self { ends: ends.collect(), frames })
    }

    /// What of it came after a revision.
    pub(super) fn after(mut self, revision: Revision) -> Option<Self> {
        let known = self.ends.iter().take_while(|(told, _)| *told <= revision).count();
        if known > 0 {
            let cut = self.ends[known - 1].1;
            self.frames = self.frames.split_off(cut as usize);
            self.ends = self.ends[known..].iter().map(|(told, end)| (*told, end - cut)).collect();
        }
        (!self.ends.is_empty()).then_some(self)
    }

    pub(crate) fn frames(&self) -> &Bytes {
        &self.frames
    }

    /// Each change as the server-sent event that tells it.
    pub(crate) fn each(&self) -> impl Iterator<Item = Bytes> {
        let mut begin = 0;
        self.ends.iter().map(move |(_, end)| {
            let end = *end as usize;
            self.frames.slice(std::mem::replace(&mut begin, end)..end)
        })
    }

    /// The revision of the last one.
    pub(crate) fn last(&self) -> Revision {
        self.ends.last().expect("there is no commit without a change").0
    }

    fn bytes(&self) -> usize {
        self.frames.len() + COMMIT_BYTES
    }
}

pub(super) struct Feed {
    pub(super) question: Question,
    run: Mutex<Run>,
    /// How many commits were told, or that the feed was cut off.
    news: watch::Sender<u64>,
    /// Kept by all feeds of the node.
    bytes_of_all: Arc<AtomicUsize>,
}

#[derive(Debug)]
struct Run {
    commits: VecDeque<Changes>,
    bytes: usize,
    /// The number of the first one kept.
    first: u64,
    /// What was told up to here is not kept.
    floor: Revision,
    /// The number of the next commit of each watcher.
    places: Slab<u64>,
    /// The roll jumped: what came after the last commit is not known.
    cut: bool,
}

impl Run {
    fn drop_first(&mut self) {
        if let Some(dropped) = self.commits.pop_front() {
            self.first += 1;
            self.bytes -= dropped.bytes();
            self.floor = dropped.last();
        }
    }
}

/// What a watcher finds when it comes.
#[derive(Debug)]
pub(super) enum Taken {
    /// In order; never empty.
    Commits(SmallVec<[Changes; 1]>),
    Nothing,
    /// The watcher was too slow, or the roll jumped.
    Cut,
}

impl Feed {
    /// Of changes after `floor`.
    pub(super) fn new(question: Question, floor: Revision, bytes_of_all: Arc<AtomicUsize>) -> Self {
        let run = Run { commits: VecDeque::new(), bytes: 0, first: 0, floor, places: Slab::new(), cut: false };
        Self { question, run: Mutex::new(run), news: watch::Sender::new(0), bytes_of_all }
    }

    /// Changes what is kept, and the count of what all feeds keep.
    fn change(&self, change: impl FnOnce(&mut Run)) {
        let run = &mut *self.run.lock();
        let before = run.bytes;
        change(run);
        // Each addition wraps round to what is right in the end.
        self.bytes_of_all.fetch_add(run.bytes.wrapping_sub(before), Ordering::Relaxed);
    }

    /// Tells one commit. Beyond `bytes_max` the oldest ones are dropped, but never this one.
    pub(super) fn tell(&self, commit: Changes, bytes_max: usize) {
        self.change(|run| {
            run.bytes += commit.bytes();
            run.commits.push_back(commit);
            while run.bytes > bytes_max && run.commits.len() > 1 {
                run.drop_first();
            }
        });
        self.news.send_modify(|told| *told += 1);
    }

    /// Tells that nothing more will come.
    pub(super) fn cut(&self) {
        self.run.lock().cut = true;
        self.news.send_modify(|_| {});
    }

    /// Drops what all watchers have fetched.
    pub(super) fn tidy(&self) {
        self.change(|run| {
            // Who fell out of the run waits for nothing in it.
            let places = run.places.iter().map(|(_, next)| *next).filter(|next| *next >= run.first);
            let fetched = places.min().unwrap_or(u64::MAX);
            while run.first < fetched && !run.commits.is_empty() {
                run.drop_first();
            }
            run.commits.shrink_to(COMMITS_KEPT_FREE);
        });
    }

    /// Drops the oldest beyond `bytes_max`.
    pub(super) fn trim(&self, bytes_max: usize) {
        self.change(|run| {
            while run.bytes > bytes_max {
                run.drop_first();
            }
        });
    }

    pub(super) fn watchers(&self) -> usize {
        self.run.lock().places.len()
    }

    /// Gives a watcher that knows everything up to `known` a place; before what it does not know, if that is kept.
    pub(super) fn join(self: &Arc<Self>, known: Revision) -> Seat {
        let mut run = self.run.lock();
        let fetched = run.commits.partition_point(|commit| commit.last() <= known);
        let next = run.first + fetched as u64;
        Seat { place: run.places.insert(next), news: self.news.subscribe(), feed: self.clone() }
    }

    /// Whether all that was told after `known` is kept.
    pub(super) fn reaches(&self, known: Revision) -> bool {
        let run = self.run.lock();
        run.floor <= known && !run.cut
    }

    pub(super) fn leave(&self, seat: &Seat) {
        self.run.lock().places.remove(seat.place);
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.bytes_of_all.fetch_sub(self.run.get_mut().bytes, Ordering::Relaxed);
    }
}

/// A watcher's place in a feed. Left through [`Feed::leave`].
pub(super) struct Seat {
    pub(super) feed: Arc<Feed>,
    place: usize,
    news: watch::Receiver<u64>,
}

impl Seat {
    /// Fetches what came, about `bytes_max` at most but at least one commit.
    pub(super) fn take(&mut self, bytes_max: usize) -> Taken {
        // Seen before it is looked at, so that what comes meanwhile wakes the watcher.
        self.news.mark_unchanged();
        let run = &mut *self.feed.run.lock();
        let next = &mut run.places[self.place];
        let Some(skipped) = next.checked_sub(run.first) else { return Taken::Cut };
        let mut bytes = 0;
        let waiting = run.commits.iter().skip(usize::try_from(skipped).expect("no more than are kept"));
        let taken: SmallVec<[Changes; 1]> = waiting
            .take_while(|commit| {
                let fits = bytes == 0 || bytes + commit.bytes() <= bytes_max;
                bytes += commit.bytes();
                fits
            })
            .cloned()
            .collect();
        *next += taken.len() as u64;
        match taken.is_empty() {
            false => Taken::Commits(taken),
            true if run.cut => Taken::Cut,
            true => Taken::Nothing,
        }
    }

    /// Waits until there may be something to take.
    pub(super) async fn news(&mut self) {
        // The sender is in the feed, which this holds.
        let _ = self.news.changed().await;
    }
}
