//! Reads from a user's state, and catch-up. What is computed here may be newer than the disk: it leaves through the gate like
//! everything else. Catch-up sends states, not events: one per series that changed, as it is now.

use std::cmp::Reverse;
use std::sync::Arc;

use hub::LocalDay;
use proto::{MangaId, UserId, Version};
use storage::store::HistoryAfter;

use crate::core::Core;
use crate::fault::Fault;
use crate::loading::store_fault;
use crate::request::{CatchUp, DeviceView, HistoryView, LibraryView, ProgressView, Query, ResumeToken, View};
use crate::shared::Shared;

/// The longest page.
pub(crate) const PAGE_ROWS_MAX: usize = 100;

/// The store's pages that are looked through for one series' page of history.
const HISTORY_PAGES_MAX: usize = 10;

impl Core {
    /// A position as a token.
    pub(crate) fn resume(&self, position: u64) -> ResumeToken {
        ResumeToken::new(self.shared.folder_id, self.shared.epoch, position)
    }

    /// What a user asks to see.
    pub(crate) fn view(&mut self, slot: u32, query: &Query) -> View {
        let state = &self.users.get(slot).state;
        match query {
            Query::Progress(manga) => View::Progress(state.progress(*manga).map(ProgressView::from)),
            Query::ProgressAll { offset, limit } => {
                let mut rows: Vec<ProgressView> =
                    state.progress_views().filter(|view| !view.deleted).map(ProgressView::from).collect();
                rows.sort_unstable_by_key(|row| Reverse((row.key.version, row.manga)));
                let total = rows.len();
                let rows = rows.into_iter().skip(*offset).take((*limit).min(PAGE_ROWS_MAX)).collect();
                View::ProgressPage { rows, total }
            }
            Query::Library => {
                let mut rows: Vec<LibraryView> = state.library_views().collect();
                rows.sort_unstable_by_key(|row| Reverse((row.added_at_ms, row.manga)));
                View::Library(rows)
            }
            Query::Devices => {
                let mut rows: Vec<DeviceView> = state.device_views().collect();
                rows.sort_unstable_by_key(|row| Reverse((row.last_seen_ms, row.id)));
                View::Devices(rows)
            }
            Query::History { .. } => unreachable!("history is the store's; no shard is asked for it"),
        }
    }

    /// What a client missed since it stood at `since`, or everything when that cannot be told.
    pub(crate) fn catch_up(&mut self, slot: u32, since: Option<ResumeToken>) -> CatchUp {
        let (folder_id, epoch) = (self.shared.folder_id, self.shared.epoch);
        let since = since.filter(|token| !token.is_none());
        let resident = self.users.get(slot);
        let known = since
            .filter(|token| token.node() == folder_id && token.epoch() == epoch && resident.covers(token.position()));
        let states: Vec<ProgressView> = match known {
            Some(token) => {
                let mut missed: Vec<_> = resident.state.progress_since(Version(token.position())).collect();
                missed.sort_unstable_by_key(|(version, _)| *version);
                missed.into_iter().map(|(_, view)| ProgressView::from(view)).collect()
            }
            None => {
                // Somebody who knew something must hear of what was deleted since.
                let views = resident.state.progress_views().filter(|view| since.is_some() || !view.deleted);
                let mut states: Vec<ProgressView> = views.map(ProgressView::from).collect();
                states.sort_unstable_by_key(|state| state.key.version);
                states
            }
        };
        let position = resident.position;
        CatchUp { states: Arc::from(states), snapshot: known.is_none(), resume: self.resume(position) }
    }
}

/// A page of the reading history, from the store.
pub(crate) async fn history(
    shared: &Shared,
    user: UserId,
    manga: Option<MangaId>,
    cursor: Option<String>,
    limit: usize,
) -> Result<View, Fault> {
    let mut after = cursor.map(|text| parse_cursor(&text)).transpose()?;
    let limit = limit.clamp(1, PAGE_ROWS_MAX);
    let mut rows: Vec<HistoryView> = Vec::new();
    // One series' days lie among the others': a few of the store's pages may go into one of ours.
    for _ in 0..HISTORY_PAGES_MAX {
        let page = shared.store.history(user, after, limit).await.map_err(store_fault)?;
        after = page.next;
        for day in page.days {
            if manga.is_some_and(|manga| manga != day.manga) {
                continue;
            }
            let position = day.position();
            rows.push(HistoryView::from(day));
            if rows.len() == limit {
                // The page may have been cut short here; whether more follows, the next call finds out.
                after = after.or(manga.map(|_| position)).map(|_| position);
                break;
            }
        }
        if rows.len() == limit || after.is_none() {
            break;
        }
    }
    let next_cursor = after.map(|at| format!("{}.{}.{}", at.day.0, at.version.0, at.manga));
    Ok(View::History { rows, next_cursor })
}

fn parse_cursor(text: &str) -> Result<HistoryAfter, Fault> {
    let wrong = || Fault::field("cursor", "is not one that this server gave out");
    let mut parts = text.splitn(3, '.');
    let mut part = || parts.next().and_then(|part| part.parse::<u64>().ok()).ok_or_else(wrong);
    let (day, version, manga) = (part()?, part()?, part()?);
    let day = LocalDay(u32::try_from(day).map_err(|_| wrong())?);
    let manga = MangaId(i64::try_from(manga).map_err(|_| wrong())?);
    Ok(HistoryAfter { day, version: Version(version), manga })
}

impl From<hub::ProgressView> for ProgressView {
    fn from(view: hub::ProgressView) -> Self {
        Self {
            manga: view.manga,
            chapter: view.key.chapter,
            page: view.page,
            status: view.status,
            key: view.key,
            updated_at_ms: view.updated_at_ms(),
            ahead_of_catalogue: view.ahead,
            device: None,
            deleted: view.deleted,
        }
    }
}

impl From<storage::store::HistoryDay> for HistoryView {
    fn from(day: storage::store::HistoryDay) -> Self {
        Self {
            manga: day.manga,
            day: day.day.0 as i32,
            first: day.first,
            last: day.last,
            chapters: day.chapters,
            updates: day.updates,
            jump: day.jump,
        }
    }
}
