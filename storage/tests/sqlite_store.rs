//! What only the embedded store promises: its schema's versions, its bounded queues, its settings.

#![allow(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use std::path::Path;
use std::task::{Context, Waker};

use rusqlite::Connection;
use storage::journal::{JournalId, LaneCursors, Lsn};
use storage::lane::Lane;
use storage::migrations::{Migrated, Migration, MigrationError, SQLITE, run_sqlite};
use storage::store::sqlite::OpenError;
use storage::store::{Batch, Rows, SeedUser, SqliteConfig, SqliteStore, Store, StoreError};

fn open(path: &Path) -> Result<SqliteStore, OpenError> {
    SqliteStore::open(&SqliteConfig::new(path), 1_000)
}

/// Polls until there is an answer; the store's own threads do the work.
fn block_on<T>(mut answer: storage::store::Answer<T>) -> Result<T, StoreError> {
    loop {
        if let std::task::Poll::Ready(answered) = answer.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return answered;
        }
        std::thread::yield_now();
    }
}

fn schema(path: &Path) -> Vec<String> {
    let conn = Connection::open(path).unwrap();
    let mut query =
        conn.prepare("SELECT type || ' ' || name || ' ' || coalesce(sql, '') FROM sqlite_schema ORDER BY 1").unwrap();
    query.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
}

fn steps(sql: &[&'static str]) -> Vec<Migration> {
    sql.iter().zip(1..).map(|(sql, number)| Migration { number, name: "step", sql }).collect()
}

#[test]
fn migrating_twice_is_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    let newest = SQLITE.last().unwrap().number;
    assert_eq!(open(&path).unwrap().migrated(), Migrated { from: 0, to: newest });
    let before = schema(&path);
    assert_eq!(open(&path).unwrap().migrated(), Migrated { from: newest, to: newest });
    assert_eq!(schema(&path), before);
}

#[test]
fn migrations_are_numbered_without_gaps() {
    assert!(SQLITE.iter().map(|migration| migration.number).eq(1..=u32::try_from(SQLITE.len()).unwrap()));
}

#[test]
fn two_processes_that_migrate_at_once_run_every_step_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    let opened: Vec<_> = std::thread::scope(|scope| {
        let racers: Vec<_> = (0..4).map(|_| scope.spawn(|| open(&path).map(|store| store.store_id()))).collect();
        racers.into_iter().map(|racer| racer.join().unwrap().unwrap()).collect()
    });
    assert!(opened.iter().all(|id| *id == opened[0]), "one store id: {opened:?}");
}

#[test]
fn an_edited_migration_is_refused_with_an_explanation() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    drop(open(&path).unwrap());
    Connection::open(&path)
        .unwrap()
        .execute("UPDATE schema_migrations SET checksum = 'x' WHERE number = 2", [])
        .unwrap();
    let Err(OpenError::Migration(error)) = open(&path) else { panic!("an edited migration was accepted") };
    assert!(matches!(error, MigrationError::Edited { number: 2, .. }), "{error:?}");
    assert!(error.to_string().contains("must never be edited"), "{error}");
}

#[test]
fn a_newer_schema_is_refused_with_the_way_out() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    drop(open(&path).unwrap());
    let conn = Connection::open(&path).unwrap();
    conn.execute("INSERT INTO schema_migrations VALUES (999, 'from the future', 'x', 1)", []).unwrap();
    let Err(OpenError::Migration(error)) = open(&path) else { panic!("a newer schema was accepted") };
    assert!(matches!(error, MigrationError::Newer { found: 999, .. }), "{error:?}");
    assert!(error.to_string().contains("newer version"), "{error}");
}

#[test]
fn a_failing_migration_leaves_nothing_behind_and_can_be_mended() {
    let mut conn = Connection::open_in_memory().unwrap();
    let broken = steps(&["CREATE TABLE a (x INTEGER)", "CREATE TABLE b (x INTEGER); INSERT INTO nowhere VALUES (1)"]);
    let error = run_sqlite(&mut conn, &broken, 1).unwrap_err();
    assert!(matches!(error, MigrationError::Failed { number: 2, .. }), "{error:?}");
    let tables = "SELECT count(*) FROM sqlite_schema WHERE name IN ('a', 'b')";
    assert_eq!(
        conn.query_row(tables, [], |row| row.get::<_, i64>(0)).unwrap(),
        1,
        "the first step stays, the second left nothing"
    );
    let mended = steps(&["CREATE TABLE a (x INTEGER)", "CREATE TABLE b (x INTEGER)"]);
    assert_eq!(run_sqlite(&mut conn, &mended, 2).unwrap(), Migrated { from: 1, to: 2 });
}

#[test]
fn a_missing_migration_in_the_middle_is_refused() {
    let mut conn = Connection::open_in_memory().unwrap();
    run_sqlite(&mut conn, &steps(&["CREATE TABLE a (x INTEGER)", "CREATE TABLE b (x INTEGER)"]), 1).unwrap();
    conn.execute("DELETE FROM schema_migrations WHERE number = 1", []).unwrap();
    let error =
        run_sqlite(&mut conn, &steps(&["CREATE TABLE a (x INTEGER)", "CREATE TABLE b (x INTEGER)"]), 1).unwrap_err();
    assert!(matches!(error, MigrationError::Gap { missing: 1, later: 2 }), "{error:?}");
}

#[test]
fn a_file_that_is_no_database_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    std::fs::write(&path, "this is a letter, not a database".repeat(200)).unwrap();
    let Err(OpenError::Store(StoreError::Corrupt { reason })) = open(&path) else { panic!("a letter was opened") };
    assert!(reason.contains("store.db"), "{reason}");
    assert!(std::fs::read_to_string(&path).unwrap().starts_with("this is a letter"));
}

#[test]
fn a_full_queue_is_busy_at_once_and_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    let store = SqliteStore::open(&SqliteConfig { queue_max: 4, ..SqliteConfig::new(&path) }, 1).unwrap();
    // Nothing gets through while somebody else holds the write lock.
    let lock = Connection::open(&path).unwrap();
    lock.execute_batch("BEGIN IMMEDIATE").unwrap();
    let mut waiting = Vec::new();
    let mut busy = 0;
    for _ in 0..20 {
        let mut answer = store.seed_users(Vec::<SeedUser>::new());
        match answer.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            std::task::Poll::Ready(Err(StoreError::Busy)) => busy += 1,
            std::task::Poll::Ready(other) => panic!("answered although it is locked: {other:?}"),
            std::task::Poll::Pending => waiting.push(answer),
        }
    }
    assert!(busy >= 15 && !waiting.is_empty(), "{busy} busy, {} waiting", waiting.len());
    drop(lock);
    // Dropping the store finishes what waits.
    drop(store);
    for mut answer in waiting {
        let answered = answer.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert!(matches!(answered, std::task::Poll::Ready(Ok(0))), "{answered:?}");
    }
}

/// What kill -9 leaves: the files as they are at some moment, with nobody having closed them.
#[test]
fn what_was_answered_is_in_the_files_before_anybody_closes_them() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    let store = open(&path).unwrap();
    let killed = tempfile::tempdir().unwrap();
    for lsn in [1, 700, 90_000] {
        let cursors = Lane::all().map(|lane| (lane, Lsn(lsn))).collect();
        let rows = Rows::default().into();
        let batch = Batch {
            journal: JournalId([3; 16]),
            rows,
            parked: Vec::new(),
            cursors,
            behind: LaneCursors::START,
            now_unix_ms: 1,
        };
        let answer = store.apply(batch);
        // Reading waits for nothing but the answer: the snapshot is at least as new.
        assert!(block_on(answer).is_ok());
        for name in ["store.db", "store.db-wal"] {
            std::fs::copy(folder.path().join(name), killed.path().join(name)).unwrap();
        }
        let _ = std::fs::remove_file(killed.path().join("store.db-shm"));
        let after = open(&killed.path().join("store.db")).unwrap();
        assert_eq!(after.store_id(), store.store_id());
        assert_eq!(block_on(after.cursors(JournalId([3; 16]))), Ok(LaneCursors::all_at(Lsn(lsn))));
    }
}

#[test]
fn a_commit_is_flushed_and_the_log_is_on() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    let store = open(&path).unwrap();
    let mode: String =
        Connection::open(&path).unwrap().pragma_query_value(None, "journal_mode", |row| row.get(0)).unwrap();
    assert_eq!(mode, "wal");
    drop(store);
    assert!(!folder.path().join("store.db-wal").exists(), "a closed store is one file");
}

#[test]
fn only_the_owner_reads_the_files_whatever_the_folder_allows() {
    use std::os::unix::fs::PermissionsExt;

    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = folder.path().join("mangahub.db");
    let modes = || {
        std::fs::read_dir(folder.path()).unwrap().map(|entry| {
            let entry = entry.unwrap();
            (entry.file_name(), entry.metadata().unwrap().permissions().mode() & 0o777)
        })
    };
    let store = open(&path).unwrap();
    assert!(modes().count() >= 2, "the database and its log");
    assert_eq!(modes().find(|(_, mode)| *mode != 0o600), None);
    drop(store);
    // One that an earlier version made.
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    let _store = open(&path).unwrap();
    assert_eq!(modes().find(|(_, mode)| *mode != 0o600), None);
}
