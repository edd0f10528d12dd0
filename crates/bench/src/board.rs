//! Which change was seen by how many watchers, and when.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::record::{histogram, note};
use crate::report::percentiles;

/// Where watchers note what they have seen, and where who made a change waits until all have seen it. A watcher may
/// see a change before its maker knows the revision of it.
#[derive(Debug)]
pub struct Board {
    watchers: u64,
    notes: Mutex<Notes>,
}

#[derive(Debug, Default)]
struct Notes {
    /// By revision.
    changes: HashMap<u64, Noted>,
    /// Why a watcher sees nothing more.
    lost: Option<String>,
}

#[derive(Debug, Default)]
struct Noted {
    watchers: u64,
    /// By the first and by the last watcher so far.
    seen: Option<Seen>,
    waiting: Option<oneshot::Sender<Seen>>,
}

/// When the first watcher and when the last one saw a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    pub first: Instant,
    pub last: Instant,
}

/// How long after changes were sent the first watcher and the last one saw them.
#[derive(Debug)]
pub struct Delays {
    first_us: Histogram<u64>,
    last_us: Histogram<u64>,
}

impl Default for Delays {
    fn default() -> Self {
        Self { first_us: histogram(), last_us: histogram() }
    }
}

impl Delays {
    pub fn note(&mut self, sent: Instant, seen: Seen) {
        note(&mut self.first_us, seen.first - sent);
        note(&mut self.last_us, seen.last - sent);
    }

    pub fn reset(&mut self) {
        self.first_us.reset();
        self.last_us.reset();
    }

    /// What several have noted, for the report.
    pub fn report<'a>(all: impl IntoIterator<Item = &'a Self>) -> Value {
        let mut sum = Self::default();
        for delays in all {
            sum.first_us += &delays.first_us;
            sum.last_us += &delays.last_us;
        }
        json!({ "seen_by_first_us": percentiles(&sum.first_us), "seen_by_last_us": percentiles(&sum.last_us) })
    }
}

/// Why a change was not seen by all.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NotSeen {
    #[error("{seen} of {watchers} watchers saw revision {revision} within {timeout_ms} ms")]
    Late { revision: u64, seen: u64, watchers: u64, timeout_ms: u128 },
    #[error("a watcher was lost: {why}")]
    Lost { why: String },
}

impl Board {
    pub fn new(watchers: u64) -> Self {
        Self { watchers, notes: Mutex::default() }
    }

    pub fn watchers(&self) -> u64 {
        self.watchers
    }

    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A watcher sees the change of this revision now.
    pub fn note(&self, revision: u64) {
        let now = Instant::now();
        let mut notes = self.notes();
        let noted = notes.changes.entry(revision).or_default();
        noted.watchers += 1;
        let seen = Seen { first: noted.seen.map_or(now, |seen| seen.first), last: now };
        noted.seen = Some(seen);
        if noted.watchers == self.watchers
            && let Some(waiting) = noted.waiting.take()
        {
            notes.changes.remove(&revision);
            // Whoever waited may have given up just now.
            let _ = waiting.send(seen);
        }
    }

    /// A watcher will see nothing more, so nobody needs to wait for it.
    pub fn lose(&self, why: String) {
        let mut notes = self.notes();
        notes.lost.get_or_insert(why);
        notes.changes.clear();
    }

    /// Why a watcher was lost, if one was.
    pub fn lost(&self) -> Option<String> {
        self.notes().lost.clone()
    }

    /// Waits until all watchers have seen a change.
    ///
    /// # Errors
    /// When one of them does not see it in time, or nothing any more.
    pub async fn seen_by_all(&self, revision: u64, timeout: Duration) -> Result<Seen, NotSeen> {
        let waiting = {
            let mut notes = self.notes();
            if let Some(why) = &notes.lost {
                return Err(NotSeen::Lost { why: why.clone() });
            }
            let noted = notes.changes.entry(revision).or_default();
            if let Some(seen) = noted.seen.filter(|_| noted.watchers == self.watchers) {
                notes.changes.remove(&revision);
                return Ok(seen);
            }
            let (sender, waiting) = oneshot::channel();
            noted.waiting = Some(sender);
            waiting
        };
        match tokio::time::timeout(timeout, waiting).await {
            Ok(Ok(seen)) => Ok(seen),
            Ok(Err(_)) => Err(NotSeen::Lost { why: self.lost().unwrap_or_default() }),
            Err(_) => {
                let seen = self.notes().changes.remove(&revision).map_or(0, |noted| noted.watchers);
                let (watchers, timeout_ms) = (self.watchers, timeout.as_millis());
                Err(NotSeen::Late { revision, seen, watchers, timeout_ms })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[tokio::test(start_paused = true)]
    async fn a_change_is_seen_when_the_last_watcher_saw_it() {
        let board = Board::new(2);
        let begun = Instant::now();
        let watch = async {
            for revision in [7, 8, 7] {
                tokio::time::advance(MS * 10).await;
                board.note(revision);
            }
        };
        let (seen, ()) = tokio::join!(board.seen_by_all(7, MS * 100), watch);
        assert_eq!(seen.ok(), Some(Seen { first: begun + MS * 10, last: begun + MS * 30 }));

        // Before its maker knows of it.
        board.note(8);
        assert_eq!(board.seen_by_all(8, MS).await.ok(), Some(Seen { first: begun + MS * 20, last: begun + MS * 30 }));
        assert!(board.notes().changes.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_in_vain_is_told_why() {
        let board = Board::new(2);
        board.note(7);
        let late = board.seen_by_all(7, MS * 5).await.expect_err("only one saw it").to_string();
        assert_eq!(late, "1 of 2 watchers saw revision 7 within 5 ms");
        let (lost, ()) = tokio::join!(board.seen_by_all(8, MS * 5), async { board.lose("it was cut".into()) });
        assert_eq!(lost.expect_err("one was lost").to_string(), "a watcher was lost: it was cut");
        assert_eq!(
            board.seen_by_all(9, MS).await.expect_err("one was lost").to_string(),
            "a watcher was lost: it was cut"
        );
    }
}
