//! One device's connection under load: fills its window or its queue, sends everything in one write, and turns answers into
//! latencies, ledger entries and errors by kind. Nothing is allocated per update once it runs.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

use client::frames::{self, Event};
use client::shell::{Error, FrameClient};
use proto::frame::{SetProgress, wants};
use proto::{Chapter, Code, DeviceId, DeviceSeq, MangaId, MergeKey, UserId};
use tokio::net::TcpStream;
use tokio::sync::Notify;

use crate::deliveries::Audience;
use crate::dial::dial;
use crate::drive::{Mode, Request, Shared, next_chapter};
use crate::ledger::{Entry, Source};
use crate::person;
use crate::reader;
use crate::tokens::Seeded;
use crate::workload::Random;

/// Bytes asked of the socket at a time.
const READ_BYTES: usize = 4 * 1024;

/// What comes back with an update's answer.
#[derive(Clone, Copy, Debug)]
pub struct Pending {
    due_us: u64,
    series: u32,
    chapter: Chapter,
    device_seq: DeviceSeq,
}

/// Updates that are due on one connection (open loop).
#[derive(Debug, Default)]
pub struct Queue {
    due_us: RefCell<VecDeque<u64>>,
    kick: Notify,
    leaving: Cell<bool>,
}

impl Queue {
    /// Asks the connection to give its place to somebody else, once everything it sent is answered.
    pub fn leave(&self) {
        self.leaving.set(true);
        self.kick.notify_one();
    }

    /// Adds updates that were due at this moment.
    pub fn push(&self, due_us: u64, updates: usize) {
        self.due_us.borrow_mut().extend(std::iter::repeat_n(due_us, updates));
        self.kick.notify_one();
    }
}

/// One connection.
pub struct Connection {
    shared: Rc<Shared>,
    stream: TcpStream,
    protocol: frames::Connection<Pending>,
    user: UserId,
    device: DeviceId,
    device_seq: u64,
    /// The series this device writes, with the chapter it last set.
    series: Vec<(MangaId, Chapter)>,
    random: Random,
    queue: Rc<Queue>,
    answered: Vec<Pending>,
    /// Questions without an answer: their sequences, and when they were due.
    asked: VecDeque<(u64, u64)>,
    /// Updates of an earlier connection that were never answered: sent again first, unchanged.
    resend: VecDeque<Pending>,
    window_max: usize,
    /// Which of the tokens' users it is.
    place: usize,
    /// Its user's devices, and which of them it is, when their deliveries are followed.
    audience: Option<(Rc<Audience>, usize)>,
}

impl Connection {
    /// Says which of the tokens' users it is, for those who take turns.
    pub fn at_place(self, place: usize) -> Self {
        Self { place, ..self }
    }

    /// Follows what it hears of as device number `device` of its user.
    pub fn in_audience(self, audience: Option<&Rc<Audience>>, device: usize) -> Self {
        let audience = audience.map(|audience| (Rc::clone(audience), device));
        if let Some((audience, device)) = &audience {
            audience.writes(*device, &self.series);
        }
        Self { audience, ..self }
    }

    /// Connects device number `index` of a user and learns where the user stands.
    pub async fn open(
        server: SocketAddr,
        seeded: &Seeded,
        series: &[MangaId],
        index: usize,
        device: [u8; 16],
        shared: &Rc<Shared>,
    ) -> Result<Self, Error> {
        let seed = device[..8].try_into().expect("eight of sixteen bytes");
        let device = DeviceId::from_bytes(device);
        let hello = reader::hello(seeded, Some(device), wants::PROGRESS);
        let (mut client, signed_in) = FrameClient::over(dial(server).await?, &hello).await?;
        let states = reader::states_on(&mut client).await?;
        let writers = shared.plan.writers;
        let own = series.iter().take(shared.plan.series).skip(index).step_by(writers.max(1));
        let own = own.filter(|_| index < writers);
        let chapter = |manga: &MangaId| states.get(manga).map_or(Chapter::ZERO, |entry| entry.key.chapter);
        let series = own.map(|manga| (*manga, chapter(manga))).collect();
        let (stream, protocol) = client.into_parts();
        Ok(Self {
            shared: Rc::clone(shared),
            stream,
            protocol,
            user: seeded.user_id,
            device,
            device_seq: signed_in.last_seq,
            series,
            random: Random::new(u64::from_le_bytes(seed)),
            queue: Rc::default(),
            answered: Vec::new(),
            asked: VecDeque::new(),
            resend: VecDeque::new(),
            window_max: usize::MAX,
            place: 0,
            audience: None,
        })
    }

    /// Whether it sends updates.
    pub fn writes(&self) -> bool {
        !self.series.is_empty()
    }

    /// Its queue, for the open loop.
    pub fn queue(&self) -> Rc<Queue> {
        Rc::clone(&self.queue)
    }

    /// Which of the user's devices it is.
    pub fn device(&self) -> (UserId, DeviceId) {
        (self.user, self.device)
    }

    /// Sends these first, with the device sequences they had.
    pub fn resend(&mut self, updates: Vec<Pending>) {
        self.resend = updates.into();
    }

    /// Sends one update at a time, whatever window the plan has.
    pub fn one_at_a_time(&mut self) {
        self.window_max = 1;
    }

    /// What was sent and never answered.
    pub fn unanswered(&self) -> Vec<Pending> {
        self.protocol.unanswered().copied().chain(self.resend.iter().copied()).collect()
    }

    /// Runs until its socket ends or its task is aborted; counts why.
    pub async fn run(mut self) -> (Self, Error) {
        let lost = loop {
            match self.turn().await {
                Ok(()) => {}
                Err(lost) => break lost,
            }
            if self.queue.leaving.get() && self.in_flight() == 0 {
                match self.make_room().await {
                    Ok(next) => self = next,
                    Err(lost) => break lost,
                }
            }
        };
        self.shared.answered(self.in_flight() as u64);
        self.shared.count_error(match &lost {
            Error::Closed { code, .. } => code.map_or("closed", Code::as_str),
            Error::Io(_) | Error::Cut => "connection_lost",
            Error::Protocol(_) | Error::Line(_) | Error::Refused { .. } => "protocol",
        });
        (self, lost)
    }

    /// Closes, and comes back as the user who has waited longest. What is queued for this place stays.
    async fn make_room(&self) -> Result<Self, Error> {
        self.queue.leaving.set(false);
        let shared = &self.shared;
        let Some(crowd) = shared.crowd.get() else { return Err(Error::Cut) };
        let place = crowd.change(self.place);
        let seeded = &crowd.tokens.users[place];
        let device = *person::device(seeded, 0).as_bytes();
        let next = Self::open(crowd.server, seeded, &crowd.tokens.series, 0, device, shared).await?;
        shared.changes.set(shared.changes.get() + 1);
        Ok(Self { queue: Rc::clone(&self.queue), place, ..next })
    }

    async fn turn(&mut self) -> Result<(), Error> {
        self.fill();
        self.send()?;
        let queue = Rc::clone(&self.queue);
        let waits_for_room = !self.protocol.pending_out().is_empty();
        tokio::select! {
            ready = self.stream.readable() => ready?,
            ready = self.stream.writable(), if waits_for_room => ready?,
            () = queue.kick.notified() => {}
        }
        self.receive()?;
        self.handle()
    }

    fn fill(&mut self) {
        while self.protocol.credit() > 0
            && let Some(pending) = self.resend.pop_front()
        {
            self.push(pending);
        }
        if !self.writes() || !self.shared.sending.get() {
            return;
        }
        match self.shared.plan.mode {
            Mode::Closed { window } => {
                let now = self.shared.now_us();
                let window = window.min(self.window_max);
                let more = window.saturating_sub(self.in_flight()).min(self.protocol.credit());
                (0..more).for_each(|_| self.request(now));
            }
            Mode::Open { .. } | Mode::Shared { .. } => {
                let queue = Rc::clone(&self.queue);
                let mut due = queue.due_us.borrow_mut();
                while self.protocol.credit() > 0
                    && let Some(moment) = due.pop_front()
                {
                    self.request(moment);
                }
            }
        }
    }

    /// Sent and not answered.
    fn in_flight(&self) -> usize {
        self.protocol.unanswered().len() + self.asked.len()
    }

    fn request(&mut self, due_us: u64) {
        match self.shared.plan.request {
            Request::Update => self.update(due_us),
            Request::State => {
                let series = self.shared.series.pick(&mut self.random).min(self.series.len() - 1);
                let seq = self.protocol.get(Some(self.series[series].0));
                self.asked.push_back((seq, due_us));
                self.shared.in_flight.set(self.shared.in_flight.get() + 1);
            }
        }
    }

    fn update(&mut self, due_us: u64) {
        let series = self.shared.series.pick(&mut self.random).min(self.series.len() - 1);
        let Some(chapter) = next_chapter(self.series[series].1) else {
            self.shared.count_error("series_ended");
            return;
        };
        self.series[series].1 = chapter;
        self.device_seq += 1;
        self.push(Pending { due_us, series: series as u32, chapter, device_seq: DeviceSeq(self.device_seq) });
    }

    fn push(&mut self, pending: Pending) {
        self.device_seq = self.device_seq.max(pending.device_seq.0);
        let series = &mut self.series[pending.series as usize];
        series.1 = series.1.max(pending.chapter);
        if let Some((audience, _)) = &self.audience {
            audience.sent(series.0, pending.chapter, pending.due_us);
        }
        let update =
            SetProgress { device_seq: Some(pending.device_seq), ..SetProgress::new(series.0, pending.chapter) };
        match self.protocol.set_progress(&update, pending) {
            Ok(_) => self.shared.in_flight.set(self.shared.in_flight.get() + 1),
            Err(_) => self.shared.count_error("window_full"),
        }
    }

    fn send(&mut self) -> Result<(), Error> {
        while !self.protocol.pending_out().is_empty() {
            match self.stream.try_write(self.protocol.pending_out()) {
                Ok(bytes) => self.protocol.sent(bytes),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// One read: the next turn sends what its answers make room for.
    fn receive(&mut self) -> Result<(), Error> {
        let room = self.protocol.room(READ_BYTES);
        match self.stream.try_read(room) {
            Ok(0) => Err(Error::Cut),
            Ok(bytes) => {
                self.protocol.received(bytes);
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn handle(&mut self) -> Result<(), Error> {
        let now = self.shared.now_us();
        let measuring = self.shared.measuring.get();
        while let Some(event) = self.protocol.poll(&mut self.answered)? {
            let count = self.answered.len() as u64;
            self.shared.answered(count);
            match event {
                Event::Ack(ack) => {
                    if measuring {
                        self.shared.acknowledged.set(self.shared.acknowledged.get() + count);
                        let mut latency = self.shared.latency.borrow_mut();
                        self.answered
                            .iter()
                            .for_each(|pending| latency.saturating_record(now.saturating_sub(pending.due_us)));
                    }
                    let shown = ack.key;
                    for (at, pending) in self.answered.iter().enumerate() {
                        let last = at + 1 == self.answered.len();
                        let key =
                            if last { shown } else { MergeKey { chapter: pending.chapter, ..MergeKey::default() } };
                        let manga = self.series[pending.series as usize].0;
                        if let Some((audience, _)) = &self.audience {
                            audience.acknowledged(manga, pending.chapter, now);
                        }
                        self.shared.remember(&Entry { user: self.user, manga, key, source: Source::Acknowledged });
                    }
                }
                Event::Reject(reject) => self.shared.count_error(reject.code().map_or("reject", Code::as_str)),
                Event::Progress { entry, .. } => {
                    if measuring {
                        self.shared.announced.set(self.shared.announced.get() + 1);
                    }
                    let (manga, key) = (entry.manga, entry.key);
                    if let Some((audience, device)) = &self.audience
                        && let Some(delivery) = audience.heard(*device, manga, key.chapter, now)
                        && measuring
                    {
                        self.shared.delivered(delivery);
                    }
                    self.shared.remember(&Entry { user: self.user, manga, key, source: Source::Announced });
                }
                Event::State { seq, state } if state.last => {
                    if let Some((_, due_us)) = self.asked.pop_front_if(|(asked, _)| *asked == seq) {
                        self.shared.answered(1);
                        if measuring {
                            self.shared.acknowledged.set(self.shared.acknowledged.get() + 1);
                            self.shared.latency.borrow_mut().saturating_record(now.saturating_sub(due_us));
                        }
                    }
                }
                Event::Bye(bye) => return Err(bye.into()),
                _ => {}
            }
        }
        Ok(())
    }
}
