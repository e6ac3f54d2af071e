//! The batch that is being gathered: the records as they lay in the journal, so that a refused batch can be taken apart, and the
//! rows they coalesce to. Records at or behind their lane's cursor are passed over: the store has them.

use std::sync::Arc;

use hub::record::Record;
use proto::{UserId, Version};

use super::WriterConfig;
use crate::journal::{LaneCursors, Lsn, RawRecord};
use crate::lane::Lane;
use crate::record;
use crate::store::{NewParked, Rows};
use crate::trace;

/// Records with consecutive positions.
#[derive(Debug, Default)]
pub(super) struct Pending {
    entries: Vec<Entry>,
    payloads: Vec<u8>,
    rows: Arc<Rows>,
    /// The last record looked at, whether it is in `entries` or was passed over.
    last: Lsn,
    first_unix_ms: Option<u64>,
    last_unix_ms: Option<u64>,
    /// The versions of updates that are followed.
    followed: Vec<Version>,
}

#[derive(Debug)]
struct Entry {
    lsn: Lsn,
    lane: Lane,
    kind: u8,
    version: u8,
    readable: bool,
    payload: std::ops::Range<usize>,
}

impl Pending {
    /// Adds a record.
    pub(super) fn add(&mut self, raw: &RawRecord<'_>, cursors: &LaneCursors) {
        self.last = raw.lsn;
        if raw.lsn <= cursors.get(raw.lane) {
            return;
        }
        let start = self.payloads.len();
        self.payloads.extend_from_slice(raw.payload);
        let RawRecord { lsn, lane, kind, version, .. } = *raw;
        let record = record::decode(raw);
        let readable = record.is_ok();
        self.entries.push(Entry { lsn, lane, kind, version, readable, payload: start..self.payloads.len() });
        if let Ok(record) = record {
            let made_unix_ms = record.version().unix_ms();
            self.first_unix_ms.get_or_insert(made_unix_ms);
            self.last_unix_ms = Some(made_unix_ms);
            if trace::follows(record.version()) && self.followed.len() < trace::FOLLOWED_MAX {
                self.followed.push(record.version());
            }
            // Nobody else has the rows while they are gathered: this does not copy.
            Arc::make_mut(&mut self.rows).add(&record);
        }
    }

    /// Whether there is nothing to store and no cursor to move.
    pub(super) fn is_empty(&self) -> bool {
        self.last == Lsn::ZERO
    }

    /// Whether it is time to store it.
    pub(super) fn is_full(&self, rows_max: usize, config: &WriterConfig) -> bool {
        self.rows.count() >= rows_max || self.entries.len() >= config.batch_records_max
    }

    /// How many records.
    pub(super) fn records(&self) -> usize {
        self.entries.len()
    }

    /// How many of them nobody can read.
    pub(super) fn unreadable(&self) -> usize {
        self.entries.iter().filter(|entry| !entry.readable).count()
    }

    /// When the oldest of the records was made.
    pub(super) fn first_unix_ms(&self) -> Option<u64> {
        self.first_unix_ms
    }

    /// When the newest of the records was made.
    pub(super) fn last_unix_ms(&self) -> Option<u64> {
        self.last_unix_ms
    }

    /// The last record that was looked at.
    pub(super) fn last(&self) -> Lsn {
        self.last
    }

    /// Logs that the updates that are followed have reached the store.
    pub(super) fn log_followed(&self) {
        for version in &self.followed {
            let (batch_records, batch_rows) = (self.records(), self.rows.count());
            tracing::info!(
                target: trace::TARGET, version = version.0, stage = "stored", last_lsn = self.last.0, batch_records, batch_rows
            );
        }
    }

    /// The whole batch.
    pub(super) fn whole(&self) -> Part<'_> {
        Part { pending: self, entries: &self.entries, last: self.last }
    }
}

/// Some of a batch's records, with consecutive positions.
#[derive(Clone, Copy)]
pub(super) struct Part<'a> {
    pending: &'a Pending,
    entries: &'a [Entry],
    last: Lsn,
}

impl<'a> Part<'a> {
    /// Where the lanes stand when this part is stored.
    pub(super) fn last(&self) -> Lsn {
        self.last
    }

    /// The two halves, in order; `None` for a single record.
    pub(super) fn halves(&self) -> Option<(Part<'a>, Part<'a>)> {
        if self.entries.len() < 2 {
            return None;
        }
        let (first, second) = self.entries.split_at(self.entries.len() / 2);
        let end = first.last().map_or(self.last, |entry| entry.lsn);
        Some((Part { entries: first, last: end, ..*self }, Part { entries: second, ..*self }))
    }

    /// What the records coalesce to; for the whole batch that has been worked out already.
    pub(super) fn rows(&self) -> Arc<Rows> {
        if self.entries.len() == self.pending.entries.len() {
            return self.pending.rows.clone();
        }
        let mut rows = Rows::default();
        self.entries.iter().filter_map(|entry| self.decode(entry).ok()).for_each(|record| rows.add(&record));
        Arc::new(rows)
    }

    /// The records that nobody can read.
    pub(super) fn unreadable(&self) -> Vec<NewParked> {
        let odd = self.entries.iter().filter(|entry| !entry.readable);
        odd.map(|entry| self.park(entry, None, self.decode(entry).err().unwrap_or_default())).collect()
    }

    /// The records as they are parked, all for one reason.
    pub(super) fn parked(&self, error: &str) -> Vec<NewParked> {
        let park = |entry| {
            let user = self.decode(entry).ok().map(|record| record.user());
            self.park(entry, user, error.to_owned())
        };
        self.entries.iter().map(park).collect()
    }

    fn raw(&self, entry: &Entry) -> RawRecord<'a> {
        let Entry { lsn, lane, kind, version, .. } = *entry;
        RawRecord { lsn, lane, kind, version, payload: &self.pending.payloads[entry.payload.clone()] }
    }

    fn decode(&self, entry: &Entry) -> Result<Record, String> {
        record::decode(&self.raw(entry)).map_err(|error| error.to_string())
    }

    fn park(&self, entry: &Entry, user: Option<UserId>, error: String) -> NewParked {
        let RawRecord { lsn, lane, kind, version, payload } = self.raw(entry);
        NewParked { lane, lsn, user, kind, version, payload: payload.to_vec(), error }
    }
}
