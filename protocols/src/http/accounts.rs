//! Accounts over HTTP: registering, signing in and out, sessions and devices. Reads the request's fields, calls the engine
//! once, and shapes its answer; every check of what a name or password may be is the engine's.

use engine::accounts::Identifier;
use engine::{Command, Fault, LoginRequest, Query, RegisterRequest, View};
use http::StatusCode;
use proto::{DeviceId, SessionId};
use serde_json::json;

use super::input::{Fields, read};
use super::problem::Answer;
use super::service::{Exchange, created, no_content, ok};
use super::shapes;

pub(crate) async fn register(exchange: &Exchange<'_>, mut body: Fields) -> Result<Answer, Fault> {
    let username = body.required("username", read::text);
    let email = body.required("email", read::text);
    let password = body.required("password", read::text);
    let invite = body.optional("invite", read::text);
    let all = username.zip(email).zip(password);
    let ((username, email), password) = body.finish(all)?;
    let request = RegisterRequest { username, email, password, invite };
    let made = exchange.shard.engine.register(request, &exchange.peer()).await?;
    Ok(created(&shapes::Account::from(made), None))
}

pub(crate) async fn login(exchange: &Exchange<'_>, mut body: Fields) -> Result<Answer, Fault> {
    let username = body.optional("username", read::text);
    let email = body.optional("email", read::text);
    let password = body.required("password", read::text);
    let identifier = username.map(Identifier::Username).or(email.map(Identifier::Email));
    if identifier.is_none() {
        body.refuse("username", "is missing (or give email)");
    }
    let (identifier, password) = body.finish(identifier.zip(password))?;
    let request = LoginRequest { identifier, password };
    let signed_in = exchange.shard.engine.login(request, &exchange.peer()).await?;
    Ok(secret(ok(&shapes::Tokens::from(signed_in))))
}

pub(crate) async fn refresh(exchange: &Exchange<'_>, mut body: Fields) -> Result<Answer, Fault> {
    let token = body.required("refresh_token", read::text);
    let token = body.finish(token)?;
    let signed_in = exchange.shard.engine.refresh(&token, &exchange.peer()).await?;
    Ok(secret(ok(&shapes::Tokens::from(signed_in))))
}

pub(crate) async fn revoke(exchange: &Exchange<'_>, mut body: Fields) -> Result<Answer, Fault> {
    let token = body.required("refresh_token", read::text);
    let token = body.finish(token)?;
    exchange.shard.engine.revoke(&token).await?;
    Ok(ok(&json!({"message": "The session has ended."})))
}

/// RFC 6749, section 5.1: answers with tokens are not kept by caches.
fn secret(mut answer: Answer) -> Answer {
    answer.headers_mut().insert(http::header::CACHE_CONTROL, http::HeaderValue::from_static("no-store"));
    answer
}

pub(crate) async fn sessions(exchange: &Exchange<'_>) -> Result<Answer, Fault> {
    let sessions = exchange.shard.engine.sessions(exchange.grant()?).await?;
    Ok(ok(&shapes::Items::all(sessions.into_iter().map(shapes::Session::from).collect())))
}

pub(crate) async fn end_sessions(exchange: &Exchange<'_>) -> Result<Answer, Fault> {
    let keep_current = exchange.query.flag("keep_current")?;
    let ended = exchange.shard.engine.revoke_sessions(exchange.grant()?, keep_current).await?;
    Ok(ok(&json!({"ended": ended})))
}

pub(crate) async fn end_session(exchange: &Exchange<'_>) -> Result<Answer, Fault> {
    let session: SessionId = exchange.spelled("session_id")?;
    exchange.shard.engine.revoke_session(exchange.grant()?, session).await?;
    Ok(no_content())
}

pub(crate) async fn devices(exchange: &Exchange<'_>) -> Result<Answer, Fault> {
    match exchange.shard.engine.query(exchange.grant()?, Query::Devices).await? {
        View::Devices(devices) => Ok(ok(&shapes::Items::all(devices.into_iter().map(shapes::Device::from).collect()))),
        other => Err(exchange.odd(StatusCode::OK, &other)),
    }
}

pub(crate) async fn remove_device(exchange: &Exchange<'_>) -> Result<Answer, Fault> {
    let device: DeviceId = exchange.spelled("device_id")?;
    exchange.shard.engine.command(exchange.grant()?, Command::RemoveDevice { device }).await?;
    Ok(no_content())
}
