//! The ordinary client: one connection, a few updates per second by a schedule (open loop), and for each the time from the moment
//! it was due to its durable acknowledgement. Two plain threads, because a runtime's timers are a millisecond coarse.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use proto::frame::{Caps, Receiver, ServerFrame, SetProgress};
use proto::{Chapter, Code, MangaId};

use super::{Counts, histogram};
use crate::reader;
use crate::tokens::Seeded;

/// How long an answer may take before the client gives up.
const PATIENCE: Duration = Duration::from_secs(30);

/// An ordinary client.
#[derive(Clone, Debug)]
pub struct Trickle {
    /// The sync door.
    pub server: SocketAddr,
    /// Who it is.
    pub user: Seeded,
    /// What it reads.
    pub series: MangaId,
    /// Updates per second.
    pub rate: f64,
}

/// How it fared.
#[derive(Clone, Debug)]
pub struct Acks {
    /// From due to acknowledged, in microseconds.
    pub latency: Histogram<u64>,
    /// What was not acknowledged, by reason.
    pub refused: Counts,
}

impl Trickle {
    /// Runs for a time. Blocks.
    pub fn measure(&self, time: Duration) -> io::Result<Acks> {
        let (mut stream, mut receiver) = self.greet()?;
        let mut reading = stream.try_clone()?;
        let due: Mutex<VecDeque<(u64, Instant)>> = Mutex::default();
        let ended = std::thread::scope(|scope| {
            let reader = scope.spawn(|| read(&mut reading, &mut receiver, &due));
            let sent = self.send(&mut stream, time, &due);
            let settled = Instant::now() + PATIENCE;
            while !lock(&due).is_empty() && !reader.is_finished() && Instant::now() < settled {
                std::thread::sleep(Duration::from_millis(1));
            }
            let _ = stream.shutdown(Shutdown::Both);
            let read = reader.join().map_err(|_| io::Error::other("the reader panicked"))?;
            sent.and(Ok(read))
        });
        let mut acks = ended?;
        let missing = lock(&due).len() as u64;
        if missing > 0 {
            acks.refused.insert("unanswered".to_owned(), missing);
        }
        Ok(acks)
    }

    fn greet(&self) -> io::Result<(TcpStream, Receiver)> {
        let mut stream = TcpStream::connect_timeout(&self.server, PATIENCE)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let hello = reader::hello(&self.user, None, 0);
        let greeting = client::frames::Connection::<()>::open(&hello).map_err(io::Error::other)?;
        stream.write_all(greeting.pending_out())?;
        let mut receiver = Receiver::new(Caps::default());
        let mut greeted = false;
        loop {
            greeted = greeted || receiver.preamble().map_err(io::Error::other)?.is_some();
            if greeted && let Some(frame) = receiver.next_frame().map_err(io::Error::other)? {
                return match frame.from_server().map_err(io::Error::other)? {
                    ServerFrame::Welcome(_) => Ok((stream, receiver)),
                    other => Err(io::Error::other(format!("the ordinary client was not let in: {other:?}"))),
                };
            }
            let bytes = stream.read(receiver.room(4_096))?;
            if bytes == 0 {
                return Err(io::Error::other("the ordinary client was cut off"));
            }
            receiver.filled(bytes);
        }
    }

    fn send(&self, stream: &mut TcpStream, time: Duration, due: &Mutex<VecDeque<(u64, Instant)>>) -> io::Result<()> {
        let began = Instant::now();
        let mut out = Vec::with_capacity(256);
        for number in 0_u32.. {
            let moment = began + Duration::from_secs_f64(f64::from(number) / self.rate);
            if moment >= began + time {
                return Ok(());
            }
            std::thread::sleep(moment.saturating_duration_since(Instant::now()));
            let seq = u64::from(number) + 2;
            lock(due).push_back((seq, moment));
            out.clear();
            update(self.series, number).encode(seq, &mut out);
            stream.write_all(&out)?;
        }
        Ok(())
    }
}

/// An update that always changes something, if the one before it had another number.
pub(super) fn update(manga: MangaId, number: u32) -> SetProgress {
    SetProgress {
        manga,
        device_seq: None,
        chapter: Chapter::from_hundredths(1 + number % 10_000).unwrap_or(Chapter::ZERO),
        page: None,
        status: None,
        force: true,
        ack_database: false,
        conflict_token: None,
    }
}

/// Reads answers until the socket ends; what has been read by then counts.
fn read(stream: &mut TcpStream, receiver: &mut Receiver, due: &Mutex<VecDeque<(u64, Instant)>>) -> Acks {
    let mut acks = Acks { latency: histogram(), refused: Counts::new() };
    loop {
        while let Ok(Some(frame)) = receiver.next_frame() {
            let now = Instant::now();
            match frame.from_server() {
                Ok(ServerFrame::Ack(ack)) => {
                    while let Some((_, moment)) = lock(due).pop_front_if(|(seq, _)| *seq <= ack.up_to_seq) {
                        acks.latency.saturating_record(now.saturating_duration_since(moment).as_micros() as u64);
                    }
                }
                Ok(ServerFrame::Reject(reject)) => {
                    lock(due).retain(|(seq, _)| *seq != reject.seq);
                    *acks.refused.entry(named(reject.code())).or_default() += 1;
                }
                Ok(ServerFrame::Bye(bye)) => {
                    *acks.refused.entry(format!("bye_{}", named(bye.code()))).or_default() += 1
                }
                _ => {}
            }
        }
        match stream.read(receiver.room(4_096)) {
            Ok(bytes) if bytes > 0 => receiver.filled(bytes),
            _ => return acks,
        }
    }
}

/// A code's name.
pub(super) fn named(code: Option<Code>) -> String {
    code.map_or("unknown", Code::as_str).to_owned()
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // A panicked thread is reported by its join.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
