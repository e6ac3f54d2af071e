//! Recovery at boot: what the journal has and the store may lack is merged into one partial state per user and given to the
//! user's owner of today, before the doors open. It stays there until the store has it, and is merged into whatever is
//! loaded meanwhile, so nothing acknowledged is ever invisible.

use hub::UserState;
use proto::{NodeId, UserId, Version};
use rustc_hash::FxHashMap;
use storage::journal::{LaneCursors, Lsn, Recovery};

use crate::boot::StartError;

/// What the journal had.
pub(crate) struct Recovered {
    /// Per user: what was found, and the position of the last record.
    pub(crate) users: FxHashMap<UserId, (UserState, Lsn)>,
    /// Every clock must start above this.
    pub(crate) high_water: Version,
    /// Records that were merged.
    pub(crate) replayed: u64,
}

/// Walks over the records behind the store's cursors.
pub(crate) fn replay(recovery: &Recovery, from: &LaneCursors, node: NodeId) -> Result<Recovered, StartError> {
    let mut walk = recovery.replay(from).map_err(|error| StartError::Journal(error.to_string()))?;
    let mut users: FxHashMap<UserId, (UserState, Lsn)> = FxHashMap::default();
    let mut high_water = recovery.version_high_water();
    while let Some(raw) = walk.next().map_err(|error| StartError::Journal(error.to_string()))? {
        let record = storage::record::decode(&raw)
            .map_err(|error| StartError::Journal(format!("record {} cannot be read: {error}", raw.lsn)))?;
        high_water = high_water.max(record.version());
        let user = record.user();
        let (state, last) = users.entry(user).or_insert_with(|| (UserState::new(user, node), raw.lsn));
        state.replay(&record);
        *last = raw.lsn;
    }
    Ok(Recovered { users, high_water, replayed: walk.replayed().replayed })
}
