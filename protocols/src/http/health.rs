//! Is anybody there: the checks that machines ask all the time. They draw from no bucket and touch nothing but the
//! engine's own word on its health.

use engine::{Fault, State};
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
        let parts: Vec<String> =
            health.dependencies.iter().map(|part| format!("{}: {}", part.name, part.state.as_str())).collect();
        return Err(Fault::unavailable(format!("not ready ({})", parts.join(", ")), 1_000));
    }
    let parts = health.dependencies.iter();
    let states: Map<String, Value> = parts.map(|part| (part.name.to_owned(), json!(part.state.as_str()))).collect();
    let parts = health.dependencies.iter();
    let details: Map<String, Value> =
        parts.filter_map(|part| Some((part.name.to_owned(), json!(part.detail.as_ref()?)))).collect();
    let status = if health.degraded { "degraded" } else { "ready" };
    Ok(ok(&json!({"status": status, "dependencies": states, "details": details})))
}

pub(crate) fn check_conn() -> Answer {
    ok(&json!({"ok": true, "message": "The server is there."}))
}

pub(crate) fn db_ping(exchange: &Exchange<'_>) -> Result<Answer, Fault> {
    let health = exchange.shard.engine.health();
    let answers = health.dependencies.iter().any(|part| part.name == "store" && part.state != State::Down);
    if !answers || !health.ready {
        return Err(Fault::unavailable("the store does not answer", 1_000));
    }
    Ok(ok(&json!({"ok": true})))
}
