//! One update, followed through every stage by its version; and nothing of the kind when nobody has asked for it.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;

use serde_json::{Value, json};

use crate::support::postgres::PostgresServer;
use crate::support::redis::RedisServer;
use crate::support::{Launch, PATIENCE, Reader, Server, eventually};

/// The log lines of followed updates.
fn followed(server: &Server) -> Vec<Value> {
    let log = server.launch().stderr();
    let whole = log.lines().filter(|line| line.ends_with('}')).filter_map(|line| serde_json::from_str(line).ok());
    whole.filter(|line: &Value| line["target"] == "mangahub::update").map(|line| line["fields"].clone()).collect()
}

/// Another device of the reader's, which is shown changes.
fn listen(server: &Server, reader: &Reader) -> BufReader<TcpStream> {
    let mut stream = TcpStream::connect(server.ports.tcp_sync).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    writeln!(stream, "{}", json!({"type": "auth", "data": {"token": reader.token}})).unwrap();
    let mut lines = BufReader::new(stream);
    hear(&mut lines, "auth_success");
    lines
}

/// Reads until a message of this type.
fn hear(lines: &mut BufReader<TcpStream>, kind: &str) -> Value {
    loop {
        let mut line = String::new();
        assert!(lines.read_line(&mut line).unwrap() > 0, "the connection ended before {kind}");
        let message: Value = serde_json::from_str(&line).unwrap();
        if message["type"] == kind {
            return message;
        }
    }
}

/// Every stage of one update, in order; those behind the fourth have no order among each other.
fn is_followed(server: &Server, behind: &[&str]) {
    let reader = Reader::register(server, "followed");
    let manga = reader.series(server, "berserk");
    let mut device = listen(server, &reader);
    let put = server.request("PUT", &format!("/api/progress/{manga}")).bearer(&reader.token);
    let answer = put.header("x-request-id", "follow-me").json(&json!({"chapter": 7})).send().expect(200).json();
    let version = answer["version"].as_u64().unwrap();
    hear(&mut device, "progress_broadcast");

    let first = ["applied", "handed over", "durable"];
    let stages = eventually("every stage is in the log", || {
        let lines: Vec<Value> = followed(server).into_iter().filter(|line| line["version"] == version).collect();
        let has = |stage: &&str| lines.iter().any(|line| line["stage"] == **stage);
        (first.iter().all(has) && behind.iter().all(has)).then_some(lines)
    });
    let names: Vec<&str> = stages.iter().map(|line| line["stage"].as_str().unwrap()).collect();
    assert_eq!(names[..3], first, "{stages:#?}");
    assert_eq!(names.len(), first.len() + behind.len(), "each once: {names:?}");
    let at = |stage: &str| names.iter().position(|name| *name == stage).unwrap();
    assert!(at("acknowledged") < at("answered"), "{names:?}");
    let of = |stage: &str, field: &str| stages[at(stage)][field].clone();
    assert_eq!(of("applied", "ticket"), of("handed over", "ticket"));
    assert!(of("stored", "last_lsn").as_u64() >= of("durable", "lsn").as_u64(), "{stages:#?}");
    assert_eq!(of("announced", "connections"), 1);
    assert_eq!((of("answered", "request_id"), of("answered", "door")), (json!("follow-me"), json!("http")));

    // An update of another door is answered there.
    let update = json!({"type": "progress_update", "data": {"manga_id": manga, "chapter": 8}});
    writeln!(device.get_mut(), "{update}").unwrap();
    eventually("the answer of the sync door", || {
        followed(server).into_iter().find(|line| line["stage"] == "answered" && line["door"] == "tcp_sync")
    });
}

fn launch() -> Launch {
    Launch::new().set("trace.sample", "1").set("log.format", "json")
}

#[test]
fn one_update_is_followed_from_the_door_to_the_table() {
    is_followed(&launch().start(), &["acknowledged", "announced", "answered", "stored"]);
}

#[test]
fn one_update_is_followed_through_redis_and_postgres() {
    let (redis, postgres) = (RedisServer::start(), PostgresServer::start());
    let launch = launch().variable("REDIS_URL", &redis.url()).variable("DATABASE_URL", &postgres.url());
    is_followed(&launch.start(), &["acknowledged", "announced", "answered", "cached", "stored"]);
}

#[test]
fn nothing_is_followed_unless_it_is_asked_for() {
    let server = Launch::new().set("log.format", "json").set("log.filter", "trace").start();
    let reader = Reader::register(&server, "alone");
    let manga = reader.series(&server, "berserk");
    reader.put_progress(&server, manga, &json!({"chapter": 1})).expect(200);
    let (status, launch) = server.stop();
    assert!(status.success() && launch.stderr().contains("stopped"), "{status}");
    assert!(!launch.stderr().contains("mangahub::update"), "{}", launch.stderr());
}
