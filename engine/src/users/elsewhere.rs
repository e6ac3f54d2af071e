//! Changes made on other nodes that the store may still lack: kept here per user until their node has said that the store has
//! them, and merged into whoever is loaded meanwhile. So a user may leave memory, or come into it, before another node's store
//! writer has come to a change that this node has heard of, and nobody sees the state from before it.

use hub::{Record, UserState};
use proto::{NodeId, UserId};
use rustc_hash::FxHashMap;
use storage::wire::Origin;

use super::{Slot, USER_BYTES, Users};

/// What the store may lack of one user.
struct Held {
    state: UserState,
    /// Per node, the last place where something of it was told.
    until: Vec<Origin>,
    bytes: usize,
}

/// All of them.
pub(super) struct Elsewhere {
    held: FxHashMap<UserId, Held>,
    /// What found no room: whoever is in memory may lack it until it is in the store and loaded from there.
    lost: FxHashMap<NodeId, Origin>,
    bytes: usize,
    bytes_max: usize,
}

impl Elsewhere {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { held: FxHashMap::default(), lost: FxHashMap::default(), bytes: 0, bytes_max }
    }
}

/// Whether what was told at `told` is in the store, when everything up to `stored` is. Another run begins once the store has what
/// the earlier ones left.
fn is_stored(told: &Origin, stored: &Origin) -> bool {
    told.node == stored.node && (told.epoch != stored.epoch || told.seq <= stored.seq)
}

impl Users {
    /// Keeps a change of another node; false when there is no room.
    pub(crate) fn hold(&mut self, origin: Origin, record: &Record, node: NodeId) -> bool {
        let elsewhere = &mut self.elsewhere;
        let user = record.user();
        if elsewhere.bytes >= elsewhere.bytes_max && !elsewhere.held.contains_key(&user) {
            elsewhere.lost.insert(origin.node, origin);
            return false;
        }
        let new = || Held { state: UserState::new(user, node), until: Vec::new(), bytes: 0 };
        let held = elsewhere.held.entry(user).or_insert_with(new);
        held.state.replay(record);
        match held.until.iter_mut().find(|until| until.node == origin.node) {
            Some(until) => *until = origin,
            None => held.until.push(origin),
        }
        let bytes = USER_BYTES + held.state.heap_bytes() + held.until.capacity() * size_of::<Origin>();
        elsewhere.bytes = elsewhere.bytes + bytes - held.bytes;
        held.bytes = bytes;
        true
    }

    /// A user's state together with what is kept here.
    pub(crate) fn join(&self, state: UserState, node: NodeId) -> UserState {
        match self.elsewhere.held.get(&state.user()) {
            Some(held) => super::assemble(state.to_rows(), Some(held.state.to_rows()), node),
            None => state,
        }
    }

    /// A node's store has come further. True when it now has something that found no room here.
    pub(crate) fn stored_elsewhere(&mut self, stored: &Origin) -> bool {
        let Self { elsewhere, by_id, slots, .. } = self;
        // The store may have answered for one who is being loaded before it had this.
        let is_loading =
            |user: &UserId| by_id.get(user).is_some_and(|slot| matches!(slots[*slot as usize].1, Slot::Loading(_)));
        let bytes = &mut elsewhere.bytes;
        elsewhere.held.retain(|user, held| {
            held.until.retain(|told| !is_stored(told, stored));
            let stays = !held.until.is_empty() || is_loading(user);
            *bytes -= if stays { 0 } else { held.bytes };
            stays
        });
        let lost = elsewhere.lost.get(&stored.node).is_some_and(|told| is_stored(told, stored));
        if lost {
            elsewhere.lost.remove(&stored.node);
        }
        lost
    }

    /// Users of whom another node's changes are kept, and their bytes.
    pub(crate) fn held(&self) -> (usize, usize) {
        (self.elsewhere.held.len(), self.elsewhere.bytes)
    }

    /// Lets go of everybody whom the store can give back, and answers who is left: with connections, with changes that the
    /// store lacks, or on the way.
    pub(crate) fn forget_clean(&mut self) -> Vec<UserId> {
        let is_clean = |slot: &Slot| matches!(slot, Slot::Resident(resident) if resident.listed && !resident.dirty);
        let (clean, left): (Vec<_>, Vec<_>) = self.slots.iter().partition(|(_, entry)| is_clean(&entry.1));
        let left = left.into_iter().map(|(_, entry)| entry.0).collect();
        let clean: Vec<u32> = clean.into_iter().map(|(slot, _)| slot as u32).collect();
        clean.into_iter().for_each(|slot| self.forget(slot));
        left
    }

    /// Lets go of one without connections whom the store can give back.
    pub(crate) fn forget(&mut self, slot: u32) {
        self.unlist(slot);
        let (user, gone) = self.slots.remove(slot as usize);
        self.by_id.remove(&user);
        if let Slot::Resident(resident) = gone {
            self.bytes -= resident.bytes;
        }
    }

    /// Puts a newer state in the place of a user's; what it takes counts from now on.
    pub(crate) fn replace(&mut self, slot: u32, state: UserState) {
        self.get(slot).state = state;
        self.count_bytes(slot);
    }
}
