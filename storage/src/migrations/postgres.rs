//! The runner for Postgres: each step is a transaction under an advisory lock that ends with it, so two nodes that start at once
//! run every step once, and a pooler in between keeps nothing.

use tokio_postgres::Client;
use tokio_postgres::types::Type;

use super::{Migrated, Migration, MigrationError};

/// Nobody else's lock in the same database, as far as chance allows: "mangahub" in ASCII.
const LOCK: i64 = i64::from_be_bytes(*b"mangahub");

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
    let tx = client.transaction().await?;
    tx.batch_execute(&format!("SELECT pg_advisory_xact_lock({LOCK})")).await?;
    tx.batch_execute(
        "CREATE TABLE IF NOT EXISTS schema_migrations (
             number integer NOT NULL PRIMARY KEY, name text NOT NULL, checksum text NOT NULL, applied_at bigint NOT NULL
         )",
    )
    .await?;
    let from = newest(tx.client()).await?;
    tx.commit().await?;
    Ok(from)
}

async fn newest(client: &Client) -> Result<u32, tokio_postgres::Error> {
    let row = client.query_typed_one("SELECT coalesce(max(number), 0) FROM schema_migrations", &[]).await?;
    Ok(row.try_get::<_, i32>(0)?.unsigned_abs())
}

async fn step(client: &mut Client, migration: &Migration, now_unix_ms: u64) -> Result<(), MigrationError> {
    let Migration { number, name, sql } = *migration;
    let failed = |error: tokio_postgres::Error| MigrationError::Failed { number, name, reason: reason(&error) };
    let tx = client.transaction().await.map_err(failed)?;
    tx.batch_execute(&format!("SELECT pg_advisory_xact_lock({LOCK})")).await.map_err(failed)?;
    let number_column = i32::try_from(number).unwrap_or(i32::MAX);
    let select = "SELECT checksum FROM schema_migrations WHERE number = $1";
    let found = tx.query_typed(select, &[(&number_column, Type::INT4)]).await.map_err(failed)?;
    let expected = migration.checksum();
    if let Some(row) = found.first() {
        let found: String = row.try_get(0).map_err(failed)?;
        if found == expected {
            return Ok(());
        }
        return Err(MigrationError::Edited { number, name: name.into(), found, expected });
    }
    let later = newest(tx.client()).await.map_err(failed)?;
    if later > number {
        return Err(MigrationError::Gap { missing: number, later });
    }
    tx.batch_execute(sql).await.map_err(failed)?;
    let insert = "INSERT INTO schema_migrations (number, name, checksum, applied_at) VALUES ($1, $2, $3, $4)";
    let now = i64::try_from(now_unix_ms).unwrap_or(i64::MAX);
    let values: &[(&(dyn tokio_postgres::types::ToSql + Sync), Type)] =
        &[(&number_column, Type::INT4), (&name, Type::TEXT), (&expected, Type::TEXT), (&now, Type::INT8)];
    tx.execute_typed(insert, values).await.map_err(failed)?;
    tx.commit().await.map_err(failed)
}

/// What the database said, not only that it said something.
fn reason(error: &tokio_postgres::Error) -> String {
    match (error.as_db_error(), std::error::Error::source(error)) {
        (Some(said), _) => format!("{} (SQLSTATE {})", said.message(), said.code().code()),
        (None, Some(source)) => format!("{error}: {source}"),
        (None, None) => error.to_string(),
    }
}
