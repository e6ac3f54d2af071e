//! The byte vectors of `proto/vectors/`: written from the code, compared with what is committed, and read back. A difference is
//! a change of the protocol; `UPDATE_VECTORS=1 cargo test -p mangahub-proto --test vectors` writes them anew when it is meant.
//! `tests/vectors.py` reads and writes the same bytes with nothing but the Python standard library.

#![allow(clippy::unwrap_used, reason = "outside of the test functions too, a failure is the test's")]

mod cases;

use std::path::PathBuf;

use proto::frame::{
    Caps, ClientFrame, Header, List, Preamble, ProgressEntry, RawFrame, Receiver, ServerFrame, split_frame,
};
use rkyv::util::AlignedVec;
use serde_json::{Value, json};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn optional(bytes: Option<&[u8; 16]>) -> Value {
    bytes.map_or(Value::Null, |bytes| hex(bytes).into())
}

fn entry(entry: &ProgressEntry) -> Value {
    json!({
        "manga": entry.manga.0,
        "version": entry.key.version.0,
        "generation": entry.key.generation.0,
        "chapter": entry.key.chapter.hundredths(),
        "page": entry.page.map(|page| page.0),
        "node": entry.key.node.0,
        "status": entry.status.map_or(0, |status| status.as_byte()),
        "device": optional(entry.device.as_ref().map(|device| device.as_bytes())),
        "deleted": entry.deleted,
        "ahead_of_catalogue": entry.ahead_of_catalogue,
    })
}

fn client_fields(frame: &ClientFrame<'_>) -> Value {
    match frame {
        ClientFrame::Hello(hello) => json!({
            "token": hello.token,
            "device": optional(hello.device.as_ref().map(|device| device.as_bytes())),
            "resume": hello.resume.to_string(),
            "client_name": hello.client_name,
            "client_version": hello.client_version,
            "wants": hello.wants,
        }),
        ClientFrame::SetProgress(set) => json!({
            "manga": set.manga.0,
            "device_seq": set.device_seq.map_or(0, |seq| seq.0),
            "chapter": set.chapter.hundredths(),
            "page": set.page.map(|page| page.0),
            "status": set.status.map_or(0, |status| status.as_byte()),
            "force": set.force,
            "ack_database": set.ack_database,
            "conflict_token": optional(set.conflict_token.as_ref().map(|token| token.as_bytes())),
        }),
        ClientFrame::Get(get) => json!({ "manga": get.manga.map_or(0, |manga| manga.0) }),
        ClientFrame::CatchUp(catch_up) => json!({ "since": catch_up.since.to_string() }),
        ClientFrame::NoticeAck(ack) => json!({ "id": ack.id }),
        ClientFrame::Ping(ping) => json!({ "nonce": ping.nonce }),
        ClientFrame::Pong(pong) => json!({ "nonce": pong.nonce, "unix_ms": pong.unix_ms }),
        ClientFrame::Bye(bye) => bye_fields(bye),
        ClientFrame::Ignored => Value::Null,
    }
}

fn bye_fields(bye: &proto::frame::Bye<'_>) -> Value {
    json!({
        "code": bye.code,
        "detail": bye.detail,
        "retry_after_ms": bye.retry_after_ms,
        "resume": bye.resume.to_string(),
    })
}

fn server_fields(frame: &ServerFrame<'_>) -> Value {
    match frame {
        ServerFrame::Welcome(welcome) => json!({
            "session": hex(welcome.session.as_bytes()),
            "user": hex(welcome.user.as_bytes()),
            "username": welcome.username,
            "window": welcome.window,
            "idle_timeout_ms": welcome.idle_timeout_ms,
            "last_seq": welcome.last_seq,
            "server_name": welcome.server_name,
            "server_version": welcome.server_version,
            "caps": welcome.caps.iter().map(|cap| json!([cap.kind, cap.payload_bytes_max])).collect::<Vec<_>>(),
            "resume": welcome.resume.to_string(),
        }),
        ServerFrame::Ack(ack) => json!({
            "up_to_seq": ack.up_to_seq,
            "manga": ack.manga.0,
            "version": ack.key.version.0,
            "generation": ack.key.generation.0,
            "chapter": ack.key.chapter.hundredths(),
            "page": ack.page.map(|page| page.0),
            "node": ack.key.node.0,
            "status": ack.status.map_or(0, |status| status.as_byte()),
            "already": ack.already,
            "cumulative": ack.cumulative,
            "ahead_of_catalogue": ack.ahead_of_catalogue,
            "offers_completed": ack.offers_completed,
        }),
        ServerFrame::Reject(reject) => json!({
            "seq": reject.seq,
            "code": reject.code,
            "detail": reject.detail,
            "retry_after_ms": reject.retry_after_ms,
            "stored": reject.stored.as_ref().map(entry),
            "conflict_token": optional(reject.conflict_token.as_ref().map(|token| token.as_bytes())),
        }),
        ServerFrame::Progress(progress) => entry(progress),
        ServerFrame::State(state) => json!({
            "entries": state.entries.iter().map(|one| entry(&one)).collect::<Vec<_>>(),
            "last": state.last,
            "snapshot": state.snapshot,
        }),
        ServerFrame::CaughtUp(end) => json!({
            "resume": end.resume.to_string(),
            "entries": end.entries,
            "snapshot": end.snapshot,
        }),
        ServerFrame::Notice(notice) => json!({
            "id": notice.id,
            "notice_kind": notice.kind as u8,
            "manga": notice.manga.0,
            "created_unix_ms": notice.created_unix_ms,
            "chapter": notice.chapter.map(|chapter| chapter.hundredths()),
            "old_chapter": notice.old_chapter.map(|chapter| chapter.hundredths()),
            "title": notice.title,
            "message": notice.message,
            "changes": notice.changes.iter().map(|one| json!([one.field, one.old_value, one.new_value])).collect::<Vec<_>>(),
        }),
        ServerFrame::Ping(ping) => json!({ "nonce": ping.nonce }),
        ServerFrame::Pong(pong) => json!({ "nonce": pong.nonce, "unix_ms": pong.unix_ms }),
        ServerFrame::Bye(bye) => bye_fields(bye),
        ServerFrame::Ignored => Value::Null,
    }
}

/// Aligned bytes, as a receive buffer has them.
fn aligned(bytes: &[u8]) -> AlignedVec<16> {
    let mut buffer = AlignedVec::new();
    buffer.extend_from_slice(bytes);
    buffer
}

fn vector(name: &str, from: &str, bytes: &[u8]) -> Value {
    let buffer = aligned(bytes);
    let frame = split_frame(&buffer, &Caps::default()).unwrap().unwrap();
    assert_eq!(frame.consumed(), bytes.len(), "{name} is exactly one frame");
    let fields = if from == "client" {
        client_fields(&frame.from_client().unwrap())
    } else {
        server_fields(&frame.from_server().unwrap())
    };
    json!({
        "name": name,
        "from": from,
        "kind": frame.kind().unwrap().name(),
        "seq": frame.header.seq,
        "fields": fields,
        "hex": hex(bytes),
    })
}

/// What a server makes of bytes from a client that may be broken.
fn outcome(bytes: &[u8]) -> Value {
    let buffer = aligned(bytes);
    match split_frame(&buffer, &Caps::default()) {
        Err(error) => json!({ "outcome": "close", "code": error.code().as_str() }),
        Ok(None) => json!({ "outcome": "need_more" }),
        Ok(Some(frame)) => match frame.from_client() {
            Err(error) => json!({ "outcome": "reject", "code": error.code().as_str(), "seq": frame.header.seq }),
            Ok(ClientFrame::Ignored) => json!({ "outcome": "ignored" }),
            Ok(frame) => panic!("a broken vector is read as {frame:?}"),
        },
    }
}

fn preamble_outcome(bytes: &[u8]) -> Value {
    match Preamble::read(bytes) {
        Err(error) => json!({ "outcome": "close", "code": error.code().as_str() }),
        Ok(None) => json!({ "outcome": "need_more" }),
        Ok(Some(preamble)) => json!({ "outcome": "version", "version": preamble.version }),
    }
}

/// One vector per line, so that a difference shows which.
fn committed(file: &str, vectors: &[Value]) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("vectors").join(file);
    let lines: Vec<String> = vectors.iter().map(Value::to_string).collect();
    let text = format!("[\n{}\n]\n", lines.join(",\n"));
    if std::env::var_os("UPDATE_VECTORS").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let stored = std::fs::read_to_string(&path).unwrap_or_default();
    for (old, new) in stored.lines().zip(text.lines()) {
        assert_eq!(old, new, "{file} differs from what the code writes: a change of the protocol");
    }
    assert_eq!(stored, text, "{file} holds other vectors than the code writes");
}

#[test]
fn the_committed_frames_are_what_the_code_writes_and_reads() {
    let client = cases::client_frames().into_iter().map(|(name, bytes)| vector(&name, "client", &bytes));
    let server = cases::server_frames().into_iter().map(|(name, bytes)| vector(&name, "server", &bytes));
    committed("frames.json", &client.chain(server).collect::<Vec<_>>());
}

#[test]
fn the_committed_broken_frames_are_refused_as_they_say() {
    let with = |name: &str, bytes: &[u8], mut outcome: Value| {
        outcome["name"] = name.into();
        outcome["hex"] = hex(bytes).into();
        outcome
    };
    let frames = cases::broken_frames().into_iter().map(|(name, bytes)| with(&name, &bytes, outcome(&bytes)));
    committed("broken.json", &frames.collect::<Vec<_>>());
    let preambles = cases::preambles().into_iter().map(|(name, bytes)| with(name, &bytes, preamble_outcome(&bytes)));
    committed("preambles.json", &preambles.collect::<Vec<_>>());
}

#[test]
fn every_kind_has_a_vector() {
    let all: Vec<_> = cases::client_frames().into_iter().chain(cases::server_frames()).collect();
    for kind in proto::frame::Kind::ALL {
        let number = (*kind as u16).to_le_bytes();
        assert!(all.iter().any(|(_, bytes)| bytes[4..6] == number), "{kind} has no vector");
    }
}

#[test]
fn every_truncation_of_every_frame_needs_more() {
    for (name, bytes) in cases::client_frames().into_iter().chain(cases::server_frames()) {
        let buffer = aligned(&bytes);
        for end in 0..bytes.len() {
            assert!(matches!(split_frame(&buffer[..end], &Caps::default()), Ok(None)), "{name} cut at {end}");
        }
    }
}

#[test]
fn frames_come_out_of_a_receiver_whatever_the_pieces_they_come_in() {
    let frames = cases::server_frames();
    let stream: Vec<u8> = frames.iter().flat_map(|(_, bytes)| bytes.clone()).collect();
    for piece in [1, 7, 16, 100, 4096] {
        let mut receiver = Receiver::new(Caps::default());
        receiver.extend(&Preamble::CURRENT.to_bytes());
        assert!(receiver.preamble().unwrap().is_some());
        let mut at = 0;
        for bytes in stream.chunks(piece) {
            receiver.extend(bytes);
            while let Some(frame) = receiver.next_frame().unwrap() {
                frame.from_server().unwrap();
                let (name, expected) = &frames[at];
                assert_eq!(frame.payload, &expected[16..], "{name} in pieces of {piece}");
                at += 1;
            }
        }
        assert_eq!(at, frames.len());
    }
}

#[test]
fn a_state_written_by_hand_is_the_archive_that_is_read() {
    let entries = cases::entries();
    let state = proto::frame::State { entries: List::Plain(&entries), last: true, snapshot: false };
    let mut bytes = Vec::new();
    state.encode(9, &mut bytes);
    let buffer = aligned(&bytes);
    let raw = RawFrame { header: Header::from_bytes(bytes[..16].try_into().unwrap()), payload: &buffer[16..] };
    assert_eq!(raw.from_server().unwrap(), ServerFrame::State(state));
}
