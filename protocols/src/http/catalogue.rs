//! The catalogue over HTTP: read from the shared snapshot, without a hop and without a lock.

use std::hash::{DefaultHasher, Hasher};

use engine::{Fault, Query, View};
use http::header::{CACHE_CONTROL, ETAG, IF_NONE_MATCH, VARY};
use http::{HeaderValue, StatusCode};
use proto::{Code, MangaId};

use super::problem::Answer;
use super::service::{Exchange, json, ok};
use super::shapes;

pub(crate) fn list(exchange: &Exchange<'_>) -> Result<Answer, Fault> {
    let (page, page_size) = exchange.query.page()?;
    let catalogue = exchange.shard.engine.catalogue();
    let total = catalogue.len();
    let (rows, numbered) = match exchange.query.get("cursor") {
        Some(text) => {
            let after: Option<MangaId> = text.strip_prefix("after-").and_then(|id| id.parse().ok());
            let after = after.ok_or_else(|| Fault::field("cursor", "is not one that this server gave out"))?;
            (catalogue.after(Some(after), page_size), None)
        }
        None => (catalogue.page((page - 1) * page_size, page_size), Some(page)),
    };
    // The last page says so: nothing lies behind its last row.
    let next_cursor = rows.last().map(|row| row.id).filter(|last| !catalogue.after(Some(*last), 1).is_empty());
    let next_cursor = next_cursor.map(|last| format!("after-{last}"));
    let mut pagination = shapes::Pagination::numbered(page, page_size, total, next_cursor);
    pagination.page = numbered;
    Ok(ok(&shapes::Page { data: rows.iter().map(shapes::SeriesRow::from).collect(), pagination }))
}

pub(crate) async fn one(exchange: &Exchange<'_>) -> Result<Answer, Fault> {
    let manga = exchange.series()?;
    let my_progress = match &exchange.grant {
        None => None,
        Some(grant) => match exchange.shard.engine.query(grant, Query::Progress(manga)).await {
            Ok(View::Progress(state)) => Some(state.as_ref().map(shapes::Progress::bare)),
            Ok(other) => return Err(exchange.odd(StatusCode::OK, &other)),
            // The catalogue is here, whatever has become of the store; what is not known is left out.
            Err(fault) if matches!(fault.code, Code::Unavailable | Code::Busy) => None,
            Err(fault) => return Err(fault),
        },
    };
    let catalogue = exchange.shard.engine.catalogue();
    // The snapshot may have changed since the path was read.
    let series = catalogue.get(manga).ok_or_else(|| Fault::not_found("there is no such series"))?;
    let body = shapes::bytes(&shapes::SeriesPage::of(series, my_progress));
    let tag = tag_of(&body);
    let known = exchange.headers.get_all(IF_NONE_MATCH).iter().any(|value| names(value, &tag));
    let mut answer = if known { json(StatusCode::NOT_MODIFIED, Vec::new()) } else { json(StatusCode::OK, body) };
    let headers = answer.headers_mut();
    headers.extend(HeaderValue::try_from(tag).ok().map(|tag| (ETAG, tag)));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
    headers.append(VARY, HeaderValue::from_static("Authorization"));
    Ok(answer)
}

/// A strong tag over the body: it changes exactly when the body does.
fn tag_of(body: &[u8]) -> String {
    let mut hasher = DefaultHasher::new();
    hasher.write(body);
    format!("\"{:016x}\"", hasher.finish())
}

/// Whether an `If-None-Match` (RFC 9110, section 13.1.2: weak comparison) names the tag.
fn names(value: &HeaderValue, tag: &str) -> bool {
    let Ok(text) = value.to_str() else { return false };
    text.trim() == "*" || text.split(',').any(|one| one.trim().trim_start_matches("W/") == tag)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_found_in_lists() {
        let tag = tag_of(b"{}");
        for value in ["*".to_owned(), tag.clone(), format!("\"x\", W/{tag}")] {
            assert!(names(&HeaderValue::try_from(value).unwrap(), &tag));
        }
        assert!(!names(&HeaderValue::from_static("\"x\""), &tag));
        assert_ne!(tag_of(b"{}"), tag_of(b"[]"));
    }
}
