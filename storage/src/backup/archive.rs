//! The file: a tar of small members, compressed with zstd, 0600. It is written under another name and gets its own only when it
//! is whole and on disk; it is read only as far as every member fits the manifest's checksums. The first member names the
//! format, so that a newer one is told apart from a damaged one.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use ring::digest::{SHA256, digest};
use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::BackupError;
use super::manifest::{FORMAT, Manifest, Member};
use crate::file_system::sync_folder;
use crate::folder::fill_random;

const FORMAT_NAME: &str = "format";
const MANIFEST_NAME: &str = "manifest.json";
/// What a member may take in memory; the writer makes them far smaller.
pub(super) const MEMBER_BYTES_MAX: u64 = 64 << 20;
/// Members of one file: 4 TiB of rows.
const MEMBERS_MAX: usize = 1 << 20;
/// Behind the last member: a tar ends with blocks of zeros.
const PADDING_BYTES_MAX: u64 = 1 << 20;
/// What a compressed file may make its reader keep: 128 MiB, zstd's own limit for strangers' files.
const WINDOW_LOG_MAX: u32 = 27;
/// zstd's default.
const LEVEL: i32 = 3;

/// Takes a member's name and content.
type Each<'a> = &'a mut dyn FnMut(&str, Vec<u8>) -> Result<(), BackupError>;

/// A backup that is being written. Dropped before `finish`, it leaves nothing.
pub(super) struct Writer {
    tar: tar::Builder<zstd::Encoder<'static, BufWriter<File>>>,
    members: Vec<Member>,
    path: PathBuf,
    unfinished: Unfinished,
}

/// The file under its other name; removed when it is let go of.
struct Unfinished(PathBuf);

impl Drop for Unfinished {
    fn drop(&mut self) {
        // After a rename it is not there any more.
        let _ = std::fs::remove_file(&self.0);
    }
}

fn failed<'a>(what: &'static str, path: &'a Path) -> impl Fn(io::Error) -> BackupError + 'a {
    move |source| BackupError::Io { what, path: path.to_owned(), source }
}

impl Writer {
    /// Begins a file beside `path`, which must not exist.
    pub(super) fn create(path: &Path) -> Result<Self, BackupError> {
        if path.symlink_metadata().is_ok() {
            return Err(BackupError::Exists { path: path.to_owned() });
        }
        let mut random = [0; 4];
        fill_random(&mut random).map_err(failed("make", path))?;
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{:08x}.unfinished", u32::from_le_bytes(random)));
        let unfinished = Unfinished(name.into());
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished.0);
        let file = BufWriter::with_capacity(1 << 20, file.map_err(failed("make", &unfinished.0))?);
        let mut encoder = zstd::Encoder::new(file, LEVEL).map_err(failed("write", path))?;
        encoder.include_checksum(true).map_err(failed("write", path))?;
        let mut writer =
            Self { tar: tar::Builder::new(encoder), members: Vec::new(), path: path.to_owned(), unfinished };
        writer.append(FORMAT_NAME, format!("{FORMAT}\n").as_bytes())?;
        Ok(writer)
    }

    /// Adds a member.
    pub(super) fn add(&mut self, name: String, content: &[u8]) -> Result<(), BackupError> {
        self.append(&name, content)?;
        self.members.push(Member { name, bytes: content.len() as u64, sha256: sha256(content) });
        Ok(())
    }

    fn append(&mut self, name: &str, content: &[u8]) -> Result<(), BackupError> {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o600);
        header.set_size(content.len() as u64);
        header.set_cksum();
        self.tar.append_data(&mut header, name, content).map_err(failed("write", &self.unfinished.0))
    }

    /// Writes the manifest, which is handed the members, and gives the file its name once it is on disk.
    pub(super) fn finish(mut self, manifest: impl FnOnce(Vec<Member>) -> Manifest) -> Result<Manifest, BackupError> {
        let manifest = manifest(std::mem::take(&mut self.members));
        let text = serde_json::to_vec_pretty(&manifest).map_err(io::Error::from);
        let text = text.map_err(failed("write", &self.path))?;
        self.append(MANIFEST_NAME, &text)?;
        let Self { tar, path, unfinished, .. } = self;
        let write = || {
            let mut file = tar.into_inner()?.finish()?;
            file.flush()?;
            file.get_ref().sync_all()
        };
        write().map_err(failed("write", &unfinished.0))?;
        match renameat_with(CWD, &unfinished.0, CWD, &path, RenameFlags::NOREPLACE) {
            Ok(()) => {}
            Err(rustix::io::Errno::EXIST) => return Err(BackupError::Exists { path }),
            // A file system that cannot promise not to replace; whether somebody came between was looked at in the beginning.
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
                std::fs::rename(&unfinished.0, &path).map_err(failed("rename", &unfinished.0))?;
            }
            Err(error) => return Err(failed("rename", &unfinished.0)(error.into())),
        }
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        sync_folder(folder).map_err(failed("flush the folder of", &path))?;
        Ok(manifest)
    }
}

fn sha256(content: &[u8]) -> String {
    digest(&SHA256, content).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A backup that was read once, whole, and fits its own checksums.
#[derive(Debug)]
pub struct Backup {
    file: File,
    path: PathBuf,
    bytes: u64,
    manifest: Manifest,
}

impl Backup {
    /// Opens a file and checks everything in it. Nothing is changed anywhere. `seen` hears how many bytes of the file were read.
    pub fn open(path: &Path, seen: &mut dyn FnMut(u64)) -> Result<Self, BackupError> {
        let file = File::open(path).map_err(failed("open", path))?;
        let bytes = file.metadata().map_err(failed("read", path))?.len();
        let (mut members, mut manifest) = (Vec::new(), None);
        let damaged = |what: String| BackupError::Damaged { path: path.to_owned(), what };
        walk(&file, path, seen, &mut |name, content| {
            if manifest.is_some() {
                return Err(damaged(format!("{name:?} lies behind the manifest")));
            }
            if name == MANIFEST_NAME {
                let read: Manifest = serde_json::from_slice(&content)
                    .map_err(|error| damaged(format!("its manifest cannot be read: {error}")))?;
                manifest = Some(read);
            } else {
                members.push(Member { name: name.to_owned(), bytes: content.len() as u64, sha256: sha256(&content) });
            }
            Ok(())
        })?;
        let manifest =
            manifest.ok_or_else(|| damaged("it has no manifest: it was not written to its end".to_owned()))?;
        if manifest.members != members {
            return Err(damaged("its members do not fit the checksums of its manifest".to_owned()));
        }
        manifest.loadable()?;
        Ok(Self { file, path: path.to_owned(), bytes, manifest })
    }

    /// What is in it.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The size of the file.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Hands out the members once more, each only after it was found to be what it was when the file was opened.
    pub(super) fn members(&self, seen: &mut dyn FnMut(u64), each: Each<'_>) -> Result<(), BackupError> {
        let mut expected = self.manifest.members.iter();
        walk(&self.file, &self.path, seen, &mut |name, content| {
            if name == MANIFEST_NAME {
                return Ok(());
            }
            let member = expected.next().filter(|member| member.name == name && member.sha256 == sha256(&content));
            if member.is_none() {
                return Err(BackupError::Damaged { path: self.path.clone(), what: format!("{name:?} has changed") });
            }
            each(name, content)
        })?;
        match expected.next() {
            None => Ok(()),
            Some(missing) => {
                Err(BackupError::Damaged { path: self.path.clone(), what: format!("{:?} is gone", missing.name) })
            }
        }
    }
}

/// Counts what is read of the file itself.
struct Counted<'a> {
    file: BufReader<&'a File>,
    read: u64,
    seen: &'a mut dyn FnMut(u64),
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.file.read(buffer)?;
        self.read += bytes as u64;
        (self.seen)(self.read);
        Ok(bytes)
    }
}

/// Hands out every member behind the first, in order.
fn walk(mut file: &File, path: &Path, seen: &mut dyn FnMut(u64), each: Each<'_>) -> Result<(), BackupError> {
    let broken = |what: &str| BackupError::Damaged { path: path.to_owned(), what: what.to_owned() };
    let unreadable = |error: io::Error| broken(&format!("it is cut off or its bytes have changed ({error})"));
    file.rewind().map_err(failed("read", path))?;
    let counted = Counted { file: BufReader::with_capacity(1 << 20, file), read: 0, seen };
    let mut decoder = zstd::Decoder::new(counted).map_err(unreadable)?;
    decoder.window_log_max(WINDOW_LOG_MAX).map_err(unreadable)?;
    let mut tar = tar::Archive::new(decoder);
    let mut members = 0;
    for entry in tar.entries().map_err(unreadable)? {
        let mut entry = entry.map_err(unreadable)?;
        let name = entry.path().ok().and_then(|name| name.to_str().map(str::to_owned));
        let name = name.ok_or_else(|| broken("a member's name is not text"))?;
        if entry.size() > MEMBER_BYTES_MAX || members > MEMBERS_MAX {
            return Err(broken("it is larger than a backup is"));
        }
        let mut content = Vec::new();
        entry.read_to_end(&mut content).map_err(unreadable)?;
        if content.len() as u64 != entry.size() {
            return Err(broken(&format!("{name:?} is cut off")));
        }
        match members {
            0 => check_format(&name, &content, path)?,
            _ => each(&name, content)?,
        }
        members += 1;
    }
    if members == 0 {
        return Err(broken("it is not a backup of MangaHub"));
    }
    // To the end of what was compressed, whose checksum covers all of it.
    let behind = io::copy(&mut tar.into_inner().take(PADDING_BYTES_MAX), &mut io::sink()).map_err(unreadable)?;
    if behind == PADDING_BYTES_MAX { Err(broken("something lies behind its end")) } else { Ok(()) }
}

fn check_format(name: &str, content: &[u8], path: &Path) -> Result<(), BackupError> {
    let text = std::str::from_utf8(content).unwrap_or_default().trim();
    match text.parse::<u32>() {
        Ok(FORMAT) if name == FORMAT_NAME => Ok(()),
        Ok(found) if name == FORMAT_NAME && found > FORMAT => {
            Err(BackupError::Newer { path: path.to_owned(), found, known: FORMAT })
        }
        _ => Err(BackupError::Damaged { path: path.to_owned(), what: "it is not a backup of MangaHub".to_owned() }),
    }
}
