//! The table of users: who goes, who stays, and when the store has what they changed.

use super::*;
use hub::record::{LibraryRecord, Record};
use proto::{MangaId, ReadingStatus};
use storage::journal::LaneCursors;
use storage::wire::Origin;

fn waiting() -> Waiting {
    let (sender, _) = futures_channel::oneshot::channel();
    Waiting { work: Work::Get(MangaId(1)), target: Target::Local(sender), framed: false }
}

fn filled(users: &mut Users) -> (UserId, u32) {
    let user = UserId::new_v7();
    users.begin(user, waiting());
    let (slot, waiters) = users.fill(user, UserState::new(user, NodeId(1)), 0);
    assert_eq!(waiters.len(), 1);
    (user, slot)
}

fn is_resident(users: &Users, user: UserId) -> bool {
    matches!(users.find(user), Found::Resident(_))
}

#[test]
fn the_least_recently_used_goes_first_and_the_pinned_stay() {
    let mut users = Users::new(3 * USER_BYTES, usize::MAX);
    let [first, second, third] = std::array::from_fn(|_| filled(&mut users));
    let conn = ConnRef { shard: 0, slot: 0, generation: 1 };
    users.pin(first.1, conn);
    users.touch(second.1);
    let fourth = filled(&mut users);
    users.evict();
    let left = [first, second, third, fourth].map(|(user, _)| is_resident(&users, user));
    assert_eq!(left, [true, true, false, true]);
    users.unpin(first.0, conn);
    let fifth = filled(&mut users);
    users.evict();
    let left = [first, second, fourth, fifth].map(|(user, _)| is_resident(&users, user));
    assert_eq!(left, [true, false, true, true]);
}

#[test]
fn a_changed_user_stays_until_the_store_has_the_change() {
    let cursors = Cursors::new(LaneCursors::START);
    let mut users = Users::new(0, usize::MAX);
    let (user, slot) = filled(&mut users);
    users.changed(slot, Ticket(5));
    users.mark(Durable { ticket: Ticket(4), lsn: Lsn(40) });
    Lane::all().for_each(|lane| cursors.publish(lane, Lsn(45)));
    users.settle(&cursors);
    users.evict();
    assert!(is_resident(&users, user), "gone although its change is not even durable");
    users.mark(Durable { ticket: Ticket(6), lsn: Lsn(60) });
    users.settle(&cursors);
    users.evict();
    assert!(is_resident(&users, user), "gone although the store lacks its change");
    Lane::all().for_each(|lane| cursors.publish(lane, Lsn(60)));
    users.settle(&cursors);
    users.evict();
    assert!(!is_resident(&users, user));
    assert_eq!(users.figures(), Figures { evictions: 1, ..Figures::default() });
}

#[test]
fn coarser_marks_never_unpin_too_early() {
    let cursors = Cursors::new(LaneCursors::START);
    let mut users = Users::new(usize::MAX, usize::MAX);
    let (_, slot) = filled(&mut users);
    users.changed(slot, Ticket(9_000));
    for at in 1..=10_000 {
        users.mark(Durable { ticket: Ticket(at), lsn: Lsn(at * 10) });
    }
    Lane::all().for_each(|lane| cursors.publish(lane, Lsn(89_999)));
    users.settle(&cursors);
    assert!(users.figures().dirty_bytes > 0);
    Lane::all().for_each(|lane| cursors.publish(lane, Lsn(100_000)));
    users.settle(&cursors);
    assert_eq!(users.figures().dirty_bytes, 0);
    assert!(users.marks.len() <= 2);
}

#[test]
fn what_the_journal_had_is_merged_until_the_store_has_it() {
    let cursors = Cursors::new(LaneCursors::START);
    let mut users = Users::new(usize::MAX, usize::MAX);
    let user = UserId::new_v7();
    let mut state = UserState::new(user, NodeId(1));
    let row = hub::LibraryRow {
        version: Version(9),
        node: NodeId(1),
        deleted: false,
        status: ReadingStatus::Reading,
        added_at_ms: 1,
    };
    state.replay(&Record::Library(LibraryRecord { user, manga: MangaId(3), row }));
    users.recover(state, Lsn(7));
    users.settle(&cursors);
    let whole = assemble(hub::StoredUser::empty(user), users.recovered(user), NodeId(1));
    assert!(whole.library(MangaId(3)).is_some());
    Lane::all().for_each(|lane| cursors.publish(lane, Lsn(7)));
    users.settle(&cursors);
    assert!(users.recovered(user).is_none());
}

fn told(seq: u64) -> Origin {
    Origin { node: NodeId(2), epoch: 5, seq }
}

fn on_the_shelf(user: UserId, manga: i64) -> Record {
    let row = hub::LibraryRow {
        version: Version(9),
        node: NodeId(2),
        deleted: false,
        status: ReadingStatus::Reading,
        added_at_ms: 1,
    };
    Record::Library(LibraryRecord { user, manga: MangaId(manga), row })
}

#[test]
fn what_another_node_changed_is_merged_until_its_store_has_it() {
    let mut users = Users::new(usize::MAX, usize::MAX);
    let (user, later) = (UserId::new_v7(), UserId::new_v7());
    let has = |users: &Users, user: UserId, manga: i64| {
        let loaded = users.join(UserState::new(user, NodeId(1)), NodeId(1));
        loaded.library(MangaId(manga)).is_some()
    };
    assert!(users.hold(told(3), &on_the_shelf(user, 1), NodeId(1)));
    assert!(users.hold(told(4), &on_the_shelf(user, 2), NodeId(1)));
    assert!(users.hold(told(4), &on_the_shelf(later, 1), NodeId(1)));
    assert!(has(&users, user, 1) && has(&users, user, 2));
    assert!(!users.stored_elsewhere(&told(3)));
    assert!(has(&users, user, 2), "number 4 is not stored");
    // The store may have answered before it had it: whoever is being loaded gets it still.
    users.begin(later, waiting());
    users.stored_elsewhere(&Origin { node: NodeId(3), ..told(9) });
    assert!(has(&users, user, 2), "that is another node's word");
    users.stored_elsewhere(&told(4));
    assert!(!has(&users, user, 1) && has(&users, later, 1));
    users.fail(later);
    users.stored_elsewhere(&told(5));
    assert_eq!(users.figures().held, (0, 0));
    // A run begins once the store has what the earlier ones left.
    users.hold(told(9), &on_the_shelf(user, 1), NodeId(1));
    users.stored_elsewhere(&Origin { epoch: 6, ..told(0) });
    assert_eq!(users.figures().held, (0, 0));
}

#[test]
fn what_finds_no_room_is_a_gap_once_it_is_stored() {
    let mut users = Users::new(usize::MAX, 1);
    let (user, other) = (UserId::new_v7(), UserId::new_v7());
    assert!(users.hold(told(1), &on_the_shelf(user, 1), NodeId(1)));
    assert!(!users.hold(told(2), &on_the_shelf(other, 1), NodeId(1)));
    assert!(!users.stored_elsewhere(&told(1)));
    assert!(users.stored_elsewhere(&told(2)));
    assert!(!users.stored_elsewhere(&told(3)), "once");
}

#[test]
fn after_a_gap_only_those_stay_whom_the_store_cannot_give_back() {
    let mut users = Users::new(usize::MAX, usize::MAX);
    let [clean, connected, changed] = std::array::from_fn(|_| filled(&mut users));
    users.pin(connected.1, ConnRef { shard: 0, slot: 0, generation: 1 });
    users.changed(changed.1, Ticket(1));
    let loading = UserId::new_v7();
    users.begin(loading, waiting());
    let mut left = users.forget_clean();
    left.sort_unstable();
    let mut expected = [connected.0, changed.0, loading];
    expected.sort_unstable();
    assert_eq!(left, expected);
    assert!(!is_resident(&users, clean.0) && is_resident(&users, connected.0));
    users.fail(loading);
    assert_eq!(users.figures().users, 2);
}

#[test]
fn positions_only_grow_and_a_version_of_another_clock_is_told_from_our_own() {
    let mut users = Users::new(usize::MAX, usize::MAX);
    let (_, slot) = filled(&mut users);
    let resident = users.get(slot);
    let wall_ms = 1_900_000_000_000;
    let mut clock = Hlc::default();
    let first = clock.next(wall_ms, Version::ZERO);
    assert_eq!(resident.announce(first, &clock), first.0);
    let second = clock.next(wall_ms, Version::ZERO);
    assert_eq!(resident.announce(second, &clock), second.0);
    assert!(
        resident.covers(0) && resident.covers(first.0) && resident.covers(second.0) && !resident.covers(second.0 + 1)
    );
    // The row came from a node an hour ahead; its version says nothing about this stream.
    let ahead = clock.next(wall_ms, Version::from_unix_ms(wall_ms + 3_600_000));
    let third = resident.announce(ahead, &clock);
    assert!(third > second.0 && third <= clock.high_water().0);
    assert!(!resident.covers(second.0) && resident.covers(third));
    let fourth = clock.next(wall_ms, Version::ZERO);
    assert_eq!(resident.announce(fourth, &clock), fourth.0);
    assert!(resident.covers(third) && resident.covers(fourth.0));
}

/// Resident memory of this process: proc(5), second field of statm, in pages of 4 KiB.
fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("proc");
    let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok());
    pages.expect("a number of pages") * 4_096
}

#[test]
fn users_are_counted_as_what_they_take() {
    const USERS: usize = 10_000;
    let mut users = Users::new(usize::MAX, usize::MAX);
    let mut clock = Hlc::default();
    let before = resident_bytes();
    for _ in 0..USERS {
        let (_, slot) = filled(&mut users);
        for change in 0..10_u64 {
            let command = hub::Command::SetProgress(hub::SetProgress {
                device: Some(proto::DeviceId::from_bytes([1 + change as u8 % 2; 16])),
                device_seq: Some(proto::DeviceSeq(change / 2 + 1)),
                ..hub::SetProgress::new(MangaId(change as i64), proto::Chapter::ZERO)
            });
            let mut context = hub::Context {
                wall_ms: 1_900_000_000_000,
                clock: &mut clock,
                facts: Some(hub::SeriesFacts { total: None, status: proto::SeriesStatus::Ongoing }),
                strict_total: false,
                token_tag: &|_| [0; 16],
            };
            let outcome = hub::apply(&mut users.get(slot).state, &command, &mut context);
            assert!(matches!(outcome, hub::Outcome::Applied(_)));
            users.changed(slot, Ticket(1));
        }
    }
    let (taken, counted) = (resident_bytes() - before, users.figures().bytes);
    let ratio = counted as f64 / taken as f64;
    assert!((0.8..1.25).contains(&ratio), "{} bytes each, counted as {}", taken / USERS, counted / USERS);
}
