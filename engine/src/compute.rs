//! The compute pool: one thread of low priority for what takes longer than a turn may (password hashing). Its queue is
//! bounded: full is `Busy`, at once. Work whose caller has gone is not begun.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};

use futures_channel::oneshot;
use proto::Code;

use crate::fault::Fault;

type Job = Box<dyn FnOnce() + Send>;

/// The way to the thread. It ends when the last one is dropped.
#[derive(Clone)]
pub(crate) struct Compute {
    queue: SyncSender<Job>,
}

impl Compute {
    /// Starts the thread.
    pub(crate) fn start(queue_jobs: usize) -> io::Result<Self> {
        let (queue, jobs) = sync_channel::<Job>(queue_jobs.max(1));
        std::thread::Builder::new().name("compute".to_owned()).spawn(move || {
            runtime::priority::yield_to_shards();
            for job in jobs {
                // A job that panics answers nobody (its channel closes) and takes nobody with it.
                let _ = catch_unwind(AssertUnwindSafe(job));
            }
        })?;
        Ok(Self { queue })
    }

    /// Runs `job` there.
    pub(crate) async fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> Result<T, Fault> {
        let (sender, answer) = oneshot::channel();
        let job: Job = Box::new(move || {
            if !sender.is_canceled() {
                let _ = sender.send(job());
            }
        });
        match self.queue.try_send(job) {
            Ok(()) => answer.await.map_err(|_| Fault::new(Code::Internal, "The computation failed.")),
            Err(TrySendError::Full(_)) => {
                metrics::counter!("mangahub_refused_total", "kind" => "compute", "reason" => "queue_full").increment(1);
                Err(Fault::busy("Too many sign-ins at once; try again in a moment."))
            }
            Err(TrySendError::Disconnected(_)) => Err(Fault::new(Code::ShuttingDown, "The server is stopping.")),
        }
    }
}
