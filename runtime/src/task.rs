//! Tasks and the fairness guard.

use std::{
    marker::PhantomData,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use thiserror::Error;

/// A task ended by panicking; it was counted and its future dropped.
#[derive(Debug, Error)]
#[error("the task panicked: {message}")]
pub struct Panicked {
    /// The panic's message.
    pub message: String,
}

/// Waits for a task's result. Dropping it leaves the task running.
#[derive(Debug)]
pub struct JoinHandle<T> {
    _local: PhantomData<(Rc<()>, T)>,
}

impl<T> JoinHandle<T> {
    /// True when the task has ended.
    pub fn is_finished(&self) -> bool {
        unimplemented!()
    }
}

impl<T> Future for JoinHandle<T> {
    type Output = Result<T, Panicked>;

    fn poll(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<Self::Output> {
        unimplemented!()
    }
}

/// Starts a task on this shard, under the fairness guard. A panic ends only this task and is counted.
pub fn spawn<F>(future: F) -> JoinHandle<F::Output>
where
    F: Future + 'static,
    F::Output: 'static,
{
    let _ = future;
    unimplemented!()
}

/// Like [`spawn`], but a panic ends the process: for tasks without which a shard is not whole.
pub fn spawn_essential<F>(name: &'static str, future: F) -> JoinHandle<F::Output>
where
    F: Future + 'static,
    F::Output: 'static,
{
    let _ = (name, future);
    unimplemented!()
}

/// Runs `step`; a panic inside ends the process. For rules whose half-done state must never be served.
pub fn essential<T>(name: &'static str, step: impl FnOnce() -> T) -> T {
    let _ = name;
    step()
}

/// Lets everything else that is ready run, and the ring be served, before going on (about 6 us when nothing else waits).
pub async fn yield_now() {
    unimplemented!()
}

/// Tasks of this process that panicked so far.
pub fn panics_total() -> u64 {
    unimplemented!()
}
