//! The table of users: who goes, who stays, and when the store has what they changed.

use super::*;
use hub::record::{LibraryRecord, Record};
use proto::{ReadingStatus, Version};
use storage::journal::LaneCursors;

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
