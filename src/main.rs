//! The server and its command line. What a command does is in `cli/`, what a server's life looks like in `serve/`; this
//! file only hands over.

mod admin;
mod catalogue;
mod cli;
mod config;
mod serve;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::run()
}
