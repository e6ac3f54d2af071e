//! The database's rows for a backup: read in one snapshot with COPY, and written with COPY into a database that has the tables and
//! no rows, in one transaction. On a connection and a Tokio loop of its own: it blocks its caller and is in nobody's way.

use std::collections::BTreeMap;
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, TryStreamExt};
use tokio::runtime::Runtime;
use tokio::time::timeout;
use tokio_postgres::Client;

use super::address::Address;
use super::failure::{Failure, away};
use super::statement::{column, first, odd, params, run};
use super::tls::Tls;
use super::{OpenError, PostgresConfig};
use crate::backup::tables::{Column, TABLES, Table, WITH_LAST_ID};
use crate::backup::{BackupError, Export, Import, Sink};
use crate::journal::StoreId;
use crate::store::StoreError;

/// How long connecting may take.
const CONNECT_MAX: Duration = Duration::from_secs(30);

/// How values are written must not depend on the server's configuration, and a backup takes as long as it takes. The driver gives
/// each COPY a prepared statement with a name that other programs give theirs too, and a pooler's connection may still have those.
const SETTINGS: &str = "
    SET LOCAL bytea_output = 'hex'; SET LOCAL extra_float_digits = 1; SET LOCAL statement_timeout = 0;
    SET LOCAL idle_in_transaction_session_timeout = 0; DEALLOCATE ALL";

impl PostgresConfig {
    /// Host, port and database, for a person.
    pub fn shown(&self) -> String {
        Address::parse(&self.url).map(|address| address.shown()).unwrap_or_default()
    }
}

/// A connection in a transaction, and the loop that it lives on.
struct Session {
    // Before the loop that it needs for its end.
    client: Client,
    tokio: Runtime,
    place: String,
}

impl Session {
    fn begin(config: &PostgresConfig, begin: &str) -> Result<Self, OpenError> {
        let address = Address::parse(&config.url)?;
        let tls = Tls::new(&address.trust)?;
        let place = address.shown();
        let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let client = tokio.block_on(async {
            let made = timeout(CONNECT_MAX, address.config.connect(tls)).await;
            let made = made.map_err(|_| away(format!("{place}: connecting took too long")))?;
            let (client, connection) = made.map_err(|error| Failure::from(error).into_error())?;
            tokio::spawn(async move {
                if let Err(error) = connection.await {
                    tracing::debug!(%error, "a connection to the database ended");
                }
            });
            run(&client, begin).await.map_err(Failure::into_error)?;
            run(&client, SETTINGS).await.map_err(Failure::into_error)?;
            Ok::<_, StoreError>(client)
        })?;
        Ok(Self { client, tokio, place })
    }

    fn ask<T>(&self, question: impl AsyncFnOnce(&Client) -> Result<T, Failure>) -> Result<T, StoreError> {
        self.tokio.block_on(question(&self.client)).map_err(Failure::into_error)
    }
}

fn names(columns: &[&Column]) -> String {
    columns.iter().map(|column| column.name).collect::<Vec<_>>().join(", ")
}

/// A snapshot.
pub(crate) struct Reading(Session);

impl Reading {
    /// Connects, and begins it.
    pub(crate) fn open(config: &PostgresConfig) -> Result<Self, OpenError> {
        Session::begin(config, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").map(Self)
    }
}

impl Export for Reading {
    fn identity(&mut self) -> Result<(StoreId, u32), StoreError> {
        self.0.ask(async |client| {
            let id = first(client, "SELECT value FROM meta WHERE key = 'store_id'", params![]).await?;
            let id: Vec<u8> = column(&id.ok_or_else(|| odd("meta has no store_id"))?, 0)?;
            let schema = first(client, "SELECT max(number) FROM schema_migrations", params![]).await?;
            let schema: i32 = column(&schema.ok_or_else(|| odd("schema_migrations"))?, 0)?;
            let id = id.try_into().map_err(|_| odd("the store's id has not 16 bytes"))?;
            Ok((StoreId(id), schema.unsigned_abs()))
        })
    }

    fn rows(&mut self, table: &Table, sink: Sink<'_>) -> Result<(), BackupError> {
        let columns: Vec<&Column> = table.columns.iter().collect();
        let copy = format!("COPY {} ({}) TO STDOUT", table.name, names(&columns));
        let Session { client, tokio, .. } = &self.0;
        let refused = |error: tokio_postgres::Error| BackupError::Store(Failure::from(error).into_error());
        tokio.block_on(async {
            let mut rows = pin!(client.copy_out(&*copy).await.map_err(refused)?);
            while let Some(row) = rows.try_next().await.map_err(refused)? {
                sink(&row)?;
            }
            Ok(())
        })
    }

    fn last_ids(&mut self) -> Result<BTreeMap<String, i64>, StoreError> {
        self.0.ask(async |client| {
            let mut last_ids = BTreeMap::new();
            for table in WITH_LAST_ID {
                // Sequences stand outside of every snapshot; a later number does no harm.
                let sql = format!("SELECT last_value, is_called FROM {}", sequence(client, table).await?);
                let row = first(client, &sql, params![]).await?.ok_or_else(|| odd("an empty sequence"))?;
                if column::<bool>(&row, 1)? {
                    last_ids.insert(table.to_owned(), column(&row, 0)?);
                }
            }
            Ok(last_ids)
        })
    }
}

/// The sequence that gives a table its ids.
async fn sequence(client: &Client, table: &str) -> Result<String, Failure> {
    let row = first(client, "SELECT pg_get_serial_sequence($1, 'id')", params![table]).await?;
    column::<Option<String>>(&row.ok_or_else(|| odd("no answer"))?, 0)?.ok_or_else(|| odd("an id without a sequence"))
}

/// A database that is being filled. Dropped before its end, the connection closes and the database stays empty.
pub(crate) struct Writing(Session);

impl Writing {
    /// Connects, and insists that there is nothing in it. Nobody else writes to it from here on.
    pub(crate) fn open(config: &PostgresConfig) -> Result<Self, BackupError> {
        let session =
            Session::begin(config, "BEGIN; SET LOCAL synchronous_commit = on; SET LOCAL lock_timeout = '10s'")?;
        let mut tables: Vec<&str> = TABLES.iter().map(|table| table.name).collect();
        // A journal that drained into it has not left.
        tables.push("journal_cursor");
        let is_empty = session.ask(async |client| {
            run(client, &format!("LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE", tables.join(", "))).await?;
            for table in tables {
                let any = first(client, &format!("SELECT true FROM {table} LIMIT 1"), params![]).await?;
                if any.is_some() {
                    return Ok(false);
                }
            }
            Ok(true)
        })?;
        if is_empty { Ok(Self(session)) } else { Err(BackupError::NotEmpty { place: session.place }) }
    }
}

impl Import for Writing {
    fn rows(&mut self, table: &Table, columns: &[&Column], rows: &[u8]) -> Result<(), StoreError> {
        let copy = format!("COPY {} ({}) FROM STDIN", table.name, names(columns));
        // Postgres keeps every character but one.
        let rows: Vec<u8> = rows.iter().copied().filter(|byte| *byte != 0).collect();
        self.0.ask(async |client| {
            let mut sink = pin!(client.copy_in::<_, Bytes>(&*copy).await?);
            sink.send(rows.into()).await?;
            sink.finish().await?;
            Ok(())
        })
    }

    fn finish(self: Box<Self>, last_ids: &BTreeMap<String, i64>) -> Result<(), StoreError> {
        self.0.ask(async |client| {
            for table in ["manga", "genres", "parked_records"] {
                let last = last_ids.get(table).copied().unwrap_or(0);
                let sql = format!("SELECT greatest(max(id), {last}) FROM {table}");
                let row = first(client, &sql, params![]).await?.ok_or_else(|| odd("no answer"))?;
                if let Some(last) = column::<Option<i64>>(&row, 0)?.filter(|last| *last > 0) {
                    let name = sequence(client, table).await?;
                    first(client, "SELECT setval($1::text::regclass, $2)", params![name, last]).await?;
                }
            }
            run(client, "COMMIT").await.map_err(Failure::committing)
        })
    }
}
