//! What the people do, and what they hear: connecting, sending, reading, being cut off, and calls by other doors. Whatever
//! reaches them is held against the shadow.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use hub::Role;
use proto::{Code, GrantId, UserId};

use super::clients::{self, Box_, Client, Live, Sent};
use super::shadow::{Heard, key_of};
use super::wire;
use super::world::{Verdict, World};
use crate::attach::{Ask, AttachOptions, Attachment, Outgoing};
use crate::fanout::WireForm;
use crate::fault::Fault;
use crate::grants::Grant;
use crate::message::Work;
use crate::request::{Acked, Done, SetProgress};
use crate::{Command, Extra};

/// A call by a door without a connection.
pub(crate) struct Call {
    client: usize,
    work: Work,
    task: u64,
    answer: Box_<Heard>,
}

pub(crate) fn grant(user: UserId) -> Grant {
    Grant {
        id: GrantId::default(),
        user,
        username: String::new(),
        role: Role::User,
        scopes: crate::grants::ScopeSet::EMPTY,
        issued_at_s: 0,
        expires_at_s: u64::MAX,
    }
}

/// Refusals that say "not now": allowed for work that was never begun.
fn is_passing(fault: &Fault) -> bool {
    matches!(fault.code, Code::Busy | Code::RateLimited | Code::Unavailable | Code::Capacity)
}

impl Client {
    /// The connection is gone; what it did not answer will be sent again.
    pub(crate) fn lose(&mut self) {
        self.attaching = None;
        self.caught_up = false;
        if let Some(live) = self.live.take() {
            self.again.extend(live.sent.values().filter_map(|sent| match sent {
                Sent::Update(update) => Some(*update),
                Sent::Read => None,
            }));
            self.unsure.extend(self.again.iter().map(|update| update.manga));
            // Nobody remembers everything.
            let forgotten = self.again.len().saturating_sub(8);
            self.again.drain(..forgotten);
        }
    }
}

impl World {
    /// One client does one thing.
    pub(crate) fn act(&mut self) -> Verdict {
        let at = self.random.below(self.clients.len());
        self.note(at as u64);
        match self.random.below(20) {
            0 => self.call(at),
            1..=4 => self.read(at),
            _ if self.clients[at].live.is_none() => match self.random.one_in(self.manner.connects_one_in) {
                true => self.connect(at),
                false => self.call(at),
            },
            5 if self.random.one_in(self.manner.cut_one_in) => self.cut(at),
            _ => self.send(at),
        }
    }

    fn connect(&mut self, at: usize) -> Verdict {
        if let Some((_, answer)) = &self.clients[at].attaching {
            let Some(answer) = answer.borrow_mut().take() else { return Ok(()) };
            self.clients[at].attaching = None;
            return match answer {
                Ok(attachment) => self.welcome(at, attachment),
                Err(fault) if is_passing(&fault) => Ok(()),
                Err(fault) => Err(format!("attaching was refused: {fault}")),
            };
        }
        let shards = self.server().engines.len();
        let shard = self.random.below(shards);
        // Doors move their connections to the owner where they can.
        let user = self.clients[at].user;
        let owner = self.server().engines[shard].owner(user);
        let shard = if self.random.one_in(2) { owner } else { shard };
        let engine = self.server().engines[shard].clone();
        let (user, device) = (self.clients[at].user, self.clients[at].device);
        let lines = self.random.one_in(5);
        let answer: Box_<Attachment> = Rc::new(RefCell::new(None));
        let slot = Rc::clone(&answer);
        let task = self.executor.spawn(Box::pin(async move {
            let options = AttachOptions { form: WireForm::Frame, window: 4_096, lines };
            let attached = engine.attach(Arc::new(grant(user)), device, options).await;
            *slot.borrow_mut() = Some(attached);
        }));
        self.clients[at].attaching = Some((task, answer));
        Ok(())
    }

    fn welcome(&mut self, at: usize, attachment: Attachment) -> Verdict {
        let conn = key_of(attachment.conn);
        let welcome = attachment.welcome();
        let expected = self.shadow.attached(conn).ok_or("welcomed without having been attached")?;
        let heard = Heard::Welcome(welcome.last_seq, welcome.resume);
        let cursors = self.server().cursors.clone();
        self.shadow.check(&expected, &heard, &cursors)?;
        self.note(welcome.resume.position());
        let client = &mut self.clients[at];
        client.next_seq = client.next_seq.max(welcome.last_seq.0 + 1);
        client.live = Some(Live {
            attachment,
            next_seq: 1,
            sent: Default::default(),
            welcome_position: welcome.resume.position(),
            last_position: 0,
            last_ordered: 0,
            heard: Default::default(),
            closed: false,
            meanwhile: Default::default(),
        });
        let ask = Ask::CatchUp(client.token);
        self.ask(at, ask)
    }

    fn ask(&mut self, at: usize, ask: Ask) -> Verdict {
        let Some(live) = &mut self.clients[at].live else { return Ok(()) };
        let seq = live.next_seq;
        match live.attachment.request(seq, ask) {
            Ok(()) => {
                live.sent.insert(seq, Sent::Read);
                if let Ask::CatchUp(_) = ask {
                    live.meanwhile.insert(seq, Default::default());
                }
                live.next_seq += 1;
                Ok(())
            }
            Err(fault) => self.refused(at, &fault),
        }
    }

    fn send(&mut self, at: usize) -> Verdict {
        for _ in 0..1 + self.random.below(self.manner.burst_max) {
            let Self { clients, random, .. } = self;
            if random.one_in(8) {
                let ask = clients[at].ask(random);
                self.ask(at, ask)?;
                continue;
            }
            let update = clients[at].update(random);
            self.submit(at, update)?;
            // A network that repeats itself.
            if update.device_seq.is_some() && self.random.one_in(12) {
                self.submit(at, update)?;
            }
        }
        Ok(())
    }

    fn submit(&mut self, at: usize, update: SetProgress) -> Verdict {
        let Some(live) = &mut self.clients[at].live else { return Ok(()) };
        let seq = live.next_seq;
        match live.attachment.submit(seq, update) {
            Ok(()) => {
                live.sent.insert(seq, Sent::Update(update));
                live.next_seq += 1;
                Ok(())
            }
            Err(fault) => {
                self.clients[at].again.push(update);
                self.refused(at, &fault)
            }
        }
    }

    /// A submission was refused on the spot: the window is full or the connection is closing.
    fn refused(&mut self, at: usize, fault: &Fault) -> Verdict {
        match fault.code {
            Code::RateLimited => self.read(at),
            Code::SlowConsumer | Code::ShuttingDown => Ok(()),
            _ => Err(format!("refused on the spot: {fault}")),
        }
    }

    fn cut(&mut self, at: usize) -> Verdict {
        if let Some((task, _)) = &self.clients[at].attaching {
            self.executor.abort(*task);
        }
        if let Some(live) = &self.clients[at].live {
            self.shadow.cut(key_of(live.attachment.conn));
        }
        self.clients[at].lose();
        Ok(())
    }

    /// Reads what has come for a client.
    pub(crate) fn read(&mut self, at: usize) -> Verdict {
        // What was done for this client in the same step comes first.
        self.look()?;
        let mut out = Vec::new();
        let Some(live) = &self.clients[at].live else { return Ok(()) };
        live.attachment.try_next(&mut out);
        self.heard += out.len() as u64;
        for outgoing in out {
            self.hear(at, outgoing)?;
        }
        if self.clients[at].live.as_ref().is_some_and(|live| live.closed) {
            self.cut(at)?;
        }
        Ok(())
    }

    fn hear(&mut self, at: usize, outgoing: Outgoing) -> Verdict {
        if let Outgoing::Ack { acked: Acked { state, .. }, .. } = &outgoing {
            self.note(state.key.version.0 ^ u64::from(state.key.chapter.hundredths()) << 40);
        }
        match outgoing {
            Outgoing::Ack { seq, acked } => {
                self.clients[at].learn(acked.state.manga, acked.state.key, acked.state.deleted);
                self.answered(at, seq, &Heard::Done(Done::Progress(acked)))
            }
            Outgoing::State { seq, manga, state } => self.answered(at, seq, &Heard::State(manga, state)),
            Outgoing::CatchUp { seq, catch_up } => {
                let client = &mut self.clients[at];
                client.replace(seq, catch_up.snapshot);
                for state in catch_up.states.iter() {
                    client.learn(state.manga, state.key, state.deleted);
                }
                let seen = client.live.as_ref().map_or(0, |live| live.last_position);
                let (resume, position) = (catch_up.resume, catch_up.resume.position().max(seen));
                client.token = Some(crate::ResumeToken::new(resume.node(), resume.epoch(), position));
                client.caught_up = true;
                self.count(if catch_up.snapshot { "caught up with everything" } else { "caught up with what changed" });
                self.answered(at, seq, &Heard::CatchUp(*catch_up))
            }
            Outgoing::Reject { seq, fault } => self.answered(at, seq, &Heard::Fault(*fault)),
            Outgoing::Announcement(bytes) => self.announced(at, &bytes),
            Outgoing::Close(fault) => {
                let Some(live) = &mut self.clients[at].live else { return Ok(()) };
                live.closed = true;
                self.count(fault.to_string());
                if fault.code == Code::SlowConsumer { Ok(()) } else { Err(format!("closed: {fault}")) }
            }
        }
    }

    fn answered(&mut self, at: usize, seq: u64, heard: &Heard) -> Verdict {
        let Self { clients, shadow, server, tally, .. } = self;
        let (Some(live), Some(server)) = (&mut clients[at].live, server) else { return Ok(()) };
        let conn = key_of(live.attachment.conn);
        let sent = live.sent.remove(&seq).ok_or_else(|| format!("answered twice, or never asked: {heard:?}"))?;
        let is_refusal = matches!(heard, Heard::Fault(_));
        live.meanwhile.remove(&seq);
        if !is_refusal {
            if seq <= live.last_ordered {
                return Err(format!("{seq} was answered after {}", live.last_ordered));
            }
            live.last_ordered = seq;
        }
        match shadow.answer(conn, seq) {
            Some(expected) => {
                shadow.check(&expected, heard, &server.cursors)?;
                if expected.database {
                    *tally.entry("acked by the database".to_owned()).or_default() += 1;
                }
            }
            None => {
                let Heard::Fault(fault) = heard else { return Err(format!("answered without work: {heard:?}")) };
                if !is_passing(fault) {
                    return Err(format!("refused without work: {fault}"));
                }
                *tally.entry(fault.to_string()).or_default() += 1;
                if let Sent::Update(update) = sent {
                    clients[at].again.push(update);
                }
            }
        }
        if let Heard::Fault(Fault { extra: Extra::Conflict(conflict), .. }) = heard {
            let client = &mut clients[at];
            client.confirm = conflict.token.map(|token| (conflict.stored.manga, token));
            client.learn(conflict.stored.manga, conflict.stored.key, conflict.stored.deleted);
        }
        self.note(seq << 3 | u64::from(is_refusal));
        Ok(())
    }

    fn announced(&mut self, at: usize, bytes: &[u8]) -> Verdict {
        let announcement = wire::decode(bytes).ok_or("an announcement that nobody made")?;
        let position = announcement.resume.position();
        let Some(live) = &mut self.clients[at].live else { return Ok(()) };
        if position <= live.last_position {
            return Err(format!("the announcement {position} came after {}", live.last_position));
        }
        live.last_position = position;
        live.heard.insert(announcement.state.manga, position);
        self.shadow.announced(key_of(live.attachment.conn), &announcement)?;
        let client = &mut self.clients[at];
        if announcement.user != client.user {
            return Err(format!("{} hears of {}", client.user, announcement.user));
        }
        let state = announcement.state;
        client.learn(state.manga, state.key, state.deleted);
        if client.caught_up {
            client.token = client.token.max_by_position(announcement.resume);
        }
        self.note(position);
        Ok(())
    }

    /// A call by another door, or a look at one that is under way.
    fn call(&mut self, at: usize) -> Verdict {
        if let Some(under_way) = self.calls.iter().position(|call| call.client == at) {
            if self.random.one_in(20) {
                let call = self.calls.swap_remove(under_way);
                self.executor.abort(call.task);
                return Ok(());
            }
            return self.finish_call(under_way);
        }
        let Self { clients, random, .. } = self;
        let work = clients::call(&mut clients[at], random);
        self.start_call(at, work);
        Ok(())
    }

    /// A client calls by another door, of any shard.
    pub(crate) fn start_call(&mut self, at: usize, work: Work) {
        let (user, asked) = (self.clients[at].user, work.clone());
        let shards = self.server().engines.len();
        let shard = self.random.below(shards);
        let engine = self.server().engines[shard].clone();
        let answer: Box_<Heard> = Rc::new(RefCell::new(None));
        let slot = Rc::clone(&answer);
        let task = self.executor.spawn(Box::pin(async move {
            let grant = grant(user);
            let heard = match work {
                Work::Command(command) => engine.command(&grant, command).await.map(Heard::Done),
                Work::Query(query) => engine.query(&grant, query).await.map(Heard::View),
                _ => return,
            };
            *slot.borrow_mut() = Some(heard);
        }));
        self.calls.push(Call { client: at, work: asked, task, answer });
    }

    /// Takes a call's answer, if it has come.
    pub(crate) fn finish_call(&mut self, at: usize) -> Verdict {
        let Some(answer) = self.calls[at].answer.borrow_mut().take() else { return Ok(()) };
        let Call { client, work, .. } = self.calls.swap_remove(at);
        let user = self.clients[client].user;
        let heard = answer.unwrap_or_else(Heard::Fault);
        let cursors = self.server().cursors.clone();
        let found = self.shadow.called(user, &work, &cursors, &heard);
        let passing = matches!(&heard, Heard::Fault(fault) if is_passing(fault));
        self.heard += 1;
        match found {
            Ok(true) => {}
            _ if passing => {
                if let Heard::Fault(fault) = &heard {
                    self.count(fault.to_string());
                }
                return Ok(());
            }
            Ok(false) => return Err(format!("answered without work: {work:?}: {heard:?}")),
            Err(what) => return Err(format!("{work:?}: {what}")),
        }
        // The live view learns nothing here: this answer came by another way and may be read late, when what it shows has
        // been deleted and forgotten. The connection hears of every change that a call made.
        if let (Work::Command(Command::SetProgress(update)), Heard::Fault(fault)) = (&work, &heard)
            && let Extra::Conflict(conflict) = &fault.extra
        {
            self.clients[client].confirm = conflict.token.map(|token| (update.manga, token));
        }
        Ok(())
    }
}

trait Later {
    fn max_by_position(self, other: crate::ResumeToken) -> Self;
}

impl Later for Option<crate::ResumeToken> {
    /// The later of two tokens of one boot.
    fn max_by_position(self, other: crate::ResumeToken) -> Self {
        let keep = self.filter(|known| known.epoch() == other.epoch() && known.position() > other.position());
        Some(keep.unwrap_or(other))
    }
}
