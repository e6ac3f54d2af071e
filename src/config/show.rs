//! Prints the configuration in force: every key, its value, where it came from. Secrets never leave this file.

use serde_json::json;

use crate::config::layers::Resolved;
use crate::config::value::Value;

const HIDDEN: &str = "(hidden)";

/// One line per key, aligned, for people.
pub(crate) fn as_table(resolved: &Resolved) -> String {
    let rows: Vec<(String, String, String)> = resolved
        .iter()
        .map(|(key, value, origin)| {
            let shown = if is_hidden(key.secret, value) { HIDDEN.to_owned() } else { value.to_string() };
            (key.path.to_owned(), shown, origin.to_string())
        })
        .collect();
    let width = |column: fn(&(String, String, String)) -> &String| {
        rows.iter().map(|row| column(row).chars().count()).max().unwrap_or(0)
    };
    let (path_width, value_width) = (width(|row| &row.0), width(|row| &row.1));
    rows.iter().map(|(path, value, origin)| format!("{path:path_width$}  {value:value_width$}  {origin}\n")).collect()
}

/// An object of `{path: {value, source}}`, for scripts.
pub(crate) fn as_json(resolved: &Resolved) -> serde_json::Value {
    resolved
        .iter()
        .map(|(key, value, origin)| {
            let shown = match value {
                _ if is_hidden(key.secret, value) => json!(HIDDEN),
                Value::Number(number) => json!(number),
                Value::Switch(on) => json!(on),
                Value::Text(text) => json!(text),
                Value::List(items) => json!(items),
            };
            (key.path.to_owned(), json!({"value": shown, "source": origin.to_string()}))
        })
        .collect::<serde_json::Map<_, _>>()
        .into()
}

fn is_hidden(secret: bool, value: &Value) -> bool {
    secret && *value != Value::Text(String::new())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::layers::Sources;

    #[test]
    fn secrets_are_never_shown() {
        let secret = "s".repeat(40);
        let environment = [("JWT_SECRET".to_owned(), secret.clone())].into();
        let resolved = Resolved::from_sources(&Sources { environment, ..Sources::default() }).unwrap();
        let (table, json) = (as_table(&resolved), as_json(&resolved).to_string());
        assert!(!table.contains(&secret) && !json.contains(&secret));
        assert!(table.contains("(hidden)") && table.contains("environment JWT_SECRET"));
    }
}
