//! Queues and events between tasks of one shard: no atomics, no locks, everything bounded.
//!
//! Wakes made here are task-to-task wakes, so the guard may hold them for the next turn; receiving spends the poll's
//! budget. Nothing here may be shared with another thread (the types are not `Send`).

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
};

use slab::Slab;

use crate::budget;

/// A flag that many tasks can wait for; once set it stays set.
#[derive(Debug, Clone, Default)]
pub struct Event {
    shared: Rc<EventShared>,
}

#[derive(Debug, Default)]
struct EventShared {
    set: Cell<bool>,
    waiters: RefCell<Slab<Waker>>,
}

impl Event {
    /// An event that has not happened.
    pub fn new() -> Self {
        Self::default()
    }

    /// It happened: wakes everyone who waits, and everyone who will.
    pub fn set(&self) {
        if self.shared.set.replace(true) {
            return;
        }
        let waiters = std::mem::take(&mut *self.shared.waiters.borrow_mut());
        for (_, waiter) in waiters {
            waiter.wake();
        }
    }

    /// True once it happened.
    pub fn is_set(&self) -> bool {
        self.shared.set.get()
    }

    /// Waits for it. Safe to drop; costs a slab entry while waiting.
    pub fn wait(&self) -> EventWait {
        EventWait { shared: self.shared.clone(), key: None }
    }
}

/// The future of [`Event::wait`]; owns what it needs, so it can live beside the event.
#[derive(Debug)]
pub struct EventWait {
    shared: Rc<EventShared>,
    key: Option<usize>,
}

impl Future for EventWait {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        if this.shared.set.get() {
            this.key = None;
            return Poll::Ready(());
        }
        let mut waiters = this.shared.waiters.borrow_mut();
        match this.key {
            None => this.key = Some(waiters.insert(cx.waker().clone())),
            Some(key) => {
                if !waiters[key].will_wake(cx.waker()) {
                    waiters[key] = cx.waker().clone();
                }
            }
        }
        Poll::Pending
    }
}

impl Drop for EventWait {
    fn drop(&mut self) {
        if let Some(key) = self.key
            && !self.shared.set.get()
        {
            self.shared.waiters.borrow_mut().try_remove(key);
        }
    }
}

/// Wakes one waiting task; many signals before it looks are one. The task queues behind everything runnable, which is
/// what makes this the way to do something once at the end of a turn.
#[derive(Debug, Clone, Default)]
pub struct Signal {
    shared: Rc<Nudge>,
}

impl Signal {
    /// A signal that nobody has sent yet.
    pub fn new() -> Self {
        Self::default()
    }
}

impl std::ops::Deref for Signal {
    type Target = Nudge;

    fn deref(&self) -> &Nudge {
        &self.shared
    }
}

/// What a [`Signal`] shares, for those who share it already as a part of something else: no allocation of its own, 24 bytes.
#[derive(Default)]
pub struct Nudge {
    waiter: Cell<Option<Waker>>,
    raised: Cell<bool>,
}

impl std::fmt::Debug for Nudge {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Nudge").field("raised", &self.raised).finish_non_exhaustive()
    }
}

impl Nudge {
    /// One that nobody has raised yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Wakes the waiter, or lets its next wait return at once.
    pub fn raise(&self) {
        if self.raised.replace(true) {
            return;
        }
        if let Some(waiter) = self.waiter.take() {
            waiter.wake();
        }
    }

    /// Waits until raised since the last wait. One task at a time may wait; a second one replaces the first.
    pub async fn raised(&self) {
        std::future::poll_fn(|cx| self.poll_raised(cx)).await;
    }

    /// The poll form of [`Nudge::raised`].
    pub fn poll_raised(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.raised.replace(false) {
            return Poll::Ready(());
        }
        let known = self.waiter.take().filter(|waiter| waiter.will_wake(cx.waker()));
        self.waiter.set(Some(known.unwrap_or_else(|| cx.waker().clone())));
        Poll::Pending
    }
}

/// The queue would not take it; the message comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused<T> {
    /// What was not queued.
    pub message: T,
    /// Why.
    pub reason: RefusedReason,
}

/// Why a local queue refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusedReason {
    /// No room.
    Full,
    /// The receiver is gone.
    Closed,
}

#[derive(Debug)]
struct Queue<T> {
    items: RefCell<VecDeque<T>>,
    capacity: usize,
    senders: Cell<usize>,
    receiving: Cell<bool>,
    waiter: RefCell<Option<Waker>>,
}

impl<T> Queue<T> {
    fn wake(&self) {
        let waiter = self.waiter.borrow_mut().take();
        if let Some(waiter) = waiter {
            waiter.wake();
        }
    }
}

/// Sends into a bounded queue of this shard.
#[derive(Debug)]
pub struct Sender<T> {
    queue: Rc<Queue<T>>,
}

/// Receives from a bounded queue of this shard.
#[derive(Debug)]
pub struct Receiver<T> {
    queue: Rc<Queue<T>>,
}

/// A queue between tasks of one shard that holds at most `capacity` messages.
pub fn channel<T>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    let queue = Rc::new(Queue {
        items: RefCell::new(VecDeque::new()),
        capacity,
        senders: Cell::new(1),
        receiving: Cell::new(true),
        waiter: RefCell::new(None),
    });
    (Sender { queue: queue.clone() }, Receiver { queue })
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.queue.senders.set(self.queue.senders.get() + 1);
        Self { queue: self.queue.clone() }
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.queue.senders.set(self.queue.senders.get() - 1);
        if self.queue.senders.get() == 0 {
            self.queue.wake();
        }
    }
}

impl<T> Sender<T> {
    /// Queues `message`, or hands it back.
    pub fn try_send(&self, message: T) -> Result<(), Refused<T>> {
        if !self.queue.receiving.get() {
            return Err(Refused { message, reason: RefusedReason::Closed });
        }
        let mut items = self.queue.items.borrow_mut();
        if items.len() >= self.queue.capacity {
            return Err(Refused { message, reason: RefusedReason::Full });
        }
        items.push_back(message);
        drop(items);
        self.queue.wake();
        Ok(())
    }
}

impl<T> Receiver<T> {
    /// The next message; `None` when every sender is gone and the queue is empty. Spends the poll's budget.
    pub async fn recv(&mut self) -> Option<T> {
        std::future::poll_fn(|cx| self.poll_recv(cx)).await
    }

    /// The poll form of [`Receiver::recv`].
    pub fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<T>> {
        if budget::poll_spend(cx).is_pending() {
            return Poll::Pending;
        }
        if let Some(message) = self.try_recv() {
            return Poll::Ready(Some(message));
        }
        if self.queue.senders.get() == 0 {
            return Poll::Ready(None);
        }
        store_waker(&self.queue.waiter, cx);
        Poll::Pending
    }

    /// Waits for messages and appends up to `max` of them to `out`; returns how many, 0 when the queue has ended.
    pub async fn recv_many(&mut self, out: &mut Vec<T>, max: usize) -> usize {
        let Some(first) = self.recv().await else { return 0 };
        out.push(first);
        let mut items = self.queue.items.borrow_mut();
        let more = items.len().min(max.saturating_sub(1));
        out.extend(items.drain(..more));
        more + 1
    }

    /// What is there now.
    pub fn try_recv(&mut self) -> Option<T> {
        self.queue.items.borrow_mut().pop_front()
    }

    /// Messages waiting.
    pub fn len(&self) -> usize {
        self.queue.items.borrow().len()
    }

    /// True when nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.queue.receiving.set(false);
        let left = std::mem::take(&mut *self.queue.items.borrow_mut());
        drop(left);
    }
}

fn store_waker(slot: &RefCell<Option<Waker>>, cx: &mut Context<'_>) {
    let mut slot = slot.borrow_mut();
    match &mut *slot {
        Some(waker) if waker.will_wake(cx.waker()) => {}
        other => *other = Some(cx.waker().clone()),
    }
}
