//! Reading users' state: one user whole, pages of history, parked records. All statements of a request see one snapshot.

use hub::history::{HistoryRow, LocalDay};
use hub::library::LibraryRow;
use hub::load::{StoredHistory, StoredUser};
use hub::preferences::{Preferences, Strategy, UtcOffset};
use hub::progress::ProgressRow;
use proto::{Chapter, DeviceId, MangaId, MergeKey, NodeId, Page, ReadingStatus, UserId, Version};
use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::apply;
use super::connection::refusal;
use crate::journal::{JournalId, Lsn};
use crate::lane::Lane;
use crate::store::history::Paging;
use crate::store::{HistoryAfter, HistoryPage, LoadedUser, ParkedRecord, StoreError};

/// Everything about one user; `None` when there is no such user.
pub(super) fn user(conn: &Connection, user: UserId) -> Result<Option<LoadedUser>, StoreError> {
    let known = conn
        .prepare_cached("SELECT 1 FROM users WHERE id = ?1")
        .and_then(|mut query| query.exists([user.as_bytes()]))
        .map_err(refusal)?;
    if !known {
        return Ok(None);
    }
    let read = || -> rusqlite::Result<LoadedUser> {
        let stored = StoredUser {
            user,
            preferences: preferences(conn, user)?,
            progress: progress(conn, user)?,
            library: library(conn, user)?,
            devices: Vec::new(),
            history: latest_history(conn, user)?,
        };
        Ok(LoadedUser { stored, parked: parked_of(conn, user)? })
    };
    let mut loaded = read().map_err(refusal)?;
    loaded.stored.devices = devices(conn, user)?;
    Ok(Some(loaded))
}

fn progress(conn: &Connection, user: UserId) -> rusqlite::Result<Vec<(MangaId, ProgressRow)>> {
    let sql = "SELECT manga_id, generation, chapter, version, node, deleted, page, ahead FROM user_progress WHERE user_id = ?1";
    let mut query = conn.prepare_cached(sql)?;
    let rows = query.query_map([user.as_bytes()], |row| {
        let key = MergeKey {
            generation: Version(row.get(1)?),
            chapter: chapter(row, 2)?,
            version: Version(row.get(3)?),
            node: NodeId(row.get(4)?),
        };
        let page = row.get::<_, Option<u32>>(6)?.map(Page);
        Ok((MangaId(row.get(0)?), ProgressRow { key, deleted: row.get(5)?, page, ahead: row.get(7)? }))
    })?;
    rows.collect()
}

fn library(conn: &Connection, user: UserId) -> rusqlite::Result<Vec<(MangaId, LibraryRow)>> {
    let sql = "SELECT manga_id, version, node, deleted, status, added_at FROM user_library WHERE user_id = ?1";
    let mut query = conn.prepare_cached(sql)?;
    let rows = query.query_map([user.as_bytes()], |row| {
        let status = ReadingStatus::from_byte(row.get(4)?).ok_or_else(|| odd(4, "not a reading status"))?;
        let (version, node) = (Version(row.get(1)?), NodeId(row.get(2)?));
        Ok((MangaId(row.get(0)?), LibraryRow { version, node, deleted: row.get(3)?, status, added_at_ms: row.get(5)? }))
    })?;
    rows.collect()
}

fn preferences(conn: &Connection, user: UserId) -> rusqlite::Result<Option<Preferences>> {
    let sql = "SELECT version, node, strategy, utc_offset_minutes FROM preferences WHERE user_id = ?1";
    let read = |row: &Row<'_>| {
        let strategy: Strategy = row.get_ref(2)?.as_str()?.parse().map_err(|_| odd(2, "not a strategy"))?;
        let utc_offset = UtcOffset::from_minutes(row.get(3)?).map_err(|_| odd(3, "not an offset"))?;
        Ok(Preferences { version: Version(row.get(0)?), node: NodeId(row.get(1)?), strategy, utc_offset })
    };
    conn.prepare_cached(sql)?.query_row([user.as_bytes()], read).optional()
}

fn devices(conn: &Connection, user: UserId) -> Result<Vec<hub::device::Device>, StoreError> {
    let sql = "SELECT device_id, epoch, removed, last_seen, last_seq, applied FROM devices WHERE user_id = ?1";
    let mut query = conn.prepare_cached(sql).map_err(refusal)?;
    let rows = query.query_map([user.as_bytes()], |row| Ok(apply::device(DeviceId::from_bytes(row.get(0)?), row, 1)));
    rows.map_err(refusal)?.map(|device| device.map_err(refusal)?).collect()
}

/// Each node's row of the latest day, per series. SQLite gives the other columns of the row that has the maximum
/// (sqlite.org/lang_select.html, "bare columns").
fn latest_history(conn: &Connection, user: UserId) -> rusqlite::Result<Vec<StoredHistory>> {
    let sql = "SELECT manga_id, node, max(day), updates, chapters, last_chapter, first_chapter, jump
               FROM progress_history WHERE user_id = ?1 GROUP BY manga_id, node";
    let mut query = conn.prepare_cached(sql)?;
    let rows = query.query_map([user.as_bytes()], |row| {
        let history = history_row(row, 2)?;
        Ok(StoredHistory { manga: MangaId(row.get(0)?), node: NodeId(row.get(1)?), row: history })
    })?;
    rows.collect()
}

/// A history row from six columns: day, updates, chapters, last, first, jump.
fn history_row(row: &Row<'_>, at: usize) -> rusqlite::Result<HistoryRow> {
    Ok(HistoryRow {
        day: LocalDay(row.get(at)?),
        updates: row.get(at + 1)?,
        chapters: row.get(at + 2)?,
        last: chapter(row, at + 3)?,
        first: chapter(row, at + 4)?,
        jump: row.get(at + 5)?,
    })
}

/// A page of history: days are gathered whole, newest first, so that the nodes of a series can be added up.
pub(super) fn history(
    conn: &Connection,
    user: UserId,
    after: Option<HistoryAfter>,
    rows_max: usize,
) -> Result<HistoryPage, StoreError> {
    let read = || -> rusqlite::Result<HistoryPage> {
        let sql = "SELECT manga_id, day, updates, chapters, last_chapter, first_chapter, jump, version
                   FROM progress_history WHERE user_id = ?1 AND day <= ?2 ORDER BY day DESC, manga_id DESC, node DESC";
        let mut query = conn.prepare_cached(sql)?;
        let newest = after.map_or(u32::MAX, |after| after.day.0);
        let mut rows = query.query(params![user.as_bytes(), newest])?;
        let mut paging = Paging::new(after, rows_max);
        while let Some(row) = rows.next()? {
            let (manga, history, version) = (MangaId(row.get(0)?), history_row(row, 1)?, Version(row.get(7)?));
            if !paging.add(manga, &history, version) {
                break;
            }
        }
        Ok(paging.finish())
    };
    read().map_err(refusal)
}

const PARKED: &str =
    "SELECT id, journal_id, lane, lsn, user_id, kind, version, payload, error, parked_at FROM parked_records";

fn parked_row(row: &Row<'_>) -> rusqlite::Result<ParkedRecord> {
    Ok(ParkedRecord {
        id: row.get(0)?,
        journal: JournalId(row.get(1)?),
        lane: Lane::from_byte(row.get(2)?).ok_or_else(|| odd(2, "not a lane"))?,
        lsn: Lsn(row.get(3)?),
        user: row.get::<_, Option<[u8; 16]>>(4)?.map(UserId::from_bytes),
        kind: row.get(5)?,
        version: row.get(6)?,
        payload: row.get(7)?,
        error: row.get(8)?,
        parked_at_unix_ms: row.get(9)?,
    })
}

fn parked_of(conn: &Connection, user: UserId) -> rusqlite::Result<Vec<ParkedRecord>> {
    let mut query = conn.prepare_cached(&format!("{PARKED} WHERE user_id = ?1 ORDER BY id"))?;
    query.query_map([user.as_bytes()], parked_row)?.collect()
}

/// The oldest parked records behind one.
pub(super) fn parked(conn: &Connection, after: i64, rows_max: usize) -> Result<Vec<ParkedRecord>, StoreError> {
    let read = || -> rusqlite::Result<Vec<ParkedRecord>> {
        let mut query = conn.prepare_cached(&format!("{PARKED} WHERE id > ?1 ORDER BY id LIMIT ?2"))?;
        query.query_map([after, i64::try_from(rows_max).unwrap_or(i64::MAX)], parked_row)?.collect()
    };
    read().map_err(refusal)
}

/// Takes a parked record out.
pub(super) fn unpark(conn: &Connection, id: i64) -> Result<bool, StoreError> {
    let removed =
        conn.prepare_cached("DELETE FROM parked_records WHERE id = ?1").and_then(|mut delete| delete.execute([id]));
    Ok(removed.map_err(refusal)? > 0)
}

fn chapter(row: &Row<'_>, at: usize) -> rusqlite::Result<Chapter> {
    Chapter::from_hundredths(row.get(at)?).map_err(|_| odd(at, "not a chapter"))
}

/// A column that holds what no version of the server writes.
pub(super) fn odd(column: usize, what: &'static str) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, Type::Integer, what.into())
}
