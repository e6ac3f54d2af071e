//! Durable before visible, and nothing acknowledged is lost: on real shards, a real journal and a real store.

mod common;

use common::journal_seam::Stalling;
use common::store_seam::Switched;
use common::{Server, attach, chapter, config, grant, outgoing, until};
use engine::boot::Seams;
use engine::{Ask, Command, Done, Outgoing, Query, SetProgress, View};
use proto::{DeviceId, DeviceSeq, MangaId};
use std::collections::HashMap;
use std::time::Duration;

#[test]
fn nothing_is_answered_announced_or_readable_before_it_is_durable() {
    let folder = tempfile::tempdir().unwrap();
    let journal = Stalling::default();
    let seams = Seams { journal: Some(std::sync::Arc::new(journal.clone())), ..Seams::default() };
    let server = Server::start(config(folder.path(), 2), seams);
    let (tokens, series) = server.seed(1, 3);
    let (token, manga) = (tokens[0].clone(), series[0]);
    let owner = server.owner(&token);
    let (ready, is_ready) = std::sync::mpsc::channel();
    let (go_on, may_go_on) = std::sync::mpsc::channel::<()>();
    let stalled = journal.clone();
    let submitted = token.clone();
    let sync = server.begin(owner, move |engine| async move {
        let (sender, other) = (attach(&engine, &submitted).await, attach(&engine, &submitted).await);
        let _ = (outgoing(&sender, 0).await, outgoing(&other, 0).await);
        stalled.close();
        sender.submit(1, SetProgress::to(manga, chapter(5))).unwrap();
        sender.request(2, Ask::Get(manga)).unwrap();
        other.request(1, Ask::CatchUp(None)).unwrap();
        // A duplicate and a conflict are computed from the same undurable state.
        sender.submit(3, SetProgress::to(manga, chapter(4))).unwrap();
        ready.send(()).unwrap();
        let (mut to_sender, mut to_other) = (Vec::new(), Vec::new());
        loop {
            runtime::sleep(Duration::from_millis(5)).await;
            let came = sender.try_next(&mut to_sender) | other.try_next(&mut to_other);
            // Told before the gate opens: what came without having been told came too early.
            if may_go_on.try_recv().is_ok() {
                break;
            }
            assert!(!came, "too early: {to_sender:?} {to_other:?}");
        }
        to_sender.extend(outgoing(&sender, 3 - to_sender.len()).await);
        to_other.extend(outgoing(&other, 2 - to_other.len()).await);
        (to_sender, to_other)
    });
    is_ready.recv_timeout(common::PATIENCE).unwrap();
    // A read through the other shard waits as well.
    let reader = token.clone();
    let read = server.begin(1 - owner, move |engine| async move {
        let grant = grant(&engine, &reader).await;
        engine.query(&grant, Query::Progress(manga)).await
    });
    assert!(read.recv_timeout(Duration::from_millis(300)).is_err(), "readable before it was durable");
    go_on.send(()).unwrap();
    journal.open_gate();
    let (to_sender, to_other) = sync.recv_timeout(common::PATIENCE).unwrap();
    let Outgoing::Ack { seq: 1, acked } = &to_sender[0] else { panic!("{to_sender:?}") };
    assert_eq!(acked.state.chapter, chapter(5));
    assert!(matches!(&to_sender[1], Outgoing::State { seq: 2, state: Some(state), .. } if state.chapter == chapter(5)));
    assert!(matches!(&to_sender[2], Outgoing::Reject { seq: 3, fault } if fault.code == proto::Code::Conflict));
    assert!(to_other.iter().any(|out| common::announced(out) == Some((manga.0, "5".into()))), "{to_other:?}");
    assert!(to_other.iter().any(|out| matches!(out, Outgoing::CatchUp { catch_up, .. } if catch_up.snapshot)));
    let View::Progress(Some(state)) = read.recv_timeout(common::PATIENCE).unwrap().unwrap() else {
        panic!("not readable")
    };
    assert_eq!(state.chapter, chapter(5));
}

#[test]
fn who_waits_for_the_disk_is_let_on_and_refused_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let journal = Stalling::default();
    let seams = Seams { journal: Some(std::sync::Arc::new(journal.clone())), ..Seams::default() };
    let mut fast = config(folder.path(), 1);
    (fast.limits.frame_rate_per_s, fast.limits.frame_burst) = (10_000_000, 10_000_000);
    let window = u64::from(fast.limits.window_max);
    let server = Server::start(fast, seams);
    let (tokens, series) = server.seed(1, 1);
    let (token, manga) = (tokens[0].clone(), series[0]);
    let stalled = journal.clone();
    server
        .begin(0, move |engine| async move {
            // Before the disk stalls: a new connection is answered only when its user's changes are durable.
            let mut connections = Vec::new();
            for _ in 0..8 {
                connections.push(attach(&engine, &token).await);
            }
            let refused = connections.pop().unwrap();
            stalled.close();
            let mut chapters = 1..;
            let mut submitted = 0;
            let places = connections.iter().flat_map(|connection| (1..=window).map(move |seq| (connection, seq)));
            for (connection, seq) in places {
                if connection.is_pressed() {
                    break;
                }
                connection.submit(seq, SetProgress::to(manga, chapter(chapters.next().unwrap()))).unwrap();
                submitted += 1;
            }
            let last = &connections[connections.len() - 1];
            let waited = runtime::time::timeout(Duration::from_millis(50), last.room()).await;
            assert!(waited.is_err(), "there was room after {submitted}");
            refused.submit(1, SetProgress::to(manga, chapter(chapters.next().unwrap()))).unwrap();
            stalled.open_gate();
            last.room().await;
            assert!(!last.is_pressed());
            last.submit(1, SetProgress::to(manga, chapter(chapters.next().unwrap()))).unwrap();
            let (mut acked, mut out) = (0, Vec::new());
            while acked < submitted + 1 {
                for connection in &connections {
                    connection.try_next(&mut out);
                }
                for answer in out.drain(..) {
                    match answer {
                        Outgoing::Ack { .. } => acked += 1,
                        Outgoing::Announcement(_) => {}
                        other => panic!("{other:?}"),
                    }
                }
                runtime::sleep(Duration::from_millis(1)).await;
            }
            let answers = outgoing(&refused, 1).await;
            let is_busy =
                |out: &Outgoing| matches!(out, Outgoing::Reject { fault, .. } if fault.code == proto::Code::Busy);
            assert!(answers.iter().any(is_busy), "who did not wait: {answers:?}");
        })
        .recv_timeout(common::PATIENCE)
        .unwrap();
}

#[test]
fn recovery_with_another_number_of_shards_restores_every_acknowledged_update() {
    let folder = tempfile::tempdir().unwrap();
    let store = Switched::default();
    let mut acknowledged: HashMap<(String, MangaId), u32> = HashMap::new();
    {
        let server = Server::start(config(folder.path(), 2), Seams { store: Some(store.seam()), ..Seams::default() });
        let (tokens, series) = server.seed(20, 5);
        store.set_holds(true);
        for round in 1..=3_u32 {
            for (at, token) in tokens.iter().enumerate() {
                let manga = series[(at + round as usize) % series.len()];
                server.set(at % 2, token, SetProgress::to(manga, chapter(round * 10))).unwrap();
                acknowledged.insert((token.clone(), manga), round * 10);
            }
        }
        server.stop();
    }
    for shards in [1, 3] {
        let server = Server::start(config(folder.path(), shards), Seams::default());
        if shards == 1 {
            assert!(server.running().facts().replayed >= acknowledged.len() as u64, "{:?}", server.running().facts());
        }
        for ((token, manga), expected) in &acknowledged {
            let state = server.get(0, token, *manga).unwrap().unwrap_or_else(|| panic!("{manga} is gone"));
            assert_eq!(state.chapter, chapter(*expected));
        }
        // Versions go on from where they were.
        let ((token, manga), last) = acknowledged.iter().next().unwrap();
        let before = server.get(0, token, *manga).unwrap().unwrap().key.version;
        let Done::Progress(acked) = server.set(0, token, SetProgress::to(*manga, chapter(*last))).unwrap() else {
            panic!("no ack")
        };
        assert!(acked.state.key.version > before);
        server.stop();
    }
}

#[test]
fn a_retry_is_applied_once_even_across_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let device = DeviceId::new_v7();
    let update = |manga, number, seq| SetProgress {
        device: Some(device),
        device_seq: Some(DeviceSeq(seq)),
        ..SetProgress::to(manga, chapter(number))
    };
    let (token, manga, version) = {
        let server = Server::start(config(folder.path(), 2), Seams::default());
        let (tokens, series) = server.seed(1, 1);
        let first = server.set(0, &tokens[0], update(series[0], 3, 1)).unwrap();
        let again = server.set(1, &tokens[0], update(series[0], 3, 1)).unwrap();
        let (Done::Progress(first), Done::Progress(again)) = (first, again) else { panic!("no acks") };
        assert!(!first.already && again.already);
        assert_eq!(first.state.key, again.state.key);
        (tokens[0].clone(), series[0], first.state.key.version)
    };
    let server = Server::start(config(folder.path(), 1), Seams::default());
    let Done::Progress(third) = server.set(0, &token, update(manga, 3, 1)).unwrap() else { panic!("no ack") };
    assert!(third.already && third.state.key.version == version);
    let Done::Progress(fourth) = server.set(0, &token, update(manga, 4, 2)).unwrap() else { panic!("no ack") };
    assert!(!fourth.already);
}

#[test]
fn an_ack_that_wants_the_database_waits_for_it_and_keeps_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let store = Switched::default();
    let server = Server::start(config(folder.path(), 1), Seams { store: Some(store.seam()), ..Seams::default() });
    let (tokens, series) = server.seed(1, 2);
    let (token, first, second) = (tokens[0].clone(), series[0], series[1]);
    server.set(0, &token, SetProgress::to(first, chapter(1))).unwrap();
    store.set_holds(true);
    let reopened = store.clone();
    let acks = server.on(0, move |engine| async move {
        let attachment = attach(&engine, &token).await;
        let wanted = SetProgress { ack_database: true, ..SetProgress::to(first, chapter(2)) };
        attachment.submit(1, wanted).unwrap();
        attachment.submit(2, SetProgress::to(second, chapter(1))).unwrap();
        // The journal has it: it is readable, although the database does not.
        let grant = grant(&engine, &token).await;
        loop {
            let View::Progress(Some(state)) = engine.query(&grant, Query::Progress(first)).await.unwrap() else {
                panic!()
            };
            if state.chapter == chapter(2) {
                break;
            }
        }
        let mut early = Vec::new();
        assert!(!attachment.try_next(&mut early), "{early:?}");
        reopened.set_holds(false);
        outgoing(&attachment, 2).await
    });
    let seqs: Vec<u64> =
        acks.iter().filter_map(|out| if let Outgoing::Ack { seq, .. } = out { Some(*seq) } else { None }).collect();
    assert_eq!(seqs, [1, 2]);
}

#[test]
fn the_store_away_leaves_loaded_users_served_and_refuses_the_others() {
    let folder = tempfile::tempdir().unwrap();
    let store = Switched::default();
    let server = Server::start(config(folder.path(), 2), Seams { store: Some(store.seam()), ..Seams::default() });
    let (tokens, series) = server.seed(2, 1);
    let manga = series[0];
    server.set(0, &tokens[0], SetProgress::to(manga, chapter(1))).unwrap();
    store.set_away(true);
    server.set(1, &tokens[0], SetProgress::to(manga, chapter(2))).unwrap();
    assert_eq!(server.get(0, &tokens[0], manga).unwrap().unwrap().chapter, chapter(2));
    let refused = server.set(0, &tokens[1], SetProgress::to(manga, chapter(1))).unwrap_err();
    assert_eq!((refused.code, refused.wait_ms()), (proto::Code::Unavailable, Some(500)));
    until("health says degraded", || server.on(0, |engine| async move { engine.health().degraded }));
    store.set_away(false);
    server.set(0, &tokens[1], SetProgress::to(manga, chapter(1))).unwrap();
    until("health is well again", || server.on(0, |engine| async move { !engine.health().degraded }));
}

#[test]
fn a_tiny_memory_changes_nothing_but_the_number_of_loads() {
    let folder = tempfile::tempdir().unwrap();
    let store = Switched::default();
    let mut tiny = config(folder.path(), 1);
    tiny.limits.user_bytes_max = 4 << 10;
    let server = Server::start(tiny, Seams { store: Some(store.seam()), ..Seams::default() });
    let (tokens, series) = server.seed(40, 2);
    for round in 1..=3 {
        for token in &tokens {
            let Done::Progress(acked) = server.set(0, token, SetProgress::to(series[0], chapter(round))).unwrap()
            else {
                panic!("no ack")
            };
            assert_eq!(acked.state.chapter, chapter(round));
        }
        // Pinned until the store has them; then they go, and come back from the store.
        until("the store has followed", || {
            let backlog = server.running().admin().backlog();
            backlog.stored_lsn >= backlog.durable_lsn
        });
        until("memory was given back", || {
            let before = store.switches.loads.load(std::sync::atomic::Ordering::SeqCst);
            tokens.iter().for_each(|token| assert!(server.get(0, token, series[0]).unwrap().is_some()));
            store.switches.loads.load(std::sync::atomic::Ordering::SeqCst) > before + 20
        });
    }
    for token in &tokens {
        assert_eq!(server.get(0, token, series[0]).unwrap().unwrap().chapter, chapter(3));
    }
}

#[test]
fn one_load_serves_everybody_who_waits() {
    let folder = tempfile::tempdir().unwrap();
    let store = Switched::default();
    let server = Server::start(config(folder.path(), 2), Seams { store: Some(store.seam()), ..Seams::default() });
    let (tokens, series) = server.seed(1, 1);
    let (token, manga) = (tokens[0].clone(), series[0]);
    let before = store.switches.loads.load(std::sync::atomic::Ordering::SeqCst);
    let answers = server.on(server.owner(&tokens[0]), move |engine| async move {
        let grant = grant(&engine, &token).await;
        let asks: Vec<_> = (0..50)
            .map(|_| {
                let (engine, grant) = (engine.clone(), grant.clone());
                runtime::spawn(async move {
                    engine.command(&grant, Command::SetProgress(SetProgress::to(manga, chapter(1)))).await
                })
            })
            .collect();
        let mut answers = 0;
        for ask in asks {
            answers += usize::from(ask.await.unwrap().is_ok());
        }
        answers
    });
    assert_eq!(answers, 50);
    assert_eq!(store.switches.loads.load(std::sync::atomic::Ordering::SeqCst), before + 1);
}
