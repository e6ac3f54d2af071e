//! Backups of a store, made into stores of both kinds: every row comes back, and the new store is nobody's old one.

use std::collections::BTreeMap;
use std::path::Path;

use hub::preferences::Strategy;
use hub::record::Record;
use storage::backup::{self, Backup, BackupError, Create, Place, Restore};
use storage::journal::{LaneCursors, Lsn};
use storage::lane::lane_of;
use storage::store::{
    NewParked, PostgresConfig, PostgresStore, RevokeAt, Role, SharedStore, SqliteConfig, SqliteStore, Store,
};

use crate::backend::{Backend, wait};
use crate::postgres_server::PostgresServer;
use crate::sample::{
    JOURNAL, add_user, batch, deletion, device, library, new_session, new_user, preferences, progress, series,
    upstream, user_id,
};

const NOW: u64 = 1_700_000_000_000;

/// Something in every table, with what is awkward to write down.
fn fill(store: &SharedStore) {
    let reader = add_user(store, 1);
    let mut odd = new_user(2);
    odd.username = "tab\tline\nback\\slash é \\N".into();
    wait(store.create_user(odd)).unwrap();
    wait(store.set_role(user_id(2), Role::Admin, NOW)).unwrap();
    for number in 1..4 {
        wait(store.open_session(new_session(reader, number, NOW))).unwrap();
    }
    let at = RevokeAt { now_unix_ms: NOW, keep_until_unix_ms: NOW + 1_000 };
    wait(store.revoke_session(reader, new_session(reader, 1, NOW).sid, at)).unwrap().unwrap();
    wait(store.import(vec![series(1, "Berserk"), upstream(2, 9, "Vagabond \\ \"Musashi\"\r\n")], NOW)).unwrap();
    let records = [
        Record::Progress(progress(reader, 1, 1_234, 500, 3)),
        Record::Progress(progress(user_id(2), 2, 7_005, 300, 4)),
        Record::Progress(deletion(reader, 2, 9_000, 3)),
        library(reader, 5, 80, true),
        device(reader, 5, 1, 2, true),
        preferences(reader, 720, Strategy::Ask),
    ];
    wait(store.apply(batch(&records, 40))).unwrap();
    let parked = NewParked {
        lane: lane_of(reader),
        lsn: Lsn(41),
        user: Some(reader),
        kind: 1,
        version: 1,
        payload: vec![0, 9, 10, 92, 255],
        error: "refused:\tby \\ a test".into(),
    };
    wait(store.apply(storage::store::Batch { parked: vec![parked], ..batch([], 41) })).unwrap();
}

/// The rows of every table, sorted.
fn contents(file: &Path) -> BTreeMap<String, Vec<String>> {
    let decoder = zstd::Decoder::new(std::fs::File::open(file).unwrap()).unwrap();
    let mut tables: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for member in tar::Archive::new(decoder).entries().unwrap() {
        let mut member = member.unwrap();
        let name = member.path().unwrap().to_str().unwrap().to_owned();
        let Some(table) = name.strip_prefix("tables/") else { continue };
        let text = std::io::read_to_string(&mut member).unwrap();
        let rows = tables.entry(table.split('/').next().unwrap().to_owned()).or_default();
        rows.extend(text.lines().map(str::to_owned));
    }
    tables.values_mut().for_each(|rows| rows.sort_unstable());
    // How often a row of devices was written is Postgres' own business.
    for row in tables.get_mut("devices").into_iter().flatten() {
        row.truncate(row.rfind('\t').unwrap());
    }
    tables
}

fn save(place: Place, store: &dyn Store, file: &Path) -> Backup {
    let store_id = store.store_id().to_string();
    let wanted = Create { store: place, store_id: &store_id, secret: None, server: "test", now_unix_ms: NOW };
    backup::create(wanted, file, &mut |_, _| {}).unwrap();
    Backup::open(file, &mut |_| {}).unwrap()
}

/// Restores into a store of one kind, and looks at what came back.
fn comes_back(backup: &Backup, folder: &Path, database: Option<&PostgresConfig>, old: &dyn Store) {
    let data_dir = folder.join("data");
    let wanted = Restore { data_dir: &data_dir, database, replace: false, end_sessions: false, now_unix_ms: NOW };
    assert_eq!(backup::restore(backup, &wanted, &mut |_| {}).unwrap(), None);
    let place = match database {
        Some(config) => Place::Postgres(config.clone()),
        None => Place::Embedded(data_dir.join("mangahub.db")),
    };
    let store: Box<dyn Store> = match &place {
        Place::Postgres(config) => Box::new(PostgresStore::open(config, NOW).unwrap()),
        Place::Embedded(file) => Box::new(SqliteStore::open(&SqliteConfig::new(file), NOW).unwrap()),
    };
    let again = folder.join("again");
    save(place, &*store, &again);
    assert_eq!(contents(&again), contents(&folder.join("backup")));
    // Another store from now on: no journal of the old one is taken for its own.
    assert_ne!(store.store_id(), old.store_id());
    assert_eq!(wait(store.cursors(JOURNAL)).unwrap(), LaneCursors::START);
    assert_eq!(wait(store.journals()).unwrap(), []);
    assert_eq!(wait(store.check()).unwrap().problems, Vec::<String>::new());
    // Ids go on behind the last one given out.
    let mut rows = vec![series(1, "Vinland Saga")];
    rows[0].genres = vec!["Vikings".into()];
    wait(store.import(rows, NOW)).unwrap();
    let catalogue = wait(store.load_catalogue()).unwrap();
    assert_eq!(catalogue.iter().map(|series| series.id.0).collect::<Vec<_>>(), [1, 2, 3]);
    // And nothing is restored over anything.
    let twice = backup::restore(backup, &Restore { replace: true, ..wanted }, &mut |_| {});
    assert_eq!(twice.is_ok(), database.is_none(), "{twice:?}");
    if database.is_some() {
        assert!(matches!(twice, Err(BackupError::NotEmpty { .. })), "{twice:?}");
    }
}

pub(crate) fn what_is_saved_comes_back_in_either_store(backend: impl Backend) {
    let store = backend.store();
    fill(&store);
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let server = PostgresServer::start();
    let database = PostgresConfig::new(server.url());
    for (folder, database) in folders.iter().zip([None, Some(&database)]) {
        let backup = save(backend.place(), &*store, &folder.path().join("backup"));
        assert!(backup.manifest().tables.iter().all(|table| table.rows > 0), "{:?}", backup.manifest().tables);
        comes_back(&backup, folder.path(), database, &*store);
    }
}

pub(crate) fn who_was_signed_in_can_be_left_out(backend: impl Backend) {
    let store = backend.store();
    fill(&store);
    let folder = tempfile::tempdir().unwrap();
    let backup = save(backend.place(), &*store, &folder.path().join("backup"));
    let data_dir = folder.path().join("data");
    let wanted = Restore { data_dir: &data_dir, database: None, replace: false, end_sessions: true, now_unix_ms: NOW };
    backup::restore(&backup, &wanted, &mut |_| {}).unwrap();
    let restored = SqliteStore::open(&SqliteConfig::new(data_dir.join("mangahub.db")), NOW).unwrap();
    let counted = wait(restored.check()).unwrap().tables;
    let rows = |name: &str| counted.iter().find(|table| table.table == name).unwrap().rows;
    assert_eq!((rows("users"), rows("sessions"), rows("refresh_tokens"), rows("revoked_grants")), (2, 0, 0, 1));
}

pub(crate) fn another_store_than_the_one_that_was_meant_is_not_saved(backend: impl Backend) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("backup");
    let wanted = Create { store: backend.place(), store_id: "00", secret: None, server: "test", now_unix_ms: NOW };
    let refused = backup::create(wanted, &file, &mut |_, _| {});
    assert!(matches!(refused, Err(BackupError::OtherStore { .. })), "{refused:?}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is left");
}

#[test]
fn every_column_of_the_postgres_schema_is_saved() {
    let server = PostgresServer::start();
    let config = PostgresConfig::new(server.url());
    let store = PostgresStore::open(&config, NOW).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let backup = save(Place::Postgres(config), &store, &folder.path().join("backup"));
    let names = |table: &storage::backup::Saved| {
        table.columns.iter().map(|column| format!("{}.{column}", table.name)).collect::<Vec<_>>()
    };
    let mut saved: Vec<String> = backup.manifest().tables.iter().flat_map(names).collect();
    saved.sort_unstable();
    let mut there = server.query(
        "SELECT table_name || '.' || column_name FROM information_schema.columns WHERE table_schema = 'public'
         AND table_name NOT IN ('meta', 'journal_cursor', 'schema_migrations')",
    );
    there.sort_unstable();
    assert_eq!(saved, there);
}
