//! A series on a user's shelf: it owns the one reading status per user and series. Rows order by (version, node); taking a
//! series off the shelf leaves a tombstone.

use proto::{MangaId, NodeId, ReadingStatus, Version};

/// A library row, as stored. `Ord` is the merge order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct LibraryRow {
    /// Of the last change to this row.
    pub version: Version,
    /// Where that change was made.
    pub node: NodeId,
    /// A tombstone: the series is not in the library.
    pub deleted: bool,
    /// The reading status (of a tombstone: the last one it had).
    pub status: ReadingStatus,
    /// When the series was put into the library, in Unix milliseconds. Kept across changes of status.
    pub added_at_ms: u64,
}

/// A series in the library, as shown.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct LibraryView {
    /// The series.
    pub manga: MangaId,
    /// The reading status.
    pub status: ReadingStatus,
    /// When the series was put into the library, in Unix milliseconds.
    pub added_at_ms: u64,
    /// Of the last change.
    pub version: Version,
    /// The series was taken out by this version.
    pub deleted: bool,
}

impl LibraryView {
    /// What a row shows.
    pub fn new(manga: MangaId, row: &LibraryRow) -> Self {
        let LibraryRow { version, deleted, status, added_at_ms, .. } = *row;
        Self { manga, status, added_at_ms, version, deleted }
    }

    /// When it was last changed, in Unix milliseconds.
    pub fn updated_at_ms(&self) -> u64 {
        self.version.unix_ms()
    }
}
