//! Announcements: a change is encoded once per wire form, by the encoder its door registered at start, and the bytes are
//! shared by every connection that wants that form. Only the same user's other connections ever get them.

use std::sync::OnceLock;

use bytes::Bytes;
use proto::MangaId;

use crate::request::Announcement;

/// The wire forms an announcement can take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum WireForm {
    /// A binary frame (TCP sync, QUIC).
    Frame = 0,
    /// A JSON line with its newline (TCP sync).
    Line = 1,
    /// A WebSocket text message.
    WebSocket = 2,
    /// A server-sent event.
    EventStream = 3,
}

impl WireForm {
    /// How many there are.
    pub const COUNT: usize = 4;
}

/// Writes an announcement in one wire form. Pure: the same announcement always gives the same bytes.
pub type Encode = fn(&Announcement) -> Bytes;

/// The encoders, registered by the doors before the shards start.
#[derive(Clone, Copy, Default)]
pub struct Encoders {
    table: [Option<Encode>; WireForm::COUNT],
}

impl Encoders {
    /// None yet.
    pub const fn new() -> Self {
        Self { table: [None; WireForm::COUNT] }
    }

    /// The same table with one more form.
    pub fn with(mut self, form: WireForm, encode: Encode) -> Self {
        self.table[form as usize] = Some(encode);
        self
    }

    /// The encoder of a form, if its door registered one.
    pub fn get(&self, form: WireForm) -> Option<Encode> {
        self.table[form as usize]
    }
}

/// An announcement on its way, with the bytes of the forms that somebody wanted so far.
pub(crate) struct Event {
    announcement: Announcement,
    forms: [OnceLock<Bytes>; WireForm::COUNT],
}

impl Event {
    /// Nothing is encoded yet.
    pub(crate) fn new(announcement: Announcement) -> Self {
        Self { announcement, forms: [const { OnceLock::new() }; WireForm::COUNT] }
    }

    /// A later event of the same series replaces an earlier one that was not yet sent.
    pub(crate) fn manga(&self) -> MangaId {
        self.announcement.state.manga
    }

    /// The bytes of one form. `None` when no door speaks it.
    pub(crate) fn encoded(&self, form: WireForm, encoders: &Encoders) -> Option<Bytes> {
        let encode = encoders.get(form)?;
        Some(self.forms[form as usize].get_or_init(|| encode(&self.announcement)).clone())
    }
}
