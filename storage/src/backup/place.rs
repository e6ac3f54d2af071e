//! Where a restore puts things: everything is made whole in a folder inside the data folder (which may be a mount point, so that
//! it cannot be renamed itself), flushed, and then renamed into its place. What was there is moved aside, never deleted. At
//! whatever moment this is interrupted, a server finds the old data, the new data, or a folder that it refuses to start on.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::BackupError;
use crate::file_system::sync_folder;
use crate::folder;

const STAGING: &str = "restore-unfinished";
const ASIDE: &str = "replaced-";
/// Not content: the lock itself, and what file systems put at their root.
const IGNORED: [&str; 3] = ["lock", "lost+found", STAGING];
/// The embedded store. The last old file to go and the last new one to come, because a folder with a journal and without a
/// store, or the other way round, is one that a server refuses.
const STORE: &str = "mangahub.db";

/// A data folder that is being restored; nobody else may open it meanwhile.
pub(super) struct Staging {
    data: PathBuf,
    path: PathBuf,
    old: Vec<String>,
    _lock: File,
}

impl Staging {
    /// Takes the folder, which must be empty unless `replace`.
    pub(super) fn begin(data: &Path, replace: bool) -> Result<Self, BackupError> {
        let failed = |what| move |source| BackupError::Io { what, path: data.to_owned(), source };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(data).map_err(failed("make"))?;
        let lock = folder::take_lock(data)?;
        let mut old = Vec::new();
        for entry in fs::read_dir(data).map_err(failed("read"))? {
            let name = entry.map_err(failed("read"))?.file_name().into_string();
            old.push(name.map_err(|_| failed("read")(io::Error::other("a name in it is not text")))?);
        }
        old.retain(|name| !IGNORED.contains(&&**name) && !name.starts_with(ASIDE));
        if !old.is_empty() && !replace {
            return Err(BackupError::NotEmpty { place: data.display().to_string() });
        }
        let path = data.join(STAGING);
        match fs::remove_dir_all(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed("clear")(error)),
            _ => {}
        }
        fs::DirBuilder::new().mode(0o700).create(&path).map_err(failed("write to"))?;
        Ok(Self { data: data.to_owned(), path, old, _lock: lock })
    }

    /// Where the embedded store is made.
    pub(super) fn store(&self) -> PathBuf {
        self.path.join(STORE)
    }

    /// Writes a small file.
    pub(super) fn write(&self, name: &str, content: &[u8]) -> io::Result<()> {
        let path = self.path.join(name);
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        io::Write::write_all(&mut file, content)
    }

    /// Puts what was made into its place; answers where that which was there is now.
    pub(super) fn finish(self, now_unix_ms: u64) -> Result<Option<PathBuf>, BackupError> {
        let failed = |source| BackupError::Io { what: "put the restored files into", path: self.data.clone(), source };
        let aside = (!self.old.is_empty()).then(|| self.data.join(format!("{ASIDE}{now_unix_ms}")));
        self.place(aside.as_deref()).map_err(failed)?;
        Ok(aside)
    }

    fn place(&self, aside: Option<&Path>) -> io::Result<()> {
        let mut made: Vec<String> = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            File::open(entry.path())?.sync_all()?;
            made.extend(entry.file_name().into_string());
        }
        sync_folder(&self.path)?;
        if let Some(aside) = aside {
            fs::DirBuilder::new().mode(0o700).create(aside)?;
            for name in self.old.iter().filter(|name| *name != STORE) {
                fs::rename(self.data.join(name), aside.join(name))?;
            }
            if self.old.iter().any(|name| name == STORE) {
                // Under both names until the new one takes its place.
                fs::hard_link(self.data.join(STORE), aside.join(STORE))?;
            }
            sync_folder(aside)?;
            sync_folder(&self.data)?;
        }
        // The store last.
        made.sort_by_key(|name| name == STORE);
        for name in &made {
            fs::rename(self.path.join(name), self.data.join(name))?;
        }
        if !made.iter().any(|name| name == STORE) && self.old.iter().any(|name| name == STORE) {
            fs::remove_file(self.data.join(STORE))?;
        }
        fs::remove_dir(&self.path)?;
        sync_folder(&self.data)
    }
}
