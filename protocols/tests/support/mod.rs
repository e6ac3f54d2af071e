//! A real server in this process over a folder of its own, and small blocking clients that speak its wires over real
//! sockets. Every wait has a deadline and nothing here sleeps to let time pass.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its part")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use engine::{EngineConfig, Running, SeedRequest, Seeded};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use proto::frame::{
    Ack, Bye, Caps, Hello, Kind, Preamble, ProgressEntry, Receiver, ResumeToken, ServerFrame, SetProgress, wants,
};
use proto::{Chapter, Code, DeviceId, DeviceSeq, MangaId};
use protocols::{DoorPlan, DoorsConfig};
use serde_json::Value;

/// How long anything may take before a test gives up.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// A running server.
pub struct Server {
    running: Option<Running>,
    plan: DoorPlan,
    pub users: Vec<Seeded>,
    pub series: Vec<MangaId>,
    folder: tempfile::TempDir,
}

/// Starts a server with three users and five series, its settings changed by `change`.
pub fn start(change: impl FnOnce(&mut DoorsConfig, &mut EngineConfig)) -> Server {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let loopback = || Some(SocketAddr::from(([127, 0, 0, 1], 0)));
    let mut doors =
        DoorsConfig { tcp_sync: loopback(), http: loopback(), metrics: loopback(), ..DoorsConfig::default() };
    let mut config = EngineConfig::new(folder.path().join("data"), *b"a secret of more than 32 bytes, for tests");
    config.shards = Some(2);
    config.limits.journal_bytes_max = 512 << 20;
    // The same tests on the fallback: MANGAHUB_TEST_BACKEND=epoll.
    if std::env::var("MANGAHUB_TEST_BACKEND").is_ok_and(|backend| backend == "epoll") {
        config.backend = Some(runtime::probe::BackendKind::Epoll);
    }
    change(&mut doors, &mut config);
    let plan = DoorPlan::prepare(doors, Some(recorder())).expect("the doors can be planned");
    let for_shards = plan.clone();
    let open: engine::Doors = Arc::new(move |engine, context| {
        protocols::start_doors(engine, context, &for_shards).map_err(|problem| problem.to_string())
    });
    let running = engine::start(config, protocols::encoders(), open).expect("the engine starts");
    let request = SeedRequest { users: 3, series: 5, token_ttl_s: 3_600 };
    let executor = tokio::runtime::Builder::new_current_thread().build().expect("an executor");
    let seeded = executor.block_on(running.admin().seed(request)).expect("users are seeded");
    Server { running: Some(running), plan, users: seeded.users, series: seeded.series, folder }
}

/// What counts for this process, all its servers together.
fn recorder() -> PrometheusHandle {
    static RECORDER: OnceLock<PrometheusHandle> = OnceLock::new();
    let install = || PrometheusBuilder::new().install_recorder().expect("nothing else counts in this process");
    RECORDER.get_or_init(install).clone()
}

/// A server as it comes.
pub fn server() -> Server {
    start(|_, _| {})
}

impl Server {
    pub fn sync(&self) -> SocketAddr {
        self.plan.addresses().tcp_sync.expect("the door is open")
    }

    pub fn http(&self) -> SocketAddr {
        self.plan.addresses().http.expect("the door is open")
    }

    pub fn metrics(&self) -> SocketAddr {
        self.plan.addresses().metrics.expect("the door is open")
    }

    /// A frame connection of a user, greeted.
    pub fn frames(&self, user: usize) -> Frames {
        Frames::hello(self.sync(), &self.users[user].token, Some(DeviceId::new_v7()))
    }

    /// A line connection of a user, greeted.
    pub fn lines(&self, user: usize) -> Lines {
        let mut lines = Lines::connect(self.sync());
        lines.send(&format!(r#"{{"type":"auth","data":{{"token":"{}"}}}}"#, self.users[user].token));
        assert_eq!(lines.next()["type"], "auth_success");
        lines
    }

    /// A request of a user.
    pub fn ask(&self, user: usize, method: &str, path: &str, body: Option<&str>) -> Answer {
        let token = format!("Bearer {}", self.users[user].token);
        request(self.http(), method, path, &[("Authorization", &token)], body)
    }

    /// A gauge of the metrics door.
    pub fn gauge(&self, name: &str) -> f64 {
        self.counted(name).unwrap_or_else(|| panic!("no {name} on the metrics page"))
    }

    /// A figure of the metrics door; a counter is there once it has counted.
    pub fn counted(&self, name: &str) -> Option<f64> {
        let page = request(self.metrics(), "GET", "/metrics", &[], None);
        let page = String::from_utf8(page.body).expect("text");
        page.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
    }

    /// After whatever was done to it, the third user is served and no task has panicked.
    #[track_caller]
    pub fn is_well(&self) {
        let mut frames = self.frames(2);
        frames.set(1, &update(self.series[4], 1));
        frames.flush();
        assert!(matches!(frames.answer(), Said::Ack(_)));
        assert_eq!(self.ask(2, "GET", "/api/library", None).status, 200);
        assert_eq!(self.gauge("mangahub_task_panics_total "), 0.0);
    }

    /// Begins the drain and waits for the end.
    pub fn stop(mut self) {
        self.end();
    }

    /// Begins the drain only.
    pub fn shut_down(&self) {
        self.running.as_ref().expect("it runs until it is stopped").shut_down();
    }

    fn end(&mut self) {
        if let Some(running) = self.running.take() {
            running.shut_down();
            let ended = running.wait();
            if !std::thread::panicking() {
                ended.expect("the server ends cleanly");
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}

/// Connects with the deadline set.
pub fn connect(address: SocketAddr) -> TcpStream {
    let socket = TcpStream::connect_timeout(&address, DEADLINE).expect("the door is open");
    socket.set_read_timeout(Some(DEADLINE)).expect("a deadline can be set");
    socket.set_write_timeout(Some(DEADLINE)).expect("a deadline can be set");
    socket.set_nodelay(true).expect("a socket option");
    socket
}

/// Looks again and again until something holds.
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let give_up = std::time::Instant::now() + DEADLINE;
    while !holds() {
        assert!(std::time::Instant::now() < give_up, "not in time: {what}");
        std::thread::yield_now();
    }
}

/// Reads until the peer has closed; a reset counts as closed.
pub fn read_to_close(mut socket: impl Read) -> Vec<u8> {
    let mut all = Vec::new();
    let mut space = [0; 4096];
    loop {
        match socket.read(&mut space) {
            Ok(0) => return all,
            Ok(count) => all.extend_from_slice(&space[..count]),
            Err(problem) if problem.kind() == std::io::ErrorKind::WouldBlock => panic!("not closed in time: {all:?}"),
            Err(_) => return all,
        }
    }
}

/// An ordinary update.
pub fn update(manga: MangaId, chapter: u32) -> SetProgress {
    SetProgress::new(manga, Chapter::whole(chapter))
}

/// The same with a device sequence.
pub fn numbered(manga: MangaId, chapter: u32, seq: u64) -> SetProgress {
    SetProgress { device_seq: Some(DeviceSeq(seq)), ..update(manga, chapter) }
}

/// What a server said in frames.
#[derive(Clone, Debug, PartialEq)]
pub enum Said {
    Welcome { window: u32, last_seq: u64, resume: ResumeToken },
    Ack(Ack),
    Reject { seq: u64, code: Option<Code>, detail: String, stored: Option<ProgressEntry> },
    Progress(ProgressEntry),
    State { seq: u64, entries: Vec<ProgressEntry> },
    CaughtUp { seq: u64, entries: u32, snapshot: bool },
    Pong(u64),
    Bye { code: Option<Code>, detail: String },
    Closed,
    Other(Kind),
}

/// A frame connection.
pub struct Frames<S = TcpStream> {
    pub socket: S,
    receiver: Receiver,
    preamble: bool,
    pub out: Vec<u8>,
    pub welcome: Option<Said>,
}

impl Frames {
    /// Connected, nothing said.
    pub fn connect(address: SocketAddr) -> Self {
        Self::over(connect(address))
    }

    /// Greeted.
    pub fn hello(address: SocketAddr, token: &str, device: Option<DeviceId>) -> Self {
        let mut frames = Self::connect(address);
        frames.greet(token, device);
        frames
    }

    /// Nothing more comes from here.
    pub fn half_close(&self) {
        self.socket.shutdown(Shutdown::Write).expect("the socket is open");
    }
}

impl<S: Read + Write> Frames<S> {
    pub fn over(socket: S) -> Self {
        let receiver = Receiver::new(Caps::default());
        Self { socket, receiver, preamble: false, out: Vec::new(), welcome: None }
    }

    /// Queues preamble and Hello.
    pub fn queue_hello(&mut self, token: &str, device: Option<DeviceId>) {
        self.out.extend_from_slice(&Preamble::CURRENT.to_bytes());
        let hello = Hello {
            token,
            device,
            resume: ResumeToken::NONE,
            client_name: "test",
            client_version: "1",
            wants: wants::PROGRESS,
        };
        hello.encode(0, &mut self.out).expect("a Hello fits");
    }

    /// Says Hello and waits for Welcome.
    pub fn greet(&mut self, token: &str, device: Option<DeviceId>) {
        self.queue_hello(token, device);
        self.flush();
        let said = self.next();
        assert!(matches!(said, Said::Welcome { .. }), "{said:?}");
        self.welcome = Some(said);
    }

    pub fn flush(&mut self) {
        self.socket.write_all(&self.out).expect("the server reads");
        self.out.clear();
    }

    pub fn set(&mut self, seq: u64, update: &SetProgress) {
        update.encode(seq, &mut self.out);
    }

    /// The next frame, or the end.
    pub fn next(&mut self) -> Said {
        loop {
            if !self.preamble {
                self.preamble = self.receiver.preamble().expect("the server speaks frames").is_some();
            }
            if self.preamble
                && let Some(frame) = self.receiver.next_frame().expect("the server's stream is in step")
            {
                return said(&frame);
            }
            let room = self.receiver.room(16 * 1024);
            match self.socket.read(room) {
                Ok(0) => return Said::Closed,
                Ok(count) => self.receiver.filled(count),
                Err(problem) if problem.kind() == std::io::ErrorKind::WouldBlock => panic!("nothing came in time"),
                Err(_) => return Said::Closed,
            }
        }
    }

    /// The next frame that is not an announcement.
    pub fn answer(&mut self) -> Said {
        loop {
            match self.next() {
                Said::Progress(_) => {}
                said => return said,
            }
        }
    }
}

fn said(frame: &proto::frame::RawFrame<'_>) -> Said {
    let seq = frame.header.seq;
    match frame.from_server().expect("the server's payloads are good") {
        ServerFrame::Welcome(welcome) => {
            Said::Welcome { window: welcome.window, last_seq: welcome.last_seq, resume: welcome.resume }
        }
        ServerFrame::Ack(ack) => Said::Ack(ack),
        ServerFrame::Reject(reject) => Said::Reject {
            seq: reject.seq,
            code: reject.code(),
            detail: reject.detail.to_owned(),
            stored: reject.stored,
        },
        ServerFrame::Progress(entry) => Said::Progress(entry),
        ServerFrame::State(state) => Said::State { seq, entries: state.entries.iter().collect() },
        ServerFrame::CaughtUp(end) => Said::CaughtUp { seq, entries: end.entries, snapshot: end.snapshot },
        ServerFrame::Pong(pong) => Said::Pong(pong.nonce),
        ServerFrame::Bye(bye) => Said::Bye { code: Bye::code(&bye), detail: bye.detail.to_owned() },
        ServerFrame::Notice(_) | ServerFrame::Ping(_) | ServerFrame::Ignored => {
            Said::Other(frame.kind().unwrap_or(Kind::Notice))
        }
    }
}

/// A line connection.
pub struct Lines<S: Read = TcpStream> {
    reader: BufReader<S>,
}

impl Lines {
    pub fn connect(address: SocketAddr) -> Self {
        Self::over(connect(address))
    }
}

impl<S: Read + Write> Lines<S> {
    pub fn over(socket: S) -> Self {
        Self { reader: BufReader::new(socket) }
    }

    /// Sends one line.
    pub fn send(&mut self, line: &str) {
        self.send_bytes(format!("{line}\n").as_bytes());
    }

    pub fn send_bytes(&mut self, bytes: &[u8]) {
        self.reader.get_mut().write_all(bytes).expect("the server reads");
    }

    pub fn try_send_bytes(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.reader.get_mut().write_all(bytes)
    }

    /// The next message; null at the end.
    pub fn next(&mut self) -> Value {
        let mut line = String::new();
        match self.reader.read_line(&mut line) {
            Ok(0) => Value::Null,
            Ok(_) => serde_json::from_str(&line).unwrap_or_else(|problem| panic!("{problem}: {line}")),
            Err(problem) if problem.kind() == std::io::ErrorKind::WouldBlock => panic!("nothing came in time"),
            Err(_) => Value::Null,
        }
    }

    pub fn progress(&mut self, manga: MangaId, chapter: u32) {
        self.send(&format!(r#"{{"type":"progress_update","data":{{"manga_id":{manga},"chapter":{chapter}}}}}"#));
    }
}

/// An HTTP answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|problem| panic!("{problem}: {self:?}"))
    }

    /// The body, checked to be a whole problem with this status and code.
    pub fn problem(&self, status: u16, code: &str) -> Value {
        let body = self.json();
        assert_eq!((self.status, body["code"].as_str()), (status, Some(code)), "{body}");
        assert_eq!(self.header("content-type"), Some("application/problem+json"));
        for member in ["type", "title", "status", "detail", "instance", "errors", "error"] {
            assert!(!body[member].is_null(), "{member}: {body}");
        }
        assert!(self.header("x-request-id").is_some());
        body
    }
}

/// One request on a connection of its own.
pub fn request(address: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)], body: Option<&str>) -> Answer {
    let mut text = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        text.push_str(&format!("Host: {address}\r\n"));
    }
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    if let Some(body) = body {
        if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-type")) {
            text.push_str("Content-Type: application/json\r\n");
        }
        text.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    text.push_str("\r\n");
    text.push_str(body.unwrap_or_default());
    raw_request(address, text.as_bytes())
}

/// Sends bytes and reads the answer to the end.
pub fn raw_request(address: SocketAddr, bytes: &[u8]) -> Answer {
    let mut socket = connect(address);
    // A server that refuses early may close before it has read everything.
    let _ = socket.write_all(bytes);
    parse_answer(&read_to_close(socket))
}

/// Takes an answer apart; the body is what follows the header.
pub fn parse_answer(bytes: &[u8]) -> Answer {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n");
    let end = end.unwrap_or_else(|| panic!("not an answer: {:?}", String::from_utf8_lossy(bytes)));
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok()).expect("a status line");
    let headers = lines.filter_map(|line| line.split_once(": ")).map(|(key, value)| (key.to_owned(), value.to_owned()));
    Answer { status, headers: headers.collect(), body: bytes[end + 4..].to_vec() }
}
