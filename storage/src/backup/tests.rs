//! What a restore must refuse, and leave alone when it does: damaged, cut off, newer, in the way of something.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::archive::Writer;
use super::*;
use crate::store::Store;

const NOW: u64 = 1_700_000_000_000;

struct Case {
    folder: tempfile::TempDir,
    backup: PathBuf,
}

impl Case {
    /// A backup of a small store.
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (file, backup) = (folder.path().join("store.db"), folder.path().join("backup"));
        let store = SqliteStore::open(&SqliteConfig::new(&file), NOW).unwrap();
        let wanted = Create {
            store: Place::Embedded(file),
            store_id: &store.store_id().to_string(),
            secret: Some("secret".repeat(20)),
            server: "9.9.9",
            now_unix_ms: NOW,
        };
        create(wanted, &backup, &mut |_, _| {}).unwrap();
        Self { folder, backup }
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn restore(&self, replace: bool) -> Result<Option<PathBuf>, BackupError> {
        let backup = Backup::open(&self.backup, &mut |_| {})?;
        let data_dir = self.data();
        let wanted = Restore { data_dir: &data_dir, database: None, replace, end_sessions: false, now_unix_ms: NOW };
        restore(&backup, &wanted, &mut |_| {})
    }

    #[track_caller]
    fn is_refused(&self, case: &str) -> String {
        let refused = self.restore(true).expect_err(case);
        assert!(!self.data().exists(), "{case}: the folder was touched");
        refused.to_string()
    }

    fn rewrite(&self, bytes: &[u8]) {
        fs::write(&self.backup, bytes).unwrap();
    }
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort_unstable();
    names
}

#[test]
fn a_damaged_or_cut_off_file_is_refused_and_nothing_is_changed() {
    let case = Case::new();
    let whole = fs::read(&case.backup).unwrap();
    let manifest = Backup::open(&case.backup, &mut |_| {}).unwrap().manifest().clone();
    let mut refused = 0;
    for at in 0..whole.len() {
        let mut broken = whole.clone();
        broken[at] ^= 1 << (at % 8);
        case.rewrite(&broken);
        // zstd has a few bits that nobody reads (RFC 8878, 3.1.1.1): with one of those changed nothing is damaged.
        match Backup::open(&case.backup, &mut |_| {}) {
            Ok(backup) => assert_eq!(backup.manifest(), &manifest, "byte {at} of {}", whole.len()),
            Err(_) => {
                let text = case.is_refused(&format!("byte {at} of {}", whole.len()));
                assert!(text.contains("Nothing was changed"), "{text}");
                refused += 1;
            }
        }
    }
    assert!(refused + 8 > whole.len(), "{refused} of {}", whole.len());
    for length in [0, 1, 4, 100, whole.len() / 2, whole.len() - 5, whole.len() - 1] {
        case.rewrite(&whole[..length]);
        case.is_refused(&format!("{length} bytes of {}", whole.len()));
    }
    case.rewrite(&[&whole[..], b"more"].concat());
    case.is_refused("something behind it");
    case.rewrite(b"PK\x03\x04 another kind of file");
    case.is_refused("another kind of file");
    case.rewrite(&whole);
    case.restore(false).unwrap();
}

/// A backup with other members.
fn made_of(path: &Path, members: &[(&str, &[u8])]) {
    let file = zstd::Encoder::new(fs::File::create(path).unwrap(), 1).unwrap();
    let mut tar = tar::Builder::new(file);
    for (name, content) in members {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_cksum();
        tar.append_data(&mut header, name, *content).unwrap();
    }
    tar.into_inner().unwrap().finish().unwrap();
}

#[test]
fn a_newer_format_and_newer_content_are_named() {
    let case = Case::new();
    made_of(&case.backup, &[("format", b"2\n"), ("whatever", b"it is then")]);
    let text = case.is_refused("a newer format");
    assert!(text.contains("format 2") && text.contains("reads 1"), "{text}");
    made_of(&case.backup, &[("format", b"1\n")]);
    assert!(case.is_refused("no manifest").contains("no manifest"));
    made_of(&case.backup, &[("readme", b"1\n")]);
    assert!(case.is_refused("another tar").contains("not a backup"));

    fs::remove_file(&case.backup).unwrap();
    let manifest = |columns: &[&str]| {
        let _ = fs::remove_file(&case.backup);
        let columns = columns.iter().map(ToString::to_string).collect();
        Writer::create(&case.backup)
            .unwrap()
            .finish(|members| Manifest {
                format: FORMAT,
                server: "9.9.9".into(),
                created_at_unix_ms: NOW,
                store: "sqlite".into(),
                store_id: String::new(),
                schema_version: 99,
                last_ids: BTreeMap::new(),
                tables: vec![Saved { name: "genres".into(), columns, rows: 0 }],
                members,
            })
            .unwrap();
    };
    manifest(&["id", "mood"]);
    let text = case.is_refused("a column of tomorrow");
    assert!(text.contains("9.9.9") && text.contains("mood"), "{text}");
    manifest(&["id", "name"]);
    case.restore(false).unwrap();
}

#[test]
fn what_is_there_is_left_alone_or_moved_aside_whole() {
    let case = Case::new();
    fs::create_dir_all(case.data().join("journal")).unwrap();
    for (name, content) in [("mangahub.db", "an old store"), ("mangahub.db-wal", "its log"), ("journal/1.seg", "x")] {
        fs::write(case.data().join(name), content).unwrap();
    }
    // The leavings of an attempt that was interrupted.
    fs::create_dir(case.data().join("restore-unfinished")).unwrap();
    fs::write(case.data().join("restore-unfinished/mangahub.db"), "half").unwrap();
    let refused = case.restore(false).unwrap_err();
    assert!(matches!(refused, BackupError::NotEmpty { .. }), "{refused}");
    assert_eq!(fs::read(case.data().join("mangahub.db")).unwrap(), b"an old store");

    let aside = case.restore(true).unwrap().expect("something was there");
    assert_eq!(names(&aside), ["journal", "mangahub.db", "mangahub.db-wal"]);
    assert_eq!(fs::read(aside.join("mangahub.db")).unwrap(), b"an old store");
    let left = aside.file_name().unwrap().to_str().unwrap();
    assert_eq!(names(&case.data()), ["lock", "mangahub.db", left, "secret"]);
    SqliteStore::open(&SqliteConfig::new(case.data().join("mangahub.db")), NOW).unwrap();
    for private in [case.backup.clone(), case.data().join("secret"), case.data().join("mangahub.db")] {
        let mode = fs::metadata(&private).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{}", private.display());
    }
}

#[test]
fn a_folder_that_a_server_holds_is_not_restored_over() {
    let case = Case::new();
    let held = crate::folder::DataFolder::open(case.data()).unwrap();
    let refused = case.restore(true).unwrap_err();
    assert!(matches!(refused, BackupError::Folder(FolderError::InUse { .. })), "{refused}");
    drop(held);
    case.restore(true).unwrap();
}

#[test]
fn a_backup_never_takes_the_place_of_a_file() {
    let case = Case::new();
    let before = fs::read(&case.backup).unwrap();
    assert!(matches!(Writer::create(&case.backup), Err(BackupError::Exists { .. })));
    // One that appears while another is written.
    let path = case.folder.path().join("other");
    let writer = Writer::create(&path).unwrap();
    fs::write(&path, "somebody else's").unwrap();
    let manifest = Backup::open(&case.backup, &mut |_| {}).unwrap().manifest().clone();
    let refused = writer.finish(|members| Manifest { members, ..manifest }).unwrap_err();
    assert!(matches!(refused, BackupError::Exists { .. }), "{refused}");
    assert_eq!((fs::read(&case.backup).unwrap(), fs::read(&path).unwrap()), (before, b"somebody else's".to_vec()));
    let left = names(case.folder.path());
    assert!(!left.iter().any(|name| name.ends_with("unfinished")), "{left:?}");
}
