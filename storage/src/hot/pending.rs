//! What waits to be written to Redis: rows by user and series, each the merge of every change since the last write, so a slow
//! Redis costs freshness and not memory. Bounded in rows and users. A user whose rows found no room is remembered as one whose
//! copy must be forgotten; when even that finds no room, the caller is told that no copy can be trusted any more.

use std::collections::VecDeque;

use hub::library::LibraryRow;
use hub::load::StoredUser;
use hub::merge::merge_into;
use hub::progress::ProgressRow;
use hub::record::Record;
use proto::{MangaId, UserId};
use rustc_hash::FxHashMap;

/// Users whose keys' time to live waits to be renewed; more are not renewed.
const TOUCHES_MAX: usize = 1_024;

/// The rows of one series.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub(super) struct Series {
    pub(super) progress: Option<ProgressRow>,
    pub(super) library: Option<LibraryRow>,
}

/// What waits of one user.
#[derive(Clone, Default, Debug)]
pub(super) struct Changes {
    pub(super) series: FxHashMap<MangaId, Series>,
    /// These are all the user's rows: the copy is complete once they are written.
    pub(super) complete: bool,
    /// Rows are missing here: the copy must go.
    pub(super) forget: bool,
}

impl Changes {
    /// Merges these into a user's rows.
    pub(super) fn merge_into(&self, stored: &mut StoredUser) {
        for (manga, series) in &self.series {
            stored.progress.extend(series.progress.map(|row| (*manga, row)));
            stored.library.extend(series.library.map(|row| (*manga, row)));
        }
    }
}

/// What one write takes.
#[derive(Clone, Default, Debug)]
pub(super) struct Writes {
    pub(super) users: Vec<(UserId, Changes)>,
    /// Users and series whose time to live begins anew.
    pub(super) touches: Vec<(UserId, Vec<MangaId>)>,
    pub(super) rows: usize,
}

impl Writes {
    pub(super) fn find(&self, user: UserId) -> Option<&Changes> {
        self.users.iter().find(|(known, _)| *known == user).map(|(_, changes)| changes)
    }
}

/// What became of something that was to wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Added {
    /// It waits.
    Waits,
    /// There was no room for it; its user's copy will be forgotten.
    Dropped,
    /// There was no room to remember even that.
    Lost,
}

#[derive(Debug)]
pub(super) struct Pending {
    users: FxHashMap<UserId, Changes>,
    order: VecDeque<UserId>,
    touches: VecDeque<(UserId, Vec<MangaId>)>,
    rows: usize,
    rows_max: usize,
}

impl Pending {
    pub(super) fn new(rows_max: usize) -> Self {
        let (users, order, touches) = (FxHashMap::default(), VecDeque::new(), VecDeque::new());
        Self { users, order, touches, rows: 0, rows_max }
    }

    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    pub(super) fn is_empty(&self) -> bool {
        self.order.is_empty() && self.touches.is_empty()
    }

    pub(super) fn find(&self, user: UserId) -> Option<&Changes> {
        self.users.get(&user)
    }

    /// A change. Devices and preferences are not in Redis: rules are evaluated on the store's state only.
    pub(super) fn add(&mut self, record: &Record) -> Added {
        match record {
            Record::Progress(record) => {
                let series = Series { progress: Some(record.row), library: record.library };
                self.add_series(record.user, record.manga, series)
            }
            Record::Library(record) => {
                let series = Series { progress: None, library: Some(record.row) };
                self.add_series(record.user, record.manga, series)
            }
            Record::Device(_) | Record::Preferences(_) => Added::Waits,
        }
    }

    /// Everything the store has of a user. Without room it is left out: the next load from the store brings it again.
    pub(super) fn add_complete(&mut self, user: &StoredUser) -> Added {
        if self.rows + user.progress.len().max(user.library.len()) > self.rows_max {
            return Added::Dropped;
        }
        let Some(changes) = self.entry(user.user) else { return Added::Dropped };
        (changes.complete, changes.forget) = (true, false);
        self.add_rows(user)
    }

    /// Rows that are newer than what the store may have.
    pub(super) fn add_rows(&mut self, rows: &StoredUser) -> Added {
        let progress = rows.progress.iter().map(|(manga, row)| (*manga, Some(*row), None));
        let library = rows.library.iter().map(|(manga, row)| (*manga, None, Some(*row)));
        let mut worst = Added::Waits;
        for (manga, progress, library) in progress.chain(library) {
            match self.add_series(rows.user, manga, Series { progress, library }) {
                Added::Waits => {}
                other => worst = other,
            }
        }
        worst
    }

    fn entry(&mut self, user: UserId) -> Option<&mut Changes> {
        if !self.users.contains_key(&user) {
            // As many users as rows, beside those who only wait to be forgotten.
            if self.order.len() >= 2 * self.rows_max {
                return None;
            }
            self.order.push_back(user);
        }
        Some(self.users.entry(user).or_default())
    }

    fn add_series(&mut self, user: UserId, manga: MangaId, newer: Series) -> Added {
        let room = self.rows < self.rows_max;
        let Some(changes) = self.entry(user) else { return Added::Lost };
        let before = changes.series.len();
        if !room && !changes.series.contains_key(&manga) {
            (changes.complete, changes.forget) = (false, true);
            return Added::Dropped;
        }
        let series = changes.series.entry(manga).or_default();
        if let Some(row) = newer.progress {
            merge_into(&mut series.progress, row);
        }
        if let Some(row) = newer.library {
            merge_into(&mut series.library, row);
        }
        self.rows += changes.series.len() - before;
        Added::Waits
    }

    /// A user was read: the keys live on.
    pub(super) fn touch(&mut self, user: UserId, series: Vec<MangaId>) {
        if self.touches.len() < TOUCHES_MAX {
            self.touches.push_back((user, series));
        }
    }

    /// The next write, oldest users first.
    pub(super) fn take(&mut self, rows_max: usize) -> Writes {
        let mut writes = Writes::default();
        let mut taken = 0;
        while taken < rows_max
            && let Some(user) = self.order.pop_front()
        {
            let Some(changes) = self.users.remove(&user) else { continue };
            writes.rows += changes.series.len();
            taken += changes.series.len().max(1);
            writes.users.push((user, changes));
        }
        while taken < rows_max
            && let Some((user, series)) = self.touches.pop_front()
        {
            taken += series.len() + 1;
            writes.touches.push((user, series));
        }
        self.rows -= writes.rows;
        writes
    }

    /// A write came to nothing, as far as anybody knows: its rows wait again, and merging makes sending them twice harmless. A
    /// complete copy is not vouched for twice.
    pub(super) fn put_back(&mut self, writes: Writes) -> Added {
        let mut worst = Added::Waits;
        for (user, changes) in writes.users {
            if changes.forget {
                match self.entry(user) {
                    Some(known) => known.forget |= !known.complete,
                    None => worst = Added::Lost,
                }
            }
            for (manga, series) in changes.series {
                match self.add_series(user, manga, series) {
                    Added::Waits => {}
                    other => worst = other,
                }
            }
        }
        worst
    }
}

#[cfg(test)]
mod tests {
    use hub::record::ProgressRecord;
    use proto::{Chapter, MergeKey, NodeId, Version};

    use super::*;

    fn user(number: u8) -> UserId {
        UserId::from_bytes([number; 16])
    }

    fn change(number: u8, manga: i64, version: u64) -> Record {
        let key = MergeKey {
            generation: Version(1),
            chapter: Chapter::whole(version as u32),
            version: Version(version),
            node: NodeId(1),
        };
        let row = ProgressRow { key, deleted: false, page: None, ahead: false };
        let manga = MangaId(manga);
        Record::Progress(ProgressRecord { user: user(number), manga, row, device: None, library: None, history: None })
    }

    #[test]
    fn changes_of_one_series_wait_as_one_row_the_newest() {
        let mut pending = Pending::new(10);
        for version in [3, 9, 5] {
            assert_eq!(pending.add(&change(1, 1, version)), Added::Waits);
        }
        assert_eq!(pending.rows(), 1);
        let writes = pending.take(100);
        let row = writes.find(user(1)).unwrap().series[&MangaId(1)].progress.unwrap();
        assert_eq!(row.key.version, Version(9));
        assert!(pending.is_empty());
    }

    #[test]
    fn without_room_the_users_copy_is_forgotten_and_at_last_every_copy() {
        let mut pending = Pending::new(2);
        assert_eq!(pending.add(&change(1, 1, 1)), Added::Waits);
        assert_eq!(pending.add(&change(2, 1, 1)), Added::Waits);
        assert_eq!(pending.add(&change(2, 2, 1)), Added::Dropped);
        assert_eq!(pending.add(&change(2, 1, 2)), Added::Waits, "a row that waits already takes no more room");
        assert_eq!(pending.add(&change(3, 1, 1)), Added::Dropped);
        assert_eq!(pending.add(&change(4, 1, 1)), Added::Dropped);
        assert_eq!(pending.add(&change(5, 1, 1)), Added::Lost);
        let writes = pending.take(100);
        assert!(writes.find(user(2)).unwrap().forget && writes.find(user(3)).unwrap().forget);
        assert!(!writes.find(user(1)).unwrap().forget);
        assert_eq!(pending.rows(), 0);
    }

    #[test]
    fn a_copy_that_was_to_be_complete_is_not_after_a_drop_or_a_failed_write() {
        let mut pending = Pending::new(2);
        let mut whole = StoredUser::empty(user(1));
        let Record::Progress(record) = change(1, 1, 1) else { unreachable!() };
        whole.progress.push((record.manga, record.row));
        assert_eq!(pending.add_complete(&whole), Added::Waits);
        assert!(pending.find(user(1)).unwrap().complete);
        pending.add(&change(1, 2, 1));
        assert_eq!(pending.add(&change(1, 3, 1)), Added::Dropped);
        let changes = pending.find(user(1)).unwrap();
        assert!(!changes.complete && changes.forget);
        let writes = pending.take(10);
        assert_eq!(pending.put_back(writes), Added::Waits);
        assert!(pending.find(user(1)).unwrap().forget, "still to be forgotten");
        assert_eq!(pending.rows(), 2);
        pending.take(10);
        assert_eq!(pending.add_complete(&whole), Added::Waits);
        let writes = pending.take(10);
        pending.put_back(writes);
        let changes = pending.find(user(1)).unwrap();
        assert!(!changes.complete && !changes.forget);
    }
}
