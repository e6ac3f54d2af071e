//! `admin create|promote|seed|stats`. Passwords never come from the command line, where everybody on the machine could
//! read them.

use std::fs::OpenOptions;
use std::io::{BufRead, IsTerminal, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::admin::{Operator, Request};
use crate::cli::args::{CreateAdmin, Seed};
use crate::cli::exit::{Exit, Failure};
use crate::cli::{Output, print};
use crate::config::Config;

/// Longer than any password may be.
const PASSWORD_BYTES_MAX: u64 = 4_096;
/// Users asked for at a time: about 18 MB of tokens, of the 64 MiB that an answer may have.
const SEED_PART_USERS: u32 = 20_000;

/// Makes an administrator's account.
pub(super) fn create(config: &Config, create: CreateAdmin, output: Output) -> Result<Exit, Failure> {
    let password = password(create.password_file.as_deref())
        .map_err(|error| Failure::new(Exit::Input, format!("cannot read the password: {error}")))?;
    let CreateAdmin { username, email, .. } = create;
    let answer = once(Operator::reach(config)?, Request::CreateAdmin { username: username.clone(), email, password })?;
    print(output, &answer, || format!("{username} is an administrator now\n"));
    Ok(Exit::Done)
}

/// Makes an existing user an administrator.
pub(super) fn promote(config: &Config, identifier: String, output: Output) -> Result<Exit, Failure> {
    let answer = once(Operator::revisit(config)?, Request::Promote { identifier: identifier.clone() })?;
    print(output, &answer, || format!("{identifier} is an administrator now, and must sign in again\n"));
    Ok(Exit::Done)
}

/// Makes users for a load run, and writes their tokens.
pub(super) fn seed(config: &Config, seed: &Seed, output: Output) -> Result<Exit, Failure> {
    let mut operator = Operator::reach(config)?;
    let answer = seed_in_parts(&mut operator, seed);
    operator.finish()?;
    let answer = answer?;
    write_private(&seed.tokens, &answer)
        .map_err(|error| Failure::new(Exit::Failed, format!("cannot write {}: {error}", seed.tokens.display())))?;
    let counts = |name: &str| answer.get(name).and_then(Value::as_array).map_or(0, Vec::len);
    let (users, series) = (counts("users"), counts("series"));
    print(output, &json!({"users": users, "series": series, "tokens": seed.tokens}), || {
        format!("{users} users, {series} series; tokens in {}\n", seed.tokens.display())
    });
    Ok(Exit::Done)
}

/// What runs, and how much it holds.
pub(super) fn stats(config: &Config, output: Output) -> Result<Exit, Failure> {
    let answer = once(Operator::revisit(config)?, Request::Stats)?;
    print(output, &answer, || {
        let rows = answer.as_object().into_iter().flatten();
        rows.map(|(name, value)| format!("{name:<14} {}\n", value.as_str().map_or(value.to_string(), str::to_owned)))
            .collect()
    });
    Ok(Exit::Done)
}

/// Asks for the users a part at a time, so that no answer outgrows what the admin socket carries.
fn seed_in_parts(operator: &mut Operator, seed: &Seed) -> Result<Value, Failure> {
    let mut whole = json!({"users": [], "series": []});
    let mut made = 0;
    while made < seed.users.max(1) {
        // At least one request, so that the server is the one to refuse a count of 0.
        let users = (seed.users - made).min(SEED_PART_USERS);
        add_part(&mut whole, operator.ask(Request::Seed { users, series: seed.series, token_ttl_s: seed.ttl })?);
        made = made.saturating_add(SEED_PART_USERS);
    }
    Ok(whole)
}

/// What a server says is looked at, not trusted to be what this version of it would say.
fn add_part(whole: &mut Value, mut part: Value) {
    let mut take = |name| part.get_mut(name).map(Value::take).unwrap_or_default();
    if let (Value::Array(all), Value::Array(more)) = (&mut whole["users"], take("users")) {
        all.extend(more);
    }
    whole["series"] = take("series");
}

fn once(mut operator: Operator, request: Request) -> Result<Value, Failure> {
    let answer = operator.ask(request);
    operator.finish()?;
    Ok(answer?)
}

fn write_private(path: &Path, content: &Value) -> std::io::Result<()> {
    // A file that is there keeps its mode when it is opened; tokens must not inherit one that others can read.
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(content.to_string().as_bytes())?;
    file.write_all(b"\n")
}

fn password(file: Option<&Path>) -> std::io::Result<String> {
    let stdin = std::io::stdin();
    match file {
        Some(path) if path != Path::new("-") => first_line(std::fs::File::open(path)?),
        None if stdin.is_terminal() => {
            let mut stderr = std::io::stderr();
            write!(stderr, "Password: ")?;
            echo(false);
            let typed = first_line(stdin.lock());
            echo(true);
            writeln!(stderr)?;
            typed
        }
        _ => first_line(stdin.lock()),
    }
}

fn first_line(source: impl Read) -> std::io::Result<String> {
    let mut line = String::new();
    std::io::BufReader::new(source.take(PASSWORD_BYTES_MAX)).read_line(&mut line)?;
    let password = line.trim_end_matches(['\r', '\n']);
    if password.is_empty() {
        return Err(std::io::Error::new(std::io::ErrorKind::UnexpectedEof, "it is empty"));
    }
    Ok(password.to_owned())
}

/// Whether the terminal shows what is typed. Without `stty` it does, which is better than not being able to type.
fn echo(on: bool) {
    let word = if on { "echo" } else { "-echo" };
    let _ = Command::new("stty").arg(word).stdin(Stdio::inherit()).stderr(Stdio::null()).status();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_answers_is_taken_as_far_as_it_makes_sense() {
        let mut whole = json!({"users": [], "series": []});
        add_part(&mut whole, json!({"users": [{"username": "one"}], "series": [7]}));
        for odd in [json!([1]), json!("a text"), json!(null), json!({"users": 3})] {
            add_part(&mut whole, odd);
        }
        add_part(&mut whole, json!({"users": [{"username": "two"}], "series": [7]}));
        assert_eq!(whole, json!({"users": [{"username": "one"}, {"username": "two"}], "series": [7]}));
    }
}
