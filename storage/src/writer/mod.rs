//! The store writer: one thread that takes committed records in the journal's order, coalesces them by key, and hands them to
//! the store in batches, each in one transaction with the cursors. It promises that no record is skipped and no cursor moves
//! before its rows are stored, however often the store is away; it never makes the journal or a shard wait.

#[cfg(any(test, feature = "fault"))]
pub mod by_hand;
mod delivery;
mod drain;
mod pending;
mod stats;

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

pub use drain::{DrainError, Drained, drain};
pub use stats::{Reading, WriterStats};

use self::delivery::{Delivery, Ended, jittered};
use self::pending::Pending;
use crate::journal::{CommitFeed, Committed, Cursors, JournalId, Lsn, Next};
use crate::store::{SharedStore, Store};

/// How batches are made and retried.
#[derive(Clone, Copy, Debug)]
pub struct WriterConfig {
    /// A batch closes at this many rows, or at as many as the store takes, if that is less.
    pub batch_rows_max: usize,
    /// And at this many records, however few rows they coalesce to.
    pub batch_records_max: usize,
    /// And when its first record has waited this long.
    pub batch_wait_max: Duration,
    /// The first pause after the store was away; doubles up to the longest, each shortened at random by up to half.
    pub retry_pause_min: Duration,
    /// The longest pause.
    pub retry_pause_max: Duration,
}

impl Default for WriterConfig {
    fn default() -> Self {
        Self {
            batch_rows_max: usize::MAX,
            batch_records_max: 20_000,
            batch_wait_max: Duration::from_millis(250),
            retry_pause_min: Duration::from_millis(50),
            retry_pause_max: Duration::from_secs(5),
        }
    }
}

impl WriterConfig {
    fn over(self, store: &dyn Store) -> Self {
        Self { batch_rows_max: self.batch_rows_max.min(store.batch_rows_max()), ..self }
    }
}

/// The running writer.
pub struct Writer {
    stats: Arc<WriterStats>,
    thread: JoinHandle<()>,
}

impl Writer {
    /// What it is doing; readable from any thread at any time.
    pub fn stats(&self) -> Arc<WriterStats> {
        self.stats.clone()
    }

    /// Waits until the store has everything up to `lsn`; false when that took longer than `patience`. Blocks.
    pub fn wait_for(&self, lsn: Lsn, patience: Duration) -> bool {
        self.stats.wait_for(lsn, patience)
    }

    /// Ends the writer, after the journal was closed: it stores what is left if the store lets it within `patience`, and leaves
    /// the rest to the next start, because it is in the journal. True when everything is stored. Blocks.
    pub fn stop(self, patience: Duration) -> bool {
        self.stats.stop_at(Instant::now() + patience);
        if self.thread.join().is_err() {
            return false;
        }
        self.stats.read().finished
    }
}

/// Starts the writer's thread. `cursors` are those the journal was started with.
pub fn start(
    feed: CommitFeed,
    store: SharedStore,
    journal: JournalId,
    cursors: Cursors,
    config: WriterConfig,
) -> io::Result<Writer> {
    let worker = Worker::new(feed, store, journal, cursors, config);
    let stats = worker.stats.clone();
    let thread = thread::Builder::new().name("store-feed".into()).spawn(move || {
        // Acknowledgements must not wait for the store.
        runtime::priority::yield_to_shards();
        worker.run();
    })?;
    Ok(Writer { stats, thread })
}

struct Worker {
    feed: CommitFeed,
    delivery: Delivery,
    pending: Pending,
    cursors: Cursors,
    config: WriterConfig,
    stats: Arc<WriterStats>,
}

impl Worker {
    fn new(feed: CommitFeed, store: SharedStore, journal: JournalId, cursors: Cursors, config: WriterConfig) -> Self {
        let stats = Arc::new(WriterStats::new(cursors.snapshot().lowest()));
        let config = config.over(&*store);
        let delivery = Delivery::new(store, journal, cursors.snapshot(), config, stats.clone());
        Self { feed, delivery, pending: Pending::default(), cursors, config, stats }
    }

    fn run(mut self) {
        let mut pause = self.config.retry_pause_min;
        let ended = loop {
            let before = self.cursors.snapshot().lowest();
            if let Ok(ended) = catch_unwind(AssertUnwindSafe(|| self.follow())) {
                break ended;
            }
            // A defect here or in the store's client. The journal keeps what is not stored, so nothing is lost by beginning
            // again behind the store's cursors; and a server without a writer would fill its journal and then refuse writes.
            if self.begin_again() > before {
                pause = self.config.retry_pause_min;
            }
            if self.stats.pause(jittered(pause)) {
                break Ended::GivenUp;
            }
            pause = (pause * 2).min(self.config.retry_pause_max);
        };
        self.stats.finish(matches!(ended, Ended::Done));
    }

    /// After a panic: drops what was gathered and goes back to behind the store's cursors, which it answers.
    fn begin_again(&mut self) -> Lsn {
        let reached = self.cursors.snapshot().lowest();
        self.pending = Pending::default();
        self.delivery.forget();
        self.feed.rewind(reached.plus(1));
        self.stats.restarted();
        reached
    }

    /// Takes records until the feed closes, or until it is told to give up.
    fn follow(&mut self) -> Ended {
        let mut opened = Instant::now();
        loop {
            let wait_max = self.config.batch_wait_max;
            let patience = match (self.delivery.is_under_way(), self.pending.is_empty()) {
                (true, _) => Duration::ZERO,
                (false, true) => wait_max,
                (false, false) => wait_max.saturating_sub(opened.elapsed()),
            };
            match self.feed.next(patience) {
                Ok(Next::Committed(committed)) => {
                    if self.pending.is_empty() {
                        opened = Instant::now();
                    }
                    if let Ended::GivenUp = self.take(&committed) {
                        return Ended::GivenUp;
                    }
                }
                // Nothing to gather meanwhile: what is under way is waited for, and published at once.
                Ok(Next::Idle) if self.delivery.is_under_way() => {
                    if let Ended::GivenUp = self.settle() {
                        return Ended::GivenUp;
                    }
                }
                Ok(Next::Idle) if self.pending.is_empty() => self.stats.nothing_waits(),
                Ok(Next::Idle) => {}
                Ok(Next::Closed) => return self.deliver_all(),
                Err(error) => {
                    self.stats.failed(&error.to_string());
                    if self.stats.pause(self.config.retry_pause_max) {
                        return Ended::GivenUp;
                    }
                }
            }
            if !self.pending.is_empty() && opened.elapsed() >= wait_max && matches!(self.deliver_all(), Ended::GivenUp)
            {
                return Ended::GivenUp;
            }
        }
    }

    fn take(&mut self, committed: &Committed) -> Ended {
        for record in committed.records() {
            self.pending.add(&record, self.delivery.cursors());
            if self.pending.is_full(self.delivery.rows_max(), &self.config) && matches!(self.deliver(), Ended::GivenUp)
            {
                return Ended::GivenUp;
            }
        }
        let (rows, from_segments) = self.feed.backlog();
        self.stats.waiting(&self.pending, rows, from_segments);
        Ended::Done
    }

    /// Sends the pending batch and publishes how far the store is.
    fn deliver(&mut self) -> Ended {
        if self.pending.is_empty() {
            return Ended::Done;
        }
        // However far behind it is: the journal has the rest.
        if self.stats.is_time_up() {
            return Ended::GivenUp;
        }
        let ended = self.delivery.deliver(std::mem::take(&mut self.pending));
        self.publish();
        ended
    }

    /// Waits for what is under way.
    fn settle(&mut self) -> Ended {
        if !self.delivery.is_under_way() {
            return Ended::Done;
        }
        let ended = self.delivery.settle();
        self.publish();
        ended
    }

    /// Stores the pending batch now, and everything before it.
    fn deliver_all(&mut self) -> Ended {
        match self.deliver() {
            Ended::Done => self.settle(),
            Ended::GivenUp => Ended::GivenUp,
        }
    }

    fn publish(&self) {
        let reached = self.delivery.cursors();
        for lane in crate::lane::Lane::all() {
            self.cursors.publish(lane, reached.get(lane));
        }
        self.stats.reached(reached.lowest(), self.delivery.newest_unix_ms());
    }
}

/// Now, for what a person reads: lag, and when a record was parked.
pub(crate) fn now_unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
