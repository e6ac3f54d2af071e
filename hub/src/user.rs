//! A user's whole state in memory: the unit of loading. It promises two things: it changes only by merging records, so
//! applying and replaying are the same act; and it is compact, because the number of users in memory decides how often the
//! store is asked. It never decides anything: that is [`crate::apply()`]'s.

use proto::{DeviceId, DeviceSeq, MangaId, NodeId, ReadingStatus, UserId, Version};

use crate::device::{Device, DeviceView};
use crate::history::HistoryRow;
use crate::library::{LibraryRow, LibraryView};
use crate::load::{StoredHistory, StoredUser};
use crate::merge::merge_into;
use crate::preferences::Preferences;
use crate::progress::{ProgressRow, ProgressView};
use crate::record::{ProgressRecord, Record};

/// Series a user may have in the library and the progress list together, tombstones included.
pub const SERIES_PER_USER_MAX: usize = 10_000;

/// Device tombstones kept in memory; the latest removals stay.
const DEVICE_TOMBSTONES_MAX: usize = 64;

/// Everything about one user and one series.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Series {
    pub(crate) manga: MangaId,
    pub(crate) progress: Option<ProgressRow>,
    pub(crate) library: Option<LibraryRow>,
    /// Of this node, of the latest day.
    pub(crate) history: Option<HistoryRow>,
}

impl Series {
    pub(crate) fn empty(manga: MangaId) -> Self {
        Self { manga, progress: None, library: None, history: None }
    }

    pub(crate) fn live_progress(&self) -> Option<&ProgressRow> {
        self.progress.as_ref().filter(|row| !row.deleted)
    }

    pub(crate) fn live_library(&self) -> Option<&LibraryRow> {
        self.library.as_ref().filter(|row| !row.deleted)
    }

    pub(crate) fn status(&self) -> Option<ReadingStatus> {
        self.live_library().map(|row| row.status)
    }

    /// The highest version that anything of this series carries.
    pub(crate) fn version(&self) -> Version {
        let progress = self.progress.map_or(Version::ZERO, |row| row.key.version.max(row.key.generation));
        progress.max(self.library.map_or(Version::ZERO, |row| row.version))
    }

    fn state(&self) -> Option<ProgressView> {
        self.progress.as_ref().map(|row| ProgressView::new(self.manga, row, self.status()))
    }

    /// The version of the last change to what [`Series::state`] shows.
    fn shown_at(&self) -> Version {
        let status = self.library.filter(|_| self.live_progress().is_some());
        let progress = self.progress.map_or(Version::ZERO, |row| row.key.version);
        progress.max(status.map_or(Version::ZERO, |row| row.version))
    }
}

/// A user's state.
#[derive(Clone, Debug)]
pub struct UserState {
    user: UserId,
    node: NodeId,
    /// How many windows keep a bitmap.
    bitmaps: u16,
    preferences: Preferences,
    /// Sorted by series.
    series: Vec<Series>,
    /// Sorted by id.
    devices: Vec<Device>,
}

impl UserState {
    /// The state of a user of whom nothing is stored, on the node `node`.
    pub fn new(user: UserId, node: NodeId) -> Self {
        let (series, devices) = (Vec::new(), Vec::new());
        Self { user, node, bitmaps: 0, preferences: Preferences::default(), series, devices }
    }

    /// The state that stored rows make, on the node `node` (whose history rows are the ones this state continues). Rows may
    /// come in any order and more than once. O(n log n).
    pub fn from_rows(rows: StoredUser, node: NodeId) -> Self {
        let mut state = Self::new(rows.user, node);
        state.preferences = rows.preferences.unwrap_or_default();
        let mut series = Vec::with_capacity(rows.progress.len().max(rows.library.len()));
        series
            .extend(rows.progress.iter().map(|(manga, row)| Series { progress: Some(*row), ..Series::empty(*manga) }));
        series.extend(rows.library.iter().map(|(manga, row)| Series { library: Some(*row), ..Series::empty(*manga) }));
        let own = rows.history.iter().filter(|stored| stored.node == node);
        series.extend(own.map(|stored| Series { history: Some(stored.row), ..Series::empty(stored.manga) }));
        series.sort_by_key(|series| series.manga);
        series.dedup_by(|next, kept| {
            let same = next.manga == kept.manga;
            if same {
                kept.progress = kept.progress.max(next.progress);
                kept.library = kept.library.max(next.library);
                kept.history = kept.history.max(next.history);
            }
            same
        });
        series.shrink_to_fit();
        state.series = series;
        state.devices.reserve_exact(rows.devices.len());
        rows.devices.iter().for_each(|device| state.merge_device(device));
        state
    }

    /// The rows that make this state.
    pub fn to_rows(&self) -> StoredUser {
        let mut rows = StoredUser::empty(self.user);
        rows.preferences = Some(self.preferences).filter(|row| *row != Preferences::default());
        for Series { manga, progress, library, history } in &self.series {
            rows.progress.extend(progress.map(|row| (*manga, row)));
            rows.library.extend(library.map(|row| (*manga, row)));
            rows.history.extend(history.map(|row| StoredHistory { manga: *manga, node: self.node, row }));
        }
        rows.devices.clone_from(&self.devices);
        rows
    }

    /// Merges a record: once, twice and in any order it comes to the same. The only way a state changes.
    ///
    /// # Panics
    /// When the record is another user's: whoever routed it has lost track of whose state this is.
    pub fn replay(&mut self, record: &Record) {
        assert_eq!(record.user(), self.user, "a record was routed to another user's state");
        match record {
            Record::Progress(record) => self.replay_progress(record),
            Record::Library(record) => {
                let series = self.series_mut(record.manga);
                merge_into(&mut series.library, record.row);
            }
            Record::Device(record) => self.merge_device(&record.row()),
            Record::Preferences(record) => self.preferences = self.preferences.max(record.row),
        }
        debug_assert_eq!(
            usize::from(self.bitmaps),
            self.devices.iter().filter(|device| device.window.heap_bytes() > 0).count(),
            "bitmaps are accounted for as they come and go"
        );
    }

    /// Whose state this is.
    pub fn user(&self) -> UserId {
        self.user
    }

    /// The node it is kept on.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// What the user chose.
    pub fn preferences(&self) -> &Preferences {
        &self.preferences
    }

    /// Progress in one series.
    pub fn progress(&self, manga: MangaId) -> Option<ProgressView> {
        self.state_of(manga).filter(|view| !view.deleted)
    }

    /// As [`UserState::progress`], but a deleted one is shown as such.
    pub fn state_of(&self, manga: MangaId) -> Option<ProgressView> {
        self.find(manga)?.state()
    }

    /// Progress in every series, tombstones (`deleted`) included, in the order of series ids.
    pub fn progress_views(&self) -> impl Iterator<Item = ProgressView> {
        self.series.iter().filter_map(Series::state)
    }

    /// Progress in every series in which it changed after `version`, its status included and tombstones too, each with the version
    /// of that change; in the order of series ids.
    pub fn progress_since(&self, version: Version) -> impl Iterator<Item = (Version, ProgressView)> {
        let changed = self.series.iter().filter(move |series| series.shown_at() > version);
        changed.filter_map(|series| Some((series.shown_at(), series.state()?)))
    }

    /// One series in the library.
    pub fn library(&self, manga: MangaId) -> Option<LibraryView> {
        self.find(manga)?.live_library().map(|row| LibraryView::new(manga, row))
    }

    /// The library, in the order of series ids.
    pub fn library_views(&self) -> impl Iterator<Item = LibraryView> {
        self.series.iter().filter_map(|series| Some(LibraryView::new(series.manga, series.live_library()?)))
    }

    /// One of the user's devices.
    pub fn device(&self, id: DeviceId) -> Option<DeviceView> {
        self.find_device(id).filter(|device| !device.removed).map(DeviceView::from)
    }

    /// The highest applied sequence number of a device, known or not: what Welcome returns.
    pub fn last_seq(&self, id: DeviceId) -> DeviceSeq {
        self.device(id).map_or(DeviceSeq(0), |device| device.last_seq)
    }

    /// The user's devices, in the order of their ids.
    pub fn device_views(&self) -> impl Iterator<Item = DeviceView> {
        self.devices.iter().filter(|device| !device.removed).map(DeviceView::from)
    }

    /// This node's history row of the latest day of a series. Rows of earlier days are in the store only.
    pub fn history(&self, manga: MangaId) -> Option<HistoryRow> {
        self.find(manga)?.history
    }

    /// This node's history row of the latest day of every series.
    pub fn history_rows(&self) -> impl Iterator<Item = (MangaId, HistoryRow)> {
        self.series.iter().filter_map(|series| Some((series.manga, series.history?)))
    }

    /// Bytes on the heap. Constant time: what memory is accounted by.
    pub fn heap_bytes(&self) -> usize {
        self.series.capacity() * size_of::<Series>()
            + self.devices.capacity() * size_of::<Device>()
            + usize::from(self.bitmaps) * crate::window::BITMAP_BYTES
    }

    /// Forgets tombstones older than `before`, as the store does after 30 days. History of their series goes along.
    pub fn purge(&mut self, before: Version) {
        self.series.retain(|series| {
            series.live_progress().is_some() || series.live_library().is_some() || series.version() >= before
        });
        self.devices.retain(|device| !device.removed || device.epoch >= before);
    }

    pub(crate) fn find(&self, manga: MangaId) -> Option<&Series> {
        let at = self.series.binary_search_by_key(&manga, |series| series.manga).ok()?;
        Some(&self.series[at])
    }

    pub(crate) fn find_device(&self, id: DeviceId) -> Option<&Device> {
        let at = self.devices.binary_search_by_key(&id, |device| device.id).ok()?;
        Some(&self.devices[at])
    }

    pub(crate) fn live_devices(&self) -> impl Iterator<Item = &Device> {
        self.devices.iter().filter(|device| !device.removed)
    }

    pub(crate) fn series_count(&self) -> usize {
        self.series.len()
    }

    fn replay_progress(&mut self, record: &ProgressRecord) {
        let own = record.row.key.node == self.node;
        let series = self.series_mut(record.manga);
        merge_into(&mut series.progress, record.row);
        series.library = series.library.max(record.library);
        if own {
            series.history = series.history.max(record.history);
        }
        let Some(stamp) = &record.device else { return };
        match self.devices.binary_search_by_key(&stamp.device, |device| device.id) {
            Ok(at) => {
                let device = &mut self.devices[at];
                let before = device.window.heap_bytes();
                device.absorb(stamp, record.row.key.version);
                let after = device.window.heap_bytes();
                self.count_bitmaps(before, after);
            }
            Err(_) => self.merge_device(&Device::from_stamp(stamp, record.row.key.version)),
        }
    }

    fn series_mut(&mut self, manga: MangaId) -> &mut Series {
        let at = match self.series.binary_search_by_key(&manga, |series| series.manga) {
            Ok(at) => at,
            Err(at) => {
                grow_gently(&mut self.series);
                self.series.insert(at, Series::empty(manga));
                at
            }
        };
        &mut self.series[at]
    }

    fn merge_device(&mut self, row: &Device) {
        match self.devices.binary_search_by_key(&row.id, |device| device.id) {
            Ok(at) => {
                let before = self.devices[at].window.heap_bytes();
                self.devices[at].merge(row);
                self.count_bitmaps(before, self.devices[at].window.heap_bytes());
            }
            Err(at) => {
                grow_gently(&mut self.devices);
                self.count_bitmaps(0, row.window.heap_bytes());
                self.devices.insert(at, row.clone());
            }
        }
        if row.removed {
            self.trim_device_tombstones();
        }
    }

    fn trim_device_tombstones(&mut self) {
        let tombstones = self.devices.iter().filter(|device| device.removed);
        if tombstones.clone().count() > DEVICE_TOMBSTONES_MAX {
            let oldest = tombstones.map(|device| (device.epoch, device.id)).min();
            self.devices.retain(|device| !device.removed || Some((device.epoch, device.id)) != oldest);
        }
    }

    fn count_bitmaps(&mut self, before_bytes: usize, after_bytes: usize) {
        self.bitmaps += u16::from(after_bytes > before_bytes);
        self.bitmaps -= u16::from(after_bytes < before_bytes);
    }
}

/// Two states are equal when they hold the same rows; how compactly is not compared.
impl PartialEq for UserState {
    fn eq(&self, other: &Self) -> bool {
        (self.user, self.node, self.preferences) == (other.user, other.node, other.preferences)
            && self.series == other.series
            && self.devices == other.devices
    }
}

impl Eq for UserState {}

/// Vectors double by default; most users have a handful of series and devices, and stay in memory for long.
fn grow_gently<T>(list: &mut Vec<T>) {
    if list.len() == list.capacity() {
        list.reserve_exact(1 + list.len() / 8);
    }
}
