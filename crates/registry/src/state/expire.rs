//! What time causes: lapse, and the reaping of what stayed lapsed.

use super::State;
use crate::command::{Outcome, Refusal};
use crate::history::ChangeKind;
use crate::ids::{ClusterTime, Term};
use crate::index::Slot;
use crate::instance::Instance;

impl State {
    /// When the first instance lapses or is reaped if no heartbeat comes, if that is by `up_to`. Lets the schedule catch
    /// up with the renewals until then, which changes no answer.
    pub fn next_due_by(&mut self, up_to: ClusterTime) -> Option<ClusterTime> {
        self.first_due_by(up_to).map(|(due, _)| due)
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
        while let Some((_, slot)) = self.first_due_by(up_to) {
            if count == limit {
                return Ok(Outcome::Expired { count, more: true });
            }
            count += 1;
            let instance = self.instance(slot);
            if instance.lapsed || instance.registration().reap_after_ms == 0 {
                self.tally.expired += 1;
                self.strike_off(slot, ChangeKind::Expired);
            } else {
                let instance = Instance { lapsed: true, ..Instance::clone(instance) };
                self.tally.lapsed += 1;
                let deadline = self.seat(slot).deadline;
                let revision = self.next_revision();
                self.change(slot, Instance { revision, ..instance }, deadline, ChangeKind::StatusChanged);
            }
        }
        Ok(Outcome::Expired { count, more: false })
    }

    fn first_due_by(&mut self, up_to: ClusterTime) -> Option<(ClusterTime, Slot)> {
        loop {
            let Some(first @ (scheduled, lease, slot)) = self.schedule.first_near() else {
                self.open_bucket(up_to)?;
                continue;
            };
            if scheduled > up_to {
                return None;
            }
            let due = self.seat(slot).due();
            assert!(scheduled <= due, "lease {lease} is scheduled at {scheduled} ms, after it falls due at {due} ms");
            if scheduled == due {
                return Some((due, slot));
            }
            self.schedule.remove(first);
            self.schedule_at(slot, due);
        }
    }

    /// None if none begins by then.
    fn open_bucket(&mut self, up_to: ClusterTime) -> Option<()> {
        for slot in self.schedule.open(up_to)? {
            let due = self.seat(slot).due();
            self.schedule_at(slot, due);
        }
        Some(())
    }

    pub(super) fn schedule_at(&mut self, slot: Slot, at: ClusterTime) {
        let seat = self.seat_mut(slot);
        seat.scheduled = at;
        let lease = seat.instance.lease;
        self.schedule.insert((at, lease, slot));
    }
}
