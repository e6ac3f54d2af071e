//! What may be asked of a user's state, and what the rules are handed to decide it: the time, the shard's clock, the facts
//! about the series, and a keyed tag for conflict tokens.

use proto::{Chapter, ConflictToken, DeviceId, DeviceSeq, MangaId, Page, ReadingStatus, SeriesStatus};

use crate::clock::Hlc;
use crate::preferences::{Strategy, UtcOffset};
use crate::token::TokenTag;

/// A change that a user asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Command {
    /// Sets how far the user is in a series.
    SetProgress(SetProgress),
    /// Forgets how far the user is in a series.
    DeleteProgress {
        /// The series.
        manga: MangaId,
    },
    /// Puts a series into the library.
    AddToLibrary {
        /// The series.
        manga: MangaId,
        /// `plan_to_read` when not given.
        status: Option<ReadingStatus>,
    },
    /// Changes the status of a series in the library.
    SetLibraryStatus {
        /// The series.
        manga: MangaId,
        /// The new status.
        status: ReadingStatus,
    },
    /// Takes a series out of the library; progress stays.
    RemoveFromLibrary {
        /// The series.
        manga: MangaId,
    },
    /// Forgets a device and its sequence numbers.
    RemoveDevice {
        /// The device.
        device: DeviceId,
    },
    /// A device said hello.
    SeeDevice {
        /// The device.
        device: DeviceId,
    },
    /// Changes what is given, keeps the rest.
    SetPreferences {
        /// What happens when a change would go back.
        strategy: Option<Strategy>,
        /// Decides which day a change is counted on.
        utc_offset: Option<UtcOffset>,
    },
}

impl Command {
    /// The series it is about, whose facts [`Context::facts`] has to give.
    pub fn manga(&self) -> Option<MangaId> {
        match self {
            Self::SetProgress(SetProgress { manga, .. })
            | Self::DeleteProgress { manga }
            | Self::AddToLibrary { manga, .. }
            | Self::SetLibraryStatus { manga, .. }
            | Self::RemoveFromLibrary { manga } => Some(*manga),
            Self::RemoveDevice { .. } | Self::SeeDevice { .. } | Self::SetPreferences { .. } => None,
        }
    }
}

/// The command that matters most: how far the user is in a series.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SetProgress {
    /// The series.
    pub manga: MangaId,
    /// The chapter.
    pub chapter: Chapter,
    /// The page; when not given, the page stays while the chapter does.
    pub page: Option<Page>,
    /// The reading status; when not given, it stays.
    pub status: Option<ReadingStatus>,
    /// The device it comes from; without one, a retry is a new command.
    pub device: Option<DeviceId>,
    /// The device's number for this command, from 1; makes a retry harmless.
    pub device_seq: Option<DeviceSeq>,
    /// Go back without asking.
    pub force: bool,
    /// Go back because the user was asked: what the conflict's answer carried.
    pub conflict_token: Option<ConflictToken>,
}

impl SetProgress {
    /// Chapter `chapter` of `manga`, and nothing else.
    pub fn new(manga: MangaId, chapter: Chapter) -> Self {
        let (page, status, device, device_seq, conflict_token) = (None, None, None, None, None);
        Self { manga, chapter, page, status, device, device_seq, force: false, conflict_token }
    }
}

impl From<SetProgress> for Command {
    fn from(command: SetProgress) -> Self {
        Self::SetProgress(command)
    }
}

/// What the catalogue says about a series.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SeriesFacts {
    /// How many chapters it has; `None` (or 0) when unknown.
    pub total: Option<u32>,
    /// How it stands with its publisher.
    pub status: SeriesStatus,
}

impl SeriesFacts {
    /// The total, when it is known.
    pub fn known_total(&self) -> Option<u32> {
        self.total.filter(|total| *total > 0)
    }

    /// The total, when `chapter` lies beyond it. Whole parts are compared: 95.5 of 95 is within.
    pub fn total_below(&self, chapter: Chapter) -> Option<u32> {
        self.known_total().filter(|total| chapter.whole_part() > *total)
    }

    /// Whether the series is over, so that its total is final.
    pub fn is_over(&self) -> bool {
        matches!(self.status, SeriesStatus::Completed | SeriesStatus::Cancelled)
    }
}

/// What the rules are handed with a command.
pub struct Context<'a> {
    /// Now, in Unix milliseconds.
    pub wall_ms: u64,
    /// The shard's clock; moves only when a command is applied.
    pub clock: &'a mut Hlc,
    /// Facts of the series that [`Command::manga`] names; `None` when there is no such series.
    pub facts: Option<SeriesFacts>,
    /// `progress.strict_total`: beyond a known total is refused for every series.
    pub strict_total: bool,
    /// A keyed pseudo-random function whose key only this server knows, such as HMAC-SHA256 cut to sixteen bytes. The key should
    /// outlive a restart, or tokens given out before it stop working.
    pub token_tag: &'a TokenTag<'a>,
}
