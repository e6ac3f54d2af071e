//! Redis under the whole engine: who only reads is answered from it, also while the store is away; whoever changes something
//! waits for the store; and nothing that was acknowledged is ever missing from an answer, whatever happens to Redis.

#![allow(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

mod common;
#[path = "../../storage/tests/support/redis.rs"]
mod redis;

use std::path::Path;
use std::time::Duration;

use common::store_seam::Switched;
use common::{Server, chapter, config, grant, until};
use engine::boot::Seams;
use engine::{Command, EngineConfig, Query, SetProgress, View};
use proto::{Chapter, Code, MangaId};
use redis::RedisServer;
use storage::hot::HotConfig;

/// One shard, in whose memory nobody stays who is stored and has no connection.
fn forgetful(folder: &Path, redis: &RedisServer) -> EngineConfig {
    let mut config = config(folder, 1);
    config.limits.user_bytes_max = 1;
    // Long enough for a machine that does much else.
    config.hot = Some(HotConfig { timeout: Duration::from_millis(500), ..HotConfig::new(redis.url()) });
    config
}

fn start(folder: &Path, redis: &RedisServer) -> (Server, Switched) {
    let store = Switched::default();
    (Server::start(forgetful(folder, redis), Seams { store: Some(store.seam()), ..Seams::default() }), store)
}

fn stored(server: &Server, token: &str, manga: MangaId) -> Option<Chapter> {
    server.get(0, token, manga).unwrap().map(|view| view.chapter)
}

/// Whether a user is answered from Redis alone: the store is away, so of one who is not in memory the
/// devices cannot be told.
fn comes_from_redis(server: &Server, store: &Switched, token: &str, at: (MangaId, Chapter)) -> bool {
    let (manga, chapter) = at;
    store.set_away(true);
    let owned = token.to_owned();
    let devices = server.on(0, move |engine| async move {
        let grant = grant(&engine, &owned).await;
        engine.query(&grant, Query::Devices).await
    });
    let read = server.get(0, token, manga);
    store.set_away(false);
    if !devices.is_err_and(|fault| fault.code == Code::Unavailable) {
        return false;
    }
    match read {
        Ok(view) => {
            assert_eq!(view.map(|view| view.chapter), Some(chapter), "what Redis has");
            true
        }
        Err(fault) => {
            assert_eq!(fault.code, Code::Unavailable);
            false
        }
    }
}

#[test]
fn who_only_reads_is_answered_from_redis_while_the_store_is_away() {
    let folder = tempfile::tempdir().unwrap();
    let redis = RedisServer::start();
    let (server, store) = start(folder.path(), &redis);
    let (tokens, series) = server.seed(2, 2);
    let at = (series[0], chapter(5));
    server.set(0, &tokens[0], SetProgress::to(at.0, at.1)).unwrap();
    until("a read is answered from Redis alone", || {
        // The other one's turn in memory.
        server.get(0, &tokens[1], series[0]).unwrap();
        server.get(0, &tokens[0], series[0]).unwrap();
        server.get(0, &tokens[1], series[0]).unwrap();
        comes_from_redis(&server, &store, &tokens[0], at)
    });
    // Without Redis, too, nobody is told anything but that the store is away.
    drop(redis);
    store.set_away(true);
    let refused = server.get(0, &tokens[0], series[0]).unwrap_err();
    assert_eq!(refused.code, Code::Unavailable);
    store.set_away(false);
    assert_eq!(stored(&server, &tokens[0], series[0]), Some(chapter(5)));
}

#[test]
fn who_reads_and_changes_at_once_gets_both_right() {
    let folder = tempfile::tempdir().unwrap();
    let redis = RedisServer::start();
    let (server, store) = start(folder.path(), &redis);
    let (tokens, series) = server.seed(2, 1);
    let manga = series[0];
    server.set(0, &tokens[0], SetProgress::to(manga, chapter(5))).unwrap();
    until("a read is answered from Redis alone", || {
        server.get(0, &tokens[1], manga).unwrap();
        comes_from_redis(&server, &store, &tokens[0], (manga, chapter(5)))
    });
    for number in 6..30 {
        // Somebody else's load sends this one out of memory, as soon as the store has the last change.
        server.get(0, &tokens[1], manga).unwrap();
        let token = tokens[0].clone();
        let (before, after) = server.on(0, move |engine| async move {
            let grant = grant(&engine, &token).await;
            // All three wait for the same load: the first may be answered from Redis, the second must not be.
            let read = |view| match view {
                View::Progress(Some(state)) => state.chapter,
                other => panic!("{other:?}"),
            };
            let (reader, writer) = (engine.clone(), engine.clone());
            let (granted, too) = (grant.clone(), grant.clone());
            let first = runtime::spawn(async move { reader.query(&granted, Query::Progress(manga)).await });
            let update = Command::SetProgress(SetProgress::to(manga, chapter(number)));
            let second = runtime::spawn(async move { writer.command(&too, update).await });
            let before = read(first.await.unwrap().unwrap());
            second.await.unwrap().unwrap();
            (before, read(engine.query(&grant, Query::Progress(manga)).await.unwrap()))
        });
        assert_eq!((before, after), (chapter(number - 1), chapter(number)));
    }
}

#[test]
fn nothing_acknowledged_is_missing_whatever_happens_to_redis() {
    let folder = tempfile::tempdir().unwrap();
    let mut redis = RedisServer::start();
    let (server, store) = start(folder.path(), &redis);
    let (tokens, series) = server.seed(5, 1);
    let mut rounds = 0;
    let mut play = |turns: u32| {
        for _ in 0..turns {
            rounds += 1;
            for token in &tokens {
                server.set(0, token, SetProgress::to(series[0], chapter(rounds))).unwrap();
            }
            for token in &tokens {
                assert_eq!(stored(&server, token, series[0]), Some(chapter(rounds)), "an answer lacks a change");
            }
        }
    };
    play(20);
    // Its copies as they are now come back after a crash.
    redis.ask(&["SAVE"]);
    play(3);
    redis.kill();
    play(5);
    redis.go_up();
    play(20);
    redis.freeze();
    play(5);
    redis.thaw();
    play(20);
    redis.ask(&["FLUSHALL"]);
    play(5);
    redis.ask(&["SCRIPT", "FLUSH"]);
    play(20);
    let last = chapter(rounds);
    until("Redis is used again", || {
        // A copy whose write Redis did not take is filled by the next load from the store; then the others' turn in memory.
        for token in &tokens {
            server.get(0, token, series[0]).unwrap();
        }
        comes_from_redis(&server, &store, &tokens[0], (series[0], last))
    });
}
