//! The simulated people: each with a device that connects, sends, reads what comes, loses its connection, and takes up again
//! where it was, sending again what was not answered.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use proto::{Chapter, ConflictToken, DeviceId, DeviceSeq, MangaId, MergeKey, Page, ReadingStatus, UserId};

use super::executor::Random;
use crate::attach::{Ask, Attachment};
use crate::fault::Fault;
use crate::message::Work;
use crate::request::{Command, Query, ResumeToken, SetProgress, Strategy};

/// Series that exist, and one that does not.
pub(crate) const SERIES: i64 = 6;

/// The newest key of each series, and whether that is a deletion.
pub(crate) type Beliefs = BTreeMap<MangaId, (MergeKey, bool)>;

/// What a task brings back.
pub(crate) type Box_<T> = Rc<RefCell<Option<Result<T, Fault>>>>;

/// A client of one user.
pub(crate) struct Client {
    pub(crate) user: UserId,
    pub(crate) device: Option<DeviceId>,
    pub(crate) next_seq: u64,
    pub(crate) attaching: Option<(u64, Box_<Attachment>)>,
    pub(crate) live: Option<Live>,
    /// What it believes.
    pub(crate) view: Beliefs,
    pub(crate) token: Option<ResumeToken>,
    /// Sent and not answered when the connection went, or answered with "busy".
    pub(crate) again: Vec<SetProgress>,
    pub(crate) confirm: Option<(MangaId, ConflictToken)>,
    pub(crate) caught_up: bool,
    /// Series of which an own change went unanswered: it may have been made, and nobody announces it to who made it.
    pub(crate) unsure: BTreeSet<MangaId>,
}

/// A connection.
pub(crate) struct Live {
    pub(crate) attachment: Attachment,
    pub(crate) next_seq: u64,
    pub(crate) sent: BTreeMap<u64, Sent>,
    pub(crate) welcome_position: u64,
    pub(crate) last_position: u64,
    pub(crate) last_ordered: u64,
    /// The last announcement of each series.
    pub(crate) heard: BTreeMap<MangaId, u64>,
    pub(crate) closed: bool,
    /// What was learnt since each catch-up was asked for.
    pub(crate) meanwhile: BTreeMap<u64, Beliefs>,
}

/// What went out on a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Sent {
    Update(SetProgress),
    Read,
}

impl Client {
    pub(crate) fn new(user: UserId, device: Option<DeviceId>) -> Self {
        Self {
            user,
            device,
            next_seq: 1,
            attaching: None,
            live: None,
            view: BTreeMap::new(),
            token: None,
            again: Vec::new(),
            confirm: None,
            caught_up: false,
            unsure: BTreeSet::new(),
        }
    }

    /// Takes in a state, unless a newer one was known: an answer that waited for the database may be older than an announcement
    /// that overtook it, and must not outlive the snapshot that knows neither (docs/protocol.md, catching up).
    pub(crate) fn learn(&mut self, manga: MangaId, key: MergeKey, deleted: bool) {
        if self.view.get(&manga).is_some_and(|known| known.0 > key) {
            return;
        }
        let meanwhile = self.live.iter_mut().flat_map(|live| live.meanwhile.values_mut());
        for view in meanwhile.chain([&mut self.view]) {
            let known = view.entry(manga).or_insert((key, deleted));
            if key >= known.0 {
                *known = (key, deleted);
            }
        }
    }

    /// Takes in everything there is. What came since it was asked for is kept (docs/protocol.md, catching up).
    pub(crate) fn replace(&mut self, seq: u64, snapshot: bool) {
        let meanwhile = self.live.as_mut().and_then(|live| live.meanwhile.remove(&seq)).unwrap_or_default();
        if snapshot {
            self.view.clear();
            self.unsure.clear();
        }
        for (manga, (key, deleted)) in meanwhile {
            self.learn(manga, key, deleted);
        }
    }

    /// The next update: usually a chapter further, sometimes anything else that people do.
    pub(crate) fn update(&mut self, random: &mut Random) -> SetProgress {
        if !self.again.is_empty() && random.one_in(2) {
            let at = random.below(self.again.len());
            return self.again.swap_remove(at);
        }
        let manga = MangaId(1 + random.below(SERIES as usize) as i64 + i64::from(random.one_in(100)) * SERIES);
        let known = self.view.get(&manga).map_or(0, |(key, _)| key.chapter.hundredths());
        let hundredths = match random.below(10) {
            0 => known.saturating_sub(100 * random.below(5) as u32),
            1 => known,
            2 => known + random.below(6_000) as u32,
            3 => random.below(3_000) as u32,
            _ => known + 100,
        };
        let mut update = SetProgress::to(manga, Chapter::from_hundredths(hundredths).unwrap_or(Chapter::ZERO));
        update.page = random.one_in(4).then(|| Page(random.below(50) as u32));
        update.status = random.one_in(8).then(|| random.pick(ReadingStatus::ALL));
        update.force = random.one_in(20);
        update.ack_database = random.one_in(12);
        update.device = self.device;
        if let Some((of, token)) = self.confirm
            && (of == manga || random.one_in(2))
        {
            (update.manga, update.conflict_token) = (of, Some(token));
            self.confirm = None;
        }
        if self.device.is_some() && !random.one_in(16) {
            update.device_seq = Some(DeviceSeq(self.next_seq));
            self.next_seq += 1 + if random.one_in(30) { random.below(5_000) as u64 } else { 0 };
        }
        update
    }

    /// A read on the connection.
    pub(crate) fn ask(&self, random: &mut Random) -> Ask {
        match random.below(3) {
            0 => Ask::CatchUp(None),
            1 => Ask::CatchUp(self.token),
            _ => Ask::Get(MangaId(1 + random.below(SERIES as usize) as i64)),
        }
    }
}

/// What comes by another door: commands and queries without a connection.
pub(crate) fn call(client: &mut Client, random: &mut Random) -> Work {
    let manga = MangaId(1 + random.below(SERIES as usize) as i64);
    let status = random.pick(ReadingStatus::ALL);
    match random.below(14) {
        0 => Work::Command(Command::DeleteProgress { manga, device: None }),
        1 => Work::Command(Command::AddToLibrary { manga, status: random.one_in(2).then_some(status) }),
        2 => Work::Command(Command::SetStatus { manga, status }),
        3 => Work::Command(Command::RemoveFromLibrary { manga }),
        4 if random.one_in(4) => {
            let device = client.device.unwrap_or_default();
            Work::Command(Command::RemoveDevice { device })
        }
        5 => {
            let strategy = random.pick(&[Strategy::Furthest, Strategy::Furthest, Strategy::Latest, Strategy::Ask]);
            let utc_offset_min = random.one_in(2).then(|| random.pick(&[-720, 0, 60, 840]));
            Work::Command(Command::SetPreferences { strategy: Some(strategy), utc_offset_min })
        }
        6 => Work::Query(Query::Progress(manga)),
        7 => Work::Query(Query::ProgressAll { offset: 0, limit: 100 }),
        8 => Work::Query(Query::Library),
        9 => Work::Query(Query::Devices),
        _ => Work::Command(Command::SetProgress(client.update(random))),
    }
}
