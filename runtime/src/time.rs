//! Timers of the shard, about 1 ms coarse.

use std::time::{Duration, Instant};

use thiserror::Error;

/// A [`timeout`] ran out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the time allowed ran out")]
pub struct Elapsed;

/// Waits for at least `duration`.
pub async fn sleep(duration: Duration) {
    let _ = duration;
    unimplemented!()
}

/// Waits until `deadline`.
pub async fn sleep_until(deadline: Instant) {
    let _ = deadline;
    unimplemented!()
}

/// Runs `future` for at most `duration`, then drops it.
///
/// Never put a native socket read in here: dropping a pending read loses bytes that the kernel has already taken.
/// Close the socket from outside ([`crate::net::Closer`]) instead. [`crate::net::PollStream`] is safe to time out.
pub async fn timeout<F: Future>(duration: Duration, future: F) -> Result<F::Output, Elapsed> {
    let _ = duration;
    Ok(future.await)
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
    /// Waits for the next tick.
    pub async fn tick(&mut self) {
        sleep_until(self.next).await;
        self.next = (self.next + self.period).max(Instant::now());
    }
}
