//! Readers that never read: announcements pile up for some, answers for others. The server may keep a bounded amount for each and
//! must close them in time; nobody else may notice.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use proto::frame::{Get, wants};
use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use super::trickle::Trickle;
use super::{Beside, Load, Stop, Tally, Target, Turns, once};
use crate::reader;
use crate::tokens::Seeded;

/// What a reader's own socket takes before the server's side fills: the least that the kernel allows.
const RECEIVE_BYTES: u32 = 2_048;
/// Announcements per second of the user whose devices do not read: as many as one may make, unless configured.
pub const ANNOUNCEMENTS_PER_S: f64 = 900.0;
/// How long announcements are made before it is looked whether there were enough.
const ANNOUNCING: Duration = Duration::from_secs(2);
/// How long the server may take to close the last of them.
const PATIENCE: Duration = Duration::from_secs(90);

/// What came of it.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// Devices that read no announcement, and connections that read no answer.
    pub readers: [usize; 2],
    /// Resident bytes of the server before, at most meanwhile, and after they had gone.
    pub rss_bytes: [u64; 3],
    /// The ordinary client, alone and beside them.
    pub acks: Vec<Beside>,
    /// Updates that were announced to those who do not read.
    pub announced: u64,
    /// Connections that the server cut off for it.
    pub closed: u64,
    /// Seconds until it had.
    pub closed_s: f64,
}

/// So many devices of one user that read no announcement, of which there are `rate` per second, and so many connections of others
/// that read no answer.
pub async fn run(target: &Target, readers: usize, rate: f64, turns: Turns) -> io::Result<Outcome> {
    // Who does not read its answers may also have asked more than the window lets, before it is late.
    let ended = |reason| target.metric("mangahub_connections_refused_total", &["door=\"tcp_sync\"", reason]);
    let closed = || io::Result::Ok(ended("reason=\"slow_consumer\"")? + ended("reason=\"window\"")?);
    let (before, closed_before) = (target.rss_bytes()?, closed()?);
    let alone = once(target, turns, "alone")?;
    let began = Instant::now();
    let deaf = target.other(0);
    let mut held = Vec::with_capacity(readers);
    for _ in 0..readers {
        held.push(enter(target.sync, &deaf, wants::PROGRESS).await?);
    }
    let (sync, series) = (target.sync, target.series());
    let asking: Vec<Seeded> = (0..readers).map(|at| target.other(1 + at)).collect();
    let writer = Trickle { server: sync, user: deaf, series, rate };
    let (enough, tally) = (Stop::default(), Tally::default());
    let (told, counted) = (enough.clone(), tally.clone());
    let writing = std::thread::Builder::new().name("announcer".into()).spawn(move || {
        while !told.is_set()
            && began.elapsed() < PATIENCE
            && let Ok(acks) = writer.measure(ANNOUNCING)
        {
            counted.add("announced", acks.latency.len());
        }
    })?;
    let load = Load::start(move |stop| async move {
        let mut asking: Vec<_> = asking.iter().map(|user| tokio::task::spawn_local(ask(sync, user.clone()))).collect();
        while !stop.is_set() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        asking.iter_mut().for_each(|task| task.abort());
    })?;
    let beside = once(target, turns, &format!("{readers} + {readers} that never read"))?.against(&alone);
    let mut most = before;
    let mut cut = 0;
    while began.elapsed() < PATIENCE {
        most = most.max(target.rss_bytes()?);
        cut = (closed()? - closed_before) as u64;
        if cut >= 2 * readers as u64 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let closed_s = began.elapsed().as_secs_f64();
    load.end();
    drop(held);
    enough.0.store(true, Ordering::Relaxed);
    let _ = writing.join();
    Ok(Outcome {
        readers: [readers; 2],
        rss_bytes: [before, most, target.rss_bytes()?],
        acks: vec![alone, beside],
        announced: tally.read().get("announced").copied().unwrap_or(0),
        closed: cut,
        closed_s,
    })
}

/// A greeted connection whose socket takes little.
async fn enter(server: SocketAddr, user: &Seeded, wanted: u32) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(RECEIVE_BYTES)?;
    let mut stream = socket.connect(server).await?;
    let hello = reader::hello(user, None, wanted);
    let greeting = client::frames::Connection::<()>::open(&hello).map_err(io::Error::other)?;
    stream.write_all(greeting.pending_out()).await?;
    // The first byte of the answer: it is let in, or it is told why not; the rest is never read.
    stream.read_exact(&mut [0; 1]).await?;
    Ok(stream)
}

/// Asks on and on without reading an answer, until the server has had enough, and keeps the socket.
async fn ask(server: SocketAddr, user: Seeded) -> io::Result<()> {
    let mut stream = enter(server, &user, 0).await?;
    let mut out = Vec::new();
    for seq in 2.. {
        out.clear();
        Get { manga: None }.encode(seq, &mut out);
        if stream.write_all(&out).await.is_err() {
            break;
        }
    }
    std::future::pending().await
}
