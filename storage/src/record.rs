//! The bytes of `hub`'s records: one fixed little-endian layout per kind and layout version. What is written here is read
//! back by every later server, so a layout never changes; a new one gets a new version byte, and the old one stays readable.
//!
//! ```text
//! 1 progress     user 16, manga i64, generation u64, version u64, chapter u32, node u32, page u32, flags u16, status u8, 0,
//!                device 16, seq u64, epoch u64, library version u64, library node u32, added_at_ms u64,
//!                day u32, updates u32, chapters u32, first u32, last u32                                    = 128 bytes
//! 2 library      user 16, manga i64, version u64, added_at_ms u64, node u32, status u8, flags u8, 0 0       =  48
//! 3 device       user 16, device 16, epoch u64, seen u64, node u32, flags u8, 0 0 0                         =  56
//! 4 preferences  user 16, version u64, node u32, utc_offset_minutes i16, strategy u8, 0                     =  32
//! ```
//! Flags of progress, from bit 0: deleted, page, ahead, device, seq, library, library deleted, history, history jump. Fields
//! whose flag is missing are zero. Flags of library and device: bit 0, deleted or removed.

use hub::device::DeviceStamp;
use hub::history::{HistoryRow, LocalDay};
use hub::library::LibraryRow;
use hub::preferences::{Preferences, Strategy, UtcOffset};
use hub::progress::ProgressRow;
use hub::record::{DeviceRecord, LibraryRecord, PreferencesRecord, ProgressRecord, Record};
use proto::{
    Chapter, DeviceId, DeviceSeq, MangaId, MergeKey, NodeId, Page, ReadingStatus, UserId, ValueError, Version,
};

use crate::journal::{Journalled, RawRecord, ShardJournal};
use crate::lane::{Lane, lane_of};

const PROGRESS: u8 = 1;
const LIBRARY: u8 = 2;
const DEVICE: u8 = 3;
const PREFERENCES: u8 = 4;

const LAYOUT_VERSION: u8 = 1;

const PROGRESS_BYTES: usize = 128;
const LIBRARY_BYTES: usize = 48;
const DEVICE_BYTES: usize = 56;
const PREFERENCES_BYTES: usize = 32;

/// The most that one record takes in the journal, its frame included; what to ask admission for, per record.
pub const RECORD_BYTES_MAX: usize = ShardJournal::record_bytes(PROGRESS_BYTES);

const DELETED: u16 = 1;
const PAGE: u16 = 1 << 1;
const AHEAD: u16 = 1 << 2;
const HAS_DEVICE: u16 = 1 << 3;
const SEQ: u16 = 1 << 4;
const HAS_LIBRARY: u16 = 1 << 5;
const LIBRARY_DELETED: u16 = 1 << 6;
const HISTORY: u16 = 1 << 7;
const JUMP: u16 = 1 << 8;

/// Why a record's bytes are not a record that this server knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RecordError {
    /// A kind or layout of a newer server, or garbage under a right checksum.
    #[error("a record of kind {kind}, layout {version}: this server does not know it. Was a newer server here?")]
    Unknown {
        /// The kind byte.
        kind: u8,
        /// The layout version byte.
        version: u8,
    },
    /// The payload has another size than its layout.
    #[error("a record of kind {kind} with {found} bytes instead of {expected}")]
    Length {
        /// The kind byte.
        kind: u8,
        /// What there is.
        found: usize,
        /// What the layout says.
        expected: usize,
    },
    /// A field has a value that its type does not allow.
    #[error("a record of kind {kind}: {error}")]
    Value {
        /// The kind byte.
        kind: u8,
        /// Which one.
        error: ValueError,
    },
}

impl Journalled for Record {
    fn lane(&self) -> Lane {
        lane_of(self.user())
    }

    fn kind(&self) -> u8 {
        match self {
            Record::Progress(_) => PROGRESS,
            Record::Library(_) => LIBRARY,
            Record::Device(_) => DEVICE,
            Record::Preferences(_) => PREFERENCES,
        }
    }

    fn layout_version(&self) -> u8 {
        LAYOUT_VERSION
    }

    fn version(&self) -> Version {
        Record::version(self)
    }

    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Record::Progress(record) => out.extend_from_slice(&encode_progress(record)),
            Record::Library(record) => out.extend_from_slice(&encode_library(record)),
            Record::Device(record) => out.extend_from_slice(&encode_device(record)),
            Record::Preferences(record) => out.extend_from_slice(&encode_preferences(record)),
        }
    }
}

/// Reads what a shard wrote, whatever server version it was.
pub fn decode(raw: &RawRecord<'_>) -> Result<Record, RecordError> {
    decode_parts(raw.kind, raw.version, raw.payload)
}

/// Like [`decode`], from the parts that a store keeps of a parked record.
pub fn decode_parts(kind: u8, version: u8, payload: &[u8]) -> Result<Record, RecordError> {
    let field = |error| RecordError::Value { kind, error };
    match (kind, version) {
        (PROGRESS, LAYOUT_VERSION) => decode_progress(&mut fixed::<PROGRESS_BYTES>(kind, payload)?).map_err(field),
        (LIBRARY, LAYOUT_VERSION) => decode_library(&mut fixed::<LIBRARY_BYTES>(kind, payload)?).map_err(field),
        (DEVICE, LAYOUT_VERSION) => Ok(decode_device(&mut fixed::<DEVICE_BYTES>(kind, payload)?)),
        (PREFERENCES, LAYOUT_VERSION) => {
            decode_preferences(&mut fixed::<PREFERENCES_BYTES>(kind, payload)?).map_err(field)
        }
        _ => Err(RecordError::Unknown { kind, version }),
    }
}

/// Fields one after the other into a payload of a known size.
struct Writer<const SIZE: usize> {
    bytes: [u8; SIZE],
    at: usize,
}

impl<const SIZE: usize> Writer<SIZE> {
    fn new() -> Self {
        Self { bytes: [0; SIZE], at: 0 }
    }

    fn put<const WIDTH: usize>(&mut self, bytes: [u8; WIDTH]) -> &mut Self {
        self.bytes[self.at..self.at + WIDTH].copy_from_slice(&bytes);
        self.at += WIDTH;
        self
    }

    fn u64(&mut self, value: u64) -> &mut Self {
        self.put(value.to_le_bytes())
    }

    fn u32(&mut self, value: u32) -> &mut Self {
        self.put(value.to_le_bytes())
    }
}

/// Fields one after the other out of a payload whose size has been checked.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const WIDTH: usize>(&mut self) -> [u8; WIDTH] {
        let (field, rest) = self.0.split_first_chunk().expect("the layout's size was checked");
        self.0 = rest;
        *field
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }

    fn version(&mut self) -> Version {
        Version(self.u64())
    }

    fn user(&mut self) -> UserId {
        UserId::from_bytes(self.take())
    }

    fn manga(&mut self) -> MangaId {
        MangaId(i64::from_le_bytes(self.take()))
    }
}

fn fixed<const SIZE: usize>(kind: u8, payload: &[u8]) -> Result<Reader<'_>, RecordError> {
    if payload.len() != SIZE {
        return Err(RecordError::Length { kind, found: payload.len(), expected: SIZE });
    }
    Ok(Reader(payload))
}

fn flag(set: bool, bit: u16) -> u16 {
    if set { bit } else { 0 }
}

fn encode_progress(record: &ProgressRecord) -> [u8; PROGRESS_BYTES] {
    let ProgressRecord { user, manga, row, device, library, history } = record;
    let flags = flag(row.deleted, DELETED)
        | flag(row.page.is_some(), PAGE)
        | flag(row.ahead, AHEAD)
        | flag(device.is_some(), HAS_DEVICE)
        | flag(device.is_some_and(|stamp| stamp.seq.is_some()), SEQ)
        | flag(library.is_some(), HAS_LIBRARY)
        | flag(library.is_some_and(|row| row.deleted), LIBRARY_DELETED)
        | flag(history.is_some(), HISTORY)
        | flag(history.is_some_and(|row| row.jump), JUMP);
    let mut out = Writer::new();
    out.put(*user.as_bytes()).put(manga.0.to_le_bytes());
    out.u64(row.key.generation.0).u64(row.key.version.0).u32(row.key.chapter.hundredths()).u32(row.key.node.0);
    out.u32(row.page.unwrap_or_default().0).put(flags.to_le_bytes());
    out.put([library.map_or(0, |row| row.status.as_byte()), 0]);
    let (id, seq, epoch) = device.map_or_else(Default::default, |stamp| {
        (*stamp.device.as_bytes(), stamp.seq.unwrap_or_default().0, stamp.epoch.0)
    });
    out.put(id).u64(seq).u64(epoch);
    let (version, node, added_at_ms) =
        library.map_or_else(Default::default, |row| (row.version.0, row.node.0, row.added_at_ms));
    out.u64(version).u32(node).u64(added_at_ms);
    if let Some(HistoryRow { day, updates, chapters, last, first, jump: _ }) = history {
        out.u32(day.0).u32(*updates).u32(*chapters).u32(first.hundredths()).u32(last.hundredths());
    }
    out.bytes
}

fn decode_progress(bytes: &mut Reader<'_>) -> Result<Record, ValueError> {
    let (user, manga) = (bytes.user(), bytes.manga());
    let (generation, version) = (bytes.version(), bytes.version());
    let (chapter, node) = (Chapter::from_hundredths(bytes.u32())?, NodeId(bytes.u32()));
    let (page, flags) = (Page(bytes.u32()), u16::from_le_bytes(bytes.take()));
    let has = |bit| flags & bit != 0;
    let [status, _] = bytes.take();
    let row = ProgressRow {
        key: MergeKey { generation, chapter, version, node },
        deleted: has(DELETED),
        page: has(PAGE).then_some(page),
        ahead: has(AHEAD),
    };
    let (device, seq, epoch) = (DeviceId::from_bytes(bytes.take()), DeviceSeq(bytes.u64()), bytes.version());
    let device = has(HAS_DEVICE).then_some(DeviceStamp { device, seq: has(SEQ).then_some(seq), epoch });
    let (version, node, added_at_ms) = (bytes.version(), NodeId(bytes.u32()), bytes.u64());
    let library = match has(HAS_LIBRARY) {
        true => Some(LibraryRow {
            version,
            node,
            deleted: has(LIBRARY_DELETED),
            status: reading_status(status)?,
            added_at_ms,
        }),
        false => None,
    };
    let (day, updates, chapters) = (LocalDay(bytes.u32()), bytes.u32(), bytes.u32());
    let (first, last) = (Chapter::from_hundredths(bytes.u32())?, Chapter::from_hundredths(bytes.u32())?);
    let history = has(HISTORY).then_some(HistoryRow { day, updates, chapters, last, first, jump: has(JUMP) });
    Ok(Record::Progress(ProgressRecord { user, manga, row, device, library, history }))
}

fn reading_status(byte: u8) -> Result<ReadingStatus, ValueError> {
    ReadingStatus::from_byte(byte).ok_or(ValueError::new("status", "from 1 to 6"))
}

fn encode_library(record: &LibraryRecord) -> [u8; LIBRARY_BYTES] {
    let LibraryRecord { user, manga, row } = record;
    let mut out = Writer::new();
    out.put(*user.as_bytes()).put(manga.0.to_le_bytes());
    out.u64(row.version.0).u64(row.added_at_ms).u32(row.node.0);
    out.put([row.status.as_byte(), u8::from(row.deleted)]);
    out.bytes
}

fn decode_library(bytes: &mut Reader<'_>) -> Result<Record, ValueError> {
    let (user, manga) = (bytes.user(), bytes.manga());
    let (version, added_at_ms, node) = (bytes.version(), bytes.u64(), NodeId(bytes.u32()));
    let [status, flags] = bytes.take();
    let row = LibraryRow { version, node, deleted: flags & 1 != 0, status: reading_status(status)?, added_at_ms };
    Ok(Record::Library(LibraryRecord { user, manga, row }))
}

fn encode_device(record: &DeviceRecord) -> [u8; DEVICE_BYTES] {
    let DeviceRecord { user, device, epoch, removed, seen, node } = record;
    let mut out = Writer::new();
    out.put(*user.as_bytes()).put(*device.as_bytes()).u64(epoch.0).u64(seen.0).u32(node.0).put([u8::from(*removed)]);
    out.bytes
}

fn decode_device(bytes: &mut Reader<'_>) -> Record {
    let (user, device) = (bytes.user(), DeviceId::from_bytes(bytes.take()));
    let (epoch, seen, node) = (bytes.version(), bytes.version(), NodeId(bytes.u32()));
    let [flags] = bytes.take();
    Record::Device(DeviceRecord { user, device, epoch, removed: flags & 1 != 0, seen, node })
}

fn encode_preferences(record: &PreferencesRecord) -> [u8; PREFERENCES_BYTES] {
    let PreferencesRecord { user, row } = record;
    let mut out = Writer::new();
    out.put(*user.as_bytes()).u64(row.version.0).u32(row.node.0);
    out.put(row.utc_offset.minutes().to_le_bytes()).put([row.strategy.as_byte()]);
    out.bytes
}

fn decode_preferences(bytes: &mut Reader<'_>) -> Result<Record, ValueError> {
    let (user, version, node) = (bytes.user(), bytes.version(), NodeId(bytes.u32()));
    let utc_offset = UtcOffset::from_minutes(i16::from_le_bytes(bytes.take()))?;
    let [strategy, _] = bytes.take();
    let strategy = Strategy::from_byte(strategy).ok_or(ValueError::new("strategy", "from 1 to 3"))?;
    Ok(Record::Preferences(PreferencesRecord { user, row: Preferences { version, node, strategy, utc_offset } }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop, prop_assert, prop_assert_eq, prop_compose, prop_oneof, proptest};
    use proptest::strategy::Strategy as Strategy_;

    use super::*;
    use crate::journal::Lsn;

    fn user() -> impl Strategy_<Value = UserId> {
        any::<[u8; 16]>().prop_map(UserId::from_bytes)
    }

    fn version() -> impl Strategy_<Value = Version> {
        (0..=Version::MAX.0).prop_map(Version)
    }

    fn chapter() -> impl Strategy_<Value = Chapter> {
        (0..=Chapter::MAX.hundredths()).prop_map(|hundredths| Chapter::from_hundredths(hundredths).unwrap())
    }

    prop_compose! {
        fn library_row()(version in version(), node: u32, deleted: bool, status in 1u8..=6, added_at_ms: u64) -> LibraryRow {
            let status = ReadingStatus::from_byte(status).unwrap();
            LibraryRow { version, node: NodeId(node), deleted, status, added_at_ms }
        }
    }

    prop_compose! {
        fn stamp()(device: [u8; 16], seq: Option<u64>, epoch in version()) -> DeviceStamp {
            DeviceStamp { device: DeviceId::from_bytes(device), seq: seq.map(DeviceSeq), epoch }
        }
    }

    prop_compose! {
        fn history_row()(
            day: u32, updates: u32, chapters: u32, first in chapter(), last in chapter(), jump: bool,
        ) -> HistoryRow {
            HistoryRow { day: LocalDay(day), updates, chapters, last, first, jump }
        }
    }

    prop_compose! {
        fn progress()(
            user in user(), manga: i64, generation in version(), version in version(), chapter in chapter(), node: u32,
            deleted: bool, page: Option<u32>, ahead: bool, device in prop::option::of(stamp()),
            library in prop::option::of(library_row()), history in prop::option::of(history_row()),
        ) -> Record {
            let key = MergeKey { generation, chapter, version, node: NodeId(node) };
            let row = ProgressRow { key, deleted, page: page.map(Page), ahead };
            Record::Progress(ProgressRecord { user, manga: MangaId(manga), row, device, library, history })
        }
    }

    fn record() -> impl Strategy_<Value = Record> {
        prop_oneof![
            progress(),
            (user(), any::<i64>(), library_row()).prop_map(|(user, manga, row)| Record::Library(LibraryRecord {
                user,
                manga: MangaId(manga),
                row
            })),
            (user(), any::<[u8; 16]>(), version(), any::<bool>(), version(), any::<u32>()).prop_map(
                |(user, device, epoch, removed, seen, node)| {
                    let (device, node) = (DeviceId::from_bytes(device), NodeId(node));
                    Record::Device(DeviceRecord { user, device, epoch, removed, seen, node })
                }
            ),
            (user(), version(), any::<u32>(), 1u8..=3, -720i16..=840).prop_map(
                |(user, version, node, strategy, offset)| {
                    let utc_offset = UtcOffset::from_minutes(offset).unwrap();
                    let strategy = Strategy::from_byte(strategy).unwrap();
                    let row = Preferences { version, node: NodeId(node), strategy, utc_offset };
                    Record::Preferences(PreferencesRecord { user, row })
                }
            ),
        ]
    }

    fn raw(record: &Record, payload: &mut Vec<u8>) -> (u8, u8) {
        Journalled::encode(record, payload);
        (record.kind(), record.layout_version())
    }

    proptest! {
        #[test]
        fn every_kind_of_record_comes_back(record in record()) {
            let mut payload = Vec::new();
            let (kind, version) = raw(&record, &mut payload);
            prop_assert!(ShardJournal::record_bytes(payload.len()) <= RECORD_BYTES_MAX);
            let lane = Journalled::lane(&record);
            let raw = RawRecord { lsn: Lsn(1), lane, kind, version, payload: &payload };
            prop_assert_eq!(decode(&raw), Ok(record));
        }

        #[test]
        fn garbage_is_an_error_and_never_a_panic(kind: u8, version in 0u8..3, payload: Vec<u8>) {
            let _ = decode_parts(kind, version, &payload);
        }

        #[test]
        fn garbage_of_the_right_size_is_read_or_refused(kind in 1u8..=4, bytes: [u8; PROGRESS_BYTES / 4], fill: u8) {
            let mut payload = [fill; PROGRESS_BYTES];
            payload[..bytes.len()].copy_from_slice(&bytes);
            let size = [PROGRESS_BYTES, LIBRARY_BYTES, DEVICE_BYTES, PREFERENCES_BYTES][usize::from(kind) - 1];
            let _ = decode_parts(kind, LAYOUT_VERSION, &payload[..size]);
        }
    }

    #[test]
    fn a_progress_record_keeps_its_layout() {
        let user = UserId::from_bytes([1; 16]);
        let key = MergeKey { generation: Version(2), chapter: Chapter::whole(3), version: Version(4), node: NodeId(5) };
        let row = ProgressRow { key, deleted: false, page: Some(Page(6)), ahead: true };
        let stamp = DeviceStamp { device: DeviceId::from_bytes([7; 16]), seq: Some(DeviceSeq(8)), epoch: Version(9) };
        let record = Record::Progress(ProgressRecord {
            user,
            manga: MangaId(10),
            row,
            device: Some(stamp),
            library: None,
            history: None,
        });
        let mut payload = Vec::new();
        raw(&record, &mut payload);
        let mut expected = vec![1; 16];
        for number in [10u64, 2, 4] {
            expected.extend_from_slice(&number.to_le_bytes());
        }
        for number in [300u32, 5, 6] {
            expected.extend_from_slice(&number.to_le_bytes());
        }
        expected.extend_from_slice(&[0b1_1110, 0, 0, 0]);
        expected.extend_from_slice(&[7; 16]);
        expected.extend_from_slice(&[8, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0]);
        expected.resize(PROGRESS_BYTES, 0);
        assert_eq!(payload, expected);
    }

    #[test]
    fn a_record_of_a_newer_server_is_named() {
        assert_eq!(decode_parts(PROGRESS, 2, &[0; 128]), Err(RecordError::Unknown { kind: PROGRESS, version: 2 }));
        assert_eq!(decode_parts(99, 1, &[]), Err(RecordError::Unknown { kind: 99, version: 1 }));
    }
}
