//! Many connections to a peer, each with a pipeline kept full: the rows of all that has room go out in one write, answers are
//! counted as they come. The peer's protocol is a `Dialect`; the clockwork is the same for all of them.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Instant;

use hdrhistogram::Histogram;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{Error, Plan};
use crate::report::{Latency, Machine, Report, ServerCost};
use crate::{process, threads};

/// How a peer is spoken to.
pub(super) trait Dialect: 'static {
    /// What a new connection says first.
    fn greeting(&self, out: &mut Vec<u8>);
    /// One row that is to be durable when it is answered.
    fn row(&mut self, out: &mut Vec<u8>);
    /// Takes whole answers from the front of `bytes`: how many bytes, and how many rows they answer. What has to be said
    /// back goes to `out`.
    fn answers(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(usize, usize), String>;
}

struct Counts {
    measuring: Cell<bool>,
    acknowledged: Cell<u64>,
    latency: RefCell<Histogram<u64>>,
}

/// Drives a peer whose process is `pid`.
pub(super) async fn drive<D: Dialect>(
    plan: &Plan,
    address: SocketAddr,
    pid: u32,
    dialect: impl Fn(usize) -> D,
) -> Result<Report, Error> {
    let latency = Histogram::new_with_bounds(1, 600_000_000, 3).expect("the bounds are constant");
    let counts =
        Rc::new(Counts { measuring: Cell::new(false), acknowledged: Cell::new(0), latency: RefCell::new(latency) });
    let mut tasks = tokio::task::JoinSet::new();
    for at in 0..plan.connections {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        tasks.spawn_local(converse(stream, dialect(at), plan.pipeline, Rc::clone(&counts)));
    }
    let mut ended = None;
    tokio::select! {
        () = tokio::time::sleep(plan.warm_up) => {}
        early = tasks.join_next() => ended = early,
    }
    let (before, threads_before) = (process::usage(pid)?, threads::groups(pid)?);
    let (client_before, began) = (process::own_cpu_us(), Instant::now());
    counts.measuring.set(true);
    if ended.is_none() {
        tokio::select! {
            () = tokio::time::sleep(plan.measure) => {}
            early = tasks.join_next() => ended = early,
        }
    }
    counts.measuring.set(false);
    let measured_s = began.elapsed().as_secs_f64();
    if let Some(Ok(Err(error))) = ended {
        return Err(error);
    }
    let (after, threads_after) = (process::usage(pid)?, threads::groups(pid)?);
    let acknowledged = counts.acknowledged.get();
    let cpu_us = after.cpu_us - before.cpu_us;
    Ok(Report {
        run: serde_json::to_value(plan).unwrap_or_default(),
        limits_raised: BTreeMap::new(),
        machine: Machine::here(),
        measured_s,
        acknowledged,
        acknowledged_per_s: acknowledged as f64 / measured_s,
        announced: 0,
        latency: Latency::of(&counts.latency.borrow())?,
        deliveries: None,
        errors: BTreeMap::new(),
        server: Some(ServerCost {
            cpu_us,
            cpu_us_per_update: cpu_us as f64 / acknowledged.max(1) as f64,
            rss_bytes: after.rss_bytes,
            descriptors: after.descriptors,
        }),
        threads: Some(threads::between(&threads_before, &threads_after)),
        stages: Vec::new(),
        changes: 0,
        drain: None,
        timeline: Vec::new(),
        client_cpu_us: process::own_cpu_us() - client_before,
    })
}

async fn converse<D: Dialect>(
    mut stream: TcpStream,
    mut dialect: D,
    pipeline: usize,
    counts: Rc<Counts>,
) -> Result<(), Error> {
    let (mut out, mut incoming) = (Vec::new(), Vec::with_capacity(256 * 1024));
    let mut sent: VecDeque<Instant> = VecDeque::with_capacity(pipeline);
    dialect.greeting(&mut out);
    loop {
        let now = Instant::now();
        while sent.len() < pipeline {
            dialect.row(&mut out);
            sent.push_back(now);
        }
        stream.write_all(&out).await?;
        out.clear();
        if stream.read_buf(&mut incoming).await? == 0 {
            return Err(Error::Refused("it closed the connection".into()));
        }
        let (used, rows) = dialect.answers(&incoming, &mut out).map_err(Error::Refused)?;
        incoming.drain(..used);
        let now = Instant::now();
        let answered = sent.drain(..rows.min(sent.len()));
        if counts.measuring.get() {
            counts.acknowledged.set(counts.acknowledged.get() + rows as u64);
            let mut latency = counts.latency.borrow_mut();
            answered.for_each(|at| latency.saturating_record((now - at).as_micros() as u64));
        }
    }
}

/// A line of `bytes` and where the next one starts.
pub(super) fn line(bytes: &[u8]) -> Option<(&[u8], usize)> {
    let end = bytes.windows(2).position(|pair| pair == b"\r\n")?;
    Some((&bytes[..end], end + 2))
}
