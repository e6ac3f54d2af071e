//! A server process of the harness's own: started on free ports in a folder of its own, stopped politely or killed. It is ended
//! by its handle's drop, so that a failed run leaves nothing behind.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde::Deserialize;

use crate::http;
use crate::tokens::Tokens;

/// How long a server may take from its start to open doors.
const START_PATIENCE: Duration = Duration::from_secs(60);
/// How long it may take to stop politely.
const STOP_PATIENCE: Duration = Duration::from_secs(30);

/// The metric that says how many records the store does not have yet.
const LAG: &str = "mangahub_store_lag_records";

/// Limits that a load run raises, since it plays thousands of people from one address. They appear in every report.
const RAISED: [(&str, &str); 3] = [
    ("MANGAHUB_LIMITS_UPDATES_PER_S", "10000000"),
    ("MANGAHUB_LIMITS_UPDATES_BURST", "10000000"),
    ("MANGAHUB_LIMITS_CONNECTIONS_PER_ADDRESS", "100000"),
];

/// Where the server listens: the `ports.json` of its data folder.
#[derive(Debug, Clone, Copy, Deserialize)]
pub struct Doors {
    /// The process that wrote it.
    pub pid: u32,
    /// HTTP.
    pub http: SocketAddr,
    /// TCP sync.
    pub tcp_sync: SocketAddr,
    /// Metrics.
    pub metrics: SocketAddr,
}

impl Doors {
    /// Waits until the store has everything; answers how many records it still lacks when that takes too long.
    pub async fn drained(&self, patience: Duration) -> io::Result<u64> {
        let deadline = Instant::now() + patience;
        loop {
            let lag = http::metric(&http::get(self.metrics, "/metrics")?, LAG).unwrap_or(0.0) as u64;
            if lag == 0 || Instant::now() > deadline {
                return Ok(lag);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// How to start a server.
#[derive(Debug, Clone)]
pub struct Launch {
    /// The server's binary.
    pub binary: PathBuf,
    /// Its data folder.
    pub data_dir: PathBuf,
    /// Configuration by environment, as `MANGAHUB_..` names.
    pub settings: Vec<(String, String)>,
    /// The CPUs it may use, as `taskset -c` takes them; all when empty.
    pub cpus: String,
}

/// A running server.
#[derive(Debug)]
pub struct Server {
    child: Child,
    /// Where it listens.
    pub doors: Doors,
}

impl Launch {
    /// A server on any CPU, with the limits that would get in a load's way raised.
    pub fn for_load(binary: PathBuf, data_dir: PathBuf) -> Self {
        let settings = RAISED.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        Self { binary, data_dir, settings, cpus: String::new() }
    }

    /// Starts it on free ports; its doors open later.
    fn begin(&self) -> io::Result<Child> {
        std::fs::create_dir_all(&self.data_dir)?;
        let ports = self.data_dir.join("ports.json");
        match std::fs::remove_file(&ports) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.log())?;
        let mut command = self.command();
        command.arg("serve").stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        for port in ["HTTP", "TCP_SYNC", "METRICS", "UDP", "GRPC", "NOTIFY", "QUIC"] {
            command.env(format!("MANGAHUB_PORTS_{port}"), "0");
        }
        command.spawn()
    }

    /// Where the doors are, once they are open.
    fn doors(&self) -> Option<Doors> {
        let text = std::fs::read_to_string(self.data_dir.join("ports.json")).ok()?;
        serde_json::from_str(&text).ok()
    }

    /// Starts it on free ports and kills it after `delay`: during recovery, when that was before its doors opened, which is
    /// what is answered.
    pub fn start_and_kill(&self, delay: Duration) -> io::Result<bool> {
        let mut child = self.begin()?;
        std::thread::sleep(delay);
        child.kill()?;
        child.wait()?;
        Ok(self.doors().is_none())
    }

    /// Starts it on free ports and waits until its doors are open.
    pub fn start(&self) -> io::Result<Server> {
        let mut child = self.begin()?;
        let deadline = Instant::now() + START_PATIENCE;
        loop {
            if let Some(doors) = self.doors() {
                return Ok(Server { child, doors });
            }
            if let Some(status) = child.try_wait()? {
                return Err(io::Error::other(format!(
                    "the server ended at its start with {status}:\n{}",
                    self.log_tail()
                )));
            }
            if Instant::now() > deadline {
                let _ = child.kill();
                let _ = child.wait();
                return Err(io::Error::other(format!("the server did not open its doors:\n{}", self.log_tail())));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Runs `admin seed` against this folder's server and reads the tokens.
    pub fn seed(&self, users: usize, series: usize) -> io::Result<Tokens> {
        let file = self.data_dir.join("loadtest-tokens.json");
        let mut command = self.command();
        command.args(["admin", "seed", "--users", &users.to_string(), "--series", &series.to_string(), "--tokens"]);
        let output = command.arg(&file).output()?;
        if !output.status.success() {
            return Err(io::Error::other(format!("seeding failed: {}", String::from_utf8_lossy(&output.stderr))));
        }
        Tokens::load(&file)?.take(users, series)
    }

    /// Where the server's own output goes.
    pub fn log(&self) -> PathBuf {
        self.data_dir.with_extension("log")
    }

    fn command(&self) -> Command {
        let mut command = if self.cpus.is_empty() {
            Command::new(&self.binary)
        } else {
            let mut command = Command::new("taskset");
            command.args(["-c", &self.cpus]).arg(&self.binary);
            command
        };
        command.arg("--data-dir").arg(&self.data_dir).envs(self.settings.iter().cloned());
        command
    }

    fn log_tail(&self) -> String {
        let text = std::fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().rev().take(20).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }
}

impl Server {
    /// The server's process.
    pub fn pid(&self) -> u32 {
        self.doors.pid
    }

    /// Ends it at once (SIGKILL), as a crash would, and waits until it is gone.
    pub fn kill(mut self) -> io::Result<()> {
        self.child.kill()?;
        self.child.wait().map(drop)
    }

    /// Sends it a signal, named as kill(1) does.
    pub fn signal(&self, name: &str) -> io::Result<()> {
        let done = Command::new("kill").arg(format!("-{name}")).arg(self.child.id().to_string()).status()?;
        if done.success() { Ok(()) } else { Err(io::Error::other("the server could not be signalled")) }
    }

    /// Asks it to stop (SIGTERM) and waits; an error when it does not, or not with exit code 0.
    pub fn stop(mut self) -> io::Result<()> {
        self.signal("TERM")?;
        let deadline = Instant::now() + STOP_PATIENCE;
        while Instant::now() < deadline {
            match self.child.try_wait()? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => return Err(io::Error::other(format!("the server stopped with {status}"))),
                None => std::thread::sleep(Duration::from_millis(5)),
            }
        }
        Err(io::Error::other("the server did not stop when asked"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both fail when the process has ended already, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The server's binary beside this one, as cargo builds them.
pub fn sibling_binary() -> io::Result<PathBuf> {
    let own = std::env::current_exe()?;
    let beside = own.with_file_name("mangahub");
    if Path::new(&beside).is_file() {
        return Ok(beside);
    }
    Err(io::Error::other(format!("{} is not there: build it, or give --server-bin", beside.display())))
}
