//! The frame protocol from a client's side, without I/O: bytes that came go in, events come out; commands go in, bytes to send
//! come out. It counts the window, turns cumulative acks into one event per command, answers pings, and keeps the resume token
//! where the announcements that were taken out leave it. It never waits and never holds more than the window and one read.

use proto::MangaId;
use proto::frame::{
    Ack, Bye, Caps, CatchUp, CaughtUp, EncodeError, FrameError, Get, Hello, Kind, Notice, NoticeAck, PayloadError,
    Ping, Pong, Preamble, ProgressEntry, Receiver, Reject, ResumeToken, ServerFrame, SetProgress, State, WINDOW_MIN,
    Welcome, wants,
};

use crate::in_flight::InFlight;

/// What a server said. Text and lists borrow the receive buffer until the next call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event<'a> {
    /// Signed in.
    Welcome(Welcome<'a>),
    /// One command is stored, durably.
    Acked {
        /// The command, as `set_progress` numbered it.
        seq: u64,
        /// What the server said; about this very command when `ack.up_to_seq == seq`, else about a later one that includes it.
        ack: Ack,
    },
    /// A frame was refused and changed nothing; a command when `command` is set.
    Rejected {
        /// Whether it was an unanswered SetProgress.
        command: bool,
        /// Why, and what is stored.
        reject: Reject<'a>,
    },
    /// Another of the user's connections has read up to here.
    Progress {
        /// Where in the user's stream.
        position: u64,
        /// The new state.
        entry: ProgressEntry,
    },
    /// Part of an answer to Get or CatchUp.
    State {
        /// The request.
        seq: u64,
        /// The entries.
        state: State<'a>,
    },
    /// The end of an answer to CatchUp.
    CaughtUp {
        /// The request (Hello's 0 when `wants::CATCH_UP` was set).
        seq: u64,
        /// Where the client stands now.
        caught_up: CaughtUp,
    },
    /// Something happened to a series.
    Notice {
        /// Where in the stream of notices.
        position: u64,
        /// What.
        notice: Notice<'a>,
    },
    /// The answer to a ping.
    Pong(Pong),
    /// The server leaves; nothing more comes.
    Bye(Bye<'a>),
}

/// Why a connection is of no more use.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// The server's bytes are not frames, or out of step.
    #[error("the server's stream is broken: {0}")]
    Frame(#[from] FrameError),
    /// A frame of the server that this client cannot read.
    #[error("the server sent a frame that cannot be read: {0}")]
    Payload(#[from] PayloadError),
}

/// All commands that the window allows are unanswered: take events, then send on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{window} updates are unanswered, which is all that the server allows at a time")]
pub struct WindowFull {
    /// The window.
    pub window: u32,
}

/// Sent bytes are dropped from the buffer's front when they are this many.
const COMPACT_BYTES: usize = 64 * 1024;

/// One connection's state.
#[derive(Debug)]
pub struct Connection {
    receiver: Receiver,
    outgoing: Vec<u8>,
    sent: usize,
    next_seq: u64,
    window: u32,
    in_flight: InFlight,
    cumulative: Option<Ack>,
    resume: ResumeToken,
    catching_up: bool,
    ahead_position: u64,
    preamble_seen: bool,
    welcomed: bool,
}

impl Connection {
    /// Starts one: the preamble and Hello (seq 0) are the first bytes to send. Fails when the token is too long.
    pub fn open(hello: &Hello<'_>) -> Result<Self, EncodeError> {
        let mut outgoing = Vec::with_capacity(512);
        outgoing.extend_from_slice(&Preamble::CURRENT.to_bytes());
        hello.encode(0, &mut outgoing)?;
        Ok(Self {
            receiver: Receiver::new(Caps::default()),
            outgoing,
            sent: 0,
            next_seq: 1,
            window: WINDOW_MIN,
            in_flight: InFlight::default(),
            cumulative: None,
            resume: hello.resume,
            catching_up: hello.wants & wants::CATCH_UP != 0,
            ahead_position: 0,
            preamble_seen: false,
            welcomed: false,
        })
    }

    /// Appends a SetProgress and says under which seq it will be answered. Allocates nothing once the buffers have grown.
    pub fn set_progress(&mut self, command: &SetProgress) -> Result<u64, WindowFull> {
        if self.window_free() == 0 {
            return Err(WindowFull { window: self.window });
        }
        let seq = self.take_seq();
        command.encode(seq, &mut self.outgoing);
        self.in_flight.sent(seq);
        Ok(seq)
    }

    /// Asks for the progress of one series, or of all.
    pub fn get(&mut self, manga: Option<MangaId>) -> u64 {
        let seq = self.take_seq();
        Get { manga }.encode(seq, &mut self.outgoing);
        seq
    }

    /// Asks for what was missed since where this connection stands.
    pub fn catch_up(&mut self) -> u64 {
        self.catching_up = true;
        let seq = self.take_seq();
        CatchUp { since: self.resume }.encode(seq, &mut self.outgoing);
        seq
    }

    /// Tells that a notice was seen.
    pub fn notice_ack(&mut self, id: i64) -> u64 {
        let seq = self.take_seq();
        NoticeAck { id }.encode(seq, &mut self.outgoing);
        seq
    }

    /// Asks whether the server is there.
    pub fn ping(&mut self, nonce: u64) -> u64 {
        let seq = self.take_seq();
        Ping { nonce }.encode(seq, &mut self.outgoing);
        seq
    }

    /// Says that this side leaves; the last thing to send.
    pub fn bye(&mut self) {
        let seq = self.take_seq();
        Bye::ORDINARY.encode(seq, &mut self.outgoing);
    }

    /// How many commands may be sent now.
    pub fn window_free(&self) -> usize {
        (self.window as usize).saturating_sub(self.in_flight.len())
    }

    /// How many commands are unanswered.
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Whether Welcome has come.
    pub fn welcomed(&self) -> bool {
        self.welcomed
    }

    /// Where this client stands: what the next connection's Hello should carry to miss nothing.
    pub fn resume(&self) -> ResumeToken {
        self.resume
    }

    /// Bytes to send.
    pub fn outgoing(&self) -> &[u8] {
        &self.outgoing[self.sent..]
    }

    /// Says how many of them were sent.
    pub fn sent(&mut self, bytes: usize) {
        self.sent += bytes;
        // A socket that always leaves a rest must not make the buffer grow for ever.
        if self.sent >= self.outgoing.len() || self.sent >= COMPACT_BYTES {
            self.outgoing.drain(..self.sent.min(self.outgoing.len()));
            self.sent = 0;
        }
    }

    /// Room to read into, at least this much; `filled` tells how much came.
    pub fn room(&mut self, bytes_min: usize) -> &mut [u8] {
        self.receiver.room(bytes_min)
    }

    /// Says how many bytes were read into `room`.
    pub fn filled(&mut self, bytes: usize) {
        self.receiver.filled(bytes);
    }

    /// Takes in bytes that were read elsewhere.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.receiver.extend(bytes);
    }

    /// The next event, if there is one.
    pub fn next_event(&mut self) -> Result<Option<Event<'_>>, ConnectionError> {
        if let Some(ack) = self.cumulative {
            if let Some(seq) = self.in_flight.answer_oldest(ack.up_to_seq) {
                return Ok(Some(Event::Acked { seq, ack }));
            }
            self.cumulative = None;
        }
        if !self.preamble_seen {
            match self.receiver.preamble()? {
                Some(_) => self.preamble_seen = true,
                None => return Ok(None),
            }
        }
        self.next_frame()
    }

    fn next_frame(&mut self) -> Result<Option<Event<'_>>, ConnectionError> {
        let taken = loop {
            let Some(taken) = self.receiver.take()? else { return Ok(None) };
            match taken.header.known_kind() {
                Some(Kind::Ack) => {
                    let ack = Ack::decode(self.receiver.frame(taken).payload)?;
                    if let Some(seq) = self.acked(ack) {
                        return Ok(Some(Event::Acked { seq, ack }));
                    }
                }
                Some(Kind::Ping) => {
                    let ping = Ping::decode(self.receiver.frame(taken).payload)?;
                    Pong { nonce: ping.nonce, unix_ms: 0 }.encode(taken.header.seq, &mut self.outgoing);
                }
                None if taken.header.ignorable() => {}
                _ => break taken,
            }
        };
        let seq = taken.header.seq;
        Ok(Some(match self.receiver.frame(taken).from_server()? {
            ServerFrame::Progress(entry) => {
                advance(&mut self.resume, &mut self.ahead_position, self.catching_up, seq);
                Event::Progress { position: seq, entry }
            }
            ServerFrame::Reject(reject) => Event::Rejected { command: self.in_flight.answer(reject.seq), reject },
            ServerFrame::State(state) => Event::State { seq, state },
            ServerFrame::CaughtUp(caught_up) => {
                self.catching_up = false;
                self.resume = caught_up.resume.at(caught_up.resume.position().max(self.ahead_position));
                Event::CaughtUp { seq, caught_up }
            }
            ServerFrame::Welcome(welcome) => {
                self.welcomed = true;
                self.window = welcome.window;
                if !self.catching_up {
                    self.resume = welcome.resume;
                }
                Event::Welcome(welcome)
            }
            ServerFrame::Notice(notice) => Event::Notice { position: seq, notice },
            ServerFrame::Pong(pong) => Event::Pong(pong),
            ServerFrame::Bye(bye) => Event::Bye(bye),
            ServerFrame::Ack(_) | ServerFrame::Ping(_) | ServerFrame::Ignored => {
                unreachable!("taken care of before the frame was borrowed")
            }
        }))
    }

    /// The first command that an Ack answers; the others of a cumulative one follow with the next calls.
    fn acked(&mut self, ack: Ack) -> Option<u64> {
        if ack.cumulative {
            self.cumulative = Some(ack);
            return self.in_flight.answer_oldest(ack.up_to_seq);
        }
        self.in_flight.answer(ack.up_to_seq).then_some(ack.up_to_seq)
    }

    fn take_seq(&mut self) -> u64 {
        let seq = self.next_seq;
        self.next_seq += 1;
        seq
    }
}

/// Moves the token along with an announcement. While catching up it stays where the gap begins, so that a connection that is
/// cut in the middle asks for the gap again.
fn advance(resume: &mut ResumeToken, ahead_position: &mut u64, catching_up: bool, position: u64) {
    *ahead_position = position.max(*ahead_position);
    if !catching_up && position > resume.position() {
        *resume = resume.at(position);
    }
}
