//! A store for one test, and ways to look at it from outside: everything in it as text, and closing and opening it again.

use std::sync::Arc;

pub(crate) use futures_executor::block_on as wait;
use storage::backup::Place;
use storage::store::{PostgresConfig, PostgresStore, SharedStore, SqliteConfig, SqliteStore};

use crate::postgres_server::PostgresServer;

/// One fresh store.
pub(crate) trait Backend: Sized {
    /// An empty store of its own.
    fn fresh() -> Self;
    /// The store.
    fn store(&self) -> SharedStore;
    /// Where it is.
    fn place(&self) -> Place;
    /// The same store, closed and opened again.
    fn reopened(self) -> Self;
    /// Every row of every table, in key order: two equal dumps hold the same.
    fn dump(&self) -> String;
    /// Makes the store refuse progress of this series.
    fn refuse_series(&self, manga: i64);
    /// Undoes that.
    fn refuse_nothing(&self);
    /// Makes the store unable to write, as an outage would.
    fn go_away(&mut self);
    /// Ends that.
    fn come_back(&mut self);
}

/// The embedded store in a folder of its own.
pub(crate) struct Sqlite {
    store: Arc<SqliteStore>,
    folder: tempfile::TempDir,
    /// Holds the write lock while the store is away.
    lock: Option<rusqlite::Connection>,
}

impl Sqlite {
    fn at(folder: tempfile::TempDir) -> Self {
        let config = SqliteConfig {
            busy_timeout: std::time::Duration::from_millis(200),
            ..SqliteConfig::new(folder.path().join("store.db"))
        };
        let store = SqliteStore::open(&config, 1_000).unwrap();
        Self { store: Arc::new(store), folder, lock: None }
    }

    fn look(&self) -> rusqlite::Connection {
        let conn = rusqlite::Connection::open(self.folder.path().join("store.db")).unwrap();
        conn.busy_timeout(std::time::Duration::from_secs(30)).unwrap();
        conn
    }
}

impl Backend for Sqlite {
    fn fresh() -> Self {
        Self::at(tempfile::tempdir().unwrap())
    }

    fn store(&self) -> SharedStore {
        self.store.clone()
    }

    fn place(&self) -> Place {
        Place::Embedded(self.folder.path().join("store.db"))
    }

    fn reopened(self) -> Self {
        let Self { store, folder, .. } = self;
        assert_eq!(Arc::strong_count(&store), 1, "nobody else holds the store when it is reopened");
        drop(store);
        Self::at(folder)
    }

    fn dump(&self) -> String {
        let conn = self.look();
        let list = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY name";
        let mut query = conn.prepare(list).unwrap();
        let tables: Vec<String> = query.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
        let mut dump = String::new();
        for table in tables {
            let mut query = conn.prepare(&format!("SELECT * FROM {table}")).unwrap();
            let columns = query.column_count();
            let rows = query.query_map([], |row| {
                (0..columns).map(|at| row.get::<_, rusqlite::types::Value>(at)).collect::<rusqlite::Result<Vec<_>>>()
            });
            let mut lines: Vec<String> = rows.unwrap().map(|row| format!("{table} {:?}\n", row.unwrap())).collect();
            lines.sort_unstable();
            dump.extend(lines);
        }
        dump
    }

    fn refuse_series(&self, manga: i64) {
        let check = |event: &str| {
            format!(
                "CREATE TRIGGER refuse_{event} BEFORE {event} ON user_progress WHEN NEW.manga_id = {manga}
                 BEGIN SELECT RAISE(ABORT, 'this series is refused'); END;"
            )
        };
        self.look().execute_batch(&format!("{}{}", check("INSERT"), check("UPDATE"))).unwrap();
    }

    fn refuse_nothing(&self) {
        self.look().execute_batch("DROP TRIGGER refuse_INSERT; DROP TRIGGER refuse_UPDATE;").unwrap();
    }

    fn go_away(&mut self) {
        let conn = self.look();
        conn.execute_batch("BEGIN IMMEDIATE").unwrap();
        self.lock = Some(conn);
    }

    fn come_back(&mut self) {
        self.lock = None;
    }
}

/// A database of its own on a server of its own.
pub(crate) struct Postgres {
    // Closed before its server ends.
    store: Option<Arc<PostgresStore>>,
    server: PostgresServer,
}

impl Postgres {
    fn on(server: PostgresServer) -> Self {
        let store = PostgresStore::open(&PostgresConfig::new(server.url()), 1_000).unwrap();
        Self { store: Some(Arc::new(store)), server }
    }
}

impl Backend for Postgres {
    fn fresh() -> Self {
        Self::on(PostgresServer::start())
    }

    fn store(&self) -> SharedStore {
        self.store.clone().unwrap()
    }

    fn place(&self) -> Place {
        Place::Postgres(PostgresConfig::new(self.server.url()))
    }

    fn reopened(mut self) -> Self {
        let store = self.store.take().unwrap();
        assert_eq!(Arc::strong_count(&store), 1, "nobody else holds the store when it is reopened");
        drop(store);
        Self::on(self.server)
    }

    fn dump(&self) -> String {
        self.server.dump()
    }

    fn refuse_series(&self, manga: i64) {
        self.server.query(&format!(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
                 $$ BEGIN RAISE EXCEPTION 'this series is refused'; END $$;
             CREATE TRIGGER refuse BEFORE INSERT OR UPDATE ON user_progress
                 FOR EACH ROW WHEN (NEW.manga_id = {manga}) EXECUTE FUNCTION refuse()"
        ));
    }

    fn refuse_nothing(&self) {
        self.server.query("DROP FUNCTION refuse CASCADE");
    }

    fn go_away(&mut self) {
        self.server.set_read_only(true);
    }

    fn come_back(&mut self) {
        self.server.set_read_only(false);
    }
}

/// Waits until something is so, for as long as a slow machine may need.
pub(crate) fn eventually(what: &str, mut so: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while !so() {
        assert!(std::time::Instant::now() < deadline, "never: {what}");
        std::thread::yield_now();
    }
}
