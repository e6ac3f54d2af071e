//! Clients that want more than their share, or send what two readers would understand differently: each is stopped at a
//! limit and told why, and nothing that it sent is taken for something else.

mod support;

use std::io::Write;
use std::time::{Duration, Instant};

use proto::Code;
use proto::frame::{CatchUp, Header, ResumeToken};
use support::{Frames, Lines, Said, request, server, start, update};

/// A frame of a kind that nobody knows: it gets a Reject.
fn unknown(seq: u64) -> [u8; 32] {
    let mut frame = [0; 32];
    frame[..16].copy_from_slice(&Header { length: 16, kind: 999, flags: 0, seq }.to_bytes());
    frame
}

fn end_of(frames: &mut Frames) -> (usize, Option<Code>) {
    let mut rejected = 0;
    loop {
        match frames.next() {
            Said::Reject { .. } => rejected += 1,
            Said::Bye { code, .. } => return (rejected, code),
            other => panic!("after {rejected} refusals: {other:?}"),
        }
    }
}

#[test]
fn a_refusal_that_finds_the_window_full_ends_the_connection_and_is_never_dropped() {
    let server = start(|doors, _| doors.limits.window_max = 4);
    let mut frames = server.frames(0);
    // One segment, so that all of them are read before the first answer leaves.
    (1..=40).for_each(|seq| frames.out.extend_from_slice(&unknown(seq)));
    frames.flush();
    let (rejected, code) = end_of(&mut frames);
    assert!((4..40).contains(&rejected), "{rejected}");
    assert_eq!(code, Some(Code::RateLimited));
    let counted = r#"mangahub_connections_refused_total{door="tcp_sync",reason="window"}"#;
    support::until("it is counted", || server.counted(counted) >= Some(1.0));
}

#[test]
fn catch_ups_that_wait_are_few_and_every_other_one_is_refused() {
    let server = server();
    let mut frames = server.frames(0);
    (1..=100).for_each(|seq| CatchUp { since: ResumeToken::NONE }.encode(seq, &mut frames.out));
    frames.flush();
    let (mut answered, mut refused) = (0, 0);
    while answered + refused < 100 {
        match frames.next() {
            Said::CaughtUp { .. } => answered += 1,
            Said::Reject { code: Some(Code::Busy), .. } => refused += 1,
            Said::State { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    assert!(answered >= 16 && refused > 0, "{answered} answered, {refused} refused");
    // The places come back.
    CatchUp { since: ResumeToken::NONE }.encode(101, &mut frames.out);
    frames.flush();
    assert!(matches!(frames.next(), Said::CaughtUp { seq: 101, .. }));
}

#[test]
fn who_is_refused_over_and_over_is_read_more_and_more_slowly() {
    const ROUNDS: u64 = 20;
    const EACH: u64 = 500;
    let server = start(|_, config| (config.limits.frame_rate_per_s, config.limits.frame_burst) = (1, 1));
    let mut frames = server.frames(0);
    let began = Instant::now();
    for round in 0..ROUNDS {
        (1..=EACH).for_each(|at| frames.set(round * EACH + at, &update(server.series[0], 1)));
        frames.flush();
        let mut answered = 0;
        while answered < EACH {
            match frames.next() {
                Said::Reject { code: Some(Code::RateLimited), .. } | Said::Ack(_) => answered += 1,
                other => panic!("{other:?}"),
            }
        }
    }
    // Half a second by the price of a refusal; without one, a few milliseconds.
    assert!(began.elapsed() > Duration::from_millis(300), "{:?}", began.elapsed());
    server.is_well();
}

#[test]
fn who_has_not_signed_in_gets_no_long_line() {
    let server = server();
    let mut lines = Lines::connect(server.sync());
    lines.send_bytes(b"{\"type\":\"auth\",\"data\":{\"token\":\"");
    // More than any greeting, far less than a line may have later.
    let _ = lines.try_send_bytes(&[b'x'; 12 * 1024]);
    let refused = lines.next();
    assert_eq!(refused["data"]["code"], "TOO_LARGE", "{refused}");
    assert!(lines.next().is_null());
}

/// An HTTP/2 frame (RFC 9113, section 4.1).
fn h2(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = u32::try_from(payload.len()).expect("a small payload").to_be_bytes()[1..].to_vec();
    frame.extend_from_slice(&[kind, flags]);
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// A header field without indexing, names and values in clear (RFC 7541, section 6.2.2).
fn field(name: &str, value: &str) -> Vec<u8> {
    let text = |text: &str| [&[u8::try_from(text.len()).expect("a short text")], text.as_bytes()].concat();
    [vec![0], text(name), text(value)].concat()
}

#[test]
fn a_peer_that_sends_a_little_and_reads_nothing_gets_no_more_time_for_it() {
    let server = start(|doors, config| {
        doors.limits.write_timeout_ms = 300;
        doors.limits.http_idle_timeout_ms = 3_600_000;
        config.limits.api_burst = 10_000;
    });
    let mut socket = support::connect(server.http());
    let mut out = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    // SETTINGS with the largest window for streams, and one for the connection.
    out.extend(h2(4, 0, 0, &[0, 4, 0x7f, 0xff, 0xff, 0xff]));
    out.extend(h2(8, 0, 0, &0x7fff_0000_u32.to_be_bytes()));
    let asks = [(":method", "GET"), (":scheme", "http"), (":authority", "localhost"), (":path", "/openapi.json")];
    let header: Vec<u8> = asks.iter().flat_map(|(name, value)| field(name, value)).collect();
    let _ = socket.write_all(&out);
    // Soon more is asked for than all socket buffers on the way hold; then only these few bytes keep coming.
    let mut stream = 1;
    support::until("the connection is closed", || {
        std::thread::sleep(std::time::Duration::from_millis(10));
        let asked: Vec<u8> = (0..10).flat_map(|more| h2(1, 5, stream + 2 * more, &header)).collect();
        stream += 20;
        let sent = socket.write_all(&asked);
        sent.is_err_and(|problem| problem.kind() != std::io::ErrorKind::WouldBlock)
    });
}

#[test]
fn two_host_headers_are_refused() {
    let server = server();
    let mut socket = support::connect(server.http());
    socket
        .write_all(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\nConnection: close\r\n\r\n")
        .unwrap();
    support::parse_answer(&support::read_to_close(socket)).problem(400, "invalid_input");
}

#[test]
fn the_metrics_door_refuses_in_the_shape_of_every_other() {
    let server = server();
    for (method, path, headers, status, code) in [
        ("GET", "/metrics", &[("Origin", "http://localhost")][..], 403, "forbidden"),
        ("GET", "/metrics", &[("Host", "evil.example")], 403, "forbidden"),
        ("GET", "/elsewhere", &[], 404, "not_found"),
        ("POST", "/metrics", &[], 405, "method_not_allowed"),
    ] {
        let answer = request(server.metrics(), method, path, headers, None);
        assert_eq!((answer.status, answer.json()["code"].as_str()), (status, Some(code)), "{answer:?}");
        assert_eq!(answer.header("content-type"), Some("application/problem+json"));
        assert_eq!(answer.header("allow").is_some(), status == 405);
    }
}
