//! Whatever a server sends: the client's side of frames and lines neither panics nor answers an update twice, and hears the
//! same whatever the pieces the bytes come in. See `fuzz/README.md`.

#[path = "../../fuzz/driver.rs"]
mod driver;
#[path = "fuzz/hearing.rs"]
mod hearing;
#[path = "../../fuzz/streams.rs"]
mod streams;

use driver::Dice;
use proto::frame::{Kind, List, MAGIC, PREAMBLE_BYTES, Preamble, ResumeToken, Welcome};
use proto::{SessionId, UserId};

#[test]
fn the_corpus_holds_for_a_client() {
    driver::replay("frames", hearing::frames);
    driver::replay("lines", hearing::lines);
}

#[test]
fn fuzz_client_frames() {
    driver::run("frames", 10, a_servers_frames, hearing::frames);
}

#[test]
fn fuzz_client_lines() {
    driver::run("lines", 10, streams::lines, hearing::lines);
}

/// A stream that opens as it should and whose answers mostly name frames that were sent.
fn a_servers_frames(dice: &mut Dice, corpus: &[Vec<u8>]) -> Vec<u8> {
    let bytes = streams::frames(dice, corpus);
    if dice.one_in(16) {
        return bytes;
    }
    let greeted = bytes.starts_with(&MAGIC) && bytes.len() >= PREAMBLE_BYTES;
    let mut all = streams::split(&bytes[if greeted { PREAMBLE_BYTES } else { 0 }..]);
    for (header, payload) in &mut all {
        let seq = 2 + dice.below(6) as u64;
        match Kind::from_u16(header.kind) {
            Some(Kind::Ack) if payload.len() >= 8 => payload[..8].copy_from_slice(&seq.to_le_bytes()),
            Some(Kind::State | Kind::CaughtUp) => header.seq = seq,
            _ => {}
        }
    }
    let mut out = Preamble::CURRENT.to_bytes().to_vec();
    welcome().encode(1, &mut out).expect("a Welcome fits");
    streams::join(&all, &mut out);
    out
}

/// With a window, so that there are updates to answer.
fn welcome() -> Welcome<'static> {
    Welcome {
        session: SessionId::from_bytes([1; 16]),
        user: UserId::from_bytes([2; 16]),
        username: "reader",
        window: 8,
        idle_timeout_ms: 1_000,
        last_seq: 0,
        server_name: "mangahub",
        server_version: "1",
        caps: List::Plain(&[]),
        resume: ResumeToken::new(1, 2, 3),
    }
}
