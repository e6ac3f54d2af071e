//! The catalogue's tables: reading all of them, and writing down what an import has planned.

use proto::{MangaId, SeriesStatus};
use rusqlite::types::Type;
use rusqlite::{Connection, Row, params};
use rustc_hash::FxHashMap;

use super::connection::refusal;
use crate::store::catalogue::{ImportReport, ImportRow, MangadexId, SeriesRow};
use crate::store::import::{self, Write};
use crate::store::{StoreError, text_list};

const SERIES: &str =
    "id, slug, title, alt_titles, author, status, total_chapters, description, cover_url, year, mangadex_id,
    anilist_id, popularity, average_rating, rating_count, created_at, updated_at";

fn series_row(row: &Row<'_>) -> rusqlite::Result<SeriesRow> {
    let odd = |at: usize, what: &'static str| rusqlite::Error::FromSqlConversionFailure(at, Type::Text, what.into());
    Ok(SeriesRow {
        id: MangaId(row.get(0)?),
        slug: row.get(1)?,
        title: row.get(2)?,
        alt_titles: text_list::parse(row.get_ref(3)?.as_str()?).ok_or_else(|| odd(3, "not a list of texts"))?,
        author: row.get(4)?,
        status: row.get_ref(5)?.as_str()?.parse::<SeriesStatus>().map_err(|_| odd(5, "not a series status"))?,
        total_chapters: row.get(6)?,
        description: row.get(7)?,
        cover_url: row.get(8)?,
        year: row.get(9)?,
        mangadex_id: row.get::<_, Option<[u8; 16]>>(10)?.map(MangadexId),
        anilist_id: row.get(11)?,
        popularity: row.get(12)?,
        average_rating: row.get(13)?,
        rating_count: row.get(14)?,
        genres: Vec::new(),
        created_at_unix_ms: row.get(15)?,
        updated_at_unix_ms: row.get(16)?,
    })
}

/// Every series with its genres, by id.
pub(super) fn load_all(conn: &Connection) -> Result<Vec<SeriesRow>, StoreError> {
    let read = || -> rusqlite::Result<Vec<SeriesRow>> {
        let mut query = conn.prepare_cached(&format!("SELECT {SERIES} FROM manga ORDER BY id"))?;
        let mut all = query.query_map([], series_row)?.collect::<rusqlite::Result<Vec<SeriesRow>>>()?;
        let mut genres: FxHashMap<i64, Vec<String>> = FxHashMap::default();
        let sql = "SELECT manga_genres.manga_id, genres.name FROM manga_genres JOIN genres ON genres.id = manga_genres.genre_id
                   ORDER BY manga_genres.manga_id, genres.name";
        let mut query = conn.prepare_cached(sql)?;
        let mut rows = query.query([])?;
        while let Some(row) = rows.next()? {
            genres.entry(row.get(0)?).or_default().push(row.get(1)?);
        }
        all.iter_mut().for_each(|series| series.genres = genres.remove(&series.id.0).unwrap_or_default());
        Ok(all)
    };
    read().map_err(refusal)
}

/// Imports rows by the rules of `store::import`.
pub(super) fn import(conn: &Connection, rows: Vec<ImportRow>, now_unix_ms: u64) -> Result<ImportReport, StoreError> {
    if rows.len() > import::IMPORT_ROWS_MAX {
        let reason = format!("{} rows at once; at most {} may be", rows.len(), import::IMPORT_ROWS_MAX);
        return Err(StoreError::Refused { reason });
    }
    let plan = import::plan(load_all(conn)?, rows, now_unix_ms);
    for write in &plan.writes {
        match write {
            Write::Insert(series) => insert(conn, series),
            Write::Update(series) => update(conn, series),
        }
        .map_err(refusal)?;
    }
    Ok(plan.report)
}

fn insert(conn: &Connection, series: &SeriesRow) -> rusqlite::Result<()> {
    conn.prepare_cached(
        "INSERT INTO manga (slug, title, alt_titles, author, status, total_chapters, description, cover_url, year,
                            mangadex_id, created_at, updated_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
    )?
    .execute(params![
        series.slug,
        series.title,
        text_list::write(&series.alt_titles),
        series.author,
        series.status.as_str(),
        series.total_chapters,
        series.description,
        series.cover_url,
        series.year,
        series.mangadex_id.map(|id| id.0),
        series.created_at_unix_ms,
        series.updated_at_unix_ms,
    ])?;
    set_genres(conn, conn.last_insert_rowid(), &series.genres)
}

fn update(conn: &Connection, series: &SeriesRow) -> rusqlite::Result<()> {
    conn.prepare_cached(
        "UPDATE manga SET title = ?2, alt_titles = ?3, author = ?4, status = ?5, total_chapters = ?6, description = ?7,
                          cover_url = ?8, year = ?9, mangadex_id = ?10, updated_at = ?11
         WHERE id = ?1",
    )?
    .execute(params![
        series.id.0,
        series.title,
        text_list::write(&series.alt_titles),
        series.author,
        series.status.as_str(),
        series.total_chapters,
        series.description,
        series.cover_url,
        series.year,
        series.mangadex_id.map(|id| id.0),
        series.updated_at_unix_ms,
    ])?;
    conn.prepare_cached("DELETE FROM manga_genres WHERE manga_id = ?1")?.execute([series.id.0])?;
    set_genres(conn, series.id.0, &series.genres)
}

fn set_genres(conn: &Connection, manga: i64, genres: &[String]) -> rusqlite::Result<()> {
    for name in genres {
        conn.prepare_cached("INSERT INTO genres (name) VALUES (?1) ON CONFLICT (name) DO NOTHING")?.execute([name])?;
        conn.prepare_cached("INSERT INTO manga_genres (manga_id, genre_id) SELECT ?1, id FROM genres WHERE name = ?2")?
            .execute(params![manga, name])?;
    }
    Ok(())
}
