//! Pages of reading history, the same for every store: days are gathered whole, newest first, so that the nodes of a series can
//! be added up. A store gives the rows in the order day, series, node, each descending; nothing here reads a database.

use hub::history::HistoryRow;
use proto::{MangaId, Version};

use super::state::{HistoryAfter, HistoryDay, HistoryPage};

/// A page that is being gathered.
pub(crate) struct Paging {
    after: Option<HistoryAfter>,
    rows_max: usize,
    page: Vec<HistoryDay>,
    day: Vec<HistoryDay>,
}

impl Paging {
    /// The page behind `after`.
    pub(crate) fn new(after: Option<HistoryAfter>, rows_max: usize) -> Self {
        Self { after, rows_max, page: Vec::new(), day: Vec::new() }
    }

    /// Adds the next row; false when the page needs no more.
    pub(crate) fn add(&mut self, manga: MangaId, row: &HistoryRow, version: Version) -> bool {
        if self.day.first().is_some_and(|first| first.day != row.day) {
            self.close_day();
            if self.page.len() > self.rows_max {
                return false;
            }
        }
        self.add_node(manga, row, version);
        true
    }

    /// The page.
    pub(crate) fn finish(mut self) -> HistoryPage {
        self.close_day();
        let more = self.page.len() > self.rows_max;
        self.page.truncate(self.rows_max);
        let next = self.page.last().filter(|_| more).map(HistoryDay::position);
        HistoryPage { days: self.page, next }
    }

    fn close_day(&mut self) {
        self.day.sort_unstable_by_key(|entry| std::cmp::Reverse(entry.position()));
        let after = self.after;
        self.page.extend(self.day.drain(..).filter(|entry| after.is_none_or(|after| entry.position() < after)));
    }

    /// Rows of one series and day are neighbours.
    fn add_node(&mut self, manga: MangaId, row: &HistoryRow, version: Version) {
        match self.day.last_mut().filter(|last| last.manga == manga) {
            Some(known) => {
                // The day's last chapter is that of the later node, its first that of the earlier one.
                if version > known.version {
                    (known.last, known.version) = (row.last, version);
                } else {
                    known.first = row.first;
                }
                known.chapters = known.chapters.saturating_add(row.chapters);
                known.updates = known.updates.saturating_add(row.updates);
                known.jump |= row.jump;
            }
            None => self.day.push(HistoryDay {
                manga,
                day: row.day,
                first: row.first,
                last: row.last,
                chapters: row.chapters,
                updates: row.updates,
                jump: row.jump,
                version,
            }),
        }
    }
}
