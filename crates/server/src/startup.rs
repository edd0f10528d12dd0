//! What hurts a node and stops nothing: looked at when it starts, warned of in the log, and named by `/readyz?verbose`.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use rollcall_registry::State;
use rustix::fs::StatVfs;
use rustix::process::{Resource, getrlimit};

/// A write waits for a flush at two nodes at least; with this much for each it is slower than most networks.
const FLUSH_MAX: Duration = Duration::from_millis(20);

/// Enough for a median that one hiccup does not move.
const FLUSHES: usize = 5;

const FLUSH_BYTES: usize = 4 << 10;

/// Removed again at once; one that a crash leaves is written over.
const PROBE: &str = "flush-probe";

/// Each client and each peer needs one, and RocksDB some hundred.
const FILES_MIN: u64 = 10_000;

/// Of the filesystem; RocksDB needs room to write anew what it drops.
const FREE_PERMILLE_MIN: u64 = 100;

/// Enough for a log that is kept long, whatever the size of the disk.
const FREE_BYTES_ENOUGH: u64 = 20 << 30;

/// From here on two nodes' logs are hard to read side by side.
const CLOCK_OFFSET_MS_MAX: i64 = 1_000;

/// `f_type` of filesystems that forget, or do not do what a flush asks of them; see statfs(2).
const UNFIT: [(i64, &str); 3] = [
    (0x0102_1994, "tmpfs, in memory: a restart of the machine loses what was acknowledged"),
    (0x8584_58f6, "ramfs, in memory: a restart of the machine loses what was acknowledged"),
    (0x794c_7630, "overlayfs, most often a container's own layer: it goes with the container, so mount a volume"),
];

/// One thing that hurts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Notice {
    pub(crate) name: &'static str,
    pub(crate) detail: String,
}

/// Looks at what does not change while the node runs. Blocks for some flushes.
pub(crate) fn look(data_dir: &Path) -> Vec<Notice> {
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    [slow_flush(median_flush(data_dir)), unfit_filesystem(filesystem(data_dir)), few_files(files)]
        .into_iter()
        .flatten()
        .collect()
}

/// How long a small durable write takes here.
fn median_flush(data_dir: &Path) -> io::Result<Duration> {
    let path = data_dir.join(PROBE);
    let mut file = OpenOptions::new().create(true).write(true).truncate(true).open(&path)?;
    let mut flush = || {
        let begun = Instant::now();
        file.write_all(&[0; FLUSH_BYTES])?;
        file.sync_data()?;
        Ok(begun.elapsed())
    };
    let took: io::Result<Vec<Duration>> = (0..FLUSHES).map(|_| flush()).collect();
    fs::remove_file(&path)?;
    Ok(median(took?))
}

fn median(mut durations: Vec<Duration>) -> Duration {
    durations.sort_unstable();
    durations[durations.len() / 2]
}

fn slow_flush(median: io::Result<Duration>) -> Option<Notice> {
    let detail = match median {
        Ok(median) if median <= FLUSH_MAX => return None,
        Ok(median) => format!(
            "a small durable write takes {} ms, more than {} ms: every write waits for one",
            median.as_millis(),
            FLUSH_MAX.as_millis()
        ),
        Err(error) => format!("how long a durable write takes could not be measured: {error}"),
    };
    Some(Notice { name: "slow_flush", detail })
}

#[cfg(target_os = "linux")]
fn filesystem(data_dir: &Path) -> i64 {
    rustix::fs::statfs(data_dir).map_or(0, |stat| stat.f_type)
}

/// Other systems do not number them.
#[cfg(not(target_os = "linux"))]
fn filesystem(_: &Path) -> i64 {
    0
}

fn unfit_filesystem(kind: i64) -> Option<Notice> {
    let (_, what) = UNFIT.iter().find(|(unfit, _)| *unfit == kind)?;
    Some(Notice { name: "filesystem", detail: format!("the data directory is on {what}") })
}

fn few_files(limit: u64) -> Option<Notice> {
    let detail = || format!("only {limit} files may be open, less than {FILES_MIN}: raise the limit (ulimit -n)");
    (limit < FILES_MIN).then(|| Notice { name: "open_files", detail: detail() })
}

/// Size of the data directory's filesystem and what may still be written to it, in bytes.
pub(crate) fn space(data_dir: &Path) -> Option<(u64, u64)> {
    let StatVfs { f_frsize, f_blocks, f_bavail, .. } = rustix::fs::statvfs(data_dir).ok()?;
    Some((f_blocks.saturating_mul(f_frsize), f_bavail.saturating_mul(f_frsize)))
}

pub(crate) fn scarce_space((size, free): (u64, u64)) -> Option<Notice> {
    let free_permille = free.saturating_mul(1_000).checked_div(size)?;
    if free_permille >= FREE_PERMILLE_MIN || free >= FREE_BYTES_ENOUGH {
        return None;
    }
    let (free_mib, percent) = (free >> 20, free_permille / 10);
    let detail =
        format!("{free_mib} MiB are free where the data directory is, {percent} %; a full disk stops the node");
    Some(Notice { name: "disk_space", detail })
}

/// `offset_ms` is that of the peer whose clock is farthest off.
pub(crate) fn clock(offset_ms: Option<i64>) -> Option<Notice> {
    let offset_ms = offset_ms.filter(|offset_ms| offset_ms.abs() > CLOCK_OFFSET_MS_MAX)?;
    let detail =
        format!("a peer's wall clock is {offset_ms} ms off this node's; nothing but times for people is wrong");
    Some(Notice { name: "clock_offset", detail })
}

/// The cluster has tokens, and this node asks for none.
pub(crate) fn open_door(state: &State, is_enforced: bool) -> Option<Notice> {
    let is_open = !is_enforced && state.access_tokens().next().is_some();
    let detail = "the cluster has access tokens, and this node runs without `auth`: whoever reaches its port may do \
                  everything; start it with --auth";
    is_open.then(|| Notice { name: "auth_off", detail: detail.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_flush_tells_and_not_the_worst() {
        let ms = |all: [u64; FLUSHES]| median(all.into_iter().map(Duration::from_millis).collect());
        assert_eq!(slow_flush(Ok(ms([1, 500, 2, 20, 300]))), None);
        let slow = slow_flush(Ok(ms([1, 500, 2, 21, 300]))).unwrap();
        assert!(slow.detail.contains("takes 21 ms"), "{slow:?}");
        assert!(slow_flush(Err(io::ErrorKind::PermissionDenied.into())).is_some());
    }

    #[test]
    fn a_probe_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        assert!(median_flush(dir.path()).is_ok());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        assert!(median_flush(&dir.path().join("missing")).is_err());
    }

    #[test]
    fn filesystems_that_forget_are_named() {
        for (kind, named) in
            [(0x0102_1994, Some("tmpfs")), (0x794c_7630, Some("overlayfs")), (0xef53, None), (0, None)]
        {
            let notice = unfit_filesystem(kind).map(|notice| notice.detail);
            assert_eq!(notice.is_some(), named.is_some(), "{notice:?}");
            assert!(notice.unwrap_or_default().contains(named.unwrap_or_default()));
        }
        #[cfg(target_os = "linux")]
        assert!(unfit_filesystem(filesystem(Path::new("/dev/shm"))).is_some(), "tmpfs on every Linux");
    }

    #[test]
    fn few_files_and_little_space_are_named() {
        assert_eq!(few_files(10_000), None);
        assert!(few_files(9_999).is_some());
        let gib = 1 << 30;
        for ((size, free), scarce) in [
            ((100 * gib, 10 * gib), false),
            ((100 * gib, 9 * gib), true),
            ((1_000 * gib, 21 * gib), false),
            ((0, 0), false),
        ] {
            assert_eq!(scarce_space((size, free)).is_some(), scarce, "{free} of {size}");
        }
        assert!(space(Path::new("/")).is_some_and(|(size, free)| size >= free));
    }

    #[test]
    fn only_a_clock_far_off_is_named() {
        for (offset_ms, named) in [(None, false), (Some(1_000), false), (Some(1_001), true), (Some(-5_000), true)] {
            assert_eq!(clock(offset_ms).is_some(), named, "{offset_ms:?}");
        }
    }
}
