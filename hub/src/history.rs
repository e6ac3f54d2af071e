//! What a user read on one day in one series, on one node: first and last chapter, chapters read, updates. A row is a result,
//! not an increment: every change carries the whole row, so writing it again changes nothing; readers add the nodes up.

use std::fmt;

use proto::Chapter;

use crate::preferences::UtcOffset;

/// An advance of more than this many chapters in one change is marked as a jump (an import, a catch-up, a slip of the finger).
pub const JUMP_CHAPTERS_MIN: u32 = 10;

const DAY_MS: u64 = 86_400_000;

/// A calendar day in the user's own time, as days since 1970-01-01. Fixed when recorded.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct LocalDay(pub u32);

impl LocalDay {
    /// The day it is at `unix_ms` for somebody this far from UTC.
    pub fn at(unix_ms: u64, offset: UtcOffset) -> Self {
        let local_ms = unix_ms.saturating_add_signed(i64::from(offset.minutes()) * 60_000);
        Self(u32::try_from(local_ms / DAY_MS).unwrap_or(u32::MAX))
    }
}

/// As `2026-02-14` (ISO 8601).
impl fmt::Display for LocalDay {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Days to civil date: Howard Hinnant, "chrono-compatible low-level date algorithms", civil_from_days.
        let days = u64::from(self.0) + 719_468;
        let (era, day_of_era) = (days / 146_097, days % 146_097);
        let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
        let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
        let year = era * 400 + year_of_era + u64::from(month <= 2);
        write!(out, "{year:04}-{month:02}-{day:02}")
    }
}

/// One user's reading of one series on one day, on one node. `Ord` is the merge order: the later day, then more updates.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct HistoryRow {
    /// The day, in the user's own time.
    pub day: LocalDay,
    /// How many changes were made that day. Grows with every change, so the larger row is the newer one.
    pub updates: u32,
    /// How many chapters were read: whole chapters advanced; going back counts nothing.
    pub chapters: u32,
    /// The chapter of the day's last change.
    pub last: Chapter,
    /// The chapter of the day's first change.
    pub first: Chapter,
    /// One of the changes advanced by more than [`JUMP_CHAPTERS_MIN`].
    pub jump: bool,
}

impl HistoryRow {
    /// The row after one more change, from chapter `from` to chapter `to`. A day that lies before the row's own (the clock or
    /// the user's offset stepped back) counts on the row's: earlier days are closed.
    pub fn after(row: Option<Self>, today: LocalDay, from: Chapter, to: Chapter) -> Self {
        let advanced = to.whole_part().saturating_sub(from.whole_part());
        let jump = advanced > JUMP_CHAPTERS_MIN;
        match row {
            Some(row) if row.day >= today => Self {
                updates: row.updates.saturating_add(1),
                chapters: row.chapters.saturating_add(advanced),
                last: to,
                jump: row.jump || jump,
                ..row
            },
            _ => Self { day: today, updates: 1, chapters: advanced, last: to, first: to, jump },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_print_as_dates() {
        for (day, text) in [(0, "1970-01-01"), (11_016, "2000-02-29"), (11_017, "2000-03-01"), (19_782, "2024-02-29")] {
            assert_eq!(LocalDay(day).to_string(), text);
        }
        assert_eq!(LocalDay(u32::MAX).to_string().split('-').count(), 3);
    }

    #[test]
    fn midnight_is_the_users_own() {
        let last_minute_ms = 20_000 * DAY_MS - 60_000;
        let minutes = |minutes| UtcOffset::from_minutes(minutes).unwrap();
        assert_eq!(LocalDay::at(last_minute_ms, UtcOffset::UTC), LocalDay(19_999));
        assert_eq!(LocalDay::at(last_minute_ms, minutes(1)), LocalDay(20_000));
        assert_eq!(LocalDay::at(last_minute_ms + 60_000, minutes(-1)), LocalDay(19_999));
        assert_eq!(LocalDay::at(0, minutes(-720)), LocalDay(0));
    }
}
