//! The per-poll budget: how much ready I/O one poll of one task may do before it has to let others run.
//!
//! The guard bounds the number of polls of a turn; only this bounds a poll that would never return, because its socket or
//! queue always has more. Streams and queues of this crate spend it by themselves; loops over data that is already in
//! memory call [`spend`]. On a thread that is no shard nothing is limited.

use std::task::{Context, Poll};

use crate::turn;

/// Takes one unit. `Pending` (with a wake for the next turn) when this poll has had its share (64 units or 250 us); poll
/// functions return it as it is.
pub fn poll_spend(cx: &mut Context<'_>) -> Poll<()> {
    if turn::with(turn::Turn::spend) {
        return Poll::Ready(());
    }
    cx.waker().wake_by_ref();
    Poll::Pending
}

/// Takes one unit, waiting for the next turn when this poll has had its share. For loops over data that is already here.
pub async fn spend() {
    std::future::poll_fn(poll_spend).await;
}
