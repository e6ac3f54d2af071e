//! The JSON lines of TCP sync, kept compatible with the clients of an earlier MangaHub: one object `{"type", "data"}` per line.
//! Reading takes what those clients send (numbers as text, hyphens in statuses, unknown fields) and names the field that is
//! wrong; writing puts every message on exactly one line. Nothing here buffers: the cap on a line is the reader's first check.

mod client;
mod server;

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

pub use client::{Auth, ClientLine, ProgressUpdate};
pub use server::{
    AuthSuccess, ConflictLine, ConflictSide, ErrorLine, ProgressAck, ProgressBroadcast, ServerLine, error_code,
};

use crate::code::Code;
use crate::values::ValueError;

/// The longest line, without its end.
pub const LINE_BYTES_MAX: usize = 64 * 1024;

/// Why a line cannot be used. The connection goes on, but for `TooLong`.
#[derive(Debug, thiserror::Error)]
pub enum LineError {
    /// Refused before it was buffered whole; the connection closes.
    #[error("the line is longer than {LINE_BYTES_MAX} bytes")]
    TooLong,
    /// Not one JSON object of the shape `{"type":..., "data":{...}}`.
    #[error("not a message: {0}")]
    NotJson(#[from] serde_json::Error),
    /// A type that this side does not take.
    #[error("unknown message type `{0}`")]
    UnknownType(String),
    /// A field that the message needs.
    #[error("`{field}` is missing")]
    Missing {
        /// Which one.
        field: &'static str,
    },
    /// A field with a value that it cannot have.
    #[error("`{field}` must be {expected}")]
    Field {
        /// Which one.
        field: &'static str,
        /// What would have been right.
        expected: &'static str,
    },
}

impl LineError {
    /// The code that goes into the `error` line.
    pub const fn code(&self) -> Code {
        match self {
            Self::TooLong => Code::TooLarge,
            Self::UnknownType(_) => Code::UnknownKind,
            Self::NotJson(_) | Self::Missing { .. } | Self::Field { .. } => Code::InvalidInput,
        }
    }

    /// The field that is wrong, when it is one.
    pub const fn field(&self) -> Option<&'static str> {
        match self {
            Self::Missing { field } | Self::Field { field, .. } => Some(field),
            _ => None,
        }
    }
}

/// Takes the first line off a buffer: the line without its end, and how many bytes it takes with it. `None`: not complete yet.
/// `searched` is how many bytes an earlier call has looked through in vain; too long a line is an error before it is complete.
pub fn split_line(buffer: &[u8], searched: usize) -> Result<Option<(&[u8], usize)>, LineError> {
    let from = searched.min(buffer.len());
    let end = buffer[from..].iter().position(|byte| *byte == b'\n').map(|at| from + at);
    match end {
        Some(end) if end > LINE_BYTES_MAX + 1 => Err(LineError::TooLong),
        None if buffer.len() > LINE_BYTES_MAX + 1 => Err(LineError::TooLong),
        None => Ok(None),
        Some(end) => {
            let line = buffer[..end].strip_suffix(b"\r").unwrap_or(&buffer[..end]);
            if line.len() > LINE_BYTES_MAX { Err(LineError::TooLong) } else { Ok(Some((line, end + 1))) }
        }
    }
}

/// The outside of every message; `timestamp` and whatever else is there are not looked at.
#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(borrow, default)]
    data: Option<&'a RawValue>,
}

impl<'a> Envelope<'a> {
    fn parse(line: &'a [u8]) -> Result<Self, LineError> {
        if line.len() > LINE_BYTES_MAX {
            return Err(LineError::TooLong);
        }
        Ok(serde_json::from_slice(line)?)
    }

    /// The data's fields; a message without data has none of them.
    fn fields<T: Deserialize<'a>>(&self) -> Result<T, LineError> {
        Ok(serde_json::from_str(self.data.map_or("{}", RawValue::get))?)
    }
}

/// Reads one field; null counts as absent.
fn optional<'a, T>(
    field: &'static str,
    raw: Option<&'a RawValue>,
    read: impl FnOnce(&'a str) -> Result<T, &'static str>,
) -> Result<Option<T>, LineError> {
    raw.map(|raw| read(raw.get()).map_err(|expected| LineError::Field { field, expected })).transpose()
}

fn required<'a, T>(
    field: &'static str,
    raw: Option<&'a RawValue>,
    read: impl FnOnce(&'a str) -> Result<T, &'static str>,
) -> Result<T, LineError> {
    optional(field, raw, read)?.ok_or(LineError::Missing { field })
}

/// A JSON string, borrowed unless it holds escapes.
fn text(json: &str) -> Result<Cow<'_, str>, &'static str> {
    #[derive(Deserialize)]
    struct Text<'a>(#[serde(borrow)] Cow<'a, str>);
    serde_json::from_str::<Text<'_>>(json).map(|text| text.0).map_err(|_| "text")
}

/// A value that JSON carries as text; empty text, which earlier clients send for "none", is none.
fn parsed<T: std::str::FromStr<Err = ValueError>>(json: &str) -> Result<Option<T>, &'static str> {
    let text = text(json)?;
    if text.is_empty() { Ok(None) } else { text.parse().map(Some).map_err(|error: ValueError| error.expected) }
}

/// A whole number, or its digits as text.
fn whole(json: &str) -> Result<u64, &'static str> {
    const EXPECTED: &str = "a whole number";
    if json.starts_with('"') {
        text(json)?.parse().map_err(|_| EXPECTED)
    } else {
        serde_json::from_str(json).map_err(|_| EXPECTED)
    }
}
