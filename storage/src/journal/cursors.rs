//! Lane cursors: how far the store has applied each lane. The store writer publishes them after its transaction committed;
//! shards read them to unpin users, and the journal reads them to drop segments. A cursor never goes back.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::Lsn;
use crate::lane::{LANES, Lane};

/// One position per lane: everything of that lane up to and including it has been applied.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LaneCursors([Lsn; LANES]);

impl LaneCursors {
    /// Nothing applied yet.
    pub const START: LaneCursors = LaneCursors([Lsn::ZERO; LANES]);

    /// Every lane at the same position.
    pub const fn all_at(lsn: Lsn) -> Self {
        Self([lsn; LANES])
    }

    /// How far this lane is.
    pub fn get(&self, lane: Lane) -> Lsn {
        self.0[lane.index()]
    }

    /// Moves a lane, never back.
    pub fn advance(&mut self, lane: Lane, lsn: Lsn) {
        let cursor = &mut self.0[lane.index()];
        *cursor = lsn.max(*cursor);
    }

    /// The lane that is furthest behind.
    pub fn lowest(&self) -> Lsn {
        self.0.into_iter().min().unwrap_or_default()
    }

    /// The lane that is furthest ahead.
    pub fn highest(&self) -> Lsn {
        self.0.into_iter().max().unwrap_or_default()
    }
}

/// The published cursors, shared by the writer, the shards and the journal. Clones see the same values.
#[derive(Clone, Debug)]
pub struct Cursors(Arc<[AtomicU64; LANES]>);

impl Cursors {
    /// Published from the start at `cursors`.
    pub fn new(cursors: LaneCursors) -> Self {
        Self(Arc::new(cursors.0.map(|lsn| AtomicU64::new(lsn.0))))
    }

    /// Says that the store has durably applied everything of `lane` up to `lsn`. Call after the transaction has committed.
    pub fn publish(&self, lane: Lane, lsn: Lsn) {
        self.0[lane.index()].fetch_max(lsn.0, Ordering::AcqRel);
    }

    /// How far the store is with this lane.
    pub fn get(&self, lane: Lane) -> Lsn {
        Lsn(self.0[lane.index()].load(Ordering::Acquire))
    }

    /// All sixteen; each is read on its own.
    pub fn snapshot(&self) -> LaneCursors {
        LaneCursors(std::array::from_fn(|at| Lsn(self.0[at].load(Ordering::Acquire))))
    }
}
