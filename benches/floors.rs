//! Instructions that one operation of the hot path takes, counted by callgrind, which gives the same number on every run. It
//! compares them with the baseline in `benches/floors.toml` and fails when one has grown by more than a fifth; times are not
//! looked at, so a busy machine changes nothing.
//!
//! `cargo bench -p mangahub-storage --bench floors --profile floors` checks; with `-- --update` behind it, it writes the
//! baseline anew: do that with the change that moves a number, and say why in its message.

#![allow(clippy::print_stdout, reason = "a report for whoever runs it")]

use std::collections::BTreeMap;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::{Command as Process, ExitCode};
use std::sync::Arc;

use hub::device::DeviceStamp;
use hub::history::{HistoryRow, LocalDay};
use hub::library::LibraryRow;
use hub::progress::ProgressRow;
use hub::record::{ProgressRecord, Record};
use hub::{Command, Context, Hlc, Outcome, SeriesFacts, UserState, apply};
use proto::frame::{Ack, Caps, ClientFrame, ProgressEntry, Receiver, SetProgress};
use proto::line::{ClientLine, split_line};
use proto::{
    Chapter, DeviceId, DeviceSeq, MangaId, MergeKey, NodeId, Page, ReadingStatus, SeriesStatus, UserId, Version,
};
use storage::journal::{JournalConfig, LaneCursors, Listener, Started, StdEngine, StoreId, open};

/// How much more than its baseline an operation may take.
const GROWTH_MAX: f64 = 1.20;
/// Operations in one count: enough that what happens once does not show.
const TIMES: u32 = 2_000;
const NODE: NodeId = NodeId(7);

/// Every operation, by its name in the baseline.
const OPERATIONS: &[(&str, fn())] = &[
    ("encode_set_progress", encode_set_progress),
    ("encode_ack", encode_ack),
    ("encode_progress", encode_progress),
    ("decode_set_progress", decode_set_progress),
    ("decode_line", decode_line),
    ("hub_apply", hub_apply),
    ("journal_append", journal_append),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).filter(|argument| !argument.starts_with("--bench")).collect::<Vec<_>>()[..]
    {
        // Of `cargo test --benches`, or one bench among all (`cargo bench --workspace`, with criterion's flags).
        _ if !is_baseline_build() => {
            println!("floors: SKIPPED, the baseline counts a build with --profile floors");
            ExitCode::SUCCESS
        }
        [] => check(),
        ["--update"] => update(),
        ["--operation", name] => {
            let (_, run) = OPERATIONS.iter().find(|(known, _)| *known == name).expect("an operation of the table");
            run();
            ExitCode::SUCCESS
        }
        _ => {
            println!("floors: there is --update, and nothing else");
            ExitCode::from(2)
        }
    }
}

/// Whether this program was built as the baseline's was: cargo puts each profile's programs into a folder of its name.
fn is_baseline_build() -> bool {
    let program = std::env::current_exe().expect("this program has a path");
    program.ancestors().nth(2).and_then(Path::file_name).is_some_and(|profile| profile == "floors")
}

fn baseline_path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../benches/floors.toml")
}

/// The numbers of the baseline: lines of `name = number`.
fn baseline() -> BTreeMap<String, f64> {
    let text = std::fs::read_to_string(baseline_path()).unwrap_or_default();
    let number = |line: &str| {
        let (name, number) = line.split_once(" = ")?;
        Some((name.to_owned(), number.parse().ok()?))
    };
    text.lines().filter_map(number).collect()
}

fn check() -> ExitCode {
    let Some(counted) = count_all() else { return ExitCode::SUCCESS };
    let baseline = baseline();
    let mut failed = false;
    println!("{:<22} {:>10} {:>10} {:>8}", "instructions per", "baseline", "now", "");
    for (name, now) in counted {
        let Some(then) = baseline.get(name) else {
            println!("{name:<22} {:>10} {now:>10.1} not in the baseline", "-");
            failed = true;
            continue;
        };
        let grown = now > then * GROWTH_MAX;
        let verdict = if grown { "  GROWN" } else { "" };
        println!("{name:<22} {then:>10.1} {now:>10.1} {:>+7.1}%{verdict}", (now / then - 1.0) * 100.0);
        failed |= grown;
    }
    if failed {
        println!(
            "floors: an operation takes more than {:.0} % above its baseline. If it is meant (or the compiler is another one \
             than the baseline's): cargo bench -p mangahub-storage --bench floors --profile floors -- --update",
            (GROWTH_MAX - 1.0) * 100.0
        );
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn update() -> ExitCode {
    let Some(counted) = count_all() else { return ExitCode::FAILURE };
    let rustc = Process::new("rustc").arg("--version").output().map(|output| output.stdout).unwrap_or_default();
    let mut text = format!(
        "# Instructions per operation, counted by benches/floors.rs with {}.\n# Written by: cargo bench -p mangahub-storage \
         --bench floors --profile floors -- --update\n\n",
        String::from_utf8_lossy(&rustc).trim()
    );
    for (name, now) in &counted {
        text.push_str(&format!("{name} = {now:.1}\n"));
    }
    std::fs::write(baseline_path(), text).expect("the baseline can be written");
    println!("floors: {} numbers written to benches/floors.toml", counted.len());
    ExitCode::SUCCESS
}

/// Every operation's instructions; none when there is no callgrind to count with.
fn count_all() -> Option<Vec<(&'static str, f64)>> {
    if Process::new("valgrind").arg("--version").output().is_err() {
        println!("floors: SKIPPED, nothing is compared: valgrind is not installed (apt-get install valgrind)");
        return None;
    }
    Some(OPERATIONS.iter().map(|(name, _)| (*name, count(name))).collect())
}

/// Runs one operation under callgrind, which collects only inside of [`measured`].
fn count(operation: &str) -> f64 {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let out = folder.path().join("out");
    let output = Process::new("valgrind")
        .args(["--tool=callgrind", "--toggle-collect=*floors::measured*", "--collect-atstart=no"])
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(std::env::current_exe().expect("this program has a path"))
        .args(["--operation", operation])
        .output()
        .expect("valgrind runs");
    assert!(output.status.success(), "{operation}: {}", String::from_utf8_lossy(&output.stderr));
    let profile = std::fs::read_to_string(out).expect("callgrind writes its profile");
    let total = profile.lines().find_map(|line| line.strip_prefix("totals: ")?.trim().parse::<u64>().ok());
    let total = total.filter(|total| *total > 0).expect("callgrind found `measured`, whose name the filter spells");
    total as f64 / f64::from(TIMES)
}

/// What is counted, and nothing else.
#[inline(never)]
fn measured(times: u32, operation: &mut dyn FnMut()) {
    (0..times).for_each(|_| operation());
}

fn set_progress() -> SetProgress {
    SetProgress {
        manga: MangaId(4_711),
        device_seq: Some(DeviceSeq(1_000_000)),
        chapter: Chapter::whole(95),
        page: Some(Page(17)),
        status: Some(ReadingStatus::Reading),
        force: false,
        ack_database: false,
        conflict_token: None,
    }
}

fn key() -> MergeKey {
    let version = Version::from_unix_ms(1_763_690_000_123);
    MergeKey { generation: version, chapter: Chapter::whole(95), version, node: NODE }
}

fn encode(mut write: impl FnMut(&mut Vec<u8>)) {
    let mut out = Vec::with_capacity(4_096);
    measured(TIMES, &mut || {
        out.clear();
        write(&mut out);
        black_box(&out);
    });
}

fn encode_set_progress() {
    let set = set_progress();
    encode(|out| black_box(&set).encode(7, out));
}

fn encode_ack() {
    let ack = Ack {
        up_to_seq: 1_000_000,
        manga: MangaId(4_711),
        key: key(),
        page: Some(Page(17)),
        status: Some(ReadingStatus::Reading),
        already: false,
        cumulative: true,
        ahead_of_catalogue: false,
        offers_completed: false,
    };
    encode(|out| black_box(&ack).encode(out));
}

fn encode_progress() {
    let entry = ProgressEntry {
        manga: MangaId(4_711),
        key: key(),
        page: Some(Page(17)),
        status: Some(ReadingStatus::Reading),
        device: Some(DeviceId::from_bytes([9; 16])),
        deleted: false,
        ahead_of_catalogue: false,
    };
    encode(|out| black_box(&entry).encode(7, out));
}

/// As a connection does it: a read full of frames in the receive buffer, taken out one by one.
fn decode_set_progress() {
    let mut bytes = Vec::new();
    (1..=u64::from(TIMES)).for_each(|seq| set_progress().encode(seq, &mut bytes));
    let mut receiver = Receiver::new(Caps::default());
    receiver.extend(&bytes);
    measured(TIMES, &mut || {
        let frame = receiver.next_frame().expect("in step").expect("whole");
        let Ok(ClientFrame::SetProgress(set)) = frame.from_client() else { panic!("a SetProgress") };
        black_box(set);
    });
}

fn decode_line() {
    let line = br#"{"type":"progress_update","data":{"manga_id":4711,"chapter":95.5,"page":17,"status":"reading","device_seq":12}}"#;
    let line = [&line[..], b"\n"].concat();
    measured(TIMES, &mut || {
        let (line, _) = split_line(black_box(&line), 0).expect("short").expect("whole");
        black_box(ClientLine::parse(line)).expect("a progress_update");
    });
}

/// An ordinary update of a user with ten series and two devices.
fn hub_apply() {
    const SERIES: u32 = 10;
    let mut state = UserState::new(UserId::from_bytes([3; 16]), NODE);
    let (mut clock, mut turn) = (Hlc::default(), 0_u32);
    let mut step = || {
        let (series, device) = (i64::from(turn % SERIES) + 1, 1 + (turn & 1) as u8);
        let hundredths = turn / SERIES + 1;
        turn += 1;
        let command = Command::SetProgress(hub::SetProgress {
            device: Some(DeviceId::from_bytes([device; 16])),
            device_seq: Some(DeviceSeq(u64::from(turn))),
            ..hub::SetProgress::new(MangaId(series), Chapter::from_hundredths(hundredths).expect("a chapter"))
        });
        let mut context = Context {
            wall_ms: 1_772_366_400_000 + u64::from(turn >> 6),
            clock: &mut clock,
            facts: Some(SeriesFacts { total: None, status: SeriesStatus::Ongoing }),
            strict_total: false,
            token_tag: &|_| [0; 16],
        };
        let outcome = apply(&mut state, black_box(&command), &mut context);
        assert!(matches!(black_box(outcome), Outcome::Applied(_)), "an ordinary update is applied");
    };
    (0..100).for_each(|_| step());
    measured(TIMES, &mut step);
}

/// A shard's part of the journal: the record's bytes, its frame and checksum, the ticket. Hand-overs happen outside.
fn journal_append() {
    const TURN: u32 = 50;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut config = JournalConfig::new(folder.path(), StoreId([5; 16]));
    config.segment_bytes = 1 << 20;
    config.engine = Arc::new(StdEngine::buffered());
    let listener: Listener = Box::new(|| {});
    let opened = open(config).expect("a fresh journal");
    let Started { journal, mut shards, .. } =
        opened.journal.start(LaneCursors::START, vec![listener]).expect("room for a journal");
    let record = record();
    let mut shard = shards.pop().expect("one shard");
    for _ in 0..TIMES / TURN {
        measured(TURN, &mut || {
            black_box(shard.append(black_box(&record)));
        });
        shard.flush();
    }
    assert!(journal.close());
}

fn record() -> Record {
    let (key, device) = (key(), DeviceId::from_bytes([9; 16]));
    Record::Progress(ProgressRecord {
        user: UserId::from_bytes([3; 16]),
        manga: MangaId(4_711),
        row: ProgressRow { key, deleted: false, page: Some(Page(17)), ahead: false },
        device: Some(DeviceStamp { device, seq: Some(DeviceSeq(12)), epoch: Version(1) }),
        library: Some(LibraryRow {
            version: key.version,
            node: NODE,
            deleted: false,
            status: ReadingStatus::Reading,
            added_at_ms: 1_763_690_000_000,
        }),
        history: Some(HistoryRow {
            day: LocalDay(20_000),
            updates: 1,
            chapters: 1,
            last: key.chapter,
            first: key.chapter,
            jump: false,
        }),
    })
}
