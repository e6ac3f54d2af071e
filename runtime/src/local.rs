//! Queues and events between tasks of one shard: no atomics, no locks.

use std::{cell::Cell, marker::PhantomData, rc::Rc};

/// A flag that many tasks can wait for; once set it stays set.
#[derive(Debug, Clone, Default)]
pub struct Event {
    set: Rc<Cell<bool>>,
}

impl Event {
    /// An event that has not happened.
    pub fn new() -> Self {
        Self::default()
    }

    /// It happened: wakes everyone who waits, and everyone who will.
    pub fn set(&self) {
        self.set.set(true);
    }

    /// True once it happened.
    pub fn is_set(&self) -> bool {
        self.set.get()
    }

    /// Waits for it.
    pub async fn wait(&self) {
        unimplemented!()
    }
}

/// Wakes one waiting task; many signals before it looks are one. The task queues behind everything runnable.
#[derive(Debug, Clone, Default)]
pub struct Signal {
    set: Rc<Cell<bool>>,
}

impl Signal {
    /// A signal that nobody has sent yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Wakes the waiter, or lets its next wait return at once.
    pub fn raise(&self) {
        self.set.set(true);
    }

    /// Waits until raised since the last wait. One task at a time.
    pub async fn raised(&self) {
        unimplemented!()
    }
}

/// The queue is full; the message comes back.
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

/// Sends into a bounded queue of this shard.
#[derive(Debug)]
pub struct Sender<T> {
    _queue: PhantomData<(Rc<()>, T)>,
}

/// Receives from a bounded queue of this shard.
#[derive(Debug)]
pub struct Receiver<T> {
    _queue: PhantomData<(Rc<()>, T)>,
}

/// A bounded queue between tasks of one shard.
pub fn channel<T>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    let _ = capacity;
    unimplemented!()
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self { _queue: PhantomData }
    }
}

impl<T> Sender<T> {
    /// Queues `message`, or hands it back.
    pub fn try_send(&self, message: T) -> Result<(), Refused<T>> {
        let _ = message;
        unimplemented!()
    }
}

impl<T> Receiver<T> {
    /// The next message; `None` when every sender is gone and the queue is empty. Spends the poll's budget.
    pub async fn recv(&mut self) -> Option<T> {
        unimplemented!()
    }

    /// What is there now.
    pub fn try_recv(&mut self) -> Option<T> {
        unimplemented!()
    }
}
