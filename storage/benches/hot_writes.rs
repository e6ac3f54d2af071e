//! What a pipeline is worth to the hot cache: the same rows written to a private Redis as the cache writes them, up to 1,000 in a
//! pipeline, and one by one, each answered before the next is shown to the cache. `cargo bench -p mangahub-storage --bench
//! hot_writes`. The journal in front stands in memory, so its share is small: both turns show the cache durable commits.

#[path = "../tests/support/redis.rs"]
mod redis;
#[path = "../../benches/workload/mod.rs"]
mod workload;

use std::sync::Arc;
use std::time::{Duration, Instant};

use hub::record::Record;
use proto::{NodeId, Version};
use redis::RedisServer;
use storage::hot::{self, HotCache, HotConfig, HotState};
use storage::journal::{self, JournalConfig, LaneCursors, ShardJournal, Started, StoreId};
use workload::Step;

const ROUNDS: usize = 5;
const PIPELINED_ROWS: u64 = 50_000;
const SINGLE_ROWS: u64 = 2_000;
/// Records in one commit of the pipelined turn.
const TURN_ROWS: u64 = 500;
const PATIENCE: Duration = Duration::from_secs(60);

/// The `at`-th row: each of another series of one of many users.
fn record(at: u64) -> Record {
    Step::new(at % 5_000, 1 + (at / 5_000) as i64, 7, Version(1_000 + at)).series()
}

/// Waits, without sleeping, until so many rows are in Redis in all.
fn written(hot: &HotCache, rows: u64) {
    let deadline = Instant::now() + PATIENCE;
    while hot.read().counts.rows < rows {
        assert!(Instant::now() < deadline, "{:?}", hot.read());
        std::thread::yield_now();
    }
}

fn commit(shard: &mut ShardJournal, rows: std::ops::Range<u64>) {
    for at in rows {
        shard.append(&record(at));
    }
    shard.flush();
}

#[allow(clippy::print_stdout, reason = "its output is the result")]
fn main() {
    let redis = RedisServer::start();
    let config = HotConfig { timeout: Duration::from_secs(1), ..HotConfig::new(redis.url()) };
    let (hot, thread) = hot::start(config, NodeId(1)).expect("a cache");
    let deadline = Instant::now() + PATIENCE;
    while hot.read().state != HotState::Healthy {
        assert!(Instant::now() < deadline, "{:?}", hot.read());
        std::thread::sleep(Duration::from_millis(5));
    }
    let folder = tempfile::tempdir_in("/dev/shm").expect("a folder in memory");
    let mut wanted = JournalConfig::new(folder.path().join("journal"), StoreId([1; 16]));
    let shown = hot.clone();
    wanted.on_committed = Some(Arc::new(move |committed| shown.committed(committed)));
    let opened = journal::open(wanted).expect("a journal");
    let started = opened.journal.start(LaneCursors::START, vec![Box::new(|| {})]).expect("room");
    let Started { journal, mut shards, feed: _feed, cursors: _cursors } = started;
    let mut shard = shards.pop().expect("one shard");
    let (mut at, mut rates) = (0, [Vec::new(), Vec::new()]);
    for _ in 0..ROUNDS {
        for (turn, rows, each) in [(0, PIPELINED_ROWS, TURN_ROWS), (1, SINGLE_ROWS, 1)] {
            let (first, began) = (at, Instant::now());
            while at < first + rows {
                commit(&mut shard, at..at + each);
                at += each;
                // The queue is bounded and drops what it has no room for; the pipelined turn stays well below that.
                written(&hot, if turn == 1 { at } else { at.saturating_sub(4_000) });
            }
            written(&hot, at);
            rates[turn].push(rows as f64 / began.elapsed().as_secs_f64());
        }
    }
    for (name, rates) in ["pipelined", "one by one"].iter().zip(&mut rates) {
        rates.sort_unstable_by(f64::total_cmp);
        println!("{name:<10} {:>8.0} rows/s ({:.0} to {:.0})", rates[ROUNDS / 2], rates[0], rates[ROUNDS - 1]);
    }
    assert!(journal.close());
    thread.stop(Duration::from_millis(100));
}
