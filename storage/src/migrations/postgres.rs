//! The runner for Postgres: each step is a transaction that begins by writing down that it is done. Whoever comes second waits for
//! that row, so several nodes that start at once run every step once; no lock is needed that a pooler or a database that only
//! speaks like Postgres may not have.

use tokio_postgres::Client;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;

use super::{Migrated, Migration, MigrationError};

/// Brings a Postgres database to the newest of `migrations`.
pub async fn run_postgres(
    client: &mut Client,
    migrations: &[Migration],
    now_unix_ms: u64,
) -> Result<Migrated, MigrationError> {
    let from = prepare(client).await.map_err(|error| MigrationError::Unreadable(reason(&error)))?;
    let known = migrations.last().map_or(0, |last| last.number);
    if from > known {
        return Err(MigrationError::Newer { found: from, known });
    }
    for migration in migrations {
        step(client, migration, now_unix_ms).await?;
    }
    Ok(Migrated { from, to: known })
}

/// The table of migrations, and the newest in it.
async fn prepare(client: &mut Client) -> Result<u32, tokio_postgres::Error> {
    let wanted = "CREATE TABLE IF NOT EXISTS schema_migrations (
             number integer NOT NULL PRIMARY KEY, name text NOT NULL, checksum text NOT NULL, applied_at bigint NOT NULL
         )";
    // Another node may make it at the same moment. Who of them is told so, and of which part of it (the table, its type, an index
    // of the system's), depends on where they meet; by then it is there.
    const MADE_BY_ANOTHER: [SqlState; 3] =
        [SqlState::DUPLICATE_TABLE, SqlState::DUPLICATE_OBJECT, SqlState::UNIQUE_VIOLATION];
    match client.batch_execute(wanted).await {
        Err(error) if error.code().is_some_and(|code| MADE_BY_ANOTHER.contains(code)) => {}
        made => made?,
    }
    newest(client).await
}

async fn newest(client: &Client) -> Result<u32, tokio_postgres::Error> {
    let row = client.query_typed_one("SELECT coalesce(max(number), 0) FROM schema_migrations", &[]).await?;
    Ok(row.try_get::<_, i32>(0)?.unsigned_abs())
}

async fn step(client: &mut Client, migration: &Migration, now_unix_ms: u64) -> Result<(), MigrationError> {
    let Migration { number, name, sql } = *migration;
    let failed = |error: tokio_postgres::Error| MigrationError::Failed { number, name, reason: reason(&error) };
    let number_column = i32::try_from(number).unwrap_or(i32::MAX);
    let expected = migration.checksum();
    if let Some(found) = checksum(client, number_column).await.map_err(failed)? {
        return as_it_ran(migration, found, expected);
    }
    let tx = client.transaction().await.map_err(failed)?;
    let insert = "INSERT INTO schema_migrations (number, name, checksum, applied_at) VALUES ($1, $2, $3, $4)
                  ON CONFLICT (number) DO NOTHING";
    let now = i64::try_from(now_unix_ms).unwrap_or(i64::MAX);
    let values: &[(&(dyn tokio_postgres::types::ToSql + Sync), Type)] =
        &[(&number_column, Type::INT4), (&name, Type::TEXT), (&expected, Type::TEXT), (&now, Type::INT8)];
    if tx.execute_typed(insert, values).await.map_err(failed)? == 0 {
        // Another node has done it while this one waited for the row.
        tx.rollback().await.map_err(failed)?;
        let found = checksum(client, number_column).await.map_err(failed)?;
        return as_it_ran(migration, found.unwrap_or_default(), expected);
    }
    let later = newest(tx.client()).await.map_err(failed)?;
    if later > number {
        return Err(MigrationError::Gap { missing: number, later });
    }
    tx.batch_execute(sql).await.map_err(failed)?;
    tx.commit().await.map_err(failed)
}

async fn checksum(client: &Client, number: i32) -> Result<Option<String>, tokio_postgres::Error> {
    let select = "SELECT checksum FROM schema_migrations WHERE number = $1";
    let row = client.query_typed_opt(select, &[(&number, Type::INT4)]).await?;
    row.map(|row| row.try_get(0)).transpose()
}

fn as_it_ran(migration: &Migration, found: String, expected: String) -> Result<(), MigrationError> {
    let Migration { number, name, .. } = *migration;
    match found == expected {
        true => Ok(()),
        false => Err(MigrationError::Edited { number, name: name.into(), found, expected }),
    }
}

/// What the database said, not only that it said something.
fn reason(error: &tokio_postgres::Error) -> String {
    match (error.as_db_error(), std::error::Error::source(error)) {
        (Some(said), _) => format!("{} (SQLSTATE {})", said.message(), said.code().code()),
        (None, Some(source)) => format!("{error}: {source}"),
        (None, None) => error.to_string(),
    }
}
