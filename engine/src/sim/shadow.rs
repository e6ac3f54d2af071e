//! The shadow of the whole server: what every user's state is and what of it is durable, what each question must be answered,
//! and which announcements there are. It learns from the shards in which order they worked, and from the disk what was
//! written; it says what is wrong as soon as anybody is told anything else.

use std::collections::{BTreeMap, VecDeque};

use hub::{Outcome, Record};
use proto::{Code, DeviceSeq, MangaId, UserId};
use storage::journal::{Cursors, Lsn};
use storage::lane::lane_of;

use super::hook::{Asker, Seen};
use super::model::{Rules, User};
use crate::fault::{ConflictState, Extra, Fault};
use crate::message::{ConnRef, Work};
use crate::request::{Acked, Announcement, CatchUp, Command, Done, ProgressView, Query, ResumeToken, View};

/// A connection as a key.
pub(crate) type ConnKey = (u32, u32, u32);

pub(crate) fn key_of(conn: ConnRef) -> ConnKey {
    (conn.shard, conn.slot, conn.generation)
}

/// A user: as the engine has them, and as the disk has them.
#[derive(Default)]
pub(crate) struct Shadowed {
    pub(crate) now: User,
    pub(crate) durable: User,
    /// Changes that are not durable, in order.
    pending: VecDeque<Record>,
    changes: u64,
    durable_changes: u64,
    last_lsn: Lsn,
    /// This boot's announcements.
    pub(crate) events: Vec<Event>,
    position: u64,
}

/// A change that others hear of.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    pub(crate) position: u64,
    pub(crate) state: ProgressView,
    pub(crate) origin: Option<ConnKey>,
    needs: u64,
}

/// What an answer must be.
#[derive(Clone, Debug)]
pub(crate) struct Expected {
    pub(crate) user: UserId,
    /// How many of the user's changes must be durable before it may be seen.
    needs: u64,
    /// How many events there were.
    events: usize,
    pub(crate) database: bool,
    pub(crate) what: Told,
}

/// The answer itself.
#[derive(Clone, Debug)]
pub(crate) enum Told {
    Done(Result<Done, (Code, Extra)>),
    View(View),
    State(MangaId, Option<ProgressView>),
    CatchUp { since: Option<ResumeToken>, states: Vec<ProgressView>, missed: Option<Vec<MangaId>> },
    Attached(DeviceSeq),
}

#[derive(Default)]
pub(crate) struct Shadow {
    pub(crate) rules: Rules,
    pub(crate) users: BTreeMap<UserId, Shadowed>,
    /// This boot, as tokens name it.
    pub(crate) epoch: u64,
    asked: Option<(UserId, Asker, Work)>,
    announces: Option<ProgressView>,
    answers: BTreeMap<(ConnKey, u64), Expected>,
    attaching: BTreeMap<ConnKey, Expected>,
    calls: Vec<(Work, Expected)>,
}

impl Shadow {
    fn user(&mut self, id: UserId) -> &mut Shadowed {
        self.users.entry(id).or_default()
    }

    /// A shard did something.
    pub(crate) fn see(&mut self, seen: Seen) -> Result<(), String> {
        match seen {
            Seen::Work { user, asker, work } => {
                self.end_decision()?;
                if let Some(told) = self.read(user, &work) {
                    self.expect(user, asker, &work, told, false);
                }
                self.asked = Some((user, asker, work));
                Ok(())
            }
            Seen::Decided { user, command, outcome, wall_ms } => self.decided(user, &command, &outcome, wall_ms),
            Seen::Moved { user, position, manga } => {
                let state = self.announces.take().filter(|state| state.manga == manga);
                let state = state.ok_or_else(|| format!("an announcement of nothing: {manga}"))?;
                let origin = match &self.asked {
                    Some((_, Asker::Connection(conn, _), Work::Command(_))) => Some(key_of(*conn)),
                    _ => None,
                };
                let shadowed = self.user(user);
                if position <= shadowed.position {
                    return Err(format!("the stream of {user} went from {} to {position}", shadowed.position));
                }
                shadowed.position = position;
                let needs = shadowed.changes;
                shadowed.events.push(Event { position, state, origin, needs });
                Ok(())
            }
        }
    }

    /// After a step: whatever had to follow has followed.
    pub(crate) fn end_decision(&mut self) -> Result<(), String> {
        match self.announces.take() {
            None => Ok(()),
            Some(state) => Err(format!("nobody is told of {state:?}")),
        }
    }

    fn read(&mut self, user: UserId, work: &Work) -> Option<Told> {
        let epoch = self.epoch;
        let shadowed = self.user(user);
        let all = || shadowed.now.states().map(ProgressView::from);
        Some(match work {
            Work::Command(_) => return None,
            Work::Get(manga) => Told::State(*manga, shadowed.now.live_of(*manga).map(ProgressView::from)),
            Work::Attach { device, .. } => {
                Told::Attached(device.map_or(DeviceSeq(0), |device| shadowed.now.last_seq(device)))
            }
            Work::CatchUp(since) => {
                let since = since.filter(|token| !token.is_none());
                let known = since.filter(|token| token.epoch() == epoch);
                let missed = known.map(|token| {
                    let missed = shadowed.events.iter().filter(|event| event.position > token.position());
                    let mut missed: Vec<MangaId> = missed.map(|event| event.state.manga).collect();
                    missed.sort_unstable();
                    missed.dedup();
                    missed
                });
                Told::CatchUp { since, states: all().collect(), missed }
            }
            Work::Query(Query::Progress(manga)) => {
                Told::View(View::Progress(shadowed.now.live_of(*manga).map(ProgressView::from)))
            }
            Work::Query(Query::ProgressAll { .. }) => {
                let mut rows: Vec<ProgressView> = all().filter(|state| !state.deleted).collect();
                rows.sort_unstable_by_key(|row| std::cmp::Reverse((row.key.version, row.manga)));
                let total = rows.len();
                Told::View(View::ProgressPage { rows, total })
            }
            Work::Query(Query::Library) => {
                let mut rows: Vec<hub::LibraryView> = shadowed.now.shelf().collect();
                rows.sort_unstable_by_key(|row| std::cmp::Reverse((row.added_at_ms, row.manga)));
                Told::View(View::Library(rows))
            }
            Work::Query(Query::Devices) => {
                let devices = shadowed.now.devices();
                let mut rows: Vec<hub::DeviceView> = devices
                    .map(|(id, last_seq, seen)| hub::DeviceView { id, last_seq, last_seen_ms: seen.unix_ms() })
                    .collect();
                rows.sort_unstable_by_key(|row| std::cmp::Reverse((row.last_seen_ms, row.id)));
                Told::View(View::Devices(rows))
            }
            Work::Query(Query::History { .. }) => return None,
        })
    }

    fn expect(&mut self, user: UserId, asker: Asker, work: &Work, what: Told, database: bool) {
        let shadowed = self.user(user);
        let expected = Expected { user, needs: shadowed.changes, events: shadowed.events.len(), database, what };
        match (asker, work) {
            (_, Work::Attach { conn, .. }) => drop(self.attaching.insert(key_of(*conn), expected)),
            (Asker::Connection(conn, seq), _) => drop(self.answers.insert((key_of(conn), seq), expected)),
            (Asker::Call, _) => self.calls.push((work.clone(), expected)),
        }
    }

    fn decided(&mut self, id: UserId, command: &hub::Command, outcome: &Outcome, wall_ms: u64) -> Result<(), String> {
        let (asked, asker, work) = self.asked.clone().ok_or("decided without being asked")?;
        if asked != id {
            return Err(format!("{asked} asked, {id} was decided on"));
        }
        let shadowed = self.users.entry(id).or_default();
        self.rules.check(id, &shadowed.now, command, outcome, wall_ms)?;
        let mut done = Ok(Done::Nothing);
        let device = match command {
            hub::Command::SetProgress(update) => update.device,
            _ => None,
        };
        match outcome {
            Outcome::Applied(change) => {
                shadowed.now.take(&change.record)?;
                shadowed.pending.push_back(change.record);
                shadowed.changes += 1;
                let manga = command.manga();
                let view = manga.and_then(|manga| match &change.record {
                    Record::Progress(_) => shadowed.now.state_of(manga),
                    Record::Library(_) => shadowed.now.live_of(manga),
                    _ => None,
                });
                let state = view.map(|view| ProgressView { device, ..ProgressView::from(view) });
                self.announces = state;
                match (command, manga) {
                    (hub::Command::SetProgress(_), _) => {
                        let state = state.ok_or("progress without a state")?;
                        let offer_completed = change.offers_completed;
                        done = Ok(Done::Progress(Acked { state, already: false, offer_completed }));
                    }
                    (hub::Command::DeleteProgress { .. }, _) | (_, None) => {}
                    (_, Some(manga)) => {
                        done = Ok(shadowed.now.shelf_of(manga).map_or(Done::Nothing, Done::Library));
                    }
                }
            }
            Outcome::Already(view) => {
                if let (hub::Command::SetProgress(_), Some(view)) = (command, view) {
                    let state = ProgressView::from(*view);
                    done = Ok(Done::Progress(Acked { state, already: true, offer_completed: false }));
                }
            }
            Outcome::Conflict(conflict) => {
                let stored = ProgressView::from(conflict.stored);
                let state = ConflictState { stored, asked: conflict.proposed.chapter, token: conflict.token };
                done = Err((Code::Conflict, Extra::Conflict(Box::new(state))));
            }
            Outcome::Rejected(reject) => {
                let state = reject.state().map(|view| Extra::State(Box::new(ProgressView::from(view))));
                done = Err((reject.code(), state.unwrap_or(Extra::None)));
            }
        }
        if let Work::Attach { conn, .. } = &work {
            let needs = shadowed.changes;
            if let Some(expected) = self.attaching.get_mut(&key_of(*conn)) {
                expected.needs = needs;
            }
            return Ok(());
        }
        let database =
            matches!(&work, Work::Command(Command::SetProgress(update)) if update.ack_database) && done.is_ok();
        self.expect(id, asker, &work, Told::Done(done), database);
        Ok(())
    }

    /// The disk has these records, in this order.
    pub(crate) fn written(&mut self, record: &Record, lsn: Lsn) -> Result<(), String> {
        let shadowed = self.user(record.user());
        let first = shadowed.pending.pop_front();
        if first.as_ref() != Some(record) {
            return Err(format!("the journal has {record:?}, and next came {first:?}"));
        }
        shadowed.durable.take(record)?;
        shadowed.durable_changes += 1;
        shadowed.last_lsn = lsn;
        Ok(())
    }

    /// The process died: what was not durable never was.
    pub(crate) fn crash(&mut self) {
        for shadowed in self.users.values_mut() {
            shadowed.now = shadowed.durable.clone();
            shadowed.pending.clear();
            shadowed.changes = shadowed.durable_changes;
            shadowed.events.clear();
            shadowed.position = 0;
        }
        (self.asked, self.announces) = (None, None);
        self.answers.clear();
        self.attaching.clear();
        self.calls.clear();
    }

    /// A connection is gone, and with it what it would have been told.
    pub(crate) fn cut(&mut self, conn: ConnKey) {
        self.answers.retain(|(known, _), _| *known != conn);
        self.attaching.remove(&conn);
    }

    /// What a connection is to be answered; none when the work was never begun.
    pub(crate) fn answer(&mut self, conn: ConnKey, seq: u64) -> Option<Expected> {
        self.answers.remove(&(conn, seq))
    }

    /// Where a connection that was attached stands.
    pub(crate) fn attached(&mut self, conn: ConnKey) -> Option<Expected> {
        self.attaching.remove(&conn)
    }

    /// A call's answer, among what calls with the same work may be answered.
    pub(crate) fn called(
        &mut self,
        user: UserId,
        work: &Work,
        cursors: &Cursors,
        heard: &Heard,
    ) -> Result<bool, String> {
        let mut wrong = None;
        for at in 0..self.calls.len() {
            let (asked, expected) = &self.calls[at];
            if expected.user != user || format!("{asked:?}") != format!("{work:?}") {
                continue;
            }
            match self.check(expected, heard, cursors) {
                Ok(()) => {
                    self.calls.remove(at);
                    return Ok(true);
                }
                Err(what) => wrong = Some(what),
            }
        }
        wrong.map_or(Ok(false), Err)
    }

    /// Whether what was heard is what was expected, and durable.
    pub(crate) fn check(&self, expected: &Expected, heard: &Heard, cursors: &Cursors) -> Result<(), String> {
        let shadowed = &self.users[&expected.user];
        if shadowed.durable_changes < expected.needs {
            let (needs, has) = (expected.needs, shadowed.durable_changes);
            return Err(format!("seen before it was durable: {heard:?} needs change {needs}, the disk has {has}"));
        }
        if expected.database && cursors.get(lane_of(expected.user)) < shadowed.last_lsn_of(expected.needs) {
            return Err(format!("answered before the store has it: {heard:?}"));
        }
        let fits = match (&expected.what, heard) {
            (Told::Done(Ok(done)), Heard::Done(told)) => done == told || is_nothing(done, told),
            (Told::Done(Err((code, extra))), Heard::Fault(fault)) => (code, extra) == (&fault.code, &fault.extra),
            (Told::View(view), Heard::View(told)) => view == told,
            (Told::State(manga, state), Heard::State(of, told)) => (manga, state) == (of, told),
            (Told::Attached(last_seq), Heard::Welcome(told, resume)) => {
                last_seq == told && shadowed.is_at(expected.events, *resume)
            }
            (Told::CatchUp { since, states, missed }, Heard::CatchUp(told)) => {
                fits_catch_up(*since, states, missed.as_deref(), told) && shadowed.is_at(expected.events, told.resume)
            }
            _ => false,
        };
        if fits { Ok(()) } else { Err(format!("expected {:?}, heard {heard:?}", expected.what)) }
    }

    /// An announcement reached a connection.
    pub(crate) fn announced(&self, conn: ConnKey, announcement: &Announcement) -> Result<(), String> {
        let shadowed = self.users.get(&announcement.user).ok_or("an announcement for nobody")?;
        let position = announcement.resume.position();
        let at = shadowed.events.binary_search_by_key(&position, |event| event.position);
        let event = at.map(|at| &shadowed.events[at]).map_err(|_| format!("no such event: {announcement:?}"))?;
        let told = ProgressView { device: event.state.device, ..announcement.state };
        if told != event.state || announcement.resume.epoch() != self.epoch {
            return Err(format!("announced {announcement:?}, which was {event:?}"));
        }
        if event.origin == Some(conn) {
            return Err(format!("announced to whom it came from: {event:?}"));
        }
        if shadowed.durable_changes < event.needs {
            return Err(format!("announced before it was durable: {event:?}"));
        }
        Ok(())
    }
}

/// What somebody was told.
#[derive(Clone, Debug)]
pub(crate) enum Heard {
    Done(Done),
    View(View),
    State(MangaId, Option<ProgressView>),
    CatchUp(CatchUp),
    Welcome(DeviceSeq, ResumeToken),
    Fault(Fault),
}

/// A retry of a command whose series has nothing is shown an empty state; there is nothing to compare.
fn is_nothing(expected: &Done, told: &Done) -> bool {
    matches!((expected, told), (Done::Nothing, Done::Progress(acked)) if acked.already && acked.state.deleted)
}

fn fits_catch_up(
    since: Option<ResumeToken>,
    states: &[ProgressView],
    missed: Option<&[MangaId]>,
    told: &CatchUp,
) -> bool {
    let mut heard: Vec<ProgressView> = told.states.to_vec();
    heard.sort_unstable_by_key(|state| state.manga);
    let wanted = states.iter().filter(|state| match (told.snapshot, missed) {
        (true, _) => since.is_some() || !state.deleted,
        (false, missed) => missed.is_some_and(|missed| missed.contains(&state.manga)),
    });
    (told.snapshot || missed.is_some()) && wanted.eq(heard.iter())
}

impl Shadowed {
    /// Whether a client that was told `resume` after so many events hears of all later ones, and knows all earlier ones.
    fn is_at(&self, events: usize, resume: ResumeToken) -> bool {
        let position = resume.position();
        self.events[..events].last().is_none_or(|event| event.position <= position)
            && self.events.get(events).is_none_or(|event| event.position > position)
    }

    /// The position of a change; of a later one when there is one, so only ever compared when this one is the last.
    fn last_lsn_of(&self, change: u64) -> Lsn {
        if change == self.durable_changes { self.last_lsn } else { Lsn::ZERO }
    }

    pub(crate) fn is_durable(&self) -> bool {
        self.pending.is_empty() && self.now == self.durable
    }
}
