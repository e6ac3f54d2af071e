//! What a person who is signed in and does nothing costs in memory: users with their series and two devices are made resident,
//! one connection of each stays open, and the server's resident memory is read after a time of quiet, at a small and at a large
//! number of them. The slope between the two is the cost of one; what the process needs anyway falls out of it. The first users
//! move on as often as all later ones together, so that journal and store have had the same work at both readings.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use client::shell::{Error, FrameClient, LineClient};
use proto::MangaId;
use proto::frame::wants;
use proto::line::Auth;
use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::client::TlsStream;

use crate::dial::dial;
use crate::person::{Visit, device};
use crate::process;
use crate::tls::Trust;
use crate::tokens::{Seeded, Tokens};
use crate::{reader, threads};

/// Users that are brought in at a time.
const AT_A_TIME: usize = 32;

/// How the connections that stay speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Wire {
    /// Nobody stays connected: the users' own share.
    None,
    /// Binary frames.
    Frames,
    /// JSON lines.
    Lines,
    /// Binary frames inside TLS.
    Tls,
}

/// One measurement.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How they speak.
    pub wire: Wire,
    /// Users at the first reading.
    pub from: usize,
    /// Users at the second.
    pub to: usize,
    /// Series of each.
    pub series: usize,
    /// Quiet before a reading.
    pub quiet: Duration,
}

/// What one of them costs.
#[derive(Clone, Debug, Serialize)]
pub struct Slope {
    /// How they speak.
    pub wire: Wire,
    /// Users at the two readings.
    pub users: [usize; 2],
    /// Resident bytes at the two readings.
    pub rss_bytes: [u64; 2],
    /// Open descriptors at the two readings.
    pub descriptors: [u64; 2],
    /// Resident bytes per user between them.
    pub bytes_each: f64,
    /// Server threads, which have stacks of their own.
    pub threads: usize,
}

/// A connection that stays. Its fields are never read: it is held open.
#[allow(dead_code)]
enum Held {
    Nothing,
    Frames(FrameClient<()>),
    Lines(LineClient),
    Tls(Box<TlsStream<TcpStream>>),
}

struct Visitors {
    server: SocketAddr,
    series: Vec<MangaId>,
    wire: Wire,
    trust: Option<Trust>,
}

/// Measures on a server that has done nothing else. Must be called inside a `LocalSet`.
pub async fn run(
    server: SocketAddr,
    pid: u32,
    tokens: &Tokens,
    trust: Option<Trust>,
    plan: &Plan,
) -> Result<Slope, Error> {
    let series = tokens.series.iter().copied().take(plan.series).collect();
    let visitors = Rc::new(Visitors { server, series, wire: plan.wire, trust });
    let mut held = Vec::with_capacity(plan.to);
    let mut readings = Vec::new();
    let rounds = ((plan.to - plan.from) / plan.from).max(1);
    for (users, rounds) in [(&tokens.users[..plan.from], rounds), (&tokens.users[plan.from..plan.to], 1)] {
        held.extend(visitors.bring(users, rounds).await?);
        tokio::time::sleep(plan.quiet).await;
        readings.push(process::usage(pid)?);
    }
    let growth = readings[1].rss_bytes as f64 - readings[0].rss_bytes as f64;
    Ok(Slope {
        wire: plan.wire,
        users: [plan.from, plan.to],
        rss_bytes: [readings[0].rss_bytes, readings[1].rss_bytes],
        descriptors: [readings[0].descriptors, readings[1].descriptors],
        bytes_each: growth / (plan.to - plan.from).max(1) as f64,
        threads: threads::read(pid)?.len(),
    })
}

impl Visitors {
    /// Brings users in, some at a time, and answers with the connections that stay.
    async fn bring(self: &Rc<Self>, users: &[Seeded], rounds: usize) -> Result<Vec<Held>, Error> {
        let (mut held, mut coming) = (Vec::with_capacity(users.len()), JoinSet::new());
        for seeded in users {
            if coming.len() >= AT_A_TIME
                && let Some(came) = coming.join_next().await
            {
                held.push(came.map_err(io::Error::other)??);
            }
            coming.spawn_local(Rc::clone(self).bring_one(seeded.clone(), rounds));
        }
        while let Some(came) = coming.join_next().await {
            held.push(came.map_err(io::Error::other)??);
        }
        Ok(held)
    }

    async fn bring_one(self: Rc<Self>, seeded: Seeded, rounds: usize) -> Result<Held, Error> {
        let mut first = Visit::begin(self.server, &seeded, device(&seeded, 0)).await?;
        for _ in 0..rounds {
            first.read_on(&self.series).await?;
        }
        first.leave().await?;
        Visit::begin(self.server, &seeded, device(&seeded, 1)).await?.leave().await?;
        let own = device(&seeded, 0);
        Ok(match (self.wire, &self.trust) {
            (Wire::None, _) => Held::Nothing,
            (Wire::Frames, _) => Held::Frames(Visit::begin(self.server, &seeded, own).await?.stay()),
            (Wire::Lines, _) => {
                let auth = Auth { token: seeded.token.as_str().into(), username: None, device: Some(own) };
                Held::Lines(LineClient::over(dial(self.server).await?, &auth).await?.0)
            }
            (Wire::Tls, Some(trust)) => {
                let mut stream = trust.connect(dial(self.server).await?).await?;
                let hello = reader::hello(&seeded, Some(own), wants::PROGRESS);
                let connection = client::frames::Connection::<()>::open(&hello)?;
                stream.write_all(connection.pending_out()).await?;
                let mut welcome = [0; 1];
                stream.read_exact(&mut welcome).await?;
                Held::Tls(Box::new(stream))
            }
            (Wire::Tls, None) => return Err(io::Error::other("a TLS run needs a server with a certificate").into()),
        })
    }
}
