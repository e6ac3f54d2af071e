//! One live sync connection, whatever its wire and transport: a reader task that submits what arrives, and a writer that
//! sends what the engine has made durable, everything of a batch in one write. What arrives is read to the end of the
//! stream, so nothing unread can turn our last words into a reset; it is only not listened to any more. A quiet connection
//! has no reader: it left its side with the writer, which waits for both, and most connections are quiet most of the time.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use engine::{Attachment, Fault, Outgoing};
use futures_util::FutureExt;
use futures_util::future::Fuse;
use proto::Code;
use proto::frame::ALIGNMENT_BYTES;
use runtime::buffer::AlignedBuf;
use runtime::local::Nudge;

use super::transport::{Input, Output, Transport};
use crate::admission::{Door, Pass, Refusal, count_refusal};
use crate::shard::{LINGER_MS, Shard, Watched, spawn_connection};

/// A read's buffer while little comes.
const READ_BYTES_SMALL: usize = 4 * 1024;
/// A read's buffer while much comes: a whole read of this size is one turn's fair share.
const READ_BYTES_LARGE: usize = 64 * 1024;
/// Small reads in a row after which the large buffer is given back.
const SMALL_READS: u32 = 16;
/// Silence after which a connection no longer keeps a read buffer.
const QUIET_MS: u64 = 500;
/// Answers of the door's own (pongs) that may wait behind a slow writer.
const ASIDE_BYTES_MAX: usize = 64 * 1024;
/// How long answers may take once the client has said that it is done.
const FINISH_MS: u64 = 30_000;
/// What an update beyond its rate costs whoever sent it: so long nothing more is read from the connection. Refusing takes less
/// than a microsecond, so a flood would otherwise be worth a core; at this price it is worth a twentieth.
const REFUSAL_US: u32 = 50;
/// How often and how many times a connection that is not read, because much is on its way to the disk, looks whether it may be.
/// After that its updates are refused: it is not the ordinary coming and going of a loaded disk any more.
const ROOM_LOOK_EVERY: Duration = Duration::from_millis(5);
const ROOM_LOOKS: u32 = 20;
/// The longest that a connection is not read for refusals.
const PAUSE_US_MAX: u32 = 100_000;
/// Shorter pauses, those of an honest burst, are let off: a timer is not finer.
const PAUSE_US_MIN: u32 = 1_000;
/// A write buffer that a burst made larger than this is given back.
const WRITE_BYTES_KEPT: usize = 256 * 1024;

/// What the wires have in common.
pub(crate) trait Wire: 'static {
    /// Submits every complete message of `bytes`; says how many bytes that were and how to go on. A `patient` one stops where the
    /// journal has to catch up.
    fn take(&self, link: &Link<Self>, bytes: &[u8], patient: bool) -> (usize, Next)
    where
        Self: Sized;

    /// Appends a batch in this wire's form; returns the reason when the engine wants the connection closed.
    fn encode(&self, link: &Link<Self>, batch: &mut Vec<Outgoing>, out: &mut Vec<u8>) -> Option<Fault>
    where
        Self: Sized;

    /// Appends the last words; without a fault the client itself wanted to go.
    fn farewell(&self, fault: Option<&Fault>, out: &mut Vec<u8>);

    /// Gives back what a quiet connection does not need.
    fn rest(&self);

    /// How many bytes the message at the start of `bytes` may take in all, so that its rest has room.
    fn needs(&self, bytes: &[u8]) -> usize;
}

/// How a reader goes on.
pub(crate) enum Next {
    /// Read more.
    Read,
    /// Too much is unanswered: wait for answers first.
    Wait,
    /// Too much is on its way to the disk: wait until it is there.
    Press,
    /// The connection ends.
    End(Ending),
}

/// Why a connection ends.
#[derive(Clone)]
pub(crate) enum Ending {
    /// The client is done: what is unanswered is answered first.
    Done,
    /// We end it and say why, after what is unanswered was answered.
    Because(Fault),
    /// The socket is broken; there is nobody to talk to.
    Gone,
}

/// One live connection.
pub(crate) struct Link<W> {
    pub(crate) shard: Rc<Shard>,
    pub(crate) attachment: Attachment,
    pub(crate) wire: W,
    watch: Watched,
    _pass: Pass,
    aside: Cell<Vec<u8>>,
    /// Boxed, because nearly all have none.
    ending: RefCell<Option<Box<Ending>>>,
    /// When the last reader read the last time.
    heard_ms: Cell<u64>,
    /// How long the reader has yet to wait for what was beyond the rate.
    pause_us: Cell<u32>,
    answered: Nudge,
    /// The stream has been read to its end.
    read_out: Cell<bool>,
}

impl<W: Wire> Link<W> {
    pub(crate) fn new(shard: Rc<Shard>, attachment: Attachment, wire: W, watch: Watched, pass: Pass) -> Rc<Self> {
        let (aside, ending, heard_ms, pause_us) = (Cell::default(), RefCell::default(), Cell::new(0), Cell::new(0));
        let (answered, read_out) = (Nudge::new(), Cell::new(false));
        let _pass = pass;
        Rc::new(Self { shard, attachment, wire, watch, _pass, aside, ending, heard_ms, pause_us, answered, read_out })
    }

    /// Sends something of the door's own, out of turn. False when the client has not read earlier ones.
    #[must_use]
    pub(crate) fn say(&self, write: impl FnOnce(&mut Vec<u8>)) -> bool {
        let mut aside = self.aside.take();
        let has_room = aside.len() <= ASIDE_BYTES_MAX;
        if has_room {
            write(&mut aside);
            self.watch.nudge.raise();
        }
        self.aside.set(aside);
        has_room
    }

    /// Notes a refusal on its way to the client.
    pub(crate) fn refused(&self, fault: &Fault) {
        if fault.code == Code::RateLimited {
            self.pause_us.set((self.pause_us.get() + REFUSAL_US).min(PAUSE_US_MAX));
        }
    }

    /// Waits as long as the refusals since the last time have earned.
    async fn pause(&self) {
        let pause_us = self.pause_us.get();
        if pause_us >= PAUSE_US_MIN {
            self.pause_us.set(0);
            runtime::time::sleep(Duration::from_micros(pause_us.into())).await;
        }
    }

    /// The first reason counts.
    fn end(&self, ending: Ending) {
        let gone = matches!(ending, Ending::Gone);
        let mut current = self.ending.borrow_mut();
        if current.is_none() || gone {
            *current = Some(Box::new(ending));
        }
        self.watch.expect(&self.shard, FINISH_MS, Refusal::Idle);
        self.watch.nudge.raise();
    }

    /// What comes now is not answered any more, and its sender will try again elsewhere.
    fn is_deaf(&self) -> bool {
        self.is_ending() || self.shard.is_draining()
    }

    fn is_ending(&self) -> bool {
        self.ending.borrow().is_some()
    }

    /// Serves in tasks of its own until the end. `first` is what was read behind the greeting, `opening` what is sent first.
    pub(crate) fn start<T: Transport>(self: Rc<Self>, transport: T, first: AlignedBuf, opening: Vec<u8>) {
        let (input, output) = transport.halves();
        self.watch.expect(&self.shard, self.idle_ms(), Refusal::Idle);
        let left = if first.is_empty() { Rc::new(Cell::new(Some(input))) } else { self.read_on(input, first) };
        spawn_connection(Door::TcpSync, self.speak(output, opening, Some(left)));
    }

    /// Starts a reader, which leaves its side where this says when nothing comes any more.
    fn read_on<I: Input>(self: &Rc<Self>, input: I, first: AlignedBuf) -> Left<I> {
        let left = Left::default();
        let (link, ended, leave) = (Rc::clone(self), Rc::clone(self), Rc::clone(&left));
        let reading = AssertUnwindSafe(async move { link.listen(input, first).await }).catch_unwind();
        drop(runtime::spawn(reading.map(move |read| match read {
            Ok(Some(input)) => {
                leave.set(Some(input));
                ended.watch.nudge.raise();
            }
            Ok(None) => ended.reading_ended(),
            Err(_) => {
                count_refusal(Door::TcpSync, Refusal::Panic);
                tracing::error!("a sync connection's reader panicked; the connection is closed");
                ended.end(Ending::Because(Fault::new(Code::Internal, "something went wrong on our side")));
                ended.reading_ended();
            }
        })));
        left
    }

    fn reading_ended(&self) {
        self.read_out.set(true);
        self.watch.nudge.raise();
    }

    fn idle_ms(&self) -> u64 {
        self.shard.plan.config.limits.sync_idle_timeout_ms
    }

    /// Submits what arrives until the end of the stream, or gives its side back when nothing has come for a while.
    async fn listen<I: Input>(&self, mut input: I, mut buffer: AlignedBuf) -> Option<I> {
        let mut pace = Pace::new(self.heard_ms.get());
        loop {
            if !self.is_deaf() {
                match self.submit(&mut buffer).await {
                    Next::End(ending) => self.end(ending),
                    Next::Read | Next::Wait | Next::Press => {}
                }
            }
            if self.is_deaf() {
                buffer.clear();
            }
            runtime::budget::spend().await;
            self.pause().await;
            if pace.quiet && buffer.is_empty() {
                self.heard_ms.set(pace.last_ms);
                return Some(input);
            }
            match self.refill(&mut input, buffer, &mut pace).await {
                Ok((0, _)) => {
                    self.end(Ending::Done);
                    return None;
                }
                Ok((_, filled)) => buffer = filled,
                Err(problem) => {
                    tracing::debug!(%problem, "sync connection broke");
                    self.end(Ending::Gone);
                    return None;
                }
            }
        }
    }

    /// Submits what is there; waits for answers where the wire asks for it.
    async fn submit(&self, buffer: &mut AlignedBuf) -> Next {
        let mut patient = true;
        loop {
            let (used, next) = self.wire.take(self, buffer.as_slice(), patient);
            if used > 0 {
                buffer.consume(used);
            }
            match next {
                Next::Wait if !self.is_deaf() => self.answered.raised().await,
                Next::Press if !self.is_deaf() => {
                    patient = self.await_room().await;
                }
                next => return next,
            }
        }
    }

    /// Waits for the disk; false when that takes longer than a client should be kept waiting.
    async fn await_room(&self) -> bool {
        for _ in 0..ROOM_LOOKS {
            // Whoever makes room for the next segment wakes nobody, hence the looks.
            if runtime::time::timeout(ROOM_LOOK_EVERY, self.attachment.room()).await.is_ok() {
                return true;
            }
        }
        false
    }

    async fn refill<I: Input>(
        &self,
        input: &mut I,
        mut buffer: AlignedBuf,
        pace: &mut Pace,
    ) -> io::Result<(usize, AlignedBuf)> {
        let room = if pace.much { READ_BYTES_LARGE } else { READ_BYTES_SMALL };
        let needed = self.wire.needs(buffer.as_slice()).max(room).max(buffer.len() + 1);
        if buffer.is_empty() && buffer.capacity() > 2 * needed {
            buffer = AlignedBuf::new(buffer.align());
        }
        if buffer.capacity() < needed {
            buffer.reserve(needed - buffer.len());
        }
        let (read, buffer) = input.read(buffer).await;
        let read = read?;
        pace.note(self.shard.now_ms(), read);
        if !self.is_ending() {
            self.watch.expect(&self.shard, self.idle_ms(), Refusal::Idle);
        }
        Ok((read, buffer))
    }

    /// Sends what there is to send, and waits for what arrives while no reader does. `left` is where a reader leaves its side;
    /// there is none while the connection is quiet, and then nothing is kept here that waiting does not need.
    async fn speak<I: Input, O: Output>(self: Rc<Self>, mut output: O, mut out: Vec<u8>, mut left: Option<Left<I>>) {
        let ended_whatever_happens = EndOnDrop(self);
        let link = &ended_whatever_happens.0;
        let mut readable = pin!(Fuse::terminated());
        let mut last = false;
        loop {
            if !out.is_empty() {
                link.watch.writing(&link.shard, link.shard.plan.config.limits.write_timeout_ms);
                // Boxed, so that those who only wait need no room for it.
                let (written, back) = Box::pin(output.write_all(out)).await;
                link.watch.written();
                if written.is_err() {
                    return;
                }
                out = back;
                out.clear();
                if out.capacity() > WRITE_BYTES_KEPT {
                    out = Vec::new();
                }
            }
            if let Some(input) = take_left(&mut left) {
                readable.set(until_readable(input).fuse());
            }
            if left.is_none() {
                out = Vec::new();
                link.attachment.rest();
                link.wire.rest();
            }
            if last {
                break;
            }
            let arrived = poll_fn(|cx| match readable.as_mut().poll(cx) {
                Poll::Ready(input) => Poll::Ready(Some(input)),
                Poll::Pending => link.poll_speech(cx).map(|()| None),
            });
            if let Some(input) = arrived.await {
                left = Some(link.read_on(input, AlignedBuf::new(ALIGNMENT_BYTES)));
            }
            match link.gather(&mut out) {
                Some(Ending::Gone) => return,
                Some(Ending::Done) => link.wire.farewell(None, &mut out),
                Some(Ending::Because(fault)) => link.part(&fault, &mut out),
                None => continue,
            }
            last = true;
        }
        link.end(Ending::Done);
        output.finish().await;
        link.watch.expect(&link.shard, LINGER_MS, Refusal::Idle);
        while !link.read_out.get() {
            if let Some(input) = take_left(&mut left) {
                readable.set(until_readable(input).fuse());
            }
            let arrived = poll_fn(|cx| match readable.as_mut().poll(cx) {
                Poll::Ready(input) => Poll::Ready(Some(input)),
                Poll::Pending => link.watch.nudge.poll_raised(cx).map(|()| None),
            });
            if let Some(input) = arrived.await {
                left = Some(link.read_on(input, AlignedBuf::new(ALIGNMENT_BYTES)));
            }
        }
    }

    /// Waits until there may be something to send.
    fn poll_speech(&self, cx: &mut Context<'_>) -> Poll<()> {
        // Both, always: whichever is not ready has to know whom to wake.
        let answered = self.attachment.poll_ready(cx).is_ready();
        let nudged = self.watch.nudge.poll_raised(cx).is_ready();
        if answered || nudged { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Appends everything that there is to send; says whether it is time to go.
    fn gather(&self, out: &mut Vec<u8>) -> Option<Ending> {
        let closing = self.shard.with_batch(|batch| {
            self.attachment.try_next(batch);
            self.wire.encode(self, batch, out)
        });
        self.answered.raise();
        out.append(&mut self.aside.take());
        self.last_words(closing)
    }

    /// Whether it is time to go. Everything that was taken in is answered first, except when the engine itself closes.
    fn last_words(&self, closing: Option<Fault>) -> Option<Ending> {
        if let Some(fault) = closing {
            return Some(Ending::Because(fault));
        }
        let ending = self.ending.borrow().as_deref().cloned();
        match ending {
            Some(Ending::Gone) => ending,
            _ if self.attachment.unanswered() > 0 => None,
            Some(_) => ending,
            None if self.shard.is_draining() => {
                let fault = Fault::new(Code::ShuttingDown, "the server is stopping; connect again");
                Some(Ending::Because(fault.retry_after_ms(1_000)))
            }
            None => None,
        }
    }

    fn part(&self, fault: &Fault, out: &mut Vec<u8>) {
        match fault.code {
            Code::SlowConsumer => count_refusal(Door::TcpSync, Refusal::SlowConsumer),
            Code::Revoked => count_refusal(Door::TcpSync, Refusal::Revoked),
            Code::RateLimited => count_refusal(Door::TcpSync, Refusal::Window),
            Code::ShuttingDown => {}
            _ => count_refusal(Door::TcpSync, Refusal::Protocol),
        }
        self.wire.farewell(Some(fault), out);
    }
}

/// Where a reader that has heard nothing for a while leaves its side of the connection.
type Left<I> = Rc<Cell<Option<I>>>;

/// The side, if its reader has left it; then there is no reader.
fn take_left<I>(left: &mut Option<Left<I>>) -> Option<I> {
    let input = left.as_ref()?.take()?;
    *left = None;
    Some(input)
}

/// Waits, without a buffer, until a read would not block. A broken socket is found by that read.
async fn until_readable<I: Input>(mut input: I) -> I {
    let _ = input.readable().await;
    input
}

/// Ends the reader, whose native read must not be dropped, when the writer is gone for whatever reason.
struct EndOnDrop<W: Wire>(Rc<Link<W>>);

impl<W: Wire> Drop for EndOnDrop<W> {
    fn drop(&mut self) {
        self.0.end(Ending::Gone);
        self.0.answered.raise();
        self.0.watch.hang_up();
    }
}

/// How busy a connection is: it decides whether a read keeps a buffer while it waits, and how large.
struct Pace {
    last_ms: u64,
    quiet: bool,
    much: bool,
    small_reads: u32,
}

impl Pace {
    /// For a reader that starts because something is there to be read.
    fn new(last_ms: u64) -> Self {
        Self { last_ms, quiet: false, much: false, small_reads: 0 }
    }

    fn note(&mut self, now_ms: u64, read: usize) {
        self.quiet = now_ms.saturating_sub(std::mem::replace(&mut self.last_ms, now_ms)) >= QUIET_MS;
        if read >= READ_BYTES_SMALL / 2 {
            (self.much, self.small_reads) = (true, 0);
        } else {
            // Sizes vary from read to read; the large buffer goes only when it has not been needed for a while.
            self.small_reads += 1;
            self.much &= self.small_reads < SMALL_READS;
        }
    }
}

#[cfg(test)]
mod tests {
    use runtime::net::{ReadHalf, WriteHalf};

    use super::super::frames::Frames;
    use super::super::lines::Lines;
    use super::*;

    fn size_of_made<A, B, C, D, F>(_: impl FnOnce(A, B, C, D) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn a_quiet_connection_is_small() {
        let links = [size_of::<Link<Frames>>(), size_of::<Link<Lines>>()];
        assert!(links[0] <= 232 && links[1] <= 272, "links, frames and lines: {links:?}");
        let frames = size_of_made(Link::<Frames>::speak::<ReadHalf, WriteHalf>);
        let lines = size_of_made(Link::<Lines>::speak::<ReadHalf, WriteHalf>);
        assert!(frames <= 272 && lines <= 272, "tasks, frames and lines: {frames}, {lines}");
    }
}
