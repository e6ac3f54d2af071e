//! Where a restore puts things: everything is made whole in a folder inside the data folder (which may be a mount point, so that
//! it cannot be renamed itself), flushed, and then renamed into its place. What was there is moved aside, never deleted. At
//! whatever moment this is interrupted, a server finds the old data, the new data, or a folder that it refuses to start on.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::BackupError;
use crate::file_system::sync_folder;
use crate::folder::{self, JOURNAL_FOLDER, STORE_FILE};

const STAGING: &str = "restore-unfinished";
const ASIDE: &str = "replaced-";
/// Not content: the lock itself, and what file systems put at their root.
const IGNORED: [&str; 3] = ["lock", "lost+found", STAGING];
/// What names the journal that belongs here. The last to go: a folder that lacks the journal which these name is one that a
/// server refuses, whichever store lies in it.
const NAMES_JOURNAL: [&str; 2] = ["checkpoint", "journal-end"];

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
        // The journal first: without it, whatever else is still there is refused.
        old.sort_by_key(|name| name != JOURNAL_FOLDER);
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
        self.path.join(STORE_FILE)
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
        }
        self.steps(made, aside).iter().try_for_each(Step::take)?;
        fs::remove_dir(&self.path)?;
        sync_folder(&self.data)
    }

    /// What is done, in this order: each step is durable before the next.
    fn steps(&self, mut made: Vec<String>, aside: Option<&Path>) -> Vec<Step> {
        // The store last.
        made.sort_by_key(|name| name == STORE_FILE);
        let mut steps = Vec::new();
        let (last, first): (Vec<_>, Vec<_>) = self.old.iter().partition(|name| NAMES_JOURNAL.contains(&&***name));
        let go = |name: &String| Some(Step::Rename(self.data.join(name), aside?.join(name)));
        // A store's log would be taken for the new store's; with the old store alone, the missing journal speaks.
        steps.extend(first.iter().filter(|name| **name != STORE_FILE).filter_map(|name| go(name)));
        let replaced = self.old.iter().any(|name| name == STORE_FILE);
        // The old store keeps its name until the new one takes it.
        if let (true, Some(aside)) = (replaced, aside) {
            steps.push(Step::Link(self.data.join(STORE_FILE), aside.join(STORE_FILE)));
        }
        steps.extend(made.iter().map(|name| Step::Rename(self.path.join(name), self.data.join(name))));
        if replaced && !made.iter().any(|name| name == STORE_FILE) {
            steps.push(Step::Remove(self.data.join(STORE_FILE)));
        }
        steps.extend(last.iter().filter_map(|name| go(name)));
        steps
    }
}

/// One change of a folder.
#[derive(Debug)]
enum Step {
    Rename(PathBuf, PathBuf),
    /// A second name.
    Link(PathBuf, PathBuf),
    Remove(PathBuf),
}

impl Step {
    fn take(&self) -> io::Result<()> {
        let (from, to) = match self {
            Self::Rename(from, to) => (from, Some(to)),
            Self::Link(from, to) => (from, Some(to)),
            Self::Remove(path) => (path, None),
        };
        match self {
            Self::Rename(from, to) => fs::rename(from, to)?,
            Self::Link(from, to) => fs::hard_link(from, to)?,
            Self::Remove(path) => fs::remove_file(path)?,
        }
        // The new name before the old one is gone for good.
        to.and_then(|to| to.parent()).map_or(Ok(()), sync_folder)?;
        from.parent().map_or(Ok(()), sync_folder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a server would find: the store's content, and whether there are a journal, its name elsewhere, and a log.
    fn found(data: &Path) -> (String, [bool; 3]) {
        let store = fs::read_to_string(data.join(STORE_FILE)).unwrap_or_default();
        let there = |name: &str| data.join(name).exists();
        (store, [there(JOURNAL_FOLDER), NAMES_JOURNAL.into_iter().any(there), there("mangahub.db-wal")])
    }

    #[test]
    fn wherever_it_is_interrupted_a_server_finds_the_old_or_the_new_or_refuses() {
        for makes_store in [true, false] {
            let mut states = Vec::new();
            for taken in 0.. {
                let folder = tempfile::tempdir().unwrap();
                fs::create_dir(folder.path().join("journal")).unwrap();
                for name in ["checkpoint", "journal-end", "mangahub.db-wal", "secret", "folder-id"] {
                    fs::write(folder.path().join(name), "old").unwrap();
                }
                fs::write(folder.path().join(STORE_FILE), "old").unwrap();
                let staging = Staging::begin(folder.path(), true).unwrap();
                let mut made = vec!["secret".to_owned()];
                if makes_store {
                    fs::write(staging.store(), "new").unwrap();
                    made.insert(0, STORE_FILE.to_owned());
                }
                staging.write("secret", b"new").unwrap();
                let aside = folder.path().join("replaced-1");
                fs::create_dir(&aside).unwrap();
                let steps = staging.steps(made, Some(&aside));
                let taken = taken.min(steps.len());
                steps[..taken].iter().try_for_each(Step::take).unwrap();
                let (store, [journal, name, log]) = found(folder.path());
                let is_old = taken == 0;
                let is_new = taken == steps.len();
                // The journal that is named is missing.
                let is_refused = name && !journal;
                assert!(is_old || is_new || is_refused, "{taken} of {steps:#?}");
                assert!(store != "new" || !log, "a log of the old store beside the new one: {taken} of {steps:#?}");
                states.push((store, journal, name));
                if is_new {
                    assert_eq!(fs::read_to_string(aside.join(STORE_FILE)).unwrap(), "old");
                    assert_eq!(fs::read_to_string(aside.join("secret")).unwrap(), "old");
                    break;
                }
            }
            let new = if makes_store { "new" } else { "" };
            assert_eq!(states.last().unwrap(), &(new.to_owned(), false, false));
        }
    }
}
