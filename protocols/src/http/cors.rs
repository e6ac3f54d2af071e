//! Which web pages may call: an exact list of origins, empty unless configured, and never with credentials. Without a match
//! nothing is said, and the browser keeps the answer from the page.

use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD, ALLOW, ORIGIN, VARY,
};
use http::{HeaderMap, HeaderValue};

use super::problem::Answer;
use super::service::no_content;

const EXPOSED: HeaderValue = HeaderValue::from_static(
    "ETag, Retry-After, RateLimit-Limit, RateLimit-Remaining, RateLimit-Reset, X-Request-Id, Location, Preference-Applied",
);
const ALLOWED: HeaderValue = HeaderValue::from_static(
    "Authorization, Content-Type, Idempotency-Key, If-None-Match, Prefer, X-API-Key, X-Request-Id",
);

fn listed<'h>(origins: &[String], request: &'h HeaderMap) -> Option<&'h HeaderValue> {
    request.get(ORIGIN).filter(|origin| origins.iter().any(|listed| listed.as_bytes() == origin.as_bytes()))
}

/// Marks an answer as readable by the page that asked, when its origin is on the list.
pub(crate) fn allow(origins: &[String], request: &HeaderMap, answer: &mut HeaderMap) {
    if origins.is_empty() {
        return;
    }
    // The answer depends on the origin even when it is not listed: caches must know.
    answer.append(VARY, HeaderValue::from_static("Origin"));
    if let Some(origin) = listed(origins, request) {
        answer.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        answer.insert(ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
    }
}

/// The answer to OPTIONS: what the path takes, and to a listed page also what it may send.
pub(crate) fn preflight(origins: &[String], request: &HeaderMap, methods: &str) -> Answer {
    let mut answer = no_content();
    let Ok(methods) = HeaderValue::try_from(methods) else { return answer };
    let headers = answer.headers_mut();
    if listed(origins, request).is_some() && request.contains_key(ACCESS_CONTROL_REQUEST_METHOD) {
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, methods.clone());
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, ALLOWED);
        headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
    }
    headers.insert(ALLOW, methods);
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_listed_origins_hear_that_they_may() {
        let origins = ["https://reader.example".to_owned()];
        let from = |origin| HeaderMap::from_iter([(ORIGIN, HeaderValue::from_static(origin))]);
        let mut answer = HeaderMap::new();
        allow(&origins, &from("https://reader.example"), &mut answer);
        assert_eq!(answer[ACCESS_CONTROL_ALLOW_ORIGIN], "https://reader.example");
        let mut answer = HeaderMap::new();
        allow(&origins, &from("https://reader.example.evil"), &mut answer);
        assert!(!answer.contains_key(ACCESS_CONTROL_ALLOW_ORIGIN));
        assert_eq!(answer[VARY], "Origin");
    }
}
