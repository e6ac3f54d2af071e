//! The threads that own the SQLite connections: one that writes, a few that read. Requests wait in bounded queues (full means
//! `Busy`, at once) and are answered through one-shot channels, so any executor can wait for them. Account writes go before
//! bulk ones and share a transaction with each other; a panic in one request takes that request with it, not the thread. A
//! connection that has nothing to do gives its page cache back: what a burst needed is not kept for the quiet after it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, TrySendError, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use futures_channel::oneshot;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rusqlite::Connection;

use super::connection::refusal;
use crate::store::{QueueReading, StoreError};

/// What a request answers.
pub(super) type Answer<T> = BoxFuture<'static, Result<T, StoreError>>;

/// A bounded queue into a thread.
struct Queue {
    jobs: SyncSender<Box<dyn Job>>,
    level: Arc<Level>,
}

/// How full a queue is, or several that serve the same requests.
#[derive(Default)]
struct Level {
    waiting: AtomicUsize,
    refused: AtomicU64,
}

impl Level {
    fn read(&self, queue: &'static str, places: usize) -> QueueReading {
        let (waiting, refused) = (self.waiting.load(Ordering::Relaxed), self.refused.load(Ordering::Relaxed));
        QueueReading { queue, waiting, places, refused }
    }
}

/// A request's place in a queue, until it has been answered.
struct Place(Arc<Level>);

impl Place {
    fn take(level: &Arc<Level>) -> Self {
        level.waiting.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(level))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Account writes that share one transaction at most: one flush for all of them.
const GROUP_MAX: usize = 64;

/// How long a connection keeps its page cache without a request. The pages are still in the kernel's cache: reading one again
/// costs a microsecond.
const CACHE_KEPT: Duration = Duration::from_millis(500);

/// One request on its way to a connection.
trait Job: Send {
    /// Takes its place in a queue.
    fn sit(&mut self, place: Place);
    /// Does the work inside a transaction; false when it has failed and must leave nothing behind.
    fn run(&mut self, conn: &Connection) -> bool;
    /// Answers, after the transaction's end; an error stands for all of its requests.
    fn finish(self: Box<Self>, ended: Result<(), StoreError>);
}

struct Call<T, F> {
    work: Option<F>,
    result: Option<Result<T, StoreError>>,
    reply: oneshot::Sender<Result<T, StoreError>>,
    place: Option<Place>,
}

impl<T, F> Job for Call<T, F>
where
    T: Send,
    F: FnOnce(&Connection) -> Result<T, StoreError> + Send,
{
    fn sit(&mut self, place: Place) {
        self.place = Some(place);
    }

    fn run(&mut self, conn: &Connection) -> bool {
        let work = self.work.take().expect("a job runs once");
        let result = catch_unwind(AssertUnwindSafe(|| work(conn))).unwrap_or_else(|panic| {
            let said = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
            tracing::error!(panic = said, "a store request panicked; it was undone");
            Err(StoreError::Refused { reason: format!("a defect: {}", said.unwrap_or("no message")) })
        });
        let keep = result.is_ok();
        self.result = Some(result);
        keep
    }

    fn finish(self: Box<Self>, ended: Result<(), StoreError>) {
        // A request that failed by itself keeps its own reason; nobody listening any more is no error.
        let answer = match (self.result, ended) {
            (Some(Err(own)), _) => Err(own),
            (_, Err(shared)) => Err(shared),
            (Some(done), Ok(())) => done,
            (None, Ok(())) => Err(StoreError::stopped()),
        };
        let _ = self.reply.send(answer);
    }
}

fn call<T, F>(work: F) -> (Box<dyn Job>, Answer<T>)
where
    T: Send + 'static,
    F: FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
{
    let (reply, answer) = oneshot::channel();
    let answer = answer.map(|answer| answer.unwrap_or_else(|_| Err(StoreError::stopped()))).boxed();
    (Box::new(Call { work: Some(work), result: None, reply, place: None }), answer)
}

fn refused<T: Send + 'static>(error: StoreError) -> Answer<T> {
    futures_util::future::ready(Err(error)).boxed()
}

impl Queue {
    fn put(&self, mut job: Box<dyn Job>) -> Result<(), TrySendError<Box<dyn Job>>> {
        job.sit(Place::take(&self.level));
        self.jobs.try_send(job)
    }
}

fn enqueue(queue: &Queue, job: Box<dyn Job>) -> Result<(), StoreError> {
    queue.put(job).map_err(|refused| match refused {
        TrySendError::Full(_) => {
            queue.level.refused.fetch_add(1, Ordering::Relaxed);
            StoreError::Busy
        }
        TrySendError::Disconnected(_) => StoreError::stopped(),
    })
}

struct Queues {
    urgent: Queue,
    bulk: Queue,
    places: usize,
}

/// The one thread that writes.
pub(super) struct Writer {
    queues: Option<Queues>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// Starts the thread with its connection.
    pub(super) fn start(conn: Connection, queue_max: usize) -> std::io::Result<Self> {
        let (urgent, urgent_jobs) = sync_channel(queue_max);
        let (bulk, bulk_jobs) = sync_channel(queue_max);
        let thread = thread::Builder::new().name("store-writer".into()).spawn(move || {
            // Acknowledgements must not wait for the store.
            runtime::priority::yield_to_shards();
            write_loop(&conn, &urgent_jobs, &bulk_jobs);
        })?;
        let queue = |jobs| Queue { jobs, level: Arc::default() };
        let queues = Queues { urgent: queue(urgent), bulk: queue(bulk), places: queue_max };
        Ok(Self { queues: Some(queues), thread: Some(thread) })
    }

    /// How full its queues are.
    pub(super) fn queues(&self) -> Vec<QueueReading> {
        let Some(Queues { urgent, bulk, places }) = &self.queues else { return Vec::new() };
        vec![urgent.level.read("store_accounts", *places), bulk.level.read("store_batches", *places)]
    }

    /// An account write: goes before bulk work, shares its flush with others that wait.
    pub(super) fn urgent<T, F>(&self, work: F) -> Answer<T>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    {
        self.submit(|queues| &queues.urgent, work)
    }

    /// A batch, an import, a purge: one transaction of its own.
    pub(super) fn bulk<T, F>(&self, work: F) -> Answer<T>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    {
        self.submit(|queues| &queues.bulk, work)
    }

    fn submit<T, F>(&self, queue: impl Fn(&Queues) -> &Queue, work: F) -> Answer<T>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    {
        let (Some(queues), Some(thread)) = (&self.queues, &self.thread) else { return refused(StoreError::stopped()) };
        let (job, answer) = call(work);
        if let Err(error) = enqueue(queue(queues), job) {
            return refused(error);
        }
        thread.thread().unpark();
        answer
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // Without its queues the thread finishes what waits and ends.
        self.queues = None;
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

fn write_loop(conn: &Connection, urgent: &Receiver<Box<dyn Job>>, bulk: &Receiver<Box<dyn Job>>) {
    let mut group: Vec<Box<dyn Job>> = Vec::with_capacity(GROUP_MAX);
    // When the last request was done, while its pages are cached.
    let mut cached: Option<Instant> = None;
    loop {
        group.extend(urgent.try_iter().take(GROUP_MAX));
        if !group.is_empty() {
            run_group(conn, &mut group, "BEGIN IMMEDIATE");
            cached = Some(Instant::now());
            continue;
        }
        match bulk.try_recv() {
            Ok(job) => {
                group.push(job);
                run_group(conn, &mut group, "BEGIN IMMEDIATE");
                cached = Some(Instant::now());
            }
            // Both queues close together, and whatever was urgent before the close has just been looked for.
            Err(TryRecvError::Disconnected) => match urgent.try_recv() {
                Ok(job) => group.push(job),
                Err(_) => return,
            },
            Err(TryRecvError::Empty) => match cached.map(|since| CACHE_KEPT.saturating_sub(since.elapsed())) {
                None => thread::park(),
                Some(Duration::ZERO) => {
                    give_cache_back(conn);
                    cached = None;
                }
                Some(left) => thread::park_timeout(left),
            },
        }
    }
}

fn read_loop(conn: &Connection, jobs: &Receiver<Box<dyn Job>>) {
    let mut group = Vec::with_capacity(1);
    while let Ok(job) = jobs.recv() {
        let mut next = Ok(job);
        while let Ok(job) = next {
            group.push(job);
            // One snapshot for all statements of a request.
            run_group(conn, &mut group, "BEGIN DEFERRED");
            next = jobs.recv_timeout(CACHE_KEPT);
        }
        if next.is_err_and(|ended| ended == RecvTimeoutError::Timeout) {
            give_cache_back(conn);
        }
    }
}

fn give_cache_back(conn: &Connection) {
    if let Err(error) = conn.release_memory() {
        tracing::debug!(%error, "a connection to the store keeps its cache");
    }
}

/// Runs the jobs in one transaction, each undone alone when it fails, and answers them after the commit.
fn run_group(conn: &Connection, group: &mut Vec<Box<dyn Job>>, begin: &str) {
    let ended = run_transaction(conn, group, begin);
    if ended.is_err() && !conn.is_autocommit() {
        let _ = conn.execute_batch("ROLLBACK");
    }
    for job in group.drain(..) {
        job.finish(ended.clone());
    }
}

fn run_transaction(conn: &Connection, group: &mut [Box<dyn Job>], begin: &str) -> Result<(), StoreError> {
    let execute =
        |sql: &str| conn.prepare_cached(sql).and_then(|mut run| run.raw_execute().map(|_| ())).map_err(refusal);
    execute(begin)?;
    for job in group.iter_mut() {
        execute("SAVEPOINT request")?;
        let keep = job.run(conn);
        if conn.is_autocommit() {
            // SQLite ends the transaction by itself on a full disk or an I/O error.
            return Err(StoreError::Unavailable {
                reason: "the database gave up the transaction (disk full or I/O error)".into(),
                retry_after: std::time::Duration::from_secs(1),
            });
        }
        if !keep {
            execute("ROLLBACK TO request")?;
        }
        execute("RELEASE request")?;
    }
    execute("COMMIT")
}

/// The threads that read, each with a connection and a queue of its own.
pub(super) struct Readers {
    queues: Vec<Queue>,
    threads: Vec<JoinHandle<()>>,
    next: AtomicUsize,
    level: Arc<Level>,
    places: usize,
}

impl Readers {
    /// Starts one thread per connection.
    pub(super) fn start(connections: Vec<Connection>, queue_max: usize) -> std::io::Result<Self> {
        let places = connections.len() * queue_max;
        let level = Arc::<Level>::default();
        let next = AtomicUsize::new(0);
        let mut readers = Self { queues: Vec::new(), threads: Vec::new(), next, level, places };
        for (number, conn) in connections.into_iter().enumerate() {
            let (sender, jobs) = sync_channel::<Box<dyn Job>>(queue_max);
            let thread = thread::Builder::new().name(format!("store-read-{number}")).spawn(move || {
                read_loop(&conn, &jobs);
            })?;
            readers.queues.push(Queue { jobs: sender, level: Arc::clone(&readers.level) });
            readers.threads.push(thread);
        }
        Ok(readers)
    }

    /// A read: sees everything that was answered as written before it was asked.
    pub(super) fn read<T, F>(&self, work: F) -> Answer<T>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    {
        let (mut job, answer) = call(work);
        let first = self.next.fetch_add(1, Ordering::Relaxed);
        for offset in 0..self.queues.len() {
            match self.queues[(first.wrapping_add(offset)) % self.queues.len()].put(job) {
                Ok(()) => return answer,
                Err(TrySendError::Full(back) | TrySendError::Disconnected(back)) => job = back,
            }
        }
        self.level.refused.fetch_add(1, Ordering::Relaxed);
        refused(StoreError::Busy)
    }

    /// How full their queues are, together.
    pub(super) fn queue(&self) -> QueueReading {
        self.level.read("store_reads", self.places)
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        self.queues.clear();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn writer() -> Writer {
        let conn = Connection::open_in_memory().expect("memory");
        conn.execute_batch("CREATE TABLE seen (what TEXT)").expect("a table");
        Writer::start(conn, 8).expect("a thread")
    }

    fn wait<T>(answer: Answer<T>) -> Result<T, StoreError> {
        // Dropping the writer answers everything first, so these are ready.
        answer.now_or_never().expect("answered before the writer ended")
    }

    #[test]
    fn a_panicking_request_is_undone_and_takes_nobody_along() {
        let writer = writer();
        let insert = |what: &'static str| {
            move |conn: &Connection| conn.execute("INSERT INTO seen VALUES (?1)", [what]).map_err(refusal)
        };
        let before = writer.urgent(insert("before"));
        let panics = writer.urgent(move |conn: &Connection| -> Result<usize, StoreError> {
            insert("half")(conn)?;
            panic!("a defect");
        });
        let after = writer.urgent(insert("after"));
        let seen = writer.bulk(|conn: &Connection| {
            conn.query_row("SELECT group_concat(what, ' ') FROM seen", [], |row| row.get::<_, String>(0))
                .map_err(refusal)
        });
        drop(writer);
        assert_eq!(wait(before), Ok(1));
        assert_eq!(wait(panics), Err(StoreError::Refused { reason: "a defect: a defect".into() }));
        assert_eq!(wait(after), Ok(1));
        assert_eq!(wait(seen), Ok("before after".into()));
    }

    #[test]
    fn a_failed_commit_is_everybodys_failure() {
        let conn = Connection::open_in_memory().expect("memory");
        conn.execute_batch(
            "PRAGMA foreign_keys = ON; CREATE TABLE parent (id INTEGER PRIMARY KEY);
             CREATE TABLE child (parent INTEGER REFERENCES parent (id) DEFERRABLE INITIALLY DEFERRED)",
        )
        .expect("tables");
        let mut group = Vec::new();
        let mut answers = Vec::new();
        for sql in ["INSERT INTO parent VALUES (1)", "INSERT INTO child VALUES (99)"] {
            let (job, answer) = call(move |conn: &Connection| conn.execute(sql, []).map_err(refusal));
            group.push(job);
            answers.push(answer);
        }
        run_group(&conn, &mut group, "BEGIN IMMEDIATE");
        for answer in answers {
            assert!(matches!(wait(answer), Err(StoreError::Refused { .. })), "nothing was committed");
        }
        assert!(conn.is_autocommit());
    }
}
