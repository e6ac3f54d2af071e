//! Users: making, finding and changing them. The unique indexes on the folded names decide; this file only says which of them
//! it was.

use proto::UserId;
use tokio_postgres::{Client, Row};
use uuid::Uuid;

use super::failure::Failure;
use super::sessions;
use super::statement::{column, execute, first, id, int, number, odd, params, rows, text};
use crate::store::{Account, NewUser, Role, SeedUser, StoreError, UniqueField, UserKey};

pub(super) const ACCOUNT: &str = "id, username, email, password_hash, role, created_at, updated_at";

/// An account from the columns of [`ACCOUNT`].
pub(super) fn account_row(row: &Row) -> Result<Account, Failure> {
    Ok(Account {
        id: UserId::from_bytes(id(row, 0)?),
        username: column(row, 1)?,
        email: column(row, 2)?,
        password_hash: column(row, 3)?,
        role: column::<String>(row, 4)?.parse::<Role>().map_err(|_| odd("not a role"))?,
        created_at_unix_ms: number(row, 5)?,
        updated_at_unix_ms: number(row, 6)?,
    })
}

/// Makes a user. Making the same one again is nothing: a commit whose answer was lost is repeated.
pub(super) async fn create(client: &Client, user: &NewUser) -> Result<(), Failure> {
    let id = Uuid::from_bytes(*user.id.as_bytes());
    let sql = "INSERT INTO users (id, username, username_folded, email, email_folded, password_hash, role, created_at, updated_at)
               VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $8) ON CONFLICT DO NOTHING";
    let NewUser { username, username_folded, email, email_folded, password_hash, role, created_at_unix_ms, .. } = user;
    let (role, created_at) = (role.as_str(), int(*created_at_unix_ms)?);
    let values = params![id, *username, *username_folded, *email, *email_folded, *password_hash, role, created_at];
    if execute(client, sql, values).await? == 1 {
        return Ok(());
    }
    let sql = "SELECT id, username_folded = $2, email_folded = $3, password_hash FROM users
               WHERE id = $1 OR username_folded = $2 OR email_folded = $3";
    let mut taken = None;
    for row in rows(client, sql, params![id, *username_folded, *email_folded]).await? {
        let (same_name, same_email): (bool, bool) = (column(&row, 1)?, column(&row, 2)?);
        if column::<Uuid>(&row, 0)? == id && same_name && same_email && column::<String>(&row, 3)? == *password_hash {
            return Ok(());
        }
        taken = match (same_name, same_email) {
            (true, _) => Some(UniqueField::Username),
            (_, true) => taken.or(Some(UniqueField::Email)),
            _ => taken,
        };
    }
    // Whoever had the name has gone between the two statements.
    let gone = || Failure::Conflict("a user came and went".to_owned());
    Err(taken.map_or_else(gone, |field| StoreError::Taken { field }.into()))
}

/// Finds a user.
pub(super) async fn find(client: &Client, key: &UserKey) -> Result<Option<Account>, Failure> {
    let one = |condition: &str| format!("SELECT {ACCOUNT} FROM users WHERE {condition} = $1");
    let row = match key {
        UserKey::Id(id) => first(client, &one("id"), params![Uuid::from_bytes(*id.as_bytes())]).await,
        UserKey::Username(folded) => first(client, &one("username_folded"), params![text(folded)]).await,
        UserKey::Email(folded) => first(client, &one("email_folded"), params![text(folded)]).await,
    };
    row?.as_ref().map(account_row).transpose()
}

/// Replaces one column of a user.
pub(super) async fn set(
    client: &Client,
    user: UserId,
    name: &'static str,
    value: &str,
    now_unix_ms: u64,
) -> Result<(), Failure> {
    let sql = format!("UPDATE users SET {name} = $2, updated_at = $3 WHERE id = $1");
    let user = Uuid::from_bytes(*user.as_bytes());
    match execute(client, &sql, params![user, value, int(now_unix_ms)?]).await? {
        0 => Err(StoreError::NotFound { what: "user" }.into()),
        _ => Ok(()),
    }
}

/// All administrators, oldest first.
pub(super) async fn admins(client: &Client) -> Result<Vec<Account>, Failure> {
    let sql = format!("SELECT {ACCOUNT} FROM users WHERE role = $1 ORDER BY created_at, id");
    rows(client, &sql, params![Role::Admin.as_str()]).await?.iter().map(account_row).collect()
}

/// How many users there are.
pub(super) async fn count(client: &Client) -> Result<u64, Failure> {
    let row = first(client, "SELECT count(*) FROM users", params![]).await?;
    number(&row.ok_or_else(|| odd("no count"))?, 0)
}

/// Makes many users; those whose id or names exist are left alone.
pub(super) async fn seed(client: &Client, users: &[SeedUser]) -> Result<u64, Failure> {
    let ids: Vec<Uuid> = users.iter().map(|seed| Uuid::from_bytes(*seed.user.id.as_bytes())).collect();
    let texts = |of: fn(&NewUser) -> &str| users.iter().map(|seed| of(&seed.user)).collect::<Vec<&str>>();
    let names = (texts(|user| &user.username), texts(|user| &user.username_folded));
    let emails = (texts(|user| &user.email), texts(|user| &user.email_folded));
    let (hashes, roles) = (texts(|user| &user.password_hash), texts(|user| user.role.as_str()));
    let created = users.iter().map(|seed| int(seed.user.created_at_unix_ms)).collect::<Result<Vec<i64>, _>>()?;
    let sql = "INSERT INTO users (id, username, username_folded, email, email_folded, password_hash, role, created_at, updated_at)
               SELECT *, created_at FROM UNNEST($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[],
                                                $7::text[], $8::bigint[])
                   AS seeded (id, username, username_folded, email, email_folded, password_hash, role, created_at)
               ON CONFLICT DO NOTHING RETURNING id";
    let values = params![ids, names.0, names.1, emails.0, emails.1, hashes, roles, created];
    let made = rows(client, sql, values).await?;
    let made = made.iter().map(|row| id(row, 0)).collect::<Result<rustc_hash::FxHashSet<[u8; 16]>, _>>()?;
    let new = users.iter().filter(|seed| made.contains(seed.user.id.as_bytes()));
    sessions::insert(client, &new.filter_map(|seed| seed.session.as_ref()).collect::<Vec<_>>()).await?;
    Ok(made.len() as u64)
}
