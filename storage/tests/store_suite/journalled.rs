//! Journalled rows: results that may come in any order, any number of times, and always end in the same tables.

use hub::preferences::Strategy;
use hub::record::Record;
use hub::user::UserState;
use proptest::prelude::*;
use proptest::strategy::Strategy as _;
use proptest::test_runner::{Config, TestRunner};
use proto::UserId;
use storage::journal::{JournalId, LaneCursors, Lsn};
use storage::lane::Lane;
use storage::store::{Batch, HistoryAfter, HistoryDay, Rows};

use crate::backend::{Backend, wait};
use crate::sample::{JOURNAL, add_user, batch, deletion, device, library, preferences, progress, user_id};

/// At least one record of every kind, and of every way a kind can be.
fn every_kind(user: UserId) -> Vec<Record> {
    let mut records: Vec<Record> = (1..=40)
        .map(|version| {
            Record::Progress(progress(user, 1 + (version % 3) as i64, version, (version as u32 * 37) % 900, 1))
        })
        .collect();
    records.extend([
        Record::Progress(deletion(user, 2, 41, 1)),
        Record::Progress(progress(user, 1, 42, 850, 2)),
        library(user, 4, 43, false),
        library(user, 3, 44, true),
        device(user, 77, 1, 45, false),
        device(user, 78, 46, 46, false),
        device(user, 78, 47, 47, true),
        preferences(user, 48, Strategy::Latest),
        preferences(user, 49, Strategy::Ask),
    ]);
    records
}

pub(crate) fn every_record_kind_replayed_twice_changes_nothing(backend: impl Backend) {
    let store = backend.store();
    let records = every_kind(add_user(&store, 1));
    let first = wait(store.apply(batch(&records, 49))).unwrap();
    assert!(first.changed > 0);
    let once = backend.dump();
    let again = wait(store.apply(batch(&records, 49))).unwrap();
    assert_eq!((again.changed, again.behind), (0, first.changed + first.behind));
    assert_eq!(backend.dump(), once, "in whole");
    for (at, record) in records.iter().enumerate() {
        assert_eq!(wait(store.apply(batch([record], at as u64))).unwrap().changed, 0, "{record:?}");
    }
    assert_eq!(backend.dump(), once, "one by one");
}

pub(crate) fn any_order_ends_in_the_same_tables<B: Backend>(backend: B) {
    let store = backend.store();
    let mut number = 0;
    let mut user_of_next_case = || {
        number += 1;
        add_user(&store, number)
    };
    let in_order = user_of_next_case();
    wait(store.apply(batch(&every_kind(in_order), 1))).unwrap();
    let expected = wait(store.load_user(in_order)).unwrap().unwrap().stored;
    let shuffles = (0..49_usize).collect::<Vec<_>>();
    let order = (Just(shuffles).prop_shuffle(), 1_usize..20);
    let cases = std::cell::RefCell::new(user_of_next_case);
    let mut runner = TestRunner::new(Config { cases: 24, failure_persistence: None, ..Config::default() });
    runner
        .run(&order, |(order, size)| {
            let user = (cases.borrow_mut())();
            let records = every_kind(user);
            for part in order.chunks(size) {
                wait(store.apply(batch(part.iter().map(|at| &records[*at]), 1))).unwrap();
            }
            let mut stored = wait(store.load_user(user)).unwrap().unwrap().stored;
            stored.user = in_order;
            prop_assert_eq!(&stored, &expected);
            Ok(())
        })
        .unwrap();
}

pub(crate) fn what_is_stored_is_what_the_rules_computed(backend: impl Backend) {
    let store = backend.store();
    let user = add_user(&store, 1);
    let records = every_kind(user);
    wait(store.apply(batch(&records, 49))).unwrap();
    let loaded = wait(store.load_user(user)).unwrap().unwrap();
    assert!(loaded.parked.is_empty());
    let from_store = UserState::from_rows(loaded.stored, proto::NodeId(1));
    let mut from_records = UserState::new(user, proto::NodeId(1));
    records.iter().for_each(|record| from_records.replay(record));
    assert_eq!(from_store.to_rows(), from_records.to_rows());
}

pub(crate) fn stale_rows_change_nothing(backend: impl Backend) {
    let store = backend.store();
    let user = add_user(&store, 1);
    let newer = Record::Progress(progress(user, 1, 500, 900, 1));
    let older = Record::Progress(progress(user, 1, 400, 800, 1));
    wait(store.apply(batch([&newer], 1))).unwrap();
    let before = wait(store.load_user(user)).unwrap().unwrap();
    wait(store.apply(batch([&older], 2))).unwrap();
    let after = wait(store.load_user(user)).unwrap().unwrap();
    assert_eq!(before.stored.progress, after.stored.progress);
    assert_eq!(before.stored.library, after.stored.library);
    assert_eq!(before.stored.history, after.stored.history, "a smaller history row never shrinks the stored one");
}

pub(crate) fn cursors_move_with_the_rows_and_never_back(backend: impl Backend) {
    let store = backend.store();
    let user = add_user(&store, 1);
    assert_eq!(wait(store.cursors(JOURNAL)), Ok(LaneCursors::START));
    let record = Record::Progress(progress(user, 1, 5, 100, 1));
    wait(store.apply(batch([&record], 30))).unwrap();
    let two = [(Lane::from_byte(3).unwrap(), Lsn(10)), (Lane::from_byte(4).unwrap(), Lsn(40))];
    let other = Batch { cursors: two.to_vec(), ..batch([], 0) };
    wait(store.apply(other)).unwrap();
    let cursors = wait(store.cursors(JOURNAL)).unwrap();
    assert_eq!((cursors.lowest(), cursors.highest()), (Lsn(30), Lsn(40)));
    assert_eq!(wait(store.cursors(JournalId([9; 16]))), Ok(LaneCursors::START), "each journal has its own");
    assert_eq!(wait(store.journals()), Ok(vec![(JOURNAL, cursors)]));
}

pub(crate) fn adopting_sets_cursors_whatever_they_were(backend: impl Backend) {
    let store = backend.store();
    wait(store.apply(batch([], 30))).unwrap();
    wait(store.adopt(JOURNAL, LaneCursors::all_at(Lsn(12)))).unwrap();
    assert_eq!(wait(store.cursors(JOURNAL)), Ok(LaneCursors::all_at(Lsn(12))));
}

pub(crate) fn an_unknown_user_is_not_loaded(backend: impl Backend) {
    let store = backend.store();
    assert_eq!(wait(store.load_user(user_id(5))), Ok(None));
    let user = add_user(&store, 5);
    let loaded = wait(store.load_user(user)).unwrap().unwrap();
    assert_eq!(loaded.stored, hub::load::StoredUser::empty(user));
}

pub(crate) fn history_is_paged_newest_first_without_gaps_or_repeats(backend: impl Backend) {
    let store = backend.store();
    let (user, other) = (add_user(&store, 1), add_user(&store, 2));
    let records: Vec<Record> = (0..60_u64)
        .flat_map(|at| {
            let version = (at / 5) * 1_000 + at;
            [user, other].map(|user| Record::Progress(progress(user, (at * 7 % 5) as i64 + 1, version, 100, 1)))
        })
        .collect();
    wait(store.apply(batch(&records, 1))).unwrap();
    let whole = wait(store.history(user, None, 1_000)).unwrap();
    assert_eq!((whole.days.len(), whole.next), (60, None));
    assert!(whole.days.is_sorted_by(|a, b| a.position() > b.position()));
    for rows_max in [1, 7, 59, 60] {
        let mut all: Vec<HistoryDay> = Vec::new();
        let mut after: Option<HistoryAfter> = None;
        loop {
            let page = wait(store.history(user, after, rows_max)).unwrap();
            assert!(page.days.len() <= rows_max);
            all.extend(page.days);
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(all, whole.days);
    }
}

pub(crate) fn nodes_of_a_day_are_added_up(backend: impl Backend) {
    let store = backend.store();
    let user = add_user(&store, 1);
    let records = [(1, 300, 1), (2, 500, 2)]
        .map(|(version, chapter, node)| Record::Progress(progress(user, 1, version, chapter, node)));
    wait(store.apply(batch(&records, 1))).unwrap();
    let page = wait(store.history(user, None, 10)).unwrap();
    let [day] = page.days[..] else { panic!("one day: {page:?}") };
    assert_eq!((day.chapters, day.updates, day.last.hundredths(), day.version.0), (3 + 5, 2 + 3, 500, 2));
}

pub(crate) fn what_was_applied_survives_reopening(backend: impl Backend) {
    let store = backend.store();
    let user = add_user(&store, 1);
    let id = store.store_id();
    wait(store.apply(batch(&every_kind(user), 49))).unwrap();
    let loaded = wait(store.load_user(user)).unwrap();
    let dump = backend.dump();
    drop(store);
    let backend = backend.reopened();
    assert_eq!(backend.dump(), dump);
    let store = backend.store();
    assert_eq!((store.store_id(), wait(store.load_user(user)).unwrap()), (id, loaded));
    assert_eq!(wait(store.cursors(JOURNAL)), Ok(LaneCursors::all_at(Lsn(49))));
}

pub(crate) fn tombstones_go_after_their_time(backend: impl Backend) {
    let store = backend.store();
    let user = add_user(&store, 1);
    let at = |unix_ms| proto::Version::from_unix_ms(unix_ms).0;
    let (old, new) = (1_800_000_000_000, 1_800_000_100_000);
    let records = [
        Record::Progress(deletion(user, 1, at(old), 1)),
        Record::Progress(deletion(user, 2, at(new), 1)),
        library(user, 1, at(old), true),
        library(user, 3, at(old), false),
        device(user, 5, at(old), at(old), true),
    ];
    wait(store.apply(batch(&records, 1))).unwrap();
    assert_eq!(wait(store.purge(0, new)).unwrap().tombstones, 3);
    let stored = wait(store.load_user(user)).unwrap().unwrap().stored;
    assert_eq!((stored.progress.len(), stored.library.len(), stored.devices.len()), (1, 1, 0));
}

pub(crate) fn a_check_counts_and_finds_no_problem(backend: impl Backend) {
    let store = backend.store();
    let user = add_user(&store, 1);
    wait(store.apply(batch(&every_kind(user), 49))).unwrap();
    wait(store.ping()).unwrap();
    let check = wait(store.check()).unwrap();
    assert_eq!(check.problems, Vec::<String>::new());
    assert_eq!((check.store_id, check.parked), (store.store_id(), 0));
    assert_eq!(check.cursors, vec![(JOURNAL, LaneCursors::all_at(Lsn(49)))]);
    let rows = |table| check.tables.iter().find(|count| count.table == table).unwrap().rows;
    assert_eq!((rows("users"), rows("user_progress"), rows("preferences")), (1, 3, 1));
    assert!(Rows::default().is_empty());
}
