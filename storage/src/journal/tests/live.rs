//! What holds while it runs: order, admission, room, the feed.

use super::*;

#[test]
fn records_of_many_shards_keep_their_order_and_lose_nothing() {
    const SHARDS: usize = 4;
    const EACH: u64 = 3_000;
    let folder = disk_folder();
    let mut rig = Rig::start(folder.path(), SHARDS);
    let shards = std::mem::take(&mut rig.shards);
    let wakes = std::mem::take(&mut rig.wakes);
    std::thread::scope(|scope| {
        for (index, (mut shard, wakes)) in shards.into_iter().zip(wakes).enumerate() {
            scope.spawn(move || {
                let mut ticket = Ticket::default();
                for number in 0..EACH {
                    while shard.admit(200).is_err() {
                        wakes.recv_timeout(PATIENCE).unwrap();
                    }
                    ticket = shard.append(&Note::numbered(index as u64 * EACH + number));
                    if number % 7 == 0 {
                        shard.flush();
                    }
                }
                shard.flush();
                while shard.durable().ticket < ticket {
                    wakes.recv_timeout(PATIENCE).unwrap();
                }
            });
        }
        let fed = rig.drain(SHARDS * EACH as usize);
        for index in 0..SHARDS as u64 {
            let own: Vec<u64> = fed.iter().copied().filter(|number| number / EACH == index).collect();
            assert_eq!(own, numbers(index * EACH..(index + 1) * EACH), "a shard's records stay in order");
        }
    });
    assert!(rig.close());
    assert_eq!(contents(folder.path()).len(), SHARDS * EACH as usize);
}

#[test]
fn a_watermark_never_runs_ahead_of_the_disk() {
    let folder = disk_folder();
    let engine = fault::FaultEngine::default();
    let mut rig = Rig::start_with(config(folder.path(), Arc::new(engine.clone())), 2);
    rig.write_durably(0, notes(1..4));
    let before = rig.shards[0].durable();
    engine.set_held(true);
    let ticket = rig.hand_over(0, notes(4..6));
    let other = rig.hand_over(1, notes(6..7));
    assert!(rig.feed.backlog().0 <= 3);
    assert_eq!(rig.shards[0].durable(), before, "nothing is durable while the write has not returned");
    assert_eq!(rig.shards[1].durable(), Durable::default());
    engine.set_held(false);
    rig.wait_durable(0, ticket);
    rig.wait_durable(1, other);
    assert_eq!(rig.shards[1].durable().lsn, Lsn(6));
    assert!(rig.close());
}

#[test]
fn a_slow_flush_is_busy_before_anything_changes_and_heals() {
    let folder = disk_folder();
    let engine = fault::FaultEngine::default();
    let mut rig = Rig::start_with(config(folder.path(), Arc::new(engine.clone())), 1);
    engine.set_held(true);
    let mut admitted = 0;
    let busy = loop {
        match rig.shards[0].admit(112) {
            Ok(()) => rig.hand_over(0, [Note::numbered(admitted)]),
            Err(busy) => break busy,
        };
        admitted += 1;
    };
    assert_eq!(busy.reason, BusyReason::SlowFlush);
    assert!(admitted * 112 <= SEGMENT_BYTES / 4, "{admitted}");
    engine.set_held(false);
    wait_until("it heals", || rig.shards[0].admit(112).is_ok());
    assert!(rig.close());
    assert_eq!(contents(folder.path()).len() as u64, admitted);
}

#[test]
fn a_commit_that_does_not_fit_goes_to_the_next_segment_and_drained_segments_go() {
    let folder = disk_folder();
    let mut rig = Rig::start(folder.path(), 1);
    let mut written = 0;
    while rig.journal().stats().segments < 6 {
        wait_until("there is room", || rig.shards[0].admit(50 * 4_012).is_ok());
        rig.write_durably(0, (written..written + 50).map(|number| Note { number, bytes: 4_000 }));
        written += 50;
    }
    assert_eq!(rig.drain(written as usize), numbers(0..written));
    let before = segments(folder.path()).len();
    for lane in Lane::all() {
        rig.cursors.publish(lane, Lsn(written));
    }
    wait_until("drained segments are gone", || segments(folder.path()).len() <= 2);
    assert!(before >= 5);
    rig.write_durably(0, notes(written..written + 1));
    assert!(rig.close());
    let recovery = reopen(folder.path()).unwrap().recovery;
    assert_eq!(recovery.end(), Lsn(written + 1));
    assert_eq!(replay(&recovery, &LaneCursors::all_at(Lsn(written))).into_values().collect::<Vec<_>>(), [written]);
}

#[test]
fn one_lane_that_lags_keeps_its_segments() {
    let folder = disk_folder();
    let mut rig = Rig::start(folder.path(), 1);
    for batch in 0..12 {
        wait_until("there is room", || rig.shards[0].admit(50 * 4_012).is_ok());
        rig.write_durably(0, (batch * 50..batch * 50 + 50).map(|number| Note { number, bytes: 4_000 }));
    }
    for lane in Lane::all().skip(1) {
        rig.cursors.publish(lane, Lsn(600));
    }
    rig.cursors.publish(Lane::from_byte(0).unwrap(), Lsn(3));
    // A segment that is prepared meanwhile shows that the thread has looked.
    wait_until("the next one is prepared", || rig.journal().stats().segments >= 4);
    assert!(first_segment(folder.path()).exists());
    assert!(rig.close());
    assert_eq!(reopen(folder.path()).unwrap().recovery.first(), Lsn(1));
}

#[test]
fn a_store_that_does_not_drain_makes_writes_busy_at_the_limit_and_heals() {
    let folder = disk_folder();
    let (mut config, failures) = config(folder.path(), Arc::new(StdEngine::default()));
    config.journal_bytes_max = 4 * SEGMENT_BYTES;
    let mut rig = Rig::start_with((config, failures), 1);
    let mut written = 0;
    wait_until("the journal is full", || {
        match rig.shards[0].admit(20 * 4_012) {
            Ok(()) => {
                rig.hand_over(0, (written..written + 20).map(|number| Note { number, bytes: 4_000 }));
                written += 20;
            }
            Err(Busy { reason: BusyReason::NoRoom }) => return true,
            Err(_) => {}
        }
        false
    });
    assert!(rig.journal().stats().no_room);
    wait_until("everything admitted is durable", || rig.shards[0].durable().lsn == Lsn(written));
    let bytes: u64 = segments(folder.path()).iter().map(|path| path.metadata().unwrap().len()).sum();
    assert!(bytes <= 4 * SEGMENT_BYTES && written * 4_012 > 3 * SEGMENT_BYTES, "{bytes} bytes, {written} records");
    for lane in Lane::all() {
        rig.cursors.publish(lane, Lsn(written));
    }
    wait_until("it heals", || rig.shards[0].admit(100).is_ok());
    assert!(rig.close());
    assert_eq!(rig.failures.lock().unwrap().len(), 0);
}

#[test]
fn a_writer_that_falls_behind_is_fed_from_the_segments_without_noticing() {
    let folder = disk_folder();
    let (mut config, failures) = config(folder.path(), Arc::new(StdEngine::default()));
    config.feed_rows_max = 100;
    let mut rig = Rig::start_with((config, failures), 2);
    let mut written = 0;
    let mut fed = Vec::new();
    for round in 0..30 {
        for _ in 0..10 {
            wait_until("there is room", || rig.shards[round % 2].admit(40 * 1_012).is_ok());
            rig.write_durably(round % 2, (written..written + 40).map(|number| Note { number, bytes: 1_000 }));
            written += 40;
        }
        let (rows, behind) = rig.feed.backlog();
        assert!(rows <= 100 && behind, "{rows} rows");
        // Sometimes all of it, sometimes not: the feed changes between memory and segments in both directions.
        let missing = written as usize - fed.len();
        fed.extend(rig.drain(if round % 3 == 0 { missing } else { missing / 2 }));
    }
    let (mut fed, missing) = (fed.clone(), written as usize - fed.len());
    fed.extend(rig.drain(missing));
    assert_eq!(fed, numbers(0..written));
    assert!(rig.close());
    assert!(matches!(rig.feed.next(PATIENCE), Ok(Next::Closed)));
}

#[test]
fn recovered_records_reach_the_store_through_the_feed() {
    let folder = disk_folder();
    for start in [0, 10] {
        let mut rig = Rig::start(folder.path(), 1);
        rig.write_durably(0, notes(start..start + 10));
        assert!(rig.close());
    }
    let mut rig = Rig::start(folder.path(), 3);
    rig.write_durably(2, notes(20..25));
    assert_eq!(rig.drain(25), numbers(0..25));
    assert!(rig.close());
}

#[test]
fn closing_makes_everything_handed_over_durable_and_refuses_the_rest() {
    let folder = disk_folder();
    let mut rig = Rig::start(folder.path(), 2);
    let ticket = rig.hand_over(1, notes(0..500));
    assert!(rig.close());
    assert_eq!(rig.shards[1].durable(), Durable { ticket, lsn: Lsn(500) });
    assert_eq!(rig.shards[0].admit(1), Err(Busy { reason: BusyReason::Stopped }));
    rig.shards[0].append(&Note::numbered(900));
    rig.shards[0].flush();
    assert_eq!(contents(folder.path()).len(), 500);
}

#[test]
fn a_journal_without_room_for_four_segments_does_not_start() {
    let folder = disk_folder();
    let (mut config, _) = config(folder.path(), Arc::new(StdEngine::default()));
    config.journal_bytes_max = 4 * SEGMENT_BYTES - 1;
    let listeners: Vec<Listener> = vec![Box::new(|| {})];
    let error = open(config).unwrap().journal.start(LaneCursors::START, listeners).unwrap_err();
    assert!(matches!(error, StartError::NoRoom { .. }) && error.to_string().contains("Free some space"), "{error}");
}

/// Says, before it opens a segment, whether an earlier one has been dropped by then.
struct Onlooker {
    real: StdEngine,
    orphaned: std::sync::atomic::AtomicBool,
}

impl Engine for Onlooker {
    fn name(&self) -> &'static str {
        "onlooker"
    }

    fn probe(&self, folder: &Path) -> std::io::Result<Medium> {
        self.real.probe(folder)
    }

    fn prepare(&self, path: &Path, bytes: u64) -> std::io::Result<()> {
        self.real.prepare(path, bytes)
    }

    fn open(&self, path: &Path) -> std::io::Result<Box<dyn SegmentFile>> {
        let folder = path.parent().unwrap();
        let begun = || {
            let says_so = |other: &PathBuf| std::fs::read(other).is_ok_and(|bytes| bytes.starts_with(b"MHJOURNL"));
            segments(folder).iter().any(|other| other != path && says_so(other))
        };
        if path != first_segment(folder) {
            // Time for the other thread to do what it must not.
            let deadline = Instant::now() + Duration::from_millis(300);
            while begun() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(2));
            }
            self.orphaned.fetch_or(!begun(), std::sync::atomic::Ordering::SeqCst);
        }
        self.real.open(path)
    }
}

#[test]
fn at_every_moment_some_segment_says_which_journal_this_is() {
    let folder = disk_folder();
    let engine = Arc::new(Onlooker { real: StdEngine::default(), orphaned: Default::default() });
    let mut rig = Rig::start_with(config(folder.path(), engine.clone()), 1);
    for number in 0..600 {
        wait_until("there is room", || rig.shards[0].admit(8_012).is_ok());
        rig.write_durably(0, [Note { number, bytes: 4_000 }]);
        // The store follows at once: every segment is drained when it is sealed.
        Lane::all().for_each(|lane| rig.cursors.publish(lane, Lsn(number + 1)));
    }
    assert_eq!(rig.journal().stats().end, Lsn(600));
    assert!(rig.close());
    let orphaned = engine.orphaned.load(std::sync::atomic::Ordering::SeqCst);
    assert!(!orphaned, "a crash now would have left a folder in which nothing says that there was a journal");
}

#[test]
fn after_a_restart_the_watermark_stands_where_the_journal_ends() {
    let folder = disk_folder();
    let mut rig = Rig::start(folder.path(), 1);
    rig.write_durably(0, notes(0..7));
    assert!(rig.close());
    let mut rig = Rig::start(folder.path(), 3);
    for shard in &rig.shards {
        assert_eq!(shard.durable(), Durable { ticket: Ticket(0), lsn: Lsn(7) });
    }
    assert!(rig.close());
}
