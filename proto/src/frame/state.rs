//! Asking where one stands: Get and CatchUp, and the State frames that answer both. Get and CatchUp are fixed layouts; State
//! is an archive whose entries have the fixed layout of Progress and lie at the payload's start, its 16-byte root at the end.

use rkyv::Portable;
use rkyv::boxed::ArchivedBox;
use rkyv::bytecheck::CheckBytes;
use rkyv::rend::u32_le;

use super::access::access;
use super::encode::put_fixed;
use super::error::PayloadError;
use super::header::{FRAME_BYTES_MAX, HEADER_BYTES, Header, Kind};
use super::list::{Element, List};
use super::progress::{ENTRY_BYTES, EntryLayout, ProgressEntry};
use super::resume::ResumeToken;
use crate::ids::MangaId;
use crate::values::ValueError;

/// Entries that fit one State frame; longer answers take several.
pub const STATE_ENTRIES_MAX: usize = (FRAME_BYTES_MAX as usize - HEADER_BYTES - STATE_ROOT_BYTES) / ENTRY_BYTES;
const STATE_ROOT_BYTES: usize = 16;
const _: () = assert!(size_of::<StateLayout>() == STATE_ROOT_BYTES && align_of::<StateLayout>() == 4);

/// State flag: no further State answers this Get.
const STATE_LAST: u32 = 1;
/// State and CaughtUp flag: this is everything the user has, not what was missed.
const STATE_SNAPSHOT: u32 = 2;

/// "How far am I?"
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Get {
    /// In which series; none: in all.
    pub manga: Option<MangaId>,
}

/// "What did I miss since?" Announcements that come meanwhile may be told twice: of two entries the larger key counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CatchUp {
    /// The last position known; `ResumeToken::NONE` asks for a snapshot.
    pub since: ResumeToken,
}

/// The end of the answer to CatchUp: everything up to this token has been told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CaughtUp {
    /// Where the client stands now.
    pub resume: ResumeToken,
    /// How many entries the State frames before it held in all.
    pub entries: u32,
    /// They were everything the user has: the gap was too large, or the token of another boot. What is not among them is gone.
    pub snapshot: bool,
}

/// Entries that answer a Get (ends with `last`) or a CatchUp (ends with CaughtUp).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct State<'a> {
    /// One for each series; none for a series without progress.
    pub entries: List<'a, ProgressEntry, EntryLayout>,
    /// No further State answers this Get.
    pub last: bool,
    /// Part of a snapshot.
    pub snapshot: bool,
}

/// The root of a State archive.
#[derive(Portable, CheckBytes)]
#[bytecheck(crate = rkyv::bytecheck)]
#[repr(C)]
struct StateLayout {
    entries: ArchivedBox<[EntryLayout]>,
    flags: u32_le,
    reserved: u32_le,
}

impl Element<'_, ProgressEntry> for EntryLayout {
    fn plain(&self) -> ProgressEntry {
        ProgressEntry::try_from(self).expect("every entry was checked when its frame was decoded")
    }
}

impl Get {
    /// Appends the frame.
    pub fn encode(&self, seq: u64, out: &mut Vec<u8>) {
        let mut payload = [0; 16];
        payload[..8].copy_from_slice(&self.manga.map_or(0, |manga| manga.0).to_le_bytes());
        put_fixed(Kind::Get, seq, &payload, out);
    }

    /// Reads a payload.
    pub fn decode(payload: &[u8]) -> Result<Self, PayloadError> {
        let payload: &[u8; 16] = exact(Kind::Get, payload)?;
        match i64::from_le_bytes(word(payload, 0)) {
            0 => Ok(Self { manga: None }),
            id if id > 0 => Ok(Self { manga: Some(MangaId(id)) }),
            _ => Err(ValueError::new("manga", "a positive whole number, or 0 for all").into()),
        }
    }
}

impl CatchUp {
    /// Appends the frame.
    pub fn encode(&self, seq: u64, out: &mut Vec<u8>) {
        let mut payload = [0; 32];
        payload[..24].copy_from_slice(self.since.as_bytes());
        put_fixed(Kind::CatchUp, seq, &payload, out);
    }

    /// Reads a payload.
    pub fn decode(payload: &[u8]) -> Result<Self, PayloadError> {
        let payload: &[u8; 32] = exact(Kind::CatchUp, payload)?;
        Ok(Self { since: token(payload) })
    }
}

impl CaughtUp {
    /// Appends the frame; `seq` is the CatchUp's.
    pub fn encode(&self, seq: u64, out: &mut Vec<u8>) {
        let mut payload = [0; 32];
        payload[..24].copy_from_slice(self.resume.as_bytes());
        payload[24..28].copy_from_slice(&self.entries.to_le_bytes());
        payload[28..].copy_from_slice(&if self.snapshot { STATE_SNAPSHOT } else { 0 }.to_le_bytes());
        put_fixed(Kind::CaughtUp, seq, &payload, out);
    }

    /// Reads a payload.
    pub fn decode(payload: &[u8]) -> Result<Self, PayloadError> {
        let payload: &[u8; 32] = exact(Kind::CaughtUp, payload)?;
        let tail = u64::from_le_bytes(word(payload, 24));
        let (entries, flags) = (tail as u32, (tail >> 32) as u32);
        Ok(Self { resume: token(payload), entries, snapshot: flags & STATE_SNAPSHOT != 0 })
    }
}

impl<'a> State<'a> {
    /// One frame of plain entries.
    pub fn of(entries: &'a [ProgressEntry]) -> Self {
        Self { entries: List::Plain(entries), last: true, snapshot: false }
    }

    /// Appends the frame; `seq` is that of the Get or CatchUp it answers.
    ///
    /// # Panics
    /// With more than `STATE_ENTRIES_MAX` entries.
    pub fn encode(&self, seq: u64, out: &mut Vec<u8>) {
        let count = self.entries.len();
        assert!(count <= STATE_ENTRIES_MAX, "a State frame holds at most {STATE_ENTRIES_MAX} entries");
        let bytes = count * ENTRY_BYTES;
        out.extend_from_slice(&Header::new(Kind::State, (bytes + STATE_ROOT_BYTES) as u32, seq).to_bytes());
        self.entries.iter().for_each(|entry| out.extend_from_slice(&entry.to_bytes()));
        let flags = if self.last { STATE_LAST } else { 0 } | if self.snapshot { STATE_SNAPSHOT } else { 0 };
        let mut root = [0; STATE_ROOT_BYTES];
        // The relative pointer counts from its own place, the root's start: back over all entries.
        root[..4].copy_from_slice(&(-(bytes as i32)).to_le_bytes());
        root[4..8].copy_from_slice(&(count as u32).to_le_bytes());
        root[8..12].copy_from_slice(&flags.to_le_bytes());
        out.extend_from_slice(&root);
    }

    /// Reads a payload in place; it must be 8-aligned. Every entry is checked.
    pub fn decode(payload: &'a [u8]) -> Result<Self, PayloadError> {
        let raw = access::<StateLayout>(Kind::State, payload)?;
        let entries = raw.entries.get();
        entries.iter().try_for_each(|entry| ProgressEntry::try_from(entry).map(drop))?;
        let flags = raw.flags.to_native();
        Ok(Self {
            entries: List::Archived(entries),
            last: flags & STATE_LAST != 0,
            snapshot: flags & STATE_SNAPSHOT != 0,
        })
    }
}

pub(super) fn exact<const N: usize>(kind: Kind, payload: &[u8]) -> Result<&[u8; N], PayloadError> {
    payload.try_into().map_err(|_| PayloadError::Layout { kind })
}

pub(super) fn word(payload: &[u8], at: usize) -> [u8; 8] {
    let mut word = [0; 8];
    word.copy_from_slice(&payload[at..at + 8]);
    word
}

fn token(payload: &[u8; 32]) -> ResumeToken {
    let mut bytes = [0; 24];
    bytes.copy_from_slice(&payload[..24]);
    ResumeToken::from_bytes(bytes)
}
