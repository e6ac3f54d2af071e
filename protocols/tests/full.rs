//! A door that is full says so in the wire that it is asked in, counts it, can still be looked at, and lets the next one in as
//! soon as there is a place.

mod support;

use std::io::Write;

use support::{Server, parse_answer, read_to_close, request, start, until};

/// How many the HTTP door has turned away for this reason.
fn refused(server: &Server, reason: &str) -> f64 {
    let counted = format!("mangahub_connections_refused_total{{door=\"http\",reason=\"{reason}\"}}");
    server.counted(&counted).unwrap_or(0.0)
}

/// A server with two places, both taken by sync connections.
fn full() -> (Server, Vec<support::Frames>) {
    let server = start(|doors, _| doors.limits.connections_max = 2);
    let held = vec![server.frames(0), server.frames(1)];
    (server, held)
}

#[test]
fn a_full_server_answers_a_request_with_503_and_serves_it_when_there_is_a_place() {
    let (server, held) = full();
    let before = refused(&server, "capacity");
    let answer = request(server.http(), "GET", "/health/live", &[], None);
    answer.problem(503, "capacity");
    assert_eq!((answer.header("retry-after"), answer.header("connection")), (Some("5"), Some("close")));
    assert!(refused(&server, "capacity") > before, "a full server can be looked at, and has counted it");
    drop(held);
    until("the places come back", || request(server.http(), "GET", "/health/live", &[], None).status == 200);
}

#[test]
fn a_full_server_answers_a_whole_request_with_a_body_too() {
    let (server, _held) = full();
    server
        .ask(2, "PUT", &format!("/api/progress/{}", server.series[0]), Some(r#"{"chapter":1}"#))
        .problem(503, "capacity");
}

#[test]
fn a_full_server_says_so_in_http_2() {
    let (server, _held) = full();
    let url = format!("http://{}/health/live", server.http());
    let asked = ["-s", "--http2-prior-knowledge", "-w", "\n%{http_version} %{http_code}", &url];
    let Ok(done) = std::process::Command::new("curl").args(asked).output() else {
        return eprintln!("skipped: curl is not installed");
    };
    let text = String::from_utf8(done.stdout).unwrap();
    assert!(text.contains("\"capacity\"") && text.ends_with("\n2 503"), "{text}");
}

#[test]
fn who_finds_no_place_and_says_nothing_does_not_stay() {
    let (server, _held) = full();
    // More than are told at a time: each is closed, and nobody is kept.
    let silent: Vec<_> = (0..200).map(|_| support::connect(server.http())).collect();
    for socket in silent {
        assert_eq!(read_to_close(socket), b"", "nothing was asked, so nothing is said");
    }
    until("the next one is told again", || {
        let mut socket = support::connect(server.http());
        let _ = socket.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
        let told = read_to_close(socket);
        if !told.is_empty() {
            parse_answer(&told).problem(503, "capacity");
        }
        !told.is_empty()
    });
}

#[test]
fn one_address_gets_its_share_and_is_told_when_it_wants_more() {
    let server = start(|doors, _| doors.limits.connections_per_address_max = 2);
    let held = vec![server.frames(0), server.frames(1)];
    let before = refused(&server, "per_address");
    request(server.http(), "GET", "/health/live", &[], None).problem(503, "capacity");
    assert!(refused(&server, "per_address") > before, "it is counted");
    drop(held);
    until("the places come back", || request(server.http(), "GET", "/health/live", &[], None).status == 200);
}
