//! The command line: what may be asked, and where it goes. Answers go to stdout (a table, or JSON for scripts), everything
//! else to stderr; the exit code says what kind of failure it was.

mod admin;
mod args;
mod backup;
mod configuration;
mod database;
mod exit;
mod import;
mod later;
mod log;
mod server;

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use serde_json::Value;

use crate::config::{Config, Resolved, Sources};
use crate::serve;
use args::{AdminCommand, Args, Command, ConfigCommand, Global};
use exit::{Exit, Failure};

/// How answers are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Output {
    /// For people.
    Table,
    /// For scripts.
    Json,
    /// Not at all; the exit code tells.
    Quiet,
}

/// Runs the command line of this process.
pub(crate) fn run() -> ExitCode {
    let args = Args::parse();
    let output = args.global.output();
    match dispatch(args) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            report(&failure, output);
            failure.exit.into()
        }
    }
}

fn report(failure: &Failure, output: Output) {
    let mut stderr = std::io::stderr().lock();
    // Nothing can be done about a closed stderr.
    let _ = match output {
        Output::Json => {
            let body = serde_json::json!({"error": failure.message, "code": failure.exit.name()});
            writeln!(stderr, "{body}")
        }
        _ => writeln!(stderr, "mangahub: {}", failure.message),
    };
}

fn dispatch(args: Args) -> Result<Exit, Failure> {
    let output = args.global.output();
    match args.command {
        Command::Version => version(output),
        Command::Completions { shell } => completions(shell, output),
        Command::Init { path } => configuration::init(&path, output),
        Command::Config(ConfigCommand::Path) => configuration::path(&resolve(&args.global, Vec::new())?, output),
        Command::Config(ConfigCommand::Show) => configuration::show(&resolve(&args.global, Vec::new())?, output),
        Command::Serve(flags) => {
            let (config, _) = configure(&args.global, flags.keys()?)?;
            serve::run(&config, output).map(|()| Exit::Done).map_err(Failure::from)
        }
        Command::Import { format, file } => {
            let (config, _) = configure(&args.global, Vec::new())?;
            import::run(&config, format, &file, output)
        }
        Command::Db(command) => {
            let (config, _) = configure(&args.global, Vec::new())?;
            database::run(&config, command, output)
        }
        Command::Server(command) => {
            let (config, _) = configure(&args.global, Vec::new())?;
            server::run(&config, &command, output)
        }
        Command::Backup(command) => {
            let (config, _) = configure(&args.global, Vec::new())?;
            backup::run(&config, command, output)
        }
        Command::Admin(command) => {
            let (config, _) = configure(&args.global, Vec::new())?;
            match command {
                AdminCommand::Create(create) => admin::create(&config, create, output),
                AdminCommand::Promote { identifier } => admin::promote(&config, identifier, output),
                AdminCommand::Seed(seed) => admin::seed(&config, &seed, output),
                AdminCommand::Stats => admin::stats(&config, output),
            }
        }
        Command::Other(words) => later::answer(&words),
    }
}

fn resolve(global: &Global, flags: Vec<(String, String, String)>) -> Result<Resolved, Failure> {
    // `--set` names one key, a flag such as --port-base several: the more exact one wins.
    let mut all = flags;
    all.extend(global.keys()?);
    Ok(Resolved::from_sources(&Sources::of_process(global.config.clone(), all))?)
}

fn configure(global: &Global, flags: Vec<(String, String, String)>) -> Result<(Config, Resolved), Failure> {
    let resolved = resolve(global, flags)?;
    let config = Config::from_resolved(&resolved)?;
    log::start(&config, global)?;
    for warning in &resolved.warnings {
        tracing::warn!("{warning}");
    }
    Ok((config, resolved))
}

fn version(output: Output) -> Result<Exit, Failure> {
    let version = env!("CARGO_PKG_VERSION");
    print(output, &serde_json::json!({"version": version}), || format!("mangahub {version}\n"));
    Ok(Exit::Done)
}

fn completions(shell: clap_complete::Shell, output: Output) -> Result<Exit, Failure> {
    let script = args::completions(shell);
    print(output, &serde_json::json!({"shell": shell.to_string(), "script": script}), || script.clone());
    Ok(Exit::Done)
}

/// Prints an answer in the wanted form.
fn print(output: Output, json: &Value, text: impl FnOnce() -> String) {
    let text = match output {
        Output::Quiet => return,
        Output::Json => format!("{json}\n"),
        Output::Table => text(),
    };
    // Whoever closed stdout does not want the rest.
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
}
