//! What a client of JSON lines sends: auth, progress_update, heartbeat, disconnect. `device`, `device_seq`, `page`, `force`,
//! `ack_database` and `conflict_token` are newer than the earlier system and optional.

use std::borrow::Cow;
use std::io::Write;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{Envelope, LineError, optional, parsed, required, text, whole};
use crate::frame::SetProgress;
use crate::ids::{DeviceId, MangaId, UserId};
use crate::values::{Chapter, ConflictToken, DeviceSeq, Page, ReadingStatus};

/// One message of a client.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ClientLine<'a> {
    /// Who it is; the first line.
    Auth(Auth<'a>),
    /// It has read up to here.
    ProgressUpdate(ProgressUpdate),
    /// Are we there?
    Heartbeat,
    /// It leaves.
    Disconnect,
}

/// "This is who I am."
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Auth<'a> {
    /// An access token or an API key.
    pub token: Cow<'a, str>,
    /// Sent by earlier clients; when it is there it must be the token's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<Cow<'a, str>>,
    /// Which of the user's devices.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<DeviceId>,
}

/// "I have read up to here."
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ProgressUpdate {
    /// When it is there it must be the token's.
    pub user: Option<UserId>,
    /// Which of the user's devices; in place of the one in auth.
    pub device: Option<DeviceId>,
    /// The command.
    pub command: SetProgress,
}

#[derive(Deserialize)]
struct AuthFields<'a> {
    #[serde(borrow, default)]
    token: Option<&'a RawValue>,
    #[serde(borrow, default)]
    username: Option<&'a RawValue>,
    #[serde(borrow, default)]
    device: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct UpdateFields<'a> {
    #[serde(borrow, default)]
    user_id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    manga_id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    chapter: Option<&'a RawValue>,
    #[serde(borrow, default)]
    page: Option<&'a RawValue>,
    #[serde(borrow, default)]
    status: Option<&'a RawValue>,
    #[serde(borrow, default)]
    device: Option<&'a RawValue>,
    #[serde(borrow, default)]
    device_seq: Option<&'a RawValue>,
    #[serde(borrow, default)]
    force: Option<&'a RawValue>,
    #[serde(borrow, default)]
    ack_database: Option<&'a RawValue>,
    #[serde(borrow, default)]
    conflict_token: Option<&'a RawValue>,
}

#[derive(Serialize)]
struct UpdateData {
    manga_id: MangaId,
    chapter: Chapter,
    #[serde(skip_serializing_if = "Option::is_none")]
    page: Option<Page>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<ReadingStatus>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_id: Option<UserId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    device: Option<DeviceId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    device_seq: Option<DeviceSeq>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    force: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    ack_database: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    conflict_token: Option<String>,
}

impl<'a> ClientLine<'a> {
    /// Reads one line (without its end).
    pub fn parse(line: &'a [u8]) -> Result<Self, LineError> {
        let envelope = Envelope::parse(line)?;
        match envelope.kind.as_ref() {
            "progress_update" => Ok(Self::ProgressUpdate(ProgressUpdate::read(&envelope.fields()?)?)),
            "heartbeat" => Ok(Self::Heartbeat),
            "disconnect" => Ok(Self::Disconnect),
            "auth" => {
                let fields: AuthFields<'a> = envelope.fields()?;
                Ok(Self::Auth(Auth {
                    token: required("token", fields.token, text)?,
                    username: optional("username", fields.username, text)?.filter(|name| !name.is_empty()),
                    device: optional("device", fields.device, parsed)?.flatten(),
                }))
            }
            other => Err(LineError::UnknownType(other.chars().take(64).collect())),
        }
    }

    /// Appends the line with its end.
    pub fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Auth(auth) => message("auth", auth, out),
            Self::ProgressUpdate(update) => message("progress_update", &update.data(), out),
            Self::Heartbeat => out.extend_from_slice(b"{\"type\":\"heartbeat\",\"data\":{}}\n"),
            Self::Disconnect => out.extend_from_slice(b"{\"type\":\"disconnect\",\"data\":{}}\n"),
        }
    }
}

impl ProgressUpdate {
    fn read(fields: &UpdateFields<'_>) -> Result<Self, LineError> {
        let command = SetProgress {
            manga: required("manga_id", fields.manga_id, manga)?,
            device_seq: optional("device_seq", fields.device_seq, whole)?.filter(|seq| *seq != 0).map(DeviceSeq),
            chapter: required("chapter", fields.chapter, chapter)?,
            page: optional("page", fields.page, page)?,
            status: optional("status", fields.status, parsed)?.flatten(),
            force: optional("force", fields.force, boolean)?.unwrap_or(false),
            ack_database: optional("ack_database", fields.ack_database, boolean)?.unwrap_or(false),
            conflict_token: optional("conflict_token", fields.conflict_token, parsed::<ConflictToken>)?.flatten(),
        };
        Ok(Self {
            user: optional("user_id", fields.user_id, parsed)?.flatten(),
            device: optional("device", fields.device, parsed)?.flatten(),
            command,
        })
    }

    fn data(&self) -> UpdateData {
        UpdateData {
            manga_id: self.command.manga,
            chapter: self.command.chapter,
            page: self.command.page,
            status: self.command.status,
            user_id: self.user,
            device: self.device,
            device_seq: self.command.device_seq,
            force: self.command.force,
            ack_database: self.command.ack_database,
            conflict_token: self.command.conflict_token.map(|token| token.to_string()),
        }
    }
}

fn manga(json: &str) -> Result<MangaId, &'static str> {
    const EXPECTED: &str = "a positive whole number";
    let number = whole(json).map_err(|_| EXPECTED)?;
    i64::try_from(number).ok().filter(|id| *id > 0).map(MangaId).ok_or(EXPECTED)
}

fn chapter(json: &str) -> Result<Chapter, &'static str> {
    const EXPECTED: &str = "a number from 0 to 1000000 with at most two digits after the point";
    serde_json::from_str(json).map_err(|_| EXPECTED)
}

fn page(json: &str) -> Result<Page, &'static str> {
    whole(json).ok().and_then(|page| u32::try_from(page).ok()).map(Page).ok_or("a whole number from 0 to 4294967295")
}

fn boolean(json: &str) -> Result<bool, &'static str> {
    serde_json::from_str(json).map_err(|_| "true or false")
}

fn message(kind: &'static str, data: &impl Serialize, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"type\":\"");
    out.extend_from_slice(kind.as_bytes());
    out.extend_from_slice(b"\",\"data\":");
    serde_json::to_writer(&mut *out, data).expect("plain fields always have a JSON form");
    out.write_all(b"}\n").expect("a vector takes every byte");
}
