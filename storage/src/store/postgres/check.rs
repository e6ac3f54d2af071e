//! Looking the whole database over, for `mangahub db check`: what the server's own catalogue says is broken, and what is in the
//! tables. Reads every table once.

use tokio_postgres::Client;

use super::apply;
use super::failure::Failure;
use super::statement::{column, first, number, odd, params, rows};
use crate::journal::StoreId;
use crate::store::{StoreCheck, TABLES, TableCount};

/// Checks and counts.
pub(super) async fn check(client: &Client, store_id: StoreId) -> Result<StoreCheck, Failure> {
    let mut tables = Vec::with_capacity(TABLES.len());
    for table in TABLES {
        tables.push(TableCount { table, rows: one(client, &format!("SELECT count(*) FROM {table}")).await? });
    }
    let parked = tables.iter().find(|count| count.table == "parked_records").map_or(0, |count| count.rows);
    let newest = "SELECT max(number)::bigint FROM schema_migrations";
    let schema_version = u32::try_from(one(client, newest).await?).map_err(|_| odd("schema_migrations"))?;
    let cursors = apply::journals(client).await?;
    Ok(StoreCheck { store_id, schema_version, problems: problems(client).await?, cursors, tables, parked })
}

async fn one(client: &Client, sql: &str) -> Result<u64, Failure> {
    number(&first(client, sql, params![]).await?.ok_or_else(|| odd("no count"))?, 0)
}

/// Indexes that a failed build left unusable (they no longer hold what is unique), and rows whose parents are gone.
async fn problems(client: &Client) -> Result<Vec<String>, Failure> {
    let sql = "SELECT 'index ' || indexrelid::regclass::text || ' is not valid; rebuild it with REINDEX'
               FROM pg_index JOIN pg_class ON pg_class.oid = indrelid
               WHERE NOT indisvalid AND relnamespace = current_schema()::regnamespace
               UNION ALL
               SELECT 'a row of sessions names a row of users that is not there' FROM sessions
               WHERE NOT EXISTS (SELECT 1 FROM users WHERE users.id = sessions.user_id)
               UNION ALL
               SELECT 'a row of refresh_tokens names a row of sessions that is not there' FROM refresh_tokens
               WHERE NOT EXISTS (SELECT 1 FROM sessions WHERE sessions.sid = refresh_tokens.sid)
               LIMIT 20";
    rows(client, sql, params![]).await?.iter().map(|row| column(row, 0)).collect()
}
