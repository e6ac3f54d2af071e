//! What a backup says of itself, as its last member: which store it is of, what is in it, and a checksum of every other member.
//! A file without it is one that was not finished.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::BackupError;
use super::tables::{Column, Table};

/// The newest format that this version reads, and the one it writes.
pub const FORMAT: u32 = 1;

/// What a backup holds.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Manifest {
    /// How the file is built.
    pub format: u32,
    /// The version of the server that wrote it.
    pub server: String,
    /// When its content was as it is, in Unix milliseconds.
    pub created_at_unix_ms: u64,
    /// The kind of store that it comes from.
    pub store: String,
    /// That store's id, in hexadecimal. A restored store has one of its own: it is another store from then on.
    pub store_id: String,
    /// The store's schema.
    pub schema_version: u32,
    /// The last ids given out, by table.
    pub last_ids: BTreeMap<String, i64>,
    /// The tables, in the order in which they can be loaded.
    pub tables: Vec<Saved>,
    /// All other members, in order.
    pub members: Vec<Member>,
}

/// A table of a backup.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Saved {
    /// Its name.
    pub name: String,
    /// Its columns, in the order in which they are written.
    pub columns: Vec<String>,
    /// Its rows.
    pub rows: u64,
}

/// A member of the file.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Member {
    /// Its name.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// SHA-256, in hexadecimal.
    pub sha256: String,
}

/// A table to load: what this version calls it.
pub(super) type Loadable = (&'static Table, Vec<&'static Column>);

impl Manifest {
    /// All rows.
    pub fn rows(&self) -> u64 {
        self.tables.iter().map(|table| table.rows).sum()
    }

    /// Whether the secret that signs tokens is in it.
    pub fn has_secret(&self) -> bool {
        self.members.iter().any(|member| member.name == super::SECRET)
    }

    /// Its tables as this version knows them; one that it does not know was written by a newer server.
    pub(super) fn loadable(&self) -> Result<Vec<Loadable>, BackupError> {
        let unknown = |what: String| BackupError::NewerContent { what, server: self.server.clone() };
        let load = |saved: &Saved| {
            let table = Table::named(&saved.name).ok_or_else(|| unknown(format!("a table called {:?}", saved.name)))?;
            let column = |name: &String| {
                table.column(name).ok_or_else(|| unknown(format!("a column called {:?} of {}", name, saved.name)))
            };
            Ok((table, saved.columns.iter().map(column).collect::<Result<_, BackupError>>()?))
        };
        self.tables.iter().map(load).collect()
    }
}
