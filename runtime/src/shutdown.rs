//! The end in two phases, seen from every shard: first drain (stop accepting, finish), then stop (close now).
//!
//! Phases only go forward. Any thread may begin one; each shard learns of it within a turn of its ring. Signals are read
//! here too, because a handler may do next to nothing: it writes one byte into a socket pair.

use std::{
    io::{self, Read},
    os::{
        fd::{AsRawFd, IntoRawFd},
        unix::net::UnixStream,
    },
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicI32, AtomicU8, Ordering},
    },
    task::Poll,
    time::Duration,
};

use crate::{local::Event, notify::Notify};

const RUNNING: u8 = 0;
const DRAINING: u8 = 1;
const STOPPING: u8 = 2;

/// Begins the phases; from any thread, any number of times.
#[derive(Debug, Clone)]
pub struct Shutdown {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    phase: AtomicU8,
    shards: Vec<Notify>,
}

/// The first phase, seen from a shard.
#[derive(Debug, Clone)]
pub struct Drain {
    event: Event,
}

/// The second phase, seen from a shard. Every connection listens to it and closes its socket when it fires.
#[derive(Debug, Clone)]
pub struct Stop {
    event: Event,
}

impl Shutdown {
    pub(crate) fn new(shards: usize) -> Self {
        let shards = (0..shards).map(|_| Notify::new()).collect();
        Self { shared: Arc::new(Shared { phase: AtomicU8::new(RUNNING), shards }) }
    }

    /// Begins draining on every shard.
    pub fn drain(&self) {
        self.advance(DRAINING);
    }

    /// Begins the hard stop on every shard (and draining, if that had not begun).
    pub fn stop(&self) {
        self.advance(STOPPING);
    }

    /// True once draining has begun.
    pub fn is_draining(&self) -> bool {
        self.shared.phase.load(Ordering::Acquire) >= DRAINING
    }

    /// True once the hard stop has begun.
    pub fn is_stopping(&self) -> bool {
        self.shared.phase.load(Ordering::Acquire) >= STOPPING
    }

    fn advance(&self, phase: u8) {
        self.shared.phase.fetch_max(phase, Ordering::AcqRel);
        for shard in &self.shared.shards {
            shard.notify();
        }
    }

    pub(crate) fn wake_shard(&self, shard: usize) {
        self.shared.shards[shard].notify();
    }

    /// Carries the phases to one shard's events; ends after the stop.
    pub(crate) async fn watch(self, shard: usize, drain: Drain, stop: Stop) {
        loop {
            if self.is_draining() {
                drain.event.set();
            }
            if self.is_stopping() {
                stop.event.set();
            }
            if stop.event.is_set() {
                return;
            }
            self.shared.shards[shard].notified().await;
        }
    }
}

impl Drain {
    pub(crate) fn new() -> Self {
        Self { event: Event::new() }
    }

    pub(crate) fn begin(&self) {
        self.event.set();
    }

    /// Waits until draining begins. Safe to drop.
    pub async fn draining(&self) {
        self.event.wait().await;
    }

    /// True once draining has begun.
    pub fn is_draining(&self) -> bool {
        self.event.is_set()
    }
}

impl Stop {
    pub(crate) fn new() -> Self {
        Self { event: Event::new() }
    }

    pub(crate) fn begin(&self) {
        self.event.set();
    }

    /// Waits for the hard stop. Safe to drop.
    pub async fn stopped(&self) {
        self.event.wait().await;
    }

    /// Runs `future` until it ends or the hard stop comes (`None`; the future is dropped, so no native read may be in it).
    pub async fn unless_stopped<F: Future>(&self, future: F) -> Option<F::Output> {
        let (mut future, mut event) = (std::pin::pin!(future), self.event.wait());
        std::future::poll_fn(|cx| {
            // The event first: a future that is always ready must not outlive it.
            if Pin::new(&mut event).poll(cx).is_ready() {
                return Poll::Ready(None);
            }
            future.as_mut().poll(cx).map(Some)
        })
        .await
    }

    /// True once the hard stop has begun.
    pub fn is_stopped(&self) -> bool {
        self.event.is_set()
    }
}

/// A signal that asks the process to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM.
    Terminate,
    /// SIGINT (Ctrl-C).
    Interrupt,
}

/// SIGTERM and SIGINT as something to wait for, usually on the main thread.
#[derive(Debug)]
pub struct Signals {
    read: UnixStream,
}

/// Where the handler writes; -1 before [`Signals::install`].
static SIGNAL_FD: AtomicI32 = AtomicI32::new(-1);

/// Writes the signal's number. Only async-signal-safe calls, and `errno` is left as it was.
#[allow(unsafe_code)]
extern "C" fn on_signal(number: libc::c_int) {
    let fd = SIGNAL_FD.load(Ordering::Relaxed);
    let byte = number as u8;
    // SAFETY: write(2) is async-signal-safe, `byte` outlives the call, the descriptor is never closed once installed;
    // __errno_location returns this thread's errno.
    unsafe {
        let errno = libc::__errno_location();
        let saved = *errno;
        libc::write(fd, (&raw const byte).cast(), 1);
        *errno = saved;
    }
}

impl Signals {
    /// Takes over SIGTERM and SIGINT for the whole process; once per process (`AlreadyExists` after that).
    #[allow(unsafe_code)]
    pub fn install() -> io::Result<Self> {
        let (read, write) = UnixStream::pair()?;
        // A handler must never block: when the pair is full, enough signals are waiting already.
        write.set_nonblocking(true)?;
        let installed = SIGNAL_FD.compare_exchange(-1, write.as_raw_fd(), Ordering::AcqRel, Ordering::Relaxed);
        if installed.is_err() {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "signal handlers are installed already"));
        }
        // The handler knows only the number, for as long as the process lives: this end is never closed.
        let _ = write.into_raw_fd();
        for number in [libc::SIGTERM, libc::SIGINT] {
            // SAFETY: the struct is plain data for which zero is valid; the handler only makes async-signal-safe calls.
            let outcome = unsafe {
                let mut action: libc::sigaction = std::mem::zeroed();
                action.sa_sigaction = on_signal as *const () as usize;
                action.sa_flags = libc::SA_RESTART;
                libc::sigemptyset(&raw mut action.sa_mask);
                libc::sigaction(number, &raw const action, std::ptr::null_mut())
            };
            if outcome != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(Self { read })
    }

    /// Blocks this thread until a signal comes, or `timeout` has passed (`None` waits for ever).
    pub fn wait(&mut self, timeout: Option<Duration>) -> io::Result<Option<Signal>> {
        // A zero timeout would mean "for ever" to the socket.
        self.read.set_read_timeout(timeout.map(|timeout| timeout.max(Duration::from_millis(1))))?;
        let mut byte = [0_u8];
        loop {
            match self.read.read(&mut byte) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) if i32::from(byte[0]) == libc::SIGINT => return Ok(Some(Signal::Interrupt)),
                Ok(_) => return Ok(Some(Signal::Terminate)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    return Ok(None);
                }
                Err(error) => return Err(error),
            }
        }
    }
}
