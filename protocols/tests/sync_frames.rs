//! The binary wire of TCP sync over real sockets: what is acknowledged, who hears of it, and what bad input gets.

mod support;

use std::collections::HashSet;
use std::io::Write;

use proto::frame::{Bye, FLAG_IGNORABLE, Get, Header, Kind, Ping, Preamble};
use proto::{Chapter, Code, DeviceId};
use support::{Frames, Said, numbered, server, start, update};

#[test]
fn nothing_is_taken_before_hello() {
    let server = server();
    let mut frames = Frames::connect(server.sync());
    frames.out.extend_from_slice(&Preamble::CURRENT.to_bytes());
    frames.set(1, &update(server.series[0], 1));
    frames.flush();
    assert!(matches!(frames.next(), Said::Bye { code: Some(Code::Unauthenticated), .. }));
    assert_eq!(frames.next(), Said::Closed);
    assert_eq!(server.ask(0, "GET", &format!("/api/progress/{}", server.series[0]), None).status, 404);
}

#[test]
fn a_wrong_token_is_told_so() {
    let server = server();
    let mut frames = Frames::connect(server.sync());
    frames.queue_hello("not.a.token", None);
    frames.flush();
    assert!(matches!(frames.next(), Said::Bye { code: Some(Code::Unauthenticated), .. }));
    assert_eq!(frames.next(), Said::Closed);
}

#[test]
fn updates_sent_with_hello_in_one_segment_are_all_acknowledged() {
    let server = server();
    let mut frames = Frames::connect(server.sync());
    frames.queue_hello(&server.users[0].token, Some(DeviceId::new_v7()));
    for seq in 1..=16 {
        frames.set(seq, &numbered(server.series[0], u32::try_from(seq).unwrap(), seq));
    }
    frames.flush();
    assert!(matches!(frames.next(), Said::Welcome { .. }));
    assert_eq!(acknowledged(&mut frames, 16).len(), 16);
}

/// Reads until `count` commands are acknowledged; counts each once.
fn acknowledged(frames: &mut Frames, count: usize) -> HashSet<u64> {
    let mut done = HashSet::new();
    let mut next = 1;
    while done.len() < count {
        match frames.answer() {
            Said::Ack(ack) => {
                let from = if ack.cumulative { next } else { ack.up_to_seq };
                for seq in from..=ack.up_to_seq {
                    assert!(done.insert(seq), "{seq} is acknowledged once");
                }
                next = ack.up_to_seq + 1;
            }
            other => panic!("{other:?}"),
        }
    }
    done
}

#[test]
fn a_full_window_is_acknowledged_in_order() {
    let server = server();
    let mut frames = server.frames(0);
    let Some(Said::Welcome { window, .. }) = frames.welcome else { panic!("welcomed") };
    let count = u64::from(window.min(1_000));
    for seq in 1..=count {
        frames.set(seq, &numbered(server.series[(seq % 5) as usize], u32::try_from(seq).unwrap(), seq));
    }
    frames.flush();
    assert_eq!(acknowledged(&mut frames, count as usize).len() as u64, count);
    Get { manga: Some(server.series[1]) }.encode(count + 1, &mut frames.out);
    frames.flush();
    let Said::State { entries, .. } = frames.answer() else { panic!("state") };
    assert!(entries[0].key.chapter > Chapter::whole(900));
}

#[test]
fn a_change_reaches_the_users_other_connections_once_and_nobody_else() {
    let server = server();
    let manga = server.series[0];
    let (mut phone, mut tablet, mut desk) = (server.frames(0), server.frames(0), server.lines(0));
    let (mut stranger, mut strange_lines) = (server.frames(1), server.lines(1));
    phone.set(1, &update(manga, 7));
    phone.flush();
    let Said::Ack(ack) = phone.next() else { panic!("the sender gets an ack and no announcement") };

    let Said::Progress(entry) = tablet.next() else { panic!("announced") };
    assert_eq!((entry.manga, entry.key), (manga, ack.key));
    let line = desk.next();
    assert_eq!((line["type"].as_str(), &line["data"]["chapter"]), (Some("progress_broadcast"), &7.into()));

    desk.progress(manga, 8);
    assert_eq!(desk.next()["type"], "progress_ack");
    for frames in [&mut phone, &mut tablet] {
        let Said::Progress(entry) = frames.next() else { panic!("announced") };
        assert_eq!(entry.key.chapter, Chapter::whole(8));
    }
    assert_eq!(server.ask(0, "PUT", &format!("/api/progress/{manga}"), Some(r#"{"chapter":9}"#)).status, 200);
    for frames in [&mut phone, &mut tablet] {
        let Said::Progress(entry) = frames.next() else { panic!("announced") };
        assert_eq!(entry.key.chapter, Chapter::whole(9));
    }
    assert_eq!(desk.next()["data"]["chapter"], 9);

    // Whatever was to come has come before these answers.
    for frames in [&mut phone, &mut tablet, &mut stranger] {
        Ping { nonce: 42 }.encode(9, &mut frames.out);
        frames.flush();
        assert_eq!(frames.next(), Said::Pong(42));
    }
    for lines in [&mut desk, &mut strange_lines] {
        lines.send(r#"{"type":"heartbeat"}"#);
        assert_eq!(lines.next()["type"], "pong");
    }
}

#[test]
fn a_retry_changes_nothing_and_a_conflict_shows_what_is_stored() {
    let server = server();
    let manga = server.series[0];
    let mut frames = server.frames(0);
    frames.set(1, &numbered(manga, 10, 1));
    frames.set(2, &numbered(manga, 10, 1));
    frames.set(3, &numbered(manga, 5, 2));
    frames.flush();
    let Said::Ack(first) = frames.next() else { panic!("ack") };
    let Said::Ack(retry) = frames.next() else { panic!("ack") };
    assert!(!first.already && retry.already && retry.key == first.key);
    let Said::Reject { seq: 3, code: Some(Code::Conflict), stored: Some(stored), .. } = frames.next() else {
        panic!("conflict")
    };
    assert_eq!(stored.key, first.key);
}

#[test]
fn what_cannot_be_used_is_rejected_and_the_connection_goes_on() {
    let server = server();
    let mut frames = server.frames(0);
    let unknown = |kind, flags, seq| Header { length: 16, kind, flags, seq }.to_bytes();
    frames.out.extend_from_slice(&unknown(999, 0, 1));
    frames.out.extend_from_slice(&[0; 16]);
    frames.out.extend_from_slice(&unknown(999, FLAG_IGNORABLE, 2));
    frames.out.extend_from_slice(&[0; 16]);
    frames.out.extend_from_slice(&Header::new(Kind::SetProgress, 48, 3).to_bytes());
    frames.out.extend_from_slice(&[0xff; 48]);
    frames.out.extend_from_slice(&Header::new(Kind::Ack, 48, 4).to_bytes());
    frames.out.extend_from_slice(&[0; 48]);
    frames.set(5, &update(server.series[0], 1));
    frames.flush();
    for (expected_seq, expected) in [(1, Code::UnknownKind), (3, Code::InvalidInput), (4, Code::InvalidInput)] {
        match frames.next() {
            Said::Reject { seq, code, .. } => assert_eq!((seq, code), (expected_seq, Some(expected))),
            other => panic!("{other:?}"),
        }
    }
    assert!(matches!(frames.next(), Said::Ack(ack) if ack.up_to_seq == 5));
}

#[test]
fn a_broken_header_ends_the_connection_after_what_came_before_it_was_answered() {
    for (broken, code) in [
        (Header { length: 7, kind: 16, flags: 0, seq: 2 }, Code::BadFrame),
        (Header { length: 1 << 30, kind: 16, flags: 0, seq: 2 }, Code::TooLarge),
        (Header { length: 48, kind: 16, flags: 0x8000, seq: 2 }, Code::BadFrame),
    ] {
        let server = server();
        let mut frames = server.frames(0);
        frames.set(1, &update(server.series[0], 1));
        frames.out.extend_from_slice(&broken.to_bytes());
        frames.flush();
        assert!(matches!(frames.next(), Said::Ack(ack) if ack.up_to_seq == 1));
        match frames.next() {
            Said::Bye { code: got, .. } => assert_eq!(got, Some(code)),
            other => panic!("{other:?}"),
        }
        assert_eq!(frames.next(), Said::Closed);
    }
}

#[test]
fn garbage_is_answered_and_closed() {
    let server = server();
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0; 64], &[0xE7, b'M', b'H', b'X', 0, 0, 0, 0]] {
        let mut socket = support::connect(server.sync());
        socket.write_all(garbage).unwrap();
        assert!(!support::read_to_close(socket).is_empty(), "{garbage:?} is told why");
    }
}

#[test]
fn a_client_that_has_only_finished_sending_gets_its_answers() {
    let server = server();
    let mut frames = server.frames(0);
    for seq in 1..=200 {
        frames.set(seq, &numbered(server.series[0], u32::try_from(seq).unwrap(), seq));
    }
    frames.flush();
    frames.half_close();
    assert_eq!(acknowledged(&mut frames, 200).len(), 200);
    assert!(matches!(frames.next(), Said::Bye { code: None, .. }));
    assert_eq!(frames.next(), Said::Closed);
}

#[test]
fn a_slow_reader_is_closed_and_nobody_else_notices() {
    let server = start(|doors, _| doors.limits.write_timeout_ms = 500);
    let slow = support::connect(server.sync());
    let mut slow = Frames::over(slow);
    slow.greet(&server.users[0].token, None);
    let mut pings = Vec::new();
    for nonce in 0..2_000 {
        Ping { nonce }.encode(nonce, &mut pings);
    }
    let mut other = server.frames(1);
    let mut seq = 0;
    // It never reads: at some point the server has had enough.
    while slow.socket.write_all(&pings).is_ok() {
        seq += 1;
        other.set(seq, &update(server.series[0], u32::try_from(seq).unwrap()));
        other.flush();
        assert!(matches!(other.answer(), Said::Ack(_)));
        assert!(seq < 100_000, "the slow reader was never closed");
    }
    other.set(seq + 1, &update(server.series[1], 1));
    other.flush();
    assert!(matches!(other.answer(), Said::Ack(_)));
}

#[test]
fn who_was_away_catches_up() {
    let server = server();
    let mut frames = server.frames(0);
    for seq in 1..=3 {
        frames.set(seq, &update(server.series[seq as usize], 10));
    }
    frames.flush();
    acknowledged(&mut frames, 3);
    let mut later = server.frames(0);
    proto::frame::CatchUp { since: proto::frame::ResumeToken::NONE }.encode(1, &mut later.out);
    Get { manga: None }.encode(2, &mut later.out);
    later.flush();
    let Said::State { seq: 1, entries } = later.next() else { panic!("state") };
    assert_eq!(entries.len(), 3);
    assert!(matches!(later.next(), Said::CaughtUp { seq: 1, entries: 3, snapshot: true }));
    assert!(matches!(later.next(), Said::State { seq: 2, entries } if entries.len() == 3));
}

#[test]
fn who_does_not_say_hello_is_closed() {
    let server = start(|doors, _| doors.limits.greeting_timeout_ms = 300);
    let silent = support::connect(server.sync());
    assert!(support::read_to_close(silent).is_empty());
    let mut half = support::connect(server.sync());
    half.write_all(&Preamble::CURRENT.to_bytes()).unwrap();
    support::read_to_close(half);
}

#[test]
fn a_revoked_session_is_closed_at_once() {
    let server = server();
    let mut frames = server.frames(0);
    let session = server.users[0].session;
    assert_eq!(server.ask(0, "DELETE", &format!("/api/me/sessions/{session}"), None).status, 204);
    assert!(matches!(frames.next(), Said::Bye { code: Some(Code::Revoked), .. }));
    assert_eq!(frames.next(), Said::Closed);
    server.ask(0, "GET", "/api/me/sessions", None).problem(401, "revoked");
}

#[test]
fn a_full_server_says_capacity_in_the_clients_wire() {
    let server = start(|doors, _| doors.limits.connections_max = 2);
    let _held = [server.frames(0), server.frames(1)];
    let mut frames = Frames::connect(server.sync());
    frames.queue_hello(&server.users[2].token, None);
    frames.flush();
    assert!(matches!(frames.next(), Said::Bye { code: Some(Code::Capacity), .. }));
    let mut lines = support::Lines::connect(server.sync());
    lines.send(r#"{"type":"auth","data":{"token":"x"}}"#);
    let line = lines.next();
    assert_eq!((line["type"].as_str(), line["data"]["code"].as_str()), (Some("error"), Some("CAPACITY")));
    assert!(lines.next().is_null());
}

#[test]
fn who_speaks_again_long_after_goodbye_and_leaves_is_gone() {
    let server = server();
    let mut frames = server.frames(0);
    Bye::ORDINARY.encode(0, &mut frames.out);
    frames.flush();
    assert!(matches!(frames.next(), Said::Bye { code: None, .. }));
    assert_eq!(frames.next(), Said::Closed);
    // Longer than the silence after which a reader goes to rest, and shorter than the server waits for the end.
    std::thread::sleep(std::time::Duration::from_millis(1_000));
    let _ = frames.socket.write_all(&[0; 8]);
    std::thread::sleep(std::time::Duration::from_millis(100));
    drop(frames);
    support::until("only the asking connection is left", || server.gauge("mangahub_connections ") == 1.0);
}
