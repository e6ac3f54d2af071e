//! The per-poll budget: how much ready I/O one poll of one task may do before it has to let others run.

use std::task::{Context, Poll};

/// Takes one unit. `Pending` (with a wake for the next turn) when this poll has had its share; poll functions return it as is.
pub fn poll_spend(cx: &mut Context<'_>) -> Poll<()> {
    let _ = cx;
    unimplemented!()
}

/// Takes one unit, waiting for the next turn when this poll has had its share. For loops over data that is already here.
pub async fn spend() {
    std::future::poll_fn(poll_spend).await
}

/// True when this poll has had its share (64 units or 250 us).
pub fn exhausted() -> bool {
    unimplemented!()
}
