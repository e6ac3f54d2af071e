//! Reading users' state: one user whole, pages of history, parked records. What belongs together is one read-only transaction,
//! sent in one go, so that all statements see one snapshot and no other read comes between them.

use hub::history::{HistoryRow, LocalDay};
use hub::library::LibraryRow;
use hub::load::{StoredHistory, StoredUser};
use hub::preferences::{Preferences, Strategy, UtcOffset};
use hub::progress::ProgressRow;
use proto::{Chapter, DeviceId, MangaId, MergeKey, NodeId, Page, ReadingStatus, UserId, Version};
use tokio_postgres::{Client, Row};
use uuid::Uuid;

use super::apply::device_row;
use super::failure::Failure;
use super::statement::{column, execute, id, number, odd, params, rows, run};
use crate::journal::{JournalId, Lsn};
use crate::lane::Lane;
use crate::store::history::Paging;
use crate::store::{HistoryAfter, HistoryPage, LoadedUser, ParkedRecord};

const SNAPSHOT: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";

const PROGRESS: &str = "SELECT manga_id, generation, chapter, version, node, deleted, page, ahead
                        FROM user_progress WHERE user_id = $1 ORDER BY manga_id";
const LIBRARY: &str = "SELECT manga_id, version, node, deleted, status, added_at FROM user_library
                       WHERE user_id = $1 ORDER BY manga_id";
const PREFERENCES: &str = "SELECT version, node, strategy, utc_offset_minutes FROM preferences WHERE user_id = $1";
const DEVICES: &str = "SELECT device_id, epoch, removed, last_seen, last_seq, applied FROM devices
                       WHERE user_id = $1 ORDER BY device_id";
/// Each node's row of the latest day, per series.
const LATEST: &str = "
    SELECT DISTINCT ON (manga_id, node) manga_id, node, day, updates, chapters, last_chapter, first_chapter, jump
    FROM progress_history WHERE user_id = $1 ORDER BY manga_id, node, day DESC";

/// Everything about one user; `None` when there is no such user.
pub(super) async fn user(client: &Client, user: UserId) -> Result<Option<LoadedUser>, Failure> {
    let id = Uuid::from_bytes(*user.as_bytes());
    let whose: &[_] = params![id];
    let parked = format!("{PARKED} WHERE user_id = $1 ORDER BY id");
    let (begun, known, progress, library, preferences, devices, latest, parked, ended) = tokio::join!(
        biased;
        run(client, SNAPSHOT),
        rows(client, "SELECT 1 FROM users WHERE id = $1", whose),
        rows(client, PROGRESS, whose),
        rows(client, LIBRARY, whose),
        rows(client, PREFERENCES, whose),
        rows(client, DEVICES, whose),
        rows(client, LATEST, whose),
        rows(client, &parked, whose),
        run(client, "COMMIT"),
    );
    begun?;
    if known?.is_empty() {
        return Ok(None);
    }
    let stored = StoredUser {
        user,
        preferences: each(preferences?, preferences_row)?.pop(),
        progress: each(progress?, progress_row)?,
        library: each(library?, library_row)?,
        devices: each(devices?, |row| device_row(DeviceId::from_bytes(super::statement::id(row, 0)?), row, 1))?,
        history: each(latest?, |row| {
            let (manga, node) = (MangaId(column(row, 0)?), NodeId(number(row, 1)?));
            Ok(StoredHistory { manga, node, row: history_row(row, 2)? })
        })?,
    };
    let parked = each(parked?, parked_row)?;
    ended?;
    Ok(Some(LoadedUser { stored, parked }))
}

fn each<T>(rows: Vec<Row>, read: impl Fn(&Row) -> Result<T, Failure>) -> Result<Vec<T>, Failure> {
    rows.iter().map(read).collect()
}

fn progress_row(row: &Row) -> Result<(MangaId, ProgressRow), Failure> {
    let key = MergeKey {
        generation: Version(number(row, 1)?),
        chapter: chapter(row, 2)?,
        version: Version(number(row, 3)?),
        node: NodeId(number(row, 4)?),
    };
    let page = column::<Option<i64>>(row, 6)?.map(u32::try_from).transpose();
    let page = page.map_err(|_| odd("not a page"))?.map(Page);
    Ok((MangaId(column(row, 0)?), ProgressRow { key, deleted: column(row, 5)?, page, ahead: column(row, 7)? }))
}

fn library_row(row: &Row) -> Result<(MangaId, LibraryRow), Failure> {
    let status = u8::try_from(column::<i16>(row, 4)?).ok().and_then(ReadingStatus::from_byte);
    let status = status.ok_or_else(|| odd("not a reading status"))?;
    let (version, node) = (Version(number(row, 1)?), NodeId(number(row, 2)?));
    let row_of = LibraryRow { version, node, deleted: column(row, 3)?, status, added_at_ms: number(row, 5)? };
    Ok((MangaId(column(row, 0)?), row_of))
}

fn preferences_row(row: &Row) -> Result<Preferences, Failure> {
    let strategy: Strategy = column::<String>(row, 2)?.parse().map_err(|_| odd("not a strategy"))?;
    let minutes = i16::try_from(column::<i32>(row, 3)?).map_err(|_| odd("not an offset"))?;
    let utc_offset = UtcOffset::from_minutes(minutes).map_err(|_| odd("not an offset"))?;
    Ok(Preferences { version: Version(number(row, 0)?), node: NodeId(number(row, 1)?), strategy, utc_offset })
}

/// A history row from six columns: day, updates, chapters, last, first, jump.
fn history_row(row: &Row, at: usize) -> Result<HistoryRow, Failure> {
    Ok(HistoryRow {
        day: LocalDay(number(row, at)?),
        updates: number(row, at + 1)?,
        chapters: number(row, at + 2)?,
        last: chapter(row, at + 3)?,
        first: chapter(row, at + 4)?,
        jump: column(row, at + 5)?,
    })
}

fn chapter(row: &Row, at: usize) -> Result<Chapter, Failure> {
    let hundredths = u32::try_from(column::<i32>(row, at)?).map_err(|_| odd("not a chapter"))?;
    Chapter::from_hundredths(hundredths).map_err(|_| odd("not a chapter"))
}

/// A page of history. Rows come in parts, each behind the last one's key, until the page is full.
pub(super) async fn history(
    client: &Client,
    user: UserId,
    after: Option<HistoryAfter>,
    rows_max: usize,
) -> Result<HistoryPage, Failure> {
    let sql = "SELECT manga_id, day, updates, chapters, last_chapter, first_chapter, jump, version, node
               FROM progress_history WHERE user_id = $1 AND (day, manga_id, node) < ($2, $3, $4)
               ORDER BY day DESC, manga_id DESC, node DESC LIMIT $5";
    let id = Uuid::from_bytes(*user.as_bytes());
    // Once more than the page, for the rest of its last day and for other nodes.
    let part = i64::try_from(rows_max).unwrap_or(i64::MAX).saturating_mul(2).clamp(64, 10_000);
    let mut paging = Paging::new(after, rows_max);
    let mut behind = (after.map_or(i64::from(u32::MAX), |after| after.day.0.into()), i64::MAX, i64::MAX);
    loop {
        let found = rows(client, sql, params![id, behind.0, behind.1, behind.2, part]).await?;
        for row in &found {
            let (manga, history, version) = (MangaId(column(row, 0)?), history_row(row, 1)?, Version(number(row, 7)?));
            if !paging.add(manga, &history, version) {
                return Ok(paging.finish());
            }
            behind = (history.day.0.into(), manga.0, column(row, 8)?);
        }
        if (found.len() as i64) < part {
            return Ok(paging.finish());
        }
    }
}

const PARKED: &str =
    "SELECT id, journal_id, lane, lsn, user_id, kind, version, payload, error, parked_at FROM parked_records";

fn parked_row(row: &Row) -> Result<ParkedRecord, Failure> {
    let byte = |at| u8::try_from(column::<i16>(row, at)?).map_err(|_| odd("not a byte"));
    Ok(ParkedRecord {
        id: column(row, 0)?,
        journal: JournalId(id(row, 1)?),
        lane: Lane::from_byte(byte(2)?).ok_or_else(|| odd("not a lane"))?,
        lsn: Lsn(number(row, 3)?),
        user: column::<Option<Uuid>>(row, 4)?.map(|id| UserId::from_bytes(id.into_bytes())),
        kind: byte(5)?,
        version: byte(6)?,
        payload: column(row, 7)?,
        error: column(row, 8)?,
        parked_at_unix_ms: number(row, 9)?,
    })
}

/// The oldest parked records behind one.
pub(super) async fn parked(client: &Client, after: i64, rows_max: usize) -> Result<Vec<ParkedRecord>, Failure> {
    let rows_max = i64::try_from(rows_max).unwrap_or(i64::MAX);
    let sql = format!("{PARKED} WHERE id > $1 ORDER BY id LIMIT $2");
    each(rows(client, &sql, params![after, rows_max]).await?, parked_row)
}

/// Takes a parked record out.
pub(super) async fn unpark(client: &Client, id: i64) -> Result<bool, Failure> {
    Ok(execute(client, "DELETE FROM parked_records WHERE id = $1", params![id]).await? > 0)
}
