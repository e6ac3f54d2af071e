//! Whole HTTP requests from a seed, at a real server: every one is answered or its connection is closed, never with a 500, every
//! refusal is a whole problem, and in the end everybody else is still served. See `fuzz/README.md`.

#[path = "../../fuzz/driver.rs"]
mod driver;
#[path = "../../fuzz/requests.rs"]
mod requests;
mod support;

use std::io::Write;
use std::net::Shutdown;

use driver::{Dice, spoil};
use proto::frame::{Get, Ping};
use support::{Frames, Server, parse_answer, start, update};

const METHODS: &[&str] =
    &["GET", "GET", "PUT", "PUT", "POST", "POST", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE", "X"];

/// A server whose own limits are not what stops a flood of requests.
fn unhurried() -> Server {
    start(|doors, engine| {
        doors.limits.connections_per_address_max = 100_000;
        (engine.limits.api_rate_per_s, engine.limits.api_burst) = (1_000_000, 1_000_000);
    })
}

#[test]
fn fuzz_http_requests() {
    let server = unhurried();
    driver::run(
        "http",
        20,
        |dice, corpus| {
            let user = dice.below(2);
            conversation(dice, corpus, &server.users[user].token)
        },
        |bytes| {
            let mut socket = support::connect(server.http());
            // A server that has had enough closes before it has read everything.
            let _ = socket.write_all(bytes);
            let _ = socket.shutdown(Shutdown::Write);
            answers(&support::read_to_close(socket), bytes);
        },
    );
    server.is_well();
}

#[test]
fn fuzz_sync_connections() {
    let server = unhurried();
    let mut good = Frames::over(std::io::Cursor::new(Vec::new()));
    good.queue_hello(&server.users[0].token, Some(proto::DeviceId::new_v7()));
    let hello = std::mem::take(&mut good.out);
    (1..=20).for_each(|seq| good.set(seq, &update(server.series[0], seq as u32)));
    Get { manga: None }.encode(21, &mut good.out);
    Ping { nonce: 1 }.encode(22, &mut good.out);
    let auth = format!("{{\"type\":\"auth\",\"data\":{{\"token\":\"{}\"}}}}\n", server.users[1].token);
    driver::run(
        "frames",
        10,
        |dice, corpus| {
            // Most get past the greeting before they go wrong.
            let mut bytes = match dice.below(4) {
                0 => Vec::new(),
                1 => auth.clone().into_bytes(),
                _ => hello.clone(),
            };
            let mut rest = if dice.one_in(2) { good.out.clone() } else { dice.pick(corpus).clone() };
            spoil(dice, &mut rest, 4, corpus, &[b"{\"type\":\"heartbeat\"}\n", b"\n", b"\"data\":{"]);
            bytes.extend_from_slice(&rest);
            bytes
        },
        |bytes| {
            let mut socket = support::connect(server.sync());
            let _ = socket.write_all(bytes);
            let _ = socket.shutdown(Shutdown::Write);
            support::read_to_close(socket);
        },
    );
    server.is_well();
}

/// A few requests on one connection; sometimes the bytes themselves are spoiled.
fn conversation(dice: &mut Dice, corpus: &[Vec<u8>], token: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let count = 1 + dice.below(4);
    for at in 1..=count {
        let parts = requests::parts(dice, corpus);
        let method = *dice.pick(METHODS);
        let target = String::from_utf8_lossy(&parts.target).into_owned();
        let mut head = format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\n");
        // Ended sessions would end the run's sense: from then on everything is 401.
        let ends_sessions = method == "DELETE" && target.contains("sessions");
        if !dice.one_in(8) && !ends_sessions {
            head.push_str(&format!("Authorization: Bearer {token}\r\n"));
        }
        if !parts.content_type.is_empty() {
            head.push_str(&format!("Content-Type: {}\r\n", String::from_utf8_lossy(&parts.content_type)));
        }
        if at == count {
            head.push_str("Connection: close\r\n");
        }
        match dice.below(16) {
            0 => head.push_str("Transfer-Encoding: chunked\r\n"),
            1 => head.push_str(&format!("Content-Length: {}\r\n", dice.edge())),
            2 => {}
            _ => head.push_str(&format!("Content-Length: {}\r\n", parts.body.len())),
        }
        head.push_str("\r\n");
        bytes.extend_from_slice(head.as_bytes());
        bytes.extend_from_slice(&parts.body);
    }
    if dice.one_in(6) {
        spoil(
            dice,
            &mut bytes,
            3,
            corpus,
            &[b"\r\n", b"\n", b" ", b":", b"\0", b"HTTP/1.0", b"Expect: 100-continue\r\n"],
        );
    }
    bytes
}

/// Takes the answers apart as far as their lengths say.
fn answers(mut bytes: &[u8], asked: &[u8]) {
    let shown = || String::from_utf8_lossy(asked).into_owned();
    while let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
        let answer = parse_answer(&bytes[..end + 4]);
        assert!((100..600).contains(&answer.status) && answer.status != 500, "{} to {}", answer.status, shown());
        let length: usize = answer.header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
        let rest = &bytes[end + 4..];
        // The answer to a HEAD announces a body and brings none.
        let bodiless = rest.len() < length || rest.starts_with(b"HTTP/1.1 ");
        let body = if bodiless { &[][..] } else { &rest[..length] };
        if answer.header("content-type") == Some("application/problem+json") && !body.is_empty() {
            let problem: serde_json::Value = serde_json::from_slice(body).expect("a problem is JSON");
            assert_eq!(problem["status"], answer.status, "{problem} to {}", shown());
            assert!(problem["code"].is_string() && problem["detail"].is_string(), "{problem} to {}", shown());
        }
        bytes = &rest[body.len()..];
    }
}
