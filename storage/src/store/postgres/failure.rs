//! How Postgres' errors become the store's: what the caller can do (wait, mend the data, stop), and what the connection's owner
//! does first (try the transaction again, reconnect). Nothing above this room sees a driver's error.

use std::time::Duration;

use tokio_postgres::error::SqlState;

use crate::store::StoreError;

/// How long a caller waits after a failure that no backoff of ours has put a number on.
const RETRY_AFTER: Duration = Duration::from_millis(500);

/// Why a request did not work on this connection.
#[derive(Debug)]
pub(super) enum Failure {
    /// Trying again here changes nothing.
    Final(StoreError),
    /// It met another transaction (a deadlock, a serialisation failure): nothing was changed, and it may be tried again at once.
    Conflict(String),
    /// The connection is gone, and nothing was changed.
    Lost(String),
    /// The connection went while the transaction was committing: it may have been.
    Unknown(String),
    /// The transaction had failed before; the reason is in an earlier answer.
    Aborted,
}

impl Failure {
    /// As it is told when nobody tries again.
    pub(super) fn into_error(self) -> StoreError {
        match self {
            Self::Final(error) => error,
            Self::Conflict(reason) | Self::Lost(reason) => away(reason),
            Self::Unknown(reason) => away(format!("the connection broke while committing: {reason}")),
            Self::Aborted => away("the transaction was aborted".to_owned()),
        }
    }

    /// What is said of a database that gave no answer for so long.
    pub(super) fn silent(waited: Duration) -> String {
        format!("no answer within {} s", waited.as_secs_f32())
    }

    /// The same failure, after the commit was sent.
    pub(super) fn committing(self) -> Self {
        match self {
            Self::Lost(reason) => Self::Unknown(reason),
            other => other,
        }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Final(error)
    }
}

/// The store is away, for this reason.
pub(super) fn away(reason: String) -> StoreError {
    StoreError::Unavailable { reason, retry_after: RETRY_AFTER }
}

impl From<tokio_postgres::Error> for Failure {
    fn from(error: tokio_postgres::Error) -> Self {
        let Some(said) = error.as_db_error() else { return of_driver(&error) };
        let code = said.code();
        let reason = format!("{} (SQLSTATE {})", said.message(), code.code());
        // Class codes: postgresql.org/docs/current/errcodes-appendix.html
        match (&code.code()[..2], code) {
            (_, &SqlState::IN_FAILED_SQL_TRANSACTION) => Self::Aborted,
            (_, &SqlState::T_R_SERIALIZATION_FAILURE | &SqlState::T_R_DEADLOCK_DETECTED) => Self::Conflict(reason),
            // A standby after a failover: another connection may find the primary.
            (_, &SqlState::READ_ONLY_SQL_TRANSACTION) => Self::Lost(reason),
            ("22" | "23" | "54", _) | (_, &SqlState::RAISE_EXCEPTION) => Self::Final(StoreError::Refused { reason }),
            ("XX", _) if *code != SqlState::INTERNAL_ERROR => Self::Final(StoreError::Corrupt { reason }),
            ("08" | "57", _) if *code != SqlState::QUERY_CANCELED => Self::Lost(reason),
            // A missing table, no permission, a full disk, too many connections: nothing that is wrong with this one request.
            // Were it called refused, the writer would park record after record.
            _ => Self::Final(away(reason)),
        }
    }
}

fn of_driver(error: &tokio_postgres::Error) -> Failure {
    use std::error::Error;

    let reason = match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    };
    if error.is_closed() || error.source().is_some_and(|source| source.is::<std::io::Error>()) {
        return Failure::Lost(reason);
    }
    Failure::Final(away(reason))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_connection_lost_before_the_commit_has_surely_changed_nothing() {
        assert!(matches!(Failure::Lost("x".into()).committing(), Failure::Unknown(_)));
        assert!(matches!(Failure::Conflict("x".into()).committing(), Failure::Conflict(_)));
        assert!(Failure::Unknown("x".into()).into_error().is_passing());
    }
}
