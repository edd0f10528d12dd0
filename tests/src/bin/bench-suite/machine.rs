//! What the figures were measured on.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// Enough for a median and a 99th percentile, few enough for a slow disk.
const SYNCS: usize = 200;
const SYNC_BYTES: usize = 4_096;
/// A very slow disk is not measured for longer.
const SYNCS_TIME_MAX: Duration = Duration::from_secs(10);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Machine {
    pub(crate) cpu: String,
    pub(crate) cores: usize,
    pub(crate) memory_bytes: u64,
    pub(crate) kernel: String,
    pub(crate) disk: Disk,
}

/// Where the nodes keep their data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Disk {
    pub(crate) device: String,
    pub(crate) file_system: String,
    /// Appending 4 KiB and flushing them.
    pub(crate) fdatasync_us_p50: u64,
    pub(crate) fdatasync_us_p99: u64,
}

impl Machine {
    /// # Errors
    /// When the disk cannot be written to.
    pub(crate) fn look(data: &Path) -> io::Result<Self> {
        let memory_kib = field("/proc/meminfo", "MemTotal").and_then(|text| text.split(' ').next()?.parse().ok());
        Ok(Self {
            cpu: field("/proc/cpuinfo", "model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
            cores: std::thread::available_parallelism().map_or(0, Into::into),
            memory_bytes: memory_kib.unwrap_or(0_u64) * 1_024,
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned(),
            disk: Disk::look(data)?,
        })
    }
}

impl Disk {
    fn look(data: &Path) -> io::Result<Self> {
        let data = data.canonicalize()?;
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let (device, file_system) = mount_of(&mounts, &data).unwrap_or_default();
        let us = fdatasync_us(&data)?;
        Ok(Self {
            device,
            file_system,
            fdatasync_us_p50: us[us.len() / 2],
            fdatasync_us_p99: us[(us.len() * 99 / 100).min(us.len() - 1)],
        })
    }

    /// Whether what is written there ever reaches a disk.
    pub(crate) fn is_memory(&self) -> bool {
        ["tmpfs", "ramfs"].contains(&self.file_system.as_str())
    }
}

/// The value behind `key` in a file of `key: value` lines.
fn field(path: &str, key: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find(|line| line.split(':').next().is_some_and(|name| name.trim() == key))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// The device and the file system of a path, by the text of `/proc/self/mountinfo`.
fn mount_of(mounts: &str, path: &Path) -> Option<(String, String)> {
    let found = mounts.lines().filter_map(|line| {
        let (mount, source) = line.split_once(" - ")?;
        let point = Path::new(mount.split(' ').nth(4)?);
        let mut source = source.split(' ');
        let (file_system, device) = (source.next()?, source.next()?);
        path.starts_with(point).then(|| (point.components().count(), device.to_owned(), file_system.to_owned()))
    });
    // Of mounts at the same place the last one covers the others.
    found.max_by_key(|(depth, ..)| *depth).map(|(_, device, file_system)| (device, file_system))
}

/// How long flushes of a file that grows take, sorted. Never empty.
fn fdatasync_us(data: &Path) -> io::Result<Vec<u64>> {
    let path = data.join("fdatasync");
    let mut file = File::create(&path)?;
    let (begun, mut us) = (Instant::now(), Vec::with_capacity(SYNCS));
    while us.is_empty() || (us.len() < SYNCS && begun.elapsed() < SYNCS_TIME_MAX) {
        let one = Instant::now();
        file.write_all(&[0xA5; SYNC_BYTES])?;
        file.sync_data()?;
        us.push(u64::try_from(one.elapsed().as_micros()).unwrap_or(u64::MAX));
    }
    drop(file);
    fs::remove_file(&path)?;
    us.sort_unstable();
    Ok(us)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_with_the_longest_way_wins_and_the_last_of_equals() {
        let mounts = "22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n\
                      23 22 0:21 / /data rw - tmpfs none rw\n\
                      24 22 0:22 / /data rw master:2 - xfs /dev/vdb rw\n";
        let mount = |path: &str| mount_of(mounts, Path::new(path)).expect("a mount");
        assert_eq!(mount("/data/x"), ("/dev/vdb".to_owned(), "xfs".to_owned()));
        assert_eq!(mount("/database"), ("/dev/vda".to_owned(), "ext4".to_owned()));
    }

    #[test]
    fn this_machine_can_be_described() {
        let directory = tempfile::tempdir().expect("a directory");
        let machine = Machine::look(directory.path()).expect("a machine");
        assert!(machine.cores > 0 && !machine.cpu.is_empty(), "{machine:?}");
        assert!(machine.disk.fdatasync_us_p50 <= machine.disk.fdatasync_us_p99);
    }
}
