//! What an update costs as the table of progress grows from 10,000 to 10 million rows, at a fixed size of cache: the same batches
//! of changes scattered over all rows, through the store as the writer uses it. `cargo bench -p mangahub-storage --bench growth
//! -- postgres|sqlite [MOST ROWS]`; the Postgres server is private, flushes its commits and has 128 MiB of `shared_buffers`.

#[path = "../tests/support/postgres.rs"]
mod postgres_server;
#[path = "../../benches/workload/mod.rs"]
mod workload;

use std::time::{Duration, Instant};

use futures_executor::block_on;
use hub::record::Record;
use postgres_server::PostgresServer;
use proto::Version;
use storage::store::{PostgresConfig, PostgresStore, Rows, SqliteConfig, SqliteStore, Store};
use workload::{Step, batch};

const BATCH_ROWS: u64 = 2_000;
const SERIES_PER_USER: u64 = 10;
/// Batches that are measured at each size, after a fifth as many that are not.
const MEASURED: u64 = 100;

/// The `at`-th of `rows` rows.
fn row(at: u64, version: u64) -> Record {
    let chapter = u32::try_from(version % 1_000_000).expect("below a million");
    Step::new(at / SERIES_PER_USER, 1 + (at % SERIES_PER_USER) as i64, chapter, Version(version)).series()
}

struct Grown<'s> {
    store: &'s dyn Store,
    lsn: u64,
    version: u64,
}

impl Grown<'_> {
    fn apply(&mut self, positions: impl Iterator<Item = u64>) {
        let mut rows = Rows::default();
        self.version += 1;
        positions.for_each(|at| rows.add(&row(at, self.version)));
        self.lsn += BATCH_ROWS;
        block_on(self.store.apply(batch(rows, self.lsn))).expect("the store answers");
    }

    /// Time for one batch of changes at `size` rows.
    fn measure(&mut self, size: u64) -> Vec<Duration> {
        let mut at = 0_u64;
        let mut times = Vec::new();
        for number in 0..MEASURED + MEASURED / 5 {
            let began = Instant::now();
            let picks = (0..BATCH_ROWS).map(|_| {
                // A full-period generator modulo the size: scattered, and hardly ever the same row twice in a batch.
                at = at.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (at >> 20) % size
            });
            self.apply(picks);
            if number >= MEASURED / 5 {
                times.push(began.elapsed());
            }
        }
        times.sort_unstable();
        times
    }
}

#[allow(clippy::print_stdout, reason = "its output is the result")]
fn grow(store: &dyn Store, most: u64, size_of_it: impl Fn() -> String) {
    let mut grown = Grown { store, lsn: 0, version: 1_000 };
    let (mut filled, mut size, mut first) = (0, 10_000, None);
    while size <= most {
        let began = Instant::now();
        while filled < size {
            grown.apply(filled..filled + BATCH_ROWS);
            filled += BATCH_ROWS;
        }
        let filling = began.elapsed();
        let times = grown.measure(size);
        let median_us = times[times.len() / 2].as_secs_f64() * 1e6 / BATCH_ROWS as f64;
        let p99_ms = times[times.len() * 99 / 100].as_secs_f64() * 1e3;
        let ratio = median_us / *first.get_or_insert(median_us);
        println!(
            "{size:>10} rows: {median_us:6.2} us per update ({ratio:.2} of the first), slowest batch in a hundred {p99_ms:.0} \
             ms; filled in {:.0} s; {}",
            filling.as_secs_f64(),
            size_of_it()
        );
        size *= 10;
    }
}

#[allow(clippy::print_stdout, reason = "its output is the result")]
fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let most = arguments.get(1).map_or(10_000_000, |rows| rows.parse().expect("a number of rows"));
    match arguments.first().map(String::as_str) {
        Some("postgres") => {
            let mut server = PostgresServer::start();
            server.go_down();
            server.set(&["fsync=on", "max_wal_size=4GB", "shared_buffers=128MB", "autovacuum=on"]);
            server.go_up();
            let store = PostgresStore::open(&PostgresConfig::new(server.url()), 1).expect("a store");
            grow(&store, most, || {
                let sizes = server.query(
                    "SELECT pg_size_pretty(pg_relation_size('user_progress')) || ' of rows, '
                         || pg_size_pretty(pg_relation_size('user_progress_pkey')) || ' of index, '
                         || round(100.0 * n_tup_hot_upd / greatest(n_tup_upd, 1)) || ' % of changes on their page'
                     FROM pg_stat_user_tables WHERE relname = 'user_progress'",
                );
                sizes.concat()
            });
        }
        Some("sqlite") => {
            let folder = tempfile::tempdir().expect("a folder");
            let path = folder.path().join("store.db");
            let store = SqliteStore::open(&SqliteConfig::new(path.clone()), 1).expect("a store");
            grow(&store, most, || {
                let bytes = std::fs::metadata(&path).map_or(0, |file| file.len());
                format!("{} MiB in all", bytes >> 20)
            });
        }
        _ => println!("growth: say postgres or sqlite (with -- before it)"),
    }
}
