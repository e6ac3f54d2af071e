//! What the wire tells about itself: numbers that its thread writes and anybody reads.

use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, PoisonError};

use super::Conflict;
use crate::redis::{BreakerState, Standing, counts};

counts! {
    /// Counts since the start, and a few levels.
    Counts, WireCounts {
        /// Entries with changes or ended sessions that were appended to the stream.
        sent,
        /// Times that appending failed or took too long; what was to be appended was sent again.
        send_failures,
        /// Times that something was not told to the others for want of room.
        dropped,
        /// Entries of other nodes that were read.
        received,
        /// Records in them.
        received_records,
        /// Records and entries of other nodes that this version cannot read.
        unreadable,
        /// Records whose version is more than a minute ahead of this node's clock.
        ahead,
        /// Times that something of another node was found missing.
        gaps,
        /// Times that users were loaded anew because of that.
        reloads,
        /// Other nodes that went silent without a goodbye.
        silent,
        /// Times that a shard had no room for what had come, and reading waited.
        held_up,
        /// Times the breaker opened.
        opened,
        /// Level: bytes that wait to be sent.
        queue_bytes,
        /// Level: other nodes that are alive.
        others,
        /// Level: 1 while something is missing that has not been made good.
        gap_open,
        /// Level: how long this node's last word took through the stream and back.
        lag_ms,
        /// When this node's last word came back.
        heard_itself_unix_ms,
    }
}

/// In a word, for `/health/ready`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum WireState {
    /// What this node tells arrives, and it hears the others.
    Healthy,
    /// Nothing arrives.
    Down,
    /// Another node stands in the way.
    Conflict(Conflict),
}

/// One look at the wire.
#[derive(Clone, Debug)]
pub struct WireReading {
    /// Counts and levels.
    pub counts: WireCounts,
    /// Where the breaker of sending stands.
    pub breaker: BreakerState,
    /// In a word.
    pub state: WireState,
    /// What the last failure said.
    pub last_error: Option<String>,
}

#[derive(Debug, Default)]
pub(super) struct Stats {
    pub(super) counts: Counts,
    /// No other node is known: nobody has to be told anything.
    pub(super) alone: AtomicBool,
    pub(super) standing: Standing,
    conflict: Mutex<Option<Conflict>>,
}

impl Stats {
    pub(super) fn set_conflict(&self, conflict: Option<Conflict>) {
        *self.conflict.lock().unwrap_or_else(PoisonError::into_inner) = conflict;
    }

    /// Everything at once; the counts are read one after the other.
    pub(super) fn read(&self, now_unix_ms: u64, silence_max_ms: u64) -> WireReading {
        let breaker = self.standing.breaker();
        let counts = self.counts.read();
        let conflict = self.conflict.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let hears = now_unix_ms.saturating_sub(counts.heard_itself_unix_ms) < silence_max_ms;
        let state = match conflict {
            Some(conflict) => WireState::Conflict(conflict),
            None if hears && breaker == BreakerState::Closed => WireState::Healthy,
            None => WireState::Down,
        };
        WireReading { counts, breaker, state, last_error: self.standing.last_error() }
    }
}
