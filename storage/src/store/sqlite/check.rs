//! Looking the whole database over, for `mangahub db check`: SQLite's own check, and what is in the tables.

use rusqlite::Connection;

use super::apply;
use super::connection::refusal;
use crate::journal::StoreId;
use crate::store::{StoreCheck, StoreError, TABLES, TableCount};

/// Checks and counts.
pub(super) fn check(conn: &Connection, store_id: StoreId) -> Result<StoreCheck, StoreError> {
    let mut problems = problems(conn, "PRAGMA quick_check(20)").map_err(refusal)?;
    problems.extend(broken_references(conn).map_err(refusal)?);
    let count = |table: &'static str| -> rusqlite::Result<TableCount> {
        conn.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0))
            .map(|rows| TableCount { table, rows })
    };
    let tables = TABLES.into_iter().map(count).collect::<rusqlite::Result<Vec<_>>>().map_err(refusal)?;
    let parked = tables.iter().find(|count| count.table == "parked_records").map_or(0, |count| count.rows);
    let schema_version =
        conn.query_row("SELECT max(number) FROM schema_migrations", [], |row| row.get(0)).map_err(refusal)?;
    Ok(StoreCheck { store_id, schema_version, problems, cursors: apply::journals(conn)?, tables, parked })
}

fn problems(conn: &Connection, pragma: &str) -> rusqlite::Result<Vec<String>> {
    let mut query = conn.prepare(pragma)?;
    let lines = query.query_map([], |row| row.get::<_, String>(0))?;
    lines.filter(|line| !matches!(line.as_deref(), Ok("ok"))).collect()
}

fn broken_references(conn: &Connection) -> rusqlite::Result<Vec<String>> {
    let mut query = conn.prepare("PRAGMA foreign_key_check")?;
    let lines = query.query_map([], |row| {
        let (table, parent): (String, String) = (row.get(0)?, row.get(2)?);
        Ok(format!("a row of {table} names a row of {parent} that is not there"))
    })?;
    lines.take(20).collect()
}
