//! The invariants, all at once. Linear in the state, so for tests and for a restored backup, not for the hot path.

use super::State;
use crate::digest::{self, RowSum};
use crate::index::Index;
use crate::quota::bytes_of_instance;

impl State {
    /// # Panics
    /// When the state contradicts itself, naming the invariant.
    pub fn assert_consistent(&self) {
        let mut sum = RowSum::default();
        let mut leases = 0;
        let mut taken = 0;
        let mut suspects = 0;
        for (slot, seat) in self.seats.iter().enumerate() {
            let Some(seat) = seat else {
                assert!(self.free.contains(&(slot as u32)), "an empty slot is not free");
                continue;
            };
            let (slot, instance) = (slot as u32, &seat.instance);
            taken += 1;
            sum.add(digest::of_instance(instance));
            sum.add(digest::of_deadline(instance.lease, seat.deadline));
            let superseded = instance.seldom.superseded();
            for lease in superseded.iter().chain([&instance.lease]) {
                leases += 1;
                assert_eq!(self.lease_slot(*lease), Some(slot), "lease {lease} leads elsewhere");
            }
            assert!(superseded.is_sorted(), "superseded leases are out of order");
            assert!(superseded.last() < Some(&instance.lease), "a superseded lease is newer");
            assert!(instance.revision <= self.revision, "an instance is ahead of the revision");
            assert!(instance.created_revision <= instance.revision, "an instance is older than its creation");
            assert!(instance.lease.0 <= instance.revision.0, "a lease is ahead of its instance");
            if instance.is_suspect() {
                suspects += 1;
                let entry = (seat.deadline, instance.lease, slot);
                assert!(seat.deadline <= self.now, "a suspect's lease has not run out");
                assert!(self.held.contains(&instance.tenant, entry), "a suspect is not held");
            } else {
                assert!(seat.scheduled <= seat.due(), "a slot is scheduled after it falls due");
                let entry = (seat.scheduled, instance.lease, slot);
                assert!(self.schedule.contains(entry), "a slot is not scheduled");
            }
            assert_eq!(seat.ttl_ms, instance.registration.ttl_ms(), "a seat has another TTL than its instance");
            assert_eq!(self.slot(&instance.tenant, instance.id()), Some(slot), "an id leads elsewhere");
        }
        assert_eq!(taken, self.len(), "slots are lost");
        assert_eq!(self.held.len(), suspects, "nobody is held");
        assert_eq!(self.schedule.len(), taken - suspects, "the schedule has entries of nobody");
        assert_eq!(self.leases.len(), leases, "the lease table has entries of nobody");
        self.join_tokens().for_each(|token| sum.add(digest::of_join_token(token)));
        self.access_tokens.assert_consistent(&mut sum);
        self.definitions.assert_consistent(&mut sum);
        self.assert_rulings(&mut sum);
        self.signatures.assert_consistent(&mut sum);
        self.federation.assert_consistent(&mut sum);
        assert_eq!(self.rows, sum, "the digest strayed from the rows");
        for (name, tenant) in &self.tenants {
            assert!(!tenant.ids.is_empty(), "tenant {name} is kept without instances");
            let bytes: u64 = tenant.ids.values().map(|slot| bytes_of_instance(self.instance(*slot))).sum();
            assert_eq!(bytes, tenant.bytes, "tenant {name}: its bytes are counted wrong");
            let mut index = Index::new(self.options.seed);
            tenant.ids.values().for_each(|slot| index.insert(*slot, self.instance(*slot)));
            assert_eq!(index.all(), tenant.index.all(), "tenant {name}: the index knows other instances");
            assert_eq!(index.term_count(), tenant.index.term_count(), "tenant {name}: the index has other terms");
            for (id, slot) in &tenant.ids {
                let instance = self.instance(*slot);
                assert!(id.is_of(instance), "tenant {name}: the ids keep another registration alive");
                crate::index::Term::of(instance, &instance.registration(), |term| {
                    let slots = |index: &Index| index.posting(term).map(|posting| posting.iter().collect::<Vec<_>>());
                    assert_eq!(slots(&index), slots(&tenant.index), "tenant {name}: {term:?} strayed");
                });
            }
        }
        let mut newest = None;
        for change in self.changes_after(self.oldest_known()).into_iter().flatten() {
            assert!(newest < Some(change.revision), "history is out of order");
            newest = Some(change.revision);
        }
        assert!(newest <= Some(self.revision), "history is ahead of the revision");
    }
}
