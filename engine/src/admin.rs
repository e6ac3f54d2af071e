//! Administration of a running server, for the admin socket: from any thread, on any executor. It never touches a shard's
//! state; what it changes goes through the store and is published to the shards.

use proto::ids::{MangaId, SessionId, UserId};
use storage::store::{ImportReport, ImportRow, SharedStore};

use crate::fault::Fault;

/// The way in. Cheap to clone, `Send`.
#[derive(Clone)]
pub struct Admin {}

/// Users for a load run.
#[derive(Clone, Debug)]
pub struct SeedRequest {
    /// How many users.
    pub users: u32,
    /// How many series they may use; made up where the catalogue has fewer.
    pub series: u32,
    /// How long their tokens live.
    pub token_ttl_s: u64,
}

/// One seeded user.
#[derive(Clone, Debug)]
pub struct Seeded {
    /// The account.
    pub user: UserId,
    /// Its session.
    pub session: SessionId,
    /// Its long access token.
    pub token: String,
}

/// What `seed` made.
#[derive(Clone, Debug)]
pub struct SeedReport {
    /// The users.
    pub users: Vec<Seeded>,
    /// Series they may use.
    pub series: Vec<MangaId>,
}

impl Admin {
    /// Makes an administrator's account.
    pub async fn create_admin(&self, username: &str, email: &str, password: &str) -> Result<UserId, Fault> {
        let _ = (username, email, password);
        Err(Fault::busy("not yet"))
    }

    /// Makes an existing user (by name or address) an administrator; ends their sessions, so that new tokens say so.
    pub async fn promote(&self, identifier: &str) -> Result<UserId, Fault> {
        let _ = identifier;
        Err(Fault::busy("not yet"))
    }

    /// Makes users with sessions and long tokens.
    pub async fn seed(&self, request: SeedRequest) -> Result<SeedReport, Fault> {
        let _ = request;
        Err(Fault::busy("not yet"))
    }

    /// Imports series by the store's rules and publishes the new catalogue to every shard before it answers.
    pub async fn import(&self, rows: Vec<ImportRow>) -> Result<ImportReport, Fault> {
        let _ = rows;
        Err(Fault::busy("not yet"))
    }

    /// The store, for its own upkeep: check, parked records. Nothing that a shard holds in memory is changed through it.
    pub fn store(&self) -> SharedStore {
        unimplemented!("api first")
    }

    /// Applies a parked record again and takes it out when that works; false when there is no such record. The user's memory
    /// holds its effect already.
    pub async fn retry_parked(&self, id: i64) -> Result<bool, Fault> {
        let _ = id;
        Err(Fault::busy("not yet"))
    }

    /// How far the store has followed the journal.
    pub fn backlog(&self) -> Backlog {
        Backlog::default()
    }
}

/// How far the store has followed the journal, for `db drain` and the statistics.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Backlog {
    /// The last durable record.
    pub durable_lsn: u64,
    /// Every record up to here is in the store.
    pub stored_lsn: u64,
    /// Records that the store refused and that wait for a person.
    pub parked: u64,
}
