//! Protection from a mass expiry: when more of a tenant's leases run out at about one time than agents die at one time,
//! the roll does not believe it, and keeps them as suspects for a while.

use serde::{Deserialize, Serialize};

use crate::ids::{ClusterTime, WallTime};
use crate::place::PERMILLE;

/// From the shortest that agents beat in to an hour, after which it is no longer one event.
const WINDOW_MS: std::ops::RangeInclusive<u32> = 1_000..=3_600_000;
/// More than a hundred each second is no bound that spares anybody anything.
const RELEASE_PER_MINUTE_MAX: u32 = 6_000;
const LEASES_MIN_MAX: u32 = 1_000_000;

/// Into so many parts a window is divided where it is counted what lapsed within it.
pub(crate) const WINDOW_PARTS: u64 = 16;

/// When a tenant's leases are protected, and how fast those are struck off that stay silent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "[u32; 4]", into = "[u32; 4]")]
pub struct Protection {
    share_permille: u32,
    window_ms: u32,
    release_per_minute: u32,
    leases_min: u32,
}

/// What is no protection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "protection takes a share between 0 and 1, a window of 1 s to an hour, 1 to 6000 releases in a minute, and 1 to 1000000 leases"
)]
pub struct ProtectionError;

impl TryFrom<[u32; 4]> for Protection {
    type Error = ProtectionError;

    /// Share in thousandths, window in milliseconds, releases in a minute, fewest leases.
    fn try_from(parts: [u32; 4]) -> Result<Self, ProtectionError> {
        let [share_permille, window_ms, release_per_minute, leases_min] = parts;
        let within = (1..PERMILLE).contains(&share_permille)
            && WINDOW_MS.contains(&window_ms)
            && (1..=RELEASE_PER_MINUTE_MAX).contains(&release_per_minute)
            && (1..=LEASES_MIN_MAX).contains(&leases_min);
        if within {
            Ok(Self { share_permille, window_ms, release_per_minute, leases_min })
        } else {
            Err(ProtectionError)
        }
    }
}

impl From<Protection> for [u32; 4] {
    fn from(protection: Protection) -> Self {
        let Protection { share_permille, window_ms, release_per_minute, leases_min } = protection;
        [share_permille, window_ms, release_per_minute, leases_min]
    }
}

impl Protection {
    /// More than this share of a tenant's leases must be about to lapse.
    pub fn share_permille(self) -> u32 {
        self.share_permille
    }

    pub fn window_ms(self) -> u32 {
        self.window_ms
    }

    pub fn release_per_minute(self) -> u32 {
        self.release_per_minute
    }

    /// A tenant with fewer leases is not protected.
    pub fn leases_min(self) -> u32 {
        self.leases_min
    }

    /// Between two that are struck off.
    pub(crate) fn release_ms(self) -> u64 {
        u64::from(60_000u32.div_ceil(self.release_per_minute))
    }

    /// Whether so many of so many are too many to have died.
    pub(crate) fn begins(self, silent: u64, leases: u64) -> bool {
        leases >= u64::from(self.leases_min) && self.is_exceeded(silent, leases)
    }

    /// Whether so many of so many are few enough for it to be over: half of what it begins with, so that it does not
    /// begin and end all the time.
    pub(crate) fn ends(self, silent: u64, leases: u64) -> bool {
        !self.is_exceeded(silent * 2, leases)
    }

    fn is_exceeded(self, silent: u64, leases: u64) -> bool {
        silent * u64::from(PERMILLE) > leases * u64::from(self.share_permille)
    }

    /// The part of some window that a time is in.
    fn part(self, at: ClusterTime) -> u64 {
        at.0 * WINDOW_PARTS / u64::from(self.window_ms)
    }
}

/// What is going on about a tenant's protection: a row that applied entries alone change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vigil {
    /// How often protection began.
    pub begun: u64,
    /// Since when it is in force. Whoever is held when it ends is struck off at the bounded rate all the same.
    pub since: Option<WallTime>,
    /// When it is looked at next whether it is over.
    pub next_look: ClusterTime,
    /// When the next of those held may be struck off.
    pub next_release: ClusterTime,
    /// Those held are struck off without more ado: an operator said so.
    pub freed: bool,
    /// Until then none begins, because an operator just ended one.
    pub quiet_until: ClusterTime,
    /// How many lapsed in each part of the last window in which any did.
    pub lapses: Vec<(u64, u32)>,
}

impl Vigil {
    /// Unprotected lapses within the window that ends now.
    pub(crate) fn lapsed_lately(&self, protection: Protection, now: ClusterTime) -> u64 {
        let part = protection.part(now);
        let lately = self.lapses.iter().filter(|(of, _)| of + WINDOW_PARTS > part);
        lately.map(|(_, count)| u64::from(*count)).sum()
    }

    pub(crate) fn note_lapses(&mut self, protection: Protection, now: ClusterTime, count: u32) {
        let part = protection.part(now);
        self.lapses.retain(|(of, _)| of + WINDOW_PARTS > part);
        match self.lapses.last_mut() {
            Some((of, counted)) if *of == part => *counted = counted.saturating_add(count),
            _ => self.lapses.push((part, count)),
        }
    }
}

/// How a tenant's protection stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Protecting {
    /// None: its leases are not protected.
    pub protection: Option<Protection>,
    pub since: Option<WallTime>,
    /// How often it began since it was switched on.
    pub begun: u64,
    pub suspects: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn protection(parts: [u32; 4]) -> Protection {
        Protection::try_from(parts).unwrap()
    }

    #[test]
    fn bounds_are_kept() {
        protection([1, 1_000, 1, 1]);
        protection([999, 3_600_000, 6_000, 1_000_000]);
        let bad = [[0, 1_000, 1, 1], [1_000, 1_000, 1, 1], [1, 999, 1, 1], [1, 3_600_001, 1, 1]];
        let more = [[1, 1_000, 0, 1], [1, 1_000, 6_001, 1], [1, 1_000, 1, 0], [1, 1_000, 1, 1_000_001]];
        for parts in bad.into_iter().chain(more) {
            assert_eq!(Protection::try_from(parts), Err(ProtectionError), "{parts:?}");
        }
    }

    #[test]
    fn begins_above_the_share_and_ends_at_half_of_it() {
        let protection = protection([300, 10_000, 7, 10]);
        assert!(!protection.begins(3, 10) && protection.begins(4, 10));
        assert!(!protection.begins(9, 9), "too few to judge by");
        assert!(protection.ends(15, 100) && !protection.ends(16, 100));
        assert!(protection.ends(0, 0));
        assert_eq!(protection.release_ms(), 8_572);
    }

    #[test]
    fn a_lapse_counts_for_a_window() {
        let (protection, mut vigil) = (protection([300, 16_000, 1, 1]), Vigil::default());
        let lately = |vigil: &Vigil, at| vigil.lapsed_lately(protection, ClusterTime(at));
        for at in (0..100_000).step_by(500) {
            vigil.note_lapses(protection, ClusterTime(at), 1);
            assert!(vigil.lapses.len() <= WINDOW_PARTS as usize);
        }
        assert_eq!(lately(&vigil, 99_500), 32);
        assert_eq!(lately(&vigil, 114_000), 2);
        assert_eq!(lately(&vigil, 115_000), 0);
    }
}
