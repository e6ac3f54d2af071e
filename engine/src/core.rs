//! The heart of a shard: its users, its connections, its end of the journal, and the gate between them. Everything computed
//! from a user's state enters the gate with that user's ticket and leaves it when the watermark has reached the ticket:
//! nothing is answered, announced or readable before it is durable. No method here waits for anything.

use std::collections::VecDeque;
use std::rc::Weak;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use arc_swap::{ArcSwap, Cache};
use hub::Hlc;
use proto::UserId;
use runtime::local::Signal;
use storage::journal::{Durable, ShardJournal, Ticket};
use storage::lane::Lane;

use crate::Handed;
use crate::accounts::lockout::LockOuts;
use crate::attach::Outgoing;
use crate::catalogue::Catalogue;
use crate::commands::COMMAND_BYTES_MAX;
use crate::connections::{Connections, QueueLimits};
use crate::driver::{self, Sabotage, sabotaged};
use crate::fanout::Event;
use crate::fault::Fault;
use crate::followed;
use crate::held::HeldAnswers;
use crate::limits::Rate;
use crate::message::{Answer, ConnRef, Delivery, Mail, Reply, Request, Target};
use crate::metrics::Counters;
use crate::nodes::Refreshes;
use crate::request::{Acked, Announcement};
use crate::revocations::Ending;
use crate::shard::Shard;
use crate::shared::Shared;
use crate::users::{Users, give_back};

/// Announcements that may wait for another shard's mailbox, per shard; past it the receiving connection is closed as slow.
const OUTBOX_EVENTS_MAX: usize = 8_192;

/// The time of a turn.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Now {
    pub(crate) wall_ms: u64,
    pub(crate) since_start_ns: u64,
}

/// Something that waits for its ticket.
struct Gated {
    ticket: Ticket,
    /// Answer only when the store has it, not the journal alone.
    database: Option<Lane>,
    what: Release,
}

/// What happens when the ticket is durable.
pub(crate) enum Release {
    /// The hot path's answer.
    Ack { conn: ConnRef, seq: u64, acked: Acked },
    /// Any other answer.
    Answer { target: Target, answer: Result<Answer, Fault> },
    /// The user's other connections hear of it.
    Announce { slot: u32, announcement: Announcement, origin: Option<ConnRef> },
}

/// One shard's state.
pub(crate) struct Core {
    pub(crate) id: usize,
    pub(crate) shared: Arc<Shared>,
    pub(crate) shard: Weak<Shard>,
    pub(crate) mail: Mail,
    pub(crate) journal: ShardJournal,
    pub(crate) clock: Hlc,
    pub(crate) now: Now,
    pub(crate) catalogue: Cache<Arc<ArcSwap<Catalogue>>, Arc<Catalogue>>,
    pub(crate) users: Users,
    pub(crate) connections: Connections,
    pub(crate) lockouts: LockOuts,
    pub(crate) counters: Counters,
    pub(crate) frame_rate: Rate,
    pub(crate) line_rate: Rate,
    pub(crate) loads: usize,
    pub(crate) refreshes: Refreshes,
    pub(crate) arrivals: VecDeque<Handed>,
    pub(crate) arrival_waker: Option<Waker>,
    gate: VecDeque<Gated>,
    pub(crate) held: HeldAnswers,
    pub(crate) held_signal: Signal,
    /// Connections that read on once the journal has room.
    room_wakers: VecDeque<Waker>,
    pub(crate) durable: Durable,
    turn: Signal,
    turn_is_open: bool,
    outbox: Vec<VecDeque<Reply>>,
    /// Departures that found a full mailbox; sent with the next turns.
    departures: VecDeque<(usize, Request)>,
}

impl Core {
    pub(crate) fn new(shard: Weak<Shard>, parts: Parts) -> Self {
        let Parts { id, shared, mail, journal, clock, turn, held_signal } = parts;
        let limits = &shared.config.limits;
        let queue = QueueLimits { events_max: limits.out_queue_messages, bytes_max: limits.out_queue_bytes };
        Self {
            id,
            shard,
            mail,
            durable: journal.durable(),
            journal,
            clock,
            now: Now::default(),
            catalogue: Cache::new(Arc::clone(&shared.catalogue)),
            users: Users::new(limits.user_bytes_max, limits.dirty_bytes_max),
            connections: Connections::new(id, limits.connections_per_shard, queue),
            lockouts: LockOuts::new(limits.login_per_address, limits.login_per_account),
            counters: Counters::default(),
            frame_rate: Rate::new(limits.frame_rate_per_s, limits.frame_burst),
            line_rate: Rate::new(limits.line_rate_per_s, limits.line_burst),
            loads: 0,
            refreshes: Refreshes::default(),
            arrivals: VecDeque::new(),
            arrival_waker: None,
            gate: VecDeque::new(),
            held: HeldAnswers::default(),
            held_signal,
            room_wakers: VecDeque::new(),
            turn,
            turn_is_open: false,
            outbox: (0..shared.shards).map(|_| VecDeque::new()).collect(),
            departures: VecDeque::new(),
            shared,
        }
    }

    /// The first work of a turn reads the clocks and asks for the flush, which queues behind everything runnable.
    pub(crate) fn open_turn(&mut self) {
        if self.turn_is_open {
            return;
        }
        self.turn_is_open = true;
        self.now = driver::now(self.shared.started);
        self.turn.raise();
    }

    /// Ends a turn: what it appended is handed to the journal, in one piece.
    pub(crate) fn close_turn(&mut self) {
        self.turn_is_open = false;
        self.journal.flush();
        self.send_outbox();
    }

    /// Lets through what depends on nothing later than `ticket`: at once when that is durable, whatever others wait for, else
    /// in the order of coming. Answers the ticket it leaves with: the gate is in the order of its tickets, so one that comes
    /// after a later ticket waits for that one, and its user must carry it from then on, or the user's next answer would
    /// overtake this one.
    #[must_use = "the user's next answer must not overtake this one"]
    pub(crate) fn gate(&mut self, ticket: Ticket, database: Option<Lane>, what: Release) -> Ticket {
        if ticket <= self.durable.ticket {
            self.pass(database, what);
            return ticket;
        }
        let ticket = self.gate.back().map_or(ticket, |back| back.ticket.max(ticket));
        self.gate.push_back(Gated { ticket, database, what });
        ticket
    }

    fn pass(&mut self, database: Option<Lane>, what: Release) {
        match database {
            Some(lane) if !sabotaged(Sabotage::DatabaseUnasked) => self.hold(lane, what),
            _ => self.release_or_follow(what),
        }
    }

    /// The watermark may have moved: releases everything up to it.
    pub(crate) fn release(&mut self) {
        let durable = self.journal.durable();
        if durable.ticket > self.durable.ticket {
            self.durable = durable;
            self.users.mark(durable);
        }
        let reached = Ticket(self.durable.ticket.0 + u64::from(sabotaged(Sabotage::EarlyRelease)));
        while self.gate.front().is_some_and(|front| front.ticket <= reached) {
            let Some(Gated { database, what, .. }) = self.gate.pop_front() else { break };
            self.pass(database, what);
        }
        self.send_outbox();
        // Not sooner: each of them may bring a whole read's worth.
        if !self.room_wakers.is_empty() && self.journal.has_room() {
            self.room_wakers.drain(..).for_each(Waker::wake);
        }
    }

    /// Whether another command would find as much on its way to the disk as may be.
    pub(crate) fn is_pressed(&self) -> bool {
        self.journal.is_pressed(COMMAND_BYTES_MAX)
    }

    /// Waits until that has passed. Ready at once also when the journal takes nothing at all: that is for a refusal to say.
    pub(crate) fn poll_room(&mut self, context: &Context<'_>) -> Poll<()> {
        if !self.is_pressed() {
            return Poll::Ready(());
        }
        self.room_wakers.push_back(context.waker().clone());
        Poll::Pending
    }

    /// Whether nothing waits any more.
    pub(crate) fn is_quiet(&self) -> bool {
        self.gate.is_empty()
            && self.held.is_empty()
            && self.journal.is_empty()
            && self.outbox.iter().all(VecDeque::is_empty)
            && self.departures.is_empty()
    }

    /// Whether records wait for the end of the turn; replies and departures that wait for room in a mailbox.
    #[cfg(test)]
    pub(crate) fn unsent(&self) -> (bool, usize, usize) {
        (!self.journal.is_empty(), self.outbox.iter().map(VecDeque::len).sum(), self.departures.len())
    }

    /// Nobody says when a mailbox has room again, and this shard may have no further turn soon.
    fn try_again_soon(&self) {
        if !sabotaged(Sabotage::LateReplies) {
            self.held_signal.raise();
        }
    }

    /// Tries again what waits for the store or for room in a mailbox. Returns whether anything still waits.
    pub(crate) fn try_again(&mut self) -> bool {
        if sabotaged(Sabotage::LateReplies) {
            return self.release_held();
        }
        self.send_outbox();
        let held = self.release_held();
        held || !self.departures.is_empty() || self.outbox.iter().any(|waiting| !waiting.is_empty())
    }

    /// Gives back what a burst needed of the queues.
    pub(crate) fn give_back(&mut self) {
        give_back(&mut self.gate);
        self.held.give_back();
        give_back(&mut self.departures);
        give_back(&mut self.room_wakers);
        self.outbox.iter_mut().for_each(give_back);
    }

    /// Answers that wait for the journal, and those that wait for the store.
    pub(crate) fn waiting(&self) -> (usize, usize) {
        (self.gate.len(), self.held.len())
    }

    /// A departure that has to reach its owner, now or soon.
    pub(crate) fn depart(&mut self, owner: usize, request: Request) {
        match self.departures.is_empty() {
            true => {
                if let Err(full) = self.mail.try_send(owner, request) {
                    self.departures.push_back((owner, full.message));
                    self.try_again_soon();
                }
            }
            false => self.departures.push_back((owner, request)),
        }
    }

    /// Gives something to a connection, wherever it lives.
    pub(crate) fn deliver(&mut self, conn: ConnRef, out: Outgoing) {
        if conn.shard as usize == self.id {
            self.connections.answer(conn, out);
        } else {
            self.post(conn.shard as usize, Reply::Deliver { conn, item: Delivery::Out(out) });
        }
    }

    /// Closes the connections of sessions that were ended: through their users where this shard owns them, so that the cost is not
    /// that of every connection there is.
    pub(crate) fn close_ended(&mut self, ending: &Ending) {
        let shared = Arc::clone(&self.shared);
        let is_revoked = |grant| shared.revocations.contains(grant);
        let look_at_all = matches!(ending, Ending::Any) || self.connections.any_foreign();
        let closed = match ending {
            Ending::These(sessions) if !look_at_all => {
                let of_user = |(_, user): &(_, UserId)| self.users.connections_of(*user);
                let conns = sessions.iter().flat_map(of_user);
                conns.map(|conn| u64::from(self.connections.close_if_revoked(*conn, is_revoked))).sum()
            }
            _ => self.connections.close_revoked(is_revoked),
        };
        self.counters.revoked_connections += closed;
    }

    /// Takes what another shard delivers for a connection here.
    pub(crate) fn take_delivery(&mut self, conn: ConnRef, item: Delivery) {
        match item {
            Delivery::Out(Outgoing::Close(fault)) => self.connections.close(conn, *fault),
            Delivery::Out(out) => self.connections.answer(conn, out),
            Delivery::Event(event) => self.announce_here(conn, &event),
        }
    }

    pub(crate) fn release_one(&mut self, what: Release) {
        match what {
            Release::Ack { conn, seq, acked } => {
                followed::acknowledged(&acked);
                self.deliver(conn, Outgoing::Ack { seq, acked });
            }
            Release::Answer { target, answer } => {
                followed::answered(&answer);
                self.answer(target, answer);
            }
            Release::Announce { slot, announcement, origin } => self.announce(slot, announcement, origin),
        }
    }

    fn answer(&mut self, target: Target, answer: Result<Answer, Fault>) {
        match target {
            Target::Connection { conn, seq } => self.deliver(conn, Answer::into_outgoing(answer, seq)),
            Target::Call(reply) => reply.send(Reply::Answer(answer)),
            // Whoever asked may have gone; the change stays.
            Target::Local(sender) => drop(sender.send(answer)),
        }
    }

    fn announce(&mut self, slot: u32, announcement: Announcement, origin: Option<ConnRef>) {
        let version = announcement.state.key.version;
        let event = Arc::new(Event::new(announcement));
        let (mut at, before) = (0, self.counters.announced);
        // Walked by index, because delivering needs the rest of the shard.
        while let Some(resident) = self.users.get_checked(slot, announcement.user)
            && let Some(conn) = resident.connections.get(at).copied()
        {
            at += 1;
            if Some(conn) == origin && !sabotaged(Sabotage::Echo) {
                continue;
            }
            self.counters.announced += 1;
            if conn.shard as usize == self.id {
                self.announce_here(conn, &event);
            } else if !self.announce_there(conn, &event) {
                self.users.unpin(announcement.user, conn);
                at -= 1;
            }
        }
        followed::announced(version, self.counters.announced - before);
    }

    fn announce_here(&mut self, conn: ConnRef, event: &Event) {
        let Some(form) = self.connections.get(conn).map(|connection| connection.form) else { return };
        let Some(bytes) = event.encoded(form, &self.shared.encoders) else { return };
        if !self.connections.announce(conn, event.manga(), bytes) {
            self.counters.slow_consumers += 1;
        }
    }

    /// An announcement for a connection on another shard. When that shard does not keep up, the connection is closed as slow,
    /// and false says that it gets nothing more.
    fn announce_there(&mut self, conn: ConnRef, event: &Arc<Event>) -> bool {
        let to = conn.shard as usize;
        let keeps_up = self.outbox[to].len() < OUTBOX_EVENTS_MAX;
        let item = if keeps_up {
            Delivery::Event(Arc::clone(event))
        } else {
            self.counters.slow_consumers += 1;
            let fault =
                Fault::new(proto::Code::SlowConsumer, "Too slow a reader; connect again with the resume token.");
            Delivery::Out(Outgoing::Close(Box::new(fault)))
        };
        self.post(to, Reply::Deliver { conn, item });
        keeps_up
    }

    /// Sends on a reply lane; what finds it full waits in the outbox, which windows, calls and `OUTBOX_EVENTS_MAX` bound.
    fn post(&mut self, to: usize, reply: Reply) {
        if !self.outbox[to].is_empty() {
            self.outbox[to].push_back(reply);
        } else if let Err(full) = self.mail.post(to, reply) {
            self.outbox[to].push_back(full.message);
            self.try_again_soon();
        }
    }

    /// Sends what waited for room.
    pub(crate) fn send_outbox(&mut self) {
        for (to, waiting) in self.outbox.iter_mut().enumerate() {
            while let Some(reply) = waiting.pop_front() {
                if let Err(full) = self.mail.post(to, reply) {
                    waiting.push_front(full.message);
                    break;
                }
            }
        }
        while let Some((to, request)) = self.departures.pop_front() {
            if let Err(full) = self.mail.try_send(to, request) {
                self.departures.push_front((to, full.message));
                break;
            }
        }
    }
}

/// What a core is made of.
pub(crate) struct Parts {
    pub(crate) id: usize,
    pub(crate) shared: Arc<Shared>,
    pub(crate) mail: Mail,
    pub(crate) journal: ShardJournal,
    pub(crate) clock: Hlc,
    pub(crate) turn: Signal,
    pub(crate) held_signal: Signal,
}

impl Release {
    /// The connection whose answer it is.
    pub(crate) fn connection(&self) -> Option<ConnRef> {
        match self {
            Self::Ack { conn, .. } | Self::Answer { target: Target::Connection { conn, .. }, .. } => Some(*conn),
            _ => None,
        }
    }

    /// What is said instead of a change that was made and that the database did not have in time.
    pub(crate) fn not_in_database(self) -> Self {
        match self {
            Self::Ack { conn, seq, .. } => {
                Self::Answer { target: Target::Connection { conn, seq }, answer: Err(Fault::not_in_database()) }
            }
            Self::Answer { target, answer: Ok(_) } => Self::Answer { target, answer: Err(Fault::not_in_database()) },
            other => other,
        }
    }
}
