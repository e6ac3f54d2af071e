//! Who the harness signs in as: the file that `mangahub admin seed --tokens FILE` writes.

use std::io;
use std::path::Path;

use proto::{MangaId, UserId};
use serde::Deserialize;

/// Users with long tokens, and the series they may use.
#[derive(Debug, Clone, Deserialize)]
pub struct Tokens {
    /// The users.
    pub users: Vec<Seeded>,
    /// The series.
    pub series: Vec<MangaId>,
}

/// One user.
#[derive(Debug, Clone, Deserialize)]
pub struct Seeded {
    /// The account.
    pub user_id: UserId,
    /// A long access token.
    pub token: String,
}

impl Tokens {
    /// Reads the file; it must name at least one user and one series.
    pub fn load(path: &Path) -> io::Result<Self> {
        let named = |error: &dyn std::fmt::Display| io::Error::other(format!("{}: {error}", path.display()));
        let text = std::fs::read_to_string(path).map_err(|error| named(&error))?;
        let tokens: Self = serde_json::from_str(&text).map_err(|error| named(&error))?;
        if tokens.users.is_empty() || tokens.series.is_empty() {
            return Err(named(&"names no user or no series"));
        }
        Ok(tokens)
    }

    /// Keeps the first `users` users and `series` series; an error when there are fewer.
    pub fn take(mut self, users: usize, series: usize) -> io::Result<Self> {
        if self.users.len() < users || self.series.len() < series {
            let (users_there, series_there) = (self.users.len(), self.series.len());
            return Err(io::Error::other(format!(
                "the tokens file has {users_there} users and {series_there} series; {users} and {series} are wanted: seed more"
            )));
        }
        self.users.truncate(users);
        self.series.truncate(series);
        Ok(self)
    }
}
