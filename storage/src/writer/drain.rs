//! Draining a journal that is not running (`mangahub db drain`): what the store lacks is replayed into it, batch by batch, by the
//! same delivery as the running writer's.

use futures_executor::block_on;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::WriterConfig;
use super::delivery::{Delivery, Ended};
use super::pending::Pending;
use super::stats::WriterStats;
use crate::journal::{Lsn, Recovery, ReplayError};
use crate::store::{SharedStore, StoreError};

/// What draining did, so far or in all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drained {
    /// Records that the store had already.
    pub skipped: u64,
    /// Records that were handed to the store.
    pub replayed: u64,
    /// Of those, records that it refused and that are parked.
    pub parked: u64,
    /// The last position that is stored.
    pub reached: Lsn,
}

/// Why a journal was not drained to its end. What was stored before stays; running it again goes on from there.
#[derive(Debug, thiserror::Error)]
pub enum DrainError {
    /// The journal cannot be replayed from where the store is.
    #[error(transparent)]
    Replay(#[from] ReplayError),
    /// The store does not say how far it is.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The store was away for longer than the patience given.
    #[error("the store did not take the records in time: {reason}; what was stored stays, run this again to go on")]
    GivenUp {
        /// What it said last.
        reason: String,
    },
}

/// Replays everything the store lacks. `patience` is for the whole drain; `progress` is called after each batch. Blocks.
pub fn drain(
    recovery: &Recovery,
    store: &SharedStore,
    config: WriterConfig,
    patience: Duration,
    mut progress: impl FnMut(&Drained),
) -> Result<Drained, DrainError> {
    let journal = recovery.journal_id();
    let cursors = block_on(store.cursors(journal))?;
    let config = config.over(&**store);
    let stats = Arc::new(WriterStats::new(cursors.lowest()));
    stats.stop_at(Instant::now() + patience);
    let mut delivery = Delivery::new(store.clone(), journal, cursors, config, stats.clone());
    let mut replay = recovery.replay(&cursors)?;
    let mut pending = Pending::default();
    let mut drained = Drained { reached: cursors.lowest(), ..Drained::default() };
    let mut more = true;
    while more {
        match replay.next()? {
            Some(record) => pending.add(&record, &cursors),
            None => more = false,
        }
        if pending.is_empty() || (more && !pending.is_full(delivery.rows_max(), &config)) {
            continue;
        }
        let ended = match (delivery.deliver(std::mem::take(&mut pending)), more) {
            (Ended::Done, false) => delivery.settle(),
            (ended, _) => ended,
        };
        if let Ended::GivenUp = ended {
            let reason = stats.read().last_error.unwrap_or_default();
            return Err(DrainError::GivenUp { reason });
        }
        let counts = replay.replayed();
        let (skipped, replayed, parked) = (counts.skipped, counts.replayed, stats.read().parked);
        drained = Drained { skipped, replayed, parked, reached: delivery.cursors().lowest() };
        progress(&drained);
    }
    Ok(drained)
}
