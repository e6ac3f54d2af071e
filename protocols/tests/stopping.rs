//! The end of the doors: everybody is answered and told, nothing is cut, and it takes no longer than it must.

mod support;

use std::io::{Read, Write};
use std::time::Instant;

use proto::Code;
use support::{Said, numbered, parse_answer, read_to_close, server};

#[test]
fn a_drain_answers_what_was_taken_and_says_bye() {
    let server = server();
    let mut idle = server.frames(1);
    let mut lines = server.lines(2);
    let mut busy = server.frames(0);
    for seq in 1..=500 {
        busy.set(seq, &numbered(server.series[0], u32::try_from(seq).unwrap(), seq));
    }
    busy.flush();
    let Said::Ack(first) = busy.next() else { panic!("ack") };
    let begun = Instant::now();
    server.shut_down();
    // Every ack is for something durable; after the last of them comes Bye, and nothing else.
    let mut up_to = first.up_to_seq;
    loop {
        match busy.next() {
            Said::Ack(ack) => {
                assert!(ack.up_to_seq > up_to);
                up_to = ack.up_to_seq;
            }
            Said::Bye { code, .. } => break assert_eq!(code, Some(Code::ShuttingDown)),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(busy.next(), Said::Closed);
    assert!(matches!(idle.next(), Said::Bye { code: Some(Code::ShuttingDown), .. }));
    let bye = lines.next();
    assert_eq!(bye["data"]["code"], "SHUTTING_DOWN");
    assert!(lines.next().is_null());
    drop((idle, lines, busy));
    server.stop();
    assert!(begun.elapsed() < std::time::Duration::from_secs(10), "{:?}", begun.elapsed());
}

#[test]
fn an_idle_http_connection_is_closed_and_one_with_a_request_is_answered() {
    let server = server();
    let mut idle = support::connect(server.http());
    idle.write_all(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut space = [0; 4096];
    assert!(idle.read(&mut space).unwrap() > 0);
    // Its request is on its way while the drain begins.
    let mut busy = support::connect(server.http());
    busy.write_all(b"GET /api/manga HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    server.shut_down();
    assert!(read_to_close(idle).is_empty());
    assert_eq!(parse_answer(&read_to_close(busy)).status, 200);
    server.stop();
}

#[test]
fn half_open_peers_do_not_hold_the_end_up() {
    let server = server();
    // They never read, never close and never say hello.
    let silent: Vec<_> = (0..20).map(|_| support::connect(server.sync())).collect();
    let mute: Vec<_> = (0..20).map(|_| support::connect(server.http())).collect();
    let unread = server.frames(0);
    let begun = Instant::now();
    server.stop();
    assert!(begun.elapsed() < std::time::Duration::from_secs(15), "{:?}", begun.elapsed());
    drop((silent, mute, unread));
}

#[test]
fn connections_that_end_give_their_places_back() {
    let server = server();
    for _ in 0..20 {
        drop((server.frames(0), server.lines(1), support::connect(server.http()), support::connect(server.sync())));
        let mut kept_alive = support::connect(server.http());
        kept_alive.write_all(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        assert!(kept_alive.read(&mut [0; 4096]).unwrap() > 0);
    }
    // The one that asks is there itself.
    support::until("only the asking connection is left", || server.gauge("mangahub_connections ") == 1.0);
    assert_eq!(server.gauge("mangahub_task_panics_total "), 0.0);
}
