//! What the journal costs: encoding a record into a turn, a durable commit of 1 and of 64 records (each the next one's
//! reason to wait, so the inverse is the disk's), the rate with turns pipelined, and recovery. Floors against regression on
//! one machine, not capacity. The folder is `$MANGAHUB_BENCH_FOLDER`, else the system's temporary one: use a disk.

mod workload;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use hub::record::Record;
use proto::Version;
use storage::journal::{
    CommitFeed, Cursors, Engine, Journal, JournalConfig, Journalled, LaneCursors, Listener, Next, ShardJournal,
    Started, StdEngine, StoreId, Ticket, open,
};
use storage::lane::Lane;
use storage::record::{RECORD_BYTES_MAX, decode};
use tempfile::TempDir;
use workload::{Step, folder};

/// How many records recovery is measured on: 28 MB.
const RECOVERED: u64 = 200_000;

fn record(number: u64) -> Record {
    let (version, chapter) = (Version(number << 12), number as u32 % 1_000);
    Step { device_seq: number, ..Step::new(number, number as i64 % 500 + 1, chapter, version) }.whole()
}

fn engines() -> Vec<Arc<dyn Engine>> {
    vec![
        Arc::new(StdEngine::default()),
        #[cfg(feature = "glommio")]
        Arc::new(storage::journal::GlommioEngine::default()),
    ]
}

/// A running journal with one shard, and a store that applies everything at once.
struct Bench {
    journal: Journal,
    shard: ShardJournal,
    store: JoinHandle<()>,
    stopping: Arc<AtomicBool>,
    _folder: TempDir,
}

impl Bench {
    fn start(engine: Arc<dyn Engine>) -> Self {
        let folder = folder();
        let mut config = JournalConfig::new(folder.path(), StoreId::default());
        config.engine = engine;
        let opened = open(config).expect("a fresh journal");
        let waiter: Thread = std::thread::current();
        let listeners: Vec<Listener> = vec![Box::new(move || waiter.unpark())];
        let Started { journal, mut shards, feed, cursors } =
            opened.journal.start(LaneCursors::START, listeners).expect("room for a journal");
        let stopping = Arc::new(AtomicBool::new(false));
        let stop = stopping.clone();
        let store = std::thread::spawn(move || drain(feed, &cursors, &stop));
        let shard = shards.pop().expect("one shard");
        // The second segment is being written ahead just now; measure without it.
        while journal.stats().segments < 2 {
            std::thread::sleep(Duration::from_millis(1));
        }
        Self { journal, shard, store, stopping, _folder: folder }
    }

    fn append(&mut self, records: &[Record]) -> Ticket {
        let mut ticket = Ticket::default();
        for record in records {
            ticket = self.shard.append(record);
        }
        self.shard.flush();
        ticket
    }

    fn wait(&self, ticket: Ticket) {
        while self.shard.durable().ticket < ticket {
            std::thread::park();
        }
    }

    fn wait_admitted(&self, records: usize) {
        while self.shard.admit(records * RECORD_BYTES_MAX).is_err() {
            std::thread::park_timeout(Duration::from_millis(1));
        }
    }

    fn stop(self) {
        assert!(self.journal.close());
        self.stopping.store(true, Ordering::Release);
        self.store.join().expect("the draining thread");
    }
}

fn drain(mut feed: CommitFeed, cursors: &Cursors, stopping: &AtomicBool) {
    while !stopping.load(Ordering::Acquire) {
        match feed.next(Duration::from_millis(20)).expect("readable segments") {
            Next::Committed(committed) => Lane::all().for_each(|lane| cursors.publish(lane, committed.last())),
            Next::Idle => {}
            Next::Closed => return,
        }
    }
}

fn encode(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("journal/encode");
    group.throughput(Throughput::Elements(64));
    let records: Vec<Record> = (0..64).map(record).collect();
    group.bench_function("64 progress records, payload only", |bencher| {
        bencher.iter_batched_ref(
            || Vec::with_capacity(64 * RECORD_BYTES_MAX),
            |out| records.iter().for_each(|record| Journalled::encode(record, out)),
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

fn commit(criterion: &mut Criterion) {
    for engine in engines() {
        let mut bench = Bench::start(engine.clone());
        let mut group = criterion.benchmark_group(format!("journal/{}", engine.name()));
        for batch in [1, 64] {
            let records: Vec<Record> = (0..batch).map(record).collect();
            group.throughput(Throughput::Elements(batch));
            group.bench_function(BenchmarkId::new("durable turn", batch), |bencher| {
                bencher.iter(|| {
                    bench.wait_admitted(records.len());
                    let ticket = bench.append(&records);
                    bench.wait(ticket);
                });
            });
        }
        let records: Vec<Record> = (0..64).map(record).collect();
        group.throughput(Throughput::Elements(64));
        group.bench_function("pipelined turn/64", |bencher| {
            bencher.iter_custom(|turns| {
                let started = Instant::now();
                let mut last = Ticket::default();
                for _ in 0..turns {
                    bench.wait_admitted(records.len());
                    last = bench.append(&records);
                }
                bench.wait(last);
                started.elapsed()
            });
        });
        group.finish();
        bench.stop();
    }
}

fn recovery(criterion: &mut Criterion) {
    let mut bench = Bench::start(Arc::new(StdEngine::default()));
    let records: Vec<Record> = (0..64).map(record).collect();
    for _ in 0..RECOVERED / 64 {
        bench.wait_admitted(64);
        bench.append(&records);
    }
    let Bench { journal, store, _folder: folder, .. } = bench;
    assert!(journal.close());
    store.join().expect("the draining thread");
    let mut group = criterion.benchmark_group("journal/recovery");
    group.throughput(Throughput::Elements(RECOVERED)).sample_size(10);
    group.bench_function("open, check and replay", |bencher| {
        bencher.iter(|| {
            let opened = open(JournalConfig::new(folder.path(), StoreId::default())).expect("the journal of before");
            let mut replay = opened.recovery.replay(&LaneCursors::START).expect("nothing was drained");
            let mut versions = 0;
            while let Some(raw) = replay.next().expect("intact records") {
                versions ^= decode(&raw).expect("known records").version().0;
            }
            assert_eq!(replay.replayed().replayed, RECOVERED);
            versions
        });
    });
    group.finish();
}

criterion_group!(benches, encode, commit, recovery);
criterion_main!(benches);
