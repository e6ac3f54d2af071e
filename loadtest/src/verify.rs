//! Verification: asks a (restarted) server for every series that a ledger speaks of and says what is missing. A state may be
//! newer than what was acknowledged, never older: an update can be durable without its acknowledgement having arrived.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;

use proto::{Chapter, MangaId, MergeKey, UserId};

use crate::ledger::{Expectations, Source};
use crate::reader;
use crate::tokens::Tokens;

/// Something the server had said and does not have any more.
#[derive(Debug, Clone, PartialEq)]
pub struct Missing {
    /// Whose.
    pub user: UserId,
    /// In which series.
    pub manga: MangaId,
    /// What it had said: key and how, or only the chapter of a cumulative acknowledgement.
    pub said: (MergeKey, Source),
    /// The highest chapter it had acknowledged.
    pub chapter: Chapter,
    /// What it has.
    pub there: Option<MergeKey>,
}

/// The result.
#[derive(Debug, Default)]
pub struct Verdict {
    /// Series that were looked at.
    pub series: usize,
    /// Ledger entries behind them.
    pub entries: u64,
    /// What is missing.
    pub missing: Vec<Missing>,
}

/// The server could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A user of the ledger has no token.
    #[error("the tokens file does not have user {0}, whom the ledger speaks of")]
    UnknownUser(UserId),
    /// Reading failed.
    #[error("reading the states of user {user}: {error}")]
    Read {
        /// Whose.
        user: UserId,
        /// Why.
        #[source]
        error: client::shell::Error,
    },
}

/// Compares a ledger with what a server has now.
pub async fn verify(server: SocketAddr, tokens: &Tokens, expectations: &Expectations) -> Result<Verdict, Error> {
    let tokens: HashMap<UserId, _> = tokens.users.iter().map(|seeded| (seeded.user_id, seeded)).collect();
    let mut by_user: BTreeMap<UserId, Vec<MangaId>> = BTreeMap::new();
    for (user, manga) in expectations.highest.keys() {
        by_user.entry(*user).or_default().push(*manga);
    }
    let mut verdict = Verdict { entries: expectations.entries, ..Verdict::default() };
    for (user, mangas) in by_user {
        let seeded = tokens.get(&user).ok_or(Error::UnknownUser(user))?;
        let states = reader::states(server, seeded).await.map_err(|error| Error::Read { user, error })?;
        for manga in mangas {
            verdict.series += 1;
            let expected = &expectations.highest[&(user, manga)];
            let there = states.get(&manga).filter(|entry| !entry.deleted).map(|entry| entry.key);
            let kept = there.is_some_and(|key| key >= expected.key && key.chapter >= expected.chapter);
            if !kept {
                let said = (expected.key, expected.source);
                verdict.missing.push(Missing { user, manga, said, chapter: expected.chapter, there });
            }
        }
    }
    Ok(verdict)
}
