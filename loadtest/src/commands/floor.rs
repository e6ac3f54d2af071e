//! `loadtest floor`: the floor as a process of its own, and how a run starts one, or the bare echo.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use clap::Args;
use loadtest::tokens::{Seeded, Tokens};
use loadtest::workload::Random;
use proto::{MangaId, UserId};

use crate::Failure;

#[derive(Args)]
pub(crate) struct FloorArgs {
    /// Where its file is made
    #[arg(long)]
    folder: PathBuf,
}

/// Serves until it is killed.
pub(crate) async fn floor(args: FloorArgs) -> Result<String, Failure> {
    loadtest::floor::serve(&args.folder).await?;
    Ok(String::new())
}

/// A floor or an echo that runs; killed when dropped.
pub(crate) struct Running {
    child: Child,
    pub(crate) address: SocketAddr,
    _folder: Option<tempfile::TempDir>,
}

impl Running {
    pub(crate) fn floor() -> Result<Self, Failure> {
        let folder = tempfile::tempdir()?;
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("floor").arg("--folder").arg(folder.path());
        Self::start(command, Some(folder))
    }

    /// The runtime's example `echo`, where cargo puts it beside this program.
    pub(crate) fn echo(cpus: &str) -> Result<Self, Failure> {
        let program = std::env::current_exe()?.with_file_name("examples").join("echo");
        if !program.is_file() {
            let build = "cargo build --release -p mangahub-runtime --example echo";
            return Err(format!("{} is not there: build it with `{build}`", program.display()).into());
        }
        let mut command = Command::new(if cpus.is_empty() { program.as_os_str() } else { "taskset".as_ref() });
        if !cpus.is_empty() {
            command.args(["-c", cpus]).arg(&program);
        }
        Self::start(command, None)
    }

    fn start(mut command: Command, folder: Option<tempfile::TempDir>) -> Result<Self, Failure> {
        let mut child = command.stdout(Stdio::piped()).stdin(Stdio::null()).spawn()?;
        let mut line = String::new();
        if let Some(out) = child.stdout.take() {
            BufReader::new(out).read_line(&mut line)?;
        }
        let address = line.trim().parse().map_err(|_| format!("it did not say where it listens: {line:?}"))?;
        Ok(Self { child, address, _folder: folder })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Fails when it has ended already, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// People and series that only a floor believes in.
pub(crate) fn tokens(users: usize, series: usize) -> Tokens {
    let mut random = Random::new(7);
    let user = |_| Seeded { user_id: UserId::from_bytes(random.uuid_bytes()), token: "floor".to_owned() };
    Tokens { users: (0..users).map(user).collect(), series: (1..=series as i64).map(MangaId).collect() }
}
