//! Fleets begin whole, end cleanly, and do not outlive something essential.

#![allow(clippy::unwrap_used)] // A failed step fails the test.

mod support;

use std::{
    io::{Read, Write},
    net::TcpStream as StdTcpStream,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    time::Duration,
};

use runtime::{
    local::{Event, RefusedReason, Signal},
    net::{ListenerConfig, TcpListener},
    notify::Notify,
    task,
};
use support::{PATIENCE, on_shard, start, wait_until};

/// A server whose connections are idle in every way there is; each listens to the hard stop, as the product's do.
async fn serve(context: runtime::ShardContext, addresses: mpsc::Sender<std::net::SocketAddr>) {
    let any = ([127, 0, 0, 1], 0).into();
    let mut listener = TcpListener::bind(any, &ListenerConfig::default()).unwrap();
    addresses.send(listener.local_addr()).unwrap();
    let mut accepted = 0_usize;
    loop {
        let Some(Ok((stream, _))) = context.stop.unless_stopped(listener.accept()).await else { break };
        accepted += 1;
        let closer = stream.closer();
        let stop = context.stop.clone();
        runtime::spawn(async move {
            stop.stopped().await;
            closer.close();
        })
        .detach();
        runtime::spawn(async move {
            if accepted.is_multiple_of(2) {
                let mut stream = stream.into_poll().unwrap();
                let mut byte = [0];
                let mut buf = tokio::io::ReadBuf::new(&mut byte);
                let read = |cx: &mut std::task::Context<'_>| {
                    tokio::io::AsyncRead::poll_read(std::pin::Pin::new(&mut stream), cx, &mut buf)
                };
                std::future::poll_fn(read).await.unwrap();
            } else {
                let (mut read, mut write) = stream.split();
                write.write_all(b"!".as_slice()).await.0.unwrap();
                assert_eq!(read.read(Vec::with_capacity(64)).await.0.unwrap(), 0);
            }
        })
        .detach();
    }
    // Who had connected but was not accepted is closed in good order too.
    drop(listener.close());
}

#[test]
fn an_ended_fleet_leaves_no_descriptor_behind() {
    const TEST: &str = "an_ended_fleet_leaves_no_descriptor_behind";
    if !support::is_child() {
        // Alone in a process: other tests open descriptors too.
        let output = support::run_in_child(TEST);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        return;
    }
    for backend in support::backends() {
        let before = support::open_descriptors();
        for _ in 0..3 {
            let (addresses, bound) = mpsc::channel();
            let fleet = start(backend, 2, |_| {
                let addresses = addresses.clone();
                move |context| serve(context, addresses)
            });
            let mut clients = Vec::new();
            for _ in 0..2 {
                let address = bound.recv_timeout(PATIENCE).unwrap();
                for index in 0..20 {
                    let mut client = StdTcpStream::connect(address).unwrap();
                    client.set_read_timeout(Some(PATIENCE)).unwrap();
                    if index % 2 == 0 {
                        client.read_exact(&mut [0]).unwrap();
                    }
                    clients.push(client);
                }
            }
            fleet.shutdown().stop();
            fleet.join();
            for mut client in clients {
                assert_eq!(client.read(&mut [0]).unwrap(), 0, "the server's end is closed");
            }
        }
        // Rings are torn down by the kernel in the background.
        wait_until("all descriptors are closed", || support::open_descriptors() <= before);
    }
}

#[test]
fn a_panicking_task_takes_only_itself_with_it() {
    for backend in support::backends() {
        let before = task::panics_total();
        on_shard(backend, |_| async {
            let dropped = Event::new();
            struct Tells(Event);
            impl Drop for Tells {
                fn drop(&mut self) {
                    self.0.set();
                }
            }
            let witness = Tells(dropped.clone());
            let panicked = runtime::spawn(async move {
                let _witness = witness;
                runtime::yield_now().await;
                panic!("on purpose");
            });
            assert_eq!(panicked.await.unwrap_err().message, "on purpose");
            assert!(dropped.is_set(), "what the task held was dropped");
            assert_eq!(runtime::spawn(async { 7 }).await.unwrap(), 7);
        });
        assert!(task::panics_total() > before);
    }
}

fn ends_the_process(test: &str) {
    let output = support::run_in_child(test);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(task::FATAL_EXIT_CODE), "{said}");
}

#[test]
fn an_essential_task_that_panics_ends_the_process() {
    if !support::is_child() {
        return ends_the_process("an_essential_task_that_panics_ends_the_process");
    }
    on_shard(support::backends()[0], |_| async {
        runtime::spawn_essential("the test's", async { panic!("on purpose") }).detach();
        runtime::sleep(PATIENCE).await;
    });
}

#[test]
fn a_main_that_panics_ends_the_process() {
    if !support::is_child() {
        return ends_the_process("a_main_that_panics_ends_the_process");
    }
    let fleet = start(support::backends()[0], 2, |id| {
        move |context: runtime::ShardContext| async move {
            assert!(id == 1, "shard 0 panics on purpose");
            context.stop.stopped().await;
        }
    });
    fleet.join();
}

#[test]
fn an_essential_step_that_panics_ends_the_process_even_inside_an_ordinary_task() {
    if !support::is_child() {
        return ends_the_process("an_essential_step_that_panics_ends_the_process_even_inside_an_ordinary_task");
    }
    on_shard(support::backends()[0], |_| async {
        assert_eq!(runtime::essential("fine", || 3), 3);
        let _ = runtime::spawn(async { runtime::essential("apply", || panic!("on purpose")) }).await;
        runtime::sleep(PATIENCE).await;
    });
}

#[test]
fn every_shard_sees_both_phases_of_the_end() {
    for backend in support::backends() {
        let (drained, stopped) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let fleet = start(backend, 3, |_| {
            let (drained, stopped) = (drained.clone(), stopped.clone());
            move |context: runtime::ShardContext| async move {
                context.drain.draining().await;
                assert!(!context.stop.is_stopped() && context.drain.is_draining());
                drained.fetch_add(1, Ordering::SeqCst);
                context.stop.stopped().await;
                stopped.fetch_add(1, Ordering::SeqCst);
            }
        });
        assert!(!fleet.shutdown().is_draining());
        fleet.shutdown().drain();
        wait_until("all shards drain", || drained.load(Ordering::SeqCst) == 3);
        assert_eq!(stopped.load(Ordering::SeqCst), 0);
        assert!(!fleet.is_finished());
        fleet.shutdown().stop();
        fleet.join();
        assert_eq!(stopped.load(Ordering::SeqCst), 3);
    }
}

#[test]
fn shards_run_pinned_on_their_cpu() {
    for backend in support::backends() {
        let allowed = on_shard(backend, |context| async move {
            let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
            let list =
                status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap().trim().to_owned();
            (list, context.cpu.to_string())
        });
        assert_eq!(allowed.0, allowed.1);
    }
}

#[test]
fn an_idle_shard_sleeps() {
    for backend in support::backends() {
        let (schedstat, found) = mpsc::channel();
        let fleet = start(backend, 1, |_| {
            let schedstat = schedstat.clone();
            move |context: runtime::ShardContext| async move {
                let thread = std::fs::read_link("/proc/thread-self").unwrap();
                schedstat.send(format!("/proc/{}/schedstat", thread.display())).unwrap();
                context.stop.stopped().await;
            }
        });
        let path = found.recv_timeout(PATIENCE).unwrap();
        let cpu_ns = || -> u64 { std::fs::read_to_string(&path).unwrap().split(' ').next().unwrap().parse().unwrap() };
        let before = cpu_ns();
        std::thread::sleep(Duration::from_millis(200));
        // A shard that spins would use nearly all of it, one that sleeps next to nothing.
        assert!(cpu_ns() - before < 50_000_000, "{backend:?}");
        fleet.shutdown().stop();
        fleet.join();
    }
}

#[test]
fn timers_fire_in_order_and_timeouts_cut() {
    for backend in support::backends() {
        on_shard(backend, |_| async {
            let began = std::time::Instant::now();
            let (sender, mut order) = runtime::local::channel(4);
            for milliseconds in [30_u64, 10, 20] {
                let sender = sender.clone();
                runtime::spawn(async move {
                    runtime::sleep(Duration::from_millis(milliseconds)).await;
                    sender.try_send(milliseconds).unwrap();
                })
                .detach();
            }
            drop(sender);
            let mut seen = Vec::new();
            while order.recv_many(&mut seen, 2).await > 0 {}
            assert_eq!(seen, [10, 20, 30]);
            assert!(began.elapsed() >= Duration::from_millis(30));
            let never = std::future::pending::<()>();
            assert_eq!(runtime::timeout(Duration::from_millis(1), never).await, Err(runtime::Elapsed));
            assert_eq!(runtime::timeout(PATIENCE, async { 1 }).await, Ok(1));
        });
    }
}

#[test]
fn local_queues_are_bounded_and_tell_when_the_other_side_is_gone() {
    on_shard(support::backends()[0], |_| async {
        let (sender, mut receiver) = runtime::local::channel(2);
        sender.try_send(1).unwrap();
        sender.try_send(2).unwrap();
        let refused = sender.try_send(3).unwrap_err();
        assert_eq!((refused.message, refused.reason), (3, RefusedReason::Full));
        assert_eq!((receiver.len(), receiver.recv().await), (2, Some(1)));
        let again = sender.clone();
        drop(sender);
        again.try_send(4).unwrap();
        drop(again);
        assert_eq!((receiver.recv().await, receiver.recv().await, receiver.recv().await), (Some(2), Some(4), None));
        let (sender, receiver) = runtime::local::channel(1);
        drop(receiver);
        assert_eq!(sender.try_send(5).unwrap_err().reason, RefusedReason::Closed);
    });
}

#[test]
fn signals_and_events_lose_no_wake() {
    on_shard(support::backends()[0], |_| async {
        let (signal, event) = (Signal::new(), Event::new());
        signal.raise();
        signal.raise();
        signal.raised().await;
        assert!(runtime::timeout(Duration::from_millis(2), signal.raised()).await.is_err(), "two raises were one");
        let waiters: Vec<_> = (0..300)
            .map(|_| {
                let event = event.clone();
                runtime::spawn(async move { event.wait().await })
            })
            .collect();
        drop(event.wait());
        runtime::yield_now().await;
        event.set();
        for waiter in waiters {
            waiter.await.unwrap();
        }
        event.wait().await;
    });
}

#[test]
fn notifications_from_other_threads_are_coalesced_and_never_lost() {
    const ROUNDS: usize = 20_000;
    for backend in support::backends() {
        let notify = Notify::new();
        let produced = Arc::new(AtomicUsize::new(0));
        let (theirs, count) = (notify.clone(), produced.clone());
        let producer = std::thread::spawn(move || {
            for _ in 0..ROUNDS {
                count.fetch_add(1, Ordering::SeqCst);
                theirs.notify();
            }
        });
        let wakes = on_shard(backend, move |_| async move {
            let mut wakes = 0;
            loop {
                notify.notified().await;
                wakes += 1;
                if produced.load(Ordering::SeqCst) == ROUNDS {
                    return wakes;
                }
            }
        });
        producer.join().unwrap();
        assert!((1..=ROUNDS).contains(&wakes), "{backend:?}: {wakes}");
    }
}

#[test]
fn a_client_is_answered_by_the_shard_it_reached() {
    for backend in support::backends() {
        let (addresses, bound) = mpsc::channel();
        let fleet = start(backend, 1, |_| {
            let addresses = addresses.clone();
            move |context| serve(context, addresses)
        });
        let mut client = StdTcpStream::connect(bound.recv_timeout(PATIENCE).unwrap()).unwrap();
        client.read_exact(&mut [0]).unwrap();
        client.write_all(b"").unwrap();
        fleet.shutdown().stop();
        fleet.join();
    }
}
