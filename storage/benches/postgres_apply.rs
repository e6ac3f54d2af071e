//! How fast the Postgres store takes batches, against a bare loop of the same statement: two connections, half of the rows each,
//! columns made beforehand, nothing else. Both take turns on one private server. `cargo bench -p mangahub-storage --bench
//! postgres_apply`; the server flushes its commits, so the disk is part of both.

#[path = "../tests/support/postgres.rs"]
mod postgres_server;

use std::time::{Duration, Instant};

use futures_executor::block_on;
use hub::progress::ProgressRow;
use hub::record::{ProgressRecord, Record};
use postgres_server::PostgresServer;
use proto::{Chapter, MangaId, MergeKey, NodeId, Page, UserId, Version};
use storage::journal::{JournalId, Lsn};
use storage::lane::{Lane, lane_of};
use storage::store::{Batch, PostgresConfig, PostgresStore, Rows, Store};
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, NoTls};
use uuid::Uuid;

const BATCH_ROWS: u64 = 2_000;
const USERS: u64 = 20_000;
const BATCHES_A_TURN: u64 = 30;
const TURNS: usize = 7;

const PROGRESS: &str = "
    INSERT INTO user_progress AS stored
        (user_id, manga_id, generation, chapter, version, node, deleted, page, ahead)
    SELECT * FROM UNNEST($1::uuid[], $2::bigint[], $3::bigint[], $4::integer[], $5::bigint[], $6::bigint[], $7::boolean[],
                         $8::bigint[], $9::boolean[])
    ON CONFLICT (user_id, manga_id) DO UPDATE SET
        generation = excluded.generation, chapter = excluded.chapter, version = excluded.version, node = excluded.node,
        deleted = excluded.deleted, page = excluded.page, ahead = excluded.ahead
    WHERE (excluded.generation, excluded.chapter, excluded.version, excluded.node,
           excluded.deleted, coalesce(excluded.page, -1), excluded.ahead)
        > (stored.generation, stored.chapter, stored.version, stored.node,
           stored.deleted, coalesce(stored.page, -1), stored.ahead)";

/// The `at`-th update: a step forward of one of many users, who come in no order.
fn update(at: u64) -> (UserId, ProgressRow) {
    let user = at.wrapping_mul(7_919) % USERS;
    let id = u128::from(user.wrapping_mul(0x9E37_79B9_7F4A_7C15)).to_be_bytes();
    let chapter = Chapter::from_hundredths(u32::try_from(at / USERS).expect("small") * 100).expect("in range");
    let key = MergeKey { generation: Version(1), chapter, version: Version(1_000 + at), node: NodeId(1) };
    (UserId::from_bytes(id), ProgressRow { key, deleted: false, page: Some(Page(3)), ahead: false })
}

fn through_the_store(store: &PostgresStore, from: u64) -> Duration {
    let batches: Vec<Batch> = (0..BATCHES_A_TURN)
        .map(|number| {
            let first = from + number * BATCH_ROWS;
            let mut rows = Rows::default();
            for at in first..first + BATCH_ROWS {
                let (user, row) = update(at);
                let (manga, device, library, history) = (MangaId(1), None, None, None);
                rows.add(&Record::Progress(ProgressRecord { user, manga, row, device, library, history }));
            }
            let cursors = Lane::all().map(|lane| (lane, Lsn(first + BATCH_ROWS))).collect();
            Batch { journal: JournalId([1; 16]), rows: rows.into(), parked: Vec::new(), cursors, now_unix_ms: 1 }
        })
        .collect();
    let began = Instant::now();
    for batch in batches {
        let applied = block_on(store.apply(batch)).expect("the store answers");
        assert_eq!(applied.changed, BATCH_ROWS, "every row is news");
    }
    began.elapsed()
}

type Column = (Box<dyn ToSql + Sync>, Type);

fn columns(rows: &[(UserId, ProgressRow)]) -> Vec<Column> {
    fn column<T: ToSql + Sync + 'static>(
        rows: &[(UserId, ProgressRow)],
        kind: Type,
        of: impl Fn(&(UserId, ProgressRow)) -> T,
    ) -> Column
    where
        Vec<T>: ToSql + Sync,
    {
        (Box::new(rows.iter().map(of).collect::<Vec<T>>()), kind)
    }
    vec![
        column(rows, Type::UUID_ARRAY, |(user, _)| Uuid::from_bytes(*user.as_bytes())),
        column(rows, Type::INT8_ARRAY, |_| 1_i64),
        column(rows, Type::INT8_ARRAY, |(_, row)| row.key.generation.0 as i64),
        column(rows, Type::INT4_ARRAY, |(_, row)| row.key.chapter.hundredths() as i32),
        column(rows, Type::INT8_ARRAY, |(_, row)| row.key.version.0 as i64),
        column(rows, Type::INT8_ARRAY, |(_, row)| i64::from(row.key.node.0)),
        column(rows, Type::BOOL_ARRAY, |(_, row)| row.deleted),
        column(rows, Type::INT8_ARRAY, |(_, row)| row.page.map(|page| i64::from(page.0))),
        column(rows, Type::BOOL_ARRAY, |(_, row)| row.ahead),
    ]
}

async fn bare(clients: &[Client; 2], from: u64) -> Duration {
    let batches: Vec<[Vec<Column>; 2]> = (0..BATCHES_A_TURN)
        .map(|number| {
            let first = from + number * BATCH_ROWS;
            let mut rows: Vec<_> = (first..first + BATCH_ROWS).map(update).collect();
            rows.sort_unstable_by_key(|(user, _)| *user);
            let (even, odd): (Vec<_>, Vec<_>) =
                rows.into_iter().partition(|(user, _)| lane_of(*user).index().is_multiple_of(2));
            [columns(&even), columns(&odd)]
        })
        .collect();
    let statements = [
        clients[0].prepare(PROGRESS).await.expect("a statement"),
        clients[1].prepare(PROGRESS).await.expect("a statement"),
    ];
    let began = Instant::now();
    for batch in &batches {
        let half = async |share: usize| {
            let values: Vec<&(dyn ToSql + Sync)> = batch[share].iter().map(|(column, _)| &**column).collect();
            // One statement is one transaction.
            clients[share].execute(&statements[share], &values).await.expect("it is stored")
        };
        let (even, odd) = tokio::join!(half(0), half(1));
        assert_eq!(even + odd, BATCH_ROWS, "every row is news");
    }
    began.elapsed()
}

async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.expect("a connection");
    tokio::spawn(connection);
    client
}

#[allow(clippy::print_stdout, reason = "its output is the result")]
fn main() {
    let mut server = PostgresServer::start();
    server.go_down();
    server.set(&["fsync=on", "max_wal_size=1GB"]);
    server.go_up();
    let store = PostgresStore::open(&PostgresConfig::new(server.url()), 1).expect("a store");
    let tokio_loop = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a loop");
    let clients = tokio_loop.block_on(async { [connect(&server.url()).await, connect(&server.url()).await] });
    let rows = BATCHES_A_TURN * BATCH_ROWS;
    let mut ratios = Vec::new();
    let mut from = 0;
    for turn in 0..=TURNS {
        let ours = through_the_store(&store, from);
        let theirs = tokio_loop.block_on(bare(&clients, from + rows));
        from += 2 * rows;
        // The first turn fills an empty table.
        if turn > 0 {
            let per_s = |time: Duration| rows as f64 / time.as_secs_f64();
            println!("store {:>8.0} rows/s, bare loop {:>8.0} rows/s", per_s(ours), per_s(theirs));
            ratios.push(theirs.as_secs_f64() / ours.as_secs_f64());
        }
    }
    ratios.sort_unstable_by(f64::total_cmp);
    println!(
        "the store's share of the bare loop: median {:.2}, {:.2} to {:.2}",
        ratios[TURNS / 2],
        ratios[0],
        ratios[TURNS - 1]
    );
}
