//! The price of a message on the wire: SetProgress and Ack as frames, as JSON (serde_json) and as protobuf (prost), the same
//! fields in each. Decoding ends in the checked, typed value that the server works with (the others only parse and do not check
//! values, which flatters them). Floors against regression, not capacity.

#![allow(missing_docs, reason = "the benchmark macros make public items")]

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use prost::Message;
use proto::frame::{Ack, Caps, ClientFrame, ServerFrame, SetProgress, split_frame};
use proto::{Chapter, ConflictToken, DeviceSeq, MangaId, MergeKey, NodeId, Page, ReadingStatus, Version};
use serde::{Deserialize, Serialize};

/// Frames that one read brings, in the pipelined case.
const BATCH: usize = 64;

#[derive(Clone, Message, Serialize, Deserialize)]
struct PlainSetProgress {
    #[prost(uint64, tag = "1")]
    seq: u64,
    #[prost(int64, tag = "2")]
    manga: i64,
    #[prost(uint64, tag = "3")]
    device_seq: u64,
    #[prost(uint32, tag = "4")]
    chapter: u32,
    #[prost(uint32, optional, tag = "5")]
    page: Option<u32>,
    #[prost(uint32, tag = "6")]
    status: u32,
    #[prost(bool, tag = "7")]
    force: bool,
    #[prost(bool, tag = "8")]
    ack_database: bool,
    #[prost(bytes = "vec", tag = "9")]
    conflict_token: Vec<u8>,
}

#[derive(Clone, Message, Serialize, Deserialize)]
struct PlainAck {
    #[prost(uint64, tag = "1")]
    up_to_seq: u64,
    #[prost(int64, tag = "2")]
    manga: i64,
    #[prost(uint64, tag = "3")]
    version: u64,
    #[prost(uint64, tag = "4")]
    generation: u64,
    #[prost(uint32, tag = "5")]
    chapter: u32,
    #[prost(uint32, optional, tag = "6")]
    page: Option<u32>,
    #[prost(uint32, tag = "7")]
    node: u32,
    #[prost(uint32, tag = "8")]
    status: u32,
    #[prost(uint32, tag = "9")]
    flags: u32,
}

fn set_progress(at: u64) -> SetProgress {
    SetProgress {
        manga: MangaId(4_711 + at as i64),
        device_seq: Some(DeviceSeq(1_000_000 + at)),
        chapter: Chapter::whole(95),
        page: Some(Page(17)),
        status: Some(ReadingStatus::Reading),
        force: false,
        ack_database: false,
        conflict_token: ConflictToken::from_bytes([0; 16]),
    }
}

fn plain_set_progress(set: &SetProgress, seq: u64) -> PlainSetProgress {
    PlainSetProgress {
        seq,
        manga: set.manga.0,
        device_seq: set.device_seq.map_or(0, |seq| seq.0),
        chapter: set.chapter.hundredths(),
        page: set.page.map(|page| page.0),
        status: set.status.map_or(0, |status| u32::from(status.as_byte())),
        force: set.force,
        ack_database: set.ack_database,
        conflict_token: Vec::new(),
    }
}

fn ack() -> Ack {
    let version = Version::from_unix_ms(1_763_690_000_123);
    Ack {
        up_to_seq: 1_000_000,
        manga: MangaId(4_711),
        key: MergeKey { generation: version, chapter: Chapter::whole(95), version, node: NodeId(0xA0B0_C0D0) },
        page: Some(Page(17)),
        status: Some(ReadingStatus::Reading),
        already: false,
        cumulative: true,
        ahead_of_catalogue: false,
        offers_completed: false,
    }
}

fn plain_ack(ack: &Ack) -> PlainAck {
    PlainAck {
        up_to_seq: ack.up_to_seq,
        manga: ack.manga.0,
        version: ack.key.version.0,
        generation: ack.key.generation.0,
        chapter: ack.key.chapter.hundredths(),
        page: ack.page.map(|page| page.0),
        node: ack.key.node.0,
        status: ack.status.map_or(0, |status| u32::from(status.as_byte())),
        flags: 2,
    }
}

/// Encoded bytes at a 16-aligned address, as a receive buffer has them.
struct Aligned {
    bytes: Vec<u8>,
    start: usize,
}

impl Aligned {
    fn new(encoded: &[u8]) -> Self {
        let mut bytes = vec![0; encoded.len() + 16];
        let start = bytes.as_ptr().align_offset(16);
        bytes[start..start + encoded.len()].copy_from_slice(encoded);
        bytes.truncate(start + encoded.len());
        Self { bytes, start }
    }

    fn get(&self) -> &[u8] {
        &self.bytes[self.start..]
    }
}

fn encode(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("encode");
    let (set, ack) = (set_progress(0), ack());
    let (plain_set, plain_ack) = (plain_set_progress(&set, 7), plain_ack(&ack));
    let mut out = Vec::with_capacity(4096);
    let mut bench = |name: &str, message: &str, write: &mut dyn FnMut(&mut Vec<u8>)| {
        group.bench_function(BenchmarkId::new(name, message), |bencher| {
            bencher.iter(|| {
                out.clear();
                write(&mut out);
                black_box(&out);
            });
        });
    };
    bench("frame", "SetProgress", &mut |out| black_box(&set).encode(7, out));
    bench("serde_json", "SetProgress", &mut |out| {
        serde_json::to_writer(out, black_box(&plain_set)).expect("plain fields");
    });
    bench("prost", "SetProgress", &mut |out| black_box(&plain_set).encode(out).expect("a vector grows"));
    bench("frame", "Ack", &mut |out| black_box(&ack).encode(out));
    bench("serde_json", "Ack", &mut |out| {
        serde_json::to_writer(out, black_box(&plain_ack)).expect("plain fields");
    });
    bench("prost", "Ack", &mut |out| black_box(&plain_ack).encode(out).expect("a vector grows"));
    group.finish();
}

fn decode(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decode");
    let caps = Caps::default();
    let (set, ack) = (set_progress(0), ack());
    let (plain_set, plain_ack) = (plain_set_progress(&set, 7), plain_ack(&ack));
    let (mut set_frame, mut ack_frame) = (Vec::new(), Vec::new());
    set.encode(7, &mut set_frame);
    ack.encode(&mut ack_frame);
    let (set_frame, ack_frame) = (Aligned::new(&set_frame), Aligned::new(&ack_frame));
    let (set_json, ack_json) =
        (serde_json::to_vec(&plain_set).expect("plain fields"), serde_json::to_vec(&plain_ack).expect("plain fields"));
    let (set_prost, ack_prost) = (plain_set.encode_to_vec(), plain_ack.encode_to_vec());

    group.bench_function(BenchmarkId::new("frame", "SetProgress"), |bencher| {
        bencher.iter(|| {
            let frame = split_frame(black_box(set_frame.get()), &caps).expect("whole").expect("good");
            let Ok(ClientFrame::SetProgress(set)) = frame.from_client() else { panic!("a SetProgress") };
            black_box(set)
        });
    });
    group.bench_function(BenchmarkId::new("serde_json", "SetProgress"), |bencher| {
        bencher.iter(|| serde_json::from_slice::<PlainSetProgress>(black_box(&set_json)).expect("good"));
    });
    group.bench_function(BenchmarkId::new("prost", "SetProgress"), |bencher| {
        bencher.iter(|| PlainSetProgress::decode(black_box(&set_prost[..])).expect("good"));
    });
    group.bench_function(BenchmarkId::new("frame", "Ack"), |bencher| {
        bencher.iter(|| {
            let frame = split_frame(black_box(ack_frame.get()), &caps).expect("whole").expect("good");
            let Ok(ServerFrame::Ack(ack)) = frame.from_server() else { panic!("an Ack") };
            black_box(ack)
        });
    });
    group.bench_function(BenchmarkId::new("serde_json", "Ack"), |bencher| {
        bencher.iter(|| serde_json::from_slice::<PlainAck>(black_box(&ack_json)).expect("good"));
    });
    group.bench_function(BenchmarkId::new("prost", "Ack"), |bencher| {
        bencher.iter(|| PlainAck::decode(black_box(&ack_prost[..])).expect("good"));
    });
    group.finish();
}

/// What a shard does with one read of pipelined updates: split, check, read, frame by frame.
fn stream(criterion: &mut Criterion) {
    let caps = Caps::default();
    let mut bytes = Vec::new();
    (0..BATCH as u64).for_each(|at| set_progress(at).encode(at + 1, &mut bytes));
    let stream = Aligned::new(&bytes);
    let mut group = criterion.benchmark_group("stream");
    group.throughput(Throughput::Elements(BATCH as u64));
    group.bench_function(BenchmarkId::new("frame", BATCH), |bencher| {
        bencher.iter(|| {
            let mut rest = black_box(stream.get());
            let mut chapters = 0_u64;
            while let Some(frame) = split_frame(rest, &caps).expect("good") {
                let Ok(ClientFrame::SetProgress(set)) = frame.from_client() else { panic!("a SetProgress") };
                chapters += u64::from(set.chapter.hundredths());
                rest = &rest[frame.consumed()..];
            }
            black_box(chapters)
        });
    });
    group.finish();
}

criterion_group!(frames, encode, decode, stream);
criterion_main!(frames);
