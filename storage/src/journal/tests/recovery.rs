//! What is found again after a stop, a crash, or damage.

use std::fs::File;
use std::os::unix::fs::FileExt;

use super::*;
use crate::journal::format::{BLOCK_BYTES, CommitHeader};

/// Where the commits of a segment lie: offset and header.
fn commits(path: &Path) -> Vec<(u64, CommitHeader)> {
    let format::SegmentStart::Header(header) = scan::read_start(path).unwrap() else { panic!("no header") };
    let mut scan = scan::SegmentScan::open(path, &header).unwrap();
    let mut found = Vec::new();
    loop {
        let offset = scan.offset();
        match scan.next().unwrap() {
            Some((header, _)) => found.push((offset, header)),
            None => return found,
        }
    }
}

/// A closed journal with three commits: records 1..=5, 6..=10, 11..=60 (two blocks).
fn three_commits() -> (TempDir, Vec<(u64, CommitHeader)>) {
    let folder = disk_folder();
    let mut rig = Rig::start(folder.path(), 1);
    for range in [1..6, 6..11, 11..61] {
        rig.write_durably(0, notes(range));
    }
    assert!(rig.close());
    let commits = commits(&first_segment(folder.path()));
    assert_eq!(commits.len(), 3);
    (folder, commits)
}

fn flip(path: &Path, offset: u64, mask: u8) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ mask], offset).unwrap();
}

#[test]
fn acknowledged_records_survive_any_number_of_restarts_with_any_number_of_shards() {
    let folder = disk_folder();
    let mut written = 0;
    for shards in [1, 3, 2, 4] {
        let mut rig = Rig::start(folder.path(), shards);
        for round in 0..20 {
            let shard = round % shards;
            rig.write_durably(shard, notes(written + 1..written + 4));
            written += 3;
        }
        assert!(rig.close());
        let found = contents(folder.path());
        assert_eq!(found.keys().copied().collect::<Vec<_>>(), numbers(1..written + 1), "positions without a hole");
        assert_eq!(found.into_values().collect::<Vec<_>>(), numbers(1..written + 1));
    }
    assert!(reopen(folder.path()).unwrap().recovery.version_high_water() >= Version(written));
}

#[test]
fn only_what_is_behind_its_lanes_cursor_is_replayed() {
    let (folder, _) = three_commits();
    let opened = reopen(folder.path()).unwrap();
    let mut cursors = LaneCursors::all_at(Lsn(20));
    cursors.advance(Lane::from_byte(3).unwrap(), Lsn(60));
    let found = replay(&opened.recovery, &cursors);
    assert_eq!(
        found.keys().copied().collect::<Vec<_>>(),
        (21..61).filter(|number| number % 16 != 3).collect::<Vec<_>>()
    );
    assert!(replay(&opened.recovery, &LaneCursors::all_at(Lsn(60))).is_empty());
}

/// The chain alone: what `open` checks, without its flushes.
fn chain_of(folder: &Path) -> chain::Chain {
    chain::read(&config(folder, Arc::new(StdEngine::buffered())).0).unwrap().unwrap()
}

#[test]
fn a_tail_torn_at_any_byte_recovers_exactly_the_commits_before_it() {
    let (folder, commits) = three_commits();
    let path = first_segment(folder.path());
    let (offset, last) = commits[2];
    let whole = std::fs::read(&path).unwrap();
    let file = File::options().write(true).open(&path).unwrap();
    let content = last.content_bytes();
    assert!(content > BLOCK_BYTES, "more than one block");
    for torn_at in (0..content + 50).rev() {
        // From here on it never reached the disk: zeros, as they had been written ahead.
        file.write_all_at(&[0], offset + torn_at as u64).unwrap();
        let chain = chain_of(folder.path());
        let harmless = torn_at >= content;
        assert_eq!(chain.end, Lsn(if harmless { 60 } else { 10 }), "torn at byte {torn_at}");
        assert_eq!(chain.torn.is_some(), !harmless && torn_at > 0, "torn at byte {torn_at}");
    }
    file.write_all_at(&whole[offset as usize..], offset).unwrap();
    assert_eq!(chain_of(folder.path()).end, Lsn(60));
    // The file itself may have been cut: a copy that was interrupted, a file system that lost its size.
    for length in (0..content + 50).rev() {
        file.set_len(offset + length as u64).unwrap();
        let end = if length >= content { 60 } else { 10 };
        assert_eq!(chain_of(folder.path()).end, Lsn(end), "cut at byte {length}");
    }
    assert_eq!(contents(folder.path()).into_values().collect::<Vec<_>>(), numbers(1..11));
}

#[test]
fn a_torn_tail_is_sealed_and_the_journal_goes_on_behind_it() {
    let (folder, commits) = three_commits();
    let path = first_segment(folder.path());
    flip(&path, commits[2].0 + 70, 1);
    for round in 0..3 {
        let mut rig = Rig::start(folder.path(), 2);
        rig.write_durably(1, [Note::numbered(1_000 + round)]);
        assert!(rig.close());
        let mut expected = numbers(1..11);
        expected.extend(1_000..=1_000 + round);
        assert_eq!(contents(folder.path()).into_values().collect::<Vec<_>>(), expected);
    }
}

#[test]
fn damage_before_the_last_commit_is_refused_whichever_bit_flipped() {
    let (folder, commits) = three_commits();
    let path = first_segment(folder.path());
    for (offset, header) in &commits[..2] {
        for at in 0..header.content_bytes() as u64 {
            flip(&path, offset + at, 1 << (at % 8));
            let error = chain::read(&config(folder.path(), Arc::new(StdEngine::buffered())).0).unwrap_err();
            assert!(
                matches!(&error, OpenError::Corrupt { offset: found, .. } if found == offset),
                "byte {at}: {error}"
            );
            flip(&path, offset + at, 1 << (at % 8));
        }
    }
    assert_eq!(reopen(folder.path()).unwrap().recovery.end(), Lsn(60));
}

#[test]
fn damage_at_the_end_of_a_sealed_segment_is_refused() {
    let (folder, commits) = three_commits();
    let mut rig = Rig::start(folder.path(), 1);
    rig.write_durably(0, notes(61..62));
    assert!(rig.close());
    flip(&first_segment(folder.path()), commits[2].0 + 80, 4);
    let error = reopen(folder.path()).unwrap_err();
    assert!(matches!(&error, OpenError::Corrupt { .. }), "{error}");
    assert!(error.to_string().contains("db adopt"));
}

#[test]
fn a_damaged_segment_header_is_refused_even_when_it_is_the_only_one() {
    let (folder, _) = three_commits();
    for path in segments(folder.path()).into_iter().skip(1) {
        std::fs::remove_file(path).unwrap();
    }
    let path = first_segment(folder.path());
    for at in (0..8).chain(12..72) {
        flip(&path, at, 2);
        assert!(matches!(reopen(folder.path()), Err(OpenError::Corrupt { .. })), "byte {at}");
        flip(&path, at, 2);
    }
    // A whole first block lost.
    let file = File::options().write(true).open(&path).unwrap();
    file.write_all_at(&[0; BLOCK_BYTES], 0).unwrap();
    assert!(matches!(reopen(folder.path()), Err(OpenError::Corrupt { .. })));
    assert!(path.exists(), "nothing that may hold records is removed");
}

#[test]
fn a_missing_segment_is_a_hole_and_a_missing_beginning_is_told_apart() {
    let folder = disk_folder();
    for round in 0..4 {
        let mut rig = Rig::start(folder.path(), 1);
        rig.write_durably(0, notes(round * 10 + 1..round * 10 + 11));
        assert!(rig.close());
    }
    let hidden = folder.path().join("hidden");
    std::fs::rename(segment_path(folder.path(), 2), &hidden).unwrap();
    let error = reopen(folder.path()).unwrap_err();
    assert!(matches!(error, OpenError::Hole { expected: Lsn(11), found: Lsn(21), .. }), "{error}");
    std::fs::rename(&hidden, segment_path(folder.path(), 2)).unwrap();
    std::fs::remove_file(first_segment(folder.path())).unwrap();
    let recovery = reopen(folder.path()).unwrap().recovery;
    let error = recovery.replay(&LaneCursors::all_at(Lsn(9))).unwrap_err();
    assert!(matches!(error, ReplayError::Behind { needed: Lsn(10), first: Lsn(11) }), "{error}");
    assert_eq!(replay(&recovery, &LaneCursors::all_at(Lsn(10))).len(), 30);
    let error = recovery.replay(&LaneCursors::all_at(Lsn(41))).unwrap_err();
    assert!(matches!(error, ReplayError::Ahead { cursor: Lsn(41), end: Lsn(40) }), "{error}");
    assert!(error.to_string().contains("db adopt"));
}

#[test]
fn a_missing_last_segment_is_noticed_by_the_one_prepared_behind_it() {
    let folder = disk_folder();
    let mut rig = Rig::start(folder.path(), 1);
    rig.write_durably(0, notes(1..11));
    wait_until("the second segment is prepared", || rig.journal().stats().segments == 2);
    assert!(rig.close());
    let last = first_segment(folder.path());
    let hidden = folder.path().join("hidden");
    std::fs::rename(&last, &hidden).unwrap();
    let error = reopen(folder.path()).unwrap_err();
    assert!(matches!(error, OpenError::EndMissing { missing: 1, .. }), "{error}");
    assert!(error.to_string().contains("db adopt"));
    std::fs::rename(&hidden, &last).unwrap();
    assert_eq!(contents(folder.path()).into_values().collect::<Vec<_>>(), numbers(1..11), "nothing was taken away");
}

#[test]
fn a_journal_of_a_newer_server_another_store_or_another_journal_is_refused() {
    let (folder, _) = three_commits();
    let (mut other, _) = config(folder.path(), Arc::new(StdEngine::default()));
    other.store_id = StoreId([6; 16]);
    let error = open(other.clone()).unwrap_err();
    assert!(matches!(error, OpenError::OtherStore { .. }) && error.to_string().contains("db drain"), "{error}");
    other.store_id = STORE;
    other.expected = Some(JournalId([9; 16]));
    assert!(matches!(open(other.clone()), Err(OpenError::ForeignSegment { .. })));
    let empty = disk_folder();
    other.folder = empty.path().to_owned();
    assert!(matches!(open(other), Err(OpenError::Missing { .. })));
    flip(&first_segment(folder.path()), 8, 2);
    let error = reopen(folder.path()).unwrap_err();
    assert!(matches!(error, OpenError::NewerFormat { found: 3, known: 1, .. }), "{error}");
}

#[test]
fn frequent_restarts_do_not_fill_the_journal() {
    let folder = disk_folder();
    for round in 0..12 {
        let mut rig = Rig::start(folder.path(), 1);
        rig.write_durably(0, notes(round + 1..round + 2));
        assert!(rig.close());
    }
    let bytes: u64 = segments(folder.path()).iter().map(|path| path.metadata().unwrap().len()).sum();
    assert!(bytes <= 2 * SEGMENT_BYTES + 12 * 2 * BLOCK_BYTES as u64, "{bytes}");
    assert_eq!(contents(folder.path()).into_values().collect::<Vec<_>>(), numbers(1..13));
}

/// A small seeded generator (SplitMix64), so that a failing case can be run again.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % limit
    }
}

#[test]
fn whatever_is_damaged_the_journal_is_refused_or_ends_before_it() {
    let (folder, commits) = three_commits();
    let mut rig = Rig::start(folder.path(), 1);
    rig.write_durably(0, notes(61..71));
    assert!(rig.close());
    let paths = &segments(folder.path())[..2];
    let whole: Vec<Vec<u8>> = paths.iter().map(|path| std::fs::read(path).unwrap()).collect();
    let last_commit =
        (BLOCK_BYTES as u64, CommitHeader::peek(&whole[1][BLOCK_BYTES..], commits[0].1.journal, 2).unwrap());
    let (mut refused, mut shortened) = (0, 0);
    for seed in 0..400 {
        let mut random = Random(seed);
        let which = random.below(2) as usize;
        let used = 7 * BLOCK_BYTES as u64;
        let at = random.below(used.min(whole[which].len() as u64 - 1));
        let length = 1 + random.below(200.min(whole[which].len() as u64 - at));
        let mut damage = vec![0; length as usize];
        match random.below(3) {
            0 => damage.fill_with(|| random.below(256) as u8),
            1 => damage.fill(0),
            // A piece of another place of the same file: whole headers, too.
            _ => {
                let from = (random.below(used / 4096) * 4096).min(whole[which].len() as u64 - length) as usize;
                damage.copy_from_slice(&whole[which][from..from + length as usize]);
            }
        }
        let file = File::options().write(true).open(&paths[which]).unwrap();
        file.write_all_at(&damage, at).unwrap();
        match chain::read(&config(folder.path(), Arc::new(StdEngine::buffered())).0) {
            Err(_) => refused += 1,
            Ok(None) => panic!("seed {seed}: a journal became no journal"),
            Ok(Some(chain)) if chain.end == Lsn(70) => {}
            Ok(Some(chain)) => {
                shortened += 1;
                assert_eq!(chain.end, Lsn(60), "seed {seed}: only a last commit can look torn");
                let inside = at < last_commit.0 + last_commit.1.content_bytes() as u64 && at + length > last_commit.0;
                assert!(which == 1 && inside, "seed {seed}");
            }
        }
        file.write_all_at(&whole[which], 0).unwrap();
    }
    assert!(refused > 50 && shortened > 5, "{refused} refused, {shortened} shortened");
    assert_eq!(contents(folder.path()).len(), 70);
}
