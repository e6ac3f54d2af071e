//! The compute pool: one thread of low priority for what takes longer than a turn may (password hashing). Its queue is
//! bounded: full is `Busy`, at once. Work whose caller has gone is not begun.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};

use futures_channel::oneshot;
use proto::Code;
use storage::store::QueueReading;

use crate::fault::Fault;

type Job = Box<dyn FnOnce() + Send>;

/// The way to the thread. It ends when the last one is dropped.
#[derive(Clone)]
pub(crate) struct Compute {
    queue: SyncSender<Job>,
    level: Arc<Level>,
}

/// How full the queue is.
#[derive(Default)]
struct Level {
    waiting: AtomicUsize,
    places: usize,
    refused: AtomicU64,
}

impl Compute {
    /// Starts the thread.
    pub(crate) fn start(queue_jobs: usize) -> io::Result<Self> {
        let places = queue_jobs.max(1);
        let (queue, jobs) = sync_channel::<Job>(places);
        let level = Arc::new(Level { places, ..Level::default() });
        let taken = Arc::clone(&level);
        std::thread::Builder::new().name("compute".to_owned()).spawn(move || {
            runtime::priority::yield_to_shards();
            for job in jobs {
                // A job that panics answers nobody (its channel closes) and takes nobody with it.
                let _ = catch_unwind(AssertUnwindSafe(job));
                taken.waiting.fetch_sub(1, Relaxed);
            }
        })?;
        Ok(Self { queue, level })
    }

    /// How full its queue is.
    pub(crate) fn reading(&self) -> QueueReading {
        let Level { waiting, places, refused } = &*self.level;
        QueueReading {
            queue: "hashing",
            waiting: waiting.load(Relaxed),
            places: *places,
            refused: refused.load(Relaxed),
        }
    }

    /// Runs `job` there.
    pub(crate) async fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> Result<T, Fault> {
        let (sender, answer) = oneshot::channel();
        let job: Job = Box::new(move || {
            if !sender.is_canceled() {
                let _ = sender.send(job());
            }
        });
        self.level.waiting.fetch_add(1, Relaxed);
        let sent = self.queue.try_send(job);
        if sent.is_err() {
            self.level.waiting.fetch_sub(1, Relaxed);
        }
        match sent {
            Ok(()) => answer.await.map_err(|_| Fault::new(Code::Internal, "The computation failed.")),
            Err(TrySendError::Full(_)) => {
                self.level.refused.fetch_add(1, Relaxed);
                metrics::counter!("mangahub_refused_total", "kind" => "compute", "reason" => "queue_full").increment(1);
                Err(Fault::busy("Too many sign-ins at once; try again in a moment."))
            }
            Err(TrySendError::Disconnected(_)) => Err(Fault::new(Code::ShuttingDown, "The server is stopping.")),
        }
    }
}
