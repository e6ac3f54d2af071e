//! Everything has a limit, refuses before it changes anything, and heals: on real shards, a real journal and a real store.

mod common;

use common::counted::{figure, refused};
use common::journal_seam::Stalling;
use common::store_seam::Switched;
use common::{Server, attach, chapter, config, grant, outgoing, until};
use engine::boot::{Seams, start};
use engine::{Command, Done, Doors, Encoders, Outgoing, SetProgress, StartError};
use proto::{Code, MangaId};
use std::sync::Arc;
use std::sync::atomic::Ordering;

#[test]
fn a_stalled_disk_means_busy_and_then_heals() {
    let before = refused("update", "journal");
    let folder = tempfile::tempdir().unwrap();
    let journal = Stalling::default();
    let seams = Seams { journal: Some(Arc::new(journal.clone())), ..Seams::default() };
    let mut wide = config(folder.path(), 1);
    wide.limits.window_max = 1_000_000;
    let server = Server::start(wide, seams);
    let (tokens, series) = server.seed(1, 1);
    let token = tokens[0].clone();
    let (manga, stalled) = (series[0], journal.clone());
    let (ready, is_ready) = std::sync::mpsc::channel();
    let work = server.begin(0, move |engine| async move {
        let grant = grant(&engine, &token).await;
        let options = engine::AttachOptions { form: engine::WireForm::Line, window: 1_000_000, lines: false };
        let attachment = engine.attach(grant, None, options).await.unwrap();
        stalled.close();
        const TRIES: u64 = 200_000;
        for seq in 1..=TRIES {
            attachment
                .submit(seq, SetProgress { force: true, ..SetProgress::to(manga, chapter(seq as u32 % 1_000)) })
                .unwrap();
            if seq % 1_000 == 0 {
                runtime::yield_now().await;
            }
        }
        ready.send(()).unwrap();
        let out = outgoing(&attachment, TRIES as usize).await;
        let seqs = out.iter().map(|out| match out {
            Outgoing::Ack { seq, .. } => (*seq, None),
            Outgoing::Reject { seq, fault } => (*seq, Some(fault.code)),
            other => panic!("{other:?}"),
        });
        let seqs: Vec<_> = seqs.collect();
        assert!(seqs.iter().zip(1..).all(|((seq, _), expected)| *seq == expected), "answers out of order");
        let last_acked = seqs.iter().rev().find(|(_, refused)| refused.is_none()).unwrap().0;
        let busy = seqs.iter().filter(|(_, refused)| *refused == Some(Code::Busy)).count() as u64;
        assert!(busy > 0, "never busy");
        // What was refused was not applied.
        attachment.request(0, engine::Ask::Get(manga)).unwrap();
        let [Outgoing::State { state: Some(state), .. }] = &outgoing(&attachment, 1).await[..] else {
            panic!("no state")
        };
        assert_eq!(state.chapter, chapter(last_acked as u32 % 1_000));
        attachment.submit(1, SetProgress { force: true, ..SetProgress::to(manga, chapter(7)) }).unwrap();
        assert!(matches!(outgoing(&attachment, 1).await[..], [Outgoing::Ack { .. }]), "did not heal");
        busy
    });
    is_ready.recv_timeout(common::PATIENCE).unwrap();
    journal.open_gate();
    let busy = work.recv_timeout(common::PATIENCE).unwrap();
    until("each is counted", || refused("update", "journal") >= before + busy);
}

#[test]
fn a_store_that_does_not_take_rows_means_busy_at_the_limit_and_then_heals() {
    let before = refused("update", "store_backlog");
    let folder = tempfile::tempdir().unwrap();
    let store = Switched::default();
    let mut small = config(folder.path(), 1);
    small.limits.dirty_bytes_max = 16 << 10;
    let server = Server::start(small, Seams { store: Some(store.seam()), ..Seams::default() });
    let (tokens, series) = server.seed(100, 1);
    store.set_holds(true);
    let refusal = tokens.iter().find_map(|token| server.set(0, token, SetProgress::to(series[0], chapter(1))).err());
    assert_eq!(refusal.expect("the limit is met").code, Code::Busy);
    until("it is counted", || refused("update", "store_backlog") > before);
    store.set_holds(false);
    until("writes are taken again", || server.set(0, &tokens[99], SetProgress::to(series[0], chapter(1))).is_ok());
}

#[test]
fn a_failed_load_answers_everybody_and_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let store = Switched::default();
    let server = Server::start(config(folder.path(), 1), Seams { store: Some(store.seam()), ..Seams::default() });
    let (tokens, series) = server.seed(1, 1);
    store.set_away(true);
    let (token, manga) = (tokens[0].clone(), series[0]);
    let before = store.switches.loads.load(Ordering::SeqCst);
    let refusals = server.on(0, move |engine| async move {
        let grant = grant(&engine, &token).await;
        let asks: Vec<_> = (0..20)
            .map(|_| {
                let (engine, grant) = (engine.clone(), grant.clone());
                let command = Command::SetProgress(SetProgress::to(manga, chapter(1)));
                runtime::spawn(async move { engine.command(&grant, command).await })
            })
            .collect();
        let mut refusals = Vec::new();
        for ask in asks {
            refusals.push(ask.await.unwrap().unwrap_err().code);
        }
        refusals
    });
    assert_eq!(refusals, [Code::Unavailable; 20]);
    assert_eq!(store.switches.loads.load(Ordering::SeqCst), before + 1);
    store.set_away(false);
    assert!(matches!(server.set(0, &tokens[0], SetProgress::to(manga, chapter(1))), Ok(Done::Progress(_))));
}

#[test]
fn frames_past_the_rate_are_refused_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let mut slow = config(folder.path(), 2);
    (slow.limits.frame_rate_per_s, slow.limits.frame_burst) = (1, 3);
    let server = Server::start(slow, Seams::default());
    let (tokens, series) = server.seed(1, 1);
    let token = tokens[0].clone();
    // From the other shard: the limit is the user's, wherever the connection is.
    let answers = server.on(1 - server.owner(&tokens[0]), move |engine| async move {
        let attachment = attach(&engine, &token).await;
        for seq in 0..5 {
            attachment.submit(seq, SetProgress::to(series[0], chapter(1))).unwrap();
        }
        outgoing(&attachment, 5).await
    });
    let too_fast: Vec<_> = answers
        .iter()
        .map(|out| matches!(out, Outgoing::Reject { fault, .. } if fault.code == Code::RateLimited))
        .collect();
    assert_eq!(too_fast, [false, false, false, true, true]);
}

#[test]
fn an_import_is_seen_by_every_shard_before_it_is_answered() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(config(folder.path(), 2), Seams::default());
    let before = server.on(0, |engine| async move { engine.catalogue().len() });
    let (tokens, series) = server.seed(1, 3);
    for shard in 0..2 {
        let known = series.clone();
        let (len, found) = server.on(shard, move |engine| async move {
            let catalogue = engine.catalogue();
            (catalogue.len(), known.iter().all(|id| catalogue.get(*id).is_some()))
        });
        assert!(len == before + 3 && found);
    }
    let unknown = server.set(0, &tokens[0], SetProgress::to(MangaId(1 << 40), chapter(1))).unwrap_err();
    assert_eq!(unknown.code, Code::NotFound);
}

#[test]
fn doors_that_do_not_open_fail_the_start_and_leave_the_folder_free() {
    let folder = tempfile::tempdir().unwrap();
    let doors: Doors = Arc::new(|_, context| match context.id {
        0 => Ok(Box::pin(async move { context.stop.stopped().await })),
        _ => Err("port 8081 is taken".to_owned()),
    });
    let failed = start(config(folder.path(), 2), Encoders::new(), doors).err().expect("the doors do not open");
    assert!(matches!(&failed, StartError::Doors(text) if text.contains("8081")), "{failed}");
    let server = Server::start(config(folder.path(), 2), Seams::default());
    let second = Server::try_start(config(folder.path(), 1), Seams::default()).err().expect("the folder is locked");
    assert!(matches!(second, StartError::Folder(_)), "{second}");
    server.stop();
}

#[test]
fn a_weak_secret_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut weak = config(folder.path(), 1);
    weak.tokens.secret.truncate(31);
    assert!(matches!(Server::try_start(weak, Seams::default()), Err(StartError::Config(_))));
}

#[test]
fn another_store_is_refused_until_it_is_adopted() {
    let folder = tempfile::tempdir().unwrap();
    {
        let server = Server::start(config(folder.path(), 1), Seams::default());
        let (tokens, series) = server.seed(1, 1);
        server.set(0, &tokens[0], SetProgress::to(series[0], chapter(1))).unwrap();
        server.stop();
    }
    let other = tempfile::tempdir().unwrap();
    Server::start(config(other.path(), 1), Seams::default()).stop();
    // With its log, or the old one's would be folded into it.
    for name in ["mangahub.db", "mangahub.db-wal", "mangahub.db-shm"] {
        let _ = std::fs::remove_file(folder.path().join(name));
        let _ = std::fs::copy(other.path().join(name), folder.path().join(name));
    }
    let refusal = Server::try_start(config(folder.path(), 1), Seams::default()).err().expect("another store's journal");
    assert!(matches!(&refusal, StartError::Journal(text) if text.contains("db adopt")), "{refusal}");
    let mut adopting = config(folder.path(), 1);
    adopting.adopt_store = true;
    Server::start(adopting, Seams::default()).stop();
    let server = Server::start(config(folder.path(), 1), Seams::default());
    let (tokens, series) = server.seed(1, 1);
    server.set(0, &tokens[0], SetProgress::to(series[0], chapter(1))).unwrap();
    // The old journal was set aside, not deleted.
    let aside = std::fs::read_dir(folder.path())
        .unwrap()
        .flatten()
        .any(|entry| entry.file_name().to_string_lossy().starts_with("journal.aside"));
    assert!(aside);
}

#[test]
fn answers_that_wait_for_the_database_are_bounded_even_when_their_connections_have_gone() {
    let before = refused("update", "held_full");
    let folder = tempfile::tempdir().unwrap();
    let store = Switched::default();
    let mut narrow = config(folder.path(), 1);
    narrow.limits.held_answers_max = 10;
    let server = Server::start(narrow, Seams { store: Some(store.seam()), ..Seams::default() });
    let (tokens, series) = server.seed(1, 1);
    let (token, manga) = (tokens[0].clone(), series[0]);
    server.set(0, &token, SetProgress::to(manga, chapter(1))).unwrap();
    store.set_holds(true);
    let wanted = move |number| SetProgress { ack_database: true, ..SetProgress::to(manga, chapter(number)) };
    let (visitor, back) = (token.clone(), store.clone());
    server.on(0, move |engine| async move {
        let mut number = 1;
        for _ in 0..5 {
            let attachment = attach(&engine, &visitor).await;
            for seq in 1..=4 {
                number += 1;
                attachment.submit(seq, wanted(number)).unwrap();
            }
            // Durable, and then nobody waits for the answers any more.
            attachment.request(5, engine::Ask::Get(manga)).unwrap();
            runtime::sleep(std::time::Duration::from_millis(50)).await;
        }
        let attachment = attach(&engine, &visitor).await;
        attachment.submit(1, wanted(1_000)).unwrap();
        let answers = outgoing(&attachment, 1).await;
        let [Outgoing::Reject { seq: 1, fault }] = &answers[..] else { panic!("{answers:?}") };
        assert_eq!(fault.code, Code::Busy);
        // Whoever is content with the journal is served.
        attachment.submit(2, SetProgress::to(manga, chapter(1_001))).unwrap();
        assert!(matches!(&outgoing(&attachment, 1).await[..], [Outgoing::Ack { seq: 2, .. }]));
        back.set_holds(false);
        let mut seq = 2;
        loop {
            seq += 1;
            attachment.submit(seq, wanted(1_002)).unwrap();
            if matches!(&outgoing(&attachment, 1).await[..], [Outgoing::Ack { .. }]) {
                break;
            }
            runtime::sleep(std::time::Duration::from_millis(5)).await;
        }
    });
    until("it is counted", || refused("update", "held_full") > before);
}

#[test]
fn a_flood_of_catch_ups_is_refused_before_it_fills_the_memory() {
    let folder = tempfile::tempdir().unwrap();
    let journal = Stalling::default();
    let seams = Seams { journal: Some(Arc::new(journal.clone())), ..Seams::default() };
    let server = Server::start(config(folder.path(), 1), seams);
    let (tokens, series) = server.seed(1, 1);
    let (token, manga) = (tokens[0].clone(), series[0]);
    server.on(0, move |engine| async move {
        let attachment = attach(&engine, &token).await;
        // Nothing is answered meanwhile, and each answer may be large.
        journal.close();
        attachment.submit(1, SetProgress::to(manga, chapter(1))).unwrap();
        (2..=1_001).for_each(|seq| attachment.request(seq, engine::Ask::CatchUp(None)).unwrap());
        journal.open_gate();
        let answers = outgoing(&attachment, 1_001).await;
        let caught_up = answers.iter().filter(|out| matches!(out, Outgoing::CatchUp { .. })).count();
        let busy = |out: &&Outgoing| matches!(out, Outgoing::Reject { fault, .. } if fault.code == Code::Busy);
        assert_eq!((caught_up, answers.iter().filter(busy).count()), (16, 984));
        for seq in 2_000..2_100 {
            attachment.request(seq, engine::Ask::CatchUp(None)).unwrap();
            assert!(matches!(&outgoing(&attachment, 1).await[..], [Outgoing::CatchUp { .. }]));
        }
    });
}

#[test]
fn a_refusal_on_a_connection_elsewhere_waits_for_the_answers_before_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut slow = config(folder.path(), 2);
    (slow.limits.line_rate_per_s, slow.limits.line_burst) = (1, 3);
    let server = Server::start(slow, Seams::default());
    let (tokens, series) = server.seed(1, 1);
    let (token, manga) = (tokens[0].clone(), series[0]);
    let elsewhere = 1 - server.owner(&token);
    server.on(elsewhere, move |engine| async move {
        let grant = grant(&engine, &token).await;
        let options = engine::AttachOptions { form: engine::WireForm::Line, window: 100, lines: true };
        let attachment = engine.attach(grant, None, options).await.unwrap();
        // The rate refuses here what comes too fast; what came before is on its way to the owner.
        (1..=6).for_each(|seq| attachment.submit(seq, SetProgress::to(manga, chapter(seq as u32))).unwrap());
        attachment.refuse(7, engine::Fault::new(Code::BadFrame, "the door's own")).unwrap();
        attachment.request(8, engine::Ask::Get(manga)).unwrap();
        attachment.refuse(9, engine::Fault::new(Code::BadFrame, "the door's own")).unwrap();
        let answers = outgoing(&attachment, 9).await;
        let seqs: Vec<(u64, bool)> = answers
            .iter()
            .map(|out| match out {
                Outgoing::Ack { seq, .. } | Outgoing::State { seq, .. } => (*seq, true),
                Outgoing::Reject { seq, .. } => (*seq, false),
                other => panic!("{other:?}"),
            })
            .collect();
        let expected = [true, true, true, false, false, false, false, true, false];
        assert_eq!(seqs, (1..).zip(expected).collect::<Vec<_>>());
        assert_eq!(attachment.unanswered(), 0);
    });
}

#[test]
fn an_answer_waits_for_the_database_for_so_long_and_then_says_that_the_change_was_made() {
    let told = || figure("mangahub_refusals_total{code=\"not_in_database\"}").unwrap_or(0.0) as u64;
    let before = told();
    let folder = tempfile::tempdir().unwrap();
    let store = Switched::default();
    let mut patient = config(folder.path(), 1);
    patient.ack_database_max = std::time::Duration::from_millis(200);
    let server = Server::start(patient, Seams { store: Some(store.seam()), ..Seams::default() });
    let (tokens, series) = server.seed(1, 1);
    let (token, manga) = (tokens[0].clone(), series[0]);
    server.set(0, &token, SetProgress::to(manga, chapter(1))).unwrap();
    store.set_holds(true);
    let back = store.clone();
    server.on(0, move |engine| async move {
        let attachment = attach(&engine, &token).await;
        let wanted = |number| SetProgress { ack_database: true, ..SetProgress::to(manga, chapter(number)) };
        attachment.submit(1, wanted(2)).unwrap();
        attachment.submit(2, wanted(3)).unwrap();
        // What comes behind them waits no longer than they do.
        attachment.request(3, engine::Ask::Get(manga)).unwrap();
        let answers = outgoing(&attachment, 3).await;
        let [
            Outgoing::Reject { seq: 1, fault },
            Outgoing::Reject { seq: 2, fault: second },
            Outgoing::State { seq: 3, state, .. },
        ] = &answers[..]
        else {
            panic!("{answers:?}")
        };
        assert_eq!((fault.code, second.code), (Code::NotInDatabase, Code::NotInDatabase));
        assert_eq!(state.as_ref().map(|state| state.chapter), Some(chapter(3)));
        back.set_holds(false);
        attachment.submit(4, wanted(4)).unwrap();
        assert!(matches!(&outgoing(&attachment, 1).await[..], [Outgoing::Ack { seq: 4, .. }]));
    });
    until("it is counted", || told() >= before + 2);
}
