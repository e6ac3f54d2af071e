//! A server of the test's own: the real binary, a data folder of its own on a real disk, ports chosen by the system. It is
//! killed when the test lets go of it.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use super::{Finished, Request, eventually, mangahub, mangahub_through};

/// A fresh folder under the build folder, because the usual temporary one may be in memory, which hides what a disk does.
pub(crate) fn on_disk() -> TempDir {
    tempfile::Builder::new().prefix("server-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// Where the doors are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ports {
    pub(crate) http: SocketAddr,
    pub(crate) tcp_sync: SocketAddr,
    pub(crate) metrics: SocketAddr,
}

/// How to start a server; keeps the data folder between starts.
pub(crate) struct Launch {
    folder: TempDir,
    arguments: Vec<String>,
    settings: Vec<(String, String)>,
    launcher: Vec<String>,
}

impl Launch {
    /// An empty data folder.
    pub(crate) fn new() -> Self {
        Self { folder: on_disk(), arguments: Vec::new(), settings: Vec::new(), launcher: Vec::new() }
    }

    /// One more argument after `serve`.
    pub(crate) fn argument(mut self, argument: impl Into<String>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// Sets a configuration key.
    pub(crate) fn set(self, key: &str, value: &str) -> Self {
        self.argument(format!("--set={key}={value}"))
    }

    /// Sets an environment variable.
    pub(crate) fn variable(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Starts it through another program from now on (`prlimit --nofile=64`), or directly (none).
    pub(crate) fn through(mut self, launcher: &[&str]) -> Self {
        self.launcher = launcher.iter().map(|word| (*word).to_owned()).collect();
        self
    }

    /// The data folder.
    pub(crate) fn data_dir(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// What the server has written so far.
    fn stdout(&self) -> String {
        fs::read_to_string(self.folder.path().join("stdout")).unwrap_or_default()
    }

    /// What the server logged.
    pub(crate) fn stderr(&self) -> String {
        fs::read_to_string(self.folder.path().join("stderr")).unwrap_or_default()
    }

    fn command(&self) -> Command {
        let mut command = mangahub_through(&self.launcher);
        command.arg("--data-dir").arg(self.data_dir()).arg("serve");
        if !self.arguments.iter().any(|argument| argument.starts_with("--port-base")) {
            command.arg("--port-base=0");
        }
        command.args(&self.arguments).envs(self.settings.iter().map(|(name, value)| (name, value)));
        command.current_dir(self.folder.path());
        command
    }

    /// Runs the server expecting that it ends by itself.
    pub(crate) fn refused(&self) -> Finished {
        Finished::run(&mut self.command())
    }

    /// Starts it and waits for its doors.
    pub(crate) fn start(self) -> Server {
        self.try_start().unwrap_or_else(|(status, launch)| {
            panic!("the server ended with {status}:\n{}{}", launch.stdout(), launch.stderr())
        })
    }

    /// Starts it and waits for its doors, or for its end.
    pub(crate) fn try_start(self) -> Result<Server, (ExitStatus, Self)> {
        let _ = fs::remove_file(self.data_dir().join("ports.json"));
        let file = |name: &str| fs::File::create(self.folder.path().join(name)).unwrap();
        let mut command = self.command();
        let mut child = command.stdin(Stdio::null()).stdout(file("stdout")).stderr(file("stderr")).spawn().unwrap();
        let begun = eventually("the server opening its doors", || {
            let ended = child.try_wait().unwrap().map(Err);
            ended.or_else(|| read_ports(&self.data_dir()).map(Ok))
        });
        match begun {
            Ok(ports) => Ok(Server { launch: Some(self), child, ports }),
            Err(status) => Err((status, self)),
        }
    }
}

fn read_ports(data_dir: &Path) -> Option<Ports> {
    let text = fs::read_to_string(data_dir.join("ports.json")).ok()?;
    let json: Value = serde_json::from_str(&text).unwrap();
    let port = |name: &str| json[name].as_str().unwrap().parse().unwrap();
    Some(Ports { http: port("http"), tcp_sync: port("tcp_sync"), metrics: port("metrics") })
}

/// A running server.
pub(crate) struct Server {
    launch: Option<Launch>,
    child: Child,
    pub(crate) ports: Ports,
}

impl Server {
    /// A server with every setting at its default.
    pub(crate) fn start() -> Self {
        Launch::new().start()
    }

    /// How it was started.
    pub(crate) fn launch(&self) -> &Launch {
        self.launch.as_ref().expect("taken only when the server ends")
    }

    /// What it printed, in one write, once its doors were open: `ports.json` is there a moment before.
    pub(crate) fn banner(&self) -> String {
        eventually("the banner", || Some(self.launch().stdout()).filter(|text| text.ends_with('\n')))
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A request to its HTTP door.
    pub(crate) fn request(&self, method: &str, path: &str) -> Request {
        Request::new(self.ports.http, method, path)
    }

    /// Runs a command of the command line on this server's data folder.
    pub(crate) fn cli(&self, arguments: &[&str]) -> Finished {
        Finished::run(mangahub().arg("--data-dir").arg(self.launch().data_dir()).args(arguments))
    }

    /// Ends it as a crash would (SIGKILL).
    pub(crate) fn kill(mut self) -> Launch {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.launch.take().expect("taken only when the server ends")
    }

    /// Asks it to stop (SIGTERM) and waits until it has.
    pub(crate) fn stop(mut self) -> (ExitStatus, Launch) {
        self.signal("TERM");
        let status = self.wait();
        (status, self.launch.take().expect("taken only when the server ends"))
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("kill").arg(format!("-{name}")).arg(self.pid().to_string()).status().unwrap();
        assert!(sent.success());
    }

    /// Waits until it has ended by itself.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        eventually("the server ending", || self.child.try_wait().unwrap())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(launch) = self.launch.as_ref().filter(|_| std::thread::panicking()) {
            eprintln!("--- the server's log ---\n{}", launch.stderr());
        }
    }
}
