//! The catalogue: reading it whole, and writing what an import has planned, all rows of a kind in one statement.

use proto::{MangaId, SeriesStatus};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Row};
use uuid::Uuid;

use super::failure::Failure;
use super::statement::{column, execute, int, number, odd, params, rows};
use crate::store::import::{self, Write};
use crate::store::{ImportReport, ImportRow, MangadexId, SeriesRow, StoreError, text_list};

const LOAD: &str = "
    SELECT id, slug, title, alt_titles, author, status, total_chapters, description, cover_url, year, mangadex_id,
           anilist_id, popularity, average_rating, rating_count, created_at, updated_at,
           ARRAY(SELECT genres.name FROM manga_genres JOIN genres ON genres.id = manga_genres.genre_id
                 WHERE manga_genres.manga_id = manga.id ORDER BY genres.name COLLATE \"C\")
    FROM manga ORDER BY id";

fn series_row(row: &Row) -> Result<SeriesRow, Failure> {
    fn fitting<T, N: TryFrom<T>>(number: Option<T>, what: &str) -> Result<Option<N>, Failure> {
        number.map(N::try_from).transpose().map_err(|_| odd(what))
    }
    Ok(SeriesRow {
        id: MangaId(column(row, 0)?),
        slug: column(row, 1)?,
        title: column(row, 2)?,
        alt_titles: text_list::parse(&column::<String>(row, 3)?).ok_or_else(|| odd("not a list of texts"))?,
        author: column(row, 4)?,
        status: column::<String>(row, 5)?.parse::<SeriesStatus>().map_err(|_| odd("not a series status"))?,
        total_chapters: fitting::<i64, u32>(column(row, 6)?, "not a number of chapters")?,
        description: column(row, 7)?,
        cover_url: column(row, 8)?,
        year: fitting::<i32, u16>(column(row, 9)?, "not a year")?,
        mangadex_id: column::<Option<Uuid>>(row, 10)?.map(|id| MangadexId(id.into_bytes())),
        anilist_id: column(row, 11)?,
        popularity: number(row, 12)?,
        average_rating: column(row, 13)?,
        rating_count: number(row, 14)?,
        created_at_unix_ms: number(row, 15)?,
        updated_at_unix_ms: number(row, 16)?,
        genres: column(row, 17)?,
    })
}

/// Every series with its genres, by id.
pub(super) async fn load_all(client: &Client) -> Result<Vec<SeriesRow>, Failure> {
    rows(client, LOAD, params![]).await?.iter().map(series_row).collect()
}

/// Imports rows by the rules of `store::import`. An import of another node that gets there first makes this one plan again.
pub(super) async fn import(
    client: &Client,
    import_rows: Vec<ImportRow>,
    now_unix_ms: u64,
) -> Result<ImportReport, Failure> {
    if import_rows.len() > import::IMPORT_ROWS_MAX {
        let reason = format!("{} rows at once; at most {} may be", import_rows.len(), import::IMPORT_ROWS_MAX);
        return Err(StoreError::Refused { reason }.into());
    }
    let plan = import::plan(load_all(client).await?, import_rows, now_unix_ms);
    let split = |insert: bool| {
        let of_kind = plan.writes.iter().filter_map(move |write| match write {
            Write::Insert(series) => insert.then_some(series),
            Write::Update(series) => (!insert).then_some(series),
        });
        of_kind.collect::<Vec<&SeriesRow>>()
    };
    insert(client, &split(true)).await?;
    update(client, &split(false)).await?;
    Ok(plan.report)
}

/// The columns that an import writes, for many series.
struct Columns<'a> {
    slugs: Vec<&'a str>,
    titles: Vec<&'a str>,
    alt_titles: Vec<String>,
    authors: Vec<Option<&'a str>>,
    statuses: Vec<&'a str>,
    totals: Vec<Option<i64>>,
    descriptions: Vec<&'a str>,
    covers: Vec<Option<&'a str>>,
    years: Vec<Option<i32>>,
    mangadex_ids: Vec<Option<Uuid>>,
    updated: Vec<i64>,
}

impl<'a> Columns<'a> {
    fn of(series: &[&'a SeriesRow]) -> Result<Self, Failure> {
        Ok(Self {
            slugs: series.iter().map(|row| &*row.slug).collect(),
            titles: series.iter().map(|row| &*row.title).collect(),
            alt_titles: series.iter().map(|row| text_list::write(&row.alt_titles)).collect(),
            authors: series.iter().map(|row| row.author.as_deref()).collect(),
            statuses: series.iter().map(|row| row.status.as_str()).collect(),
            totals: series.iter().map(|row| row.total_chapters.map(i64::from)).collect(),
            descriptions: series.iter().map(|row| &*row.description).collect(),
            covers: series.iter().map(|row| row.cover_url.as_deref()).collect(),
            years: series.iter().map(|row| row.year.map(i32::from)).collect(),
            mangadex_ids: series.iter().map(|row| row.mangadex_id.map(|id| Uuid::from_bytes(id.0))).collect(),
            updated: series.iter().map(|row| int(row.updated_at_unix_ms)).collect::<Result<_, _>>()?,
        })
    }

    /// Runs a statement whose parameters are these columns, in the order of the fields.
    async fn write(&self, client: &Client, sql: &str) -> Result<u64, Failure> {
        let Self {
            slugs,
            titles,
            alt_titles,
            authors,
            statuses,
            totals,
            descriptions,
            covers,
            years,
            mangadex_ids,
            updated,
        } = self;
        let values = params![
            *slugs,
            *titles,
            *alt_titles,
            *authors,
            *statuses,
            *totals,
            *descriptions,
            *covers,
            *years,
            *mangadex_ids,
            *updated
        ];
        client.execute_typed(sql, values).await.map_err(met_another)
    }
}

async fn insert(client: &Client, series: &[&SeriesRow]) -> Result<(), Failure> {
    if series.is_empty() {
        return Ok(());
    }
    let sql = "INSERT INTO manga (slug, title, alt_titles, author, status, total_chapters, description, cover_url, year,
                                  mangadex_id, created_at, updated_at)
               SELECT slug, title, alt_titles, author, status, total_chapters, description, cover_url, year, mangadex_id,
                      updated_at, updated_at
               FROM UNNEST($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::bigint[], $7::text[], $8::text[],
                           $9::integer[], $10::uuid[], $11::bigint[]) WITH ORDINALITY
                   AS new (slug, title, alt_titles, author, status, total_chapters, description, cover_url, year,
                           mangadex_id, updated_at, place)
               ORDER BY place";
    Columns::of(series)?.write(client, sql).await?;
    set_genres(client, series).await
}

async fn update(client: &Client, series: &[&SeriesRow]) -> Result<(), Failure> {
    if series.is_empty() {
        return Ok(());
    }
    let sql = "UPDATE manga SET title = new.title, alt_titles = new.alt_titles, author = new.author, status = new.status,
                      total_chapters = new.total_chapters, description = new.description, cover_url = new.cover_url,
                      year = new.year, mangadex_id = new.mangadex_id, updated_at = new.updated_at
               FROM UNNEST($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::bigint[], $7::text[], $8::text[],
                           $9::integer[], $10::uuid[], $11::bigint[])
                   AS new (slug, title, alt_titles, author, status, total_chapters, description, cover_url, year,
                           mangadex_id, updated_at)
               WHERE manga.slug = new.slug";
    Columns::of(series)?.write(client, sql).await?;
    let ids: Vec<i64> = series.iter().map(|row| row.id.0).collect();
    execute(client, "DELETE FROM manga_genres WHERE manga_id = ANY($1)", params![ids]).await?;
    set_genres(client, series).await
}

/// A slug or an upstream id that was free when the import was planned has been taken since.
fn met_another(error: tokio_postgres::Error) -> Failure {
    match error.code() {
        Some(&SqlState::UNIQUE_VIOLATION) => Failure::Conflict("another import came first".to_owned()),
        _ => error.into(),
    }
}

async fn set_genres(client: &Client, series: &[&SeriesRow]) -> Result<(), Failure> {
    let pairs = series.iter().flat_map(|row| row.genres.iter().map(|genre| (&*row.slug, &**genre)));
    let (slugs, genres): (Vec<&str>, Vec<&str>) = pairs.unzip();
    if genres.is_empty() {
        return Ok(());
    }
    let sql = "INSERT INTO genres (name) SELECT DISTINCT name FROM UNNEST($1::text[]) AS new (name) ORDER BY name
               ON CONFLICT (name) DO NOTHING";
    execute(client, sql, params![genres]).await?;
    let sql = "INSERT INTO manga_genres (manga_id, genre_id)
               SELECT manga.id, genres.id FROM UNNEST($1::text[], $2::text[]) AS new (slug, genre)
               JOIN manga ON manga.slug = new.slug JOIN genres ON genres.name = new.genre
               ON CONFLICT DO NOTHING";
    execute(client, sql, params![slugs, genres]).await.map(drop)
}
