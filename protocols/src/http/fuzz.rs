//! The door's parsers for whoever throws bytes at them: the target, query and body of a request, read by everything that reads
//! them in service, without a server. It promises nothing but to call what is called there; for tests and fuzzers only.
//!
//! An input is three parts, the first two ended by a line feed: the target, the content type, the body.

use bytes::Bytes;
use engine::{Extra, Fault};
use futures_util::FutureExt;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, Uri};
use http_body_util::Full;
use proto::{Chapter, ConflictToken, DeviceId, ReadingStatus};

use super::input::{self, Fields, Query, read, unescape};
use super::{problem, routes};

const BODY_BYTES_MAX: usize = 64 << 10;

/// Reads one request as the door does.
///
/// # Panics
/// When something that must hold for any request does not.
#[cfg_attr(not(feature = "fuzz"), allow(unreachable_pub, reason = "reached from outside with the feature"))]
pub fn check_request(bytes: &[u8]) {
    let mut parts = bytes.splitn(3, |byte| *byte == b'\n');
    let mut next = || parts.next().unwrap_or_default();
    let (wanted, content_type, body) = (next(), next(), next());
    if let Ok(uri) = Uri::try_from(wanted) {
        target(uri.path());
        query(&Query::new(uri.query()));
    }
    let mut headers = HeaderMap::new();
    if let Ok(value) = HeaderValue::from_bytes(content_type)
        && !content_type.is_empty()
    {
        headers.insert(CONTENT_TYPE, value);
    }
    for optional in [false, true] {
        let whole = Full::new(Bytes::copy_from_slice(body));
        let room = input::Room { bytes_max: BODY_BYTES_MAX, held: std::rc::Rc::default() };
        let read = input::object(&headers, whole, room, optional).now_or_never();
        match read.expect("a body that is there needs no waiting") {
            Ok(fields) => object(fields, body),
            Err(fault) => refused(&fault),
        }
    }
}

fn target(path: &str) {
    let Some((place, parameter)) = routes::find(path) else { return };
    assert!(path.contains(parameter), "a parameter comes from the path");
    assert!(!parameter.contains('/') && place.allow.ends_with("OPTIONS"));
    for method in ["GET", "HEAD", "PUT", "POST", "PATCH", "DELETE", "OPTIONS", ""] {
        let route = place.route(method);
        assert!(route.is_none_or(|route| route.method == method || method == "HEAD"));
    }
    let plain = unescape(parameter, false);
    assert!(plain.len() <= 3 * parameter.len(), "a replacement character for a byte is the worst");
    assert!(parameter.contains('%') || plain == parameter);
    let _ = (plain.parse::<DeviceId>(), plain.parse::<i64>());
}

fn query(query: &Query<'_>) {
    if let Ok((page, page_size)) = query.page() {
        assert!((1..=1_000_000).contains(&page) && (1..=100).contains(&page_size));
    }
    for name in ["keep_current", "read", "force"] {
        query.flag(name).err().iter().for_each(refused);
    }
    query.number("limit", 3, 9, 5).map_or_else(|fault| refused(&fault), |number| assert!((3..=9).contains(&number)));
    for name in ["cursor", "manga_id", "status", "view", "q", "sort", ""] {
        assert!(query.get(name).is_none_or(|value| !value.is_empty()), "empty counts as absent");
    }
}

/// Every field that any route reads, by every reader.
fn object(mut fields: Fields, body: &[u8]) {
    assert!(body.is_empty() || body.len() <= BODY_BYTES_MAX);
    let chapter = fields.required("chapter", read::chapter);
    assert!(chapter.is_none_or(|chapter| chapter <= Chapter::MAX));
    let _ = fields.optional("page", read::whole::<u32>);
    let _ = fields.optional("device_seq", read::whole::<u64>);
    let _ = fields.optional("status", read::spelled::<ReadingStatus>);
    let _ = fields.optional("device_id", read::spelled::<DeviceId>);
    let _ = fields.optional("conflict_token", read::spelled::<ConflictToken>);
    let _ = fields.optional("force", read::flag);
    let _ = fields.optional("manga_id", read::series);
    for name in ["username", "email", "password", "refresh_token"] {
        let _ = fields.optional(name, read::text);
    }
    if let Err(fault) = fields.finish(chapter) {
        assert!(matches!(&fault.extra, Extra::Fields(wrong) if !wrong.is_empty()), "the wrong fields are named");
        refused(&fault);
    }
}

/// What a refusal must be: the client's fault, and a body that is one JSON object.
fn refused(fault: &Fault) {
    assert!((400..500).contains(&fault.code.http_status()), "{fault:?}");
    let body = problem::body(fault, "/api/progress/%ff");
    assert!(body.len() < 64 << 10, "a refusal is short, whatever was sent: {} bytes", body.len());
    assert!(serde_json::from_slice::<serde_json::Map<_, _>>(&body).is_ok());
}

#[cfg(test)]
#[path = "../../../fuzz/driver.rs"]
mod driver;

#[cfg(test)]
#[path = "../../../fuzz/requests.rs"]
mod requests;

#[cfg(test)]
mod tests {
    use super::{check_request, driver, requests};

    #[test]
    fn the_corpus_of_requests_holds() {
        driver::replay("http", check_request);
    }

    #[test]
    fn fuzz_http_parsing() {
        driver::run("http", 20, |dice, corpus| requests::parts(dice, corpus).to_bytes(), check_request);
    }
}
