//! Administration of a running server, for the admin socket: from any thread, on any executor. It never touches a shard's
//! state; what it changes goes through the store and is published to the shards.

use std::sync::Arc;

use hub::Role;
use proto::{Code, MangaId, SessionId, UserId};
use storage::store::{
    ImportReport, ImportRow, NewRefreshToken, NewSession, NewUser, Rows, SeedUser, SharedStore, StoreError,
};

use crate::accounts::password::NO_PASSWORD;
use crate::accounts::{RegisterRequest, now_ms};
use crate::catalogue::{Catalogue, Series};
use crate::fault::Fault;
use crate::loading::store_fault;
use crate::shared::Shared;
use crate::tokens::{RefreshToken, Subject};
use crate::upkeep::Operations;

/// The largest load run.
const SEED_USERS_MAX: u32 = 1_000_000;
const SEED_SERIES_MAX: u32 = 100_000;
/// Rows per transaction while seeding.
const SEED_BATCH: usize = 1_000;

/// The way in. Cheap to clone, `Send`.
#[derive(Clone)]
pub struct Admin {
    shared: Arc<Shared>,
    operations: Arc<Operations>,
}

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
    pub(crate) fn new(shared: Arc<Shared>, operations: Arc<Operations>) -> Self {
        Self { shared, operations }
    }

    /// Makes an administrator's account.
    pub async fn create_admin(&self, username: &str, email: &str, password: &str) -> Result<UserId, Fault> {
        let request = RegisterRequest {
            username: username.to_owned(),
            email: email.to_owned(),
            password: password.to_owned(),
            invite: None,
        };
        Ok(self.shared.accounts.create(&request, Role::Admin).await?.user_id)
    }

    /// Makes an existing user (by name or address) an administrator; ends their sessions, so that new tokens say so.
    pub async fn promote(&self, identifier: &str) -> Result<UserId, Fault> {
        self.shared.accounts.set_role(identifier, Role::Admin).await
    }

    /// Makes users with sessions and long tokens. They have no password. Running it again makes more users.
    pub async fn seed(&self, request: SeedRequest) -> Result<SeedReport, Fault> {
        if !(1..=SEED_USERS_MAX).contains(&request.users) {
            return Err(Fault::field("users", format!("must be from 1 to {SEED_USERS_MAX}")));
        }
        if !(1..=SEED_SERIES_MAX).contains(&request.series) {
            return Err(Fault::field("series", format!("must be from 1 to {SEED_SERIES_MAX}")));
        }
        let series = self.seed_series(request.series as usize).await?;
        let mut users = Vec::with_capacity(request.users as usize);
        let mut left = request.users as usize;
        while left > 0 {
            let part = left.min(SEED_BATCH);
            users.extend(self.seed_users(part, request.token_ttl_s).await?);
            left -= part;
        }
        Ok(SeedReport { users, series })
    }

    /// Imports series by the store's rules and publishes the new catalogue to every shard before it answers.
    pub async fn import(&self, rows: Vec<ImportRow>) -> Result<ImportReport, Fault> {
        let report = self.shared.store.import(rows, now_ms()).await.map_err(store_fault)?;
        if report.inserted + report.updated > 0 {
            let rows = self.shared.store.load_catalogue().await.map_err(store_fault)?;
            let catalogue = Catalogue::new(rows.into_iter().map(Series::from).collect());
            self.shared.catalogue.store(Arc::new(catalogue));
        }
        Ok(report)
    }

    /// The store, for its own upkeep: check, parked records. Nothing that a shard holds in memory is changed through it.
    pub fn store(&self) -> SharedStore {
        Arc::clone(&self.shared.store)
    }

    /// Applies a parked record again and takes it out when that works; false when there is no such record. The user's memory
    /// holds its effect already.
    pub async fn retry_parked(&self, id: i64) -> Result<bool, Fault> {
        let parked = self.shared.store.parked(id.saturating_sub(1), 1).await.map_err(store_fault)?;
        let Some(parked) = parked.first().filter(|parked| parked.id == id) else { return Ok(false) };
        let record = storage::record::decode_parts(parked.kind, parked.version, &parked.payload)
            .map_err(|error| Fault::new(Code::Unprocessable, format!("The record cannot be read: {error}.")))?;
        let mut rows = Rows::default();
        rows.add(&record);
        match self.shared.store.apply_parked(id, rows).await {
            Ok(_) => Ok(true),
            Err(StoreError::NotFound { .. }) => Ok(false),
            Err(StoreError::Refused { reason }) => {
                Err(Fault::new(Code::Unprocessable, format!("The store still refuses it: {reason}.")))
            }
            Err(error) => Err(store_fault(error)),
        }
    }

    /// What works and what does not, as of the last look (one a second).
    pub fn health(&self) -> crate::Health {
        crate::Health::clone(&self.shared.health.load())
    }

    /// How far the store has followed the journal.
    pub fn backlog(&self) -> Backlog {
        let reading = self.operations.writer().read();
        let end = self.operations.journal_stats().map_or(reading.reached.0, |stats| stats.end.0);
        let other_nodes = self.shared.wire.as_ref().map_or(0, |wire| wire.read().counts.others);
        Backlog { durable_lsn: end, stored_lsn: reading.reached.0, parked: reading.parked, other_nodes }
    }

    /// Series for a load run: the ongoing ones of the catalogue, which have no end to run into, and made-up ones where those are too few.
    async fn seed_series(&self, wanted: usize) -> Result<Vec<MangaId>, Fault> {
        let endless = || -> Vec<MangaId> {
            let catalogue = self.shared.catalogue.load();
            let all = catalogue.page(0, catalogue.len()).iter();
            all.filter(|series| series.status == proto::SeriesStatus::Ongoing)
                .map(|series| series.id)
                .take(wanted)
                .collect()
        };
        let have = endless();
        if have.len() == wanted {
            return Ok(have);
        }
        let row = |row: usize| ImportRow {
            row,
            mangadex_id: None,
            slug: Some(format!("load-series-{row}")),
            title: format!("Load series {row}"),
            alt_titles: Vec::new(),
            author: None,
            status: proto::SeriesStatus::Ongoing,
            total_chapters: 0,
            description: String::new(),
            cover_url: None,
            year: None,
            genres: Vec::new(),
        };
        // Numbered from 1, so that a second run finds the first one's.
        let rows: Vec<ImportRow> = (1..=wanted).map(row).collect();
        for part in rows.chunks(SEED_BATCH) {
            self.import(part.to_vec()).await?;
        }
        Ok(endless())
    }

    async fn seed_users(&self, count: usize, token_ttl_s: u64) -> Result<Vec<Seeded>, Fault> {
        let accounts = &self.shared.accounts;
        let now_ms = now_ms();
        // No token outlives what revocations are remembered for.
        let ttl_s = token_ttl_s.clamp(1, (accounts.keep_until(now_ms) - now_ms) / 1_000);
        let (mut seeds, mut seeded) = (Vec::with_capacity(count), Vec::with_capacity(count));
        for _ in 0..count {
            let (user, session) = (UserId::new_v7(), SessionId::new_v7());
            let username = format!("load-{user}");
            let email = format!("{username}@load.invalid");
            let refresh = RefreshToken::generate()?;
            let subject = Subject { user, username: &username, email: &email, role: Role::User, session };
            let token = accounts.tokens.sign(&subject, now_ms, ttl_s)?;
            seeded.push(Seeded { user, session, token });
            seeds.push(SeedUser {
                user: NewUser {
                    id: user,
                    username_folded: username.clone(),
                    email_folded: email.clone(),
                    username,
                    email,
                    password_hash: NO_PASSWORD.to_owned(),
                    role: Role::User,
                    created_at_unix_ms: now_ms,
                },
                session: Some(NewSession {
                    sid: session,
                    user,
                    device_label: None,
                    ip: None,
                    user_agent: Some("load run".to_owned()),
                    created_at_unix_ms: now_ms,
                    refresh: NewRefreshToken { hash: refresh.hash, expires_at_unix_ms: accounts.keep_until(now_ms) },
                    sessions_per_user_max: 1,
                    keep_revocations_until_unix_ms: accounts.keep_until(now_ms),
                }),
            });
        }
        self.shared.store.seed_users(seeds).await.map_err(store_fault)?;
        Ok(seeded)
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
    /// Other nodes on the same store that are heard; each has a journal of its own.
    pub other_nodes: u64,
}
