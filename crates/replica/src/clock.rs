//! The leader's cluster clock. Pure: instants come in as arguments, so that every claim about it can be tested without
//! waiting.
//!
//! - It starts from the `now` of everything applied before the leader's first own entry.
//! - It advances by the monotonic clock, each step capped, and only while the leader holds its quorum lease, so that it
//!   never runs faster than real time and stands still while nobody could have received a heartbeat.
//! - After it starts, and after every pause or loss of the quorum, nothing expires for a grace, so that agents can find
//!   the leader.

use std::time::Duration;

use rollcall_registry::ClusterTime;
use tokio::time::Instant;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClockOptions {
    /// The longest stretch of real time credited at once: what a leader may be away without being deposed.
    pub step_max: Duration,
    /// How long nothing expires after the clock started or the leader was away.
    pub grace: Duration,
}

/// One leadership's clock.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LeaderClock {
    options: ClockOptions,
    /// Cluster time in full precision at `read_at`.
    time: Duration,
    read_at: Instant,
    /// Before this nothing expires.
    expires_from: Duration,
}

impl LeaderClock {
    pub fn start(options: ClockOptions, base: ClusterTime, at: Instant) -> Self {
        let time = Duration::from_millis(base.0);
        Self { options, time, read_at: at, expires_from: time + options.grace }
    }

    /// Credits the real time since the last call, as far as the rules allow. `silence` is how long ago the last request
    /// that a quorum answered was sent.
    pub fn advance(&mut self, at: Instant, silence: Duration) -> ClusterTime {
        let step_max = self.options.step_max;
        let elapsed = at.saturating_duration_since(self.read_at);
        self.read_at = self.read_at.max(at);
        if silence < step_max {
            self.time += elapsed.min(step_max);
        }
        // A quorum that is merely slow costs time and no grace: the leader is the same, and requests wait for it.
        if silence >= 2 * step_max || elapsed > step_max {
            self.expires_from = self.time + self.options.grace;
        }
        self.now()
    }

    pub fn now(&self) -> ClusterTime {
        ClusterTime(u64::try_from(self.time.as_millis()).unwrap_or(u64::MAX))
    }

    pub fn may_expire(&self) -> bool {
        self.time >= self.expires_from
    }
}

/// A member's lead, if it has one, with the clock that belongs to it. `L` names a leadership.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Tenure<L>(Option<(L, LeaderClock)>);

impl<L> Default for Tenure<L> {
    fn default() -> Self {
        Self(None)
    }
}

impl<L: Copy + PartialEq> Tenure<L> {
    /// Whether the clock of this lead runs.
    pub fn is_of(&self, lead: L) -> bool {
        self.0.as_ref().is_some_and(|(led, _)| *led == lead)
    }

    /// What was known of an earlier lead says nothing about another one.
    pub fn end(&mut self) {
        self.0 = None;
    }

    /// Starts the clock of a new lead, as soon as its first own entry tells that everything before it is applied.
    /// `applied_by` is the lead of the last entry applied, `now` the state's.
    ///
    /// The log knows the time of its last entry only. While nothing was written the leader before went on telling its
    /// clock, and starting behind that would give every lease the idle time once more. What was told is of the same line
    /// of time: it is the word of the leader whose append was accepted here last.
    pub fn begin(
        &mut self,
        lead: L,
        applied_by: Option<L>,
        options: ClockOptions,
        now: ClusterTime,
        told: Option<Told<L>>,
        at: Instant,
    ) -> bool {
        self.end();
        if applied_by != Some(lead) {
            return false;
        }
        let base = now.max(told.map_or(ClusterTime(0), |told| told.clock));
        self.0 = Some((lead, LeaderClock::start(options, base, at)));
        true
    }

    /// Reads the clock, and moves it on by what has passed; tells too whether anything may expire. `acked_at` is when the
    /// last request was sent that a quorum answered. None where no lead has begun.
    pub fn read(&mut self, at: Instant, acked_at: Option<Instant>) -> Option<(ClusterTime, bool)> {
        let (_, clock) = self.0.as_mut()?;
        let silence = acked_at.map_or(Duration::MAX, |acked| at.saturating_duration_since(acked));
        Some((clock.advance(at, silence), clock.may_expire()))
    }
}

/// The clock of the leader whose append was last accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Told<L> {
    pub leader: L,
    pub at: Instant,
    pub clock: ClusterTime,
}

impl<L: Copy + PartialEq> Told<L> {
    /// What is known after an append of `leader` was accepted, which told its clock if it knew the time.
    pub fn hear(before: Option<Self>, leader: L, clock: Option<ClusterTime>, at: Instant) -> Option<Self> {
        match clock {
            Some(clock) => Some(Self { leader, at, clock }),
            // A new leader that does not know the time yet. What an earlier one told may be of another line of time.
            None => before.filter(|told| told.leader == leader),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPTIONS: ClockOptions =
        ClockOptions { step_max: Duration::from_millis(400), grace: Duration::from_millis(1_600) };

    const ANSWERED: Duration = Duration::from_millis(30);

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn p6_it_starts_where_the_log_stood_and_never_goes_back() {
        let start = Instant::now();
        let mut clock = LeaderClock::start(OPTIONS, ClusterTime(5_000), start);
        assert_eq!(clock.now(), ClusterTime(5_000));
        assert_eq!(clock.advance(start + ms(100), ANSWERED), ClusterTime(5_100));
        // A monotonic clock that stumbles is not followed.
        assert_eq!(clock.advance(start + ms(50), ANSWERED), ClusterTime(5_100));
        assert_eq!(clock.advance(start + ms(150), ANSWERED), ClusterTime(5_150));
    }

    #[test]
    fn p5_a_pause_counts_for_one_step_and_begins_a_grace() {
        let start = Instant::now();
        let mut clock = LeaderClock::start(OPTIONS, ClusterTime(0), start);
        let mut at = start;
        for _ in 0..20 {
            at += ms(100);
            clock.advance(at, ANSWERED);
        }
        assert!(clock.may_expire());
        at += ms(3_600_000);
        assert_eq!(clock.advance(at, ANSWERED), ClusterTime(2_400));
        assert!(!clock.may_expire());
    }

    #[test]
    fn p5_it_stands_still_without_a_quorum() {
        let start = Instant::now();
        let mut clock = LeaderClock::start(OPTIONS, ClusterTime(0), start);
        let mut at = start;
        for _ in 0..20 {
            at += ms(100);
            clock.advance(at, ANSWERED);
        }
        // Slow: no time passes, and that is all.
        assert_eq!(clock.advance(at + ms(100), ms(500)), ClusterTime(2_000));
        assert!(clock.may_expire());
        // Lost: what was about to expire gets the grace.
        assert_eq!(clock.advance(at + ms(400), ms(800)), ClusterTime(2_000));
        assert!(!clock.may_expire());
        assert_eq!(clock.advance(at + ms(500), ANSWERED), ClusterTime(2_100));
        assert!(!clock.may_expire());
    }

    #[test]
    fn p4_it_runs_with_real_time_while_a_quorum_answers() {
        let start = Instant::now();
        let mut clock = LeaderClock::start(OPTIONS, ClusterTime(0), start);
        for n in 1..=600 {
            clock.advance(start + Duration::from_micros(16_700 * n), ANSWERED);
        }
        assert_eq!(clock.now(), ClusterTime(10_020));
        assert!(clock.may_expire());
    }
}
