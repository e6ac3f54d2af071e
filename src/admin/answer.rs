//! Answers one administration request over a running engine. Nothing here knows where the request came from.

use engine::Health;
use engine::admin::{Admin, SeedRequest};
use engine::boot::Facts;
use engine::fault::Fault;
use proto::Code;
use serde_json::{Value, json};
use storage::store::{ParkedRecord, StoreError};

use crate::admin::{Refusal, Request};
use crate::catalogue::{self, Summary};

/// Users that one request may make: their tokens have to fit the answer.
const SEED_USERS_MAX: u32 = 50_000;

/// Parked records of one answer.
const PARKED_MAX: usize = 10_000;

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        let mut detail = fault.detail.to_string();
        if let engine::fault::Extra::Fields(fields) = &fault.extra {
            for field in fields {
                detail.push_str(&format!("; {}: {}", field.field, field.message));
            }
        }
        Self::new(fault.code, detail)
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        let code = match &error {
            StoreError::NotFound { .. } => Code::NotFound,
            passing if passing.is_passing() => Code::Busy,
            _ => Code::Internal,
        };
        Self::new(code, error.to_string())
    }
}

/// Does what a request asks.
pub(crate) async fn answer(admin: &Admin, facts: &Facts, request: Request) -> Result<Value, Refusal> {
    match request {
        Request::CreateAdmin { username, email, password } => {
            let user = admin.create_admin(&username, &email, &password).await?;
            Ok(json!({"user_id": user, "username": username, "role": "admin"}))
        }
        Request::Promote { identifier } => {
            let user = admin.promote(&identifier).await?;
            Ok(json!({"user_id": user, "role": "admin"}))
        }
        Request::Seed { users, series, token_ttl_s } => seed(admin, users, series, token_ttl_s).await,
        Request::Import { rows } => import(admin, &rows).await,
        Request::Check => check(admin).await,
        Request::Parked { after, rows_max } => {
            let parked = admin.store().parked(after, rows_max.min(PARKED_MAX)).await?;
            Ok(parked.iter().map(shown).collect())
        }
        Request::Retry { id, discard: true } => Ok(json!({"id": id, "discarded": admin.store().unpark(id).await?})),
        Request::Retry { id, discard: false } => {
            let done = admin.retry_parked(id).await?;
            Ok(json!({"id": id, "applied": done}))
        }
        Request::Backlog => {
            let backlog = admin.backlog();
            Ok(json!({
                "durable_lsn": backlog.durable_lsn,
                "stored_lsn": backlog.stored_lsn,
                "parked": backlog.parked,
                "other_nodes": backlog.other_nodes,
                "store_id": admin.store().store_id().to_string(),
            }))
        }
        Request::Stats => stats(admin, facts).await,
        Request::Health => Ok(health(&admin.health())),
    }
}

async fn seed(admin: &Admin, users: u32, series: u32, token_ttl_s: u64) -> Result<Value, Refusal> {
    if users == 0 || users > SEED_USERS_MAX {
        return Err(Refusal::new(
            Code::InvalidInput,
            format!("users is {users}; it must be from 1 to {SEED_USERS_MAX}"),
        ));
    }
    let report = admin.seed(SeedRequest { users, series, token_ttl_s }).await?;
    let users: Vec<Value> = report
        .users
        .iter()
        .map(|seeded| json!({"user_id": seeded.user, "session_id": seeded.session, "token": seeded.token}))
        .collect();
    Ok(json!({"users": users, "series": report.series}))
}

async fn import(admin: &Admin, rows: &[catalogue::RawRow]) -> Result<Value, Refusal> {
    let (mut good, mut bad) = (Vec::with_capacity(rows.len()), Vec::new());
    for row in rows {
        match catalogue::parse(row) {
            Ok(row) => good.push(row),
            Err(problem) => bad.push(problem),
        }
    }
    let mut summary = if good.is_empty() { Summary::default() } else { Summary::from(admin.import(good).await?) };
    summary.reject(bad);
    Ok(json!(summary))
}

async fn check(admin: &Admin) -> Result<Value, Refusal> {
    let check = admin.store().check().await?;
    let tables: serde_json::Map<_, _> =
        check.tables.iter().map(|table| (table.table.to_owned(), json!(table.rows))).collect();
    Ok(json!({
        "store_id": check.store_id.to_string(),
        "schema_version": check.schema_version,
        "problems": check.problems,
        "tables": tables,
        "journals": check.cursors.iter().map(|(journal, _)| journal.to_string()).collect::<Vec<_>>(),
        "parked": check.parked,
    }))
}

fn health(health: &Health) -> Value {
    let status = match (health.ready, health.degraded) {
        (false, _) => "not ready",
        (true, true) => "degraded",
        (true, false) => "ready",
    };
    let parts = || health.dependencies.iter();
    let states: serde_json::Map<_, _> =
        parts().map(|part| (part.name.to_owned(), json!(part.state.as_str()))).collect();
    let details: serde_json::Map<_, _> =
        parts().filter_map(|part| Some((part.name.to_owned(), json!(part.detail.as_ref()?)))).collect();
    json!({"ready": health.ready, "status": status, "dependencies": states, "details": details})
}

async fn stats(admin: &Admin, facts: &Facts) -> Result<Value, Refusal> {
    let backlog = admin.backlog();
    Ok(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "pid": std::process::id(),
        "shards": facts.shards,
        "backend": facts.backend,
        "store": facts.store,
        "users": admin.store().count_users().await?,
        "series": admin.store().load_catalogue().await?.len(),
        "durable_lsn": backlog.durable_lsn,
        "stored_lsn": backlog.stored_lsn,
    }))
}

fn shown(record: &ParkedRecord) -> Value {
    json!({
        "id": record.id,
        "journal": record.journal.to_string(),
        "lsn": record.lsn.0,
        "user_id": record.user,
        "kind": record.kind,
        "bytes": record.payload.len(),
        "error": record.error,
        "parked_at_unix_ms": record.parked_at_unix_ms,
    })
}
