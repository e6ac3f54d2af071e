//! More than the server can do: first what it sustains (every user keeps updates in flight), then many times that rate from the
//! same users, open loop, for a long time. What is offered beyond a connection's window is not sent, as the protocol asks, and
//! counts as held back. Memory must stay flat, whatever is refused must be refused at once, and nobody may be served much less
//! than the others.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use client::frames::{self, Event};
use client::shell::FrameClient;
use hdrhistogram::Histogram;
use proto::{Code, MangaId};
use serde::Serialize;
use tokio::net::TcpStream;

use super::trickle::{named, update};
use super::{Counts, Target, histogram};
use crate::dial::dial;
use crate::reader;
use crate::report::Latency;
use crate::timeline::{Moment, Recorder};

/// How often a connection looks what is due: many updates go out in one write, as overload does.
const TICK: Duration = Duration::from_millis(20);
/// How long the overload lasts before it counts.
const WARM_UP: Duration = Duration::from_secs(2);
/// How often memory is read.
const READ_EVERY: Duration = Duration::from_millis(500);
const READ_BYTES: usize = 16 * 1024;

/// What is done.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Plan {
    /// Users, each with one connection.
    pub users: usize,
    /// Updates in flight per user while the sustained rate is looked for.
    pub window: usize,
    /// How long the users keep so much in flight before the rate counts, until every buffer behind the server is as full as it
    /// will be.
    #[serde(skip)]
    pub fill: Duration,
    /// For how long it counts then.
    #[serde(skip)]
    pub find: Duration,
    /// The sustained rate, where it is known already.
    pub sustained: Option<f64>,
    /// How many times that is offered.
    pub times: f64,
    /// For how long.
    #[serde(skip)]
    pub time: Duration,
}

/// What came of it.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// The plan.
    pub plan: Plan,
    /// Updates per second that the server sustained before.
    pub sustained_per_s: f64,
    /// Updates per second that were due under overload.
    pub offered_per_s: f64,
    /// Of them sent; the others were held back by the window.
    pub sent_per_s: f64,
    /// Durable updates per second under overload.
    pub goodput_per_s: f64,
    /// Of the sustained rate.
    pub goodput_share: f64,
    /// Updates of the user who was served least, and of the median user.
    pub served: [u64; 2],
    /// The one over the other.
    pub least_to_median: f64,
    /// From sending to acknowledgement.
    pub acks: Option<Latency>,
    /// From sending to refusal.
    pub refusals: Option<Latency>,
    /// Refusals and failures by kind.
    pub refused: Counts,
    /// Resident memory after a fifth of the time, at most after that, and at the end.
    pub rss_bytes: [u64; 3],
    /// What the server said of itself.
    pub timeline: Vec<Moment>,
}

/// What all connections count together.
struct Shared {
    counting: Cell<bool>,
    sending: Cell<bool>,
    /// Updates due per second on each connection; none: as many as the window lets.
    rate_each: Cell<Option<f64>>,
    window: usize,
    due: Cell<u64>,
    sent: Cell<u64>,
    served: RefCell<Vec<u64>>,
    acks: RefCell<Histogram<u64>>,
    refusals: RefCell<Histogram<u64>>,
    refused: RefCell<Counts>,
}

impl Shared {
    fn refuse(&self, what: &str) {
        *self.refused.borrow_mut().entry(what.to_owned()).or_default() += 1;
    }

    fn served_in_all(&self) -> u64 {
        self.served.borrow().iter().sum()
    }

    /// From here on everything counts from nothing.
    fn begin(&self) {
        self.served.borrow_mut().fill(0);
        self.refused.borrow_mut().clear();
        self.acks.borrow_mut().reset();
        self.refusals.borrow_mut().reset();
        self.due.set(0);
        self.sent.set(0);
        self.counting.set(true);
    }
}

/// Runs it all. Must be called inside a `LocalSet`.
pub async fn run(target: &Target, plan: Plan) -> io::Result<Outcome> {
    let shared = Rc::new(Shared {
        counting: Cell::new(false),
        sending: Cell::new(true),
        rate_each: Cell::new(None),
        window: plan.window,
        due: Cell::new(0),
        sent: Cell::new(0),
        served: RefCell::new(vec![0; plan.users]),
        acks: RefCell::new(histogram()),
        refusals: RefCell::new(histogram()),
        refused: RefCell::default(),
    });
    let mut tasks = Vec::with_capacity(plan.users);
    for at in 0..plan.users {
        let writer = Writer::open(target, at, &shared).await?;
        tasks.push(tokio::task::spawn_local(writer.run()));
    }
    let sustained_per_s = match plan.sustained {
        Some(rate) => rate,
        None => {
            tokio::time::sleep(plan.fill).await;
            shared.begin();
            let began = Instant::now();
            tokio::time::sleep(plan.find).await;
            shared.served_in_all() as f64 / began.elapsed().as_secs_f64()
        }
    };
    let offered = sustained_per_s * plan.times;
    shared.rate_each.set(Some(offered / plan.users as f64));
    tokio::time::sleep(WARM_UP).await;
    shared.begin();
    let began = Instant::now();
    let recorder = Recorder::start(target.metrics, target.pid, READ_EVERY)?;
    tokio::time::sleep(plan.time).await;
    shared.counting.set(false);
    let seconds = began.elapsed().as_secs_f64();
    shared.sending.set(false);
    let timeline = recorder.finish();
    tasks.iter().for_each(tokio::task::JoinHandle::abort);
    Ok(outcome(plan, &shared, sustained_per_s, seconds, timeline))
}

fn outcome(plan: Plan, shared: &Shared, sustained_per_s: f64, seconds: f64, timeline: Vec<Moment>) -> Outcome {
    let mut served = shared.served.borrow().clone();
    served.sort_unstable();
    let (least, median) = (served.first().copied().unwrap_or(0), served.get(served.len() / 2).copied().unwrap_or(0));
    let goodput_per_s = shared.served_in_all() as f64 / seconds;
    let mut late = timeline.iter().skip(timeline.len() / 5).map(|moment| moment.rss_bytes);
    let rss_bytes = [late.clone().next(), late.clone().max(), late.next_back()].map(|bytes| bytes.unwrap_or(0));
    Outcome {
        plan,
        sustained_per_s,
        offered_per_s: shared.due.get() as f64 / seconds,
        sent_per_s: shared.sent.get() as f64 / seconds,
        goodput_per_s,
        goodput_share: goodput_per_s / sustained_per_s,
        served: [least, median],
        least_to_median: least as f64 / median.max(1) as f64,
        acks: Latency::of(&shared.acks.borrow()).ok(),
        refusals: Latency::of(&shared.refusals.borrow()).ok(),
        refused: shared.refused.borrow().clone(),
        rss_bytes,
        timeline,
    }
}

/// One user's connection. What comes back with an answer is when the update was sent.
struct Writer {
    at: usize,
    shared: Rc<Shared>,
    stream: TcpStream,
    protocol: frames::Connection<Instant>,
    series: Vec<MangaId>,
    number: u32,
    /// When updates were last looked for, and the part of one that was left over.
    looked: Instant,
    owed: f64,
    answered: Vec<Instant>,
}

impl Writer {
    async fn open(target: &Target, at: usize, shared: &Rc<Shared>) -> io::Result<Self> {
        let user = &target.tokens.users[at];
        let hello = reader::hello(user, None, 0);
        let greeted = FrameClient::over(dial(target.sync).await?, &hello).await;
        let (stream, protocol) = greeted.map_err(io::Error::other)?.0.into_parts();
        Ok(Self {
            at,
            shared: Rc::clone(shared),
            stream,
            protocol,
            series: target.tokens.series.clone(),
            number: 0,
            looked: Instant::now(),
            owed: 0.0,
            answered: Vec::new(),
        })
    }

    async fn run(mut self) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            if self.shared.sending.get() {
                self.fill();
            }
            let waits = !self.protocol.pending_out().is_empty();
            let woken = tokio::select! {
                ready = self.stream.readable() => ready,
                ready = self.stream.writable(), if waits => ready,
                _ = tick.tick() => Ok(()),
            };
            if let Err(problem) = woken.and_then(|()| self.exchange()) {
                return self.shared.refuse(&format!("ended: {problem}"));
            }
        }
    }

    fn fill(&mut self) {
        let room = self.protocol.credit();
        let wanted = match self.shared.rate_each.get() {
            None => self.shared.window.saturating_sub(self.protocol.unanswered().len()),
            Some(rate) => {
                let now = Instant::now();
                self.owed += rate * now.duration_since(self.looked).as_secs_f64();
                self.looked = now;
                let whole = self.owed as usize;
                self.owed -= whole as f64;
                whole
            }
        };
        let sent = wanted.min(room);
        let now = Instant::now();
        for _ in 0..sent {
            self.number += 1;
            let series = self.series[self.number as usize % self.series.len()];
            // Room was asked for above. Each series gets another chapter whenever its turn comes.
            let _ = self.protocol.set_progress(&update(series, self.number), now);
        }
        if self.shared.counting.get() {
            self.shared.due.set(self.shared.due.get() + wanted as u64);
            self.shared.sent.set(self.shared.sent.get() + sent as u64);
        }
    }

    fn exchange(&mut self) -> io::Result<()> {
        while !self.protocol.pending_out().is_empty() {
            match self.stream.try_write(self.protocol.pending_out()) {
                Ok(bytes) => self.protocol.sent(bytes),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        match self.stream.try_read(self.protocol.room(READ_BYTES)) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(bytes) => self.protocol.received(bytes),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        }
        let (now, counting) = (Instant::now(), self.shared.counting.get());
        let since = |sent: &Instant| now.saturating_duration_since(*sent).as_micros() as u64;
        while let Some(event) = self.protocol.poll(&mut self.answered).map_err(io::Error::other)? {
            match event {
                Event::Ack(_) if counting => {
                    self.shared.served.borrow_mut()[self.at] += self.answered.len() as u64;
                    let mut acks = self.shared.acks.borrow_mut();
                    self.answered.iter().for_each(|sent| acks.saturating_record(since(sent)));
                }
                Event::Reject(reject) if counting => {
                    self.shared.refuse(reject.code().map_or("unknown", Code::as_str));
                    let mut refusals = self.shared.refusals.borrow_mut();
                    self.answered.iter().for_each(|sent| refusals.saturating_record(since(sent)));
                }
                Event::Bye(bye) => return Err(io::Error::other(named(bye.code()))),
                _ => {}
            }
        }
        Ok(())
    }
}
