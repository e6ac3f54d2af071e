//! Every JSON body that HTTP sends, in one place. A shape is filled from the engine's views and nothing else, its member
//! names never change once a client may depend on them, and times leave as RFC 3339 in UTC.

use engine::{Acked, DeviceView, HistoryView, LibraryView, ProgressView, Registered, Series, SessionView, SignedIn};
use proto::{Chapter, DeviceId, MangaId, ReadingStatus, SeriesStatus, SessionId, UserId, Version};
use serde::Serialize;
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Milliseconds since 1970 as RFC 3339 in UTC.
pub(crate) fn rfc3339(unix_ms: u64) -> String {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(unix_ms) * 1_000_000)
        .ok()
        .and_then(|at| at.format(&Rfc3339).ok())
        .unwrap_or_else(|| "9999-12-31T23:59:59Z".to_owned())
}

/// A shape as a value, to go inside another.
pub(crate) fn value<T: Serialize>(shape: &T) -> Value {
    serde_json::to_value(shape).expect("shapes hold only what JSON can say: string keys and finite numbers")
}

/// A shape as bytes.
pub(crate) fn bytes<T: Serialize>(shape: &T) -> Vec<u8> {
    serde_json::to_vec(shape).expect("shapes hold only what JSON can say: string keys and finite numbers")
}

/// Progress in one series.
#[derive(Serialize)]
pub(crate) struct Progress {
    #[serde(skip_serializing_if = "Option::is_none")]
    user_id: Option<UserId>,
    manga_id: MangaId,
    chapter: Chapter,
    page: Option<u32>,
    status: Option<ReadingStatus>,
    version: Version,
    generation: Version,
    node: u32,
    updated_at: String,
    ahead_of_catalogue: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    device_id: Option<DeviceId>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    already: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    offer_completed: bool,
}

impl Progress {
    /// Without its user: inside another body.
    pub(crate) fn bare(state: &ProgressView) -> Self {
        Self {
            user_id: None,
            manga_id: state.manga,
            chapter: state.chapter,
            page: state.page.map(|page| page.0),
            status: state.status,
            version: state.key.version,
            generation: state.key.generation,
            node: state.key.node.0,
            updated_at: rfc3339(state.updated_at_ms),
            ahead_of_catalogue: state.ahead_of_catalogue,
            device_id: state.device,
            already: false,
            offer_completed: false,
        }
    }

    /// A body of its own.
    pub(crate) fn of(user: UserId, state: &ProgressView) -> Self {
        Self { user_id: Some(user), ..Self::bare(state) }
    }

    /// The answer to an update.
    pub(crate) fn acked(user: UserId, acked: &Acked) -> Self {
        Self { already: acked.already, offer_completed: acked.offer_completed, ..Self::of(user, &acked.state) }
    }
}

/// A series in a list.
#[derive(Serialize)]
pub(crate) struct SeriesRow<'a> {
    id: MangaId,
    slug: &'a str,
    title: &'a str,
    author: Option<&'a str>,
    status: SeriesStatus,
    total_chapters: Option<u32>,
    cover_url: Option<&'a str>,
    average_rating: f64,
}

impl<'a> From<&'a Series> for SeriesRow<'a> {
    fn from(series: &'a Series) -> Self {
        let rating = series.average_rating;
        Self {
            id: series.id,
            slug: &series.slug,
            title: &series.title,
            author: series.author.as_deref(),
            status: series.status,
            total_chapters: series.total_chapters,
            cover_url: series.cover_url.as_deref(),
            average_rating: if rating.is_finite() { rating } else { 0.0 },
        }
    }
}

/// A series on its own page.
#[derive(Serialize)]
pub(crate) struct SeriesPage<'a> {
    #[serde(flatten)]
    row: SeriesRow<'a>,
    description: Option<&'a str>,
    genres: &'a [String],
    year: Option<i32>,
    created_at: String,
    updated_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    my_progress: Option<Option<Progress>>,
}

impl<'a> SeriesPage<'a> {
    /// `my_progress` is there for the signed-in: null when they have none, left out when nobody can say.
    pub(crate) fn of(series: &'a Series, my_progress: Option<Option<Progress>>) -> Self {
        Self {
            row: series.into(),
            description: series.description.as_deref(),
            genres: &series.genres,
            year: series.year,
            created_at: rfc3339(series.created_at_ms),
            updated_at: rfc3339(series.updated_at_ms),
            my_progress,
        }
    }
}

/// Where a list stands.
#[derive(Serialize)]
pub(crate) struct Pagination {
    /// Absent when a cursor was followed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) page: Option<usize>,
    pub(crate) page_size: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) total: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) total_pages: Option<usize>,
    pub(crate) next_cursor: Option<String>,
}

impl Pagination {
    /// A page by number of a list whose length is known.
    pub(crate) fn numbered(page: usize, page_size: usize, total: usize, next_cursor: Option<String>) -> Self {
        let total_pages = Some(total.div_ceil(page_size));
        Self { page: Some(page), page_size, total: Some(total), total_pages, next_cursor }
    }
}

/// A list with its place.
#[derive(Serialize)]
pub(crate) struct Page<T> {
    pub(crate) data: Vec<T>,
    pub(crate) pagination: Pagination,
}

/// A row of the library. `manga` is null when the series has left the catalogue.
#[derive(Serialize)]
pub(crate) struct LibraryRow<'a> {
    manga_id: MangaId,
    manga: Option<SeriesRow<'a>>,
    status: ReadingStatus,
    added_at: String,
    updated_at: String,
}

impl<'a> LibraryRow<'a> {
    /// A row with its series.
    pub(crate) fn of(row: &LibraryView, series: Option<&'a Series>) -> Self {
        Self {
            manga_id: row.manga,
            manga: series.map(Into::into),
            status: row.status,
            added_at: rfc3339(row.added_at_ms),
            updated_at: rfc3339(row.updated_at_ms()),
        }
    }
}

/// The library, or any list that comes whole.
#[derive(Serialize)]
pub(crate) struct Items<T> {
    items: Vec<T>,
    total: usize,
}

impl<T> Items<T> {
    /// All of it.
    pub(crate) fn all(items: Vec<T>) -> Self {
        let total = items.len();
        Self { items, total }
    }

    /// A part of `total`.
    pub(crate) fn part(items: Vec<T>, total: usize) -> Self {
        Self { items, total }
    }
}

/// A day of reading in one series.
#[derive(Serialize)]
pub(crate) struct HistoryRow<'a> {
    manga_id: MangaId,
    #[serde(skip_serializing_if = "Option::is_none")]
    manga_title: Option<&'a str>,
    date: String,
    first_chapter: Chapter,
    last_chapter: Chapter,
    chapters_read: u32,
    updates: u32,
    jump: bool,
}

impl<'a> HistoryRow<'a> {
    /// A row with its series' title.
    pub(crate) fn of(row: &HistoryView, series: Option<&'a Series>) -> Self {
        Self {
            manga_id: row.manga,
            manga_title: series.map(|series| series.title.as_str()),
            date: date_of(row.day),
            first_chapter: row.first,
            last_chapter: row.last,
            chapters_read: row.chapters,
            updates: row.updates,
            jump: row.jump,
        }
    }
}

/// Days since 1970 as a date.
fn date_of(day: i32) -> String {
    time::Date::from_julian_day(2_440_588_i32.saturating_add(day))
        .map_or_else(|_| "9999-12-31".to_owned(), |date| date.to_string())
}

/// A new account.
#[derive(Serialize)]
pub(crate) struct Account {
    user_id: UserId,
    username: String,
    email: String,
}

impl From<Registered> for Account {
    fn from(made: Registered) -> Self {
        Self { user_id: made.user_id, username: made.username, email: made.email }
    }
}

/// A session's tokens.
#[derive(Serialize)]
pub(crate) struct Tokens {
    access_token: String,
    refresh_token: String,
    token_type: &'static str,
    expires_in: u64,
    user_id: UserId,
    username: String,
}

impl From<SignedIn> for Tokens {
    fn from(signed_in: SignedIn) -> Self {
        Self {
            access_token: signed_in.access_token,
            refresh_token: signed_in.refresh_token,
            token_type: "Bearer",
            expires_in: signed_in.expires_in_s,
            user_id: signed_in.user_id,
            username: signed_in.username,
        }
    }
}

/// One of a user's sessions.
#[derive(Serialize)]
pub(crate) struct Session {
    session_id: SessionId,
    created_at: String,
    last_used_at: String,
    expires_at: String,
    address: Option<String>,
    user_agent: Option<String>,
    current: bool,
}

impl From<SessionView> for Session {
    fn from(view: SessionView) -> Self {
        Self {
            session_id: view.id,
            created_at: rfc3339(view.created_at_ms),
            last_used_at: rfc3339(view.last_used_at_ms),
            expires_at: rfc3339(view.expires_at_ms),
            address: view.address,
            user_agent: view.user_agent,
            current: view.current,
        }
    }
}

/// One of a user's clients.
#[derive(Serialize)]
pub(crate) struct Device {
    device_id: DeviceId,
    last_seq: u64,
    last_seen: String,
}

impl From<DeviceView> for Device {
    fn from(view: DeviceView) -> Self {
        Self { device_id: view.id, last_seq: view.last_seq.0, last_seen: rfc3339(view.last_seen_ms) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rfc_3339_in_utc() {
        assert_eq!(rfc3339(1_704_067_200_123), "2024-01-01T00:00:00.123Z");
        assert_eq!(rfc3339(u64::MAX), "9999-12-31T23:59:59Z");
    }

    #[test]
    fn days_are_dates() {
        assert_eq!(date_of(0), "1970-01-01");
        assert_eq!(date_of(19_723), "2024-01-01");
        assert_eq!(date_of(i32::MAX), "9999-12-31");
    }
}
