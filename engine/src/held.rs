//! Answers that wait for the store: what is to be acknowledged only when the database has it, and what came behind that on the same
//! connection. There is a limit to how many there are and to how long they wait. Nothing comes here before it is durable.

use std::collections::VecDeque;
use std::collections::hash_map::Entry;

use rustc_hash::FxHashMap;
use storage::journal::{LaneCursors, Lsn};
use storage::lane::Lane;

use crate::core::{Core, Release};
use crate::driver;
use crate::message::ConnRef;
use crate::users::give_back;

/// An answer that waits for the store.
struct Held {
    lane: Lane,
    lsn: Lsn,
    /// Whether the store was asked for; the others only come behind one that waits for it.
    is_asked: bool,
    /// From then on it does not wait any longer, on this shard's clock.
    until_ns: u64,
    what: Release,
}

/// What a connection has among the answers that wait.
struct HeldOf {
    lane: Lane,
    count: u32,
    /// When the last of them does not wait any longer.
    until_ns: u64,
}

/// All of a shard's, oldest first.
pub(crate) struct HeldAnswers {
    queue: VecDeque<Held>,
    of: FxHashMap<ConnRef, HeldOf>,
    /// The cursors at the last look.
    looked_at: LaneCursors,
    /// When the first of them does not wait any longer.
    until_ns: u64,
}

impl Default for HeldAnswers {
    fn default() -> Self {
        let (queue, of) = (VecDeque::new(), FxHashMap::default());
        Self { queue, of, looked_at: LaneCursors::START, until_ns: u64::MAX }
    }
}

impl HeldAnswers {
    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.queue.len()
    }

    /// Gives back what a burst needed.
    pub(crate) fn give_back(&mut self) {
        give_back(&mut self.queue);
    }

    fn push(&mut self, held: Held) {
        if let Some(conn) = held.what.connection() {
            let known = self.of.entry(conn).or_insert(HeldOf { lane: held.lane, count: 0, until_ns: 0 });
            known.count += 1;
            known.until_ns = held.until_ns;
        }
        self.until_ns = self.until_ns.min(held.until_ns);
        self.queue.push_back(held);
    }

    /// One that has been taken out of the queue is its connection's no longer.
    fn leave(&mut self, held: &Held) {
        if let Some(conn) = held.what.connection()
            && let Entry::Occupied(mut known) = self.of.entry(conn)
        {
            known.get_mut().count -= 1;
            if known.get().count == 0 {
                known.remove();
            }
        }
    }
}

impl Core {
    /// Whether as many answers wait for the store as may.
    pub(crate) fn is_held_full(&self) -> bool {
        self.held.len() >= self.shared.config.limits.held_answers_max
    }

    /// The store may have moved on: answers what waited for it, and what has waited for long enough. Returns whether anything still
    /// waits.
    pub(crate) fn release_held(&mut self) -> bool {
        let cursors = self.shared.cursors.snapshot();
        let now_ns = driver::now(self.shared.started).since_start_ns;
        if cursors == self.held.looked_at && now_ns < self.held.until_ns {
            return !self.held.is_empty();
        }
        self.held.looked_at = cursors;
        self.held.until_ns = u64::MAX;
        for _ in 0..self.held.len() {
            let Some(held) = self.held.queue.pop_front() else { break };
            let is_stored = cursors.get(held.lane) >= held.lsn;
            if !is_stored && now_ns < held.until_ns {
                self.held.until_ns = self.held.until_ns.min(held.until_ns);
                self.held.queue.push_back(held);
                continue;
            }
            self.held.leave(&held);
            match held.is_asked && !is_stored {
                true => {
                    self.counters.refused(proto::Code::NotInDatabase);
                    self.release_one(held.what.not_in_database());
                }
                false => self.release_one(held.what),
            }
        }
        !self.held.is_empty()
    }

    /// Keeps an answer until the store has what it tells of.
    pub(crate) fn hold(&mut self, lane: Lane, what: Release) {
        let (lsn, conn) = (self.durable.lsn, what.connection());
        let follows = conn.is_some_and(|conn| self.held.of.contains_key(&conn));
        // Looked at here, because the next look passes over everything unless a cursor has moved.
        if !follows && self.shared.cursors.get(lane) >= lsn {
            return self.release_one(what);
        }
        let wait_ns = u64::try_from(self.shared.config.ack_database_max.as_nanos()).unwrap_or(u64::MAX);
        let until_ns = driver::now(self.shared.started).since_start_ns.saturating_add(wait_ns);
        self.keep(Held { lane, lsn, is_asked: true, until_ns, what });
    }

    /// An answer never overtakes one of the same connection that waits for the store.
    pub(crate) fn release_or_follow(&mut self, what: Release) {
        if !self.held.is_empty()
            && let Some(conn) = what.connection()
            && let Some(&HeldOf { lane, until_ns, .. }) = self.held.of.get(&conn)
        {
            return self.keep(Held { lane, lsn: self.durable.lsn, is_asked: false, until_ns, what });
        }
        self.release_one(what);
    }

    fn keep(&mut self, held: Held) {
        self.held.push(held);
        self.held_signal.raise();
    }
}
