//! A Redis server for one test: started from the installed package in a folder of its own, on free ports of
//! 127.0.0.1 and a Unix socket, ended with the test, however the test ends. Nothing is shared between tests.

#![allow(dead_code, clippy::unwrap_used, reason = "every test binary uses its own part; a failed step fails the test")]

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Longest that anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running server. Dropping it ends it and removes its folder.
pub(crate) struct RedisServer {
    process: Option<Child>,
    folder: tempfile::TempDir,
    port: u16,
    settings: Vec<String>,
}

/// A port that nobody listens on.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl RedisServer {
    /// Starts one that keeps nothing.
    pub(crate) fn start() -> Self {
        Self::with(&[])
    }

    /// Starts one with further settings, each as it would be given on the command line.
    pub(crate) fn with(settings: &[&str]) -> Self {
        let folder = tempfile::Builder::new().prefix("mh-redis-").tempdir().unwrap();
        let settings = settings.iter().map(ToString::to_string).collect();
        let mut server = Self { process: None, folder, port: free_port(), settings };
        server.go_up();
        server
    }

    /// Starts the process again after [`Self::kill`], empty, on the same port.
    pub(crate) fn go_up(&mut self) {
        let log = fs::File::options().create(true).append(true).open(self.folder.path().join("log")).unwrap();
        let socket = self.folder.path().join("socket");
        // Ends with this thread, should the test be killed.
        let mut start = Command::new("setpriv");
        start.args(["--pdeathsig", "KILL", "redis-server", "--save", "", "--appendonly", "no", "--bind", "127.0.0.1"]);
        start.args(["--port", &self.port.to_string(), "--dir"]).arg(self.folder.path());
        start.arg("--unixsocket").arg(&socket).args(&self.settings);
        start.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        self.process = Some(start.spawn().expect("redis-server and setpriv are installed"));
        let deadline = Instant::now() + PATIENCE;
        while self.try_ask(&["PING"]).as_deref() != Some("PONG") {
            let ended = self.process.as_mut().unwrap().try_wait().unwrap();
            let log = || fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
            assert!(ended.is_none() && Instant::now() < deadline, "redis-server does not start:\n{}", log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// kill -9.
    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    fn signal(&self, signal: &str) {
        let pid = self.process.as_ref().expect("it runs").id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    /// It keeps its connections and answers nothing.
    pub(crate) fn freeze(&self) {
        self.signal("-STOP");
    }

    /// It goes on where it stood.
    pub(crate) fn thaw(&self) {
        self.signal("-CONT");
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    fn try_ask(&self, arguments: &[&str]) -> Option<String> {
        let socket = self.folder.path().join("socket");
        let mut ask = Command::new("redis-cli");
        let output = ask.arg("-s").arg(socket).args(arguments).stdin(Stdio::null()).output().expect("redis-cli runs");
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
    }

    /// What redis-cli prints.
    pub(crate) fn ask(&self, arguments: &[&str]) -> String {
        self.try_ask(arguments).unwrap_or_else(|| panic!("redis-cli {arguments:?} fails"))
    }

    /// A hash's fields.
    pub(crate) fn hash(&self, key: &str) -> std::collections::BTreeMap<String, String> {
        let text = self.ask(&["HGETALL", key]);
        let lines: Vec<&str> = text.lines().collect();
        lines.chunks_exact(2).map(|pair| (pair[0].to_owned(), pair[1].to_owned())).collect()
    }
}

/// Three servers that share the keys out.
pub(crate) struct RedisCluster {
    servers: Vec<RedisServer>,
}

impl RedisCluster {
    /// Starts one without replicas.
    pub(crate) fn start() -> Self {
        let servers: Vec<RedisServer> = (0..3).map(|_| RedisServer::with(&["--cluster-enabled", "yes"])).collect();
        let places: Vec<String> = servers.iter().map(|server| format!("127.0.0.1:{}", server.port())).collect();
        let mut create = Command::new("redis-cli");
        create.args(["--cluster", "create"]).args(&places).args(["--cluster-replicas", "0", "--cluster-yes"]);
        let output = create.stdin(Stdio::null()).output().expect("redis-cli runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        let cluster = Self { servers };
        let deadline = Instant::now() + PATIENCE;
        while !cluster.servers.iter().all(|server| server.ask(&["CLUSTER", "INFO"]).contains("cluster_state:ok")) {
            assert!(Instant::now() < deadline, "the cluster does not come together");
            std::thread::sleep(Duration::from_millis(20));
        }
        cluster
    }

    pub(crate) fn url(&self) -> String {
        format!("redis-cluster://127.0.0.1:{}", self.servers[0].port())
    }

    /// How many keys each server has.
    pub(crate) fn keys(&self) -> Vec<u64> {
        self.servers.iter().map(|server| server.ask(&["DBSIZE"]).parse().unwrap()).collect()
    }

    /// A hash's fields, wherever it is.
    pub(crate) fn hash(&self, key: &str) -> std::collections::BTreeMap<String, String> {
        let found = self.servers.iter().map(|server| server.hash(key));
        found
            .max_by_key(|hash| if hash.keys().any(|field| field.starts_with("MOVED")) { 0 } else { hash.len() })
            .unwrap()
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}
