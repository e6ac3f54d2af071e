//! Whether the database is the one that this server began with. Asked on every new connection, before anything else is: after an
//! absence there may be another database behind the address, or an older copy of the same one, and in that the rows are missing
//! that the journal has let go of meanwhile. A pooler hides that connections are new, so every batch asks too, in its own
//! transaction. What does not fit is refused for good; nothing is ever written to it.

use std::cell::{Cell, OnceCell, RefCell};

use rustc_hash::FxHashMap;
use tokio::time::timeout;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;
use uuid::Uuid;

use super::apply;
use super::failure::{Failure, away};
use super::link::Patience;
use super::statement::{column, first, int, odd, params};
use crate::journal::{JournalId, LaneCursors, Lsn, StoreId};
use crate::lane::Lane;
use crate::migrations::{self, MigrationError};
use crate::store::StoreError;

/// What a database must answer that a server waits for which was started without it.
#[derive(Clone, Copy, Debug)]
pub struct Awaited {
    /// The journal that drains into it.
    pub journal: JournalId,
    /// How far it had taken that journal.
    pub reached: LaneCursors,
    /// Where that journal ended when the server started: nothing behind it can have been stored.
    pub end: Lsn,
}

/// Fails (by a division by zero, because the commit is already on its way) unless this is the store and its cursors are where
/// they have been seen.
const GUARD: &str = "
    SELECT 1 / (CASE WHEN (SELECT value FROM meta WHERE key = 'store_id') = $2 AND NOT EXISTS (
        SELECT 1 FROM UNNEST($3::smallint[], $4::bigint[]) AS seen (lane, lsn)
        LEFT JOIN journal_cursor AS stored ON stored.journal_id = $1 AND stored.lane = seen.lane
        WHERE coalesce(stored.lsn, 0) < seen.lsn
    ) THEN 1 ELSE 0 END)";

/// What is known of the database.
#[derive(Default)]
pub(super) struct Identity {
    /// Its id; not known until the first connection of an ordinary start has asked.
    store_id: Cell<Option<StoreId>>,
    /// How far it has been seen to have taken journals.
    seen: RefCell<FxHashMap<JournalId, LaneCursors>>,
    /// The server was started without it: what it must answer, once that is known, before anybody asks it anything.
    awaited: RefCell<Option<Option<Awaited>>>,
    /// Why it is refused, for good.
    unfit: OnceCell<String>,
    /// How a transaction that writes begins.
    begin: Cell<&'static str>,
}

impl Identity {
    /// Of a database that is away; nothing is asked of it before [`Self::expect`].
    pub(super) fn awaited(store_id: StoreId) -> Self {
        Self { store_id: Cell::new(Some(store_id)), awaited: RefCell::new(Some(None)), ..Self::default() }
    }

    /// What the database that is away must answer.
    pub(super) fn expect(&self, awaited: Awaited) {
        self.seen.borrow_mut().insert(awaited.journal, awaited.reached);
        *self.awaited.borrow_mut() = Some(Some(awaited));
    }

    /// Takes in an ordinary start's answers.
    pub(super) fn is(&self, store_id: StoreId, begin: &'static str) {
        self.store_id.set(Some(store_id));
        self.begin.set(begin);
    }

    /// How a transaction that writes begins.
    pub(super) fn begin(&self) -> &'static str {
        self.begin.get()
    }

    /// Lanes of a journal were stored, or were seen to be.
    pub(super) fn saw(&self, journal: JournalId, lanes: impl Iterator<Item = (Lane, Lsn)>) {
        let mut seen = self.seen.borrow_mut();
        let cursors = seen.entry(journal).or_default();
        lanes.for_each(|(lane, lsn)| cursors.advance(lane, lsn));
    }

    /// Whether lanes of a journal are where they must be before more of it is stored.
    pub(super) fn stands(
        &self,
        journal: JournalId,
        behind: &LaneCursors,
        mut lanes: impl Iterator<Item = Lane>,
    ) -> Result<(), Failure> {
        let seen = self.seen.borrow().get(&journal).copied().unwrap_or_default();
        match lanes.all(|lane| seen.get(lane) >= behind.get(lane)) {
            true => Ok(()),
            false => Err(Failure::Final(away("a batch before this one was not stored".to_owned()))),
        }
    }

    /// A journal's cursors were set, whatever they had been.
    pub(super) fn adopted(&self, journal: JournalId, cursors: LaneCursors) {
        self.seen.borrow_mut().insert(journal, cursors);
    }

    /// Nothing reaches a database that does not fit, nor one whose journal has not been read yet.
    pub(super) fn admits(&self) -> Result<(), StoreError> {
        if let Some(reason) = self.unfit.get() {
            return Err(StoreError::Unfit { reason: reason.clone() });
        }
        match *self.awaited.borrow() {
            Some(None) => Err(away("the journal is being read".to_owned())),
            _ => Ok(()),
        }
    }

    /// Asks a new connection. `place`: where the database is, for a person.
    pub(super) async fn check(
        &self,
        client: &mut Client,
        place: &str,
        now_unix_ms: u64,
        patience: Patience,
    ) -> Result<(), StoreError> {
        let Some(expected) = self.store_id.get() else { return Ok(()) };
        let late = |_| away("it does not say which database it is".to_owned());
        let looked = timeout(patience.answer, self.look(client, expected)).await.map_err(late)?;
        let checked = match looked {
            Ok(()) => timeout(patience.bulk, self.settle_in(client, now_unix_ms)).await.map_err(late)?,
            wrong => wrong,
        };
        match checked {
            Ok(()) => Ok(()),
            Err(Wrong::Failed(failure)) => Err(failure.into_error()),
            Err(Wrong::Fit(why)) => self.refuse(place, &why),
        }
    }

    /// Asks a connection that has been asked before.
    pub(super) async fn check_again(&self, client: &Client, place: &str) -> Result<(), Failure> {
        let Some(expected) = self.store_id.get() else { return Ok(()) };
        match self.look(client, expected).await {
            Ok(()) => Ok(()),
            Err(Wrong::Failed(failure)) => Err(failure),
            Err(Wrong::Fit(why)) => Ok(self.refuse(place, &why)?),
        }
    }

    /// A statement of a transaction that moves a journal's lanes: it fails unless all of them are where they have been seen, those
    /// of other connections too.
    pub(super) async fn guard(&self, client: &Client, journal: JournalId) -> Result<(), Failure> {
        let Some(StoreId(store)) = self.store_id.get() else { return Ok(()) };
        let seen = self.seen.borrow().get(&journal).copied().unwrap_or_default();
        let lanes: Vec<i16> = Lane::all().map(|lane| i16::from(lane.as_byte())).collect();
        let lsns = Lane::all().map(|lane| int(seen.get(lane).0)).collect::<Result<Vec<i64>, _>>()?;
        let (journal, store) = (Uuid::from_bytes(journal.0), &store[..]);
        match client.query_typed(GUARD, params![journal, store, lanes, lsns]).await {
            Ok(_) => Ok(()),
            // On a new connection it is found out what it is instead.
            Err(error) if error.code() == Some(&SqlState::DIVISION_BY_ZERO) => {
                Err(Failure::Lost("the database is not where it was".to_owned()))
            }
            Err(error) => Err(error.into()),
        }
    }

    fn refuse(&self, place: &str, why: &str) -> Result<(), StoreError> {
        let reason = format!(
            "the database {place} {why}. Nothing was written to it. Bring the right one back and start again; or, to go on with \
             this one, run `mangahub db adopt --yes`"
        );
        if self.unfit.set(reason.clone()).is_ok() {
            tracing::error!(reason, "the database is refused");
        }
        self.admits()
    }

    async fn look(&self, client: &Client, expected: StoreId) -> Result<(), Wrong> {
        // As of before the question: a batch may be stored while the answer is on its way.
        let seen = self.seen.borrow().clone();
        let (found, journals, reads_only) = tokio::join!(
            biased;
            client.query_typed("SELECT value FROM meta WHERE key = 'store_id'", &[]),
            apply::journals(client),
            first(client, "SELECT current_setting('transaction_read_only')", params![]),
        );
        let found = match found {
            Ok(rows) => rows.first().map(|row| column::<Vec<u8>>(row, 0)).transpose()?,
            Err(error) if error.code() == Some(&SqlState::UNDEFINED_TABLE) => None,
            Err(error) => return Err(Failure::from(error).into()),
        };
        let Some(found) = found else {
            return Err(Wrong::Fit(format!("has no store in it, and this server's is {expected}")));
        };
        if found != expected.0 {
            let found = found.try_into().map(StoreId).map_or("not one of ours".to_owned(), |id| id.to_string());
            return Err(Wrong::Fit(format!("is another store ({found}) than this server's ({expected})")));
        }
        let journals: FxHashMap<_, _> = journals?.into_iter().collect();
        let of = |journal| journals.get(&journal).copied().unwrap_or_default();
        let older = seen.iter().find_map(|(journal, seen)| {
            let lane = Lane::all().find(|lane| of(*journal).get(*lane) < seen.get(*lane))?;
            Some((lane, of(*journal).get(lane), seen.get(lane)))
        });
        if let Some((lane, found, seen)) = older {
            let reads_only = reads_only?.ok_or_else(|| odd("no settings"))?;
            if column::<String>(&reads_only, 0)? == "on" {
                return Err(Failure::Lost("it only reads and lags behind".to_owned()).into());
            }
            return Err(Wrong::Fit(format!(
                "is an older copy (restored, or taken over by a standby that lagged): it has records of lane {} up to {found} and \
                 had them up to {seen}. Accounts and revoked sessions of the time between are not in it; progress is, once it is \
                 adopted, as far back as the journal reaches",
                lane.index()
            )));
        }
        let awaited = (*self.awaited.borrow()).flatten();
        let ahead = awaited.map(|awaited| (of(awaited.journal).highest(), awaited.end));
        if let Some((stored, end)) = ahead.filter(|(stored, end)| stored > end) {
            return Err(Wrong::Fit(format!(
                "has records of this server's journal up to {stored}, and the journal ended at {end} when the server was started: \
                 the journal is an older copy"
            )));
        }
        Ok(())
    }

    /// What an ordinary start does on its first connection, done when a database comes back that was away at the start.
    async fn settle_in(&self, client: &mut Client, now_unix_ms: u64) -> Result<(), Wrong> {
        if self.awaited.borrow().is_none() {
            return Ok(());
        }
        if let Err(error) = migrations::run_postgres(client, migrations::POSTGRES, now_unix_ms).await {
            let has_gone = client.is_closed() || matches!(error, MigrationError::Unreadable(_));
            return Err(match has_gone {
                true => Failure::Final(away(error.to_string())).into(),
                false => Wrong::Fit(format!("cannot be used: {error}")),
            });
        }
        self.begin.set(super::how_to_begin(client).await?);
        *self.awaited.borrow_mut() = None;
        Ok(())
    }
}

/// Why a connection is not used.
enum Wrong {
    /// It is not the database, or not the schema.
    Fit(String),
    /// It did not answer.
    Failed(Failure),
}

impl From<Failure> for Wrong {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}
