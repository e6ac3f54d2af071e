//! The values that messages are made of: parsed once at the door, then trusted. Chapters are decimals kept as whole
//! hundredths, versions are hybrid logical clock readings that fit a JSON number.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::ids::NodeId;

/// A value that is not what its type allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} must be {expected}")]
pub struct ValueError {
    /// Which value was wrong, as a person would name it.
    pub what: &'static str,
    /// What would have been right.
    pub expected: &'static str,
}

impl ValueError {
    /// Names the wrong value and what would have been right.
    pub const fn new(what: &'static str, expected: &'static str) -> Self {
        Self { what, expected }
    }
}

/// A chapter number in whole hundredths: chapter 5.5 is 550. From 0 to 1,000,000.00.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Chapter(u32);

impl Chapter {
    /// The largest chapter there is: 1,000,000.00.
    pub const MAX: Chapter = Chapter(100_000_000);
    /// Not started.
    pub const ZERO: Chapter = Chapter(0);

    const EXPECTED: ValueError =
        ValueError::new("chapter", "a number from 0 to 1000000 with at most two digits after the point");

    /// From hundredths, as frames, records and tables carry it.
    pub const fn from_hundredths(hundredths: u32) -> Result<Self, ValueError> {
        if hundredths <= Self::MAX.0 { Ok(Self(hundredths)) } else { Err(Self::EXPECTED) }
    }

    /// A whole chapter number, as a catalogue counts them; more than the maximum counts as the maximum.
    pub const fn whole(number: u32) -> Self {
        let hundredths = number.saturating_mul(100);
        if hundredths <= Self::MAX.0 { Self(hundredths) } else { Self::MAX }
    }

    /// In hundredths.
    pub const fn hundredths(self) -> u32 {
        self.0
    }

    /// The whole part: 95 for 95.5.
    pub const fn whole_part(self) -> u32 {
        self.0 / 100
    }

    /// From a JSON number: rejects what is not a multiple of 0.01, negative, too large, or not a number.
    pub fn from_f64(number: f64) -> Result<Self, ValueError> {
        let hundredths = (number * 100.0).round();
        let exact = (hundredths / 100.0 - number).abs() < 1e-9;
        if exact && (0.0..=f64::from(Self::MAX.0)).contains(&hundredths) {
            Ok(Self(hundredths as u32))
        } else {
            Err(Self::EXPECTED)
        }
    }

    /// As a JSON number; exact enough to come back unchanged through `from_f64`.
    pub fn as_f64(self) -> f64 {
        f64::from(self.0) / 100.0
    }
}

impl fmt::Display for Chapter {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, part) = (self.0 / 100, self.0 % 100);
        match (part, part % 10) {
            (0, _) => write!(out, "{whole}"),
            (_, 0) => write!(out, "{whole}.{}", part / 10),
            _ => write!(out, "{whole}.{part:02}"),
        }
    }
}

impl fmt::Debug for Chapter {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "chapter {self}")
    }
}

impl FromStr for Chapter {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if !digits(whole) || !digits(part) || part.len() > 2 {
            return Err(Self::EXPECTED);
        }
        let whole: u32 = whole.parse().map_err(|_| Self::EXPECTED)?;
        let hundredths: u32 = part.parse::<u32>().map_err(|_| Self::EXPECTED)? * if part.len() == 1 { 10 } else { 1 };
        whole
            .checked_mul(100)
            .and_then(|sum| sum.checked_add(hundredths))
            .map_or(Err(Self::EXPECTED), Self::from_hundredths)
    }
}

impl Serialize for Chapter {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // Whole chapters stay whole numbers: clients of the earlier system read them as integers.
        if self.0.is_multiple_of(100) {
            serializer.serialize_u32(self.0 / 100)
        } else {
            serializer.serialize_f64(self.as_f64())
        }
    }
}

impl<'de> Deserialize<'de> for Chapter {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        f64::deserialize(deserializer).and_then(|number| Self::from_f64(number).map_err(serde::de::Error::custom))
    }
}

/// A page within a chapter.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Page(pub u32);

/// A device's own count of its commands: what makes a retry harmless. Starts at 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DeviceSeq(pub u64);

/// What an `ask` conflict hands out and its resolution brings back: sixteen opaque bytes, hex in JSON. All zero is the wire's
/// spelling of "none", so it is never a token.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ConflictToken([u8; 16]);

impl ConflictToken {
    const EXPECTED: ValueError = ValueError::new("conflict_token", "32 hexadecimal digits, not all zero");

    /// Wraps the sixteen bytes; none when all are zero.
    pub const fn from_bytes(bytes: [u8; 16]) -> Option<Self> {
        if u128::from_le_bytes(bytes) == 0 { None } else { Some(Self(bytes)) }
    }

    /// The sixteen bytes.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for ConflictToken {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl FromStr for ConflictToken {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        // from_str_radix would take a sign; 32 hexadecimal digits have none.
        if text.len() != 32 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(Self::EXPECTED);
        }
        let number = u128::from_str_radix(text, 16).map_err(|_| Self::EXPECTED)?;
        Self::from_bytes(number.to_be_bytes()).ok_or(Self::EXPECTED)
    }
}

/// A hybrid logical clock reading: 41 bits of milliseconds since 2024-01-01 UTC, then 12 bits of counter. 53 bits, so it
/// survives a JSON number. Larger is later.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Version(pub u64);

impl Version {
    /// 2024-01-01T00:00:00Z in Unix milliseconds.
    pub const EPOCH_UNIX_MS: u64 = 1_704_067_200_000;
    /// Bits of the counter within one millisecond.
    pub const COUNTER_BITS: u32 = 12;
    /// Before every real version.
    pub const ZERO: Version = Version(0);
    /// The largest reading: 53 bits.
    pub const MAX: Version = Version((1 << 53) - 1);

    /// The first reading of a wall-clock millisecond; before 2024 counts as 2024.
    pub const fn from_unix_ms(unix_ms: u64) -> Self {
        let since_epoch = unix_ms.saturating_sub(Self::EPOCH_UNIX_MS);
        if since_epoch > Self::MAX.0 >> Self::COUNTER_BITS {
            return Self::MAX;
        }
        Self(since_epoch << Self::COUNTER_BITS)
    }

    /// When this reading was taken, in Unix milliseconds.
    pub const fn unix_ms(self) -> u64 {
        (self.0 >> Self::COUNTER_BITS) + Self::EPOCH_UNIX_MS
    }
}

/// The one order that decides between two states of a series: the larger key wins, in memory, in the journal's replay,
/// in SQL and in Redis. Field order is the order of comparison.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct MergeKey {
    /// Inherited by an ordinary change, set to the change's own version by one that may go back.
    pub generation: Version,
    /// Within a generation the furthest chapter wins.
    pub chapter: Chapter,
    /// For the same chapter the newer change wins.
    pub version: Version,
    /// Two nodes never tie.
    pub node: NodeId,
}

macro_rules! wire_enum {
    ($(#[$doc:meta])* $name:ident, $what:literal, $expected:literal { $($(#[$vdoc:meta])* $variant:ident = $byte:literal, $text:literal;)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[repr(u8)]
        pub enum $name { $($(#[$vdoc])* $variant = $byte,)* }

        impl $name {
            /// Every value, in wire order.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The spelling in JSON and in tables.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }

            /// The value a frame or record carries, if it is one.
            pub const fn from_byte(byte: u8) -> Option<Self> {
                match byte { $($byte => Some(Self::$variant),)* _ => None }
            }

            /// What frames and records carry; 0 is never a value.
            pub const fn as_byte(self) -> u8 {
                self as u8
            }
        }

        impl FromStr for $name {
            type Err = ValueError;

            fn from_str(text: &str) -> Result<Self, ValueError> {
                // Hyphens are the earlier system's spelling.
                let same = |word: &str| word.len() == text.len() && word.bytes().zip(text.bytes()).all(|(a, b)| a == b || (a == b'_' && b == b'-'));
                Self::ALL.iter().copied().find(|value| same(value.as_str())).ok_or(ValueError::new($what, $expected))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str(self.as_str())
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

wire_enum!(
    /// How a person stands to a series. Owned by the library row.
    ReadingStatus, "status", "reading, completed, plan_to_read, on_hold, dropped or re_reading" {
        /// Being read.
        Reading = 1, "reading";
        /// Read to the end.
        Completed = 2, "completed";
        /// On the list.
        PlanToRead = 3, "plan_to_read";
        /// Paused.
        OnHold = 4, "on_hold";
        /// Given up.
        Dropped = 5, "dropped";
        /// Being read again: a lower chapter is meant.
        ReReading = 6, "re_reading";
    }
);

wire_enum!(
    /// How a series stands with its publisher.
    SeriesStatus, "series status", "ongoing, completed, hiatus or cancelled" {
        /// New chapters appear.
        Ongoing = 1, "ongoing";
        /// Finished.
        Completed = 2, "completed";
        /// Paused.
        Hiatus = 3, "hiatus";
        /// Ended early.
        Cancelled = 4, "cancelled";
    }
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chapters_survive_text_and_json() {
        for hundredths in (0..250_000).chain([Chapter::MAX.hundredths() - 1, Chapter::MAX.hundredths()]) {
            let chapter = Chapter::from_hundredths(hundredths).unwrap();
            assert_eq!(chapter.to_string().parse::<Chapter>().unwrap(), chapter);
            assert_eq!(Chapter::from_f64(chapter.as_f64()).unwrap(), chapter);
        }
        for bad in ["", "-1", "1.234", "1.", ".5", "1000000.01", "5,5", "1e3", "NaN", " 1"] {
            assert!(bad.parse::<Chapter>().is_err(), "{bad}");
        }
        for bad in [-0.01, 5.005, f64::NAN, f64::INFINITY, 1_000_000.01] {
            assert!(Chapter::from_f64(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn statuses_accept_the_earlier_spelling() {
        assert_eq!("plan-to-read".parse(), Ok(ReadingStatus::PlanToRead));
        assert_eq!("on_hold".parse(), Ok(ReadingStatus::OnHold));
        assert!("Reading".parse::<ReadingStatus>().is_err());
    }

    #[test]
    fn versions_keep_the_wall_clock() {
        let version = Version::from_unix_ms(1_800_000_000_123);
        assert_eq!(version.unix_ms(), 1_800_000_000_123);
        assert!(version < Version::MAX);
        assert_eq!(Version::from_unix_ms(5), Version::ZERO);
    }
}
