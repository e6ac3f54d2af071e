//! How long a start takes after a crash that the store knows nothing of: a journal of (say) 10 million records over 1 million keys
//! (100,000 users, 10 series each), written by the real journal, read from a disk whose page cache has been dropped, by the
//! real server, from the start of its process until its doors are open.
//!
//! `cargo bench --bench recovery -- --records 10000000 --rounds 5`; a tenth of it, and 3 rounds, when not told. Needs 4 GB in `$MANGAHUB_BENCH_FOLDER`
//! (else the system's temporary folder: use a disk), and root to drop the page cache; without, it says so and reads warm.

#![allow(clippy::print_stdout, reason = "a report for whoever runs it")]

mod workload;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use futures_executor::block_on;
use hub::record::Record;
use loadtest::server::Launch;
use proto::{NodeId, Version};
use storage::folder::DataFolder;
use storage::journal::{JournalConfig, Listener, ShardJournal, Started, open};
use storage::record::RECORD_BYTES_MAX;
use storage::store::{SqliteConfig, SqliteStore, Store};
use workload::{Step, folder};

const SERIES_PER_USER: u64 = 10;
const TURN_RECORDS: u64 = 64;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    if cfg!(debug_assertions) {
        println!("recovery: SKIPPED, this is not an optimised build");
        return Ok(());
    }
    let (mut records, mut users, mut rounds) = (1_000_000, 100_000, 3);
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    while let Some(name) = arguments.next() {
        let number = arguments.next().ok_or("a number is missing")?.parse()?;
        match name.as_str() {
            "--records" => records = number,
            "--users" => users = number,
            "--rounds" => rounds = number,
            _ => return Err(format!("{name}: not known").into()),
        }
    }
    let folder = folder();
    let written = folder.path().join("written");
    // A first life makes the folder, its store and its checkpoint.
    Launch::for_load(binary(), written.clone()).start()?.stop()?;
    write(&written, records, users)?;
    let mut took = Vec::new();
    for _ in 0..rounds {
        let copy = folder.path().join("data");
        clone(&written, &copy)?;
        let cold = drop_page_cache();
        let launch = Launch::for_load(binary(), copy.clone());
        let began = Instant::now();
        let server = launch.start()?;
        let open = began.elapsed();
        server.kill()?;
        let log = fs::read_to_string(launch.log())?;
        let phases =
            log.lines().find(|line| line.contains("the journal was read back")).ok_or("no word of recovery")?;
        println!("{open:.2?} {}: {phases}", if cold { "cold" } else { "WARM, page cache not dropped" });
        took.push(open);
        fs::remove_dir_all(&copy)?;
        fs::remove_file(launch.log())?;
    }
    took.sort();
    let rate = |took: Duration| records as f64 / took.as_secs_f64() / 1e6;
    let (low, high) = (rate(took[took.len() - 1]), rate(took[0]));
    println!("{:.2} million records/s to open doors (median; {low:.2} to {high:.2})", rate(took[took.len() / 2]));
    Ok(())
}

fn binary() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_mangahub"))
}

/// Appends the records to the folder's journal; the store hears nothing of them.
fn write(data_dir: &Path, records: u64, users: u64) -> Result<(), Box<dyn std::error::Error>> {
    let folder = DataFolder::open(data_dir)?;
    let node = folder.node();
    let store = SqliteStore::open(&SqliteConfig::new(folder.sqlite()), 0)?;
    let opened = open(JournalConfig::new(folder.journal(), store.store_id()))?;
    let cursors = block_on(store.cursors(opened.recovery.journal_id()))?;
    let waiter = std::thread::current();
    let listeners: Vec<Listener> = vec![Box::new(move || waiter.unpark())];
    let Started { journal, mut shards, .. } = opened.journal.start(cursors, listeners)?;
    let shard: &mut ShardJournal = &mut shards[0];
    let began = Instant::now();
    for number in 0..records {
        if number.is_multiple_of(TURN_RECORDS) {
            shard.flush();
            while shard.admit(TURN_RECORDS as usize * RECORD_BYTES_MAX).is_err() {
                std::thread::park_timeout(Duration::from_millis(1));
            }
        }
        shard.append(&record(number, users, node));
    }
    shard.flush();
    if !journal.close() {
        return Err("the journal failed".into());
    }
    println!("{records} records of {users} users written in {:.1?}", began.elapsed());
    Ok(())
}

/// Users come round in an order that is not that of their ids, each with the next of their series.
fn record(number: u64, users: u64, node: NodeId) -> Record {
    let (round, user) = (number / users, number % users);
    let (manga, chapter) = ((round % SERIES_PER_USER) as i64 + 1, 1 + (round / SERIES_PER_USER) as u32);
    let step = Step::new(user, manga, chapter, Version((number + 1) << 12));
    Step { node, device_seq: round + 1, ..step }.whole()
}

/// A folder to start on: sealed segments are never written again and are shared, everything else is copied.
fn clone(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let path = entry?.path();
        let target = to.join(path.file_name().unwrap_or_default());
        if path.is_dir() {
            clone(&path, &target)?;
        } else if is_sealed_segment(&path)? {
            fs::hard_link(&path, &target)?;
        } else if path.is_file() {
            fs::copy(&path, &target)?;
        }
    }
    Ok(())
}

fn is_sealed_segment(path: &Path) -> io::Result<bool> {
    let mut magic = [0; 8];
    if path.extension().is_some_and(|kind| kind == "seg") {
        io::Read::read_exact(&mut fs::File::open(path)?, &mut magic)?;
    }
    Ok(&magic == b"MHJOURNL")
}

fn drop_page_cache() -> bool {
    Command::new("sync").status().is_ok_and(|done| done.success()) && fs::write("/proc/sys/vm/drop_caches", "3").is_ok()
}
