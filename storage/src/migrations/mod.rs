//! The schema's versions, and the runner that brings a database to the newest one. A migration that has been released is never
//! edited: its checksum is stored where it ran, and a difference is refused with an explanation. Running twice is nothing; a
//! database newer than the binary is refused.

mod postgres;

pub use postgres::run_postgres;
use ring::digest::{SHA256, digest};
use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};

/// One step of the schema.
#[derive(Clone, Copy, Debug)]
pub struct Migration {
    /// Its place in the order, from 1 without gaps.
    pub number: u32,
    /// What it is about.
    pub name: &'static str,
    /// The statements, run in one transaction.
    pub sql: &'static str,
}

impl Migration {
    /// SHA-256 of the statements, in hex.
    pub fn checksum(&self) -> String {
        use std::fmt::Write;
        digest(&SHA256, self.sql.as_bytes()).as_ref().iter().fold(String::with_capacity(64), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        })
    }
}

/// The embedded store's schema, oldest first.
pub const SQLITE: &[Migration] = &[
    Migration { number: 1, name: "accounts", sql: include_str!("sqlite/0001_accounts.sql") },
    Migration { number: 2, name: "catalogue", sql: include_str!("sqlite/0002_catalogue.sql") },
    Migration { number: 3, name: "journalled", sql: include_str!("sqlite/0003_journalled.sql") },
];

/// The schema of a Postgres database, oldest first: the same tables, in its own types.
pub const POSTGRES: &[Migration] = &[
    Migration { number: 1, name: "accounts", sql: include_str!("postgres/0001_accounts.sql") },
    Migration { number: 2, name: "catalogue", sql: include_str!("postgres/0002_catalogue.sql") },
    Migration { number: 3, name: "journalled", sql: include_str!("postgres/0003_journalled.sql") },
];

/// Why a database was not brought to the newest schema. What had run before stays; the failed step left nothing behind.
#[derive(Debug, thiserror::Error)]
pub enum MigrationError {
    /// The database was written by a newer version of the server.
    #[error(
        "the database has schema version {found}, this version of MangaHub knows up to {known}; \
         run the newer version, or restore a backup made before the upgrade"
    )]
    Newer {
        /// The database's version.
        found: u32,
        /// The binary's.
        known: u32,
    },
    /// A migration that ran differs from the one in this binary.
    #[error(
        "migration {number} ({name}) is not the one that ran on this database (checksum {found}, expected {expected}); \
         a released migration must never be edited: use the version that made this database, or add a new migration"
    )]
    Edited {
        /// Which.
        number: u32,
        /// What it is about.
        name: String,
        /// What the database remembers.
        found: String,
        /// What the binary has.
        expected: String,
    },
    /// The database lacks a migration in the middle.
    #[error("the database has migration {later} but not {missing}; it was not made by this program, or is damaged")]
    Gap {
        /// What is not there.
        missing: u32,
        /// What is.
        later: u32,
    },
    /// A statement failed.
    #[error("migration {number} ({name}) failed: {reason}")]
    Failed {
        /// Which.
        number: u32,
        /// What it is about.
        name: &'static str,
        /// What the database said.
        reason: String,
    },
    /// The table of migrations could not be read or locked.
    #[error("the database's schema version could not be read: {0}")]
    Unreadable(String),
}

/// What a run did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Migrated {
    /// The schema version before.
    pub from: u32,
    /// The schema version now.
    pub to: u32,
}

/// Brings an SQLite database to the newest of `migrations`. Each step is a transaction that holds the database's write lock
/// from its start, so two processes at once run every step once.
pub fn run_sqlite(
    conn: &mut Connection,
    migrations: &[Migration],
    now_unix_ms: u64,
) -> Result<Migrated, MigrationError> {
    let unreadable = |error: rusqlite::Error| MigrationError::Unreadable(error.to_string());
    conn.execute_batch(
        "CREATE TABLE IF NOT EXISTS schema_migrations (
             number INTEGER PRIMARY KEY, name TEXT NOT NULL, checksum TEXT NOT NULL, applied_at INTEGER NOT NULL
         ) STRICT",
    )
    .map_err(unreadable)?;
    let from = newest(conn).map_err(unreadable)?;
    let known = migrations.last().map_or(0, |last| last.number);
    if from > known {
        return Err(MigrationError::Newer { found: from, known });
    }
    for migration in migrations {
        step(conn, migration, now_unix_ms)?;
    }
    Ok(Migrated { from, to: known })
}

fn newest(conn: &Connection) -> rusqlite::Result<u32> {
    conn.query_row("SELECT coalesce(max(number), 0) FROM schema_migrations", [], |row| row.get(0))
}

fn step(conn: &mut Connection, migration: &Migration, now_unix_ms: u64) -> Result<(), MigrationError> {
    let Migration { number, name, sql } = *migration;
    let failed = |error: rusqlite::Error| MigrationError::Failed { number, name, reason: error.to_string() };
    let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
    let found: Option<String> = tx
        .query_row("SELECT checksum FROM schema_migrations WHERE number = ?1", [number], |row| row.get(0))
        .optional()
        .map_err(failed)?;
    let expected = migration.checksum();
    match found {
        Some(found) if found == expected => return Ok(()),
        Some(found) => return Err(MigrationError::Edited { number, name: name.into(), found, expected }),
        None => {}
    }
    let later = newest(&tx).map_err(failed)?;
    if later > number {
        return Err(MigrationError::Gap { missing: number, later });
    }
    tx.execute_batch(sql).map_err(failed)?;
    tx.execute(
        "INSERT INTO schema_migrations (number, name, checksum, applied_at) VALUES (?1, ?2, ?3, ?4)",
        params![number, name, expected, now_unix_ms as i64],
    )
    .map_err(failed)?;
    tx.commit().map_err(failed)
}
