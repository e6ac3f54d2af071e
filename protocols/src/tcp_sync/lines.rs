//! The JSON-lines wire of the earlier system: one message a line, every error on one line. A client of it knows no window,
//! so reading pauses instead of refusing when too much is unanswered; a line longer than its cap is refused before it is
//! buffered whole.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

use bytes::Bytes;
use engine::{Announcement, Extra, Fault, Grant, Outgoing};
use proto::frame::{Ack, SetProgress};
use proto::line::{
    AuthSuccess, ClientLine, ConflictLine, ConflictSide, ErrorLine, LINE_BYTES_MAX, LineError, ProgressAck,
    ProgressBroadcast, ProgressUpdate, ServerLine, error_code, split_line,
};
use proto::{Code, UserId};

use super::frames::{command, entry};
use super::link::{Ending, Link, Next, Wire};
use super::log_answered;

/// One connection's side of the wire.
pub(crate) struct Lines {
    user: UserId,
    window: u32,
    /// Bytes of the unfinished line that hold no line end.
    searched: Cell<usize>,
    next_seq: Cell<u64>,
    /// What was asked and not answered yet, in order: answers repeat the client's own numbers.
    asked: RefCell<VecDeque<(u64, SetProgress)>>,
}

impl Lines {
    pub(crate) fn new(user: UserId, window: u32) -> Self {
        Self { user, window, searched: Cell::new(0), next_seq: Cell::new(1), asked: RefCell::default() }
    }

    fn serve(&self, link: &Link<Self>, line: &[u8]) -> Result<(), Ending> {
        let done = match ClientLine::parse(line) {
            Ok(ClientLine::ProgressUpdate(update)) => self.update(link, &update),
            Ok(ClientLine::Heartbeat) => {
                let room = link.say(|out| ServerLine::Pong.write(None, out));
                if room { Ok(()) } else { Err(Fault::new(Code::SlowConsumer, "the pongs are not being read")) }
            }
            Ok(ClientLine::Disconnect) => return Err(Ending::Done),
            Ok(ClientLine::Auth(_)) => {
                self.refuse(link, Fault::new(Code::InvalidInput, "auth comes once, at the start"))
            }
            Err(problem) => self.refuse(link, line_fault(&problem)),
        };
        done.map_err(Ending::Because)
    }

    fn update(&self, link: &Link<Self>, update: &ProgressUpdate) -> Result<(), Fault> {
        if update.user.is_some_and(|user| user != self.user) {
            return self.refuse(link, Fault::new(Code::Forbidden, "user_id is not the signed-in user's"));
        }
        let seq = self.take_seq();
        self.asked.borrow_mut().push_back((seq, update.command));
        let command = engine::SetProgress { device: update.device, ..command(&update.command) };
        link.attachment.submit(seq, command)
    }

    fn refuse(&self, link: &Link<Self>, fault: Fault) -> Result<(), Fault> {
        link.attachment.refuse(self.take_seq(), fault)
    }

    fn take_seq(&self) -> u64 {
        self.next_seq.replace(self.next_seq.get() + 1)
    }

    /// What was asked under a sequence; earlier ones have had their answers.
    fn asked(&self, seq: u64) -> Option<SetProgress> {
        let mut asked = self.asked.borrow_mut();
        while asked.pop_front_if(|(earlier, _)| *earlier < seq).is_some() {}
        asked.pop_front_if(|(front, _)| *front == seq).map(|(_, update)| update)
    }

    fn reject(&self, link: &Link<Self>, seq: u64, fault: &Fault, out: &mut Vec<u8>) {
        let asked = self.asked(seq);
        let device_seq = asked.and_then(|asked| asked.device_seq);
        let line = match (&fault.extra, asked) {
            (Extra::Conflict(state), Some(asked)) => {
                let catalogue = link.shard.engine.catalogue();
                let title = catalogue.get(asked.manga).map_or("", |series| series.title.as_str());
                let stored = &state.stored;
                ServerLine::Conflict(ConflictLine {
                    manga_id: asked.manga,
                    manga_title: title.to_owned().into(),
                    local_chapter: asked.chapter,
                    remote_chapter: stored.chapter,
                    local: Some(ConflictSide {
                        chapter: asked.chapter,
                        page: asked.page,
                        status: asked.status,
                        version: None,
                        device: None,
                    }),
                    remote: Some(ConflictSide {
                        chapter: stored.chapter,
                        page: stored.page,
                        status: stored.status,
                        version: Some(stored.key.version),
                        device: stored.device,
                    }),
                    conflict_token: state.token,
                    device_seq,
                    message: fault.detail.as_ref().into(),
                })
            }
            _ => {
                let mut line = error_line(fault);
                line.manga_id = asked.map(|asked| asked.manga);
                line.device_seq = device_seq;
                ServerLine::Error(line)
            }
        };
        line.write(None, out);
    }
}

impl Wire for Lines {
    fn take(&self, link: &Link<Self>, bytes: &[u8], patient: bool) -> (usize, Next) {
        let mut used = 0;
        loop {
            if link.attachment.unanswered() >= self.window {
                return (used, Next::Wait);
            }
            if patient && link.attachment.is_pressed() {
                return (used, Next::Press);
            }
            match split_line(&bytes[used..], self.searched.get()) {
                Ok(Some((line, consumed))) => {
                    used += consumed;
                    self.searched.set(0);
                    let blank = line.iter().all(u8::is_ascii_whitespace);
                    if !blank && let Err(ending) = self.serve(link, line) {
                        return (used, Next::End(ending));
                    }
                }
                Ok(None) => {
                    self.searched.set(bytes.len() - used);
                    return (used, Next::Read);
                }
                Err(problem) => return (used, Next::End(Ending::Because(line_fault(&problem)))),
            }
        }
    }

    fn encode(&self, link: &Link<Self>, batch: &mut Vec<Outgoing>, out: &mut Vec<u8>) -> Option<Fault> {
        for outgoing in batch.drain(..) {
            match outgoing {
                Outgoing::Ack { seq, acked } => {
                    log_answered(&acked);
                    let device_seq = self.asked(seq).and_then(|asked| asked.device_seq);
                    let entry = entry(&acked.state);
                    let ack = Ack {
                        up_to_seq: seq,
                        manga: entry.manga,
                        key: entry.key,
                        page: entry.page,
                        status: entry.status,
                        already: acked.already,
                        cumulative: false,
                        ahead_of_catalogue: entry.ahead_of_catalogue,
                        offers_completed: acked.offer_completed,
                    };
                    ServerLine::ProgressAck(ProgressAck::of(&ack, device_seq)).write(None, out);
                }
                Outgoing::Reject { seq, fault } => {
                    link.refused(&fault);
                    self.reject(link, seq, &fault, out);
                }
                Outgoing::Announcement(bytes) => out.extend_from_slice(&bytes),
                // This wire has no message that asks for these.
                Outgoing::State { .. } | Outgoing::CatchUp { .. } => {}
                Outgoing::Close(fault) => return Some(*fault),
            }
        }
        None
    }

    fn farewell(&self, fault: Option<&Fault>, out: &mut Vec<u8>) {
        if let Some(fault) = fault {
            error(fault, out);
        }
    }

    fn rest(&self) {
        self.asked.borrow_mut().shrink_to_fit();
    }

    fn needs(&self, bytes: &[u8]) -> usize {
        // Room grows with the line, so that a short one never costs what a long one may.
        (bytes.len() * 2).clamp(1024, LINE_BYTES_MAX + 1024)
    }
}

/// The answer to a good auth line.
pub(crate) fn welcome(grant: &Grant, last_seq: Option<u64>, out: &mut Vec<u8>) {
    let success =
        AuthSuccess { session_id: grant.id, user_id: grant.user, username: grant.username.as_str().into(), last_seq };
    ServerLine::AuthSuccess(success).write(None, out);
}

/// The answer to a bad one.
pub(crate) fn auth_error(fault: &Fault, out: &mut Vec<u8>) {
    ServerLine::AuthError { error: fault.detail.as_ref().into() }.write(None, out);
}

/// An error on one line.
pub(crate) fn error(fault: &Fault, out: &mut Vec<u8>) {
    ServerLine::Error(error_line(fault)).write(None, out);
}

fn error_line(fault: &Fault) -> ErrorLine<'_> {
    ErrorLine {
        code: error_code(fault.code).into(),
        message: fault.detail.as_ref().into(),
        manga_id: None,
        device_seq: None,
        retry_after_ms: fault.wait_ms(),
    }
}

/// A line that cannot be used, as the engine would say it.
pub(crate) fn line_fault(problem: &LineError) -> Fault {
    match problem.field() {
        Some(field) => {
            let mut fault = Fault::field(field, problem.to_string());
            fault.detail = problem.to_string().into();
            fault
        }
        None => Fault::new(problem.code(), problem.to_string()),
    }
}

/// The encoder of announcements for this wire.
pub(crate) fn announcement(announcement: &Announcement) -> Bytes {
    let mut out = Vec::with_capacity(256);
    let broadcast = ProgressBroadcast::of(announcement.user, &entry(&announcement.state));
    ServerLine::ProgressBroadcast(broadcast).write(Some(announcement.state.updated_at_ms), &mut out);
    Bytes::from(out)
}
