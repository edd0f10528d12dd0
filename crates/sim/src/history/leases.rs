//! Whether leases last as long as they should, by what was acknowledged.

use std::collections::HashMap;

/// What names a lease: the instance, and the number.
pub type Lease = (u64, u64);

#[derive(Clone, Copy, Debug)]
struct Renewed {
    ttl_us: u64,
    /// When the last heartbeat that was acknowledged was sent.
    sent_us: u64,
}

#[derive(Clone, Debug, Default)]
pub struct Leases {
    renewed: HashMap<Lease, Renewed>,
    /// Who was told, when, that a lease had run out.
    ended: Vec<(Lease, u64)>,
    /// Stretches, none over another, in which no quorum ran, less what a leader's clock may step over.
    stood_still: Vec<(u64, u64)>,
}

impl Leases {
    /// A registration or heartbeat of this lease, sent at `sent_us`, was acknowledged.
    pub fn renewed(&mut self, lease: Lease, ttl_us: u64, sent_us: u64) {
        let known = self.renewed.entry(lease).or_insert(Renewed { ttl_us, sent_us });
        known.sent_us = known.sent_us.max(sent_us);
    }

    /// Somebody was told that the lease has run out.
    pub fn ended(&mut self, lease: Lease, told_us: u64) {
        self.ended.push((lease, told_us));
    }

    /// No quorum ran in this stretch, so that cluster time stood still but for one step of the clock.
    pub fn stood_still(&mut self, from_us: u64, until_us: u64, step_max_us: u64) {
        let until_us = until_us.saturating_sub(step_max_us);
        if from_us < until_us {
            self.stood_still.push((from_us, until_us));
        }
    }

    /// Leases that ended too early, in words.
    pub fn faults(&self) -> Vec<String> {
        self.ended.iter().filter_map(|(lease, told_us)| self.early(*lease, *told_us)).collect()
    }

    fn early(&self, lease: Lease, told_us: u64) -> Option<String> {
        let Renewed { ttl_us, sent_us } = *self.renewed.get(&lease)?;
        let still = |(from, until): &(u64, u64)| until.min(&told_us).saturating_sub(*from.max(&sent_us));
        let still_us: u64 = self.stood_still.iter().map(still).sum();
        let lived_us = told_us.saturating_sub(sent_us);
        let (key, number) = lease;
        if lived_us < ttl_us {
            let early_ms = (ttl_us - lived_us).div_ceil(1_000);
            return Some(format!("P3: i-{key}: lease {number} ended {early_ms} ms before its time"));
        }
        (lived_us.saturating_sub(still_us) < ttl_us).then(|| {
            let still_ms = still_us / 1_000;
            format!("P5: i-{key}: lease {number} ran out although no quorum ran for {still_ms} ms of its time")
        })
    }
}
