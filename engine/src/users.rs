//! The users that a shard owns and has in memory. A user is loaded whole, once however many wait; stays while a connection
//! is attached or while the store lacks some of its changes; and goes, least recently used first, when the memory for users
//! is full. It never decides what a change is: that is `hub`'s.

mod elsewhere;

use std::collections::VecDeque;

use hub::{Hlc, UserState};
use proto::{NodeId, UserId, Version};
use rustc_hash::FxHashMap;
use slab::Slab;
use storage::journal::{Cursors, Durable, Lsn, Ticket};
use storage::lane::{Lane, lane_of};

use crate::driver::{Sabotage, sabotaged};
use crate::limits::Bucket;
use crate::message::{ConnRef, Target, Work};
use elsewhere::Elsewhere;

/// No neighbour in the list.
const NONE: u32 = u32::MAX;

/// Users looked at per eviction before giving up for now: those at the old end may all be waiting for the store.
const EVICTION_SCAN: usize = 64;

/// Users found waiting for the store before `settle` leaves the rest to the next time.
const SETTLE_SCAN: usize = 256;

/// Watermarks remembered to tell which position a ticket reached; past it every other one goes.
const MARKS_MAX: usize = 4_096;

/// Room that a list which doubles has on average beside what is in it, in halves: 3/2 of the contents.
const LIST_HALVES: usize = 3;

/// Fixed memory of a user beside the state's own heap: the resident, its places in the table and in the map (the map's with a
/// byte of control), and what the allocator adds to three allocations.
const USER_BYTES: usize = size_of::<Resident>()
    + (size_of::<(UserId, Slot)>() + size_of::<(UserId, u32)>() + 1) * LIST_HALVES / 2
    + 3 * ALLOCATION_BYTES;

/// What an allocation costs beside its contents: rounding up to the allocator's size, half a sixteenth of it or eight bytes.
const ALLOCATION_BYTES: usize = 16;

/// Work that waits for its user.
pub(crate) struct Waiting {
    pub(crate) work: Work,
    pub(crate) target: Target,
    pub(crate) framed: bool,
}

/// A user in memory.
pub(crate) struct Resident {
    pub(crate) state: UserState,
    pub(crate) lane: Lane,
    /// The hand-over of the last change; what is computed from `state` leaves when it is durable.
    pub(crate) ticket: Ticket,
    /// Where the user's stream of announcements stands: see [`Resident::announce`].
    pub(crate) position: u64,
    /// From here on, what was announced since a position is what carries a later version.
    exact_from: u64,
    pub(crate) connections: Vec<ConnRef>,
    pub(crate) frames: Bucket,
    /// From the hot cache: enough to be read, not to decide on. Never changed, and without connections.
    pub(crate) for_reading: bool,
    bytes: usize,
    dirty: bool,
    newer: u32,
    older: u32,
    listed: bool,
}

enum Slot {
    Loading(Vec<Waiting>),
    Resident(Box<Resident>),
}

/// What looking up a user gives.
pub(crate) enum Found {
    /// In memory, at this place.
    Resident(u32),
    /// On its way, at this place.
    Loading(u32),
    /// Neither.
    Absent,
}

/// The table.
pub(crate) struct Users {
    by_id: FxHashMap<UserId, u32>,
    slots: Slab<(UserId, Slot)>,
    recovered: FxHashMap<UserId, UserState>,
    /// The last position of any of them.
    recovered_until: Lsn,
    /// What other nodes changed and the store may lack.
    elsewhere: Elsewhere,
    newest: u32,
    oldest: u32,
    bytes: usize,
    bytes_max: usize,
    dirty: VecDeque<u32>,
    dirty_bytes: usize,
    dirty_bytes_max: usize,
    marks: VecDeque<Durable>,
    evictions: u64,
}

impl Users {
    pub(crate) fn new(bytes_max: usize, dirty_bytes_max: usize) -> Self {
        Self {
            by_id: FxHashMap::default(),
            slots: Slab::new(),
            recovered: FxHashMap::default(),
            recovered_until: Lsn::ZERO,
            elsewhere: Elsewhere::new(dirty_bytes_max),
            newest: NONE,
            oldest: NONE,
            bytes: 0,
            bytes_max,
            dirty: VecDeque::new(),
            dirty_bytes: 0,
            dirty_bytes_max,
            marks: VecDeque::new(),
            evictions: 0,
        }
    }

    /// Takes in what the journal had for a user, at boot.
    pub(crate) fn recover(&mut self, state: UserState, lsn: Lsn) {
        self.recovered_until = self.recovered_until.max(lsn);
        self.recovered.insert(state.user(), state);
    }

    /// Looks a user up.
    pub(crate) fn find(&self, user: UserId) -> Found {
        match self.by_id.get(&user) {
            None => Found::Absent,
            Some(slot) => match &self.slots[*slot as usize].1 {
                Slot::Resident(_) => Found::Resident(*slot),
                Slot::Loading(_) => Found::Loading(*slot),
            },
        }
    }

    /// A user in memory. The slot of a user with a connection or with changes that the store lacks stays valid.
    pub(crate) fn get(&mut self, slot: u32) -> &mut Resident {
        match &mut self.slots[slot as usize].1 {
            Slot::Resident(resident) => resident,
            Slot::Loading(_) => unreachable!("only resident users are handed out by slot"),
        }
    }

    /// The resident at a slot that may have been given to somebody else meanwhile.
    pub(crate) fn get_checked(&mut self, slot: u32, user: UserId) -> Option<&mut Resident> {
        match self.slots.get_mut(slot as usize)? {
            (id, Slot::Resident(resident)) if *id == user => Some(resident),
            _ => None,
        }
    }

    /// Begins loading a user.
    pub(crate) fn begin(&mut self, user: UserId, first: Waiting) {
        let slot = self.slots.insert((user, Slot::Loading(vec![first]))) as u32;
        self.by_id.insert(user, slot);
    }

    /// Begins loading a user again who was there for reading only.
    pub(crate) fn reload(&mut self, slot: u32, first: Waiting) {
        self.unlist(slot);
        let before = std::mem::replace(&mut self.slots[slot as usize].1, Slot::Loading(vec![first]));
        let Slot::Resident(resident) = before else { unreachable!("a user is loaded once at a time") };
        debug_assert!(resident.for_reading && !resident.dirty && resident.connections.is_empty());
        self.bytes -= resident.bytes;
    }

    /// Adds to those who wait for a user; hands the work back when there are too many.
    pub(crate) fn wait(&mut self, slot: u32, waiting: Waiting, waiters_max: usize) -> Result<(), Waiting> {
        match &mut self.slots[slot as usize].1 {
            Slot::Loading(waiters) if waiters.len() < waiters_max => {
                waiters.push(waiting);
                Ok(())
            }
            _ => Err(waiting),
        }
    }

    /// A load failed: whoever waited is handed back.
    pub(crate) fn fail(&mut self, user: UserId) -> Vec<Waiting> {
        let Some(slot) = self.by_id.remove(&user) else { return Vec::new() };
        match self.slots.remove(slot as usize).1 {
            Slot::Loading(waiters) => waiters,
            Slot::Resident(_) => unreachable!("a user is loaded once"),
        }
    }

    /// A load succeeded: the user is in memory, most recently used; whoever waited is handed back. `position` is where the
    /// user's stream begins: above every earlier one of this boot.
    pub(crate) fn fill(&mut self, user: UserId, state: UserState, position: u64) -> (u32, Vec<Waiting>) {
        let slot = *self.by_id.get(&user).expect("a user that was loaded had been entered as loading");
        let bytes = USER_BYTES + state.heap_bytes();
        let resident = Resident {
            state,
            lane: lane_of(user),
            ticket: Ticket::default(),
            position,
            exact_from: position,
            connections: Vec::new(),
            frames: Bucket::default(),
            for_reading: false,
            bytes,
            dirty: false,
            newer: NONE,
            older: NONE,
            listed: false,
        };
        let before = std::mem::replace(&mut self.slots[slot as usize].1, Slot::Resident(Box::new(resident)));
        self.bytes += bytes;
        self.list(slot);
        let Slot::Loading(waiters) = before else { unreachable!("a user is loaded once") };
        (slot, waiters)
    }

    /// What the journal had for a user and the store may still lack: to be merged into what is loaded now.
    pub(crate) fn recovered(&self, user: UserId) -> Option<hub::StoredUser> {
        self.recovered.get(&user).map(UserState::to_rows)
    }

    /// The user was used just now.
    pub(crate) fn touch(&mut self, slot: u32) {
        if self.newest != slot && self.get(slot).listed {
            self.unlist(slot);
            self.list(slot);
        }
    }

    /// A connection of this user was attached: the user stays.
    pub(crate) fn pin(&mut self, slot: u32, conn: ConnRef) {
        self.unlist(slot);
        let connections = &mut self.get(slot).connections;
        // Most users have one, and keep it for long.
        connections.reserve_exact(1);
        connections.push(conn);
    }

    /// A connection has gone; with the last one the user may go. One that still waits for its user to be loaded waits no more.
    pub(crate) fn unpin(&mut self, user: UserId, conn: ConnRef) {
        let Some(slot) = self.by_id.get(&user).copied() else { return };
        match &mut self.slots[slot as usize].1 {
            Slot::Loading(waiters) => {
                waiters.retain(|waiting| !matches!(&waiting.work, Work::Attach { conn: known, .. } if *known == conn));
            }
            Slot::Resident(resident) => {
                resident.connections.retain(|known| *known != conn);
                if resident.connections.is_empty() {
                    resident.connections = Vec::new();
                    self.list(slot);
                }
            }
        }
    }

    /// A user's attached connections, those on other shards among them.
    pub(crate) fn connections_of(&self, user: UserId) -> &[ConnRef] {
        match self.by_id.get(&user).map(|slot| &self.slots[*slot as usize].1) {
            Some(Slot::Resident(resident)) => &resident.connections,
            _ => &[],
        }
    }

    /// The user's state changed under this ticket.
    pub(crate) fn changed(&mut self, slot: u32, ticket: Ticket) {
        let Slot::Resident(resident) = &mut self.slots[slot as usize].1 else {
            unreachable!("only resident users change")
        };
        resident.ticket = ticket;
        if !resident.dirty {
            resident.dirty = true;
            self.dirty_bytes += resident.bytes;
            self.dirty.push_back(slot);
        }
        self.count_bytes(slot);
    }

    /// The user's state takes other room than before.
    pub(crate) fn count_bytes(&mut self, slot: u32) {
        let Slot::Resident(resident) = &mut self.slots[slot as usize].1 else {
            unreachable!("only resident users change")
        };
        let bytes = USER_BYTES + resident.state.heap_bytes();
        if bytes != resident.bytes {
            self.bytes = self.bytes + bytes - resident.bytes;
            if resident.dirty {
                self.dirty_bytes = self.dirty_bytes + bytes - resident.bytes;
            }
            resident.bytes = bytes;
        }
    }

    /// Whether the store lacks as much as it may.
    pub(crate) fn is_dirty_full(&self) -> bool {
        self.dirty_bytes >= self.dirty_bytes_max
    }

    /// The watermark moved: remembered, to tell later whether the store has what a ticket covered.
    pub(crate) fn mark(&mut self, durable: Durable) {
        if self.marks.back().is_some_and(|last| last.lsn == durable.lsn) {
            if let Some(last) = self.marks.back_mut() {
                *last = durable;
            }
            return;
        }
        if self.marks.len() >= MARKS_MAX {
            // Coarser is safe: a ticket is then compared with a later position than it needs.
            let mut keep = true;
            self.marks.retain(|_| {
                keep = !keep;
                keep
            });
        }
        self.marks.push_back(durable);
    }

    /// Unpins the users whose changes the store has by now.
    pub(crate) fn settle(&mut self, cursors: &Cursors) {
        // Busy users come round again: they must not hold up those behind them.
        let mut not_yet = 0;
        for _ in 0..self.dirty.len() {
            let Some(slot) = self.dirty.pop_front() else { break };
            let resident = self.get(slot);
            let (ticket, lane, bytes) = (resident.ticket, resident.lane, resident.bytes);
            if self.is_stored(ticket, lane, cursors) {
                self.get(slot).dirty = false;
                self.dirty_bytes -= bytes;
                continue;
            }
            self.dirty.push_back(slot);
            not_yet += 1;
            if not_yet >= SETTLE_SCAN {
                break;
            }
        }
        let lowest = cursors.snapshot().lowest();
        if !self.recovered.is_empty() && lowest >= self.recovered_until {
            self.recovered = FxHashMap::default();
        }
        while self.marks.len() > 1 && self.marks[1].lsn <= lowest {
            self.marks.pop_front();
        }
        give_back(&mut self.marks);
        give_back(&mut self.dirty);
    }

    /// Makes room, if there is too little.
    pub(crate) fn evict(&mut self) {
        let mut scanned = 0;
        while self.bytes > self.bytes_max && self.oldest != NONE && scanned < EVICTION_SCAN {
            scanned += 1;
            let slot = self.oldest;
            self.unlist(slot);
            if self.get(slot).dirty {
                self.list(slot);
                continue;
            }
            self.forget(slot);
            self.evictions += 1;
            scanned = 0;
        }
    }

    /// Users in memory, their bytes, bytes that the store lacks, and evictions so far.
    pub(crate) fn figures(&self) -> Figures {
        Figures {
            users: self.by_id.len(),
            bytes: self.bytes,
            bytes_max: self.bytes_max,
            dirty_bytes: self.dirty_bytes,
            evictions: self.evictions,
            recovered: self.recovered.len(),
            held: self.held(),
        }
    }

    /// Whether the store has everything of a lane that was handed over up to `ticket`.
    fn is_stored(&self, ticket: Ticket, lane: Lane, cursors: &Cursors) -> bool {
        if sabotaged(Sabotage::StoredTooEarly) {
            return true;
        }
        let at = self.marks.partition_point(|mark| mark.ticket < ticket);
        self.marks.get(at).is_some_and(|mark| cursors.get(lane) >= mark.lsn)
    }

    fn list(&mut self, slot: u32) {
        let newest = self.newest;
        let resident = self.get(slot);
        if resident.listed {
            return;
        }
        (resident.listed, resident.newer, resident.older) = (true, NONE, newest);
        match newest {
            NONE => self.oldest = slot,
            neighbour => self.get(neighbour).newer = slot,
        }
        self.newest = slot;
    }

    fn unlist(&mut self, slot: u32) {
        let resident = self.get(slot);
        if !resident.listed {
            return;
        }
        resident.listed = false;
        let (newer, older) = (resident.newer, resident.older);
        match newer {
            NONE => self.newest = older,
            neighbour => self.get(neighbour).older = older,
        }
        match older {
            NONE => self.oldest = newer,
            neighbour => self.get(neighbour).newer = newer,
        }
    }
}

impl Resident {
    /// The stream moves on, because of a change of this `version`, and answers where it stands then. A position is the version of
    /// the change that is announced there, so that the state itself says what somebody missed. Only a version that is not
    /// this clock's own (a row came from a node whose clock is far ahead) counts one up instead; what was missed before such a
    /// place cannot be told.
    pub(crate) fn announce(&mut self, version: Version, clock: &Hlc) -> u64 {
        let restarted = sabotaged(Sabotage::RestartedStream);
        if version.0 > self.position && version <= clock.high_water() && !restarted {
            self.position = version.0;
        } else {
            self.position += 1;
            self.exact_from = self.position;
        }
        self.position
    }

    /// Whether what was announced after `position` can be told.
    pub(crate) fn covers(&self, position: u64) -> bool {
        (self.exact_from..=self.position).contains(&position)
    }
}

/// What the table holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Figures {
    pub(crate) users: usize,
    pub(crate) bytes: usize,
    pub(crate) bytes_max: usize,
    pub(crate) dirty_bytes: usize,
    pub(crate) evictions: u64,
    pub(crate) recovered: usize,
    /// Users of whom other nodes' changes are kept until the store has them, and their bytes.
    pub(crate) held: (usize, usize),
}

/// Gives back most of a queue's room when a burst has left it much larger than what is in it.
pub(crate) fn give_back<T>(queue: &mut VecDeque<T>) {
    if queue.capacity() > 1_024 && queue.len() < queue.capacity() / 8 {
        queue.shrink_to(queue.len() * 2);
    }
}

/// A user's state from what the store has and what the journal had at boot.
pub(crate) fn assemble(mut stored: hub::StoredUser, recovered: Option<hub::StoredUser>, node: NodeId) -> UserState {
    if let Some(recovered) = recovered {
        stored.preferences = stored.preferences.max(recovered.preferences);
        stored.progress.extend(recovered.progress);
        stored.library.extend(recovered.library);
        stored.devices.extend(recovered.devices);
        stored.history.extend(recovered.history);
    }
    UserState::from_rows(stored, node)
}

#[cfg(test)]
mod tests;
