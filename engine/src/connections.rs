//! The live connections of a shard and their out-queues. A queue holds what may be sent (it is durable) and is bounded:
//! answers by the connection's window, announcements by count and bytes, with progress coalescing per series before the
//! queue counts as full. A consumer that still does not keep up is closed with a reason.

use std::collections::VecDeque;
use std::task::Waker;

use bytes::Bytes;
use proto::{Code, DeviceId, GrantId, MangaId, UserId};
use rustc_hash::FxHashSet;
use slab::Slab;

use crate::attach::Outgoing;
use crate::fanout::WireForm;
use crate::fault::Fault;
use crate::grants::Grant;
use crate::limits::Bucket;
use crate::message::ConnRef;

/// Catch-ups of one connection that may be unanswered: each may hold all of a user's series.
const CATCH_UPS_MAX: usize = 16;

/// What waits to be sent.
enum Queued {
    Out(Outgoing),
    Event { manga: MangaId, bytes: Bytes },
}

/// Where a connection is in its life.
#[derive(PartialEq, Debug)]
enum Phase {
    Open,
    /// The server stops: what is unanswered is answered, then it closes.
    Draining,
    /// Closes with this once what is queued has gone.
    Closing(Box<Fault>),
    /// `Close` was handed out.
    Closed,
}

/// What a connection has in hand. A quiet one has nothing and keeps no room for it.
#[derive(Default)]
struct InHand {
    /// The sequences of the catch-ups that are unanswered.
    catch_ups: Vec<u64>,
    /// Refusals of this shard's own, each with the number of sent work that is answered before it.
    early: VecDeque<(u64, Outgoing)>,
    queue: VecDeque<Queued>,
    events: usize,
    event_bytes: usize,
}

/// What a connection keeps of its grant; all else that a grant says was asked at the door, and takes half a kilobyte.
#[derive(Clone, Copy)]
pub(crate) struct Standing {
    /// The session it rests on.
    pub(crate) id: GrantId,
    /// Whose it is.
    pub(crate) user: UserId,
}

/// One connection. Small: most are quiet most of the time.
pub(crate) struct Connection {
    generation: u32,
    pub(crate) grant: Standing,
    pub(crate) device: Option<DeviceId>,
    pub(crate) owner: usize,
    /// The user's place in this shard's table, when this shard owns the user.
    pub(crate) user_slot: u32,
    pub(crate) form: WireForm,
    pub(crate) lines: bool,
    pub(crate) line_bucket: Bucket,
    pub(crate) window: u32,
    unanswered: u32,
    /// Work sent to an owner elsewhere, and answers that have come; both only grow.
    sent: u64,
    answered: u64,
    in_hand: Option<Box<InHand>>,
    waker: Option<Waker>,
    phase: Phase,
}

// A shard holds as many as there are connections. What a connection has in hand belongs into `InHand`.
const _: () = assert!(size_of::<Connection>() <= 176);

/// How much may wait in a queue.
#[derive(Clone, Copy)]
pub(crate) struct QueueLimits {
    pub(crate) events_max: usize,
    pub(crate) bytes_max: usize,
}

/// All of a shard's.
pub(crate) struct Connections {
    shard: u32,
    slots: Slab<Connection>,
    generation: u32,
    connections_max: usize,
    limits: QueueLimits,
    draining: bool,
    /// Connections whose user another shard owns: the table of users does not lead to them.
    foreign: usize,
}

impl Connections {
    pub(crate) fn new(shard: usize, connections_max: usize, limits: QueueLimits) -> Self {
        Self {
            shard: shard as u32,
            slots: Slab::new(),
            generation: 0,
            connections_max,
            limits,
            draining: false,
            foreign: 0,
        }
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Enters a connection, unless there are as many as may be.
    pub(crate) fn enter(
        &mut self,
        grant: &Grant,
        device: Option<DeviceId>,
        owner: usize,
        options: crate::attach::AttachOptions,
    ) -> Result<ConnRef, Fault> {
        if self.draining {
            return Err(Fault::new(Code::ShuttingDown, "The server is stopping; connect again."));
        }
        if self.slots.len() >= self.connections_max {
            return Err(Fault::new(Code::Capacity, "The server holds as many connections as it may."));
        }
        self.generation = self.generation.wrapping_add(1);
        let connection = Connection {
            generation: self.generation,
            grant: Standing { id: grant.id, user: grant.user },
            device,
            owner,
            user_slot: u32::MAX,
            form: options.form,
            lines: options.lines,
            line_bucket: Bucket::default(),
            window: options.window,
            unanswered: 0,
            sent: 0,
            answered: 0,
            in_hand: None,
            waker: None,
            phase: Phase::Open,
        };
        self.foreign += usize::from(owner != self.shard as usize);
        let slot = self.slots.insert(connection) as u32;
        Ok(ConnRef { shard: self.shard, slot, generation: self.generation })
    }

    /// Takes a connection out. Drop it with the shard's state free: the waker in it may be a task's last hold on life.
    #[must_use]
    pub(crate) fn leave(&mut self, conn: ConnRef) -> Option<Connection> {
        self.get(conn)?;
        let connection = self.slots.remove(conn.slot as usize);
        self.foreign -= usize::from(connection.owner != self.shard as usize);
        Some(connection)
    }

    /// The connection, if it is still the same one.
    pub(crate) fn get(&mut self, conn: ConnRef) -> Option<&mut Connection> {
        let connection = self.slots.get_mut(conn.slot as usize)?;
        (connection.generation == conn.generation && conn.shard == self.shard).then_some(connection)
    }

    /// Queues an answer.
    pub(crate) fn answer(&mut self, conn: ConnRef, out: Outgoing) {
        if let Some(connection) = self.get(conn) {
            connection.answer(out);
        }
    }

    /// Queues an announcement; false when that closed the connection.
    pub(crate) fn announce(&mut self, conn: ConnRef, manga: MangaId, bytes: Bytes) -> bool {
        let limits = self.limits;
        self.get(conn).is_none_or(|connection| connection.announce(manga, bytes, limits))
    }

    /// Closes a connection once what is queued has gone.
    pub(crate) fn close(&mut self, conn: ConnRef, fault: Fault) {
        if let Some(connection) = self.get(conn) {
            connection.close(fault);
        }
    }

    /// Whether there are connections that the table of users does not lead to.
    pub(crate) fn any_foreign(&self) -> bool {
        self.foreign > 0
    }

    /// Looks at every connection and closes those whose grant no longer stands; returns how many.
    pub(crate) fn close_revoked(&mut self, is_revoked: impl Fn(GrantId) -> bool) -> u64 {
        self.slots.iter_mut().map(|(_, connection)| u64::from(connection.close_revoked(&is_revoked))).sum()
    }

    /// Closes this connection if it is here and its grant no longer stands; returns whether it did.
    pub(crate) fn close_if_revoked(&mut self, conn: ConnRef, is_revoked: impl Fn(GrantId) -> bool) -> bool {
        self.get(conn).is_some_and(|connection| connection.close_revoked(&is_revoked))
    }

    /// Begins the end: nothing new comes in, and each connection closes once it is answered.
    pub(crate) fn drain(&mut self) {
        self.draining = true;
        for (_, connection) in &mut self.slots {
            if connection.phase == Phase::Open {
                connection.phase = Phase::Draining;
                connection.wake();
            }
        }
    }
}

impl Connection {
    /// Whether it takes work; the error is the answer to whatever was submitted.
    pub(crate) fn take(&mut self) -> Result<(), Fault> {
        match &self.phase {
            Phase::Open | Phase::Draining if self.unanswered >= self.window => {
                Err(Fault::new(Code::RateLimited, "More is unanswered than the window allows."))
            }
            Phase::Open | Phase::Draining => {
                self.unanswered += 1;
                Ok(())
            }
            Phase::Closing(fault) => Err((**fault).clone()),
            Phase::Closed => Err(Fault::new(Code::ShuttingDown, "The connection is closing.")),
        }
    }

    /// Notes that work went to the owner, on another shard.
    pub(crate) fn note_sent(&mut self) {
        self.sent += 1;
    }

    /// Queues a refusal behind the answers to what was sent to the owner before it.
    pub(crate) fn refuse_in_turn(&mut self, refusal: Outgoing) {
        if self.answered >= self.sent {
            self.in_hand().queue.push_back(Queued::Out(refusal));
            return self.wake();
        }
        let after = self.sent;
        self.in_hand().early.push_back((after, refusal));
    }

    fn answer(&mut self, out: Outgoing) {
        self.answered += 1;
        let answered = self.answered;
        let in_hand = self.in_hand();
        in_hand.queue.push_back(Queued::Out(out));
        while let Some((_, refusal)) = in_hand.early.pop_front_if(|(after, _)| *after <= answered) {
            in_hand.queue.push_back(Queued::Out(refusal));
        }
        self.wake();
    }

    fn in_hand(&mut self) -> &mut InHand {
        self.in_hand.get_or_insert_default()
    }

    /// Notes a catch-up that was taken; false when there are as many as may be.
    pub(crate) fn begin_catch_up(&mut self, seq: u64) -> bool {
        let catch_ups = &mut self.in_hand().catch_ups;
        let has_room = catch_ups.len() < CATCH_UPS_MAX;
        if has_room {
            catch_ups.push(seq);
        }
        has_room
    }

    /// Whether new work is refused because the server stops.
    pub(crate) fn is_draining(&self) -> bool {
        self.phase == Phase::Draining
    }

    /// Taken and not yet answered.
    pub(crate) fn unanswered(&self) -> u32 {
        self.unanswered
    }

    /// Moves everything that waits into `out`; false when that was nothing.
    pub(crate) fn drain_into(&mut self, out: &mut Vec<Outgoing>) -> bool {
        let before = out.len();
        if let Some(in_hand) = &mut self.in_hand {
            self.unanswered = self.unanswered.saturating_sub(in_hand.drain_into(out));
        }
        if self.phase == Phase::Draining && self.unanswered == 0 {
            let fault = Fault::new(Code::ShuttingDown, "The server is stopping; connect again.");
            self.phase = Phase::Closing(Box::new(fault));
        }
        if let Phase::Closing(_) = self.phase
            && let Phase::Closing(fault) = std::mem::replace(&mut self.phase, Phase::Closed)
        {
            out.push(Outgoing::Close(fault));
        }
        out.len() > before
    }

    /// Whether `drain_into` would move anything.
    pub(crate) fn has_something(&self) -> bool {
        let closes = match self.phase {
            Phase::Draining => self.unanswered == 0,
            Phase::Closing(_) => true,
            Phase::Open | Phase::Closed => false,
        };
        closes || self.in_hand.as_ref().is_some_and(|in_hand| !in_hand.queue.is_empty())
    }

    /// Gives back the room for what it has in hand, if that is nothing.
    pub(crate) fn rest(&mut self) {
        self.in_hand.take_if(|in_hand| in_hand.is_nothing());
    }

    /// Whom to wake when something comes.
    pub(crate) fn wait(&mut self, waker: &Waker) {
        match &mut self.waker {
            Some(known) => known.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn close_revoked(&mut self, is_revoked: &impl Fn(GrantId) -> bool) -> bool {
        let closes = matches!(self.phase, Phase::Open | Phase::Draining) && is_revoked(self.grant.id);
        if closes {
            self.close(Fault::new(Code::Revoked, "This session was ended."));
        }
        closes
    }

    fn close(&mut self, fault: Fault) {
        if matches!(self.phase, Phase::Open | Phase::Draining) {
            self.phase = Phase::Closing(Box::new(fault));
            if let Some(in_hand) = &mut self.in_hand {
                in_hand.queue.retain(|queued| matches!(queued, Queued::Out(_)));
            }
            self.wake();
        }
    }

    fn announce(&mut self, manga: MangaId, bytes: Bytes, limits: QueueLimits) -> bool {
        if matches!(self.phase, Phase::Closing(_) | Phase::Closed) {
            return true;
        }
        let in_hand = self.in_hand();
        if in_hand.is_full(bytes.len(), limits) {
            in_hand.coalesce(manga);
            if in_hand.is_full(bytes.len(), limits) {
                self.close(Fault::new(Code::SlowConsumer, "Too slow a reader; connect again with the resume token."));
                return false;
            }
        }
        in_hand.events += 1;
        in_hand.event_bytes += bytes.len();
        in_hand.queue.push_back(Queued::Event { manga, bytes });
        self.wake();
        true
    }
}

impl InHand {
    fn is_nothing(&self) -> bool {
        self.queue.is_empty() && self.early.is_empty() && self.catch_ups.is_empty()
    }

    /// Moves everything that waits into `out`; says how many answers that were.
    fn drain_into(&mut self, out: &mut Vec<Outgoing>) -> u32 {
        let mut answers = 0;
        while let Some(queued) = self.queue.pop_front() {
            out.push(match queued {
                Queued::Event { bytes, .. } => Outgoing::Announcement(bytes),
                Queued::Out(answer) => {
                    answers += 1;
                    self.end_catch_up(&answer);
                    answer
                }
            });
        }
        (self.events, self.event_bytes) = (0, 0);
        answers
    }

    fn end_catch_up(&mut self, answer: &Outgoing) {
        if let Outgoing::CatchUp { seq, .. } | Outgoing::Reject { seq, .. } = answer
            && let Some(at) = self.catch_ups.iter().position(|known| known == seq)
        {
            self.catch_ups.remove(at);
        }
    }

    fn is_full(&self, more_bytes: usize, limits: QueueLimits) -> bool {
        self.events >= limits.events_max || self.event_bytes + more_bytes > limits.bytes_max
    }

    /// Leaves the newest announcement of each series, and none of `coming`.
    fn coalesce(&mut self, coming: MangaId) {
        let mut newer: FxHashSet<MangaId> = FxHashSet::default();
        newer.insert(coming);
        let mut kept = VecDeque::with_capacity(self.queue.len());
        for queued in self.queue.drain(..).rev() {
            match &queued {
                Queued::Event { manga, bytes } if !newer.insert(*manga) => {
                    self.events -= 1;
                    self.event_bytes -= bytes.len();
                }
                _ => kept.push_front(queued),
            }
        }
        self.queue = kept;
    }
}
