//! Timers of the shard, about 1 ms coarse. They work only on a shard.

use std::time::{Duration, Instant};

use thiserror::Error;

/// A [`timeout`] ran out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the time allowed ran out")]
pub struct Elapsed;

/// Waits for at least `duration`. Costs an entry in the shard's timer wheel, no system call.
pub async fn sleep(duration: Duration) {
    monoio::time::sleep(duration).await;
}

/// Waits until `deadline`; returns at once when it has passed.
pub async fn sleep_until(deadline: Instant) {
    let left = deadline.saturating_duration_since(Instant::now());
    if !left.is_zero() {
        monoio::time::sleep(left).await;
    }
}

/// Runs `future` for at most `duration`, then drops it.
///
/// Never put a native socket read in here: dropping a pending read loses bytes that the kernel has already taken.
/// Close the socket from outside ([`crate::net::Closer`]) instead. [`crate::net::PollStream`] is safe to time out.
pub async fn timeout<F: Future>(duration: Duration, future: F) -> Result<F::Output, Elapsed> {
    monoio::time::timeout(duration, future).await.map_err(|_| Elapsed)
}

/// Ticks every `period`; a late tick is not made up for.
#[derive(Debug)]
pub struct Interval {
    next: Instant,
    period: Duration,
}

/// An [`Interval`] whose first tick comes one `period` from now.
pub fn interval(period: Duration) -> Interval {
    Interval { next: Instant::now() + period, period }
}

impl Interval {
    /// Waits for the next tick. Safe to drop while waiting.
    pub async fn tick(&mut self) {
        sleep_until(self.next).await;
        self.next = (self.next + self.period).max(Instant::now());
    }
}
