//! What the catalogue is to a store: one typed row per series, rows to be imported, and the report of an import. Reading the
//! files that rows come from belongs to the command line; the rules of an import are in `import`, the same for every store.

use proto::{MangaId, SeriesStatus};

/// A series' id on MangaDex: a UUID.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct MangadexId(pub [u8; 16]);

impl MangadexId {
    /// Reads the spelling with hyphens (8-4-4-4-12), any case. Nothing else is a MangaDex id.
    pub fn parse(text: &str) -> Option<Self> {
        let hyphens_fit = text.len() == 36 && [8, 13, 18, 23].iter().all(|at| text.as_bytes()[*at] == b'-');
        // A UUID is what every sixteen-byte id of ours parses from.
        let id: proto::GrantId = hyphens_fit.then(|| text.parse().ok()).flatten()?;
        Some(Self(*id.as_bytes()))
    }
}

impl std::fmt::Display for MangadexId {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        proto::GrantId::from_bytes(self.0).fmt(out)
    }
}

/// One series as stored.
#[derive(Clone, Debug, PartialEq)]
pub struct SeriesRow {
    /// Stable for good; never given out twice.
    pub id: MangaId,
    /// Unique, and never all digits, so that it cannot be read as an id.
    pub slug: String,
    /// The title shown.
    pub title: String,
    /// Other titles, for search.
    pub alt_titles: Vec<String>,
    /// Who made it.
    pub author: Option<String>,
    /// How it stands with its publisher.
    pub status: SeriesStatus,
    /// How many chapters there are; `None` when nobody knows.
    pub total_chapters: Option<u32>,
    /// In a paragraph or two; may be empty.
    pub description: String,
    /// Where its cover is.
    pub cover_url: Option<String>,
    /// When it began.
    pub year: Option<u16>,
    /// Its id on MangaDex.
    pub mangadex_id: Option<MangadexId>,
    /// Its id on AniList.
    pub anilist_id: Option<i64>,
    /// How many people follow it upstream.
    pub popularity: u64,
    /// From 1 to 10, 0 without ratings.
    pub average_rating: f64,
    /// How many ratings there are.
    pub rating_count: u64,
    /// Names, sorted.
    pub genres: Vec<String>,
    /// When the row was made.
    pub created_at_unix_ms: u64,
    /// When a column of it last changed.
    pub updated_at_unix_ms: u64,
}

/// A series to be imported. What is absent or empty leaves what is stored as it is.
#[derive(Clone, Debug, PartialEq)]
pub struct ImportRow {
    /// Where it stands in its source, for the report.
    pub row: usize,
    /// Its id on MangaDex, if it has one.
    pub mangadex_id: Option<MangadexId>,
    /// The slug it would like; made from the title when absent.
    pub slug: Option<String>,
    /// The title shown.
    pub title: String,
    /// Other titles, for search.
    pub alt_titles: Vec<String>,
    /// Who made it.
    pub author: Option<String>,
    /// How it stands with its publisher.
    pub status: SeriesStatus,
    /// How many chapters there are; 0 means that nobody knows.
    pub total_chapters: u32,
    /// In a paragraph or two.
    pub description: String,
    /// Where its cover is.
    pub cover_url: Option<String>,
    /// When it began.
    pub year: Option<u16>,
    /// Names, in any order.
    pub genres: Vec<String>,
}

/// What an import did, row by row where a person needs to know.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImportReport {
    /// New series.
    pub inserted: u64,
    /// Series that were known and have changed.
    pub updated: u64,
    /// Series that were known and are the same.
    pub unchanged: u64,
    /// Of the updated: series without an upstream id that got one, because exactly one title matched.
    pub adopted: u64,
    /// Series whose slug was taken or not allowed, and what they got.
    pub renamed: Vec<RenamedSlug>,
    /// Rows that were left out.
    pub rejected: Vec<RejectedRow>,
}

impl ImportReport {
    /// Adds what a later part of the same import did.
    pub fn add(&mut self, other: Self) {
        self.inserted += other.inserted;
        self.updated += other.updated;
        self.unchanged += other.unchanged;
        self.adopted += other.adopted;
        self.renamed.extend(other.renamed);
        self.rejected.extend(other.rejected);
    }
}

/// A slug that was not to be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RenamedSlug {
    /// Where the row stands in its source.
    pub row: usize,
    /// What it would have liked.
    pub wanted: String,
    /// What it got.
    pub given: String,
}

/// A row that was left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RejectedRow {
    /// Where the row stands in its source.
    pub row: usize,
    /// Its title, as far as it has one.
    pub title: String,
    /// What is wrong with it.
    pub reason: RejectReason,
}

/// Why a row was left out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RejectReason {
    /// A series needs a title.
    #[error("it has no title")]
    NoTitle,
    /// A field is longer than the catalogue keeps.
    #[error("its {field} is longer than {bytes_max} bytes")]
    TooLong {
        /// Which field.
        field: &'static str,
        /// The limit.
        bytes_max: usize,
    },
    /// More values than the catalogue keeps.
    #[error("it has more than {count_max} {field}")]
    TooMany {
        /// Which field.
        field: &'static str,
        /// The limit.
        count_max: usize,
    },
    /// A row of the same file is the same series.
    #[error("it repeats row {of_row}")]
    Duplicate {
        /// The row that counts.
        of_row: usize,
    },
    /// Several stored series have this title, and the row has no id that would tell them apart.
    #[error("several series have this title, and the row has no upstream id to tell them apart")]
    Ambiguous,
}
