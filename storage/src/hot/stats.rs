//! What the hot cache tells about itself: counters that its thread writes and anybody reads.

use crate::redis::{BreakerState, Standing, counts};

counts! {
    /// Counts since the start, and two levels.
    Counts, HotCounts {
        /// Users answered from Redis.
        hits,
        /// Users of whom Redis has no complete copy.
        misses,
        /// Users whose copy this node no longer vouches for.
        misses_untrusted,
        /// Users not asked for, because the breaker is open.
        misses_breaker,
        /// Users not asked for, because the queue or too many questions were in the way.
        misses_busy,
        /// Users whose answer was an error or took too long.
        misses_failed,
        /// Rows written (or found to be behind).
        rows,
        /// Writes, each one pipeline.
        writes,
        /// Copies of whole users that were sent.
        fills,
        /// Writes that failed or took too long; their rows were sent again.
        write_failures,
        /// Rows dropped for want of room in the queue.
        dropped_queue,
        /// Rows dropped because Redis refused them.
        dropped_refused,
        /// Hand-overs of the journal that were dropped because the cache's thread was behind.
        dropped_inbox,
        /// Times the breaker opened.
        opened,
        /// Times everything that this node had vouched for was given up.
        epochs,
        /// Level: rows that wait.
        queue_rows,
        /// Level: rows that are being written.
        writing_rows,
    }
}

#[derive(Debug, Default)]
pub(super) struct Stats {
    pub(super) counts: Counts,
    pub(super) standing: Standing,
}

/// In a word, for `/health/ready`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HotState {
    /// It answers.
    Healthy,
    /// It answers, and is behind: half of the queue is full.
    Degraded,
    /// It does not answer; everything goes around it.
    Down,
}

impl HotState {
    /// The word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Degraded => "degraded",
            Self::Down => "down",
        }
    }
}

/// One look at the hot cache.
#[derive(Clone, Debug)]
pub struct HotReading {
    /// Counts.
    pub counts: HotCounts,
    /// Where the breaker stands.
    pub breaker: BreakerState,
    /// In a word.
    pub state: HotState,
    /// What the last failure said.
    pub last_error: Option<String>,
}

impl Stats {
    /// Everything at once; the counts are read one after the other.
    pub(super) fn read(&self, queue_rows_max: usize) -> HotReading {
        let breaker = self.standing.breaker();
        let counts = self.counts.read();
        let state = match breaker {
            BreakerState::Closed if counts.queue_rows * 2 < queue_rows_max as u64 => HotState::Healthy,
            BreakerState::Closed => HotState::Degraded,
            BreakerState::Probing | BreakerState::Open => HotState::Down,
        };
        HotReading { counts, breaker, state, last_error: self.standing.last_error() }
    }
}
