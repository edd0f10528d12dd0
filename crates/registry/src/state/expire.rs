//! What time causes: lapse, and the reaping of what stayed lapsed.

use super::State;
use crate::command::{Outcome, Refusal};
use crate::history::ChangeKind;
use crate::ids::{ClusterTime, LeaseId, Term};
use crate::index::Slot;
use crate::registration::Instance;

impl State {
    /// When the next instance lapses or is reaped if no heartbeat comes. Lets the schedule catch up with renewals,
    /// which changes no answer.
    pub fn next_due(&mut self) -> Option<ClusterTime> {
        self.first_due().map(|(due, ..)| due)
    }

    /// Everything due by `up_to`, in the order of deadline and lease, at most `limit` changes. The proposer's clock is
    /// not trusted further than the entry's own stamp, and an entry of another term does nothing: a leader that was
    /// deposed while it proposed knows nothing of the heartbeats since.
    pub(super) fn expire(
        &mut self,
        proposed: Term,
        entry: Term,
        up_to: ClusterTime,
        limit: u32,
    ) -> Result<Outcome, Refusal> {
        if proposed != entry {
            return Err(Refusal::StaleTerm { proposed, entry });
        }
        let up_to = up_to.min(self.now);
        let mut count = 0;
        while let Some((due, _, slot)) = self.first_due() {
            if due > up_to {
                break;
            }
            if count == limit {
                return Ok(Outcome::Expired { count, more: true });
            }
            count += 1;
            let instance = self.instance(slot);
            if instance.lapsed || instance.registration.reap_after_ms == 0 {
                self.strike_off(slot, ChangeKind::Expired);
            } else {
                let instance = Instance { lapsed: true, ..instance.clone() };
                let deadline = self.seat(slot).deadline;
                let revision = self.next_revision();
                self.change(slot, Instance { revision, ..instance }, deadline, ChangeKind::StatusChanged);
            }
        }
        Ok(Outcome::Expired { count, more: false })
    }

    fn first_due(&mut self) -> Option<(ClusterTime, LeaseId, Slot)> {
        loop {
            let first @ (scheduled, lease, slot) = *self.schedule.first()?;
            let due = self.seat(slot).due();
            assert!(scheduled <= due, "lease {lease} is scheduled at {scheduled} ms, after it falls due at {due} ms");
            if scheduled == due {
                return Some(first);
            }
            self.schedule.pop_first();
            self.schedule.insert((due, lease, slot));
            self.seat_mut(slot).scheduled = due;
        }
    }
}
