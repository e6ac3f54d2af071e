//! The journal at a start: opened, held against the store and the checkpoint, read back, and started.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use futures_executor::block_on;
use storage::checkpoint::Checkpoint;
use storage::folder::DataFolder;
use storage::hot::HotCache;
use storage::journal::{self, CommitHook, Committed, Cursors, EndNote, Listener, ShardJournal};
use storage::store::SharedStore;
use storage::wire::Wire;

use super::absent::Absent;
use super::{Seams, StartError};
use crate::config::EngineConfig;
use crate::fit;
use crate::recovery::{self, Recovered, Refused};
use crate::revocations::Known;
use crate::shard::Wakes;

/// The journal, opened, replayed and started.
pub(super) struct Logged {
    pub(super) journal: journal::Journal,
    pub(super) shard_journals: Vec<ShardJournal>,
    pub(super) feed: journal::CommitFeed,
    pub(super) cursors: Cursors,
    pub(super) journal_id: journal::JournalId,
    pub(super) recovered: Recovered,
    pub(super) words: String,
    pub(super) aside: Option<PathBuf>,
    /// Grants that the last run knew to be revoked.
    pub(super) revoked: Known,
}

/// What the last run left, if it can be read.
pub(super) fn checkpoint(folder: &DataFolder) -> Option<Checkpoint> {
    Checkpoint::load(&folder.checkpoint()).unwrap_or_else(|error| {
        tracing::warn!(%error, "the checkpoint is not used; the store has everything in it");
        None
    })
}

/// What the journal is held against.
pub(super) struct Against<'a> {
    pub(super) store: &'a SharedStore,
    pub(super) checkpoint: Option<&'a Checkpoint>,
    /// The store's database, when it is away.
    pub(super) absent: Option<&'a Absent>,
}

pub(super) fn open_journal(
    config: &EngineConfig,
    folder: &DataFolder,
    against: &Against<'_>,
    followers: (Option<&HotCache>, Option<&Wire>),
    wakes: &[Wakes],
    seams: &Seams,
) -> Result<Logged, StartError> {
    let Against { store, checkpoint, .. } = *against;
    let mut wanted = journal::JournalConfig::new(folder.journal(), store.store_id());
    wanted.journal_bytes_max = config.limits.journal_bytes_max;
    wanted.segment_bytes = config.limits.journal_segment_bytes;
    wanted.feed_rows_max = config.limits.store_queue_rows;
    wanted.on_committed = shown_to(followers);
    if let Some(engine) = &seams.journal {
        wanted.engine = Arc::clone(engine);
    }
    wanted.note_in = Some(folder.journal_end());
    if !config.adopt_store {
        wanted.noted = EndNote::load(&folder.journal_end()).unwrap_or_else(|error| {
            tracing::warn!(%error, "the note of the journal's end cannot be read and is not used; it is written anew");
            None
        });
        let known = checkpoint.map(|checkpoint| checkpoint.journal);
        wanted.expected = known.or(wanted.noted.map(|noted| noted.journal));
    }
    let known = Against { checkpoint: checkpoint.filter(|_| !config.adopt_store), ..*against };
    let mut aside = None;
    let opened = match open_and_replay(&wanted, folder, &known, wakes.len()) {
        Ok(opened) => opened,
        Err(Refused::Unfit(error)) if config.adopt_store => {
            let set_aside = folder_aside(folder)?;
            tracing::warn!(%error, to = %set_aside.display(), "the journal is set aside; what the store has counts");
            aside = Some(set_aside);
            let known = Against { checkpoint: None, ..known };
            open_and_replay(&wanted, folder, &known, wakes.len()).map_err(Refused::into_start_error)?
        }
        // It may be a good one: a disk or a store that refuses for a moment has said nothing about it.
        Err(Refused::Journal(error)) if config.adopt_store => {
            return Err(StartError::Journal(format!("{error}. The journal stays where it is; nothing was adopted")));
        }
        Err(refused) => return Err(refused.into_start_error()),
    };
    let (opened, from, mut recovered) = opened;
    if !config.adopt_store {
        fit::journal_is_there(folder, store, &opened.recovery)?;
    }
    let mut revoked = Known::default();
    if let Some(known) = checkpoint {
        recovered.high_water = recovered.high_water.max(known.version);
        revoked = Known::decode(&known.revocations);
    }
    let words = opened.recovery.medium().explanation.clone();
    let journal_id = opened.recovery.journal_id();
    let listener = |wakes: &Wakes| {
        let watermark = wakes.watermark.clone();
        Box::new(move || watermark.notify()) as Listener
    };
    let journal::Started { journal, shards: shard_journals, feed, cursors } = opened
        .journal
        .start(from, wakes.iter().map(listener).collect())
        .map_err(|error| StartError::Journal(error.to_string()))?;
    Ok(Logged { journal, shard_journals, feed, cursors, journal_id, recovered, words, aside, revoked })
}

/// Who is shown what has become durable, before anybody is told of it.
fn shown_to((hot, wire): (Option<&HotCache>, Option<&Wire>)) -> Option<CommitHook> {
    let (hot, wire) = (hot.cloned(), wire.cloned());
    (hot.is_some() || wire.is_some()).then(|| {
        Arc::new(move |committed: &Committed| {
            hot.iter().for_each(|hot| hot.committed(committed));
            wire.iter().for_each(|wire| wire.committed(committed));
        }) as CommitHook
    })
}

type Replayed = (journal::Opened, journal::LaneCursors, Recovered);

fn open_and_replay(
    wanted: &journal::JournalConfig,
    folder: &DataFolder,
    against: &Against<'_>,
    shards: usize,
) -> Result<Replayed, Refused> {
    let Against { store, checkpoint, absent } = *against;
    let began = Instant::now();
    let opened = journal::open(wanted.clone()).map_err(|error| Refused::journal(error.is_unfit(), &error))?;
    let cursors = match absent {
        Some(absent) => absent.cursors(&opened.recovery)?,
        None => block_on(store.cursors(opened.recovery.journal_id())).map_err(|error| Refused::Other(error.into()))?,
    };
    if let Some(known) = checkpoint.filter(|_| absent.is_none()) {
        fit::store_is_not_older(store, &opened.recovery, &cursors, known).map_err(Refused::Other)?;
    }
    let checked = began.elapsed();
    let recovered = recovery::replay(&opened.recovery, &cursors, folder.node(), shards)
        .map_err(|error| Refused::journal(error.is_unfit(), &error))?;
    if let Some(absent) = absent {
        absent.expect(&opened.recovery, cursors).map_err(Refused::Other)?;
    }
    if recovered.replayed > 0 {
        let (check_ms, replay_ms) = (checked.as_millis() as u64, (began.elapsed() - checked).as_millis() as u64);
        let (records, users) = (recovered.replayed, recovered.users.len());
        tracing::info!(records, users, check_ms, replay_ms, "the journal was read back");
    }
    Ok((opened, cursors, recovered))
}

/// Moves a journal that does not fit out of the way, and says where; nothing is ever deleted.
fn folder_aside(folder: &DataFolder) -> Result<PathBuf, StartError> {
    let (from, to) = (folder.journal(), folder.path().join(format!("journal.aside-{}", folder.boot_epoch())));
    std::fs::rename(&from, &to)
        .map_err(|error| StartError::Folder(format!("cannot move {} to {}: {error}", from.display(), to.display())))?;
    Ok(to)
}
