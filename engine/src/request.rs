//! What doors ask of the engine about a user's progress and library, and what they get back: plain values with the wire's
//! spelling left to the door. The hot ones are `Copy` and hold no heap.

use std::sync::Arc;

pub use hub::{DeviceView, LibraryView, Strategy};
pub use proto::frame::ResumeToken;
use proto::ids::{DeviceId, MangaId, UserId};
use proto::values::{Chapter, ConflictToken, DeviceSeq, MergeKey, Page, ReadingStatus};

/// One progress update, whatever the door.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SetProgress {
    /// The series.
    pub manga: MangaId,
    /// How far.
    pub chapter: Chapter,
    /// The page in that chapter, when the client knows it.
    pub page: Option<Page>,
    /// A new reading status, or keep the one there is.
    pub status: Option<ReadingStatus>,
    /// Which of the user's clients; on an attachment that names a device, that one counts.
    pub device: Option<DeviceId>,
    /// The device's own count, which makes a retry harmless; without a device it is ignored.
    pub device_seq: Option<DeviceSeq>,
    /// Go back if need be.
    pub force: bool,
    /// Overrides exactly the state that the conflict showed (strategy `ask`).
    pub conflict_token: Option<ConflictToken>,
    /// Answer only when the database has it, not the journal alone.
    pub ack_database: bool,
}

impl SetProgress {
    /// An ordinary update: keep the status, no page, no device, no force.
    pub fn to(manga: MangaId, chapter: Chapter) -> Self {
        Self {
            manga,
            chapter,
            page: None,
            status: None,
            device: None,
            device_seq: None,
            force: false,
            conflict_token: None,
            ack_database: false,
        }
    }
}

/// What a user asks to change. Answered only when it is durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Command {
    /// Set the progress in a series.
    SetProgress(SetProgress),
    /// Forget the progress in a series (its library row stays).
    DeleteProgress {
        /// The series.
        manga: MangaId,
        /// Which of the user's clients, for the announcement.
        device: Option<DeviceId>,
    },
    /// Put a series into the library; `AlreadyExists` when it is there.
    AddToLibrary {
        /// The series.
        manga: MangaId,
        /// `plan_to_read` when absent.
        status: Option<ReadingStatus>,
    },
    /// Change the reading status of a series in the library.
    SetStatus {
        /// The series.
        manga: MangaId,
        /// The new status.
        status: ReadingStatus,
    },
    /// Take a series out of the library (its progress stays).
    RemoveFromLibrary {
        /// The series.
        manga: MangaId,
    },
    /// Forget a device and its sequence window.
    RemoveDevice {
        /// The device.
        device: DeviceId,
    },
    /// Change how conflicts are decided or where the user's day begins.
    SetPreferences {
        /// What to do about going back, or keep.
        strategy: Option<Strategy>,
        /// Minutes east of UTC, or keep.
        utc_offset_min: Option<i16>,
    },
}

/// The answer to a command.
#[derive(Clone, PartialEq, Debug)]
pub enum Done {
    /// Progress was set, or had been by an earlier try.
    Progress(Acked),
    /// The library row as it is now.
    Library(LibraryView),
    /// Done, nothing to show.
    Nothing,
}

/// A progress update that is durable.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Acked {
    /// The state as it is now (for `already`, the current one, which may be newer than the retried command).
    pub state: ProgressView,
    /// The command had been applied before; nothing was changed by this try.
    pub already: bool,
    /// The last chapter of a completed series was reached: offer the status `completed`.
    pub offer_completed: bool,
}

/// A user's progress in one series.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct ProgressView {
    /// The series.
    pub manga: MangaId,
    /// How far.
    pub chapter: Chapter,
    /// The page, when known.
    pub page: Option<Page>,
    /// The reading status (the library row's).
    pub status: Option<ReadingStatus>,
    /// Version, generation and node: what decides between two states.
    pub key: MergeKey,
    /// Milliseconds since 1970, from the version.
    pub updated_at_ms: u64,
    /// Beyond the catalogue's total, which lags for ongoing series.
    pub ahead_of_catalogue: bool,
    /// The client that set it, when it said so.
    pub device: Option<DeviceId>,
    /// The progress was deleted; only announcements, catch-up and conflicts show such a state.
    pub deleted: bool,
}

/// A row of the reading history: one per series, day and node.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct HistoryView {
    /// The series.
    pub manga: MangaId,
    /// Days since 1970-01-01 in the user's time zone when it was recorded.
    pub day: i32,
    /// First chapter set that day.
    pub first: Chapter,
    /// Last chapter set that day.
    pub last: Chapter,
    /// Whole chapters read that day; a jump counts all of them.
    pub chapters: u32,
    /// Updates that day.
    pub updates: u32,
    /// Some of it was a jump.
    pub jump: bool,
}

/// What a user asks to see. Answered only from durable state.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Query {
    /// The progress in one series: `View::Progress`.
    Progress(MangaId),
    /// All progress, newest change first: `View::ProgressPage`.
    ProgressAll {
        /// Rows to skip.
        offset: usize,
        /// Rows at most (100 is the largest).
        limit: usize,
    },
    /// The reading history, newest first: `View::History`. Comes from the store, so it lags by up to 5 s.
    History {
        /// One series only.
        manga: Option<MangaId>,
        /// Where the previous page ended.
        cursor: Option<String>,
        /// Rows at most (100 is the largest).
        limit: usize,
    },
    /// The library, newest first: `View::Library`.
    Library,
    /// The user's clients: `View::Devices`.
    Devices,
}

/// The answer to a query.
#[derive(Clone, PartialEq, Debug)]
pub enum View {
    /// One series; `None` when there is no progress in it.
    Progress(Option<ProgressView>),
    /// A page of all progress.
    ProgressPage {
        /// The rows.
        rows: Vec<ProgressView>,
        /// Rows in all.
        total: usize,
    },
    /// A page of the history.
    History {
        /// The rows.
        rows: Vec<HistoryView>,
        /// Where the next page starts, if there is one.
        next_cursor: Option<String>,
    },
    /// The whole library.
    Library(Vec<LibraryView>),
    /// All devices.
    Devices(Vec<DeviceView>),
}

/// Everything a client must know to be up to date, or what changed since it last was.
#[derive(Clone, PartialEq, Debug)]
pub struct CatchUp {
    /// The states, oldest change first. One per series.
    pub states: Arc<[ProgressView]>,
    /// These are all the user's states (the token was absent, unknown or too old), not only what changed.
    pub snapshot: bool,
    /// Where the client stands after taking these in.
    pub resume: ResumeToken,
}

/// A user's change, as its other connections hear of it.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Announcement {
    /// The user; nobody else hears of it.
    pub user: UserId,
    /// The state as it is now.
    pub state: ProgressView,
    /// Where a client that has taken this in stands; `resume.position()` is the frame's `header.seq`.
    pub resume: ResumeToken,
}
