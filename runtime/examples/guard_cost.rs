//! What the fairness guard costs: server CPU per echoed frame, with and without it, on both backends.
//!
//! `cargo run --release -p mangahub-runtime --example guard_cost [SECONDS]`. One shard on one CPU, the client on another;
//! runs are interleaved and repeated, medians and spread are printed. CPU comes from the shard thread's schedstat.

#![allow(clippy::unwrap_used, clippy::print_stdout)] // A measuring tool.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream as StdTcpStream},
    sync::mpsc,
    time::{Duration, Instant},
};

use runtime::{
    FleetConfig, ShardContext, fleet,
    net::{ListenerConfig, PollStream, TcpListener, TcpStream},
    probe::{self, BackendKind},
    topology::{self, Topology},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

const FRAME_BYTES: usize = 64;
const REPEATS: usize = 5;

#[derive(Clone, Copy, Debug)]
enum Wire {
    Native,
    Poll,
}

async fn native_echo(mut stream: TcpStream) {
    let mut buf = Vec::with_capacity(16 << 10);
    loop {
        buf.clear();
        let (outcome, read) = stream.read(buf).await;
        if !matches!(outcome, Ok(count) if count > 0) {
            return;
        }
        let (outcome, written) = stream.write_all(read).await;
        buf = written;
        if outcome.is_err() {
            return;
        }
    }
}

async fn poll_echo(mut stream: PollStream) {
    let mut bytes = vec![0_u8; 16 << 10];
    loop {
        let count = std::future::poll_fn(|cx| {
            let mut buf = ReadBuf::new(&mut bytes);
            std::pin::Pin::new(&mut stream).poll_read(cx, &mut buf).map_ok(|()| buf.filled().len())
        })
        .await
        .unwrap_or(0);
        let mut sent = 0;
        while sent < count {
            let write = std::future::poll_fn(|cx| std::pin::Pin::new(&mut stream).poll_write(cx, &bytes[sent..count]));
            match write.await {
                Ok(more) if more > 0 => sent += more,
                _ => return,
            }
        }
        if count == 0 {
            return;
        }
    }
}

async fn serve(wire: Wire, context: ShardContext, started: mpsc::Sender<(SocketAddr, String)>) {
    let mut listener = TcpListener::bind(([127, 0, 0, 1], 0).into(), &ListenerConfig::default()).unwrap();
    let thread = std::fs::read_link("/proc/thread-self").unwrap();
    started.send((listener.local_addr(), format!("/proc/{}/schedstat", thread.display()))).unwrap();
    let (stream, _) = listener.accept().await.unwrap();
    match wire {
        Wire::Native => drop(runtime::spawn(native_echo(stream))),
        Wire::Poll => drop(runtime::spawn(poll_echo(stream.into_poll().unwrap()))),
    }
    context.stop.stopped().await;
}

fn cpu_time(schedstat: &str) -> Duration {
    let text = std::fs::read_to_string(schedstat).unwrap();
    Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap())
}

/// Server CPU per frame, in microseconds.
fn measure(topology: &Topology, backend: BackendKind, wire: Wire, guard: bool, depth: usize, length: Duration) -> f64 {
    let mut config = FleetConfig::new(topology.clone(), probe::probe(Some(backend)).unwrap());
    config.guard = guard;
    let (started, begun) = mpsc::channel();
    let fleet = fleet::start(config, move |_| {
        let started = started.clone();
        move |context| serve(wire, context, started)
    })
    .unwrap();
    let (address, schedstat) = begun.recv().unwrap();
    let mut client = StdTcpStream::connect(address).unwrap();
    client.set_nodelay(true).unwrap();
    let (frames, mut answers) = (vec![7_u8; FRAME_BYTES * depth], vec![0_u8; FRAME_BYTES * depth]);
    let mut round = || {
        client.write_all(&frames).unwrap();
        client.read_exact(&mut answers).unwrap();
    };
    let warm = Instant::now() + length / 4;
    while Instant::now() < warm {
        round();
    }
    let (before, end, mut rounds) = (cpu_time(&schedstat), Instant::now() + length, 0_u32);
    while Instant::now() < end {
        round();
        rounds += 1;
    }
    let spent = cpu_time(&schedstat) - before;
    drop(client);
    fleet.shutdown().stop();
    fleet.join();
    spent.as_secs_f64() * 1e6 / (f64::from(rounds) * depth as f64)
}

/// The client keeps off the shard's CPU: what the two cost each other by sharing one would drown the guard's cost.
#[allow(unsafe_code)]
fn pin_client() {
    let cpus = topology::detect(None).unwrap().cpus;
    let mut mask = [0_u64; 16];
    let cpu = *cpus.last().unwrap();
    mask[cpu / 64] |= 1 << (cpu % 64);
    // SAFETY: the kernel reads as many bytes as the mask is long; pid 0 is this thread.
    assert_eq!(unsafe { libc::sched_setaffinity(0, size_of_val(&mask), mask.as_ptr().cast()) }, 0);
}

fn main() {
    // Detected before the client is pinned, or the shard would share its CPU.
    let topology = topology::detect(Some(1)).unwrap();
    pin_client();
    let seconds = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(1.0);
    let length = Duration::from_secs_f64(seconds);
    println!(
        "server CPU us per {FRAME_BYTES}-byte frame: median [min..max] of {REPEATS} interleaved runs of {length:?}"
    );
    for backend in [BackendKind::IoUring, BackendKind::Epoll] {
        for wire in [Wire::Native, Wire::Poll] {
            for depth in [1, 64] {
                let mut runs = [Vec::new(), Vec::new()];
                for _ in 0..REPEATS {
                    for (guard, runs) in runs.iter_mut().enumerate() {
                        runs.push(measure(&topology, backend, wire, guard == 1, depth, length));
                    }
                }
                for (guard, runs) in runs.iter_mut().enumerate() {
                    runs.sort_by(f64::total_cmp);
                    println!(
                        "{:9} {wire:6?} depth {depth:2} guard {:3}: {:7.3} [{:.3}..{:.3}]",
                        backend.name(),
                        ["off", "on"][guard],
                        runs[REPEATS / 2],
                        runs[0],
                        runs[REPEATS - 1]
                    );
                }
            }
        }
    }
}
