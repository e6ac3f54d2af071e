//! `loadtest floor`: the floor as a process of its own, and how a run starts one.

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
    /// Answers at once and writes nothing: a bare echo
    #[arg(long)]
    echo: bool,
}

/// Serves until it is killed.
pub(crate) async fn floor(args: FloorArgs) -> Result<String, Failure> {
    loadtest::floor::serve(&args.folder, !args.echo).await?;
    Ok(String::new())
}

/// A floor that runs; killed when dropped.
pub(crate) struct Running {
    child: Child,
    pub(crate) address: SocketAddr,
    _folder: tempfile::TempDir,
}

impl Running {
    pub(crate) fn start(echo: bool) -> Result<Self, Failure> {
        let folder = tempfile::tempdir()?;
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("floor").arg("--folder").arg(folder.path()).stdout(Stdio::piped()).stdin(Stdio::null());
        if echo {
            command.arg("--echo");
        }
        let mut child = command.spawn()?;
        let mut line = String::new();
        if let Some(out) = child.stdout.take() {
            BufReader::new(out).read_line(&mut line)?;
        }
        let address = line.trim().parse().map_err(|_| format!("the floor did not say where it listens: {line:?}"))?;
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
