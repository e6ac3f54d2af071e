//! What an import did, in a form that crosses the admin socket and that a person can read.

use std::fmt::Write;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use storage::store::ImportReport;

use crate::catalogue::RawRow;

/// How many rows of each list a person is shown; scripts get all with `--output json`.
const SHOWN_MAX: usize = 20;

/// A row that was left out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct BadRow {
    /// Its number in the file, from 1.
    pub(crate) row: usize,
    /// Its title, as far as it has one.
    pub(crate) title: String,
    /// What is wrong with it.
    pub(crate) reason: String,
}

impl BadRow {
    /// Names what is wrong with a row.
    pub(crate) fn of(raw: &RawRow, reason: String) -> Self {
        let title = raw.fields.get("title").and_then(Value::as_str).unwrap_or_default();
        Self { row: raw.row, title: title.to_owned(), reason }
    }
}

/// A slug that was not to be had.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Renamed {
    row: usize,
    wanted: String,
    given: String,
}

/// What an import did.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Summary {
    /// Rows of the file.
    pub(crate) rows: u64,
    /// New series.
    pub(crate) inserted: u64,
    /// Known series that changed.
    pub(crate) updated: u64,
    /// Known series that are as they were.
    pub(crate) unchanged: u64,
    /// Of the updated: demo series that were recognised by their title.
    pub(crate) adopted: u64,
    /// Slugs that were taken.
    pub(crate) renamed: Vec<Renamed>,
    /// Rows that were left out.
    pub(crate) rejected: Vec<BadRow>,
}

impl Summary {
    /// Adds what another part of the same file did.
    pub(crate) fn add(&mut self, other: Self) {
        self.rows += other.rows;
        self.inserted += other.inserted;
        self.updated += other.updated;
        self.unchanged += other.unchanged;
        self.adopted += other.adopted;
        self.renamed.extend(other.renamed);
        self.rejected.extend(other.rejected);
    }

    /// Adds rows that were left out before the store saw them.
    pub(crate) fn reject(&mut self, bad: Vec<BadRow>) {
        self.rows += bad.len() as u64;
        self.rejected.extend(bad);
        self.rejected.sort_by_key(|bad| bad.row);
    }

    /// For people.
    pub(crate) fn as_text(&self) -> String {
        let mut text = format!(
            "{} rows: {} new, {} updated ({} of them recognised by title), {} unchanged, {} left out\n",
            self.rows,
            self.inserted,
            self.updated,
            self.adopted,
            self.unchanged,
            self.rejected.len()
        );
        for bad in self.rejected.iter().take(SHOWN_MAX) {
            let _ = writeln!(text, "  row {} ({}): left out: {}", bad.row, titled(&bad.title), bad.reason);
        }
        for renamed in self.renamed.iter().take(SHOWN_MAX) {
            let Renamed { row, wanted, given } = renamed;
            let _ = writeln!(text, "  row {row}: the slug {wanted} is taken or not allowed; it got {given}");
        }
        let hidden = self.rejected.len().saturating_sub(SHOWN_MAX) + self.renamed.len().saturating_sub(SHOWN_MAX);
        if hidden > 0 {
            let _ = writeln!(text, "  ... and {hidden} more; --output json shows all");
        }
        text
    }
}

fn titled(title: &str) -> &str {
    if title.is_empty() { "no title" } else { title }
}

impl From<ImportReport> for Summary {
    fn from(report: ImportReport) -> Self {
        Self {
            rows: report.inserted + report.updated + report.unchanged + report.rejected.len() as u64,
            inserted: report.inserted,
            updated: report.updated,
            unchanged: report.unchanged,
            adopted: report.adopted,
            renamed: report
                .renamed
                .into_iter()
                .map(|renamed| Renamed { row: renamed.row, wanted: renamed.wanted, given: renamed.given })
                .collect(),
            rejected: report
                .rejected
                .into_iter()
                .map(|bad| BadRow { row: bad.row, title: bad.title, reason: bad.reason.to_string() })
                .collect(),
        }
    }
}
