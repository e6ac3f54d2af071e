//! The JSON-lines wire of TCP sync over real sockets: the earlier system's clients keep working, and bad lines are named.

mod support;

use support::{Lines, server, start};

fn auth(token: &str) -> String {
    format!(r#"{{"type":"auth","data":{{"token":"{token}"}}}}"#)
}

#[test]
fn a_line_in_the_segment_of_auth_is_not_lost() {
    let server = server();
    let mut lines = Lines::connect(server.sync());
    let manga = server.series[0];
    let both = format!(
        "{}\r\n{{\"type\":\"progress_update\",\"data\":{{\"manga_id\":{manga},\"chapter\":5.5,\"status\":\"plan-to-read\"}}}}\n",
        auth(&server.users[0].token)
    );
    lines.send_bytes(both.as_bytes());
    let success = lines.next();
    assert_eq!(success["type"], "auth_success");
    assert_eq!(success["data"]["user_id"], server.users[0].user.to_string());
    let ack = lines.next();
    assert_eq!((ack["type"].as_str(), ack["data"]["chapter"].as_f64()), (Some("progress_ack"), Some(5.5)));
    assert!(ack["data"]["version"].as_u64().is_some_and(|version| version > 0));
}

#[test]
fn a_line_in_pieces_is_one_line() {
    let server = server();
    let mut lines = Lines::connect(server.sync());
    for piece in auth(&server.users[0].token).as_bytes().chunks(7) {
        lines.send_bytes(piece);
    }
    lines.send_bytes(b"\n\n  \n");
    assert_eq!(lines.next()["type"], "auth_success");
}

#[test]
fn wrong_tokens_and_names_get_auth_error_and_the_end() {
    let server = server();
    let token = &server.users[0].token;
    let other = format!(r#"{{"type":"auth","data":{{"token":"{token}","username":"somebody-else"}}}}"#);
    let early = r#"{"type":"heartbeat"}"#.to_owned();
    for first in [auth("wrong"), other, early] {
        let mut lines = Lines::connect(server.sync());
        lines.send(&first);
        let refused = lines.next();
        assert_eq!(refused["type"], "auth_error", "{first}");
        assert!(refused["data"]["error"].is_string());
        assert!(lines.next().is_null());
    }
}

#[test]
fn bad_lines_get_one_error_line_each_and_the_connection_goes_on() {
    let server = server();
    let mut lines = server.lines(0);
    for (bad, code, named) in [
        ("{not json", "INVALID_INPUT", ""),
        ("[1,\n", "INVALID_INPUT", ""),
        (r#"{"type":"dance","data":{}}"#, "UNKNOWN_KIND", "dance"),
        (r#"{"type":"progress_update","data":{"chapter":1}}"#, "INVALID_INPUT", "manga_id"),
        (r#"{"type":"progress_update","data":{"manga_id":1,"chapter":-3}}"#, "INVALID_INPUT", "chapter"),
        (r#"{"type":"progress_update","data":{"manga_id":1,"chapter":1,"status":"x"}}"#, "INVALID_INPUT", "status"),
        (r#"{"type":"progress_update","data":{"manga_id":987654321,"chapter":1}}"#, "NOT_FOUND", ""),
        (r#"{"type":"auth","data":{"token":"again"}}"#, "INVALID_INPUT", ""),
        (
            r#"{"type":"progress_update","data":{"manga_id":1,"chapter":1,"user_id":"00000000-0000-7000-8000-000000000000"}}"#,
            "FORBIDDEN",
            "user_id",
        ),
    ] {
        lines.send(bad.trim_end());
        let error = lines.next();
        assert_eq!(
            (error["type"].as_str(), error["data"]["code"].as_str()),
            (Some("error"), Some(code)),
            "{bad}: {error}"
        );
        assert!(error["data"]["message"].as_str().is_some_and(|text| text.contains(named)), "{bad}: {error}");
    }
    lines.progress(server.series[0], 1);
    assert_eq!(lines.next()["type"], "progress_ack");
}

#[test]
fn going_back_is_a_conflict_with_both_chapters() {
    let server = server();
    let mut lines = server.lines(0);
    lines.progress(server.series[0], 95);
    assert_eq!(lines.next()["type"], "progress_ack");
    lines.progress(server.series[0], 50);
    let conflict = lines.next();
    assert_eq!(conflict["type"], "conflict");
    assert_eq!((&conflict["data"]["local_chapter"], &conflict["data"]["remote_chapter"]), (&50.into(), &95.into()));
    assert!(conflict["data"]["manga_title"].is_string());
}

#[test]
fn a_line_without_end_is_refused_before_it_is_buffered_whole() {
    let server = server();
    for greeted in [true, false] {
        let mut lines = if greeted { server.lines(0) } else { Lines::connect(server.sync()) };
        lines.send_bytes(b"{\"type\":\"");
        // The server closes somewhere on the way; what it said stays readable.
        for _ in 0..64 {
            if lines.try_send_bytes(&[b'x'; 4096]).is_err() {
                break;
            }
        }
        let refused = lines.next();
        assert_eq!((refused["type"].as_str(), refused["data"]["code"].as_str()), (Some("error"), Some("TOO_LARGE")));
        assert!(lines.next().is_null());
    }
}

#[test]
fn heartbeats_are_answered_and_disconnect_ends() {
    let server = server();
    let mut lines = server.lines(0);
    lines.send(r#"{"type":"heartbeat","data":{},"timestamp":"2026-01-01T00:00:00Z"}"#);
    assert_eq!(lines.next()["type"], "pong");
    lines.progress(server.series[0], 3);
    lines.send(r#"{"type":"disconnect"}"#);
    assert_eq!(lines.next()["type"], "progress_ack", "what was sent before the end is answered");
    assert!(lines.next().is_null());
}

#[test]
fn silence_ends_a_connection() {
    let server = start(|doors, _| doors.limits.sync_idle_timeout_ms = 300);
    let mut lines = server.lines(0);
    assert!(lines.next().is_null());
}

#[test]
fn too_many_updates_are_slowed_down_not_lost_without_a_word() {
    let server = start(|_, config| (config.limits.line_rate_per_s, config.limits.line_burst) = (1, 10));
    let mut lines = server.lines(0);
    for chapter in 1..=30 {
        lines.progress(server.series[0], chapter);
    }
    let answers: Vec<_> = (0..30).map(|_| lines.next()).collect();
    let acked = answers.iter().filter(|answer| answer["type"] == "progress_ack").count();
    let limited: Vec<_> = answers.iter().filter(|answer| answer["data"]["code"] == "RATE_LIMITED").collect();
    assert_eq!(acked + limited.len(), 30);
    assert!(acked >= 10 && limited.len() >= 10, "{acked} acknowledged");
    assert!(limited.iter().all(|answer| answer["data"]["retry_after_ms"].as_u64().is_some_and(|wait| wait > 0)));
}
