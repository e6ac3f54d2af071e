//! The binary wire: frames decoded in place and submitted one by one, answers of a batch encoded into one buffer, runs of
//! plain acks merged into one cumulative ack. A frame that cannot be used is refused in order with the answers; a header
//! that cannot be used ends the connection, because the stream is out of step.

use std::cell::Cell;
use std::collections::VecDeque;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use engine::{Acked, Announcement, Ask, CatchUp, Extra, Fault, Grant, Outgoing, ProgressView, SetProgress};
use proto::Code;
use proto::frame::{
    self, Ack, Bye, Caps, CaughtUp, ClientFrame, HEADER_BYTES, Header, KindCap, List, Pong, Preamble, ProgressEntry,
    RawFrame, Reject, ResumeToken, State, bytes_needed, split_frame, wants,
};

use super::link::{Ending, Link, Next, Wire};
use super::log_answered;

/// One connection's side of the wire.
pub(crate) struct Frames {
    caps: Caps,
    wants: u32,
    /// Where the client stands: what Bye tells it.
    resume: Cell<ResumeToken>,
    /// Sequences of `Get` of everything, whose answer comes as a catch-up; the engine lets few of those wait.
    /// Boxed, because few ask for that: 8 bytes in every connection instead of 32.
    #[allow(clippy::box_collection)]
    get_all: Cell<Option<Box<VecDeque<u64>>>>,
}

impl Frames {
    pub(crate) fn new(caps: Caps, wants: u32, resume: ResumeToken) -> Self {
        Self { caps, wants, resume: Cell::new(resume), get_all: Cell::default() }
    }

    fn serve(&self, link: &Link<Self>, frame: &RawFrame<'_>) -> Result<(), Ending> {
        let seq = frame.header.seq;
        let done = match frame.from_client() {
            Ok(ClientFrame::SetProgress(update)) => link.attachment.submit(seq, command(&update)),
            Ok(ClientFrame::Get(get)) => match get.manga {
                Some(manga) => link.attachment.request(seq, Ask::Get(manga)),
                None => self.get_all(link, seq),
            },
            Ok(ClientFrame::CatchUp(ask)) => {
                let since = Some(ask.since).filter(|since| !since.is_none());
                link.attachment.request(seq, Ask::CatchUp(since))
            }
            Ok(ClientFrame::Ping(ping)) => {
                let pong = Pong { nonce: ping.nonce, unix_ms: unix_ms() };
                let room = link.say(|out| pong.encode(seq, out));
                if room {
                    Ok(())
                } else {
                    Err(Fault::new(Code::SlowConsumer, "the answers to pings are not being read"))
                }
            }
            Ok(ClientFrame::Pong(_) | ClientFrame::Ignored) => Ok(()),
            Ok(ClientFrame::Bye(_)) => return Err(Ending::Done),
            Ok(ClientFrame::Hello(_)) => self.refuse(link, seq, Code::InvalidInput, "Hello comes once, at the start"),
            Ok(ClientFrame::NoticeAck(_)) => {
                self.refuse(link, seq, Code::NotImplemented, "notices are not available in this version")
            }
            Err(problem) => link.attachment.refuse(seq, Fault::new(problem.code(), problem.to_string())),
        };
        done.map_err(Ending::Because)
    }

    fn refuse(&self, link: &Link<Self>, seq: u64, code: Code, detail: &'static str) -> Result<(), Fault> {
        link.attachment.refuse(seq, Fault::new(code, detail))
    }

    fn get_all(&self, link: &Link<Self>, seq: u64) -> Result<(), Fault> {
        let mut asked = self.get_all.take().unwrap_or_default();
        asked.push_back(seq);
        self.get_all.set(Some(asked));
        link.attachment.request(seq, Ask::CatchUp(None))
    }

    /// Whether this is the next of the `Get`s of everything; then it is answered.
    fn end_get_all(&self, seq: u64) -> bool {
        let Some(mut asked) = self.get_all.take() else { return false };
        let is_next = asked.pop_front_if(|first| *first == seq).is_some();
        self.get_all.set(Some(asked).filter(|asked| !asked.is_empty()));
        is_next
    }

    fn states(&self, seq: u64, catch_up: &CatchUp, out: &mut Vec<u8>) {
        let get_all = self.end_get_all(seq);
        // An answer to Get shows what there is; what was deleted is told only to those who catch up.
        let shown = catch_up.states.iter().filter(|state| !(get_all && state.deleted));
        let entries: Vec<ProgressEntry> = shown.map(entry).collect();
        let mut rest = &entries[..];
        while !rest.is_empty() || get_all {
            let (head, tail) = rest.split_at(rest.len().min(frame::STATE_ENTRIES_MAX));
            let last = get_all && tail.is_empty();
            State { entries: List::Plain(head), last, snapshot: catch_up.snapshot }.encode(seq, out);
            rest = tail;
            if last {
                return;
            }
        }
        let entries = u32::try_from(entries.len()).unwrap_or(u32::MAX);
        CaughtUp { resume: catch_up.resume, entries, snapshot: catch_up.snapshot }.encode(seq, out);
        self.resume.set(catch_up.resume);
    }

    fn announce(&self, bytes: &[u8], out: &mut Vec<u8>) {
        if self.wants & wants::PROGRESS == 0 {
            return;
        }
        if let Some(head) = bytes.first_chunk::<HEADER_BYTES>() {
            self.resume.set(self.resume.get().at(Header::from_bytes(head).seq));
        }
        out.extend_from_slice(bytes);
    }
}

impl Wire for Frames {
    fn take(&self, link: &Link<Self>, bytes: &[u8], patient: bool) -> (usize, Next) {
        let mut used = 0;
        // Also because an empty buffer lies nowhere in particular, so not at a multiple of 16 either.
        while used < bytes.len() {
            if patient && link.attachment.is_pressed() {
                return (used, Next::Press);
            }
            match split_frame(&bytes[used..], &self.caps) {
                Ok(Some(frame)) => {
                    used += frame.consumed();
                    if let Err(ending) = self.serve(link, &frame) {
                        return (used, Next::End(ending));
                    }
                }
                Ok(None) => return (used, Next::Read),
                Err(problem) => {
                    let fault = Fault::new(problem.code(), problem.to_string());
                    return (used, Next::End(Ending::Because(fault)));
                }
            }
        }
        (used, Next::Read)
    }

    fn encode(&self, link: &Link<Self>, batch: &mut Vec<Outgoing>, out: &mut Vec<u8>) -> Option<Fault> {
        let mut run = Run::default();
        for outgoing in batch.drain(..) {
            match outgoing {
                Outgoing::Ack { seq, acked } => {
                    log_answered(&acked);
                    run.add(seq, &acked, out);
                }
                Outgoing::Announcement(bytes) => self.announce(&bytes, out),
                Outgoing::Reject { seq, fault } => {
                    run.flush(out);
                    self.end_get_all(seq);
                    link.refused(&fault);
                    reject(seq, &fault, out);
                }
                Outgoing::State { seq, state, .. } => {
                    run.flush(out);
                    let state = state.as_ref().map(entry);
                    State::of(state.as_slice()).encode(seq, out);
                }
                Outgoing::CatchUp { seq, catch_up } => {
                    run.flush(out);
                    self.states(seq, &catch_up, out);
                }
                Outgoing::Close(fault) => {
                    run.flush(out);
                    return Some(*fault);
                }
            }
        }
        run.flush(out);
        None
    }

    fn farewell(&self, fault: Option<&Fault>, out: &mut Vec<u8>) {
        let bye = match fault {
            None => Bye::ORDINARY,
            Some(fault) => Bye { retry_after_ms: wait_ms(fault), ..Bye::because(fault.code, &fault.detail) },
        };
        Bye { resume: self.resume.get(), ..bye }.encode(0, out);
    }

    fn rest(&self) {}

    fn needs(&self, bytes: &[u8]) -> usize {
        bytes_needed(bytes, &self.caps).unwrap_or(HEADER_BYTES)
    }
}

/// Plain acks that one cumulative ack can stand for. It never passes a Reject: those flush it first.
#[derive(Default)]
struct Run {
    last: Option<Ack>,
    count: u32,
}

impl Run {
    fn add(&mut self, seq: u64, acked: &Acked, out: &mut Vec<u8>) {
        let ack = Ack {
            up_to_seq: seq,
            manga: acked.state.manga,
            key: acked.state.key,
            page: acked.state.page,
            status: acked.state.status,
            already: acked.already,
            cumulative: false,
            ahead_of_catalogue: acked.state.ahead_of_catalogue,
            offers_completed: acked.offer_completed,
        };
        // What has something to say beside "stored" is said on its own.
        if ack.already || ack.ahead_of_catalogue || ack.offers_completed {
            self.flush(out);
            return ack.encode(out);
        }
        self.last = Some(ack);
        self.count += 1;
    }

    fn flush(&mut self, out: &mut Vec<u8>) {
        if let Some(mut ack) = self.last.take() {
            ack.cumulative = self.count > 1;
            ack.encode(out);
        }
        self.count = 0;
    }
}

/// What opens the server's half of the stream, whatever comes after.
pub(crate) fn preamble(out: &mut Vec<u8>) {
    out.extend_from_slice(&Preamble::CURRENT.to_bytes());
}

/// The answer to a good Hello.
pub(crate) fn welcome(grant: &Grant, engine: &engine::Welcome, idle_ms: u64, caps: &Caps, seq: u64, out: &mut Vec<u8>) {
    let kinds = KindCap::all(caps);
    let welcome = frame::Welcome {
        session: grant.id,
        user: grant.user,
        username: &grant.username,
        window: engine.window,
        idle_timeout_ms: u32::try_from(idle_ms).unwrap_or(u32::MAX),
        last_seq: engine.last_seq.0,
        server_name: "mangahub",
        server_version: env!("CARGO_PKG_VERSION"),
        caps: List::Plain(&kinds),
        resume: engine.resume,
    };
    welcome.encode(seq, out).expect("a Welcome holds a name of at most 50 characters and fits its cap");
}

/// A refusal before there is a connection to speak of.
pub(crate) fn turn_away(fault: &Fault, out: &mut Vec<u8>) {
    preamble(out);
    Bye { retry_after_ms: wait_ms(fault), ..Bye::because(fault.code, &fault.detail) }.encode(0, out);
}

/// The encoder of announcements for this wire.
pub(crate) fn announcement(announcement: &Announcement) -> Bytes {
    let mut out = Vec::with_capacity(HEADER_BYTES + frame::ENTRY_BYTES);
    entry(&announcement.state).encode(announcement.resume.position(), &mut out);
    Bytes::from(out)
}

/// What the engine knows, as the wires carry it.
pub(crate) fn entry(state: &ProgressView) -> ProgressEntry {
    ProgressEntry {
        manga: state.manga,
        key: state.key,
        page: state.page,
        status: state.status,
        device: state.device,
        deleted: state.deleted,
        ahead_of_catalogue: state.ahead_of_catalogue,
    }
}

/// The wire's command, as the engine takes it; the device is the attachment's.
pub(crate) fn command(update: &frame::SetProgress) -> SetProgress {
    SetProgress {
        manga: update.manga,
        chapter: update.chapter,
        page: update.page,
        status: update.status,
        device: None,
        device_seq: update.device_seq,
        force: update.force,
        conflict_token: update.conflict_token,
        ack_database: update.ack_database,
    }
}

fn reject(seq: u64, fault: &Fault, out: &mut Vec<u8>) {
    let (stored, conflict_token) = match &fault.extra {
        Extra::Conflict(state) => (Some(entry(&state.stored)), state.token),
        Extra::State(state) => (Some(entry(state)), None),
        _ => (None, None),
    };
    let retry_after_ms = wait_ms(fault);
    Reject { retry_after_ms, stored, conflict_token, ..Reject::because(seq, fault.code, &fault.detail) }.encode(out);
}

fn wait_ms(fault: &Fault) -> u32 {
    u32::try_from(fault.wait_ms().unwrap_or(0)).unwrap_or(u32::MAX)
}

pub(crate) fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}
