//! The rules of an import, the same for every store: which stored series a row is, what changes, which slug a new one gets.
//! A pure plan over what is stored and what comes; the store writes it down in one transaction. The same rows again plan
//! nothing. It must never take anything away: what a row leaves out stays as it is.

use proto::MangaId;
use rustc_hash::{FxHashMap, FxHashSet};

use super::catalogue::{ImportReport, ImportRow, MangadexId, RejectReason, RejectedRow, RenamedSlug, SeriesRow};

/// Rows per import at most: one transaction that account writes wait for.
pub const IMPORT_ROWS_MAX: usize = 5_000;

const TITLE_BYTES_MAX: usize = 500;
const DESCRIPTION_BYTES_MAX: usize = 20_000;
const SHORT_BYTES_MAX: usize = 1_000;
const SLUG_BYTES_MAX: usize = 200;
const ALT_TITLES_MAX: usize = 100;
const GENRES_MAX: usize = 50;

/// Slugs that paths of the API have a meaning for.
const SLUGS_RESERVED: [&str; 3] = ["search", "advanced-search", "comments"];

/// One thing to be written.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Write {
    /// A new series; its id is for the store to give out.
    Insert(SeriesRow),
    /// A known one, as it is to be.
    Update(SeriesRow),
}

/// What is to be written, and what is told.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Plan {
    pub(crate) writes: Vec<Write>,
    pub(crate) report: ImportReport,
}

/// Plans an import of `rows` into what is stored.
pub(crate) fn plan(stored: Vec<SeriesRow>, rows: Vec<ImportRow>, now_unix_ms: u64) -> Plan {
    let mut plan = Plan::default();
    let rows = accepted(rows, &mut plan.report);
    let mut known = Known::new(stored);
    let mut rows_per_title: FxHashMap<String, u32> = FxHashMap::default();
    for row in rows.iter().filter(|row| row.mangadex_id.is_some()) {
        *rows_per_title.entry(folded_title(&row.title)).or_default() += 1;
    }
    for row in rows {
        let title_is_once = rows_per_title.get(&folded_title(&row.title)).is_none_or(|count| *count <= 1);
        match known.find(&row, title_is_once) {
            Found::Same(at) => plan.change(&mut known.series[at], row, now_unix_ms),
            Found::Ambiguous => plan.report.reject(&row, RejectReason::Ambiguous),
            Found::New => plan.insert(&mut known, row, now_unix_ms),
        }
    }
    plan
}

impl ImportReport {
    fn reject(&mut self, row: &ImportRow, reason: RejectReason) {
        self.rejected.push(RejectedRow { row: row.row, title: row.title.clone(), reason });
    }
}

impl Plan {
    fn change(&mut self, stored: &mut SeriesRow, row: ImportRow, now_unix_ms: u64) {
        // A row without an upstream id knows less than a series that has one: it only confirms that the series is there.
        if row.mangadex_id.is_none() && stored.mangadex_id.is_some() {
            self.report.unchanged += 1;
            return;
        }
        let adopted = stored.mangadex_id.is_none() && row.mangadex_id.is_some();
        let next = merged(stored, row);
        if next == *stored {
            self.report.unchanged += 1;
            return;
        }
        *stored = SeriesRow { updated_at_unix_ms: now_unix_ms, ..next };
        self.report.updated += 1;
        self.report.adopted += u64::from(adopted);
        self.writes.push(Write::Update(stored.clone()));
    }

    fn insert(&mut self, known: &mut Known, row: ImportRow, now_unix_ms: u64) {
        let wanted = slug_from(row.slug.as_deref().filter(|slug| !slug.is_empty()).unwrap_or(&row.title));
        let slug = known.free_slug(&wanted);
        if slug != wanted {
            self.report.renamed.push(RenamedSlug { row: row.row, wanted, given: slug.clone() });
        }
        let series = SeriesRow {
            id: MangaId(0),
            slug,
            title: row.title,
            alt_titles: row.alt_titles,
            author: row.author,
            status: row.status,
            total_chapters: (row.total_chapters > 0).then_some(row.total_chapters),
            description: row.description,
            cover_url: row.cover_url,
            year: row.year,
            mangadex_id: row.mangadex_id,
            anilist_id: None,
            popularity: 0,
            average_rating: 0.0,
            rating_count: 0,
            genres: row.genres,
            created_at_unix_ms: now_unix_ms,
            updated_at_unix_ms: now_unix_ms,
        };
        known.slugs.insert(series.slug.clone());
        self.report.inserted += 1;
        self.writes.push(Write::Insert(series));
    }
}

/// What is stored, by everything that a row may be recognised by.
struct Known {
    series: Vec<SeriesRow>,
    by_mangadex_id: FxHashMap<MangadexId, usize>,
    by_title: FxHashMap<String, Vec<usize>>,
    slugs: FxHashSet<String>,
}

enum Found {
    Same(usize),
    Ambiguous,
    New,
}

impl Known {
    fn new(series: Vec<SeriesRow>) -> Self {
        let mut by_title: FxHashMap<String, Vec<usize>> = FxHashMap::default();
        for (at, row) in series.iter().enumerate() {
            by_title.entry(folded_title(&row.title)).or_default().push(at);
        }
        let by_mangadex_id = series.iter().enumerate().filter_map(|(at, row)| Some((row.mangadex_id?, at))).collect();
        let slugs = series.iter().map(|row| row.slug.clone()).collect();
        Self { series, by_mangadex_id, by_title, slugs }
    }

    /// Which stored series a row is. Rows of the same import are never each other's: repetitions were left out before.
    fn find(&self, row: &ImportRow, title_is_once: bool) -> Found {
        let titled = self.by_title.get(&folded_title(&row.title)).map_or(&[][..], Vec::as_slice);
        let without_id = || titled.iter().copied().filter(|at| self.series[*at].mangadex_id.is_none());
        let only = |mut candidates: Box<dyn Iterator<Item = usize> + '_>| {
            candidates.next().filter(|_| candidates.next().is_none())
        };
        if let Some(id) = row.mangadex_id {
            let adoptable = || only(Box::new(without_id())).filter(|_| title_is_once);
            return self.by_mangadex_id.get(&id).copied().or_else(adoptable).map_or(Found::New, Found::Same);
        }
        if titled.is_empty() {
            return Found::New;
        }
        let same_slug = || titled.iter().copied().find(|at| Some(&self.series[*at].slug) == row.slug.as_ref());
        only(Box::new(titled.iter().copied()))
            .or_else(|| only(Box::new(without_id())))
            .or_else(same_slug)
            .map_or(Found::Ambiguous, Found::Same)
    }

    fn free_slug(&self, wanted: &str) -> String {
        let free = |slug: &str| {
            let reads_as_id = slug.bytes().all(|byte| byte.is_ascii_digit());
            !reads_as_id && !SLUGS_RESERVED.contains(&slug) && !self.slugs.contains(slug)
        };
        if free(wanted) {
            return wanted.to_owned();
        }
        let suffixed = (2u64..).map(|number| format!("{wanted}-{number}"));
        suffixed.into_iter().find(|slug| free(slug)).expect("some number of all is free")
    }
}

/// The stored series with everything that the row says.
fn merged(stored: &SeriesRow, row: ImportRow) -> SeriesRow {
    let said = |list: Vec<String>, otherwise: &Vec<String>| if list.is_empty() { otherwise.clone() } else { list };
    SeriesRow {
        title: row.title,
        alt_titles: said(row.alt_titles, &stored.alt_titles),
        author: row.author.or_else(|| stored.author.clone()),
        status: row.status,
        total_chapters: if row.total_chapters > 0 { Some(row.total_chapters) } else { stored.total_chapters },
        description: if row.description.is_empty() { stored.description.clone() } else { row.description },
        cover_url: row.cover_url.or_else(|| stored.cover_url.clone()),
        year: row.year.or(stored.year),
        mangadex_id: row.mangadex_id.or(stored.mangadex_id),
        genres: said(row.genres, &stored.genres),
        ..stored.clone()
    }
}

/// The rows that can be imported, tidied; the others go to the report.
fn accepted(rows: Vec<ImportRow>, report: &mut ImportReport) -> Vec<ImportRow> {
    let mut first_of: FxHashMap<RowKey, usize> = FxHashMap::default();
    let mut good = Vec::with_capacity(rows.len());
    for row in rows {
        let row = tidied(row);
        if let Err(reason) = check(&row) {
            report.reject(&row, reason);
            continue;
        }
        let key = row.mangadex_id.map_or_else(|| RowKey::Title(folded_title(&row.title)), RowKey::Id);
        if let Some(of_row) = first_of.get(&key) {
            report.reject(&row, RejectReason::Duplicate { of_row: *of_row });
            continue;
        }
        first_of.insert(key, row.row);
        good.push(row);
    }
    good
}

/// What makes two rows of one import the same series.
#[derive(PartialEq, Eq, Hash)]
enum RowKey {
    Id(MangadexId),
    Title(String),
}

fn tidied(mut row: ImportRow) -> ImportRow {
    // A NUL is in no title, and not every database keeps one.
    let trim = |text: String| text.replace('\0', "").trim().to_owned();
    let optional = |text: Option<String>| text.map(trim).filter(|text| !text.is_empty());
    row.title = trim(row.title);
    row.author = optional(row.author);
    row.cover_url = optional(row.cover_url);
    row.slug = optional(row.slug);
    row.description = trim(row.description);
    let list = |texts: Vec<String>| texts.into_iter().map(trim).filter(|text| !text.is_empty()).collect::<Vec<_>>();
    row.alt_titles = list(row.alt_titles);
    let mut seen = FxHashSet::default();
    row.alt_titles.retain(|title| seen.insert(title.clone()));
    row.genres = list(row.genres);
    row.genres.sort_unstable();
    row.genres.dedup();
    row
}

fn check(row: &ImportRow) -> Result<(), RejectReason> {
    if row.title.is_empty() {
        return Err(RejectReason::NoTitle);
    }
    let lists = [("alt_titles", row.alt_titles.len(), ALT_TITLES_MAX), ("genres", row.genres.len(), GENRES_MAX)];
    if let Some((field, _, count_max)) = lists.into_iter().find(|(_, count, count_max)| count > count_max) {
        return Err(RejectReason::TooMany { field, count_max });
    }
    let longest = |texts: &[String]| texts.iter().map(String::len).max().unwrap_or(0);
    let lengths = [
        ("title", row.title.len(), TITLE_BYTES_MAX),
        ("slug", row.slug.as_ref().map_or(0, String::len), SLUG_BYTES_MAX),
        ("author", row.author.as_ref().map_or(0, String::len), SHORT_BYTES_MAX),
        ("cover_url", row.cover_url.as_ref().map_or(0, String::len), SHORT_BYTES_MAX),
        ("description", row.description.len(), DESCRIPTION_BYTES_MAX),
        ("alt_titles", longest(&row.alt_titles), TITLE_BYTES_MAX),
        ("genres", longest(&row.genres), SHORT_BYTES_MAX),
    ];
    match lengths.into_iter().find(|(_, bytes, bytes_max)| bytes > bytes_max) {
        Some((field, _, bytes_max)) => Err(RejectReason::TooLong { field, bytes_max }),
        None => Ok(()),
    }
}

/// A title as it is compared: letters and digits in lower case, everything between them one space.
pub(crate) fn folded_title(title: &str) -> String {
    let words = title.split(|letter: char| !letter.is_alphanumeric()).filter(|word| !word.is_empty());
    let folded = words.map(str::to_lowercase).collect::<Vec<_>>().join(" ");
    if folded.is_empty() { title.to_lowercase() } else { folded }
}

/// A slug made from a title: ASCII letters and digits in lower case, hyphens between; never empty.
pub fn slug_from(title: &str) -> String {
    // An apostrophe joins what it stands between: "JoJo's" is one word.
    let joined = title.replace(['\'', '\u{2019}'], "").to_lowercase();
    let words = joined.split(|letter: char| !letter.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    let mut slug = words.collect::<Vec<_>>().join("-");
    slug.truncate(SLUG_BYTES_MAX);
    let slug = slug.trim_end_matches('-');
    if slug.is_empty() { "series".to_owned() } else { slug.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slugs_are_lower_case_words_with_hyphens() {
        assert_eq!(slug_from("JoJo's Bizarre Adventure, Part 7!"), "jojos-bizarre-adventure-part-7");
        assert_eq!(slug_from("  --Re:Zero--  "), "re-zero");
        assert_eq!(slug_from("\u{9032}\u{6483}"), "series");
        assert!(slug_from(&"word ".repeat(100)).len() <= SLUG_BYTES_MAX);
    }

    #[test]
    fn folded_titles_ignore_case_punctuation_and_spacing() {
        assert_eq!(folded_title("Re:ZERO  -- Starting"), folded_title("re zero starting"));
        assert_eq!(folded_title("\u{9032}\u{6483}!"), "\u{9032}\u{6483}");
        assert_ne!(folded_title("!!"), folded_title("??"));
    }
}
