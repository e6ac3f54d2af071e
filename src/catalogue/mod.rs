//! Catalogue files: `{"mangas": [...]}` or a bare list, one object per series. Reads them row by row, so that one bad row
//! costs itself and not the file; what a row then means for the stored catalogue is the store's to decide.

mod report;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use proto::SeriesStatus;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use storage::store::{ImportRow, MangadexId};

pub(crate) use report::{BadRow, Summary};

/// The built-in demo: facts about well-known series, loaded into an empty catalogue.
const DEMO: &str = include_str!("../demo/catalogue.json");

/// The largest catalogue file that is read.
const FILE_BYTES_MAX: u64 = 256 << 20;

/// Why a catalogue file cannot be read at all.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CatalogueError {
    /// It is not there, or not readable.
    #[error("cannot read {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It is too large.
    #[error("{} is larger than {FILE_BYTES_MAX} bytes; split it", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// It is not JSON, or not a catalogue.
    #[error("{} is not a catalogue: {reason}. Expected {{\"mangas\": [{{\"title\": ...}}, ...]}}", path.display())]
    NotACatalogue {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

/// One row of a file, with its number from 1.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct RawRow {
    /// Its number in the file.
    pub(crate) row: usize,
    /// The object as it stands there.
    pub(crate) fields: Value,
}

/// The fields of a row that are read; others are left alone.
#[derive(Deserialize)]
struct Fields {
    #[serde(default)]
    id: Value,
    #[serde(default)]
    slug: Option<String>,
    title: String,
    #[serde(default)]
    alt_titles: Option<Vec<String>>,
    #[serde(default)]
    author: Option<String>,
    #[serde(default)]
    status: Option<String>,
    #[serde(default)]
    total_chapters: Option<u32>,
    #[serde(default)]
    description: Option<String>,
    #[serde(default)]
    cover_url: Option<String>,
    #[serde(default)]
    year: Option<u16>,
    #[serde(default)]
    genres: Option<Vec<String>>,
}

/// Reads a file's rows without looking into them.
pub(crate) fn read_file(path: &Path) -> Result<Vec<RawRow>, CatalogueError> {
    let unreadable = |source| CatalogueError::Unreadable { path: path.to_owned(), source };
    if std::fs::metadata(path).map_err(unreadable)?.len() > FILE_BYTES_MAX {
        return Err(CatalogueError::TooLarge { path: path.to_owned() });
    }
    let bytes = std::fs::read(path).map_err(unreadable)?;
    rows_of(&bytes).map_err(|reason| CatalogueError::NotACatalogue { path: path.to_owned(), reason })
}

/// The demo catalogue.
pub(crate) fn demo() -> Vec<ImportRow> {
    let rows = rows_of(DEMO.as_bytes()).expect("the built-in catalogue is tested");
    rows.iter().map(|row| parse(row).expect("the built-in catalogue is tested")).collect()
}

fn rows_of(bytes: &[u8]) -> Result<Vec<RawRow>, String> {
    let document: Value = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    let list = match document {
        Value::Array(list) => list,
        Value::Object(mut fields) => match fields.remove("mangas") {
            Some(Value::Array(list)) => list,
            Some(_) => return Err("its mangas are not a list".to_owned()),
            None => return Err("it has no mangas".to_owned()),
        },
        _ => return Err("it is neither an object nor a list".to_owned()),
    };
    Ok(list.into_iter().enumerate().map(|(index, fields)| RawRow { row: index + 1, fields }).collect())
}

/// Sets aside rows whose upstream id another row of the same file has; the first one counts.
pub(crate) fn without_repeats(rows: Vec<RawRow>) -> (Vec<RawRow>, Vec<BadRow>) {
    let mut first_of = HashMap::new();
    let mut repeats = Vec::new();
    let mut kept = Vec::with_capacity(rows.len());
    for row in rows {
        let id = row.fields.get("id").and_then(Value::as_str).and_then(MangadexId::parse);
        match id.and_then(|id| first_of.insert(id, row.row).map(|first| (id, first))) {
            Some((id, first)) => {
                first_of.insert(id, first);
                repeats.push(BadRow::of(&row, format!("it repeats row {first}")));
            }
            None => kept.push(row),
        }
    }
    (kept, repeats)
}

/// Reads one row.
pub(crate) fn parse(raw: &RawRow) -> Result<ImportRow, BadRow> {
    let fields: Fields =
        Deserialize::deserialize(&raw.fields).map_err(|error: serde_json::Error| BadRow::of(raw, error.to_string()))?;
    let status = match fields.status.as_deref() {
        None | Some("") => SeriesStatus::Ongoing,
        Some(word) => {
            word.to_ascii_lowercase().parse().map_err(|error| BadRow::of(raw, format!("{error}, not {word:?}")))?
        }
    };
    let filled = |text: Option<String>| text.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
    Ok(ImportRow {
        row: raw.row,
        // Only a UUID is an upstream id; other systems' numbers mean nothing here.
        mangadex_id: fields.id.as_str().and_then(MangadexId::parse),
        slug: filled(fields.slug),
        title: fields.title.trim().to_owned(),
        alt_titles: fields.alt_titles.unwrap_or_default(),
        author: filled(fields.author),
        status,
        total_chapters: fields.total_chapters.unwrap_or(0),
        description: fields.description.unwrap_or_default(),
        cover_url: filled(fields.cover_url),
        year: fields.year.filter(|year| *year > 0),
        genres: fields.genres.unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn the_demo_has_enough_series_and_every_row_is_whole() {
        let rows = demo();
        assert!(rows.len() >= 150, "{}", rows.len());
        let promised = format!("{} well-known series", rows.len());
        assert!(include_str!("../../README.md").contains(&promised), "the README does not say {promised}");
        let slugs: HashSet<_> = rows.iter().map(|row| row.slug.clone().unwrap()).collect();
        let titles: HashSet<_> = rows.iter().map(|row| row.title.to_lowercase()).collect();
        assert_eq!((slugs.len(), titles.len()), (rows.len(), rows.len()));
        for row in &rows {
            let whole = row.author.is_some() && row.year.is_some() && !row.genres.is_empty();
            assert!(whole && (20..=160).contains(&row.description.len()), "{}", row.title);
            let is_over = matches!(row.status, SeriesStatus::Completed | SeriesStatus::Cancelled);
            assert!(row.total_chapters == 0 || is_over, "{} has a total that will change", row.title);
        }
    }

    #[test]
    fn a_bad_row_costs_itself_and_says_why() {
        let file = br#"{"mangas": [{"title": "A"}, {"author": "nobody"}, {"title": "B", "status": "lost"},
            {"title": "C", "total_chapters": -1}, "D"], "genres": []}"#;
        let rows = rows_of(file).unwrap();
        let parsed: Vec<_> = rows.iter().map(parse).collect();
        assert_eq!(parsed[0].as_ref().unwrap().title, "A");
        let reasons: Vec<_> = parsed[1..].iter().map(|row| row.as_ref().unwrap_err()).collect();
        assert_eq!(reasons.iter().map(|bad| bad.row).collect::<Vec<_>>(), [2, 3, 4, 5]);
        assert!(reasons[0].reason.contains("title") && reasons[1].reason.contains("lost"));
    }

    #[test]
    fn the_second_row_with_an_upstream_id_is_a_repeat() {
        let id = "1044287a-73df-48d0-b0b2-5327f32dd651";
        let file = format!(
            r#"[{{"id":"{id}","title":"A"}},{{"title":"B"}},{{"id":"{id}","title":"C"}},{{"id":"{id}","title":"D"}}]"#
        );
        let (kept, repeats) = without_repeats(rows_of(file.as_bytes()).unwrap());
        assert_eq!(kept.iter().map(|row| row.row).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(repeats.iter().map(|bad| bad.reason.as_str()).collect::<Vec<_>>(), ["it repeats row 1"; 2]);
    }

    #[test]
    fn what_is_no_catalogue_is_refused() {
        for (file, reason) in [("{", "EOF"), ("{}", "no mangas"), (r#"{"mangas": 1}"#, "not a list"), ("7", "neither")]
        {
            assert!(rows_of(file.as_bytes()).unwrap_err().contains(reason), "{file}");
        }
    }
}
