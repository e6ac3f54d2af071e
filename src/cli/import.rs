//! `import`: a file's rows, sent in parts, with a progress bar on a terminal and a report of every row that was left out.

use std::io::IsTerminal;
use std::path::Path;

use indicatif::{ProgressBar, ProgressStyle};

use crate::admin::{Operator, Request};
use crate::catalogue::{self, Summary};
use crate::cli::args::ImportFormat;
use crate::cli::exit::{Exit, Failure};
use crate::cli::{Output, print};
use crate::config::Config;

/// Rows per request: small enough for a bar that moves, large enough that the store's commits do not dominate.
const ROWS_PER_PART: usize = 250;

/// Imports a file.
pub(super) fn run(config: &Config, format: ImportFormat, file: &Path, output: Output) -> Result<Exit, Failure> {
    if format != ImportFormat::Catalogue {
        return Err(Failure::new(
            Exit::Later,
            "this version imports --format catalogue only; json and mal are not available in this version",
        ));
    }
    let rows = catalogue::read_file(file)?;
    let (rows, repeats) = catalogue::without_repeats(rows);
    let mut summary = Summary::default();
    let mut operator = Operator::reach(config)?;
    let bar = bar(rows.len() as u64, output);
    for part in rows.chunks(ROWS_PER_PART) {
        let answer = operator.ask(Request::Import { rows: part.to_vec() })?;
        let done = serde_json::from_value(answer)
            .map_err(|error| Failure::new(Exit::Failed, format!("the server's report cannot be read: {error}")))?;
        summary.add(done);
        bar.inc(part.len() as u64);
    }
    bar.finish_and_clear();
    operator.finish()?;
    summary.reject(repeats);
    print(output, &serde_json::json!(summary), || summary.as_text());
    Ok(if summary.rejected.is_empty() { Exit::Done } else { Exit::Input })
}

fn bar(rows: u64, output: Output) -> ProgressBar {
    if output != Output::Table || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} series  {eta}");
    ProgressBar::new(rows).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}
