//! A batch: rows from many records, coalesced per key, with the cursors that move when they are stored. Records are results,
//! so a later one of a key stands for all before it: adding is merging, in any order, any number of times.

use std::hash::Hash;
use std::sync::Arc;

use hub::device::{Device, DeviceStamp};
use hub::history::{HistoryRow, LocalDay};
use hub::library::LibraryRow;
use hub::merge::merge;
use hub::preferences::Preferences;
use hub::progress::ProgressRow;
use hub::record::{ProgressRecord, Record};
use proto::{DeviceId, MangaId, NodeId, UserId, Version};
use rustc_hash::FxHashMap;

use crate::journal::{JournalId, LaneCursors, Lsn};
use crate::lane::Lane;

/// What one transaction stores.
#[derive(Clone, Debug)]
pub struct Batch {
    /// The journal that the records come from.
    pub journal: JournalId,
    /// The rows; shared, because a batch may have to be sent again.
    pub rows: Arc<Rows>,
    /// Records that were refused before and are kept aside.
    pub parked: Vec<NewParked>,
    /// Where lanes stand when this is stored. Cursors never move back.
    pub cursors: Vec<(Lane, Lsn)>,
    /// Where they must stand before: batches ahead of this one may still be under way. Of a lane that one of them has failed to
    /// move, nothing is stored.
    pub behind: LaneCursors,
    /// Now, for what is parked.
    pub now_unix_ms: u64,
}

/// A record to be kept aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewParked {
    /// Its lane.
    pub lane: Lane,
    /// Its position.
    pub lsn: Lsn,
    /// Whose, when it could be read that far.
    pub user: Option<UserId>,
    /// Which layout its payload has.
    pub kind: u8,
    /// Which version of that layout.
    pub version: u8,
    /// The layout's bytes.
    pub payload: Vec<u8>,
    /// Why it was refused.
    pub error: String,
}

/// What a batch did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Rows that were written.
    pub changed: u64,
    /// Rows that what is stored was ahead of, or equal to.
    pub behind: u64,
}

/// Rows by key, each the merge of every record that was added.
#[derive(Clone, Debug, Default)]
pub struct Rows {
    pub(crate) progress: FxHashMap<(UserId, MangaId), ProgressRow>,
    pub(crate) library: FxHashMap<(UserId, MangaId), LibraryRow>,
    pub(crate) history: FxHashMap<(UserId, LocalDay, MangaId, NodeId), (HistoryRow, Version)>,
    pub(crate) devices: FxHashMap<(UserId, DeviceId), DeviceChange>,
    pub(crate) preferences: FxHashMap<UserId, Preferences>,
}

/// What a batch says about one device. Windows are united when the stored one is at hand: adding numbers one by one to it is
/// cheap, uniting two windows is not.
#[derive(Clone, Debug, Default)]
pub(crate) struct DeviceChange {
    /// The merge of all sightings and removals.
    pub(crate) row: Option<Device>,
    /// Commands applied.
    pub(crate) stamps: Vec<(DeviceStamp, Version)>,
}

impl Rows {
    /// Merges what a record says.
    pub fn add(&mut self, record: &Record) {
        match record {
            Record::Progress(record) => self.add_progress(record),
            Record::Library(record) => merge_at(&mut self.library, (record.user, record.manga), record.row),
            Record::Device(record) => {
                let change = self.devices.entry((record.user, record.device)).or_default();
                let row = record.row();
                match &mut change.row {
                    Some(known) => known.merge(&row),
                    none => *none = Some(row),
                }
            }
            Record::Preferences(record) => merge_at(&mut self.preferences, record.user, record.row),
        }
    }

    fn add_progress(&mut self, record: &ProgressRecord) {
        let ProgressRecord { user, manga, row, device, library, history } = *record;
        merge_at(&mut self.progress, (user, manga), row);
        if let Some(library) = library {
            merge_at(&mut self.library, (user, manga), library);
        }
        if let Some(history) = history {
            merge_at(&mut self.history, (user, history.day, manga, row.key.node), (history, row.key.version));
        }
        if let Some(stamp) = device {
            self.devices.entry((user, stamp.device)).or_default().stamps.push((stamp, row.key.version));
        }
    }

    /// How many rows a store has to look at: what a batch is measured by.
    pub fn count(&self) -> usize {
        self.progress.len() + self.library.len() + self.history.len() + self.devices.len() + self.preferences.len()
    }

    /// Whether there is nothing to store.
    pub fn is_empty(&self) -> bool {
        self.count() == 0
    }
}

impl DeviceChange {
    /// The device's row with the change; `None` when that is what is stored.
    pub(crate) fn united(&self, id: DeviceId, stored: Option<Device>) -> Option<Device> {
        let mut next = stored.clone();
        if let Some(row) = &self.row {
            match &mut next {
                Some(next) => next.merge(row),
                none => *none = Some(row.clone()),
            }
        }
        for (stamp, version) in &self.stamps {
            debug_assert_eq!(stamp.device, id, "stamps are kept by device");
            match &mut next {
                Some(next) => next.absorb(stamp, *version),
                none => *none = Some(Device::from_stamp(stamp, *version)),
            }
        }
        next.filter(|next| stored.as_ref() != Some(next))
    }
}

/// Entries by key: neighbours in a table are written one after the other, by every writer in the same order.
pub(crate) fn sorted<'r, K: Ord + Copy + 'r, V: 'r>(rows: impl IntoIterator<Item = (&'r K, &'r V)>) -> Vec<(K, &'r V)> {
    let mut sorted: Vec<(K, &V)> = rows.into_iter().map(|(key, row)| (*key, row)).collect();
    sorted.sort_unstable_by_key(|(key, _)| *key);
    sorted
}

fn merge_at<K: Eq + Hash, V: Ord + Copy>(rows: &mut FxHashMap<K, V>, key: K, row: V) {
    rows.entry(key).and_modify(|known| *known = merge(*known, row)).or_insert(row);
}
