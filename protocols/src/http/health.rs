//! Is anybody there: the checks that machines ask all the time. They draw from no bucket and touch nothing but the
//! engine's own word on its health.

use engine::Fault;
use proto::Code;
use serde_json::{Map, Value, json};

use super::problem::Answer;
use super::service::{Exchange, ok};

pub(crate) fn live() -> Answer {
    ok(&json!({"status": "ok"}))
}

pub(crate) fn ready(exchange: &Exchange<'_>) -> Result<Answer, Fault> {
    let health = exchange.shard.engine.health();
    if exchange.shard.is_draining() || exchange.shard.engine.is_draining() {
        return Err(Fault::new(Code::ShuttingDown, "the server is stopping; try another or wait").retry_after_ms(5_000));
    }
    if !health.ready {
        let parts: Vec<String> = health.dependencies.iter().map(|(name, state)| format!("{name}: {state}")).collect();
        return Err(Fault::unavailable(format!("not ready ({})", parts.join(", ")), 1_000));
    }
    let dependencies: Map<String, Value> =
        health.dependencies.iter().map(|(name, state)| ((*name).to_owned(), json!(state))).collect();
    let status = if health.degraded { "degraded" } else { "ready" };
    Ok(ok(&json!({"status": status, "dependencies": dependencies})))
}

pub(crate) fn check_conn() -> Answer {
    ok(&json!({"ok": true, "message": "The server is there."}))
}

pub(crate) fn db_ping(exchange: &Exchange<'_>) -> Result<Answer, Fault> {
    let health = exchange.shard.engine.health();
    let store_is_ok = health.dependencies.iter().any(|(name, state)| *name == "store" && state == "ok");
    if !store_is_ok || !health.ready {
        return Err(Fault::unavailable("the store does not answer", 1_000));
    }
    Ok(ok(&json!({"ok": true})))
}
