//! One line on a terminal, renewed each second.

use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;
use tokio::time::{Instant, MissedTickBehavior};

use crate::record::{self, histogram};

const INTERVAL: Duration = Duration::from_secs(1);

pub(crate) struct Live {
    /// Since the line was last written.
    latency_us: Mutex<Histogram<u64>>,
    errors: AtomicU64,
}

impl Default for Live {
    fn default() -> Self {
        Self { latency_us: Mutex::new(histogram()), errors: AtomicU64::new(0) }
    }
}

impl Live {
    /// The latency of a success, none for an error.
    pub(crate) fn note(&self, latency: Option<Duration>) {
        match latency {
            Some(latency) => {
                record::note(&mut self.latency_us.lock().unwrap_or_else(PoisonError::into_inner), latency);
            }
            None => {
                self.errors.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    pub(crate) async fn show(&self, title: &str) {
        let start = Instant::now();
        let mut ticks = tokio::time::interval_at(start + INTERVAL, INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.write(&self.line(title, start.elapsed()));
        }
    }

    fn line(&self, title: &str, elapsed: Duration) -> String {
        let mut latency = self.latency_us.lock().unwrap_or_else(PoisonError::into_inner);
        let ms = |quantile| latency.value_at_quantile(quantile) as f64 / 1_000.0;
        let line = format!(
            "{title}  {} s  {} op/s  p50 {:.2} ms  p99 {:.2} ms  errors {}",
            elapsed.as_secs(),
            latency.len(),
            ms(0.5),
            ms(0.99),
            self.errors.load(Ordering::Relaxed)
        );
        latency.reset();
        line
    }

    /// Takes the line away.
    pub(crate) fn clear(&self) {
        self.write("");
    }

    fn write(&self, line: &str) {
        let mut stderr = std::io::stderr().lock();
        // Progress that nobody can see is no failure.
        let _ = write!(stderr, "\r\x1b[2K{line}").and_then(|()| stderr.flush());
    }
}
