//! What can go wrong in a store, sorted by what the caller can do: wait, mend the input, or stop. A store never answers with a
//! driver's own error type, so the rooms above do not know which database is underneath.

use std::time::Duration;

/// Why a store did not do what it was asked. Nothing was changed, whichever it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The store's queue is full: wait and try again.
    #[error("the store's queue is full; try again in a moment")]
    Busy,
    /// The store is away (stopped, locked by another process, out of disk): wait and try again.
    #[error("the store is not available ({reason}); try again in {} ms", retry_after.as_millis())]
    Unavailable {
        /// What the store said.
        reason: String,
        /// When it makes sense to try again.
        retry_after: Duration,
    },
    /// A unique name belongs to somebody else.
    #[error("that {field} is taken")]
    Taken {
        /// Which field.
        field: UniqueField,
    },
    /// There is no such row.
    #[error("there is no such {what}")]
    NotFound {
        /// What was looked for, as a person would name it.
        what: &'static str,
    },
    /// The store refuses the data itself: trying the same again will not help. A batch is bisected, a row parked.
    #[error("the store refused the data: {reason}")]
    Refused {
        /// What the store said.
        reason: String,
    },
    /// The store is not the one that this server began with, or an older copy of it: stop before anything is written over it.
    #[error("{reason}")]
    Unfit {
        /// What it is instead, and the way out.
        reason: String,
    },
    /// The stored data is not what this version writes: stop and look.
    #[error("the store holds something this version cannot read: {reason}")]
    Corrupt {
        /// Which row or file, and what is wrong with it.
        reason: String,
    },
}

impl StoreError {
    /// Whether the same request may work later without being changed.
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Busy | Self::Unavailable { .. })
    }

    /// For a store that has stopped, or whose thread has gone.
    pub(crate) fn stopped() -> Self {
        Self::Unavailable { reason: "it is stopping".into(), retry_after: Duration::from_secs(1) }
    }
}

/// A column that must be unique among all users.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UniqueField {
    /// The folded username.
    Username,
    /// The folded email address.
    Email,
}

impl UniqueField {
    /// The field's name in requests and answers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Username => "username",
            Self::Email => "email",
        }
    }
}

impl std::fmt::Display for UniqueField {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(self.as_str())
    }
}
