//! The rows that a store returns when a user is loaded, and that a user's state turns back into. Plain data: no order, no
//! completeness is assumed of it beyond what each field says.

use proto::{MangaId, NodeId, UserId};

use crate::device::Device;
use crate::history::HistoryRow;
use crate::library::LibraryRow;
use crate::preferences::Preferences;
use crate::progress::ProgressRow;

/// Everything stored about one user that the rules need. A user without rows is an empty one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoredUser {
    /// Whose.
    pub user: UserId,
    /// `None` when nothing was ever chosen.
    pub preferences: Option<Preferences>,
    /// Progress rows, tombstones included.
    pub progress: Vec<(MangaId, ProgressRow)>,
    /// Library rows, tombstones included.
    pub library: Vec<(MangaId, LibraryRow)>,
    /// Device rows, tombstones included.
    pub devices: Vec<Device>,
    /// For each series at least this node's row of the latest day; more rows do no harm.
    pub history: Vec<StoredHistory>,
}

impl StoredUser {
    /// A user of whom nothing is stored.
    pub fn empty(user: UserId) -> Self {
        let (progress, library, devices, history) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Self { user, preferences: None, progress, library, devices, history }
    }
}

/// A history row and where it belongs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StoredHistory {
    /// Of which series.
    pub manga: MangaId,
    /// On which node it was recorded.
    pub node: NodeId,
    /// The row.
    pub row: HistoryRow,
}
