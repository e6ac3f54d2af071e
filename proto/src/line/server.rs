//! What the server says in JSON lines. Fields that an earlier client does not know are only ever added; text is escaped by the
//! JSON writer, so a message of any content stays on one line.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{Envelope, LineError};
use crate::code::Code;
use crate::frame::{Ack, ProgressEntry};
use crate::ids::{DeviceId, MangaId, NodeId, SessionId, UserId};
use crate::values::{Chapter, ConflictToken, DeviceSeq, Page, ReadingStatus, Version};

/// One message of the server.
#[derive(Clone, PartialEq, Debug)]
pub enum ServerLine<'a> {
    /// Signed in.
    AuthSuccess(AuthSuccess<'a>),
    /// Not signed in; the connection closes.
    AuthError {
        /// For a person.
        error: Cow<'a, str>,
    },
    /// Stored, durably.
    ProgressAck(ProgressAck),
    /// Another of the user's connections has read up to here.
    ProgressBroadcast(ProgressBroadcast),
    /// Going back, unasked.
    Conflict(ConflictLine<'a>),
    /// Refused.
    Error(ErrorLine<'a>),
    /// The answer to a heartbeat.
    Pong,
    /// For a person.
    System {
        /// The text.
        message: Cow<'a, str>,
    },
}

/// "This is who you are."
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AuthSuccess<'a> {
    /// The session.
    pub session_id: SessionId,
    /// The user.
    pub user_id: UserId,
    /// The user's name.
    #[serde(borrow)]
    pub username: Cow<'a, str>,
    /// The largest device_seq that was applied, for a connection that named its device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_seq: Option<u64>,
}

/// "Stored, durably."
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ProgressAck {
    /// Which series.
    pub manga_id: MangaId,
    /// The version that is stored now.
    pub version: Version,
    /// The chapter that is stored now.
    pub chapter: Chapter,
    /// The page that is stored now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub page: Option<Page>,
    /// The status that is stored now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<ReadingStatus>,
    /// The generation that is stored now.
    #[serde(default)]
    pub generation: Version,
    /// The node that stored it.
    #[serde(default)]
    pub node: NodeId,
    /// The command's, when it had one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_seq: Option<DeviceSeq>,
    /// The command had been applied before.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub already: bool,
    /// The chapter lies above the catalogue's total.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ahead_of_catalogue: bool,
    /// Offer `completed`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub offers_completed: bool,
}

impl ProgressAck {
    /// From what a frame's Ack says.
    pub const fn of(ack: &Ack, device_seq: Option<DeviceSeq>) -> Self {
        Self {
            manga_id: ack.manga,
            version: ack.key.version,
            chapter: ack.key.chapter,
            page: ack.page,
            status: ack.status,
            generation: ack.key.generation,
            node: ack.key.node,
            device_seq,
            already: ack.already,
            ahead_of_catalogue: ack.ahead_of_catalogue,
            offers_completed: ack.offers_completed,
        }
    }
}

/// "Another of your connections has read up to here."
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ProgressBroadcast {
    /// The user; always the connection's own.
    pub user_id: UserId,
    /// Which series.
    pub manga_id: MangaId,
    /// The chapter reached.
    pub chapter: Chapter,
    /// The reading status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<ReadingStatus>,
    /// The page in the chapter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub page: Option<Page>,
    /// The version.
    pub version: Version,
    /// The device that said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<DeviceId>,
    /// The generation.
    #[serde(default)]
    pub generation: Version,
    /// The node.
    #[serde(default)]
    pub node: NodeId,
    /// The progress was deleted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub deleted: bool,
    /// The chapter lies above the catalogue's total.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ahead_of_catalogue: bool,
}

impl ProgressBroadcast {
    /// From what a frame's Progress says.
    pub const fn of(user: UserId, entry: &ProgressEntry) -> Self {
        Self {
            user_id: user,
            manga_id: entry.manga,
            chapter: entry.key.chapter,
            status: entry.status,
            page: entry.page,
            version: entry.key.version,
            device: entry.device,
            generation: entry.key.generation,
            node: entry.key.node,
            deleted: entry.deleted,
            ahead_of_catalogue: entry.ahead_of_catalogue,
        }
    }
}

/// "You would go back." Local is what the client sent, remote is what is stored.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ConflictLine<'a> {
    /// Which series.
    pub manga_id: MangaId,
    /// Its title.
    #[serde(borrow)]
    pub manga_title: Cow<'a, str>,
    /// The chapter that was sent.
    pub local_chapter: Chapter,
    /// The chapter that is stored.
    pub remote_chapter: Chapter,
    /// What was sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local: Option<ConflictSide>,
    /// What is stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote: Option<ConflictSide>,
    /// Overrides exactly this conflict when it is sent back as `conflict_token`, within 10 min.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "token")]
    pub conflict_token: Option<ConflictToken>,
    /// The command's, when it had one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_seq: Option<DeviceSeq>,
    /// For a person, with the way out.
    #[serde(borrow, default, skip_serializing_if = "str::is_empty")]
    pub message: Cow<'a, str>,
}

/// One side of a conflict.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ConflictSide {
    /// The chapter.
    pub chapter: Chapter,
    /// The page in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub page: Option<Page>,
    /// The reading status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<ReadingStatus>,
    /// The version; only of what is stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<Version>,
    /// The device; only of what is stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<DeviceId>,
}

/// "Refused."
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ErrorLine<'a> {
    /// A code of the table in upper case, as `error_code` spells it.
    #[serde(borrow)]
    pub code: Cow<'a, str>,
    /// For a person.
    #[serde(borrow)]
    pub message: Cow<'a, str>,
    /// The series that the refused line named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manga_id: Option<MangaId>,
    /// The refused command's, when it had one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_seq: Option<DeviceSeq>,
    /// How long to wait before trying again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
}

impl<'a> ErrorLine<'a> {
    /// A refusal that is told by its code and message alone.
    pub fn of(code: Code, message: impl Into<Cow<'a, str>>) -> Self {
        let code = Cow::Owned(error_code(code));
        Self { code, message: message.into(), manga_id: None, device_seq: None, retry_after_ms: None }
    }
}

/// How JSON lines spell a code: in upper case, as the earlier system did (`CAPACITY`).
pub fn error_code(code: Code) -> String {
    code.as_str().to_ascii_uppercase()
}

mod token {
    use std::borrow::Cow;

    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::values::ConflictToken;

    pub(super) fn serialize<S: Serializer>(token: &Option<ConflictToken>, out: S) -> Result<S::Ok, S::Error> {
        match token {
            Some(token) => out.collect_str(token),
            None => out.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(input: D) -> Result<Option<ConflictToken>, D::Error> {
        let text = Option::<Cow<'de, str>>::deserialize(input)?;
        text.map(|text| text.parse().map_err(D::Error::custom)).transpose()
    }
}

#[derive(Serialize)]
struct Message<'m, T> {
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'m T>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timestamp: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct Failure<'a> {
    #[serde(borrow)]
    error: Cow<'a, str>,
}

#[derive(Serialize, Deserialize)]
struct System<'a> {
    #[serde(borrow)]
    message: Cow<'a, str>,
}

impl<'a> ServerLine<'a> {
    /// Appends the line with its end. With a time (Unix milliseconds) it carries an RFC 3339 `timestamp`.
    pub fn write(&self, unix_ms: Option<u64>, out: &mut Vec<u8>) {
        match self {
            Self::AuthSuccess(data) => message("auth_success", Some(data), unix_ms, out),
            Self::AuthError { error } => {
                message("auth_error", Some(&Failure { error: Cow::Borrowed(error) }), unix_ms, out);
            }
            Self::ProgressAck(data) => message("progress_ack", Some(data), unix_ms, out),
            Self::ProgressBroadcast(data) => message("progress_broadcast", Some(data), unix_ms, out),
            Self::Conflict(data) => message("conflict", Some(data), unix_ms, out),
            Self::Error(data) => message("error", Some(data), unix_ms, out),
            Self::Pong => message::<()>("pong", None, unix_ms, out),
            Self::System { message: text } => {
                message("system", Some(&System { message: Cow::Borrowed(text) }), unix_ms, out);
            }
        }
    }

    /// Reads one line (without its end).
    pub fn parse(line: &'a [u8]) -> Result<Self, LineError> {
        let envelope = Envelope::parse(line)?;
        Ok(match envelope.kind.as_ref() {
            "progress_ack" => Self::ProgressAck(envelope.fields()?),
            "progress_broadcast" => Self::ProgressBroadcast(envelope.fields()?),
            "auth_success" => Self::AuthSuccess(envelope.fields()?),
            "auth_error" => Self::AuthError { error: envelope.fields::<Failure<'a>>()?.error },
            "conflict" => Self::Conflict(envelope.fields()?),
            "error" => Self::Error(envelope.fields()?),
            "pong" => Self::Pong,
            "system" => Self::System { message: envelope.fields::<System<'a>>()?.message },
            other => return Err(LineError::UnknownType(other.chars().take(64).collect())),
        })
    }
}

fn message<T: Serialize>(kind: &'static str, data: Option<&T>, unix_ms: Option<u64>, out: &mut Vec<u8>) {
    let timestamp = unix_ms.and_then(rfc3339);
    serde_json::to_writer(&mut *out, &Message { kind, data, timestamp }).expect("plain fields always have a JSON form");
    out.push(b'\n');
}

fn rfc3339(unix_ms: u64) -> Option<String> {
    let nanos = i128::from(unix_ms) * 1_000_000;
    OffsetDateTime::from_unix_timestamp_nanos(nanos).ok()?.format(&Rfc3339).ok()
}
