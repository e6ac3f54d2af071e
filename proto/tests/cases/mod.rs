//! The frames that the vectors are made of: several of each kind, at and around their limits, and broken ones.

use proto::frame::*;
use proto::{
    Chapter, Code, ConflictToken, DeviceId, DeviceSeq, MangaId, MergeKey, NodeId, Page, ReadingStatus, SessionId,
    UserId, Version,
};

pub(crate) type Named<T> = Vec<(T, Vec<u8>)>;

const DEVICE: [u8; 16] = [0xD0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];

fn chapter(hundredths: u32) -> Chapter {
    Chapter::from_hundredths(hundredths).unwrap()
}

fn key(seed: u64) -> MergeKey {
    MergeKey {
        generation: Version(0x1_0000_0000 + seed),
        chapter: chapter(550 + seed as u32),
        version: Version(0x1F_FFFF_FFFF_FFFF - seed),
        node: NodeId(0xA0B0_C0D0),
    }
}

pub(crate) fn entries() -> Vec<ProgressEntry> {
    let plain = ProgressEntry {
        manga: MangaId(7),
        key: key(0),
        page: None,
        status: None,
        device: None,
        deleted: false,
        ahead_of_catalogue: false,
    };
    vec![
        plain,
        ProgressEntry {
            manga: MangaId(i64::MAX),
            key: key(1),
            page: Some(Page(12)),
            status: Some(ReadingStatus::ReReading),
            device: Some(DeviceId::from_bytes(DEVICE)),
            ahead_of_catalogue: true,
            ..plain
        },
        ProgressEntry { manga: MangaId(1), page: Some(Page(0)), deleted: true, ..plain },
    ]
}

fn set_progress() -> Vec<(&'static str, u64, SetProgress)> {
    let plain = SetProgress::new(MangaId(7), chapter(0));
    vec![
        ("the least", 1, plain),
        (
            "everything",
            u64::MAX,
            SetProgress {
                manga: MangaId(i64::MAX),
                device_seq: Some(DeviceSeq(0x0102_0304_0506_0708)),
                chapter: Chapter::MAX,
                page: Some(Page(u32::MAX)),
                status: Some(ReadingStatus::ReReading),
                force: true,
                ack_database: true,
                conflict_token: ConflictToken::from_bytes(DEVICE),
            },
        ),
        ("chapter 5.5, page 0", 2, SetProgress { chapter: chapter(550), page: Some(Page(0)), ..plain }),
        ("force", 3, SetProgress { chapter: chapter(100), force: true, ..plain }),
        ("wait for the database", 4, SetProgress { chapter: chapter(200), ack_database: true, ..plain }),
        ("status only kept apart", 5, SetProgress { status: Some(ReadingStatus::OnHold), ..plain }),
    ]
}

fn frame(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = Vec::new();
    write(&mut bytes);
    bytes
}

pub(crate) fn client_frames() -> Named<String> {
    let mut all: Named<String> = Vec::new();
    let mut add = |name: &str, bytes: Vec<u8>| all.push((name.to_owned(), bytes));
    let hello = Hello {
        token: "eyJhbGciOiJIUzI1NiJ9.e30.signature",
        device: Some(DeviceId::from_bytes(DEVICE)),
        resume: ResumeToken::new(0x1122_3344_5566_7788, 3, 77),
        client_name: "vectors",
        client_version: "1.0",
        wants: wants::PROGRESS | wants::NOTICES | wants::CATCH_UP,
    };
    add("Hello", frame(|out| hello.encode(1, out).unwrap()));
    let bare =
        Hello { token: "t", device: None, resume: ResumeToken::NONE, client_name: "", client_version: "", wants: 0 };
    add("Hello, bare", frame(|out| bare.encode(1, out).unwrap()));
    add("Hello, not ASCII", frame(|out| Hello { client_name: "本読み 📚", ..bare }.encode(1, out).unwrap()));
    for (name, seq, set) in set_progress() {
        add(&format!("SetProgress, {name}"), frame(|out| set.encode(seq, out)));
    }
    add("Get, one", frame(|out| Get { manga: Some(MangaId(7)) }.encode(8, out)));
    add("Get, all", frame(|out| Get { manga: None }.encode(9, out)));
    add("CatchUp", frame(|out| CatchUp { since: ResumeToken::new(1, 2, 3) }.encode(10, out)));
    add("CatchUp, from nothing", frame(|out| CatchUp { since: ResumeToken::NONE }.encode(11, out)));
    add("NoticeAck", frame(|out| NoticeAck { id: 31 }.encode(12, out)));
    add("Ping", frame(|out| Ping { nonce: 0xDEAD_BEEF }.encode(13, out)));
    add("Pong", frame(|out| Pong { nonce: 5, unix_ms: 0 }.encode(14, out)));
    add("Bye", frame(|out| Bye::ORDINARY.encode(15, out)));
    all
}

fn acks() -> Vec<(&'static str, Ack)> {
    let plain = Ack {
        up_to_seq: 1,
        manga: MangaId(7),
        key: key(0),
        page: None,
        status: Some(ReadingStatus::Reading),
        already: false,
        cumulative: false,
        ahead_of_catalogue: false,
        offers_completed: false,
    };
    let everything = Ack {
        up_to_seq: u64::MAX,
        manga: MangaId(i64::MAX),
        page: Some(Page(3)),
        status: Some(ReadingStatus::Completed),
        already: true,
        cumulative: true,
        ahead_of_catalogue: true,
        offers_completed: true,
        ..plain
    };
    vec![
        ("plain", plain),
        ("everything", everything),
        ("cumulative", Ack { up_to_seq: 64, cumulative: true, ..plain }),
        ("already", Ack { already: true, page: Some(Page(0)), ..plain }),
    ]
}

pub(crate) fn server_frames() -> Named<String> {
    let mut all: Named<String> = Vec::new();
    let mut add = |name: &str, bytes: Vec<u8>| all.push((name.to_owned(), bytes));
    let caps = KindCap::all(&Caps::default());
    let welcome = Welcome {
        session: SessionId::from_bytes([0x5E; 16]),
        user: UserId::from_bytes([0x05; 16]),
        username: "reader",
        window: 4096,
        idle_timeout_ms: 300_000,
        last_seq: 17,
        server_name: "mangahub",
        server_version: "0.1.0",
        caps: List::Plain(&caps),
        resume: ResumeToken::new(1, 2, 40),
    };
    add("Welcome", frame(|out| welcome.encode(1, out).unwrap()));
    add("Welcome, no caps", frame(|out| Welcome { caps: List::Plain(&[]), ..welcome }.encode(1, out).unwrap()));
    for (name, ack) in acks() {
        add(&format!("Ack, {name}"), frame(|out| ack.encode(out)));
    }
    let reject = Reject::because(3, Code::ChapterOutOfRange, "Chapter 2000 exceeds this series' total (1100).");
    add("Reject", frame(|out| reject.encode(out)));
    let conflict = Reject {
        seq: 4,
        code: Code::Conflict as u16,
        detail: "",
        retry_after_ms: 0,
        stored: Some(entries()[1]),
        conflict_token: ConflictToken::from_bytes(DEVICE),
    };
    add("Reject, a conflict", frame(|out| conflict.encode(out)));
    let long = "x".repeat(2000);
    let busy = Reject { retry_after_ms: 250, ..Reject::because(5, Code::Busy, &long) };
    add("Reject, detail cut at 512 bytes", frame(|out| busy.encode(out)));
    for (at, entry) in entries().iter().enumerate() {
        add(&format!("Progress, {at}"), frame(|out| entry.encode(41 + at as u64, out)));
    }
    add("State", frame(|out| State::of(&entries()).encode(8, out)));
    add("State, empty", frame(|out| State::of(&[]).encode(8, out)));
    let entries = entries();
    let part = State { last: false, snapshot: true, ..State::of(&entries[..1]) };
    add("State, part of a snapshot", frame(|out| part.encode(9, out)));
    let end = CaughtUp { resume: ResumeToken::new(1, 2, 44), entries: 3, snapshot: true };
    add("CaughtUp", frame(|out| end.encode(10, out)));
    notices(&mut add);
    add("Ping", frame(|out| Ping { nonce: 6 }.encode(0, out)));
    add("Pong", frame(|out| Pong { nonce: 7, unix_ms: 1_763_690_000_123 }.encode(13, out)));
    let stopping = Bye {
        retry_after_ms: 1000,
        resume: ResumeToken::new(1, 2, 44),
        ..Bye::because(Code::ShuttingDown, "The server is stopping.")
    };
    add("Bye", frame(|out| stopping.encode(0, out)));
    all
}

fn notices(add: &mut impl FnMut(&str, Vec<u8>)) {
    let changes = [
        Change { field: "status", old_value: "ongoing", new_value: "completed" },
        Change { field: "author", old_value: "", new_value: "Ōkubo" },
    ];
    let notice = Notice {
        id: 31,
        kind: NoticeKind::MangaUpdate,
        manga: MangaId(7),
        created_unix_ms: 1_763_690_000_123,
        chapter: None,
        old_chapter: None,
        title: "A Title",
        message: "Updated: status, and author",
        changes: List::Plain(&changes),
    };
    add("Notice, an update", frame(|out| notice.encode(51, out).unwrap()));
    let chapters = Notice {
        kind: NoticeKind::NewChapter,
        chapter: Some(chapter(1050)),
        old_chapter: Some(chapter(1000)),
        message: "New chapter 10.5 available (was chapter 10)",
        changes: List::Plain(&[]),
        ..notice
    };
    add("Notice, a chapter", frame(|out| chapters.encode(52, out).unwrap()));
}

/// Changes one SetProgress frame at an offset of its payload.
fn broken_set(at: usize, bytes: &[u8]) -> Vec<u8> {
    let (_, seq, set) = set_progress().remove(2);
    let mut frame = frame(|out| set.encode(seq, out));
    frame[16 + at..16 + at + bytes.len()].copy_from_slice(bytes);
    frame
}

/// A Hello whose last bytes (the root) are changed at an offset of the root.
fn broken_hello(at: usize, bytes: &[u8]) -> Vec<u8> {
    const ROOT_BYTES: usize = 72;
    let (_, mut frame) = client_frames().remove(0);
    let root = frame.len() - ROOT_BYTES;
    frame[root + at..root + at + bytes.len()].copy_from_slice(bytes);
    frame
}

fn raw(length: u32, kind: u16, flags: u16, payload_bytes: usize) -> Vec<u8> {
    let mut bytes = Header { length, kind, flags, seq: 21 }.to_bytes().to_vec();
    bytes.resize(16 + payload_bytes, 0);
    bytes
}

pub(crate) fn broken_frames() -> Named<String> {
    let whole = broken_set(0, &[]);
    let mut bad_text = broken_hello(0, &[]);
    bad_text[16] = 0xFF;
    let mut all = vec![
        ("half a header", whole[..8].to_vec()),
        ("a header and half its payload", whole[..40].to_vec()),
        ("a length that is no multiple of 16", raw(40, 16, 0, 40)),
        ("header flags that are not defined", raw(48, 16, 2, 48)),
        ("more than SetProgress may carry", raw(64, 16, 0, 64)),
        ("more than any frame may carry, nothing of it sent", raw(0xFFFF_FFF0, 20, 0, 0)),
        ("more than any unknown kind may carry", raw(65_536, 999, 1, 0)),
        ("an unknown kind", raw(16, 999, 0, 16)),
        ("an unknown kind that may be ignored", raw(16, 999, 1, 16)),
        ("a kind that only servers send", raw(48, 17, 0, 48)),
        ("SetProgress, too short", raw(32, 16, 0, 32)),
        ("SetProgress, nothing", raw(0, 16, 0, 0)),
        ("SetProgress, manga 0", broken_set(0, &[0; 8])),
        ("SetProgress, manga -1", broken_set(0, &[0xFF; 8])),
        ("SetProgress, chapter beyond the last", broken_set(16, &100_000_001_u32.to_le_bytes())),
        ("SetProgress, a page without its flag", broken_set(20, &[1, 0, 0, 0, 0, 0])),
        ("SetProgress, status 7", broken_set(24, &[7])),
        ("SetProgress, flags that are not defined", broken_set(25, &[0x84])),
        ("SetProgress, reserved bytes in use", broken_set(31, &[1])),
        ("Hello, empty", raw(0, 1, 0, 0)),
        ("Hello, shorter than its root", raw(64, 1, 0, 64)),
        ("Hello, token before the payload", broken_hello(40, &(-4096_i32).to_le_bytes())),
        ("Hello, token beyond the payload", broken_hello(44, &u32::MAX.to_le_bytes())),
        ("Hello, token inside the root", broken_hello(40, &0_i32.to_le_bytes())),
        ("Hello, token not UTF-8", bad_text),
        ("Get, a negative series", {
            let mut bytes = raw(16, 19, 0, 16);
            bytes[16..24].copy_from_slice(&(-5_i64).to_le_bytes());
            bytes
        }),
        ("CatchUp, too short", raw(16, 21, 0, 16)),
    ];
    all.drain(..).map(|(name, bytes)| (name.to_owned(), bytes)).collect()
}

pub(crate) fn preambles() -> Named<&'static str> {
    let good = Preamble::CURRENT.to_bytes();
    vec![
        ("version 1", good.to_vec()),
        ("version 1, reserved bytes in use by a later sender", [&good[..6], &[1; 10]].concat()),
        ("half of it", good[..8].to_vec()),
        ("nothing yet", Vec::new()),
        ("version 0", Preamble { version: 0 }.to_bytes().to_vec()),
        ("a later version", Preamble { version: 9 }.to_bytes().to_vec()),
        ("JSON", b"{\"type\":\"auth\"}".to_vec()),
        ("TLS", vec![0x16]),
        ("a wrong second byte", vec![0xE7, b'X']),
    ]
}
