//! The data folder: made 0700, held by one process at a time, told apart from every other by a random number. It owns the
//! paths in it and the small files (secret, identity, boot count); it must never hand out a folder that another server uses.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use proto::NodeId;
use ring::rand::{SecureRandom, SystemRandom};

use crate::file_system::{FileSystem, sync_folder};

/// The embedded store's file in a data folder.
pub const STORE_FILE: &str = "mangahub.db";

/// The file of the secret that signs tokens in it.
pub const SECRET_FILE: &str = "secret";

/// The folder of the journal's segments in it.
pub(crate) const JOURNAL_FOLDER: &str = "journal";

/// Why a data folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// Another process holds it.
    #[error("another server uses the data folder {path}{}. Stop it first, or give this one another folder", holder(.pid))]
    InUse {
        /// The folder.
        path: PathBuf,
        /// The other process, when it has said so.
        pid: Option<u32>,
    },
    /// Nothing can be written there.
    #[error(
        "the data folder {path} cannot be written to: {source}. Check who owns it and whether its file system is mounted \
         read-only"
    )]
    ReadOnly {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The system refused something else.
    #[error("cannot {what} {path}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file in it is not what it should be.
    #[error("{path} is damaged: {what}. Restore it from a backup; without one, start with a new data folder")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: &'static str,
    },
}

fn holder(pid: &Option<u32>) -> String {
    pid.map(|pid| format!(" (process {pid})")).unwrap_or_default()
}

/// A data folder, locked for as long as this lives.
#[derive(Debug)]
pub struct DataFolder {
    path: PathBuf,
    file_system: FileSystem,
    folder_id: u64,
    boot_epoch: u64,
    stream_epoch: u64,
    _lock: File,
}

impl DataFolder {
    /// Makes the folder where it is missing, locks it, and counts this boot. The parent must exist or be makeable.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, FolderError> {
        let path = path.into();
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&path)
            .map_err(|error| refused("make", &path, error))?;
        let lock = take_lock(&path)?;
        let file_system = FileSystem::of(&path).map_err(|error| refused("look at", &path, error))?;
        let folder_id = u64_file(&path.join("folder-id"), |old| old.map_or_else(random_u64, Ok))?;
        let boot_epoch = u64_file(&path.join("boot-count"), |old| Ok(old.unwrap_or(0) + 1))?;
        let random = random_u64().map_err(|error| refused("get random bytes for", &path, error))?;
        let stream_epoch = (boot_epoch << 32) | (random >> 32);
        Ok(Self { path, file_system, folder_id, boot_epoch, stream_epoch, _lock: lock })
    }

    /// Whether a server has been in a folder: it has left a store or a journal.
    pub fn is_used(path: &Path) -> bool {
        [STORE_FILE, JOURNAL_FOLDER].iter().any(|name| path.join(name).exists())
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it stands on.
    pub fn file_system(&self) -> FileSystem {
        self.file_system
    }

    /// A random number made with the folder: the `node` of a resume token.
    pub fn folder_id(&self) -> u64 {
        self.folder_id
    }

    /// The last component of this server's merge keys; the folder's random number folded to 32 bits, never 0.
    pub fn node(&self) -> NodeId {
        NodeId(((self.folder_id ^ (self.folder_id >> 32)) as u32).max(1))
    }

    /// Which folder this is, in one word: the machine's run, the file system and the file. A copy is another one.
    pub fn place(&self) -> Result<String, FolderError> {
        let refused = |error| refused("look at", &self.path, error);
        let seen = std::fs::metadata(self.path.join("folder-id")).map_err(refused)?;
        let machine = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        Ok(format!("{}:{:x}:{}", machine.trim(), seen.dev(), seen.ino()))
    }

    /// How many times a server has been started on this folder, this time included.
    pub fn boot_epoch(&self) -> u64 {
        self.boot_epoch
    }

    /// The `epoch` of this run's resume tokens: the boot's number and 32 random bits, because a folder restored from an older
    /// copy counts the same boots again, and positions of the other history mean nothing in this one.
    pub fn stream_epoch(&self) -> u64 {
        self.stream_epoch
    }

    /// Where the journal's segments are.
    pub fn journal(&self) -> PathBuf {
        self.path.join(JOURNAL_FOLDER)
    }

    /// How far the journal had reached, noted outside it.
    pub fn journal_end(&self) -> PathBuf {
        self.path.join("journal-end")
    }

    /// The embedded store's file.
    pub fn sqlite(&self) -> PathBuf {
        self.path.join(STORE_FILE)
    }

    /// The local checkpoint.
    pub fn checkpoint(&self) -> PathBuf {
        self.path.join("checkpoint")
    }

    /// A checkpoint of the catalogue alone: large, and seldom another.
    pub fn checkpoint_catalogue(&self) -> PathBuf {
        self.path.join("checkpoint-catalogue")
    }

    /// The signing secret of this folder, made (48 random bytes as 96 hex digits, 0600) when missing.
    pub fn secret(&self) -> Result<String, FolderError> {
        let path = self.path.join(SECRET_FILE);
        match std::fs::read_to_string(&path) {
            Ok(text) if text.trim().len() >= 64 => Ok(text.trim().to_owned()),
            Ok(_) => Err(FolderError::Damaged { path, what: "fewer than 64 digits" }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let mut bytes = [0; 48];
                fill_random(&mut bytes).map_err(|error| refused("make", &path, error))?;
                let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
                replace_file(&path, text.as_bytes()).map_err(|error| refused("write", &path, error))?;
                Ok(text)
            }
            Err(error) => Err(refused("read", &path, error)),
        }
    }
}

/// Writes a small file so that a crash leaves the old content or the new, never something between; 0600.
pub fn replace_file(path: &Path, content: &[u8]) -> io::Result<()> {
    let unfinished = path.with_extension("new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
    file.set_permissions(std::fs::Permissions::from_mode(0o600))?;
    file.write_all(content)?;
    file.sync_all()?;
    std::fs::rename(&unfinished, path)?;
    path.parent().map_or(Ok(()), sync_folder)
}

fn refused(what: &'static str, path: &Path, source: io::Error) -> FolderError {
    let path = path.to_owned();
    match source.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => FolderError::ReadOnly { path, source },
        _ => FolderError::Io { what, path, source },
    }
}

pub(crate) fn take_lock(folder: &Path) -> Result<File, FolderError> {
    let path = folder.join("lock");
    let mut lock = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(|error| refused("open", &path, error))?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut text = String::new();
            // Only for the message: the lock itself is the kernel's.
            let _ = lock.read_to_string(&mut text);
            return Err(FolderError::InUse { path: folder.to_owned(), pid: text.trim().parse().ok() });
        }
        Err(TryLockError::Error(error)) => return Err(refused("lock", &path, error)),
    }
    let pid = std::process::id().to_string();
    lock.set_len(0)
        .and_then(|()| lock.rewind())
        .and_then(|()| lock.write_all(pid.as_bytes()))
        .map_err(|error| refused("write", &path, error))?;
    Ok(lock)
}

/// Reads a number, works out the new one, and keeps that.
fn u64_file(path: &Path, next: impl FnOnce(Option<u64>) -> io::Result<u64>) -> Result<u64, FolderError> {
    let old = match std::fs::read_to_string(path) {
        Ok(text) => {
            let damaged = FolderError::Damaged { path: path.to_owned(), what: "not a number" };
            Some(text.trim().parse().map_err(|_| damaged)?)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(refused("read", path, error)),
    };
    let new = next(old).map_err(|error| refused("make", path, error))?;
    if old != Some(new) {
        replace_file(path, new.to_string().as_bytes()).map_err(|error| refused("write", path, error))?;
    }
    Ok(new)
}

fn random_u64() -> io::Result<u64> {
    let mut bytes = [0; 8];
    fill_random(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}

/// Random bytes from the system.
pub fn fill_random(bytes: &mut [u8]) -> io::Result<()> {
    SystemRandom::new().fill(bytes).map_err(|_| io::Error::other("the system gave no random bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_servers_never_share_a_folder() {
        let parent = tempfile::tempdir().unwrap();
        let first = DataFolder::open(parent.path().join("data")).unwrap();
        let error = DataFolder::open(parent.path().join("data")).unwrap_err();
        assert!(matches!(error, FolderError::InUse { pid: Some(pid), .. } if pid == std::process::id()), "{error}");
        assert!(error.to_string().contains("another server uses"));
        drop(first);
        DataFolder::open(parent.path().join("data")).unwrap();
    }

    #[test]
    fn a_folder_keeps_its_identity_and_counts_its_boots() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("data");
        let (id, secret) = {
            let folder = DataFolder::open(&path).unwrap();
            assert_eq!(folder.boot_epoch(), 1);
            (folder.folder_id(), folder.secret().unwrap())
        };
        let folder = DataFolder::open(&path).unwrap();
        assert_eq!((folder.folder_id(), folder.boot_epoch()), (id, 2));
        assert_eq!(folder.secret().unwrap(), secret);
        assert!(secret.len() >= 64 && folder.node().0 != 0);
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(&path.join("secret"))), (0o700, 0o600));
    }

    #[test]
    fn a_folder_restored_from_a_copy_never_repeats_an_epoch_of_its_streams() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("data");
        let first = DataFolder::open(&path).unwrap().stream_epoch();
        let copy = std::fs::read(path.join("boot-count")).unwrap();
        let second = DataFolder::open(&path).unwrap().stream_epoch();
        std::fs::write(path.join("boot-count"), copy).unwrap();
        let restored = DataFolder::open(&path).unwrap().stream_epoch();
        assert!(first != second && second != restored && restored >> 32 == 2);
    }

    #[test]
    fn a_damaged_identity_is_not_made_up_anew() {
        let parent = tempfile::tempdir().unwrap();
        std::fs::write(parent.path().join("folder-id"), "garbage").unwrap();
        assert!(matches!(DataFolder::open(parent.path()), Err(FolderError::Damaged { .. })));
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_explained() {
        let error = DataFolder::open("/proc/mangahub").unwrap_err();
        assert!(error.to_string().contains("/proc/mangahub"), "{error}");
    }
}
