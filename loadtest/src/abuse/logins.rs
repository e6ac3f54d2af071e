//! A flood of sign-ins over HTTP: known names with the right and with the wrong password, and names that nobody has. What is
//! refused must be refused at once, and hashing must not get into the way of those who read.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::Serialize;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::{Beside, Counts, Load, Stop, Tally, Target, Turn, Turns, histogram, in_turns};
use crate::dial::dial;
use crate::http::answer;
use crate::report::Latency;

/// Accounts that are made for it.
const ACCOUNTS: usize = 8;
const PASSWORD: &str = "a long enough password";
/// How long one answer may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// What came of it.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// The ordinary client, alone and beside the flood.
    pub acks: Vec<Beside>,
    /// Time to the answer of a sign-in, by status.
    pub answers: std::collections::BTreeMap<String, Latency>,
    /// Sign-ins of everybody together, by what was asked and answered.
    pub attempts: Counts,
}

/// Floods with so many connections at a time.
pub async fn run(target: &Target, connections: usize, turns: Turns) -> io::Result<Outcome> {
    register(target.http).await?;
    let times: Times = Times::default();
    let starts = times.clone();
    let flood = Turn {
        name: format!("{connections} sign-ins at a time"),
        start: Box::new(move |_, tally| start(target.http, connections, tally, &starts).map(Some)),
    };
    let acks = in_turns(target, turns, vec![flood])?;
    let answers = times.read().into_iter().filter_map(|(status, times)| Some((status, Latency::of(&times).ok()?)));
    let attempts = acks.last().map(|beside| beside.load.clone()).unwrap_or_default();
    Ok(Outcome { answers: answers.collect(), attempts, acks })
}

/// Times to an answer, by status.
#[derive(Clone, Default)]
struct Times(Arc<Mutex<std::collections::BTreeMap<String, Histogram<u64>>>>);

impl Times {
    fn add(&self, status: &str, took: Duration) {
        let mut times = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        times.entry(status.to_owned()).or_insert_with(histogram).saturating_record(took.as_micros() as u64);
    }

    fn read(&self) -> std::collections::BTreeMap<String, Histogram<u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Who tries to come in.
#[derive(Clone, Copy)]
enum Visitor {
    Right,
    Wrong,
    Nobody,
}

impl Visitor {
    fn name(self) -> &'static str {
        match self {
            Self::Right => "right",
            Self::Wrong => "wrong",
            Self::Nobody => "nobody",
        }
    }

    fn body(self, number: usize) -> String {
        let (name, password) = match self {
            Self::Right => (account(number % (ACCOUNTS / 2)), PASSWORD),
            // Other accounts than those above, which it would lock out.
            Self::Wrong => (account(ACCOUNTS / 2 + number % (ACCOUNTS / 2)), "not the password"),
            Self::Nobody => (format!("nobody{number}"), "not the password"),
        };
        format!(r#"{{"username":"{name}","password":"{password}"}}"#)
    }
}

fn account(number: usize) -> String {
    format!("visitor{number}")
}

async fn register(http: SocketAddr) -> io::Result<()> {
    for number in 0..ACCOUNTS {
        let name = account(number);
        let body = format!(r#"{{"username":"{name}","email":"{name}@example.org","password":"{PASSWORD}"}}"#);
        let mut stream = dial(http).await?;
        let status = post(&mut stream, http, "/auth/register", &body).await?;
        if !matches!(status.as_str(), "201" | "409") {
            return Err(io::Error::other(format!("registering answered {status}")));
        }
    }
    Ok(())
}

fn start(http: SocketAddr, connections: usize, tally: &Tally, times: &Times) -> io::Result<Load> {
    let (tally, times) = (tally.clone(), times.clone());
    Load::start(move |stop| async move {
        let tasks: Vec<_> = (0..connections)
            .map(|at| tokio::task::spawn_local(visit(http, at, tally.clone(), times.clone(), stop.clone())))
            .collect();
        for task in tasks {
            let _ = task.await;
        }
    })
}

/// One connection's sign-ins, one after the other, as fast as they are answered.
async fn visit(http: SocketAddr, first: usize, tally: Tally, times: Times, stop: Stop) {
    const VISITORS: [Visitor; 3] = [Visitor::Right, Visitor::Wrong, Visitor::Nobody];
    let mut number = first;
    let mut stream = None;
    while !stop.is_set() {
        let visitor = VISITORS[number % VISITORS.len()];
        let began = Instant::now();
        let status = attempt(&mut stream, http, &visitor.body(number)).await;
        match status {
            Ok(status) => {
                times.add(&status, began.elapsed());
                tally.add(&format!("{} {status}", visitor.name()), 1);
            }
            Err(problem) => {
                stream = None;
                tally.add(&format!("ended: {problem}"), 1);
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        number += 1;
    }
}

async fn attempt(stream: &mut Option<TcpStream>, http: SocketAddr, body: &str) -> io::Result<String> {
    let open = match stream {
        Some(open) => open,
        none => none.insert(dial(http).await?),
    };
    post(open, http, "/auth/login", body).await
}

/// The status of a POST.
async fn post(stream: &mut TcpStream, http: SocketAddr, path: &str, body: &str) -> io::Result<String> {
    let bytes = body.len();
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: {http}\r\nContent-Type: application/json\r\nContent-Length: {bytes}\r\n\r\n{body}"
    );
    let answered = async {
        stream.write_all(request.as_bytes()).await?;
        answer(stream).await.map(|(status, _)| status)
    };
    tokio::time::timeout(PATIENCE, answered).await.map_err(io::Error::other)?
}
