//! Data folders that a person has put together wrongly, or that a disk has damaged: the server recovers, or refuses and says
//! what to do. It never guesses, and a refusal changes nothing, so that the right files can still be brought back.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use proto::MangaId;
use serde_json::json;

use crate::support::{Finished, Launch, Reader, Server, eventually, mangahub};

/// What `mangahub --help` calls unsound.
const UNSOUND: i32 = 7;

/// Files that a start writes whatever comes of it: the lock's holder, the count of boots, SQLite's shared memory.
const ALWAYS_TOUCHED: [&str; 3] = ["lock", "boot-count", "mangahub.db-shm"];

/// Every file below a folder.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.is_file() && !ALWAYS_TOUCHED.contains(&name.as_str()) {
            let content = fs::read(&path).unwrap();
            // An empty log is no log.
            if !(name.ends_with("-wal") && content.is_empty()) {
                found.insert(path, content);
            }
        }
    }
    found
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else if path.is_file() {
            fs::copy(&path, &target).unwrap();
        }
    }
}

fn replace(folder: &Path, with: &Path) {
    fs::remove_dir_all(folder).unwrap();
    copy(with, folder);
}

/// The start is refused with these words, and leaves the folder as it was.
#[track_caller]
fn is_refused(launch: &Launch, words: &[&str]) {
    let before = files(&launch.data_dir());
    for _ in 0..2 {
        let refused = launch.refused();
        assert_eq!(refused.code(), UNSOUND, "{refused:#?}");
        for word in words {
            assert!(refused.stderr.contains(word), "no {word:?} in: {}", refused.stderr);
        }
        assert!(!refused.stderr.contains("panicked"), "{}", refused.stderr);
        let after = files(&launch.data_dir());
        let changed: Vec<_> =
            (before.keys().chain(after.keys())).filter(|path| before.get(*path) != after.get(*path)).collect();
        assert!(changed.is_empty(), "the refusal changed {changed:?}");
    }
}

fn adopt(launch: &Launch) {
    Finished::run(mangahub().arg("--data-dir").arg(launch.data_dir()).args(["db", "adopt", "--yes"])).done();
}

#[track_caller]
fn read_to(server: &Server, reader: &Reader, manga: MangaId, chapter: u32) {
    reader.put_progress(server, manga, &json!({"chapter": chapter})).expect(200);
}

#[track_caller]
fn stands_at(server: &Server, reader: &Reader, manga: MangaId, chapter: u32) {
    assert_eq!(reader.progress(server, manga)["chapter"], json!(chapter));
}

/// A folder with two lives behind it: a copy of what was there after the first, and what there is after the second.
struct TwoLives {
    launch: Launch,
    reader: Reader,
    manga: MangaId,
    copy: tempfile::TempDir,
}

impl TwoLives {
    /// Chapter 3 in the first life, chapter 5 in the second.
    fn live() -> Self {
        let server = Server::start();
        let reader = Reader::register(&server, "twice");
        let manga = reader.series(&server, "berserk");
        read_to(&server, &reader, manga, 3);
        let (_, launch) = server.stop();
        let first = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        copy(&launch.data_dir(), first.path());
        let server = launch.start();
        read_to(&server, &reader, manga, 5);
        let (_, launch) = server.stop();
        Self { launch, reader, manga, copy: first }
    }

    /// Replaces one file or folder by its older copy.
    fn go_back(&self, name: &str) {
        let (from, to) = (self.copy.path().join(name), self.launch.data_dir().join(name));
        if from.is_dir() {
            replace(&to, &from);
        } else {
            fs::copy(from, to).unwrap();
        }
    }

    /// Goes on after `db adopt`, with this chapter.
    #[track_caller]
    fn goes_on_adopted_at(self, chapter: u32) {
        adopt(&self.launch);
        let server = self.launch.start();
        stands_at(&server, &self.reader, self.manga, chapter);
        read_to(&server, &self.reader, self.manga, 8);
        stands_at(&server.kill().start(), &self.reader, self.manga, 8);
    }
}

#[test]
fn a_whole_folder_from_an_older_copy_goes_on_from_there() {
    let lives = TwoLives::live();
    replace(&lives.launch.data_dir(), lives.copy.path());
    let server = lives.launch.start();
    stands_at(&server, &lives.reader, lives.manga, 3);
    read_to(&server, &lives.reader, lives.manga, 4);
    stands_at(&server, &lives.reader, lives.manga, 4);
}

#[test]
fn a_store_older_than_the_folder_is_refused_and_can_be_adopted_without_losing_progress() {
    let lives = TwoLives::live();
    lives.go_back("mangahub.db");
    is_refused(&lives.launch, &["mangahub.db is older", "accounts", "db adopt"]);
    // The journal still reaches back to the older copy.
    lives.goes_on_adopted_at(5);
}

#[test]
fn a_store_older_than_the_journal_alone_is_brought_up_to_date_by_it() {
    let lives = TwoLives::live();
    lives.go_back("mangahub.db");
    lives.go_back("checkpoint");
    let server = lives.launch.start();
    stands_at(&server, &lives.reader, lives.manga, 5);
}

#[test]
fn a_journal_older_than_the_store_is_refused_and_the_store_can_be_adopted() {
    let lives = TwoLives::live();
    lives.go_back("journal");
    is_refused(&lives.launch, &["the journal ends at", "noted to have reached", "db adopt"]);
    fs::remove_file(lives.launch.data_dir().join("journal-end")).unwrap();
    is_refused(&lives.launch, &["the journal ends at", "older than the store", "db adopt"]);
    lives.goes_on_adopted_at(5);
}

#[test]
fn the_journal_of_another_folder_is_refused() {
    let lives = TwoLives::live();
    let (_, other) = Server::start().stop();
    replace(&lives.launch.data_dir().join("journal"), &other.data_dir().join("journal"));
    is_refused(&lives.launch, &["belongs to journal", "bring the right one back", "db adopt"]);
    fs::remove_file(lives.launch.data_dir().join("checkpoint")).unwrap();
    is_refused(&lives.launch, &["belongs to journal", "bring the right one back", "db adopt"]);
    fs::remove_file(lives.launch.data_dir().join("journal-end")).unwrap();
    is_refused(&lives.launch, &["belongs to store", "db drain", "db adopt"]);
    lives.goes_on_adopted_at(5);
}

#[test]
fn a_journal_from_before_an_adoption_is_refused() {
    let lives = TwoLives::live();
    lives.go_back("journal");
    adopt(&lives.launch);
    // The way back to what was set aside is closed: the store has gone on with another journal.
    lives.go_back("journal");
    is_refused(&lives.launch, &["belongs to journal", "db adopt"]);
    lives.goes_on_adopted_at(5);
}

#[test]
fn a_missing_journal_is_refused_with_and_without_a_checkpoint() {
    let lives = TwoLives::live();
    for entry in fs::read_dir(lives.launch.data_dir().join("journal")).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
    }
    is_refused(&lives.launch, &["is not in", "db adopt"]);
    for known_from in ["checkpoint", "journal-end"] {
        fs::remove_file(lives.launch.data_dir().join(known_from)).unwrap();
        is_refused(&lives.launch, &["is not in", "db adopt"]);
    }
    lives.goes_on_adopted_at(5);
}

#[test]
fn a_missing_or_empty_store_is_refused_before_another_is_made() {
    let lives = TwoLives::live();
    let path = lives.launch.data_dir().join("mangahub.db");
    let whole = fs::read(&path).unwrap();
    fs::remove_file(&path).unwrap();
    is_refused(&lives.launch, &["mangahub.db is missing or empty", "Bring the file back", "db adopt"]);
    fs::write(&path, "").unwrap();
    is_refused(&lives.launch, &["mangahub.db is missing or empty"]);
    fs::write(&path, whole).unwrap();
    stands_at(&lives.launch.start(), &lives.reader, lives.manga, 5);
}

#[test]
fn a_truncated_or_overwritten_store_is_refused() {
    let lives = TwoLives::live();
    let path = lives.launch.data_dir().join("mangahub.db");
    let whole = fs::read(&path).unwrap();
    for length in [100, 4_096, whole.len() / 2, whole.len() - 4_096] {
        fs::write(&path, &whole[..length]).unwrap();
        is_refused(&lives.launch, &["mangahub.db", "damaged", "backup", "db adopt"]);
    }
    let mut garbage = whole.clone();
    garbage[..4_096].fill(0x5a);
    fs::write(&path, garbage).unwrap();
    is_refused(&lives.launch, &["mangahub.db", "damaged", "backup", "db adopt"]);
    fs::write(&path, whole).unwrap();
    stands_at(&lives.launch.start(), &lives.reader, lives.manga, 5);
}

#[test]
fn a_damaged_checkpoint_is_said_and_does_without() {
    let lives = TwoLives::live();
    let path = lives.launch.data_dir().join("checkpoint");
    let whole = fs::read(&path).unwrap();
    let launch = [0, whole.len() / 2, whole.len()].into_iter().fold(lives.launch, |launch, cut| {
        let mut damaged = whole[..cut].to_vec();
        // Whole, and one bit of its checksum's reach flipped.
        if cut == whole.len() {
            damaged[40] ^= 1;
        }
        fs::write(&path, damaged).unwrap();
        let server = launch.start();
        stands_at(&server, &lives.reader, lives.manga, 5);
        let launch = server.stop().1;
        assert!(launch.stderr().contains("the checkpoint is damaged"), "{}", launch.stderr());
        launch
    });
    assert!(!launch.start().launch().stderr().contains("damaged"), "it was written anew");
}

/// The segments of the journal, in order.
fn segments(launch: &Launch) -> Vec<PathBuf> {
    let entries = fs::read_dir(launch.data_dir().join("journal")).unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<_> = entries.filter(|path| path.extension().is_some_and(|kind| kind == "seg")).collect();
    found.sort();
    found
}

/// Those that hold something.
fn begun_segments(launch: &Launch) -> Vec<PathBuf> {
    let begun = |path: &PathBuf| {
        let mut header = [0; 4_096];
        fs::File::open(path).unwrap().read_exact(&mut header).is_ok() && header.iter().any(|byte| *byte != 0)
    };
    segments(launch).into_iter().filter(begun).collect()
}

/// A server killed while its journal has commits and a prepared segment behind them.
fn killed() -> (Launch, Reader, MangaId) {
    let server = Server::start();
    let reader = Reader::register(&server, "torn");
    let manga = reader.series(&server, "berserk");
    (1..=20).for_each(|chapter| read_to(&server, &reader, manga, chapter));
    (kill_with_a_segment_ahead(server), reader, manga)
}

/// Kills a server once the segment behind the one it writes has been prepared, which takes a moment after a start.
fn kill_with_a_segment_ahead(server: Server) -> Launch {
    eventually("the next segment being prepared", || {
        let launch = server.launch();
        let last = segments(launch).pop()?;
        (!begun_segments(launch).contains(&last)).then_some(())
    });
    server.kill()
}

#[test]
fn a_flipped_bit_in_the_middle_of_the_journal_is_refused() {
    let (launch, reader, manga) = killed();
    let path = begun_segments(&launch).pop().unwrap();
    let whole = fs::read(&path).unwrap();
    // The second block holds the first commit; more follow.
    let mut flipped = whole.clone();
    flipped[4_096 + 100] ^= 0x10;
    fs::write(&path, &flipped).unwrap();
    // SQLite folds its log into the database when it is opened: only the journal is compared.
    let before = files(&launch.data_dir().join("journal"));
    let refused = launch.refused();
    assert_eq!(refused.code(), UNSOUND, "{refused:#?}");
    for word in ["the journal is damaged", path.to_str().unwrap(), "backup", "db adopt"] {
        assert!(refused.stderr.contains(word), "no {word:?} in: {}", refused.stderr);
    }
    assert_eq!(files(&launch.data_dir().join("journal")), before);
    is_refused(&launch, &["the journal is damaged"]);
    fs::write(&path, whole).unwrap();
    stands_at(&launch.start(), &reader, manga, 20);
}

#[test]
fn a_missing_segment_is_refused_whichever_it_is() {
    let (launch, reader, manga) = killed();
    // Two more lives, each with a segment of its own, while the store is kept from following by the kill.
    let launch = (21..=22).fold(launch, |launch, chapter| {
        let server = launch.start();
        read_to(&server, &reader, manga, chapter);
        kill_with_a_segment_ahead(server)
    });
    let hidden = launch.data_dir().with_extension("hidden");
    // Fold SQLite's log in first, so that a refusal has nothing to tidy.
    let segments = begun_segments(&launch);
    let last = segments.last().unwrap();
    fs::rename(last, &hidden).unwrap();
    let refused = launch.refused();
    assert_eq!(refused.code(), UNSOUND, "{refused:#?}");
    is_refused(&launch, &["journal", "db adopt"]);
    fs::rename(&hidden, last).unwrap();
    if segments.len() > 2 {
        fs::rename(&segments[1], &hidden).unwrap();
        is_refused(&launch, &["the journal has a hole", "db adopt"]);
        fs::rename(&hidden, &segments[1]).unwrap();
    }
    stands_at(&launch.start(), &reader, manga, 22);
}
