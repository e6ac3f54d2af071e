//! Redis streams with the append-only file flushed before every answer.

use std::io::Write;
use std::path::Path;
use std::process::Command;

use super::pipeline::{self, Dialect, line};
use super::{Error, Plan, Process, free_address};
use crate::report::Report;

pub(super) async fn run(plan: &Plan, folder: &Path) -> Result<Report, Error> {
    if let Err(error) = Command::new("redis-server").arg("--version").output() {
        let advice = "install the package redis-server";
        return Err(Error::NotInstalled { program: "redis-server", detail: error.to_string(), advice });
    }
    let address = free_address()?;
    let mut command = Command::new("redis-server");
    command.args(["--bind", "127.0.0.1", "--port", &address.port().to_string(), "--save", "", "--appendonly", "yes"]);
    command.args(["--appendfsync", "always", "--auto-aof-rewrite-percentage", "0", "--dir"]).arg(folder);
    let process = Process::start(command, address, folder)?;
    let (row_bytes, streams) = (plan.row_bytes, plan.streams.max(1));
    pipeline::drive(plan, process.address, process.child.id(), |at| Streams { next: at, row_bytes, streams }).await
}

struct Streams {
    next: usize,
    row_bytes: usize,
    streams: usize,
}

impl Dialect for Streams {
    fn greeting(&self, _: &mut Vec<u8>) {}

    fn row(&mut self, out: &mut Vec<u8>) {
        self.next = self.next.wrapping_add(1);
        let stream = self.next % self.streams;
        // Writing to a Vec cannot fail.
        let _ = write!(out, "*5\r\n$4\r\nXADD\r\n$3\r\ns{stream:02}\r\n$1\r\n*\r\n$1\r\nr\r\n${}\r\n", self.row_bytes);
        let seed = (self.next as u64).to_le_bytes();
        out.extend(seed.iter().cycle().take(self.row_bytes).map(|byte| byte | 1));
        out.extend_from_slice(b"\r\n");
    }

    fn answers(&mut self, bytes: &[u8], _: &mut Vec<u8>) -> Result<(usize, usize), String> {
        let (mut used, mut rows) = (0, 0);
        while let Some((head, next)) = line(&bytes[used..]) {
            // `$15`, then an id of that length and its line's end.
            let length = match head.split_first() {
                Some((b'$', digits)) => std::str::from_utf8(digits).ok().and_then(|text| text.parse::<usize>().ok()),
                _ => None,
            };
            let Some(length) = length else { return Err(String::from_utf8_lossy(head).into_owned()) };
            let end = used + next + length + 2;
            if bytes.len() < end {
                break;
            }
            (used, rows) = (end, rows + 1);
        }
        Ok((used, rows))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_answers_count() {
        let mut streams = Streams { next: 0, row_bytes: 8, streams: 1 };
        let bytes = b"$3\r\n1-0\r\n$3\r\n2-";
        assert_eq!(streams.answers(bytes, &mut Vec::new()), Ok((9, 1)));
        assert!(streams.answers(b"-ERR no\r\n", &mut Vec::new()).is_err());
    }
}
