//! Following single updates through the whole server: one in so many, chosen by the version that the rules give them. The version
//! is in the record, the acknowledgement, the announcement, the cache's and the store's row, so every stage knows by itself what
//! to log, and nothing is carried along. Off it costs one load of a number that nobody writes.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use proto::Version;

/// The target of all log lines of followed updates.
pub const TARGET: &str = "mangahub::update";

/// Updates that one stage may have under its eyes at once; further ones are passed over.
pub const FOLLOWED_MAX: usize = 1_024;

/// One update in so many; 0: none.
static ONE_IN: AtomicU64 = AtomicU64::new(0);

/// Follows one update in `one_in` from now on; 0: none.
pub fn follow(one_in: u64) {
    ONE_IN.store(one_in, Relaxed);
}

/// Whether any update is followed.
#[inline]
pub fn is_on() -> bool {
    ONE_IN.load(Relaxed) != 0
}

/// Whether the update of this version is.
#[inline]
pub fn follows(version: Version) -> bool {
    is_on() && is_chosen(version)
}

#[cold]
fn is_chosen(version: Version) -> bool {
    // Mixed, because versions of a quiet server are all multiples of a millisecond (SplitMix64's last step).
    let mixed = (version.0 ^ (version.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let one_in = ONE_IN.load(Relaxed);
    one_in != 0 && (mixed ^ (mixed >> 27)).is_multiple_of(one_in)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_in_so_many_is_followed_and_none_when_it_is_off() {
        // The only test that touches it.
        let followed = || (0..100_000).filter(|ms| follows(Version::from_unix_ms(1_800_000_000_000 + ms))).count();
        assert_eq!(followed(), 0);
        follow(100);
        let seen = followed();
        assert!((800..1_200).contains(&seen), "{seen}");
        follow(1);
        assert_eq!(followed(), 100_000);
        follow(0);
        assert!(!is_on() && followed() == 0);
    }
}
