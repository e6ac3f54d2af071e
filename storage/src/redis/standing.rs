//! What a thread that speaks to Redis tells about itself: the thread writes it, anybody reads it.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use super::BreakerState;

/// Counters under the first name, and a reading of them, one after the other, under the second.
macro_rules! counts {
    ($(#[$doc:meta])* $name:ident, $reading:ident { $($(#[$field_doc:meta])* $field:ident,)* }) => {
        #[derive(Debug, Default)]
        pub(super) struct $name { $(pub(super) $field: std::sync::atomic::AtomicU64,)* }

        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct $reading { $($(#[$field_doc])* pub $field: u64,)* }

        impl $name {
            pub(super) fn read(&self) -> $reading {
                $reading { $($field: self.$field.load(std::sync::atomic::Ordering::Relaxed),)* }
            }
        }
    };
}
pub(crate) use counts;

/// Adds one.
pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}

/// Whether Redis answers, and what the last failure said.
#[derive(Debug)]
pub(crate) struct Standing {
    breaker: AtomicU8,
    last_error: Mutex<Option<String>>,
}

impl Default for Standing {
    /// Nothing has answered yet.
    fn default() -> Self {
        Self { breaker: AtomicU8::new(BreakerState::Open as u8), last_error: Mutex::default() }
    }
}

impl Standing {
    pub(crate) fn breaker(&self) -> BreakerState {
        BreakerState::from_byte(self.breaker.load(Relaxed))
    }

    pub(crate) fn set_breaker(&self, state: BreakerState) {
        self.breaker.store(state as u8, Relaxed);
    }

    pub(crate) fn last_error(&self) -> Option<String> {
        self.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn failed(&self, error: &str) {
        *self.last_error.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.to_owned());
    }
}
