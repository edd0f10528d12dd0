//! The leader is killed, and how long no write is taken.
//!
//! One writer does one write at a time, each attempt at the next endpoint, and tries a write again until it is
//! acknowledged. The longest time between two acknowledgements is what a client feels of the failover.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use hyper::Uri;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::lookup::tail_number;
use super::{Finished, Run, ms};
use crate::args::{Common, Window, parse_positive_duration};
use crate::documents::{Documents, Shape};
use crate::engine::{Done, Meter};
use crate::enrol::register;
use crate::error::Error;
use crate::http::{Call, Connection, Keep};
use crate::record::chain;
use crate::report::rounded;
use crate::target::Target;

/// How many attempts of the gap a report lists.
const ATTEMPTS_SHOWN_MAX: usize = 100;

/// After all endpoints failed once: else nodes that refuse at once would be kept busy with that.
const ROUND_PAUSE: Duration = Duration::from_millis(5);

/// Longer than a run and looking at it afterwards.
const TTL: Duration = Duration::from_secs(600);

#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// `--warm-up` is how long writes are done before the leader is killed, `--duration` how long after
    #[command(flatten)]
    window: Window,
    /// Yes, kill the leader's process, which must be on this machine. Where it is not found by itself, name it by
    /// `--pid HOST:PORT=PID` with the address at which it serves clients
    #[arg(long)]
    kill: bool,
    /// How the leader is ended: at once, or so that it may hand over
    #[arg(long, value_enum, default_value_t, ignore_case = true)]
    signal: Ending,
    /// How long an attempt at one endpoint may take
    #[arg(long, default_value = "200ms", value_parser = parse_positive_duration)]
    attempt_timeout: Duration,
    #[command(flatten)]
    pub(super) common: Common,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum Ending {
    #[default]
    Kill,
    Term,
}

impl Args {
    pub(super) fn check(&self) -> Result<(), Error> {
        if self.kill {
            return Ok(());
        }
        Err(Error::Usage { what: "failover kills the leader's process; say so by --kill".to_owned() })
    }

    pub(super) async fn run(&self, run: &Run) -> Result<Finished, Error> {
        may_kill_at(&run.target)?;
        let mut writer = Writer::new(run, self.attempt_timeout);
        let mut meter = Meter::begin(&["write"], &run.processes);
        let (killed, end) = {
            let killing = self.kill_leader(run);
            tokio::pin!(killing);
            let writing = writer.write(&mut meter);
            tokio::pin!(writing);
            let killed = tokio::select! {
                killed = &mut killing => killed?,
                never = &mut writing => match never {},
            };
            // The last write may be waiting still; it is given up then.
            let end = killed.at + self.window.duration;
            match tokio::time::timeout_at(end, &mut writing).await {
                Ok(never) => match never {},
                Err(_) => (killed, end),
            }
        };
        let measured = meter.end(&run.processes);
        let gap = writer.longest_gap(killed.at, end);
        let present = writer.count(&run.target).await?;

        let own = json!({
            "warm_up_ms": ms(self.window.warm_up), "duration_ms": ms(self.window.duration),
            "attempt_timeout_ms": ms(self.attempt_timeout),
            "signal": match self.signal { Ending::Kill => "KILL", Ending::Term => "TERM" },
        });
        let (acknowledged, since_kill) = (writer.acknowledged.len() as u64, |at: Instant| signed_ms(at, killed.at));
        let before = writer.longest_gap_before(killed.at);
        let first_ack = writer.acknowledged.iter().find(|at| **at > killed.at);
        let mut report = run.report("failover", own, &measured).with_extra(json!({
            "killed_node": killed.node_id, "killed_address": killed.address, "killed_pid": killed.pid,
            "longest_gap_ms": gap.as_ref().map(|gap| signed_ms(gap.end, gap.begin)),
            "gap_begin_after_kill_ms": gap.as_ref().map(|gap| since_kill(gap.begin)),
            "first_write_after_kill_ms": first_ack.map(|at| since_kill(*at)),
            "longest_gap_before_kill_ms": rounded(before.as_secs_f64() * 1_000.0, 3),
            "attempts": writer.attempts,
            "failed_attempts": writer.failed.len(),
            "acknowledged_and_lost": acknowledged.saturating_sub(present),
            "failed_attempts_in_gap": gap.as_ref().map(|gap| writer.told(gap, killed.at)),
        }));
        if first_ack.is_none() {
            report.add_error(format!("no write was acknowledged within {:?} of the kill", self.window.duration));
        }
        if present < acknowledged {
            report.add_error(format!("{acknowledged} writes were acknowledged, {present} are on the roll"));
        }
        Ok(run.finish(report))
    }

    /// Kills whoever leads when the warm-up is over.
    async fn kill_leader(&self, run: &Run) -> Result<Killed, Error> {
        tokio::time::sleep(self.window.warm_up).await;
        let (node_id, address) = run
            .target
            .leader()
            .await?
            .ok_or_else(|| Error::Usage { what: "the cluster has no leader that could be killed".to_owned() })?;
        let no_process = || Error::NoProcess { label: address.clone() };
        let socket: SocketAddr = address.parse().map_err(|_| no_process())?;
        if !socket.ip().is_loopback() {
            return Err(Error::Usage { what: format!("the leader, {address}, is not on this machine") });
        }
        let pid = run.processes.pid_of(&address).ok_or_else(no_process)?;
        let signal = match self.signal {
            Ending::Kill => Signal::KILL,
            Ending::Term => Signal::TERM,
        };
        let process = Pid::from_raw(pid).ok_or_else(no_process)?;
        let at = Instant::now();
        kill_process(process, signal).map_err(|source| Error::Signal {
            label: address.clone(),
            pid,
            source: source.into(),
        })?;
        Ok(Killed { node_id, address, pid, at })
    }
}

fn may_kill_at(target: &Target) -> Result<(), Error> {
    let refuse = |what: &str| Err(Error::Usage { what: what.to_owned() });
    if target.endpoints.iter().any(|endpoint| !endpoint.address.ip().is_loopback()) {
        return refuse("failover kills processes of this machine only: every endpoint must be a loopback address");
    }
    if target.endpoints.len() < 2 {
        return refuse("failover needs the endpoints of the nodes that stay; name all nodes by --endpoint");
    }
    Ok(())
}

struct Killed {
    node_id: u64,
    address: String,
    pid: i32,
    at: Instant,
}

/// A time in which no write was acknowledged.
pub(super) struct Gap {
    pub(super) begin: Instant,
    pub(super) end: Instant,
}

struct Failed {
    endpoint: usize,
    begun: Instant,
    ended: Instant,
    why: String,
}

/// One write at a time, each attempt at the next endpoint.
pub(super) struct Writer {
    connections: Vec<Connection>,
    documents: Documents,
    tag: String,
    pub(super) attempts: usize,
    failed: Vec<Failed>,
    pub(super) acknowledged: Vec<Instant>,
}

impl Writer {
    pub(super) fn new(run: &Run, attempt_timeout: Duration) -> Self {
        let tag = format!("failover-{}", run.name);
        let mut shape = Shape::usual("bench-failover".to_owned(), 0, 300, ms(TTL));
        shape.tags[0].clone_from(&tag);
        let endpoints = run.target.endpoints_with_timeout(attempt_timeout);
        Self {
            connections: endpoints.into_iter().map(|endpoint| Connection::new(endpoint, attempt_timeout)).collect(),
            documents: Documents::new(format!("bench-failover-{}-", run.name), [shape]),
            tag,
            attempts: 0,
            failed: Vec::new(),
            acknowledged: Vec::new(),
        }
    }

    /// Writes for ever, one write after another.
    pub(super) async fn write(&mut self, meter: &mut Meter) -> Infallible {
        let mut number = 0;
        loop {
            let begun = Instant::now();
            let mut in_vain = 0;
            while !self.attempt(number).await {
                in_vain += 1;
                if in_vain % self.connections.len() == 0 {
                    tokio::time::sleep(ROUND_PAUSE).await;
                }
            }
            self.acknowledged.push(Instant::now());
            meter.record.success(Done::items(1), begun.elapsed(), Duration::ZERO);
            number += 1;
        }
    }

    /// Whether the next endpoint takes the write.
    async fn attempt(&mut self, number: u64) -> bool {
        let endpoint = self.attempts % self.connections.len();
        self.attempts += 1;
        let begun = Instant::now();
        match register(&mut self.connections[endpoint], &self.documents, number).await {
            Ok(_) => true,
            Err(error) => {
                self.failed.push(Failed { endpoint, begun, ended: Instant::now(), why: chain(&error) });
                false
            }
        }
    }

    /// The longest gap that ends after this moment; the run's end ends one too.
    pub(super) fn longest_gap(&self, after: Instant, end: Instant) -> Option<Gap> {
        // What came after the end is somebody else's.
        let before = self.acknowledged.iter().copied().filter(|at| *at < end);
        let moments: Vec<Instant> = before.chain([end]).collect();
        let gaps = moments.windows(2).filter(|pair| pair[1] > after).map(|pair| Gap { begin: pair[0], end: pair[1] });
        gaps.max_by_key(|gap| gap.end.duration_since(gap.begin))
    }

    pub(super) fn failed_attempts(&self) -> usize {
        self.failed.len()
    }

    /// For comparison: the longest while nothing was amiss.
    pub(super) fn longest_gap_before(&self, moment: Instant) -> Duration {
        let gaps = self.acknowledged.windows(2).filter(|pair| pair[1] <= moment).map(|pair| pair[1] - pair[0]);
        gaps.max().unwrap_or_default()
    }

    /// Where the time of a gap went.
    fn told(&self, gap: &Gap, killed_at: Instant) -> Vec<Value> {
        let within = |failed: &&Failed| failed.ended > gap.begin && failed.begun < gap.end;
        let tell = |failed: &Failed| {
            json!({
                "endpoint": self.connections[failed.endpoint].endpoint().authority,
                "begun_after_kill_ms": signed_ms(failed.begun, killed_at),
                "took_ms": signed_ms(failed.ended, failed.begun),
                "error": failed.why,
            })
        };
        self.failed.iter().filter(within).take(ATTEMPTS_SHOWN_MAX).map(tell).collect()
    }

    /// How many of the writes are on the roll.
    pub(super) async fn count(&self, target: &Target) -> Result<u64, Error> {
        let failed = |source| Error::Request { action: "count what was written", source };
        let uri = format!("/api/services?tags={}&limit=1&consistency=linearizable", self.tag);
        let call = Call::get(Uri::try_from(uri).expect("a bench's tags need no coding")).keep(Keep::Tail);
        let mut connection = target.connect_any().await?;
        connection.send(&call).await.map_err(failed)?;
        tail_number(connection.body(), "total_count").map_err(failed)
    }
}

/// Negative for what came before.
fn signed_ms(at: Instant, origin: Instant) -> f64 {
    let ms = |duration: Duration| rounded(duration.as_secs_f64() * 1_000.0, 3);
    if at >= origin { ms(at - origin) } else { -ms(origin - at) }
}
