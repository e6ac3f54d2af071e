//! What a restart may not change: an answer that waits for the database still waits, and whatever the mix of commands,
//! memory, store and shards, the state is the one that was acknowledged.

mod common;

use common::store_seam::Switched;
use common::{Server, attach, chapter, config, grant, outgoing, until};
use engine::boot::Seams;
use engine::{Command, Done, Fault, Outgoing, ProgressView, Query, SetProgress, View};
use futures_executor::block_on;
use futures_util::future::try_join_all;
use proto::{Code, DeviceId, DeviceSeq, MangaId, MergeKey, ReadingStatus, SessionId, UserId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use storage::store::{NewRefreshToken, NewSession, NewUser, Role, SharedStore};

const EXPIRED: u64 = 2_500;

/// A user with so many sessions whose tokens have expired.
fn add_expired_sessions(store: &SharedStore) -> UserId {
    let user = NewUser {
        id: UserId::new_v7(),
        username: "reader".into(),
        username_folded: "reader".into(),
        email: "reader@example.org".into(),
        email_folded: "reader@example.org".into(),
        password_hash: "none".into(),
        role: Role::User,
        created_at_unix_ms: 1,
    };
    let id = user.id;
    block_on(store.create_user(user)).expect("the store takes a user");
    let numbers: Vec<u64> = (0..EXPIRED).collect();
    // A queue of the store has room for so many.
    for some in numbers.chunks(500) {
        let opened = some.iter().map(|number| {
            let mut hash = [0; 32];
            hash[..8].copy_from_slice(&number.to_le_bytes());
            store.open_session(NewSession {
                sid: SessionId::new_v7(),
                user: id,
                device_label: None,
                ip: None,
                user_agent: None,
                created_at_unix_ms: 1,
                refresh: NewRefreshToken { hash, expires_at_unix_ms: 2 },
                sessions_per_user_max: u32::MAX,
                keep_revocations_until_unix_ms: 2,
            })
        });
        block_on(try_join_all(opened.collect::<Vec<_>>())).expect("and sessions");
    }
    id
}

#[test]
fn expired_sessions_go_soon_after_a_start_however_many_there_are() {
    let folder = tempfile::tempdir().unwrap();
    let beneath = Arc::new(OnceLock::new());
    let told = Arc::clone(&beneath);
    let add = move |store: SharedStore| {
        let user = add_expired_sessions(&store);
        told.set((Arc::clone(&store), user)).ok().unwrap();
        store
    };
    let _server = Server::start(config(folder.path(), 1), Seams { store: Some(Arc::new(add)), ..Seams::default() });
    let (store, user) = beneath.get().unwrap();
    // At no time at all every session is still good.
    let left = || block_on(store.sessions(*user, 0)).unwrap().len();
    until("expired sessions are gone", || left() == 0);
}

fn with_store(store: &Switched) -> Seams {
    Seams { store: Some(store.seam()), ..Seams::default() }
}

#[test]
fn a_retry_after_a_restart_still_waits_for_the_database_it_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let device = DeviceId::new_v7();
    let (token, manga) = {
        let store = Switched::default();
        let mut impatient = config(folder.path(), 1);
        impatient.limits.drain = Duration::from_millis(300);
        let server = Server::start(impatient, with_store(&store));
        let (tokens, series) = server.seed(1, 1);
        store.set_holds(true);
        let update = SetProgress {
            device: Some(device),
            device_seq: Some(DeviceSeq(1)),
            ..SetProgress::to(series[0], chapter(3))
        };
        let done = server.set(0, &tokens[0], update).unwrap();
        assert!(matches!(done, Done::Progress(acked) if !acked.already));
        server.stop();
        (tokens[0].clone(), series[0])
    };
    let store = Switched::default();
    store.set_holds(true);
    let server = Server::start(config(folder.path(), 1), with_store(&store));
    let behind = server.running().admin().backlog();
    assert!(behind.stored_lsn < behind.durable_lsn, "{behind:?}");
    let reopened = store.clone();
    let acks = server.on(0, move |engine| async move {
        let attachment = attach(&engine, &token).await;
        let retry = SetProgress {
            device: Some(device),
            device_seq: Some(DeviceSeq(1)),
            ack_database: true,
            ..SetProgress::to(manga, chapter(3))
        };
        attachment.submit(1, retry).unwrap();
        let mut early = Vec::new();
        for _ in 0..20 {
            runtime::sleep(Duration::from_millis(5)).await;
            attachment.try_next(&mut early);
        }
        assert!(early.is_empty(), "acknowledged as stored while only the journal has it: {early:?}");
        reopened.set_holds(false);
        outgoing(&attachment, 1).await
    });
    assert!(matches!(&acks[0], Outgoing::Ack { seq: 1, acked } if acked.already), "{acks:?}");
    stored(&server);
}

/// What was acknowledged of one series.
#[derive(Clone, Default, Debug)]
struct Known {
    state: Option<ProgressView>,
    highest: MergeKey,
    shelved: Option<ReadingStatus>,
    updates: u32,
}

/// A reader and what they may rely on.
struct Reader {
    token: String,
    series: BTreeMap<MangaId, Known>,
    devices: Vec<(DeviceId, u64, BTreeSet<u64>)>,
}

/// A small generator: the same seed makes the same run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) % bound as u64) as usize
    }

    fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }
}

fn run(server: &Server, shard: usize, token: &str, command: Command) -> Result<Done, Fault> {
    let token = token.to_owned();
    server.on(shard, move |engine| async move {
        let grant = grant(&engine, &token).await;
        engine.command(&grant, command).await
    })
}

fn ask(server: &Server, shard: usize, token: &str, query: Query) -> View {
    let token = token.to_owned();
    server.on(shard, move |engine| async move {
        let grant = grant(&engine, &token).await;
        engine.query(&grant, query).await.expect("reads are served")
    })
}

impl Reader {
    /// One update, first or retried, and whether the answer is the right one.
    fn update(&mut self, server: &Server, shard: usize, dice: &mut Dice) {
        let at = dice.below(self.series.len());
        let (manga, known) = self.series.iter_mut().nth(at).expect("in range");
        let (device, last, applied) = &mut self.devices[dice.below(3)];
        let retry = dice.one_in(3) && *last > 0;
        let seq = if retry { 1 + dice.below(*last as usize) as u64 } else { *last + 1 + dice.below(3) as u64 };
        let force = dice.one_in(4);
        let status = dice.one_in(5).then_some(ReadingStatus::OnHold);
        let update = SetProgress {
            device: Some(*device),
            device_seq: Some(DeviceSeq(seq)),
            force,
            status,
            ..SetProgress::to(*manga, chapter(dice.below(500) as u32))
        };
        *last = seq.max(*last);
        let goes_back = known.state.is_some_and(|state| update.chapter < state.chapter) && !force;
        match server.set(shard, &self.token, update) {
            Ok(Done::Progress(acked)) => {
                assert_eq!(acked.already, applied.contains(&seq), "{seq} of {applied:?}");
                if acked.already {
                    return;
                }
                assert!(!goes_back && acked.state.chapter == update.chapter, "{acked:?} {known:?}");
                assert!(acked.state.key > known.highest, "the merge key went back: {acked:?} {known:?}");
                applied.insert(seq);
                let first = known.state.is_none();
                known.highest = acked.state.key;
                known.updates += 1;
                known.shelved = match (status, known.shelved) {
                    (Some(status), _) => Some(status),
                    (None, None | Some(ReadingStatus::PlanToRead)) if first => Some(ReadingStatus::Reading),
                    (None, as_it_was) => as_it_was,
                };
                known.state = Some(acked.state);
            }
            Err(fault) => assert!(fault.code == Code::Conflict && goes_back && !applied.contains(&seq), "{fault:?}"),
            other => panic!("{other:?}"),
        }
    }

    /// One of the other commands.
    fn other(&mut self, server: &Server, shard: usize, dice: &mut Dice) {
        let at = dice.below(self.series.len());
        let (manga, known) = self.series.iter_mut().nth(at).expect("in range");
        let manga = *manga;
        match dice.below(5) {
            0 => {
                let done = run(server, shard, &self.token, Command::DeleteProgress { manga, device: None });
                assert_eq!(done.is_ok(), known.state.take().is_some(), "{done:?}");
            }
            1 => {
                let done = run(server, shard, &self.token, Command::AddToLibrary { manga, status: None });
                assert_eq!(done.is_ok(), known.shelved.is_none(), "{done:?}");
                known.shelved = known.shelved.or(Some(ReadingStatus::PlanToRead));
            }
            2 => {
                let status = ReadingStatus::Completed;
                let done = run(server, shard, &self.token, Command::SetStatus { manga, status });
                assert_eq!(done.is_ok(), known.shelved.is_some(), "{done:?}");
                known.shelved = known.shelved.map(|_| status);
            }
            3 => {
                let done = run(server, shard, &self.token, Command::RemoveFromLibrary { manga });
                assert_eq!(done.is_ok(), known.shelved.take().is_some(), "{done:?}");
            }
            _ => {
                let (device, _, applied) = &mut self.devices[dice.below(3)];
                // Forgotten with its numbers: they may come again.
                if run(server, shard, &self.token, Command::RemoveDevice { device: *device }).is_ok() {
                    applied.clear();
                }
            }
        }
    }

    fn check(&self, server: &Server, shard: usize) {
        for (manga, known) in &self.series {
            let View::Progress(state) = ask(server, shard, &self.token, Query::Progress(*manga)) else { panic!() };
            let (state, expected) = (state.map(|view| view.key), known.state.map(|view| view.key));
            assert_eq!(state, expected, "of series {manga}: {known:?}");
        }
        let View::Library(rows) = ask(server, shard, &self.token, Query::Library) else { panic!() };
        let shelved: BTreeMap<_, _> = rows.into_iter().map(|row| (row.manga, row.status)).collect();
        let expected = self.series.iter().filter_map(|(manga, known)| Some((*manga, known.shelved?))).collect();
        assert_eq!(shelved, expected);
    }
}

fn stored(server: &Server) {
    until("the store has followed", || {
        let backlog = server.running().admin().backlog();
        backlog.stored_lsn >= backlog.durable_lsn
    });
}

/// Applies again what was kept aside; answers how much that was.
fn retry_all(server: &Server) -> usize {
    let admin = server.running().admin();
    server.on(0, move |_| async move {
        let mut done = 0;
        for parked in admin.store().parked(0, 10_000).await.expect("the store answers") {
            done += usize::from(admin.retry_parked(parked.id).await.expect("the store answers"));
        }
        done
    })
}

/// A run of one seed: commands through any shard, a store that comes, goes and refuses, memory for nobody, queues that overflow, and
/// restarts with another number of shards while the store lacks what the journal has.
fn whatever_happens(seed: u64) {
    let folder = tempfile::tempdir().expect("a folder");
    let mut dice = Dice(seed);
    let mut readers: Vec<Reader> = Vec::new();
    for boot in 0..6 {
        let store = Switched::default();
        let shards = 1 + dice.below(3);
        let mut tight = config(folder.path(), shards);
        tight.limits.user_bytes_max = 1;
        tight.limits.store_queue_rows = 8;
        tight.limits.drain = Duration::from_millis(200);
        store.set_holds(dice.one_in(2));
        let server = Server::start(tight, with_store(&store));
        if boot == 0 {
            let (tokens, series) = server.seed(3, 3);
            let new = |token| Reader {
                token,
                series: series.iter().map(|manga| (*manga, Known::default())).collect(),
                devices: (0..3).map(|_| (DeviceId::new_v7(), 0, BTreeSet::new())).collect(),
            };
            readers = tokens.into_iter().map(new).collect();
        }
        readers.iter().for_each(|reader| reader.check(&server, dice.below(shards)));
        for _ in 0..120 {
            let shard = dice.below(shards);
            let at = dice.below(readers.len());
            match dice.below(20) {
                0 => store.set_holds(true),
                1 | 2 => store.set_holds(false),
                8 => store.switches.refuses.store(dice.one_in(2), Ordering::SeqCst),
                3 => std::thread::sleep(Duration::from_millis(dice.below(400) as u64)),
                4..=6 => readers[at].other(&server, shard, &mut dice),
                7 => readers[at].check(&server, shard),
                _ => readers[at].update(&server, shard, &mut dice),
            }
        }
        readers.iter().for_each(|reader| reader.check(&server, dice.below(shards)));
        if boot == 5 {
            store.set_holds(false);
            store.switches.refuses.store(false, Ordering::SeqCst);
            stored(&server);
            retry_all(&server);
            readers.iter().for_each(|reader| reader.check(&server, 0));
            for (reader, (manga, known)) in readers.iter().flat_map(|it| it.series.iter().map(move |one| (it, one))) {
                let query = Query::History { manga: Some(*manga), cursor: None, limit: 100 };
                let View::History { rows, .. } = ask(&server, 0, &reader.token, query) else { panic!() };
                let updates: u32 = rows.iter().map(|row| row.updates).sum();
                assert_eq!(updates, known.updates, "each applied once: series {manga} {rows:?}");
            }
        }
        server.stop();
    }
}

#[test]
fn whatever_happens_the_state_is_what_was_acknowledged() {
    let seeds: Vec<u64> = match std::env::var("MANGAHUB_TEST_SEEDS") {
        Ok(count) => (0..count.parse().expect("a number")).collect(),
        Err(_) => vec![1],
    };
    for seed in seeds {
        eprintln!("seed {seed}");
        whatever_happens(seed);
    }
}

#[test]
fn adopting_a_store_that_is_away_sets_nothing_aside() {
    let folder = tempfile::tempdir().unwrap();
    let (token, manga) = {
        let store = Switched::default();
        let mut impatient = config(folder.path(), 1);
        impatient.limits.drain = Duration::from_millis(300);
        let server = Server::start(impatient, with_store(&store));
        let (tokens, series) = server.seed(1, 1);
        store.set_holds(true);
        server.set(0, &tokens[0], SetProgress::to(series[0], chapter(3))).unwrap();
        server.stop();
        (tokens[0].clone(), series[0])
    };
    let away = Switched::default();
    away.set_away(true);
    let mut adopting = config(folder.path(), 1);
    adopting.adopt_store = true;
    let refused = Server::try_start(adopting, with_store(&away)).err().expect("a store that is away adopts nothing");
    assert!(matches!(refused, engine::StartError::Away(_)), "{refused}");
    let server = Server::start(config(folder.path(), 1), Seams::default());
    assert_eq!(server.get(0, &token, manga).unwrap().unwrap().chapter, chapter(3));
}

#[test]
fn what_the_store_refuses_is_kept_aside_and_stays_in_sight() {
    let folder = tempfile::tempdir().unwrap();
    let forgetful = || {
        let mut tiny = config(folder.path(), 2);
        tiny.limits.user_bytes_max = 1;
        tiny
    };
    let device = DeviceId::new_v7();
    let update = |manga, number, seq| SetProgress {
        device: Some(device),
        device_seq: Some(DeviceSeq(seq)),
        ..SetProgress::to(manga, chapter(number))
    };
    let store = Switched::default();
    let (token, series) = {
        let server = Server::start(forgetful(), with_store(&store));
        let (tokens, series) = server.seed(1, 2);
        server.set(0, &tokens[0], update(series[0], 1, 1)).unwrap();
        stored(&server);
        store.switches.refuses.store(true, Ordering::SeqCst);
        for seq in 2..=9 {
            server.set(1, &tokens[0], update(series[seq as usize % 2], seq as u32, seq)).unwrap();
        }
        stored(&server);
        let backlog = server.running().admin().backlog();
        assert!(backlog.parked >= 8, "{backlog:?}");
        (tokens[0].clone(), series)
    };
    let check = |server: &Server| {
        for (manga, expected) in [(series[0], 8), (series[1], 9)] {
            assert_eq!(server.get(0, &token, manga).unwrap().unwrap().chapter, chapter(expected));
        }
        let Done::Progress(again) = server.set(0, &token, update(series[0], 8, 8)).unwrap() else { panic!() };
        assert!(again.already, "applied twice: {again:?}");
    };
    let server = Server::start(forgetful(), Seams::default());
    check(&server);
    let done = retry_all(&server);
    assert!(done >= 8);
    check(&server);
    server.stop();
    check(&Server::start(forgetful(), Seams::default()));
}
