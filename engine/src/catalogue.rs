//! The catalogue in memory: an immutable snapshot that every shard reads without a lock or a hop. An import publishes a new
//! one; whoever holds the old one finishes with it.

use proto::ids::MangaId;
use proto::values::SeriesStatus;

/// One series.
#[derive(Clone, PartialEq, Debug)]
pub struct Series {
    /// Its id.
    pub id: MangaId,
    /// Unique and readable; may change.
    pub slug: String,
    /// Its title.
    pub title: String,
    /// Who made it.
    pub author: Option<String>,
    /// One line or a few.
    pub description: Option<String>,
    /// Genres by name.
    pub genres: Vec<String>,
    /// How it stands with its publisher.
    pub status: SeriesStatus,
    /// Chapters in all; `None` when unknown.
    pub total_chapters: Option<u32>,
    /// Where its cover is.
    pub cover_url: Option<String>,
    /// The year it began.
    pub year: Option<i32>,
    /// Mean of ratings, 0 when there are none.
    pub average_rating: f64,
    /// Milliseconds since 1970.
    pub created_at_ms: u64,
    /// Milliseconds since 1970.
    pub updated_at_ms: u64,
}

/// Every series, as of one moment.
#[derive(Default)]
pub struct Catalogue {
    rows: Vec<Series>,
}

impl Catalogue {
    /// How many series there are.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// By id.
    pub fn get(&self, id: MangaId) -> Option<&Series> {
        self.rows.iter().find(|row| row.id == id)
    }

    /// By slug.
    pub fn by_slug(&self, slug: &str) -> Option<&Series> {
        self.rows.iter().find(|row| row.slug == slug)
    }

    /// By what a path carries: an id or a slug.
    pub fn find(&self, id_or_slug: &str) -> Option<&Series> {
        match id_or_slug.parse() {
            Ok(id) => self.get(id),
            Err(_) => self.by_slug(id_or_slug),
        }
    }

    /// A page, by id.
    pub fn page(&self, offset: usize, limit: usize) -> &[Series] {
        let start = offset.min(self.rows.len());
        &self.rows[start..start.saturating_add(limit).min(self.rows.len())]
    }

    /// The series after an id, by id: a cursor that neither skips nor repeats under inserts.
    pub fn after(&self, id: Option<MangaId>, limit: usize) -> &[Series] {
        let start = id.map_or(0, |id| self.rows.partition_point(|row| row.id <= id));
        &self.rows[start..start.saturating_add(limit).min(self.rows.len())]
    }
}
