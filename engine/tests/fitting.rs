//! Whether what lies in a folder fits together, where only a store that is held back can show it: a journal that lost its end
//! and still reaches past the store, what `db adopt` leaves alone, and a store writer that meets a defect.

#![allow(clippy::unwrap_used)] // A failed step fails the test.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use common::store_seam::Switched;
use common::{Server, chapter, config, until};
use engine::boot::Seams;
use engine::{EngineConfig, SetProgress, StartError};
use proto::{MangaId, UserId};
use storage::store::seam::{Seam, Seamed};
use storage::store::{Answer, Applied, Batch, LoadedUser, SharedStore};

/// A folder whose store has none of what its journal has.
struct Held {
    folder: tempfile::TempDir,
    token: String,
    manga: MangaId,
}

fn held_store() -> Seams {
    let store = Switched::default();
    store.set_holds(true);
    Seams { store: Some(store.seam()), ..Seams::default() }
}

impl Held {
    /// Chapter 1 in its first life.
    fn live() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let server = Server::start(Self::impatient(folder.path()), held_store());
        let (tokens, series) = server.seed(1, 1);
        let held = Self { folder, token: tokens[0].clone(), manga: series[0] };
        server.set(0, &held.token, SetProgress::to(held.manga, chapter(1))).unwrap();
        server.stop();
        held
    }

    fn impatient(folder: &Path) -> EngineConfig {
        let mut config = config(folder, 1);
        config.limits.drain = Duration::from_millis(300);
        config
    }

    /// Another life, with this chapter.
    fn read_to(&self, number: u32) {
        let server = Server::start(Self::impatient(self.folder.path()), held_store());
        server.set(0, &self.token, SetProgress::to(self.manga, chapter(number))).unwrap();
        server.stop();
    }

    #[track_caller]
    fn stands_at(&self, number: u32) {
        let server = Server::start(config(self.folder.path(), 1), Seams::default());
        assert_eq!(server.get(0, &self.token, self.manga).unwrap().unwrap().chapter, chapter(number));
        server.stop();
    }

    fn journal(&self) -> PathBuf {
        self.folder.path().join("journal")
    }

    /// The segments, in order.
    fn segments(&self) -> Vec<PathBuf> {
        let mut found: Vec<_> = fs::read_dir(self.journal()).unwrap().map(|entry| entry.unwrap().path()).collect();
        found.sort();
        found
    }

    fn begun(&self) -> Vec<PathBuf> {
        // A segment that is being prepared is renamed when it is ready, maybe between the listing and the look.
        let begun = |path: &PathBuf| fs::read(path).is_ok_and(|bytes| bytes.starts_with(b"MHJOURNL"));
        self.segments().into_iter().filter(begun).collect()
    }

    fn start(&self, adopt: bool) -> Result<Server, StartError> {
        let mut config = Self::impatient(self.folder.path());
        config.adopt_store = adopt;
        Server::try_start(config, held_store())
    }

    /// The start is refused with these words, and the journal stays as it is.
    #[track_caller]
    fn is_refused(&self, adopt: bool, words: &[&str]) {
        let before = self.segments();
        let text = self.start(adopt).err().expect("a refusal").to_string();
        words.iter().for_each(|word| assert!(text.contains(word), "no {word:?} in: {text}"));
        assert_eq!(self.segments(), before);
    }

    /// `db adopt` goes on with the journal that is there.
    #[track_caller]
    fn adopted_stands_at(&self, number: u32) {
        let server = self.start(true).expect("adopting works");
        assert_eq!(server.running().facts().journal_aside, None, "the journal that is there was set aside");
        server.stop();
        self.stands_at(number);
        self.read_to(9);
        self.stands_at(9);
    }
}

#[test]
fn an_older_journal_is_refused_although_the_store_is_older_still() {
    let held = Held::live();
    let copy = tempfile::tempdir().unwrap();
    for path in held.segments() {
        fs::copy(&path, copy.path().join(path.file_name().unwrap())).unwrap();
    }
    held.read_to(2);
    let newer = held.folder.path().join("newer");
    fs::rename(held.journal(), &newer).unwrap();
    fs::rename(copy.path(), held.journal()).unwrap();
    held.is_refused(false, &["the journal ends at record 1", "noted to have reached record 2", "db adopt"]);
    // The right one is welcome.
    fs::rename(held.journal(), copy.path()).unwrap();
    fs::rename(&newer, held.journal()).unwrap();
    held.stands_at(2);
}

#[test]
fn an_older_journal_can_be_adopted_with_what_it_has() {
    let held = Held::live();
    let copy = tempfile::tempdir().unwrap();
    for path in held.segments() {
        fs::copy(&path, copy.path().join(path.file_name().unwrap())).unwrap();
    }
    held.read_to(2);
    fs::remove_dir_all(held.journal()).unwrap();
    fs::rename(copy.path(), held.journal()).unwrap();
    held.is_refused(false, &["an older copy", "db adopt"]);
    held.adopted_stands_at(1);
}

#[test]
fn a_missing_last_segment_is_refused_with_none_prepared_behind_it() {
    let held = Held::live();
    held.read_to(2);
    let last = held.begun().pop().unwrap();
    for path in held.segments() {
        if path >= last {
            fs::remove_file(path).unwrap();
        }
    }
    held.is_refused(false, &["segments of its end are missing", "db adopt"]);
    held.adopted_stands_at(1);
}

#[test]
fn a_segment_is_noted_before_anything_is_acknowledged_from_it() {
    let held = Held::live();
    let server = Server::start(Held::impatient(held.folder.path()), held_store());
    let noted = storage::journal::EndNote::load(&held.folder.path().join("journal-end")).unwrap().unwrap();
    let begun = held.begun().len() as u64;
    assert!(noted.segment >= begun, "{noted:?} of {begun} segments");
    server.stop();
}

#[test]
fn adopting_leaves_a_journal_that_cannot_be_read_for_the_moment() {
    let held = Held::live();
    let first = held.begun().remove(0);
    let hidden = held.folder.path().join("hidden");
    fs::rename(&first, &hidden).unwrap();
    // Opens, and then every read is an error.
    fs::create_dir(&first).unwrap();
    held.is_refused(true, &["cannot read", "nothing was adopted"]);
    fs::remove_dir(&first).unwrap();
    fs::rename(&hidden, &first).unwrap();
    held.stands_at(1);
}

#[test]
fn adopting_leaves_a_journal_of_a_newer_server() {
    let held = Held::live();
    let first = held.begun().remove(0);
    let whole = fs::read(&first).unwrap();
    let mut newer = whole.clone();
    newer[8] = 2;
    fs::write(&first, newer).unwrap();
    held.is_refused(true, &["journal format 2", "newer server", "nothing was adopted"]);
    fs::write(&first, whole).unwrap();
    held.stands_at(1);
}

#[test]
fn adopting_says_where_a_damaged_journal_went() {
    let held = Held::live();
    let first = held.begun().remove(0);
    let mut damaged = fs::read(&first).unwrap();
    damaged[20] ^= 1;
    fs::write(&first, damaged).unwrap();
    held.is_refused(false, &["the journal is damaged", "db adopt"]);
    let server = held.start(true).expect("adopting works");
    let aside = server.running().facts().journal_aside.clone().expect("it was set aside");
    server.stop();
    assert!(aside.join(first.file_name().unwrap()).exists(), "{}", aside.display());
}

/// A store client with a defect that shows this many times.
struct Defective(AtomicUsize);

impl Seam for Defective {
    fn apply(&self, real: &SharedStore, batch: Batch) -> Answer<Applied> {
        let left = self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        assert!(left.is_err(), "a defect, on purpose");
        real.apply(batch)
    }

    fn load_user(&self, real: &SharedStore, user: UserId) -> Answer<Option<LoadedUser>> {
        real.load_user(user)
    }
}

#[test]
fn a_store_writer_with_a_defect_begins_again_and_skips_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let defective = Arc::new(Defective(AtomicUsize::new(3)));
    let sits = Arc::clone(&defective);
    let seam = move |real| Arc::new(Seamed::new(real, Arc::clone(&sits))) as SharedStore;
    let server = Server::start(config(folder.path(), 1), Seams { store: Some(Arc::new(seam)), ..Seams::default() });
    let (tokens, series) = server.seed(1, 5);
    for round in 1..=20 {
        for manga in &series {
            server.set(0, &tokens[0], SetProgress::to(*manga, chapter(round))).unwrap();
        }
    }
    let admin = server.running().admin();
    until("the store has everything", || {
        let backlog = admin.backlog();
        backlog.stored_lsn >= backlog.durable_lsn && defective.0.load(Ordering::SeqCst) == 0
    });
    let store = admin.store();
    let parked = futures_executor::block_on(store.parked(0, 10)).unwrap();
    assert!(parked.is_empty(), "{parked:?}");
    server.stop();
    // From the store alone.
    fs::remove_dir_all(folder.path().join("journal")).unwrap();
    let mut adopting = config(folder.path(), 1);
    adopting.adopt_store = true;
    let server = Server::start(adopting, Seams::default());
    for manga in &series {
        assert_eq!(server.get(0, &tokens[0], *manga).unwrap().unwrap().chapter, chapter(20));
    }
}
