//! From a request to its answer: request id, Host and CORS checks, route, sign-in, scope, rate, then one call of a handler.
//! Everything a request can be refused for is refused here in the one problem shape; no query string reaches a log.

use std::borrow::Cow;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use engine::{Caller, Fault, Grant, Peer, RateView};
use http::header::{ALLOW, AUTHORIZATION, CONNECTION, CONTENT_TYPE, HOST, LOCATION, USER_AGENT};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body_util::Full;
use hyper::body::Incoming;
use proto::{Code, MangaId};
use serde::Serialize;

use super::connection::Visit;
use super::input::{self, Fields, Query, unescape};
use super::problem::{self, Answer};
use super::routes::{self, Access, Call, Route, Takes};
use super::{accounts, catalogue, cors, health, openapi, reading, shapes};
use crate::admission::no_place_fault;
use crate::shard::Shard;

pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const API_KEY: HeaderName = HeaderName::from_static("x-api-key");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const APPLICATION_JSON: HeaderValue = HeaderValue::from_static("application/json");

/// One request, as its handler sees it.
pub(crate) struct Exchange<'a> {
    pub(crate) shard: &'a Shard,
    pub(crate) headers: &'a HeaderMap,
    pub(crate) request_id: &'a HeaderValue,
    pub(crate) query: Query<'a>,
    pub(crate) grant: Option<Arc<Grant>>,
    parameter: Cow<'a, str>,
    address: std::net::IpAddr,
}

impl Exchange<'_> {
    /// Who asks; routes that need no sign-in do not have one.
    pub(crate) fn grant(&self) -> Result<&Arc<Grant>, Fault> {
        self.grant.as_ref().ok_or_else(|| Fault::new(Code::Unauthenticated, "send a token: Authorization: Bearer ..."))
    }

    /// The client, for accounts.
    pub(crate) fn peer(&self) -> Peer {
        const USER_AGENT_CHARS_MAX: usize = 200;
        let text = self.headers.get(USER_AGENT).and_then(|value| value.to_str().ok());
        let user_agent = text.map(|text| text.chars().take(USER_AGENT_CHARS_MAX).collect());
        Peer { address: self.address, user_agent }
    }

    /// The series of the path, by id or slug.
    pub(crate) fn series(&self) -> Result<MangaId, Fault> {
        self.find(&self.parameter)
    }

    /// A series by id or slug.
    pub(crate) fn find(&self, id_or_slug: &str) -> Result<MangaId, Fault> {
        let found = self.shard.engine.catalogue().find(id_or_slug).map(|series| series.id);
        found.ok_or_else(|| {
            let shown: String = id_or_slug.chars().take(80).collect();
            Fault::not_found(format!("there is no series {shown:?}"))
        })
    }

    /// The path's parameter as something with a spelling of its own.
    pub(crate) fn spelled<T>(&self, field: &'static str) -> Result<T, Fault>
    where
        T: std::str::FromStr,
        T::Err: std::fmt::Display,
    {
        self.parameter.parse().map_err(|problem: T::Err| Fault::field(field, problem.to_string()))
    }

    /// The engine answered with something that does not belong to what was asked: our defect, logged, not shown.
    pub(crate) fn odd(&self, expected: StatusCode, got: &impl std::fmt::Debug) -> Fault {
        tracing::error!(%expected, ?got, "the engine's answer does not fit the question");
        Fault::new(Code::Internal, "something went wrong on our side")
    }
}

/// A JSON answer.
pub(crate) fn json(status: StatusCode, body: Vec<u8>) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(body)));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, APPLICATION_JSON);
    answer
}

/// 200 with a shape.
pub(crate) fn ok<T: Serialize>(shape: &T) -> Answer {
    json(StatusCode::OK, shapes::bytes(shape))
}

/// 201 with a shape and where it is.
pub(crate) fn created<T: Serialize>(shape: &T, location: Option<&str>) -> Answer {
    let mut answer = json(StatusCode::CREATED, shapes::bytes(shape));
    let location = location.and_then(|path| HeaderValue::try_from(path).ok());
    answer.headers_mut().extend(location.map(|location| (LOCATION, location)));
    answer
}

/// 204.
pub(crate) fn no_content() -> Answer {
    let mut answer = Response::new(Full::default());
    *answer.status_mut() = StatusCode::NO_CONTENT;
    answer
}

/// Serves one request; never fails, whatever came.
pub(crate) async fn serve(visit: Rc<Visit>, request: Request<Incoming>) -> Result<Answer, std::convert::Infallible> {
    let (parts, body) = request.into_parts();
    let id = request_id(&visit, &parts.headers);
    let mut answer = match reply(&visit, &parts, &id, body).await {
        Ok(answer) => answer,
        Err(fault) => problem::answer(&fault, parts.uri.path()),
    };
    cors::allow(&visit.shard.plan.config.cors_origins, &parts.headers, answer.headers_mut());
    if parts.method == Method::HEAD {
        *answer.body_mut() = Full::default();
    }
    tracing::debug!(
        method = %parts.method, path = parts.uri.path(), status = answer.status().as_u16(),
        request_id = id.to_str().unwrap_or_default(), "request"
    );
    if visit.turned_away && parts.version <= Version::HTTP_11 {
        answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    visit.count(answer.status());
    answer.headers_mut().insert(REQUEST_ID, id);
    Ok(answer)
}

/// The client's own id, if it is one, else a new one.
fn request_id(visit: &Visit, headers: &HeaderMap) -> HeaderValue {
    let given = headers.get(REQUEST_ID).filter(|value| {
        let plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        (1..=64).contains(&value.len()) && value.as_bytes().iter().all(plain)
    });
    given.cloned().unwrap_or_else(|| visit.new_request_id())
}

async fn reply(visit: &Rc<Visit>, parts: &Parts, request_id: &HeaderValue, body: Incoming) -> Result<Answer, Fault> {
    let shard = &visit.shard;
    if visit.turned_away {
        return Err(no_place_fault());
    }
    check_host(visit, parts)?;
    let path = parts.uri.path();
    let Some((place, parameter)) = routes::find(path) else {
        return Err(Fault::not_found("there is nothing at this path"));
    };
    if parts.method == Method::OPTIONS {
        return Ok(cors::preflight(&shard.plan.config.cors_origins, &parts.headers, &place.allow));
    }
    let Some(route) = place.route(parts.method.as_str()) else {
        let fault = Fault::new(Code::MethodNotAllowed, format!("this path takes {}", place.allow));
        let mut answer = problem::answer(&fault, path);
        let allow = HeaderValue::try_from(place.allow.as_str()).ok();
        answer.headers_mut().extend(allow.map(|allow| (ALLOW, allow)));
        return Ok(answer);
    };
    let address = client_address(visit, &parts.headers);
    let mut exchange = Exchange {
        shard,
        headers: &parts.headers,
        request_id,
        query: Query::new(parts.uri.query()),
        grant: None,
        parameter: unescape(parameter, false),
        address,
    };
    let rate = match admit(&mut exchange, route).await {
        Ok(rate) => rate,
        Err(fault) => {
            let mut answer = problem::answer(&fault, path);
            // A shard that has admitted nobody yet does not know it.
            if fault.code == Code::RateLimited && shard.api_burst.get() > 0 {
                answer.headers_mut().insert(problem::RATE_LIMIT_LIMIT, HeaderValue::from(shard.api_burst.get()));
            }
            return Ok(answer);
        }
    };
    let mut answer = match require(&exchange, route) {
        Ok(()) => call(&exchange, route, body).await,
        Err(fault) => Err(fault),
    }
    .unwrap_or_else(|fault| problem::answer(&fault, path));
    if let Some(rate) = rate {
        show_rate(rate, answer.headers_mut());
    }
    Ok(answer)
}

/// Finds out who asks and draws from their bucket: the user's when the token is good, else the address's. Health checks
/// draw from none.
async fn admit(exchange: &mut Exchange<'_>, route: &Route) -> Result<Option<RateView>, Fault> {
    if matches!(route.call, Call::Live | Call::Ready | Call::CheckConn | Call::DbPing) {
        return Ok(None);
    }
    let engine = &exchange.shard.engine;
    let signed_in = match (bearer(exchange.headers), route.access) {
        (Ok(None), _) | (_, Access::Open) => Ok(None),
        (Err(fault), _) => Err(fault),
        (Ok(Some(token)), _) => engine.authorize(token).await.map(Some),
    };
    let peer = Peer { address: exchange.address, user_agent: None };
    let rate = match &signed_in {
        Ok(Some(grant)) => engine.admit(Caller::User(grant.user)),
        _ => engine.admit(Caller::Peer(&peer)),
    };
    let rate = rate?;
    exchange.shard.api_burst.set(rate.limit);
    exchange.grant = signed_in?;
    Ok(Some(rate))
}

/// The token of an `Authorization: Bearer` header (RFC 6750, section 2.1).
fn bearer(headers: &HeaderMap) -> Result<Option<&str>, Fault> {
    if headers.contains_key(API_KEY) {
        return Err(Fault::new(
            Code::NotImplemented,
            "API keys are not available in this version; sign in for a token",
        ));
    }
    let Some(value) = headers.get(AUTHORIZATION) else { return Ok(None) };
    let text = value.to_str().unwrap_or_default();
    match text.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => Ok(Some(token.trim())),
        _ => Err(Fault::new(Code::Unauthenticated, "the Authorization header must be: Bearer, a space, the token")),
    }
}

fn require(exchange: &Exchange<'_>, route: &Route) -> Result<(), Fault> {
    match route.access {
        Access::Open => Ok(()),
        Access::Catalogue if !exchange.shard.plan.config.catalogue_require_auth => Ok(()),
        Access::Catalogue => exchange.grant()?.require("read:manga"),
        Access::SignedIn => exchange.grant().map(|_| ()),
        Access::Scope(scope) => exchange.grant()?.require(scope),
    }
}

async fn call(exchange: &Exchange<'_>, route: &Route, body: Incoming) -> Result<Answer, Fault> {
    let fields = match route.takes {
        _ if route.call == Call::NotYet => None,
        Takes::Nothing => None,
        Takes::Object => Some(read_body(exchange, body, false).await?),
        Takes::OptionalObject => Some(read_body(exchange, body, true).await?),
    };
    match (route.call, fields) {
        (Call::Register, Some(fields)) => accounts::register(exchange, fields).await,
        (Call::Login, Some(fields)) => accounts::login(exchange, fields).await,
        (Call::Refresh, Some(fields)) => accounts::refresh(exchange, fields).await,
        (Call::Revoke, Some(fields)) => accounts::revoke(exchange, fields).await,
        (Call::Sessions, _) => accounts::sessions(exchange).await,
        (Call::EndSessions, _) => accounts::end_sessions(exchange).await,
        (Call::EndSession, _) => accounts::end_session(exchange).await,
        (Call::Devices, _) => accounts::devices(exchange).await,
        (Call::RemoveDevice, _) => accounts::remove_device(exchange).await,
        (Call::History, _) => reading::history(exchange).await,
        (Call::Progress, _) => reading::progress(exchange).await,
        (Call::SetProgress, Some(fields)) => reading::set_progress(exchange, fields).await,
        (Call::DeleteProgress, _) => reading::delete_progress(exchange).await,
        (Call::Library, _) => reading::library(exchange).await,
        (Call::AddToLibrary, Some(fields)) => reading::add_to_library(exchange, fields).await,
        (Call::SetStatus, Some(fields)) => reading::set_status(exchange, fields).await,
        (Call::RemoveFromLibrary, _) => reading::remove_from_library(exchange).await,
        (Call::MangaList, _) => catalogue::list(exchange),
        (Call::Manga, _) => catalogue::one(exchange).await,
        (Call::Live, _) => Ok(health::live()),
        (Call::Ready, _) => health::ready(exchange),
        (Call::CheckConn, _) => Ok(health::check_conn()),
        (Call::DbPing, _) => health::db_ping(exchange),
        (Call::OpenApi, _) => Ok(document()),
        (Call::NotYet, _) => Err(Fault::new(Code::NotImplemented, "this is not available in this version")),
        (_, None) => Err(Fault::new(Code::InvalidInput, "the request needs a body")),
    }
}

fn document() -> Answer {
    let mut answer = Response::new(Full::new(openapi::DOCUMENT.clone()));
    answer.headers_mut().insert(CONTENT_TYPE, APPLICATION_JSON);
    answer
}

/// A body that trickles in is given up after the idle time.
async fn read_body(exchange: &Exchange<'_>, body: Incoming, optional: bool) -> Result<Fields, Fault> {
    let limits = &exchange.shard.plan.config.limits;
    let patience = std::time::Duration::from_millis(limits.http_idle_timeout_ms);
    let room =
        input::Room { bytes_max: limits.http_body_bytes_max, held: std::rc::Rc::clone(&exchange.shard.body_bytes) };
    let reading = input::object(exchange.headers, body, room, optional);
    match runtime::timeout(patience, reading).await {
        Ok(fields) => fields,
        Err(runtime::Elapsed) => Err(Fault::new(Code::IdleTimeout, "the body did not arrive in time")),
    }
}

fn show_rate(rate: RateView, headers: &mut HeaderMap) {
    headers.insert(problem::RATE_LIMIT_LIMIT, HeaderValue::from(rate.limit));
    headers.insert(problem::RATE_LIMIT_REMAINING, HeaderValue::from(rate.remaining));
    headers.insert(problem::RATE_LIMIT_RESET, HeaderValue::from(rate.reset_s));
}

/// On loopback only loopback names are served, so that a web page cannot reach this server through a name of its own
/// (DNS rebinding). A trusted proxy has checked its own names.
fn check_host(visit: &Visit, parts: &Parts) -> Result<(), Fault> {
    if parts.headers.get_all(HOST).iter().nth(1).is_some() {
        // RFC 9112, section 3.2: which of them a proxy in front went by, nobody knows.
        return Err(Fault::new(Code::InvalidInput, "there is more than one Host header"));
    }
    let named = parts.uri.authority().map(http::uri::Authority::as_str);
    let named = named.or_else(|| parts.headers.get(HOST).and_then(|value| value.to_str().ok()));
    let Some(named) = named else {
        return Err(Fault::new(Code::InvalidInput, "the Host header is missing"));
    };
    if !visit.on_loopback || visit.from_proxy || is_loopback_name(named) {
        return Ok(());
    }
    Err(Fault::new(Code::Forbidden, "this server is served under loopback names only (localhost, 127.0.0.1, [::1])"))
}

/// Whether `host[:port]` names this machine to itself.
pub(crate) fn is_loopback_name(named: &str) -> bool {
    let host = match named.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => named.split(':').next().unwrap_or_default(),
    };
    let name = host.strip_suffix('.').unwrap_or(host);
    name.eq_ignore_ascii_case("localhost")
        || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// The client behind trusted proxies: the last forwarded address that is not one of them.
fn client_address(visit: &Visit, headers: &HeaderMap) -> std::net::IpAddr {
    if !visit.from_proxy {
        return visit.peer;
    }
    let trusted = &visit.shard.plan.config.trusted_proxies;
    let lists = headers.get_all(FORWARDED_FOR).iter().filter_map(|value| value.to_str().ok());
    let all: Vec<&str> = lists.flat_map(|list| list.split(',')).map(str::trim).collect();
    let addresses = all.iter().rev().map_while(|text| text.parse::<std::net::IpAddr>().ok());
    let mut client = visit.peer;
    for address in addresses {
        client = address;
        if !trusted.contains(&address) {
            break;
        }
    }
    client
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_names_are_loopback() {
        for yes in ["localhost", "LOCALHOST:8084", "127.0.0.1:8084", "127.9.9.9", "[::1]:8084", "localhost."] {
            assert!(is_loopback_name(yes), "{yes}");
        }
        for no in ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:8084", "", "10.0.0.1", "[fe80::1]"]
        {
            assert!(!is_loopback_name(no), "{no}");
        }
    }

    #[test]
    fn bearer_headers_are_read_strictly() {
        let headers = |value| HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::from_static(value))]);
        assert_eq!(bearer(&headers("Bearer abc")).unwrap(), Some("abc"));
        assert_eq!(bearer(&headers("bearer abc")).unwrap(), Some("abc"));
        assert!(bearer(&headers("Basic abc")).is_err());
        assert!(bearer(&headers("abc")).is_err());
        assert_eq!(bearer(&HeaderMap::new()).unwrap(), None);
    }
}
