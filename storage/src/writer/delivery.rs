//! Getting batches into the store: several under way at a time where the store is busier with that, as long as all goes well; one
//! by one when one fails, again and again while the store is away, in halves while it refuses some row of it, until the one
//! record that it refuses stands alone and is parked. Cursors move in the transactions, in order, and nowhere else.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use super::WriterConfig;
use super::pending::{Part, Pending};
use super::stats::WriterStats;
use crate::journal::{JournalId, LaneCursors, Lsn};
use crate::lane::Lane;
use crate::store::{Answer, Applied, Batch, NewParked, Rows, SharedStore, StoreError};

/// Batches begin with at most so many rows.
const BATCH_ROWS_FIRST: usize = 2_000;
/// They may become larger as long as the store takes one this fast, and become smaller when it takes this long: what reads a cold
/// disk must still end within the store's own limit.
const BATCH_FAST: Duration = Duration::from_millis(500);
const BATCH_SLOW: Duration = Duration::from_secs(2);

/// How often somebody who waits for the store looks whether it is time to give up.
const STOP_LOOK: Duration = Duration::from_millis(100);
/// How long an answer is waited for when that time has come: one that is away says so sooner, one that hangs says nothing.
const STOP_GRACE: Duration = Duration::from_secs(2);

/// How a delivery ended.
#[must_use]
pub(super) enum Ended {
    /// Everything is stored or parked.
    Done,
    /// It was told to stop while the store was away.
    GivenUp,
}

/// The way of batches into one store.
pub(super) struct Delivery {
    store: SharedStore,
    journal: JournalId,
    reached: LaneCursors,
    config: WriterConfig,
    stats: Arc<WriterStats>,
    /// How many rows a batch may have by how fast the last ones were taken.
    rows_max: usize,
    /// Sent and not answered, oldest first.
    under_way: VecDeque<Sent>,
    /// When the newest record of the last batch that was stored was made.
    newest_unix_ms: Option<u64>,
}

struct Sent {
    pending: Pending,
    answer: Answer<Applied>,
    began: Instant,
}

impl Delivery {
    pub(super) fn new(
        store: SharedStore,
        journal: JournalId,
        reached: LaneCursors,
        config: WriterConfig,
        stats: Arc<WriterStats>,
    ) -> Self {
        let rows_max = config.batch_rows_max.min(BATCH_ROWS_FIRST);
        Self { store, journal, reached, config, stats, rows_max, under_way: VecDeque::new(), newest_unix_ms: None }
    }

    /// How many rows the next batch may have.
    pub(super) fn rows_max(&self) -> usize {
        self.rows_max
    }

    fn adapt(&mut self, rows: usize, took: Duration) {
        if took >= BATCH_SLOW {
            self.rows_max = (self.rows_max / 2).max(BATCH_ROWS_FIRST);
        } else if took <= BATCH_FAST && rows >= self.rows_max {
            self.rows_max *= 2;
        }
        self.rows_max = self.rows_max.min(self.config.batch_rows_max);
    }

    /// How far the store is.
    pub(super) fn cursors(&self) -> &LaneCursors {
        &self.reached
    }

    /// When the newest record of the last batch that was stored was made.
    pub(super) fn newest_unix_ms(&self) -> Option<u64> {
        self.newest_unix_ms
    }

    /// Whether batches were sent and not answered.
    pub(super) fn is_under_way(&self) -> bool {
        !self.under_way.is_empty()
    }

    /// Gives up what is under way: it may be stored, or not.
    pub(super) fn forget(&mut self) {
        self.under_way.clear();
    }

    /// Sends a batch; waits only for as many of those before it as the store does not take beside it. [`Self::settle`] waits for
    /// all.
    pub(super) fn deliver(&mut self, pending: Pending) -> Ended {
        let at_a_time = self.store.batches_at_a_time();
        while self.under_way.len() >= at_a_time {
            if let Ended::GivenUp = self.finish_one() {
                return Ended::GivenUp;
            }
        }
        let part = pending.whole();
        let ahead = self.under_way.back().map_or(Lsn::ZERO, |sent| sent.pending.last());
        let batch = self.batch(part.last(), part.rows(), part.unreadable(), ahead);
        let (answer, began) = (self.store.apply(batch), Instant::now());
        self.under_way.push_back(Sent { pending, answer, began });
        if at_a_time > 1 { Ended::Done } else { self.settle() }
    }

    /// Waits until everything that was sent is stored or parked.
    pub(super) fn settle(&mut self) -> Ended {
        while self.is_under_way() {
            if let Ended::GivenUp = self.finish_one() {
                return Ended::GivenUp;
            }
        }
        Ended::Done
    }

    /// Waits for the oldest batch that is under way. When it failed, those behind it have failed too, or moved only lanes that it
    /// has moved: all go again, one by one.
    fn finish_one(&mut self) -> Ended {
        let Some(Sent { pending, answer, began }) = self.under_way.pop_front() else { return Ended::Done };
        let Some(answer) = self.wait(answer) else { return Ended::GivenUp };
        if let Ok(applied) = answer {
            let (rows, unreadable, took) = (pending.whole().rows().count(), pending.unreadable(), began.elapsed());
            self.adapt(rows, took);
            self.stored(&pending, |stats| stats.stored(rows, applied, unreadable, took));
            return Ended::Done;
        }
        self.rows_max = self.rows_max.min(BATCH_ROWS_FIRST);
        // All answers first: nothing is under way when the first goes again.
        let mut again = vec![pending];
        while let Some(Sent { pending, answer, .. }) = self.under_way.pop_front() {
            if self.wait(answer).is_none() {
                return Ended::GivenUp;
            }
            again.push(pending);
        }
        for pending in &again {
            if let Ended::GivenUp = self.deliver_alone(pending) {
                return Ended::GivenUp;
            }
            self.stored(pending, |_| {});
        }
        Ended::Done
    }

    /// Waits for an answer; `None` when it is time to give up and the store gives none: what was sent may be stored later, or not.
    fn wait(&self, mut answer: Answer<Applied>) -> Option<Result<Applied, StoreError>> {
        let mut stopping = None;
        let waker = Waker::from(Arc::new(Waiting(thread::current())));
        loop {
            if let Poll::Ready(answer) = answer.as_mut().poll(&mut Context::from_waker(&waker)) {
                return Some(answer);
            }
            if self.stats.is_time_up() && stopping.get_or_insert_with(Instant::now).elapsed() >= STOP_GRACE {
                return None;
            }
            thread::park_timeout(STOP_LOOK);
        }
    }

    fn stored(&mut self, pending: &Pending, tell: impl FnOnce(&WriterStats)) {
        Lane::all().for_each(|lane| self.reached.advance(lane, pending.last()));
        self.newest_unix_ms = pending.last_unix_ms().or(self.newest_unix_ms);
        tell(&self.stats);
        pending.log_followed();
    }

    fn batch(&self, last: Lsn, rows: Arc<Rows>, parked: Vec<NewParked>, ahead: Lsn) -> Batch {
        let mut behind = self.reached;
        Lane::all().for_each(|lane| behind.advance(lane, ahead));
        let cursors = Lane::all().map(|lane| (lane, last)).collect();
        Batch { journal: self.journal, rows, parked, cursors, behind, now_unix_ms: super::now_unix_ms() }
    }

    /// Stores a batch, whatever it takes, while nothing else is under way.
    fn deliver_alone(&mut self, pending: &Pending) -> Ended {
        // Parts that are still to come, the next one last.
        let mut parts = vec![pending.whole()];
        while let Some(part) = parts.pop() {
            let refused = match self.send(part, part.rows(), part.unreadable()) {
                Ok(Ended::Done) => continue,
                Ok(Ended::GivenUp) => return Ended::GivenUp,
                Err(reason) => reason,
            };
            if let Some((first, second)) = part.halves() {
                parts.extend([second, first]);
                continue;
            }
            let parked = part.parked(&refused);
            for record in &parked {
                tracing::error!(lsn = record.lsn.0, reason = %refused, "the store refused a record; it is parked");
            }
            match self.send(part, Arc::new(Rows::default()), parked) {
                Ok(Ended::Done) => {}
                // A store that does not even keep a record aside is not one to go on with.
                Ok(Ended::GivenUp) | Err(_) => return Ended::GivenUp,
            }
        }
        Ended::Done
    }

    /// One transaction; passing failures are sat out. An error is the store's reason for refusing the data.
    fn send(&mut self, part: Part<'_>, rows: Arc<Rows>, parked: Vec<NewParked>) -> Result<Ended, String> {
        let last = part.last();
        let mut pause = self.config.retry_pause_min;
        loop {
            let batch = self.batch(last, rows.clone(), parked.clone(), Lsn::ZERO);
            let began = Instant::now();
            let Some(answer) = self.wait(self.store.apply(batch)) else { return Ok(Ended::GivenUp) };
            match answer {
                Ok(applied) => {
                    Lane::all().for_each(|lane| self.reached.advance(lane, last));
                    self.stats.stored(rows.count(), applied, parked.len(), began.elapsed());
                    return Ok(Ended::Done);
                }
                Err(StoreError::Refused { reason }) if parked.is_empty() || !rows.is_empty() => return Err(reason),
                Err(error) => {
                    // Parking alone was refused, or the store is away or damaged: only time or a person can mend that.
                    self.stats.failed(&error.to_string());
                    if self.stats.pause(jittered(pause)) {
                        return Ok(Ended::GivenUp);
                    }
                    pause = (pause * 2).min(self.config.retry_pause_max);
                }
            }
        }
    }
}

/// Wakes the thread that waits.
struct Waiting(Thread);

impl Wake for Waiting {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Between half of a pause and all of it, so that several writers do not come back at the same moment.
pub(super) fn jittered(pause: std::time::Duration) -> std::time::Duration {
    use std::hash::{BuildHasher, RandomState};
    let random = RandomState::new().hash_one(0_u8);
    pause.mul_f64(0.5 + (random % 1_024) as f64 / 2_048.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{SqliteConfig, SqliteStore};

    #[test]
    fn batches_grow_while_the_store_is_fast_and_shrink_when_it_is_slow() {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(&SqliteConfig::new(folder.path().join("store.db")), 1).unwrap();
        let stats = Arc::new(WriterStats::new(Lsn::ZERO));
        let config = WriterConfig { batch_rows_max: 20_000, ..WriterConfig::default() };
        let mut delivery = Delivery::new(Arc::new(store), JournalId([1; 16]), LaneCursors::START, config, stats);
        let (fast, fair, slow) = (Duration::from_millis(20), Duration::from_secs(1), Duration::from_secs(3));
        let steps = [
            // What time has closed says nothing about a full one.
            (1_999, fast, 2_000),
            (2_000, fast, 4_000),
            (4_000, fast, 8_000),
            (8_000, fair, 8_000),
            (8_000, fast, 16_000),
            (16_001, fast, 20_000),
            (20_000, fast, 20_000),
            (20_000, slow, 10_000),
            (1, slow, 5_000),
            (5_000, slow, 2_500),
            (2_500, slow, 2_000),
            (2_000, slow, 2_000),
        ];
        for (rows, took, next) in steps {
            delivery.adapt(rows, took);
            assert_eq!(delivery.rows_max(), next, "after {rows} rows in {took:?}");
        }
    }
}
