//! The journalled tables as columns: one statement per table writes any number of rows, each only when it is ahead of what is
//! stored by the same fields in the same order as `hub::merge`.

use hub::device::Device;
use proto::{UserId, Version};
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;
use uuid::Uuid;

use super::failure::Failure;
use super::statement::{execute, int, params};
use crate::store::guards;

const PROGRESS: &str = concat!(
    "
    INSERT INTO user_progress AS stored
        (user_id, manga_id, generation, chapter, version, node, deleted, page, ahead)
    SELECT * FROM UNNEST($1::uuid[], $2::bigint[], $3::bigint[], $4::integer[], $5::bigint[], $6::bigint[], $7::boolean[],
                         $8::bigint[], $9::boolean[])
",
    guards::progress!()
);

const LIBRARY: &str = concat!(
    "
    INSERT INTO user_library AS stored (user_id, manga_id, version, node, deleted, status, added_at)
    SELECT * FROM UNNEST($1::uuid[], $2::bigint[], $3::bigint[], $4::bigint[], $5::boolean[], $6::smallint[], $7::bigint[])
",
    guards::library!()
);

const HISTORY: &str = concat!(
    "
    INSERT INTO progress_history AS stored
        (user_id, day, manga_id, node, updates, chapters, last_chapter, first_chapter, jump, version)
    SELECT * FROM UNNEST($1::uuid[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::integer[],
                         $8::integer[], $9::boolean[], $10::bigint[])
",
    guards::history!()
);

const PREFERENCES: &str = concat!(
    "
    INSERT INTO preferences AS stored (user_id, version, node, strategy, utc_offset_minutes)
    SELECT * FROM UNNEST($1::uuid[], $2::bigint[], $3::bigint[], $4::text[], $5::integer[])
",
    guards::preferences!()
);

/// Writes each row only over the revision that was read. That a row was left out is told by a division by zero, because the
/// commit is already on its way: the transaction fails, and is tried again.
const DEVICES_WRITE: &str = "
    WITH written AS (
        INSERT INTO devices AS stored (user_id, device_id, epoch, removed, last_seen, last_seq, applied, revision)
        SELECT * FROM UNNEST($1::uuid[], $2::uuid[], $3::bigint[], $4::boolean[], $5::bigint[], $6::bigint[], $7::bytea[],
                             $8::bigint[])
        ON CONFLICT (user_id, device_id) DO UPDATE SET
            epoch = excluded.epoch, removed = excluded.removed, last_seen = excluded.last_seen,
            last_seq = excluded.last_seq, applied = excluded.applied, revision = excluded.revision
        WHERE excluded.revision = stored.revision + 1
        RETURNING 1
    )
    SELECT 1 / (CASE WHEN count(*) = $9 THEN 1 ELSE 0 END) FROM written";

/// A user's id as a column holds it.
pub(super) fn uuid(user: UserId) -> Uuid {
    Uuid::from_bytes(*user.as_bytes())
}

/// Rows of `user_progress`.
#[derive(Default)]
pub(super) struct Progress {
    users: Vec<Uuid>,
    manga: Vec<i64>,
    generations: Vec<i64>,
    chapters: Vec<i32>,
    versions: Vec<i64>,
    nodes: Vec<i64>,
    deleted: Vec<bool>,
    pages: Vec<Option<i64>>,
    ahead: Vec<bool>,
}

/// Rows of `user_library`.
#[derive(Default)]
pub(super) struct Library {
    users: Vec<Uuid>,
    manga: Vec<i64>,
    versions: Vec<i64>,
    nodes: Vec<i64>,
    deleted: Vec<bool>,
    statuses: Vec<i16>,
    added_at: Vec<i64>,
}

/// Rows of `progress_history`.
#[derive(Default)]
pub(super) struct History {
    users: Vec<Uuid>,
    days: Vec<i64>,
    manga: Vec<i64>,
    nodes: Vec<i64>,
    updates: Vec<i64>,
    chapters: Vec<i64>,
    last: Vec<i32>,
    first: Vec<i32>,
    jumps: Vec<bool>,
    versions: Vec<i64>,
}

/// Rows of `preferences`.
#[derive(Default)]
pub(super) struct Preferences {
    users: Vec<Uuid>,
    versions: Vec<i64>,
    nodes: Vec<i64>,
    strategies: Vec<&'static str>,
    utc_offsets: Vec<i32>,
}

fn hundredths(chapter: proto::Chapter) -> i32 {
    i32::try_from(chapter.hundredths()).expect("a chapter is at most a hundred million hundredths")
}

impl Progress {
    pub(super) fn len(&self) -> usize {
        self.users.len()
    }

    pub(super) fn push(
        &mut self,
        user: UserId,
        manga: proto::MangaId,
        row: &hub::progress::ProgressRow,
    ) -> Result<(), Failure> {
        self.users.push(uuid(user));
        self.manga.push(manga.0);
        self.generations.push(int(row.key.generation.0)?);
        self.chapters.push(hundredths(row.key.chapter));
        self.versions.push(int(row.key.version.0)?);
        self.nodes.push(row.key.node.0.into());
        self.deleted.push(row.deleted);
        self.pages.push(row.page.map(|page| page.0.into()));
        self.ahead.push(row.ahead);
        Ok(())
    }

    pub(super) async fn write(&self, client: &Client) -> Result<u64, Failure> {
        let Self { users, manga, generations, chapters, versions, nodes, deleted, pages, ahead } = self;
        if users.is_empty() {
            return Ok(0);
        }
        let params = params![*users, *manga, *generations, *chapters, *versions, *nodes, *deleted, *pages, *ahead];
        execute(client, PROGRESS, params).await
    }
}

impl Library {
    pub(super) fn len(&self) -> usize {
        self.users.len()
    }

    pub(super) fn push(
        &mut self,
        user: UserId,
        manga: proto::MangaId,
        row: &hub::library::LibraryRow,
    ) -> Result<(), Failure> {
        self.users.push(uuid(user));
        self.manga.push(manga.0);
        self.versions.push(int(row.version.0)?);
        self.nodes.push(row.node.0.into());
        self.deleted.push(row.deleted);
        self.statuses.push(row.status.as_byte().into());
        self.added_at.push(int(row.added_at_ms)?);
        Ok(())
    }

    pub(super) async fn write(&self, client: &Client) -> Result<u64, Failure> {
        let Self { users, manga, versions, nodes, deleted, statuses, added_at } = self;
        if users.is_empty() {
            return Ok(0);
        }
        execute(client, LIBRARY, params![*users, *manga, *versions, *nodes, *deleted, *statuses, *added_at]).await
    }
}

impl History {
    pub(super) fn len(&self) -> usize {
        self.users.len()
    }

    pub(super) fn push(
        &mut self,
        (user, manga, node): (UserId, proto::MangaId, proto::NodeId),
        day: hub::history::LocalDay,
        row: &hub::history::HistoryRow,
        version: Version,
    ) -> Result<(), Failure> {
        self.users.push(uuid(user));
        self.days.push(day.0.into());
        self.manga.push(manga.0);
        self.nodes.push(node.0.into());
        self.updates.push(row.updates.into());
        self.chapters.push(row.chapters.into());
        self.last.push(hundredths(row.last));
        self.first.push(hundredths(row.first));
        self.jumps.push(row.jump);
        self.versions.push(int(version.0)?);
        Ok(())
    }

    pub(super) async fn write(&self, client: &Client) -> Result<u64, Failure> {
        let Self { users, days, manga, nodes, updates, chapters, last, first, jumps, versions } = self;
        if users.is_empty() {
            return Ok(0);
        }
        let params = params![*users, *days, *manga, *nodes, *updates, *chapters, *last, *first, *jumps, *versions];
        execute(client, HISTORY, params).await
    }
}

impl Preferences {
    pub(super) fn len(&self) -> usize {
        self.users.len()
    }

    pub(super) fn push(&mut self, user: UserId, row: &hub::preferences::Preferences) -> Result<(), Failure> {
        self.users.push(uuid(user));
        self.versions.push(int(row.version.0)?);
        self.nodes.push(row.node.0.into());
        self.strategies.push(row.strategy.as_str());
        self.utc_offsets.push(row.utc_offset.minutes().into());
        Ok(())
    }

    pub(super) async fn write(&self, client: &Client) -> Result<u64, Failure> {
        let Self { users, versions, nodes, strategies, utc_offsets } = self;
        if users.is_empty() {
            return Ok(0);
        }
        execute(client, PREFERENCES, params![*users, *versions, *nodes, *strategies, *utc_offsets]).await
    }
}

/// Devices as they are to be stored.
#[derive(Default)]
pub(super) struct Devices {
    users: Vec<Uuid>,
    devices: Vec<Uuid>,
    epochs: Vec<i64>,
    removed: Vec<bool>,
    seen: Vec<i64>,
    last_seqs: Vec<i64>,
    applied: Vec<Vec<u8>>,
    revisions: Vec<i64>,
}

impl Devices {
    pub(super) fn push(&mut self, user: UserId, device: &Device, revision: u64) -> Result<(), Failure> {
        self.users.push(uuid(user));
        self.devices.push(Uuid::from_bytes(*device.id.as_bytes()));
        self.epochs.push(int(device.epoch.0)?);
        self.removed.push(device.removed);
        self.seen.push(int(device.seen.0)?);
        self.last_seqs.push(int(device.window.last_seq().0)?);
        self.applied.push(device.window.to_bytes());
        self.revisions.push(int(revision)?);
        Ok(())
    }

    pub(super) async fn write(&self, client: &Client) -> Result<u64, Failure> {
        let Self { users, devices, epochs, removed, seen, last_seqs, applied, revisions } = self;
        if users.is_empty() {
            return Ok(0);
        }
        let count = users.len() as i64;
        let params = params![*users, *devices, *epochs, *removed, *seen, *last_seqs, *applied, *revisions, count];
        match client.execute_typed(DEVICES_WRITE, params).await {
            Ok(_) => Ok(users.len() as u64),
            Err(error) if error.code() == Some(&SqlState::DIVISION_BY_ZERO) => {
                Err(Failure::Conflict("another node wrote the same device".to_owned()))
            }
            Err(error) => Err(error.into()),
        }
    }
}
