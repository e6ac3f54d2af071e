//! The store: what outlives the journal. One trait, object-safe, that every database implements; its answers are futures that
//! any executor can wait for, because the work happens on the store's own threads behind bounded queues (full is `Busy`, at
//! once). A store promises that what it answered as applied is on its disk; it decides no rule of the product.

pub mod account;
pub mod batch;
pub mod catalogue;
pub mod error;
mod guards;
mod history;
pub mod import;
pub mod postgres;
#[cfg(feature = "fault")]
pub mod seam;
pub mod sqlite;
pub mod state;
mod text_list;

use std::sync::Arc;

use futures_util::future::BoxFuture;
use proto::{SessionId, UserId};

pub use account::{
    Account, NewRefreshToken, NewSession, NewUser, Purged, Revocation, RevokeAt, Role, Rotate, Rotation, SeedUser,
    Session, TokenHash, UserKey,
};
pub use batch::{Applied, Batch, NewParked, Rows};
pub use catalogue::{ImportReport, ImportRow, MangadexId, RejectReason, RejectedRow, RenamedSlug, SeriesRow};
pub use error::{StoreError, UniqueField};
pub use postgres::{PostgresConfig, PostgresStore};
pub use sqlite::{SqliteConfig, SqliteStore};
pub use state::{HistoryAfter, HistoryDay, HistoryPage, LoadedUser, ParkedRecord, StoreCheck, TableCount};

use crate::journal::{JournalId, LaneCursors, StoreId};

/// What a store answers, sooner or later. Dropping it does not undo the work.
pub type Answer<T> = BoxFuture<'static, Result<T, StoreError>>;

/// A store that everybody shares.
pub type SharedStore = Arc<dyn Store>;

/// A database that holds users, their state and the catalogue.
///
/// Every method may answer [`StoreError::Busy`] and [`StoreError::Unavailable`]; only the further errors are named. A method
/// that failed has changed nothing, unless it says that the connection broke while committing: then nobody knows.
pub trait Store: Send + Sync + 'static {
    /// In a word, for the banner and the logs: `sqlite`, `postgres`.
    fn kind(&self) -> &'static str;

    /// Where it is, for a person: a path, or host, port and database; never a password.
    fn place(&self) -> String;

    /// The store's own id, made with it.
    fn store_id(&self) -> StoreId;

    /// Whether a server may have to start without it: what is needed for that is kept beside the journal.
    fn may_be_away(&self) -> bool {
        false
    }

    // The journal's side.

    /// How far this store has applied the journal; the start for a journal it does not know.
    fn cursors(&self, journal: JournalId) -> Answer<LaneCursors>;

    /// Every journal that has ever drained into this store, with its cursors.
    fn journals(&self) -> Answer<Vec<(JournalId, LaneCursors)>>;

    /// Accepts what the store has: sets the journal's cursors, whatever they were (`mangahub db adopt`).
    fn adopt(&self, journal: JournalId, cursors: LaneCursors) -> Answer<()>;

    /// Applies rows, parks records and moves cursors: what is of one lane in one transaction with that lane's cursor. Rows behind
    /// what is stored change nothing, so any batch may be applied any number of times; one that failed may have been stored for
    /// some lanes, whole. [`StoreError::Refused`]: some row of it cannot be stored; bisect.
    fn apply(&self, batch: Batch) -> Answer<Applied>;

    /// How many batches may be under way at a time, in order: more than one where that keeps the store busier.
    fn batches_at_a_time(&self) -> usize {
        1
    }

    /// How many rows a batch may have.
    fn batch_rows_max(&self) -> usize;

    /// The parked records with ids above `after` (0: all), by id, which is by age; at most `rows_max`.
    fn parked(&self, after: i64, rows_max: usize) -> Answer<Vec<ParkedRecord>>;

    /// Takes a parked record out, because its rows have been applied or are not wanted; false when it is not there.
    fn unpark(&self, id: i64) -> Answer<bool>;

    /// Applies a parked record's rows and takes it out, in one transaction.
    fn apply_parked(&self, id: i64, rows: Rows) -> Answer<Applied>;

    // Users' state.

    /// Everything that is stored about a user's reading, and the records of theirs that are parked; `None` for an unknown user.
    fn load_user(&self, user: UserId) -> Answer<Option<LoadedUser>>;

    /// A page of a user's reading history, newest first, the nodes added up.
    fn history(&self, user: UserId, after: Option<HistoryAfter>, rows_max: usize) -> Answer<HistoryPage>;

    // Accounts.

    /// Makes a user. [`StoreError::Taken`] when the username or the email address belongs to somebody.
    fn create_user(&self, user: NewUser) -> Answer<()>;

    /// Finds a user.
    fn find_user(&self, key: UserKey) -> Answer<Option<Account>>;

    /// Replaces a password hash. [`StoreError::NotFound`].
    fn set_password_hash(&self, user: UserId, hash: String, now_unix_ms: u64) -> Answer<()>;

    /// Replaces a role. [`StoreError::NotFound`].
    fn set_role(&self, user: UserId, role: Role, now_unix_ms: u64) -> Answer<()>;

    /// All administrators.
    fn admins(&self) -> Answer<Vec<Account>>;

    /// How many users there are.
    fn count_users(&self) -> Answer<u64>;

    /// Opens a session with its first refresh token. Answers the sessions that were revoked to make room.
    /// [`StoreError::NotFound`] when the user is gone.
    fn open_session(&self, session: NewSession) -> Answer<Vec<Revocation>>;

    /// Exchanges a refresh token, which can be done once.
    fn rotate(&self, rotate: Rotate) -> Answer<Rotation>;

    /// Ends the session that a refresh token belongs to; `None` when the token or the session is gone already.
    fn revoke_by_token(&self, token: TokenHash, at: RevokeAt) -> Answer<Option<Revocation>>;

    /// Ends one session of this user; `None` when it is not theirs or has ended.
    fn revoke_session(&self, user: UserId, sid: SessionId, at: RevokeAt) -> Answer<Option<Revocation>>;

    /// Ends all sessions of a user, but for the one named.
    fn revoke_all(&self, user: UserId, except: Option<SessionId>, at: RevokeAt) -> Answer<Vec<Revocation>>;

    /// A user's open sessions, last seen first.
    fn sessions(&self, user: UserId, now_unix_ms: u64) -> Answer<Vec<Session>>;

    /// Grants revoked at or after a time that are still worth remembering then: the newest `rows_max`, newest first.
    fn revocations(&self, since_unix_ms: u64, now_unix_ms: u64, rows_max: usize) -> Answer<Vec<Revocation>>;

    /// Removes what nothing can name any more: expired tokens, ended sessions, old revocations, and tombstones whose change
    /// is older than `tombstones_before_unix_ms`. Some thousand rows at a time; call again until nothing was removed.
    fn purge(&self, now_unix_ms: u64, tombstones_before_unix_ms: u64) -> Answer<Purged>;

    /// Makes many users in one transaction, for load runs. Those that exist are left alone; answers how many were new.
    fn seed_users(&self, users: Vec<SeedUser>) -> Answer<u64>;

    // The catalogue.

    /// Every series, by id.
    fn load_catalogue(&self) -> Answer<Vec<SeriesRow>>;

    /// Imports series in one transaction, by the rules of [`import`]. The same rows again change nothing.
    fn import(&self, rows: Vec<ImportRow>, now_unix_ms: u64) -> Answer<ImportReport>;

    // Looking after it.

    /// A cheap question that only a working store answers: how many records are parked.
    fn ping(&self) -> Answer<u64>;

    /// Puts the store at rest at the end of a run: what stands in logs beside it moves into its main file, so that the file
    /// alone is a whole copy, and no log is left that would be folded into another copy put in its place.
    fn rest(&self) -> Answer<()> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// Its bounded queues, as they are now.
    fn queues(&self) -> Vec<QueueReading> {
        Vec::new()
    }

    /// Looks the whole store over; takes as long as reading it.
    fn check(&self) -> Answer<StoreCheck>;
}

/// One look at a bounded queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct QueueReading {
    /// Which, as metrics name it.
    pub queue: &'static str,
    /// What waits in it or is under way.
    pub waiting: usize,
    /// How much may.
    pub places: usize,
    /// What was refused since the start, because it was full.
    pub refused: u64,
}

/// The tables that a check counts.
pub(crate) const TABLES: [&str; 13] = [
    "users",
    "sessions",
    "refresh_tokens",
    "revoked_grants",
    "manga",
    "genres",
    "manga_genres",
    "user_progress",
    "user_library",
    "progress_history",
    "devices",
    "preferences",
    "parked_records",
];
