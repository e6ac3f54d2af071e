//! The same ledger over Postgres and Redis: kill -9 of the server, of the database, of the hot cache and of all at once, under
//! load. Nothing that was acknowledged, announced or shown is lost, updates go on without either store, and afterwards the
//! database's rows are what the server shows. Five kills of each by default, a hundred in the soak.

use std::collections::HashMap;
use std::time::Duration;

use loadtest::campaign::{self, Campaign, Stores, Which};
use loadtest::server::Launch;
use proto::{MangaId, MergeKey, UserId};

use crate::support::postgres::PostgresServer;
use crate::support::{is_soak, merge_key, on_disk};

use crate::support::redis::RedisServer;

struct Pair {
    postgres: PostgresServer,
    redis: RedisServer,
}

impl Stores for Pair {
    fn end(&mut self, which: Which) {
        match which {
            Which::Database => self.postgres.go_down(),
            Which::Cache => self.redis.kill(),
        }
    }

    fn start(&mut self, which: Which) {
        match which {
            Which::Database => self.postgres.go_up(),
            Which::Cache => self.redis.go_up(),
        }
    }

    fn rows(&mut self) -> HashMap<(UserId, MangaId), MergeKey> {
        let rows = self
            .postgres
            .query("SELECT user_id, manga_id, generation, chapter, version, node FROM user_progress WHERE NOT deleted");
        rows.iter().map(|row| merge_key(row)).collect()
    }
}

#[test]
fn acknowledged_progress_survives_the_end_of_every_store() {
    let folder = on_disk();
    let mut pair = Pair { postgres: PostgresServer::start(), redis: RedisServer::start() };
    let mut launch = Launch::for_load(env!("CARGO_BIN_EXE_mangahub").into(), folder.path().join("data"));
    launch.settings.push(("DATABASE_URL".into(), pair.postgres.url()));
    launch.settings.push(("REDIS_URL".into(), pair.redis.url()));
    let each = if is_soak() { 100 } else { 5 };
    let campaign = Campaign {
        cycles: 4 * each,
        users: 8,
        series: 6,
        window: 64,
        load_max: Duration::from_millis(400),
        shards: [1, 2],
        // Kills take the place of pauses here.
        pause: Duration::ZERO,
        pause_every: 0,
        seed: 0x57_04e5,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let run = campaign::run(launch, &campaign, Some(&mut pair));
    let outcome = tokio::task::LocalSet::new().block_on(&runtime, run).unwrap_or_else(|failure| panic!("{failure}"));
    assert!(outcome.recovered > 0 && outcome.resent > 0, "{outcome:?}");
    assert_eq!(outcome.kinds.len(), 4, "{outcome:?}");
    println!("{outcome:?}");
}
