//! Floods: connections that send as fast as their sockets take it, far above what a user may, and come back when they are
//! closed.

use std::io;
use std::time::Duration;

use client::shell::FrameClient;
use proto::MangaId;
use proto::frame::{Caps, CatchUp, Get, Ping, Receiver, ResumeToken, ServerFrame};
use serde::Serialize;
use tokio::net::TcpStream;

use super::trickle::{named, update};
use super::{Load, Stop, Tally, Target};
use crate::dial::dial;
use crate::reader;
use crate::tokens::Seeded;
use crate::workload::Random;

/// Bytes that are made at a time.
const CHUNK_BYTES: usize = 32 * 1024;
/// How long a flood waits for the server before it looks whether it should end.
const LOOK: Duration = Duration::from_millis(50);

/// What is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Updates, as many as the window lets, far beyond the user's rate.
    Updates,
    /// Updates without regard to the window.
    Overrun,
    /// Pings, which no window holds back.
    Pings,
    /// Questions for one series, as many as the window lets.
    Gets,
    /// Catch-ups, as many as the window lets.
    CatchUps,
    /// Bytes without sense after a good Hello.
    Garbage,
    /// JSON lines, far beyond their rate.
    Lines,
    /// HTTP requests, pipelined on one connection.
    Http,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 8] =
        [Kind::Updates, Kind::Overrun, Kind::Pings, Kind::Gets, Kind::CatchUps, Kind::Garbage, Kind::Lines, Kind::Http];
}

/// Starts so many floods, of users other than the ordinary one.
pub fn start(target: &Target, kind: Kind, floods: usize, first: usize, tally: &Tally) -> io::Result<Load> {
    let (target, tally) = (target.clone(), tally.clone());
    Load::start(move |stop| async move {
        let tasks: Vec<_> = (0..floods)
            .map(|at| {
                let user = target.other(first + at);
                let flood = Flood { target: target.clone(), kind, user, tally: tally.clone(), stop: stop.clone() };
                tokio::task::spawn_local(flood.run())
            })
            .collect();
        for task in tasks {
            let _ = task.await;
        }
    })
}

struct Flood {
    target: Target,
    kind: Kind,
    user: Seeded,
    tally: Tally,
    stop: Stop,
}

impl Flood {
    /// Connects again and again until it is told to end.
    async fn run(self) {
        while !self.stop.is_set() {
            self.tally.add("connections", 1);
            let lived = match self.kind {
                Kind::Lines => self.text(self.target.sync, &self.auth(), &self.line(), Answers::Lines).await,
                Kind::Http => self.text(self.target.http, "", &self.request(), Answers::Http).await,
                _ => self.frames().await,
            };
            if let Err(problem) = lived {
                self.tally.add(&format!("ended: {problem}"), 1);
                // Neither a server that refuses nor a machine without ports is to be hammered without a breath.
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    }

    async fn frames(&self) -> io::Result<()> {
        let hello = reader::hello(&self.user, None, 0);
        let greeted = FrameClient::<()>::over(dial(self.target.sync).await?, &hello).await;
        let (client, signed_in) = greeted.map_err(io::Error::other)?;
        let mut life = Life {
            kind: self.kind,
            series: self.target.series(),
            stream: client.into_parts().0,
            receiver: Receiver::new(Caps::default()),
            out: Vec::with_capacity(2 * CHUNK_BYTES),
            window: u64::from(signed_in.window),
            seq: 1,
            answered: 1,
            random: Random::new(self.user.user_id.as_bytes()[15].into()),
        };
        while !self.stop.is_set() && life.turn(&self.tally).await? {}
        Ok(())
    }

    /// Sends the same text over and over, and counts what comes back.
    async fn text(
        &self,
        server: std::net::SocketAddr,
        first: &str,
        again: &str,
        mut answers: Answers,
    ) -> io::Result<()> {
        let stream = dial(server).await?;
        let each = CHUNK_BYTES / again.len();
        let chunk = again.repeat(each);
        let mut out = first.as_bytes().to_vec();
        let mut space = vec![0; CHUNK_BYTES];
        while !self.stop.is_set() {
            if out.is_empty() {
                out.extend_from_slice(chunk.as_bytes());
                self.tally.add("sent", each as u64);
            }
            // A socket that takes all that it is given would keep the runtime from looking for what comes.
            tokio::task::yield_now().await;
            let _ = tokio::time::timeout(LOOK, async {
                tokio::select! {
                    ready = stream.readable() => ready,
                    ready = stream.writable() => ready,
                }
            })
            .await;
            if let Some(sent) = unless_blocked(stream.try_write(&out))? {
                out.drain(..sent);
            }
            match unless_blocked(stream.try_read(&mut space))? {
                Some(0) => {
                    self.tally.add("closed", 1);
                    return Ok(());
                }
                Some(bytes) => answers.count(&space[..bytes], &self.tally),
                None => {}
            }
        }
        Ok(())
    }

    fn auth(&self) -> String {
        format!("{{\"type\":\"auth\",\"data\":{{\"token\":\"{}\"}}}}\n", self.user.token)
    }

    fn line(&self) -> String {
        let series = self.target.series();
        format!("{{\"type\":\"progress_update\",\"data\":{{\"manga_id\":{series},\"chapter\":1}}}}\n")
    }

    fn request(&self) -> String {
        let (host, token) = (self.target.http, &self.user.token);
        format!("GET /api/library HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\n\r\n")
    }
}

/// How answers in text are told apart.
#[derive(Clone, Copy)]
enum Answers {
    Lines,
    Http,
}

impl Answers {
    fn count(&mut self, bytes: &[u8], tally: &Tally) {
        match self {
            Self::Lines => tally.add("lines", bytes.iter().filter(|byte| **byte == b'\n').count() as u64),
            // One that lies across two reads is not counted.
            Self::Http => {
                for status in ["200", "429", "503"] {
                    let head = format!("HTTP/1.1 {status}");
                    let found = bytes.windows(head.len()).filter(|window| *window == head.as_bytes()).count();
                    tally.add(&format!("status {status}"), found as u64);
                }
            }
        }
    }
}

/// A connection of frames.
struct Life {
    kind: Kind,
    series: MangaId,
    stream: TcpStream,
    receiver: Receiver,
    out: Vec<u8>,
    window: u64,
    seq: u64,
    answered: u64,
    random: Random,
}

impl Life {
    /// Sends and reads once; false when the server has closed.
    async fn turn(&mut self, tally: &Tally) -> io::Result<bool> {
        if self.out.is_empty() {
            let before = self.seq;
            self.fill();
            tally.add("sent", self.seq - before);
        }
        let writes = !self.out.is_empty();
        // As above: or what the server says would not be heard before all is sent.
        tokio::task::yield_now().await;
        let _ = tokio::time::timeout(LOOK, async {
            tokio::select! {
                ready = self.stream.readable() => ready,
                ready = self.stream.writable(), if writes => ready,
            }
        })
        .await;
        if writes && let Some(sent) = unless_blocked(self.stream.try_write(&self.out))? {
            self.out.drain(..sent);
        }
        match unless_blocked(self.stream.try_read(self.receiver.room(CHUNK_BYTES)))? {
            Some(0) => {
                tally.add("closed", 1);
                Ok(false)
            }
            Some(bytes) => {
                self.receiver.filled(bytes);
                self.read(tally)
            }
            None => Ok(true),
        }
    }

    fn fill(&mut self) {
        let minds_window = matches!(self.kind, Kind::Updates | Kind::Gets | Kind::CatchUps);
        while self.out.len() < CHUNK_BYTES && (!minds_window || self.seq - self.answered < self.window) {
            self.seq += 1;
            let (seq, out) = (self.seq, &mut self.out);
            match self.kind {
                Kind::Updates | Kind::Overrun | Kind::Lines | Kind::Http => {
                    update(self.series, seq as u32).encode(seq, out);
                }
                Kind::Pings => Ping { nonce: seq }.encode(seq, out),
                Kind::Gets => Get { manga: Some(self.series) }.encode(seq, out),
                Kind::CatchUps => CatchUp { since: ResumeToken::NONE }.encode(seq, out),
                Kind::Garbage => out.extend_from_slice(&self.random.next_u64().to_le_bytes()),
            }
        }
    }

    fn read(&mut self, tally: &Tally) -> io::Result<bool> {
        let (mut acked, mut other) = (0, 0);
        while let Some(frame) = self.receiver.next_frame().map_err(io::Error::other)? {
            let seq = frame.header.seq;
            match frame.from_server().map_err(io::Error::other)? {
                ServerFrame::Ack(ack) => {
                    acked += ack.up_to_seq.saturating_sub(self.answered);
                    self.answered = self.answered.max(ack.up_to_seq);
                }
                ServerFrame::Reject(reject) => {
                    self.answered = self.answered.max(reject.seq);
                    tally.add(&named(reject.code()), 1);
                }
                ServerFrame::State(_) | ServerFrame::CaughtUp(_) => {
                    self.answered = self.answered.max(seq);
                    other += 1;
                }
                ServerFrame::Bye(bye) => {
                    tally.add(&format!("bye_{}", named(bye.code())), 1);
                    return Ok(false);
                }
                _ => other += 1,
            }
        }
        tally.add("acked", acked);
        tally.add("answered", other);
        Ok(true)
    }
}

fn unless_blocked(done: io::Result<usize>) -> io::Result<Option<usize>> {
    match done {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}
