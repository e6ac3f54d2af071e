//! What the fairness guard is for. Each scenario runs under the guard, where others keep being served while it goes on,
//! and without it, where they are not: that shows that the test can fail, and that the crate underneath still needs it.

#![allow(clippy::unwrap_used)] // A failed step fails the test.

mod support;

use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    task::Poll,
    time::{Duration, Instant},
};

use runtime::{
    fleet,
    local::Signal,
    net::{ListenerConfig, PollStream, TcpListener},
    notify::Notify,
    probe::BackendKind,
};
use support::{PATIENCE, wait_until};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Answers that an ordinary client must get while the other one does its worst.
const ANSWERS: u64 = 20;
/// How long nobody is served without the guard.
const STARVED_FOR: Duration = Duration::from_millis(600);

/// What the shard and the test tell each other.
#[derive(Default)]
struct Scene {
    begin: Notify,
    end: AtomicBool,
    /// Steps of the one who misbehaves.
    steps: AtomicU64,
    ticks: AtomicU64,
    storm: Notify,
    foreign: Notify,
    foreign_served: AtomicU64,
}

impl Scene {
    fn step(&self) -> bool {
        self.steps.fetch_add(1, Ordering::Relaxed);
        !self.end.load(Ordering::Relaxed)
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Misdeed {
    /// A task that wakes itself in every poll.
    KeepsItselfReady,
    /// Two tasks that wake each other.
    WakeEachOther,
    /// A poll-style connection whose socket always has more.
    PipelinedFlood,
    /// The same with native reads.
    NativeFlood,
    /// A task whose poll spawns the next one.
    SpawnsForEver,
    /// Another thread that never stops waking a task.
    WokenForEver,
}

async fn keep_ready(scene: Arc<Scene>) {
    std::future::poll_fn(|cx| {
        if !scene.step() {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

async fn volley(scene: Arc<Scene>, mine: Signal, other: Signal) {
    while scene.step() {
        mine.raised().await;
        other.raise();
    }
    other.raise();
}

async fn be_woken(scene: Arc<Scene>) {
    while scene.step() {
        scene.storm.notified().await;
    }
}

fn spawn_next(scene: Arc<Scene>) {
    if scene.step() {
        runtime::spawn(async move { spawn_next(scene) }).detach();
    }
}

/// One byte at a time, so that the sender is always ahead.
async fn read_byte(stream: &mut PollStream) -> bool {
    let mut byte = [0_u8];
    std::future::poll_fn(|cx| {
        let mut buf = ReadBuf::new(&mut byte);
        std::pin::Pin::new(&mut *stream)
            .poll_read(cx, &mut buf)
            .map(|outcome| outcome.is_ok() && buf.filled().len() == 1)
    })
    .await
}

async fn write_byte(stream: &mut PollStream) -> bool {
    std::future::poll_fn(|cx| std::pin::Pin::new(&mut *stream).poll_write(cx, b"x")).await.is_ok()
}

async fn swallow(scene: Arc<Scene>, mut stream: PollStream) {
    while read_byte(&mut stream).await && scene.step() {}
}

async fn swallow_native(scene: Arc<Scene>, mut stream: runtime::net::TcpStream) {
    let mut buf = Vec::with_capacity(16);
    loop {
        buf.clear();
        let (outcome, back) = stream.read(buf).await;
        buf = back;
        if !matches!(outcome, Ok(count) if count > 0) || !scene.step() {
            return;
        }
    }
}

async fn echo(mut stream: PollStream) {
    while read_byte(&mut stream).await && write_byte(&mut stream).await {}
}

async fn misbehave(misdeed: Misdeed, scene: Arc<Scene>, listener: &mut TcpListener) {
    match misdeed {
        Misdeed::KeepsItselfReady => drop(runtime::spawn(keep_ready(scene))),
        Misdeed::WakeEachOther => {
            let (one, other) = (Signal::new(), Signal::new());
            one.raise();
            runtime::spawn(volley(scene.clone(), one.clone(), other.clone())).detach();
            runtime::spawn(volley(scene, other, one)).detach();
        }
        Misdeed::PipelinedFlood => {
            let (stream, _) = listener.accept().await.unwrap();
            runtime::spawn(swallow(scene, stream.into_poll().unwrap())).detach();
        }
        Misdeed::NativeFlood => {
            let (stream, _) = listener.accept().await.unwrap();
            runtime::spawn(swallow_native(scene, stream)).detach();
        }
        Misdeed::SpawnsForEver => spawn_next(scene),
        Misdeed::WokenForEver => runtime::spawn(be_woken(scene)).detach(),
    }
}

/// The shard: an echo for the ordinary client, a ticking timer, a task woken from another thread, and the misdeed.
async fn shard(
    misdeed: Misdeed,
    scene: Arc<Scene>,
    addresses: mpsc::Sender<SocketAddr>,
    stop: runtime::shutdown::Stop,
) {
    let mut listener = TcpListener::bind(([127, 0, 0, 1], 0).into(), &ListenerConfig::default()).unwrap();
    addresses.send(listener.local_addr()).unwrap();
    let (ordinary, _) = listener.accept().await.unwrap();
    let ordinary = ordinary.into_poll().unwrap();
    let closer = ordinary.closer();
    let echo = runtime::spawn(echo(ordinary));
    let (ticking, woken) = (scene.clone(), scene.clone());
    runtime::spawn(async move {
        let mut interval = runtime::interval(Duration::from_millis(2));
        while !ticking.end.load(Ordering::Relaxed) {
            interval.tick().await;
            ticking.ticks.fetch_add(1, Ordering::Relaxed);
        }
    })
    .detach();
    runtime::spawn(async move {
        while !woken.end.load(Ordering::Relaxed) {
            woken.foreign.notified().await;
            woken.foreign_served.fetch_add(1, Ordering::Relaxed);
        }
    })
    .detach();
    scene.begin.notified().await;
    misbehave(misdeed, scene.clone(), &mut listener).await;
    stop.stopped().await;
    closer.close();
    echo.await.unwrap();
}

fn storm(scene: Arc<Scene>) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        while !scene.end.load(Ordering::Relaxed) {
            scene.storm.notify();
        }
        scene.storm.notify();
    })
}

fn flood(address: SocketAddr, scene: Arc<Scene>) -> std::thread::JoinHandle<()> {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_write_timeout(Some(Duration::from_millis(50))).unwrap();
    std::thread::spawn(move || {
        let chunk = [0_u8; 65_536];
        while !scene.end.load(Ordering::Relaxed) {
            let _ = stream.write(&chunk);
        }
    })
}

/// What was served, while the misdeed went on.
#[derive(Debug)]
struct Served {
    answers: u64,
    ticks: u64,
    foreign: u64,
}

/// Asks once and waits for the answer. The kernel may interrupt a read (the probe's ring is torn down behind this thread's
/// back), which says nothing about the server.
fn ping(client: &mut TcpStream, patience: Duration) -> bool {
    client.write_all(b"?").unwrap();
    answered(client, patience)
}

fn answered(client: &mut TcpStream, patience: Duration) -> bool {
    let deadline = Instant::now() + patience;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return false;
        }
        client.set_read_timeout(Some(left)).unwrap();
        match client.read(&mut [0]) {
            Ok(count) => return count == 1,
            Err(error) if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock) => {}
            Err(error) => panic!("the connection broke: {error}"),
        }
    }
}

fn play(misdeed: Misdeed, backend: BackendKind, guard: bool) -> Served {
    let scene = Arc::new(Scene::default());
    let (addresses, bound) = mpsc::channel();
    let mut config = support::config(backend, 1);
    config.guard = guard;
    let on_shard = scene.clone();
    let fleet = fleet::start(config, move |_| {
        let (scene, addresses) = (on_shard.clone(), addresses.clone());
        move |context| shard(misdeed, scene, addresses, context.stop)
    })
    .unwrap();
    let address = bound.recv_timeout(PATIENCE).unwrap();

    let mut client = TcpStream::connect(address).unwrap();
    client.set_nodelay(true).unwrap();
    assert!(ping(&mut client, PATIENCE), "everybody is served before");

    scene.begin.notify();
    let flooding = match misdeed {
        Misdeed::PipelinedFlood | Misdeed::NativeFlood => Some(flood(address, scene.clone())),
        Misdeed::WokenForEver => Some(storm(scene.clone())),
        _ => None,
    };
    wait_until("the misdeed goes on", || scene.steps.load(Ordering::Relaxed) > 2_000);
    let (ticks, foreign) = (scene.ticks.load(Ordering::Relaxed), scene.foreign_served.load(Ordering::Relaxed));
    let steps = scene.steps.load(Ordering::Relaxed);

    let (mut answers, mut last_served) = (0, true);
    if guard {
        let deadline = Instant::now() + PATIENCE;
        while answers < ANSWERS && Instant::now() < deadline {
            scene.foreign.notify();
            answers += u64::from(ping(&mut client, PATIENCE));
        }
        let served =
            || scene.ticks.load(Ordering::Relaxed) > ticks && scene.foreign_served.load(Ordering::Relaxed) > foreign;
        wait_until("timers and other threads are served", served);
    } else {
        let deadline = Instant::now() + STARVED_FOR;
        scene.foreign.notify();
        while last_served && Instant::now() < deadline {
            last_served = ping(&mut client, STARVED_FOR);
            answers += u64::from(last_served);
        }
    }
    let served = Served {
        answers,
        ticks: scene.ticks.load(Ordering::Relaxed) - ticks,
        foreign: scene.foreign_served.load(Ordering::Relaxed) - foreign,
    };
    wait_until("the misdeed still goes on", || scene.steps.load(Ordering::Relaxed) > steps);

    scene.end.store(true, Ordering::Relaxed);
    if let Some(flooding) = flooding {
        flooding.join().unwrap();
    }
    scene.foreign.notify();
    if !guard && !last_served {
        assert!(answered(&mut client, PATIENCE), "everybody is served again afterwards");
    }
    fleet.shutdown().stop();
    fleet.join();
    served
}

fn others_are_served(misdeed: Misdeed) {
    for backend in support::backends() {
        let served = play(misdeed, backend, true);
        assert_eq!(served.answers, ANSWERS, "{backend:?}: {served:?}");
    }
}

fn others_starve_without_the_guard(misdeed: Misdeed) {
    // A task that goes to the front of the queue stops everything. Tasks that take turns in the queue stop what only a
    // park serves: timers; on the ring also poll-style sockets (but for one readiness already armed) and other threads.
    let takes_turns = matches!(misdeed, Misdeed::WakeEachOther | Misdeed::SpawnsForEver);
    for backend in support::backends() {
        let served = play(misdeed, backend, false);
        assert_eq!(served.ticks, 0, "{backend:?}: {served:?}");
        match (takes_turns, backend) {
            (false, _) => assert_eq!((served.answers, served.foreign), (0, 0), "{backend:?}: {served:?}"),
            (true, BackendKind::IoUring) => {
                assert!(served.answers <= 1 && served.foreign == 0, "{backend:?}: {served:?}");
            }
            (true, BackendKind::Epoll) => {}
        }
    }
}

#[test]
fn a_task_that_keeps_itself_ready_does_not_stop_the_shard() {
    others_are_served(Misdeed::KeepsItselfReady);
}

#[test]
fn a_task_that_keeps_itself_ready_stops_the_shard_without_the_guard() {
    others_starve_without_the_guard(Misdeed::KeepsItselfReady);
}

#[test]
fn two_tasks_that_wake_each_other_do_not_stop_the_shard() {
    others_are_served(Misdeed::WakeEachOther);
}

#[test]
fn two_tasks_that_wake_each_other_stop_the_shard_without_the_guard() {
    others_starve_without_the_guard(Misdeed::WakeEachOther);
}

#[test]
fn a_pipelined_flood_does_not_stop_the_shard() {
    others_are_served(Misdeed::PipelinedFlood);
}

#[test]
fn a_pipelined_flood_stops_the_shard_without_the_guard() {
    others_starve_without_the_guard(Misdeed::PipelinedFlood);
}

#[test]
fn a_flood_of_native_reads_does_not_stop_the_shard() {
    others_are_served(Misdeed::NativeFlood);
}

#[test]
fn tasks_that_keep_spawning_tasks_do_not_stop_the_shard() {
    others_are_served(Misdeed::SpawnsForEver);
}

#[test]
fn tasks_that_keep_spawning_tasks_stop_the_shard_without_the_guard() {
    others_starve_without_the_guard(Misdeed::SpawnsForEver);
}

#[test]
fn a_thread_that_never_stops_waking_a_task_does_not_stop_the_shard() {
    others_are_served(Misdeed::WokenForEver);
}
