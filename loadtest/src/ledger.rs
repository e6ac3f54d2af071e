//! The ack ledger: every acknowledged update, on disk, in the order the acknowledgements arrived. Plain appended writes: it must
//! survive the server's death, not the machine's. Verification asks the restarted server for each series' state and says which
//! acknowledged merge key is missing; it never trusts anything the server said before it died except its acknowledgements.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::Path;

use proto::{Chapter, MangaId, MergeKey, NodeId, UserId, Version};

/// Bytes of one entry: user 16, manga 8, generation 8, version 8, chapter 4, node 4, kind 1, zero 7.
const ENTRY_BYTES: usize = 56;
const MAGIC: &[u8; 8] = b"MHLEDGR1";

/// How the harness came to know of a state of a series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The server acknowledged an update that the harness sent.
    Acknowledged = 1,
    /// The server announced the state to another device.
    Announced = 2,
    /// The server answered a read with the state.
    Read = 3,
}

/// One thing the server said before it died. It must still be there afterwards. A cumulative acknowledgement shows the merge key
/// of its last update only: for the others the key holds the chapter and zeros, which is less than any real key.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Entry {
    /// Whose progress.
    pub user: UserId,
    /// In which series.
    pub manga: MangaId,
    /// The state the server spoke of.
    pub key: MergeKey,
    /// How it was said.
    pub source: Source,
}

/// Appends entries to a file.
pub struct Writer {
    file: BufWriter<File>,
    entries: u64,
}

impl Writer {
    /// A new ledger; an existing file of that name is an error, since it may be the only record of what was acknowledged.
    pub fn create(path: &Path) -> io::Result<Self> {
        let mut file = BufWriter::with_capacity(1 << 16, File::create_new(path)?);
        file.write_all(MAGIC)?;
        Ok(Self { file, entries: 0 })
    }

    /// Adds one entry (buffered; `flush` hands it to the kernel).
    pub fn append(&mut self, entry: &Entry) -> io::Result<()> {
        let mut bytes = [0u8; ENTRY_BYTES];
        bytes[..16].copy_from_slice(entry.user.as_bytes());
        bytes[16..24].copy_from_slice(&entry.manga.0.to_le_bytes());
        bytes[24..32].copy_from_slice(&entry.key.generation.0.to_le_bytes());
        bytes[32..40].copy_from_slice(&entry.key.version.0.to_le_bytes());
        bytes[40..44].copy_from_slice(&entry.key.chapter.hundredths().to_le_bytes());
        bytes[44..48].copy_from_slice(&entry.key.node.0.to_le_bytes());
        bytes[48] = entry.source as u8;
        self.entries += 1;
        self.file.write_all(&bytes)
    }

    /// Hands everything to the kernel and says how many entries there are.
    pub fn flush(&mut self) -> io::Result<u64> {
        self.file.flush().map(|()| self.entries)
    }
}

/// What must be there of one series.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Expected {
    /// The largest merge key that the server spoke of.
    pub key: MergeKey,
    /// How it was said.
    pub source: Source,
    /// The highest chapter; the harness never goes back, so the server must not either.
    pub chapter: Chapter,
}

/// What must be there, per series.
#[derive(Debug, Default)]
pub struct Expectations {
    /// By user and series.
    pub highest: HashMap<(UserId, MangaId), Expected>,
    /// Entries taken in.
    pub entries: u64,
}

impl Expectations {
    /// Takes one entry in.
    pub fn add(&mut self, entry: &Entry) {
        self.entries += 1;
        let (key, source, chapter) = (entry.key, entry.source, entry.key.chapter);
        let expected = self.highest.entry((entry.user, entry.manga)).or_insert(Expected { key, source, chapter });
        expected.chapter = expected.chapter.max(chapter);
        if key > expected.key {
            (expected.key, expected.source) = (key, source);
        }
    }

    /// Reads a whole ledger. An incomplete last entry (the harness was killed) is left out; anything else wrong is an error.
    pub fn load(path: &Path) -> io::Result<Self> {
        let mut file = BufReader::with_capacity(1 << 20, File::open(path)?);
        let mut magic = [0u8; 8];
        file.read_exact(&mut magic)?;
        if &magic != MAGIC {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("{} is not a ledger", path.display())));
        }
        let mut expectations = Self::default();
        let mut bytes = [0u8; ENTRY_BYTES];
        loop {
            match file.read_exact(&mut bytes) {
                Ok(()) => expectations.add(&decode(&bytes)?),
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(expectations),
                Err(error) => return Err(error),
            }
        }
    }
}

fn decode(bytes: &[u8; ENTRY_BYTES]) -> io::Result<Entry> {
    fn array<const N: usize>(bytes: &[u8; ENTRY_BYTES], at: usize) -> [u8; N] {
        std::array::from_fn(|index| bytes[at + index])
    }
    let damaged =
        |what: &str| io::Error::new(io::ErrorKind::InvalidData, format!("the ledger holds an impossible {what}"));
    let chapter = Chapter::from_hundredths(u32::from_le_bytes(array(bytes, 40))).map_err(|_| damaged("chapter"))?;
    let source = match bytes[48] {
        1 => Source::Acknowledged,
        2 => Source::Announced,
        3 => Source::Read,
        _ => return Err(damaged("source")),
    };
    let key = MergeKey {
        generation: Version(u64::from_le_bytes(array(bytes, 24))),
        version: Version(u64::from_le_bytes(array(bytes, 32))),
        chapter,
        node: NodeId(u32::from_le_bytes(array(bytes, 44))),
    };
    Ok(Entry {
        user: UserId::from_bytes(array(bytes, 0)),
        manga: MangaId(i64::from_le_bytes(array(bytes, 16))),
        key,
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(version: u64, chapter: u32) -> Entry {
        let key = MergeKey {
            generation: Version(3),
            chapter: Chapter::from_hundredths(chapter).unwrap(),
            version: Version(version),
            node: NodeId(9),
        };
        Entry { user: UserId::from_bytes([7; 16]), manga: MangaId(4), key, source: Source::Acknowledged }
    }

    #[test]
    fn the_highest_key_of_a_series_is_what_must_be_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger");
        let mut writer = Writer::create(&path).unwrap();
        for (version, chapter) in [(1, 100), (3, 550), (2, 300)] {
            writer.append(&entry(version, chapter)).unwrap();
        }
        assert_eq!(writer.flush().unwrap(), 3);
        assert!(Writer::create(&path).is_err(), "a ledger is never overwritten");
        let expectations = Expectations::load(&path).unwrap();
        assert_eq!(expectations.entries, 3);
        let expected = expectations.highest.values().next().unwrap();
        assert_eq!((expected.key, expected.chapter), (entry(3, 550).key, entry(3, 550).key.chapter));
    }

    #[test]
    fn a_cut_off_entry_is_left_out_and_a_foreign_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger");
        let mut writer = Writer::create(&path).unwrap();
        writer.append(&entry(1, 100)).unwrap();
        writer.append(&entry(2, 200)).unwrap();
        writer.flush().unwrap();
        let length = std::fs::metadata(&path).unwrap().len();
        std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(length - 1).unwrap();
        assert_eq!(Expectations::load(&path).unwrap().entries, 1);
        std::fs::write(&path, b"something else").unwrap();
        assert!(Expectations::load(&path).is_err());
    }
}
