//! The turn: what the fairness guard knows about its shard, one value per thread.
//!
//! It promises that between two visits to the ring a shard runs a bounded number of polls on behalf of its own tasks, so
//! that sockets, timers and other threads are always served. It must never delay a wake that comes from the ring itself.
//!
//! Why it exists: in monoio 0.2.4 a task woken during its own poll goes to the front of the run queue, and poll-io
//! readiness, timers and wakes from other threads are served only when the shard parks. One task that stays ready
//! therefore stops the shard. The tests `starvation` pin both facts and this remedy.

use std::{
    cell::{Cell, RefCell},
    io::{self, Write},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use tokio::io::{AsyncRead, ReadBuf};

use crate::waker::TaskWaker;

/// Task polls in a turn before task-to-task wakes wait for the next one.
pub(crate) const TURN_POLLS_MAX: u32 = 128;
/// Run time of a turn before task-to-task wakes wait for the next one.
pub(crate) const TURN_TIME_MAX: Duration = Duration::from_micros(250);
/// Ready I/O calls in one poll of one task.
pub(crate) const POLL_UNITS_MAX: u32 = 64;
/// Run time of one poll of one task, checked at its I/O calls.
pub(crate) const POLL_TIME_MAX: Duration = Duration::from_micros(250);
/// I/O calls between two looks at the clock.
const UNITS_PER_CLOCK_LOOK: u32 = 8;

thread_local! {
    static TURN: Turn = const { Turn::new() };
}

/// Numbers shards for as long as the process lives, so that a waker never takes a later thread for its own.
static HOMES: AtomicU64 = AtomicU64::new(1);

/// The guard's state of this thread; all zero on threads that are no shard.
pub(crate) struct Turn {
    home: Cell<u64>,
    guarded: Cell<bool>,
    /// Address of the waker of the task being polled; 0 between polls.
    current: Cell<usize>,
    polls: Cell<u32>,
    run_time: Cell<Duration>,
    poll_started: Cell<Option<Instant>>,
    poll_units: Cell<u32>,
    live: Cell<usize>,
    next: RefCell<Vec<Arc<TaskWaker>>>,
    turnstile: RefCell<Option<Waker>>,
    closing: Cell<bool>,
}

/// What [`Turn::enter`] saved for [`Turn::leave`].
pub(crate) struct Entered {
    previous: usize,
    started: Instant,
}

impl Turn {
    const fn new() -> Self {
        Self {
            home: Cell::new(0),
            guarded: Cell::new(false),
            current: Cell::new(0),
            polls: Cell::new(0),
            run_time: Cell::new(Duration::ZERO),
            poll_started: Cell::new(None),
            poll_units: Cell::new(0),
            live: Cell::new(0),
            next: RefCell::new(Vec::new()),
            turnstile: RefCell::new(None),
            closing: Cell::new(false),
        }
    }

    /// The number of this thread's shard; 0 when it is none.
    pub(crate) fn home(&self) -> u64 {
        self.home.get()
    }

    /// Tasks that have not ended.
    pub(crate) fn live(&self) -> usize {
        self.live.get()
    }

    pub(crate) fn task_started(&self) {
        self.live.set(self.live.get() + 1);
    }

    pub(crate) fn task_ended(&self) {
        self.live.set(self.live.get().saturating_sub(1));
    }

    /// True when this turn has had its share and what comes now belongs to the next.
    pub(crate) fn is_spent(&self) -> bool {
        self.guarded.get() && (self.polls.get() >= TURN_POLLS_MAX || self.run_time.get() >= TURN_TIME_MAX)
    }

    /// True when a wake of `task`, made on this thread now, has to wait for the next turn.
    pub(crate) fn defers(&self, task: &Arc<TaskWaker>) -> bool {
        let current = self.current.get();
        // Nothing is being polled: the ring, a timer or the turnstile wakes. These are never delayed.
        if current == 0 || !self.guarded.get() {
            return false;
        }
        current == Arc::as_ptr(task).addr() || self.is_spent()
    }

    /// Puts `task` on the next-turn list.
    pub(crate) fn defer(&self, task: &Arc<TaskWaker>) {
        if !self.guarded.get() || self.closing.get() {
            // No turnstile would release it.
            task.release();
            return;
        }
        if task.mark_deferred() {
            self.next.borrow_mut().push(task.clone());
        }
        let turnstile = self.turnstile.borrow_mut().take();
        if let Some(turnstile) = turnstile {
            turnstile.wake();
        }
    }

    /// A poll of `task` begins.
    pub(crate) fn enter(&self, task: &Arc<TaskWaker>) -> Entered {
        let started = Instant::now();
        self.poll_started.set(Some(started));
        self.poll_units.set(0);
        self.polls.set(self.polls.get().saturating_add(1));
        Entered { previous: self.current.replace(Arc::as_ptr(task).addr()), started }
    }

    /// The poll ended.
    pub(crate) fn leave(&self, entered: Entered) {
        self.current.set(entered.previous);
        self.poll_started.set(None);
        // Run time, not wall time: on a quiet shard a turn may last for seconds, nearly all of them asleep.
        self.run_time.set(self.run_time.get() + entered.started.elapsed());
    }

    /// Takes one unit of this poll's budget; false when it has had its share.
    pub(crate) fn spend(&self) -> bool {
        if !self.guarded.get() {
            return true;
        }
        let Some(started) = self.poll_started.get() else { return true };
        let units = self.poll_units.get();
        if units >= POLL_UNITS_MAX {
            return false;
        }
        if units % UNITS_PER_CLOCK_LOOK == UNITS_PER_CLOCK_LOOK - 1 && started.elapsed() >= POLL_TIME_MAX {
            self.poll_units.set(POLL_UNITS_MAX);
            return false;
        }
        self.poll_units.set(units + 1);
        true
    }

    /// The ring has been visited: a new turn, and the waiting tasks are runnable.
    fn begin_next(&self) {
        self.polls.set(0);
        self.run_time.set(Duration::ZERO);
        let mut released = std::mem::take(&mut *self.next.borrow_mut());
        for task in released.drain(..) {
            task.release();
        }
        // Keeps the list's allocation unless a release deferred something, which it cannot: nothing is being polled.
        let mut next = self.next.borrow_mut();
        if next.is_empty() {
            *next = released;
        }
    }

    fn poll_has_waiting(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.closing.get() || !self.next.borrow().is_empty() {
            return Poll::Ready(());
        }
        *self.turnstile.borrow_mut() = Some(cx.waker().clone());
        Poll::Pending
    }
}

/// Runs `look` on this thread's turn. `None` while the thread is being torn down.
pub(crate) fn try_with<T>(look: impl FnOnce(&Turn) -> T) -> Option<T> {
    TURN.try_with(look).ok()
}

/// Runs `look` on this thread's turn.
pub(crate) fn with<T>(look: impl FnOnce(&Turn) -> T) -> T {
    TURN.with(look)
}

/// Makes this thread a shard.
pub(crate) fn begin(guarded: bool) {
    with(|turn| {
        turn.home.set(HOMES.fetch_add(1, Ordering::Relaxed));
        turn.guarded.set(guarded);
        turn.closing.set(false);
        turn.live.set(0);
    });
}

/// Lets the turnstile end; it does so when the shard next runs.
pub(crate) fn close_turnstile() {
    with(|turn| {
        turn.closing.set(true);
        let waiting = turn.turnstile.borrow_mut().take();
        if let Some(waiting) = waiting {
            waiting.wake();
        }
    });
}

/// Ends this thread's time as a shard.
pub(crate) fn end() {
    with(|turn| {
        turn.home.set(0);
        turn.guarded.set(false);
        turn.next.borrow_mut().clear();
        turn.turnstile.borrow_mut().take();
    });
}

/// The socket pair that a turnstile passes its byte through.
pub(crate) struct Turnstile {
    entry: std::os::unix::net::UnixStream,
    exit: std::os::unix::net::UnixStream,
}

impl Turnstile {
    /// Makes the pair; two descriptors.
    pub(crate) fn new() -> io::Result<Self> {
        let (entry, exit) = std::os::unix::net::UnixStream::pair()?;
        entry.set_nonblocking(true)?;
        exit.set_nonblocking(true)?;
        Ok(Self { entry, exit })
    }

    /// Releases the next-turn list whenever the ring has been through park. Runs unguarded: it is the guard.
    pub(crate) async fn run(self) {
        let exit = monoio::net::UnixStream::from_std(self.exit).expect("a fresh socket registers with its own shard");
        let mut exit =
            exit.try_into_poll_io().map_err(|(error, _)| error).expect("a fresh socket has no reads pending");
        loop {
            std::future::poll_fn(|cx| with(|turn| turn.poll_has_waiting(cx))).await;
            if with(|turn| turn.closing.get()) {
                // Whoever still waits is let go so that it can end.
                with(Turn::begin_next);
                return;
            }
            pass(&self.entry, &mut exit).await;
            with(Turn::begin_next);
        }
    }
}

/// Comes back after the shard has been through park. Waiting for poll-io readiness is what does it: poll-add and native
/// reads armed at once can complete without a park, a timer costs 2 ms.
async fn pass(mut entry: &std::os::unix::net::UnixStream, exit: &mut (impl AsyncRead + Unpin)) {
    let mut entered = false;
    std::future::poll_fn(|cx| {
        loop {
            let mut bytes = [0_u8; 16];
            let mut buf = ReadBuf::new(&mut bytes);
            match Pin::new(&mut *exit).poll_read(cx, &mut buf) {
                // Readiness left over from the last turn: read it away, or the byte would be seen without a park.
                Poll::Ready(Ok(())) if !entered && !buf.filled().is_empty() => {}
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending if entered => return Poll::Pending,
                Poll::Pending => {
                    entered = true;
                    return match entry.write(&[1]) {
                        Ok(_) => Poll::Pending,
                        Err(_) => Poll::Ready(()),
                    };
                }
            }
        }
    })
    .await;
}
