//! Every queue of the engine, driven to its limit on real shards with a real journal and store: what finds it full is refused at
//! once with the right code (or waits in order, where that is bounded elsewhere), is counted, and is taken again afterwards.
//!
//! | queue or limit | counted as | driven by |
//! |---|---|---|
//! | mailbox: requests to another shard | `update`, `mailbox_full` | `a_full_mailbox_refuses_and_takes_again` |
//! | mailbox: replies from another shard | `mailbox_replies_delayed` | `replies_that_find_their_lane_full_wait_in_order` |
//! | out-queue of a connection | `connection`, `slow_consumer` | `a_full_out_queue_closes_its_reader_and_nobody_else` |
//! | connections of a shard, of a user | `connection`, `shard_full` and `user_full` | `connections_past_their_number_are_refused` |
//! | window of a connection | `connections_refused`, `window` | `sessions.rs`; at the door `protocols/tests/greed.rs` |
//! | rate of frames, of lines; catch-ups | `update` and `line`, `rate`; `catch_up`, `unanswered` | `lines_past_their_rate_..` |
//! | rate of requests | `request`, `rate` | `one_address_or_user_gets_its_rate_of_requests` |
//! | failed sign-ins | `login`, `locked_out` | `failed_sign_ins_past_their_number_are_counted`; rules in `sessions.rs` |
//! | hashing queue | `compute`, `queue_full` | `a_full_hashing_queue_refuses_sign_ins_at_once_..` |
//! | users being loaded, what waits for one | `user`, `loads_full` and `load_waiters_full` | `users_past_..`, `commands_past_..` |
//! | store queue | `store_lag_records` | `a_full_store_queue_leaves_records_in_the_journal` |
//! | journal credit | `update`, `journal` | `limits.rs`: a stalled disk |
//! | dirty bytes | `update`, `store_backlog` | `limits.rs`: a store that does not take rows |
//! | answers that wait for the store | `update`, `held_full` | `limits.rs` |
//! | connections of the process, of an address | `connections_refused`, `capacity` and `per_address` | `protocols/tests/full.rs`, `sync_frames.rs` |
//! | bodies being read | `body`, `held_bytes` | the tests of `protocols/src/http/input.rs` |
//! | admin socket | the answer and the log | `tests/abuse.rs` of the server |

#![allow(clippy::unwrap_used)] // A failed step fails the test.

mod common;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::counted::{figure, refused};
use common::journal_seam::Stalling;
use common::{Server, attach, chapter, config, grant, outgoing, until};
use engine::boot::Seams;
use engine::{Ask, AttachOptions, Caller, Command, LoginRequest, Outgoing, Peer, Query, SetProgress, WireForm};
use futures_channel::oneshot;
use proto::{Code, UserId};
use storage::store::seam::{Seam, Seamed};
use storage::store::{Answer, Applied, Batch, LoadedUser, SharedStore};

/// What each answer is: served, or the code it was refused with.
fn codes(answers: &[Outgoing]) -> Vec<Option<Code>> {
    let code = |out: &Outgoing| match out {
        Outgoing::Reject { fault, .. } => Some(fault.code),
        _ => None,
    };
    answers.iter().map(code).collect()
}

fn count(answers: &[Outgoing], code: Option<Code>) -> usize {
    codes(answers).iter().filter(|found| **found == code).count()
}

#[test]
fn a_full_mailbox_refuses_and_takes_again() {
    let before = refused("update", "mailbox_full");
    let folder = tempfile::tempdir().unwrap();
    let mut narrow = config(folder.path(), 2);
    narrow.limits.mailbox_messages = 64;
    let server = Server::start(narrow, Seams::default());
    let (tokens, series) = server.seed(1, 1);
    let (token, manga) = (tokens[0].clone(), series[0]);
    let elsewhere = 1 - server.owner(&token);
    let answers = server.on(elsewhere, move |engine| async move {
        let attachment = attach(&engine, &token).await;
        // In one turn of this shard, so that at most what the owner takes meanwhile finds room.
        (1..=4_000).for_each(|seq| attachment.submit(seq, SetProgress::to(manga, chapter(1))).unwrap());
        let answers = outgoing(&attachment, 4_000).await;
        attachment.submit(5_000, SetProgress::to(manga, chapter(2))).unwrap();
        assert!(matches!(outgoing(&attachment, 1).await[..], [Outgoing::Ack { seq: 5_000, .. }]), "did not heal");
        answers
    });
    let busy = count(&answers, Some(Code::Busy));
    assert!(busy > 0 && count(&answers, None) == 4_000 - busy, "{busy}");
    until("it is counted", || refused("update", "mailbox_full") >= before + busy as u64);
}

#[test]
fn replies_that_find_their_lane_full_wait_in_order_and_none_is_lost() {
    const ROUNDS: u64 = 16;
    const EACH: u64 = 32;
    let delayed = || {
        let lanes = [(0, 1), (1, 0)].map(|(from, to)| format!("{{from=\"{from}\",to=\"{to}\"}}"));
        let sum = lanes.iter().filter_map(|lane| figure(&format!("mangahub_mailbox_replies_delayed_total{lane}")));
        sum.sum::<f64>()
    };
    let before = delayed();
    let folder = tempfile::tempdir().unwrap();
    let journal = Stalling::default();
    let mut narrow = config(folder.path(), 2);
    narrow.limits.mailbox_messages = 64;
    let server = Server::start(narrow, Seams { journal: Some(Arc::new(journal.clone())), ..Seams::default() });
    let (tokens, series) = server.seed(16, 1);
    let (token, manga) = (tokens[0].clone(), series[0]);
    let owner = server.owner(&token);
    let guide = tokens[1..].iter().find(|token| server.owner(token) == owner).expect("16 users on two shards").clone();
    let answers = server.on(1 - owner, move |engine| async move {
        let attachment = attach(&engine, &token).await;
        let guide = grant(&engine, &guide).await;
        let look = async || drop(engine.query(&guide, Query::Progress(manga)).await.unwrap());
        look().await;
        journal.close();
        for round in 0..ROUNDS {
            for seq in round * EACH + 1..=(round + 1) * EACH {
                attachment.submit(seq, SetProgress::to(manga, chapter(seq as u32))).unwrap();
            }
            // Nothing of this user waits for the disk, so the answer says that the owner has taken what was sent before it.
            look().await;
        }
        // What is durable now is answered all at once, and is eight times what the lane holds.
        journal.open_gate();
        outgoing(&attachment, (ROUNDS * EACH) as usize).await
    });
    let acked = answers.iter().map(|out| if let Outgoing::Ack { seq, .. } = out { *seq } else { panic!("{out:?}") });
    assert!(acked.eq(1..=ROUNDS * EACH), "answers out of order");
    until("it is counted", || delayed() > before);
}

#[test]
fn a_full_out_queue_closes_its_reader_and_nobody_else() {
    let before = refused("connection", "slow_consumer");
    let folder = tempfile::tempdir().unwrap();
    let mut narrow = config(folder.path(), 1);
    narrow.limits.out_queue_messages = 4;
    let server = Server::start(narrow, Seams::default());
    let (tokens, series) = server.seed(1, 5);
    let token = tokens[0].clone();
    server.on(0, move |engine| async move {
        let (slow, writer) = (attach(&engine, &token).await, attach(&engine, &token).await);
        // One more series than the queue has places: nothing in it can be replaced by something newer.
        for (seq, manga) in (1..).zip(&series) {
            writer.submit(seq, SetProgress::to(*manga, chapter(1))).unwrap();
        }
        assert_eq!(count(&outgoing(&writer, 5).await, None), 5);
        let closed = outgoing(&slow, 1).await;
        assert!(matches!(&closed[..], [Outgoing::Close(fault)] if fault.code == Code::SlowConsumer), "{closed:?}");
        drop(slow);
        let again = attach(&engine, &token).await;
        writer.submit(6, SetProgress::to(series[0], chapter(2))).unwrap();
        assert!(matches!(&outgoing(&again, 1).await[..], [Outgoing::Announcement(_)]), "did not heal");
    });
    until("it is counted", || refused("connection", "slow_consumer") > before);
}

#[test]
fn connections_past_their_number_are_refused_and_taken_again() {
    const USER_MAX: usize = 256;
    let counted = || [refused("connection", "shard_full"), refused("connection", "user_full")];
    let before = counted();
    let folder = tempfile::tempdir().unwrap();
    let mut narrow = config(folder.path(), 1);
    narrow.limits.connections_per_shard = USER_MAX + 2;
    let server = Server::start(narrow, Seams::default());
    let (tokens, _) = server.seed(2, 1);
    server.on(0, move |engine| async move {
        let options = AttachOptions { form: WireForm::Line, window: 1, lines: true };
        let enter = async |token| engine.attach(grant(&engine, token).await, None, options).await;
        let mut of_one = Vec::new();
        for _ in 0..USER_MAX {
            of_one.push(enter(&tokens[0]).await.unwrap());
        }
        assert_eq!(enter(&tokens[0]).await.err().unwrap().code, Code::Capacity, "of one user");
        let others = [enter(&tokens[1]).await.unwrap(), enter(&tokens[1]).await.unwrap()];
        assert_eq!(enter(&tokens[1]).await.err().unwrap().code, Code::Capacity, "of the shard");
        drop((of_one.pop(), others));
        assert!(enter(&tokens[0]).await.is_ok() && enter(&tokens[1]).await.is_ok(), "did not heal");
    });
    until("both are counted", || counted()[0] > before[0] && counted()[1] > before[1]);
}

/// Loads that wait until they are let through.
#[derive(Default)]
struct SlowLoads {
    slow: AtomicBool,
    waiting: Mutex<Vec<oneshot::Sender<()>>>,
}

impl SlowLoads {
    fn close(&self) {
        self.slow.store(true, Ordering::SeqCst);
    }

    fn open(&self) {
        self.slow.store(false, Ordering::SeqCst);
        self.waiting.lock().unwrap().clear();
    }

    fn waiting(&self) -> usize {
        self.waiting.lock().unwrap().len()
    }
}

impl Seam for SlowLoads {
    fn apply(&self, real: &SharedStore, batch: Batch) -> Answer<Applied> {
        real.apply(batch)
    }

    fn load_user(&self, real: &SharedStore, user: UserId) -> Answer<Option<LoadedUser>> {
        let load = real.load_user(user);
        if !self.slow.load(Ordering::SeqCst) {
            return load;
        }
        let (held, opened) = oneshot::channel();
        self.waiting.lock().unwrap().push(held);
        Box::pin(async move {
            // It ends when its other end is dropped.
            let _ = opened.await;
            load.await
        })
    }
}

#[test]
fn one_address_or_user_gets_its_rate_of_requests() {
    let before = refused("request", "rate");
    let folder = tempfile::tempdir().unwrap();
    let mut slow = config(folder.path(), 1);
    (slow.limits.api_rate_per_s, slow.limits.api_burst) = (1, 5);
    let server = Server::start(slow, Seams::default());
    let codes: Vec<Option<Code>> = server.on(0, |engine| async move {
        let peer = Peer { address: [192, 0, 2, 1].into(), user_agent: None };
        let draw = |_| engine.admit(Caller::Peer(&peer)).err().map(|fault| fault.code);
        let codes = (0..8).map(draw).collect();
        let other = Peer { address: [192, 0, 2, 2].into(), user_agent: None };
        assert!(engine.admit(Caller::Peer(&other)).is_ok(), "others have their own");
        codes
    });
    assert_eq!(codes[..5], [None; 5]);
    assert!(codes.contains(&Some(Code::RateLimited)), "{codes:?}");
    until("it is counted", || refused("request", "rate") > before);
}

/// With a password that is wrong.
async fn sign_in(engine: &engine::Engine, name: &str) -> Result<(), Code> {
    let identifier = engine::Identifier::Username(name.to_owned());
    let request = LoginRequest { identifier, password: "not the password".to_owned() };
    let peer = Peer { address: [192, 0, 2, 1].into(), user_agent: None };
    engine.login(request, &peer).await.map(drop).map_err(|fault| fault.code)
}

#[test]
fn a_full_hashing_queue_refuses_sign_ins_at_once_and_takes_them_again() {
    let before = refused("compute", "queue_full");
    let folder = tempfile::tempdir().unwrap();
    let mut narrow = config(folder.path(), 1);
    narrow.limits.hashing_queue = 1;
    let server = Server::start(narrow, Seams::default());
    let codes = server.on(0, |engine| async move {
        let tries: Vec<_> = (0..32)
            .map(|number| {
                let engine = engine.clone();
                runtime::spawn(async move { sign_in(&engine, &format!("nobody{number}")).await })
            })
            .collect();
        let mut codes = Vec::new();
        for one in tries {
            codes.push(one.await.unwrap());
        }
        codes.push(sign_in(&engine, "nobody").await);
        codes
    });
    let count = |code| codes[..32].iter().filter(|found| **found == Err(code)).count();
    // One is hashed and one waits; what comes when both have been answered is taken again.
    assert_eq!(count(Code::Unauthenticated) + count(Code::Busy), 32, "{codes:?}");
    assert!(count(Code::Unauthenticated) >= 1 && count(Code::Busy) >= 1, "{codes:?}");
    assert_eq!(codes[32], Err(Code::Unauthenticated), "did not heal");
    until("it is counted", || refused("compute", "queue_full") >= before + count(Code::Busy) as u64);
}

#[test]
fn failed_sign_ins_past_their_number_are_counted() {
    let before = refused("login", "locked_out");
    let folder = tempfile::tempdir().unwrap();
    let mut strict = config(folder.path(), 1);
    strict.limits.login_per_address = 2;
    let server = Server::start(strict, Seams::default());
    let codes = server.on(0, |engine| async move {
        let mut codes = Vec::new();
        for _ in 0..4 {
            codes.push(sign_in(&engine, "nobody").await);
        }
        codes.push(sign_in(&engine, "somebody else").await);
        codes
    });
    let (wrong, too_many) = (Err(Code::Unauthenticated), Err(Code::RateLimited));
    assert_eq!(codes, [wrong, wrong, too_many, too_many, wrong]);
    until("it is counted", || refused("login", "locked_out") >= before + 2);
}

#[test]
fn lines_past_their_rate_and_catch_ups_past_their_number_are_counted() {
    let before = [refused("line", "rate"), refused("update", "rate"), refused("catch_up", "unanswered")];
    let folder = tempfile::tempdir().unwrap();
    let mut slow = config(folder.path(), 1);
    (slow.limits.line_rate_per_s, slow.limits.line_burst) = (1, 3);
    (slow.limits.frame_rate_per_s, slow.limits.frame_burst) = (1, 4);
    let server = Server::start(slow, Seams::default());
    let (tokens, series) = server.seed(2, 1);
    let manga = series[0];
    let (reader, writer) = (tokens[0].clone(), tokens[1].clone());
    server.on(0, move |engine| async move {
        let grant = grant(&engine, &reader).await;
        let options = AttachOptions { form: WireForm::Line, window: 1_000, lines: true };
        let lines = engine.attach(grant, None, options).await.unwrap();
        (1..=5).for_each(|seq| lines.submit(seq, SetProgress::to(manga, chapter(1))).unwrap());
        assert_eq!(count(&outgoing(&lines, 5).await, Some(Code::RateLimited)), 2);
        (6..=105).for_each(|seq| lines.request(seq, Ask::CatchUp(None)).unwrap());
        assert!(count(&outgoing(&lines, 100).await, Some(Code::Busy)) > 0);
        let frames = attach(&engine, &writer).await;
        (1..=6).for_each(|seq| frames.submit(seq, SetProgress::to(manga, chapter(1))).unwrap());
        assert_eq!(count(&outgoing(&frames, 6).await, Some(Code::RateLimited)), 2);
        // Through HTTP the same user is served: the rate is that of frames.
        let writer = common::grant(&engine, &writer).await;
        engine.command(&writer, Command::SetProgress(SetProgress::to(manga, chapter(2)))).await.unwrap();
    });
    until("each is counted", || {
        let now = [refused("line", "rate"), refused("update", "rate"), refused("catch_up", "unanswered")];
        now[0] >= before[0] + 2 && now[1] >= before[1] + 2 && now[2] > before[2]
    });
}

/// A server whose loads can be made to wait.
fn with_slow_loads(change: impl FnOnce(&mut engine::config::Limits)) -> (Server, Arc<SlowLoads>, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let mut narrow = config(folder.path(), 1);
    change(&mut narrow.limits);
    let loads = Arc::new(SlowLoads::default());
    let seam = Arc::clone(&loads);
    let store = Arc::new(move |real| Arc::new(Seamed::new(real, Arc::clone(&seam))) as SharedStore);
    let server = Server::start(narrow, Seams { store: Some(store), ..Seams::default() });
    (server, loads, folder)
}

#[test]
fn users_past_those_that_may_load_at_once_are_refused_at_once() {
    let before = refused("user", "loads_full");
    let (server, loads, _folder) = with_slow_loads(|limits| limits.loads_max = 3);
    let (tokens, series) = server.seed(5, 1);
    loads.close();
    let manga = series[0];
    let set = |token: &String| {
        let token = token.clone();
        server.begin(0, move |engine| async move {
            let grant = grant(&engine, &token).await;
            engine.command(&grant, Command::SetProgress(SetProgress::to(manga, chapter(1)))).await.map(drop)
        })
    };
    let waiting: Vec<_> = tokens[..3].iter().map(set).collect();
    until("three are being loaded", || loads.waiting() == 3);
    let refusal = set(&tokens[3]).recv_timeout(common::PATIENCE).unwrap().unwrap_err();
    assert_eq!(refusal.code, Code::Busy);
    until("it is counted", || refused("user", "loads_full") > before);
    loads.open();
    assert!(waiting.into_iter().all(|answer| answer.recv_timeout(common::PATIENCE).unwrap().is_ok()));
    assert!(set(&tokens[3]).recv_timeout(common::PATIENCE).unwrap().is_ok(), "did not heal");
}

#[test]
fn commands_past_those_that_may_wait_for_a_load_are_refused_at_once() {
    let before = refused("user", "load_waiters_full");
    let (server, loads, _folder) = with_slow_loads(|limits| limits.load_waiters_max = 10);
    let (tokens, series) = server.seed(1, 1);
    loads.close();
    let (token, manga, back) = (tokens[0].clone(), series[0], Arc::clone(&loads));
    let codes = server.on(0, move |engine| async move {
        let grant = grant(&engine, &token).await;
        let command = Command::SetProgress(SetProgress::to(manga, chapter(1)));
        let asks: Vec<_> = (0..30)
            .map(|_| {
                let (engine, grant, command) = (engine.clone(), grant.clone(), command);
                runtime::spawn(async move { engine.command(&grant, command).await.err().map(|fault| fault.code) })
            })
            .collect();
        while back.waiting() == 0 {
            runtime::sleep(Duration::from_millis(1)).await;
        }
        back.open();
        let mut codes = Vec::new();
        for ask in asks {
            codes.push(ask.await.unwrap());
        }
        codes
    });
    let busy = codes.iter().filter(|code| **code == Some(Code::Busy)).count();
    // The one that began the load may count among those that wait.
    assert!((19..=20).contains(&busy) && codes.iter().filter(|code| code.is_none()).count() == 30 - busy, "{codes:?}");
    until("each is counted", || refused("user", "load_waiters_full") >= before + busy as u64);
}

#[test]
fn a_full_store_queue_leaves_records_in_the_journal_and_shows_its_lag_until_they_are_stored() {
    const LAG: [&str; 2] = ["mangahub_store_lag_records", "mangahub_store_lag_seconds"];
    let lag = || LAG.map(|name| figure(name).unwrap_or(0.0));
    lag();
    let folder = tempfile::tempdir().unwrap();
    let store = common::store_seam::Switched::default();
    let mut narrow = config(folder.path(), 1);
    narrow.limits.store_queue_rows = 100;
    let server = Server::start(narrow, Seams { store: Some(store.seam()), ..Seams::default() });
    let (tokens, series) = server.seed(1, 1);
    let (token, manga) = (tokens[0].clone(), series[0]);
    store.set_holds(true);
    // Far more than the queue holds, and every one of them is acknowledged.
    server.on(0, move |engine| async move {
        let attachment = attach(&engine, &token).await;
        for number in 1..=3_000 {
            let update = SetProgress { force: true, ..SetProgress::to(manga, chapter(number)) };
            attachment.submit(number.into(), update).unwrap();
        }
        assert_eq!(count(&outgoing(&attachment, 3_000).await, None), 3_000);
    });
    until("the lag is seen", || lag()[0] > 2_000.0 && lag()[1] > 0.0);
    let seen_ms = lag()[1];
    until("it grows while nothing is stored", || lag()[1] > seen_ms && lag()[0] > 2_000.0);
    store.set_holds(false);
    until("nothing waits any more", || lag() == [0.0, 0.0]);
}
