//! What a store answers about users' state: everything of one user, pages of history, parked records, and the result of a
//! check. Rows are `hub`'s own types; nothing here decides anything.

use hub::history::LocalDay;
use hub::load::StoredUser;
use hub::record::Record;
use proto::{Chapter, MangaId, UserId, Version};

use crate::journal::{JournalId, LaneCursors, Lsn, StoreId};
use crate::lane::Lane;
use crate::record::{self, RecordError};
use crate::store::Rows;

/// A user as loaded: what is in the tables, and what was journalled but could not be put there.
#[derive(Clone, Debug, PartialEq)]
pub struct LoadedUser {
    /// The rows.
    pub stored: StoredUser,
    /// Parked records of this user, oldest first: to be replayed onto the rows, so that nothing acknowledged is invisible.
    pub parked: Vec<ParkedRecord>,
}

/// A record that the store refused, kept as it lay in the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParkedRecord {
    /// Names it for `retry` and `discard`.
    pub id: i64,
    /// Where it came from.
    pub journal: JournalId,
    /// Its lane.
    pub lane: Lane,
    /// Its position.
    pub lsn: Lsn,
    /// Whose, when it could be read that far.
    pub user: Option<UserId>,
    /// Which layout its payload has.
    pub kind: u8,
    /// Which version of that layout.
    pub version: u8,
    /// The layout's bytes.
    pub payload: Vec<u8>,
    /// Why it was refused.
    pub error: String,
    /// When it was parked.
    pub parked_at_unix_ms: u64,
}

impl ParkedRecord {
    /// What it says, if this version can read it.
    pub fn record(&self) -> Result<Record, RecordError> {
        record::decode_parts(self.kind, self.version, &self.payload)
    }

    /// Its rows, to be applied again.
    pub fn rows(&self) -> Result<Rows, RecordError> {
        let mut rows = Rows::default();
        rows.add(&self.record()?);
        Ok(rows)
    }
}

/// Where a page of history ended; the next begins behind it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct HistoryAfter {
    /// The day of the page's last entry.
    pub day: LocalDay,
    /// Its last change.
    pub version: Version,
    /// Its series.
    pub manga: MangaId,
}

/// What a user read of one series on one day, on all nodes together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HistoryDay {
    /// The series.
    pub manga: MangaId,
    /// The day, in the user's own time.
    pub day: LocalDay,
    /// The chapter of the day's first change (of the node that was first to write that day).
    pub first: Chapter,
    /// The chapter of the day's last change.
    pub last: Chapter,
    /// Chapters read that day.
    pub chapters: u32,
    /// Changes made that day.
    pub updates: u32,
    /// One of them was a jump.
    pub jump: bool,
    /// The version of the day's last change.
    pub version: Version,
}

impl HistoryDay {
    /// Where a page that ends with this entry ends.
    pub fn position(&self) -> HistoryAfter {
        HistoryAfter { day: self.day, version: self.version, manga: self.manga }
    }
}

/// A page of history.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HistoryPage {
    /// Newest first.
    pub days: Vec<HistoryDay>,
    /// Where the next page begins, if there is more.
    pub next: Option<HistoryAfter>,
}

/// What a look over the whole store found.
#[derive(Clone, Debug, PartialEq)]
pub struct StoreCheck {
    /// The store's id.
    pub store_id: StoreId,
    /// Its schema.
    pub schema_version: u32,
    /// What the database's own check says; empty when it found nothing.
    pub problems: Vec<String>,
    /// How far each journal has been applied.
    pub cursors: Vec<(JournalId, LaneCursors)>,
    /// Rows per table.
    pub tables: Vec<TableCount>,
    /// Records waiting for somebody to look at them.
    pub parked: u64,
}

/// How many rows a table has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TableCount {
    /// The table.
    pub table: &'static str,
    /// Its rows.
    pub rows: u64,
}
