//! The catalogue in memory: an immutable snapshot that every shard reads without a lock or a hop. An import publishes a new
//! one; whoever holds the old one finishes with it.

use hub::SeriesFacts;
use proto::{MangaId, SeriesStatus};
use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};
use storage::store::SeriesRow;

/// One series.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
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

impl From<SeriesRow> for Series {
    fn from(row: SeriesRow) -> Self {
        Self {
            id: row.id,
            slug: row.slug,
            title: row.title,
            author: row.author,
            description: Some(row.description).filter(|text| !text.is_empty()),
            genres: row.genres,
            status: row.status,
            total_chapters: row.total_chapters.filter(|total| *total > 0),
            cover_url: row.cover_url,
            year: row.year.map(i32::from),
            average_rating: row.average_rating,
            created_at_ms: row.created_at_unix_ms,
            updated_at_ms: row.updated_at_unix_ms,
        }
    }
}

/// Every series, as of one moment.
#[derive(Default)]
pub struct Catalogue {
    rows: Vec<Series>,
    /// What a progress update needs, in one probe, and where the row is.
    by_id: FxHashMap<MangaId, (SeriesFacts, u32)>,
    by_slug: FxHashMap<String, u32>,
}

impl Catalogue {
    /// A snapshot of these series.
    pub fn new(mut rows: Vec<Series>) -> Self {
        rows.sort_unstable_by_key(|row| row.id);
        rows.dedup_by_key(|row| row.id);
        let facts = |row: &Series| SeriesFacts { total: row.total_chapters, status: row.status };
        let by_id = rows.iter().zip(0..).map(|(row, at)| (row.id, (facts(row), at))).collect();
        let by_slug = rows.iter().zip(0..).map(|(row, at)| (row.slug.clone(), at)).collect();
        Self { rows, by_id, by_slug }
    }

    /// For the checkpoint.
    pub(crate) fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(&self.rows).expect("a series has nothing that JSON cannot say")
    }

    /// What `encode` wrote.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(bytes).map(Self::new)
    }

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
        self.by_id.get(&id).map(|(_, at)| &self.rows[*at as usize])
    }

    /// By slug.
    pub fn by_slug(&self, slug: &str) -> Option<&Series> {
        self.by_slug.get(slug).map(|at| &self.rows[*at as usize])
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

    /// What the rules need to know about a series. One probe.
    pub(crate) fn facts(&self, id: MangaId) -> Option<SeriesFacts> {
        self.by_id.get(&id).map(|(facts, _)| *facts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(id: i64) -> Series {
        Series {
            id: MangaId(id),
            slug: format!("series-{id}"),
            title: format!("Series {id}"),
            author: None,
            description: None,
            genres: Vec::new(),
            status: SeriesStatus::Ongoing,
            total_chapters: Some(id as u32),
            cover_url: None,
            year: None,
            average_rating: 0.0,
            created_at_ms: 0,
            updated_at_ms: 0,
        }
    }

    #[test]
    fn a_series_is_found_by_id_and_by_slug() {
        let catalogue = Catalogue::new([3, 1, 2].map(series).to_vec());
        assert_eq!(catalogue.find("2").unwrap().id, MangaId(2));
        assert_eq!(catalogue.find("series-3").unwrap().id, MangaId(3));
        assert!(catalogue.find("series-4").is_none() && catalogue.find("4").is_none());
        assert_eq!(catalogue.facts(MangaId(3)).unwrap().total, Some(3));
    }

    #[test]
    fn a_catalogue_comes_back_from_what_was_kept_of_it() {
        let catalogue = Catalogue::new([2, 1].map(series).to_vec());
        assert_eq!(Catalogue::decode(&catalogue.encode()).unwrap().rows, catalogue.rows);
        assert_eq!(Catalogue::decode(&Catalogue::default().encode()).unwrap().len(), 0);
    }

    #[test]
    fn pages_and_cursors_never_leave_the_list() {
        let catalogue = Catalogue::new((1..=5).map(series).collect());
        assert_eq!(catalogue.page(4, 10).len(), 1);
        assert!(catalogue.page(9, 10).is_empty());
        let ids: Vec<i64> = catalogue.after(Some(MangaId(2)), 2).iter().map(|row| row.id.0).collect();
        assert_eq!(ids, [3, 4]);
        assert!(catalogue.after(Some(MangaId(5)), usize::MAX).is_empty());
    }
}
