//! Writing batches: rows under the guards of the merge order, parked records, cursors. Every statement changes a row only when
//! what comes is ahead of what is stored, by the same fields in the same order as `hub::merge`; so any batch may come any number
//! of times. The caller's transaction holds all of it.

use hub::device::Device;
use hub::window::Window;
use proto::{DeviceId, DeviceSeq, UserId, Version};
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::connection::refusal;
use crate::journal::{JournalId, LaneCursors};
use crate::store::batch::sorted;
use crate::store::guards;
use crate::store::{Applied, Batch, NewParked, Rows, StoreError};

const PROGRESS: &str = concat!(
    "
    INSERT INTO user_progress AS stored (user_id, manga_id, generation, chapter, version, node, deleted, page, ahead)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)
",
    guards::progress!()
);

const LIBRARY: &str = concat!(
    "
    INSERT INTO user_library AS stored (user_id, manga_id, version, node, deleted, status, added_at)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
",
    guards::library!()
);

const HISTORY: &str = concat!(
    "
    INSERT INTO progress_history AS stored
        (user_id, day, manga_id, node, updates, chapters, last_chapter, first_chapter, jump, version)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)
",
    guards::history!()
);

const PREFERENCES: &str = concat!(
    "
    INSERT INTO preferences AS stored (user_id, version, node, strategy, utc_offset_minutes)
    VALUES (?1, ?2, ?3, ?4, ?5)
",
    guards::preferences!()
);

const DEVICE_READ: &str =
    "SELECT epoch, removed, last_seen, last_seq, applied FROM devices WHERE user_id = ?1 AND device_id = ?2";

const DEVICE_WRITE: &str = "
    INSERT INTO devices (user_id, device_id, epoch, removed, last_seen, last_seq, applied) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
    ON CONFLICT (user_id, device_id) DO UPDATE SET
        epoch = excluded.epoch, removed = excluded.removed, last_seen = excluded.last_seen, last_seq = excluded.last_seq,
        applied = excluded.applied";

const CURSOR: &str = "
    INSERT INTO journal_cursor AS stored (journal_id, lane, lsn) VALUES (?1, ?2, ?3)
    ON CONFLICT (journal_id, lane) DO UPDATE SET lsn = excluded.lsn WHERE excluded.lsn > stored.lsn";

const PARK: &str = "
    INSERT INTO parked_records (journal_id, lane, lsn, user_id, kind, version, payload, error, parked_at)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9) ON CONFLICT (journal_id, lsn) DO NOTHING";

/// Stores a whole batch.
pub(super) fn batch(conn: &Connection, batch: &Batch) -> Result<Applied, StoreError> {
    let applied = rows(conn, &batch.rows)?;
    for parked in &batch.parked {
        park(conn, batch.journal, parked, batch.now_unix_ms).map_err(refusal)?;
    }
    let mut cursor = conn.prepare_cached(CURSOR).map_err(refusal)?;
    for (lane, lsn) in &batch.cursors {
        cursor.execute(params![batch.journal.0, lane.as_byte(), lsn.0]).map_err(refusal)?;
    }
    Ok(applied)
}

fn park(conn: &Connection, journal: JournalId, parked: &NewParked, now_unix_ms: u64) -> rusqlite::Result<usize> {
    let NewParked { lane, lsn, user, kind, version, payload, error } = parked;
    let user = user.as_ref().map(UserId::as_bytes);
    let values = params![journal.0, lane.as_byte(), lsn.0, user, kind, version, payload, error, now_unix_ms];
    conn.prepare_cached(PARK)?.execute(values)
}

/// Stores rows.
pub(super) fn rows(conn: &Connection, rows: &Rows) -> Result<Applied, StoreError> {
    let mut applied = Applied::default();
    let tables = [progress, library, history, preferences];
    for table in tables {
        table(conn, rows, &mut applied).map_err(refusal)?;
    }
    devices(conn, rows, &mut applied)?;
    Ok(applied)
}

impl Applied {
    fn count(&mut self, written: usize) {
        self.changed += written as u64;
        self.behind += u64::from(written == 0);
    }
}

fn progress(conn: &Connection, rows: &Rows, applied: &mut Applied) -> rusqlite::Result<()> {
    let mut upsert = conn.prepare_cached(PROGRESS)?;
    for ((user, manga), row) in sorted(&rows.progress) {
        let key = &row.key;
        applied.count(upsert.execute(params![
            user.as_bytes(),
            manga.0,
            key.generation.0,
            key.chapter.hundredths(),
            key.version.0,
            key.node.0,
            row.deleted,
            row.page.map(|page| page.0),
            row.ahead,
        ])?);
    }
    Ok(())
}

fn library(conn: &Connection, rows: &Rows, applied: &mut Applied) -> rusqlite::Result<()> {
    let mut upsert = conn.prepare_cached(LIBRARY)?;
    for ((user, manga), row) in sorted(&rows.library) {
        applied.count(upsert.execute(params![
            user.as_bytes(),
            manga.0,
            row.version.0,
            row.node.0,
            row.deleted,
            row.status.as_byte(),
            row.added_at_ms,
        ])?);
    }
    Ok(())
}

fn history(conn: &Connection, rows: &Rows, applied: &mut Applied) -> rusqlite::Result<()> {
    let mut upsert = conn.prepare_cached(HISTORY)?;
    for ((user, day, manga, node), (row, version)) in sorted(&rows.history) {
        applied.count(upsert.execute(params![
            user.as_bytes(),
            day.0,
            manga.0,
            node.0,
            row.updates,
            row.chapters,
            row.last.hundredths(),
            row.first.hundredths(),
            row.jump,
            version.0,
        ])?);
    }
    Ok(())
}

fn preferences(conn: &Connection, rows: &Rows, applied: &mut Applied) -> rusqlite::Result<()> {
    let mut upsert = conn.prepare_cached(PREFERENCES)?;
    for (user, row) in sorted(&rows.preferences) {
        applied.count(upsert.execute(params![
            user.as_bytes(),
            row.version.0,
            row.node.0,
            row.strategy.as_str(),
            row.utc_offset.minutes(),
        ])?);
    }
    Ok(())
}

fn devices(conn: &Connection, rows: &Rows, applied: &mut Applied) -> Result<(), StoreError> {
    let mut read = conn.prepare_cached(DEVICE_READ).map_err(refusal)?;
    let mut write = conn.prepare_cached(DEVICE_WRITE).map_err(refusal)?;
    for ((user, id), change) in sorted(&rows.devices) {
        let stored = read
            .query_row(params![user.as_bytes(), id.as_bytes()], |row| Ok(device(id, row, 0)))
            .optional()
            .map_err(refusal)?
            .transpose()
            .map_err(refused_by_row)?;
        let Some(next) = change.united(id, stored) else {
            applied.count(0);
            continue;
        };
        let window = next.window.to_bytes();
        let values = params![
            user.as_bytes(),
            id.as_bytes(),
            next.epoch.0,
            next.removed,
            next.seen.0,
            next.window.last_seq().0,
            window,
        ];
        applied.count(write.execute(values).map_err(refusal)?);
    }
    Ok(())
}

/// A stored row that cannot be read refuses what comes for its key, and nothing else.
fn refused_by_row(error: StoreError) -> StoreError {
    match error {
        StoreError::Corrupt { reason } => StoreError::Refused { reason },
        other => other,
    }
}

/// A device's row from five columns: epoch, removed, last_seen, last_seq, applied.
pub(super) fn device(id: DeviceId, row: &Row<'_>, at: usize) -> Result<Device, StoreError> {
    let columns = || -> rusqlite::Result<(u64, bool, u64, u64, Vec<u8>)> {
        Ok((row.get(at)?, row.get(at + 1)?, row.get(at + 2)?, row.get(at + 3)?, row.get(at + 4)?))
    };
    let (epoch, removed, seen, last_seq, applied) = columns().map_err(refusal)?;
    let window = Window::from_bytes(DeviceSeq(last_seq), &applied)
        .map_err(|error| StoreError::Corrupt { reason: format!("device {id}: {error}") })?;
    Ok(Device { id, epoch: Version(epoch), removed, seen: Version(seen), window })
}

/// How far a journal has been applied.
pub(super) fn cursors(conn: &Connection, journal: JournalId) -> Result<LaneCursors, StoreError> {
    let all = journals(conn)?;
    Ok(all.into_iter().find(|(id, _)| *id == journal).map_or(LaneCursors::START, |(_, cursors)| cursors))
}

/// Every journal with its cursors.
pub(super) fn journals(conn: &Connection) -> Result<Vec<(JournalId, LaneCursors)>, StoreError> {
    let mut query = conn
        .prepare_cached("SELECT journal_id, lane, lsn FROM journal_cursor ORDER BY journal_id, lane")
        .map_err(refusal)?;
    let mut found: Vec<(JournalId, LaneCursors)> = Vec::new();
    let mut rows = query.query([]).map_err(refusal)?;
    while let Some(row) = rows.next().map_err(refusal)? {
        let read = || -> rusqlite::Result<([u8; 16], u8, u64)> { Ok((row.get(0)?, row.get(1)?, row.get(2)?)) };
        let (journal, lane, lsn) = read().map_err(refusal)?;
        let lane = crate::lane::Lane::from_byte(lane)
            .ok_or_else(|| StoreError::Corrupt { reason: format!("journal_cursor has lane {lane}") })?;
        if found.last().is_none_or(|(id, _)| id.0 != journal) {
            found.push((JournalId(journal), LaneCursors::START));
        }
        let (_, cursors) = found.last_mut().expect("just pushed");
        cursors.advance(lane, crate::journal::Lsn(lsn));
    }
    Ok(found)
}

/// Sets a journal's cursors, whatever they were.
pub(super) fn adopt(conn: &Connection, journal: JournalId, cursors: &LaneCursors) -> Result<(), StoreError> {
    let write = || -> rusqlite::Result<()> {
        let mut set =
            conn.prepare_cached("INSERT OR REPLACE INTO journal_cursor (journal_id, lane, lsn) VALUES (?1, ?2, ?3)")?;
        for lane in crate::lane::Lane::all() {
            set.execute(params![journal.0, lane.as_byte(), cursors.get(lane).0])?;
        }
        Ok(())
    };
    write().map_err(refusal)
}
