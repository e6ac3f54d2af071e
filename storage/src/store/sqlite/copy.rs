//! The embedded store's rows for a backup: read in one snapshot beside whoever else uses the file, and written into a file that
//! nobody uses yet.

use std::collections::BTreeMap;
use std::path::Path;

use rusqlite::types::Value;
use rusqlite::{Connection, params_from_iter};

use super::SqliteConfig;
use super::connection::{self, Purpose, refusal};
use crate::backup::tables::{Column, Kind, Table, WITH_LAST_ID};
use crate::backup::{BackupError, Export, Import, Sink, text};
use crate::journal::StoreId;
use crate::store::StoreError;

/// Memory for a table's pages, which are read or written once, in order.
const CACHE_KIB: u32 = 8 * 1_024;

fn config(path: &Path) -> SqliteConfig {
    SqliteConfig { cache_kib: CACHE_KIB, ..SqliteConfig::new(path) }
}

fn odd(table: &Table, what: &str) -> StoreError {
    StoreError::Corrupt { reason: format!("a row of {} {what}", table.name) }
}

/// A snapshot.
pub(crate) struct Reading {
    conn: Connection,
}

impl Reading {
    /// Opens the file of a server that may be running.
    pub(crate) fn open(path: &Path) -> Result<Self, StoreError> {
        let conn = connection::open(&config(path), Purpose::Read)?;
        conn.execute_batch("BEGIN").map_err(refusal)?;
        Ok(Self { conn })
    }
}

impl Export for Reading {
    fn identity(&mut self) -> Result<(StoreId, u32), StoreError> {
        let id = "SELECT value FROM meta WHERE key = 'store_id'";
        let id = self.conn.query_row(id, [], |row| row.get(0)).map_err(refusal)?;
        let schema = "SELECT max(number) FROM schema_migrations";
        Ok((StoreId(id), self.conn.query_row(schema, [], |row| row.get(0)).map_err(refusal)?))
    }

    fn rows(&mut self, table: &Table, sink: Sink<'_>) -> Result<(), BackupError> {
        let column = |column: &Column| if column.kind == Kind::Revision { "0" } else { column.name };
        let columns: Vec<&str> = table.columns.iter().map(column).collect();
        let select = format!("SELECT {} FROM {}", columns.join(", "), table.name);
        let mut query = self.conn.prepare(&select).map_err(refusal)?;
        let mut rows = query.query([]).map_err(refusal)?;
        let mut line = Vec::new();
        while let Some(row) = rows.next().map_err(refusal)? {
            line.clear();
            for (at, column) in table.columns.iter().enumerate() {
                if at > 0 {
                    line.push(b'\t');
                }
                let value = row.get_ref(at).map_err(refusal)?;
                text::write(&mut line, column.kind, value)
                    .map_err(|_| odd(table, &format!("holds something else than its {} may be", column.name)))?;
            }
            line.push(b'\n');
            sink(&line)?;
        }
        Ok(())
    }

    fn last_ids(&mut self) -> Result<BTreeMap<String, i64>, StoreError> {
        let mut query = self.conn.prepare("SELECT name, seq FROM sqlite_sequence").map_err(refusal)?;
        let all = query.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).map_err(refusal)?;
        all.collect::<rusqlite::Result<_>>().map_err(refusal)
    }
}

/// A new file that is being filled. Nothing of it is flushed before its end: until then it is thrown away with its folder.
pub(crate) struct Writing {
    conn: Connection,
}

impl Writing {
    /// Opens a file that has the schema and no rows.
    pub(crate) fn open(path: &Path) -> Result<Self, StoreError> {
        let conn = connection::open(&config(path), Purpose::Write)?;
        conn.execute_batch("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; BEGIN IMMEDIATE").map_err(refusal)?;
        Ok(Self { conn })
    }
}

impl Import for Writing {
    fn rows(&mut self, table: &Table, columns: &[&Column], rows: &[u8]) -> Result<(), StoreError> {
        let is_kept = |column: &&&Column| column.kind != Kind::Revision;
        let names: Vec<&str> = columns.iter().filter(is_kept).map(|column| column.name).collect();
        let places = vec!["?"; names.len()].join(", ");
        let insert = format!("INSERT INTO {} ({}) VALUES ({places})", table.name, names.join(", "));
        let mut insert = self.conn.prepare_cached(&insert).map_err(refusal)?;
        let mut values: Vec<Value> = Vec::with_capacity(names.len());
        let lines = rows.strip_suffix(b"\n").ok_or_else(|| odd(table, "is cut off"))?;
        for line in lines.split(|byte| *byte == b'\n') {
            values.clear();
            let mut fields = line.split(|byte| *byte == b'\t');
            for column in columns {
                let field = fields.next().ok_or_else(|| odd(table, "has too few columns"))?;
                let value = text::read(column.kind, field);
                let value = value.map_err(|_| odd(table, &format!("has something else in its {}", column.name)))?;
                if column.kind != Kind::Revision {
                    values.push(value);
                }
            }
            if fields.next().is_some() {
                return Err(odd(table, "has too many columns"));
            }
            insert.execute(params_from_iter(&values)).map_err(refusal)?;
        }
        Ok(())
    }

    fn finish(self: Box<Self>, last_ids: &BTreeMap<String, i64>) -> Result<(), StoreError> {
        for table in WITH_LAST_ID {
            let Some(last) = last_ids.get(table) else { continue };
            self.conn.execute("DELETE FROM sqlite_sequence WHERE name = ?1", [table]).map_err(refusal)?;
            let insert = format!(
                "INSERT INTO sqlite_sequence (name, seq) SELECT ?1, max(?2, coalesce((SELECT max(id) FROM {table}), 0))"
            );
            self.conn.execute(&insert, (table, last)).map_err(refusal)?;
        }
        // The file is flushed by whoever puts it into its place; as a server leaves it, it is in write-ahead mode.
        self.conn.execute_batch("COMMIT; PRAGMA journal_mode = WAL").map_err(refusal)?;
        self.conn.close().map_err(|(_, error)| refusal(error))
    }
}

/// The columns of every table of the schema, for the test that compares them with what is saved.
#[cfg(test)]
fn columns_in(conn: &Connection) -> BTreeMap<String, Vec<String>> {
    let sql = "SELECT m.name, c.name FROM sqlite_schema AS m, pragma_table_info(m.name) AS c
               WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite_%'";
    let mut query = conn.prepare(sql).expect("the schema can be read");
    let rows = query.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).expect("it has rows");
    let mut tables: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (table, column) in rows.map(|row: rusqlite::Result<(String, String)>| row.expect("text")) {
        tables.entry(table).or_default().push(column);
    }
    tables
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backup::tables::TABLES;
    use crate::store::SqliteStore;

    #[test]
    fn every_column_of_the_schema_is_saved() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.db");
        drop(SqliteStore::open(&SqliteConfig::new(&path), 1).unwrap());
        let mut found = columns_in(&Connection::open(&path).unwrap());
        for left_out in ["meta", "journal_cursor", "schema_migrations"] {
            assert!(found.remove(left_out).is_some(), "{left_out}");
        }
        for table in TABLES {
            let kept = table.columns.iter().filter(|column| column.kind != Kind::Revision);
            let mut saved: Vec<String> = kept.map(|column| column.name.to_owned()).collect();
            let mut there = found.remove(table.name).unwrap_or_else(|| panic!("no table {}", table.name));
            saved.sort();
            there.sort();
            assert_eq!(saved, there, "{}", table.name);
        }
        assert_eq!(found, BTreeMap::new(), "tables that no backup has");
    }
}
