//! Even intervals: who may begin an operation, and when the plan wanted it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::Instant;

/// Turns that are due within this time are given out together, so that a high rate is not a wake-up for each.
const INTERVAL_MIN: Duration = Duration::from_micros(100);

/// Gives out turns at a rate. A turn that nobody is free to take waits and keeps its planned moment.
pub(crate) struct Pacer {
    rate_per_s: f64,
    start: Instant,
    turns: Semaphore,
    taken: AtomicU64,
}

impl Pacer {
    pub(crate) fn new(rate_per_s: f64) -> Self {
        Self { rate_per_s, start: Instant::now(), turns: Semaphore::new(0), taken: AtomicU64::new(0) }
    }

    /// Gives out turns until [`Self::stop`].
    pub(crate) async fn run(&self, alarm: &Alarm) {
        let mut given = 0;
        while !self.turns.is_closed() {
            let now = Instant::now();
            let due = (now.saturating_duration_since(self.start).as_secs_f64() * self.rate_per_s) as u64 + 1;
            if due > given {
                self.turns
                    .add_permits(usize::try_from(due - given).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS / 2));
                given = due;
            }
            alarm.until(self.planned(given).max(now + INTERVAL_MIN)).await;
        }
    }

    fn planned(&self, turn: u64) -> Instant {
        self.start + Duration::from_secs_f64(turn as f64 / self.rate_per_s)
    }

    /// Waits for a turn; answers when the plan wanted it. None once the pacer is stopped.
    pub(crate) async fn turn(&self) -> Option<Instant> {
        self.turns.acquire().await.ok()?.forget();
        Some(self.planned(self.taken.fetch_add(1, Ordering::Relaxed)))
    }

    /// Ends the plan; answers how many turns were due that nobody has taken.
    pub(crate) fn stop(&self) -> u64 {
        self.turns.close();
        self.turns.available_permits() as u64
    }
}

/// What wakes the pacer.
pub(crate) enum Alarm {
    /// The kernel's, exact to microseconds. The runtime's own timer rounds up to the next milliseconds, which would be
    /// counted as latency.
    #[cfg(target_os = "linux")]
    Kernel(tokio::io::unix::AsyncFd<rustix::fd::OwnedFd>),
    /// The runtime's, which tests can turn.
    Runtime,
}

impl Alarm {
    /// The most exact one to be had.
    pub(crate) fn precise() -> Self {
        #[cfg(target_os = "linux")]
        if let Some(timer) = kernel::timer() {
            return Self::Kernel(timer);
        }
        Self::Runtime
    }

    async fn until(&self, moment: Instant) {
        match self {
            #[cfg(target_os = "linux")]
            Self::Kernel(timer) => {
                if kernel::wait(timer, moment.saturating_duration_since(Instant::now())).await.is_err() {
                    tokio::time::sleep_until(moment).await;
                }
            }
            Self::Runtime => tokio::time::sleep_until(moment).await,
        }
    }
}

#[cfg(target_os = "linux")]
mod kernel {
    use std::io;
    use std::time::Duration;

    use rustix::fd::OwnedFd;
    use rustix::time::{
        Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
    };
    use tokio::io::Interest;
    use tokio::io::unix::AsyncFd;

    pub(super) fn timer() -> Option<AsyncFd<OwnedFd>> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags).ok()?;
        #[expect(unsafe_code, reason = "the runtime cannot see that a descriptor stays the same")]
        // SAFETY: an `OwnedFd` is open until it is dropped, and always answers the same number.
        let registered = unsafe { AsyncFd::register_with_interest(timer, Interest::READABLE) };
        registered.ok()
    }

    pub(super) async fn wait(timer: &AsyncFd<OwnedFd>, duration: Duration) -> io::Result<()> {
        // Zero would switch the timer off.
        let duration = duration.max(Duration::from_nanos(1));
        let it_value = Timespec::try_from(duration).map_err(io::Error::other)?;
        let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value };
        timerfd_settime(timer, TimerfdTimerFlags::empty(), &once)?;
        loop {
            let mut ready = timer.readable().await?;
            let read = |timer: &AsyncFd<OwnedFd>| Ok(rustix::io::read(timer, &mut [0_u8; 8])?);
            if let Ok(read) = ready.try_io(read) {
                // It rings once, so there is nothing more to read.
                ready.clear_ready();
                return read.map(drop);
            }
        }
    }
}
