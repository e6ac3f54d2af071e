//! What the doors of one shard share: the engine, the coarse clock, and the watch over every open connection. The watch is
//! what ends a connection from outside (late, stopped, drained), because a pending native read must never be dropped: its
//! socket is shut down instead, and the read returns.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::time::{Duration, Instant};

use engine::{Engine, Outgoing};
use futures_util::FutureExt;
use runtime::ShardContext;
use runtime::local::{Nudge, Signal};
use runtime::net::Closer;
use slab::Slab;

use crate::admission::{Door, Refusal, count_refusal};
use crate::config::PlanInner;

/// How often deadlines are looked at; they are late by at most this much.
const SWEEP: Duration = Duration::from_millis(250);
/// How long a peer may take to read our last words and close its side.
pub(crate) const LINGER_MS: u64 = 2_000;
/// How long a connection that finds no place may take to show in which wire it wants to hear that.
pub(crate) const TURN_AWAY_MS: u64 = 1_000;
/// A batch that grew beyond this many is given back.
const BATCH_KEPT: usize = 1_024;

/// One shard's doors.
pub(crate) struct Shard {
    pub(crate) engine: Engine,
    pub(crate) context: ShardContext,
    pub(crate) plan: std::sync::Arc<PlanInner>,
    /// The size of an API bucket, as the engine last told it: what a refusal says the limit is.
    pub(crate) api_burst: Cell<u32>,
    /// Bytes of request bodies that are being held; shared by all connections of this shard.
    pub(crate) body_bytes: Rc<Cell<usize>>,
    started: Instant,
    now_ms: Cell<u64>,
    watched: RefCell<Slab<Rc<Watch>>>,
    emptied: Signal,
    closing: Cell<bool>,
    /// What a connection is about to send, between the engine and its wire; one for all of them.
    batch: Cell<Vec<Outgoing>>,
}

impl Shard {
    pub(crate) fn new(engine: Engine, context: ShardContext, plan: std::sync::Arc<PlanInner>) -> Rc<Self> {
        Rc::new(Self {
            engine,
            context,
            plan,
            api_burst: Cell::new(0),
            body_bytes: Rc::default(),
            started: Instant::now(),
            now_ms: Cell::new(1),
            watched: RefCell::default(),
            emptied: Signal::new(),
            closing: Cell::new(false),
            batch: Cell::default(),
        })
    }

    /// Lends an empty batch, so that connections need not keep one each.
    pub(crate) fn with_batch<T>(&self, fill_and_empty: impl FnOnce(&mut Vec<Outgoing>) -> T) -> T {
        let mut batch = self.batch.take();
        let done = fill_and_empty(&mut batch);
        batch.clear();
        if batch.capacity() <= BATCH_KEPT {
            self.batch.set(batch);
        }
        done
    }

    /// Milliseconds since the doors opened; as coarse as the sweep, and free.
    pub(crate) fn now_ms(&self) -> u64 {
        self.now_ms.get()
    }

    /// Whether everybody is being shown out.
    pub(crate) fn is_draining(&self) -> bool {
        self.closing.get()
    }

    /// Watches a connection from here on, until the guard is dropped.
    pub(crate) fn watch(self: &Rc<Self>, door: Door, closer: Closer) -> Watched {
        let watch = Rc::new(Watch {
            door,
            closer,
            hear_by_ms: Cell::new(0),
            late: Cell::new(Refusal::Idle),
            write_by_ms: Cell::new(0),
            polite: Cell::new(false),
            greeting: Cell::new(false),
            ended: Cell::new(None),
            nudge: Nudge::new(),
        });
        let key = self.watched.borrow_mut().insert(Rc::clone(&watch));
        gauge(door).increment(1.0);
        if self.is_draining() {
            // It comes after everybody was told.
            watch.nudge.raise();
        }
        Watched { shard: Rc::clone(self), key, watch }
    }

    /// Keeps the clock and ends what is late, until the hard stop, which ends everything.
    pub(crate) async fn keep_watch(self: Rc<Self>) {
        let mut tick = runtime::interval(SWEEP);
        let stop = self.context.stop.clone();
        loop {
            let stopped = std::pin::pin!(stop.stopped());
            let ticked = std::pin::pin!(tick.tick());
            match futures_util::future::select(stopped, ticked).await {
                futures_util::future::Either::Left(_) => break,
                futures_util::future::Either::Right(_) => self.sweep(),
            }
        }
        for watch in self.everyone() {
            watch.closer.close();
        }
    }

    fn sweep(&self) {
        self.now_ms.set(self.started.elapsed().as_millis() as u64 + 1);
        let now_ms = self.now_ms();
        let late: Vec<Rc<Watch>> =
            self.watched.borrow().iter().filter(|(_, watch)| watch.is_late(now_ms)).map(|(_, w)| w.clone()).collect();
        for watch in late {
            watch.end_late(now_ms);
        }
    }

    fn everyone(&self) -> Vec<Rc<Watch>> {
        self.watched.borrow().iter().map(|(_, watch)| Rc::clone(watch)).collect()
    }

    /// Tells every connection to finish, and returns when all have.
    pub(crate) async fn show_everyone_out(&self) {
        self.closing.set(true);
        for watch in self.everyone() {
            watch.show_out();
        }
        while !self.watched.borrow().is_empty() {
            self.emptied.raised().await;
        }
    }
}

fn gauge(door: Door) -> metrics::Gauge {
    metrics::gauge!("mangahub_connections_open", "door" => door.as_str())
}

/// One connection, as the watch sees it.
pub(crate) struct Watch {
    door: Door,
    closer: Closer,
    /// Zero: it may be silent.
    hear_by_ms: Cell<u64>,
    late: Cell<Refusal>,
    /// Zero: no write is under way.
    write_by_ms: Cell<u64>,
    /// When late, ask it to finish first.
    polite: Cell<bool>,
    greeting: Cell<bool>,
    ended: Cell<Option<Refusal>>,
    /// Wakes the task that writes: there is something to look at.
    pub(crate) nudge: Nudge,
}

impl Watch {
    /// Something must be heard within `ms`, else the connection ends for this reason.
    pub(crate) fn expect(&self, shard: &Shard, ms: u64, late: Refusal) {
        self.late.set(late);
        self.hear_by_ms.set(shard.now_ms() + ms);
    }

    /// Silence is fine from here on.
    pub(crate) fn expect_nothing(&self) {
        self.hear_by_ms.set(0);
    }

    /// When late, it is nudged first and closed only if that does not help.
    pub(crate) fn polite(&self) {
        self.polite.set(true);
    }

    /// A write is under way; it must end within `ms`.
    pub(crate) fn writing(&self, shard: &Shard, ms: u64) {
        self.write_by_ms.set(shard.now_ms() + ms);
    }

    /// The write has ended.
    pub(crate) fn written(&self) {
        self.write_by_ms.set(0);
    }

    /// Why the watch ended it, if it did.
    pub(crate) fn ended(&self) -> Option<Refusal> {
        self.ended.get()
    }

    /// Ends it now, for a reason of the door's own.
    pub(crate) fn end(&self, reason: Refusal) {
        if self.ended.replace(Some(reason)).is_none() {
            count_refusal(self.door, reason);
        }
        self.closer.close();
    }

    /// Closes the socket, if it is still open; for a connection that has ended by itself.
    pub(crate) fn hang_up(&self) {
        self.closer.close();
    }

    fn is_late(&self, now_ms: u64) -> bool {
        let past = |deadline_ms: u64| deadline_ms != 0 && now_ms > deadline_ms;
        past(self.hear_by_ms.get()) || past(self.write_by_ms.get())
    }

    fn end_late(&self, now_ms: u64) {
        let writing = self.write_by_ms.get() != 0 && now_ms > self.write_by_ms.get();
        if !writing && self.polite.replace(false) {
            self.ended.set(Some(self.late.get()));
            count_refusal(self.door, self.late.get());
            self.hear_by_ms.set(now_ms + LINGER_MS);
            return self.nudge.raise();
        }
        self.end(if writing { Refusal::SlowConsumer } else { self.late.get() });
    }

    fn show_out(&self) {
        if self.greeting.get() {
            self.closer.close_read();
        }
        self.nudge.raise();
    }
}

/// Keeps a connection watched while it is open.
pub(crate) struct Watched {
    shard: Rc<Shard>,
    key: usize,
    watch: Rc<Watch>,
}

impl Watched {
    /// Whether its greeting is still awaited: at a drain there is nothing to finish then, and it hears no more.
    pub(crate) fn greeting(&self, yes: bool) {
        self.watch.greeting.set(yes);
        if yes && self.shard.is_draining() {
            self.watch.closer.close_read();
        }
    }

    /// The watch, to keep elsewhere.
    pub(crate) fn watch(&self) -> Rc<Watch> {
        Rc::clone(&self.watch)
    }
}

impl std::ops::Deref for Watched {
    type Target = Watch;

    fn deref(&self) -> &Watch {
        &self.watch
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let mut watched = self.shard.watched.borrow_mut();
        watched.remove(self.key);
        gauge(self.watch.door).decrement(1.0);
        if watched.is_empty() {
            self.shard.emptied.raise();
        }
    }
}

/// Runs a connection as a task. A panic ends this connection, is counted by door, and nobody else notices. (Combinators and
/// not an `async` block, which would keep room for the connection twice: as what it captured and as what it awaits.)
pub(crate) fn spawn_connection(door: Door, connection: impl Future<Output = ()> + 'static) {
    drop(runtime::spawn(AssertUnwindSafe(connection).catch_unwind().map(move |ended| {
        if ended.is_err() {
            count_refusal(door, Refusal::Panic);
            tracing::error!(door = door.as_str(), "a connection's task panicked; the connection is closed");
        }
    })));
}

#[cfg(test)]
mod tests {
    use runtime::fleet::{FleetConfig, start};

    use super::*;

    #[test]
    fn a_panic_ends_its_own_connection_only() {
        let topology = runtime::topology::detect(Some(1)).expect("one shard is always possible");
        let probe = runtime::probe::probe(None).expect("one of the backends works");
        let (told, heard) = std::sync::mpsc::channel();
        let fleet = start(FleetConfig::new(topology, probe), |_| {
            let told = told.clone();
            move |_context| async move {
                let (panicked, other) = (runtime::local::Event::new(), runtime::local::Event::new());
                let held = SetOnDrop(panicked.clone());
                spawn_connection(Door::Http, async move {
                    let _held = held;
                    panic!("a defect in a door");
                });
                panicked.wait().await;
                let served = other.clone();
                spawn_connection(Door::Http, async move { served.set() });
                other.wait().await;
                let _ = told.send(());
            }
        });
        fleet.expect("the fleet starts").join();
        assert!(heard.try_recv().is_ok(), "the shard goes on and serves others");
    }

    /// What the connection held is released.
    struct SetOnDrop(runtime::local::Event);

    impl Drop for SetOnDrop {
        fn drop(&mut self) {
            self.0.set();
        }
    }
}
