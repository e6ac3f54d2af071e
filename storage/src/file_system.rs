//! What a folder stands on: the file system's kind and room, asked of the kernel. Durability depends on it, so it is said
//! rather than assumed.

use std::io;
use std::path::Path;

/// The kind of a file system.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FileSystem {
    /// As mount(8) spells it, or `unknown`.
    pub kind: &'static str,
    /// Gone at power-off.
    pub volatile: bool,
    /// On another machine: what a flush promises is that machine's word.
    pub remote: bool,
}

/// Names by statfs(2) `f_type`, from linux/magic.h and the file systems' own sources.
const KNOWN: &[(u64, &str)] = &[
    (0xEF53, "ext4"),
    (0x5846_5342, "xfs"),
    (0x9123_683E, "btrfs"),
    (0x2FC1_2FC1, "zfs"),
    (0xF2F5_2010, "f2fs"),
    (0xCA45_1A4E, "bcachefs"),
    (0x794C_7630, "overlay"),
    (0x0102_1994, "tmpfs"),
    (0x8584_58F6, "ramfs"),
    (0x6969, "nfs"),
    (0xFF53_4D42, "cifs"),
    (0xFE53_4D42, "smb2"),
    (0x0102_1997, "9p"),
    (0x00C3_6400, "ceph"),
    (0x6573_5546, "fuse"),
];

impl FileSystem {
    /// The file system under `path`, which must exist.
    pub fn of(path: &Path) -> io::Result<Self> {
        let stat = rustix::fs::statfs(path)?;
        // The field's type differs between architectures; the magic numbers fit 32 bits everywhere.
        let magic = u64::from(stat.f_type as u32);
        let kind = KNOWN.iter().find(|(known, _)| *known == magic).map_or("unknown", |(_, name)| *name);
        Ok(Self {
            kind,
            volatile: matches!(kind, "tmpfs" | "ramfs"),
            remote: matches!(kind, "nfs" | "cifs" | "smb2" | "9p" | "ceph"),
        })
    }
}

/// Bytes that an unprivileged process may still take on the file system under `path`.
pub fn available_bytes(path: &Path) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(path)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Makes the names in `folder` durable: a file that was made, renamed or removed there stays so.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    std::fs::File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_memory_file_system_is_told_apart() {
        if let Ok(shm) = FileSystem::of(Path::new("/dev/shm")) {
            assert!(shm.volatile || shm.kind != "tmpfs");
        }
        assert!(available_bytes(Path::new("/")).unwrap() > 0);
        assert!(FileSystem::of(Path::new("/does/not/exist")).is_err());
    }
}
