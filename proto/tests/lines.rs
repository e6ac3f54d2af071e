//! The JSON lines: what earlier clients send is taken, what is wrong is named, and whatever is written stays on one line and
//! comes back.

use proptest::prelude::*;
use proto::frame::SetProgress;
use proto::line::*;
use proto::{Chapter, Code, ConflictToken, DeviceId, DeviceSeq, MangaId, NodeId, Page, ReadingStatus, UserId, Version};

fn update(line: &str) -> Result<ProgressUpdate, LineError> {
    match ClientLine::parse(line.as_bytes())? {
        ClientLine::ProgressUpdate(update) => Ok(update),
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_earlier_clients_update_is_taken() {
    let line = r#"{"type":"progress_update","timestamp":"2024-05-01T10:00:00Z","extra":[1,{"a":2}],
        "data":{"user_id":"","manga_id":"42","chapter":5.5,"status":"plan-to-read","rating":9,"page":null}}"#;
    let update = update(line).unwrap();
    assert_eq!(update.user, None);
    assert_eq!(update.command.manga, MangaId(42));
    assert_eq!(update.command.chapter, Chapter::from_hundredths(550).unwrap());
    assert_eq!(update.command.status, Some(ReadingStatus::PlanToRead));
    assert_eq!(update.command.page, None);
}

#[test]
fn messages_without_data_are_taken_with_and_without_it() {
    for data in ["", r#","data":{}"#, r#","data":null"#, r#","data":{"x":1}"#] {
        let line = format!(r#"{{"type":"heartbeat"{data}}}"#);
        assert_eq!(ClientLine::parse(line.as_bytes()).unwrap(), ClientLine::Heartbeat, "{line}");
    }
}

#[test]
fn a_wrong_field_is_named_with_what_would_be_right() {
    let cases = [
        (r#"{"chapter":1}"#, "manga_id", "`manga_id` is missing"),
        (r#"{"manga_id":1}"#, "chapter", "`chapter` is missing"),
        (r#"{"manga_id":0,"chapter":1}"#, "manga_id", "a positive whole number"),
        (r#"{"manga_id":"one","chapter":1}"#, "manga_id", "a positive whole number"),
        (r#"{"manga_id":9223372036854775808,"chapter":1}"#, "manga_id", "a positive whole number"),
        (r#"{"manga_id":1,"chapter":-1}"#, "chapter", "a number from 0 to 1000000"),
        (r#"{"manga_id":1,"chapter":5.555}"#, "chapter", "two digits after the point"),
        (r#"{"manga_id":1,"chapter":{}}"#, "chapter", "a number"),
        (r#"{"manga_id":1,"chapter":1,"page":-1}"#, "page", "a whole number"),
        (r#"{"manga_id":1,"chapter":1,"status":"finished"}"#, "status", "reading, completed"),
        (r#"{"manga_id":1,"chapter":1,"force":"yes"}"#, "force", "true or false"),
        (r#"{"manga_id":1,"chapter":1,"device":"phone"}"#, "device", "a UUID"),
        (
            r#"{"manga_id":1,"chapter":1,"conflict_token":"00000000000000000000000000000000"}"#,
            "conflict_token",
            "hexadecimal",
        ),
        (
            r#"{"manga_id":1,"chapter":1,"conflict_token":"+1234567890123456789012345678901"}"#,
            "conflict_token",
            "hexadecimal",
        ),
    ];
    for (data, field, words) in cases {
        let error = update(&format!(r#"{{"type":"progress_update","data":{data}}}"#)).unwrap_err();
        assert_eq!(error.field(), Some(field), "{data}: {error}");
        assert!(error.to_string().contains(words), "{data}: {error}");
        assert_eq!(error.code(), Code::InvalidInput);
    }
}

#[test]
fn what_is_no_message_is_told() {
    for line in ["", "{", "[]", "42", r#"{"data":{}}"#, r#"{"type":7}"#, "{\"type\":\"auth\",\"data\":[]}", "\u{0}"] {
        assert_eq!(ClientLine::parse(line.as_bytes()).unwrap_err().code(), Code::InvalidInput, "{line}");
    }
    assert_eq!(ClientLine::parse(br#"{"type":"dance"}"#).unwrap_err().code(), Code::UnknownKind);
    let deep = format!(r#"{{"type":"heartbeat","data":{}}}"#, "[".repeat(60_000));
    assert!(ClientLine::parse(deep.as_bytes()).is_err());
    assert!(matches!(ClientLine::parse(&vec![b' '; LINE_BYTES_MAX + 1]), Err(LineError::TooLong)));
}

#[test]
fn lines_are_split_within_their_cap() {
    let (line, consumed) = split_line(b"{}\r\n{", 0).unwrap().unwrap();
    assert_eq!((line, consumed), (&b"{}"[..], 4));
    assert!(split_line(b"{}", 0).unwrap().is_none());
    let mut long = vec![b'x'; LINE_BYTES_MAX];
    assert!(split_line(&long, 0).unwrap().is_none());
    long.extend(b"\r\n");
    assert_eq!(split_line(&long, 0).unwrap().unwrap().0.len(), LINE_BYTES_MAX);
    long.insert(0, b'x');
    assert!(matches!(split_line(&long, 0), Err(LineError::TooLong)));
    assert!(matches!(split_line(&vec![b'x'; LINE_BYTES_MAX + 2], LINE_BYTES_MAX), Err(LineError::TooLong)));
}

#[test]
fn codes_are_spelt_as_the_earlier_system_did() {
    let mut out = Vec::new();
    ServerLine::Error(ErrorLine::of(Code::Capacity, "At capacity.")).write(None, &mut out);
    assert_eq!(out, b"{\"type\":\"error\",\"data\":{\"code\":\"CAPACITY\",\"message\":\"At capacity.\"}}\n");
}

#[test]
fn a_timestamp_is_rfc_3339() {
    let mut out = Vec::new();
    ServerLine::Pong.write(Some(1_704_067_200_000), &mut out);
    assert_eq!(out, b"{\"type\":\"pong\",\"timestamp\":\"2024-01-01T00:00:00Z\"}\n");
}

fn chapter() -> impl Strategy<Value = Chapter> {
    (0..=Chapter::MAX.hundredths())
        .prop_map(|hundredths| Chapter::from_hundredths(hundredths).expect("within the range"))
}

prop_compose! {
    fn any_update()(
        manga in 1..=i64::MAX, seq in any::<u64>(), chapter in chapter(), page in any::<Option<u32>>(), status in 0_u8..=6,
        flags in any::<[bool; 2]>(), token in any::<[u8; 16]>(), user in any::<[u8; 16]>(), device in any::<[u8; 16]>(),
    ) -> ProgressUpdate {
        let command = SetProgress {
            manga: MangaId(manga),
            device_seq: Some(DeviceSeq(seq)).filter(|seq| seq.0 != 0),
            chapter,
            page: page.map(Page),
            status: ReadingStatus::from_byte(status),
            force: flags[0],
            ack_database: flags[1],
            conflict_token: ConflictToken::from_bytes(token),
        };
        ProgressUpdate { user: Some(UserId::from_bytes(user)), device: Some(DeviceId::from_bytes(device)), command }
    }
}

fn one_line(out: &[u8]) -> &[u8] {
    let line = out.strip_suffix(b"\n").expect("a line has an end");
    assert!(!line.contains(&b'\n'), "a message is one line");
    line
}

proptest! {
    #[test]
    fn what_a_client_writes_is_what_the_server_reads(update in any_update(), token in ".{0,80}") {
        let auth = Auth { token: token.clone().into(), username: Some("reader".into()), device: update.device };
        for line in [ClientLine::Auth(auth), ClientLine::ProgressUpdate(update), ClientLine::Heartbeat, ClientLine::Disconnect] {
            let mut out = Vec::new();
            line.write(&mut out);
            prop_assert_eq!(ClientLine::parse(one_line(&out)).unwrap(), line);
        }
    }

    #[test]
    fn what_the_server_writes_is_what_a_client_reads(
        update in any_update(), texts in prop::array::uniform3("(?s).{0,60}"), version in 0..=Version::MAX.0, already in any::<bool>(),
    ) {
        let [title, message, code] = texts;
        let (manga_id, chapter, device_seq) = (update.command.manga, update.command.chapter, update.command.device_seq);
        let side = ConflictSide {
            chapter,
            page: update.command.page,
            status: update.command.status,
            version: Some(Version(version)),
            device: update.device,
        };
        let lines = [
            ServerLine::ProgressAck(ProgressAck {
                manga_id,
                version: Version(version),
                chapter,
                page: update.command.page,
                status: update.command.status,
                generation: Version(1),
                node: NodeId(7),
                device_seq,
                already,
                ahead_of_catalogue: !already,
                offers_completed: already,
            }),
            ServerLine::Conflict(ConflictLine {
                manga_id,
                manga_title: title.as_str().into(),
                local_chapter: chapter,
                remote_chapter: Chapter::MAX,
                local: None,
                remote: Some(side),
                conflict_token: update.command.conflict_token,
                device_seq,
                message: message.as_str().into(),
            }),
            ServerLine::Error(ErrorLine {
                code: code.as_str().into(),
                message: message.as_str().into(),
                manga_id: Some(manga_id),
                device_seq,
                retry_after_ms: Some(5),
            }),
            ServerLine::AuthError { error: message.as_str().into() },
            ServerLine::System { message: title.as_str().into() },
        ];
        for line in lines {
            let mut out = Vec::new();
            line.write(Some(version), &mut out);
            prop_assert_eq!(ServerLine::parse(one_line(&out)).unwrap(), line);
        }
    }

    #[test]
    fn random_lines_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), json in r#"\{"type":"[a-z_]{0,16}","data":.{0,60}\}"#) {
        let _ = (ClientLine::parse(&bytes), ServerLine::parse(&bytes));
        let _ = (ClientLine::parse(json.as_bytes()), ServerLine::parse(json.as_bytes()));
        let _ = split_line(&bytes, 7);
    }
}
