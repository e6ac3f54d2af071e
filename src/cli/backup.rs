//! `backup create|restore|check`. A backup waits until the store has what the journal has, through the server that runs or
//! here, and then reads the store beside it, in one snapshot; a running server notices only that somebody reads.

use std::io::IsTerminal;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use storage::backup::{self, Backup, BackupError, Create, Manifest, Place, Restore};
use storage::folder::{SECRET_FILE, STORE_FILE};

use crate::admin::{Operator, Request};
use crate::cli::args::BackupCommand;
use crate::cli::exit::{Exit, Failure};
use crate::cli::{Output, print};
use crate::config::Config;

/// How often the wait for the store looks.
const LOOK: Duration = Duration::from_millis(50);

const OTHER_STORE: &str = "The server that runs on this data folder was started with another store than this command was; give \
                           both the same configuration (DATABASE_URL, store.url)";

/// Runs one of them.
pub(super) fn run(config: &Config, command: BackupCommand, output: Output) -> Result<Exit, Failure> {
    match command {
        BackupCommand::Create { file, timeout } => create(config, &file, Duration::from_secs(timeout), output),
        BackupCommand::Restore { file, replace, end_sessions } => restore(config, &file, replace, end_sessions, output),
        BackupCommand::Check { file } => check(&file, output),
    }
}

fn now_unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

fn create(config: &Config, file: &Path, timeout: Duration, output: Output) -> Result<Exit, Failure> {
    if file.symlink_metadata().is_ok() {
        return Err(BackupError::Exists { path: file.to_owned() }.into());
    }
    let mut operator = Operator::revisit(config)?;
    let bar = bar(None, output);
    let saved = save(&mut operator, config, file, timeout, &bar);
    bar.finish_and_clear();
    operator.finish()?;
    let (manifest, other_nodes) = saved?;
    let bytes = std::fs::metadata(file).map_or(0, |found| found.len());
    let mut answer = summary(file, bytes, &manifest);
    answer["other_nodes"] = json!(other_nodes);
    print(output, &answer, || {
        let mut text = text(file, bytes, &manifest);
        if other_nodes > 0 {
            text.push_str(&format!(
                "other nodes on this database: {other_nodes}. What they had acknowledged and the database did not have yet is not in \
                 this backup; to have that too, run `mangahub db drain` on each of them and make another\n"
            ));
        }
        text
    });
    Ok(Exit::Done)
}

fn save(
    operator: &mut Operator,
    config: &Config,
    file: &Path,
    timeout: Duration,
    bar: &ProgressBar,
) -> Result<(Manifest, u64), Failure> {
    let (store_id, other_nodes) = bring_up_to_date(operator, timeout, bar)?;
    let secret = match &config.auth.jwt_secret {
        Some(_) => None,
        None => {
            let path = config.data_dir.join(SECRET_FILE);
            match std::fs::read_to_string(&path) {
                Ok(secret) => Some(secret),
                // The server may have been given one that this command was not.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
                Err(error) => {
                    return Err(Failure::new(Exit::Failed, format!("cannot read {}: {error}", path.display())));
                }
            }
        }
    };
    let store = match &config.database {
        Some(database) => Place::Postgres(database.clone()),
        None => {
            let path = config.data_dir.join(STORE_FILE);
            if !path.exists() {
                let text = format!("{} has no embedded store. {OTHER_STORE}", config.data_dir.display());
                return Err(Failure::new(Exit::Config, text));
            }
            Place::Embedded(path)
        }
    };
    let wanted =
        Create { store, store_id: &store_id, secret, server: env!("CARGO_PKG_VERSION"), now_unix_ms: now_unix_ms() };
    let made = backup::create(wanted, file, &mut |table, rows| {
        bar.set_message(table.to_owned());
        bar.set_position(rows);
    });
    Ok(match made {
        Err(error @ BackupError::OtherStore { .. }) => {
            return Err(Failure::new(Exit::Config, format!("{error}. {OTHER_STORE}")));
        }
        other => (other?, other_nodes),
    })
}

/// Waits until the store has everything that was acknowledged here when this was called; answers which store that is, and how many
/// other nodes share it.
fn bring_up_to_date(operator: &mut Operator, timeout: Duration, bar: &ProgressBar) -> Result<(String, u64), Failure> {
    let begun = Instant::now();
    let number = |answer: &Value, name: &str| answer[name].as_u64().unwrap_or(0);
    let mut answer = operator.ask(Request::Backlog)?;
    let target = number(&answer, "durable_lsn");
    while number(&answer, "stored_lsn") < target {
        let stored = number(&answer, "stored_lsn");
        if begun.elapsed() >= timeout {
            let text = format!(
                "the store has records up to {stored} of {target} after {} s; is it available? Nothing was written. \
                 --timeout waits longer",
                timeout.as_secs()
            );
            return Err(Failure::new(Exit::Failed, text));
        }
        bar.set_message(format!("waiting for the store: {} records to go", target - stored));
        std::thread::sleep(LOOK);
        answer = operator.ask(Request::Backlog)?;
    }
    Ok((answer["store_id"].as_str().unwrap_or_default().to_owned(), number(&answer, "other_nodes")))
}

fn restore(config: &Config, file: &Path, replace: bool, end_sessions: bool, output: Output) -> Result<Exit, Failure> {
    let backup = open(file, output)?;
    let bar = bar(Some(backup.bytes()), output);
    bar.set_message("restoring");
    let wanted = Restore {
        data_dir: &config.data_dir,
        database: config.database.as_ref(),
        replace,
        end_sessions,
        now_unix_ms: now_unix_ms(),
    };
    let restored = backup::restore(&backup, &wanted, &mut |bytes| bar.set_position(bytes));
    bar.finish_and_clear();
    let aside = match restored {
        Err(error @ BackupError::NotEmpty { .. }) if !replace => {
            let hint = "Restore into an empty folder (and an empty database), or run it again with --replace, which moves what \
                        is in the data folder aside and never touches a database that has rows";
            return Err(Failure::new(Exit::Usage, format!("{error}. {hint}")));
        }
        other => other?,
    };
    let manifest = backup.manifest();
    let answer = json!({
        "restored": config.data_dir,
        "rows": manifest.rows(),
        "created_at_unix_ms": manifest.created_at_unix_ms,
        "replaced": aside,
    });
    print(output, &answer, || {
        let place = config.data_dir.display();
        let mut text = format!("{} rows restored; `mangahub serve` goes on with {place}\n", manifest.rows());
        if let Some(aside) = &aside {
            text.push_str(&format!("what was there before lies in {}\n", aside.display()));
        }
        text
    });
    Ok(Exit::Done)
}

fn check(file: &Path, output: Output) -> Result<Exit, Failure> {
    let backup = open(file, output)?;
    print(output, &summary(file, backup.bytes(), backup.manifest()), || text(file, backup.bytes(), backup.manifest()));
    Ok(Exit::Done)
}

/// Opens a backup, which is reading all of it.
fn open(file: &Path, output: Output) -> Result<Backup, Failure> {
    let bar = bar(std::fs::metadata(file).ok().map(|found| found.len()), output);
    bar.set_message("checking");
    let backup = Backup::open(file, &mut |bytes| bar.set_position(bytes));
    bar.finish_and_clear();
    Ok(backup?)
}

fn summary(file: &Path, bytes: u64, manifest: &Manifest) -> Value {
    let tables: serde_json::Map<String, Value> =
        manifest.tables.iter().map(|table| (table.name.clone(), json!(table.rows))).collect();
    json!({
        "file": file,
        "bytes": bytes,
        "format": manifest.format,
        "server": manifest.server,
        "created_at_unix_ms": manifest.created_at_unix_ms,
        "store": manifest.store,
        "store_id": manifest.store_id,
        "secret": manifest.has_secret(),
        "rows": manifest.rows(),
        "tables": tables,
    })
}

fn text(file: &Path, bytes: u64, manifest: &Manifest) -> String {
    let mut text = format!(
        "{}: {} rows in {bytes} bytes, of the {} store {}, by mangahub {}\n",
        file.display(),
        manifest.rows(),
        manifest.store,
        manifest.store_id,
        manifest.server
    );
    if !manifest.has_secret() {
        text.push_str("  without the secret that signs tokens: set the same auth.jwt_secret where it is restored\n");
    }
    for table in &manifest.tables {
        text.push_str(&format!("  {:<20} {:>10}\n", table.name, table.rows));
    }
    text
}

/// A bar over the bytes of a file, or a counter of rows; on a terminal only.
fn bar(bytes: Option<u64>, output: Output) -> ProgressBar {
    if output != Output::Table || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let (bar, template) = match bytes {
        Some(bytes) => (ProgressBar::new(bytes), "{bar:40} {bytes}/{total_bytes}  {msg}  {eta}"),
        None => (ProgressBar::new_spinner(), "{spinner} {pos} rows  {msg}"),
    };
    bar.with_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()))
}
