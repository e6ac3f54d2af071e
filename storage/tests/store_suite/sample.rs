//! Users, records and series made from small numbers.

use futures_executor::block_on as wait;
use hub::device::DeviceStamp;
use hub::history::{HistoryRow, LocalDay};
use hub::library::LibraryRow;
use hub::preferences::{Preferences, Strategy, UtcOffset};
use hub::progress::ProgressRow;
use hub::record::{DeviceRecord, LibraryRecord, PreferencesRecord, ProgressRecord, Record};
use proto::{
    Chapter, DeviceId, DeviceSeq, MangaId, MergeKey, NodeId, Page, ReadingStatus, SeriesStatus, UserId, Version,
};
use storage::journal::{JournalId, LaneCursors, Lsn};
use storage::lane::Lane;
use storage::store::{Batch, ImportRow, MangadexId, NewRefreshToken, NewSession, NewUser, Role, Rows, SharedStore};

pub(crate) const JOURNAL: JournalId = JournalId([7; 16]);

pub(crate) fn id(number: u64) -> [u8; 16] {
    u128::from(number).to_be_bytes()
}

pub(crate) fn user_id(number: u64) -> UserId {
    UserId::from_bytes(id(number))
}

pub(crate) fn new_user(number: u64) -> NewUser {
    NewUser {
        id: user_id(number),
        username: format!("Reader{number}"),
        username_folded: format!("reader{number}"),
        email: format!("Reader{number}@example.org"),
        email_folded: format!("reader{number}@example.org"),
        password_hash: "$argon2id$not-a-real-one".into(),
        role: Role::User,
        created_at_unix_ms: 1_000 + number,
    }
}

/// Makes a user in the store.
pub(crate) fn add_user(store: &SharedStore, number: u64) -> UserId {
    wait(store.create_user(new_user(number))).unwrap();
    user_id(number)
}

pub(crate) fn token(number: u64, expires_at_unix_ms: u64) -> NewRefreshToken {
    let mut hash = [0; 32];
    hash[..8].copy_from_slice(&number.to_le_bytes());
    NewRefreshToken { hash, expires_at_unix_ms }
}

pub(crate) fn new_session(user: UserId, number: u64, now_unix_ms: u64) -> NewSession {
    NewSession {
        sid: proto::SessionId::from_bytes(id(1_000_000 + number)),
        user,
        device_label: Some(format!("phone {number}")),
        ip: Some("127.0.0.1".into()),
        user_agent: None,
        created_at_unix_ms: now_unix_ms,
        refresh: token(number, now_unix_ms + 1_000_000),
        sessions_per_user_max: 100,
        keep_revocations_until_unix_ms: now_unix_ms + 2_000_000,
    }
}

/// One progress change: everything it touches derived from its version, as the rules would.
pub(crate) fn progress(user: UserId, manga: i64, version: u64, chapter: u32, node: u32) -> ProgressRecord {
    let key = MergeKey {
        generation: Version(1),
        chapter: Chapter::from_hundredths(chapter).unwrap(),
        version: Version(version),
        node: NodeId(node),
    };
    let status = if chapter.is_multiple_of(300) { ReadingStatus::Completed } else { ReadingStatus::Reading };
    let library =
        LibraryRow { version: Version(version), node: NodeId(node), deleted: false, status, added_at_ms: 1_000 };
    let history = HistoryRow {
        day: LocalDay(20_000 + u32::try_from(version / 1_000).unwrap()),
        updates: u32::try_from(version % 1_000).unwrap() + 1,
        chapters: chapter / 100,
        last: key.chapter,
        first: Chapter::ZERO,
        jump: version.is_multiple_of(7),
    };
    let stamp = DeviceStamp { device: DeviceId::from_bytes(id(77)), seq: Some(DeviceSeq(version)), epoch: Version(1) };
    let page = (!version.is_multiple_of(3)).then(|| Page(u32::try_from(version % 40).unwrap()));
    ProgressRecord {
        user,
        manga: MangaId(manga),
        row: ProgressRow { key, deleted: false, page, ahead: version.is_multiple_of(5) },
        device: Some(stamp),
        library: Some(library),
        history: Some(history),
    }
}

/// Deleting progress, with a generation of its own.
pub(crate) fn deletion(user: UserId, manga: i64, version: u64, node: u32) -> ProgressRecord {
    let row = ProgressRow::tombstone(Version(version), NodeId(node));
    ProgressRecord { user, manga: MangaId(manga), row, device: None, library: None, history: None }
}

pub(crate) fn library(user: UserId, manga: i64, version: u64, deleted: bool) -> Record {
    let status = ReadingStatus::OnHold;
    let row = LibraryRow { version: Version(version), node: NodeId(2), deleted, status, added_at_ms: 5_000 };
    Record::Library(LibraryRecord { user, manga: MangaId(manga), row })
}

pub(crate) fn device(user: UserId, device: u64, epoch: u64, seen: u64, removed: bool) -> Record {
    Record::Device(DeviceRecord {
        user,
        device: DeviceId::from_bytes(id(device)),
        epoch: Version(epoch),
        removed,
        seen: Version(seen),
        node: NodeId(1),
    })
}

pub(crate) fn preferences(user: UserId, version: u64, strategy: Strategy) -> Record {
    let utc_offset = UtcOffset::from_minutes(i16::try_from(version % 800).unwrap()).unwrap();
    let row = Preferences { version: Version(version), node: NodeId(1), strategy, utc_offset };
    Record::Preferences(PreferencesRecord { user, row })
}

/// A batch of these records, all lanes at `lsn` afterwards.
pub(crate) fn batch<'a>(records: impl IntoIterator<Item = &'a Record>, lsn: u64) -> Batch {
    let mut rows = Rows::default();
    records.into_iter().for_each(|record| rows.add(record));
    let cursors = Lane::all().map(|lane| (lane, Lsn(lsn))).collect();
    Batch {
        journal: JOURNAL,
        rows: rows.into(),
        parked: Vec::new(),
        cursors,
        behind: LaneCursors::START,
        now_unix_ms: 1,
    }
}

/// A row to import, without an upstream id.
pub(crate) fn series(row: usize, title: &str) -> ImportRow {
    ImportRow {
        row,
        mangadex_id: None,
        slug: None,
        title: title.into(),
        alt_titles: vec![format!("{title} (other)")],
        author: Some("Somebody".into()),
        status: SeriesStatus::Ongoing,
        total_chapters: 0,
        description: format!("About {title}."),
        cover_url: None,
        year: Some(1999),
        genres: vec!["Drama".into(), "Action".into()],
    }
}

/// A row to import, with an upstream id.
pub(crate) fn upstream(row: usize, number: u64, title: &str) -> ImportRow {
    ImportRow { mangadex_id: Some(MangadexId(id(number))), ..series(row, title) }
}
