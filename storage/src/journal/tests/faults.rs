//! What a failing disk does, and does not do.

use super::fault::{FaultEngine, PowerLoss, WriteFault};
use super::*;

/// Writes two hand-overs durably, lets the third meet `fault`, and returns what is found afterwards.
fn after_fault(fault: WriteFault, blocks: u64) -> BTreeMap<u64, u64> {
    let folder = disk_folder();
    let engine = FaultEngine::default();
    let mut rig = Rig::start_with(config(folder.path(), Arc::new(engine.clone())), 2);
    rig.write_durably(0, notes(1..4));
    rig.write_durably(1, notes(4..6));
    let acknowledged = [rig.shards[0].durable(), rig.shards[1].durable()];
    engine.fail_after(0, fault);
    let ticket = rig.hand_over(0, (6..7).map(|number| Note { number, bytes: blocks as usize * 4096 - 200 }));
    rig.wait_failed();
    assert_eq!([rig.shards[0].durable(), rig.shards[1].durable()], acknowledged, "{fault:?} acknowledged something");
    assert!(rig.shards[0].durable().ticket < ticket);
    assert_eq!(rig.shards[1].admit(1), Err(Busy { reason: BusyReason::Stopped }));
    assert_eq!(rig.failures.lock().unwrap().len(), 1, "told once");
    // Nothing is tried again, by nobody.
    let writes = engine.writes();
    rig.hand_over(1, notes(7..8));
    assert!(!rig.close());
    assert_eq!(engine.writes(), writes);
    assert_eq!(rig.drain(5), numbers(1..6));
    assert!(matches!(rig.feed.next(PATIENCE), Ok(Next::Closed)), "the store gets what is durable and no more");
    engine.lose_power(PowerLoss::Dropped).unwrap();
    contents(folder.path())
}

#[test]
fn a_write_that_fails_is_final_and_never_acknowledged() {
    assert_eq!(after_fault(WriteFault::Error, 1).into_values().collect::<Vec<_>>(), numbers(1..6));
    for blocks in [1, 2, 5] {
        assert_eq!(after_fault(WriteFault::Short, blocks).into_values().collect::<Vec<_>>(), numbers(1..6));
    }
}

#[test]
fn a_commit_torn_at_any_block_is_dropped() {
    for blocks in 0..15 {
        assert_eq!(
            after_fault(WriteFault::Torn(blocks), 4).into_values().collect::<Vec<_>>(),
            numbers(1..6),
            "{blocks:b}"
        );
    }
    // All of it reached the disk and nobody was told: found again, which is no lie either.
    assert_eq!(after_fault(WriteFault::Torn(15), 4).into_values().collect::<Vec<_>>(), numbers(1..7));
}

/// Acknowledges forty records on `engine`, lets the power fail, and answers what a restart finds of them, in order.
fn after_power_failure(engine: &FaultEngine, loss: PowerLoss) -> Result<Vec<u64>, OpenError> {
    let folder = disk_folder();
    let mut rig = Rig::start_with(config(folder.path(), Arc::new(engine.clone())), 1);
    for number in 0..40 {
        rig.write_durably(0, [Note { number, bytes: 100 + number as usize * 300 }]);
    }
    assert!(rig.close());
    engine.lose_power(loss).unwrap();
    let found = reopen(folder.path())?;
    Ok(replay(&found.recovery, &LaneCursors::START).into_values().collect())
}

fn power_losses() -> impl Iterator<Item = PowerLoss> {
    [PowerLoss::Dropped].into_iter().chain((0..20).map(PowerLoss::Torn))
}

#[test]
fn what_was_acknowledged_survives_a_power_failure() {
    for loss in power_losses() {
        assert_eq!(after_power_failure(&FaultEngine::default(), loss).unwrap(), numbers(0..40), "{loss:?}");
    }
}

#[test]
fn without_o_dsync_a_power_failure_loses_what_was_acknowledged() {
    // The negative control of the test above: the same disk and the same failures, the flag taken out.
    for loss in power_losses() {
        let found = after_power_failure(&FaultEngine::without_flush(), loss);
        assert!(found.as_ref().map_or(true, |found| found.len() < 40), "{loss:?} lost nothing: {found:?}");
    }
}

#[test]
fn a_full_disk_is_busy_before_anything_changes_and_heals() {
    let folder = disk_folder();
    let engine = FaultEngine::default();
    let mut rig = Rig::start_with(config(folder.path(), Arc::new(engine.clone())), 1);
    wait_until("the second segment is prepared", || rig.journal().stats().segments == 2);
    engine.set_no_space(true);
    let mut written = 0;
    let mut write = |rig: &mut Rig| {
        let admitted = rig.shards[0].admit(10 * 4_012);
        if admitted.is_ok() {
            rig.hand_over(0, (written..written + 10).map(|number| Note { number, bytes: 4_000 }));
            written += 10;
        }
        (admitted, written)
    };
    wait_until("it is busy for want of room", || write(&mut rig).0 == Err(Busy { reason: BusyReason::NoRoom }));
    let full = write(&mut rig).1;
    wait_until("everything admitted is durable", || rig.shards[0].durable().lsn == Lsn(full));
    assert!(rig.journal().stats().prepare_failures > 0);
    engine.set_no_space(false);
    wait_until("it heals", || write(&mut rig).0.is_ok());
    let total = write(&mut rig).1;
    assert!(rig.close());
    assert_eq!(contents(folder.path()).into_values().collect::<Vec<_>>(), numbers(0..total));
}

#[test]
fn single_records_at_a_full_disk_do_not_fill_it_with_padding() {
    let folder = disk_folder();
    let engine = FaultEngine::default();
    let mut rig = Rig::start_with(config(folder.path(), Arc::new(engine.clone())), 4);
    wait_until("the second segment is prepared", || rig.journal().stats().segments == 2);
    engine.set_no_space(true);
    let mut written = 0;
    wait_until("it is busy for want of room", || {
        for shard in 0..4 {
            for _ in 0..32 {
                match rig.shards[shard].admit(112) {
                    Ok(()) => drop(rig.hand_over(shard, [Note::numbered(written)])),
                    Err(busy) => return busy.reason == BusyReason::NoRoom,
                }
                written += 1;
            }
        }
        false
    });
    // Everything that was admitted found its place, one small hand-over each.
    assert!(rig.close());
    assert!(rig.failures.lock().unwrap().is_empty());
    assert_eq!(contents(folder.path()).len() as u64, written);
}

#[test]
fn a_panic_on_the_journals_thread_is_a_failed_commit() {
    let folder = disk_folder();
    let (config, failures) = config(folder.path(), Arc::new(StdEngine::default()));
    let listeners: Vec<Listener> = vec![Box::new(|| panic!("a listener with a bug"))];
    let mut started = open(config).unwrap().journal.start(LaneCursors::START, listeners).unwrap();
    started.shards[0].append(&Note::numbered(1));
    started.shards[0].flush();
    wait_until("it is noticed", || !failures.lock().unwrap().is_empty());
    assert!(started.journal.failed());
    assert!(!started.journal.close());
}
