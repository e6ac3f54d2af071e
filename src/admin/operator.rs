//! The way from the command line to a data folder: through the server that runs on it, or, when none does, by taking the
//! folder's lock and running the engine here without doors. Either way recovery comes first and one code answers.

use std::path::PathBuf;
use std::sync::Arc;

use engine::boot::{Running, StartError};
use engine::fanout::Encoders;
use serde_json::Value;
use storage::folder::DataFolder;

use crate::admin::socket::Client;
use crate::admin::{Refusal, Request, SocketError, answer, block_on};
use crate::config::Config;
use crate::serve::settings;

/// Why a request could not be put, or was not done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OperatorError {
    /// The server that runs broke off.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// No server runs, and the folder cannot be opened here either.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The request was put and refused.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// There is nothing to look after.
    #[error("no server has been in {folder}; is it the right data folder?")]
    Nothing { folder: PathBuf },
}

/// Somebody who answers requests about a data folder.
pub(crate) enum Operator {
    /// A running server.
    Server(Client),
    /// An engine without doors, in this process; holds the folder's lock.
    Here(Box<Running>),
}

impl Operator {
    /// Finds the server of the folder, or becomes it.
    pub(crate) fn reach(config: &Config) -> Result<Self, OperatorError> {
        match Client::connect(&config.data_dir) {
            Ok(client) => Ok(Self::Server(client)),
            Err(SocketError::Absent { .. }) => Self::here(config, false),
            Err(error) => Err(error.into()),
        }
    }

    /// As [`Self::reach`], but only where a server has been: an empty folder would be taken for that of a server, and made.
    pub(crate) fn revisit(config: &Config) -> Result<Self, OperatorError> {
        // A database has what it has, from wherever it is looked at.
        if config.database.is_none() && !DataFolder::is_used(&config.data_dir) {
            return Err(OperatorError::Nothing { folder: config.data_dir.clone() });
        }
        Self::reach(config)
    }

    /// Finds the server of the folder, which must run.
    pub(crate) fn running(config: &Config) -> Result<Self, OperatorError> {
        Ok(Self::Server(Client::connect(&config.data_dir)?))
    }

    /// Takes the folder's lock; `adopt` accepts whatever the store has.
    pub(crate) fn here(config: &Config, adopt: bool) -> Result<Self, OperatorError> {
        let mut engine_config = settings::engine(config, 1);
        engine_config.adopt_store = adopt;
        let doors: engine::boot::Doors =
            Arc::new(|_engine, context| Ok(Box::pin(async move { context.drain.draining().await })));
        Ok(Self::Here(Box::new(engine::boot::start(engine_config, Encoders::new(), doors)?)))
    }

    /// Where adopting the store has put a journal that did not fit.
    pub(crate) fn journal_aside(&self) -> Option<PathBuf> {
        match self {
            Self::Server(_) => None,
            Self::Here(running) => running.facts().journal_aside.clone(),
        }
    }

    /// Asks and waits.
    pub(crate) fn ask(&mut self, request: Request) -> Result<Value, OperatorError> {
        let answered = match self {
            Self::Server(client) => client.ask(&request)?,
            Self::Here(running) => block_on(answer(&running.admin(), running.facts(), request)),
        };
        Ok(answered?)
    }

    /// Lets go of the folder: what was journalled is drained as far as the stop allows.
    pub(crate) fn finish(self) -> Result<(), OperatorError> {
        if let Self::Here(running) = self {
            running.shut_down();
            running.wait()?;
        }
        Ok(())
    }
}
