//! Notices: something happened to a series. Text heavy and rare, so they are ordinary archives; the acknowledgement names the
//! notice by its id and is a fixed layout.

use rkyv::with::InlineAsBox;
use rkyv::{Archive, Serialize};

use super::access::access;
use super::encode::{put_archive, put_fixed};
use super::error::{EncodeError, PayloadError};
use super::header::Kind;
use super::list::{Element, List};
use super::state::{exact, word};
use crate::ids::MangaId;
use crate::values::{Chapter, ValueError};

/// Changes that one Notice tells; more are summed up in its message.
pub const NOTICE_CHANGES_MAX: usize = 32;

/// What happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum NoticeKind {
    /// A series was added.
    NewManga = 1,
    /// A chapter came out.
    NewChapter = 2,
    /// Facts of a series changed.
    MangaUpdate = 3,
}

impl NoticeKind {
    /// From a frame's byte.
    pub const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::NewManga),
            2 => Some(Self::NewChapter),
            3 => Some(Self::MangaUpdate),
            _ => None,
        }
    }
}

/// One fact that changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Archive, Serialize)]
#[rkyv(attr(doc = "A change as it lies in Notice's archive.", allow(missing_docs)))]
pub struct Change<'a> {
    /// Which fact.
    #[rkyv(with = InlineAsBox)]
    pub field: &'a str,
    /// What it was.
    #[rkyv(with = InlineAsBox)]
    pub old_value: &'a str,
    /// What it is.
    #[rkyv(with = InlineAsBox)]
    pub new_value: &'a str,
}

/// "Something happened to a series." Its header.seq is the position in the stream of notices.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Notice<'a> {
    /// What NoticeAck names.
    pub id: i64,
    /// What happened.
    pub kind: NoticeKind,
    /// To which series.
    pub manga: MangaId,
    /// When, in Unix milliseconds.
    pub created_unix_ms: u64,
    /// The new chapter.
    pub chapter: Option<Chapter>,
    /// The last one before it.
    pub old_chapter: Option<Chapter>,
    /// The series' title.
    pub title: &'a str,
    /// For a person.
    pub message: &'a str,
    /// What changed, at most `NOTICE_CHANGES_MAX`.
    pub changes: List<'a, Change<'a>, ArchivedChange<'static>>,
}

/// "I have seen that notice."
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NoticeAck {
    /// Which one.
    pub id: i64,
}

const HAS_CHAPTER: u8 = 1;
const HAS_OLD_CHAPTER: u8 = 2;

#[derive(Archive, Serialize)]
#[rkyv(archived = NoticeLayout)]
struct NoticeRoot<'a> {
    id: i64,
    manga: i64,
    created_unix_ms: u64,
    chapter: u32,
    old_chapter: u32,
    #[rkyv(with = InlineAsBox)]
    title: &'a str,
    #[rkyv(with = InlineAsBox)]
    message: &'a str,
    #[rkyv(with = InlineAsBox)]
    changes: &'a [Change<'a>],
    kind: u8,
    flags: u8,
    reserved: [u8; 6],
}

const _: () = {
    assert!(size_of::<NoticeLayout<'_>>() == 64 && align_of::<NoticeLayout<'_>>() == 8);
    assert!(size_of::<ArchivedChange<'_>>() == 24);
};

impl<'a> Element<'a, Change<'a>> for ArchivedChange<'static> {
    fn plain(&'a self) -> Change<'a> {
        Change { field: self.field.get(), old_value: self.old_value.get(), new_value: self.new_value.get() }
    }
}

impl<'a> Notice<'a> {
    /// Appends the frame. Fails when the texts and changes take more than 8 KiB, or the changes are too many.
    ///
    /// # Panics
    /// When the changes come from an archive: a Notice is made, not passed on.
    pub fn encode(&self, position: u64, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let List::Plain(changes) = self.changes else { unreachable!("a Notice is made, not passed on") };
        let root = NoticeRoot {
            id: self.id,
            manga: self.manga.0,
            created_unix_ms: self.created_unix_ms,
            chapter: self.chapter.unwrap_or_default().hundredths(),
            old_chapter: self.old_chapter.unwrap_or_default().hundredths(),
            title: self.title,
            message: self.message,
            changes,
            kind: self.kind as u8,
            flags: if self.chapter.is_some() { HAS_CHAPTER } else { 0 }
                | if self.old_chapter.is_some() { HAS_OLD_CHAPTER } else { 0 },
            reserved: [0; 6],
        };
        put_archive(Kind::Notice, position, &root, out)
    }

    /// Reads a payload in place; it must be 8-aligned.
    pub fn decode(payload: &'a [u8]) -> Result<Self, PayloadError> {
        let raw = access::<NoticeLayout<'static>>(Kind::Notice, payload)?;
        let chapter = |present: u8, hundredths: u32| -> Result<Option<Chapter>, ValueError> {
            if raw.flags & present == 0 { Ok(None) } else { Chapter::from_hundredths(hundredths).map(Some) }
        };
        Ok(Self {
            id: raw.id.to_native(),
            kind: NoticeKind::from_byte(raw.kind).ok_or(ValueError::new("notice kind", "1 to 3"))?,
            manga: MangaId(raw.manga.to_native()),
            created_unix_ms: raw.created_unix_ms.to_native(),
            chapter: chapter(HAS_CHAPTER, raw.chapter.to_native())?,
            old_chapter: chapter(HAS_OLD_CHAPTER, raw.old_chapter.to_native())?,
            title: raw.title.get(),
            message: raw.message.get(),
            changes: List::Archived(raw.changes.get()),
        })
    }
}

impl NoticeAck {
    /// Appends the frame.
    pub fn encode(&self, seq: u64, out: &mut Vec<u8>) {
        let mut payload = [0; 16];
        payload[..8].copy_from_slice(&self.id.to_le_bytes());
        put_fixed(Kind::NoticeAck, seq, &payload, out);
    }

    /// Reads a payload.
    pub fn decode(payload: &[u8]) -> Result<Self, PayloadError> {
        let payload: &[u8; 16] = exact(Kind::NoticeAck, payload)?;
        Ok(Self { id: i64::from_le_bytes(word(payload, 0)) })
    }
}
