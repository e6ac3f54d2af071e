//! What a thread that speaks to Redis hears of its connection beside the answers, and its breaker: what fails is told on, to
//! whoever reads the statistics, and once, when the breaker opens, to the log.

use std::time::Instant;

use fred::interfaces::EventInterface;
use fred::types::config::Server;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::TryRecvError;

use super::{Breaker, Connection, Failure, Standing};

/// Tells of every new connection, before anything is answered on it.
pub(crate) struct Reconnects(Receiver<Server>);

impl Reconnects {
    pub(crate) fn of(connection: &Connection) -> Self {
        Self(connection.client.reconnect_rx())
    }

    /// Whether there was a new connection since this was asked last.
    pub(crate) fn came(&mut self) -> bool {
        let mut came = false;
        drain(&mut self.0, |_| came = true);
        came
    }
}

/// Tells why connections fail.
pub(crate) struct Errors(Receiver<(fred::error::Error, Option<Server>)>);

impl Errors {
    pub(crate) fn of(connection: &Connection) -> Self {
        Self(connection.client.error_rx())
    }

    /// Why something was not done. Without a connection, why there is none says more than that there is none.
    pub(crate) fn explain(&mut self, failure: &Failure) -> String {
        let mut last = None;
        drain(&mut self.0, |heard| last = heard.map(|(error, _)| error.to_string()).or(last.take()));
        last.unwrap_or_else(|| failure.text().to_owned())
    }
}

/// Hears everything that waits; `None` stands for what came faster than it was asked for.
fn drain<T: Clone>(waiting: &mut Receiver<T>, mut hear: impl FnMut(Option<T>)) {
    loop {
        match waiting.try_recv() {
            Ok(told) => hear(Some(told)),
            Err(TryRecvError::Lagged(_)) => hear(None),
            Err(TryRecvError::Empty | TryRecvError::Closed) => return,
        }
    }
}

pub(crate) struct Circuit {
    pub(crate) breaker: Breaker,
    errors: Errors,
    without: &'static str,
}

impl Circuit {
    /// Open, with a probe due; `without` says how things are while it is open.
    pub(crate) fn new(connection: &Connection, without: &'static str) -> Self {
        Self { breaker: Breaker::new(Instant::now()), errors: Errors::of(connection), without }
    }

    /// Comes back when a probe is due; never while none will be.
    pub(crate) async fn probe_is_due(&self) {
        match self.breaker.probe_at() {
            Some(at) => tokio::time::sleep_until(at.into()).await,
            None => std::future::pending().await,
        }
    }

    /// Something was not answered in time, or not at all. True when this opens the breaker.
    pub(crate) fn failed(&mut self, failure: &Failure, standing: &Standing) -> bool {
        let why = self.errors.explain(failure);
        standing.failed(&why);
        let opens = self.breaker.failed(Instant::now());
        if opens {
            tracing::warn!(error = why, "Redis does not answer; {}", self.without);
        }
        opens
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_that_came_faster_than_anybody_asked_are_noticed_all_the_same() {
        let (tell, told) = tokio::sync::broadcast::channel(2);
        let mut reconnects = Reconnects(told);
        assert!(!reconnects.came());
        for _ in 0..5 {
            tell.send(Server::new("redis", 6379)).unwrap();
        }
        assert!(reconnects.came());
        assert!(!reconnects.came());
    }
}
