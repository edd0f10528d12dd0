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
        Span::Window { warm_up, .. } if !warm_up.is_zero() => (WARM_UP, None),
        Span::Window { .. } => (MEASURED, None),
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
            if !warm_up.is_zero() {
                tokio::time::sleep(warm_up).await;
                meter = Meter::begin(load.kinds, processes);
                shared.phase.store(MEASURED, Ordering::Release);
            }
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

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Mutex;

    use super::*;

    /// Takes as long as told for each number, and fails where told.
    #[derive(Clone)]
    struct Scripted {
        takes: fn(u64) -> Duration,
        fails: fn(u64) -> bool,
        numbers: Arc<Mutex<Vec<u64>>>,
        warmed_up: bool,
    }

    impl Scripted {
        fn new(takes: fn(u64) -> Duration) -> Self {
            Self { takes, fails: |_| false, numbers: Arc::default(), warmed_up: false }
        }
    }

    impl Session for Scripted {
        type Error = io::Error;

        async fn operate(&mut self, number: u64) -> Result<Done, io::Error> {
            self.numbers.lock().expect("nobody panicked with it").push(number);
            until((self.takes)(number)).await;
            if (self.fails)(number) {
                Err(io::Error::other(format!("no {}", number % 2)))
            } else {
                Ok(Done::items(3))
            }
        }

        fn warmed_up(&mut self) {
            self.warmed_up = true;
        }
    }

    /// The clock stands still but for this.
    async fn until(duration: Duration) {
        tokio::time::sleep(duration).await;
    }

    const MS: Duration = Duration::from_millis(1);

    async fn measure(span: Span, rate_per_s: Option<f64>, sessions: Vec<Scripted>) -> (Measured, Vec<Scripted>) {
        let load = Load { title: "test", kinds: &["only"], span, rate_per_s };
        run_with(&load, sessions, &Processes::default(), false, || Alarm::Runtime).await
    }

    fn window(warm_up_ms: u32, duration_ms: u32) -> Span {
        Span::Window { warm_up: MS * warm_up_ms, duration: MS * duration_ms }
    }

    #[tokio::test(start_paused = true)]
    async fn each_session_has_one_operation_at_a_time_and_the_warm_up_does_not_count() {
        let session = Scripted::new(|_| MS * 10);
        let (measured, back) = measure(window(1_000, 2_000), None, vec![session.clone(), session]).await;
        let kind = &measured.kinds[0];
        assert!((398..=402).contains(&kind.latency_us.len()), "{}", kind.latency_us.len());
        assert_eq!(kind.items, kind.latency_us.len() * 3);
        assert_eq!(kind.latency_us.value_at_quantile(0.5) / 1_000, 10);
        assert!((measured.seconds - 2.0).abs() < 0.01, "{}", measured.seconds);
        assert!(measured.lateness_us.is_none());
        assert!(back.len() == 2 && back.iter().all(|session| session.warmed_up));
    }

    #[tokio::test(start_paused = true)]
    async fn a_count_is_kept_exactly_and_no_number_comes_twice() {
        for rate_per_s in [None, Some(50.0)] {
            let session = Scripted::new(|number| MS * (number % 7) as u32);
            let (measured, _) = measure(Span::Count(100), rate_per_s, vec![session.clone(); 8]).await;
            let mut numbers = session.numbers.lock().expect("nobody panicked with it").clone();
            numbers.sort_unstable();
            assert_eq!(numbers, (0..100).collect::<Vec<_>>());
            assert_eq!(measured.kinds[0].latency_us.len(), 100);
            // The last of a hundred at 50 per second is due after 1.98 s, and nobody waits for another turn.
            assert_eq!(rate_per_s.is_some(), measured.seconds > 1.9, "{}", measured.seconds);
            assert!(measured.seconds < 2.0, "{}", measured.seconds);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_rate_is_kept_at_even_intervals() {
        let (measured, _) = measure(window(0, 10_000), Some(100.0), vec![Scripted::new(|_| MS); 4]).await;
        let latency = &measured.kinds[0].latency_us;
        assert!((999..=1_001).contains(&latency.len()), "{}", latency.len());
        assert!(latency.max() < 5_000, "{}", latency.max());
        assert_eq!(measured.not_begun, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn with_a_rate_who_waits_behind_a_slow_one_is_late_from_the_plan_on() {
        // One session, a turn each 100 ms; the first takes a second, and nine turns become due meanwhile.
        let session = Scripted::new(|number| if number == 0 { MS * 1_000 } else { MS });
        let (measured, _) = measure(window(0, 3_000), Some(10.0), vec![session]).await;
        let (latency, lateness) =
            (&measured.kinds[0].latency_us, measured.lateness_us.as_ref().expect("there is a rate"));
        let late = |at_least_ms: u64| latency.len() - latency.count_between(0, at_least_ms * 1_000 - 1);
        assert_eq!((late(990), late(800), late(500)), (1, 3, 6));
        assert!((895_000..910_000).contains(&lateness.max()), "{}", lateness.max());
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_rate_asks_too_much_is_told() {
        let (measured, _) = measure(window(0, 1_000), Some(100.0), vec![Scripted::new(|_| MS * 100)]).await;
        assert_eq!(measured.kinds[0].latency_us.len(), 10);
        assert!((90..=91).contains(&measured.not_begun), "{}", measured.not_begun);
    }

    #[tokio::test(start_paused = true)]
    async fn an_operation_that_hangs_at_the_end_is_waited_for() {
        let session = Scripted::new(|number| if number == 5 { MS * 60_000 } else { MS * 10 });
        let (measured, _) = measure(window(0, 100), None, vec![session]).await;
        assert_eq!(measured.kinds[0].latency_us.len(), 6);
        assert!(measured.kinds[0].latency_us.max() >= 60_000_000);
        assert!(measured.seconds < 0.2, "{}", measured.seconds);
    }

    #[tokio::test(start_paused = true)]
    async fn errors_are_counted_and_each_sort_is_shown_once() {
        let session = Scripted { fails: |number| number % 3 == 0, ..Scripted::new(|_| MS) };
        let (measured, _) = measure(Span::Count(30), None, vec![session; 2]).await;
        assert_eq!((measured.errors, measured.kinds[0].latency_us.len()), (10, 20));
        let mut examples = measured.error_examples.clone();
        examples.sort_unstable();
        assert_eq!(examples, ["no 0", "no 1"]);
    }
}
