//! A store that can go away: in front of the real one, refusing while it is away, and counting loads.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use proto::UserId;
use storage::store::seam::{Seam, Seamed, refused};
use storage::store::{Answer, Applied, Batch, LoadedUser, SharedStore, StoreError};

/// The switches.
#[derive(Default)]
pub struct Switches {
    /// Everything is refused.
    pub away: AtomicBool,
    /// Batches are refused: the journal is not drained.
    pub holds: AtomicBool,
    /// Every row is refused: records are parked.
    pub refuses: AtomicBool,
    /// Users that were loaded.
    pub loads: AtomicUsize,
}

/// The real store behind switches.
#[derive(Clone, Default)]
pub struct Switched {
    pub switches: Arc<Switches>,
}

impl Switched {
    /// For `Seams::store`.
    pub fn seam(&self) -> Arc<dyn Fn(SharedStore) -> SharedStore + Send + Sync> {
        let switches = Arc::clone(&self.switches);
        Arc::new(move |real| Arc::new(Seamed::new(real, Arc::clone(&switches))))
    }

    pub fn set_away(&self, away: bool) {
        self.switches.away.store(away, Ordering::SeqCst);
    }

    pub fn set_holds(&self, holds: bool) {
        self.switches.holds.store(holds, Ordering::SeqCst);
    }
}

fn unavailable() -> StoreError {
    StoreError::Unavailable { reason: "switched off".into(), retry_after: Duration::from_millis(500) }
}

impl Seam for Switches {
    fn admit(&self) -> Result<(), StoreError> {
        if self.away.load(Ordering::SeqCst) { Err(unavailable()) } else { Ok(()) }
    }

    fn apply(&self, real: &SharedStore, batch: Batch) -> Answer<Applied> {
        if self.refuses.load(Ordering::SeqCst) && !batch.rows.is_empty() {
            return refused(StoreError::Refused { reason: "switched to refusing".into() });
        }
        if self.holds.load(Ordering::SeqCst) {
            return refused(unavailable());
        }
        self.admit().map_or_else(refused, |()| real.apply(batch))
    }

    fn load_user(&self, real: &SharedStore, user: UserId) -> Answer<Option<LoadedUser>> {
        self.loads.fetch_add(1, Ordering::SeqCst);
        self.admit().map_or_else(refused, |()| real.load_user(user))
    }
}
