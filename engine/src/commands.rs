//! A command's way through a shard: admission, the rules, the journal's buffer, the gate. The pipelined path takes one
//! update from there to here without a task, a future or an allocation; every other path is the same one with more room.

use hub::{Change, Context, Outcome};
use proto::{Chapter, Code, MergeKey};
use storage::journal::{Busy, BusyReason, Ticket};
use storage::lane::Lane;

use crate::attach::Outgoing;
use crate::connections::Connection;
use crate::core::{Core, Release};
use crate::fault::{ConflictState, Extra, Fault};
use crate::followed;
use crate::message::{Answer, Attached, ConnRef, Request, Target, Work};
use crate::request::{Acked, Announcement, Command, Done, ProgressView, SetProgress};
use crate::users::{Found, Waiting};

/// The most that one command's records take in the journal, framing included: a progress record and a device's tombstone.
pub(crate) const COMMAND_BYTES_MAX: usize = 1_024;

/// Live connections per user: what one update may be announced to.
const CONNECTIONS_PER_USER_MAX: usize = 256;

impl Core {
    /// A pipelined update of a connection on this shard. An error is the answer itself and ends the connection.
    pub(crate) fn submit(&mut self, conn: ConnRef, seq: u64, mut update: SetProgress) -> Result<(), Fault> {
        self.open_turn();
        let gone = || Fault::new(Code::ShuttingDown, "The connection is closed.");
        let connection = self.connections.get(conn).ok_or_else(gone)?;
        connection.take()?;
        if let Some(device) = connection.device {
            update.device = Some(device);
        }
        let (slot, owner, user) = (connection.user_slot, connection.owner, connection.grant.user);
        if connection.is_draining() {
            self.refuse(conn, seq, Fault::new(Code::ShuttingDown, "The server is stopping; connect again."));
            return Ok(());
        }
        let mut framed = true;
        if connection.lines {
            framed = false;
            if let Err(empty) = self.line_rate.draw(&mut connection.line_bucket, self.now.since_start_ns) {
                self.counters.over_line_rate += 1;
                self.refuse(conn, seq, too_fast(empty.wait_ns));
                return Ok(());
            }
        }
        if owner == self.id {
            self.update(slot, conn, seq, &update, framed);
            return Ok(());
        }
        let work = Work::Command(Command::SetProgress(update));
        self.submit_there(owner, Request::Submit { user, conn, seq, work, framed }, conn, seq);
        Ok(())
    }

    /// A pipelined read of a connection on this shard.
    pub(crate) fn submit_ask(&mut self, conn: ConnRef, seq: u64, work: Work) -> Result<(), Fault> {
        self.open_turn();
        let gone = || Fault::new(Code::ShuttingDown, "The connection is closed.");
        let connection = self.connections.get(conn).ok_or_else(gone)?;
        connection.take()?;
        let (slot, owner, user) = (connection.user_slot, connection.owner, connection.grant.user);
        if matches!(work, Work::CatchUp(_)) && !connection.begin_catch_up(seq) {
            self.counters.busy_catch_ups += 1;
            self.refuse(conn, seq, Fault::busy("Wait for the answers to earlier catch-ups."));
            return Ok(());
        }
        if owner == self.id {
            self.execute(slot, work, Target::Connection { conn, seq }, true);
        } else {
            self.submit_there(owner, Request::Submit { user, conn, seq, work, framed: true }, conn, seq);
        }
        Ok(())
    }

    /// A refusal in order with the other answers of a connection on this shard: behind whatever of its user waits, here
    /// or at the owner.
    pub(crate) fn refuse(&mut self, conn: ConnRef, seq: u64, fault: Fault) {
        let Some(connection) = self.connections.get(conn) else { return };
        let (slot, owner, user) = (connection.user_slot, connection.owner, connection.grant.user);
        if owner != self.id {
            self.counters.refused(fault.code);
            return connection.refuse_in_turn(Outgoing::Reject { seq, fault: Box::new(fault) });
        }
        let target = Target::Connection { conn, seq };
        if owner == self.id && self.users.get_checked(slot, user).is_some() {
            return self.gate_user(slot, None, target, Err(fault));
        }
        self.counters.refused(fault.code);
        // Nothing that this shard knows of is ahead of it.
        let _ = self.gate(Ticket::default(), None, Release::Answer { target, answer: Err(fault) });
    }

    /// Work on a user this shard owns: at once when the user is in memory, else when they are loaded.
    pub(crate) fn run(&mut self, user: proto::UserId, waiting: Waiting) {
        self.open_turn();
        match self.users.find(user) {
            Found::Resident(slot) if self.users.get(slot).for_reading && !waiting.work.only_reads() => {
                // Rules are evaluated on the store's state, never on the hot cache's.
                if self.loads >= self.shared.config.limits.loads_max {
                    return self.refuse_waiting(waiting, Fault::busy("Too many users are being loaded."));
                }
                self.users.reload(slot, waiting);
                self.load_from_store(user, false);
            }
            Found::Resident(slot) => {
                self.users.touch(slot);
                self.counters.memory_hits += 1;
                self.execute(slot, waiting.work, waiting.target, waiting.framed);
            }
            Found::Loading(slot) => {
                let waiters_max = self.shared.config.limits.load_waiters_max;
                if let Err(waiting) = self.users.wait(slot, waiting, waiters_max) {
                    self.counters.busy_load_waiters += 1;
                    self.refuse_waiting(waiting, Fault::busy("Too much waits for this user to be loaded."));
                }
            }
            Found::Absent if self.loads >= self.shared.config.limits.loads_max => {
                self.counters.busy_loads += 1;
                self.refuse_waiting(waiting, Fault::busy("Too many users are being loaded."));
            }
            Found::Absent => {
                self.counters.memory_misses += 1;
                let only_reads = waiting.work.only_reads();
                self.users.begin(user, waiting);
                self.load(user, only_reads);
            }
        }
    }

    /// Answers work that was never begun.
    pub(crate) fn refuse_waiting(&mut self, waiting: Waiting, fault: Fault) {
        self.counters.refused(fault.code);
        // Of a user who is not loaded nothing waits.
        let _ = self.gate(Ticket::default(), None, Release::Answer { target: waiting.target, answer: Err(fault) });
    }

    /// Work on a user in memory.
    pub(crate) fn execute(&mut self, slot: u32, work: Work, target: Target, framed: bool) {
        #[cfg(test)]
        crate::sim::hook::work(self.users.get(slot).state.user(), &work, &target);
        let answer = match work {
            Work::Command(command) => {
                if let (Command::SetProgress(update), Target::Connection { conn, seq }) = (&command, &target) {
                    return self.update(slot, *conn, *seq, update, framed);
                }
                let asked = matches!(&command, Command::SetProgress(update) if update.ack_database);
                let waits = self.waits_for_database(asked);
                if waits && self.is_held_full() {
                    self.counters.busy_held += 1;
                    return self.gate_user(slot, None, target, Err(too_much_held()));
                }
                let lane = waits.then(|| self.users.get(slot).lane);
                let answer = match command {
                    Command::SetProgress(update) => self.change(slot, &update.command(), None, update.device),
                    other => self.change_other(slot, other),
                };
                return self.gate_user(slot, lane, target, answer.map(Answer::Done));
            }
            Work::Attach { conn, device } => self.attach(slot, conn, device).map(Answer::Attached),
            Work::Query(query) => Ok(Answer::View(self.view(slot, &query))),
            Work::Get(manga) => {
                Ok(Answer::State { manga, state: self.users.get(slot).state.progress(manga).map(ProgressView::from) })
            }
            Work::CatchUp(since) => Ok(Answer::CatchUp(Box::new(self.catch_up(slot, since)))),
        };
        self.gate_user(slot, None, target, answer);
    }

    /// Whether a change is answered only when the database has it: because it asked for that, or because all do.
    fn waits_for_database(&self, asked: bool) -> bool {
        asked || self.shared.config.ack_database
    }

    fn gate_user(&mut self, slot: u32, lane: Option<Lane>, target: Target, answer: Result<Answer, Fault>) {
        if let Err(fault) = &answer {
            self.counters.refused(fault.code);
        }
        let ticket = self.users.get(slot).ticket;
        self.users.get(slot).ticket = self.gate(ticket, lane, Release::Answer { target, answer });
    }

    /// One update of a connection: the hot path.
    fn update(&mut self, slot: u32, conn: ConnRef, seq: u64, update: &SetProgress, framed: bool) {
        #[cfg(test)]
        crate::sim::hook::update(self.users.get(slot).state.user(), conn, seq, update);
        if framed && let Err(empty) = self.frame_rate.draw(&mut self.users.get(slot).frames, self.now.since_start_ns) {
            self.counters.over_frame_rate += 1;
            return self.gate_user(slot, None, Target::Connection { conn, seq }, Err(too_fast(empty.wait_ns)));
        }
        let waits = self.waits_for_database(update.ack_database);
        if waits && self.is_held_full() {
            self.counters.busy_held += 1;
            return self.gate_user(slot, None, Target::Connection { conn, seq }, Err(too_much_held()));
        }
        match self.change(slot, &update.command(), Some(conn), update.device) {
            Ok(Done::Progress(acked)) => {
                let resident = self.users.get(slot);
                let (ticket, lane) = (resident.ticket, waits.then_some(resident.lane));
                self.users.get(slot).ticket = self.gate(ticket, lane, Release::Ack { conn, seq, acked });
            }
            other => self.gate_user(slot, None, Target::Connection { conn, seq }, other.map(Answer::Done)),
        }
    }

    /// Decides a command and, when it is applied, puts its records into the turn's buffer and its announcement into the gate.
    fn change(
        &mut self,
        slot: u32,
        command: &hub::Command,
        origin: Option<ConnRef>,
        device: Option<proto::DeviceId>,
    ) -> Result<Done, Fault> {
        self.admit()?;
        // One step: state that is not in the journal's buffer under its ticket must never be seen, whatever panics.
        let outcome = runtime::essential("rules", || {
            let outcome = self.apply(slot, command);
            if let Outcome::Applied(change) = &outcome {
                self.journal_change(slot, change);
            }
            outcome
        });
        #[cfg(test)]
        crate::sim::hook::decided(self.users.get(slot).state.user(), command, &outcome, self.now.wall_ms);
        match outcome {
            Outcome::Applied(change) => {
                self.counters.applied += 1;
                let resident = self.users.get(slot);
                let (user, ticket) = (resident.state.user(), resident.ticket);
                followed::applied(change.record.version(), user, self.id, ticket);
                self.announce_change(slot, &change, origin, device);
                Ok(self.done(slot, &change, device))
            }
            Outcome::Already(view) => {
                self.counters.already += 1;
                Ok(self.done_already(slot, command, view))
            }
            Outcome::Conflict(conflict) => {
                let detail = conflict.to_string();
                let state = ConflictState {
                    stored: ProgressView::from(conflict.stored),
                    asked: conflict.proposed.chapter,
                    token: conflict.token,
                };
                Err(Fault { code: Code::Conflict, detail: detail.into(), extra: Extra::Conflict(Box::new(state)) })
            }
            Outcome::Rejected(reject) => {
                let extra = reject.state().map_or(Extra::None, |view| Extra::State(Box::new(ProgressView::from(view))));
                Err(Fault { code: reject.code(), detail: reject.to_string().into(), extra })
            }
        }
    }

    fn change_other(&mut self, slot: u32, command: Command) -> Result<Done, Fault> {
        let (command, device) = command.to_hub()?;
        self.change(slot, &command, None, device)
    }

    /// Nothing is applied that could not be journalled.
    fn admit(&mut self) -> Result<(), Fault> {
        if self.users.is_dirty_full() {
            self.counters.busy_dirty += 1;
            return Err(Fault::busy("Too much waits for the store."));
        }
        self.journal.admit(COMMAND_BYTES_MAX).map_err(|Busy { reason }| {
            self.counters.busy_journal += 1;
            match reason {
                BusyReason::SlowFlush => {
                    Fault::busy("The disk does not keep up; try again in a moment.").retry_after_ms(100)
                }
                BusyReason::NoRoom => Fault::busy("The journal has no room until the store has drained it."),
                BusyReason::Stopped => Fault::new(Code::ShuttingDown, "The server is stopping."),
            }
        })
    }

    fn apply(&mut self, slot: u32, command: &hub::Command) -> Outcome {
        let facts = match command.manga() {
            Some(manga) => self.catalogue.load().facts(manga),
            None => None,
        };
        let shared = &self.shared;
        let mut context = Context {
            wall_ms: self.now.wall_ms,
            clock: &mut self.clock,
            facts,
            strict_total: shared.config.strict_total,
            token_tag: &|message| shared.conflict_tag(message),
        };
        hub::apply(&mut self.users.get(slot).state, command, &mut context)
    }

    fn journal_change(&mut self, slot: u32, change: &Change) {
        let mut ticket = self.journal.append(&change.record);
        if let Some(evicted) = change.evicted {
            ticket = self.journal.append(&hub::Record::Device(evicted));
        }
        self.users.changed(slot, ticket);
    }

    /// A change of this node is news to the user's other connections.
    fn announce_change(
        &mut self,
        slot: u32,
        change: &Change,
        origin: Option<ConnRef>,
        device: Option<proto::DeviceId>,
    ) {
        let resident = self.users.get(slot);
        let view = match (change.view(), &change.record) {
            (Some(view), _) => Some(view),
            // A change of status is news about the series' progress, where there is any.
            (None, hub::Record::Library(record)) => resident.state.progress(record.manga),
            _ => None,
        };
        if let Some(view) = view {
            self.tell(slot, view, change.record.version(), origin, device);
        }
    }

    /// The user's stream moves on because of a change of this version, and whoever else listens will hear what is now so.
    pub(crate) fn tell(
        &mut self,
        slot: u32,
        view: hub::ProgressView,
        version: proto::Version,
        origin: Option<ConnRef>,
        device: Option<proto::DeviceId>,
    ) {
        let resident = self.users.get(slot);
        resident.announce(version, &self.clock);
        #[cfg(test)]
        crate::sim::hook::moved(resident.state.user(), resident.position, view.manga);
        let others = resident.connections.iter().any(|conn| Some(*conn) != origin);
        if others {
            let (ticket, position, user) = (resident.ticket, resident.position, resident.state.user());
            let state = ProgressView { device, ..ProgressView::from(view) };
            let announcement = Announcement { user, state, resume: self.resume(position) };
            self.users.get(slot).ticket = self.gate(ticket, None, Release::Announce { slot, announcement, origin });
        }
    }

    fn done(&mut self, slot: u32, change: &Change, device: Option<proto::DeviceId>) -> Done {
        match &change.record {
            hub::Record::Progress(record) if !record.row.deleted => Done::Progress(Acked {
                state: ProgressView { device, ..ProgressView::from(record.view()) },
                already: false,
                offer_completed: change.offers_completed,
            }),
            hub::Record::Library(record) => {
                let row = self.users.get(slot).state.library(record.manga);
                row.map_or(Done::Nothing, Done::Library)
            }
            _ => Done::Nothing,
        }
    }

    fn done_already(&mut self, slot: u32, command: &hub::Command, view: Option<hub::ProgressView>) -> Done {
        match command {
            hub::Command::SetProgress(update) => {
                let state = view.map_or_else(|| nothing_in(update.manga), ProgressView::from);
                Done::Progress(Acked { state, already: true, offer_completed: false })
            }
            hub::Command::SetLibraryStatus { manga, .. } | hub::Command::AddToLibrary { manga, .. } => {
                let row = self.users.get(slot).state.library(*manga);
                row.map_or(Done::Nothing, Done::Library)
            }
            _ => Done::Nothing,
        }
    }

    fn attach(&mut self, slot: u32, conn: ConnRef, device: Option<proto::DeviceId>) -> Result<Attached, Fault> {
        if self.users.get(slot).connections.len() >= CONNECTIONS_PER_USER_MAX {
            self.counters.full_user += 1;
            return Err(Fault::new(Code::Capacity, "This user has as many connections as one may have."));
        }
        if let Some(device) = device
            && let Err(fault) = self.change(slot, &hub::Command::SeeDevice { device }, None, Some(device))
        {
            // A sighting is worth less than the connection; it is noted another time.
            tracing::debug!(%fault, "a device was not noted as seen");
        }
        self.users.pin(slot, conn);
        let resident = self.users.get(slot);
        let last_seq = device.map_or(proto::DeviceSeq(0), |device| resident.state.last_seq(device));
        let position = resident.position;
        Ok(Attached { last_seq, resume: self.resume(position), user_slot: slot })
    }

    fn submit_there(&mut self, owner: usize, request: Request, conn: ConnRef, seq: u64) {
        match self.mail.try_send(owner, request) {
            Ok(()) => self.connections.get(conn).into_iter().for_each(Connection::note_sent),
            Err(_) => {
                self.counters.busy_mailbox += 1;
                self.refuse(conn, seq, Fault::busy("The mailbox of the user's shard is full."));
            }
        }
    }
}

/// More than the rate allows.
pub(crate) fn too_fast(wait_ns: u64) -> Fault {
    Fault::new(Code::RateLimited, "More updates than the limit allows.").retry_after_ms(wait_ns.div_ceil(1_000_000))
}

fn too_much_held() -> Fault {
    Fault::busy("Too many answers wait for the database.")
}

/// What a retried command shows when its progress has been deleted since.
fn nothing_in(manga: proto::MangaId) -> ProgressView {
    ProgressView {
        manga,
        chapter: Chapter::ZERO,
        page: None,
        status: None,
        key: MergeKey::default(),
        updated_at_ms: 0,
        ahead_of_catalogue: false,
        device: None,
        deleted: true,
    }
}

impl SetProgress {
    /// As the rules take it.
    fn command(&self) -> hub::Command {
        hub::Command::SetProgress(hub::SetProgress {
            manga: self.manga,
            chapter: self.chapter,
            page: self.page,
            status: self.status,
            device: self.device,
            device_seq: self.device_seq,
            force: self.force,
            conflict_token: self.conflict_token,
        })
    }
}

impl Command {
    /// As the rules take it, and the device that an announcement names.
    fn to_hub(self) -> Result<(hub::Command, Option<proto::DeviceId>), Fault> {
        Ok(match self {
            Self::SetProgress(update) => (update.command(), update.device),
            Self::DeleteProgress { manga, device } => (hub::Command::DeleteProgress { manga }, device),
            Self::AddToLibrary { manga, status } => (hub::Command::AddToLibrary { manga, status }, None),
            Self::SetStatus { manga, status } => (hub::Command::SetLibraryStatus { manga, status }, None),
            Self::RemoveFromLibrary { manga } => (hub::Command::RemoveFromLibrary { manga }, None),
            Self::RemoveDevice { device } => (hub::Command::RemoveDevice { device }, None),
            Self::SetPreferences { strategy, utc_offset_min } => {
                let utc_offset = utc_offset_min.map(hub::UtcOffset::from_minutes).transpose();
                let utc_offset = utc_offset.map_err(|wrong| Fault::field("utc_offset_min", wrong.to_string()))?;
                (hub::Command::SetPreferences { strategy, utc_offset }, None)
            }
        })
    }
}
