//! `db migrate|check|drain|adopt|retry`: the store and the journal, looked after through the running server, or here when
//! none runs.

use std::fmt::Write;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::admin::{Operator, Request};
use crate::cli::args::DbCommand;
use crate::cli::exit::{Exit, Failure};
use crate::cli::{Output, print};
use crate::config::Config;

/// How often a drain looks.
const LOOK: Duration = Duration::from_millis(50);
/// Parked records that are listed at once.
const PARKED_MAX: usize = 1_000;

/// Runs one of them.
pub(super) fn run(config: &Config, command: DbCommand, output: Output) -> Result<Exit, Failure> {
    match command {
        DbCommand::Migrate => migrate(config, output),
        DbCommand::Check => check(config, output),
        DbCommand::Drain { timeout } => drain(config, Duration::from_secs(timeout), output),
        DbCommand::Adopt { yes } => adopt(config, yes, output),
        DbCommand::Retry { id, discard } => retry(config, id, discard, output),
    }
}

fn number(answer: &Value, name: &str) -> u64 {
    answer.get(name).and_then(Value::as_u64).unwrap_or(0)
}

/// Whoever opens the store migrates it, so opening it is all there is to do.
fn migrate(config: &Config, output: Output) -> Result<Exit, Failure> {
    let mut operator = Operator::reach(config)?;
    let answer = operator.ask(Request::Check)?;
    operator.finish()?;
    let version = number(&answer, "schema_version");
    print(output, &json!({"schema_version": version}), || format!("the schema is at version {version}\n"));
    Ok(Exit::Done)
}

fn check(config: &Config, output: Output) -> Result<Exit, Failure> {
    let mut operator = Operator::revisit(config)?;
    let mut answer = operator.ask(Request::Check)?;
    let parked = number(&answer, "parked");
    if parked > 0 {
        answer["parked_records"] = operator.ask(Request::Parked { after: 0, rows_max: PARKED_MAX })?;
    }
    operator.finish()?;
    let problems: Vec<&str> =
        answer.get("problems").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
    print(output, &answer, || {
        let mut text = format!("store {}, schema {}\n", answer["store_id"], number(&answer, "schema_version"));
        for (table, rows) in answer.get("tables").and_then(Value::as_object).into_iter().flatten() {
            let _ = writeln!(text, "  {table:<20} {rows:>10}");
        }
        for problem in &problems {
            let _ = writeln!(text, "  PROBLEM: {problem}");
        }
        if parked > 0 {
            let _ = writeln!(text, "  {parked} records were refused and are parked: mangahub db retry");
            for record in answer["parked_records"].as_array().into_iter().flatten() {
                let (id, user) = (&record["id"], record["user_id"].as_str().unwrap_or("nobody known"));
                let _ = writeln!(text, "    {id}, of {user}: {}", record["error"].as_str().unwrap_or_default());
            }
            let more = parked.saturating_sub(PARKED_MAX as u64);
            if more > 0 {
                let _ = writeln!(text, "    and {more} more");
            }
        }
        text
    });
    Ok(if problems.is_empty() && parked == 0 { Exit::Done } else { Exit::Unsound })
}

fn drain(config: &Config, timeout: Duration, output: Output) -> Result<Exit, Failure> {
    let mut operator = Operator::revisit(config)?;
    let begun = Instant::now();
    // What was durable when the drain began; a busy server always has something newer.
    let first = operator.ask(Request::Backlog)?;
    let target = number(&first, "durable_lsn");
    let mut stored = number(&first, "stored_lsn");
    while stored < target && begun.elapsed() < timeout {
        std::thread::sleep(LOOK);
        stored = number(&operator.ask(Request::Backlog)?, "stored_lsn");
    }
    operator.finish()?;
    let answer = json!({"target_lsn": target, "stored_lsn": stored, "drained": stored >= target});
    print(output, &answer, || {
        if stored >= target {
            format!("the store has every record up to {target}\n")
        } else {
            format!("the store has records up to {stored} of {target}; is it available? The journal keeps the rest\n")
        }
    });
    Ok(if stored >= target { Exit::Done } else { Exit::Failed })
}

fn adopt(config: &Config, yes: bool, output: Output) -> Result<Exit, Failure> {
    if !yes {
        return Err(Failure::new(
            Exit::Usage,
            "db adopt accepts what the store has as the truth; records that only the old store had are gone for this \
             server. Run it again with --yes if that is meant",
        ));
    }
    // A running server has a store that fits; there is nothing to adopt.
    let operator = Operator::here(config, true)?;
    let aside = operator.journal_aside();
    operator.finish()?;
    print(output, &json!({"adopted": true, "journal_aside": aside}), || match &aside {
        Some(path) => format!("the store is adopted; the journal did not fit and lies in {}\n", path.display()),
        None => "the store is adopted, and the journal that was there goes on with it\n".to_owned(),
    });
    Ok(Exit::Done)
}

/// The ids of the next parked records.
fn parked_after(operator: &mut Operator, after: i64) -> Result<Vec<i64>, Failure> {
    let parked = operator.ask(Request::Parked { after, rows_max: PARKED_MAX })?;
    Ok(parked.as_array().into_iter().flatten().filter_map(|record| record["id"].as_i64()).collect())
}

fn retry(config: &Config, id: Option<i64>, discard: bool, output: Output) -> Result<Exit, Failure> {
    let mut operator = Operator::revisit(config)?;
    let mut outcomes = Vec::new();
    let mut ids = id.map_or_else(|| parked_after(&mut operator, 0), |id| Ok(vec![id]))?;
    while let Some(last) = ids.last().copied() {
        for id in ids {
            outcomes.push(match operator.ask(Request::Retry { id, discard }) {
                Ok(answer) => answer,
                Err(error) => json!({"id": id, "applied": false, "error": error.to_string()}),
            });
        }
        ids = if id.is_some() { Vec::new() } else { parked_after(&mut operator, last)? };
    }
    operator.finish()?;
    let done = |outcome: &Value| outcome["applied"] == true || outcome["discarded"] == true;
    let left = outcomes.iter().filter(|outcome| !done(outcome)).count();
    print(output, &json!(outcomes), || match outcomes.len() {
        0 => "nothing is parked\n".to_owned(),
        all => {
            let mut text = format!("{} of {all} records done\n", all - left);
            for outcome in outcomes.iter().filter(|outcome| !done(outcome)) {
                let reason = outcome["error"].as_str().unwrap_or("there is no such record");
                let _ = writeln!(text, "  record {}: {reason}", outcome["id"]);
            }
            text
        }
    });
    Ok(if left == 0 { Exit::Done } else { Exit::Unsound })
}
