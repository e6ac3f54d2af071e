//! The waker that every task of the product runs under: it decides whether a wake passes at once or waits for the next turn.
//!
//! It may be woken, cloned and dropped on any thread. It must never drop an unfinished task anywhere but on its own shard.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
    task::Waker,
};

use futures_util::task::ArcWake;

use crate::turn;

const IDLE: u8 = 0;
const RUNNING: u8 = 1;
/// Another thread woke the task during its poll.
const RUNNING_WOKEN: u8 = 2;

/// One task's waker; one allocation per task.
#[derive(Debug)]
pub(crate) struct TaskWaker {
    home: u64,
    /// The runtime's own waker of the task, known from the first poll on.
    inner: OnceLock<Waker>,
    state: AtomicU8,
    deferred: AtomicBool,
    finished: AtomicBool,
}

impl TaskWaker {
    pub(crate) fn new(home: u64) -> Self {
        Self {
            home,
            inner: OnceLock::new(),
            state: AtomicU8::new(IDLE),
            deferred: AtomicBool::new(false),
            finished: AtomicBool::new(false),
        }
    }

    /// The task's poll begins; `inner` is what really wakes it.
    pub(crate) fn begin_poll(&self, inner: &Waker) {
        self.inner.get_or_init(|| inner.clone());
        self.state.store(RUNNING, Ordering::Release);
    }

    /// The task's poll ended; true when another thread woke it meanwhile and the wake is still to be acted on.
    pub(crate) fn end_poll(&self) -> bool {
        self.state.swap(IDLE, Ordering::AcqRel) == RUNNING_WOKEN
    }

    pub(crate) fn set_inner(&self, inner: &Waker) {
        self.inner.get_or_init(|| inner.clone());
    }

    /// The task ended: nothing of it is left to be dropped.
    pub(crate) fn finish(&self) {
        self.finished.store(true, Ordering::Release);
    }

    /// True when the task was not on the next-turn list yet.
    pub(crate) fn mark_deferred(&self) -> bool {
        !self.deferred.swap(true, Ordering::Relaxed)
    }

    /// Off the next-turn list, and runnable.
    pub(crate) fn release(&self) {
        self.deferred.store(false, Ordering::Relaxed);
        self.forward();
    }

    fn forward(&self) {
        if let Some(inner) = self.inner.get() {
            inner.wake_by_ref();
        }
    }

    fn wake_foreign(&self) {
        // Woken during its poll, the task would go to the front of the run queue, and a busy neighbour shard could keep
        // it there. So this is treated like a wake from its own poll: `end_poll` puts it on the next-turn list.
        let during_poll = self
            .state
            .compare_exchange(RUNNING, RUNNING_WOKEN, Ordering::AcqRel, Ordering::Acquire)
            .map_or_else(|state| state == RUNNING_WOKEN, |_| true);
        if !during_poll {
            self.forward();
        }
    }
}

/// Not `std`'s `Wake`, because this one can lend a waker ([`futures_util::task::waker_ref`]): a task keeps none beside this.
impl ArcWake for TaskWaker {
    fn wake_by_ref(task: &Arc<Self>) {
        let handled = turn::try_with(|turn| {
            if turn.home() != task.home {
                return false;
            }
            if turn.defers(task) {
                turn.defer(task);
            } else {
                task.forward();
            }
            true
        });
        if handled != Some(true) {
            task.wake_foreign();
        }
    }
}

impl Drop for TaskWaker {
    fn drop(&mut self) {
        let Some(inner) = self.inner.take() else { return };
        let here = turn::try_with(|turn| turn.home() == self.home).unwrap_or(false);
        if !here && !*self.finished.get_mut() {
            // The shard ended with this task unfinished, and its last waker is on another thread: dropping it would drop
            // the task's future here, which is not `Send`. A leak at the end of a process is the lesser evil.
            std::mem::forget(inner);
        }
    }
}
