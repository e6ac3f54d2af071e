//! Streams of frames and of JSON lines from a seed: taken from the corpus, then changed along their structure, so that most of
//! an input still is what it claims to be. Included by path, beside the driver, into the rooms that read such streams.
#![allow(dead_code, unreachable_pub, missing_docs, reason = "each test takes its part")]

use proto::frame::{HEADER_BYTES, Header, Kind, MAGIC, PREAMBLE_BYTES};

use crate::driver::{Dice, spoil};

/// A stream of the corpus whose frames are changed one by one, so that most of it still looks like frames.
pub fn frames(dice: &mut Dice, corpus: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = dice.pick(corpus).clone();
    if dice.one_in(8) {
        spoil(dice, &mut bytes, 6, corpus, &[]);
        return bytes;
    }
    let greeted = bytes.starts_with(&MAGIC) && bytes.len() >= PREAMBLE_BYTES;
    let (preamble, rest) = bytes.split_at(if greeted { PREAMBLE_BYTES } else { 0 });
    let mut frames = split(rest);
    if dice.one_in(3) {
        frames.extend(split(&corpus[dice.below(corpus.len())]));
    }
    for _ in 0..=dice.below(3) {
        change_one(dice, &mut frames, corpus);
    }
    let mut out = preamble.to_vec();
    join(&frames, &mut out);
    out
}

pub fn join(frames: &[(Header, Vec<u8>)], out: &mut Vec<u8>) {
    for (header, payload) in frames {
        out.extend_from_slice(&header.to_bytes());
        out.extend_from_slice(payload);
    }
}

/// The frames of a stream as their headers announce them, however wrong they are.
pub fn split(mut bytes: &[u8]) -> Vec<(Header, Vec<u8>)> {
    let mut frames = Vec::new();
    while let Some((header, rest)) = bytes.split_first_chunk::<HEADER_BYTES>() {
        let header = Header::from_bytes(header);
        let end = (header.length as usize).min(rest.len());
        frames.push((header, rest[..end].to_vec()));
        bytes = &rest[end..];
    }
    frames
}

fn change_one(dice: &mut Dice, frames: &mut Vec<(Header, Vec<u8>)>, corpus: &[Vec<u8>]) {
    if frames.is_empty() {
        let kind = *dice.pick(Kind::ALL);
        frames.push((Header::new(kind, 0, dice.edge()), Vec::new()));
    }
    let at = dice.below(frames.len());
    let other = dice.below(frames.len());
    let (header, payload) = &mut frames[at];
    match dice.below(10) {
        // The root lies at the end of an archive, with its pointers and flags: it is hit more often than chance would.
        0..=2 => {
            let start = payload.len().saturating_sub(112);
            let mut root = payload.split_off(start);
            let length = root.len();
            spoil(dice, &mut root, 2, corpus, &[]);
            root.resize(length, 0);
            payload.extend(root);
        }
        3 | 4 => {
            let length = payload.len();
            spoil(dice, payload, 4, corpus, &[]);
            payload.resize(length, 0);
        }
        5 => {
            payload.resize(dice.below(20) * 16, dice.roll() as u8);
            header.length = payload.len() as u32;
        }
        6 => header.kind = if dice.one_in(4) { dice.roll() as u16 } else { *dice.pick(Kind::ALL) as u16 },
        7 => {
            header.flags = if dice.one_in(4) { dice.roll() as u16 } else { 1 };
            header.seq = dice.edge();
        }
        8 => {
            header.length = (header.length as u64).wrapping_add(dice.below(65) as u64).wrapping_sub(32) as u32;
        }
        _ => {
            let frame = frames[other].clone();
            frames.insert(at, frame);
        }
    }
}

/// Words of the format, and what JSON readers stumble over.
const WORDS: &[&[u8]] = &[
    b"\"", b"{", b"}", b"[", b"]", b":", b",", b"\\", b"\n", b"\r\n", b"null", b"true", b"-0", b"1e400", b"1e-400", b"0.005", b"100000000",
    b"18446744073709551616", b"9223372036854775808", b"9007199254740993", b"-1", b"5.5", b"\"5.50\"", b"\\ud800", b"\\ud83d\\ude00",
    b"\\u0000", b"\xff", b"\xf0\x9f\x93\x9a", b"\"type\":", b"\"data\":", b"\"auth\"", b"\"progress_update\"", b"\"heartbeat\"",
    b"\"disconnect\"", b"\"progress_ack\"", b"\"conflict\"", b"\"error\"", b"\"system\"", b"\"pong\"", b"\"manga_id\":", b"\"chapter\":",
    b"\"device_seq\":", b"\"conflict_token\":", b"\"status\":\"plan-to-read\"", b"\"status\":\"RE_READING\"", b"\"force\":",
    b"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[",
];

/// Lines of the corpus with values exchanged between the punctuation, so that most of it still is JSON.
pub fn lines(dice: &mut Dice, corpus: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = dice.pick(corpus).clone();
    if dice.one_in(3) {
        let other = dice.pick(corpus);
        bytes.extend_from_slice(other);
    }
    if dice.one_in(512) {
        // A line about as long as one may be.
        let at = dice.below(bytes.len());
        let filling = vec![b' '; proto::line::LINE_BYTES_MAX - 64 + dice.below(128)];
        bytes.splice(at..at, filling);
    }
    if dice.one_in(4) {
        spoil(dice, &mut bytes, 5, corpus, WORDS);
        return bytes;
    }
    for _ in 0..=dice.below(3) {
        let spans = values(&bytes);
        if spans.is_empty() {
            break;
        }
        let (start, end) = *dice.pick(&spans);
        let value = match dice.below(3) {
            0 => dice.pick(WORDS).to_vec(),
            1 => {
                let (start, end) = *dice.pick(&spans);
                bytes[start..end].to_vec()
            }
            _ => {
                let mut value = bytes[start..end].to_vec();
                spoil(dice, &mut value, 1, corpus, WORDS);
                value
            }
        };
        bytes.splice(start..end, value);
    }
    bytes
}

/// Where the pieces between JSON's punctuation lie; text with punctuation in it falls apart, which is fine here.
fn values(bytes: &[u8]) -> Vec<(usize, usize)> {
    let mut spans = Vec::new();
    let mut start = 0;
    for (at, byte) in bytes.iter().enumerate() {
        if b"{}[]:,\n".contains(byte) {
            if at > start {
                spans.push((start, at));
            }
            start = at + 1;
        }
    }
    spans
}
