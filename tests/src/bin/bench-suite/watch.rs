//! What is seen of the nodes from outside while a load generator is at work: how their logs and their memory grow.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rollcall_bench::Processes;
use tokio::time::MissedTickBehavior;

/// Short against the time for which RocksDB keeps a log file that is full.
const LOG_INTERVAL: Duration = Duration::from_millis(50);
const MEMORY_INTERVAL: Duration = Duration::from_secs(1);

/// Sizes of the write-ahead files of some directories, by time.
#[derive(Debug)]
pub(crate) struct LogWatch {
    directories: Vec<PathBuf>,
    /// The most that was seen of each file, those included that are gone.
    sizes: HashMap<PathBuf, u64>,
    samples: Vec<(Instant, u64)>,
}

impl LogWatch {
    pub(crate) fn new(directories: Vec<PathBuf>) -> Self {
        Self { directories, sizes: HashMap::new(), samples: Vec::new() }
    }

    /// Looks again and again; never ends by itself.
    pub(crate) async fn run(&mut self) {
        let mut ticks = tokio::time::interval(LOG_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            ticks.tick().await;
            self.look();
        }
    }

    pub(crate) fn look(&mut self) {
        for directory in &self.directories {
            for (path, bytes) in write_ahead_files(directory) {
                let most = self.sizes.entry(path).or_default();
                *most = bytes.max(*most);
            }
        }
        self.samples.push((Instant::now(), self.sizes.values().sum()));
    }

    /// How many bytes were written in the time of this length that ended with the last growth, at one node on average.
    pub(crate) fn growth_until_rest(&self, length: Duration) -> Option<f64> {
        growth_until_rest(&self.samples, length).map(|bytes| bytes as f64 / self.directories.len() as f64)
    }
}

/// RocksDB's write-ahead files: `000012.log`.
fn write_ahead_files(directory: &Path) -> Vec<(PathBuf, u64)> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let log = |entry: fs::DirEntry| {
        let path = entry.path();
        // It may be gone meanwhile.
        let bytes = entry.metadata().ok()?.len();
        path.extension().is_some_and(|extension| extension == "log").then_some((path, bytes))
    };
    entries.filter_map(log).collect()
}

fn growth_until_rest(samples: &[(Instant, u64)], length: Duration) -> Option<u64> {
    let last = samples.last()?.1;
    let (end, _) = samples.iter().find(|(_, bytes)| *bytes == last)?;
    let begin = end.checked_sub(length)?;
    // The last look before the window; the load ran by then already.
    let (_, before) = samples.iter().rev().find(|(at, _)| *at <= begin)?;
    Some(last - before)
}

/// Resident sets of processes, by time since the watch began.
#[derive(Debug)]
pub(crate) struct MemoryWatch {
    processes: Processes,
    begun: Instant,
    pub(crate) samples: Vec<(Duration, Vec<Option<u64>>)>,
}

impl MemoryWatch {
    pub(crate) fn new(processes: Processes) -> Self {
        Self { processes, begun: Instant::now(), samples: Vec::new() }
    }

    /// Looks again and again; never ends by itself.
    pub(crate) async fn run(&mut self) {
        let mut ticks = tokio::time::interval(MEMORY_INTERVAL);
        loop {
            ticks.tick().await;
            self.samples.push((self.begun.elapsed(), self.processes.rss_bytes()));
        }
    }

    /// The first look at or after a moment; the last one if none is.
    pub(crate) fn at(&self, moment: Duration) -> Option<&[Option<u64>]> {
        let found = self.samples.iter().find(|(at, _)| *at >= moment).or(self.samples.last());
        found.map(|(_, rss)| rss.as_slice())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_ends_where_the_log_comes_to_rest() {
        let begun = Instant::now();
        let sample = |(second, bytes): (u64, u64)| (begun + Duration::from_secs(second), bytes);
        let samples: Vec<_> = [(0, 5), (1, 5), (2, 100), (3, 150), (4, 210), (5, 210), (9, 210)].map(sample).into();
        let growth = |seconds| growth_until_rest(&samples, Duration::from_secs(seconds));
        assert_eq!(growth(1), Some(60));
        assert_eq!(growth(2), Some(110));
        assert_eq!(growth(4), Some(205));
        assert_eq!(growth(5), None, "nobody looked so early");
        assert_eq!(growth_until_rest(&[], Duration::from_secs(1)), None);
    }

    #[test]
    fn write_ahead_files_are_told_from_others() {
        let directory = tempfile::tempdir().expect("a directory");
        for name in ["000004.log", "000007.sst", "LOG"] {
            fs::write(directory.path().join(name), "1234").expect("a file");
        }
        let mut watch = LogWatch::new(vec![directory.path().to_owned()]);
        watch.look();
        fs::remove_file(directory.path().join("000004.log")).expect("a file to remove");
        fs::write(directory.path().join("000009.log"), "12").expect("a file");
        watch.look();
        assert_eq!(watch.samples.iter().map(|(_, bytes)| *bytes).collect::<Vec<_>>(), [4, 6]);
    }
}
