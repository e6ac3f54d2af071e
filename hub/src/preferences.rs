//! What a user chose about how progress behaves: the strategy for going back, and the offset from UTC that a reading day is
//! counted in. The newest choice wins, by (version, node).

use std::fmt;
use std::str::FromStr;

use proto::{NodeId, ValueError, Version};

/// What happens when a change would go back to a lower chapter.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
#[repr(u8)]
pub enum Strategy {
    /// A conflict with the stored state, unless forced.
    #[default]
    Furthest = 1,
    /// The latest change wins, going back included.
    Latest = 2,
    /// A conflict with both sides and a token that says "yes, go back".
    Ask = 3,
}

impl Strategy {
    /// Every strategy.
    pub const ALL: [Self; 3] = [Self::Furthest, Self::Latest, Self::Ask];

    /// The spelling in JSON and in tables.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Furthest => "furthest",
            Self::Latest => "latest",
            Self::Ask => "ask",
        }
    }

    /// What records carry; 0 is never a value.
    pub const fn as_byte(self) -> u8 {
        self as u8
    }

    /// The strategy a record carries, if it is one.
    pub fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|strategy| strategy.as_byte() == byte)
    }
}

impl fmt::Display for Strategy {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.as_str())
    }
}

impl FromStr for Strategy {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let found = Self::ALL.into_iter().find(|strategy| strategy.as_str() == text);
        found.ok_or(ValueError::new("conflict strategy", "furthest, latest or ask"))
    }
}

/// Minutes ahead of UTC, from -12:00 to +14:00 (the range of offsets in civil use).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct UtcOffset(i16);

impl UtcOffset {
    /// UTC itself.
    pub const UTC: Self = Self(0);

    /// From minutes ahead of UTC.
    pub fn from_minutes(minutes: i16) -> Result<Self, ValueError> {
        let error = ValueError::new("UTC offset", "from -720 to 840 minutes");
        if (-720..=840).contains(&minutes) { Ok(Self(minutes)) } else { Err(error) }
    }

    /// In minutes ahead of UTC.
    pub const fn minutes(self) -> i16 {
        self.0
    }
}

/// A user's preferences, as stored. `Ord` is the merge order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Preferences {
    /// Of the last change; zero while nothing was ever chosen.
    pub version: Version,
    /// Where that change was made.
    pub node: NodeId,
    /// What happens when a change would go back.
    pub strategy: Strategy,
    /// Decides which day a change is counted on.
    pub utc_offset: UtcOffset,
}
