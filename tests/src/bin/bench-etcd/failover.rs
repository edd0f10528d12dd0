//! The leader is ended, and how long no write is taken: as `rollcall bench failover` does it, with puts.
//!
//! One writer does one write at a time, each attempt at the next endpoint, and tries a write again until it is
//! acknowledged. The longest time between two acknowledgements is what a client feels of the failover.

use std::error::Error;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use rollcall_bench::args::{Common, Window, parse_positive_duration};
use rollcall_bench::{Done, Load, Processes, Report, Session, Span};
use rollcall_tests::etcd::{EtcdClient, EtcdError};
use rollcall_tests::pass;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use tokio::time::Instant;

use crate::target::Target;
use crate::work::{lasting, ms};

/// After all endpoints failed once: else nodes that refuse at once would be kept busy with that.
const ROUND_PAUSE: Duration = Duration::from_millis(5);

/// A cluster that takes no write for so long has failed; the run ends.
const WRITE_TIME_MAX: Duration = Duration::from_secs(30);

#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Args {
    /// `--warm-up` is how long writes are done before the leader is ended, `--duration` how long after
    #[command(flatten)]
    window: Window,
    /// Yes, end the leader's process, which must be on this machine
    #[arg(long)]
    kill: bool,
    /// How the leader is ended: at once, or so that it may hand over
    #[arg(long, value_enum, default_value_t, ignore_case = true)]
    signal: Ending,
    /// How long an attempt at one endpoint may take
    #[arg(long, default_value = "200ms", value_parser = parse_positive_duration)]
    attempt_timeout: Duration,
    #[command(flatten)]
    pub(crate) common: Common,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum Ending {
    #[default]
    Kill,
    Term,
}

impl Args {
    pub(crate) async fn run(&self, target: &Target, processes: &Processes) -> Result<Report, Box<dyn Error>> {
        if !self.kill {
            return Err("failover kills the leader's process; say so by --kill".into());
        }
        let loopback = |endpoint: &String| endpoint.parse::<SocketAddr>().is_ok_and(|at| at.ip().is_loopback());
        if !target.endpoints.iter().all(loopback) {
            return Err(
                "failover kills processes of this machine only: every endpoint must be a loopback address".into()
            );
        }
        let span = Span::Window { warm_up: self.window.warm_up, duration: self.window.duration };
        let load = Load { title: "failover", kinds: &["write"], span, rate_per_s: None };
        let writer = Writer::new(target, self.attempt_timeout);
        let writing = rollcall_bench::run(&load, vec![writer], processes);
        let ((measured, writers), killed) = tokio::join!(writing, self.kill_leader(target, processes));
        let (killed, writer) = (killed?, &writers[0]);

        let end = killed.at + self.window.duration;
        let first = writer.acknowledged.iter().find(|at| **at > killed.at);
        let gap = longest_gap(&writer.acknowledged, end, |end| end > killed.at);
        let before = longest_gap(&writer.acknowledged, end, |end| end <= killed.at);
        let parameters = json!({
            "endpoints": target.endpoints, "version": target.version,
            "warm_up_ms": ms(self.window.warm_up), "duration_ms": ms(self.window.duration),
            "attempt_timeout_ms": ms(self.attempt_timeout),
            "signal": match self.signal { Ending::Kill => "KILL", Ending::Term => "TERM" },
        });
        let mut report = Report::new("failover", "etcd", parameters, &measured).with_extra(json!({
            "killed_address": killed.address, "killed_pid": killed.pid,
            "longest_gap_ms": gap,
            "first_write_after_kill_ms": first.map(|at| exact_ms(*at - killed.at)),
            "longest_gap_before_kill_ms": before,
            "attempts": writer.attempts,
            "failed_attempts": writer.failed_attempts,
        }));
        if first.is_none() {
            report.add_error(format!("no write was acknowledged within {:?} of the kill", self.window.duration));
        }
        Ok(report)
    }

    /// Ends whoever leads when the warm-up is over.
    async fn kill_leader(&self, target: &Target, processes: &Processes) -> Result<Killed, Box<dyn Error>> {
        pass(self.window.warm_up).await;
        let now = Target::find(target.endpoints.clone(), target.timeout).await?;
        let address = now.leader().ok_or("the cluster has no leader that could be killed")?.to_owned();
        let pid = processes.pid_of(&address).ok_or_else(|| format!("find the process of {address}, to kill it"))?;
        let process = Pid::from_raw(pid).ok_or("a process has a number")?;
        let signal = match self.signal {
            Ending::Kill => Signal::KILL,
            Ending::Term => Signal::TERM,
        };
        let at = Instant::now();
        kill_process(process, signal)?;
        Ok(Killed { address, pid, at })
    }
}

struct Killed {
    address: String,
    pid: i32,
    at: Instant,
}

/// The longest time between two acknowledgements whose later one is meant; the run's end is one too.
fn longest_gap(acknowledged: &[Instant], end: Instant, is_meant: impl Fn(Instant) -> bool) -> Option<f64> {
    let moments: Vec<Instant> = acknowledged.iter().copied().filter(|at| *at < end).chain([end]).collect();
    let gaps = moments.windows(2).filter(|pair| is_meant(pair[1])).map(|pair| pair[1] - pair[0]);
    gaps.max().map(exact_ms)
}

fn exact_ms(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

/// One node and, while it can be reached, the connection to it.
struct Endpoint {
    address: String,
    client: Option<EtcdClient>,
}

struct Writer {
    endpoints: Vec<Endpoint>,
    value: Bytes,
    attempt_timeout: Duration,
    attempts: usize,
    failed_attempts: usize,
    acknowledged: Vec<Instant>,
}

/// A write that nobody took.
#[derive(Debug, thiserror::Error)]
#[error("no write was taken for {WRITE_TIME_MAX:?}")]
struct NotTaken;

impl Writer {
    fn new(target: &Target, attempt_timeout: Duration) -> Self {
        let endpoint = |address: &String| Endpoint { address: address.clone(), client: None };
        Self {
            endpoints: target.endpoints.iter().map(endpoint).collect(),
            value: lasting("failover").render(0),
            attempt_timeout,
            attempts: 0,
            failed_attempts: 0,
            acknowledged: Vec::new(),
        }
    }

    /// Whether the next endpoint takes the write.
    async fn attempt(&mut self, number: u64) -> Result<(), EtcdError> {
        let place = self.attempts % self.endpoints.len();
        self.attempts += 1;
        let Endpoint { address, client } = &mut self.endpoints[place];
        // A connection that failed once is not trusted again.
        let mut connected = match client.take() {
            Some(connected) => connected,
            None => EtcdClient::connect(address, self.attempt_timeout).await?,
        };
        connected.put(format!("/failover/{number}").into(), self.value.clone(), 0).await?;
        *client = Some(connected);
        Ok(())
    }

    async fn until_taken(&mut self, number: u64) {
        let mut pause = tokio::time::interval(ROUND_PAUSE);
        let mut in_vain = 0;
        while self.attempt(number).await.is_err() {
            self.failed_attempts += 1;
            in_vain += 1;
            if in_vain % self.endpoints.len() == 0 {
                pause.reset();
                pause.tick().await;
            }
        }
        self.acknowledged.push(Instant::now());
    }
}

impl Session for Writer {
    type Error = NotTaken;

    async fn operate(&mut self, number: u64) -> Result<Done, NotTaken> {
        tokio::time::timeout(WRITE_TIME_MAX, self.until_taken(number)).await.map_err(|_| NotTaken)?;
        Ok(Done::items(1))
    }
}
