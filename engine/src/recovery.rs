//! Recovery at boot: what the journal has and the store may lack is merged into one partial state per user and given to the
//! user's owner of today, before the doors open. It stays there until the store has it, and is merged into whatever is
//! loaded meanwhile, so nothing acknowledged is ever invisible.

use std::panic::resume_unwind;
use std::thread;

use hub::UserState;
use proto::{NodeId, UserId, Version};
use rustc_hash::FxHashMap;
use storage::journal::{LaneCursors, Lsn, Recovery, ReplayError};
use storage::lane::{LANES, Lane};
use storage::record::RecordError;

use crate::boot::StartError;

/// Why the journal was not replayed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unread {
    #[error(transparent)]
    Journal(#[from] ReplayError),
    #[error("record {lsn} cannot be read: {error}")]
    Record { lsn: Lsn, error: RecordError },
}

impl Unread {
    /// Whether it never will be, so that going on without the journal is a way out; a newer server may know its records.
    pub(crate) fn is_unfit(&self) -> bool {
        match self {
            Self::Journal(error) => error.is_unfit(),
            Self::Record { error, .. } => !matches!(error, RecordError::Unknown { .. }),
        }
    }
}

/// Why a journal was not taken.
pub(crate) enum Refused {
    /// It does not fit the store, or is damaged: what `db adopt` sets aside.
    Unfit(String),
    /// It could not be read now, or not by this server.
    Journal(String),
    /// It is not about the journal.
    Other(StartError),
}

impl Refused {
    pub(crate) fn journal(is_unfit: bool, error: &dyn std::error::Error) -> Self {
        if is_unfit { Self::Unfit(error.to_string()) } else { Self::Journal(error.to_string()) }
    }

    pub(crate) fn into_start_error(self) -> StartError {
        match self {
            Self::Unfit(text) | Self::Journal(text) => StartError::Journal(text),
            Self::Other(error) => error,
        }
    }
}

/// What the journal had.
pub(crate) struct Recovered {
    /// Per user: what was found, and the position of the last record.
    pub(crate) users: FxHashMap<UserId, (UserState, Lsn)>,
    /// Every clock must start above this.
    pub(crate) high_water: Version,
    /// Records that were merged.
    pub(crate) replayed: u64,
}

/// Walks over the records behind the store's cursors, on as many threads as the server has shards, each with lanes of its own.
pub(crate) fn replay(
    recovery: &Recovery,
    from: &LaneCursors,
    node: NodeId,
    threads: usize,
) -> Result<Recovered, Unread> {
    let threads = threads.clamp(1, LANES);
    let part = |part: usize| replay_lanes(recovery, from, node, move |lane| lane.index() % threads == part);
    let mut parts = thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|other| scope.spawn(move || part(other))).collect();
        let mut parts = vec![part(0)];
        parts.extend(others.into_iter().map(|other| other.join().unwrap_or_else(|panic| resume_unwind(panic))));
        parts.into_iter()
    });
    let mut all = parts.next().expect("at least one thread walks")?;
    for part in parts {
        let Recovered { users, high_water, replayed } = part?;
        // A user's records are all in one lane.
        all.users.extend(users);
        all.high_water = all.high_water.max(high_water);
        all.replayed += replayed;
    }
    Ok(all)
}

fn replay_lanes(
    recovery: &Recovery,
    from: &LaneCursors,
    node: NodeId,
    mine: impl Fn(Lane) -> bool,
) -> Result<Recovered, Unread> {
    let mut walk = recovery.replay_lanes(from, mine)?;
    let mut users: FxHashMap<UserId, (UserState, Lsn)> = FxHashMap::default();
    let mut high_water = recovery.version_high_water();
    while let Some(raw) = walk.next()? {
        let record = storage::record::decode(&raw).map_err(|error| Unread::Record { lsn: raw.lsn, error })?;
        high_water = high_water.max(record.version());
        let user = record.user();
        let (state, last) = users.entry(user).or_insert_with(|| (UserState::new(user, node), raw.lsn));
        state.replay(&record);
        *last = raw.lsn;
    }
    Ok(Recovered { users, high_water, replayed: walk.replayed().replayed })
}
