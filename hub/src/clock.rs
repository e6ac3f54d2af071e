//! The hybrid logical clock (Kulkarni et al., 2014) that versions come from: one per shard. It promises that versions only
//! grow, whatever the wall clock does, and that a remote clock far ahead never drags the local one along. It never reads a
//! clock itself: the caller hands in the wall time.

use proto::Version;

/// How far ahead of the wall clock another node's version may be before it is no longer followed.
pub const REMOTE_AHEAD_MAX_MS: u64 = 60_000;

/// A shard's hybrid logical clock.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hlc {
    last: Version,
    skewed: u64,
}

impl Hlc {
    /// A clock that has given out nothing above `high_water`: at boot, the highest mark of the journal and the store.
    pub fn new(high_water: Version) -> Self {
        Self { last: high_water, skewed: 0 }
    }

    /// The next version: later than everything this clock gave out, than the wall clock's previous milliseconds, and than
    /// `at_least` (what the row to be changed carries). Constant time.
    ///
    /// When `at_least` lies more than [`REMOTE_AHEAD_MAX_MS`] ahead of the wall clock, the row still gets a later version, but
    /// the clock itself does not follow, and the case is counted.
    pub fn next(&mut self, wall_ms: u64, at_least: Version) -> Version {
        let own = Version::from_unix_ms(wall_ms).max(after(self.last));
        if at_least < own {
            self.last = own;
            return own;
        }
        let version = after(at_least);
        if is_far_ahead(at_least, wall_ms) {
            self.skewed += 1;
            self.last = own;
        } else {
            self.last = version;
        }
        version
    }

    /// Takes note of another node's version, so that what follows here is later. False when it is too far ahead to be
    /// followed; that is counted and deserves an alarm.
    pub fn observe(&mut self, remote: Version, wall_ms: u64) -> bool {
        if is_far_ahead(remote, wall_ms) {
            self.skewed += 1;
            return false;
        }
        self.last = self.last.max(remote);
        true
    }

    /// The highest version this clock has given out or followed: what the journal's segment headers keep.
    pub fn high_water(&self) -> Version {
        self.last
    }

    /// How often a remote version was too far ahead to be followed.
    pub fn skewed(&self) -> u64 {
        self.skewed
    }
}

fn after(version: Version) -> Version {
    Version(version.0 + 1).min(Version::MAX)
}

fn is_far_ahead(version: Version, wall_ms: u64) -> bool {
    version.unix_ms() > wall_ms.saturating_add(REMOTE_AHEAD_MAX_MS)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_MS: u64 = 1_800_000_000_000;

    #[test]
    fn versions_grow_while_the_wall_clock_stands_or_steps_back() {
        let mut clock = Hlc::default();
        let mut last = Version::ZERO;
        for wall_ms in [NOW_MS, NOW_MS, NOW_MS - 5_000, NOW_MS + 1, 0, NOW_MS + 1] {
            let version = clock.next(wall_ms, Version::ZERO);
            assert!(version > last);
            last = version;
        }
        assert!(last.unix_ms() <= NOW_MS + 1);
    }

    #[test]
    fn more_than_a_counters_worth_in_one_millisecond_runs_into_the_next() {
        let mut clock = Hlc::default();
        let versions: Vec<_> = (0..10_000).map(|_| clock.next(NOW_MS, Version::ZERO)).collect();
        assert!(versions.windows(2).all(|pair| pair[0] < pair[1]));
        assert_eq!(clock.high_water().unix_ms(), NOW_MS + 2);
    }

    #[test]
    fn a_row_from_a_slightly_fast_node_is_followed() {
        let mut clock = Hlc::default();
        let remote = Version::from_unix_ms(NOW_MS + 30_000);
        assert!(clock.next(NOW_MS, remote) > remote);
        assert!(clock.next(NOW_MS, Version::ZERO) > remote);
        assert_eq!(clock.skewed(), 0);
    }

    #[test]
    fn a_clock_far_ahead_is_outbid_for_its_row_but_not_followed() {
        let mut clock = Hlc::default();
        let remote = Version::from_unix_ms(NOW_MS + REMOTE_AHEAD_MAX_MS + 1);
        assert!(clock.next(NOW_MS, remote) > remote);
        assert!(!clock.observe(remote, NOW_MS));
        assert!(clock.next(NOW_MS, Version::ZERO).unix_ms() <= NOW_MS + 1);
        assert_eq!(clock.skewed(), 2);
    }

    #[test]
    fn boot_starts_above_the_high_water_mark() {
        let mark = Version::from_unix_ms(NOW_MS + 7);
        assert!(Hlc::new(mark).next(NOW_MS, Version::ZERO) > mark);
    }

    #[test]
    fn the_largest_version_does_not_overflow() {
        assert_eq!(Hlc::default().next(NOW_MS, Version::MAX), Version::MAX);
        assert_eq!(Hlc::new(Version::MAX).next(u64::MAX, Version::ZERO), Version::MAX);
    }
}
