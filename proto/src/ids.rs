//! The ids of the product, one newtype per concept, so that a manga id can never be passed where a user id is meant.
//! Sixteen-byte ids print and parse as UUIDs; numeric ids print as plain numbers.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::values::ValueError;

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Uuid);

        impl $name {
            /// Wraps sixteen bytes, in the order a UUID prints them.
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(Uuid::from_bytes(bytes))
            }

            /// The sixteen bytes, in the order a UUID prints them.
            pub const fn as_bytes(&self) -> &[u8; 16] {
                self.0.as_bytes()
            }

            /// A new time-ordered id (UUID version 7, RFC 9562).
            pub fn new_v7() -> Self {
                Self(Uuid::now_v7())
            }

            /// Whether all sixteen bytes are zero: the wire's spelling of "none".
            pub fn is_nil(&self) -> bool {
                self.0.is_nil()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.hyphenated().fmt(out)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.hyphenated().fmt(out)
            }
        }

        impl FromStr for $name {
            type Err = ValueError;

            fn from_str(text: &str) -> Result<Self, ValueError> {
                Uuid::try_parse(text).map(Self).map_err(|_| ValueError::new($what, "a UUID"))
            }
        }
    };
}

uuid_id!(
    /// A person's account.
    UserId,
    "user id"
);
uuid_id!(
    /// One of a person's clients; chosen by the client and kept by it.
    DeviceId,
    "device id"
);
uuid_id!(
    /// What a credential rests on and what revocation names: a session's `sid`, or an API key's id.
    GrantId,
    "session id"
);

/// A session is a grant that was made by signing in.
pub type SessionId = GrantId;

/// A series. Positive, and stable across renames (the slug is not).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MangaId(pub i64);

impl fmt::Display for MangaId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(out)
    }
}

impl fmt::Debug for MangaId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "manga:{}", self.0)
    }
}

impl FromStr for MangaId {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        text.parse().ok().filter(|id| *id > 0).map(Self).ok_or(ValueError::new("manga id", "a positive whole number"))
    }
}

/// One server process's data folder: random, made once. The last component of a merge key, so two nodes never tie.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NodeId(pub u32);
