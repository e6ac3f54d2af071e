//! A fault as HTTP says it: RFC 9457 `application/problem+json`, one shape for every route, with the headers that belong to
//! the status. It never says more than the fault does, and a fault is the only thing it is made from.

use bytes::Bytes;
use engine::{Extra, Fault};
use http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderName, Response, StatusCode};
use http_body_util::Full;
use proto::Code;
use serde_json::{Map, Value, json};

use crate::http::shapes;

/// What every answer's body is.
pub(crate) type Answer = Response<Full<Bytes>>;

const PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json");
pub(crate) const RATE_LIMIT_LIMIT: HeaderName = HeaderName::from_static("ratelimit-limit");
pub(crate) const RATE_LIMIT_REMAINING: HeaderName = HeaderName::from_static("ratelimit-remaining");
pub(crate) const RATE_LIMIT_RESET: HeaderName = HeaderName::from_static("ratelimit-reset");

/// The answer to a refused request. `path` is what was asked for, without its query.
pub(crate) fn answer(fault: &Fault, path: &str) -> Answer {
    let status = StatusCode::from_u16(fault.code.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = Response::new(Full::new(Bytes::from(body(fault, path))));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, PROBLEM_JSON);
    if status == StatusCode::UNAUTHORIZED {
        // RFC 6750, section 3: a challenge goes with every 401.
        headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"mangahub\""));
    }
    if let Some(wait_s) = wait_s(fault, status) {
        headers.insert(RETRY_AFTER, HeaderValue::from(wait_s));
        if status == StatusCode::TOO_MANY_REQUESTS {
            headers.insert(RATE_LIMIT_REMAINING, HeaderValue::from(0));
            headers.insert(RATE_LIMIT_RESET, HeaderValue::from(wait_s));
        }
    }
    response
}

/// Whole seconds, at least one: what `Retry-After` carries (RFC 9110, section 10.2.3). Every 429 and 503 has one.
fn wait_s(fault: &Fault, status: StatusCode) -> Option<u64> {
    let always = matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE);
    fault.wait_ms().or(always.then_some(1_000)).map(|wait_ms| wait_ms.div_ceil(1_000).max(1))
}

/// The body alone.
pub(crate) fn body(fault: &Fault, path: &str) -> Vec<u8> {
    let mut members = Map::new();
    let mut put = |name: &str, value: Value| members.insert(name.to_owned(), value);
    put("type", json!(type_uri(fault.code)));
    put("title", json!(fault.code.title()));
    put("status", json!(fault.code.http_status()));
    put("detail", json!(fault.detail));
    put("instance", json!(path));
    put("code", json!(fault.code.as_str()));
    put("errors", json!([]));
    // The earlier system's clients read this one.
    put("error", json!(fault.detail));
    match &fault.extra {
        Extra::None => {}
        Extra::RetryAfter { retry_after_ms } => {
            put("retry_after_ms", json!(retry_after_ms));
        }
        Extra::Conflict(state) => {
            put("stored", shapes::value(&shapes::Progress::bare(&state.stored)));
            put("asked_chapter", shapes::value(&state.asked));
            if let Some(token) = state.token {
                put("conflict_token", json!(token.to_string()));
            }
        }
        Extra::State(state) => {
            put("stored", shapes::value(&shapes::Progress::bare(state)));
        }
        Extra::Fields(fields) => {
            let fields = fields.iter().map(|wrong| json!({"field": wrong.field, "message": wrong.message}));
            put("errors", Value::Array(fields.collect()));
        }
        Extra::Scope { required, granted } => {
            put("required", json!(required));
            put("granted", json!(granted));
        }
    }
    Value::Object(members).to_string().into_bytes()
}

/// A URN for the problem's kind (RFC 9457, section 3.1.1, allows any URI; this one needs no web site).
pub(crate) fn type_uri(code: Code) -> String {
    format!("urn:mangahub:problem:{}", code.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_answers_with_the_whole_shape() {
        for code in Code::ALL {
            let body: Value = serde_json::from_slice(&body(&Fault::new(*code, "why"), "/api/x")).unwrap();
            for member in ["type", "title", "status", "detail", "instance", "code", "errors", "error"] {
                assert!(body.get(member).is_some(), "{code}: {member}");
            }
            assert!(body["errors"].is_array() && body["error"].is_string());
            assert_eq!(body["status"], answer(&Fault::new(*code, "why"), "/").status().as_u16());
        }
    }

    #[test]
    fn waiting_is_told_in_whole_seconds() {
        let limited = Fault::new(Code::RateLimited, "slow down").retry_after_ms(1_200);
        let answered = answer(&limited, "/");
        assert_eq!(answered.headers()[RETRY_AFTER], "2");
        assert_eq!(answered.headers()[RATE_LIMIT_REMAINING], "0");
        assert_eq!(answer(&Fault::new(Code::Unavailable, "away"), "/").headers()[RETRY_AFTER], "1");
        assert!(answer(&Fault::new(Code::NotFound, "no"), "/").headers().get(RETRY_AFTER).is_none());
    }

    #[test]
    fn wrong_fields_are_named() {
        let body: Value = serde_json::from_slice(&body(&Fault::field("chapter", "is missing"), "/")).unwrap();
        assert_eq!(body["errors"][0]["field"], "chapter");
    }
}
