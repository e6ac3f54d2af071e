//! The journal: what makes an acknowledgement true. Shards append records and hand them over once per turn; one plain thread
//! writes what has gathered as one commit and publishes, per shard, how far it is durable. It promises that nothing past the
//! watermark can be lost by this host, and it must never rewrite an acknowledged block or retry a failed write.

#[cfg(any(test, feature = "fault"))]
pub mod by_hand;
mod catch_up;
mod chain;
mod commit;
mod cursors;
mod end_note;
mod engine;
mod error;
#[cfg(any(test, feature = "fault"))]
pub mod fault;
mod feed;
mod format;
#[cfg(feature = "glommio")]
mod glommio;
mod recovery;
mod room;
mod scan;
mod shard;
mod start;
#[cfg(test)]
mod tests;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

#[cfg(feature = "glommio")]
pub use self::glommio::GlommioEngine;
pub use cursors::{Cursors, LaneCursors};
pub use end_note::EndNote;
pub use engine::{Engine, Medium, SegmentFile, StdEngine};
pub use error::{OpenError, ReplayError, StartError};
pub use feed::{CommitFeed, Committed, FeedError, Next, RawRecord};
pub use recovery::{Opened, Recovery, Replay, Replayed, open};
pub use shard::{Busy, BusyReason, Durable, Journalled, ShardJournal, Ticket};
pub use start::{Journal, Started, Starter, Stats};

/// A record's position in the journal: counts from 1, without gaps. 0 stands before the first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct Lsn(pub u64);

impl Lsn {
    /// Before every record.
    pub const ZERO: Lsn = Lsn(0);

    /// The one `records` later.
    pub const fn plus(self, records: u64) -> Lsn {
        Lsn(self.0.saturating_add(records))
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(out)
    }
}

macro_rules! sixteen_bytes {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub [u8; 16]);

        impl fmt::Display for $name {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(out, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, out)
            }
        }
    };
}

sixteen_bytes!(
    /// Which journal: 128 random bits, made with its first segment. A store keeps its cursors under this id.
    JournalId
);
sixteen_bytes!(
    /// Which store the records are meant for: 128 random bits, made with the store.
    StoreId
);

/// What the journal does when a commit fails: called once, on the journal's thread, with what happened. The server's hook
/// ends the process with a non-zero code, because state that was touched by unwritten records must answer nothing more.
pub type FailureHook = Arc<dyn Fn(&str) + Send + Sync>;

/// Shown every hand-over once it is durable and before anybody is told of it, on the journal's thread, in the journal's order.
/// Must not block: every acknowledgement waits for it.
pub type CommitHook = Arc<dyn Fn(&Committed) + Send + Sync>;

/// Called on the journal's thread after a shard's watermark has moved; wakes that shard's task. Must not block.
pub type Listener = Box<dyn Fn() + Send>;

/// Where and how the journal is kept.
#[derive(Clone)]
pub struct JournalConfig {
    /// The folder of the segments; made (0700) when absent.
    pub folder: PathBuf,
    /// The store that these records drain into.
    pub store_id: StoreId,
    /// The journal that this folder must contain, when something (the checkpoint, the store) knows: its absence is then an
    /// error instead of a fresh beginning.
    pub expected: Option<JournalId>,
    /// How far this journal is known to have reached: one that ends before is refused.
    pub noted: Option<EndNote>,
    /// The file in which to note, about once a second, how far it has; outside the folder of the segments. None: nowhere.
    pub note_in: Option<PathBuf>,
    /// Size of a segment, header included; a multiple of 4 KiB.
    pub segment_bytes: u64,
    /// The most the journal may take; the free space of the disk can lower it further.
    pub journal_bytes_max: u64,
    /// The most that may be admitted and not yet durable, over all shards.
    pub in_flight_bytes_max: u64,
    /// Rows that may wait for the store writer in memory; past it the writer reads the segments.
    pub feed_rows_max: usize,
    /// How the bytes reach the disk.
    pub engine: Arc<dyn Engine>,
    /// What happens when a commit fails.
    pub on_failure: FailureHook,
    /// Who else is shown what has become durable (the hot cache).
    pub on_committed: Option<CommitHook>,
}

impl JournalConfig {
    /// 64 MiB, so that a segment's preparation is rare and its replay short.
    pub const SEGMENT_BYTES: u64 = 64 << 20;
    /// 8 GiB.
    pub const JOURNAL_BYTES_MAX: u64 = 8 << 30;

    /// The defaults of a server, for a journal in `folder`; a failed commit ends the process.
    pub fn new(folder: impl Into<PathBuf>, store_id: StoreId) -> Self {
        Self {
            folder: folder.into(),
            store_id,
            expected: None,
            noted: None,
            note_in: None,
            segment_bytes: Self::SEGMENT_BYTES,
            journal_bytes_max: Self::JOURNAL_BYTES_MAX,
            in_flight_bytes_max: 8 << 20,
            feed_rows_max: 100_000,
            engine: Arc::new(StdEngine::default()),
            on_failure: Arc::new(|what| {
                tracing::error!(what, "the journal failed; the process ends so that a restart can replay it");
                std::process::exit(74);
            }),
            on_committed: None,
        }
    }
}
