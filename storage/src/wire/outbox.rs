//! What this node has to tell the others and has not told yet, as the bodies of entries, and how much of it the store has.
//! Bounded in bytes: what finds no room is not told, its numbers are used up, and whoever reads on notices that they are
//! missing. Nothing here talks to Redis.

use std::collections::VecDeque;

use super::entry::{BODY_BYTES_MAX, Kind, put_record, revoked_bodies};
use crate::journal::{Committed, LaneCursors, Lsn};
use crate::store::Revocation;

/// Numbers whose place in the journal is remembered; past it every other one goes.
const UNSTORED_MAX: usize = 4_096;

/// An entry that waits to be sent.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) kind: Kind,
    pub(super) seq: u64,
    pub(super) body: Vec<u8>,
}

#[derive(Debug)]
pub(super) struct Outbox {
    /// The last number that was used.
    seq: u64,
    queue: VecDeque<Waiting>,
    /// Entries at the front that are on their way, and are not changed.
    sending: usize,
    bytes: usize,
    bytes_max: usize,
    /// Numbers, and up to where in the journal the records go that they stand for.
    unstored: VecDeque<(u64, Lsn)>,
    stored: Option<u64>,
}

impl Outbox {
    /// `recovered`: up to where the journal has records of earlier runs that the store lacks. Nobody is told of them one by
    /// one: they are the first number, which is missing in the stream, so the others load anew once the store has them.
    pub(super) fn new(recovered: Option<Lsn>, bytes_max: usize) -> Self {
        let mut outbox = Self {
            seq: 0,
            queue: VecDeque::new(),
            sending: 0,
            bytes: 0,
            bytes_max,
            unstored: VecDeque::new(),
            stored: Some(0).filter(|_| recovered.is_none()),
        };
        if let Some(lsn) = recovered {
            outbox.leave_out(lsn);
        }
        outbox
    }

    pub(super) fn seq(&self) -> u64 {
        self.seq
    }

    pub(super) fn stored(&self) -> Option<u64> {
        self.stored
    }

    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Something up to here in the journal will not be told.
    pub(super) fn leave_out(&mut self, lsn: Lsn) {
        self.seq += 1;
        self.note(lsn);
    }

    /// Takes durable records; false when there was no room and everything that waited was given up.
    #[must_use]
    pub(super) fn take(&mut self, committed: &Committed) -> bool {
        let mut complete = true;
        for raw in committed.records() {
            // The last number's own entry, if it is not on its way: what is noted of it below counts for all that is in it.
            let (is_open, seq) = (self.queue.len() > self.sending, self.seq);
            let is_its = |last: &&mut Waiting| is_open && last.seq == seq && last.kind == Kind::Records;
            let last = self.queue.back_mut().filter(is_its);
            let before = last.as_ref().map_or(0, |last| last.body.len());
            if let Some(last) = last
                && put_record(&mut last.body, &raw)
            {
                self.bytes += last.body.len() - before;
                continue;
            }
            let mut body = Vec::with_capacity(committed.bytes().min(BODY_BYTES_MAX));
            // A record that no entry can hold is left out, and missed.
            complete &= put_record(&mut body, &raw) && self.push(Kind::Records, body);
        }
        if !complete {
            self.seq += 1;
        }
        self.note(committed.last());
        complete
    }

    /// Takes sessions that were ended; false as for records.
    #[must_use]
    pub(super) fn take_revoked(&mut self, revoked: &[Revocation]) -> bool {
        let mut complete = true;
        for body in revoked_bodies(revoked) {
            complete &= self.push(Kind::Revoked, body);
        }
        complete
    }

    fn push(&mut self, kind: Kind, body: Vec<u8>) -> bool {
        self.seq += 1;
        if self.bytes + body.len() > self.bytes_max {
            // The others have to load anew for one missing entry as for a thousand: room for what comes is worth more.
            self.queue.truncate(self.sending);
            self.bytes = self.queue.iter().map(|waiting| waiting.body.len()).sum();
            return false;
        }
        self.bytes += body.len();
        self.queue.push_back(Waiting { kind, seq: self.seq, body });
        true
    }

    /// The next entries to send, up to so many; they stay until they are [`Self::sent`].
    pub(super) fn next(&mut self, entries_max: usize) -> impl Iterator<Item = &Waiting> {
        self.sending = self.queue.len().min(entries_max);
        self.queue.iter().take(self.sending)
    }

    /// What was on its way has arrived, or has not.
    pub(super) fn sent(&mut self, arrived: bool) -> usize {
        let count = std::mem::take(&mut self.sending);
        if !arrived {
            return 0;
        }
        self.bytes -= self.queue.drain(..count).map(|waiting| waiting.body.len()).sum::<usize>();
        count
    }

    fn note(&mut self, lsn: Lsn) {
        match self.unstored.back_mut() {
            Some(last) if last.0 == self.seq => last.1 = last.1.max(lsn),
            _ => self.unstored.push_back((self.seq, lsn)),
        }
        if self.unstored.len() > UNSTORED_MAX {
            // Coarser is safe: what stands for fewer numbers is stored no earlier. The last one stays.
            let mut keep = self.unstored.len().is_multiple_of(2);
            self.unstored.retain(|_| {
                keep = !keep;
                keep
            });
        }
    }

    /// The store has moved on.
    pub(super) fn settle(&mut self, cursors: &LaneCursors) {
        let lowest = cursors.lowest();
        while let Some((seq, _)) = self.unstored.pop_front_if(|(_, lsn)| *lsn <= lowest) {
            self.stored = Some(seq);
        }
        if self.unstored.is_empty() {
            // Revocations were in the store before they came here.
            self.stored = Some(self.seq);
        }
    }
}

#[cfg(test)]
mod tests {
    use hub::library::LibraryRow;
    use hub::record::{LibraryRecord, Record};
    use proto::{GrantId, MangaId, NodeId, ReadingStatus, UserId, Version};

    use super::super::entry::parse_records;
    use super::*;

    fn committed(first: u64, count: u32) -> Committed {
        let row = LibraryRow {
            version: Version(1),
            node: NodeId(7),
            deleted: false,
            status: ReadingStatus::Reading,
            added_at_ms: 0,
        };
        let record = |manga| Record::Library(LibraryRecord { user: UserId::default(), manga: MangaId(manga), row });
        Committed::of_records(Lsn(first), (0..count).map(|at| record(i64::from(at) + 1)))
    }

    fn told(outbox: &mut Outbox) -> Vec<(u64, usize)> {
        let told = outbox.next(1_000).map(|waiting| (waiting.seq, parse_records(&waiting.body).unwrap().0.len()));
        let told = told.collect();
        outbox.sent(true);
        told
    }

    #[test]
    fn what_waits_is_told_in_few_entries_and_in_order() {
        let mut outbox = Outbox::new(None, 1 << 20);
        assert!(outbox.take(&committed(1, 2)) && outbox.take(&committed(3, 1)));
        assert_eq!(outbox.next(1_000).count(), 1);
        // What is on its way is not changed.
        assert!(outbox.take(&committed(4, 1_000)));
        outbox.sent(false);
        let told = told(&mut outbox);
        assert_eq!(told[0], (1, 3));
        assert_eq!(told.iter().map(|(_, records)| records).sum::<usize>(), 1_003);
        assert!(told.iter().enumerate().all(|(at, (seq, _))| *seq == at as u64 + 1), "{told:?}");
        assert_eq!((outbox.len(), outbox.bytes()), (0, 0));
    }

    #[test]
    fn without_room_everything_is_given_up_and_its_numbers_are_missing() {
        let mut outbox = Outbox::new(None, 200);
        assert!(outbox.take(&committed(1, 1)));
        assert_eq!(outbox.next(1).count(), 1);
        assert!(!outbox.take(&committed(2, 1_000)));
        assert!(outbox.seq() >= 2);
        outbox.sent(true);
        told(&mut outbox);
        let after = outbox.seq();
        assert!(outbox.take(&committed(1_002, 1)));
        assert_eq!(told(&mut outbox), [(after + 1, 1)]);
    }

    #[test]
    fn a_number_counts_as_stored_once_every_lane_is_past_its_records() {
        let mut outbox = Outbox::new(None, 1 << 20);
        assert_eq!(outbox.stored(), Some(0));
        assert!(outbox.take(&committed(1, 5)));
        told(&mut outbox);
        assert!(outbox.take(&committed(6, 5)));
        outbox.settle(&LaneCursors::all_at(Lsn(4)));
        assert_eq!(outbox.stored(), Some(0));
        outbox.settle(&LaneCursors::all_at(Lsn(5)));
        assert_eq!(outbox.stored(), Some(1));
        outbox.leave_out(Lsn(20));
        outbox.settle(&LaneCursors::all_at(Lsn(19)));
        assert_eq!(outbox.stored(), Some(2));
        let revoked = Revocation {
            grant: GrantId::default(),
            user: UserId::default(),
            revoked_at_unix_ms: 1,
            keep_until_unix_ms: 2,
        };
        assert!(outbox.take_revoked(&[revoked]));
        outbox.settle(&LaneCursors::all_at(Lsn(20)));
        assert_eq!(outbox.stored(), Some(4));
    }

    #[test]
    fn what_was_recovered_is_the_first_number_and_missing() {
        let mut outbox = Outbox::new(Some(Lsn(9)), 1 << 20);
        assert_eq!((outbox.seq(), outbox.stored(), outbox.len()), (1, None, 0));
        outbox.settle(&LaneCursors::all_at(Lsn(8)));
        assert_eq!(outbox.stored(), None);
        outbox.settle(&LaneCursors::all_at(Lsn(9)));
        assert_eq!(outbox.stored(), Some(1));
    }

    #[test]
    fn remembering_coarsely_never_says_stored_too_early() {
        let mut outbox = Outbox::new(None, usize::MAX);
        for lsn in 1..=3 * UNSTORED_MAX as u64 {
            outbox.leave_out(Lsn(lsn));
        }
        assert!(outbox.unstored.len() <= UNSTORED_MAX);
        for lsn in [1, 77, 5_000, 3 * UNSTORED_MAX as u64] {
            outbox.settle(&LaneCursors::all_at(Lsn(lsn)));
            assert!(outbox.stored() <= Some(lsn), "{:?} at {lsn}", outbox.stored());
        }
        assert_eq!(outbox.stored(), Some(3 * UNSTORED_MAX as u64));
    }
}
