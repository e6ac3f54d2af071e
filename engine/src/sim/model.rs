//! The shadow model of one user: the rules once more, written against the description and not against `hub`, over plain maps.
//! It decides every command after the engine did and says when the two disagree. What it knows survives evictions; a crash
//! takes it back to what was durable.

use std::collections::{BTreeMap, BTreeSet};

use hub::{Command, HistoryRow, LibraryRow, LocalDay, Outcome, ProgressRow, Record, SeriesFacts, Strategy, UtcOffset};
use proto::{
    Chapter, Code, ConflictToken, DeviceId, DeviceSeq, MangaId, MergeKey, NodeId, ReadingStatus, UserId, Version,
};

/// How many of a device's numbers are remembered, and for how long a conflict may be confirmed.
const WINDOW: u64 = 4_096;
const TOKEN_TTL_MS: u64 = 600_000;
const SEEN_AGAIN_MS: u64 = 60_000;

/// One series of one user.
#[derive(Clone, Copy, Default, PartialEq, Debug)]
pub(crate) struct Series {
    pub(crate) progress: Option<ProgressRow>,
    pub(crate) library: Option<LibraryRow>,
    pub(crate) history: Option<HistoryRow>,
}

/// One device of one user.
#[derive(Clone, Default, PartialEq, Debug)]
pub(crate) struct Device {
    removed: bool,
    seqs: BTreeSet<u64>,
    seen: Version,
}

/// One user.
#[derive(Clone, Default, PartialEq, Debug)]
pub(crate) struct User {
    strategy: Strategy,
    offset: UtcOffset,
    chosen: Version,
    pub(crate) series: BTreeMap<MangaId, Series>,
    devices: BTreeMap<DeviceId, Device>,
}

/// What all users share.
#[derive(Default)]
pub(crate) struct Rules {
    pub(crate) facts: BTreeMap<MangaId, SeriesFacts>,
    pub(crate) strict_total: bool,
    pub(crate) node: NodeId,
    /// Conflicts that may be confirmed: of whom, in what, over which key, until when.
    tokens: BTreeMap<[u8; 16], (UserId, MangaId, MergeKey, u64)>,
}

/// What the model expects of a command that is not applied.
#[derive(Debug, PartialEq)]
pub(crate) enum Refusal {
    Already(Option<hub::ProgressView>),
    Conflict(hub::ProgressView),
    Reject(Code, Option<hub::ProgressView>),
}

impl Series {
    fn live(&self) -> Option<&ProgressRow> {
        self.progress.as_ref().filter(|row| !row.deleted)
    }

    pub(crate) fn status(&self) -> Option<ReadingStatus> {
        self.shelf().map(|row| row.status)
    }

    fn shelf(&self) -> Option<&LibraryRow> {
        self.library.as_ref().filter(|row| !row.deleted)
    }

    fn version(&self) -> Version {
        let progress = self.progress.map_or(Version::ZERO, |row| row.key.version);
        progress.max(self.library.map_or(Version::ZERO, |row| row.version))
    }
}

impl User {
    /// The state of a series, a deleted one too.
    pub(crate) fn state_of(&self, manga: MangaId) -> Option<hub::ProgressView> {
        let series = self.series.get(&manga)?;
        Some(hub::ProgressView::new(manga, series.progress.as_ref()?, series.status()))
    }

    pub(crate) fn live_of(&self, manga: MangaId) -> Option<hub::ProgressView> {
        self.state_of(manga).filter(|view| !view.deleted)
    }

    pub(crate) fn states(&self) -> impl Iterator<Item = hub::ProgressView> {
        self.series.keys().filter_map(|manga| self.state_of(*manga))
    }

    pub(crate) fn shelf(&self) -> impl Iterator<Item = hub::LibraryView> {
        self.series.iter().filter_map(|(manga, series)| Some(hub::LibraryView::new(*manga, series.shelf()?)))
    }

    pub(crate) fn shelf_of(&self, manga: MangaId) -> Option<hub::LibraryView> {
        self.series.get(&manga)?.shelf().map(|row| hub::LibraryView::new(manga, row))
    }

    pub(crate) fn devices(&self) -> impl Iterator<Item = (DeviceId, DeviceSeq, Version)> {
        let live = self.devices.iter().filter(|(_, device)| !device.removed);
        live.map(|(id, device)| (*id, DeviceSeq(device.seqs.last().copied().unwrap_or(0)), device.seen))
    }

    pub(crate) fn last_seq(&self, id: DeviceId) -> DeviceSeq {
        self.devices().find(|(known, ..)| *known == id).map_or(DeviceSeq(0), |(_, seq, _)| seq)
    }

    /// Takes in a change, which must lie after everything that is known.
    pub(crate) fn take(&mut self, record: &Record) -> Result<(), String> {
        let later = |known: Version, next: Version, what: &str| {
            if next > known { Ok(()) } else { Err(format!("{what}: version {next:?} after {known:?}")) }
        };
        match record {
            Record::Progress(record) => {
                let series = self.series.entry(record.manga).or_default();
                if series.progress.is_some_and(|row| row.key >= record.row.key) {
                    return Err(format!("a merge key went back: {:?} to {:?}", series.progress, record.row));
                }
                later(series.version(), record.row.key.version, "progress")?;
                series.progress = Some(record.row);
                series.library = record.library;
                series.history = record.history.or(series.history);
                if let Some(stamp) = record.device {
                    let device = self.devices.entry(stamp.device).or_default();
                    if std::mem::take(&mut device.removed) {
                        device.seqs.clear();
                    }
                    device.seen = device.seen.max(record.row.key.version);
                    if stamp.seq.is_some_and(|seq| !device.seqs.insert(seq.0)) {
                        return Err(format!("applied twice: {:?} of {:?}", stamp.seq, stamp.device));
                    }
                }
            }
            Record::Library(record) => {
                let series = self.series.entry(record.manga).or_default();
                later(series.version(), record.row.version, "library")?;
                series.library = Some(record.row);
            }
            Record::Device(record) => {
                let device = self.devices.entry(record.device).or_default();
                later(device.seen, record.seen, "device")?;
                if record.removed || device.removed {
                    device.seqs.clear();
                }
                (device.removed, device.seen) = (record.removed, record.seen);
            }
            Record::Preferences(record) => {
                later(self.chosen, record.row.version, "preferences")?;
                (self.strategy, self.offset, self.chosen) =
                    (record.row.strategy, record.row.utc_offset, record.row.version);
            }
        }
        Ok(())
    }
}

impl Rules {
    /// Whether the engine's decision is the one that the rules ask for.
    pub(crate) fn check(
        &mut self,
        id: UserId,
        user: &User,
        command: &Command,
        outcome: &Outcome,
        wall_ms: u64,
    ) -> Result<(), String> {
        let expected = self.decide(id, user, command, wall_ms);
        let agrees = match (&expected, outcome) {
            (Ok(opens), Outcome::Applied(change)) => {
                self.check_change(id, user, command, *opens, change, wall_ms).map_err(|what| {
                    format!(
                        "{what}\ncommand {command:?}\noutcome {outcome:?}\nseries {:?}",
                        command.manga().map(|manga| user.series.get(&manga))
                    )
                })?;
                true
            }
            (Err(Refusal::Already(view)), Outcome::Already(shown)) => view == shown,
            (Err(Refusal::Conflict(stored)), Outcome::Conflict(conflict)) => {
                let asks = user.strategy == Strategy::Ask;
                if let Some(token) = conflict.token {
                    let until = (wall_ms + TOKEN_TTL_MS) / 1_000;
                    self.tokens.insert(*token.as_bytes(), (id, conflict.stored.manga, conflict.stored.key, until));
                }
                *stored == conflict.stored && conflict.token.is_some() == asks
            }
            (Err(Refusal::Reject(code, state)), Outcome::Rejected(reject)) => {
                *code == reject.code() && *state == reject.state()
            }
            _ => false,
        };
        if agrees { Ok(()) } else { Err(format!("{command:?}: expected {expected:?}, decided {outcome:?}")) }
    }

    /// `Ok` says that it is applied, and whether it opens a generation.
    fn decide(&self, id: UserId, user: &User, command: &Command, wall_ms: u64) -> Result<bool, Refusal> {
        let reject = |code| Err(Refusal::Reject(code, None));
        let series = command.manga().and_then(|manga| user.series.get(&manga)).copied().unwrap_or_default();
        match command {
            Command::SetProgress(update) => self.decide_progress(id, user, &series, update, wall_ms),
            Command::DeleteProgress { .. } if series.live().is_none() => reject(Code::NotFound),
            Command::AddToLibrary { manga, .. } if !self.facts.contains_key(manga) => reject(Code::NotFound),
            Command::AddToLibrary { .. } if series.shelf().is_some() => reject(Code::AlreadyExists),
            Command::SetLibraryStatus { .. } | Command::RemoveFromLibrary { .. } if series.shelf().is_none() => {
                reject(Code::NotFound)
            }
            Command::RemoveDevice { device } if !user.devices().any(|(known, ..)| known == *device) => {
                reject(Code::NotFound)
            }
            Command::SeeDevice { device } => {
                let known = user.devices().find(|(known, ..)| known == device);
                let recently = known.is_some_and(|(_, _, seen)| seen.unix_ms() + SEEN_AGAIN_MS > wall_ms);
                if recently { Err(Refusal::Already(None)) } else { Ok(false) }
            }
            _ => Ok(false),
        }
    }

    fn decide_progress(
        &self,
        id: UserId,
        user: &User,
        series: &Series,
        update: &hub::SetProgress,
        wall_ms: u64,
    ) -> Result<bool, Refusal> {
        if let (Some(device), Some(DeviceSeq(seq))) = (update.device, update.device_seq) {
            let live = user.devices.get(&device).filter(|device| !device.removed);
            let last = live.and_then(|device| device.seqs.last().copied()).unwrap_or(0);
            if last >= seq + WINDOW {
                return Err(Refusal::Reject(Code::SeqTooOld, user.state_of(update.manga)));
            }
            if live.is_some_and(|device| device.seqs.contains(&seq)) {
                return Err(Refusal::Already(user.state_of(update.manga)));
            }
        }
        let Some(facts) = self.facts.get(&update.manga) else { return Err(Refusal::Reject(Code::NotFound, None)) };
        let beyond = facts.total.is_some_and(|total| total > 0 && update.chapter.hundredths() / 100 > total);
        let over = matches!(facts.status, proto::SeriesStatus::Completed | proto::SeriesStatus::Cancelled);
        if beyond && (over || self.strict_total) {
            return Err(Refusal::Reject(Code::ChapterOutOfRange, None));
        }
        if update.force || user.strategy == Strategy::Latest {
            return Ok(true);
        }
        let rereads = update.status == Some(ReadingStatus::ReReading);
        let Some(stored) = series.live().filter(|row| update.chapter < row.key.chapter) else {
            return Ok(rereads && series.status() != Some(ReadingStatus::ReReading));
        };
        let confirmed = |token: ConflictToken| {
            self.tokens.get(token.as_bytes()).is_some_and(|(of, manga, key, until_s)| {
                (*of, *manga, *key) == (id, update.manga, stored.key) && wall_ms / 1_000 <= *until_s
            })
        };
        if rereads || update.conflict_token.is_some_and(confirmed) {
            return Ok(true);
        }
        Err(Refusal::Conflict(hub::ProgressView::new(update.manga, stored, series.status())))
    }

    fn check_change(
        &self,
        id: UserId,
        user: &User,
        command: &Command,
        opens: bool,
        change: &hub::Change,
        wall_ms: u64,
    ) -> Result<(), String> {
        let version = change.record.version();
        if version < Version::from_unix_ms(wall_ms) || change.record.user() != id {
            return Err(format!("version {version:?} of {} is behind the clock, or another's", change.record.user()));
        }
        let series = command.manga().and_then(|manga| user.series.get(&manga)).copied().unwrap_or_default();
        let node = self.node;
        let shelved = |row: LibraryRow| Some(LibraryRow { version, node, ..row });
        let fits = match (command, &change.record) {
            (Command::SetProgress(update), Record::Progress(record)) => {
                return self.check_progress(user, &series, update, opens, (record, change.offers_completed), wall_ms);
            }
            (Command::DeleteProgress { manga }, Record::Progress(record)) => {
                record.manga == *manga
                    && record.row == ProgressRow::tombstone(version, node)
                    && record.library == series.library
                    && record.history.is_none()
                    && record.device.is_none()
            }
            (Command::AddToLibrary { manga, status }, Record::Library(record)) => {
                let status = status.unwrap_or(ReadingStatus::PlanToRead);
                let row = LibraryRow { version, node, deleted: false, status, added_at_ms: wall_ms };
                (record.manga, record.row) == (*manga, row)
            }
            (Command::SetLibraryStatus { manga, status }, Record::Library(record)) => {
                let row = series.library.and_then(|row| shelved(LibraryRow { status: *status, ..row }));
                (record.manga, Some(record.row)) == (*manga, row)
            }
            (Command::RemoveFromLibrary { manga }, Record::Library(record)) => {
                let row = series.library.and_then(|row| shelved(LibraryRow { deleted: true, ..row }));
                (record.manga, Some(record.row)) == (*manga, row)
            }
            (Command::RemoveDevice { device }, Record::Device(record)) => record.device == *device && record.removed,
            (Command::SeeDevice { device }, Record::Device(record)) => record.device == *device && !record.removed,
            (Command::SetPreferences { strategy, utc_offset }, Record::Preferences(record)) => {
                record.row.strategy == strategy.unwrap_or(user.strategy)
                    && record.row.utc_offset == utc_offset.unwrap_or(user.offset)
            }
            _ => false,
        };
        if fits && change.evicted.is_none() { Ok(()) } else { Err("another change than was asked for".to_owned()) }
    }

    fn check_progress(
        &self,
        user: &User,
        series: &Series,
        update: &hub::SetProgress,
        opens: bool,
        (record, offers): (&hub::ProgressRecord, bool),
        wall_ms: u64,
    ) -> Result<(), String> {
        let version = record.row.key.version;
        let inherited = series.progress.map_or(Version::ZERO, |row| row.key.generation);
        let generation = if opens { version } else { inherited };
        let facts = self.facts[&update.manga];
        let whole = |chapter: Chapter| chapter.hundredths() / 100;
        let key = MergeKey { generation, chapter: update.chapter, version, node: self.node };
        let kept = series.live().filter(|row| row.key.chapter == update.chapter).and_then(|row| row.page);
        let ahead = facts.total.is_some_and(|total| total > 0 && whole(update.chapter) > total);
        let row = ProgressRow { key, deleted: false, page: update.page.or(kept), ahead };
        let status = match (update.status, series.status()) {
            (Some(wanted), _) => Some(wanted),
            (None, None | Some(ReadingStatus::PlanToRead)) if series.live().is_none() => Some(ReadingStatus::Reading),
            (None, known) => known,
        };
        let at_end = facts.status == proto::SeriesStatus::Completed
            && facts.total.is_some_and(|total| total > 0 && whole(update.chapter) >= total);
        let from = series.live().map_or(Chapter::ZERO, |row| row.key.chapter);
        let read = whole(update.chapter).saturating_sub(whole(from));
        let today = LocalDay::at(wall_ms, user.offset);
        let continued = series.history.filter(|day| day.day >= today);
        let expected_day = (
            continued.map_or(today, |day| day.day),
            continued.map_or(1, |day| day.updates + 1),
            continued.map_or(0, |day| day.chapters) + read,
            continued.is_some_and(|day| day.jump) || read > 10,
        );
        let day = record.history.map(|day| (day.day, day.updates, day.chapters, day.jump));
        let checks = [
            ("row", record.row == row && record.manga == update.manga),
            ("status", record.status() == status),
            ("offer", offers == (at_end && status != Some(ReadingStatus::Completed))),
            ("day", day == Some(expected_day)),
            (
                "device",
                record.device.map(|stamp| (stamp.device, stamp.seq)) == update.device.map(|id| (id, update.device_seq)),
            ),
            ("shelf", record.library.is_none_or(|row| row.version <= version)),
        ];
        match checks.iter().find(|(_, right)| !right) {
            None => Ok(()),
            Some((what, _)) => {
                Err(format!("the {what} of the change is wrong: expected {row:?} {status:?} {expected_day:?}"))
            }
        }
    }
}
