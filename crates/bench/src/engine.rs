//! The closed loop: each session does one operation after another, for a time or up to a count.
//!
//! An operation counts if it was begun in the measured window, however long it takes: one that hangs at the end is
//! waited for. What was begun in the warm-up does not count. The processor time of all processes is taken at the two
//! moments that bound the window.
//!
//! Without a rate an operation's latency runs from its start. With a rate it runs from the moment at which the plan
//! wanted it, so that the time an operation waits because those before it were slow is part of its latency (no
//! coordinated omission).

use std::error::Error;
use std::future::Future;
use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::pace::{Alarm, Pacer};
use crate::progress::Live;
use crate::record::{KindRecord, Record};
use crate::usage::{NodeUsage, ProcessSample, Processes, own_cpu};

/// A session that failed waits this long: else a node that refuses at once would be answered by a busy loop.
const ERROR_PAUSE: Duration = Duration::from_millis(10);

/// One of many that put load on a system, one operation at a time.
pub trait Session: Send + 'static {
    type Error: Error + Send;

    /// One operation. `number` counts the operations of all sessions from 0, the warm-up's included; no two have the
    /// same.
    fn operate(&mut self, number: u64) -> impl Future<Output = Result<Done, Self::Error>> + Send;

    /// The warm-up is over. Whatever the session counts for itself begins anew.
    fn warmed_up(&mut self) {}
}

/// What one operation achieved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Done {
    /// How many of what the work is about, as the renewals of one batch.
    pub items: u64,
    /// Its place in [`Load::kinds`].
    pub kind: usize,
}

impl Done {
    /// Of a work with one kind of operation.
    pub fn items(items: u64) -> Self {
        Self { items, kind: 0 }
    }
}

/// What is to be done.
#[derive(Clone, Debug)]
pub struct Load {
    /// What the progress line begins with.
    pub title: &'static str,
    /// The sorts of operations; each has a histogram of its own.
    pub kinds: &'static [&'static str],
    pub span: Span,
    /// At most so many operations per second by all sessions together, at even intervals.
    pub rate_per_s: Option<f64>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Span {
    Window {
        warm_up: Duration,
        duration: Duration,
    },
    /// So many operations, all of them measured.
    Count(u64),
}

/// What was measured.
#[derive(Debug)]
pub struct Measured {
    /// Length of the window.
    pub seconds: f64,
    pub kinds: Vec<KindRecord>,
    /// With a rate: how late operations were begun against the plan, in microseconds.
    pub lateness_us: Option<hdrhistogram::Histogram<u64>>,
    /// With a rate: operations that were due by the end of the window and not begun.
    pub not_begun: u64,
    pub errors: u64,
    pub error_examples: Vec<String>,
    /// Of this process.
    pub client_cpu_s: f64,
    pub nodes: Vec<NodeUsage>,
}

const WARM_UP: u8 = 0;
const MEASURED: u8 = 1;
const OVER: u8 = 2;

struct Shared {
    phase: AtomicU8,
    next: AtomicU64,
    count: Option<u64>,
    pacer: Option<Pacer>,
    live: Option<Live>,
}

/// Drives all sessions to the end of the load, and gives them back, in their order, with what was measured.
pub async fn run<S: Session>(load: &Load, sessions: Vec<S>, processes: &Processes) -> (Measured, Vec<S>) {
    let shown = std::io::stderr().is_terminal();
    run_with(load, sessions, processes, shown, Alarm::precise).await
}

async fn run_with<S: Session>(
    load: &Load,
    sessions: Vec<S>,
    processes: &Processes,
    shown: bool,
    alarm: impl FnOnce() -> Alarm,
) -> (Measured, Vec<S>) {
    let (phase, count) = match load.span {
        Span::Window { .. } => (WARM_UP, None),
        Span::Count(count) => (MEASURED, Some(count)),
    };
    let shared = Arc::new(Shared {
        phase: AtomicU8::new(phase),
        next: AtomicU64::new(0),
        count,
        pacer: load.rate_per_s.map(Pacer::new),
        live: shown.then(Live::default),
    });
    let mut helpers = JoinSet::new();
    if shared.pacer.is_some() {
        let (shared, alarm) = (shared.clone(), alarm());
        helpers.spawn(async move {
            if let Some(pacer) = &shared.pacer {
                pacer.run(&alarm).await;
            }
        });
    }
    if shared.live.is_some() {
        let (shared, title) = (shared.clone(), load.title);
        helpers.spawn(async move {
            if let Some(live) = &shared.live {
                live.show(title).await;
            }
        });
    }

    let mut meter = Meter::begin(load.kinds, processes);
    let mut driven = JoinSet::new();
    for (place, session) in sessions.into_iter().enumerate() {
        let driving = drive(session, Record::new(load.kinds), shared.clone());
        driven.spawn(async move { (place, driving.await) });
    }
    let (end, mut finished, not_begun) = match load.span {
        Span::Window { warm_up, duration } => {
            tokio::time::sleep(warm_up).await;
            meter = Meter::begin(load.kinds, processes);
            shared.phase.store(MEASURED, Ordering::Release);
            tokio::time::sleep_until(meter.begin.at + duration).await;
            shared.phase.store(OVER, Ordering::Release);
            let not_begun = shared.pacer.as_ref().map_or(0, Pacer::stop);
            (Sample::take(processes), driven.join_all().await, not_begun)
        }
        Span::Count(_) => {
            let finished = driven.join_all().await;
            (Sample::take(processes), finished, 0)
        }
    };
    helpers.shutdown().await;
    if let Some(live) = &shared.live {
        live.clear();
    }

    finished.sort_by_key(|(place, _)| *place);
    let mut sessions = Vec::with_capacity(finished.len());
    for (_, (session, record)) in finished {
        meter.record.add(&record);
        sessions.push(session);
    }
    let mut measured = meter.end_at(&end, processes);
    if shared.pacer.is_none() {
        measured.lateness_us = None;
    }
    measured.not_begun = not_begun;
    (measured, sessions)
}

/// Notes for a window, for a work that drives itself.
pub(crate) struct Meter {
    begin: Sample,
    pub(crate) record: Record,
}

impl Meter {
    pub(crate) fn begin(kinds: &[&'static str], processes: &Processes) -> Self {
        Self { begin: Sample::take(processes), record: Record::new(kinds) }
    }

    pub(crate) fn end(self, processes: &Processes) -> Measured {
        let measured = self.end_at(&Sample::take(processes), processes);
        Measured { lateness_us: None, ..measured }
    }

    fn end_at(self, end: &Sample, processes: &Processes) -> Measured {
        let Self { begin, record } = self;
        Measured {
            seconds: (end.at - begin.at).as_secs_f64(),
            kinds: record.kinds,
            lateness_us: Some(record.lateness_us),
            not_begun: 0,
            errors: record.errors,
            error_examples: record.error_examples,
            client_cpu_s: end.own_cpu.saturating_sub(begin.own_cpu).as_secs_f64(),
            nodes: processes.usage(&begin.nodes, &end.nodes),
        }
    }
}

/// What is taken at each end of the window.
struct Sample {
    at: Instant,
    own_cpu: Duration,
    nodes: Vec<Option<ProcessSample>>,
}

impl Sample {
    fn take(processes: &Processes) -> Self {
        Self { at: Instant::now(), own_cpu: own_cpu(), nodes: processes.sample() }
    }
}

async fn drive<S: Session>(mut session: S, mut record: Record, shared: Arc<Shared>) -> (S, Record) {
    let mut measured = false;
    loop {
        let planned = match &shared.pacer {
            None => None,
            Some(pacer) => match pacer.turn().await {
                Some(planned) => Some(planned),
                None => break,
            },
        };
        let number = shared.next.fetch_add(1, Ordering::Relaxed);
        if shared.count.is_some_and(|count| number >= count) {
            break;
        }
        if let (Some(count), Some(pacer)) = (shared.count, &shared.pacer)
            && number + 1 == count
        {
            // The others need not wait for turns that are not theirs to take.
            pacer.stop();
        }
        match shared.phase.load(Ordering::Acquire) {
            WARM_UP => {}
            MEASURED if measured => {}
            MEASURED => {
                measured = true;
                session.warmed_up();
            }
            _ => break,
        }
        let begun = Instant::now();
        let planned = planned.unwrap_or(begun);
        let result = session.operate(number).await;
        let latency = planned.elapsed();
        if let Some(live) = &shared.live {
            live.note(result.is_ok().then_some(latency));
        }
        match &result {
            Ok(done) if measured => record.success(*done, latency, begun.saturating_duration_since(planned)),
            Err(error) if measured => record.error(error),
            _ => {}
        }
        if result.is_err() {
            tokio::time::sleep(ERROR_PAUSE).await;
        }
    }
    (session, record)
}
