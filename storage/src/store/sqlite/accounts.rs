//! Users: making, finding and changing them. The unique indexes on the folded names decide; this file only says which of them
//! it was.

use proto::UserId;
use rusqlite::{Connection, ErrorCode, OptionalExtension, Row, params};

use super::connection::refusal;
use super::sessions;
use crate::store::{Account, NewUser, Role, SeedUser, StoreError, UniqueField, UserKey};

pub(super) const ACCOUNT: &str = "id, username, email, password_hash, role, created_at, updated_at";

/// An account from the columns of [`ACCOUNT`], the first at `at`.
pub(super) fn account_row(row: &Row<'_>, at: usize) -> rusqlite::Result<Account> {
    let role = row.get_ref(at + 4)?.as_str()?.parse::<Role>().map_err(|_| super::load::odd(at + 4, "not a role"))?;
    Ok(Account {
        id: UserId::from_bytes(row.get(at)?),
        username: row.get(at + 1)?,
        email: row.get(at + 2)?,
        password_hash: row.get(at + 3)?,
        role,
        created_at_unix_ms: row.get(at + 5)?,
        updated_at_unix_ms: row.get(at + 6)?,
    })
}

fn insert(conn: &Connection, verb: &str, user: &NewUser) -> rusqlite::Result<usize> {
    let sql = format!(
        "{verb} INTO users (id, username, username_folded, email, email_folded, password_hash, role, created_at, updated_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?8)"
    );
    conn.prepare_cached(&sql)?.execute(params![
        user.id.as_bytes(),
        user.username,
        user.username_folded,
        user.email,
        user.email_folded,
        user.password_hash,
        user.role.as_str(),
        user.created_at_unix_ms,
    ])
}

/// Makes a user.
pub(super) fn create(conn: &Connection, user: &NewUser) -> Result<(), StoreError> {
    let Err(error) = insert(conn, "INSERT", user) else { return Ok(()) };
    let constraint =
        matches!(&error, rusqlite::Error::SqliteFailure(failure, _) if failure.code == ErrorCode::ConstraintViolation);
    if constraint {
        let taken = |column: &str, value: &str| {
            let sql = format!("SELECT 1 FROM users WHERE {column} = ?1");
            conn.prepare_cached(&sql).and_then(|mut query| query.exists([value])).map_err(refusal)
        };
        if taken("username_folded", &user.username_folded)? {
            return Err(StoreError::Taken { field: UniqueField::Username });
        }
        if taken("email_folded", &user.email_folded)? {
            return Err(StoreError::Taken { field: UniqueField::Email });
        }
    }
    Err(refusal(error))
}

/// Finds a user.
pub(super) fn find(conn: &Connection, key: &UserKey) -> Result<Option<Account>, StoreError> {
    let one = |condition: &str, value: &dyn rusqlite::ToSql| {
        let sql = format!("SELECT {ACCOUNT} FROM users WHERE {condition} = ?1");
        conn.prepare_cached(&sql)?.query_row([value], |row| account_row(row, 0)).optional()
    };
    match key {
        UserKey::Id(id) => one("id", id.as_bytes()),
        UserKey::Username(folded) => one("username_folded", folded),
        UserKey::Email(folded) => one("email_folded", folded),
    }
    .map_err(refusal)
}

/// Replaces one column of a user.
pub(super) fn set(
    conn: &Connection,
    user: UserId,
    column: &'static str,
    value: &str,
    now_unix_ms: u64,
) -> Result<(), StoreError> {
    let sql = format!("UPDATE users SET {column} = ?2, updated_at = ?3 WHERE id = ?1");
    let changed = conn
        .prepare_cached(&sql)
        .and_then(|mut update| update.execute(params![user.as_bytes(), value, now_unix_ms]))
        .map_err(refusal)?;
    if changed == 0 { Err(StoreError::NotFound { what: "user" }) } else { Ok(()) }
}

/// All administrators, oldest first.
pub(super) fn admins(conn: &Connection) -> Result<Vec<Account>, StoreError> {
    let read = || -> rusqlite::Result<Vec<Account>> {
        let sql = format!("SELECT {ACCOUNT} FROM users WHERE role = ?1 ORDER BY created_at, id");
        conn.prepare_cached(&sql)?.query_map([Role::Admin.as_str()], |row| account_row(row, 0))?.collect()
    };
    read().map_err(refusal)
}

/// How many users there are.
pub(super) fn count(conn: &Connection) -> Result<u64, StoreError> {
    conn.query_row("SELECT count(*) FROM users", [], |row| row.get(0)).map_err(refusal)
}

/// Makes many users; those whose id or names exist are left alone.
pub(super) fn seed(conn: &Connection, users: &[SeedUser]) -> Result<u64, StoreError> {
    let mut new = 0;
    for seed in users {
        if insert(conn, "INSERT OR IGNORE", &seed.user).map_err(refusal)? == 0 {
            continue;
        }
        new += 1;
        if let Some(session) = &seed.session {
            sessions::insert(conn, session).map_err(refusal)?;
        }
    }
    Ok(new)
}
