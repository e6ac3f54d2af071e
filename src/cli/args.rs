//! The grammar of the command line. Flags that set configuration keys become exactly that, so that they are checked by
//! the same table as the file and the environment.

use std::path::PathBuf;

use clap::{ArgAction, CommandFactory, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use crate::cli::exit::{Exit, Failure};
use crate::cli::{Output, exit, later};

/// Keeps manga reading progress in sync across devices.
#[derive(Debug, Parser)]
#[command(name = "mangahub", version, about, after_help = exit::help(), after_long_help = later::help())]
#[command(subcommand_required = true, arg_required_else_help = true, propagate_version = false)]
pub(super) struct Args {
    #[command(flatten)]
    pub(super) global: Global,
    #[command(subcommand)]
    pub(super) command: Command,
}

/// Flags that every command takes.
#[derive(Debug, clap::Args)]
pub(super) struct Global {
    /// The configuration file; else ./mangahub.toml, else the one in the user's configuration folder
    #[arg(long, global = true, env = "MANGAHUB_CONFIG", value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// Where everything durable lives
    #[arg(long, global = true, value_name = "FOLDER")]
    data_dir: Option<PathBuf>,
    /// Set any configuration key, as often as needed
    #[arg(long = "set", global = true, value_name = "SECTION.KEY=VALUE", action = ArgAction::Append)]
    set: Vec<String>,
    /// How answers are printed
    #[arg(long, global = true, value_enum, default_value_t = Format::Table)]
    output: Format,
    /// Print nothing but errors
    #[arg(long, short, global = true, conflicts_with = "verbose")]
    pub(super) quiet: bool,
    /// Log more; twice for even more
    #[arg(long, short, global = true, action = ArgAction::Count)]
    pub(super) verbose: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Table,
    Json,
}

/// The script that makes a shell complete this command line.
pub(super) fn completions(shell: Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), "mangahub", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

impl Global {
    pub(super) fn output(&self) -> Output {
        match self.output {
            _ if self.quiet => Output::Quiet,
            Format::Json => Output::Json,
            Format::Table => Output::Table,
        }
    }

    /// The configuration keys that these flags set, as (flag, key, value).
    pub(super) fn keys(&self) -> Result<Vec<(String, String, String)>, Failure> {
        let mut keys = Vec::new();
        if let Some(folder) = &self.data_dir {
            let folder = folder.to_str().ok_or_else(|| Failure::new(Exit::Usage, "--data-dir is not UTF-8"))?;
            keys.push(("--data-dir".to_owned(), "data_dir".to_owned(), folder.to_owned()));
        }
        for setting in &self.set {
            let (key, value) = setting
                .split_once('=')
                .ok_or_else(|| Failure::new(Exit::Usage, format!("--set {setting}: expected SECTION.KEY=VALUE")))?;
            keys.push(("--set".to_owned(), key.trim().to_owned(), value.to_owned()));
        }
        Ok(keys)
    }
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run the server
    Serve(ServeFlags),
    /// Print the version
    Version,
    /// Write a commented configuration file
    Init {
        /// Where; never over a file that is there
        #[arg(default_value = "mangahub.toml")]
        path: PathBuf,
    },
    /// Load series from a file
    Import {
        /// What the file is
        #[arg(long, value_enum)]
        format: ImportFormat,
        /// The file
        file: PathBuf,
    },
    /// Print a script that completes this command line
    Completions {
        /// For which shell
        shell: Shell,
    },
    /// Look at the configuration in force
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Look after the store and the journal
    #[command(subcommand)]
    Db(DbCommand),
    /// Look at the server that runs
    #[command(subcommand)]
    Server(ServerCommand),
    /// Save everything to one file, and make a server's data of one
    #[command(subcommand)]
    Backup(BackupCommand),
    /// Accounts, load runs, statistics
    #[command(subcommand)]
    Admin(AdminCommand),
    /// Commands of later versions
    #[command(external_subcommand)]
    Other(Vec<String>),
}

/// What a file to import is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum ImportFormat {
    /// `{"mangas": [...]}`: series
    Catalogue,
    /// A MangaHub export (later)
    Json,
    /// A MyAnimeList export (later)
    Mal,
}

#[derive(Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// Every key, its value, and where it came from; secrets are hidden
    Show,
    /// The file that is read
    Path,
}

#[derive(Debug, Subcommand)]
pub(super) enum DbCommand {
    /// Bring the schema up to date (`serve` does this by itself)
    Migrate,
    /// Look the whole store over
    Check,
    /// Wait until the store has everything that is in the journal
    Drain {
        /// How long to wait
        #[arg(long, default_value_t = 60, value_name = "SECONDS")]
        timeout: u64,
    },
    /// Accept what the store has, although it is not the one that the journal was written for
    Adopt {
        /// Says that records which the store does not have may be lost
        #[arg(long)]
        yes: bool,
    },
    /// Try records again that the store refused
    Retry {
        /// Only this one
        #[arg(long)]
        id: Option<i64>,
        /// Drop it instead (needs --id)
        #[arg(long, requires = "id")]
        discard: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum ServerCommand {
    /// Whether it is there, is well, and opens every door
    Ping,
}

#[derive(Debug, Subcommand)]
pub(super) enum BackupCommand {
    /// Write a backup; the server may run
    Create {
        /// The file, which must not exist
        file: PathBuf,
        /// How long to wait for the store to have what is in the journal
        #[arg(long, default_value_t = 600, value_name = "SECONDS")]
        timeout: u64,
    },
    /// Make the data folder (and the database, when one is configured) of a backup; no server may run
    Restore {
        /// The file
        file: PathBuf,
        /// Move what is in the data folder aside
        #[arg(long)]
        replace: bool,
        /// Sign everybody out: sessions that were ended after the backup would be open again
        #[arg(long)]
        end_sessions: bool,
    },
    /// Read a backup whole, and say what is in it
    Check {
        /// The file
        file: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum AdminCommand {
    /// Make an administrator's account; the password comes from a file, from stdin, or is asked for
    Create(CreateAdmin),
    /// Make an existing user an administrator
    Promote {
        /// Username or email address
        identifier: String,
    },
    /// Make users with long-lived tokens for load runs
    Seed(Seed),
    /// What runs, and how much it holds
    Stats,
}

#[derive(Debug, clap::Args)]
pub(super) struct CreateAdmin {
    /// 3 to 50 characters
    #[arg(long)]
    pub(super) username: String,
    /// The email address
    #[arg(long)]
    pub(super) email: String,
    /// A file with the password in its first line; - is stdin
    #[arg(long, value_name = "FILE")]
    pub(super) password_file: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub(super) struct Seed {
    /// How many users
    #[arg(long)]
    pub(super) users: u32,
    /// How many series they may use
    #[arg(long, default_value_t = 100)]
    pub(super) series: u32,
    /// Where the tokens go: JSON, readable by its owner only
    #[arg(long, value_name = "FILE")]
    pub(super) tokens: PathBuf,
    /// How long the tokens live
    #[arg(long, default_value_t = 86_400, value_name = "SECONDS")]
    pub(super) ttl: u64,
}

/// Flags of `serve`; each sets a configuration key.
#[derive(Debug, clap::Args)]
pub(super) struct ServeFlags {
    /// The address of the public doors
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// Count every port from here: TCP sync +1, HTTP +4, metrics +20; 0 lets the system choose each
    #[arg(long, value_name = "PORT")]
    port_base: Option<u16>,
    /// How many shards; 0 for as many as allowed CPUs
    #[arg(long)]
    shards: Option<u16>,
    /// auto, io_uring or epoll
    #[arg(long)]
    backend: Option<String>,
    /// Allow a public bind without TLS
    #[arg(long)]
    insecure: bool,
    /// Certificate chain, PEM
    #[arg(long, value_name = "FILE")]
    tls_cert: Option<String>,
    /// Private key, PEM
    #[arg(long, value_name = "FILE")]
    tls_key: Option<String>,
    /// text or json
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
}

impl ServeFlags {
    /// The configuration keys that these flags set, as (flag, key, value).
    pub(super) fn keys(self) -> Result<Vec<(String, String, String)>, Failure> {
        let mut keys: Vec<(String, String, String)> = Vec::new();
        let mut set = |flag: &str, key: &str, value: Option<String>| {
            keys.extend(value.map(|value| (flag.to_owned(), key.to_owned(), value)));
        };
        if let Some(base) = self.port_base {
            for (key, offset) in [("ports.tcp_sync", 1), ("ports.http", 4), ("ports.metrics", 20)] {
                let port = if base == 0 { Some(0) } else { base.checked_add(offset) };
                let port = port.ok_or_else(|| Failure::new(Exit::Usage, format!("--port-base {base} is too high")))?;
                set("--port-base", key, Some(port.to_string()));
            }
        }
        set("--listen", "listen", self.listen);
        set("--shards", "shards", self.shards.map(|shards| shards.to_string()));
        set("--backend", "backend", self.backend);
        set("--insecure", "insecure", self.insecure.then(|| "true".to_owned()));
        set("--tls-cert", "tls.cert", self.tls_cert);
        set("--tls-key", "tls.key", self.tls_key);
        set("--log-format", "log.format", self.log_format);
        Ok(keys)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grammar_is_sound() {
        Args::command().debug_assert();
    }

    #[test]
    fn a_port_base_moves_every_door() {
        let args = Args::parse_from(["mangahub", "serve", "--port-base", "9000"]);
        let Command::Serve(flags) = args.command else { panic!("serve was parsed as something else") };
        let keys = flags.keys().unwrap();
        let ports: Vec<&str> = keys.iter().map(|(_, _, port)| port.as_str()).collect();
        assert_eq!(ports, ["9001", "9004", "9020"]);
    }
}
