//! Writes the whole journals of the corpus with the real journal: one segment with commits of one and of several blocks, several
//! segments of several starts, and one whose last commit was torn and sealed.
#![allow(
    clippy::unwrap_used,
    clippy::single_range_in_vec_init,
    reason = "a failure is the finding; one range is one commit"
)]

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::channel;

use hub::device::DeviceStamp;
use hub::history::{HistoryRow, LocalDay};
use hub::library::LibraryRow;
use hub::progress::ProgressRow;
use hub::record::{LibraryRecord, ProgressRecord, Record};
use proto::{Chapter, DeviceId, DeviceSeq, MangaId, MergeKey, NodeId, Page, ReadingStatus, UserId, Version};
use storage::journal::{JournalConfig, LaneCursors, Listener, Started, StdEngine, open};

use crate::folder::{BLOCK_BYTES, Folder, SEGMENT_BYTES, STORE};

pub(crate) fn write_corpus(to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    let keep = |name: &str, folder: &Path, keep: &mut dyn FnMut(&mut Folder)| {
        let mut content = Folder::read(folder);
        content.segments.retain(|segment| segment.bytes.iter().any(|byte| *byte != 0));
        for segment in &mut content.segments {
            // The zeros written ahead: one block of them is as good as a mebibyte.
            let used = segment.bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
            segment.bytes.truncate(used.next_multiple_of(BLOCK_BYTES) + BLOCK_BYTES);
        }
        keep(&mut content);
        std::fs::write(to.join(name), content.to_bytes()).unwrap();
    };
    let one = tempfile::tempdir().unwrap();
    append(one.path(), &[1..4, 4..5, 5..40]);
    keep("whole-one-segment", one.path(), &mut |_| {});
    let several = tempfile::tempdir().unwrap();
    append(several.path(), &[1..3, 3..9]);
    append(several.path(), &[9..11]);
    append(several.path(), &[11..12, 12..14]);
    keep("whole-three-segments", several.path(), &mut |_| {});
    keep("torn-last-commit", several.path(), &mut |content| {
        content.segments.last_mut().unwrap().bytes[2 * BLOCK_BYTES + 90..].fill(0);
    });
    let torn = tempfile::tempdir().unwrap();
    append(torn.path(), &[1..6, 6..9]);
    let path = torn.path().join("journal-0000000001.seg");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[2 * BLOCK_BYTES + 80..3 * BLOCK_BYTES].fill(0);
    std::fs::write(&path, bytes).unwrap();
    append(torn.path(), &[20..24]);
    keep("sealed-behind-a-torn-commit", torn.path(), &mut |_| {});
}

/// Starts the journal of a folder, writes a commit for each range of records, and closes it.
fn append(folder: &Path, commits: &[std::ops::Range<u64>]) {
    let mut config = JournalConfig::new(folder, STORE);
    config.segment_bytes = SEGMENT_BYTES;
    config.engine = Arc::new(StdEngine::buffered());
    let (sender, woken) = channel();
    let listener: Listener = Box::new(move || {
        let _ = sender.send(());
    });
    let Started { journal, mut shards, .. } =
        open(config).unwrap().journal.start(LaneCursors::START, vec![listener]).unwrap();
    for commit in commits {
        let mut ticket = Default::default();
        for number in commit.clone() {
            ticket = shards[0].append(&record(number));
        }
        shards[0].flush();
        while shards[0].durable().ticket < ticket {
            woken.recv().unwrap();
        }
    }
    assert!(journal.close());
}

fn record(number: u64) -> Record {
    let user = UserId::from_bytes((u128::from(number) << 64 | 1).to_be_bytes());
    let (manga, node, version) = (MangaId(number as i64), NodeId(7), Version(number << 12));
    let library =
        LibraryRow { version, node, deleted: false, status: ReadingStatus::Reading, added_at_ms: 1_763_690_000_000 };
    if number.is_multiple_of(4) {
        return Record::Library(LibraryRecord { user, manga, row: library });
    }
    let chapter = Chapter::whole(number as u32);
    let key = MergeKey { generation: Version(1), chapter, version, node };
    Record::Progress(ProgressRecord {
        user,
        manga,
        row: ProgressRow { key, deleted: false, page: Some(Page(3)), ahead: false },
        device: Some(DeviceStamp {
            device: DeviceId::from_bytes([number as u8; 16]),
            seq: Some(DeviceSeq(number)),
            epoch: Version(1),
        }),
        library: Some(library),
        history: Some(HistoryRow {
            day: LocalDay(20_000),
            updates: 1,
            chapters: 1,
            last: chapter,
            first: chapter,
            jump: false,
        }),
    })
}
