//! Lists of texts in one column, as a JSON array, which both databases can search.

/// The column's text.
pub(crate) fn write(texts: &[String]) -> String {
    serde_json::to_string(texts).expect("a list of strings is always JSON")
}

/// The list, if the column holds one.
pub(crate) fn parse(column: &str) -> Option<Vec<String>> {
    serde_json::from_str(column).ok()
}
