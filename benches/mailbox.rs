//! Round trips between two pinned shards: the batched mailbox, and beside it the obvious alternative (a bounded standard
//! channel and a coalesced wake), at several depths. A floor against regression, not a capacity.

#![allow(clippy::unwrap_used, missing_docs)] // A bench; criterion's macros make undocumented items.

use std::{
    hint::black_box,
    sync::mpsc,
    time::{Duration, Instant},
};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use runtime::{
    Fleet, FleetConfig, ShardContext, fleet,
    local::Signal,
    mailbox::{Inbound, Mailbox, mesh},
    notify::Notify,
    probe, topology,
};

/// Runs `rounds` round trips, `depth` at a time, and says how long they took.
struct Order {
    rounds: u64,
    depth: u64,
    answer: mpsc::Sender<Duration>,
}

/// Where orders arrive on shard 0.
struct Desk {
    orders: mpsc::Receiver<Order>,
    wake: Notify,
}

impl Desk {
    async fn next(&self) -> Option<Order> {
        loop {
            match self.orders.try_recv() {
                Ok(order) => return Some(order),
                Err(mpsc::TryRecvError::Disconnected) => return None,
                Err(mpsc::TryRecvError::Empty) => self.wake.notified().await,
            }
        }
    }
}

/// A running pair of shards and the way to give it orders.
struct Rig {
    orders: Option<mpsc::Sender<Order>>,
    wake: Notify,
    fleet: Option<Fleet>,
}

impl Rig {
    fn run(&self, rounds: u64, depth: u64) -> Duration {
        let (answer, answered) = mpsc::channel();
        self.orders.as_ref().unwrap().send(Order { rounds, depth, answer }).unwrap();
        self.wake.notify();
        answered.recv().unwrap()
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.orders.take();
        self.wake.notify();
        if let Some(fleet) = self.fleet.take() {
            fleet.shutdown().stop();
            fleet.join();
        }
    }
}

fn config() -> FleetConfig {
    FleetConfig::new(topology::detect(Some(2)).unwrap(), probe::probe(None).unwrap())
}

/// Shard 0: keeps `depth` messages under way, without calls.
async fn exchange_for(desk: Desk, mailbox: Mailbox<u64, u64>) {
    let mut batch = Vec::new();
    while let Some(order) = desk.next().await {
        let began = Instant::now();
        let (mut sent, mut received) = (0, 0);
        while received < order.rounds {
            while sent < order.rounds && sent < received + order.depth {
                mailbox.try_send(1, sent).unwrap();
                sent += 1;
            }
            mailbox.recv(&mut batch).await;
            received += batch.len() as u64;
            black_box(&batch);
            batch.clear();
        }
        order.answer.send(began.elapsed()).unwrap();
    }
}

async fn receive(mailbox: Mailbox<u64, u64>, context: ShardContext) {
    let mut batch = Vec::new();
    while context.stop.unless_stopped(mailbox.recv(&mut batch)).await.is_some() {
        for inbound in batch.drain(..) {
            match inbound {
                Inbound::Request { body, reply: Some(reply), .. } => reply.send(body + 1),
                Inbound::Request { from, body, reply: None } => mailbox.post(from, body + 1).unwrap(),
                Inbound::Reply { .. } => {}
            }
        }
    }
}

async fn call_for(desk: Desk, mailbox: Mailbox<u64, u64>) {
    while let Some(order) = desk.next().await {
        let began = Instant::now();
        let callers: Vec<_> = (0..order.depth)
            .map(|_| {
                let (mailbox, rounds) = (mailbox.clone(), order.rounds.div_ceil(order.depth));
                runtime::spawn(async move {
                    for round in 0..rounds {
                        black_box(mailbox.call(1, round).await.unwrap());
                    }
                })
            })
            .collect();
        for caller in callers {
            caller.await.unwrap();
        }
        order.answer.send(began.elapsed()).unwrap();
    }
}

fn mailbox_rig(calls: bool) -> Rig {
    let (endpoints, _stats) = mesh::<u64, u64>(2, 8192);
    let mut endpoints = endpoints.into_iter();
    let (orders, incoming) = mpsc::channel();
    let wake = Notify::new();
    let mut desk = Some(Desk { orders: incoming, wake: wake.clone() });
    let fleet = fleet::start(config(), |_| {
        let (endpoint, desk) = (endpoints.next().unwrap(), desk.take());
        move |context: ShardContext| async move {
            let mailbox = endpoint.attach();
            match desk {
                Some(desk) if calls => {
                    let receiving = runtime::spawn(receive(mailbox.clone(), context.clone()));
                    call_for(desk, mailbox).await;
                    receiving.await.unwrap();
                }
                Some(desk) => exchange_for(desk, mailbox).await,
                None => receive(mailbox, context).await,
            }
        }
    })
    .unwrap();
    Rig { orders: Some(orders), wake, fleet: Some(fleet) }
}

/// One direction of the alternative.
struct Channel {
    sender: mpsc::SyncSender<u64>,
    wake: Notify,
}

impl Channel {
    fn send(&self, value: u64) {
        self.sender.try_send(value).unwrap();
        self.wake.notify();
    }
}

fn channel() -> (Channel, mpsc::Receiver<u64>) {
    let (sender, receiver) = mpsc::sync_channel(8192);
    (Channel { sender, wake: Notify::new() }, receiver)
}

/// Shard 0 of the alternative: keeps `depth` messages under way; no calls, no table, so it does less than the mailbox.
async fn send_for(desk: Desk, there: Channel, wake: Notify, back: mpsc::Receiver<u64>) {
    while let Some(order) = desk.next().await {
        let began = Instant::now();
        let (mut sent, mut received) = (0, 0);
        while sent < order.depth.min(order.rounds) {
            there.send(sent);
            sent += 1;
        }
        while received < order.rounds {
            match back.try_recv() {
                Ok(value) => {
                    black_box(value);
                    received += 1;
                    if sent < order.rounds {
                        there.send(sent);
                        sent += 1;
                    }
                }
                Err(_) => wake.notified().await,
            }
        }
        order.answer.send(began.elapsed()).unwrap();
    }
}

async fn bounce(there: mpsc::Receiver<u64>, wake: Notify, back: Channel) {
    loop {
        while let Ok(value) = there.try_recv() {
            back.send(value + 1);
        }
        wake.notified().await;
    }
}

fn channel_rig() -> Rig {
    let ((there, arriving), (back, returning)) = (channel(), channel());
    let (there_wake, back_wake) = (there.wake.clone(), back.wake.clone());
    let (orders, incoming) = mpsc::channel();
    let wake = Notify::new();
    let mut first = Some((Desk { orders: incoming, wake: wake.clone() }, there, back_wake, returning));
    let mut second = Some((arriving, there_wake, back));
    let fleet = fleet::start(config(), |id| {
        let (first, second) = (first.take_if(|_| id == 0), second.take_if(|_| id == 1));
        move |context: ShardContext| async move {
            if let Some((desk, there, wake, back)) = first {
                send_for(desk, there, wake, back).await;
                context.stop.stopped().await;
            } else if let Some((there, wake, back)) = second {
                context.stop.unless_stopped(bounce(there, wake, back)).await;
            }
        }
    })
    .unwrap();
    Rig { orders: Some(orders), wake, fleet: Some(fleet) }
}

/// The cost of the end-of-turn flush by itself: one task wakes another and waits for it, on one shard.
fn local_rig() -> Rig {
    let (orders, incoming) = mpsc::channel();
    let wake = Notify::new();
    let mut desk = Some(Desk { orders: incoming, wake: wake.clone() });
    let mut config = config();
    config.topology.shards.truncate(1);
    let fleet = fleet::start(config, |_| {
        let desk = desk.take();
        move |context: ShardContext| async move {
            let (there, back) = (Signal::new(), Signal::new());
            let (theirs, ours, stop) = (there.clone(), back.clone(), context.stop.clone());
            let other = runtime::spawn(async move {
                while stop.unless_stopped(theirs.raised()).await.is_some() {
                    ours.raise();
                }
            });
            while let Some(order) = desk.as_ref().unwrap().next().await {
                let began = Instant::now();
                for _ in 0..order.rounds {
                    there.raise();
                    back.raised().await;
                }
                order.answer.send(began.elapsed()).unwrap();
            }
            context.stop.stopped().await;
            other.await.unwrap();
        }
    })
    .unwrap();
    Rig { orders: Some(orders), wake, fleet: Some(fleet) }
}

fn round_trips(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("mailbox");
    group.throughput(Throughput::Elements(1));
    for depth in [1, 64, 512] {
        for (name, calls) in [("call", true), ("message", false)] {
            let rig = mailbox_rig(calls);
            group.bench_function(format!("{name}/depth {depth}"), |bencher| {
                bencher.iter_custom(|rounds| rig.run(rounds, depth));
            });
        }
        let rig = channel_rig();
        group.bench_function(format!("bounded channel and a coalesced wake/depth {depth}"), |bencher| {
            bencher.iter_custom(|rounds| rig.run(rounds, depth));
        });
    }
    let rig = local_rig();
    group.bench_function("task to task and back on one shard", |bencher| {
        bencher.iter_custom(|rounds| rig.run(rounds, 1));
    });
    group.finish();
}

criterion_group!(benches, round_trips);
criterion_main!(benches);
