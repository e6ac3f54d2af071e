//! Getting a batch into the store: again and again while the store is away, in halves while it refuses some row of it, until
//! the one record that it refuses stands alone and is parked. Cursors move in the transactions, in order, and nowhere else.

use futures_executor::block_on;
use std::sync::Arc;

use super::WriterConfig;
use super::pending::{Part, Pending};
use super::stats::WriterStats;
use crate::journal::{JournalId, LaneCursors};
use crate::lane::Lane;
use crate::store::{Batch, NewParked, Rows, SharedStore, StoreError};

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
}

impl Delivery {
    pub(super) fn new(
        store: SharedStore,
        journal: JournalId,
        reached: LaneCursors,
        config: WriterConfig,
        stats: Arc<WriterStats>,
    ) -> Self {
        Self { store, journal, reached, config, stats }
    }

    /// How far the store is.
    pub(super) fn cursors(&self) -> &LaneCursors {
        &self.reached
    }

    /// Stores a batch, whatever it takes.
    pub(super) fn deliver(&mut self, pending: &Pending) -> Ended {
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
        let cursors: Vec<_> = Lane::all().map(|lane| (lane, last)).collect();
        let mut pause = self.config.retry_pause_min;
        loop {
            let batch = Batch {
                journal: self.journal,
                rows: rows.clone(),
                parked: parked.clone(),
                cursors: cursors.clone(),
                now_unix_ms: super::now_unix_ms(),
            };
            let began = std::time::Instant::now();
            match block_on(self.store.apply(batch)) {
                Ok(applied) => {
                    cursors.iter().for_each(|(lane, lsn)| self.reached.advance(*lane, *lsn));
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

/// Between half of a pause and all of it, so that several writers do not come back at the same moment.
pub(super) fn jittered(pause: std::time::Duration) -> std::time::Duration {
    use std::hash::{BuildHasher, RandomState};
    let random = RandomState::new().hash_one(0_u8);
    pause.mul_f64(0.5 + (random % 1_024) as f64 / 2_048.0)
}
