//! Lanes: the sixteen strands that every record belongs to one of, so that a store can be fed in parallel and can say how
//! far it is per strand. The number of lanes and the hash are part of the journal's format and must never change.

use std::fmt;

use proto::UserId;

/// How many lanes there are. Part of the format.
pub const LANES: usize = 16;

/// One of the sixteen lanes: below [`LANES`], always.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lane(u8);

impl Lane {
    /// The lane with this number, if there is one.
    pub const fn from_byte(byte: u8) -> Option<Self> {
        if (byte as usize) < LANES { Some(Self(byte)) } else { None }
    }

    /// What a record carries.
    pub const fn as_byte(self) -> u8 {
        self.0
    }

    /// For arrays of [`LANES`] elements.
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// All sixteen, in order.
    pub fn all() -> impl Iterator<Item = Lane> {
        (0..LANES as u8).map(Lane)
    }
}

impl fmt::Debug for Lane {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "lane:{}", self.0)
    }
}

impl fmt::Display for Lane {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(out)
    }
}

/// The lane of everything that belongs to one person. Part of the format:
/// `((low ^ high) * 0x9E3779B97F4A7C15) >> 60`, where low and high are the id's halves as little-endian u64 and the product
/// wraps (Fibonacci hashing, Knuth 6.4).
pub fn lane_of(user: UserId) -> Lane {
    let bytes = user.as_bytes();
    let half = |at: usize| bytes[at..at + 8].iter().rev().fold(0u64, |sum, byte| sum << 8 | u64::from(*byte));
    Lane(((half(0) ^ half(8)).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 60) as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lane_of_a_user_never_changes() {
        let id =
            |seed: u8| UserId::from_bytes(std::array::from_fn(|at| seed.wrapping_mul(31).wrapping_add(at as u8 * 7)));
        let lanes: Vec<u8> = (0..8).map(|seed| lane_of(id(seed)).as_byte()).collect();
        assert_eq!(lanes, [9, 4, 3, 11, 8, 12, 13, 13]);
    }

    #[test]
    fn users_spread_over_all_lanes() {
        let mut counts = [0u32; LANES];
        for _ in 0..16_000 {
            counts[lane_of(UserId::new_v7()).index()] += 1;
        }
        assert!(counts.iter().all(|count| (700..1_300).contains(count)), "{counts:?}");
    }
}
