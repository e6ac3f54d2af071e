//! Administration: what an operator asks of a data folder, as one request and one reply. A running server answers through
//! its admin socket; otherwise the command itself takes the folder's lock and answers. Both use the same code.

mod answer;
mod operator;
mod socket;
mod wait;

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub(crate) use answer::answer;
pub(crate) use operator::{Operator, OperatorError};
pub(crate) use socket::{SocketError, serve};
pub(crate) use wait::block_on;

use crate::catalogue::RawRow;

/// The socket's name in the data folder.
pub(crate) const SOCKET_NAME: &str = "admin.sock";

/// One request: a line of JSON.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Request {
    /// Makes an administrator's account.
    CreateAdmin { username: String, email: String, password: String },
    /// Makes an existing user an administrator.
    Promote { identifier: String },
    /// Makes users with sessions and long tokens, for load runs.
    Seed { users: u32, series: u32, token_ttl_s: u64 },
    /// Imports a part of a catalogue file.
    Import { rows: Vec<RawRow> },
    /// Looks the whole store over.
    Check,
    /// Lists the parked records with ids above `after`.
    Parked { after: i64, rows_max: usize },
    /// Tries a parked record again, or drops it.
    Retry { id: i64, discard: bool },
    /// How far the store has followed the journal.
    Backlog,
    /// What runs.
    Stats,
    /// What works and what does not.
    Health,
}

/// One reply: a line of JSON.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum Reply {
    /// It was done.
    Done {
        /// What came of it.
        result: Value,
    },
    /// It was not.
    Refused(Refusal),
}

/// Why a request was not done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, thiserror::Error)]
#[error("{detail}")]
pub(crate) struct Refusal {
    /// The problem's code, as every door spells it.
    pub(crate) code: String,
    /// What happened, for a person.
    pub(crate) detail: String,
}

impl Refusal {
    fn new(code: proto::Code, detail: impl Into<String>) -> Self {
        Self { code: code.as_str().to_owned(), detail: detail.into() }
    }

    /// Whether the same may work later: something that it needs is away or busy.
    pub(crate) fn is_passing(&self) -> bool {
        [proto::Code::Busy, proto::Code::Unavailable].iter().any(|code| code.as_str() == self.code)
    }
}

impl From<Result<Value, Refusal>> for Reply {
    fn from(answer: Result<Value, Refusal>) -> Self {
        match answer {
            Ok(result) => Self::Done { result },
            Err(refusal) => Self::Refused(refusal),
        }
    }
}

impl From<Reply> for Result<Value, Refusal> {
    fn from(reply: Reply) -> Self {
        match reply {
            Reply::Done { result } => Ok(result),
            Reply::Refused(refusal) => Err(refusal),
        }
    }
}
