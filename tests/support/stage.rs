//! A stage for the sync tests: a real server that the load harness starts and kills, people who sign up over HTTP, and
//! clients on both wires. Waiting is always for something to happen, with a generous deadline.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use client::shell::{FrameClient, LineClient};
use loadtest::server::{Launch, Server};
use proto::frame::{Hello, ResumeToken, wants};
use proto::line::Auth;
use proto::{Chapter, DeviceId, DeviceSeq, MangaId};
use serde_json::{Value, json};

use super::PATIENCE;

/// A server's folder, the way to start it, and the server while it runs.
pub(crate) struct Stage {
    /// Removed at the end.
    pub(crate) folder: tempfile::TempDir,
    /// How it is started.
    pub(crate) launch: Launch,
    /// While it runs.
    pub(crate) server: Option<Server>,
}

impl Stage {
    /// A started server with these settings (`MANGAHUB_..` names).
    pub(crate) fn start(settings: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let launch = Launch {
            binary: env!("CARGO_BIN_EXE_mangahub").into(),
            data_dir: folder.path().join("data"),
            settings: settings.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect(),
            cpus: String::new(),
        };
        let server = Some(launch.start().expect("the server starts"));
        Self { folder, launch, server }
    }

    /// The running server.
    pub(crate) fn server(&self) -> &Server {
        self.server.as_ref().expect("the server runs")
    }

    /// Where HTTP listens.
    pub(crate) fn http(&self) -> SocketAddr {
        self.server().doors.http
    }

    /// Kills it as a crash would and starts it again.
    pub(crate) fn crash_and_restart(&mut self) {
        self.server.take().expect("the server runs").kill().expect("the server is killed");
        self.server = Some(self.launch.start().expect("the server starts again"));
    }

    /// Signs a new person up and in.
    pub(crate) fn person(&self, name: &str) -> Person {
        let body =
            json!({"username": name, "password": "correct horse battery", "email": format!("{name}@example.org")});
        let answer = request(self.http(), "POST", "/auth/register", None, Some(&body));
        assert_eq!(answer.status, 201, "{answer:?}");
        let answer = request(self.http(), "POST", "/auth/login", None, Some(&body));
        assert_eq!(answer.status, 200, "{answer:?}");
        Person { token: text(&answer.body, "access_token"), refresh_token: text(&answer.body, "refresh_token") }
    }

    /// An ongoing series of the demo catalogue: no total gets in the way.
    pub(crate) fn ongoing_series(&self) -> MangaId {
        let answer = request(self.http(), "GET", "/api/manga?page_size=100", None, None);
        let rows = answer.body["data"].as_array().cloned().unwrap_or_default();
        let row = rows.iter().find(|row| row["status"] == "ongoing").expect("the demo has an ongoing series");
        MangaId(row["id"].as_i64().expect("ids are numbers"))
    }
}

/// Somebody with a session.
pub(crate) struct Person {
    /// Their access token.
    pub(crate) token: String,
    /// Their refresh token.
    pub(crate) refresh_token: String,
}

impl Person {
    /// A device of theirs on binary frames.
    pub(crate) async fn on_frames(&self, stage: &Stage, device: u8) -> FrameClient<u64> {
        let hello = Hello {
            token: &self.token,
            device: Some(DeviceId::from_bytes([device; 16])),
            resume: ResumeToken::NONE,
            client_name: "test",
            client_version: "1",
            wants: wants::PROGRESS,
        };
        FrameClient::connect(stage.server().doors.tcp_sync, &hello).await.expect("Hello is answered with Welcome").0
    }

    /// A device of theirs on JSON lines.
    pub(crate) async fn on_lines(&self, stage: &Stage) -> LineClient {
        let auth = Auth { token: self.token.as_str().into(), username: None, device: None };
        LineClient::connect(stage.server().doors.tcp_sync, &auth).await.expect("auth is answered with auth_success").0
    }
}

/// An ordinary update.
pub(crate) fn update(manga: MangaId, chapter: u32, device_seq: u64) -> proto::frame::SetProgress {
    proto::frame::SetProgress {
        manga,
        device_seq: Some(DeviceSeq(device_seq)).filter(|seq| seq.0 > 0),
        chapter: Chapter::whole(chapter),
        page: None,
        status: None,
        force: false,
        ack_database: false,
        conflict_token: None,
    }
}

/// An HTTP answer.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The status code.
    pub(crate) status: u16,
    /// Header lines, as they came.
    pub(crate) head: String,
    /// The body, `null` when it is not JSON.
    pub(crate) body: Value,
}

impl Answer {
    /// A header's value; names are compared without case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }
}

/// One request on a connection of its own, over a plain socket.
pub(crate) fn request(to: SocketAddr, method: &str, path: &str, token: Option<&str>, body: Option<&Value>) -> Answer {
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE).expect("HTTP answers");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time-out can be set");
    let body = body.map(Value::to_string).unwrap_or_default();
    let authorization = token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
    let typed = if body.is_empty() { "" } else { "Content-Type: application/json\r\n" };
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\n{authorization}{typed}Content-Length: {length}\r\n\r\n"
    );
    stream.write_all((head + &body).as_bytes()).expect("the request is taken");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("the answer is UTF-8");
    let (head, body) = answer.split_once("\r\n\r\n").expect("the answer has headers");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("the answer has a status");
    Answer { status, head: head.into(), body: serde_json::from_str(body).unwrap_or(Value::Null) }
}

/// A member that must be text.
pub(crate) fn text(value: &Value, member: &str) -> String {
    value[member].as_str().unwrap_or_else(|| panic!("{member} is text in {value}")).to_owned()
}

/// Runs async test code on one thread.
pub(crate) fn block_on<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async { tokio::time::timeout(PATIENCE * 4, work).await.expect("the test does not hang") })
}
