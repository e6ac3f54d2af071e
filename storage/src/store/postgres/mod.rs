//! The Postgres store: one thread with a Tokio loop, two connections for batches (each with half of the lanes), two for account
//! writes, two that reads share. Nothing it needs lives in a session, so a pooler may stand between, in transaction mode.
//! It implements `Store` by naming, for each request, the connection and the function; what is done is in the files beside this
//! one.

mod accounts;
mod address;
mod apply;
mod check;
mod columns;
pub(crate) mod copy;
mod failure;
mod identity;
mod link;
mod links;
mod load;
mod series;
mod sessions;
mod statement;
mod thread;
mod tls;

use std::time::Duration;

use proto::{SessionId, UserId, Version};
use tokio::time::timeout;
use tokio_postgres::Client;

use self::address::Address;
use self::failure::Failure;
pub use self::identity::Awaited;
use self::identity::Identity;
use self::link::{Connector, Patience, Redo, Unreached, transaction};
use self::links::Links;
use self::statement::{column, execute, first, params, run};
use self::thread::{Kind, StoreThread};
use self::tls::Tls;
use super::{
    Account, Answer, Applied, Batch, HistoryAfter, HistoryPage, ImportReport, ImportRow, LoadedUser, NewSession,
    NewUser, ParkedRecord, Purged, QueueReading, Revocation, RevokeAt, Role, Rotate, Rotation, Rows, SeedUser,
    SeriesRow, Session, Store, StoreCheck, StoreError, TokenHash, UserKey,
};
use crate::journal::{JournalId, LaneCursors, StoreId};
use crate::lane::Lane;
use crate::migrations::{self, Migrated, MigrationError};

/// How long looking the whole database over may take.
const CHECK_MAX: Duration = Duration::from_secs(600);

/// Where the database is and how much may wait for it.
#[derive(Clone)]
pub struct PostgresConfig {
    /// `postgres://user:password@host:port/database?sslmode=...`
    pub url: String,
    /// Requests that may wait per kind; more are `Busy`.
    pub queue_max: usize,
    /// How long the answer to a connection, a read or an account write may take; then the connection is given up and the database
    /// counts as away.
    pub answer_max: Duration,
    /// The same for batches, imports and purges, which nobody waits for and which may have to read a cold disk.
    pub bulk_max: Duration,
}

impl PostgresConfig {
    /// The defaults, for a database.
    pub fn new(url: impl Into<String>) -> Self {
        let (answer_max, bulk_max) = (Duration::from_secs(5), Duration::from_secs(30));
        Self { url: url.into(), queue_max: 1_024, answer_max, bulk_max }
    }

    /// Whether the address can be read.
    pub fn check(&self) -> Result<(), OpenError> {
        Address::parse(&self.url).map(drop)
    }
}

impl std::fmt::Debug for PostgresConfig {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Never the password: this ends up in logs.
        let place = Address::parse(&self.url).map(|address| address.shown()).unwrap_or_default();
        out.debug_struct("PostgresConfig").field("place", &place).finish_non_exhaustive()
    }
}

/// Why the Postgres store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The URL cannot be read.
    #[error("the database's address cannot be used: {0}")]
    Address(String),
    /// TLS cannot be set up.
    #[error("TLS to the database cannot be set up: {0}")]
    Tls(String),
    /// Nobody answers there, or not yet.
    #[error("the database cannot be reached ({0})")]
    Away(String),
    /// Somebody answers, and does not let us in.
    #[error("the database turns us away ({0})")]
    TurnedAway(String),
    /// The schema is not one this version can use.
    #[error(transparent)]
    Migration(#[from] MigrationError),
    /// The database could not be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Its thread could not be started.
    #[error("the store's thread could not be started: {0}")]
    Thread(#[from] std::io::Error),
}

/// The store in a Postgres database. Dropping it finishes what waits and closes the connections.
pub struct PostgresStore {
    thread: StoreThread,
    store_id: StoreId,
    migrated: Option<Migrated>,
    place: String,
}

impl PostgresStore {
    /// Connects, and brings the schema to the newest version. Blocks.
    pub fn open(config: &PostgresConfig, now_unix_ms: u64) -> Result<Self, OpenError> {
        let address = Address::parse(&config.url)?;
        let tls = Tls::new(&address.trust)?;
        let place = address.shown();
        let patience = Patience { answer: config.answer_max, bulk: config.bulk_max };
        let open = async move || {
            let connector = Connector::new(address, tls, patience, Identity::default());
            let shown = connector.shown();
            let unreached = |Unreached { reason, is_away }| match is_away {
                true => OpenError::Away(format!("{shown}: {reason}")),
                false => OpenError::TurnedAway(format!("{shown}: {reason}")),
            };
            let mut client = connector.attempt().await.map_err(unreached)?;
            // A pooler answers although its server is away, or lets everybody wait for it.
            match timeout(patience.answer, run(&client, "SELECT 1")).await {
                Ok(Err(Failure::Lost(reason))) => return Err(OpenError::Away(format!("{shown}: {reason}"))),
                Ok(_) => {}
                Err(_) => {
                    return Err(OpenError::Away(format!("{shown}: {}", Failure::silent(patience.answer))));
                }
            }
            let migrated = migrations::run_postgres(&mut client, migrations::POSTGRES, now_unix_ms).await?;
            let store_id = store_id(&client).await.map_err(Failure::into_error)?;
            let begin = how_to_begin(&client).await.map_err(Failure::into_error)?;
            connector.identity().is(store_id, begin);
            Ok((Links::new(connector), (store_id, migrated)))
        };
        let (thread, (store_id, migrated)) = StoreThread::start(config.queue_max, open)?;
        Ok(Self { thread, store_id, migrated: Some(migrated), place })
    }

    /// What opening did to the schema; nothing is known of a database that was away.
    pub fn migrated(&self) -> Option<Migrated> {
        self.migrated
    }

    /// The store while its database is away: every request is `Unavailable` until the database is back and is found to be the
    /// one that [`Self::expect`] describes. One that is not is [`StoreError::Unfit`], for good.
    pub fn awaited(config: &PostgresConfig, store_id: StoreId) -> Result<Self, OpenError> {
        let address = Address::parse(&config.url)?;
        let tls = Tls::new(&address.trust)?;
        let place = address.shown();
        let patience = Patience { answer: config.answer_max, bulk: config.bulk_max };
        let open = async move || {
            let connector = Connector::new(address, tls, patience, Identity::awaited(store_id));
            Ok::<_, OpenError>((Links::new(connector), ()))
        };
        let (thread, ()) = StoreThread::start(config.queue_max, open)?;
        Ok(Self { thread, store_id, migrated: None, place })
    }

    /// Says what a database that is away must answer when it is back; until then it is not even asked. Blocks for a moment.
    pub fn expect(&self, awaited: Awaited) -> Result<(), StoreError> {
        let told = self.thread.submit(Kind::Account, async move |links: &Links| {
            links.identity().expect(awaited);
            Ok(())
        });
        futures_executor::block_on(told)
    }

    fn read<T, F>(&self, work: F) -> Answer<T>
    where
        T: Send + 'static,
        F: AsyncFn(&Client) -> Result<T, Failure> + Send + 'static,
    {
        self.thread.submit(Kind::Read, async move |links: &Links| links.read(work).await)
    }

    fn write<T, F>(&self, kind: Kind, redo: Redo, work: F) -> Answer<T>
    where
        T: Send + 'static,
        F: AsyncFn(&Client) -> Result<T, Failure> + Send + 'static,
    {
        self.thread.submit(kind, async move |links: &Links| links.write(kind, redo, work).await)
    }
}

/// The store's id: 128 random bits, made by whoever is first.
async fn store_id(client: &Client) -> Result<StoreId, Failure> {
    let mut random = [0; 16];
    let filled = ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut random);
    filled.map_err(|_| failure::away("the system gives no random numbers".to_owned()))?;
    let made = "INSERT INTO meta (key, value) VALUES ('store_id', $1) ON CONFLICT (key) DO NOTHING";
    execute(client, made, params![&random[..]]).await?;
    let row = first(client, "SELECT value FROM meta WHERE key = 'store_id'", params![]).await?;
    let bytes: Vec<u8> = column(&row.ok_or_else(|| statement::odd("meta has no store_id"))?, 0)?;
    Ok(StoreId(bytes.try_into().map_err(|_| statement::odd("the store's id has not 16 bytes"))?))
}

/// A cursor that moved must not be forgotten by a crash of the database, because the journal's segments go by it: where commits
/// do not wait for the disk, ours ask for it, one by one.
async fn how_to_begin(client: &Client) -> Result<&'static str, Failure> {
    let waits =
        first(client, "SELECT current_setting('synchronous_commit', true), current_setting('fsync', true)", params![])
            .await?;
    let row = waits.ok_or_else(|| statement::odd("no settings"))?;
    // A database that only speaks like Postgres may not know these.
    let is_off = |at| Ok::<_, Failure>(column::<Option<String>>(&row, at)?.is_some_and(|setting| setting == "off"));
    if is_off(1)? {
        tracing::warn!("the database runs with fsync=off: a crash of its machine may lose what the journal has let go");
    }
    let asks = "BEGIN; SET LOCAL synchronous_commit = on";
    Ok(if is_off(0)? { asks } else { "BEGIN" })
}

impl Store for PostgresStore {
    fn kind(&self) -> &'static str {
        "postgres"
    }

    fn place(&self) -> String {
        self.place.clone()
    }

    fn store_id(&self) -> StoreId {
        self.store_id
    }

    fn may_be_away(&self) -> bool {
        true
    }

    fn cursors(&self, journal: JournalId) -> Answer<LaneCursors> {
        self.thread.submit(Kind::Read, async move |links: &Links| {
            let all = links.read(async |client| apply::journals(client).await).await?;
            let found = all.into_iter().find(|(id, _)| *id == journal);
            let cursors = found.map_or(LaneCursors::START, |(_, cursors)| cursors);
            links.identity().saw(journal, Lane::all().map(|lane| (lane, cursors.get(lane))));
            Ok(cursors)
        })
    }

    fn journals(&self) -> Answer<Vec<(JournalId, LaneCursors)>> {
        self.read(async move |client| apply::journals(client).await)
    }

    fn adopt(&self, journal: JournalId, cursors: LaneCursors) -> Answer<()> {
        self.thread.submit(Kind::Bulk, async move |links: &Links| apply::adopt(links, journal, cursors).await)
    }

    fn apply(&self, batch: Batch) -> Answer<Applied> {
        self.thread.submit(Kind::Bulk, async move |links: &Links| apply::batch(links, &batch).await)
    }

    fn batches_at_a_time(&self) -> usize {
        // One is stored while the next waits on its connections: whichever half is done first goes on at once.
        2
    }

    fn batch_rows_max(&self) -> usize {
        // Nobody waits for a batch here. The more keys come in order at a time, the more of them share pages of table and index.
        20_000
    }

    fn parked(&self, after: i64, rows_max: usize) -> Answer<Vec<ParkedRecord>> {
        self.read(async move |client| load::parked(client, after, rows_max).await)
    }

    fn unpark(&self, id: i64) -> Answer<bool> {
        self.write(Kind::Account, Redo::Never, async move |client| load::unpark(client, id).await)
    }

    fn apply_parked(&self, id: i64, rows: Rows) -> Answer<Applied> {
        self.thread.submit(Kind::Bulk, async move |links: &Links| apply::parked(links, id, &rows).await)
    }

    fn load_user(&self, user: UserId) -> Answer<Option<LoadedUser>> {
        self.read(async move |client| load::user(client, user).await)
    }

    fn history(&self, user: UserId, after: Option<HistoryAfter>, rows_max: usize) -> Answer<HistoryPage> {
        self.read(async move |client| load::history(client, user, after, rows_max).await)
    }

    fn create_user(&self, user: NewUser) -> Answer<()> {
        self.write(Kind::Account, Redo::Harmless, async move |client| accounts::create(client, &user).await)
    }

    fn find_user(&self, key: UserKey) -> Answer<Option<Account>> {
        self.read(async move |client| accounts::find(client, &key).await)
    }

    fn set_password_hash(&self, user: UserId, hash: String, now_unix_ms: u64) -> Answer<()> {
        self.write(Kind::Account, Redo::Harmless, async move |client| {
            accounts::set(client, user, "password_hash", &hash, now_unix_ms).await
        })
    }

    fn set_role(&self, user: UserId, role: Role, now_unix_ms: u64) -> Answer<()> {
        self.write(Kind::Account, Redo::Harmless, async move |client| {
            accounts::set(client, user, "role", role.as_str(), now_unix_ms).await
        })
    }

    fn admins(&self) -> Answer<Vec<Account>> {
        self.read(async move |client| accounts::admins(client).await)
    }

    fn count_users(&self) -> Answer<u64> {
        self.read(async move |client| accounts::count(client).await)
    }

    fn open_session(&self, session: NewSession) -> Answer<Vec<Revocation>> {
        self.write(Kind::Account, Redo::Never, async move |client| sessions::open(client, &session).await)
    }

    fn rotate(&self, rotate: Rotate) -> Answer<Rotation> {
        // Never again when it may have been committed: the token would look used twice, and the session would end.
        self.write(Kind::Account, Redo::Never, async move |client| sessions::rotate(client, &rotate).await)
    }

    fn revoke_by_token(&self, token: TokenHash, at: RevokeAt) -> Answer<Option<Revocation>> {
        self.write(Kind::Account, Redo::Never, async move |client| sessions::revoke_by_token(client, token, at).await)
    }

    fn revoke_session(&self, user: UserId, sid: SessionId, at: RevokeAt) -> Answer<Option<Revocation>> {
        self.write(Kind::Account, Redo::Never, async move |client| {
            sessions::revoke_session(client, user, sid, at).await
        })
    }

    fn revoke_all(&self, user: UserId, except: Option<SessionId>, at: RevokeAt) -> Answer<Vec<Revocation>> {
        self.write(Kind::Account, Redo::Never, async move |client| sessions::revoke_all(client, user, except, at).await)
    }

    fn sessions(&self, user: UserId, now_unix_ms: u64) -> Answer<Vec<Session>> {
        self.read(async move |client| sessions::open_sessions(client, user, now_unix_ms).await)
    }

    fn revocations(&self, since_unix_ms: u64, now_unix_ms: u64, rows_max: usize) -> Answer<Vec<Revocation>> {
        self.read(async move |client| sessions::revocations(client, since_unix_ms, now_unix_ms, rows_max).await)
    }

    fn purge(&self, now_unix_ms: u64, tombstones_before_unix_ms: u64) -> Answer<Purged> {
        let before = Version::from_unix_ms(tombstones_before_unix_ms);
        self.write(Kind::Bulk, Redo::Harmless, async move |client| sessions::purge(client, now_unix_ms, before).await)
    }

    fn seed_users(&self, users: Vec<SeedUser>) -> Answer<u64> {
        self.write(Kind::Bulk, Redo::Never, async move |client| accounts::seed(client, &users).await)
    }

    fn load_catalogue(&self) -> Answer<Vec<SeriesRow>> {
        self.read(async move |client| series::load_all(client).await)
    }

    fn import(&self, rows: Vec<ImportRow>, now_unix_ms: u64) -> Answer<ImportReport> {
        self.write(Kind::Bulk, Redo::Never, async move |client| series::import(client, rows.clone(), now_unix_ms).await)
    }

    fn ping(&self) -> Answer<u64> {
        self.thread.submit(Kind::Read, async move |links: &Links| {
            let asked = async |client: &Client| {
                links.check_again(client).await?;
                let row = first(client, "SELECT count(*) FROM parked_records", params![]).await?;
                statement::number(&row.ok_or_else(|| statement::odd("no count"))?, 0)
            };
            links.read(asked).await
        })
    }

    fn queues(&self) -> Vec<QueueReading> {
        self.thread.queues()
    }

    fn check(&self) -> Answer<StoreCheck> {
        let store_id = self.store_id;
        self.thread.submit(Kind::Read, async move |links: &Links| {
            // On a connection of its own: it takes long, and reads that share one wait for each other.
            let client = links.own().await?;
            let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
            let checking = transaction(&client, begin, async |client| check::check(client, store_id).await);
            let checked = timeout(CHECK_MAX, checking).await;
            let late = |_| failure::away("looking the database over took too long".to_owned());
            checked.map_err(late)?.map_err(Failure::into_error)
        })
    }
}
