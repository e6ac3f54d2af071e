//! Statements: every one is sent with its parameters' types in one message group (parse, bind, execute), on the unnamed prepared
//! statement. Nothing is left on the server's session, so any pooler may give each transaction another server connection. All
//! functions send when they are first polled: what is polled in order is pipelined in order.

use tokio_postgres::types::{FromSqlOwned, ToSql, Type};
use tokio_postgres::{Client, Row};
use uuid::Uuid;

use super::failure::Failure;
use crate::store::StoreError;

/// A value and the type it is sent as.
pub(super) type Param<'a> = (&'a (dyn ToSql + Sync), Type);

/// Rust types with one Postgres type each.
pub(super) trait Typed: ToSql + Sync {
    /// What the server is told.
    const TYPE: Type;
}

/// Types that are sent as columns of many rows.
pub(super) trait Element: ToSql + Sync {
    /// The type of the column.
    const ARRAY: Type;
}

macro_rules! types {
    ($($rust:ty = $single:ident, $array:ident;)*) => {
        $(
            impl Typed for $rust {
                const TYPE: Type = Type::$single;
            }
            impl Element for $rust {
                const ARRAY: Type = Type::$array;
            }
        )*
    };
}

types! {
    Uuid = UUID, UUID_ARRAY;
    i64 = INT8, INT8_ARRAY;
    i32 = INT4, INT4_ARRAY;
    i16 = INT2, INT2_ARRAY;
    bool = BOOL, BOOL_ARRAY;
    &str = TEXT, TEXT_ARRAY;
    String = TEXT, TEXT_ARRAY;
    Vec<u8> = BYTEA, BYTEA_ARRAY;
    &[u8] = BYTEA, BYTEA_ARRAY;
}

impl<T: Typed> Typed for Option<T> {
    const TYPE: Type = T::TYPE;
}

impl<T: Element> Element for Option<T> {
    const ARRAY: Type = T::ARRAY;
}

impl<T: Element> Typed for Vec<T> {
    const TYPE: Type = T::ARRAY;
}

/// Pairs a value with its type.
pub(super) fn param<T: Typed>(value: &T) -> Param<'_> {
    (value, T::TYPE)
}

/// The parameters of a statement, in order.
macro_rules! params {
    ($($value:expr),* $(,)?) => { &[$($crate::store::postgres::statement::param(&$value)),*] };
}
pub(super) use params;

/// All rows.
pub(super) async fn rows(client: &Client, sql: &str, params: &[Param<'_>]) -> Result<Vec<Row>, Failure> {
    Ok(client.query_typed(sql, params).await?)
}

/// The first row, if there is one.
pub(super) async fn first(client: &Client, sql: &str, params: &[Param<'_>]) -> Result<Option<Row>, Failure> {
    Ok(rows(client, sql, params).await?.into_iter().next())
}

/// How many rows were written.
pub(super) async fn execute(client: &Client, sql: &str, params: &[Param<'_>]) -> Result<u64, Failure> {
    Ok(client.execute_typed(sql, params).await?)
}

/// Statements without parameters or answers, several if need be.
pub(super) async fn run(client: &Client, sql: &str) -> Result<(), Failure> {
    Ok(client.batch_execute(sql).await?)
}

/// A column of a row.
pub(super) fn column<T: FromSqlOwned>(row: &Row, at: usize) -> Result<T, Failure> {
    row.try_get(at).map_err(|error| odd(&format!("column {at}: {error}")))
}

/// A column that holds a number which is never negative and fits.
pub(super) fn number<T: TryFrom<i64>>(row: &Row, at: usize) -> Result<T, Failure> {
    column::<i64>(row, at)?.try_into().map_err(|_| odd(&format!("column {at} is out of its range")))
}

/// Sixteen bytes that are an id.
pub(super) fn id(row: &Row, at: usize) -> Result<[u8; 16], Failure> {
    Ok(column::<Uuid>(row, at)?.into_bytes())
}

/// A row that no version of the server writes.
pub(super) fn odd(what: &str) -> Failure {
    Failure::Final(StoreError::Corrupt { reason: what.to_owned() })
}

/// A number as a column holds it; one that does not fit is refused like any other data.
pub(super) fn int(number: u64) -> Result<i64, Failure> {
    let refused = |_| Failure::Final(StoreError::Refused { reason: format!("{number} is larger than a column holds") });
    i64::try_from(number).map_err(refused)
}

/// Text as a column holds it: Postgres keeps every character but one.
pub(super) fn text(text: &str) -> String {
    text.replace('\0', "")
}
