//! Tasks: the one `spawn` of the product, which carries the fairness guard, and what happens when a task panics.
//!
//! It promises that a panicking task takes only itself with it (and is counted), unless it was declared essential; then
//! the process exits, because half a server is invisible loss. The guard itself is in `turn.rs` and `waker.rs`.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use futures_util::task::waker_ref;
use thiserror::Error;

use crate::{pool::Pooled, turn, waker::TaskWaker};

/// The process's exit code when something essential panicked.
pub const FATAL_EXIT_CODE: i32 = 101;

static PANICS: AtomicU64 = AtomicU64::new(0);

/// A task ended by panicking; it was counted and its future dropped.
#[derive(Debug, Error)]
#[error("the task panicked: {message}")]
pub struct Panicked {
    /// The panic's message.
    pub message: String,
}

/// Waits for a task's result. Dropping it leaves the task running.
pub struct JoinHandle<T> {
    inner: monoio::task::JoinHandle<Result<T, Panicked>>,
    /// The handle stays on its shard, whatever `T` is.
    _local: std::marker::PhantomData<Rc<()>>,
}

impl<T> JoinHandle<T> {
    /// True when the task has ended.
    pub fn is_finished(&self) -> bool {
        self.inner.is_finished()
    }

    /// Lets the task run on its own; says what dropping the handle does.
    pub fn detach(self) {}
}

impl<T> std::fmt::Debug for JoinHandle<T> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("JoinHandle").field("finished", &self.is_finished()).finish()
    }
}

impl<T> Future for JoinHandle<T> {
    type Output = Result<T, Panicked>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.inner).poll(cx)
    }
}

/// Starts a task on this shard, under the fairness guard. A panic ends only this task and is counted.
///
/// Panics on a thread that is no shard. Costs three allocations: the task, its waker and the future.
pub fn spawn<F>(future: F) -> JoinHandle<F::Output>
where
    F: Future + 'static,
    F::Output: 'static,
{
    spawn_guarded(future, Ordinary)
}

/// Like [`spawn`], but a panic ends the process: for tasks without which a shard is not whole.
pub fn spawn_essential<F>(name: &'static str, future: F) -> JoinHandle<F::Output>
where
    F: Future + 'static,
    F::Output: 'static,
{
    spawn_guarded(future, Essential(name))
}

/// Runs `step`; a panic inside ends the process. For rules whose half-done state must never be served.
pub fn essential<T>(name: &'static str, step: impl FnOnce() -> T) -> T {
    match catch_unwind(AssertUnwindSafe(step)) {
        Ok(value) => value,
        Err(payload) => fatal(name, &message_of(payload.as_ref())),
    }
}

/// Lets everything else that is ready run, and the ring be served, before going on (about 6 us when nothing else waits).
pub async fn yield_now() {
    let mut yielded = false;
    std::future::poll_fn(|cx| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        // A wake from the own poll: the guard puts it on the next-turn list.
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Tasks of this process that panicked so far.
pub fn panics_total() -> u64 {
    PANICS.load(Ordering::Relaxed)
}

/// What a task's panic means to its shard. A type, so that ordinary tasks, of which there are many, carry nothing for it.
trait Importance: Unpin + 'static {
    /// What ends with the task when that is the whole process.
    fn essential(&self) -> Option<&'static str>;
}

struct Ordinary;

struct Essential(&'static str);

impl Importance for Ordinary {
    fn essential(&self) -> Option<&'static str> {
        None
    }
}

impl Importance for Essential {
    fn essential(&self) -> Option<&'static str> {
        Some(self.0)
    }
}

#[allow(clippy::disallowed_methods)] // This is the one place that wraps it.
fn spawn_guarded<F, I: Importance>(future: F, importance: I) -> JoinHandle<F::Output>
where
    F: Future + 'static,
    F::Output: 'static,
{
    let home = turn::with(|turn| {
        assert!(turn.home() != 0, "tasks are spawned on a shard");
        turn.task_started();
        turn.home()
    });
    let task = Arc::new(TaskWaker::new(home));
    let guarded = Guarded { future: Some(Pooled::new(future)), started: false, importance, live: Live { task } };
    JoinHandle { inner: monoio::spawn(guarded), _local: std::marker::PhantomData }
}

/// A task's future under the guard.
struct Guarded<F, I> {
    /// `None` once it ended. Apart from the task, which the runtime aligns to cache lines: the C library cannot put a large
    /// block that is aligned so where another one was freed.
    future: Option<Pooled<F>>,
    started: bool,
    importance: I,
    live: Live,
}

/// Counts a task as live for as long as it exists, and tells its waker when it is gone.
struct Live {
    task: Arc<TaskWaker>,
}

impl Drop for Live {
    fn drop(&mut self) {
        self.task.finish();
        turn::try_with(turn::Turn::task_ended);
    }
}

impl<F: Future, I: Importance> Future for Guarded<F, I> {
    type Output = Result<F::Output, Panicked>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        turn::with(|turn| {
            let task = &this.live.task;
            if !std::mem::replace(&mut this.started, true) && turn.is_spent() {
                // Tasks that keep spawning tasks must not starve the shard either.
                task.set_inner(cx.waker());
                turn.defer(task);
                return Poll::Pending;
            }
            task.begin_poll(cx.waker());
            let entered = turn.enter(task);
            let outcome = catch_unwind(AssertUnwindSafe(|| {
                let polled = this.future.as_mut().expect("a task is not polled after it ended");
                let polled = polled.as_mut().poll(&mut Context::from_waker(&waker_ref(task)));
                if polled.is_ready() {
                    // Dropped in here so that a panicking destructor is caught too.
                    this.future = None;
                }
                polled
            }));
            turn.leave(entered);
            let woken = task.end_poll();
            match outcome {
                Ok(Poll::Pending) => {
                    if woken {
                        turn.defer(task);
                    }
                    Poll::Pending
                }
                Ok(Poll::Ready(value)) => Poll::Ready(Ok(value)),
                Err(payload) => {
                    let message = message_of(payload.as_ref());
                    if let Some(name) = this.importance.essential() {
                        fatal(name, &message);
                    }
                    PANICS.fetch_add(1, Ordering::Relaxed);
                    tracing::error!(message, "a task panicked; it was ended alone");
                    if catch_unwind(AssertUnwindSafe(|| this.future = None)).is_err() {
                        tracing::error!("its destructor panicked as well");
                    }
                    Poll::Ready(Err(Panicked { message }))
                }
            }
        })
    }
}

/// Ends the process because `name` panicked.
fn fatal(name: &'static str, message: &str) -> ! {
    tracing::error!(name, message, "something essential panicked; the process ends, a restart replays the journal");
    std::process::exit(FATAL_EXIT_CODE)
}

fn message_of(payload: &(dyn Any + Send)) -> String {
    payload
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "(no message)".to_owned())
}
