//! The store writer without its thread, driven step by step: for simulation. The same batches, transactions and cursors; who
//! drives it decides how far it lags. The store must not be away while it delivers: the writer would sit that out for real.

use super::{Worker, WriterConfig};
use crate::journal::{CommitFeed, Cursors, FeedError, JournalId, Next};
use crate::store::SharedStore;

/// A writer whose steps somebody else takes. Dropping it is a crash.
pub struct WriterByHand(Worker);

impl WriterByHand {
    /// As [`super::start`], without the thread.
    pub fn new(
        feed: CommitFeed,
        store: SharedStore,
        journal: JournalId,
        cursors: Cursors,
        config: WriterConfig,
    ) -> Self {
        Self(Worker::new(feed, store, journal, cursors, config))
    }

    /// Takes the next records that were committed, if there are any, into the batch that is being gathered.
    pub fn take(&mut self) -> Result<bool, FeedError> {
        match self.0.feed.try_next()? {
            Next::Committed(committed) => {
                let _ = self.0.take(&committed);
                Ok(true)
            }
            Next::Idle | Next::Closed => Ok(false),
        }
    }

    /// Stores the batch and publishes the cursors.
    pub fn deliver(&mut self) {
        let _ = self.0.deliver_all();
    }
}
