//! Merging is commutative, associative and idempotent, for every kind of row; and a window is a set with a sliding end.

use std::collections::BTreeSet;

use crate::support::{device, fixed};
use hub::window::{Seen, WINDOW_SEQS};
use hub::{
    Device, HistoryRow, LibraryRow, LocalDay, Preferences, ProgressRow, Strategy as GoingBack, UtcOffset, Window,
};
use proptest::prelude::*;
use proto::{Chapter, DeviceSeq, MergeKey, NodeId, Page, ReadingStatus, Version};

/// Small numbers, so that keys collide often.
fn version() -> impl Strategy<Value = Version> {
    (0..4_u64).prop_map(Version)
}

fn node() -> impl Strategy<Value = NodeId> {
    (1..4_u32).prop_map(NodeId)
}

fn chapter() -> impl Strategy<Value = Chapter> {
    (0..6_u32).prop_map(|halves| Chapter::from_hundredths(halves * 50).unwrap())
}

fn status() -> impl Strategy<Value = ReadingStatus> {
    proptest::sample::select(ReadingStatus::ALL)
}

prop_compose! {
    fn progress()(generation in version(), chapter in chapter(), version in version(), node in node(),
                  deleted: bool, page in proptest::option::of(0..3_u32), ahead: bool) -> ProgressRow {
        ProgressRow { key: MergeKey { generation, chapter, version, node }, deleted, page: page.map(Page), ahead }
    }
}

prop_compose! {
    fn library()(version in version(), node in node(), deleted: bool, status in status(), added_at_ms in 0..3_u64) -> LibraryRow {
        LibraryRow { version, node, deleted, status, added_at_ms }
    }
}

prop_compose! {
    fn history()(day in 0..3_u32, updates in 0..3_u32, chapters in 0..3_u32, last in chapter(), first in chapter(), jump: bool) -> HistoryRow {
        HistoryRow { day: LocalDay(day), updates, chapters, last, first, jump }
    }
}

prop_compose! {
    fn preferences()(version in version(), node in node(), strategy in proptest::sample::select(&GoingBack::ALL), minutes in -720..840_i16) -> Preferences {
        Preferences { version, node, strategy, utc_offset: UtcOffset::from_minutes(minutes).unwrap() }
    }
}

fn window() -> impl Strategy<Value = Window> {
    let seq = prop_oneof![3 => 1..40_u64, 1 => 1..200_u64, 1 => 4_000..4_200_u64, 1 => 1..20_000_u64];
    proptest::collection::vec(seq, 0..40).prop_map(|seqs| {
        let mut window = Window::default();
        seqs.into_iter().for_each(|seq| window.insert(DeviceSeq(seq)));
        window
    })
}

prop_compose! {
    fn device_row()(epoch in version(), removed: bool, seen in version(), window in window()) -> Device {
        Device { id: device(1), epoch, removed, seen, window: if removed { Window::default() } else { window } }
    }
}

fn laws<T: Clone + PartialEq + std::fmt::Debug>(
    [a, b, c]: [T; 3],
    merge: impl Fn(T, T) -> T,
) -> Result<(), TestCaseError> {
    let merge = |a: &T, b: &T| merge(a.clone(), b.clone());
    prop_assert_eq!(merge(&a, &b), merge(&b, &a), "commutative");
    prop_assert_eq!(merge(&merge(&a, &b), &c), merge(&a, &merge(&b, &c)), "associative");
    prop_assert_eq!(merge(&a, &a), a.clone(), "idempotent");
    prop_assert_eq!(merge(&merge(&a, &b), &b), merge(&a, &b), "idempotent, once merged");
    Ok(())
}

proptest! {
    #![proptest_config(fixed(256))]

    #[test]
    fn rows_merge_alike_in_any_order(
        progress in [progress(), progress(), progress()],
        library in [library(), library(), library()],
        history in [history(), history(), history()],
        preferences in [preferences(), preferences(), preferences()],
    ) {
        let [a, b, _] = progress;
        prop_assert_eq!(hub::merge::merge(a, b).key, a.key.max(b.key), "the larger merge key wins");
        laws(progress, hub::merge::merge)?;
        laws(library, hub::merge::merge)?;
        laws(history, hub::merge::merge)?;
        laws(preferences, hub::merge::merge)?;
    }

    #[test]
    fn devices_merge_alike_in_any_order(rows in [device_row(), device_row(), device_row()]) {
        laws(rows, |mut a, b| { a.merge(&b); a })?;
    }

    #[test]
    fn windows_merge_alike_in_any_order(windows in [window(), window(), window()]) {
        laws(windows, |mut a, b| { a.merge(&b); a })?;
    }

    #[test]
    fn a_window_answers_like_a_set_of_numbers(
        steps in proptest::collection::vec(prop_oneof![4 => -3..4_i64, 2 => -70..70_i64, 1 => -5_000..5_000_i64], 1..400),
    ) {
        let (mut window, mut set, mut seq) = (Window::default(), BTreeSet::new(), 5_000_i64);
        for step in steps {
            seq = (seq + step).max(1);
            let number = seq as u64;
            let last = set.last().copied().unwrap_or(0);
            let expected = match number {
                _ if number > last => Seen::New,
                _ if last - number >= WINDOW_SEQS => Seen::TooOld,
                _ if set.contains(&number) => Seen::Applied,
                _ => Seen::New,
            };
            prop_assert_eq!(window.look_up(DeviceSeq(number)), expected, "{} of {}", number, last);
            window.insert(DeviceSeq(number));
            if expected == Seen::New {
                set.insert(number);
            }
        }
        let bytes = window.to_bytes();
        prop_assert_eq!(&Window::from_bytes(window.last_seq(), &bytes).unwrap(), &window);
        let last = window.last_seq().0;
        let in_window: Vec<_> = set.range(last.saturating_sub(WINDOW_SEQS - 1)..).copied().collect();
        let seen = (last.saturating_sub(WINDOW_SEQS - 1).max(1)..=last).filter(|seq| window.look_up(DeviceSeq(*seq)) == Seen::Applied);
        prop_assert_eq!(seen.collect::<Vec<_>>(), in_window);
    }

    #[test]
    fn stamping_a_device_is_merging_what_the_stamp_means(
        row in device_row(), epoch in version(), version in version(), seq in proptest::option::of(1..60_u64),
    ) {
        let stamp = hub::DeviceStamp { device: device(1), seq: seq.map(DeviceSeq), epoch };
        let (mut absorbed, mut merged) = (row.clone(), row);
        absorbed.absorb(&stamp, version);
        merged.merge(&Device::from_stamp(&stamp, version));
        prop_assert_eq!(absorbed, merged);
    }
}

#[test]
fn a_run_needs_no_bitmap_and_a_filled_gap_gives_it_back() {
    let mut window = Window::default();
    (1..=10_000).for_each(|seq| window.insert(DeviceSeq(seq)));
    assert_eq!((window.heap_bytes(), window.to_bytes().len()), (0, 8));
    window.insert(DeviceSeq(10_002));
    assert_eq!((window.heap_bytes(), window.to_bytes().len()), (512, 512));
    window.insert(DeviceSeq(10_001));
    assert_eq!(window.heap_bytes(), 0);
    // A gap that nobody fills slides out of the window.
    (10_010..=15_000).for_each(|seq| window.insert(DeviceSeq(seq)));
    assert_eq!(window.heap_bytes(), 0);
    window.insert(DeviceSeq(100_000));
    assert_eq!((window.heap_bytes(), window.look_up(DeviceSeq(99_999))), (0, Seen::New));
}

#[test]
fn bytes_that_no_window_made_are_refused() {
    for (last, bytes) in [
        (0, vec![0; 8]),
        (5, vec![]),
        (5, vec![0; 8]),
        (5, 6_u64.to_le_bytes().to_vec()),
        (5, vec![0; 512]),
        (u64::MAX, vec![0xff; 512]),
        (5, vec![1; 100]),
    ] {
        assert!(Window::from_bytes(DeviceSeq(last), &bytes).is_err(), "{last} {}", bytes.len());
    }
}
