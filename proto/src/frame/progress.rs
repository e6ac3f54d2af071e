//! The hot frames: SetProgress, its Ack, and the entry that Progress and State carry. Each has one fixed layout without pointers
//! or implicit padding, asserted below at compile time, so any language packs it by offset; each is written as plain bytes and
//! read in place. Values are checked while they are read, so the rooms above trust them.

use std::mem::offset_of;

use rkyv::bytecheck::CheckBytes;
use rkyv::rend::{i64_le, u32_le, u64_le};
use rkyv::{Archive, Portable, Serialize};

use super::access::access_fixed;
use super::encode::put_fixed;
use super::error::PayloadError;
use super::header::Kind;
use crate::ids::{DeviceId, MangaId, NodeId};
use crate::values::{Chapter, ConflictToken, DeviceSeq, MergeKey, Page, ReadingStatus, ValueError, Version};

/// "I have read up to here."
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SetProgress {
    /// Which series.
    pub manga: MangaId,
    /// The device's own count of its commands; none: a retry is a new command.
    pub device_seq: Option<DeviceSeq>,
    /// The chapter reached.
    pub chapter: Chapter,
    /// The page in it.
    pub page: Option<Page>,
    /// None keeps the status.
    pub status: Option<ReadingStatus>,
    /// Going back is meant.
    pub force: bool,
    /// Acknowledge only when the database has it, not when the journal has.
    pub ack_database: bool,
    /// Answers an `ask` conflict, in place of `force`.
    pub conflict_token: Option<ConflictToken>,
}

/// SetProgress as it lies in its payload.
#[derive(Clone, Copy, Debug, Portable, CheckBytes)]
#[bytecheck(crate = rkyv::bytecheck)]
#[repr(C)]
pub struct SetProgressLayout {
    manga: i64_le,
    device_seq: u64_le,
    chapter: u32_le,
    page: u32_le,
    status: u8,
    flags: u8,
    reserved: [u8; 6],
    conflict_token: [u8; 16],
}

/// The device's commands up to here are stored, durably.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ack {
    /// The header.seq of the SetProgress that this answers.
    pub up_to_seq: u64,
    /// Its series.
    pub manga: MangaId,
    /// The state that is stored now: generation, chapter, version and node.
    pub key: MergeKey,
    /// The page that is stored now.
    pub page: Option<Page>,
    /// The status that is stored now.
    pub status: Option<ReadingStatus>,
    /// The command had been applied before; nothing was changed by this one.
    pub already: bool,
    /// Every earlier SetProgress of this connection that has had no answer yet is acknowledged too.
    pub cumulative: bool,
    /// The chapter lies above the catalogue's total.
    pub ahead_of_catalogue: bool,
    /// That was the last chapter of a completed series: offer `completed`.
    pub offers_completed: bool,
}

/// Ack as it lies in its payload.
#[derive(Clone, Copy, Debug, Portable, CheckBytes)]
#[bytecheck(crate = rkyv::bytecheck)]
#[repr(C)]
pub struct AckLayout {
    up_to_seq: u64_le,
    manga: i64_le,
    version: u64_le,
    generation: u64_le,
    chapter: u32_le,
    page: u32_le,
    node: u32_le,
    status: u8,
    flags: u8,
    reserved: [u8; 2],
}

/// How far a user is in one series: the content of Progress, of each of State's entries, and of a Reject that shows what is stored.
/// When it was stored follows from the version (`Version::unix_ms`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ProgressEntry {
    /// Which series.
    pub manga: MangaId,
    /// Generation, chapter, version and node; of two entries the larger key is the newer state.
    pub key: MergeKey,
    /// The page in the chapter.
    pub page: Option<Page>,
    /// The reading status; none when the series is not in the library.
    pub status: Option<ReadingStatus>,
    /// The device that said so.
    pub device: Option<DeviceId>,
    /// The progress was deleted.
    pub deleted: bool,
    /// The chapter lies above the catalogue's total.
    pub ahead_of_catalogue: bool,
}

/// A progress entry's fields as numbers; its archive is the layout.
#[derive(Clone, Copy, Default, Archive, Serialize)]
#[rkyv(archived = EntryLayout, derive(Clone, Copy, Debug), attr(doc = "A progress entry as it lies in its payload."))]
#[allow(unreachable_pub, reason = "its archive is public and takes its visibility")]
pub struct EntryRoot {
    manga: i64,
    version: u64,
    generation: u64,
    chapter: u32,
    page: u32,
    node: u32,
    status: u8,
    flags: u8,
    reserved: [u8; 2],
    device: [u8; 16],
    reserved_too: u64,
}

/// Bits of `flags` in the layouts above.
pub mod flag {
    /// SetProgress: going back is meant.
    pub const FORCE: u8 = 1;
    /// SetProgress: acknowledge only what the database has.
    pub const ACK_DATABASE: u8 = 2;
    /// SetProgress, Ack, entry: `page` holds a page. The same bit everywhere.
    pub const HAS_PAGE: u8 = 4;
    /// Ack, entry: the chapter lies above the catalogue's total. The same bit in both.
    pub const AHEAD_OF_CATALOGUE: u8 = 8;
    /// Ack: the command had been applied before.
    pub const ALREADY: u8 = 1;
    /// Ack: earlier unanswered ones are acknowledged too.
    pub const CUMULATIVE: u8 = 2;
    /// Ack: offer `completed`.
    pub const OFFERS_COMPLETED: u8 = 16;
    /// Entry: the progress was deleted.
    pub const DELETED: u8 = 1;
}

/// Payload bytes of SetProgress.
pub const SET_PROGRESS_BYTES: usize = 48;
/// Payload bytes of Ack.
pub const ACK_BYTES: usize = 48;
/// Bytes of a progress entry, and so payload bytes of Progress.
pub const ENTRY_BYTES: usize = 64;

const _: () = {
    assert!(size_of::<SetProgressLayout>() == SET_PROGRESS_BYTES && align_of::<SetProgressLayout>() == 8);
    assert!(offset_of!(SetProgressLayout, manga) == 0);
    assert!(offset_of!(SetProgressLayout, device_seq) == 8);
    assert!(offset_of!(SetProgressLayout, chapter) == 16);
    assert!(offset_of!(SetProgressLayout, page) == 20);
    assert!(offset_of!(SetProgressLayout, status) == 24);
    assert!(offset_of!(SetProgressLayout, flags) == 25);
    assert!(offset_of!(SetProgressLayout, reserved) == 26);
    assert!(offset_of!(SetProgressLayout, conflict_token) == 32);

    assert!(size_of::<AckLayout>() == ACK_BYTES && align_of::<AckLayout>() == 8);
    assert!(offset_of!(AckLayout, up_to_seq) == 0);
    assert!(offset_of!(AckLayout, manga) == 8);
    assert!(offset_of!(AckLayout, version) == 16);
    assert!(offset_of!(AckLayout, generation) == 24);
    assert!(offset_of!(AckLayout, chapter) == 32);
    assert!(offset_of!(AckLayout, page) == 36);
    assert!(offset_of!(AckLayout, node) == 40);
    assert!(offset_of!(AckLayout, status) == 44);
    assert!(offset_of!(AckLayout, flags) == 45);
    assert!(offset_of!(AckLayout, reserved) == 46);

    assert!(size_of::<EntryLayout>() == ENTRY_BYTES && align_of::<EntryLayout>() == 8);
    assert!(offset_of!(EntryLayout, manga) == 0);
    assert!(offset_of!(EntryLayout, version) == 8);
    assert!(offset_of!(EntryLayout, generation) == 16);
    assert!(offset_of!(EntryLayout, chapter) == 24);
    assert!(offset_of!(EntryLayout, page) == 28);
    assert!(offset_of!(EntryLayout, node) == 32);
    assert!(offset_of!(EntryLayout, status) == 36);
    assert!(offset_of!(EntryLayout, flags) == 37);
    assert!(offset_of!(EntryLayout, reserved) == 38);
    assert!(offset_of!(EntryLayout, device) == 40);
    assert!(offset_of!(EntryLayout, reserved_too) == 56);
};

/// Writes `bytes` at a layout's offset.
macro_rules! put {
    ($out:ident, $layout:ident { $($field:ident: $bytes:expr),* $(,)? }) => {
        $({
            const AT: usize = offset_of!($layout, $field);
            let bytes = $bytes;
            $out[AT..AT + bytes.len()].copy_from_slice(&bytes);
        })*
    };
}

const fn bit(set: bool, flag: u8) -> u8 {
    if set { flag } else { 0 }
}

fn status_byte(status: Option<ReadingStatus>) -> [u8; 1] {
    [status.map_or(0, ReadingStatus::as_byte)]
}

fn page_bytes(page: Option<Page>) -> [u8; 4] {
    page.unwrap_or_default().0.to_le_bytes()
}

fn read_manga(manga: i64_le) -> Result<MangaId, ValueError> {
    match manga.to_native() {
        id if id > 0 => Ok(MangaId(id)),
        _ => Err(ValueError::new("manga", "a positive whole number")),
    }
}

fn read_page(page: u32_le, flags: u8) -> Result<Option<Page>, ValueError> {
    match (flags & flag::HAS_PAGE != 0, page.to_native()) {
        (true, page) => Ok(Some(Page(page))),
        (false, 0) => Ok(None),
        (false, _) => Err(ValueError::new("page", "zero unless flag has_page is set")),
    }
}

fn read_status(status: u8) -> Result<Option<ReadingStatus>, ValueError> {
    match status {
        0 => Ok(None),
        byte => ReadingStatus::from_byte(byte).map(Some).ok_or(ValueError::new("status", "0 to 6")),
    }
}

fn read_version(version: u64_le) -> Result<Version, ValueError> {
    let version = Version(version.to_native());
    if version <= Version::MAX { Ok(version) } else { Err(ValueError::new("version", "at most 2^53 - 1")) }
}

fn read_key(generation: u64_le, chapter: u32_le, version: u64_le, node: u32_le) -> Result<MergeKey, ValueError> {
    Ok(MergeKey {
        generation: read_version(generation)?,
        chapter: Chapter::from_hundredths(chapter.to_native())?,
        version: read_version(version)?,
        node: NodeId(node.to_native()),
    })
}

fn known_flags(flags: u8, known: u8) -> Result<(), ValueError> {
    if flags & !known == 0 { Ok(()) } else { Err(ValueError::new("flags", "only bits that this version defines")) }
}

fn zero(reserved: &[u8]) -> Result<(), ValueError> {
    if reserved.iter().all(|byte| *byte == 0) { Ok(()) } else { Err(ValueError::new("reserved", "zero")) }
}

impl SetProgress {
    /// Chapter `chapter` of `manga`, and nothing else.
    pub const fn new(manga: MangaId, chapter: Chapter) -> Self {
        Self {
            manga,
            device_seq: None,
            chapter,
            page: None,
            status: None,
            force: false,
            ack_database: false,
            conflict_token: None,
        }
    }

    /// The payload's bytes.
    #[inline]
    pub fn to_bytes(&self) -> [u8; SET_PROGRESS_BYTES] {
        let flags = bit(self.force, flag::FORCE)
            | bit(self.ack_database, flag::ACK_DATABASE)
            | bit(self.page.is_some(), flag::HAS_PAGE);
        let mut out = [0; SET_PROGRESS_BYTES];
        put!(
            out,
            SetProgressLayout {
                manga: self.manga.0.to_le_bytes(),
                device_seq: self.device_seq.unwrap_or_default().0.to_le_bytes(),
                chapter: self.chapter.hundredths().to_le_bytes(),
                page: page_bytes(self.page),
                status: status_byte(self.status),
                flags: [flags],
                conflict_token: self.conflict_token.map_or([0; 16], |token| *token.as_bytes()),
            }
        );
        out
    }

    /// Appends the frame.
    #[inline]
    pub fn encode(&self, seq: u64, out: &mut Vec<u8>) {
        put_fixed(Kind::SetProgress, seq, &self.to_bytes(), out);
    }

    /// Reads a payload, which must be 8-aligned.
    #[inline]
    pub fn decode(payload: &[u8]) -> Result<Self, PayloadError> {
        let raw = access_fixed::<SetProgressLayout>(Kind::SetProgress, payload)?;
        known_flags(raw.flags, flag::FORCE | flag::ACK_DATABASE | flag::HAS_PAGE)?;
        zero(&raw.reserved)?;
        Ok(Self {
            manga: read_manga(raw.manga)?,
            device_seq: Some(DeviceSeq(raw.device_seq.to_native())).filter(|seq| seq.0 != 0),
            chapter: Chapter::from_hundredths(raw.chapter.to_native())?,
            page: read_page(raw.page, raw.flags)?,
            status: read_status(raw.status)?,
            force: raw.flags & flag::FORCE != 0,
            ack_database: raw.flags & flag::ACK_DATABASE != 0,
            conflict_token: ConflictToken::from_bytes(raw.conflict_token),
        })
    }
}

impl Ack {
    /// The payload's bytes.
    #[inline]
    pub fn to_bytes(&self) -> [u8; ACK_BYTES] {
        let flags = bit(self.already, flag::ALREADY)
            | bit(self.cumulative, flag::CUMULATIVE)
            | bit(self.page.is_some(), flag::HAS_PAGE)
            | bit(self.ahead_of_catalogue, flag::AHEAD_OF_CATALOGUE)
            | bit(self.offers_completed, flag::OFFERS_COMPLETED);
        let mut out = [0; ACK_BYTES];
        put!(
            out,
            AckLayout {
                up_to_seq: self.up_to_seq.to_le_bytes(),
                manga: self.manga.0.to_le_bytes(),
                version: self.key.version.0.to_le_bytes(),
                generation: self.key.generation.0.to_le_bytes(),
                chapter: self.key.chapter.hundredths().to_le_bytes(),
                page: page_bytes(self.page),
                node: self.key.node.0.to_le_bytes(),
                status: status_byte(self.status),
                flags: [flags],
            }
        );
        out
    }

    /// Appends the frame; its header.seq is `up_to_seq`.
    #[inline]
    pub fn encode(&self, out: &mut Vec<u8>) {
        put_fixed(Kind::Ack, self.up_to_seq, &self.to_bytes(), out);
    }

    /// Reads a payload, which must be 8-aligned.
    #[inline]
    pub fn decode(payload: &[u8]) -> Result<Self, PayloadError> {
        let raw = access_fixed::<AckLayout>(Kind::Ack, payload)?;
        let key = read_key(raw.generation, raw.chapter, raw.version, raw.node)?;
        Ok(Self {
            up_to_seq: raw.up_to_seq.to_native(),
            manga: read_manga(raw.manga)?,
            key,
            page: read_page(raw.page, raw.flags)?,
            status: read_status(raw.status)?,
            already: raw.flags & flag::ALREADY != 0,
            cumulative: raw.flags & flag::CUMULATIVE != 0,
            ahead_of_catalogue: raw.flags & flag::AHEAD_OF_CATALOGUE != 0,
            offers_completed: raw.flags & flag::OFFERS_COMPLETED != 0,
        })
    }
}

impl ProgressEntry {
    /// The entry's bytes.
    #[inline]
    pub fn to_bytes(&self) -> [u8; ENTRY_BYTES] {
        let root = self.to_root();
        let mut out = [0; ENTRY_BYTES];
        put!(
            out,
            EntryLayout {
                manga: root.manga.to_le_bytes(),
                version: root.version.to_le_bytes(),
                generation: root.generation.to_le_bytes(),
                chapter: root.chapter.to_le_bytes(),
                page: root.page.to_le_bytes(),
                node: root.node.to_le_bytes(),
                status: [root.status],
                flags: [root.flags],
                device: root.device,
            }
        );
        out
    }

    /// The entry as numbers, for the archives that hold one among other things.
    #[inline]
    pub(super) fn to_root(self) -> EntryRoot {
        EntryRoot {
            manga: self.manga.0,
            version: self.key.version.0,
            generation: self.key.generation.0,
            chapter: self.key.chapter.hundredths(),
            page: self.page.unwrap_or_default().0,
            node: self.key.node.0,
            status: self.status.map_or(0, ReadingStatus::as_byte),
            flags: bit(self.deleted, flag::DELETED)
                | bit(self.page.is_some(), flag::HAS_PAGE)
                | bit(self.ahead_of_catalogue, flag::AHEAD_OF_CATALOGUE),
            device: self.device.map_or([0; 16], |device| *device.as_bytes()),
            ..EntryRoot::default()
        }
    }

    /// Appends a Progress frame: the announcement at `position` of the user's stream.
    #[inline]
    pub fn encode(&self, position: u64, out: &mut Vec<u8>) {
        put_fixed(Kind::Progress, position, &self.to_bytes(), out);
    }

    /// Reads a Progress payload, which must be 8-aligned.
    #[inline]
    pub fn decode(payload: &[u8]) -> Result<Self, PayloadError> {
        let raw = access_fixed::<EntryLayout>(Kind::Progress, payload)?;
        Ok(Self::try_from(raw)?)
    }
}

impl TryFrom<&EntryLayout> for ProgressEntry {
    type Error = ValueError;

    #[inline]
    fn try_from(raw: &EntryLayout) -> Result<Self, ValueError> {
        let key = read_key(raw.generation, raw.chapter, raw.version, raw.node)?;
        Ok(Self {
            manga: read_manga(raw.manga)?,
            key,
            page: read_page(raw.page, raw.flags)?,
            status: read_status(raw.status)?,
            device: Some(DeviceId::from_bytes(raw.device)).filter(|device| !device.is_nil()),
            deleted: raw.flags & flag::DELETED != 0,
            ahead_of_catalogue: raw.flags & flag::AHEAD_OF_CATALOGUE != 0,
        })
    }
}
