//! Who hears of what, who is let in, and what ends with a session: on real shards, a real journal and a real store.

#![allow(clippy::unwrap_used)] // A failed step fails the test.

mod common;

use common::store_seam::Switched;
use common::{PATIENCE, Server, announced, attach, chapter, config, grant, outgoing, until};
use engine::boot::Seams;
use engine::{
    Ask, AttachOptions, Command, Extra, Identifier, LoginRequest, Outgoing, Peer, Query, RegisterRequest, SetProgress,
    View, WireForm,
};
use futures_channel::oneshot;
use proto::{Code, DeviceId, DeviceSeq, UserId};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use storage::store::seam::{Seam, Seamed};
use storage::store::{Answer, Applied, Batch, LoadedUser, SharedStore};

fn peer() -> Peer {
    Peer { address: [127, 0, 0, 1].into(), user_agent: Some("test".to_owned()) }
}

fn register(name: &str) -> RegisterRequest {
    RegisterRequest {
        username: name.to_owned(),
        email: format!("{name}@example.org"),
        password: "correct horse".to_owned(),
        invite: None,
    }
}

fn login(name: &str, password: &str) -> LoginRequest {
    LoginRequest { identifier: Identifier::Username(name.to_owned()), password: password.to_owned() }
}

#[test]
fn an_update_reaches_the_same_users_other_connections_once_and_nobody_else() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(config(folder.path(), 2), Seams::default());
    let (tokens, series) = server.seed(2, 1);
    let (owner, manga) = (server.owner(&tokens[0]), series[0]);
    let (mine, other) = (tokens[0].clone(), tokens[1].clone());
    // A connection of the same user on the other shard, one of another user on each.
    let (remote_token, stranger_token) = (mine.clone(), other.clone());
    let (attached, is_attached) = std::sync::mpsc::channel();
    let told = attached.clone();
    let remote = server.begin(1 - owner, move |engine| async move {
        let (remote, stranger) = (attach(&engine, &remote_token).await, attach(&engine, &stranger_token).await);
        told.send(()).unwrap();
        let heard = outgoing(&remote, 2).await;
        let mut foreign = Vec::new();
        (heard.iter().filter_map(announced).collect::<Vec<_>>(), stranger.try_next(&mut foreign))
    });
    let local = server.begin(owner, move |engine| async move {
        let (sender, second) = (attach(&engine, &mine).await, attach(&engine, &mine).await);
        let stranger = attach(&engine, &other).await;
        attached.send(()).unwrap();
        let mut ready = 0;
        while ready < 2 {
            runtime::sleep(Duration::from_millis(2)).await;
            ready += is_attached.try_iter().count();
        }
        sender.submit(1, SetProgress::to(manga, chapter(1))).unwrap();
        let acked = outgoing(&sender, 1).await;
        // From a door without a connection: everybody hears.
        let me = grant(&engine, &mine).await;
        engine.command(&me, Command::SetProgress(SetProgress::to(manga, chapter(2)))).await.unwrap();
        let heard: Vec<_> = outgoing(&second, 2).await.iter().filter_map(announced).collect();
        let to_sender = outgoing(&sender, 1).await;
        let mut foreign = Vec::new();
        assert!(!stranger.try_next(&mut foreign), "{foreign:?}");
        assert!(matches!(acked[..], [Outgoing::Ack { seq: 1, .. }]), "{acked:?}");
        assert_eq!(announced(&to_sender[0]), Some((manga.0, "2".into())));
        heard
    });
    let both = vec![(manga.0, "1".to_owned()), (manga.0, "2".to_owned())];
    assert_eq!(local.recv_timeout(common::PATIENCE).unwrap(), both);
    assert_eq!(remote.recv_timeout(common::PATIENCE).unwrap(), (both, false));
}

#[test]
fn a_connection_elsewhere_is_answered_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(config(folder.path(), 2), Seams::default());
    let (tokens, series) = server.seed(1, 4);
    for shard in 0..2 {
        let (token, series) = (tokens[0].clone(), series.clone());
        let seqs = server.on(shard, move |engine| async move {
            let attachment = attach(&engine, &token).await;
            for seq in 0..1_000_u64 {
                let manga = series[seq as usize % series.len()];
                let number = (shard as u64 * 1_000 + seq) as u32;
                attachment.submit(seq, SetProgress::to(manga, chapter(number))).unwrap();
            }
            let out = outgoing(&attachment, 1_000).await;
            assert_eq!(attachment.unanswered(), 0);
            out.iter()
                .filter_map(|out| if let Outgoing::Ack { seq, .. } = out { Some(*seq) } else { None })
                .collect::<Vec<_>>()
        });
        assert_eq!(seqs, (0..1_000).collect::<Vec<_>>());
    }
}

#[test]
fn catch_up_gives_what_was_missed_or_everything() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(config(folder.path(), 1), Seams::default());
    let (tokens, series) = server.seed(2, 5);
    server.on(0, move |engine| async move {
        let [me, other] = [grant(&engine, &tokens[0]).await, grant(&engine, &tokens[1]).await];
        let token = &tokens[0];
        let set = async |manga, number| {
            engine.command(&me, Command::SetProgress(SetProgress::to(manga, chapter(number)))).await.unwrap();
        };
        // Positions begin where the clock stands when a user is loaded.
        engine.command(&other, Command::SetProgress(SetProgress::to(series[0], chapter(1)))).await.unwrap();
        set(series[0], 1).await;
        let attachment = attach(&engine, token).await;
        let since = attachment.welcome().resume;
        let ask = async |since| {
            attachment.request(9, Ask::CatchUp(since)).unwrap();
            loop {
                for out in outgoing(&attachment, 1).await {
                    if let Outgoing::CatchUp { catch_up, .. } = out {
                        return *catch_up;
                    }
                }
            }
        };
        assert_eq!(ask(None).await.states.len(), 1);
        let nothing = ask(Some(since)).await;
        assert!(!nothing.snapshot && nothing.states.is_empty() && nothing.resume == since);
        set(series[1], 1).await;
        set(series[2], 1).await;
        set(series[1], 2).await;
        let missed = ask(Some(since)).await;
        let seen: Vec<_> = missed.states.iter().map(|state| (state.manga, state.chapter)).collect();
        assert!(!missed.snapshot);
        assert_eq!(seen, [(series[2], chapter(1)), (series[1], chapter(2))]);
        // However much it was: what changed often is told once.
        for number in 1..=1_000 {
            set(series[3], number).await;
        }
        let missed = ask(Some(since)).await;
        let seen: Vec<_> = missed.states.iter().map(|state| (state.manga, state.chapter)).collect();
        assert!(!missed.snapshot);
        assert_eq!(seen, [(series[2], chapter(1)), (series[1], chapter(2)), (series[3], chapter(1_000))]);
        let nothing = ask(Some(missed.resume)).await;
        assert!(!nothing.snapshot && nothing.states.is_empty(), "{nothing:?}");
        // From before the user was loaded.
        let unknown = ask(Some(since.at(1))).await;
        assert!(unknown.snapshot && unknown.states.len() == 4, "{unknown:?}");
        let other_epoch = engine::ResumeToken::new(since.node(), since.epoch() + 1, since.position());
        assert!(ask(Some(other_epoch)).await.snapshot);
        let future = since.at(u64::MAX);
        assert!(ask(Some(future)).await.snapshot);
    });
}

#[test]
fn a_slow_reader_gets_the_newest_of_each_series_or_is_closed() {
    let folder = tempfile::tempdir().unwrap();
    let mut narrow = config(folder.path(), 1);
    narrow.limits.out_queue_messages = 4;
    let server = Server::start(narrow, Seams::default());
    let (tokens, series) = server.seed(1, 6);
    let token = tokens[0].clone();
    server.on(0, move |engine| async move {
        let me = grant(&engine, &token).await;
        let reader = attach(&engine, &token).await;
        for number in 1..=20 {
            for manga in &series[..4] {
                engine.command(&me, Command::SetProgress(SetProgress::to(*manga, chapter(number)))).await.unwrap();
            }
        }
        let heard: Vec<_> = outgoing(&reader, 4).await.iter().filter_map(announced).collect();
        let newest: Vec<_> = series[..4].iter().map(|manga| (manga.0, "20".to_owned())).collect();
        assert_eq!(heard, newest);
        for manga in &series[..5] {
            engine.command(&me, Command::SetProgress(SetProgress::to(*manga, chapter(21)))).await.unwrap();
        }
        let closed = outgoing(&reader, 1).await;
        assert!(matches!(&closed[..], [Outgoing::Close(fault)] if fault.code == Code::SlowConsumer), "{closed:?}");
        assert!(reader.submit(1, SetProgress::to(series[0], chapter(22))).is_err());
    });
}

#[test]
fn a_window_bounds_what_is_unanswered() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(config(folder.path(), 1), Seams::default());
    let (tokens, series) = server.seed(1, 1);
    let token = tokens[0].clone();
    server.on(0, move |engine| async move {
        let me = grant(&engine, &token).await;
        let device = DeviceId::new_v7();
        let options = AttachOptions { form: WireForm::Line, window: 2, lines: false };
        let attachment = engine.attach(me, Some(device), options).await.unwrap();
        assert_eq!((attachment.welcome().window, attachment.welcome().last_seq), (2, DeviceSeq(0)));
        let update = |seq| SetProgress { device_seq: Some(DeviceSeq(seq)), ..SetProgress::to(series[0], chapter(1)) };
        attachment.submit(1, update(1)).unwrap();
        attachment.submit(2, update(2)).unwrap();
        assert_eq!(attachment.submit(3, update(3)).unwrap_err().code, Code::RateLimited);
        outgoing(&attachment, 2).await;
        drop(attachment);
        let again = engine.attach(grant(&engine, &token).await, Some(device), options).await.unwrap();
        assert_eq!(again.welcome().last_seq, DeviceSeq(2));
    });
}

#[test]
fn signing_in_refreshing_and_revoking_closes_connections_on_every_shard() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(config(folder.path(), 2), Seams::default());
    let signed_in = server.on(0, |engine| async move {
        engine.register(register("ann"), &peer()).await.unwrap();
        let taken = engine.register(register("Ann"), &peer()).await.unwrap_err();
        assert!(matches!(&taken.extra, Extra::Fields(fields) if fields[0].field == "username"), "{taken:?}");
        engine.login(login("ANN", "correct horse"), &peer()).await.unwrap()
    });
    let (access, refresh) = (signed_in.access_token.clone(), signed_in.refresh_token.clone());
    let (attached, is_attached) = std::sync::mpsc::channel();
    let closings: Vec<_> = (0..2)
        .map(|shard| {
            let (token, attached) = (access.clone(), attached.clone());
            server.begin(shard, move |engine| async move {
                let attachment = attach(&engine, &token).await;
                attached.send(()).unwrap();
                outgoing(&attachment, 1).await
            })
        })
        .collect();
    (0..2).for_each(|_| is_attached.recv_timeout(common::PATIENCE).unwrap());
    let (first, token) = (refresh.clone(), access.clone());
    server.on(1, move |engine| async move {
        let me = grant(&engine, &token).await;
        let sessions = engine.sessions(&me).await.unwrap();
        assert!(sessions.len() == 1 && sessions[0].current && sessions[0].user_agent.as_deref() == Some("test"));
        let next = engine.refresh(&first, &peer()).await.unwrap();
        // Presented twice: somebody copied it.
        assert_eq!(engine.refresh(&first, &peer()).await.err().unwrap().code, Code::Revoked);
        assert_eq!(engine.authorize(&next.access_token).await.unwrap_err().code, Code::Revoked);
        assert_eq!(engine.authorize(&token).await.unwrap_err().code, Code::Revoked);
        assert!(engine.refresh(&next.refresh_token, &peer()).await.is_err());
        engine.revoke("nobody knows this").await.unwrap();
    });
    for closing in closings {
        let out = closing.recv_timeout(common::PATIENCE).unwrap();
        assert!(matches!(&out[..], [Outgoing::Close(fault)] if fault.code == Code::Revoked), "{out:?}");
    }
    server.stop();
    // Revocation outlives the process.
    let server = Server::start(config(folder.path(), 1), Seams::default());
    assert_eq!(
        server.on(0, move |engine| async move { engine.authorize(&access).await.unwrap_err().code }),
        Code::Revoked
    );
}

#[test]
fn ending_one_session_closes_its_connections_and_no_others() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(config(folder.path(), 1), Seams::default());
    let (_, series) = server.seed(1, 1);
    server.on(0, move |engine| async move {
        engine.register(register("ann"), &peer()).await.unwrap();
        let one = engine.login(login("ann", "correct horse"), &peer()).await.unwrap();
        let two = engine.login(login("ann", "correct horse"), &peer()).await.unwrap();
        let ending = attach(&engine, &one.access_token).await;
        let staying = attach(&engine, &two.access_token).await;
        let me = grant(&engine, &two.access_token).await;
        engine.revoke_session(&me, one.session).await.unwrap();
        let out = outgoing(&ending, 1).await;
        assert!(matches!(&out[..], [Outgoing::Close(fault)] if fault.code == Code::Revoked), "{out:?}");
        engine.command(&me, Command::SetProgress(SetProgress::to(series[0], chapter(1)))).await.unwrap();
        let out = outgoing(&staying, 1).await;
        assert!(announced(&out[0]).is_some(), "{out:?}");
    });
}

#[test]
fn a_session_ends_when_its_token_does_whatever_is_configured_since() {
    let folder = tempfile::tempdir().unwrap();
    let expiry = |server: &Server, token: String| {
        server.on(0, move |engine| async move {
            let me = grant(&engine, &token).await;
            engine.sessions(&me).await.unwrap()[0].expires_at_ms
        })
    };
    let server = Server::start(config(folder.path(), 1), Seams::default());
    let access = server.on(0, |engine| async move {
        engine.register(register("ann"), &peer()).await.unwrap();
        engine.login(login("ann", "correct horse"), &peer()).await.unwrap().access_token
    });
    let before = expiry(&server, access.clone());
    server.stop();
    let mut longer = config(folder.path(), 1);
    longer.tokens.refresh_ttl *= 2;
    let server = Server::start(longer, Seams::default());
    assert_eq!(expiry(&server, access), before);
}

/// Loads wait until they are let through.
#[derive(Default)]
struct HeldLoads(Mutex<Vec<oneshot::Sender<()>>>);

impl Seam for HeldLoads {
    fn apply(&self, real: &SharedStore, batch: Batch) -> Answer<Applied> {
        real.apply(batch)
    }

    fn load_user(&self, real: &SharedStore, user: UserId) -> Answer<Option<LoadedUser>> {
        let (sender, let_through) = oneshot::channel();
        self.0.lock().unwrap().push(sender);
        let real = Arc::clone(real);
        Box::pin(async move {
            let _ = let_through.await;
            real.load_user(user).await
        })
    }
}

#[test]
fn a_session_that_ends_while_its_user_is_loaded_is_not_attached() {
    for shard in 0..2 {
        let folder = tempfile::tempdir().unwrap();
        let loads = Arc::new(HeldLoads::default());
        let seam = {
            let loads = Arc::clone(&loads);
            move |real| -> SharedStore { Arc::new(Seamed::new(real, Arc::clone(&loads))) }
        };
        let server = Server::start(config(folder.path(), 2), Seams { store: Some(Arc::new(seam)), ..Seams::default() });
        let (tokens, _) = server.seed(1, 1);
        let token = tokens[0].clone();
        let attached = server.begin(shard, move |engine| async move {
            let me = grant(&engine, &token).await;
            let options = AttachOptions { form: WireForm::Line, window: 16, lines: false };
            engine.attach(me, None, options).await.err().map(|fault| fault.code)
        });
        until("the user is being loaded", || !loads.0.lock().unwrap().is_empty());
        let token = tokens[0].clone();
        let ended = server.on(0, move |engine| async move {
            let me = grant(&engine, &token).await;
            engine.revoke_sessions(&me, false).await.unwrap()
        });
        assert_eq!(ended, 1);
        loads.0.lock().unwrap().drain(..).for_each(|load| _ = load.send(()));
        assert_eq!(attached.recv_timeout(PATIENCE), Ok(Some(Code::Revoked)), "on shard {shard}");
    }
}

#[test]
fn wrong_passwords_lock_out_and_unknown_users_look_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(config(folder.path(), 2), Seams::default());
    server.on(0, |engine| async move { engine.register(register("bob"), &peer()).await.map(drop).unwrap() });
    for name in ["bob", "nobody"] {
        let refusals: Vec<_> = (0..6)
            .map(|at| {
                server.on(at % 2, move |engine| async move {
                    engine.login(login(name, "wrong one"), &peer()).await.err().unwrap()
                })
            })
            .collect();
        assert!(refusals[..5].iter().all(|fault| fault.code == Code::Unauthenticated), "{refusals:?}");
        assert_eq!(refusals[0].detail, "The name or the password is wrong.");
        assert_eq!(refusals[5].code, Code::RateLimited);
        assert!(refusals[5].wait_ms().unwrap() > 1_000);
    }
}

#[test]
fn bad_registrations_say_every_field_that_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(config(folder.path(), 1), Seams::default());
    let fault = server.on(0, |engine| async move {
        let request = RegisterRequest { username: "x".into(), email: "y".into(), password: "z".into(), invite: None };
        engine.register(request, &peer()).await.unwrap_err()
    });
    let Extra::Fields(fields) = &fault.extra else { panic!("{fault:?}") };
    let names: Vec<&str> = fields.iter().map(|field| field.field.as_ref()).collect();
    assert_eq!((fault.code, names), (Code::InvalidInput, vec!["username", "email", "password"]));
}

#[test]
fn the_library_and_the_lists_are_read_from_the_owner() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(config(folder.path(), 2), Seams::default());
    let (tokens, series) = server.seed(1, 3);
    let token = tokens[0].clone();
    server.on(0, move |engine| async move {
        let me = grant(&engine, &token).await;
        let run = async |command| engine.command(&me, command).await;
        run(Command::AddToLibrary { manga: series[0], status: None }).await.unwrap();
        let again = run(Command::AddToLibrary { manga: series[0], status: None }).await.unwrap_err();
        assert_eq!(again.code, Code::AlreadyExists);
        run(Command::SetProgress(SetProgress::to(series[1], chapter(7)))).await.unwrap();
        run(Command::SetStatus { manga: series[1], status: proto::ReadingStatus::OnHold }).await.unwrap();
        let View::Library(library) = engine.query(&me, Query::Library).await.unwrap() else { panic!() };
        assert_eq!(library.len(), 2);
        let page = Query::ProgressAll { offset: 0, limit: 10 };
        let View::ProgressPage { rows, total: 1 } = engine.query(&me, page).await.unwrap() else { panic!() };
        assert_eq!(rows[0].status, Some(proto::ReadingStatus::OnHold));
        run(Command::RemoveFromLibrary { manga: series[0] }).await.unwrap();
        run(Command::DeleteProgress { manga: series[1], device: None }).await.unwrap();
        let View::Progress(None) = engine.query(&me, Query::Progress(series[1])).await.unwrap() else { panic!() };
        let unknown =
            run(Command::SetProgress(SetProgress::to(proto::MangaId(999_999), chapter(1)))).await.unwrap_err();
        assert_eq!(unknown.code, Code::NotFound);
    });
    let token = tokens[0].clone();
    until("history follows", || {
        let token = token.clone();
        server.on(1, move |engine| async move {
            let me = grant(&engine, &token).await;
            let query = Query::History { manga: None, cursor: None, limit: 10 };
            let View::History { rows, .. } = engine.query(&me, query).await.unwrap() else { panic!() };
            rows.len() == 1 && rows[0].last == chapter(7)
        })
    });
}

#[test]
fn a_drain_answers_what_was_taken_and_then_says_bye() {
    let folder = tempfile::tempdir().unwrap();
    let store = Switched::default();
    let server = Server::start(config(folder.path(), 2), Seams { store: Some(store.seam()), ..Seams::default() });
    let (tokens, series) = server.seed(1, 1);
    let token = tokens[0].clone();
    let (attached, is_attached) = std::sync::mpsc::channel();
    let bye = server.begin(server.owner(&tokens[0]), move |engine| async move {
        let attachment = attach(&engine, &token).await;
        for seq in 0..10 {
            attachment.submit(seq, SetProgress::to(series[0], chapter(1 + seq as u32))).unwrap();
        }
        attached.send(()).unwrap();
        outgoing(&attachment, 11).await
    });
    is_attached.recv_timeout(common::PATIENCE).unwrap();
    server.running().shut_down();
    let out = bye.recv_timeout(common::PATIENCE).unwrap();
    assert_eq!(out.iter().filter(|out| matches!(out, Outgoing::Ack { .. })).count(), 10);
    assert!(matches!(out.last(), Some(Outgoing::Close(fault)) if fault.code == Code::ShuttingDown), "{out:?}");
    server.stop();
}

#[test]
fn the_strategy_ask_gives_a_token_that_overrides_what_it_showed() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(config(folder.path(), 2), Seams::default());
    let (tokens, series) = server.seed(1, 1);
    let (token, manga) = (tokens[0].clone(), series[0]);
    let ask = Command::SetPreferences { strategy: Some(engine::Strategy::Ask), utc_offset_min: Some(60) };
    server.on(0, move |engine| async move {
        let me = grant(&engine, &token).await;
        let set = async |update| engine.command(&me, Command::SetProgress(update)).await;
        engine.command(&me, ask).await.unwrap();
        let wrong = Command::SetPreferences { strategy: None, utc_offset_min: Some(10_000) };
        assert_eq!(engine.command(&me, wrong).await.unwrap_err().code, Code::InvalidInput);
        set(SetProgress::to(manga, chapter(9))).await.unwrap();
        let conflict = set(SetProgress::to(manga, chapter(3))).await.unwrap_err();
        let Extra::Conflict(state) = &conflict.extra else { panic!("{conflict:?}") };
        assert_eq!((conflict.code, state.stored.chapter, state.asked), (Code::Conflict, chapter(9), chapter(3)));
        let confirmed = SetProgress { conflict_token: state.token, ..SetProgress::to(manga, chapter(3)) };
        set(confirmed).await.unwrap();
        // It named the state it overrode; that one is gone.
        set(SetProgress::to(manga, chapter(9))).await.unwrap();
        assert_eq!(set(confirmed).await.unwrap_err().code, Code::Conflict);
    });
}
