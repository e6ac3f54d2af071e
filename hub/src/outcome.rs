//! What came of a command. Only `Applied` changes anything; everything else leaves the state as it was. Texts for people are
//! written when somebody reads them, so the ordinary path formats and allocates nothing.

use proto::{Chapter, Code, ConflictToken, DeviceId, MangaId, Page, ReadingStatus, UserId};

use crate::library::LibraryView;
use crate::progress::ProgressView;
use crate::record::{DeviceRecord, Record};

/// What came of a command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Outcome {
    /// Done. Journal its records, announce its event, and answer once they are durable.
    Applied(Change),
    /// Done before (a retry), or nothing to do. Holds the current state of the series the command was about.
    Already(Option<ProgressView>),
    /// It would go back, and the user's strategy does not allow that unasked.
    Conflict(Conflict),
    /// Against the rules.
    Rejected(Reject),
}

/// What an applied command changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Change {
    /// The change itself.
    pub record: Record,
    /// A device that had to go because this change brought one too many. Journalled with `record`.
    pub evicted: Option<DeviceRecord>,
    /// The last chapter of a completed series was reached: the client may offer the status `completed`.
    pub offers_completed: bool,
}

impl Change {
    /// What has to be journalled, in order and in one hand-over.
    pub fn records(&self) -> impl Iterator<Item = Record> {
        std::iter::once(self.record).chain(self.evicted.map(Record::Device))
    }

    /// What the user's other connections hear of it, if anything.
    pub fn event(&self) -> Option<Event> {
        Event::of(&self.record)
    }

    /// The series' progress after the change, when the change was about progress.
    pub fn view(&self) -> Option<ProgressView> {
        match &self.record {
            Record::Progress(record) => Some(record.view()),
            _ => None,
        }
    }

    /// The chapter lies beyond what the catalogue knows (`ahead_of_catalogue`).
    pub fn ahead(&self) -> bool {
        matches!(&self.record, Record::Progress(record) if record.row.ahead)
    }
}

/// What a user's other connections hear of a change.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Event {
    /// Progress was set, or deleted (`view.deleted`).
    Progress(ProgressEvent),
    /// The library changed; progress did not.
    Library {
        /// Whose.
        user: UserId,
        /// What it is now.
        view: LibraryView,
    },
}

impl Event {
    /// The event that a record announces; the same one after a restart. Devices and preferences announce nothing.
    pub fn of(record: &Record) -> Option<Self> {
        match record {
            Record::Progress(record) => Some(Self::Progress(ProgressEvent {
                user: record.user,
                view: record.view(),
                device: record.device.map(|stamp| stamp.device),
            })),
            Record::Library(record) => {
                Some(Self::Library { user: record.user, view: LibraryView::new(record.manga, &record.row) })
            }
            Record::Device(_) | Record::Preferences(_) => None,
        }
    }

    /// The series it is about: a later event of the same kind and series replaces an earlier one that was not yet sent.
    pub fn manga(&self) -> MangaId {
        match self {
            Self::Progress(event) => event.view.manga,
            Self::Library { view, .. } => view.manga,
        }
    }
}

/// Progress changed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ProgressEvent {
    /// Whose.
    pub user: UserId,
    /// The state after the change.
    pub view: ProgressView,
    /// The device the change came from.
    pub device: Option<DeviceId>,
}

/// What a command proposed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Proposal {
    /// The series.
    pub manga: MangaId,
    /// The chapter, lower than the stored one.
    pub chapter: Chapter,
    /// The page, when given.
    pub page: Option<Page>,
    /// The status, when given.
    pub status: Option<ReadingStatus>,
}

/// A change that would go back. Its text tells a person what to do.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
#[error("Chapter {} is behind your current progress ({}). {}", proposed.chapter, stored.key.chapter, way_out(token))]
pub struct Conflict {
    /// What is stored, and stays.
    pub stored: ProgressView,
    /// What was asked for.
    pub proposed: Proposal,
    /// With the strategy `ask`: sent back as `conflict_token`, it says "yes, go back".
    pub token: Option<ConflictToken>,
}

impl Conflict {
    /// The problem code.
    pub const CODE: Code = Code::Conflict;
}

fn way_out(token: &Option<ConflictToken>) -> &'static str {
    match token {
        None => "Use --force to go back.",
        Some(_) => "Confirm within 10 minutes to go back.",
    }
}

/// A command against the rules. Its text tells a person what was wrong.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum Reject {
    /// The catalogue does not have the series.
    #[error("There is no series {manga}.")]
    NoSuchSeries {
        /// The id that was asked for.
        manga: MangaId,
    },
    /// The series has fewer chapters.
    #[error("Chapter {chapter} exceeds this series' total ({total}). Valid range: 0-{total}.")]
    BeyondTotal {
        /// What was asked for.
        chapter: Chapter,
        /// The last chapter there is.
        total: u32,
    },
    /// The sequence number is older than the window in which a retry can be recognised.
    #[error("Command {seq} of this device is too old to tell whether it was applied: the last is {last_seq}.")]
    SeqTooOld {
        /// The command's number.
        seq: u64,
        /// The highest applied number of the device.
        last_seq: u64,
        /// The series' current state.
        state: Option<ProgressView>,
    },
    /// The sequence number is not one a device may use.
    #[error("device_seq must be from 1 to 9007199254740991.")]
    BadSeq,
    /// There is no progress to delete.
    #[error("There is no progress in series {manga}.")]
    NoProgress {
        /// The series.
        manga: MangaId,
    },
    /// The library has the series already.
    #[error("Series {manga} is in the library already.")]
    InLibrary {
        /// The series.
        manga: MangaId,
    },
    /// The library does not have the series.
    #[error("Series {manga} is not in the library.")]
    NotInLibrary {
        /// The series.
        manga: MangaId,
    },
    /// The user has no such device.
    #[error("There is no device {device}.")]
    NoSuchDevice {
        /// The device.
        device: DeviceId,
    },
    /// The user has as many series as one may have.
    #[error(
        "There are {} series in the library and the progress list, which is the most there may be.",
        crate::user::SERIES_PER_USER_MAX
    )]
    TooManySeries,
    /// The row's version is the largest there is; nothing can follow it.
    #[error("The stored version cannot be exceeded; another server's clock is wrong.")]
    VersionExhausted,
}

impl Reject {
    /// The problem code.
    pub fn code(&self) -> Code {
        match self {
            Self::NoSuchSeries { .. } | Self::NoProgress { .. } | Self::NotInLibrary { .. } => Code::NotFound,
            Self::NoSuchDevice { .. } => Code::NotFound,
            Self::BeyondTotal { .. } => Code::ChapterOutOfRange,
            Self::SeqTooOld { .. } => Code::SeqTooOld,
            Self::BadSeq => Code::InvalidInput,
            Self::InLibrary { .. } => Code::AlreadyExists,
            Self::TooManySeries | Self::VersionExhausted => Code::Unprocessable,
        }
    }

    /// The series' current state, where the answer carries it.
    pub fn state(&self) -> Option<ProgressView> {
        match self {
            Self::SeqTooOld { state, .. } => *state,
            _ => None,
        }
    }
}
