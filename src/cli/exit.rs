//! Exit codes, for scripts, and the one error of the command line. Every failure of the rooms below is given its code
//! here and nowhere else.

use std::process::ExitCode;

use engine::boot::StartError;
use protocols::DoorError;
use storage::backup::BackupError;

use crate::admin::{OperatorError, SocketError};
use crate::catalogue::CatalogueError;
use crate::config::ConfigError;
use crate::serve::ServeError;

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// It was done.
    Done = 0,
    /// It failed for a reason that no other code names.
    Failed = 1,
    /// The command line is wrong.
    Usage = 2,
    /// The configuration is wrong.
    Config = 3,
    /// This version cannot do that yet.
    Later = 4,
    /// The data folder is in use, or the server or its database does not answer, or a port is taken.
    Unreachable = 5,
    /// The input was refused, in whole or in part.
    Input = 6,
    /// A check found something wrong.
    Unsound = 7,
}

const ALL: &[(Exit, &str, &str)] = &[
    (Exit::Done, "done", "it was done"),
    (Exit::Failed, "failed", "it failed"),
    (Exit::Usage, "usage", "the command line is wrong"),
    (Exit::Config, "config", "the configuration is wrong"),
    (Exit::Later, "later", "not available in this version"),
    (Exit::Unreachable, "unreachable", "the data folder or a port is in use, or no server or database answers"),
    (Exit::Input, "input", "the input was refused, in whole or in part"),
    (Exit::Unsound, "unsound", "a check found something wrong"),
];

impl Exit {
    /// The code's name in JSON.
    pub(crate) fn name(self) -> &'static str {
        ALL.iter().find(|(exit, ..)| *exit == self).map_or("failed", |(_, name, _)| name)
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// The codes, for `--help`.
pub(super) fn help() -> String {
    let rows: String = ALL.iter().map(|(exit, _, meaning)| format!("\n  {}  {meaning}", *exit as u8)).collect();
    format!("Exit codes:{rows}")
}

/// A command that was not done, for a person and for a script.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Failure {
    /// What kind.
    pub(crate) exit: Exit,
    /// What happened, and what to try.
    pub(crate) message: String,
}

impl Failure {
    /// A failure with a message of its own.
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into() }
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::new(Exit::Config, error.to_string())
    }
}

impl From<CatalogueError> for Failure {
    fn from(error: CatalogueError) -> Self {
        Self::new(Exit::Input, error.to_string())
    }
}

fn of_start(error: &StartError) -> Exit {
    match error {
        StartError::Config(_) => Exit::Config,
        StartError::Folder(_) | StartError::Doors(_) | StartError::Away(_) => Exit::Unreachable,
        StartError::Journal(_) | StartError::Store(_) => Exit::Unsound,
        StartError::Runtime(_) => Exit::Failed,
    }
}

impl From<ServeError> for Failure {
    fn from(error: ServeError) -> Self {
        let exit = match &error {
            ServeError::Engine(error) => of_start(error),
            ServeError::Doors(DoorError::Listen { .. }) => Exit::Unreachable,
            ServeError::Doors(_) => Exit::Config,
            ServeError::Socket(_) | ServeError::Files(_) | ServeError::System { .. } => Exit::Failed,
        };
        Self::new(exit, error.to_string())
    }
}

impl From<BackupError> for Failure {
    fn from(error: BackupError) -> Self {
        let exit = match &error {
            BackupError::Exists { .. } | BackupError::NotEmpty { .. } => Exit::Usage,
            BackupError::Damaged { .. } | BackupError::Newer { .. } | BackupError::NewerContent { .. } => Exit::Input,
            BackupError::Folder(_) => Exit::Unreachable,
            BackupError::OtherStore { .. } => Exit::Config,
            BackupError::Sqlite(_) | BackupError::Postgres(_) => Exit::Unsound,
            BackupError::Io { .. } | BackupError::Store(_) => Exit::Failed,
        };
        Self::new(exit, error.to_string())
    }
}

impl From<OperatorError> for Failure {
    fn from(error: OperatorError) -> Self {
        let exit = match &error {
            OperatorError::Socket(SocketError::Absent { .. } | SocketError::Io { .. }) => Exit::Unreachable,
            OperatorError::Nothing { .. } => Exit::Unreachable,
            OperatorError::Start(error) => of_start(error),
            OperatorError::Refused(refusal) if refusal.is_passing() => Exit::Unreachable,
            OperatorError::Refused(_) => Exit::Input,
        };
        Self::new(exit, error.to_string())
    }
}
