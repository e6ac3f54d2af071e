//! The REST door over real sockets: each status in the one problem shape, the earlier system's spellings, HTTP/2, and the
//! metrics door beside it.

mod support;

use std::io::Write;
use std::process::Command;

use serde_json::{Value, json};
use support::{parse_answer, raw_request, read_to_close, request, server, start};

#[test]
fn an_account_signs_up_in_and_out() {
    let server = server();
    let http = server.http();
    let post = |path: &str, body: Value| request(http, "POST", path, &[], Some(&body.to_string()));
    let account = json!({"username": "reader", "email": "reader@example.org", "password": "correct horse"});
    let made = post("/auth/register", account.clone());
    assert_eq!(made.status, 201, "{made:?}");
    assert_eq!((&made.json()["username"], &made.json()["email"]), (&json!("reader"), &json!("reader@example.org")));
    post("/auth/register", account).problem(409, "already_exists");

    post("/auth/login", json!({"username": "reader", "password": "wrong horse"})).problem(401, "unauthenticated");
    post("/auth/login", json!({"username": "nobody", "password": "wrong horse"})).problem(401, "unauthenticated");
    let signed_in = post("/auth/login/", json!({"email": "reader@example.org", "password": "correct horse"}));
    assert_eq!(signed_in.status, 200, "{signed_in:?}");
    let tokens = signed_in.json();
    assert_eq!((&tokens["token_type"], &tokens["expires_in"]), (&json!("Bearer"), &json!(900)));
    assert_eq!(signed_in.header("cache-control"), Some("no-store"));

    let refreshed = post("/auth/refresh", json!({"refresh_token": tokens["refresh_token"]}));
    assert_eq!(refreshed.status, 200, "{refreshed:?}");
    let bearer = format!("Bearer {}", refreshed.json()["access_token"].as_str().unwrap());
    let get = |path: &str| request(http, "GET", path, &[("Authorization", &bearer)], None);
    assert_eq!(get("/api/me/sessions").json()["total"], 1);
    // A used refresh token ends the whole family.
    post("/auth/refresh", json!({"refresh_token": tokens["refresh_token"]})).problem(401, "revoked");
    get("/api/me/sessions").problem(401, "revoked");
    assert_eq!(post("/auth/revoke", json!({"refresh_token": "unknown"})).status, 200);
}

#[test]
fn bad_input_is_named_field_by_field() {
    let server = server();
    let path = format!("/api/progress/{}", server.series[0]);
    let problem = server
        .ask(0, "PUT", &path, Some(r#"{"chapter":-1,"status":"asleep","page":"x"}"#))
        .problem(400, "invalid_input");
    let fields: Vec<_> = problem["errors"].as_array().unwrap().iter().map(|wrong| wrong["field"].clone()).collect();
    assert_eq!(fields, ["chapter", "page", "status"]);
    for bad in ["", "[]", "{", "null", r#"{"chapter":"NaN"}"#, r#"{"chapter":1e300}"#, r#"{"chapter":5.555}"#] {
        server.ask(0, "PUT", &path, Some(bad)).problem(400, "invalid_input");
    }
    let body = json!({"chapter": 1, "manga_id": server.series[1]}).to_string();
    let problem = server.ask(0, "PUT", &path, Some(&body)).problem(400, "invalid_input");
    assert_eq!(problem["errors"][0]["field"], "manga_id");
    for query in ["page=0", "page_size=101", "page=one", "cursor=mine"] {
        server.ask(0, "GET", &format!("/api/manga?{query}"), None).problem(400, "invalid_input");
    }
    server.ask(0, "DELETE", "/api/me/sessions/nonsense", None).problem(400, "invalid_input");
    server.ask(0, "GET", "/api/progress/no-such-series", None).problem(404, "not_found");
    server.ask(0, "GET", "/api/progress/%00%ff", None).problem(404, "not_found");
    server.ask(0, "GET", "/api/progress/99999999999999999999", None).problem(404, "not_found");
}

#[test]
fn each_refusal_has_its_status() {
    let server = server();
    let http = server.http();
    let progress = format!("/api/progress/{}", server.series[0]);
    request(http, "GET", "/api/progress", &[], None).problem(401, "unauthenticated");
    assert!(request(http, "GET", "/api/library", &[], None).header("www-authenticate").is_some());
    request(http, "GET", "/api/library", &[("Authorization", "Basic eA==")], None).problem(401, "unauthenticated");
    request(http, "GET", "/api/library", &[("X-API-Key", "mh_1_2")], None).problem(501, "not_implemented");
    request(http, "GET", "/nowhere", &[], None).problem(404, "not_found");
    server.ask(0, "GET", "/api/genres", None).problem(501, "not_implemented");
    let wrong_method = request(http, "PATCH", "/api/manga", &[], None);
    wrong_method.problem(405, "method_not_allowed");
    assert_eq!(wrong_method.header("allow"), Some("GET, POST, HEAD, OPTIONS"));
    request(http, "GET", "/health/live", &[("Host", "evil.example")], None).problem(403, "forbidden");

    let token = format!("Bearer {}", server.users[0].token);
    let typed = |kind| [("Authorization", token.as_str()), ("Content-Type", kind)];
    request(http, "PUT", &progress, &typed("text/plain"), Some("chapter 5")).problem(415, "unsupported_media_type");
    // Without a type too: a web page may send that to any server unasked.
    let untyped = b"POST /auth/login HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}";
    raw_request(http, untyped).problem(415, "unsupported_media_type");
    let large = format!(r#"{{"chapter":1,"note":"{}"}}"#, "x".repeat(1024 * 1024));
    server.ask(0, "PUT", &progress, Some(&large)).problem(413, "too_large");
    let chunked = format!(
        "PUT {progress} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAuthorization: {token}\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{large}\r\n0\r\n\r\n",
        large.len()
    );
    raw_request(http, chunked.as_bytes()).problem(413, "too_large");

    let admin_only = server.ask(0, "POST", "/api/manga", Some("{}")).problem(403, "forbidden");
    assert_eq!(admin_only["required"], "write:manga");
    assert!(admin_only["granted"].is_array());
}

#[test]
fn progress_goes_forward_and_says_when_it_would_not() {
    let server = server();
    let path = format!("/api/progress/{}", server.series[0]);
    let set = server.ask(0, "PUT", &path, Some(r#"{"chapter":10.5,"page":3,"status":"reading"}"#));
    assert_eq!(set.status, 200, "{set:?}");
    let body = set.json();
    assert_eq!((&body["chapter"], &body["page"], &body["status"]), (&json!(10.5), &json!(3), &json!("reading")));
    assert_eq!(body["user_id"], server.users[0].user.to_string());
    assert!(body["updated_at"].as_str().unwrap().ends_with('Z'));

    let conflict = server.ask(0, "POST", &format!("/api/v1/progress/{}/", server.series[0]), Some(r#"{"chapter":2}"#));
    assert_eq!(conflict.problem(409, "conflict")["stored"]["chapter"], 10.5);
    let forced = server.ask(0, "PUT", &path, Some(r#"{"chapter":2,"force":true}"#)).json();
    assert!(forced["version"].as_u64() > body["version"].as_u64());
    assert_eq!(server.ask(0, "GET", &path, None).json()["chapter"], 2);
    assert_eq!(server.ask(0, "GET", "/api/progress?view=series", None).json()["data"][0]["chapter"], 2);
    server.ask(1, "GET", &path, None).problem(404, "not_found");
    assert_eq!(server.ask(0, "DELETE", &path, None).status, 204);
    server.ask(0, "GET", &path, None).problem(404, "not_found");
    assert_eq!(server.ask(0, "GET", "/api/progress/", None).status, 200);
}

#[test]
fn the_library_takes_in_changes_and_lets_go() {
    let server = server();
    let manga = server.series[0];
    let body = json!({"manga_id": manga, "status": "plan-to-read"}).to_string();
    let added = server.ask(0, "POST", "/api/library", Some(&body));
    assert_eq!((added.status, added.json()["status"].as_str()), (201, Some("plan_to_read")), "{added:?}");
    assert_eq!(added.header("location"), Some(format!("/api/library/{manga}").as_str()));
    server.ask(0, "POST", "/api/library", Some(&body)).problem(409, "already_exists");
    let row = format!("/api/library/{manga}");
    assert_eq!(server.ask(0, "PATCH", &row, Some(r#"{"status":"on_hold"}"#)).json()["status"], "on_hold");
    let library = server.ask(0, "GET", "/api/library", None).json();
    assert_eq!((&library["total"], &library["items"][0]["manga"]["id"]), (&json!(1), &json!(manga)));
    assert_eq!(server.ask(0, "DELETE", &row, None).status, 204);
    assert_eq!(server.ask(0, "GET", "/api/library", None).json()["total"], 0);
}

#[test]
fn the_catalogue_is_open_paged_and_cached() {
    let server = server();
    let http = server.http();
    let list = request(http, "GET", "/api/manga?page_size=2", &[], None).json();
    assert_eq!(list["data"].as_array().unwrap().len(), 2);
    let mut seen: Vec<Value> = list["data"].as_array().unwrap().iter().map(|row| row["id"].clone()).collect();
    let mut cursor = list["pagination"]["next_cursor"].clone();
    while let Some(after) = cursor.as_str() {
        let page = request(http, "GET", &format!("/api/manga?page_size=2&cursor={after}"), &[], None).json();
        seen.extend(page["data"].as_array().unwrap().iter().map(|row| row["id"].clone()));
        cursor = page["pagination"]["next_cursor"].clone();
    }
    assert_eq!(json!(seen.len()), list["pagination"]["total"]);

    let path = format!("/api/manga/{}", server.series[0]);
    let first = request(http, "GET", &path, &[], None);
    assert!(first.json().get("my_progress").is_none());
    let tag = first.header("etag").expect("a tag").to_owned();
    let again = request(http, "GET", &path, &[("If-None-Match", &tag)], None);
    assert_eq!((again.status, again.body.len()), (304, 0));
    let slug = first.json()["slug"].as_str().unwrap().to_owned();
    assert_eq!(request(http, "GET", &format!("/api/manga/{slug}"), &[], None).header("etag"), Some(tag.as_str()));
    let mine = server.ask(0, "GET", &path, None);
    assert_eq!(mine.json()["my_progress"], Value::Null);
    assert!(mine.json().as_object().unwrap().contains_key("my_progress"));
    assert_ne!(mine.header("etag"), Some(tag.as_str()));
    let head = request(http, "HEAD", &path, &[], None);
    assert_eq!((head.status, head.body.len()), (200, 0));
}

#[test]
fn limits_are_told_and_refused_with_a_time_to_wait() {
    let server = start(|_, config| (config.limits.api_rate_per_s, config.limits.api_burst) = (1, 5));
    let first = server.ask(0, "GET", "/api/library", None);
    assert!(first.header("ratelimit-limit").is_some() && first.header("ratelimit-remaining").is_some());
    let refused = (0..20).map(|_| server.ask(0, "GET", "/api/library", None)).find(|answer| answer.status == 429);
    let refused = refused.expect("twenty requests are more than five");
    refused.problem(429, "rate_limited");
    assert!(refused.header("retry-after").is_some_and(|wait| wait.parse::<u64>().is_ok_and(|wait| wait >= 1)));
    assert_eq!(refused.header("ratelimit-remaining"), Some("0"));
    assert_eq!(server.ask(1, "GET", "/api/library", None).status, 200, "another user has a bucket of their own");
    for _ in 0..50 {
        assert_eq!(request(server.http(), "GET", "/health/live", &[], None).status, 200);
    }
}

#[test]
fn addresses_behind_a_trusted_proxy_have_buckets_of_their_own() {
    let start = |trusted| {
        start(move |doors, config| {
            (config.limits.api_rate_per_s, config.limits.api_burst) = (1, 3);
            doors.trusted_proxies = if trusted { vec![[127, 0, 0, 1].into()] } else { Vec::new() };
        })
    };
    let ask = |server: &support::Server, client: &str| {
        let headers = [("X-Forwarded-For", client), ("Host", "manga.example")];
        request(server.http(), "GET", "/api/manga", &headers, None).status
    };
    let trusting = start(true);
    let limited = (0..20).any(|_| ask(&trusting, "203.0.113.1") == 429);
    assert!(limited);
    assert_eq!(ask(&trusting, "203.0.113.1, 203.0.113.2"), 200, "the last address before the proxy counts");
    assert_eq!(ask(&start(false), "203.0.113.1"), 403, "without trust the Host counts, and the header does not");
}

#[test]
fn machines_can_ask_how_it_is() {
    let server = server();
    let get = |path| request(server.http(), "GET", path, &[("X-Request-Id", "abc-1")], None);
    assert_eq!(get("/health/ready").json()["status"], "ready");
    assert_eq!(get("/check-conn").json()["ok"], true);
    assert_eq!(get("/db-ping").json()["ok"], true);
    assert_eq!(get("/health/live").header("x-request-id"), Some("abc-1"));
    assert_eq!(get("/openapi.json").json()["openapi"], "3.1.0");

    let metrics = request(server.metrics(), "GET", "/metrics", &[], None);
    assert_eq!(metrics.status, 200);
    assert!(String::from_utf8_lossy(&metrics.body).contains("process_resident_memory_bytes "));
    assert_eq!(request(server.metrics(), "GET", "/metrics", &[("Origin", "http://localhost")], None).status, 403);
    assert_eq!(request(server.metrics(), "GET", "/metrics", &[("Host", "evil.example")], None).status, 403);
}

#[test]
fn listed_pages_may_call_and_others_may_not() {
    let server = start(|doors, _| doors.cors_origins = vec!["https://reader.example".to_owned()]);
    let ask = |method, origin| {
        let headers = [("Origin", origin), ("Access-Control-Request-Method", "PUT")];
        request(server.http(), method, "/api/manga", &headers, None)
    };
    let allowed = ask("GET", "https://reader.example");
    assert_eq!(allowed.header("access-control-allow-origin"), Some("https://reader.example"));
    assert!(allowed.header("access-control-allow-credentials").is_none());
    assert!(ask("OPTIONS", "https://reader.example").header("access-control-allow-methods").is_some());
    assert!(ask("GET", "https://evil.example").header("access-control-allow-origin").is_none());
    assert!(ask("OPTIONS", "https://evil.example").header("access-control-allow-methods").is_none());
}

#[test]
fn a_connection_carries_request_after_request() {
    let server = server();
    let mut socket = support::connect(server.http());
    let one = "GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(49);
    let last = "GET /health/live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    socket.write_all(one.as_bytes()).unwrap();
    socket.write_all(last.as_bytes()).unwrap();
    let all = String::from_utf8(read_to_close(socket)).unwrap();
    assert_eq!(all.matches("HTTP/1.1 200 OK").count(), 50);
}

#[test]
fn slow_headers_and_large_headers_are_refused() {
    let server = start(|doors, _| doors.limits.greeting_timeout_ms = 300);
    let mut slow = support::connect(server.http());
    slow.write_all(b"GET /health/live HTTP/1.1\r\nHost: loc").unwrap();
    assert!(read_to_close(slow).is_empty());
    let large = format!("GET / HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n", "x".repeat(64 * 1024));
    let mut socket = support::connect(server.http());
    let _ = socket.write_all(large.as_bytes());
    let answer = read_to_close(socket);
    assert!(answer.is_empty() || parse_answer(&answer).status == 431);
}

/// Speaks to the server as a stock client does; `None` where curl is not installed.
fn curl(arguments: &[&str]) -> Option<(u16, String)> {
    let done =
        Command::new("curl").args(["-s", "-w", "\n%{http_version} %{http_code}"]).args(arguments).output().ok()?;
    let text = String::from_utf8(done.stdout).expect("text");
    let (body, line) = text.rsplit_once('\n').expect("curl writes the version and the status");
    let (version, status) = line.split_once(' ').expect("both");
    assert_eq!(version, "2", "{text}");
    Some((status.parse().expect("a number"), body.to_owned()))
}

#[test]
fn http_2_without_tls_is_served_on_the_same_port() {
    let server = server();
    let url = |path: &str| format!("http://{}{path}", server.http());
    let Some((status, body)) = curl(&["--http2-prior-knowledge", &url("/api/v1/manga")]) else {
        eprintln!("skipped: curl is not installed");
        return;
    };
    assert_eq!(status, 200);
    assert!(serde_json::from_str::<Value>(&body).unwrap()["data"].is_array());
    let bearer = format!("Authorization: Bearer {}", server.users[0].token);
    let path = url(&format!("/api/progress/{}", server.series[0]));
    let put = ["--http2-prior-knowledge", "-X", "PUT", "-H", &bearer, "-H", "Content-Type: application/json"];
    let (status, body) = curl(&[&put[..], &["-d", r#"{"chapter":4}"#, &path]].concat()).expect("curl is there");
    assert_eq!((status, &serde_json::from_str::<Value>(&body).unwrap()["chapter"]), (200, &json!(4)));
    let (status, _) = curl(&["--http2-prior-knowledge", &url("/nowhere")]).expect("curl is there");
    assert_eq!(status, 404);
}
