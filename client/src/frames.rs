//! Binary frames, sans-I/O: what the server sends goes into [`Connection::room`] and comes out as events, what the client wants
//! to send gathers in [`Connection::pending_out`]. It counts the frames, keeps to the server's window, and turns cumulative acks
//! back into one answer per update.

use std::collections::VecDeque;

use proto::MangaId;
use proto::frame::{
    self, Ack, Bye, Caps, CatchUp, CaughtUp, FrameError, Get, Hello, Notice, NoticeAck, PayloadError, Ping, Pong,
    Preamble, ProgressEntry, Receiver, Reject, ResumeToken, ServerFrame, SetProgress, State, Welcome, wants,
};

/// The connection is of no further use.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server's bytes are out of step with the protocol.
    #[error("the server's stream cannot be followed: {0}")]
    Stream(#[from] FrameError),
    /// One of the server's frames cannot be read; the protocol gives a client no way to refuse it.
    #[error("the server sent a frame that cannot be read: {0}")]
    Payload(#[from] PayloadError),
    /// The server answered an update that was not waiting for an answer.
    #[error("the server answered update {seq}, which was not waiting for an answer")]
    Unasked {
        /// The answered sequence.
        seq: u64,
    },
    /// Hello or its token does not fit a frame.
    #[error(transparent)]
    Encode(#[from] frame::EncodeError),
}

/// The window is full: read answers first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{unanswered} updates are unanswered, which is the server's window")]
pub struct WindowFull {
    /// Updates that have no answer yet.
    pub unanswered: usize,
}

/// Something the server said.
#[derive(Debug)]
pub enum Event<'a> {
    /// The session is open.
    Welcome(Welcome<'a>),
    /// Updates are stored; `answered` of [`Connection::poll`] holds the tag of each, in the order they were sent.
    Ack(Ack),
    /// An update (its tag is in `answered`) or another frame was refused; nothing was changed by it, but for `not_in_database`.
    Reject(Reject<'a>),
    /// Another of the user's connections moved on, at this position of the user's stream.
    Progress {
        /// For [`ResumeToken::at`].
        position: u64,
        /// The new state.
        entry: ProgressEntry,
    },
    /// An answer to `get` or `catch_up`, with the sequence it answers.
    State {
        /// The sequence of the request.
        seq: u64,
        /// The entries.
        state: State<'a>,
    },
    /// The end of the answer to `catch_up`.
    CaughtUp {
        /// The sequence of the request.
        seq: u64,
        /// Where this client stands now.
        caught_up: CaughtUp,
    },
    /// Something happened to a series.
    Notice {
        /// For [`ResumeToken::at`].
        position: u64,
        /// What.
        notice: Notice<'a>,
    },
    /// The answer to `ping`.
    Pong(Pong),
    /// The server closes the connection.
    Bye(Bye<'a>),
    /// Nothing for the caller: a Ping, whose answer is queued, or a kind that may be ignored.
    Handled,
}

/// One connection. `T` is what the caller wants back with each update's answer.
#[derive(Debug)]
pub struct Connection<T> {
    receiver: Receiver,
    greeted: bool,
    out: Vec<u8>,
    last_seq: u64,
    window: usize,
    unanswered: VecDeque<(u64, T)>,
    /// Gets and CatchUps without their last answer: they count against the window too.
    asked: Vec<u64>,
    resume: ResumeToken,
    /// Between asking what was missed and hearing that this was all.
    catching_up: bool,
    /// The last announcement that came meanwhile.
    announced: u64,
}

impl<T> Connection<T> {
    /// Opens a connection: preamble and Hello are ready to be sent.
    pub fn open(hello: &Hello<'_>) -> Result<Self, Error> {
        let mut out = Preamble::CURRENT.to_bytes().to_vec();
        hello.encode(1, &mut out)?;
        Ok(Self {
            receiver: Receiver::new(Caps::default()),
            greeted: false,
            out,
            last_seq: 1,
            window: 0,
            unanswered: VecDeque::new(),
            asked: if hello.wants & wants::CATCH_UP != 0 { vec![1] } else { Vec::new() },
            resume: hello.resume,
            catching_up: hello.wants & wants::CATCH_UP != 0,
            announced: 0,
        })
    }

    /// Bytes that wait to be sent.
    pub fn pending_out(&self) -> &[u8] {
        &self.out
    }

    /// Forgets the first `bytes` of [`Self::pending_out`]: they were sent.
    pub fn sent(&mut self, bytes: usize) {
        self.out.drain(..bytes);
    }

    /// Where to read the server's bytes into; at least `bytes_min` long. Say with [`Self::received`] how many came.
    pub fn room(&mut self, bytes_min: usize) -> &mut [u8] {
        self.receiver.room(bytes_min)
    }

    /// Says how many bytes were read into [`Self::room`].
    ///
    /// # Panics
    /// When that is more than there was room for.
    pub fn received(&mut self, bytes: usize) {
        self.receiver.filled(bytes);
    }

    /// How many updates may be sent now: what the window leaves beside unanswered updates and questions. 0 before Welcome.
    pub fn credit(&self) -> usize {
        self.window.saturating_sub(self.unanswered.len() + self.asked.len())
    }

    /// Updates without an answer, oldest first: what to send again on another connection, with the same device sequences.
    pub fn unanswered(&self) -> impl ExactSizeIterator<Item = &T> {
        self.unanswered.iter().map(|(_, tag)| tag)
    }

    /// Where this client stands in the user's stream: give it to the next Hello. It moves with every event that was taken out.
    pub fn resume(&self) -> ResumeToken {
        self.resume
    }

    /// Queues an update; `tag` comes back with its answer.
    pub fn set_progress(&mut self, update: &SetProgress, tag: T) -> Result<u64, WindowFull> {
        if self.credit() == 0 {
            return Err(WindowFull { unanswered: self.unanswered.len() });
        }
        let seq = self.next_seq();
        update.encode(seq, &mut self.out);
        self.unanswered.push_back((seq, tag));
        Ok(seq)
    }

    /// Asks for the state of one series, or of all.
    pub fn get(&mut self, manga: Option<MangaId>) -> u64 {
        let seq = self.ask();
        Get { manga }.encode(seq, &mut self.out);
        seq
    }

    /// Asks for what was missed since a token, or for everything.
    pub fn catch_up(&mut self, since: ResumeToken) -> u64 {
        self.catching_up = true;
        self.resume = since;
        let seq = self.ask();
        CatchUp { since }.encode(seq, &mut self.out);
        seq
    }

    /// Marks a notice as seen.
    pub fn notice_ack(&mut self, ack: &NoticeAck) -> u64 {
        let seq = self.next_seq();
        ack.encode(seq, &mut self.out);
        seq
    }

    /// Asks whether the server is there.
    pub fn ping(&mut self, nonce: u64) -> u64 {
        let seq = self.next_seq();
        Ping { nonce }.encode(seq, &mut self.out);
        seq
    }

    /// Says goodbye; close the socket once it is sent.
    pub fn bye(&mut self) {
        let seq = self.next_seq();
        Bye::ORDINARY.encode(seq, &mut self.out);
    }

    /// Whether [`Self::poll`] would give an event now.
    pub fn has_event(&mut self) -> Result<bool, Error> {
        if !self.greeted {
            self.greeted = self.receiver.preamble()?.is_some();
        }
        if !self.greeted {
            return Ok(false);
        }
        Ok(frame::split_frame(self.receiver.pending(), &Caps::default())?.is_some())
    }

    /// The next event, if a whole frame is there. `answered` is cleared first; then it holds the tags of the updates that this
    /// event answers. The server's Pings are answered here.
    pub fn poll(&mut self, answered: &mut Vec<T>) -> Result<Option<Event<'_>>, Error> {
        answered.clear();
        if !self.greeted {
            self.greeted = self.receiver.preamble()?.is_some();
        }
        if !self.greeted {
            return Ok(None);
        }
        let (out, last_seq) = (&mut self.out, &mut self.last_seq);
        let Some(raw) = self.receiver.next_frame()? else { return Ok(None) };
        let seq = raw.header.seq;
        Ok(Some(match raw.from_server()? {
            ServerFrame::Ack(ack) => {
                answer(&mut self.unanswered, &ack, answered)?;
                Event::Ack(ack)
            }
            ServerFrame::Progress(entry) => {
                self.announced = self.announced.max(seq);
                // A connection that is cut while it catches up must ask for the gap again.
                if !self.catching_up {
                    self.resume = self.resume.at(self.announced);
                }
                Event::Progress { position: seq, entry }
            }
            ServerFrame::Notice(notice) => Event::Notice { position: seq, notice },
            ServerFrame::Reject(reject) => {
                if let Ok(at) = self.unanswered.binary_search_by_key(&reject.seq, |(seq, _)| *seq) {
                    answered.extend(self.unanswered.remove(at).map(|(_, tag)| tag));
                }
                self.asked.retain(|asked| *asked != reject.seq);
                Event::Reject(reject)
            }
            ServerFrame::Welcome(welcome) => {
                self.window = welcome.window as usize;
                if !self.catching_up {
                    self.resume = welcome.resume;
                }
                Event::Welcome(welcome)
            }
            ServerFrame::State(state) => {
                if state.last {
                    self.asked.retain(|asked| *asked != seq);
                }
                Event::State { seq, state }
            }
            ServerFrame::CaughtUp(caught_up) => {
                self.catching_up = false;
                self.asked.retain(|asked| *asked != seq);
                self.resume = caught_up.resume.at(caught_up.resume.position().max(self.announced));
                Event::CaughtUp { seq, caught_up }
            }
            ServerFrame::Pong(pong) => Event::Pong(pong),
            ServerFrame::Bye(bye) => Event::Bye(bye),
            ServerFrame::Ping(ping) => {
                *last_seq += 1;
                Pong { nonce: ping.nonce, unix_ms: 0 }.encode(*last_seq, out);
                Event::Handled
            }
            ServerFrame::Ignored => Event::Handled,
        }))
    }

    fn ask(&mut self) -> u64 {
        let seq = self.next_seq();
        self.asked.push(seq);
        seq
    }

    fn next_seq(&mut self) -> u64 {
        self.last_seq += 1;
        self.last_seq
    }
}

fn answer<T>(unanswered: &mut VecDeque<(u64, T)>, ack: &Ack, answered: &mut Vec<T>) -> Result<(), Error> {
    let at = unanswered.binary_search_by_key(&ack.up_to_seq, |(seq, _)| *seq);
    let at = at.map_err(|_| Error::Unasked { seq: ack.up_to_seq })?;
    if ack.cumulative {
        answered.extend(unanswered.drain(..=at).map(|(_, tag)| tag));
    } else {
        answered.extend(unanswered.remove(at).map(|(_, tag)| tag));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::frame::List;
    use proto::{Chapter, Code, DeviceSeq, MergeKey, NodeId, SessionId, UserId, Version};

    fn hello() -> Hello<'static> {
        Hello {
            token: "token",
            device: None,
            resume: ResumeToken::NONE,
            client_name: "test",
            client_version: "1",
            wants: wants::PROGRESS,
        }
    }

    fn open(window: u32) -> Connection<u64> {
        let mut connection = Connection::open(&hello()).unwrap();
        let mut bytes = Preamble::CURRENT.to_bytes().to_vec();
        let welcome = Welcome {
            session: SessionId::from_bytes([1; 16]),
            user: UserId::from_bytes([2; 16]),
            username: "reader",
            window,
            idle_timeout_ms: 1_000,
            last_seq: 0,
            server_name: "mangahub",
            server_version: "1",
            caps: List::Plain(&[]),
            resume: ResumeToken::new(1, 2, 3),
        };
        welcome.encode(1, &mut bytes).unwrap();
        feed(&mut connection, &bytes);
        assert!(matches!(connection.poll(&mut Vec::new()).unwrap(), Some(Event::Welcome(_))));
        connection
    }

    fn feed(connection: &mut Connection<u64>, bytes: &[u8]) {
        connection.room(bytes.len())[..bytes.len()].copy_from_slice(bytes);
        connection.received(bytes.len());
    }

    fn update(chapter: u32) -> SetProgress {
        let device_seq = Some(DeviceSeq(u64::from(chapter)));
        SetProgress { device_seq, ..SetProgress::new(MangaId(7), Chapter::whole(chapter)) }
    }

    fn ack(up_to_seq: u64, cumulative: bool) -> Vec<u8> {
        let key = MergeKey { generation: Version(1), chapter: Chapter::whole(1), version: Version(2), node: NodeId(3) };
        let mut bytes = Vec::new();
        let ack = Ack {
            up_to_seq,
            manga: MangaId(7),
            key,
            page: None,
            status: None,
            already: false,
            cumulative,
            ahead_of_catalogue: false,
            offers_completed: false,
        };
        ack.encode(&mut bytes);
        bytes
    }

    #[test]
    fn a_cumulative_ack_answers_every_update_below_it_but_the_refused() {
        let mut connection = open(8);
        let seqs: Vec<u64> = (1..=5).map(|at| connection.set_progress(&update(at), u64::from(at)).unwrap()).collect();
        let mut answered = Vec::new();
        let mut reject = Vec::new();
        Reject::because(seqs[1], Code::Conflict, "behind").encode(&mut reject);
        feed(&mut connection, &reject);
        assert!(matches!(connection.poll(&mut answered).unwrap(), Some(Event::Reject(_))));
        assert_eq!(answered, [2]);
        feed(&mut connection, &ack(seqs[3], true));
        assert!(matches!(connection.poll(&mut answered).unwrap(), Some(Event::Ack(_))));
        assert_eq!(answered, [1, 3, 4]);
        assert_eq!(connection.unanswered().collect::<Vec<_>>(), [&5]);
        assert!(connection.poll(&mut answered).unwrap().is_none());
    }

    #[test]
    fn the_window_is_kept_and_an_unasked_answer_is_an_error() {
        let mut connection = open(2);
        connection.set_progress(&update(1), 1).unwrap();
        connection.set_progress(&update(2), 2).unwrap();
        assert_eq!(connection.set_progress(&update(3), 3), Err(WindowFull { unanswered: 2 }));
        feed(&mut connection, &ack(99, false));
        assert!(matches!(connection.poll(&mut Vec::new()), Err(Error::Unasked { seq: 99 })));
    }

    #[test]
    fn events_come_out_whatever_the_pieces_the_bytes_come_in() {
        let mut connection = open(8);
        let seq = connection.set_progress(&update(1), 1).unwrap();
        let mut answered = Vec::new();
        let bytes = ack(seq, false);
        for (at, byte) in bytes.iter().enumerate() {
            feed(&mut connection, &[*byte]);
            let event = connection.poll(&mut answered).unwrap();
            assert_eq!(event.is_some(), at + 1 == bytes.len());
        }
        assert_eq!(answered, [1]);
    }

    #[test]
    fn a_connection_that_is_cut_while_it_catches_up_asks_for_the_gap_again() {
        let mut connection = open(8);
        let (mut bytes, mut answered) = (Vec::new(), Vec::new());
        let entry = ProgressEntry {
            manga: MangaId(7),
            key: MergeKey::default(),
            page: None,
            status: None,
            device: None,
            deleted: false,
            ahead_of_catalogue: false,
        };
        entry.encode(5, &mut bytes);
        feed(&mut connection, &bytes);
        connection.poll(&mut answered).unwrap();
        assert_eq!(connection.resume(), ResumeToken::new(1, 2, 5));

        let asked = connection.catch_up(ResumeToken::new(1, 2, 4));
        bytes.clear();
        entry.encode(9, &mut bytes);
        feed(&mut connection, &bytes);
        connection.poll(&mut answered).unwrap();
        assert_eq!(connection.resume(), ResumeToken::new(1, 2, 4), "the gap is not told yet");

        bytes.clear();
        CaughtUp { resume: ResumeToken::new(1, 2, 8), entries: 0, snapshot: false }.encode(asked, &mut bytes);
        feed(&mut connection, &bytes);
        connection.poll(&mut answered).unwrap();
        assert_eq!(connection.resume(), ResumeToken::new(1, 2, 9), "announced while catching up");
    }

    #[test]
    fn the_servers_ping_is_answered_without_the_caller() {
        let mut connection = open(8);
        let sent = connection.pending_out().len();
        connection.sent(sent);
        let mut bytes = Vec::new();
        Ping { nonce: 42 }.encode(3, &mut bytes);
        feed(&mut connection, &bytes);
        assert!(matches!(connection.poll(&mut Vec::new()).unwrap(), Some(Event::Handled)));
        assert_eq!(connection.pending_out()[16..24], 42_u64.to_le_bytes());
    }
}
