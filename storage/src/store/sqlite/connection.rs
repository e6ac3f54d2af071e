//! How a connection to the embedded database is opened, and how SQLite's errors become the store's. Every connection gets the
//! same settings here, so that no statement runs without the full flush that durability rests on.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::SqliteConfig;
use crate::store::StoreError;

/// What a connection is for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    Write,
    Read,
}

/// Opens the file, which the write connection makes if need be.
pub(super) fn open(config: &SqliteConfig, purpose: Purpose) -> Result<Connection, StoreError> {
    // One thread per connection: SQLite's own mutex would only cost.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_CREATE;
    if purpose == Purpose::Write {
        keep_private(&config.path).map_err(|error| StoreError::Unavailable {
            reason: format!("{}: {error}", config.path.display()),
            retry_after: Duration::from_secs(1),
        })?;
    }
    let conn = Connection::open_with_flags(&config.path, flags).map_err(|error| opening(&config.path, error))?;
    settings(&conn, config, purpose).map_err(|error| opening(&config.path, error))?;
    Ok(conn)
}

/// Makes the file 0600 before anything is in it, and tightens one that was made otherwise: it holds password hashes, and the
/// folder may be one that somebody made for us with a mode of its own. SQLite gives its log and its index the file's mode.
fn keep_private(path: &Path) -> io::Result<()> {
    // Never opened when it is there: closing it again would take the locks away that SQLite holds on it in this process.
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    for suffix in ["", "-wal", "-shm"] {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        let mode = match fs::metadata(&name) {
            Ok(found) => found.permissions().mode(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        if mode & 0o077 != 0 {
            fs::set_permissions(&name, fs::Permissions::from_mode(mode & 0o700))?;
        }
    }
    Ok(())
}

/// Turns the write-ahead log on. A new file needs every lock for that, and SQLite answers "busy" without its waiting when two
/// processes open one at the same time.
fn write_ahead(conn: &Connection, patience: Duration) -> rusqlite::Result<()> {
    let began = Instant::now();
    loop {
        match conn.pragma_update(None, "journal_mode", "WAL") {
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) && began.elapsed() < patience => {
                thread::sleep(Duration::from_millis(5));
            }
            done => return done,
        }
    }
}

fn settings(conn: &Connection, config: &SqliteConfig, purpose: Purpose) -> rusqlite::Result<()> {
    conn.busy_timeout(config.busy_timeout)?;
    conn.set_prepared_statement_cache_capacity(128);
    write_ahead(conn, config.busy_timeout)?;
    // In WAL mode only FULL flushes the log at each commit; a cursor that moved must not be forgotten by a power cut, because
    // the journal's segments go by it.
    conn.pragma_update(None, "synchronous", "FULL")?;
    conn.pragma_update(None, "foreign_keys", true)?;
    conn.pragma_update(None, "temp_store", "MEMORY")?;
    conn.pragma_update(None, "cache_size", -(i64::from(config.cache_kib)))?;
    // Never mapped: a page that the disk cannot read must be an error and not a SIGBUS, and mapped pages count as ours.
    conn.pragma_update(None, "mmap_size", 0)?;
    match purpose {
        Purpose::Write => {
            // A checkpoint every 1,000 pages of 4 KiB: larger ones made single commits (the one that happens to do it) three
            // times as long. The log shrinks back to 64 MiB after a long reader.
            conn.pragma_update(None, "wal_autocheckpoint", 1_000)?;
            conn.pragma_update(None, "journal_size_limit", 64 * 1024 * 1024)
        }
        Purpose::Read => conn.pragma_update(None, "query_only", true),
    }
}

fn opening(path: &Path, error: rusqlite::Error) -> StoreError {
    match refusal(error) {
        StoreError::Unavailable { reason, retry_after } => {
            StoreError::Unavailable { reason: format!("{}: {reason}", path.display()), retry_after }
        }
        StoreError::Corrupt { reason } => StoreError::Corrupt { reason: format!("{}: {reason}", path.display()) },
        other => other,
    }
}

/// What a statement's failure means to the caller.
pub(super) fn refusal(error: rusqlite::Error) -> StoreError {
    let reason = error.to_string();
    let away = |retry_after| StoreError::Unavailable { reason: reason.clone(), retry_after };
    match &error {
        rusqlite::Error::SqliteFailure(failure, _) => match failure.code {
            ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked | ErrorCode::FileLockingProtocolFailed => {
                away(Duration::from_millis(100))
            }
            ErrorCode::DiskFull
            | ErrorCode::SystemIoFailure
            | ErrorCode::OutOfMemory
            | ErrorCode::CannotOpen
            | ErrorCode::PermissionDenied
            | ErrorCode::ReadOnly
            | ErrorCode::OperationInterrupted => away(Duration::from_secs(1)),
            ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => StoreError::Corrupt { reason },
            ErrorCode::ConstraintViolation | ErrorCode::TooBig | ErrorCode::TypeMismatch => {
                StoreError::Refused { reason }
            }
            // A missing table, a full cache of locks: nothing that is wrong with this one request. Were it called refused, the
            // writer would park record after record.
            _ => away(Duration::from_secs(1)),
        },
        rusqlite::Error::FromSqlConversionFailure(..)
        | rusqlite::Error::IntegralValueOutOfRange(..)
        | rusqlite::Error::Utf8Error(..)
        | rusqlite::Error::InvalidColumnType(..) => StoreError::Corrupt { reason },
        rusqlite::Error::ToSqlConversionFailure(..) => StoreError::Refused { reason },
        _ => away(Duration::from_secs(1)),
    }
}
