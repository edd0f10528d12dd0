//! What processes cost: processor time and memory, from the process table.

use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The processes whose cost is measured.
#[derive(Clone, Debug, Default)]
pub struct Processes {
    watched: Vec<Watched>,
}

/// One process and what it is called in reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watched {
    pub label: String,
    pub pid: i32,
}

/// What one process cost over the window. What could not be read, as of a process that has ended, is missing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeUsage {
    pub label: String,
    pub pid: i32,
    pub cpu_s: Option<f64>,
    pub rss_bytes_begin: Option<u64>,
    pub rss_bytes_end: Option<u64>,
    /// Since the process was started.
    pub rss_bytes_peak: Option<u64>,
}

/// One process at one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ProcessSample {
    cpu_s: f64,
    rss_bytes: u64,
    rss_bytes_peak: Option<u64>,
}

impl Processes {
    pub fn new(watched: Vec<Watched>) -> Self {
        Self { watched }
    }

    /// The processes that listen at these addresses of this machine, called by their address. One that cannot be
    /// found, because it belongs to another user or another machine, is left out.
    pub fn listening_at(addresses: &[SocketAddr]) -> Self {
        let watched = table::listening_at(addresses);
        Self { watched: watched.into_iter().map(|(at, pid)| Watched { label: at.to_string(), pid }).collect() }
    }

    /// The process that is called so.
    pub fn pid_of(&self, label: &str) -> Option<i32> {
        self.watched.iter().find(|watched| watched.label == label).map(|watched| watched.pid)
    }

    /// The memory that each has now. What has ended has none.
    pub fn rss_bytes(&self) -> Vec<Option<u64>> {
        self.sample().into_iter().map(|sample| sample.map(|sample| sample.rss_bytes)).collect()
    }

    pub(crate) fn sample(&self) -> Vec<Option<ProcessSample>> {
        self.watched.iter().map(|watched| table::sample(watched.pid)).collect()
    }

    pub(crate) fn usage(&self, begin: &[Option<ProcessSample>], end: &[Option<ProcessSample>]) -> Vec<NodeUsage> {
        let usage =
            |(watched, (begin, end)): (&Watched, (&Option<ProcessSample>, &Option<ProcessSample>))| NodeUsage {
                label: watched.label.clone(),
                pid: watched.pid,
                cpu_s: begin
                    .zip(*end)
                    .map(|(begin, end)| ((end.cpu_s - begin.cpu_s).max(0.0) * 100.0).round() / 100.0),
                rss_bytes_begin: begin.map(|sample| sample.rss_bytes),
                rss_bytes_end: end.map(|sample| sample.rss_bytes),
                rss_bytes_peak: end.or(*begin).and_then(|sample| sample.rss_bytes_peak),
            };
        self.watched.iter().zip(begin.iter().zip(end)).map(usage).collect()
    }
}

/// Processor time of this process so far.
pub(crate) fn own_cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

#[cfg(target_os = "linux")]
mod table {
    use std::net::SocketAddr;

    use procfs::net::{TcpState, tcp, tcp6};
    use procfs::process::{FDTarget, Process, all_processes};

    use super::ProcessSample;

    pub(super) fn sample(pid: i32) -> Option<ProcessSample> {
        let process = Process::new(pid).ok()?;
        let stat = process.stat().ok()?;
        // A process that has ended and was not waited for has no memory any more.
        let status = process.status().ok()?;
        Some(ProcessSample {
            cpu_s: (stat.utime + stat.stime) as f64 / procfs::ticks_per_second() as f64,
            rss_bytes: status.vmrss? * 1_024,
            rss_bytes_peak: status.vmhwm.map(|kib| kib * 1_024),
        })
    }

    pub(super) fn listening_at(addresses: &[SocketAddr]) -> Vec<(SocketAddr, i32)> {
        let sockets: Vec<_> = tcp().into_iter().chain(tcp6()).flatten().collect();
        let listens = |at: SocketAddr, wanted: SocketAddr| {
            at.port() == wanted.port() && (at.ip() == wanted.ip() || at.ip().is_unspecified())
        };
        let inode = |wanted: SocketAddr| {
            let fits = |socket: &&procfs::net::TcpNetEntry| {
                socket.state == TcpState::Listen && listens(socket.local_address, wanted)
            };
            sockets.iter().find(fits).map(|socket| socket.inode)
        };
        let wanted: Vec<_> = addresses.iter().filter_map(|at| Some((*at, inode(*at)?))).collect();
        let owners = if wanted.is_empty() { Vec::new() } else { socket_owners() };
        let owner = |inode| owners.iter().find(|(owned, _)| *owned == inode).map(|(_, pid)| *pid);
        wanted.into_iter().filter_map(|(at, inode)| Some((at, owner(inode)?))).collect()
    }

    /// Sockets and who holds them, of all processes that may be looked at.
    fn socket_owners() -> Vec<(u64, i32)> {
        let mut owners = Vec::new();
        for process in all_processes().into_iter().flatten().flatten() {
            for descriptor in process.fd().into_iter().flatten().flatten() {
                if let FDTarget::Socket(inode) = descriptor.target {
                    owners.push((inode, process.pid));
                }
            }
        }
        owners
    }
}

/// Other systems have no such table to be read.
#[cfg(not(target_os = "linux"))]
mod table {
    use std::net::SocketAddr;

    use super::ProcessSample;

    pub(super) fn sample(_pid: i32) -> Option<ProcessSample> {
        None
    }

    pub(super) fn listening_at(_addresses: &[SocketAddr]) -> Vec<(SocketAddr, i32)> {
        Vec::new()
    }
}
