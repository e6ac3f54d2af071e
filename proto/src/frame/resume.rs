//! Where a client stands in the stream of its user's announcements, across connections. The token is opaque but for its last
//! eight bytes, the position, which a client may move forward itself so that a cut connection costs it nothing.

use std::fmt;
use std::str::FromStr;

use crate::values::ValueError;

/// Node (u64, one per data folder), epoch (u64, one per boot), position (u64), all little-endian. All zero means none.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct ResumeToken([u8; 24]);

impl ResumeToken {
    /// "I have nothing": answered with a snapshot.
    pub const NONE: Self = Self([0; 24]);

    /// From the server's own numbers.
    pub fn new(node: u64, epoch: u64, position: u64) -> Self {
        let mut bytes = [0; 24];
        bytes[..8].copy_from_slice(&node.to_le_bytes());
        bytes[8..16].copy_from_slice(&epoch.to_le_bytes());
        bytes[16..].copy_from_slice(&position.to_le_bytes());
        Self(bytes)
    }

    /// As it came.
    pub const fn from_bytes(bytes: [u8; 24]) -> Self {
        Self(bytes)
    }

    /// As it goes out.
    pub const fn as_bytes(&self) -> &[u8; 24] {
        &self.0
    }

    /// Whether there is nothing to resume from.
    pub fn is_none(&self) -> bool {
        *self == Self::NONE
    }

    /// The data folder that the position is counted in.
    pub fn node(&self) -> u64 {
        self.word(0)
    }

    /// The boot that the position is counted in.
    pub fn epoch(&self) -> u64 {
        self.word(1)
    }

    /// The position: the header.seq of the last announcement that is known.
    pub fn position(&self) -> u64 {
        self.word(2)
    }

    /// The same stream at another position: what a client does on every Progress it has dealt with.
    pub fn at(&self, position: u64) -> Self {
        Self::new(self.node(), self.epoch(), position)
    }

    fn word(&self, index: usize) -> u64 {
        let mut word = [0; 8];
        word.copy_from_slice(&self.0[index * 8..index * 8 + 8]);
        u64::from_le_bytes(word)
    }
}

impl fmt::Display for ResumeToken {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(out, "{byte:02x}"))
    }
}

impl fmt::Debug for ResumeToken {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "resume:{self}")
    }
}

impl FromStr for ResumeToken {
    type Err = ValueError;

    /// From 48 hexadecimal digits, as event streams over HTTP carry it.
    fn from_str(text: &str) -> Result<Self, ValueError> {
        const EXPECTED: ValueError = ValueError::new("resume token", "48 hexadecimal digits");
        if text.len() != 48 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(EXPECTED);
        }
        let mut bytes = [0; 24];
        for (at, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[at * 2..at * 2 + 2], 16).map_err(|_| EXPECTED)?;
        }
        Ok(Self(bytes))
    }
}
