//! One lane: a bounded queue from one shard to another, filled and emptied in batches.
//!
//! The lock is taken once per batch and never while anything else happens, so it is practically uncontended; counting
//! works like in a single-producer single-consumer ring (each side writes its own counter), so sending touches no atomic
//! that the other side writes, except when the lane looks full.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

/// A lane, shared by its two shards. Aligned so that lanes do not share cache lines.
#[derive(Debug)]
#[repr(align(128))]
pub(super) struct Lane<T> {
    batch: Mutex<Vec<T>>,
    /// Something is in `batch`; spares the receiver the lock of quiet lanes.
    filled: AtomicBool,
    /// Bounded messages that the receiver took so far.
    taken: AtomicU64,
    sent: AtomicU64,
    refused: AtomicU64,
}

impl<T> Lane<T> {
    pub(super) fn new() -> Self {
        Self {
            batch: Mutex::new(Vec::new()),
            filled: AtomicBool::new(false),
            taken: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        }
    }

    /// Messages handed over and refused so far.
    pub(super) fn counts(&self) -> (u64, u64) {
        (self.sent.load(Ordering::Relaxed), self.refused.load(Ordering::Relaxed))
    }

    /// Bounded messages that the receiver took so far.
    pub(super) fn taken(&self) -> u64 {
        self.taken.load(Ordering::Acquire)
    }

    pub(super) fn count_refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// Sender: puts the staged messages into the lane and leaves `staged` empty.
    pub(super) fn put(&self, staged: &mut Vec<T>) {
        self.sent.fetch_add(staged.len() as u64, Ordering::Relaxed);
        let mut batch = self.batch.lock().unwrap_or_else(PoisonError::into_inner);
        if batch.is_empty() {
            std::mem::swap(&mut *batch, staged);
        } else {
            batch.append(staged);
        }
        self.filled.store(true, Ordering::Release);
    }

    /// Receiver: swaps what is there into `scratch`, which must be empty.
    pub(super) fn take(&self, scratch: &mut Vec<T>) {
        debug_assert!(scratch.is_empty());
        if self.filled.load(Ordering::Acquire) {
            let mut batch = self.batch.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::swap(&mut *batch, scratch);
            self.filled.store(false, Ordering::Release);
        }
    }

    /// Receiver: `count` of what was taken was bounded and makes room again.
    pub(super) fn make_room(&self, count: u64) {
        self.taken.store(self.taken.load(Ordering::Relaxed) + count, Ordering::Release);
    }
}

/// The sender's side of a lane: what waits for the end of the turn, and how full the lane is.
#[derive(Debug)]
pub(super) struct Stage<T> {
    pub(super) staged: Vec<T>,
    /// Bounded messages accepted so far.
    accepted: u64,
    /// The receiver's count as last seen.
    taken_seen: u64,
}

impl<T> Stage<T> {
    pub(super) fn new() -> Self {
        Self { staged: Vec::new(), accepted: 0, taken_seen: 0 }
    }

    /// Room for one more bounded message? Then it counts as accepted.
    pub(super) fn admit(&mut self, lane: &Lane<T>, capacity: usize) -> bool {
        let capacity = capacity as u64;
        if self.accepted - self.taken_seen >= capacity {
            self.taken_seen = lane.taken();
            if self.accepted - self.taken_seen >= capacity {
                lane.count_refused();
                return false;
            }
        }
        self.accepted += 1;
        true
    }
}
