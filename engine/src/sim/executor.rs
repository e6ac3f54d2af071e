//! The simulation's executor: one thread, virtual time, and every choice from the seed. A task that is ready may be polled in
//! any order, which is more than the shards' runtime ever does to it.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use crate::core::Now;
use crate::driver::Sabotage;

thread_local! {
    static CURRENT: RefCell<Option<Rc<Executor>>> = const { RefCell::new(None) };
    static SABOTAGE: Cell<Option<Sabotage>> = const { Cell::new(None) };
}

/// The simulation that runs on this thread.
pub(crate) fn current() -> Option<Rc<Executor>> {
    CURRENT.with_borrow(Clone::clone)
}

/// Its time.
pub(crate) fn now() -> Option<Now> {
    CURRENT.with_borrow(|executor| executor.as_ref().map(|executor| executor.now()))
}

/// What it breaks.
pub(crate) fn sabotage() -> Option<Sabotage> {
    SABOTAGE.get()
}

/// Makes this the thread's simulation, or ends it.
pub(crate) fn install(executor: Option<Rc<Executor>>, defect: Option<Sabotage>) {
    CURRENT.set(executor);
    SABOTAGE.set(defect);
}

/// Random numbers from a seed (SplitMix64; Steele, Lea, Flood 2014).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// Below `bound`, which is not zero.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    /// True once in `n` times.
    pub(crate) fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
}

type Task = Pin<Box<dyn Future<Output = ()>>>;
type Ready = Arc<Mutex<Vec<Arc<Woken>>>>;

struct Woken {
    task: u64,
    queued: AtomicBool,
    ready: Ready,
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        if !self.queued.swap(true, Ordering::AcqRel) {
            self.ready.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&self));
        }
    }
}

/// Tasks, timers and the time.
#[derive(Default)]
pub(crate) struct Executor {
    tasks: RefCell<BTreeMap<u64, Task>>,
    next_task: Cell<u64>,
    ready: Ready,
    timers: RefCell<BTreeMap<(u64, u64), Waker>>,
    next_timer: Cell<u64>,
    now_ns: Cell<u64>,
    /// What the wall clock shows at virtual time zero; steps are made here.
    wall_at_zero_ms: Cell<u64>,
}

impl Executor {
    pub(crate) fn new(wall_ms: u64) -> Rc<Self> {
        let this = Self::default();
        this.wall_at_zero_ms.set(wall_ms);
        Rc::new(this)
    }

    pub(crate) fn now(&self) -> Now {
        let since_start_ns = self.now_ns.get();
        Now { wall_ms: self.wall_at_zero_ms.get() + since_start_ns / 1_000_000, since_start_ns }
    }

    /// The wall clock steps; time goes on as it was.
    pub(crate) fn step_wall(&self, by_ms: i64) {
        self.wall_at_zero_ms.set(self.wall_at_zero_ms.get().saturating_add_signed(by_ms));
    }

    /// Lets time pass and wakes who slept until then.
    pub(crate) fn advance(&self, by: Duration) {
        self.now_ns.set(self.now_ns.get() + by.as_nanos() as u64);
        loop {
            let due = {
                let mut timers = self.timers.borrow_mut();
                let first = timers.first_entry().filter(|timer| timer.key().0 <= self.now_ns.get());
                first.map(|timer| timer.remove())
            };
            let Some(due) = due else { return };
            due.wake();
        }
    }

    pub(crate) fn spawn(&self, task: Task) -> u64 {
        let id = self.next_task.get();
        self.next_task.set(id + 1);
        self.tasks.borrow_mut().insert(id, task);
        self.waker(id).wake_by_ref();
        id
    }

    fn waker(&self, task: u64) -> Waker {
        Waker::from(Arc::new(Woken { task, queued: AtomicBool::new(false), ready: Arc::clone(&self.ready) }))
    }

    pub(crate) async fn sleep(&self, duration: Duration) {
        let until_ns = self.now_ns.get() + duration.as_nanos() as u64;
        std::future::poll_fn(|context| {
            if self.now_ns.get() >= until_ns {
                return Poll::Ready(());
            }
            let timer = self.next_timer.get();
            self.next_timer.set(timer + 1);
            self.timers.borrow_mut().insert((until_ns, timer), context.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// Polls one of the ready tasks; which one, the seed says. Returns it, or none when none is ready.
    pub(crate) fn poll_one(&self, random: &mut Random) -> Option<u64> {
        let woken = {
            let mut ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
            if ready.is_empty() {
                return None;
            }
            let at = random.below(ready.len());
            ready.remove(at)
        };
        woken.queued.store(false, Ordering::Release);
        let id = woken.task;
        // Out of the table while it runs: it may spawn others.
        let Some(mut task) = self.tasks.borrow_mut().remove(&id) else { return Some(id) };
        let waker = Waker::from(woken);
        if task.as_mut().poll(&mut Context::from_waker(&waker)).is_pending() {
            self.tasks.borrow_mut().insert(id, task);
        }
        Some(id)
    }

    /// Drops a task where it stands.
    pub(crate) fn abort(&self, task: u64) {
        let task = self.tasks.borrow_mut().remove(&task);
        drop(task);
    }

    /// Drops everything: the process dies.
    pub(crate) fn abort_all(&self) {
        loop {
            let task = self.tasks.borrow_mut().pop_first();
            if task.is_none() {
                break;
            }
            drop(task);
        }
        self.timers.borrow_mut().clear();
        self.ready.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}
