//! A Postgres server for one test: started from the installed packages on a copy of one prepared data folder, reached over a Unix
//! socket and a free port on 127.0.0.1, ended with the test, however the test ends. Nothing is shared between tests.

#![allow(dead_code, clippy::unwrap_used, reason = "every test binary uses its own part; a failed step fails the test")]

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const USER: &str = "mangahub";
/// A pooler's connections to its server.
pub(crate) const POOL: usize = 3;
/// A change of how the template is made needs a new name: the old one may still be there.
const TEMPLATE: &str = "postgres-template-1";

/// A running server. Dropping it ends it and removes its folder.
pub(crate) struct PostgresServer {
    process: Option<Child>,
    folder: tempfile::TempDir,
    port: u16,
    settings: Vec<String>,
}

impl PostgresServer {
    /// Starts one. What it stores survives its own restarts, not the machine's: nothing here flushes.
    pub(crate) fn start() -> Self {
        let template = template();
        let folder = tempfile::Builder::new().prefix("mh-pg-").tempdir().unwrap();
        // Ownership comes along: the template belongs to the user that the server runs as.
        command("cp", &["-a", &format!("{}/.", template.display()), &shown(folder.path())]);
        let port = free_port();
        let mut server = Self { process: None, folder, port, settings: Vec::new() };
        server.go_up();
        server
    }

    /// Starts the process again after [`Self::go_down`].
    pub(crate) fn go_up(&mut self) {
        let data = shown(&self.folder.path().join("data"));
        let port = self.port.to_string();
        let socket = format!("unix_socket_directories={}", self.folder.path().display());
        let mut wanted = vec!["-D", &data, "-h", "127.0.0.1", "-p", &port, "-c", &socket, "-F"];
        self.settings.iter().for_each(|setting| wanted.extend(["-c", setting]));
        let log = fs::File::options().create(true).append(true).open(self.folder.path().join("log")).unwrap();
        let mut start = as_server(&program("postgres"));
        start.args(wanted).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        self.process = Some(start.spawn().unwrap());
        let deadline = Instant::now() + Duration::from_secs(60);
        while !self.ask("SELECT 1").status.success() {
            let ended = self.process.as_mut().unwrap().try_wait().unwrap();
            let log = || fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
            assert!(ended.is_none() && Instant::now() < deadline, "postgres does not start:\n{}", log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Starts it where nobody looks for it, changes something, and starts it again where it belongs: clients that are waiting find
    /// it changed.
    pub(crate) fn go_up_with(&mut self, sql: &str) {
        self.go_down();
        let own = std::mem::replace(&mut self.port, free_port());
        self.go_up();
        self.query(sql);
        self.go_down();
        self.port = own;
        self.go_up();
    }

    /// Further settings for the next start.
    pub(crate) fn set(&mut self, settings: &[&str]) {
        self.settings.extend(settings.iter().map(ToString::to_string));
    }

    /// Stops all of its processes where they are: connections stay open, the kernel even takes new ones, and nobody answers.
    pub(crate) fn freeze(&self) {
        self.signal("-STOP");
    }

    /// Lets them go on.
    pub(crate) fn thaw(&self) {
        self.signal("-CONT");
    }

    /// To the first process before its children: it makes no more of them.
    fn signal(&self, signal: &str) {
        let Some(process) = &self.process else { return };
        let first = process.id().to_string();
        command("kill", &[signal, &first]);
        let children = Command::new("ps").args(["-o", "pid=", "--ppid", &first]).output().unwrap();
        for child in String::from_utf8(children.stdout).unwrap().split_whitespace() {
            // One that has ended meanwhile needs no signal.
            let _ = Command::new("kill").args([signal, child]).stderr(Stdio::null()).status();
        }
    }

    /// Ends the process at once, as a crash would.
    pub(crate) fn go_down(&mut self) {
        self.thaw();
        let Some(mut process) = self.process.take() else { return };
        // SIGQUIT: its children end too, nothing is written.
        let _ = Command::new("kill").args(["-QUIT", &process.id().to_string()]).status();
        let _ = process.wait();
    }

    /// Its address over the Unix socket.
    pub(crate) fn url(&self) -> String {
        let folder = shown(self.folder.path()).replace('/', "%2F");
        format!("postgres://{USER}@{folder}:{}/postgres", self.port)
    }

    /// Its address over TCP, with the rest of a URL's query.
    pub(crate) fn tcp_url(&self, query: &str) -> String {
        format!("postgres://{USER}@127.0.0.1:{}/postgres?{query}", self.port)
    }

    /// The port on 127.0.0.1.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Its folder; the server's user may read it.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// What a statement answers, a line per row, on a connection of its own.
    pub(crate) fn query(&self, sql: &str) -> Vec<String> {
        let output = self.ask(sql);
        assert!(output.status.success(), "{sql}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
    }

    fn ask(&self, sql: &str) -> std::process::Output {
        Command::new(program("psql"))
            .args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-h", &shown(self.folder.path()), "-U", USER, "-d", "postgres"])
            .args(["-p", &self.port.to_string(), "-c", "SET default_transaction_read_only = off", "-c", sql])
            .stdin(Stdio::null())
            .output()
            .expect("psql runs")
    }

    /// Has statements run at another address of it, a pooler's.
    pub(crate) fn query_at(&self, url: &str, sql: &str) {
        command(program("psql").to_str().unwrap(), &["-XAtq", "-v", "ON_ERROR_STOP=1", "-d", url, "-c", sql]);
    }

    /// Everything in it as text, rows in order: two equal dumps hold the same.
    pub(crate) fn dump(&self) -> String {
        let tables = self.query("SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY tablename");
        let rows = tables.iter().flat_map(|table| {
            let rows = self.query(&format!("SELECT to_jsonb(t) FROM {table} AS t ORDER BY to_jsonb(t)::text"));
            rows.into_iter().map(move |row| format!("{table} {row}\n"))
        });
        rows.collect()
    }

    /// Ends all other connections.
    pub(crate) fn cut_connections(&self) {
        self.query(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
             WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'",
        );
    }

    /// From now on it only reads, as a primary does that has become a standby; or takes writes again.
    pub(crate) fn set_read_only(&self, read_only: bool) {
        let setting = if read_only { "on" } else { "off" };
        self.query(&format!("ALTER DATABASE postgres SET default_transaction_read_only = {setting}"));
        self.cut_connections();
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        self.go_down();
    }
}

/// PgBouncer in transaction mode in front of a server, with fewer server connections than a store has.
pub(crate) struct Pooler {
    process: Child,
    folder: tempfile::TempDir,
    port: u16,
}

impl Pooler {
    /// Starts one.
    pub(crate) fn start(server: &PostgresServer) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let port = free_port();
        let settings = format!(
            "[databases]\npostgres = host={} port={} dbname=postgres user={USER}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
             listen_port = {port}\nunix_socket_dir =\nauth_type = any\npool_mode = transaction\ndefault_pool_size = {POOL}\n\
             server_login_retry = 1\nlogfile = {}\n",
            server.folder().display(),
            server.port(),
            folder.path().join("log").display(),
        );
        let file = folder.path().join("pgbouncer.ini");
        fs::write(&file, settings).unwrap();
        give_to_server(folder.path());
        let mut start = as_server(Path::new("/usr/sbin/pgbouncer"));
        let process =
            start.arg(&file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < deadline, "the pooler does not listen");
            std::thread::sleep(Duration::from_millis(10));
        }
        Self { process, folder, port }
    }

    /// Its address.
    pub(crate) fn url(&self) -> String {
        format!("postgres://{USER}@127.0.0.1:{}/postgres", self.port)
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        let _ = Command::new("kill").args(["-QUIT", &self.process.id().to_string()]).status();
        let _ = self.process.wait();
        if std::thread::panicking() {
            eprintln!("{}", fs::read_to_string(self.folder.path().join("log")).unwrap_or_default());
        }
    }
}

/// A command that runs as the user that may run a database, and ends when this thread does.
pub(crate) fn as_server(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    if is_root() {
        let user = if succeeds("id", &["-u", "postgres"]) { "postgres" } else { "nobody" };
        command.args([&format!("--reuid={user}"), "--clear-groups", "--regid", &group_of(user)]);
    }
    command.args(["--pdeathsig", "QUIT", "--"]).arg(program);
    // A folder that everybody may be in.
    command.current_dir("/");
    command
}

/// Gives a file or a folder to the server's user.
pub(crate) fn give_to_server(path: &Path) {
    if is_root() {
        let user = if succeeds("id", &["-u", "postgres"]) { "postgres" } else { "nobody" };
        command("chown", &["-R", &format!("{user}:{}", group_of(user)), &shown(path)]);
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn is_root() -> bool {
    String::from_utf8(Command::new("id").arg("-u").output().unwrap().stdout).unwrap().trim() == "0"
}

fn group_of(user: &str) -> String {
    String::from_utf8(Command::new("id").args(["-g", user]).output().unwrap().stdout).unwrap().trim().to_owned()
}

fn succeeds(program: &str, args: &[&str]) -> bool {
    Command::new(program).args(args).stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|s| s.success())
}

fn command(program: &str, args: &[&str]) {
    let output = Command::new(program).args(args).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn shown(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

/// A program of the installed packages: Debian keeps a server's beside its version, and links a client's into the path.
fn program(name: &str) -> PathBuf {
    let mut versions: Vec<PathBuf> = fs::read_dir("/usr/lib/postgresql")
        .map(|found| found.flatten().map(|entry| entry.path().join("bin").join(name)).collect())
        .unwrap_or_default();
    versions.retain(|path| path.exists());
    versions.sort();
    let in_path =
        || std::env::split_paths(&std::env::var_os("PATH")?).map(|dir| dir.join(name)).find(|path| path.exists());
    versions.pop().or_else(in_path).unwrap_or_else(|| panic!("{name} is not installed: apt install postgresql"))
}

/// A folder with an empty cluster in `data`, made once for all test processes.
fn template() -> PathBuf {
    let target = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    fs::create_dir_all(&target).unwrap();
    let template = target.join(TEMPLATE);
    let lock = fs::File::create(target.join(format!("{TEMPLATE}.lock"))).unwrap();
    lock.lock().unwrap();
    if template.exists() {
        return template;
    }
    let making = tempfile::Builder::new().prefix("mh-pg-").tempdir().unwrap();
    give_to_server(making.path());
    let output = as_server(&program("initdb"))
        .args(["-D", &shown(&making.path().join("data")), "-U", USER, "--auth=trust", "--no-sync", "--wal-segsize=1"])
        .args(["--encoding=UTF8", "--locale=C"])
        .output()
        .unwrap();
    assert!(output.status.success(), "initdb: {}", String::from_utf8_lossy(&output.stderr));
    let mut settings = fs::read_to_string(making.path().join("data/postgresql.conf")).unwrap();
    settings.push_str("\nshared_buffers = 32MB\nmax_connections = 40\nmax_wal_size = 64MB\nautovacuum = off\n");
    fs::write(making.path().join("data/postgresql.conf"), settings).unwrap();
    let part = target.join(format!("{TEMPLATE}.part"));
    let _ = fs::remove_dir_all(&part);
    command("cp", &["-a", &shown(making.path()), &shown(&part)]);
    fs::rename(part, &template).unwrap();
    template
}
