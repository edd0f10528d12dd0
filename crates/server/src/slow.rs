//! Tells of requests that took long, and not of each when everything does.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Lines in one [`WINDOW`]: when there is no leader every request is slow, and thousands may wait.
const LINES_MAX: u32 = 10;

const WINDOW: Duration = Duration::from_secs(1);

/// Decides which requests are told of.
#[derive(Debug)]
pub(crate) struct SlowLog {
    /// None: no request is.
    limit: Option<Duration>,
    window: Mutex<Window>,
}

#[derive(Debug, Default)]
struct Window {
    begun_at: Option<Instant>,
    lines: u32,
    /// Since the last line.
    untold: u64,
}

impl SlowLog {
    /// Requests that take longer than `slow_ms` are told of; none if it is 0.
    pub(crate) fn new(slow_ms: u64) -> Self {
        let limit = (slow_ms > 0).then(|| Duration::from_millis(slow_ms));
        Self { limit, window: Mutex::default() }
    }

    /// Whether this one is to be told of, and then how many were not since the last that was.
    pub(crate) fn tells(&self, took: Duration, now: Instant) -> Option<u64> {
        if self.limit.is_none_or(|limit| took <= limit) {
            return None;
        }
        let mut window = self.window.lock();
        if window.begun_at.is_none_or(|begun_at| now.saturating_duration_since(begun_at) >= WINDOW) {
            (window.begun_at, window.lines) = (Some(now), 0);
        }
        if window.lines == LINES_MAX {
            window.untold += 1;
            return None;
        }
        window.lines += 1;
        Some(std::mem::take(&mut window.untold))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_decides_and_a_flood_is_cut() {
        let (log, start) = (SlowLog::new(500), Instant::now());
        assert_eq!(log.tells(Duration::from_millis(500), start), None);
        let slow = Duration::from_millis(501);
        let told = (0..100).filter(|_| log.tells(slow, start).is_some()).count();
        assert_eq!(told, LINES_MAX as usize);
        assert_eq!(log.tells(slow, start + WINDOW), Some(90));
        assert_eq!(log.tells(slow, start + WINDOW), Some(0));
    }

    #[test]
    fn zero_switches_it_off() {
        assert_eq!(SlowLog::new(0).tells(Duration::MAX, Instant::now()), None);
    }
}
