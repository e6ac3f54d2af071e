//! Redis beside the whole server: other tools read progress there, and a Redis that dies under load holds nobody up.

use serde_json::{Value, json};

use crate::support::{Launch, Reader, Request, Server, eventually, under_load};

use crate::support::redis::RedisServer;

fn serve_over(redis: &RedisServer) -> Server {
    let launch = Launch::new().variable("REDIS_URL", &redis.url());
    launch.set("limits.requests_per_s", "1000000").set("limits.requests_burst", "1000000").start()
}

fn health(server: &Server) -> Value {
    server.request("GET", "/health/ready").send().expect(200).json()
}

fn wait_for(server: &Server, status: &str, word: &str) {
    eventually(&format!("health: {status}, Redis {word}"), || {
        let health = health(server);
        (health["status"] == status && health["dependencies"]["redis"] == word).then_some(())
    });
}

/// The one key of a series: the test has one reader for each.
fn key_of(redis: &RedisServer, manga: impl std::fmt::Display) -> Option<String> {
    let keys = redis.ask(&["KEYS", &format!("progress:*:{manga}")]);
    let mut keys = keys.lines().map(str::to_owned).filter(|key| !key.is_empty());
    let key = keys.next();
    assert_eq!(keys.next(), None);
    key
}

#[test]
fn other_tools_read_progress_in_redis() {
    let redis = RedisServer::start();
    let server = serve_over(&redis);
    let banner = server.banner();
    assert!(banner.contains(&format!("Redis 127.0.0.1:{}", redis.port())), "{banner}");
    wait_for(&server, "ready", "healthy");
    let reader = Reader::register(&server, "shown");
    let manga = reader.series(&server, "berserk");
    reader.put_progress(&server, manga, &json!({"chapter": 12.5, "page": 9})).expect(200);
    let key = eventually("progress in Redis", || key_of(&redis, manga));
    let found = redis.hash(&key);
    let shown = reader.progress(&server, manga);
    assert_eq!((&*found["current_chapter"], &*found["page"]), ("12.5", "9"), "{found:?}");
    assert_eq!(found["version"], shown["version"].to_string(), "{found:?} {shown}");
    assert_eq!(Value::from(found["updated_at"].as_str()), shown["updated_at"]);
    assert_eq!(Value::from(found["status"].as_str()), shown["status"]);

    let metrics = Request::new(server.ports.metrics, "GET", "/metrics").send().expect(200).text;
    assert!(metrics.contains("mangahub_cache_breaker 0"), "{metrics}");
    let (status, launch) = server.stop();
    assert!(status.success(), "{status}: {}", launch.stderr());
    assert!(!launch.stderr().contains("WARN"), "{}", launch.stderr());
}

#[test]
fn a_redis_that_is_killed_under_load_holds_nobody_up_and_comes_back_without_a_restart() {
    let mut redis = RedisServer::start();
    let server = serve_over(&redis);
    wait_for(&server, "ready", "healthy");
    let readers = ["one", "two"].map(|name| Reader::register(&server, name));
    let series = ["berserk", "one-piece"].map(|slug| readers[0].series(&server, slug));
    let pages = under_load(&server, &[(&readers[0], series[0]), (&readers[1], series[1])], |load| {
        load.goes_on(50);
        redis.kill();
        // Then, and once the breaker has opened.
        load.goes_on(50);
        wait_for(&server, "degraded", "down");
        load.goes_on(50);
        redis.go_up();
        wait_for(&server, "ready", "healthy");
        load.goes_on(50);
    });
    for (manga, page) in series.into_iter().zip(pages) {
        eventually("the last update in Redis", || {
            let key = key_of(&redis, manga)?;
            (redis.hash(&key).get("page") == Some(&page.to_string())).then_some(())
        });
    }
}

#[test]
fn a_server_starts_without_its_redis_and_refuses_a_url_that_makes_no_sense() {
    let mut redis = RedisServer::start();
    redis.kill();
    let server = serve_over(&redis);
    wait_for(&server, "degraded", "down");
    let reader = Reader::register(&server, "early");
    let manga = reader.series(&server, "berserk");
    reader.put_progress(&server, manga, &json!({"chapter": 3})).expect(200);
    redis.go_up();
    wait_for(&server, "ready", "healthy");
    // What was acknowledged before has waited.
    eventually("progress in Redis", || key_of(&redis, manga));

    let refused = Launch::new().variable("REDIS_URL", "redis://user:hunter2@[").refused();
    assert!(refused.stderr.contains("cache.redis_url") && !refused.stderr.contains("hunter2"), "{}", refused.stderr);
}
