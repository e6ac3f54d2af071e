//! The one error of the engine, whatever the door: a code from the table in `proto`, a sentence for a person, and what the
//! caller needs to go on. A door turns it into its own shape and never invents one beside it. Small, because the hot path
//! carries it; whatever is large sits behind a box.

use std::borrow::Cow;
use std::fmt;

use proto::code::Code;
use proto::values::{Chapter, ConflictToken};

use crate::request::ProgressView;

/// Why something was refused. Unless said otherwise nothing was changed.
#[derive(Clone, PartialEq, Debug)]
pub struct Fault {
    /// What the caller can do about it.
    pub code: Code,
    /// One sentence for a person; safe to show.
    pub detail: Cow<'static, str>,
    /// What goes with the code.
    pub extra: Extra,
}

/// What goes with a code.
#[derive(Clone, PartialEq, Debug)]
pub enum Extra {
    /// Nothing more.
    None,
    /// Wait this long before trying again.
    RetryAfter {
        /// Milliseconds, at least 1.
        retry_after_ms: u64,
    },
    /// Going back: what is stored, what was asked, and under the strategy `ask` the token that overrides.
    Conflict(Box<ConflictState>),
    /// The current state, where the code alone would leave the client out of date (`seq_too_old`, chapter out of range).
    State(Box<ProgressView>),
    /// Which fields were wrong.
    Fields(Vec<FieldFault>),
    /// A scope is missing.
    Scope {
        /// What the call needs.
        required: &'static str,
        /// What the grant has.
        granted: Vec<&'static str>,
    },
}

/// Both sides of a conflict.
#[derive(Clone, PartialEq, Debug)]
pub struct ConflictState {
    /// What the server has.
    pub stored: ProgressView,
    /// The chapter that was asked for.
    pub asked: Chapter,
    /// Under the strategy `ask`: send it back within ten minutes to override exactly this stored state.
    pub token: Option<ConflictToken>,
}

/// One field that was wrong.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FieldFault {
    /// The field's name as in the request.
    pub field: Cow<'static, str>,
    /// What was wrong and what is expected.
    pub message: String,
}

impl Fault {
    /// A fault with nothing beside its code and detail.
    pub fn new(code: Code, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { code, detail: detail.into(), extra: Extra::None }
    }

    /// A queue or a budget is full; nothing was changed.
    pub fn busy(detail: &'static str) -> Self {
        Self::new(Code::Busy, detail).retry_after_ms(1_000)
    }

    /// A dependency is away; nothing was changed.
    pub fn unavailable(detail: impl Into<Cow<'static, str>>, retry_after_ms: u64) -> Self {
        Self::new(Code::Unavailable, detail).retry_after_ms(retry_after_ms)
    }

    /// The change was made and is durable on this host; the database, which was asked for, did not have it in time.
    pub fn not_in_database() -> Self {
        let detail = "The change was made and is in the journal of this host; the database does not have it yet.";
        Self::new(Code::NotInDatabase, detail).retry_after_ms(1_000)
    }

    /// There is no such thing.
    pub fn not_found(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Code::NotFound, detail)
    }

    /// One field was wrong.
    pub fn field(field: &'static str, message: impl Into<String>) -> Self {
        let message = message.into();
        Self {
            code: Code::InvalidInput,
            detail: Cow::Owned(format!("{field}: {message}")),
            extra: Extra::Fields(vec![FieldFault { field: Cow::Borrowed(field), message }]),
        }
    }

    /// The same fault with a time to wait.
    pub fn retry_after_ms(mut self, retry_after_ms: u64) -> Self {
        self.extra = Extra::RetryAfter { retry_after_ms: retry_after_ms.max(1) };
        self
    }

    /// How long to wait before trying again, if that would help.
    pub fn wait_ms(&self) -> Option<u64> {
        match self.extra {
            Extra::RetryAfter { retry_after_ms } => Some(retry_after_ms),
            _ => None,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: {}", self.code, self.detail)
    }
}

impl std::error::Error for Fault {}
