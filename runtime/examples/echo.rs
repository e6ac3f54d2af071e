//! The bare echo: the load harness's frames on this runtime, answered at once. A shard per core, the guard's `spawn` for every
//! connection, a read, an Ack-sized frame for every frame; no rules, no journal, no second task. What a server on this runtime
//! takes beyond it is its own.
//!
//! `cargo build --release -p mangahub-runtime --example echo`; `loadtest compare --with echo` starts it. It prints its address
//! and serves until it is killed.

#![allow(clippy::unwrap_used, clippy::print_stdout)] // A measuring tool.

use proto::frame::{
    ALIGNMENT_BYTES, Ack, Caps, FRAME_BYTES_MAX, Kind, KindCap, List, PREAMBLE_BYTES, Preamble, RawFrame, ResumeToken,
    State, Welcome, split_frame,
};
use proto::{Chapter, MangaId, MergeKey, NodeId, SessionId, UserId, Version};
use runtime::{
    FleetConfig, ShardContext,
    buffer::AlignedBuf,
    fleet,
    net::{ListenerConfig, TcpListener, TcpStream},
    probe, topology,
};

/// Bytes of a read's buffer: what a quiet connection of the server has.
const READ_BYTES: usize = 4 * 1024;
/// Updates without an answer, per connection.
const WINDOW: u32 = 4_096;

async fn converse(mut stream: TcpStream) {
    let caps = Caps::frames_of(FRAME_BYTES_MAX);
    let mut buffer = AlignedBuf::with_capacity(ALIGNMENT_BYTES, READ_BYTES);
    let mut out = Preamble::CURRENT.to_bytes().to_vec();
    let mut greeted = false;
    loop {
        let (read, filled) = stream.read(buffer).await;
        buffer = filled;
        if !matches!(read, Ok(count) if count > 0) {
            return;
        }
        if !greeted && buffer.len() >= PREAMBLE_BYTES {
            buffer.consume(PREAMBLE_BYTES);
            greeted = true;
        }
        let mut used = 0;
        while greeted && used < buffer.len() {
            match split_frame(&buffer.as_slice()[used..], &caps) {
                Ok(Some(frame)) => {
                    used += frame.consumed();
                    answer(&frame, &caps, &mut out);
                }
                Ok(None) => break,
                Err(_) => return,
            }
        }
        buffer.consume(used);
        if buffer.len() == buffer.capacity() {
            buffer.reserve(READ_BYTES);
        }
        if !out.is_empty() {
            let (written, back) = stream.write_all(out).await;
            out = back;
            out.clear();
            if written.is_err() {
                return;
            }
        }
    }
}

/// An update is not even decoded: its header says all that an answer needs.
fn answer(frame: &RawFrame<'_>, caps: &Caps, out: &mut Vec<u8>) {
    let seq = frame.header.seq;
    match frame.kind() {
        Some(Kind::SetProgress) => {
            let ack = Ack {
                up_to_seq: seq,
                manga: MangaId(1),
                key: MergeKey { generation: Version(1), chapter: Chapter::ZERO, version: Version(2), node: NodeId(1) },
                page: None,
                status: None,
                already: false,
                cumulative: false,
                ahead_of_catalogue: false,
                offers_completed: false,
            };
            ack.encode(out);
        }
        Some(Kind::Get) => State { entries: List::Plain(&[]), last: true, snapshot: false }.encode(seq, out),
        Some(Kind::Hello) => {
            let welcome = Welcome {
                session: SessionId::from_bytes([1; 16]),
                user: UserId::from_bytes([1; 16]),
                username: "echo",
                window: WINDOW,
                idle_timeout_ms: 300_000,
                last_seq: 0,
                server_name: "echo",
                server_version: "1",
                caps: List::Plain(&KindCap::all(caps)),
                resume: ResumeToken::NONE,
            };
            welcome.encode(seq, out).unwrap();
        }
        _ => {}
    }
}

async fn serve(context: ShardContext, reserved: std::net::TcpListener) {
    let mut listener = TcpListener::attach(reserved, &ListenerConfig::default()).unwrap();
    drop(runtime::spawn_essential("accept", async move {
        while let Ok((stream, _)) = listener.accept().await {
            drop(runtime::spawn(converse(stream)));
        }
    }));
    context.stop.stopped().await;
}

fn main() {
    let topology = topology::detect(None).unwrap();
    let config = FleetConfig::new(topology.clone(), probe::probe(None).unwrap());
    let reserve = |address| TcpListener::reserve(address, &ListenerConfig::default()).unwrap();
    let first = reserve(([127, 0, 0, 1], 0).into());
    let address = first.local_addr().unwrap();
    let others = (1..topology.shards.len()).map(|_| reserve(address));
    let mut listeners: Vec<_> = std::iter::once(first).chain(others).map(Some).collect();
    let fleet = fleet::start(config, |shard| {
        let reserved = listeners[shard].take().unwrap();
        move |context| serve(context, reserved)
    });
    let fleet = fleet.unwrap();
    println!("{address}");
    fleet.join();
}
