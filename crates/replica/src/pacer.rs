//! A member's heartbeat: it moves the cluster clock on and strikes off what lapsed where it leads, and sees to it that
//! a restart will not have too much to replay.

use std::sync::Arc;
use std::time::Duration;

use rollcall_registry::{ClusterTime, Command, Outcome, Term};
use tokio::time::{Instant, MissedTickBehavior};

use crate::core::{Core, Leading};
use crate::proposer::Request;

/// How often the clock is read and the next deadline looked at. A lapse is noticed this much late at most.
pub const TICK: Duration = Duration::from_millis(50);

/// Instances one entry strikes off. A mass expiry takes many entries, and heartbeats get in between.
const EXPIRE_MAX: u32 = 256;

/// Changed instances from which on a checkpoint is written before enough log entries would bring one about: replaying
/// as many takes a restarting node some 50 ms, and a batch of so many rows is some MiB.
const UNSAVED_MAX: u64 = 5_000;

pub(crate) async fn drive(core: Arc<Core>) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut seen = None;
    loop {
        tokio::select! {
            () = core.stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let led = core.leadership();
        if led.is_some() && led != seen {
            core.meters.leader_changes.add(1);
            seen = led;
        }
        if core.roll.read(|state| state.unsaved()) >= UNSAVED_MAX
            && let Err(error) = core.raft.trigger().snapshot().await
        {
            tracing::debug!(%error, "no checkpoint was begun");
        }
        let Some(lead) = core.lead() else {
            // Lets the schedule catch up with the renewals a little at a time, and not all at once at a failover.
            core.roll.next_due_by(core.roll.read(|state| state.now()));
            continue;
        };
        tokio::select! {
            () = core.stop.cancelled() => return,
            () = expire(&core, lead) => {}
        }
    }
}

/// What strikes off what has lapsed, if anything has and may. `due_by` finds the first deadline by a time.
pub fn expiry(
    term: Term,
    now: ClusterTime,
    may_expire: bool,
    due_by: impl FnOnce(ClusterTime) -> Option<ClusterTime>,
) -> Option<Request> {
    let due = may_expire && due_by(now).is_some();
    // Only this leader may propose it: it knows of the heartbeats that it has received itself.
    due.then(|| Request {
        commands: vec![Command::Expire { term, up_to: now, limit: EXPIRE_MAX }],
        once: Vec::new(),
        stays: true,
    })
}

/// Whether an expiry left something that is due as well.
pub fn is_more_due(outcomes: &[Outcome]) -> bool {
    matches!(outcomes, [Outcome::Expired { more: true, .. }])
}

/// Goes through the same queue as every write: the heartbeats that this node has received are in an earlier entry, or in
/// the same one, where an expiry takes effect last.
async fn expire(core: &Core, lead: Leading) {
    let mut lead = Some(lead);
    while let Some(Leading { leader, now, may_expire }) = lead
        && let Some(request) = expiry(Term(leader.term), now, may_expire, |by| core.roll.next_due_by(by))
    {
        let deadline = Instant::now() + Duration::from_millis(core.options.election_timeout_ms_max);
        match core.queue.submit(request, deadline).await {
            Ok(answer) => {
                tracing::debug!(outcomes = ?answer.outcomes, "an expiry was decided");
                if !is_more_due(&answer.outcomes) {
                    return;
                }
            }
            Err(error) => {
                tracing::debug!(%error, "an expiry was not proposed");
                return;
            }
        }
        lead = core.lead();
    }
}
