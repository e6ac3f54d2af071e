//! How fast the Postgres store takes batches, one at a time as the writer sends them and two at a time, against bare loops: of the
//! same statement, and of `COPY` into a temporary table with one merge behind it. Bare means two connections, half of the rows
//! each, values made beforehand, nothing else. All take turns on one private server. `cargo bench -p mangahub-storage --bench
//! postgres_apply [-- ROWS]`, for batches of another size; the server flushes its commits, so the disk is part of all.

#[path = "../tests/support/postgres.rs"]
mod postgres_server;
#[path = "../../benches/workload/mod.rs"]
mod workload;

use std::time::{Duration, Instant};

use futures_executor::block_on;
use hub::progress::ProgressRow;
use postgres_server::PostgresServer;
use proto::{UserId, Version};
use storage::lane::lane_of;
use storage::store::{Answer, Applied, Batch, PostgresConfig, PostgresStore, Rows, Store};
use tokio_postgres::binary_copy::BinaryCopyInWriter;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, NoTls};
use uuid::Uuid;
use workload::{Step, batch};

const BATCH_ROWS: u64 = 2_000;
const USERS: u64 = 20_000;
const ROWS_A_TURN: u64 = 60_000;
const TURNS: usize = 7;

const UNNEST: &str =
    "UNNEST($1::uuid[], $2::bigint[], $3::bigint[], $4::integer[], $5::bigint[], $6::bigint[], $7::boolean[],
                              $8::bigint[], $9::boolean[])";

/// The upsert of rows that come from somewhere, under the merge order.
fn upsert(source: &str) -> String {
    format!(
        "INSERT INTO user_progress AS stored
             (user_id, manga_id, generation, chapter, version, node, deleted, page, ahead)
         SELECT * FROM {source}
         ON CONFLICT (user_id, manga_id) DO UPDATE SET
             generation = excluded.generation, chapter = excluded.chapter, version = excluded.version, node = excluded.node,
             deleted = excluded.deleted, page = excluded.page, ahead = excluded.ahead
         WHERE (excluded.generation, excluded.chapter, excluded.version, excluded.node,
                excluded.deleted, coalesce(excluded.page, -1), excluded.ahead)
             > (stored.generation, stored.chapter, stored.version, stored.node,
                stored.deleted, coalesce(stored.page, -1), stored.ahead)"
    )
}

/// The `at`-th update: a step forward of one of many users, who come in no order.
fn update(at: u64) -> Step {
    let chapter = u32::try_from(at / USERS).expect("small");
    Step::new(at.wrapping_mul(7_919) % USERS, 1, chapter, Version(1_000 + at))
}

fn through_the_store(store: &PostgresStore, from: u64, batch_rows: u64, at_a_time: usize) -> Duration {
    let batches: Vec<Batch> = (0..ROWS_A_TURN / batch_rows)
        .map(|number| {
            let first = from + number * batch_rows;
            let mut rows = Rows::default();
            (first..first + batch_rows).for_each(|at| rows.add(&update(at).series()));
            batch(rows, first + batch_rows)
        })
        .collect();
    let began = Instant::now();
    let mut under_way = std::collections::VecDeque::new();
    let finish = |answer: Answer<Applied>| {
        let applied = block_on(answer).expect("the store answers");
        assert_eq!(applied.changed, batch_rows, "every row is news");
    };
    for batch in batches {
        if under_way.len() == at_a_time {
            under_way.pop_front().into_iter().for_each(finish);
        }
        under_way.push_back(store.apply(batch));
    }
    under_way.into_iter().for_each(finish);
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

/// The rows of one batch, halved by lane.
fn halves(first: u64, batch_rows: u64) -> [Vec<(UserId, ProgressRow)>; 2] {
    let steps = (first..first + batch_rows).map(update);
    let mut rows: Vec<_> = steps.map(|step| (step.user_id(), step.row())).collect();
    rows.sort_unstable_by_key(|(user, _)| *user);
    let (even, odd) = rows.into_iter().partition(|(user, _)| lane_of(*user).index().is_multiple_of(2));
    [even, odd]
}

async fn bare(clients: &[Client; 2], from: u64, batch_rows: u64) -> Duration {
    let batches: Vec<[Vec<Column>; 2]> = (0..ROWS_A_TURN / batch_rows)
        .map(|number| halves(from + number * batch_rows, batch_rows).map(|rows| columns(&rows)))
        .collect();
    let statements = [
        clients[0].prepare(&upsert(UNNEST)).await.expect("a statement"),
        clients[1].prepare(&upsert(UNNEST)).await.expect("a statement"),
    ];
    let began = Instant::now();
    for batch in &batches {
        let half = async |share: usize| {
            let values: Vec<&(dyn ToSql + Sync)> = batch[share].iter().map(|(column, _)| &**column).collect();
            // One statement is one transaction.
            clients[share].execute(&statements[share], &values).await.expect("it is stored")
        };
        let (even, odd) = tokio::join!(half(0), half(1));
        assert_eq!(even + odd, batch_rows, "every row is news");
    }
    began.elapsed()
}

const STAGE: &str = "
    BEGIN;
    CREATE TEMPORARY TABLE stage (user_id uuid, manga_id bigint, generation bigint, chapter integer, version bigint, node bigint,
                                  deleted boolean, page bigint, ahead boolean) ON COMMIT DROP";
const KINDS: [Type; 9] =
    [Type::UUID, Type::INT8, Type::INT8, Type::INT4, Type::INT8, Type::INT8, Type::BOOL, Type::INT8, Type::BOOL];

async fn copied(clients: &[Client; 2], from: u64, batch_rows: u64) -> Duration {
    let batches: Vec<_> =
        (0..ROWS_A_TURN / batch_rows).map(|number| halves(from + number * batch_rows, batch_rows)).collect();
    let merge = upsert("stage");
    let began = Instant::now();
    for batch in &batches {
        let half = async |share: usize| {
            let client = &clients[share];
            client.batch_execute(STAGE).await.expect("a table");
            let sink = client.copy_in("COPY stage FROM STDIN (FORMAT binary)").await.expect("it copies");
            let mut writer = std::pin::pin!(BinaryCopyInWriter::new(sink, &KINDS));
            for (user, row) in &batch[share] {
                let (id, page) = (Uuid::from_bytes(*user.as_bytes()), row.page.map(|page| i64::from(page.0)));
                let (generation, version) = (row.key.generation.0 as i64, row.key.version.0 as i64);
                let (chapter, node) = (row.key.chapter.hundredths() as i32, i64::from(row.key.node.0));
                let values: [&(dyn ToSql + Sync); 9] =
                    [&id, &1_i64, &generation, &chapter, &version, &node, &row.deleted, &page, &row.ahead];
                writer.as_mut().write(&values).await.expect("a row");
            }
            writer.finish().await.expect("all rows");
            let changed = client.execute_typed(&merge, &[]).await.expect("it is merged");
            client.batch_execute("COMMIT").await.expect("it is stored");
            changed
        };
        let (even, odd) = tokio::join!(half(0), half(1));
        assert_eq!(even + odd, batch_rows, "every row is news");
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
    let asked = std::env::args().skip(1).find_map(|argument| argument.parse().ok());
    let batch_rows = asked.unwrap_or(BATCH_ROWS).clamp(2, ROWS_A_TURN);
    let mut times: [Vec<f64>; 4] = Default::default();
    let mut from = 0;
    for turn in 0..=TURNS {
        for (at, times) in times.iter_mut().enumerate() {
            let took = match at {
                0 | 1 => through_the_store(&store, from, batch_rows, 1 + at),
                2 => tokio_loop.block_on(bare(&clients, from, batch_rows)),
                _ => tokio_loop.block_on(copied(&clients, from, batch_rows)),
            };
            from += ROWS_A_TURN;
            // The first turn fills an empty table.
            if turn > 0 {
                times.push((ROWS_A_TURN / batch_rows * batch_rows) as f64 / took.as_secs_f64());
            }
        }
    }
    let names = ["store", "store, two at a time", "bare UNNEST loop", "bare COPY + merge loop"];
    println!("batches of {batch_rows} rows, {TURNS} turns: rows/s, median and range");
    for (name, rates) in names.iter().zip(&mut times) {
        rates.sort_unstable_by(f64::total_cmp);
        println!("{name:<24} {:>8.0}   {:>8.0} to {:>8.0}", rates[TURNS / 2], rates[0], rates[TURNS - 1]);
    }
}
