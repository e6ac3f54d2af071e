//! How far a user is in one series: the row, and what others may see of it. Rows order by merge key; a delete is a row too (a
//! tombstone with a generation of its own), so that it wins over what it deleted wherever the two meet.

use proto::{MangaId, MergeKey, Page, ReadingStatus, Version};

/// A user's progress in one series, as stored. `Ord` is the merge order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ProgressRow {
    /// Decides between two versions of the row; carries the chapter.
    pub key: MergeKey,
    /// A tombstone: there is no progress. Its chapter is zero.
    pub deleted: bool,
    /// The page within the chapter. Carried, never compared: the merge key decides first.
    pub page: Option<Page>,
    /// The chapter lay beyond what the catalogue knew when it was set.
    pub ahead: bool,
}

impl ProgressRow {
    /// A tombstone made by the change `version` of this row's node.
    pub fn tombstone(version: Version, node: proto::NodeId) -> Self {
        let key = MergeKey { generation: version, chapter: proto::Chapter::ZERO, version, node };
        Self { key, deleted: true, page: None, ahead: false }
    }
}

/// A user's progress in one series, as shown: the row and the library's reading status.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ProgressView {
    /// The series.
    pub manga: MangaId,
    /// Chapter, version, generation and node.
    pub key: MergeKey,
    /// The page within the chapter, when known.
    pub page: Option<Page>,
    /// The library's status; `None` while the series is not in the library.
    pub status: Option<ReadingStatus>,
    /// The chapter lay beyond what the catalogue knew when it was set.
    pub ahead: bool,
    /// The progress was deleted by this version; the chapter is zero.
    pub deleted: bool,
}

impl ProgressView {
    /// Puts a row and the reading status of the library together.
    pub fn new(manga: MangaId, row: &ProgressRow, status: Option<ReadingStatus>) -> Self {
        Self { manga, key: row.key, page: row.page, status, ahead: row.ahead, deleted: row.deleted }
    }

    /// When it was last changed, in Unix milliseconds.
    pub fn updated_at_ms(&self) -> u64 {
        self.key.version.unix_ms()
    }
}
