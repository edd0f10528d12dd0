//! What time causes: lapse, the reaping of what stayed lapsed, and what protection makes of it.

use super::State;
use super::protection::Judged;
use crate::command::{Outcome, Refusal};
use crate::history::ChangeKind;
use crate::ids::{ClusterTime, Term};
use crate::index::Slot;
use crate::instance::{Instance, Presence};

impl State {
    /// When an expiry has something to do next if no heartbeat comes, if that is by `up_to`. Lets the schedule catch up with
    /// the renewals until then, which changes no answer.
    pub fn next_due_by(&mut self, up_to: ClusterTime) -> Option<ClusterTime> {
        let due = self.first_due_by(up_to).map(|(due, _)| due);
        due.into_iter().chain(self.protection_due_by(up_to)).min()
    }

    /// Everything due by `up_to`, in the order of deadline and lease, then those that protection lets go, at most `limit`
    /// changes. The proposer's clock is
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
        self.look_after(up_to);
        let mut judged = Judged::new();
        let (count, more) = self.expire_due(up_to, limit, &mut judged);
        self.note_lapses(judged);
        Ok(Outcome::Expired { count, more })
    }

    /// How much was done, and whether more is due.
    fn expire_due(&mut self, up_to: ClusterTime, limit: u32, judged: &mut Judged) -> (u32, bool) {
        let mut count = 0;
        while let Some((_, slot)) = self.first_due_by(up_to) {
            if count == limit {
                return (count, true);
            }
            count += 1;
            if !self.instance(slot).is_lapsed() && self.holds(slot, judged) {
                self.hold(slot);
            } else {
                self.lapse(slot, self.seat(slot).deadline);
            }
        }
        while let Some(slot) = self.first_released_by(up_to) {
            if count == limit {
                return (count, true);
            }
            count += 1;
            self.release(slot, up_to);
        }
        (count, false)
    }

    /// Takes an instance off the roll, or turns it offline if that comes first.
    pub(super) fn lapse(&mut self, slot: Slot, deadline: ClusterTime) {
        let instance = self.instance(slot);
        if instance.is_lapsed() || instance.registration().reap_after_ms == 0 {
            self.tally.expired += 1;
            self.strike_off(slot, ChangeKind::Expired);
        } else {
            let instance = Instance { presence: Presence::Lapsed, ..Instance::clone(instance) };
            self.tally.lapsed += 1;
            let revision = self.next_revision();
            self.change(slot, Instance { revision, ..instance }, deadline, ChangeKind::StatusChanged);
        }
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

    /// Has a slot looked at when it falls due; a suspect goes when its turn comes.
    pub(super) fn appoint(&mut self, slot: Slot) {
        let seat = self.seat(slot);
        if seat.instance.is_suspect() {
            let (tenant, appointment) = (seat.instance.tenant.clone(), (seat.deadline, seat.instance.lease, slot));
            self.held.insert(&tenant, appointment);
        } else {
            self.schedule_at(slot, seat.due());
        }
    }

    /// Takes back what [`Self::appoint`] did with what stood at a slot.
    pub(super) fn disappoint(
        &mut self,
        slot: Slot,
        before: &Instance,
        deadline: ClusterTime,
        scheduled: ClusterTime,
    ) {
        if before.is_suspect() {
            self.held.remove(&before.tenant, (deadline, before.lease, slot));
        } else {
            self.schedule.remove((scheduled, before.lease, slot));
        }
    }

    pub(super) fn schedule_at(&mut self, slot: Slot, at: ClusterTime) {
        let seat = self.seat_mut(slot);
        seat.scheduled = at;
        let lease = seat.instance.lease;
        self.schedule.insert((at, lease, slot));
    }
}
