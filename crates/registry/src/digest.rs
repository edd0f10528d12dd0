//! The digest of the whole state, kept while it changes. It is a sum over rows, so the order in which they came to be
//! does not matter, and one change costs one subtraction and one addition.

use std::fmt;
use std::hash::{Hash, Hasher};

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

use crate::ids::{ClusterTime, LeaseId};
use crate::registration::Instance;

/// Equal states have equal digests; different ones differ but for a chance of 2⁻¹²⁸.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digest(pub u128);

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// The running sum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RowSum(u128);

impl RowSum {
    pub(crate) fn add(&mut self, row: u128) {
        self.0 = self.0.wrapping_add(row);
    }

    pub(crate) fn remove(&mut self, row: u128) {
        self.0 = self.0.wrapping_sub(row);
    }

    /// Mixes in what is not a row.
    pub(crate) fn with_scalars(self, scalars: &[u64]) -> Digest {
        let mut hash = Xxh3::new();
        hash.update(&self.0.to_le_bytes());
        for scalar in scalars {
            hash.update(&scalar.to_le_bytes());
        }
        Digest(hash.digest128())
    }
}

pub(crate) fn of_instance(instance: &Instance) -> u128 {
    let mut hasher = RowHasher(Xxh3::new());
    instance.hash(&mut hasher);
    hasher.0.digest128()
}

pub(crate) fn of_deadline(lease: LeaseId, deadline: ClusterTime) -> u128 {
    let mut row = [0; 16];
    row[..8].copy_from_slice(&lease.0.to_le_bytes());
    row[8..].copy_from_slice(&deadline.0.to_le_bytes());
    xxhash_rust::xxh3::xxh3_128(&row)
}

/// Feeds a value's `Hash` into xxh3, with every number in little-endian order so that machines agree.
struct RowHasher(Xxh3);

impl Hasher for RowHasher {
    fn finish(&self) -> u64 {
        self.0.digest()
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn write_u16(&mut self, n: u16) {
        self.write(&n.to_le_bytes());
    }

    fn write_u32(&mut self, n: u32) {
        self.write(&n.to_le_bytes());
    }

    fn write_u64(&mut self, n: u64) {
        self.write(&n.to_le_bytes());
    }

    fn write_usize(&mut self, n: usize) {
        self.write_u64(n as u64);
    }

    fn write_isize(&mut self, n: isize) {
        self.write_u64(n as u64);
    }
}
