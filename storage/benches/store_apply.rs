//! How fast the embedded store takes batches: rows a second that really change something, in batches as the writer makes them.
//! `cargo bench -p mangahub-storage --bench store_apply [-- FOLDER]`; the folder's disk is what is measured.

use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Instant;

use hub::device::DeviceStamp;
use hub::history::{HistoryRow, LocalDay};
use hub::library::LibraryRow;
use hub::progress::ProgressRow;
use hub::record::{ProgressRecord, Record};
use proto::{Chapter, DeviceId, DeviceSeq, MangaId, MergeKey, NodeId, Page, ReadingStatus, UserId, Version};
use storage::journal::{JournalId, LaneCursors, Lsn};
use storage::lane::Lane;
use storage::store::{Batch, Rows, SqliteConfig, SqliteStore, Store};

const BATCH_ROWS: usize = 2_000;
const BATCHES: usize = 120;

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn wait<T>(mut future: storage::store::Answer<T>) -> T {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(answer) => return answer.expect("the store answers"),
            Poll::Pending => thread::park(),
        }
    }
}

/// The `at`-th update of a workload of `users` with ten series and two devices each: a step forward of one chapter.
fn update(at: u64, users: u64) -> Record {
    // A full-cycle step scatters the users over the tree, as real traffic does.
    let user = (at.wrapping_mul(7_919)) % users;
    let round = at / users;
    let id = |number: u64| u128::from(number.wrapping_mul(0x9E37_79B9_7F4A_7C15)).to_be_bytes();
    let (version, node) = (Version(1_000 + at), NodeId(1));
    let chapter = Chapter::from_hundredths(u32::try_from(round).expect("small") * 100 + 100).expect("in range");
    let day = LocalDay(20_000);
    let updates = u32::try_from(round + 1).expect("small");
    Record::Progress(ProgressRecord {
        user: UserId::from_bytes(id(user)),
        manga: MangaId(1 + (round % 10) as i64),
        row: ProgressRow {
            key: MergeKey { generation: Version(1), chapter, version, node },
            deleted: false,
            page: Some(Page(3)),
            ahead: false,
        },
        device: Some(DeviceStamp {
            device: DeviceId::from_bytes(id(user * 2 + round % 2)),
            seq: Some(DeviceSeq(round / 2 + 1)),
            epoch: Version(1),
        }),
        library: Some(LibraryRow { version, node, deleted: false, status: ReadingStatus::Reading, added_at_ms: 1 }),
        history: Some(HistoryRow { day, updates, chapters: updates, last: chapter, first: Chapter::ZERO, jump: false }),
    })
}

#[allow(clippy::print_stdout, reason = "its output is the result")]
fn measure(folder: &std::path::Path, users: u64) {
    let folder = tempfile::tempdir_in(folder).expect("a folder");
    let store = SqliteStore::open(&SqliteConfig::new(folder.path().join("store.db")), 1).expect("a store");
    let mut next = 0;
    let mut times_ms = Vec::new();
    let (mut rows_sent, mut rows_changed, mut records) = (0, 0, 0_u64);
    for number in 0..BATCHES {
        let mut rows = Rows::default();
        let first = next;
        while rows.count() < BATCH_ROWS {
            rows.add(&update(next, users));
            next += 1;
        }
        let cursors = Lane::all().map(|lane| (lane, Lsn(next))).collect();
        let count = rows.count();
        let batch = Batch {
            journal: JournalId([1; 16]),
            rows: rows.into(),
            parked: Vec::new(),
            cursors,
            behind: LaneCursors::START,
            now_unix_ms: 1,
        };
        let began = Instant::now();
        let applied = wait(store.apply(batch));
        // The first batches fill an empty file.
        if number >= BATCHES / 6 {
            times_ms.push(began.elapsed().as_secs_f64() * 1_000.0);
            rows_sent += count;
            rows_changed += applied.changed;
            records += next - first;
        }
    }
    let seconds: f64 = times_ms.iter().sum::<f64>() / 1_000.0;
    times_ms.sort_unstable_by(f64::total_cmp);
    let at = |share: f64| times_ms[((times_ms.len() - 1) as f64 * share) as usize];
    println!(
        "{users:>7} users: {:>8.0} rows/s, {:>8.0} updates/s; a batch of {BATCH_ROWS}: p50 {:.1} ms, p99 {:.1} ms, max {:.1} ms ({:.0} % changed)",
        rows_sent as f64 / seconds,
        records as f64 / seconds,
        at(0.5),
        at(0.99),
        at(1.0),
        100.0 * rows_changed as f64 / rows_sent as f64,
    );
}

fn main() {
    let folder = std::env::args().skip(1).find(|argument| !argument.starts_with('-')).unwrap_or_else(|| ".".into());
    for users in [1_000, 10_000, 100_000] {
        measure(std::path::Path::new(&folder), users);
    }
}
