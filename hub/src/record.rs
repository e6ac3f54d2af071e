//! What the journal keeps: results, never increments. Each record holds whole rows under their merge keys, so merging it into
//! a state or a table once, twice or out of order ends in the same place. Storage owns the bytes; this owns the meaning.

use proto::{DeviceId, MangaId, NodeId, ReadingStatus, UserId, Version};

use crate::device::{Device, DeviceStamp};
use crate::history::HistoryRow;
use crate::library::LibraryRow;
use crate::preferences::Preferences;
use crate::progress::{ProgressRow, ProgressView};

/// One change of one user's state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Record {
    /// Progress was set or deleted.
    Progress(ProgressRecord),
    /// A series was put into the library, changed its status there, or was taken out.
    Library(LibraryRecord),
    /// A device was seen or removed.
    Device(DeviceRecord),
    /// Preferences changed.
    Preferences(PreferencesRecord),
}

impl Record {
    /// Whose state it changes; decides the lane.
    pub fn user(&self) -> UserId {
        match self {
            Self::Progress(record) => record.user,
            Self::Library(record) => record.user,
            Self::Device(record) => record.user,
            Self::Preferences(record) => record.user,
        }
    }

    /// The version of the change.
    pub fn version(&self) -> Version {
        match self {
            Self::Progress(record) => record.row.key.version,
            Self::Library(record) => record.row.version,
            Self::Device(record) => record.seen,
            Self::Preferences(record) => record.row.version,
        }
    }
}

/// Progress in one series after one change, with everything else that the change touched. One fixed size.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ProgressRecord {
    /// Whose.
    pub user: UserId,
    /// Of which series.
    pub manga: MangaId,
    /// The progress row. Its node is the node that made the change, and so the node of `history`.
    pub row: ProgressRow,
    /// The device the change came from, when it has one.
    pub device: Option<DeviceStamp>,
    /// The library row after the change (changed by it or not); `None` when there never was one.
    pub library: Option<LibraryRow>,
    /// The day's history row after the change; `None` for a deletion, which is not reading.
    pub history: Option<HistoryRow>,
}

impl ProgressRecord {
    /// The library's reading status after the change.
    pub fn status(&self) -> Option<ReadingStatus> {
        self.library.filter(|row| !row.deleted).map(|row| row.status)
    }

    /// The series' state after the change, as shown.
    pub fn view(&self) -> ProgressView {
        ProgressView::new(self.manga, &self.row, self.status())
    }
}

/// A library row after one change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LibraryRecord {
    /// Whose.
    pub user: UserId,
    /// Which series.
    pub manga: MangaId,
    /// The row.
    pub row: LibraryRow,
}

/// A device was seen (`removed` is false) or removed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DeviceRecord {
    /// Whose.
    pub user: UserId,
    /// Which device.
    pub device: DeviceId,
    /// The epoch of the device's row: see [`Device::epoch`].
    pub epoch: Version,
    /// Whether this removes it.
    pub removed: bool,
    /// The version of the change.
    pub seen: Version,
    /// Where the change was made.
    pub node: NodeId,
}

impl DeviceRecord {
    /// The row to merge.
    pub fn row(&self) -> Device {
        let DeviceRecord { device, epoch, removed, seen, .. } = *self;
        Device { removed, ..Device::seen(device, epoch, seen) }
    }
}

/// Preferences after one change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PreferencesRecord {
    /// Whose.
    pub user: UserId,
    /// The preferences.
    pub row: Preferences,
}
