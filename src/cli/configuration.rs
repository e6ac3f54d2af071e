//! `config show`, `config path` and `init`: what is in force, where it came from, and a commented file to begin with.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::path::Path;

use serde_json::json;

use crate::cli::exit::{Exit, Failure};
use crate::cli::{Output, print};
use crate::config::{Config, DEFAULT_FILE, Resolved, as_json, as_table};

/// Shows every key. A configuration that could not start is shown too, and then says why.
pub(super) fn show(resolved: &Resolved, output: Output) -> Result<Exit, Failure> {
    print(output, &as_json(resolved), || as_table(resolved));
    if output != Output::Quiet {
        for warning in &resolved.warnings {
            // Nothing can be done about a closed stderr.
            let _ = writeln!(std::io::stderr(), "mangahub: {warning}");
        }
    }
    Config::from_resolved(resolved)?;
    Ok(Exit::Done)
}

/// Which file is read.
pub(super) fn path(resolved: &Resolved, output: Output) -> Result<Exit, Failure> {
    print(output, &json!({"path": resolved.file}), || match &resolved.file {
        Some(path) => format!("{}\n", std::path::absolute(path).as_deref().unwrap_or(path).display()),
        None => "no configuration file; the defaults are in force\n".to_owned(),
    });
    Ok(Exit::Done)
}

/// Writes the commented file, never over one that is there.
pub(super) fn init(path: &Path, output: Output) -> Result<Exit, Failure> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(path)
        .map_err(|error| match error.kind() {
            ErrorKind::AlreadyExists => format!("{} is there already, and stays as it is", path.display()),
            _ => format!("cannot write {}: {error}", path.display()),
        })
        .map_err(|text| Failure::new(Exit::Input, text))?;
    file.write_all(DEFAULT_FILE.as_bytes())
        .map_err(|error| Failure::new(Exit::Failed, format!("cannot write {}: {error}", path.display())))?;
    print(output, &json!({"path": path}), || format!("wrote {}; every key in it is at its default\n", path.display()));
    Ok(Exit::Done)
}
