//! Whether what lies in a data folder fits together: store, journal and checkpoint are files that a person can restore one by
//! one. What does not fit is refused before anything is changed, with what to do; nothing is guessed.

use futures_executor::block_on;
use storage::checkpoint::Checkpoint;
use storage::folder::DataFolder;
use storage::journal::{LaneCursors, Recovery};
use storage::lane::Lane;
use storage::store::SharedStore;
use storage::store::sqlite::OpenError;

use crate::boot::StartError;

/// A folder that has had a server has a store: were an empty one made in its place, a copy brought back later would meet
/// the leavings of the empty one.
pub(crate) fn store_is_there(folder: &DataFolder) -> Result<(), StartError> {
    let path = folder.sqlite();
    if std::fs::metadata(&path).is_ok_and(|found| found.len() > 0) {
        return Ok(());
    }
    let segments = std::fs::read_dir(folder.journal()).into_iter().flatten().flatten();
    let has_journal = segments.into_iter().any(|entry| entry.path().extension().is_some_and(|kind| kind == "seg"));
    if !has_journal && !folder.checkpoint().exists() {
        return Ok(());
    }
    Err(StartError::Store(format!(
        "the store {} is missing or empty, although a server has been here: a journal or a checkpoint lies beside it. Bring the \
         file back, or run `mangahub db adopt` to begin with an empty store; the journal is then set aside",
        path.display()
    )))
}

/// Words for a store that cannot be opened.
pub(crate) fn store_refused(folder: &DataFolder, error: &OpenError) -> StartError {
    let way_out = match error {
        OpenError::Store(storage::store::StoreError::Corrupt { .. }) => format!(
            ". The file is damaged: restore {0} from a backup, and the journal brings it up to date as far as it reaches. Without \
             one, move the file out of the folder and run `mangahub db adopt` to begin with an empty store",
            folder.sqlite().display()
        ),
        _ => String::new(),
    };
    StartError::Store(format!("{error}{way_out}"))
}

/// A store whose cursors are behind what an earlier run saw committed is an older copy. The journal may still have all
/// progress since, but accounts, passwords and revoked sessions were only in the store.
pub(crate) fn store_is_not_older(
    store: &SharedStore,
    recovery: &Recovery,
    cursors: &LaneCursors,
    known: &Checkpoint,
) -> Result<(), StartError> {
    let same = known.journal == recovery.journal_id() && known.store == store.store_id();
    let Some(lane) = Lane::all().find(|lane| same && cursors.get(*lane) < known.cursors.get(*lane)) else {
        return Ok(());
    };
    Err(StartError::Store(format!(
        "the store {} is older than this folder: it has records of lane {} up to {}, and an earlier run has seen it at {}. It \
         looks restored from an older copy; accounts, passwords and revoked sessions of the time between are not in it. Bring \
         the newer file back, or run `mangahub db adopt` to go on with what this one has and what the journal can add",
        store.place(),
        lane.index(),
        cursors.get(lane),
        known.cursors.get(lane)
    )))
}

/// An embedded store that has taken records of a journal belongs to a folder with a journal. (A store that several nodes share
/// knows the others' journals too.)
pub(crate) fn journal_is_there(
    folder: &DataFolder,
    store: &SharedStore,
    recovery: &Recovery,
) -> Result<(), StartError> {
    if !recovery.is_fresh() || store.kind() != "sqlite" {
        return Ok(());
    }
    let known = block_on(store.journals())?;
    match known.last() {
        None => Ok(()),
        Some((journal, _)) => {
            let missing = storage::journal::OpenError::Missing { path: folder.journal(), expected: *journal };
            Err(StartError::Journal(missing.to_string()))
        }
    }
}
