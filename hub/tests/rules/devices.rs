//! Devices: a retry is harmless, an ancient one is refused, and there are never more than 64.

use crate::support::*;
use hub::device::DEVICES_PER_USER_MAX;
use hub::window::{DEVICE_SEQ_MAX, WINDOW_SEQS};
use hub::{Command, Outcome, Record, Reject, SetProgress, UserState};
use proto::{Code, DeviceId, DeviceSeq, NodeId};

#[test]
fn a_retry_is_answered_with_the_current_state() {
    let mut world = World::new();
    world.applied(set_from(1, 1, "5"));
    world.applied(set_from(2, 1, "6"));
    let Outcome::Already(Some(view)) = world.run(set_from(1, 1, "5")) else { panic!("applied twice") };
    assert_eq!(view.key.chapter, chapter("6"));
    assert_eq!(world.state.last_seq(device(1)), DeviceSeq(1));
    // Even when the series is gone from the catalogue by now.
    world.facts = None;
    assert!(matches!(world.run(set_from(1, 1, "5")), Outcome::Already(Some(_))));
}

#[test]
fn only_applied_commands_consume_their_number() {
    let mut world = World::new();
    world.applied(set_from(1, 1, "50"));
    world.conflict(set_from(1, 2, "10"));
    world.facts = Some(COMPLETED);
    world.rejected(set_from(1, 2, "96"));
    assert_eq!(world.state.last_seq(device(1)), DeviceSeq(1));
    world.applied(SetProgress { force: true, ..set_from(1, 2, "10") });
    assert_eq!(world.state.last_seq(device(1)), DeviceSeq(2));
}

#[test]
fn a_number_older_than_the_window_is_refused_with_the_state() {
    let mut world = World::new();
    world.applied(set_from(1, WINDOW_SEQS + 1, "5"));
    world.applied(set_from(1, 2, "5"));
    let reject = world.rejected(set_from(1, 1, "9"));
    assert_eq!(reject.code(), Code::SeqTooOld);
    assert_eq!(reject.state().unwrap().key.chapter, chapter("5"));
}

#[test]
fn numbers_that_no_device_may_use_are_invalid() {
    let mut world = World::new();
    for seq in [0, DEVICE_SEQ_MAX.0 + 1, u64::MAX] {
        assert_eq!(world.rejected(set_from(1, seq, "1")), Reject::BadSeq);
    }
    world.applied(set_from(1, DEVICE_SEQ_MAX.0, "1"));
}

#[test]
fn without_a_device_there_is_no_dedupe() {
    let mut world = World::new();
    let command = SetProgress { device_seq: Some(DeviceSeq(1)), ..set("5") };
    world.applied(command);
    world.applied(command);
    assert_eq!(world.state.device_views().count(), 0);
    // A device that does not number its commands is seen, no more.
    let unnumbered = SetProgress { device: Some(device(1)), ..set("5") };
    world.applied(unnumbered);
    world.applied(unnumbered);
    assert_eq!(world.state.last_seq(device(1)), DeviceSeq(0));
    assert_eq!(world.state.device_views().count(), 1);
}

#[test]
fn the_longest_unseen_of_too_many_devices_goes() {
    let mut world = World::new();
    for number in 0..DEVICES_PER_USER_MAX as u8 {
        world.wall_ms += 1;
        world.applied(set_from(number + 1, 1, "5"));
    }
    world.wall_ms += 1;
    world.applied(set_from(1, 2, "5"));
    let newcomer = DeviceId::from_bytes([0xff; 16]);
    let change = world.applied(Command::SeeDevice { device: newcomer });
    assert_eq!(change.evicted.map(|record| record.device), Some(device(2)));
    assert_eq!(change.records().count(), 2);
    assert_eq!(world.state.device_views().count(), DEVICES_PER_USER_MAX);
    assert_eq!(world.state.device(device(2)), None);
    // Coming back, it is a new device, and another one goes.
    world.applied(set_from(2, 1, "5"));
    assert_eq!(world.state.device(device(3)), None);
}

#[test]
fn removed_device_forgets_its_numbers_and_stays_removed_in_replay() {
    let mut world = World::new();
    world.applied(set_from(1, 7, "5"));
    world.applied(Command::RemoveDevice { device: device(1) });
    assert_eq!(world.rejected(Command::RemoveDevice { device: device(1) }).code(), Code::NotFound);
    let mut replayed = UserState::new(USER, NodeId(1));
    for record in world.records.iter().rev().chain(&world.records) {
        replayed.replay(record);
    }
    assert_eq!((replayed.device(device(1)), &replayed), (None, &world.state));
    world.applied(set_from(1, 7, "5"));
    assert_eq!(world.state.last_seq(device(1)), DeviceSeq(7));
    world.records.iter().for_each(|record| replayed.replay(record));
    world.records.iter().for_each(|record| replayed.replay(record));
    assert_eq!(replayed, world.state);
}

#[test]
fn saying_hello_again_within_a_minute_records_nothing() {
    let mut world = World::new();
    let hello = Command::SeeDevice { device: device(1) };
    world.applied(hello);
    world.wall_ms += 59_000;
    assert_eq!(world.run(hello), Outcome::Already(None));
    world.wall_ms += 2_000;
    assert!(matches!(world.applied(hello).record, Record::Device(_)));
}

#[test]
fn ten_series_and_two_devices_fit_into_1_2_kilobytes() {
    let mut world = World::new();
    for series in 0..10 {
        for (number, seq) in [(1, 1 + series), (2, 1 + series)] {
            world.applied(SetProgress { manga: proto::MangaId(series as i64), ..set_from(number, seq, "5") });
        }
    }
    assert!(world.state.heap_bytes() <= 1_200, "{} bytes", world.state.heap_bytes());
    let loaded = UserState::from_rows(world.state.to_rows(), NodeId(1));
    assert!(loaded.heap_bytes() <= world.state.heap_bytes());
    // A gap costs a bitmap until it is filled.
    let compact = world.state.heap_bytes();
    world.applied(set_from(1, 12, "5"));
    assert_eq!(world.state.heap_bytes(), compact + hub::window::BITMAP_BYTES);
    world.applied(set_from(1, 11, "5"));
    assert_eq!(world.state.heap_bytes(), compact);
}
