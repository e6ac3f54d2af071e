//! A real engine (shards, journal, SQLite) in a temporary folder, and a way to run test code on its shards. Faults come
//! from seams in front of the real store and under the real journal; nothing is mocked.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part")]

pub mod counted;
pub mod journal_seam;
pub mod store_seam;

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use engine::boot::{Seams, start_with};
use engine::{
    Announcement, AttachOptions, Attachment, Command, Done, Doors, Encoders, Engine, EngineConfig, Fault, Grant,
    Outgoing, ProgressView, Query, Running, SeedRequest, SetProgress, View, WireForm,
};
use proto::{Chapter, MangaId};
use runtime::notify::Notify;

type Job = Box<dyn FnOnce(Engine) -> Pin<Box<dyn Future<Output = ()>>> + Send>;

/// Longest that anything may take on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A running server without sockets.
pub struct Server {
    running: Option<Running>,
    lanes: Vec<(mpsc::Sender<Job>, Notify)>,
}

/// A configuration that tests start from.
pub fn config(folder: &std::path::Path, shards: usize) -> EngineConfig {
    let mut config = EngineConfig::new(folder, [7; 32]);
    config.shards = Some(shards);
    config.limits.journal_segment_bytes = 4 << 20;
    config.limits.frame_rate_per_s = 1_000_000;
    config.limits.frame_burst = 1_000_000;
    config
}

/// Says the whole state in one line, so that tests see what was announced.
fn encode(announcement: &Announcement) -> bytes::Bytes {
    let state = &announcement.state;
    bytes::Bytes::from(format!(
        "{} {} {} {}",
        announcement.user,
        state.manga,
        state.chapter,
        announcement.resume.position()
    ))
}

impl Server {
    pub fn start(config: EngineConfig, seams: Seams) -> Self {
        Self::try_start(config, seams).expect("the engine starts")
    }

    pub fn try_start(mut config: EngineConfig, seams: Seams) -> Result<Self, engine::StartError> {
        let shards = config.shards.expect("tests say how many shards");
        config.shards = Some(shards);
        let (lanes, ends): (Vec<_>, Vec<_>) = (0..shards)
            .map(|_| {
                let (sender, receiver) = mpsc::channel::<Job>();
                let notify = Notify::new();
                ((sender, notify.clone()), Mutex::new(Some((receiver, notify))))
            })
            .unzip();
        let doors: Doors = Arc::new(move |engine, context| {
            let (jobs, notify) = ends[context.id]
                .lock()
                .expect("a test's own step works")
                .take()
                .expect("each shard opens its doors once");
            Ok(Box::pin(async move {
                runtime::spawn(async move {
                    loop {
                        notify.notified().await;
                        while let Ok(job) = jobs.try_recv() {
                            runtime::spawn(job(engine.clone()));
                        }
                    }
                });
                context.drain.draining().await;
            }))
        });
        let running = start_with(config, Encoders::new().with(WireForm::Line, encode), doors, seams)?;
        Ok(Self { running: Some(running), lanes })
    }

    /// Runs a future on a shard and waits for its result.
    pub fn on<T, F, Fut>(&self, shard: usize, job: F) -> T
    where
        T: Send + 'static,
        F: FnOnce(Engine) -> Fut + Send + 'static,
        Fut: Future<Output = T> + 'static,
    {
        self.begin(shard, job).recv_timeout(PATIENCE).expect("the job ends in time")
    }

    /// Begins a future on a shard.
    pub fn begin<T, F, Fut>(&self, shard: usize, job: F) -> mpsc::Receiver<T>
    where
        T: Send + 'static,
        F: FnOnce(Engine) -> Fut + Send + 'static,
        Fut: Future<Output = T> + 'static,
    {
        let (sender, receiver) = mpsc::channel();
        let job: Job = Box::new(move |engine| {
            Box::pin(async move {
                let _ = sender.send(job(engine).await);
            })
        });
        let (lane, notify) = &self.lanes[shard];
        lane.send(job).expect("the shard runs");
        notify.notify();
        receiver
    }

    pub fn running(&self) -> &Running {
        self.running.as_ref().expect("not stopped yet")
    }

    /// Makes users; answers their tokens, and series they may use.
    pub fn seed(&self, users: u32, series: u32) -> (Vec<String>, Vec<MangaId>) {
        let admin = self.running().admin();
        let report = self.on(0, move |_| async move {
            admin.seed(SeedRequest { users, series, token_ttl_s: 3_600 }).await.expect("seeding works")
        });
        (report.users.into_iter().map(|user| user.token).collect(), report.series)
    }

    /// The shard that owns the user of a token.
    pub fn owner(&self, token: &str) -> usize {
        let token = token.to_owned();
        self.on(0, move |engine| async move { engine.owner(grant(&engine, &token).await.user) })
    }

    /// Sets progress through the command path, as HTTP does.
    pub fn set(&self, shard: usize, token: &str, update: SetProgress) -> Result<Done, Fault> {
        let token = token.to_owned();
        self.on(shard, move |engine| async move {
            let grant = grant(&engine, &token).await;
            engine.command(&grant, Command::SetProgress(update)).await
        })
    }

    /// Reads one progress through the query path.
    pub fn get(&self, shard: usize, token: &str, manga: MangaId) -> Result<Option<ProgressView>, Fault> {
        let token = token.to_owned();
        self.on(shard, move |engine| async move {
            let grant = grant(&engine, &token).await;
            match engine.query(&grant, Query::Progress(manga)).await? {
                View::Progress(state) => Ok(state),
                other => panic!("{other:?}"),
            }
        })
    }

    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        if let Some(running) = self.running.take() {
            running.shut_down();
            running.wait().expect("the engine ends well");
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.end();
        }
    }
}

pub async fn grant(engine: &Engine, token: &str) -> Arc<Grant> {
    engine.authorize(token).await.expect("the token is good")
}

pub async fn attach(engine: &Engine, token: &str) -> Attachment {
    let grant = grant(engine, token).await;
    let options = AttachOptions { form: WireForm::Line, window: 4_096, lines: false };
    engine.attach(grant, None, options).await.expect("attaching works")
}

/// Waits for `count` more outgoing messages.
pub async fn outgoing(attachment: &Attachment, count: usize) -> Vec<Outgoing> {
    let mut out = Vec::new();
    while out.len() < count {
        runtime::timeout(PATIENCE, attachment.next(&mut out)).await.expect("something comes in time");
    }
    out
}

/// What an announcement says: series and chapter.
pub fn announced(out: &Outgoing) -> Option<(i64, String)> {
    let Outgoing::Announcement(bytes) = out else { return None };
    let text = String::from_utf8(bytes.to_vec()).expect("a test's own step works");
    let mut words = text.split(' ').skip(1);
    Some((words.next()?.parse().ok()?, words.next()?.to_owned()))
}

pub fn chapter(number: u32) -> Chapter {
    Chapter::from_hundredths(number * 100).expect("a test's own step works")
}

/// Waits until something is so, without counting on how long that takes.
pub fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}
