//! Where values come from, and which one wins: flags, then `MANGAHUB_...`, then the names of earlier deployments, then
//! the file, then the default. An unknown key of the file is refused with its line and the key that was meant.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use crate::config::keys::{self, KEYS};
use crate::config::value::{self, Value};

/// What is wrong with the configuration, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    /// The file named by `--config` is not there, or one that is there cannot be read.
    #[error("cannot read the configuration file {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is not TOML, has a key that does not exist, or a value that does not fit.
    #[error("{}:{line}: {message}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// What is wrong there.
        message: String,
    },
    /// A value from the environment or a flag does not fit.
    #[error("{origin}: {message}")]
    Value {
        /// Where it came from.
        origin: Origin,
        /// What is wrong with it.
        message: String,
    },
    /// The values fit one by one, but not together.
    #[error("{0}")]
    Rule(String),
}

/// Where a value came from.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Origin {
    /// Nobody set it.
    Default,
    /// The configuration file, with the line.
    File(PathBuf, usize),
    /// An environment variable.
    Environment(String),
    /// A flag of the command line.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => out.write_str("default"),
            Self::File(path, line) => write!(out, "{}:{line}", path.display()),
            Self::Environment(name) => write!(out, "environment {name}"),
            Self::Flag(flag) => write!(out, "flag {flag}"),
        }
    }
}

/// What the outside gives: read once, so that tests need not touch the process's environment.
#[derive(Debug, Default)]
pub(crate) struct Sources {
    /// The file of `--config`; it must exist.
    pub(crate) config_file: Option<PathBuf>,
    /// Where a file is looked for when none is named, best first.
    pub(crate) search: Vec<PathBuf>,
    /// The environment.
    pub(crate) environment: BTreeMap<String, String>,
    /// Flags that set keys: the flag as written, the key, the value.
    pub(crate) flags: Vec<(String, String, String)>,
}

impl Sources {
    /// The process's own environment, and the folders that SPEC names.
    pub(crate) fn of_process(config_file: Option<PathBuf>, flags: Vec<(String, String, String)>) -> Self {
        let environment: BTreeMap<String, String> = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        let user_folder = environment
            .get("XDG_CONFIG_HOME")
            .filter(|folder| !folder.is_empty())
            .map(PathBuf::from)
            .or_else(|| environment.get("HOME").map(|home| Path::new(home).join(".config")));
        let mut search = vec![PathBuf::from("mangahub.toml")];
        search.extend(user_folder.map(|folder| folder.join("mangahub").join("mangahub.toml")));
        Self { config_file, search, environment, flags }
    }
}

/// Every key's value and where it came from, in the order of the table.
#[derive(Debug)]
pub(crate) struct Resolved {
    values: Vec<(Value, Origin)>,
    /// The file that was read, if any.
    pub(crate) file: Option<PathBuf>,
    /// Things that are not errors but that somebody should hear about.
    pub(crate) warnings: Vec<String>,
}

impl Resolved {
    /// Puts the layers together.
    pub(crate) fn from_sources(sources: &Sources) -> Result<Self, ConfigError> {
        let values = KEYS.iter().map(|key| (key.preset.into(), Origin::Default)).collect();
        let mut resolved = Self { values, file: None, warnings: Vec::new() };
        resolved.read_file(sources)?;
        resolved.read_environment(sources)?;
        for (flag, path, text) in &sources.flags {
            let origin = Origin::Flag(flag.clone());
            let (index, key) = keys::find(path)
                .ok_or_else(|| ConfigError::Value { origin: origin.clone(), message: unknown(path) })?;
            let value = value::from_text(key, text)
                .map_err(|message| ConfigError::Value { origin: origin.clone(), message })?;
            resolved.values[index] = (value, origin);
        }
        resolved.mention_idle_keys();
        Ok(resolved)
    }

    /// A key's value and origin. The path must be in the table.
    pub(crate) fn get(&self, path: &str) -> &(Value, Origin) {
        let (index, _) = keys::find(path).expect("the code asks only for keys of the table");
        &self.values[index]
    }

    /// Whether somebody set this key.
    pub(crate) fn is_set(&self, path: &str) -> bool {
        self.get(path).1 != Origin::Default
    }

    /// Every key with its value and origin.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&'static keys::Key, &Value, &Origin)> {
        KEYS.iter().zip(&self.values).map(|(key, (value, origin))| (key, value, origin))
    }

    fn mention_idle_keys(&mut self) {
        for (key, (value, origin)) in KEYS.iter().zip(&self.values) {
            if key.idle && *value != Value::from(key.preset) {
                let path = key.path;
                self.warnings
                    .push(format!("{path} ({origin}) belongs to something that this version does not have yet"));
            }
        }
    }

    fn read_file(&mut self, sources: &Sources) -> Result<(), ConfigError> {
        let found = sources.search.iter().find(|path| path.is_file());
        let Some(path) = sources.config_file.as_ref().or(found) else { return Ok(()) };
        let text =
            std::fs::read_to_string(path).map_err(|source| ConfigError::Unreadable { path: path.clone(), source })?;
        self.read_toml(path, &text)?;
        self.file = Some(path.clone());
        Ok(())
    }

    fn read_toml(&mut self, path: &Path, text: &str) -> Result<(), ConfigError> {
        let at = |offset: usize, message: String| ConfigError::File {
            path: path.to_owned(),
            line: 1 + text.as_bytes()[..offset.min(text.len())].iter().filter(|byte| **byte == b'\n').count(),
            message,
        };
        let table = DeTable::parse(text)
            .map_err(|error| at(error.span().map_or(0, |span| span.start), error.message().to_owned()))?;
        let mut entries = Vec::new();
        for (name, item) in table.get_ref() {
            match item.get_ref() {
                DeValue::Table(section) => entries.extend(
                    section
                        .iter()
                        .map(|(inner, item)| (format!("{}.{}", name.get_ref(), inner.get_ref()), inner, item)),
                ),
                _ => entries.push((name.get_ref().to_string(), name, item)),
            }
        }
        for (key_path, name, item) in entries {
            let offset = name.span().start;
            let (index, key) = keys::find(&key_path).ok_or_else(|| at(offset, unknown(&key_path)))?;
            let value = value::from_toml(key, item.get_ref()).map_err(|message| at(offset, message))?;
            let ConfigError::File { line, .. } = at(offset, String::new()) else { continue };
            self.values[index] = (value, Origin::File(path.to_owned(), line));
        }
        Ok(())
    }

    fn read_environment(&mut self, sources: &Sources) -> Result<(), ConfigError> {
        for (index, key) in KEYS.iter().enumerate() {
            let own = key.variable();
            let names = std::iter::once(own.as_str()).chain(key.compat.iter().copied());
            // An empty variable is how compose files spell "not set".
            let set = names.filter_map(|name| Some((name, sources.environment.get(name)?)));
            let Some((name, text)) = set.into_iter().find(|(_, text)| !text.is_empty()) else { continue };
            let origin = Origin::Environment(name.to_owned());
            let value = value::from_text(key, text)
                .map_err(|message| ConfigError::Value { origin: origin.clone(), message })?;
            self.values[index] = (value, origin);
        }
        for name in sources.environment.keys().filter(|name| name.starts_with("MANGAHUB_")) {
            let known = KEYS.iter().any(|key| key.variable() == *name || key.compat.contains(&name.as_str()));
            if !known && !OTHER_VARIABLES.contains(&name.as_str()) {
                self.warnings
                    .push(format!("the environment variable {name} names no configuration key; it is ignored"));
            }
        }
        Ok(())
    }
}

/// Variables that are ours but set no key.
const OTHER_VARIABLES: &[&str] = &["MANGAHUB_CONFIG", "MANGAHUB_LOG", "MANGAHUB_SOAK"];

fn unknown(path: &str) -> String {
    match keys::nearest(path) {
        Some(near) => format!("there is no key {path}; did you mean {near}?"),
        None => format!("there is no key {path}; the commented mangahub.toml lists them all"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(environment: &[(&str, &str)], flags: &[(&str, &str)]) -> Sources {
        Sources {
            environment: environment.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect(),
            flags: flags
                .iter()
                .map(|(path, value)| ("--set".to_owned(), path.to_string(), value.to_string()))
                .collect(),
            ..Sources::default()
        }
    }

    fn with_file(text: &str, mut sources: Sources) -> Result<Resolved, ConfigError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mangahub.toml");
        std::fs::write(&path, text).unwrap();
        sources.search = vec![path];
        Resolved::from_sources(&sources)
    }

    #[test]
    fn the_nearer_source_wins() {
        let file = "[ports]\nhttp = 1\n";
        let http = |environment: &[(&str, &str)], flags: &[(&str, &str)]| {
            with_file(file, sources(environment, flags)).unwrap().get("ports.http").0.clone()
        };
        assert_eq!(http(&[], &[]), Value::Number(1));
        assert_eq!(http(&[("HTTP_PORT", "2")], &[]), Value::Number(2));
        assert_eq!(http(&[("HTTP_PORT", "2"), ("MANGAHUB_PORTS_HTTP", "3")], &[]), Value::Number(3));
        assert_eq!(http(&[("MANGAHUB_PORTS_HTTP", "3")], &[("ports.http", "4")]), Value::Number(4));
        assert_eq!(http(&[("HTTP_PORT", "")], &[]), Value::Number(1));
    }

    #[test]
    fn an_unknown_key_is_refused_with_its_line_and_the_one_that_was_meant() {
        let error = with_file("data_dir = \"x\"\n\n[ports]\nhtpp = 8084\n", sources(&[], &[])).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("mangahub.toml:4: there is no key ports.htpp; did you mean ports.http?"), "{text}");
        let error = with_file("[auth]\naccess_token_ttl_s = \"soon\"\n", sources(&[], &[])).unwrap_err().to_string();
        assert!(error.contains(":2: auth.access_token_ttl_s is a time in seconds"), "{error}");
        let error = with_file("[auth\n", sources(&[], &[])).unwrap_err().to_string();
        assert!(error.contains("mangahub.toml:1:"), "{error}");
    }

    #[test]
    fn a_variable_that_names_no_key_is_mentioned() {
        let resolved = Resolved::from_sources(&sources(&[("MANGAHUB_PORTS_HTPP", "1")], &[])).unwrap();
        assert!(resolved.warnings[0].contains("MANGAHUB_PORTS_HTPP"));
    }

    #[test]
    fn origins_say_where_a_value_came_from() {
        let resolved = with_file("[ports]\nhttp = 1\n", sources(&[("ACCESS_TOKEN_TTL", "15m")], &[])).unwrap();
        assert!(resolved.get("ports.http").1.to_string().ends_with("mangahub.toml:2"));
        assert_eq!(resolved.get("auth.access_token_ttl_s").1.to_string(), "environment ACCESS_TOKEN_TTL");
        assert!(!resolved.is_set("data_dir"));
    }
}
