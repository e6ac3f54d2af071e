//! Deciding a command. A decision looks at the state and makes records; the state then changes by merging them, exactly as it
//! would when they are replayed. So nothing but an applied command can change anything, and nothing an applied command did
//! can be missing from the journal.

use proto::{Chapter, ConflictToken, DeviceId, MangaId, MergeKey, ReadingStatus, Version};

use crate::command::{Command, Context, SeriesFacts, SetProgress};
use crate::device::{DEVICES_PER_USER_MAX, Device, DeviceStamp, SEEN_AGAIN_AFTER_MS};
use crate::history::{HistoryRow, LocalDay};
use crate::library::LibraryRow;
use crate::outcome::{Change, Conflict, Outcome, Proposal, Reject};
use crate::preferences::{Preferences, Strategy, UtcOffset};
use crate::progress::{ProgressRow, ProgressView};
use crate::record::{DeviceRecord, LibraryRecord, PreferencesRecord, ProgressRecord, Record};
use crate::token;
use crate::user::{SERIES_PER_USER_MAX, Series, UserState};
use crate::window::{DEVICE_SEQ_MAX, Seen};

/// Decides `command` on `state`, which must be authoritative, and applies it when the rules allow. On anything but
/// [`Outcome::Applied`] both the state and the clock are as they were.
///
/// Cost: O(log n) in the user's series; no allocation when the series and the device are known and the device's numbers come
/// in order.
pub fn apply(state: &mut UserState, command: &Command, context: &mut Context<'_>) -> Outcome {
    let decided = match command {
        Command::SetProgress(command) => set_progress(state, command, context),
        Command::DeleteProgress { manga } => delete_progress(state, *manga, context),
        Command::AddToLibrary { manga, status } => add_to_library(state, *manga, *status, context),
        Command::SetLibraryStatus { manga, status } => set_library_status(state, *manga, *status, context),
        Command::RemoveFromLibrary { manga } => remove_from_library(state, *manga, context),
        Command::RemoveDevice { device } => remove_device(state, *device, context),
        Command::SeeDevice { device } => see_device(state, *device, context),
        Command::SetPreferences { strategy, utc_offset } => set_preferences(state, *strategy, *utc_offset, context),
    };
    match decided {
        Ok(change) => {
            state.replay(&change.record);
            if let Some(evicted) = change.evicted {
                state.replay(&Record::Device(evicted));
            }
            Outcome::Applied(change)
        }
        Err(Refusal::Already(view)) => Outcome::Already(view),
        Err(Refusal::Conflict(conflict)) => Outcome::Conflict(conflict),
        Err(Refusal::Reject(reject)) => Outcome::Rejected(reject),
    }
}

/// Why nothing changes.
enum Refusal {
    Already(Option<ProgressView>),
    Conflict(Conflict),
    Reject(Reject),
}

impl From<Reject> for Refusal {
    fn from(reject: Reject) -> Self {
        Self::Reject(reject)
    }
}

type Decision = Result<Change, Refusal>;

fn set_progress(state: &UserState, command: &SetProgress, context: &mut Context<'_>) -> Decision {
    let device = command.device.and_then(|id| state.find_device(id));
    check_seq(state, command, device)?;
    let facts = context.facts.ok_or(Reject::NoSuchSeries { manga: command.manga })?;
    let beyond = facts.total_below(command.chapter);
    if let Some(total) = beyond.filter(|_| context.strict_total || facts.is_over()) {
        return Err(Reject::BeyondTotal { chapter: command.chapter, total }.into());
    }
    let unread = Series::empty(command.manga);
    let series = series_or(state, &unread)?;
    let opens_generation = check_going_back(state, series, command, context)?;

    let version = next_version(context, series.version().max(device.map_or(Version::ZERO, |device| device.epoch)))?;
    let stored = series.live_progress();
    let inherited = series.progress.map_or(Version::ZERO, |row| row.key.generation);
    let generation = if opens_generation { version } else { inherited };
    let key = MergeKey { generation, chapter: command.chapter, version, node: state.node() };
    debug_assert!(series.progress.is_none_or(|row| row.key < key), "the merge key of a series never goes back");
    let same_chapter = stored.filter(|row| row.key.chapter == command.chapter);
    let page = command.page.or(same_chapter.and_then(|row| row.page));
    let row = ProgressRow { key, deleted: false, page, ahead: beyond.is_some() };

    let library = shelve(series, command.status, version, context.wall_ms, state);
    let today = LocalDay::at(context.wall_ms, state.preferences().utc_offset);
    let from = stored.map_or(Chapter::ZERO, |row| row.key.chapter);
    let history = Some(HistoryRow::after(series.history, today, from, command.chapter));
    let stamp = command.device.map(|id| stamp(id, command, device, version));
    let newcomer = stamp.is_some_and(|stamp| stamp.epoch == version);
    let evicted = if newcomer { evict_one(state, version) } else { None };
    let record = ProgressRecord { user: state.user(), manga: command.manga, row, device: stamp, library, history };
    let offers_completed =
        reaches_the_end(&facts, command.chapter) && record.status() != Some(ReadingStatus::Completed);
    Ok(Change { record: Record::Progress(record), evicted, offers_completed })
}

/// A retry of an applied command is answered, not applied; one that is too old to tell is refused.
fn check_seq(state: &UserState, command: &SetProgress, device: Option<&Device>) -> Result<(), Refusal> {
    let (Some(_), Some(seq)) = (command.device, command.device_seq) else { return Ok(()) };
    if seq.0 == 0 || seq > DEVICE_SEQ_MAX {
        return Err(Reject::BadSeq.into());
    }
    let Some(device) = device.filter(|device| !device.removed) else { return Ok(()) };
    match device.window.look_up(seq) {
        Seen::New => Ok(()),
        Seen::Applied => Err(Refusal::Already(state.state_of(command.manga))),
        Seen::TooOld => {
            let last_seq = device.window.last_seq().0;
            Err(Reject::SeqTooOld { seq: seq.0, last_seq, state: state.state_of(command.manga) }.into())
        }
    }
}

/// Whether the change opens a generation of its own: it may go back, and has to win over what it goes back from.
fn check_going_back(
    state: &UserState,
    series: &Series,
    command: &SetProgress,
    context: &Context<'_>,
) -> Result<bool, Refusal> {
    let strategy = state.preferences().strategy;
    let stored = series.live_progress();
    let goes_back = stored.is_some_and(|row| command.chapter < row.key.chapter);
    let rereads = command.status == Some(ReadingStatus::ReReading);
    if command.force || strategy == Strategy::Latest {
        return Ok(true);
    }
    let (Some(stored), true) = (stored, goes_back) else {
        // Beginning to read again opens a generation; going on doing so must not, or a slower device's report would win over
        // a faster one's on another node.
        return Ok(rereads && series.status() != Some(ReadingStatus::ReReading));
    };
    let permitted = |token: ConflictToken| {
        token::permits(token, context.token_tag, state.user(), command.manga, &stored.key, context.wall_ms)
    };
    if rereads || command.conflict_token.is_some_and(permitted) {
        return Ok(true);
    }
    let token = match strategy {
        Strategy::Ask => token::issue(context.token_tag, state.user(), command.manga, &stored.key, context.wall_ms),
        Strategy::Furthest | Strategy::Latest => None,
    };
    let SetProgress { manga, chapter, page, status, .. } = *command;
    let stored = ProgressView::new(manga, stored, series.status());
    Err(Refusal::Conflict(Conflict { stored, proposed: Proposal { manga, chapter, page, status }, token }))
}

/// The library row after a progress change. The first progress in a series puts it into the library as `reading` (and takes it
/// off the list of plans); a status that comes along is the library's from then on.
fn shelve(
    series: &Series,
    status: Option<ReadingStatus>,
    version: Version,
    wall_ms: u64,
    state: &UserState,
) -> Option<LibraryRow> {
    let first = series.live_progress().is_none();
    let wanted = match (status, series.status()) {
        (Some(status), _) => Some(status),
        (None, None | Some(ReadingStatus::PlanToRead)) if first => Some(ReadingStatus::Reading),
        (None, _) => None,
    };
    match wanted {
        Some(status) if series.status() != Some(status) => {
            let added_at_ms = series.live_library().map_or(wall_ms, |row| row.added_at_ms);
            Some(LibraryRow { version, node: state.node(), deleted: false, status, added_at_ms })
        }
        _ => series.library,
    }
}

fn stamp(id: DeviceId, command: &SetProgress, device: Option<&Device>, version: Version) -> DeviceStamp {
    let epoch = device.filter(|device| !device.removed).map_or(version, |device| device.epoch);
    DeviceStamp { device: id, seq: command.device_seq, epoch }
}

/// The last chapter of a completed series, or one beyond it.
fn reaches_the_end(facts: &SeriesFacts, chapter: Chapter) -> bool {
    facts.status == proto::SeriesStatus::Completed
        && facts.known_total().is_some_and(|total| chapter.whole_part() >= total)
}

fn delete_progress(state: &UserState, manga: MangaId, context: &mut Context<'_>) -> Decision {
    let series = state.find(manga).filter(|series| series.live_progress().is_some());
    let series = series.ok_or(Reject::NoProgress { manga })?;
    let version = next_version(context, series.version())?;
    let row = ProgressRow::tombstone(version, state.node());
    let (device, library, history) = (None, series.library, None);
    let record = ProgressRecord { user: state.user(), manga, row, device, library, history };
    Ok(changed(Record::Progress(record)))
}

fn add_to_library(
    state: &UserState,
    manga: MangaId,
    status: Option<ReadingStatus>,
    context: &mut Context<'_>,
) -> Decision {
    context.facts.ok_or(Reject::NoSuchSeries { manga })?;
    let unread = Series::empty(manga);
    let series = series_or(state, &unread)?;
    if series.live_library().is_some() {
        return Err(Reject::InLibrary { manga }.into());
    }
    let status = status.unwrap_or(ReadingStatus::PlanToRead);
    let version = next_version(context, series.version())?;
    let row = LibraryRow { version, node: state.node(), deleted: false, status, added_at_ms: context.wall_ms };
    Ok(changed(Record::Library(LibraryRecord { user: state.user(), manga, row })))
}

fn set_library_status(state: &UserState, manga: MangaId, status: ReadingStatus, context: &mut Context<'_>) -> Decision {
    change_library(state, manga, context, |row| LibraryRow { status, ..row })
}

fn remove_from_library(state: &UserState, manga: MangaId, context: &mut Context<'_>) -> Decision {
    change_library(state, manga, context, |row| LibraryRow { deleted: true, ..row })
}

fn change_library(
    state: &UserState,
    manga: MangaId,
    context: &mut Context<'_>,
    change: impl FnOnce(LibraryRow) -> LibraryRow,
) -> Decision {
    let series = state.find(manga).ok_or(Reject::NotInLibrary { manga })?;
    let row = *series.live_library().ok_or(Reject::NotInLibrary { manga })?;
    let version = next_version(context, series.version())?;
    let row = LibraryRow { version, node: state.node(), ..change(row) };
    Ok(changed(Record::Library(LibraryRecord { user: state.user(), manga, row })))
}

fn see_device(state: &UserState, id: DeviceId, context: &mut Context<'_>) -> Decision {
    let device = state.find_device(id);
    let known = device.filter(|device| !device.removed);
    if known.is_some_and(|device| device.seen.unix_ms().saturating_add(SEEN_AGAIN_AFTER_MS) > context.wall_ms) {
        return Err(Refusal::Already(None));
    }
    let version = next_version(context, device.map_or(Version::ZERO, |device| device.seen.max(device.epoch)))?;
    let epoch = known.map_or(version, |device| device.epoch);
    let evicted = if known.is_none() { evict_one(state, version) } else { None };
    let (user, node) = (state.user(), state.node());
    let record = DeviceRecord { user, device: id, epoch, removed: false, seen: version, node };
    Ok(Change { evicted, ..changed(Record::Device(record)) })
}

fn remove_device(state: &UserState, id: DeviceId, context: &mut Context<'_>) -> Decision {
    let device = state.find_device(id).filter(|device| !device.removed);
    let device = device.ok_or(Reject::NoSuchDevice { device: id })?;
    let version = next_version(context, device.seen.max(device.epoch))?;
    Ok(changed(Record::Device(removal(state, id, version))))
}

fn removal(state: &UserState, id: DeviceId, version: Version) -> DeviceRecord {
    DeviceRecord { user: state.user(), device: id, epoch: version, removed: true, seen: version, node: state.node() }
}

/// The removal of the longest unseen device, when one more would be too many.
fn evict_one(state: &UserState, version: Version) -> Option<DeviceRecord> {
    if state.live_devices().count() < DEVICES_PER_USER_MAX {
        return None;
    }
    let longest_unseen = state.live_devices().min_by_key(|device| (device.seen, device.id))?;
    Some(removal(state, longest_unseen.id, version.max(longest_unseen.epoch)))
}

fn set_preferences(
    state: &UserState,
    strategy: Option<Strategy>,
    utc_offset: Option<UtcOffset>,
    context: &mut Context<'_>,
) -> Decision {
    let current = state.preferences();
    let version = next_version(context, current.version)?;
    let row = Preferences {
        version,
        node: state.node(),
        strategy: strategy.unwrap_or(current.strategy),
        utc_offset: utc_offset.unwrap_or(current.utc_offset),
    };
    Ok(changed(Record::Preferences(PreferencesRecord { user: state.user(), row })))
}

fn changed(record: Record) -> Change {
    Change { record, evicted: None, offers_completed: false }
}

/// What the state has of a series, or `unread` when it has nothing and may have one more.
fn series_or<'a>(state: &'a UserState, unread: &'a Series) -> Result<&'a Series, Reject> {
    match state.find(unread.manga) {
        Some(series) => Ok(series),
        None if state.series_count() < SERIES_PER_USER_MAX => Ok(unread),
        None => Err(Reject::TooManySeries),
    }
}

/// A version later than `than`, or nothing when there is none: then the clock stays where it is.
fn next_version(context: &mut Context<'_>, than: Version) -> Result<Version, Reject> {
    let mut clock = context.clock.clone();
    let version = clock.next(context.wall_ms, than);
    if version <= than {
        return Err(Reject::VersionExhausted);
    }
    *context.clock = clock;
    Ok(version)
}
