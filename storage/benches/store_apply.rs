//! How fast the embedded store takes batches: rows a second that really change something, in batches as the writer makes them.
//! `cargo bench -p mangahub-storage --bench store_apply [-- FOLDER]`; the folder's disk is what is measured.

#[path = "../../benches/workload/mod.rs"]
mod workload;

use std::time::Instant;

use futures_executor::block_on;
use hub::record::Record;
use proto::Version;
use storage::store::{Rows, SqliteConfig, SqliteStore, Store};
use workload::{Step, batch};

const BATCH_ROWS: usize = 2_000;
const BATCHES: usize = 120;

/// The `at`-th update of a workload of `users` with ten series and two devices each: a step forward of one chapter.
fn update(at: u64, users: u64) -> Record {
    // A full-cycle step scatters the users over the tree, as real traffic does.
    let (user, round) = (at.wrapping_mul(7_919) % users, at / users);
    let today = u32::try_from(round + 1).expect("small");
    let step = Step::new(user, 1 + (round % 10) as i64, today, Version(1_000 + at));
    Step { device: user * 2 + round % 2, device_seq: round / 2 + 1, today, ..step }.whole()
}

#[allow(clippy::print_stdout, reason = "its output is the result")]
fn measure(folder: &std::path::Path, users: u64) {
    let folder = tempfile::tempdir_in(folder).expect("a folder");
    let store = SqliteStore::open(&SqliteConfig::new(folder.path().join("store.db")), 1).expect("a store");
    let mut next = 0;
    let mut times_ms = Vec::new();
    let (mut rows_sent, mut rows_changed, mut records) = (0, 0, 0_u64);
    for number in 0..BATCHES {
        let mut rows = Rows::default();
        let first = next;
        while rows.count() < BATCH_ROWS {
            rows.add(&update(next, users));
            next += 1;
        }
        let count = rows.count();
        let batch = batch(rows, next);
        let began = Instant::now();
        let applied = block_on(store.apply(batch)).expect("the store answers");
        // The first batches fill an empty file.
        if number >= BATCHES / 6 {
            times_ms.push(began.elapsed().as_secs_f64() * 1_000.0);
            rows_sent += count;
            rows_changed += applied.changed;
            records += next - first;
        }
    }
    let seconds: f64 = times_ms.iter().sum::<f64>() / 1_000.0;
    times_ms.sort_unstable_by(f64::total_cmp);
    let at = |share: f64| times_ms[((times_ms.len() - 1) as f64 * share) as usize];
    println!(
        "{users:>7} users: {:>8.0} rows/s, {:>8.0} updates/s; a batch of {BATCH_ROWS}: p50 {:.1} ms, p99 {:.1} ms, max {:.1} ms ({:.0} % changed)",
        rows_sent as f64 / seconds,
        records as f64 / seconds,
        at(0.5),
        at(0.99),
        at(1.0),
        100.0 * rows_changed as f64 / rows_sent as f64,
    );
}

fn main() {
    let folder = std::env::args().skip(1).find(|argument| !argument.starts_with('-')).unwrap_or_else(|| ".".into());
    for users in [1_000, 10_000, 100_000] {
        measure(std::path::Path::new(&folder), users);
    }
}
