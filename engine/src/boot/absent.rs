//! A start while the database is away, from what the last run has left beside the journal: which store it is, how far that had
//! taken the journal, the catalogue, the revoked grants. Nobody's state is known whole then: what the journal has of a user is
//! kept until the database can be asked for the rest, and until then whoever needs that user is told to come back. When the
//! database returns, the store holds it against what is expected of it before anything is written.

use std::sync::Arc;

use futures_executor::block_on;
use storage::checkpoint::Checkpoint;
use storage::folder::DataFolder;
use storage::journal::{LaneCursors, Lsn, Recovery};
use storage::lane::Lane;
use storage::store::postgres::{Awaited, OpenError};
use storage::store::{PostgresConfig, PostgresStore, StoreError};

use super::StartError;
use crate::accounts::now_ms;
use crate::catalogue::{Catalogue, Series};
use crate::recovery::Refused;
use crate::revocations::ENTRIES_MAX;
use crate::shared::Shared;

/// A database that is away, and what is known of it.
pub(super) struct Absent {
    pub(super) store: Arc<PostgresStore>,
    pub(super) catalogue: Catalogue,
    known: Checkpoint,
}

impl Absent {
    /// Goes by the checkpoint, when it says enough. `away`: why the database was not opened.
    pub(super) fn new(
        config: &PostgresConfig,
        folder: &DataFolder,
        known: Option<&Checkpoint>,
        away: &OpenError,
    ) -> Result<Self, StartError> {
        let lacking = |what: &str| {
            StartError::Away(format!(
                "{away}. {what}; start it with the database there, and it will know enough next time"
            ))
        };
        let known = known.ok_or_else(|| {
            lacking(
                "There is no checkpoint to go by: this server has never run with its database, or the file is damaged",
            )
        })?;
        let kept = Checkpoint::load(&folder.checkpoint_catalogue());
        let kept = kept.map_err(|error| lacking(&format!("The kept catalogue cannot be used: {error}")))?;
        let kept = kept.filter(|kept| kept.store == known.store);
        let kept =
            kept.ok_or_else(|| lacking("This server's last run was with another store, so it cannot do without"))?;
        let catalogue = Catalogue::decode(&kept.catalogue);
        let catalogue = catalogue.map_err(|error| lacking(&format!("The kept catalogue cannot be read: {error}")))?;
        let store =
            PostgresStore::awaited(config, known.store).map_err(|error| StartError::Store(error.to_string()))?;
        tracing::warn!(%away, "the database is away; starting with what is kept here, users are loaded when it is back");
        Ok(Self { store: Arc::new(store), catalogue, known: known.clone() })
    }

    /// From where the journal is read: at or before where the database is.
    pub(super) fn cursors(&self, recovery: &Recovery) -> Result<LaneCursors, Refused> {
        if self.known.journal != recovery.journal_id() {
            return Err(Refused::Journal(format!(
                "the journal is {} and the checkpoint is of {}; which records the database has is known only to it: start with the \
                 database there",
                recovery.journal_id(),
                self.known.journal
            )));
        }
        // The checkpoint may be older than the journal's first record: segments go only when the store is past them.
        let mut cursors = self.known.cursors;
        let gone = Lsn(recovery.first().0.saturating_sub(1));
        Lane::all().for_each(|lane| cursors.advance(lane, gone));
        Ok(cursors)
    }

    /// Says what the database must be when it is back.
    pub(super) fn expect(&self, recovery: &Recovery, reached: LaneCursors) -> Result<(), StartError> {
        let awaited = Awaited { journal: recovery.journal_id(), reached, end: recovery.end() };
        Ok(self.store.expect(awaited)?)
    }
}

/// The database is back: what others have put there meanwhile is taken in.
pub(crate) fn settle_in(shared: &Shared) -> Result<(), StoreError> {
    let now_ms = now_ms();
    let revoked = block_on(shared.store.revocations(0, now_ms, ENTRIES_MAX))?;
    let count = revoked.len();
    shared.revocations.add_stored(revoked, now_ms);
    let rows = block_on(shared.store.load_catalogue())?;
    shared.catalogue.store(Arc::new(Catalogue::new(rows.into_iter().map(Series::from).collect())));
    tracing::info!(revoked = count, "the database that was away at the start is back, and is the right one");
    Ok(())
}
