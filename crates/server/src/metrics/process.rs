//! What the kernel knows of this process, under the names that all Prometheus clients use.

use std::fmt;

use procfs::process::{LimitValue, Process};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::registry::Unit;

use super::encode::Writer;

#[derive(Debug)]
pub(super) struct Collected;

impl Collector for Collected {
    /// What cannot be read is left out.
    fn encode(&self, encoder: DescriptorEncoder) -> fmt::Result {
        let mut writer = Writer(encoder);
        let Ok(process) = Process::myself() else { return Ok(()) };
        if let Ok(stat) = process.stat() {
            let ticks_per_s = procfs::ticks_per_second() as f64;
            let cpu_s = (stat.utime + stat.stime) as f64 / ticks_per_s;
            writer.counter("process_cpu", "User and system time of all threads.", Some(Unit::Seconds), cpu_s)?;
            if let Ok(boot_s) = procfs::boot_time_secs() {
                let start_s = boot_s as f64 + stat.starttime as f64 / ticks_per_s;
                let help = "When the process started, since the Unix epoch.";
                writer.gauge("process_start_time", help, Some(Unit::Seconds), start_s)?;
            }
            let resident = (stat.rss * procfs::page_size()) as f64;
            writer.gauge("process_resident_memory", "Memory in RAM.", Some(Unit::Bytes), resident)?;
            writer.gauge("process_virtual_memory", "Address space.", Some(Unit::Bytes), stat.vsize as f64)?;
            writer.gauge("process_threads", "Threads.", None, stat.num_threads as f64)?;
        }
        if let Ok(open) = process.fd_count() {
            writer.gauge("process_open_fds", "Open file descriptors.", None, open as f64)?;
        }
        if let Ok(limits) = process.limits() {
            let max = match limits.max_open_files.soft_limit {
                LimitValue::Unlimited => f64::INFINITY,
                LimitValue::Value(max) => max as f64,
            };
            writer.gauge("process_max_fds", "Most file descriptors that may be open.", None, max)?;
        }
        Ok(())
    }
}
