//! Commands that the product will have and this version does not: known by name, so that a script gets a clear answer
//! rather than "unknown command". A command leaves this table when it arrives.

use crate::cli::exit::{Exit, Failure};

const LATER: &[&str] = &[
    "auth", "chat", "comment", "export", "genre", "grpc", "library", "manga", "notify", "progress", "rating", "stats",
    "sync", "upstream",
];

/// Answers a command that is not part of the grammar.
pub(super) fn answer(words: &[String]) -> Result<Exit, Failure> {
    let command = words.first().map_or("", String::as_str);
    if LATER.contains(&command) {
        return Err(Failure::new(Exit::Later, format!("`mangahub {command}` is not available in this version")));
    }
    Err(Failure::new(Exit::Usage, format!("there is no command {command:?}; see mangahub --help")))
}

/// The list, for `--help`.
pub(super) fn help() -> String {
    format!("{}\n\nNot available in this version: {}", crate::cli::exit::help(), LATER.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_of_a_later_version_is_told_from_a_wrong_one() {
        let answer = |word: &str| answer(&[word.to_owned()]).unwrap_err().exit;
        assert_eq!((answer("chat"), answer("chaat")), (Exit::Later, Exit::Usage));
    }
}
