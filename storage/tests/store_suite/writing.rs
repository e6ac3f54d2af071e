//! The way from the journal into the store: nothing is skipped when the store is away, and what it refuses is kept aside.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use hub::record::Record;
use proto::{UserId, Version};
use storage::journal::{
    self, CommitFeed, Cursors, Journal, JournalConfig, JournalId, Journalled, LaneCursors, Lsn, ShardJournal, Started,
};
use storage::lane::{Lane, lane_of};
use storage::store::{Batch, NewParked, Rows, SharedStore, StoreError};
use storage::writer::{self, Writer, WriterConfig};

use crate::backend::{Backend, eventually, wait};
use crate::sample::{JOURNAL, add_user, batch, new_user, progress};

const PATIENCE: Duration = Duration::from_secs(60);

fn config(folder: &tempfile::TempDir, store: &SharedStore) -> JournalConfig {
    JournalConfig {
        segment_bytes: 1 << 20,
        in_flight_bytes_max: 128 << 10,
        ..JournalConfig::new(folder.path().join("journal"), store.store_id())
    }
}

struct Running {
    journal: Journal,
    shard: ShardJournal,
    id: JournalId,
    cursors: Cursors,
    feed: Option<CommitFeed>,
}

impl Running {
    fn start(folder: &tempfile::TempDir, store: &SharedStore) -> Self {
        let opened = journal::open(config(folder, store)).unwrap();
        let id = opened.recovery.journal_id();
        let cursors = wait(store.cursors(id)).unwrap();
        let Started { journal, mut shards, feed, cursors } =
            opened.journal.start(cursors, vec![Box::new(|| {})]).unwrap();
        Self { journal, shard: shards.pop().unwrap(), id, cursors, feed: Some(feed) }
    }

    fn writer(&mut self, store: &SharedStore) -> Writer {
        let config = WriterConfig { batch_wait_max: Duration::from_millis(20), ..WriterConfig::default() };
        let feed = self.feed.take().unwrap();
        writer::start(feed, store.clone(), self.id, self.cursors.clone(), config).unwrap()
    }

    /// Journals a record; durable when this returns.
    fn write(&mut self, record: &impl Journalled) -> Lsn {
        eventually("the journal takes a record", || self.shard.admit(1_024).is_ok());
        let ticket = self.shard.append(record);
        self.shard.flush();
        eventually("the record is durable", || self.shard.durable().ticket >= ticket);
        self.shard.durable().lsn
    }
}

pub(crate) fn a_refused_record_is_parked_and_the_rest_stored(backend: impl Backend) {
    let store = backend.store();
    let user = add_user(&store, 1);
    backend.refuse_series(13);
    let folder = tempfile::tempdir().unwrap();
    let mut running = Running::start(&folder, &store);
    let records: Vec<Record> = (1..=40).map(|at| Record::Progress(progress(user, at as i64, at, 100, 1))).collect();
    let last = records.iter().map(|record| running.write(record)).max().unwrap();
    let writer = running.writer(&store);
    assert!(writer.wait_for(last, PATIENCE));
    assert!(running.journal.close());
    assert!(writer.stop(PATIENCE));
    let loaded = wait(store.load_user(user)).unwrap().unwrap();
    assert_eq!(loaded.stored.progress.len(), 39, "all but the refused one");
    let [parked] = &loaded.parked[..] else { panic!("one parked record: {:?}", loaded.parked) };
    assert_eq!((parked.record().unwrap(), parked.lane), (records[12], lane_of(user)));
    assert!(parked.error.contains("refused"), "{}", parked.error);
    assert_eq!(wait(store.cursors(running.id)), Ok(LaneCursors::all_at(last)));
}

/// Many batches, several of them under way where the store takes several, and something in most of them that it refuses.
pub(crate) fn batches_that_follow_refused_ones_are_stored_whole<B: Backend>(mut backend: B) {
    let store = backend.store();
    let users: Vec<UserId> = (1..=8).map(|number| add_user(&store, number)).collect();
    backend.refuse_series(13);
    let folder = tempfile::tempdir().unwrap();
    let mut running = Running::start(&folder, &store);
    // Every user comes to every series, by and by.
    let series = |at: u64| (at * 3 % 20) as i64 + 1;
    let record = |at: u64| Record::Progress(progress(users[at as usize % users.len()], series(at), at, 100, 1));
    let last = (1..=320).map(|at| running.write(&record(at))).max().unwrap();
    backend.go_away();
    let config = WriterConfig { batch_rows_max: 20, ..WriterConfig::default() };
    let feed = running.feed.take().unwrap();
    let writer = writer::start(feed, store.clone(), running.id, running.cursors.clone(), config).unwrap();
    let stats = writer.stats();
    eventually("the writer says that the store is away", || stats.read().failing_since_unix_ms.is_some());
    backend.come_back();
    assert!(writer.wait_for(last, PATIENCE));
    let refused: Vec<u64> = (1..=320).filter(|at| series(*at) == 13).collect();
    let mut parked: Vec<u64> = wait(store.parked(0, 1_000)).unwrap().iter().map(|parked| parked.lsn.0).collect();
    parked.sort_unstable();
    assert_eq!(parked, refused, "each once, and nothing else");
    for user in &users {
        let mine = (1..=320).filter(|at| users[*at as usize % users.len()] == *user && series(*at) != 13);
        let wanted: std::collections::BTreeSet<i64> = mine.map(series).collect();
        assert_eq!(wait(store.load_user(*user)).unwrap().unwrap().stored.progress.len(), wanted.len());
    }
    assert_eq!(wait(store.cursors(running.id)), Ok(LaneCursors::all_at(last)));
    assert!(running.journal.close());
    assert!(writer.stop(PATIENCE));
}

/// A record of a kind that this version does not know.
struct FromTheFuture(UserId);

impl Journalled for FromTheFuture {
    fn lane(&self) -> Lane {
        lane_of(self.0)
    }

    fn kind(&self) -> u8 {
        200
    }

    fn layout_version(&self) -> u8 {
        3
    }

    fn version(&self) -> Version {
        Version(2)
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&[1, 2, 3]);
    }
}

pub(crate) fn an_unreadable_record_is_parked(backend: impl Backend) {
    let store = backend.store();
    let user = add_user(&store, 1);
    let folder = tempfile::tempdir().unwrap();
    let mut running = Running::start(&folder, &store);
    running.write(&Record::Progress(progress(user, 1, 1, 100, 1)));
    let odd = running.write(&FromTheFuture(user));
    let last = running.write(&Record::Progress(progress(user, 2, 3, 100, 1)));
    let writer = running.writer(&store);
    assert!(writer.wait_for(last, PATIENCE));
    let [parked] = &wait(store.parked(0, 10)).unwrap()[..] else { panic!("one is parked") };
    assert_eq!((parked.kind, parked.version, parked.lsn), (200, 3, odd));
    assert_eq!(parked.payload, [1, 2, 3]);
    assert!(parked.record().is_err());
    assert_eq!((wait(store.check()).unwrap().parked, writer.stats().read().parked), (1, 1));
    assert_eq!(wait(store.load_user(user)).unwrap().unwrap().stored.progress.len(), 2);
    let again = NewParked {
        lane: parked.lane,
        lsn: parked.lsn,
        user: None,
        kind: 200,
        version: 3,
        payload: vec![],
        error: String::new(),
    };
    wait(store.apply(Batch { journal: running.id, parked: vec![again], ..batch([], 9) })).unwrap();
    assert_eq!(wait(store.parked(0, 10)).unwrap().len(), 1, "parking it again is nothing");
}

pub(crate) fn a_parked_record_can_be_retried_or_discarded(backend: impl Backend) {
    let store = backend.store();
    let user = add_user(&store, 1);
    backend.refuse_series(13);
    let park = |at: u64, manga| {
        let record = Record::Progress(progress(user, manga, at, 100, 1));
        let mut payload = Vec::new();
        Journalled::encode(&record, &mut payload);
        let (kind, version) = (Journalled::kind(&record), record.layout_version());
        NewParked { lane: lane_of(user), lsn: Lsn(at), user: Some(user), kind, version, payload, error: "x".into() }
    };
    wait(store.apply(Batch { parked: vec![park(1, 13), park(2, 14)], ..batch([], 2) })).unwrap();
    let [first, second] = &wait(store.parked(0, 10)).unwrap()[..] else { panic!("two are parked") };
    assert_eq!(wait(store.parked(first.id, 10)).unwrap()[..], std::slice::from_ref(second)[..]);
    let retried = wait(store.apply_parked(first.id, first.rows().unwrap()));
    assert!(matches!(retried, Err(StoreError::Refused { .. })), "{retried:?}");
    assert_eq!(wait(store.parked(0, 10)).unwrap().len(), 2, "a failed retry leaves it parked");
    backend.refuse_nothing();
    assert!(wait(store.apply_parked(first.id, first.rows().unwrap())).unwrap().changed > 0);
    assert_eq!(wait(store.unpark(second.id)), Ok(true));
    assert_eq!(wait(store.unpark(second.id)), Ok(false));
    let gone = wait(store.apply_parked(second.id, Rows::default()));
    assert_eq!(gone, Err(StoreError::NotFound { what: "parked record" }));
    let loaded = wait(store.load_user(user)).unwrap().unwrap();
    assert_eq!((loaded.stored.progress.len(), loaded.parked.len()), (1, 0));
}

pub(crate) fn a_store_that_was_away_gets_everything<B: Backend>(mut backend: B) {
    let store = backend.store();
    let user = add_user(&store, 1);
    let folder = tempfile::tempdir().unwrap();
    let mut running = Running::start(&folder, &store);
    let writer = running.writer(&store);
    let stats = writer.stats();
    backend.go_away();
    let mut last = Lsn::ZERO;
    for version in 1..=30 {
        last = running.write(&Record::Progress(progress(
            user,
            (version % 4) as i64 + 1,
            version,
            100 * version as u32,
            1,
        )));
    }
    eventually("the writer says that the store is away", || stats.read().failing_since_unix_ms.is_some());
    assert_eq!(running.cursors.snapshot().highest(), Lsn::ZERO, "no cursor moves before its rows are stored");
    let refused = wait(store.create_user(new_user(2)));
    assert!(matches!(refused, Err(StoreError::Unavailable { .. })), "{refused:?}");
    assert!(wait(store.load_user(user)).unwrap().is_some(), "reading goes on");
    backend.come_back();
    assert!(writer.wait_for(last, PATIENCE));
    let reading = stats.read();
    assert!(reading.failures > 0 && reading.failing_since_unix_ms.is_none() && reading.parked == 0, "{reading:?}");
    assert_eq!(running.cursors.snapshot(), LaneCursors::all_at(last));
    assert_eq!(wait(store.load_user(user)).unwrap().unwrap().stored.progress.len(), 4);
    assert!(running.journal.close());
    assert!(writer.stop(PATIENCE));
}

pub(crate) fn a_stop_does_not_wait_for_a_backlog(backend: impl Backend) {
    let store = backend.store();
    let user = add_user(&store, 1);
    let folder = tempfile::tempdir().unwrap();
    let mut running = Running::start(&folder, &store);
    let records: Vec<Record> = (1..=500).map(|at| Record::Progress(progress(user, at as i64, at, 100, 1))).collect();
    let last = records.iter().map(|record| running.write(record)).max().unwrap();
    assert!(running.journal.close());
    // A transaction for each record: five hundred flushes are never over before the next line asks it to stop.
    let config = WriterConfig { batch_rows_max: 1, ..WriterConfig::default() };
    let writer =
        writer::start(running.feed.take().unwrap(), store, running.id, running.cursors.clone(), config).unwrap();
    assert!(!writer.stop(Duration::ZERO), "the rest is left to the journal");
    assert!(running.cursors.snapshot().lowest() < last);
}

pub(crate) fn draining_a_closed_journal_stores_what_was_left(mut backend: impl Backend) {
    let store = backend.store();
    let user = add_user(&store, 1);
    let folder = tempfile::tempdir().unwrap();
    let mut running = Running::start(&folder, &store);
    let writer = running.writer(&store);
    backend.go_away();
    let records: Vec<Record> = (1..=50).map(|at| Record::Progress(progress(user, at as i64, at, 100, 1))).collect();
    let last = records.iter().map(|record| running.write(record)).max().unwrap();
    let id = running.id;
    assert!(running.journal.close());
    assert!(!writer.stop(Duration::ZERO), "the store is away: the rest is left to the journal");
    backend.come_back();

    let opened = journal::open(config(&folder, &store)).unwrap();
    let mut heard = 0;
    let config = WriterConfig { batch_rows_max: 10, ..WriterConfig::default() };
    let drained = writer::drain(&opened.recovery, &store, config, PATIENCE, |_| heard += 1).unwrap();
    assert_eq!((drained.replayed, drained.parked, drained.reached), (50, 0, last));
    assert!(heard > 1);
    assert_eq!(wait(store.cursors(id)), Ok(LaneCursors::all_at(last)));
    assert_eq!(wait(store.load_user(user)).unwrap().unwrap().stored.progress.len(), 50);
    let again = writer::drain(&opened.recovery, &store, WriterConfig::default(), PATIENCE, |_| {}).unwrap();
    assert_eq!(again.replayed, 0);
}

pub(crate) fn account_writes_go_before_waiting_batches(backend: impl Backend) {
    let store = backend.store();
    let user = add_user(&store, 1);
    let mut batches: Vec<_> = (0..60_u64)
        .map(|number| {
            let records: Vec<Record> = (0..500)
                .map(|at| Record::Progress(progress(user, (number * 500 + at) as i64 + 1, at + 1, 100, 1)))
                .collect();
            store.apply(Batch { journal: JOURNAL, ..batch(&records, number + 1) })
        })
        .collect();
    wait(store.create_user(new_user(2))).unwrap();
    let last = batches.pop().unwrap();
    let mut last: Pin<Box<_>> = Box::pin(last);
    let early = last.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    assert!(matches!(early, Poll::Pending), "sixty batches went before an account write");
    for answer in batches {
        wait(answer).unwrap();
    }
    wait(last).unwrap();
    assert_eq!(wait(store.cursors(JOURNAL)).unwrap().get(Lane::from_byte(0).unwrap()), Lsn(60));
}
