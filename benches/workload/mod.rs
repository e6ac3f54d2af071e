//! What the benches write: updates as the rules make them, users who come in no order, batches as the writer sends them, and a
//! folder on a disk to put it all.
#![allow(dead_code, unreachable_pub, missing_docs, reason = "each bench takes its part")]

use std::path::PathBuf;

use hub::device::DeviceStamp;
use hub::history::{HistoryRow, LocalDay};
use hub::library::LibraryRow;
use hub::progress::ProgressRow;
use hub::record::{ProgressRecord, Record};
use proto::{Chapter, DeviceId, DeviceSeq, MangaId, MergeKey, NodeId, Page, ReadingStatus, UserId, Version};
use storage::journal::{JournalId, LaneCursors, Lsn};
use storage::lane::Lane;
use storage::store::{Batch, Rows};

/// A number scattered over an id: neighbours are far from one another, in a tree as in the lanes.
fn scattered(number: u64) -> [u8; 16] {
    u128::from(number.wrapping_mul(0x9E37_79B9_7F4A_7C15)).to_be_bytes()
}

/// One update of one user, and where it leads.
pub struct Step {
    pub user: u64,
    pub manga: i64,
    /// Chapters read so far, in steps of one.
    pub chapter: u32,
    pub version: Version,
    pub node: NodeId,
    pub device: u64,
    pub device_seq: u64,
    /// Updates of this day, this one included.
    pub today: u32,
}

impl Step {
    /// By the first node; the device is the user's only one, and has sent nothing before.
    pub fn new(user: u64, manga: i64, chapter: u32, version: Version) -> Self {
        Self { user, manga, chapter, version, node: NodeId(1), device: user, device_seq: 1, today: 1 }
    }

    pub fn user_id(&self) -> UserId {
        UserId::from_bytes(scattered(self.user))
    }

    pub fn row(&self) -> ProgressRow {
        let chapter = Chapter::whole(self.chapter);
        let key = MergeKey { generation: Version(1), chapter, version: self.version, node: self.node };
        ProgressRow { key, deleted: false, page: Some(Page(3)), ahead: false }
    }

    /// The series alone.
    pub fn series(&self) -> Record {
        let (user, manga, row) = (self.user_id(), MangaId(self.manga), self.row());
        Record::Progress(ProgressRecord { user, manga, row, device: None, library: None, history: None })
    }

    /// With all that an ordinary update touches: the device, the library, the day's history.
    pub fn whole(&self) -> Record {
        let Self { version, node, .. } = *self;
        let (row, status) = (self.row(), ReadingStatus::Reading);
        Record::Progress(ProgressRecord {
            user: self.user_id(),
            manga: MangaId(self.manga),
            row,
            device: Some(DeviceStamp {
                device: DeviceId::from_bytes(scattered(self.device)),
                seq: Some(DeviceSeq(self.device_seq)),
                epoch: Version(1),
            }),
            library: Some(LibraryRow { version, node, deleted: false, status, added_at_ms: 1_763_690_000_000 }),
            history: Some(HistoryRow {
                day: LocalDay(20_000),
                updates: self.today,
                chapters: self.today,
                last: row.key.chapter,
                first: Chapter::ZERO,
                jump: false,
            }),
        })
    }
}

/// A batch of these rows, all lanes at `lsn` afterwards.
pub fn batch(rows: Rows, lsn: u64) -> Batch {
    Batch {
        journal: JournalId([1; 16]),
        rows: rows.into(),
        parked: Vec::new(),
        cursors: Lane::all().map(|lane| (lane, Lsn(lsn))).collect(),
        behind: LaneCursors::START,
        now_unix_ms: 1,
    }
}

/// In `$MANGAHUB_BENCH_FOLDER`, else in the system's temporary folder.
pub fn folder() -> tempfile::TempDir {
    let parent = std::env::var_os("MANGAHUB_BENCH_FOLDER").map_or_else(std::env::temp_dir, PathBuf::from);
    tempfile::tempdir_in(parent).expect("a folder on a disk")
}
