//! The store's thread: one Tokio loop for all connections. Requests come from any thread, each kind with so many places; full is
//! `Busy`, at once. A panic in one request takes that request with it, not the thread.

use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::JoinHandle;
use std::time::Duration;

use futures_channel::oneshot;
use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::LocalSet;

use super::links::Links;
use crate::store::{Answer, QueueReading, StoreError};

/// How long requests that are under way may take when the store ends, which is after everybody who could wait for them; the others
/// are answered that it is stopping.
const END_MAX: Duration = Duration::from_secs(2);

type Job = Box<dyn FnOnce(Rc<Links>) -> LocalBoxFuture<'static, ()> + Send>;

/// What a request is to the queues.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    /// Reads.
    Read,
    /// Writes of accounts.
    Account,
    /// Batches, imports, purges.
    Bulk,
}

/// The thread's owner. Dropping it finishes what waits.
pub(super) struct StoreThread {
    jobs: Option<mpsc::UnboundedSender<Job>>,
    places: [Arc<Semaphore>; 3],
    refused: [AtomicU64; 3],
    queue_max: usize,
    thread: Option<JoinHandle<()>>,
}

impl StoreThread {
    /// Starts the thread with what `open` makes there; fails as `open` does.
    pub(super) fn start<T, E>(
        queue_max: usize,
        open: impl AsyncFnOnce() -> Result<(Links, T), E> + Send + 'static,
    ) -> Result<(Self, T), E>
    where
        T: Send + 'static,
        E: From<std::io::Error> + Send + 'static,
    {
        let (jobs, mut queue) = mpsc::unbounded_channel::<Job>();
        let (opened, opening) = oneshot::channel();
        let tokio_loop = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = std::thread::Builder::new().name("store-postgres".into()).spawn(move || {
            // Acknowledgements must not wait for the store.
            runtime::priority::yield_to_shards();
            let local = LocalSet::new();
            let links = match local.block_on(&tokio_loop, open()) {
                Ok((links, answer)) => {
                    let _ = opened.send(Ok(answer));
                    Rc::new(links)
                }
                Err(error) => {
                    let _ = opened.send(Err(error));
                    return;
                }
            };
            local.block_on(&tokio_loop, async {
                while let Some(job) = queue.recv().await {
                    tokio::task::spawn_local(job(links.clone()));
                }
            });
            if tokio_loop.block_on(async { tokio::time::timeout(END_MAX, local).await }).is_err() {
                tracing::warn!("requests to the database were given up at the end");
            }
        })?;
        let opened = futures_executor::block_on(opening).expect("the thread answers before it ends");
        let places = [(); 3].map(|()| Arc::new(Semaphore::new(queue_max)));
        opened.map(|answer| {
            (Self { jobs: Some(jobs), places, refused: Default::default(), queue_max, thread: Some(thread) }, answer)
        })
    }

    /// How full the queues are.
    pub(super) fn queues(&self) -> Vec<QueueReading> {
        let names = [(Kind::Read, "store_reads"), (Kind::Account, "store_accounts"), (Kind::Bulk, "store_batches")];
        let read = |(kind, queue): (Kind, &'static str)| {
            let waiting = self.queue_max.saturating_sub(self.places[kind as usize].available_permits());
            let refused = self.refused[kind as usize].load(Relaxed);
            QueueReading { queue, waiting, places: self.queue_max, refused }
        };
        names.into_iter().map(read).collect()
    }

    /// Hands a request over.
    pub(super) fn submit<T, F>(&self, kind: Kind, work: F) -> Answer<T>
    where
        T: Send + 'static,
        F: AsyncFnOnce(&Links) -> Result<T, StoreError> + Send + 'static,
    {
        let Some(jobs) = &self.jobs else { return refused(StoreError::stopped()) };
        let Ok(place) = self.places[kind as usize].clone().try_acquire_owned() else {
            self.refused[kind as usize].fetch_add(1, Relaxed);
            return refused(StoreError::Busy);
        };
        let (reply, answer) = oneshot::channel();
        let job: Job = Box::new(move |links| {
            Box::pin(async move {
                let answer = AssertUnwindSafe(work(&links)).catch_unwind().await.unwrap_or_else(|panic| {
                    let text = panic.downcast_ref::<String>().map(String::as_str);
                    let said = text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
                    tracing::error!(panic = said, "a store request panicked; it was undone");
                    Err(StoreError::Refused { reason: format!("a defect: {said}") })
                });
                drop(place);
                // Nobody listening any more is no error.
                let _ = reply.send(answer);
            })
        });
        if jobs.send(job).is_err() {
            return refused(StoreError::stopped());
        }
        answer.map(|answer| answer.unwrap_or_else(|_| Err(StoreError::stopped()))).boxed()
    }
}

fn refused<T: Send + 'static>(error: StoreError) -> Answer<T> {
    futures_util::future::ready(Err(error)).boxed()
}

impl Drop for StoreThread {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
