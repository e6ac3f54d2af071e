//! Properties of the frame layer: what is written is what is read, and no bytes whatever make it panic, allocate what a header
//! merely announces, or read outside of what it was given.

#![allow(clippy::unwrap_used, reason = "outside of the test functions too, a failure is the test's")]

use proptest::prelude::*;
use proto::frame::*;
use proto::{Chapter, ConflictToken, DeviceId, DeviceSeq, MangaId, MergeKey, NodeId, Page, ReadingStatus, Version};
use rkyv::util::AlignedVec;

fn aligned_copy(bytes: &[u8]) -> AlignedVec<16> {
    let mut buffer = AlignedVec::new();
    buffer.extend_from_slice(bytes);
    buffer
}

fn status() -> impl Strategy<Value = Option<ReadingStatus>> {
    (0_u8..=6).prop_map(ReadingStatus::from_byte)
}

fn chapter() -> impl Strategy<Value = Chapter> {
    (0..=Chapter::MAX.hundredths())
        .prop_map(|hundredths| Chapter::from_hundredths(hundredths).expect("within the range"))
}

fn manga() -> impl Strategy<Value = MangaId> {
    (1..=i64::MAX).prop_map(MangaId)
}

fn version() -> impl Strategy<Value = Version> {
    (0..=Version::MAX.0).prop_map(Version)
}

fn key() -> impl Strategy<Value = MergeKey> {
    (version(), chapter(), version(), any::<u32>()).prop_map(|(generation, chapter, version, node)| MergeKey {
        generation,
        chapter,
        version,
        node: NodeId(node),
    })
}

fn page() -> impl Strategy<Value = Option<Page>> {
    any::<Option<u32>>().prop_map(|page| page.map(Page))
}

fn resume() -> impl Strategy<Value = ResumeToken> {
    any::<(u64, u64, u64)>().prop_map(|(node, epoch, position)| ResumeToken::new(node, epoch, position))
}

prop_compose! {
    fn set_progress()(
        manga in manga(), seq in any::<u64>(), chapter in chapter(), page in page(), status in status(),
        force in any::<bool>(), ack_database in any::<bool>(), token in any::<[u8; 16]>(),
    ) -> SetProgress {
        let device_seq = Some(DeviceSeq(seq)).filter(|seq| seq.0 != 0);
        let conflict_token = ConflictToken::from_bytes(token);
        SetProgress { manga, device_seq, chapter, page, status, force, ack_database, conflict_token }
    }
}

prop_compose! {
    fn ack()(
        up_to_seq in any::<u64>(), manga in manga(), key in key(), page in page(), status in status(), flags in any::<[bool; 4]>(),
    ) -> Ack {
        let [already, cumulative, ahead_of_catalogue, offers_completed] = flags;
        Ack { up_to_seq, manga, key, page, status, already, cumulative, ahead_of_catalogue, offers_completed }
    }
}

prop_compose! {
    fn entry()(
        manga in manga(), key in key(), page in page(), status in status(), device in any::<[u8; 16]>(), flags in any::<[bool; 2]>(),
    ) -> ProgressEntry {
        let device = Some(DeviceId::from_bytes(device)).filter(|device| !device.is_nil());
        let [deleted, ahead_of_catalogue] = flags;
        ProgressEntry { manga, key, page, status, device, deleted, ahead_of_catalogue }
    }
}

/// Writes after something else of a multiple of 16, as a busy connection does, and reads it back.
fn through<R>(write: impl FnOnce(&mut Vec<u8>), read: impl FnOnce(RawFrame<'_>) -> R) -> R {
    let mut bytes = vec![0xAA; 32];
    write(&mut bytes);
    let buffer = aligned_copy(&bytes[32..]);
    let frame = split_frame(&buffer, &Caps::default()).unwrap().expect("a whole frame");
    assert_eq!(frame.consumed(), buffer.len());
    assert!(frame.consumed().is_multiple_of(16));
    read(frame)
}

fn client_reads(write: impl FnOnce(&mut Vec<u8>), expected: ClientFrame<'_>) {
    through(write, |frame| assert_eq!(frame.from_client().unwrap(), expected));
}

fn server_reads(write: impl FnOnce(&mut Vec<u8>), expected: ServerFrame<'_>) {
    through(write, |frame| assert_eq!(frame.from_server().unwrap(), expected));
}

proptest! {
    #[test]
    fn what_a_client_writes_is_what_the_server_reads(
        set in set_progress(), seq in any::<u64>(), id in any::<i64>(), since in resume(), asked in proptest::option::of(manga()),
    ) {
        client_reads(|out| set.encode(seq, out), ClientFrame::SetProgress(set));
        client_reads(|out| Get { manga: asked }.encode(seq, out), ClientFrame::Get(Get { manga: asked }));
        client_reads(|out| CatchUp { since }.encode(seq, out), ClientFrame::CatchUp(CatchUp { since }));
        client_reads(|out| NoticeAck { id }.encode(seq, out), ClientFrame::NoticeAck(NoticeAck { id }));
        client_reads(|out| Ping { nonce: seq }.encode(seq, out), ClientFrame::Ping(Ping { nonce: seq }));
    }

    #[test]
    fn a_hello_of_any_text_comes_back(
        token in ".{0,400}", name in ".{0,40}", version in ".{0,20}", device in any::<[u8; 16]>(), resume in resume(), wants in any::<u32>(),
    ) {
        let device = Some(DeviceId::from_bytes(device)).filter(|device| !device.is_nil());
        let hello = Hello { token: &token, device, resume, client_name: &name, client_version: &version, wants };
        client_reads(|out| hello.encode(1, out).unwrap(), ClientFrame::Hello(hello));
    }

    #[test]
    fn what_the_server_writes_is_what_a_client_reads(
        ack in ack(), entries in prop::collection::vec(entry(), 0..20), seq in any::<u64>(), flags in any::<[bool; 2]>(),
        resume in resume(), count in any::<u32>(), detail in ".{0,120}", token in any::<[u8; 16]>(), code in any::<u16>(),
    ) {
        server_reads(|out| ack.encode(out), ServerFrame::Ack(ack));
        let state = State { entries: List::Plain(&entries), last: flags[0], snapshot: flags[1] };
        server_reads(|out| state.encode(seq, out), ServerFrame::State(state));
        let end = CaughtUp { resume, entries: count, snapshot: flags[0] };
        server_reads(|out| end.encode(seq, out), ServerFrame::CaughtUp(end));
        let stored = entries.first().copied();
        if let Some(entry) = stored {
            server_reads(|out| entry.encode(seq, out), ServerFrame::Progress(entry));
        }
        let conflict_token = ConflictToken::from_bytes(token);
        let reject = Reject { seq, code, detail: &detail, retry_after_ms: count, stored, conflict_token };
        server_reads(|out| reject.encode(out), ServerFrame::Reject(reject));
        let bye = Bye { code, detail: &detail, retry_after_ms: count, resume };
        server_reads(|out| bye.encode(seq, out), ServerFrame::Bye(bye));
    }

    #[test]
    fn a_notice_of_any_text_comes_back(
        texts in prop::collection::vec((".{0,20}", ".{0,20}", ".{0,20}"), 0..NOTICE_CHANGES_MAX), title in ".{0,60}",
        message in ".{0,120}", id in any::<i64>(), manga in manga(), chapters in any::<[bool; 2]>(), chapter in chapter(),
    ) {
        let changes: Vec<Change<'_>> =
            texts.iter().map(|(field, old_value, new_value)| Change { field, old_value, new_value }).collect();
        let notice = Notice {
            id,
            kind: NoticeKind::MangaUpdate,
            manga,
            created_unix_ms: 1,
            chapter: chapters[0].then_some(chapter),
            old_chapter: chapters[1].then_some(chapter),
            title: &title,
            message: &message,
            changes: List::Plain(&changes),
        };
        server_reads(|out| notice.encode(7, out).unwrap(), ServerFrame::Notice(notice));
    }

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
        read_everything(&bytes);
    }

    #[test]
    fn random_payloads_of_known_kinds_never_panic(
        kind in prop::sample::select(Kind::ALL), payload in prop::collection::vec(any::<u8>(), 0..40), fill in any::<u8>(),
    ) {
        // Mostly zeros with a few wild bytes gets further into the archives than pure noise.
        let length = (payload.len() * 4).next_multiple_of(16).min(kind.payload_bytes_max() as usize);
        let mut bytes = Header::new(kind, length as u32, 1).to_bytes().to_vec();
        bytes.resize(16 + length, if fill & 1 == 0 { 0 } else { fill });
        let tail = payload.len().min(length);
        let end = bytes.len();
        bytes[end - tail..].copy_from_slice(&payload[..tail]);
        read_everything(&bytes);
    }

    #[test]
    fn one_flipped_byte_never_panics_and_never_leaves_the_payload(
        entries in prop::collection::vec(entry(), 1..4), at in any::<prop::sample::Index>(), value in any::<u8>(),
    ) {
        let mut bytes = Vec::new();
        State::of(&entries).encode(1, &mut bytes);
        let hello = Hello { token: "token", device: None, resume: ResumeToken::NONE, client_name: "n", client_version: "v", wants: 0 };
        hello.encode(2, &mut bytes).unwrap();
        let reject = Reject { stored: entries.first().copied(), ..Reject::because(1, proto::Code::Conflict, "behind") };
        reject.encode(&mut bytes);
        let at = at.index(bytes.len());
        bytes[at] = value;
        read_everything(&bytes);
    }
}

fn read_everything(bytes: &[u8]) {
    let buffer = aligned_copy(bytes);
    let mut rest = &buffer[..];
    while let Ok(Some(frame)) = split_frame(rest, &Caps::default()) {
        if let Ok(read) = frame.from_client() {
            let _ = format!("{read:?}");
        }
        if let Ok(read) = frame.from_server() {
            let _ = format!("{read:?}");
        }
        rest = &rest[frame.consumed()..];
    }
    let _ = Preamble::read(&buffer);
}

#[test]
fn what_a_header_announces_is_refused_before_it_is_waited_for() {
    for kind in Kind::ALL {
        let header = Header::new(*kind, kind.payload_bytes_max() + 16, 1);
        let buffer = aligned_copy(&header.to_bytes());
        let error = split_frame(&buffer, &Caps::default()).unwrap_err();
        assert!(matches!(error, FrameError::TooLarge { .. }), "{kind}: {error}");
        assert_eq!(bytes_needed(&buffer, &Caps::default()).unwrap_err(), error);

        let fits = Header::new(*kind, kind.payload_bytes_max(), 1);
        let buffer = aligned_copy(&fits.to_bytes());
        assert_eq!(bytes_needed(&buffer, &Caps::default()).unwrap(), 16 + kind.payload_bytes_max() as usize);
    }
}

#[test]
fn a_servers_own_cap_bounds_every_kind() {
    let caps = Caps::frames_of(2048);
    assert_eq!(caps.of(Kind::State as u16), 2032);
    assert_eq!(caps.of(Kind::SetProgress as u16), 48);
    assert_eq!(caps.of(999), 2032);
    assert_eq!(Caps::frames_of(u32::MAX), Caps::default());
}

#[test]
fn a_message_that_does_not_fit_leaves_the_buffer_as_it_was() {
    let token = "x".repeat(9000);
    let hello =
        Hello { token: &token, device: None, resume: ResumeToken::NONE, client_name: "", client_version: "", wants: 0 };
    let mut out = b"0123456789abcdef".to_vec();
    let error = hello.encode(1, &mut out).unwrap_err();
    assert_eq!((error.kind, error.bytes_max), (Kind::Hello, 8192));
    assert_eq!(out, b"0123456789abcdef");
}

#[test]
fn a_list_that_contains_itself_is_refused() {
    // A Notice whose list of changes points at the root itself, over and over.
    let mut bytes = Vec::new();
    let notice = Notice {
        id: 1,
        kind: NoticeKind::NewManga,
        manga: MangaId(1),
        created_unix_ms: 0,
        chapter: None,
        old_chapter: None,
        title: "",
        message: "",
        changes: List::Plain(&[]),
    };
    notice.encode(1, &mut bytes).unwrap();
    let root = bytes.len() - 64;
    for (offset, count) in [(-48_i32, 1_u32), (-48, 2), (0, 1), (i32::MIN, 1), (-16, u32::MAX)] {
        let mut broken = bytes.clone();
        broken[root + 48..root + 52].copy_from_slice(&offset.to_le_bytes());
        broken[root + 52..root + 56].copy_from_slice(&count.to_le_bytes());
        let buffer = aligned_copy(&broken);
        let frame = split_frame(&buffer, &Caps::default()).unwrap().unwrap();
        assert_eq!(frame.from_server().unwrap_err(), PayloadError::Layout { kind: Kind::Notice });
    }
}

#[test]
fn a_misaligned_buffer_is_told_and_can_be_copied() {
    let mut bytes = vec![0; 16];
    Ping { nonce: 3 }.encode(1, &mut bytes);
    let buffer = aligned_copy(&[&[0; 8], &bytes[16..]].concat());
    assert_eq!(split_frame(&buffer[8..], &Caps::default()).unwrap_err(), FrameError::Misaligned);
    let mut scratch = AlignedVec::new();
    let copy = aligned(&buffer[8..], &mut scratch);
    assert!(split_frame(copy, &Caps::default()).unwrap().is_some());
}

#[test]
fn a_receiver_holds_no_more_than_a_frame_and_a_read() {
    let mut receiver = Receiver::new(Caps::default());
    let mut bytes = Vec::new();
    (0..64).for_each(|nonce| Ping { nonce }.encode(nonce, &mut bytes));
    for _ in 0..200 {
        let room = receiver.room(bytes.len());
        assert!(room.len() <= 4 * bytes.len(), "{} bytes of room", room.len());
        receiver.extend(&bytes);
        while receiver.next_frame().unwrap().is_some() {}
    }
    assert!(receiver.pending().is_empty());
}
