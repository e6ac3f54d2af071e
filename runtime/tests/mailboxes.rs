//! Mailboxes: in order, bounded, and no call without an end.

#![allow(clippy::unwrap_used)] // A failed step fails the test.

mod support;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    time::Duration,
};

use runtime::{
    ShardContext,
    mailbox::{CallError, Endpoint, Inbound, Mailbox, mesh},
};
use support::{PATIENCE, on_shard, start};

type Ends = Vec<Option<Endpoint<u64, u64>>>;

fn ends(endpoints: Vec<Endpoint<u64, u64>>) -> Ends {
    endpoints.into_iter().map(Some).collect()
}

/// Answers calls with the double, drops the call that carries 13, until the stop.
async fn serve(mailbox: Mailbox<u64, u64>, context: ShardContext) {
    let mut batch = Vec::new();
    loop {
        if context.stop.unless_stopped(mailbox.recv(&mut batch)).await.is_none() {
            return;
        }
        for inbound in batch.drain(..) {
            match inbound {
                Inbound::Request { body: 13, .. } => {}
                Inbound::Request { body, reply: Some(reply), .. } => reply.send(body * 2),
                Inbound::Request { from, body, reply: None } => {
                    while mailbox.post(from, body + 1).is_err() {
                        runtime::yield_now().await;
                    }
                }
                Inbound::Reply { .. } => {}
            }
        }
    }
}

/// Calls shard 1, again when its lane is full.
async fn call(mailbox: &Mailbox<u64, u64>, value: u64) -> Result<u64, CallError<u64>> {
    loop {
        match mailbox.call(1, value).await {
            Err(CallError::Full { .. }) => runtime::yield_now().await,
            ended => return ended,
        }
    }
}

#[test]
fn messages_arrive_in_order_and_calls_are_answered_across_shards() {
    const MESSAGES: u64 = 20_000;
    for backend in support::backends() {
        let (endpoints, stats) = mesh::<u64, u64>(2, 64);
        let mut endpoints = ends(endpoints);
        let (done, finished) = mpsc::channel();
        let fleet = start(backend, 2, |id| {
            let endpoint = endpoints[id].take().unwrap();
            let done = done.clone();
            move |context: ShardContext| async move {
                let mailbox = endpoint.attach();
                if id == 1 {
                    return serve(mailbox, context).await;
                }
                let calling = mailbox.clone();
                let calls = runtime::spawn(async move {
                    for value in 100..2_100 {
                        assert_eq!(call(&calling, value).await.unwrap(), value * 2);
                    }
                    assert!(matches!(call(&calling, 13).await, Err(CallError::Abandoned)));
                });
                let (mut sent, mut received, mut batch) = (1_000_000, 1_000_001, Vec::new());
                while received < 1_000_001 + MESSAGES {
                    while sent < 1_000_000 + MESSAGES && mailbox.try_send(1, sent).is_ok() {
                        sent += 1;
                    }
                    mailbox.recv(&mut batch).await;
                    for inbound in batch.drain(..) {
                        let Inbound::Reply { from: 1, body } = inbound else { panic!("{inbound:?}") };
                        assert_eq!(body, received);
                        received += 1;
                    }
                }
                let mut keep = Vec::new();
                let receiving = runtime::spawn({
                    let mailbox = mailbox.clone();
                    let stop = context.stop.clone();
                    async move {
                        let _ = stop.unless_stopped(mailbox.recv(&mut keep)).await;
                    }
                });
                calls.await.unwrap();
                done.send(()).unwrap();
                context.shutdown.stop();
                receiving.await.unwrap();
            }
        });
        finished.recv_timeout(PATIENCE).expect("everything is answered in time");
        fleet.join();
        let lanes = stats.lanes();
        let there = lanes.iter().find(|lane| (lane.from, lane.to) == (0, 1)).unwrap();
        let back = lanes.iter().find(|lane| (lane.from, lane.to) == (1, 0)).unwrap();
        assert_eq!(there.sent, MESSAGES + 2_001, "{backend:?}");
        assert_eq!(back.replies, MESSAGES + 2_001, "{backend:?}");
        assert!(there.refused > 0, "the lane of 64 was full at times");
    }
}

#[test]
fn a_full_lane_refuses_hands_the_message_back_and_counts() {
    let (endpoints, stats) = mesh::<u64, u64>(2, 4);
    let mut endpoints = ends(endpoints);
    let mine = endpoints[0].take().unwrap();
    on_shard(support::backends()[0], move |_| async move {
        // Nobody receives at the other end.
        let mailbox = mine.attach();
        for value in 0..4 {
            mailbox.try_send(1, value).unwrap();
        }
        let full = mailbox.try_send(1, 4).unwrap_err();
        assert_eq!((full.to, full.message), (1, 4));
        runtime::yield_now().await;
        assert!(mailbox.try_send(1, 5).is_err(), "handing over is not receiving");
        assert!(matches!(mailbox.call(1, 6).await, Err(CallError::Full { request: 6, .. })));
        for value in 0..4 {
            mailbox.post(1, value).unwrap();
        }
        assert_eq!(mailbox.post(1, 9).unwrap_err().message, 9);
        // The own lane is a lane like any other.
        mailbox.try_send(0, 7).unwrap();
        let mut batch = Vec::new();
        mailbox.recv(&mut batch).await;
        assert!(matches!(batch[..], [Inbound::Request { from: 0, body: 7, reply: None }]));
    });
    let lane = stats.lanes().into_iter().find(|lane| (lane.from, lane.to) == (0, 1)).unwrap();
    assert_eq!((lane.sent, lane.refused, lane.replies, lane.replies_refused), (4, 3, 4, 1));
}

#[test]
fn forgotten_calls_keep_their_place_until_answered() {
    let (endpoints, _stats) = mesh::<u64, u64>(1, 2);
    let mut endpoints = ends(endpoints);
    let mine = endpoints[0].take().unwrap();
    on_shard(support::backends()[0], move |_| async move {
        let mailbox = mine.attach();
        for value in 0..2 {
            assert!(runtime::timeout(Duration::from_millis(1), mailbox.call(0, value)).await.is_err());
        }
        assert!(matches!(mailbox.call(0, 2).await, Err(CallError::Full { .. })), "two answers may still come");
        let mut batch = Vec::new();
        mailbox.recv(&mut batch).await;
        assert_eq!(batch.len(), 2);
        drop(batch);
        let done = Arc::new(AtomicBool::new(false));
        let (answering, finished) = (mailbox.clone(), done.clone());
        let serving = runtime::spawn(async move {
            let mut batch = Vec::new();
            while !finished.load(Ordering::Relaxed) {
                answering.recv(&mut batch).await;
                for inbound in batch.drain(..) {
                    if let Inbound::Request { body, reply: Some(reply), .. } = inbound {
                        reply.send(body);
                    }
                }
            }
        });
        let answer = loop {
            match mailbox.call(0, 3).await {
                Ok(answer) => break answer,
                Err(_) => runtime::yield_now().await,
            }
        };
        assert_eq!(answer, 3);
        done.store(true, Ordering::Relaxed);
        mailbox.try_send(0, 0).unwrap();
        serving.await.unwrap();
    });
}
