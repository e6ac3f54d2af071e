//! Backups: one file with everything that a store holds, and a store made from one. A backup is taken of a store that has
//! everything which the journal had when it began, in one snapshot; what comes back is a new store in a new data folder, with an
//! id, a journal and a node number of its own, so that no journal, checkpoint or resume token of the time that was lost is taken
//! for its own. Both stores read and write the same rows, so either is restored from the other's. Nothing is changed before all
//! checksums have been found to fit, and nothing half done is left in place.

mod archive;
mod manifest;
mod place;
pub(crate) mod tables;
#[cfg(test)]
mod tests;
pub(crate) mod text;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

pub use archive::Backup;
pub use manifest::{FORMAT, Manifest, Member, Saved};

use self::archive::Writer;
use self::place::Staging;
use self::tables::{Column, OF_SESSIONS, TABLES, Table};
use crate::folder::FolderError;
use crate::journal::StoreId;
use crate::store::postgres::{self, PostgresConfig, PostgresStore};
use crate::store::sqlite::{self, SqliteConfig, SqliteStore};
use crate::store::{StoreError, postgres::OpenError as PostgresError, sqlite::OpenError as SqliteError};

/// Rows per member, in bytes: what is kept in memory of a table.
const PART_BYTES: usize = 4 << 20;
/// The token-signing secret.
const SECRET: &str = "secret";

/// Why there is no backup, or no restored store.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The system refused something.
    #[error("cannot {what} {}: {source}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A backup is never written over a file.
    #[error("{} exists already; name another file", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// The file is not what was written.
    #[error("{} cannot be restored: {what}. Nothing was changed; use another backup", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// A newer server's file.
    #[error(
        "{} has format {found}; this version reads {known}. Nothing was changed; restore it with the version that wrote it, or \
         a later one",
        path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The newest that this version reads.
        known: u32,
    },
    /// A newer server's content.
    #[error(
        "the backup was written by mangahub {server} and holds {what}, which this version does not know. Nothing was changed"
    )]
    NewerContent {
        /// What is not known.
        what: String,
        /// Who wrote it.
        server: String,
    },
    /// Something is there already.
    #[error("{place} is not empty; a restore does not mix with what is there")]
    NotEmpty {
        /// Which folder or database.
        place: String,
    },
    /// Another store than the one that was meant.
    #[error("the store at {place} is not the one that was meant: its id is {found}, not {expected}")]
    OtherStore {
        /// Where it is.
        place: String,
        /// Its id.
        found: String,
        /// The wanted one.
        expected: String,
    },
    /// The data folder cannot be used.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// The embedded store cannot be opened.
    #[error(transparent)]
    Sqlite(#[from] SqliteError),
    /// The database cannot be opened.
    #[error(transparent)]
    Postgres(#[from] PostgresError),
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Where a store is.
#[derive(Clone, Debug)]
pub enum Place {
    /// The file of the embedded store.
    Embedded(PathBuf),
    /// A database.
    Postgres(PostgresConfig),
}

/// Takes the rows of a table as they come, whole ones.
pub(crate) type Sink<'a> = &'a mut dyn FnMut(&[u8]) -> Result<(), BackupError>;

/// A store that is read in one snapshot.
pub(crate) trait Export {
    /// Its id, its schema.
    fn identity(&mut self) -> Result<(StoreId, u32), StoreError>;
    /// All rows of a table, as text.
    fn rows(&mut self, table: &Table, sink: Sink<'_>) -> Result<(), BackupError>;
    /// The last ids given out.
    fn last_ids(&mut self) -> Result<BTreeMap<String, i64>, StoreError>;
}

/// An empty store that is filled in one transaction. Dropped before its end, it stays empty.
pub(crate) trait Import {
    /// Adds rows of a table.
    fn rows(&mut self, table: &Table, columns: &[&Column], rows: &[u8]) -> Result<(), StoreError>;
    /// Ends the transaction.
    fn finish(self: Box<Self>, last_ids: &BTreeMap<String, i64>) -> Result<(), StoreError>;
}

/// What to save.
pub struct Create<'a> {
    /// The store, which must have everything that is to be in the backup.
    pub store: Place,
    /// Its id, in hexadecimal: that of the server that was asked to bring it up to date.
    pub store_id: &'a str,
    /// The token-signing secret, when it is the data folder's own.
    pub secret: Option<String>,
    /// The version that writes.
    pub server: &'a str,
    /// Now.
    pub now_unix_ms: u64,
}

/// Writes a backup to `path`, which must not exist and does not exist before the backup is whole and on disk. `seen` hears
/// which table is read and how many rows have been, in all.
pub fn create(wanted: Create<'_>, path: &Path, seen: &mut dyn FnMut(&str, u64)) -> Result<Manifest, BackupError> {
    let mut archive = Writer::create(path)?;
    let kind = match &wanted.store {
        Place::Embedded(_) => "sqlite",
        Place::Postgres(_) => "postgres",
    };
    let (mut store, place): (Box<dyn Export>, String) = match &wanted.store {
        Place::Embedded(file) => (Box::new(sqlite::copy::Reading::open(file)?), file.display().to_string()),
        Place::Postgres(config) => (Box::new(postgres::copy::Reading::open(config)?), config.shown()),
    };
    let (store_id, schema_version) = store.identity()?;
    let store_id = store_id.to_string();
    if store_id != wanted.store_id {
        return Err(BackupError::OtherStore { place, found: store_id, expected: wanted.store_id.to_owned() });
    }
    if let Some(secret) = &wanted.secret {
        archive.add(SECRET.to_owned(), secret.as_bytes())?;
    }
    let (mut tables, mut rows_before) = (Vec::with_capacity(TABLES.len()), 0);
    for table in TABLES {
        let rows = save(&mut *store, table, &mut archive, &mut |rows| seen(table.name, rows_before + rows))?;
        rows_before += rows;
        let columns = table.columns.iter().map(|column| column.name.to_owned()).collect();
        tables.push(Saved { name: table.name.to_owned(), columns, rows });
    }
    let last_ids = store.last_ids()?;
    archive.finish(|members| Manifest {
        format: FORMAT,
        server: wanted.server.to_owned(),
        created_at_unix_ms: wanted.now_unix_ms,
        store: kind.to_owned(),
        store_id,
        schema_version,
        last_ids,
        tables,
        members,
    })
}

/// Saves a table in parts; answers how many rows it has.
fn save(
    store: &mut dyn Export,
    table: &Table,
    archive: &mut Writer,
    seen: &mut dyn FnMut(u64),
) -> Result<u64, BackupError> {
    let (mut part, mut parts, mut rows) = (Vec::with_capacity(PART_BYTES + (64 << 10)), 0, 0);
    let mut put = |part: &mut Vec<u8>, rows: u64| {
        archive.add(format!("tables/{}/{parts:06}.tsv", table.name), part)?;
        parts += 1;
        part.clear();
        seen(rows);
        Ok::<_, BackupError>(())
    };
    store.rows(table, &mut |lines| {
        // A line break within a column is written as a backslash and an n.
        rows += lines.iter().filter(|byte| **byte == b'\n').count() as u64;
        part.extend_from_slice(lines);
        if part.len() >= PART_BYTES { put(&mut part, rows) } else { Ok(()) }
    })?;
    if !part.is_empty() {
        put(&mut part, rows)?;
    }
    Ok(rows)
}

/// What to make of a backup.
pub struct Restore<'a> {
    /// The data folder: empty or missing, unless `replace`.
    pub data_dir: &'a Path,
    /// The database, which must be empty; without one the data folder gets an embedded store.
    pub database: Option<&'a PostgresConfig>,
    /// Moves what is in the data folder aside.
    pub replace: bool,
    /// Leaves out who was signed in: sessions, their tokens, and the secret that signed them.
    pub end_sessions: bool,
    /// Now.
    pub now_unix_ms: u64,
}

/// Makes a store of a backup that was checked. `seen` hears how many bytes of the file have been read. Answers where what was in the data
/// folder is now.
pub fn restore(
    backup: &Backup,
    wanted: &Restore<'_>,
    seen: &mut dyn FnMut(u64),
) -> Result<Option<PathBuf>, BackupError> {
    let tables = backup.manifest().loadable()?;
    let staging = Staging::begin(wanted.data_dir, wanted.replace)?;
    // Opened once as a server does, so that the schema is this version's.
    let mut store: Box<dyn Import> = match wanted.database {
        Some(config) => {
            drop(PostgresStore::open(config, wanted.now_unix_ms)?);
            Box::new(postgres::copy::Writing::open(config)?)
        }
        None => {
            drop(SqliteStore::open(&SqliteConfig::new(staging.store()), wanted.now_unix_ms)?);
            Box::new(sqlite::copy::Writing::open(&staging.store())?)
        }
    };
    backup.members(seen, &mut |name, content| {
        if name == SECRET && !wanted.end_sessions {
            let failed = |source| BackupError::Io { what: "write", path: wanted.data_dir.join(SECRET), source };
            return staging.write(SECRET, &content).map_err(failed);
        }
        let table = name.strip_prefix("tables/").and_then(|name| name.split_once('/')).map(|(table, _)| table);
        let Some((table, columns)) = tables.iter().find(|(known, _)| Some(known.name) == table) else { return Ok(()) };
        if wanted.end_sessions && OF_SESSIONS.contains(&table.name) {
            return Ok(());
        }
        Ok(store.rows(table, columns, &content)?)
    })?;
    store.finish(&backup.manifest().last_ids)?;
    staging.finish(wanted.now_unix_ms)
}
