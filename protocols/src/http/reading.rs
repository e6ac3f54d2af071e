//! Progress and library over HTTP. The path's series wins over the body's; everything else is the engine's to decide, and
//! an answer here means that the change is durable.

use engine::{Acked, Catalogue, Command, Done, Fault, Query, SetProgress, View, trace};
use http::{HeaderMap, HeaderValue, StatusCode};
use proto::{ConflictToken, DeviceId, DeviceSeq, MangaId, Page, ReadingStatus};

use super::input::{Fields, read};
use super::problem::Answer;
use super::service::{Exchange, created, no_content, ok};
use super::shapes;

pub(crate) async fn set_progress(exchange: &Exchange<'_>, mut body: Fields) -> Result<Answer, Fault> {
    let manga = exchange.series()?;
    let chapter = body.required("chapter", read::chapter);
    let page = body.optional("page", read::whole::<u32>).map(Page);
    let status = body.optional("status", read::spelled::<ReadingStatus>);
    let device = body.optional("device_id", read::spelled::<DeviceId>);
    let device_seq = body.optional("device_seq", read::whole::<u64>).map(DeviceSeq);
    let force = body.optional("force", read::flag).unwrap_or(false);
    let conflict_token = body.optional("conflict_token", read::spelled::<ConflictToken>);
    if let Some(other) = body.optional("manga_id", read::series)
        && exchange.shard.engine.catalogue().find(&other).is_none_or(|series| series.id != manga)
    {
        body.refuse("manga_id", "is not the series of the path");
    }
    let chapter = body.finish(chapter)?;
    let ack_database = prefers(exchange.headers, "ack", "database");
    let update = SetProgress {
        page,
        status,
        device,
        device_seq,
        force,
        conflict_token,
        ack_database,
        ..SetProgress::to(manga, chapter)
    };
    let grant = exchange.grant()?;
    let mut answer = match exchange.shard.engine.command(grant, Command::SetProgress(update)).await? {
        Done::Progress(acked) => {
            log_answered(exchange, &acked);
            ok(&shapes::Progress::acked(grant.user, &acked))
        }
        other => return Err(exchange.odd(StatusCode::OK, &other)),
    };
    if ack_database {
        answer.headers_mut().insert("preference-applied", HeaderValue::from_static("ack=database"));
    }
    Ok(answer)
}

/// The last that this door sees of an update that is followed, with the id that its request came with.
fn log_answered(exchange: &Exchange<'_>, acked: &Acked) {
    let version = acked.state.key.version;
    if trace::follows(version) {
        let request_id = exchange.request_id.to_str().unwrap_or_default();
        tracing::info!(target: trace::TARGET, version = version.0, stage = "answered", door = "http", request_id);
    }
}

/// Whether a preference is among those of the `Prefer` headers (RFC 7240, section 2).
fn prefers(headers: &HeaderMap, name: &str, value: &str) -> bool {
    let lists = headers.get_all("prefer").iter().filter_map(|list| list.to_str().ok());
    lists.flat_map(|list| list.split(',')).any(|preference| {
        // Parameters behind the value mean nothing to us.
        let preference = preference.split(';').next().unwrap_or_default();
        let (known, given) = preference.split_once('=').unwrap_or((preference, ""));
        known.trim().eq_ignore_ascii_case(name) && given.trim().trim_matches('"') == value
    })
}

pub(crate) async fn delete_progress(exchange: &Exchange<'_>) -> Result<Answer, Fault> {
    let manga = exchange.series()?;
    exchange.shard.engine.command(exchange.grant()?, Command::DeleteProgress { manga, device: None }).await?;
    Ok(no_content())
}

pub(crate) async fn progress(exchange: &Exchange<'_>) -> Result<Answer, Fault> {
    let manga = exchange.series()?;
    let grant = exchange.grant()?;
    match exchange.shard.engine.query(grant, Query::Progress(manga)).await? {
        View::Progress(Some(state)) => Ok(ok(&shapes::Progress::of(grant.user, &state))),
        View::Progress(None) => Err(Fault::not_found("you have no progress in this series")),
        other => Err(exchange.odd(StatusCode::OK, &other)),
    }
}

/// The history by day, or with `view=series` where the user stands in every series.
pub(crate) async fn history(exchange: &Exchange<'_>) -> Result<Answer, Fault> {
    let (page, page_size) = exchange.query.page()?;
    let view = exchange.query.get("view");
    let grant = exchange.grant()?;
    let query = match view.as_deref() {
        Some("series") => Query::ProgressAll { offset: (page - 1) * page_size, limit: page_size },
        None | Some("history") => {
            let manga = exchange.query.get("manga_id").map(|text| exchange.find(&text)).transpose()?;
            let cursor = exchange.query.get("cursor").map(|text| text.into_owned());
            if page > 1 && cursor.is_none() {
                return Err(Fault::field("page", "the history has no pages by number; follow next_cursor with cursor"));
            }
            Query::History { manga, cursor, limit: page_size }
        }
        Some(_) => return Err(Fault::field("view", "must be history or series")),
    };
    let catalogue = exchange.shard.engine.catalogue();
    match exchange.shard.engine.query(grant, query).await? {
        View::History { rows, next_cursor } => {
            let data = rows.iter().map(|row| shapes::HistoryRow::of(row, catalogue.get(row.manga))).collect();
            let pagination = shapes::Pagination { page: None, page_size, total: None, total_pages: None, next_cursor };
            Ok(ok(&shapes::Page { data, pagination }))
        }
        View::ProgressPage { rows, total } => {
            let data = rows.iter().map(|state| shapes::Progress::of(grant.user, state)).collect();
            Ok(ok(&shapes::Page { data, pagination: shapes::Pagination::numbered(page, page_size, total, None) }))
        }
        other => Err(exchange.odd(StatusCode::OK, &other)),
    }
}

pub(crate) async fn library(exchange: &Exchange<'_>) -> Result<Answer, Fault> {
    let status = match exchange.query.get("status") {
        Some(text) => {
            let status: Result<ReadingStatus, _> = text.parse();
            Some(status.map_err(|problem| Fault::field("status", problem.to_string()))?)
        }
        None => None,
    };
    // Without either parameter the library comes whole, as it always did.
    let paged = exchange.query.get("page").is_some() || exchange.query.get("page_size").is_some();
    let (page, page_size) = exchange.query.page()?;
    let catalogue = exchange.shard.engine.catalogue();
    match exchange.shard.engine.query(exchange.grant()?, Query::Library).await? {
        View::Library(mut rows) => {
            rows.retain(|row| status.is_none_or(|status| row.status == status));
            let total = rows.len();
            let shown = if paged { page_of(&rows, page, page_size) } else { &rows[..] };
            let items = shown.iter().map(|row| shapes::LibraryRow::of(row, catalogue.get(row.manga))).collect();
            Ok(ok(&shapes::Items::part(items, total)))
        }
        other => Err(exchange.odd(StatusCode::OK, &other)),
    }
}

fn page_of<T>(rows: &[T], page: usize, page_size: usize) -> &[T] {
    let start = ((page - 1) * page_size).min(rows.len());
    &rows[start..(start + page_size).min(rows.len())]
}

pub(crate) async fn add_to_library(exchange: &Exchange<'_>, mut body: Fields) -> Result<Answer, Fault> {
    let series = body.required("manga_id", read::series);
    let status = body.optional("status", read::spelled::<ReadingStatus>);
    let manga = exchange.find(&body.finish(series)?)?;
    let done = exchange.shard.engine.command(exchange.grant()?, Command::AddToLibrary { manga, status }).await?;
    let catalogue = exchange.shard.engine.catalogue();
    let row = library_row(exchange, &catalogue, &done)?;
    Ok(created(&row, Some(&format!("/api/library/{manga}"))))
}

pub(crate) async fn set_status(exchange: &Exchange<'_>, mut body: Fields) -> Result<Answer, Fault> {
    let manga: MangaId = exchange.series()?;
    let status = body.required("status", read::spelled::<ReadingStatus>);
    let status = body.finish(status)?;
    let done = exchange.shard.engine.command(exchange.grant()?, Command::SetStatus { manga, status }).await?;
    let catalogue = exchange.shard.engine.catalogue();
    Ok(ok(&library_row(exchange, &catalogue, &done)?))
}

fn library_row<'a>(
    exchange: &Exchange<'_>,
    catalogue: &'a Catalogue,
    done: &Done,
) -> Result<shapes::LibraryRow<'a>, Fault> {
    match done {
        Done::Library(row) => Ok(shapes::LibraryRow::of(row, catalogue.get(row.manga))),
        other => Err(exchange.odd(StatusCode::OK, other)),
    }
}

pub(crate) async fn remove_from_library(exchange: &Exchange<'_>) -> Result<Answer, Fault> {
    let manga = exchange.series()?;
    exchange.shard.engine.command(exchange.grant()?, Command::RemoveFromLibrary { manga }).await?;
    Ok(no_content())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_preference_is_found_among_others() {
        let headers = |values: &[&'static str]| {
            let values =
                values.iter().map(|value| (http::HeaderName::from_static("prefer"), HeaderValue::from_static(value)));
            values.collect::<HeaderMap>()
        };
        for yes in
            [&["ack=database"][..], &["wait=10, ACK=\"database\""], &["respond-async", "x; a=b, ack = database; y=1"]]
        {
            assert!(prefers(&headers(yes), "ack", "database"), "{yes:?}");
        }
        for no in [&[][..], &["ack"], &["ack=journal"], &["back=database"], &["wait=10; ack=database"]] {
            assert!(!prefers(&headers(no), "ack", "database"), "{no:?}");
        }
    }
}
