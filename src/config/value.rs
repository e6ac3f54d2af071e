//! One configuration value: read from TOML or from text, checked against its key's kind and range, printed as TOML.
//! A value that does not fit is answered with what was found, what would fit, and nothing is guessed.

use std::fmt;
use std::net::IpAddr;

use toml::de::DeValue;

use crate::config::keys::{Key, Kind, Preset, Unit};

/// A checked value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    /// Ports, counts, times in their key's unit, sizes in bytes.
    Number(u64),
    /// Yes or no.
    Switch(bool),
    /// Text, addresses and choices.
    Text(String),
    /// Several texts.
    List(Vec<String>),
}

impl From<Preset> for Value {
    fn from(preset: Preset) -> Self {
        match preset {
            Preset::Number(number) => Self::Number(number),
            Preset::Switch(on) => Self::Switch(on),
            Preset::Text(text) => Self::Text(text.to_owned()),
            Preset::Nothing => Self::List(Vec::new()),
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(out),
            Self::Switch(on) => on.fmt(out),
            Self::Text(text) => toml::Value::String(text.clone()).fmt(out),
            Self::List(items) => toml::Value::from(items.clone()).fmt(out),
        }
    }
}

/// Reads a value as the environment and flags carry it: text.
pub(crate) fn from_text(key: &Key, text: &str) -> Result<Value, String> {
    let wrong = || format!("{} is {}, not {text:?}", key.path, expected(key.kind));
    match key.kind {
        Kind::Port | Kind::Count { .. } => checked(key, text.trim().parse().map_err(|_| wrong())?),
        Kind::Time { unit, .. } => checked(key, time(unit, text.trim()).ok_or_else(wrong)?),
        Kind::Bytes { .. } => checked(key, size(text.trim()).ok_or_else(wrong)?),
        Kind::Switch => match text.trim().to_ascii_lowercase().as_str() {
            "true" | "yes" | "on" | "1" => Ok(Value::Switch(true)),
            "false" | "no" | "off" | "0" | "" => Ok(Value::Switch(false)),
            _ => Err(wrong()),
        },
        Kind::Text => Ok(Value::Text(text.to_owned())),
        Kind::Address => match text.trim().parse::<IpAddr>() {
            Ok(address) => Ok(Value::Text(address.to_string())),
            Err(_) => Err(wrong()),
        },
        Kind::Choice(words) => {
            words.contains(&text.trim()).then(|| Value::Text(text.trim().to_owned())).ok_or_else(wrong)
        }
        Kind::List => {
            Ok(Value::List(text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect()))
        }
    }
}

/// Reads a value from the file.
pub(crate) fn from_toml(key: &Key, value: &DeValue<'_>) -> Result<Value, String> {
    let wrong = || format!("{} is {}, not a {}", key.path, expected(key.kind), value.type_str());
    match (key.kind, value) {
        (Kind::Port | Kind::Count { .. } | Kind::Time { .. } | Kind::Bytes { .. }, DeValue::Integer(integer)) => {
            let digits = integer.as_str().replace('_', "");
            let number = u64::from_str_radix(&digits, integer.radix())
                .map_err(|_| format!("{} is {}, not {}", key.path, expected(key.kind), integer.as_str()))?;
            checked(key, number)
        }
        (Kind::Time { .. } | Kind::Bytes { .. }, DeValue::String(text)) => from_text(key, text),
        (Kind::Switch, DeValue::Boolean(on)) => Ok(Value::Switch(*on)),
        (Kind::Text | Kind::Address | Kind::Choice(_), DeValue::String(text)) => from_text(key, text),
        (Kind::List, DeValue::Array(items)) => {
            let items = items.iter().map(|item| item.get_ref().as_str().map(str::to_owned));
            items.collect::<Option<Vec<_>>>().map(Value::List).ok_or_else(wrong)
        }
        _ => Err(wrong()),
    }
}

fn checked(key: &Key, number: u64) -> Result<Value, String> {
    let (min, max) = match key.kind {
        Kind::Port => (0, 65_535),
        Kind::Count { min, max } | Kind::Time { min, max, .. } | Kind::Bytes { min, max } => (min, max),
        _ => (0, u64::MAX),
    };
    if (min..=max).contains(&number) {
        Ok(Value::Number(number))
    } else {
        Err(format!("{} is {number}; it must be from {min} to {max}", key.path))
    }
}

fn expected(kind: Kind) -> String {
    match kind {
        Kind::Port => "a port from 0 to 65535".to_owned(),
        Kind::Count { min, max } => format!("a whole number from {min} to {max}"),
        Kind::Time { unit: Unit::Seconds, .. } => "a time in seconds, or text such as \"15m\"".to_owned(),
        Kind::Time { unit: Unit::Millis, .. } => "a time in milliseconds, or text such as \"10s\"".to_owned(),
        Kind::Bytes { .. } => "a size in bytes, or text such as \"8GiB\"".to_owned(),
        Kind::Switch => "true or false".to_owned(),
        Kind::Text => "text".to_owned(),
        Kind::Address => "an IP address such as 127.0.0.1".to_owned(),
        Kind::Choice(words) => format!("one of {}", words.join(", ")),
        Kind::List => "a list of texts".to_owned(),
    }
}

/// `900`, `15m`, `1h30m`, `250ms` in the wanted unit; a bare number is already in it.
fn time(unit: Unit, text: &str) -> Option<u64> {
    if let Ok(number) = text.parse() {
        return Some(number);
    }
    let mut rest = text;
    let mut total_ms: u64 = 0;
    while !rest.is_empty() {
        let digits = rest.find(|letter: char| !letter.is_ascii_digit()).filter(|at| *at > 0)?;
        let number: u64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let letters = rest.find(|letter: char| letter.is_ascii_digit()).unwrap_or(rest.len());
        let factor = match &rest[..letters] {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return None,
        };
        total_ms = total_ms.checked_add(number.checked_mul(factor)?)?;
        rest = &rest[letters..];
    }
    match unit {
        _ if text.is_empty() => None,
        Unit::Millis => Some(total_ms),
        Unit::Seconds => total_ms.is_multiple_of(1_000).then_some(total_ms / 1_000),
    }
}

/// `65536`, `64KiB`, `8 GiB`, `1MB` in bytes.
fn size(text: &str) -> Option<u64> {
    let digits = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().ok()?;
    let factor = match text[digits..].trim() {
        "" | "B" => 1,
        "KiB" | "K" => 1 << 10,
        "MiB" | "M" => 1 << 20,
        "GiB" | "G" => 1 << 30,
        "TiB" | "T" => 1 << 40,
        "KB" | "kB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        _ => return None,
    };
    number.checked_mul(factor)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::keys;

    #[test]
    fn times_and_sizes_are_read_as_people_write_them() {
        assert_eq!(time(Unit::Seconds, "15m"), Some(900));
        assert_eq!(time(Unit::Seconds, "168h"), Some(604_800));
        assert_eq!(time(Unit::Millis, "1m30s"), Some(90_000));
        assert_eq!(time(Unit::Seconds, "900"), Some(900));
        for bad in ["", "m", "15x", "1.5h", "-3s", "1500ms", "99999999999999999999s"] {
            assert_eq!(time(Unit::Seconds, bad), None, "{bad}");
        }
        assert_eq!(size("8GiB"), Some(8 << 30));
        assert_eq!(size("1 MB"), Some(1_000_000));
        for bad in ["", "GiB", "8 GB/s", "-1", "99999999999TiB"] {
            assert_eq!(size(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_value_out_of_range_names_the_key_and_the_range() {
        let (_, key) = keys::find("limits.window_updates").unwrap();
        let problem = from_text(key, "70000").unwrap_err();
        assert_eq!(problem, "limits.window_updates is 70000; it must be from 1 to 65536");
        assert!(from_text(key, "many").unwrap_err().contains("a whole number from 1 to 65536"));
    }
}
