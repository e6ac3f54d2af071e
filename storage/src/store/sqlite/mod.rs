//! The embedded store: one SQLite file in WAL mode with a full flush per commit, a thread that writes, threads that read. It
//! implements `Store` by naming, for each request, the thread and the function; what is done is in the files beside this one.

mod accounts;
mod apply;
mod check;
mod connection;
pub(crate) mod copy;
mod load;
mod series;
mod sessions;
mod thread;

use std::path::PathBuf;
use std::time::Duration;

use proto::{SessionId, UserId, Version};

use self::connection::Purpose;
use super::{
    Account, Answer, Applied, Batch, HistoryAfter, HistoryPage, ImportReport, ImportRow, LoadedUser, NewSession,
    NewUser, ParkedRecord, Purged, QueueReading, Revocation, RevokeAt, Role, Rotate, Rotation, Rows, SeedUser,
    SeriesRow, Session, Store, StoreCheck, StoreError, TokenHash, UserKey,
};
use crate::journal::{JournalId, LaneCursors, StoreId};
use crate::migrations::{self, Migrated, MigrationError};

/// Where the embedded store is and how much it may use.
#[derive(Clone, Debug)]
pub struct SqliteConfig {
    /// The database file; `-wal` and `-shm` files appear beside it.
    pub path: PathBuf,
    /// Requests that may wait per thread and kind; more are `Busy`.
    pub queue_max: usize,
    /// Threads that read.
    pub readers: usize,
    /// Page cache per connection, at most; a connection without requests has none.
    pub cache_kib: u32,
    /// How long to wait for another process's lock (a backup, a shell).
    pub busy_timeout: Duration,
}

impl SqliteConfig {
    /// The defaults, for a file.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            queue_max: 1_024,
            readers: 2,
            cache_kib: 32 * 1_024,
            busy_timeout: Duration::from_secs(5),
        }
    }
}

/// Why the embedded store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The schema is not one this version can use.
    #[error(transparent)]
    Migration(#[from] MigrationError),
    /// The file could not be opened or read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Its threads could not be started.
    #[error("the store's threads could not be started: {0}")]
    Threads(#[from] std::io::Error),
}

/// The embedded store. Dropping it finishes what waits and closes the file.
pub struct SqliteStore {
    // Readers first: SQLite folds the log back into the file when its last connection, the writer's, closes.
    readers: thread::Readers,
    writer: thread::Writer,
    store_id: StoreId,
    migrated: Migrated,
    path: PathBuf,
}

impl SqliteStore {
    /// Opens the file, making it if need be, and brings its schema to the newest version.
    pub fn open(config: &SqliteConfig, now_unix_ms: u64) -> Result<Self, OpenError> {
        let mut conn = connection::open(config, Purpose::Write)?;
        let migrated = migrations::run_sqlite(&mut conn, migrations::SQLITE, now_unix_ms)?;
        let store_id = conn
            .query_row("SELECT value FROM meta WHERE key = 'store_id'", [], |row| row.get(0))
            .map_err(connection::refusal)?;
        let readers =
            (0..config.readers.max(1)).map(|_| connection::open(config, Purpose::Read)).collect::<Result<_, _>>()?;
        Ok(Self {
            readers: thread::Readers::start(readers, config.queue_max)?,
            writer: thread::Writer::start(conn, config.queue_max)?,
            store_id: StoreId(store_id),
            migrated,
            path: config.path.clone(),
        })
    }

    /// What opening did to the schema.
    pub fn migrated(&self) -> Migrated {
        self.migrated
    }
}

impl Store for SqliteStore {
    fn kind(&self) -> &'static str {
        "sqlite"
    }

    fn place(&self) -> String {
        self.path.display().to_string()
    }

    fn store_id(&self) -> StoreId {
        self.store_id
    }

    fn cursors(&self, journal: JournalId) -> Answer<LaneCursors> {
        self.readers.read(move |conn| apply::cursors(conn, journal))
    }

    fn journals(&self) -> Answer<Vec<(JournalId, LaneCursors)>> {
        self.readers.read(apply::journals)
    }

    fn adopt(&self, journal: JournalId, cursors: LaneCursors) -> Answer<()> {
        self.writer.bulk(move |conn| apply::adopt(conn, journal, &cursors))
    }

    fn apply(&self, batch: Batch) -> Answer<Applied> {
        self.writer.bulk(move |conn| apply::batch(conn, &batch))
    }

    fn batch_rows_max(&self) -> usize {
        // About 50 ms, which is how long an account write may have to wait.
        2_000
    }

    fn parked(&self, after: i64, rows_max: usize) -> Answer<Vec<ParkedRecord>> {
        self.readers.read(move |conn| load::parked(conn, after, rows_max))
    }

    fn unpark(&self, id: i64) -> Answer<bool> {
        self.writer.urgent(move |conn| load::unpark(conn, id))
    }

    fn apply_parked(&self, id: i64, rows: Rows) -> Answer<Applied> {
        self.writer.bulk(move |conn| {
            if !load::unpark(conn, id)? {
                return Err(StoreError::NotFound { what: "parked record" });
            }
            apply::rows(conn, &rows)
        })
    }

    fn load_user(&self, user: UserId) -> Answer<Option<LoadedUser>> {
        self.readers.read(move |conn| load::user(conn, user))
    }

    fn history(&self, user: UserId, after: Option<HistoryAfter>, rows_max: usize) -> Answer<HistoryPage> {
        self.readers.read(move |conn| load::history(conn, user, after, rows_max))
    }

    fn create_user(&self, user: NewUser) -> Answer<()> {
        self.writer.urgent(move |conn| accounts::create(conn, &user))
    }

    fn find_user(&self, key: UserKey) -> Answer<Option<Account>> {
        self.readers.read(move |conn| accounts::find(conn, &key))
    }

    fn set_password_hash(&self, user: UserId, hash: String, now_unix_ms: u64) -> Answer<()> {
        self.writer.urgent(move |conn| accounts::set(conn, user, "password_hash", &hash, now_unix_ms))
    }

    fn set_role(&self, user: UserId, role: Role, now_unix_ms: u64) -> Answer<()> {
        self.writer.urgent(move |conn| accounts::set(conn, user, "role", role.as_str(), now_unix_ms))
    }

    fn admins(&self) -> Answer<Vec<Account>> {
        self.readers.read(accounts::admins)
    }

    fn count_users(&self) -> Answer<u64> {
        self.readers.read(accounts::count)
    }

    fn open_session(&self, session: NewSession) -> Answer<Vec<Revocation>> {
        self.writer.urgent(move |conn| sessions::open(conn, &session))
    }

    fn rotate(&self, rotate: Rotate) -> Answer<Rotation> {
        self.writer.urgent(move |conn| sessions::rotate(conn, &rotate))
    }

    fn revoke_by_token(&self, token: TokenHash, at: RevokeAt) -> Answer<Option<Revocation>> {
        self.writer.urgent(move |conn| sessions::revoke_by_token(conn, &token, at))
    }

    fn revoke_session(&self, user: UserId, sid: SessionId, at: RevokeAt) -> Answer<Option<Revocation>> {
        self.writer.urgent(move |conn| sessions::revoke_session(conn, user, sid, at))
    }

    fn revoke_all(&self, user: UserId, except: Option<SessionId>, at: RevokeAt) -> Answer<Vec<Revocation>> {
        self.writer.urgent(move |conn| sessions::revoke_all(conn, user, except, at))
    }

    fn sessions(&self, user: UserId, now_unix_ms: u64) -> Answer<Vec<Session>> {
        self.readers.read(move |conn| sessions::open_sessions(conn, user, now_unix_ms))
    }

    fn revocations(&self, since_unix_ms: u64, now_unix_ms: u64, rows_max: usize) -> Answer<Vec<Revocation>> {
        self.readers.read(move |conn| sessions::revocations(conn, since_unix_ms, now_unix_ms, rows_max))
    }

    fn purge(&self, now_unix_ms: u64, tombstones_before_unix_ms: u64) -> Answer<Purged> {
        let before = Version::from_unix_ms(tombstones_before_unix_ms);
        self.writer.bulk(move |conn| sessions::purge(conn, now_unix_ms, before))
    }

    fn seed_users(&self, users: Vec<SeedUser>) -> Answer<u64> {
        self.writer.bulk(move |conn| accounts::seed(conn, &users))
    }

    fn load_catalogue(&self) -> Answer<Vec<SeriesRow>> {
        self.readers.read(series::load_all)
    }

    fn import(&self, rows: Vec<ImportRow>, now_unix_ms: u64) -> Answer<ImportReport> {
        self.writer.bulk(move |conn| series::import(conn, rows, now_unix_ms))
    }

    fn ping(&self) -> Answer<u64> {
        self.readers.read(|conn| {
            let counted = conn.query_row("SELECT count(*) FROM parked_records", [], |row| row.get(0));
            counted.map_err(connection::refusal)
        })
    }

    fn rest(&self) -> Answer<()> {
        // Closing the last connection would do it too, but handles may outlive the run until the process ends.
        // On a reading connection: the writing one works in transactions, and query_only does not forbid it (SQLite, PRAGMA
        // query_only).
        let fold = "PRAGMA wal_checkpoint(TRUNCATE)";
        self.readers.read(move |conn| conn.query_row(fold, [], |_| Ok(())).map_err(connection::refusal))
    }

    fn queues(&self) -> Vec<QueueReading> {
        let mut queues = self.writer.queues();
        queues.push(self.readers.queue());
        queues
    }

    fn check(&self) -> Answer<StoreCheck> {
        let store_id = self.store_id;
        self.readers.read(move |conn| check::check(conn, store_id))
    }
}
